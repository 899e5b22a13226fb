"""A small real proxy on loopback: tunnels for CONNECT, to where a test says, or its own answers.

It records whom it was asked for, and with which account. A proxy that forwards requests whole
needs no program of its own: any small server that answers whatever it is asked is one.
"""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import final

from unit.small_server import QuietServer, Reply

_CHUNK = 65_536  # bytes
_IDLE_S = 60


@final
class SmallProxy:
    """Serves until the `with` block ends; `origin` is its address, without an account.

    *names* maps `host:port` to the loopback server (`host:port`) that stands for it. *answer* is
    given the account, as `Proxy-Authorization` has it, and returns what to say instead of
    leading on, or None.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        answer: Callable[[str | None], Reply | None] = lambda _: None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.targets: list[str] = []
        self.accounts: list[str | None] = []
        self.names = dict(names)
        self.answer = answer
        self.ending = threading.Event()
        handler = type("_Bound", (_Handler,), {"proxy": self})
        self._server = QuietServer(("127.0.0.1", 0), handler)
        scheme = "http"
        if tls is not None:
            scheme = "https"
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.origin = f"{scheme}://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "SmallProxy":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: SmallProxy
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_CONNECT(self) -> None:
        """Make a tunnel, or answer."""
        self.close_connection = True
        proxy = self.proxy
        proxy.targets.append(self.path)
        proxy.accounts.append(self.headers["Proxy-Authorization"])
        reply = proxy.answer(proxy.accounts[-1])
        if reply is not None:
            self._say(reply)
            return
        host, _, port = proxy.names[self.path].rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # either end may go away at any time
                relay(self.connection, upstream)

    def _say(self, reply: Reply) -> None:
        if reply.raw is None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            return
        self.wfile.write(reply.raw)
        while reply.trickle_s and not self.proxy.ending.wait(reply.trickle_s):
            self.wfile.write(reply.raw[-1:])

    def log_message(self, *words: object) -> None:
        """Keep the test output clean."""


def relay(one: socket.socket, other: socket.socket) -> None:
    """Copy bytes both ways until either side is at its end, or silent for a minute.

    In one thread: OpenSSL lets no two threads work on one connection.
    """
    ends = {one: other, other: one}
    while ready := _ready(list(ends)):
        for source in ready:
            content = source.recv(_CHUNK)
            if not content:
                return
            ends[source].sendall(content)


def _ready(ends: Sequence[socket.socket]) -> Sequence[socket.socket]:
    """Those of *ends* that can be read; select() knows nothing of what TLS has read ahead."""
    ahead = [end for end in ends if isinstance(end, ssl.SSLSocket) and end.pending()]
    return ahead or select.select(ends, [], [], _IDLE_S)[0]
