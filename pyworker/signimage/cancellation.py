"""How a step learns that it must end: by a signal, or because nobody waits for it any more.

1. The agent's signals arrive through the shim; the first one raises `Canceled` wherever the work
   is, and all further ones are ignored, because then the step is ending already.
2. The agent's last resort kills the shim alone. Then the parent's number changes, and that counts
   as a signal: nothing may be pushed or signed behind the agent's back.
3. Python lets no exception out of a weak reference's callback or a finalizer, and each import
   runs some of the former. A `Canceled` that was lost there is raised again.
4. What must not be torn apart is done `undisturbed`; a signal that arrives meanwhile counts when
   it is done.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PARENT_WATCH_S = 0.5
_AGAIN_S = 0.01
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Canceled(BaseException):
    """The agent asked the step to end; not an error, so nothing may handle it as one."""

    state = ""  # what has happened to the world already, for who words the result


@contextmanager
def cancellation(shim: int = 0) -> Iterator[None]:
    """Turn what ends a step into `Canceled`, for the time of the block.

    Args:
        shim: The number of the process that must live on; 0 if only the parent is known.
    """
    with _raised_again():
        _listen()
        try:
            with _watch_over_parent(shim):
                yield
        finally:
            ignore_signals()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal interrupt the block; one that arrives raises `Canceled` at its end."""
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # Else the step is ending already, or is not to be canceled. Signals interrupt one thread only.
    is_at_risk = _cancel in before.values()
    if not is_at_risk or threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield
    finally:
        _listen()
        if arrived:
            _cancel(arrived[0], None)


def ignore_signals() -> None:
    """Have nothing interrupt what is left to do: the step's work has ended, one way or another."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _listen() -> None:
    for number in _SIGNALS:
        signal.signal(number, _cancel)


def _cancel(_number: int, _frame: FrameType | None) -> None:
    ignore_signals()
    raise Canceled


@contextmanager
def _raised_again() -> Iterator[None]:
    """Raise `Canceled` again where it was raised in a place that lets no exception out."""
    worker, before = threading.get_ident(), sys.unraisablehook

    def hear(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is not Canceled:
            before(lost)
            return
        _listen()
        # Not from here: this hook is itself such a place.
        threading.Timer(_AGAIN_S, _signal, (worker,)).start()

    sys.unraisablehook = hear
    try:
        yield
    finally:
        sys.unraisablehook = before


def _signal(worker: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGTERM)
    else:
        signal.pthread_kill(worker, signal.SIGTERM)


@contextmanager
def _watch_over_parent(shim: int) -> Iterator[None]:
    """Cancel the step when its parent is gone: the agent's last resort kills node alone."""
    if sys.platform == "win32":
        yield  # there the agent ends the whole tree, and a parent's number never changes
        return
    parent, worker = os.getppid(), threading.get_ident()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_PARENT_WATCH_S):
            if os.getppid() != parent or not _is_alive(shim):
                _signal(worker)
                return

    thread = threading.Thread(target=watch, name="parent watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # 0 means our own group, which is alive
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
