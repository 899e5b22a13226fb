"""A second trust server that keeps its data in PostgreSQL, and is restarted whenever it ends.

1. It is the stack's trust server with another storage: same certificates, same signer.
2. PostgreSQL listens on a socket in a folder of its own and nowhere else. It refuses to run as
   root; a root user's tests run it as `postgres`.
3. notary-server 0.7 crashes on a SQL storage under load (`concurrent map writes`), so operators
   run it under a supervisor; here that is a thread, which waits for the end of the process.
"""

import json
import os
import pwd
import select
import shlex
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
from contextlib import closing, suppress
from dataclasses import replace
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from peers.processes import PeerError, Process, find_program, free_port, start
from peers.stack import Stack

_DATABASE = "notaryserver"
_USER = "postgres"
_EARLY_ENDS = 5  # in a row: then it is not the load that ends the server

# Debian's notary brings no migrations. These are the columns that the server reads and writes;
# the unique index is its guard against two writers of one version.
_SCHEMA = """
CREATE TABLE tuf_files (
    id serial PRIMARY KEY,
    created_at timestamp, updated_at timestamp, deleted_at timestamp,
    gun varchar(255) NOT NULL,
    role varchar(255) NOT NULL,
    version integer NOT NULL,
    data bytea NOT NULL,
    sha256 char(64),
    UNIQUE (gun, role, version)
);
CREATE INDEX ON tuf_files (sha256);
CREATE TABLE changefeed (
    id serial PRIMARY KEY,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP,
    gun varchar(255) NOT NULL,
    version integer NOT NULL,
    sha256 char(64),
    category varchar(20) NOT NULL DEFAULT 'update'
);
CREATE INDEX ON changefeed (gun);
"""


class PostgresTrust:
    """A running PostgreSQL and the trust server on it.

    Attributes:
        stack: The peers, with this trust server in place of the stack's own.
        restarts: How often the trust server ended and was started again, kills included.
    """

    def __init__(self, stack: Stack) -> None:
        self._port = free_port()
        self.stack = replace(stack, trust_server=f"https://localhost:{self._port}")
        self.restarts = 0
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._context = ssl.create_default_context(cafile=str(stack.ca_file))
        self._database: Process | None = None
        self._server: Process | None = None
        self._fault: PeerError | None = None
        self._is_ready = threading.Event()
        self._is_stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")

    def start(self) -> "PostgresTrust":
        """Start both programs; return when a publication would work.

        Raises:
            PeerError: One of them is not installed or did not become ready; both are stopped.
        """
        try:
            self._start_database()
            self._supervisor.start()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def wait(self) -> None:
        """Return when the trust server answers; raise PeerError if it never will."""
        self._is_ready.wait()
        if self._fault is not None:
            raise self._fault

    def kill(self) -> None:
        """End the trust server as a power cut would; it is started again."""
        self.wait()
        self._is_ready.clear()
        if self._server is not None and self._server.alive:
            os.kill(self._server.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End both programs and remove the data."""
        self._is_stopping.set()
        while self._supervisor.is_alive():
            if self._server is not None:
                self._server.stop()
            self._supervisor.join(timeout=1)
        if self._database is not None:
            self._database.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- PostgreSQL ---

    def _start_database(self) -> None:
        if os.geteuid() == 0:
            account = pwd.getpwnam(_USER)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        data = self._folder / "data"
        # Whoever reaches the socket is let in: its folder is closed to others.
        options = ["--auth=trust", "--no-sync", f"--username={_USER}", f"--pgdata={data}"]
        self._run(*_as_postgres(), _program("initdb"), *options)
        argv = [*_as_postgres(), _program("postgres"), "-D", str(data), "-k", str(self._folder)]
        # The trust server opens as many connections as it has requests at a time; and nothing
        # here has to outlive a crash of the machine.
        for setting in ("listen_addresses=", "max_connections=300", "fsync=off"):
            argv += ["-c", setting]
        log = self.stack.folder / "postgres.log"
        self._database = start("postgres", argv, log)
        self._database.wait_until(self._answers, "postgres answers")
        self._psql(_USER, f"CREATE DATABASE {_DATABASE}")
        self._psql(_DATABASE, _SCHEMA)

    def _answers(self) -> bool:
        argv = [_program("pg_isready"), "--quiet", f"--host={self._folder}"]
        return subprocess.run(argv, check=False).returncode == 0

    def _psql(self, database: str, statement: str) -> None:
        place = [f"--host={self._folder}", f"--username={_USER}", f"--dbname={database}"]
        wanted = ["--set=ON_ERROR_STOP=1", f"--command={statement}"]
        self._run(_program("psql"), "--quiet", "--no-psqlrc", *place, *wanted)

    def _run(self, *argv: str) -> None:
        done = subprocess.run(argv, cwd=self._folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerError(f"{shlex.join(argv)}: exit code {done.returncode}\n{done.stderr}")

    # --- The trust server ---

    def _supervise(self) -> None:
        """Keep the server running; it dies with the *thread* that started it, which is this."""
        log = self.stack.folder / "notary-server-postgres.log"
        argv = ["notary-server", f"-config={self._configuration()}"]
        early_ends = 0
        while not self._is_stopping.is_set():
            self._server = start("notary-server-postgres", argv, log)
            try:
                self._server.wait_until(self._makes_keys, "notary-server on postgres answers")
            except PeerError as error:
                early_ends += 1
                if early_ends > _EARLY_ENDS:
                    self._fault = error
                    self._is_ready.set()
                    return
            else:
                early_ends = 0
                self._is_ready.set()
                _wait_for_end(self._server)
                self._is_ready.clear()
            self._server.stop()
            self.restarts += 1

    def _configuration(self) -> Path:
        settings = json.loads((self.stack.folder / "notary-server.json").read_text("utf-8"))
        settings["server"]["http_addr"] = f"127.0.0.1:{self._port}"
        url = f"postgres:///{_DATABASE}?host={self._folder}&user={_USER}&sslmode=disable"
        settings["storage"] = {"backend": "postgres", "db_url": url}
        file = self.stack.folder / "notary-server-postgres.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(settings), "utf-8")
        return file

    def _makes_keys(self) -> bool:
        server = HTTPSConnection("localhost", self._port, context=self._context, timeout=10)
        with closing(server) as connection, suppress(OSError, HTTPException):
            connection.request("GET", "/v2/readiness/_trust/tuf/timestamp.key")
            return connection.getresponse().status == 200
        return False


def _wait_for_end(process: Process) -> None:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            select.select([handle], [], [])
        finally:
            os.close(handle)


def _as_postgres() -> list[str]:
    """What runs the rest of a command line as PostgreSQL's own user, where we are root.

    A change of user takes away the wish to die with the parent, so that is made again.
    """
    if os.geteuid() != 0:
        return []
    setpriv = find_program("setpriv")
    account = [f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]
    return [setpriv, *account, setpriv, "--pdeathsig", "TERM"]


def _program(name: str) -> str:
    """The newest of PostgreSQL's programs with that *name*: Debian leaves them out of PATH."""
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    found = [folder / name for folder in folders if (folder / name).exists()]
    if not found:
        return find_program(name)
    return str(max(found, key=lambda file: int(file.parent.parent.name)))
