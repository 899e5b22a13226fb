"""The keyring of the operating system, as a place for passphrases of keys.

The rules of this file:

1. It is asked for a key only when the environment has no passphrase for that, and written to only
   when somebody says so: `signimage key remember`.
2. Back ends that keep what they get readable for whoever reads the disk are not used, wherever
   they come from: the settings of `keyring`, the environment, or a chain of several.
3. Without the library `keyring`, which comes with the extra `cli`, nothing is kept.

What is kept: the service `signimage`, the key's canonical ID as the account.
"""

import os
from collections.abc import Iterator
from typing import Any, final

from signimage.errors import InputError

SERVICE = "signimage"

# What `keyring` itself recommends has at least this priority.
_RECOMMENDED = 1
# Whose back ends keep passphrases in files, encrypted badly or not at all.
_READABLE = ("keyrings.alt.",)
# What `keyring` uses where it finds nothing, and where it is told to keep nothing.
_NONE = ("keyring.backends.fail.", "keyring.backends.null.")


@final
class SystemKeyring:
    """The keyring of whoever runs the command; looked for when it is first asked."""

    def __init__(self) -> None:
        self._backend: Any = None
        self._refusal: str | None = None  # None until it was looked for

    @property
    def refusal(self) -> str:
        """Why no passphrase can be kept here, "" if one can; known after the first question."""
        return self._refusal or ""

    def get(self, key_id: str) -> bytes | None:
        """Give the passphrase that is kept for a key; None if there is none, or no keyring."""
        backend = self._found()
        if backend is None:
            return None
        try:
            kept = backend.get_password(SERVICE, key_id)
        except Exception as error:  # noqa: BLE001 -- back ends raise what their systems do
            self._refusal = _fault(backend, error)
            return None
        return os.fsencode(kept) if kept else None

    def keep(self, key_id: str, passphrase: bytes) -> None:
        """Keep the passphrase of a key, in the place of an older one.

        Raises:
            InputError: There is no safe keyring, or it refuses.
        """
        backend = self._usable()
        try:
            backend.set_password(SERVICE, key_id, passphrase.decode())
        except UnicodeDecodeError as error:
            raise InputError("passphrase: expected UTF-8 for a keyring, got other bytes") from error
        except Exception as error:  # whatever a back end raises
            raise InputError(_fault(backend, error)) from error

    def forget(self, key_id: str) -> bool:
        """Forget the passphrase of a key; tells whether one was kept.

        Raises:
            InputError: There is no safe keyring, or it refuses.
        """
        backend = self._usable()
        try:
            if backend.get_password(SERVICE, key_id) is None:
                return False
            backend.delete_password(SERVICE, key_id)
        except Exception as error:  # whatever a back end raises
            raise InputError(_fault(backend, error)) from error
        return True

    def _usable(self) -> Any:
        backend = self._found()
        if backend is None:
            raise InputError(
                f"no passphrase can be kept: {self.refusal}",
                hint="Use the keyring of a desktop, or the variables that --help names",
            )
        return backend

    def _found(self) -> Any:
        if self._refusal is None:
            self._backend, self._refusal = _look_for()
        return self._backend


def _look_for() -> tuple[Any, str]:
    """Give the back end to use, or `None` and why there is none."""
    try:
        import keyring  # noqa: PLC0415 -- 100 ms, and only with the extra
    except ImportError:
        return None, "the library keyring is not installed"
    try:
        chosen = keyring.get_keyring()
    except Exception as error:  # noqa: BLE001 -- settings may name anything
        return None, f"the keyring that is set cannot be used: {type(error).__name__}"
    safe = next((each for each in _members(chosen) if _is_safe(each)), None)
    if safe is None and _name(chosen).startswith(_NONE):
        return None, "there is no keyring on this system"
    if safe is None:
        return None, f"the keyring {_name(chosen)} is not used, as it keeps no secrets safely"
    return safe, ""


def _members(backend: Any) -> Iterator[Any]:
    """Yield the back ends of a chain, in its order; any other is alone."""
    inner = getattr(backend, "backends", None)
    if isinstance(inner, list | tuple):
        for each in inner:
            yield from _members(each)
    else:
        yield backend


def _is_safe(backend: Any) -> bool:
    name = _name(backend)
    if name.startswith(_READABLE) or "plaintext" in name.lower():
        return False
    try:
        return float(backend.priority) >= _RECOMMENDED
    except Exception:  # noqa: BLE001 -- asking for it is how back ends say that they cannot work
        return False


def _name(backend: Any) -> str:
    return f"{type(backend).__module__}.{type(backend).__qualname__}"


def _fault(backend: Any, error: Exception) -> str:
    """What to say of a back end that raised *error*, whose own text may hold a secret."""
    kind = type(error).__name__
    fault = "is locked" if kind == "KeyringLocked" else f"failed: {kind}"
    return f"the keyring {_name(backend)} {fault}"
