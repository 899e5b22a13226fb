"""The real peers, on loopback: dockerd, two registries, notary-signer and notary-server.

The rules of this file:

1. Nothing is imitated: every peer is the program that Debian packages.
2. Ready means proven by a request that needs the whole chain, never "the process is there".
3. A peer that cannot be started is an error with the end of its log, never a skip.
4. What was started here is stopped here, by pid and start time, and nothing else is: a copy of
   the folder knows the pids as well, and has no right to them.

As a program it is `make stack` and `make stack-down`: `python -m peers.stack up|env|down [FOLDER]`,
with `tests` on PYTHONPATH.
"""

import base64
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from peers.authority import Authority
from peers.processes import PeerError, Process, find_program
from peers.servers import (
    Starter,
    engine_answers,
    judging_docker,
    plain_environment,
    run,
    stop_all,
    write_private,
)

__all__ = ["PeerError", "Stack", "forget", "make_context"]

_DEFAULT_SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the peers are and how to be let in.

    `registry` asks for `username` and `password`, `open_registry` for nothing; both are
    `localhost:<port>` and speak plain HTTP, as Docker allows on loopback. `trust_server` is an
    https URL whose certificate is issued by `ca_file`. `docker` is a CLI that can judge trust.
    """

    folder: Path
    docker_cli: str
    docker_host: str
    registry: str
    open_registry: str
    trust_server: str
    ca_file: Path
    username: str
    password: str = field(repr=False)
    processes: tuple[Process, ...] = ()

    @classmethod
    def start(cls, folder: Path, *, stays: bool = False) -> "Stack":
        """Start all peers below *folder*; with *stays* they outlive this process.

        Raises:
            PeerError: A peer is not installed or did not become ready; all are stopped again.
        """
        folder = folder.absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for last_try in (False, False, True):
            starter = Starter(folder, stays=stays)
            try:
                stack = _started(starter)
                break
            except BaseException as error:
                stop_all(starter.processes)
                # Ports are chosen before they are used; a stranger may have been faster.
                if last_try or "address already in use" not in str(error):
                    raise
        write_private(folder / "stack.json", json.dumps(asdict(stack), default=str, indent=1))
        return stack

    @classmethod
    def load(cls, folder: Path) -> "Stack":
        """Return the stack that `up` left running in *folder*, or raise FileNotFoundError."""
        file = folder.absolute() / "stack.json"
        state = json.loads(file.read_text("utf-8"))
        if state["folder"] != str(folder.absolute()):
            raise FileNotFoundError(f"{file}: copied from {state['folder']}; nothing runs here")
        state["processes"] = tuple(_process(entry) for entry in state["processes"])
        state["folder"], state["ca_file"] = Path(state["folder"]), Path(state["ca_file"])
        return cls(**state)

    @property
    def trust_host(self) -> str:
        """Return `localhost:<port>` of the trust server, as Docker names its TLS folder."""
        return urlsplit(self.trust_server).netloc

    def env(self) -> dict[str, str]:
        """Return the variables that point Docker's tools, and ours, at these peers."""
        return {
            "DOCKER_HOST": self.docker_host,
            "DOCKER_CONTENT_TRUST_SERVER": self.trust_server,
        }

    def docker_config(self, folder: Path, *, login: bool = True) -> Path:
        """Make *folder* a DOCKER_CONFIG that knows the CA and, with *login*, the registry."""
        tls = folder / "tls" / self.trust_host
        tls.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.ca_file, tls / "ca.crt")
        token = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        auths = {self.registry: {"auth": token}} if login else {}
        write_private(folder / "config.json", json.dumps({"auths": auths}))
        return folder

    def docker(
        self,
        *arguments: str,
        config: Path,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run the judging Docker CLI; with *check*, a failure is a PeerError with its output."""
        environ = {**plain_environment(), **self.env(), "DOCKER_CONFIG": str(config)}
        # The classic builder is the one that every engine of every test machine has.
        environ["DOCKER_BUILDKIT"] = "0"
        return run([self.docker_cli, *arguments], {**environ, **(env or {})}, check=check)

    def notary(
        self,
        *arguments: str,
        trust_dir: Path,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run the notary CLI on the trust store *trust_dir*; passphrases go in by *env*."""
        argv = [find_program("notary"), "-s", self.trust_server]
        argv += ["--tlscacert", str(self.ca_file), "-d", str(trust_dir), *arguments]
        return run(argv, {**plain_environment(), **(env or {})}, check=check)

    def stop(self) -> None:
        """End what `start` started, last first, and forget it."""
        stop_all(self.processes)
        forget(self.folder)


def make_context(folder: Path, text: str = "signed", instructions: Iterable[str] = ()) -> Path:
    """Write a build context whose image holds *text* and runs: busybox on nothing.

    No image can be pulled in the tests, so `FROM scratch` it is. *instructions* are further
    Dockerfile lines; `RUN` works in its exec form (`RUN ["busybox", "echo", "x"]`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(find_program("busybox"), folder / "busybox")
    (folder / "text").write_text(text, "utf-8")
    lines = ["FROM scratch", "COPY busybox /bin/busybox", "COPY text /text", *instructions]
    lines.append('CMD ["/bin/busybox", "cat", "/text"]')
    (folder / "Dockerfile").write_text("\n".join([*lines, ""]), "utf-8")
    return folder


def _started(starter: Starter) -> Stack:
    certificates = starter.folder / "certificates"
    certificates.mkdir(mode=0o700, exist_ok=True)
    authority = Authority(certificates)
    username, password = "robot$peers", f"p:%;]\"'\\ ü€-{secrets.token_hex(8)}"
    docker_cli = judging_docker()
    docker_host = os.environ.get("DOCKER_HOST", _DEFAULT_SOCKET)
    if not engine_answers(docker_cli, docker_host):
        docker_host = starter.engine(docker_cli)
    return Stack(
        folder=starter.folder,
        docker_cli=docker_cli,
        docker_host=docker_host,
        registry=starter.registry("registry", starter.password_file(username, password)),
        open_registry=starter.registry("open-registry", {}),
        trust_server=starter.notary_server(authority, starter.notary_signer(authority)),
        ca_file=authority.certificate,
        username=username,
        password=password,
        processes=tuple(starter.processes),
    )


def _process(entry: Mapping[str, str]) -> Process:
    return Process(entry["name"], int(entry["pid"]), int(entry["started"]), Path(entry["log"]))


def forget(folder: Path) -> None:
    """Remove what must not be met by the next stack in *folder*; the logs stay."""
    for name in ("stack.json", "pids.json"):
        (folder / name).unlink(missing_ok=True)
    sockets = folder / "engine" / "sockets"
    owner = sockets / "owner"
    if owner.is_file() and owner.read_text("utf-8") == str(folder.absolute()):
        shutil.rmtree(sockets.readlink(), ignore_errors=True)
    for name in ("engine", "registry", "open-registry"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _up(folder: Path) -> int:
    try:
        stack = Stack.load(folder)
    except FileNotFoundError:
        stack = Stack.start(folder, stays=True)
    if not all(process.alive for process in stack.processes):
        stack.stop()
        stack = Stack.start(folder, stays=True)
    return _env(stack)


def _env(stack: Stack) -> int:
    config = stack.docker_config(stack.folder / "docker")
    variables = {
        **stack.env(),
        "DOCKER_CONFIG": str(config),
        "SIGNIMAGE_STACK_REGISTRY": stack.registry,
        "SIGNIMAGE_STACK_OPEN_REGISTRY": stack.open_registry,
        "SIGNIMAGE_STACK_CA_FILE": str(stack.ca_file),
    }
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201  # the shell evaluates this
    return 0


def _down(folder: Path) -> int:
    pids = folder.absolute() / "pids.json"
    if pids.exists():
        recorded = [_process(entry) for entry in json.loads(pids.read_text("utf-8"))]
        stop_all(one for one in recorded if one.log.parent == folder.absolute())
    forget(folder)
    return 0


def main(arguments: list[str]) -> int:
    """Run `up`, `env` or `down`; 2 for anything else."""
    match arguments:
        case ["up", *rest] if len(rest) <= 1:
            return _up(Path(*rest or [".stack"]))
        case ["env", *rest] if len(rest) <= 1:
            return _env(Stack.load(Path(*rest or [".stack"])))
        case ["down", *rest] if len(rest) <= 1:
            return _down(Path(*rest or [".stack"]))
    print("usage: python -m peers.stack up|env|down [FOLDER]", file=sys.stderr)  # noqa: T201  # a program's usage
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
