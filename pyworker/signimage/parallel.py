"""Several calls at once, none of which anybody has to wait for when the step is canceled.

The threads are daemons: a `Canceled` in the main thread leaves them behind, and the process ends
without them. `concurrent.futures` would wait at the end for every answer still under way.
"""

import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import TypeVar

Name = TypeVar("Name")
Result = TypeVar("Result")


def outcomes(
    calls: Mapping[Name, Callable[[], Result]], *, at_once: int
) -> dict[Name, Result | Exception]:
    """Make all *calls*, up to *at_once* of them side by side.

    Gives by name, in the order of *calls*, what each returned or raised.
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

    for _ in range(min(at_once, len(calls))):
        threading.Thread(target=work, daemon=True).start()
    found = dict(done.get() for _ in calls)
    return {name: found[name] for name in calls}


def results(calls: Mapping[Name, Callable[[], Result]], *, at_once: int) -> dict[Name, Result]:
    """The same for calls that must all succeed; raises the first error in the order of *calls*."""
    found: dict[Name, Result] = {}
    for name, outcome in outcomes(calls, at_once=at_once).items():
        if isinstance(outcome, Exception):
            raise outcome
        found[name] = outcome
    return found
