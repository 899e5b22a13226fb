"""A small real HTTP server on loopback whose answers a test decides, one function for all.

It records what arrived. A reply may be exact bytes, whole or trickled, for the lies that a
library would not tell.
"""

import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import final


@dataclass(frozen=True)
class Request:
    """What arrived; `path` includes the query."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What to answer; `raw` bytes replace everything and end the connection.

    With `trickle_s` the raw bytes leave one by one with that pause, and the last is repeated for
    as long as somebody listens.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    trickle_s: float = 0.0


@final
class SmallServer:
    """Serves until the `with` block ends; `origin` is its address without a final slash."""

    def __init__(
        self, answer: Callable[[Request], Reply], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._answer = answer
        self._stopping = threading.Event()
        self._server = QuietServer(("127.0.0.1", 0), self._handler())
        scheme = "http"
        if tls is not None:
            scheme = "https"
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.origin = f"{scheme}://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "SmallServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer_with(self, answer: Callable[[Request], Reply]) -> None:
        """Answer differently from now on."""
        self._answer = answer

    def seen(self) -> list[str]:
        """Return method and path of every request, in order."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5
            disable_nagle_algorithm = True

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def serve(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                request = Request(self.command, self.path, self.headers, self.rfile.read(length))
                outer.requests.append(request)
                outer._send(self, outer._answer(request))

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = serve  # noqa: N815 -- http.server's names

            def log_message(self, *words: object) -> None:
                """Keep the test output clean."""

        return Handler

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.raw is None:
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(reply.body)))
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(reply.body)
            return
        handler.close_connection = True
        if not reply.trickle_s:
            handler.wfile.write(reply.raw)
            return
        for byte in reply.raw:
            handler.wfile.write(bytes([byte]))
            self._stopping.wait(reply.trickle_s)
        while not self._stopping.wait(reply.trickle_s):
            handler.wfile.write(reply.raw[-1:])


class QuietServer(ThreadingHTTPServer):
    """Serves each connection by itself, and says nothing of those that end badly."""

    daemon_threads = True
    block_on_close = False

    def process_request_thread(self, request: object, client_address: object) -> None:
        with suppress(OSError, ValueError):  # the client went away, or the handshake failed
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]  # typeshed wants a socket

    def handle_error(self, *what: object) -> None:
        """Stay silent: a client that goes away is what many tests are about."""
