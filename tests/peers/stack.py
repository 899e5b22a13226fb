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
import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt

from peers.authority import Authority, Certificate
from peers.processes import PeerError, Process, answers, find_program, free_port, start

__all__ = ["PeerError", "Stack", "make_context"]

_DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_LAST_CLI_WITH_TRUST = 28  # Docker CLI 29 dropped content trust without a word


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
            starter = _Starter(folder, stays=stays)
            try:
                stack = starter.run()
                break
            except BaseException as error:
                _stop(starter.processes)
                # Ports are chosen before they are used; a stranger may have been faster.
                if last_try or "address already in use" not in str(error):
                    raise
        _write_private(folder / "stack.json", json.dumps(asdict(stack), default=str, indent=1))
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
        _write_private(folder / "config.json", json.dumps({"auths": auths}))
        return folder

    def docker(
        self,
        *arguments: str,
        config: Path,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run the judging Docker CLI; with *check*, a failure is a PeerError with its output."""
        environ = {**_plain_environment(), **self.env(), "DOCKER_CONFIG": str(config)}
        # The classic builder is the one that every engine of every test machine has.
        environ["DOCKER_BUILDKIT"] = "0"
        return _run([self.docker_cli, *arguments], {**environ, **(env or {})}, check=check)

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
        return _run(argv, {**_plain_environment(), **(env or {})}, check=check)

    def stop(self) -> None:
        """End what `start` started, last first, and forget it."""
        _stop(self.processes)
        _forget(self.folder)


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


class _Starter:
    """Starts the peers one after another; `processes` is what must be stopped on failure."""

    def __init__(self, folder: Path, *, stays: bool) -> None:
        self.folder = folder
        self.stays = stays
        self.processes: list[Process] = []

    def run(self) -> Stack:
        certificates = self.folder / "certificates"
        certificates.mkdir(mode=0o700, exist_ok=True)
        authority = Authority(certificates)
        username, password = "robot$peers", f"p:%;]\"'\\ ü€-{secrets.token_hex(8)}"
        docker_cli = _judging_docker()
        return Stack(
            folder=self.folder,
            docker_cli=docker_cli,
            docker_host=self._engine(docker_cli),
            registry=self._registry("registry", (username, password)),
            open_registry=self._registry("open-registry", None),
            trust_server=self._notary_server(authority, self._notary_signer(authority)),
            ca_file=authority.certificate,
            username=username,
            password=password,
            processes=tuple(self.processes),
        )

    def _start(self, name: str, *argv: str) -> Process:
        process = start(name, argv, self.folder / f"{name}.log", stays=self.stays)
        self.processes.append(process)
        # Written at each start, so that `down` also finds what a killed `up` left behind.
        pids = json.dumps([asdict(one) for one in self.processes], default=str, indent=1)
        _write_private(self.folder / "pids.json", pids)
        return process

    def _engine(self, docker_cli: str) -> str:
        wanted = os.environ.get("DOCKER_HOST", _DEFAULT_SOCKET)
        if _engine_answers(docker_cli, wanted):
            return wanted
        root = self.folder / "engine"
        root.mkdir(exist_ok=True)
        # A socket's path holds about a hundred bytes, and a checkout may lie deep.
        sockets = Path(tempfile.mkdtemp(prefix="signimage-"))
        (sockets / "owner").write_text(str(self.folder), "utf-8")
        (root / "sockets").symlink_to(sockets)
        host = f"unix://{sockets / 'docker.sock'}"
        (root / "daemon.json").write_text("{}", "utf-8")
        process = self._start(
            "dockerd",
            "dockerd",
            # An existing daemon.json could bring hosts, TLS and networks of its own.
            f"--config-file={root / 'daemon.json'}",
            f"--host={host}",
            f"--data-root={root / 'data'}",
            f"--exec-root={sockets / 'exec'}",
            f"--pidfile={root / 'dockerd.pid'}",
            # No network is needed, so the machine's own is left alone.
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
        )
        process.wait_until(lambda: _engine_answers(docker_cli, host), "dockerd answers")
        return host

    def _registry(self, name: str, account: tuple[str, str] | None) -> str:
        port = free_port()
        configuration: dict[str, object] = {
            "version": 0.1,
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / name)},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        if account:
            username, password = account
            # Four rounds: the strength of the hash is not what is tested.
            hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode()
            accounts = _write_private(self.folder / "htpasswd", f"{username}:{hashed}\n")
            configuration["auth"] = {"htpasswd": {"realm": "peers", "path": str(accounts)}}
        # JSON is YAML, and needs no library to write.
        file = _write_private(self.folder / f"{name}.yml", json.dumps(configuration))
        process = self._start(name, "docker-registry", "serve", str(file))
        expected = 401 if account else 200
        process.wait_until(
            lambda: _status(http.client.HTTPConnection("127.0.0.1", port), "/v2/") == expected,
            f"{name} answers",
        )
        return f"localhost:{port}"

    def _notary_signer(self, authority: Authority) -> int:
        port = free_port()
        server = {
            "grpc_addr": f"127.0.0.1:{port}",
            **_tls_files(authority.issue("notary-signer")),
            # The CA itself: with the leaf here, every call is refused.
            "client_ca_file": str(authority.certificate),
        }
        self._notary("notary-signer", {"server": server}, lambda: answers(port))
        return port

    def _notary_server(self, authority: Authority, signer_port: int) -> str:
        port = free_port()
        leaf = authority.issue("notary-server")
        configuration = {
            "server": {"http_addr": f"127.0.0.1:{port}", **_tls_files(leaf)},
            "trust_service": {
                "type": "remote",
                # The name in the signer's certificate.
                "hostname": "localhost",
                "port": str(signer_port),
                "key_algorithm": "ecdsa",
                "tls_ca_file": str(authority.certificate),
                "tls_client_cert": str(leaf.certificate),
                "tls_client_key": str(leaf.key),
            },
        }
        context = ssl.create_default_context(cafile=str(authority.certificate))

        def makes_keys() -> bool:
            # A new key for a repository that nobody has: server, signer and TLS between them.
            connection = http.client.HTTPSConnection("localhost", port, context=context)
            return _status(connection, "/v2/readiness/_trust/tuf/timestamp.key") == 200

        self._notary("notary-server", configuration, makes_keys)
        return f"https://localhost:{port}"

    def _notary(
        self, name: str, configuration: Mapping[str, object], ready: Callable[[], bool]
    ) -> None:
        complete = {
            **configuration,
            "logging": {"level": "info"},
            "storage": {"backend": "memory"},
        }
        file = _write_private(self.folder / f"{name}.json", json.dumps(complete))
        self._start(name, name, f"-config={file}").wait_until(ready, f"{name} answers")


def _tls_files(leaf: Certificate) -> dict[str, str]:
    return {"tls_cert_file": str(leaf.certificate), "tls_key_file": str(leaf.key)}


def _process(entry: Mapping[str, str]) -> Process:
    return Process(entry["name"], int(entry["pid"]), int(entry["started"]), Path(entry["log"]))


def _stop(processes: Iterable[Process]) -> None:
    for process in reversed(list(processes)):
        process.stop()


def _forget(folder: Path) -> None:
    """Remove what must not be met by the next stack in *folder*; the logs stay."""
    for name in ("stack.json", "pids.json"):
        (folder / name).unlink(missing_ok=True)
    sockets = folder / "engine" / "sockets"
    owner = sockets / "owner"
    if owner.is_file() and owner.read_text("utf-8") == str(folder.absolute()):
        shutil.rmtree(sockets.readlink(), ignore_errors=True)
    for name in ("engine", "registry", "open-registry"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _write_private(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(text, "utf-8")
    return file


def _plain_environment() -> dict[str, str]:
    """Return this process's environment without what would aim Docker's tools elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DOCKER_", "NOTARY_", "BUILDX_", "BUILDKIT_"))
    }


def _run(
    argv: list[str], environ: Mapping[str, str], *, check: bool
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if check and done.returncode != 0:
        raise PeerError(
            f"{shlex.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def _judging_docker() -> str:
    """Return a Docker CLI that still knows content trust."""
    seen = []
    for candidate in dict.fromkeys((find_program("docker"), "/usr/bin/docker")):
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        version = re.search(r"version (\d+)\.", done.stdout)
        if version and int(version[1]) <= _LAST_CLI_WITH_TRUST:
            return candidate
        seen.append(f"{candidate} ({done.stdout.strip()})")
    raise PeerError(
        f"docker: expected a CLI up to {_LAST_CLI_WITH_TRUST} as judge, got {', '.join(seen)}"
    )


def _engine_answers(docker_cli: str, host: str) -> bool:
    environ = {**_plain_environment(), "DOCKER_HOST": host}
    return _run([docker_cli, "version"], environ, check=False).returncode == 0


def _status(connection: http.client.HTTPConnection, path: str) -> int | None:
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


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
        _stop(one for one in recorded if one.log.parent == folder.absolute())
    _forget(folder)
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
