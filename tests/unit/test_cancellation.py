"""A signal ends the step once, wherever it arrives (`signimage.cancellation`)."""

import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from signimage.cancellation import Canceled, cancellation, ignore_signals, undisturbed
from signimage.programs import consult_program, run_program

assert sys.platform != "win32", "there the console delivers signals, and nothing here holds"


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Leave the handlers of the tests' own process as they were."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class _Thing:
    """Something that can be referred to weakly."""


def _canceled(work: Callable[[], object]) -> None:
    with pytest.raises(Canceled, match=r"^$"), cancellation():
        work()


def _signal() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_block(number: signal.Signals) -> None:
    _canceled(lambda: signal.raise_signal(number))


def test_a_second_signal_is_ignored() -> None:
    def work() -> None:
        try:
            _signal()
        finally:
            _signal()

    _canceled(work)


def test_a_signal_within_the_callback_of_a_weak_reference_is_not_lost() -> None:
    """Python prints what is raised there and goes on, and every import runs such callbacks."""
    things = [_Thing()]
    reference = weakref.ref(things[0], lambda _: _signal())

    def work() -> None:
        things.clear()
        threading.Event().wait(30)

    _canceled(work)
    assert reference() is None


def test_a_signal_within_a_finalizer_is_not_lost() -> None:
    class Closing:
        def __del__(self) -> None:
            _signal()

    things = [Closing()]

    def work() -> None:
        things.clear()
        threading.Event().wait(30)

    _canceled(work)


def test_what_is_not_to_be_disturbed_is_done_first() -> None:
    done = []

    def work() -> None:
        with undisturbed():
            _signal()
            done.append("all")
        done.append("what follows")

    _canceled(work)
    assert done == ["all"]


def test_a_thread_that_no_signal_can_interrupt_may_do_what_is_not_to_be_disturbed() -> None:
    """Python lets the main thread alone say what becomes of signals."""
    answers: list[tuple[int, bytes]] = []

    def consult() -> None:
        answers.append(consult_program(["/bin/cat"], {}, b"who", 60.0, most=9))

    with cancellation():
        thread = threading.Thread(target=consult)
        thread.start()
        thread.join()
    assert answers == [(0, b"who")]


def test_when_the_work_has_ended_no_signal_counts() -> None:
    with cancellation():
        ignore_signals()
        _signal()


def test_an_error_that_is_on_its_way_is_not_replaced() -> None:
    def work() -> None:
        with cancellation():
            raise ValueError("the error")

    with pytest.raises(ValueError, match="the error"):
        work()
    _signal()


def test_a_shim_that_was_gone_before_we_looked_ends_the_block() -> None:
    """Killed while the worker was still being imported: the parent's number changes no more."""
    with subprocess.Popen(["/bin/true"]) as shim:
        shim.wait()
    with pytest.raises(Canceled, match=r"^$"), cancellation(shim.pid):
        threading.Event().wait(30)


@pytest.mark.parametrize(
    "start_program",
    [
        lambda words: run_program(words, {}, lambda _: None),
        lambda words: consult_program(words, {}, b"", 60.0, most=9),
    ],
)
def test_a_program_that_was_just_started_is_ended(
    monkeypatch: pytest.MonkeyPatch, start_program: Callable[[list[str]], object]
) -> None:
    """The signal arrives after the fork, before we know of the process."""
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen.__init__

    def signalled(self: subprocess.Popen[bytes], *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        started.append(self)
        _signal()

    monkeypatch.setattr(subprocess.Popen, "__init__", signalled)
    _canceled(lambda: start_program(["/bin/sleep", "600"]))
    assert started[0].returncode == -signal.SIGTERM
