"""The one way out of the tests' network: a proxy that knows where the cloud's names are.

The rules:

1. `CONNECT name:443` leads to the fake of that name; every other target is refused and is a
   violation, so that no test talks to the real cloud and nobody talks past the documentation.
2. TLS is between the two ends; the proxy sees names only.
3. With an account it is strict like a company's: 407 without the right one.
"""

import base64
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from task.cloud.server import Hop, Ledger, Reply, Request, running, send
from unit.small_proxy import relay


class Gateway:
    """A proxy whose `names` map `host:port` to a loopback port.

    `account` is `user:password`, or "" to let everybody through. `asked` lists the targets that
    were wanted, `tunnels` those of them to which it let through.
    """

    def __init__(self, ledger: Ledger, hop: Hop = Hop.PROXY) -> None:
        self.ledger = ledger
        self.hop = hop
        self.names: dict[str, int] = {}
        self.account = ""
        self.asked: list[str] = []
        self.tunnels: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        """The proxy's address, without an account."""
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Forget tunnels and account."""
        self.account = ""
        self.asked.clear()
        self.tunnels.clear()

    def refusal(self, target: str, authorization: str) -> Reply | None:
        """Return why a tunnel to *target* is not made, or None."""
        self.asked.append(target)
        fault = self.ledger.fault(self.hop)
        if fault is not None:
            return fault
        expected = f"Basic {base64.b64encode(self.account.encode()).decode()}"
        if self.account and authorization != expected:
            headers = {"Proxy-Authenticate": 'Basic realm="company"'}
            return Reply(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, headers=headers)
        if target not in self.names:
            self.ledger.violate(f"CONNECT {target}: expected one of {sorted(self.names)}")
            return Reply(HTTPStatus.FORBIDDEN)
        return None

    @contextmanager
    def serve(self) -> Iterator["Gateway"]:
        """Let through until the block is left."""
        handler = type("_Bound", (_Handler,), {"gateway": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.port = server.server_port
        with running(server):
            yield self


class _Handler(BaseHTTPRequestHandler):
    gateway: Gateway
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        """Make a tunnel, or say why not."""
        self.close_connection = True
        refusal = self.gateway.refusal(self.path, self.headers.get("Proxy-Authorization", ""))
        if refusal is not None:
            send(self, refusal, self.gateway.ledger.let_go)
            return
        self.gateway.tunnels.append(self.path)
        port = self.gateway.names[self.path]
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            self.send_response(HTTPStatus.OK)
            self.end_headers()
            with suppress(OSError):  # either end may go away at any time
                relay(self.connection, upstream)

    def do_GET(self) -> None:
        """Refuse: nothing in the cloud is asked for in the clear."""
        self.close_connection = True
        what = Request(self.command, "", self.path.partition("?")[0], (), {}, b"").line()
        self.gateway.ledger.violate(f"{what}: expected CONNECT")
        send(self, Reply(HTTPStatus.FORBIDDEN), self.gateway.ledger.let_go)

    do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815  # the base's names

    def log_message(self, *words: object) -> None:
        """Keep standard error for the tests."""
