"""How each of the real peers is started: what goes into its settings, and when it is ready.

The rules are those of `peers.stack`, which puts them together; so does `peers.guarded`.
"""

import http.client
import json
import os
import re
import shlex
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import bcrypt

from peers.authority import Authority, Certificate
from peers.processes import PeerError, Process, answers, find_program, free_port, start

READINESS = "readiness"  # a repository that nobody has
_LAST_CLI_WITH_TRUST = 28  # Docker CLI 29 dropped content trust without a word


class Starter:
    """Starts peers one after another; `processes` is what must be stopped, whatever comes."""

    def __init__(self, folder: Path, *, stays: bool) -> None:
        self.folder = folder
        self.stays = stays
        self.processes: list[Process] = []

    def _start(self, name: str, *argv: str) -> Process:
        process = start(name, argv, self.folder / f"{name}.log", stays=self.stays)
        self.processes.append(process)
        # Written at each start, so that `down` also finds what a killed `up` left behind.
        pids = json.dumps([asdict(one) for one in self.processes], default=str, indent=1)
        write_private(self.folder / "pids.json", pids)
        return process

    def engine(self, docker_cli: str, environ: Mapping[str, str] | None = None) -> str:
        """Start dockerd, with *environ* besides the usual environment; gives its DOCKER_HOST."""
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
            "env",
            *(f"{key}={value}" for key, value in (environ or {}).items()),
            find_program("dockerd"),
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
        process.wait_until(lambda: engine_answers(docker_cli, host), "dockerd answers")
        return host

    def registry(self, name: str, auth: Mapping[str, object]) -> str:
        """Start a registry with these `auth` settings, which may be none; gives its host."""
        port = free_port()
        configuration: dict[str, object] = {
            "version": 0.1,
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / name)},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        if auth:
            configuration["auth"] = auth
        # JSON is YAML, and needs no library to write.
        file = write_private(self.folder / f"{name}.yml", json.dumps(configuration))
        process = self._start(name, "docker-registry", "serve", str(file))
        expected = 401 if auth else 200
        process.wait_until(
            lambda: _status(http.client.HTTPConnection("127.0.0.1", port), "/v2/") == expected,
            f"{name} answers",
        )
        return f"localhost:{port}"

    def password_file(self, username: str, password: str) -> dict[str, object]:
        """Return the `auth` settings of a registry with one account."""
        # Four rounds: the strength of the hash is not what is tested.
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode()
        accounts = write_private(self.folder / "htpasswd", f"{username}:{hashed}\n")
        return {"htpasswd": {"realm": "peers", "path": str(accounts)}}

    def notary_signer(self, authority: Authority) -> int:
        """Start the keeper of the trust server's own keys; gives its port."""
        port = free_port()
        server = {
            "grpc_addr": f"127.0.0.1:{port}",
            **_tls_files(authority.issue("notary-signer")),
            # The CA itself: with the leaf here, every call is refused.
            "client_ca_file": str(authority.certificate),
        }
        self._notary("notary-signer", {"server": server}, lambda: answers(port))
        return port

    def notary_server(
        self,
        authority: Authority,
        signer_port: int,
        auth: Mapping[str, object] | None = None,
        token: str = "",
    ) -> str:
        """Start a trust server and give its URL.

        With `auth` settings it asks for tokens; *token* is one for the repository `readiness`.
        """
        port = free_port()
        leaf = authority.issue("notary-server")
        configuration: dict[str, object] = {
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
        if auth:
            configuration["auth"] = auth
        context = ssl.create_default_context(cafile=str(authority.certificate))
        headers = {"Authorization": f"Bearer {token}"} if token else {}

        def makes_keys() -> bool:
            # A new key for a repository that nobody has: server, signer and TLS between them.
            connection = http.client.HTTPSConnection("localhost", port, context=context)
            return _status(connection, f"/v2/{READINESS}/_trust/tuf/timestamp.key", headers) == 200

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
        file = write_private(self.folder / f"{name}.json", json.dumps(complete))
        self._start(name, name, f"-config={file}").wait_until(ready, f"{name} answers")


def _tls_files(leaf: Certificate) -> dict[str, str]:
    return {"tls_cert_file": str(leaf.certificate), "tls_key_file": str(leaf.key)}


def stop_all(processes: Iterable[Process]) -> None:
    """End processes, the last one first."""
    for process in reversed(list(processes)):
        process.stop()


def write_private(file: Path, text: str) -> Path:
    """Write a file that only this user can read; gives its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(text, "utf-8")
    return file


def plain_environment() -> dict[str, str]:
    """Return this process's environment without what would aim Docker's tools elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DOCKER_", "NOTARY_", "BUILDX_", "BUILDKIT_"))
    }


def run(
    argv: list[str], environ: Mapping[str, str], *, check: bool
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; with *check*, a failure is a PeerError with its output."""
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


def judging_docker() -> str:
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


def engine_answers(docker_cli: str, host: str) -> bool:
    """Tell whether an engine answers at the DOCKER_HOST *host*."""
    environ = {**plain_environment(), "DOCKER_HOST": host}
    return run([docker_cli, "version"], environ, check=False).returncode == 0


def _status(
    connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str] | None = None
) -> int | None:
    try:
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
