"""Azure DevOps, Microsoft Entra ID, the metadata service and a registry, as one that takes notes.

The rules:

1. One server is every host; the Host header says which. It is reached by rerouted connections,
   as a proxy (CONNECT), and at its own address as the metadata service.
2. An answer depends on method, host and path alone, unless a test wants a refusal: what is wrong
   in a request shows in the notes.
3. What nobody is known to ask is answered with 404, and noted like everything else.
4. A request is noted field by field, so that two notes can be compared; what only carries it
   (length, encoding, name of the program) is left out.
"""

import base64
import json
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from peers.authority import Authority

DEVOPS, METADATA = "dev.azure.com", "169.254.169.254"
AUTHORITIES = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
    "login.partner.microsoftonline.cn",
)
REGISTRIES = (
    "contoso.azurecr.io",
    "contoso.azurecr.us",
    "contoso.azurecr.cn",
    "registry.example.com",  # anybody's
)
COLLECTION = f"https://{DEVOPS}/contoso/"
TENANT = "0c7e2a7d-6c3a-4f0e-8b55-2f1d9a3b7e10"
SECURE_FILE = b"-----BEGIN PRIVATE KEY-----\r\n\x00\xff"
# No token of Azure holds what a form must encode; one that does shows who encodes.
TOKENS = {
    "job": "eyJ.job.token",
    "oidc": "eyJ.oidc.token",
    "entra": "eyJ.entra+/=.token",
    "identity": "eyJ.identity+/=.token",
    "refresh": "eyJ.refresh.token",
}

_HOSTS = (DEVOPS, METADATA, *AUTHORITIES, *REGISTRIES)
_FORM = "application/x-www-form-urlencoded"
# Not part of what is asked, but of how it is carried.
_CARRIERS = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "transfer-encoding",
        "user-agent",
    ]
)


@dataclass(frozen=True, slots=True)
class Note:
    """One request: which hop of a login it is, and its fields.

    Names are `method`, `host`, `path`, `query <name>`, `header <name in lower case>`,
    `form <name>` and for any other body, or none, `body`.
    """

    hop: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Hop:
    """What is answered with JSON (or bytes), wherever method, host and path match."""

    name: str
    method: str
    hosts: tuple[str, ...]
    path: str
    answer: object


def _location(location_id: str, resource: str, route: str) -> dict[str, str | int]:
    return {
        "id": location_id,
        "area": "distributedtask",
        "resourceName": resource,
        "routeTemplate": route,
        "resourceVersion": 1,
        "minVersion": "3.2",
        "maxVersion": "7.2",
        "releasedVersion": "0.0",
    }


# What a collection tells of its interface to whom asks first.
_LOCATIONS = [
    _location("e81700f7-3be2-46de-8624-2eb35882fcaa", "ResourceAreas", "_apis/{resource}/{areaId}"),
    _location(
        "69a319f4-28c1-4bfd-93e6-ea0ff5c6f1a2",
        "oidctoken",
        "{scopeIdentifier}/_apis/{area}/hubs/{hubName}/plans/{planId}/jobs/{jobId}/{resource}",
    ),
    _location(
        "adcfd8bc-b184-43ba-bd84-7c8c6a2ff421",
        "securefiles",
        "{project}/_apis/{area}/{resource}/{secureFileId}",
    ),
]
_AREAS = [
    {
        "id": "a85b8835-c1a1-4aac-ae97-1c3d0ba72dbd",
        "name": "distributedtask",
        "locationUrl": COLLECTION,
    }
]
_CHINA = f"https://login.partner.microsoftonline.cn/{TENANT}"
_BEARER = {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599}
_HOPS = (
    _Hop("discovery", "OPTIONS", (DEVOPS,), r"/contoso/_apis/\w+", {"value": _LOCATIONS}),
    _Hop("discovery", "GET", (DEVOPS,), "/contoso/_apis/ResourceAreas", {"value": _AREAS}),
    _Hop(
        "discovery",
        "GET",
        AUTHORITIES,
        r"/[^/]+/v2\.0/\.well-known/openid-configuration",
        {
            "issuer": f"{_CHINA}/v2.0",
            "token_endpoint": f"{_CHINA}/oauth2/v2.0/token",
            "authorization_endpoint": f"{_CHINA}/oauth2/v2.0/authorize",
            "jwks_uri": f"{_CHINA}/discovery/v2.0/keys",
        },
    ),
    _Hop("OIDC token", "POST", (DEVOPS,), r".*/oidctoken", {"oidcToken": TOKENS["oidc"]}),
    _Hop("secure file", "GET", (DEVOPS,), r".*/securefiles/[^/]+", SECURE_FILE),
    _Hop("Entra ID", "POST", AUTHORITIES, r".*/token", _BEARER | {"access_token": TOKENS["entra"]}),
    _Hop(
        "managed identity",
        "GET",
        (METADATA,),
        r"/metadata/identity/oauth2/token",
        {"access_token": TOKENS["identity"], "expires_in": "3599", "token_type": "Bearer"},
    ),
    _Hop("exchange", "POST", REGISTRIES, r"/oauth2/exchange", {"refresh_token": TOKENS["refresh"]}),
)


@dataclass(slots=True)
class Recorder:
    """A running server, the files that make its certificate believed, and its notes.

    `plain_port` speaks HTTP and is a proxy to all hosts, `tls_port` is all of them with TLS.
    """

    authority: Path
    plain_port: int = 0
    tls_port: int = 0
    _notes: list[Note] = field(default_factory=list)
    _refusals: dict[str, int] = field(default_factory=dict)

    @property
    def proxy(self) -> str:
        """The proxy to all hosts, which is the metadata service as well."""
        return f"http://127.0.0.1:{self.plain_port}"

    @property
    def routes(self) -> dict[str, int]:
        """The port on loopback for each `<host>:<port>`."""
        secure = {f"{host}:443": self.tls_port for host in _HOSTS}
        plain = dict.fromkeys((f"{METADATA}:80", f"127.0.0.1:{self.plain_port}"), self.plain_port)
        return secure | plain

    @contextmanager
    def refusing(self, refused: tuple[str, int] | None) -> Iterator[None]:
        """Answer the first request at a hop with a status, within the block."""
        self._refusals = dict([refused] if refused else [])
        yield
        assert not self._refusals, "nobody came by"

    def status(self, hop: str) -> int:
        """Return what to answer a request at *hop* with."""
        return self._refusals.pop(hop, HTTPStatus.OK)

    def taken(self) -> list[Note]:
        """Return the notes since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def note(self, handler: "_Handler", body: bytes) -> _Hop | None:
        """Write down what has arrived; gives the hop that it is, if it is one."""
        url = urlsplit(handler.path)
        host = handler.headers["Host"].lower()
        # The address of the metadata service may be told to programs; it stands for the real one.
        host = METADATA if host == f"127.0.0.1:{self.plain_port}" else host
        hop = next((one for one in _HOPS if _is(one, handler.command, host, url.path)), None)
        fields = [("method", handler.command), ("host", host), ("path", url.path)]
        fields += _named("query", url.query)
        fields += [
            (f"header {name.lower()}", _readable(value))
            for name, value in handler.headers.items()
            if name.lower() not in _CARRIERS
        ]
        is_form = handler.headers.get("Content-Type", "").startswith(_FORM)
        fields += _named("form", body.decode()) if is_form and body else [("body", body.decode())]
        # What is said twice shows as two values.
        together = {name: ", ".join(v for n, v in fields if n == name) for name, _ in fields}
        self._notes.append(Note(hop.name if hop else "unknown", together))
        return hop


def _is(hop: _Hop, method: str, host: str, path: str) -> bool:
    matches = hop.method == method and host in hop.hosts
    return matches and re.fullmatch(hop.path, path) is not None


def _readable(value: str) -> str:
    scheme, _, rest = value.partition(" ")
    return f"Basic {base64.b64decode(rest).decode()}" if scheme == "Basic" else value


def _named(kind: str, text: str) -> list[tuple[str, str]]:
    return [(f"{kind} {name}", value) for name, value in parse_qsl(text, keep_blank_values=True)]


@contextmanager
def recorder(folder: Path) -> Iterator[Recorder]:
    """Answer on loopback until the block is left; *folder* is for certificates."""
    authority = Authority(folder)
    issued = authority.issue("cloud", *_HOSTS)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(issued.certificate, issued.key)
    it = Recorder(authority.certificate)
    with ExitStack() as servers:
        it.plain_port = servers.enter_context(_server(it, tls, secure=False))
        it.tls_port = servers.enter_context(_server(it, tls, secure=True))
        yield it


@contextmanager
def _server(to: Recorder, tls: ssl.SSLContext, *, secure: bool) -> Iterator[int]:
    bound = type("Bound", (_Handler,), {"recorder": to, "tls": tls, "secure": secure})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    recorder: Recorder
    tls: ssl.SSLContext
    secure: bool
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Keep standard error for the tests."""

    def setup(self) -> None:
        """Begin with TLS where that is what the port speaks."""
        if self.secure:
            self.request = self.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        """Close what `wrap_socket` has put in the place of the server's own socket."""
        super().finish()
        self.connection.close()

    def do_CONNECT(self) -> None:
        """Be the host that was asked for, on this very connection."""
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self.secure = True
        self.setup()
        self.close_connection = False

    def do_GET(self) -> None:
        """Note the request, and answer."""
        hop = self.recorder.note(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))
        status = self.recorder.status(hop.name) if hop else HTTPStatus.NOT_FOUND
        answer = hop.answer if hop and status == HTTPStatus.OK else {"error": "refused"}
        if isinstance(answer, bytes):
            self._send(status, answer, "application/octet-stream")
        else:
            self._send(status, json.dumps(answer).encode(), "application/json")

    do_POST = do_OPTIONS = do_GET  # noqa: N815  # the base's names

    def _send(self, status: int, body: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
