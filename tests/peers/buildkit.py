"""A real BuildKit, on loopback: Debian's newer dockerd with containerd's image store, and buildx.

The rules of this file are those of `peers.stack`. Two builders lead to the one BuildKit that
dockerd holds:

- `default`, the engine's own: driver `docker`;
- `far`, a builder as on another machine: driver `remote`. Nobody packages a `buildkitd` to be
  reached so, but dockerd speaks BuildKit's protocol once asked to, at `POST /grpc`; a doorway here
  asks it to, and passes on bytes.

The programs are unpacked by `packaging/setup.sh`; nothing of them is installed.
"""

import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer

from peers.processes import PeerError, program_path, start
from peers.servers import engine_answers, judging_docker, run

FAR = "far"
_PROGRAMS = Path(__file__).parents[2] / ".cache" / "buildkit"
_UPGRADE = b"POST /grpc HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
_CHUNK = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class BuildKit:
    """Where BuildKit is: the engine that holds it, and the socket of the builder `far`."""

    docker_cli: str
    docker_host: str
    socket: Path

    def home(self, folder: Path) -> dict[str, str]:
        """Make *folder* the home of somebody who has buildx and both builders; give its variables.

        The builder `default` is the chosen one.
        """
        plugins = folder / ".docker" / "cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-buildx").symlink_to(_program("docker-buildx"))
        environ = {
            "PATH": f"{Path(self.docker_cli).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "DOCKER_HOST": self.docker_host,
        }
        self.create_builder(environ, FAR, self.socket)
        return environ

    def create_builder(self, environ: Mapping[str, str], name: str, place: Path) -> None:
        """Tell buildx of a builder of the driver `remote` behind the socket *place*."""
        command = [self.docker_cli, "buildx", "create", "--name", name, "--driver", "remote"]
        run([*command, f"unix://{place}"], environ, check=True)

    def docker(self, environ: Mapping[str, str], *arguments: str) -> str:
        """Run the Docker CLI and return its output; a failure is a PeerError."""
        return run([self.docker_cli, *arguments], environ, check=True).stdout


@contextmanager
def running_buildkit() -> Iterator[BuildKit]:
    """Start BuildKit, and stop it at the end of the block.

    Raises:
        PeerError: A program is missing, or did not become ready.
    """
    # The native snapshotter works on every file system, and the tests' images are small.
    store = {"features": {"containerd-snapshotter": True}, "storage-driver": "native"}
    with (
        tempfile.TemporaryDirectory(prefix="buildkit-", ignore_cleanup_errors=True) as folder,
        running_dockerd(Path(folder), store) as host,
        _doorway(Path(host.removeprefix("unix://")), Path(folder, "buildkit.sock")) as place,
    ):
        yield BuildKit(judging_docker(), host, place)


@contextmanager
def running_dockerd(folder: Path, settings: Mapping[str, object]) -> Iterator[str]:
    """Start Debian's newer dockerd with these *settings*, and stop it at the end of the block.

    Args:
        folder: Where it keeps everything; a socket's path holds about a hundred bytes.
        settings: Its `daemon.json`.

    Yields:
        Its DOCKER_HOST.

    Raises:
        PeerError: A program is missing, or did not become ready.
    """
    host, docker_cli = f"unix://{folder / 'docker.sock'}", judging_docker()
    (folder / "daemon.json").write_text(json.dumps(settings), "utf-8")
    process = start(
        "newer dockerd",
        [
            "env",
            # dockerd starts the containerd that it finds.
            f"PATH={_PROGRAMS}:{program_path(os.environ)}",
            str(_program("dockerd")),
            f"--config-file={folder / 'daemon.json'}",
            f"--host={host}",
            f"--data-root={folder / 'data'}",
            f"--exec-root={folder / 'exec'}",
            f"--pidfile={folder / 'dockerd.pid'}",
            # No network is needed, so the machine's own is left alone.
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
        ],
        folder / "dockerd.log",
    )
    try:
        process.wait_until(lambda: engine_answers(docker_cli, host), "newer dockerd answers")
        yield host
    finally:
        process.stop()


def _program(name: str) -> Path:
    program = _PROGRAMS / name
    if not os.access(program, os.X_OK):
        raise PeerError(f"{name}: expected it in {_PROGRAMS}. Run packaging/setup.sh")
    return program


# --- the doorway ----------------------------------------------------------------------------


class _Doorway(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, engine: Path, place: Path) -> None:
        self.engine = engine
        super().__init__(str(place), _Visitor)


class _Visitor(BaseRequestHandler):
    server: _Doorway

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as engine, suppress(OSError):
            engine.connect(str(self.server.engine))
            engine.sendall(_UPGRADE)
            with engine.makefile("rb", buffering=0) as answer:
                if b" 101 " not in answer.readline():
                    return
                while answer.readline().strip():
                    """The rest of the head says nothing."""
            way_back = threading.Thread(target=_pass_on, args=(engine, self.request))
            way_back.start()
            _pass_on(self.request, engine)
            way_back.join()


@contextmanager
def _doorway(engine: Path, place: Path) -> Iterator[Path]:
    """Offer what *engine* answers at `POST /grpc` as the socket *place*."""
    with _Doorway(engine, place) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield place
        finally:
            server.shutdown()
            thread.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
