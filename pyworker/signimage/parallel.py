"""Several calls at once, none of which anybody has to wait for when the step is canceled.

The threads are daemons: a `Canceled` in the main thread begins no further call and leaves behind
those under way, and the process ends without them. `concurrent.futures` would wait at the end for
every answer still under way.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

Name = TypeVar("Name")
Result = TypeVar("Result")


def begin(
    calls: Mapping[Name, Callable[[], Result]],
    *,
    at_once: int,
    grace_s: float | None = None,
    unless: tuple[type[Exception], ...] = (),
) -> Callable[[], dict[Name, Result | Exception]]:
    """Begin to make all *calls*, up to *at_once* of them side by side; gives who waits for them.

    That one gives by name, in the order of *calls*, what each returned or raised. With *grace_s*
    it leaves out those that go on for so long after one has failed, *unless* by such an error.
    """
    waiting: SimpleQueue[tuple[Name, Callable[[], Result]]] = SimpleQueue()
    done: SimpleQueue[tuple[Name, Result | Exception]] = SimpleQueue()
    for item in calls.items():
        waiting.put(item)

    def work() -> None:
        while True:
            try:
                name, call = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((name, call()))
            except Exception as error:  # noqa: BLE001 -- handed to whoever asked
                done.put((name, error))

    def wait() -> dict[Name, Result | Exception]:
        try:
            found = _collected(done, len(calls), grace_s, unless)
        except BaseException:  # canceled: nothing further may begin
            with suppress(Empty):
                while True:
                    waiting.get_nowait()
            raise
        return {name: found[name] for name in calls if name in found}

    for _ in range(min(at_once, len(calls))):
        threading.Thread(target=work, daemon=True).start()
    return wait


def _collected(
    done: SimpleQueue[tuple[Name, Result | Exception]],
    number: int,
    grace_s: float | None,
    unless: tuple[type[Exception], ...],
) -> dict[Name, Result | Exception]:
    found: dict[Name, Result | Exception] = {}
    left_s = None
    with suppress(Empty):
        while len(found) < number:
            name, outcome = done.get(timeout=left_s)
            found[name] = outcome
            if isinstance(outcome, Exception) and not isinstance(outcome, unless):
                left_s = grace_s
    return found


def outcomes(
    calls: Mapping[Name, Callable[[], Result]], *, at_once: int
) -> dict[Name, Result | Exception]:
    """Make all *calls*, and wait for them; gives by name what each returned or raised."""
    return begin(calls, at_once=at_once)()


def all_of(found: Mapping[Name, Result | Exception]) -> dict[Name, Result]:
    """The results of calls that must all have succeeded; raises the first error in their order."""
    good: dict[Name, Result] = {}
    for name, outcome in found.items():
        if isinstance(outcome, Exception):
            raise outcome
        good[name] = outcome
    return good


def results(calls: Mapping[Name, Callable[[], Result]], *, at_once: int) -> dict[Name, Result]:
    """Make all *calls*, and wait for them; raises the first error in their order."""
    return all_of(outcomes(calls, at_once=at_once))
