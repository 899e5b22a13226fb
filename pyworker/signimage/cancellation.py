"""How a step learns that it must end: by a signal, or because nobody waits for it any more.

1. The agent's signals arrive through the shim; the first one raises `Canceled` wherever the work
   is, and all further ones are ignored, because then the step is ending already.
2. The agent's last resort kills the shim alone. Then the parent's number changes, and that counts
   as a signal: nothing may be pushed or signed behind the agent's back.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PARENT_WATCH_S = 0.5


class Canceled(BaseException):
    """The agent asked the step to end; not an error, so nothing may handle it as one."""

    state = ""  # what has happened to the world already, for who words the result


@contextmanager
def cancellation() -> Iterator[None]:
    """Turn what ends a step into `Canceled`, for the time of the block."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def cancel(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise Canceled

    for number in signals:
        signal.signal(number, cancel)
    with _watch_over_parent():
        yield
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _watch_over_parent() -> Iterator[None]:
    """Cancel the step when its parent is gone: the agent's last resort kills node alone."""
    if sys.platform == "win32":
        yield  # there the agent ends the whole tree, and a parent's number never changes
        return
    parent, worker = os.getppid(), threading.get_ident()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_PARENT_WATCH_S):
            if os.getppid() != parent:
                signal.pthread_kill(worker, signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, name="parent watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
