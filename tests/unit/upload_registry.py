"""A small registry on loopback that takes images as OCI has it, and fails as it is told to.

It reads bodies as they come, so that a connection can end, or stand still, at any byte of one.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from typing import TypeAlias, final
from urllib.parse import parse_qs, urlsplit

from signimage.oci import Digest
from unit.small_server import QuietServer, Reply

REPOSITORY = "team/app"
_PIECE = 64 * 1024


@dataclass(frozen=True)
class Arrival:
    """A request whose body is still to come; `number` counts those of its method from 1."""

    method: str
    path: str
    headers: Message
    number: int

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)


@dataclass(frozen=True)
class Drop:
    """End the connection *after* so many bytes of the body, of which *kept* are kept."""

    after: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Mute:
    """Do what was asked, and end the connection instead of saying so."""


@dataclass(frozen=True)
class Stall:
    """Take nothing of the body, and say nothing, for as long as the server lives."""


Fault: TypeAlias = Reply | Drop | Mute | Stall | None


@dataclass
class Session:
    """An upload that has begun."""

    size: int = 0
    hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self.hash.update(piece)


@final
class UploadRegistry:
    """Serves until the `with` block ends.

    `disturb` may do something else with what arrives; `lie` may replace an honest reply.
    `blobs` maps digests to sizes, `mountable` holds (repository, digest), `received` is the
    number of bytes that came as blobs.
    """

    def __init__(self) -> None:
        self.disturb: Callable[[Arrival], Fault] = lambda _: None
        self.lie: Callable[[Arrival, Reply], Reply] = lambda _, reply: reply
        self.arrivals: list[Arrival] = []
        self.blobs: dict[str, int] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.mountable: set[tuple[str, str]] = set()
        self.sessions: dict[str, Session] = {}
        self.received = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = QuietServer(("127.0.0.1", 0), self._handler())
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.origin = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "UploadRegistry":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def seen(self, *methods: str) -> list[str]:
        """Return method and path, without queries, of every request; or those of *methods*."""
        return [
            f"{each.method} {urlsplit(each.path).path.removeprefix(f'/v2/{REPOSITORY}/')}"
            for each in self.arrivals
            if each.method in methods or not methods
        ]

    def ranges(self) -> list[str]:
        """Return the `Content-Range` of every chunk."""
        return [each.headers["Content-Range"] for each in self.arrivals if each.method == "PATCH"]

    def _arrived(self, method: str, path: str, headers: Message) -> Arrival:
        with self._lock:
            number = 1 + sum(each.method == method for each in self.arrivals)
            arrival = Arrival(method, path, headers, number)
            self.arrivals.append(arrival)
            return arrival

    def _honest(self, arrival: Arrival, body: Callable[[Session], None]) -> Reply:
        path = urlsplit(arrival.path).path.removeprefix(f"/v2/{REPOSITORY}/")
        kind, _, name = path.rpartition("/")
        if kind == "manifests":
            return self._manifest(arrival.method, name, arrival.headers, body)
        if kind == "blobs":
            size = self.blobs.get(name)
            return Reply(404) if size is None else Reply(200, b" " * size)
        if arrival.method == "POST":
            return self._begun(arrival)
        session = self.sessions.get(name)
        if session is None:
            return Reply(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"unknown"}]}')
        if arrival.method == "GET":
            return self._state(204, name)
        return self._continued(arrival, name, session, body)

    def _begun(self, arrival: Arrival) -> Reply:
        query = arrival.query
        if "mount" in query and (query["from"][0], query["mount"][0]) in self.mountable:
            self.blobs[query["mount"][0]] = 0
            return Reply(201, headers={"Docker-Content-Digest": query["mount"][0]})
        with self._lock:
            name = str(len(self.sessions) + 1)
            self.sessions[name] = Session()
        return self._state(202, name)

    def _continued(
        self, arrival: Arrival, name: str, session: Session, body: Callable[[Session], None]
    ) -> Reply:
        given = arrival.headers["Content-Range"]
        if given and int(given.partition("-")[0]) != session.size:
            return self._state(416, name)
        body(session)
        if arrival.method == "PATCH":
            return self._state(202, name)
        digest = arrival.query["digest"][0]
        del self.sessions[name]
        self.sessions[f"ended {name}"] = session
        if session.hash.hexdigest() != digest.removeprefix("sha256:"):
            return Reply(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"other digest"}]}')
        self.blobs[digest] = session.size
        return Reply(201, headers={"Docker-Content-Digest": digest})

    def _state(self, status: int, name: str) -> Reply:
        size = self.sessions[name].size
        headers = {
            "Location": f"/v2/{REPOSITORY}/blobs/uploads/{name}?_state={size}",
            "Range": f"0-{max(size - 1, 0)}",
        }
        return Reply(status, headers=headers)

    def _manifest(
        self, method: str, name: str, headers: Message, body: Callable[[Session], None]
    ) -> Reply:
        if method == "PUT":
            content = _Kept()
            body(content)
            digest = Digest.of(bytes(content.content)).text
            kept = (headers["Content-Type"], bytes(content.content))
            self.manifests[name] = self.manifests[digest] = kept
            return Reply(201, headers={"Docker-Content-Digest": digest})
        if name not in self.manifests:
            return Reply(404)
        kind, stored = self.manifests[name]
        return Reply(200, stored, {"Content-Type": kind})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20
            disable_nagle_algorithm = True

            def serve(self) -> None:
                arrival = outer._arrived(self.command, self.path, self.headers)
                reply = outer._reply(arrival, self.rfile)
                if reply is None:
                    self.close_connection = True
                    return
                self.answer(reply)

            def answer(self, reply: Reply) -> None:
                self.send_response(reply.status)
                if reply.status >= 300:  # what was not read would be taken for the next request
                    self.send_header("Connection", "close")
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = serve  # noqa: N815 -- http.server's names

            def log_message(self, *words: object) -> None:
                """Keep the test output clean."""

        return Handler

    def _reply(self, arrival: Arrival, incoming: BufferedIOBase) -> Reply | None:
        """Return what to answer; None to end the connection."""
        left = int(arrival.headers.get("Content-Length", 0))
        fault = self.disturb(arrival)
        if isinstance(fault, Reply):
            return fault
        if isinstance(fault, Drop):
            self._dropped(arrival, fault, incoming.read(fault.after))
        if isinstance(fault, Stall):
            self.stopping.wait()
        if isinstance(fault, Drop | Stall):
            return None

        def read(session: Session) -> None:
            nonlocal left
            while left and (piece := incoming.read(min(left, _PIECE))):
                session.add(piece)
                left -= len(piece)
                with self._lock:
                    self.received += 0 if isinstance(session, _Kept) else len(piece)

        reply = self.lie(arrival, self._honest(arrival, read))
        return None if isinstance(fault, Mute) else reply

    def _dropped(self, arrival: Arrival, fault: Drop, body: bytes) -> None:
        name = urlsplit(arrival.path).path.rpartition("/")[2]
        if name in self.sessions:
            self.sessions[name].add(body[: fault.kept])


@dataclass
class _Kept(Session):
    """A body that is small enough to keep."""

    content: bytearray = field(default_factory=bytearray)

    def add(self, piece: bytes) -> None:
        self.content += piece


def relocated(reply: Reply, location: str) -> Reply:
    """Return *reply* with another address to go on at, if it has one."""
    if "Location" not in reply.headers:
        return reply
    return replace(reply, headers={**reply.headers, "Location": location})


def nth(method: str, faults: Mapping[int, Fault]) -> Callable[[Arrival], Fault]:
    """Disturb some requests of one method, by their numbers."""
    return lambda arrival: faults.get(arrival.number) if arrival.method == method else None
