"""A TLS proxy in front of a trust server that counts what passes, and changes nothing."""

import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_HOP_HEADERS = frozenset({"connection", "host", "transfer-encoding", "content-length"})


@dataclass
class Recorder:
    """What passed since `reset`: requests, and connections they came on."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    sent: int = 0  # bytes of bodies to the trust server
    received: int = 0  # bytes of bodies from it
    first_at: float = 0.0  # when the first request arrived, by `time.perf_counter`

    def reset(self) -> None:
        """Begin to count anew."""
        self.requests.clear()
        self.connections = self.sent = self.received = 0
        self.first_at = 0.0


@contextmanager
def recording(target: str, certificate: Path, key: Path, ca_file: Path) -> Iterator[Recorder]:
    """Serve *target* under another loopback address while the block runs."""
    recorder = Recorder()
    upstream = urlsplit(target)
    trust = ssl.create_default_context(cafile=str(ca_file))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet, at once: a proxy must not add the 40 ms of a delayed ACK.
        wbufsize = -1
        disable_nagle_algorithm = True

        def setup(self) -> None:
            recorder.connections += 1
            super().setup()

        def _pass_on(self) -> None:
            recorder.first_at = recorder.first_at or time.perf_counter()
            recorder.requests.append(f"{self.command} {self.path}")
            length = int(self.headers.get("Content-Length") or 0)
            body = self._body(length)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_HEADERS}
            connection = http.client.HTTPSConnection(upstream.netloc, context=trust, timeout=60)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            recorder.sent += len(body)
            recorder.received += len(content)
            connection.close()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_HEADERS:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        def _body(self, length: int) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(length)
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        do_GET = do_POST = do_DELETE = _pass_on  # noqa: N815 -- the names http.server looks for

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    recorder.url = f"https://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
