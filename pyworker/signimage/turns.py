"""Turns: publishers on one machine go one after another, as they would only collide at the server.

The rules of this file:

1. A turn is a courtesy, and nothing is right because of it. Who cannot have one in time, or at
   all, goes without: the server's guard of versions keeps publications apart, and publishers on
   other machines know nothing of ours.
2. A turn ends with its process, however that ends: the system then gives up the lock.
3. The files hold nothing, are named by a hash, and lie in a folder that only this user can enter.
   Who had a turn removes its file, and the folder if that is then empty.

`docs/protocol.md`, "Publishing".
"""

import errno
import hashlib
import os
import random
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Some hundred publications; who still waits then waits for something that hangs.
PATIENCE_S = 10.0
# Between looks whether it is our turn. A publication takes some hundredths; who has waited longer
# is one of many, and somebody else will see the end of it.
_PAUSE_S, _PAUSE_CAP_S = 0.005, 0.05
_wait = time.sleep
_HELD = frozenset({errno.EAGAIN, errno.EACCES, errno.EDEADLK})


@contextmanager
def turn(name: str, *, patience_s: float = PATIENCE_S) -> Iterator[bool]:
    """Let the block run while nobody else of this user, on this machine, has the turn *name*.

    Gives whether it has the turn; it runs without when that did not come in time.
    """
    file = hashlib.sha256(name.encode()).hexdigest()[:32]
    descriptor = None
    with suppress(OSError):
        descriptor = _waited_for(file, patience_s)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _give_up(file, descriptor)


def _folder() -> Path:
    """Where the turns of this user are; refuses a folder that somebody else put there.

    Its name begins with no `signimage-`: such folders are removed after a step.

    Raises:
        FileNotFoundError: Somebody has just removed it.
        OSError: There can be none.
    """
    user = "" if sys.platform == "win32" else f"-{os.getuid()}"
    folder = Path(tempfile.gettempdir(), f"signimage.turns{user}")
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except FileNotFoundError as error:
        raise NotADirectoryError(errno.ENOTDIR, "no folder", str(folder.parent)) from error
    if sys.platform != "win32":  # there it is below the user's own profile
        found = folder.lstat()
        is_own = found.st_uid == os.getuid() and not found.st_mode & 0o077
        if not stat.S_ISDIR(found.st_mode) or not is_own:
            raise PermissionError(errno.EPERM, "not a private folder of this user", str(folder))
    return folder


def _waited_for(file: str, patience_s: float) -> int | None:
    """The descriptor that holds the turn; None if it did not come in time."""
    begun = time.monotonic()
    while True:
        descriptor = _taken(file)
        waited_s = time.monotonic() - begun
        if descriptor is not None or waited_s > patience_s:
            return descriptor
        pause_s = min(_PAUSE_CAP_S, _PAUSE_S + waited_s / 10)
        _wait(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 -- spreads looks, guards nothing


def _taken(file: str) -> int | None:
    """The descriptor that holds the turn; None while somebody else has it."""
    try:
        path = _folder() / file
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileNotFoundError:  # the folder was removed since it was made
        return None
    try:
        _lock(descriptor)
        # Who had it before removes the file: a lock on that would keep nobody out.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in _HELD:
            os.close(descriptor)
            raise
    os.close(descriptor)
    return None


def _give_up(file: str, descriptor: int) -> None:
    with suppress(OSError):  # others have turns there, or, on Windows, wait for this one
        folder = _folder()
        (folder / file).unlink()
        folder.rmdir()
    os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock the file or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 -- exists on Windows alone

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415 -- does not exist on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
