"""GNOME's keyring on a message bus of its own: a real Secret Service, without a desktop."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.processes import Process, find_program, start

_PASSWORD = "of the desktop's login"
_BUS = "org.freedesktop.DBus"
_NAME = "org.freedesktop.secrets"


@dataclass(frozen=True, slots=True)
class SecretService:
    """The keyring of one person; *variables* lead a program to it.

    Attributes:
        folder: Holds the sockets and the keyring's files; a short path, as sockets need.
        variables: What a session of a desktop has in its environment.
    """

    folder: Path
    variables: Mapping[str, str]

    @contextmanager
    def unlocked(self) -> Iterator[None]:
        """Be there, as after a login with the password; the first login makes the keyring."""
        password = self.folder / "password"
        password.write_text(_PASSWORD)
        with self._serving(f'exec gnome-keyring-daemon "$@" --unlock <"{password}"'):
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be there, as after a login without one; and nobody is there to be asked for it."""
        with self._serving('exec gnome-keyring-daemon "$@"'):
            yield

    @contextmanager
    def _serving(self, script: str) -> Iterator[None]:
        session = [f"{name}={value}" for name, value in self.variables.items()]
        options = ("--foreground", "--components=secrets")
        argv = ["env", *session, "sh", "-c", script, "sh", *options]
        daemon = start("gnome-keyring", argv, self.folder / "keyring.log")
        try:
            daemon.wait_until(self._answers, "the Secret Service is on the bus")
            yield
        finally:
            daemon.stop()

    def _answers(self) -> bool:
        question = [f"{_BUS}.NameHasOwner", f"string:{_NAME}"]
        asked = subprocess.run(
            [find_program("dbus-send"), "--print-reply", f"--dest={_BUS}", "/", *question],
            env=dict(self.variables),
            capture_output=True,
            text=True,
            check=False,
        )
        return "boolean true" in asked.stdout

    def holds(self, text: str) -> bool:
        """Tell whether a file of the keyring has *text* in it for everybody to read."""
        files = [path for path in (self.folder / "data").rglob("*") if path.is_file()]
        assert files, "the keyring has written its files"
        return any(text.encode() in path.read_bytes() for path in files)


@contextmanager
def session(folder: Path) -> Iterator[SecretService]:
    """A message bus in *folder*, which leads to a keyring once that is unlocked or locked."""
    folder.chmod(0o700)
    socket = folder / "bus"
    argv = ["dbus-daemon", "--session", "--nofork", "--nosyslog", f"--address=unix:path={socket}"]
    bus: Process = start("dbus-daemon", argv, folder / "bus.log")
    try:
        bus.wait_until(socket.exists, "the message bus has a socket")
        variables = {
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={socket}",
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
        }
        yield SecretService(folder, variables)
    finally:
        bus.stop()
