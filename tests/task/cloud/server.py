"""What all fakes of the cloud have in common: strictness, a ledger, and misbehaviour on demand.

The rules:

1. A request is what is documented, or it is a violation: not one field, parameter or header less
   or more. A violation is answered with 400, and fails the test that has caused it.
2. Every request is kept, in the order of arrival over all servers, and by the hop it belongs to.
3. Misbehaviour is data: a hop answers with a prepared `Reply` for as many times as was asked for.
"""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from unit.small_server import QuietServer

_IDLE_S = 30  # an unused connection is closed then
_HANG_S = 120  # longer than any patience of the product; the end of a test ends it sooner
# Part of every request, and of no importance to any service.
_ALWAYS = frozenset({"host", "user-agent", "accept", "accept-encoding", "connection"})
_OURS = "signimage/"


class Hop(Enum):
    """The stations on the way from a service connection to a signature."""

    PROXY = "the company's proxy"
    SIDE_GATE = "the same, for Docker's programs"
    OIDC = "Azure DevOps: a token that says which connection this is"
    IMDS = "the machine's identity service"
    ENTRA = "Microsoft Entra ID"
    EXCHANGE = "the registry: its token for that of Entra"
    TOKEN = "the registry: access tokens with scopes"  # a hop's description
    REGISTRY = "the registry itself"
    TRUST = "the trust server on the registry's host"


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived; names of headers in lower case, a query's and a form's fields in order."""

    method: str
    host: str
    path: str
    query: tuple[tuple[str, str], ...] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def form(self) -> tuple[tuple[str, str], ...]:
        """The body's fields, if it is a form."""
        pairs = parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        return tuple(pairs)

    @property
    def is_ours(self) -> bool:
        """Whether the product sent it; Docker's programs come this way, too."""
        return self.headers.get("user-agent", "").startswith(_OURS)

    def line(self) -> str:
        """Return method, host and path."""
        return f"{self.method} {self.host}{self.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; with `hangs` there is none, with `is_cut` the connection is closed instead.

    `Content-Length` among the headers overrides the right one.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    is_cut: bool = False


class Violation(Exception):  # noqa: N818  # it is one
    """A request is not the documented one."""


def check(
    request: Request,
    *,
    query: Mapping[str, str | None] | None = None,
    form: Mapping[str, str | None] | None = None,
    headers: Mapping[str, str | None] | None = None,
) -> dict[str, str]:
    """Return the fields of query and form, which must be these with these values.

    A value of None is for the caller to judge. Headers that belong to every request may come
    besides; that the body's length and type are given is checked here.

    Raises:
        Violation: Anything is different.
    """
    wanted = dict(headers or {})
    if form is not None:
        wanted["content-type"] = "application/x-www-form-urlencoded"
    if request.method == "POST":
        wanted["content-length"] = str(len(request.body))
    elif request.body:
        raise Violation(f"{request.line()}: expected no body")
    given = {name: value for name, value in request.headers.items() if name not in _ALWAYS}
    _compare(request, "headers", tuple(given.items()), wanted)
    _compare(request, "query", request.query, query or {})
    if form is not None:
        _compare(request, "form", request.form, form)
    return {**dict(request.query), **(dict(request.form) if form is not None else {})}


def _compare(
    request: Request,
    what: str,
    given: tuple[tuple[str, str], ...],
    wanted: Mapping[str, str | None],
) -> None:
    names = sorted(name for name, _ in given)
    if names != sorted(wanted):
        raise Violation(f"{request.line()}: {what}: expected {sorted(wanted)}, got {names}")
    for name, value in given:
        if wanted[name] not in (None, value):
            # No value of ours is shown: it may be a secret.
            raise Violation(f"{request.line()}: {what}: {name}: expected {wanted[name]!r}")


class Ledger:
    """What happened in the cloud, and what is to go wrong there; `reset` begins a new test."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything; whoever hangs is let go."""
        with self._lock:
            self.entries: list[tuple[Hop, Request]] = []
            self.violations: list[str] = []
            self._faults: dict[Hop, list[Reply]] = {}
            self._lasting: dict[Hop, Reply] = {}
            self.let_go = threading.Event()

    def fail(self, hop: Hop, reply: Reply, *, times: int | None = None) -> None:
        """Let *hop* answer with *reply*, always or so many *times*."""
        with self._lock:
            if times is None:
                self._lasting[hop] = reply
            else:
                self._faults.setdefault(hop, []).extend([reply] * times)

    def fault(self, hop: Hop) -> Reply | None:
        """Return what *hop* answers instead of the truth, if anything."""
        with self._lock:
            prepared = self._faults.get(hop)
            return prepared.pop(0) if prepared else self._lasting.get(hop)

    def violate(self, what: str) -> None:
        """Write down that somebody broke the rules."""
        with self._lock:
            self.violations.append(what)

    def answer(
        self,
        hop: Hop,
        request: Request,
        truth: Callable[[Request], Reply],
        judge: Callable[[Request], None] | None = None,
    ) -> Reply:
        """Keep *request* and return the answer to it.

        With a *judge* it alone decides whether the request is a violation, and *truth*, which
        changes something behind it, is not asked when something else is to be answered.
        """
        with self._lock:
            self.entries.append((hop, request))
        fault = self.fault(hop)
        try:
            if judge is not None:
                judge(request)
            if judge is not None and fault is not None:
                return fault
            true = truth(request)
        except Violation as violation:
            self.violate(str(violation))
            return Reply(400, str(violation).encode(), {"Content-Type": "text/plain"})
        return fault or true

    def forget(self) -> None:
        """Forget the requests so far, for instance those that prepared a test."""
        with self._lock:
            self.entries.clear()

    def ours(self, *hops: Hop) -> list[Request]:
        """Return the product's requests at *hops*, all by default."""
        with self._lock:
            chosen = [request for hop, request in self.entries if not hops or hop in hops]
        return [request for request in chosen if request.is_ours]


def read_request(handler: BaseHTTPRequestHandler) -> Request:
    """Read the request that *handler* has got, whole; Docker sends its layers in chunks."""
    headers = {name.lower(): value for name, value in handler.headers.items()}
    if headers.get("transfer-encoding", "") == "chunked":
        body = b"".join(_chunks(handler))
    else:
        body = handler.rfile.read(int(headers.get("content-length", "0")))
    url = urlsplit(handler.path)
    query = tuple(parse_qsl(url.query, keep_blank_values=True))
    return Request(handler.command, headers.get("host", ""), url.path, query, headers, body)


def _chunks(handler: BaseHTTPRequestHandler) -> Iterator[bytes]:
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        yield handler.rfile.read(size)
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass


def send(handler: BaseHTTPRequestHandler, reply: Reply, let_go: threading.Event) -> None:
    """Answer with *reply*."""
    if reply.hangs:
        let_go.wait(_HANG_S)
    if reply.hangs or reply.is_cut:
        handler.close_connection = True
        return
    handler.send_response(reply.status)
    stated = {name.lower(): value for name, value in reply.headers.items()}.get("content-length")
    if stated is None:
        handler.send_header("Content-Length", str(len(reply.body)))
    elif handler.command != "HEAD" and stated != str(len(reply.body)):
        handler.close_connection = True
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(reply.body)


@contextmanager
def serve(
    ledger: Ledger, answer: Callable[[Request], Reply], tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Answer requests on loopback until the block is left; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _IDLE_S
        disable_nagle_algorithm = True

        def serve(self) -> None:
            send(self, answer(read_request(self)), ledger.let_go)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815  # the base's names

        def log_message(self, *words: object) -> None:
            """Keep standard error for the tests."""

    server = QuietServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    with running(server):
        yield server.server_port


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    """Run *server* in the background until the block is left."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
