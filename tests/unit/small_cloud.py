"""As much of Azure as a login needs, on loopback: DevOps, metadata service, Entra ID, a registry.

Names of the real cloud lead here through a proxy that knows no other place. Each hop is honest,
checks what it is asked, and can be told to answer something else.
"""

import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta, timezone
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from signimage.transport import TransportSettings
from unit.small_proxy import relay
from unit.small_server import Reply, Request, SmallServer

TENANT = "7c6e2b0a-5b1d-4e0f-9a53-0a8d3b1f6c21"
CLIENT = "0d9f1c52-83b4-4b2c-8f0e-5b6a7c8d9e0f"
CONNECTION = "6d1fbb54-0b1b-4d3c-9c62-3e6a3b8f2a55"
JOB_TOKEN = "job-token-s3cret"
REGISTRY = "myreg.azurecr.io"
AUTHORITY = "login.microsoftonline.com"
SUBJECT = "sc://org/project/connection"
ISSUER = f"https://login.microsoftonline.com/{TENANT}/v2.0"
ARM = "https://management.core.windows.net/"
ACR = "https://containerregistry.azure.net"
_JSON = {"Content-Type": "application/json; charset=utf-8"}


class Hop(Enum):
    """Who is asked."""

    DEVOPS = "devops"
    METADATA = "metadata"
    ENTRA = "entra"
    REGISTRY = "registry"


def as_json(status: int, document: object) -> Reply:
    """Return *document* as an answer."""
    return Reply(status, json.dumps(document).encode(), _JSON)


def jwt(**claims: object) -> str:
    """Return a JSON Web Token with *claims* and a signature that nobody checks."""
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, claims))
    coded = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts]
    return ".".join([*coded, "s3cret-signature"])


@final
class SmallCloud:
    """Serves until the `with` block ends.

    `asked` has each request with its hop, `tokens` all that were given out, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[Hop, Request]] = []
        self.tokens: list[str] = []
        self.takes_arm_tokens = True
        self.lifetime_s = 10_800  # of a login at the registry
        self._lies: dict[Hop, list[Reply]] = {}
        self._audiences: dict[str, str] = {}
        context = _server_context(folder, [REGISTRY, AUTHORITY])
        self._secure = SmallServer(self._answer, tls=context)
        self._plain = SmallServer(self._answer)
        self._proxy = _Proxy(int(self._secure.host.rpartition(":")[2]))
        self._stack = ExitStack()
        self.origin = self._plain.origin  # of Azure DevOps and of the metadata service
        settings = TransportSettings(ca_files=(folder / "cloud.pem",), backoff_s=0.001)
        self.settings = settings.with_proxies({"https_proxy": self._proxy.url})

    def __enter__(self) -> "SmallCloud":
        for each in (self._secure, self._plain, self._proxy):
            self._stack.enter_context(each)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def lie(self, hop: Hop, *replies: Reply) -> None:
        """Have *hop* answer with *replies*, one after the other, the last for ever."""
        self._lies[hop] = list(replies)

    def hops(self) -> list[Hop]:
        """Return who was asked, in order."""
        return [hop for hop, _ in self.asked]

    def fields(self, index: int) -> dict[str, str]:
        """Return the form of the request number *index*, or its query if it has none."""
        request = self.asked[index][1]
        text = request.body.decode() or urlsplit(request.path).query
        return {name: value for name, (value,) in parse_qs(text, strict_parsing=True).items()}

    def _answer(self, request: Request) -> Reply:
        hop = _hop(request)
        self.asked.append((hop, request))
        lies = self._lies.get(hop)
        if lies:
            return lies.pop(0) if len(lies) > 1 else lies[0]
        return self._honest()[hop](self.fields(-1))

    def _honest(self) -> Mapping[Hop, Callable[[Mapping[str, str]], Reply]]:
        return {
            Hop.DEVOPS: lambda _: as_json(200, {"oidcToken": self._new(jwt(**self.claims()))}),
            Hop.METADATA: lambda form: self._access_token(form["resource"]),
            Hop.ENTRA: lambda form: self._access_token(form["scope"].removesuffix("/.default")),
            Hop.REGISTRY: self._exchange,
        }

    def claims(self) -> dict[str, Any]:
        """Return what the next ID token claims."""
        number = len(self.tokens)
        return {"iss": ISSUER, "sub": SUBJECT, "aud": "api://AzureADTokenExchange", "n": number}

    def _access_token(self, audience: str) -> Reply:
        token = self._new(jwt(aud=audience, n=len(self.tokens)))
        self._audiences[token] = audience
        return as_json(200, {"token_type": "Bearer", "access_token": token})

    def _exchange(self, form: Mapping[str, str]) -> Reply:
        audience = self._audiences.get(form["access_token"])
        if audience is None or (audience != ACR and not self.takes_arm_tokens):
            said = [{"code": "UNAUTHORIZED", "message": "authentication required"}]
            return as_json(401, {"errors": said})
        token = self._new(jwt(iat=1000, exp=1000 + self.lifetime_s, n=len(self.tokens)))
        return as_json(200, {"refresh_token": token})

    def _new(self, token: str) -> str:
        self.tokens.append(token)
        return token


def _hop(request: Request) -> Hop:
    host = str(request.headers["Host"])
    if host == REGISTRY:
        return Hop.REGISTRY
    if host == AUTHORITY:
        return Hop.ENTRA
    return Hop.METADATA if request.path.startswith("/metadata/") else Hop.DEVOPS


def _server_context(folder: Path, names: list[str]) -> ssl.SSLContext:
    """Return TLS settings for a server of *names*, whose certificate is `cloud.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)  # noqa: FBT003 -- the library's own
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "cloud.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "cloud.key").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cloud.pem", folder / "cloud.key")
    return context


@final
class _Proxy:
    """Leads every CONNECT for port 443 to one port of this machine."""

    def __init__(self, port: int) -> None:
        handler = type("_Bound", (_Connect,), {"port": port})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "_Proxy":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Connect(BaseHTTPRequestHandler):
    port = 0
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        """Make a tunnel."""
        self.close_connection = True
        if not self.path.endswith(":443"):
            self.send_error(403)
            return
        with socket.create_connection(("127.0.0.1", self.port)) as upstream:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # either end may go away at any time
                relay(self.connection, upstream)

    def log_message(self, *words: object) -> None:
        """Keep the test output clean."""
