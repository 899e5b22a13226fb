"""A token service as registries have them, and what it signs: tokens that real servers check.

The rules:

1. A token grants what was asked for and what the account may do, and nothing else; asking for
   more is no error, as the specification has it. The registry then refuses.
2. Whose signature is believed is decided by the servers, by a certificate: no check is ours.
3. An image's repository is named by its path alone, its trust data by host and path. That is how
   one service can tell who may push and who may sign.

Distribution: "Token Authentication Specification", "Token Authentication Implementation".
"""

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Flag, auto
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from peers.authority import Authority
from unit.small_server import Reply, Request, SmallServer

LEEWAY_S = 60  # registry and trust server take tokens for that long after their end
_LIFETIME_S = 300


class Right(Flag):
    """What an account may do in all repositories."""

    NOTHING = 0
    PULL = auto()
    PUSH = auto()
    SIGN = auto()


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody whom a token service knows."""

    name: str
    rights: Right
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def basic(self) -> str:
        """The account's `Authorization` header."""
        pair = f"{self.name}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


class TokenSigner:
    """Signs tokens (ES256) with a key whose certificate comes from *authority*.

    `issued` has all of them, for those who look for secrets where they should not be.
    """

    def __init__(self, authority: Authority, issuer: str) -> None:
        self.issuer = issuer
        self.trusted: Path = authority.certificate
        self.issued: list[str] = []
        issued = authority.issue("token-service")
        key = load_pem_private_key(issued.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        leaf = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
        self._chain = [base64.b64encode(leaf.public_bytes(Encoding.DER)).decode()]

    def sign(self, claims: Mapping[str, Any], lifetime_s: float = _LIFETIME_S) -> str:
        """Return *claims*, with issuer and times, as a JSON Web Token."""
        now = time.time()
        times = {"iat": int(now), "nbf": int(now) - 5, "exp": int(now + lifetime_s)}
        usual = {"iss": self.issuer, **times, "jti": secrets.token_hex(8)}
        header = {"typ": "JWT", "alg": "ES256", "x5c": self._chain}
        text = f"{_encoded(header)}.{_encoded({**usual, **claims})}"
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        token = f"{text}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
        self.issued.append(token)
        return token


@dataclass(slots=True)
class Realm:
    """Whose tokens a registry and its trust server believe; `url` is where they are fetched.

    `lifetime_s` is that of access tokens; `LEEWAY_S` must have passed besides before a server
    says that one has expired. `shift_s` is how far the service's clock is ahead.
    """

    url: str
    service: str
    signer: TokenSigner
    lifetime_s: float = _LIFETIME_S
    claims: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """The settings by these names that both servers understand."""
        return {
            "realm": self.url,
            "service": self.service,
            "issuer": self.signer.issuer,
            "rootcertbundle": str(self.signer.trusted),
        }

    def token(self, account: str, rights: Right, *scopes: str) -> str:
        """Return a token for what *rights* allow of *scopes*."""
        access = [entry for scope in scopes for entry in _access(scope, rights)]
        claims = {"aud": self.service, "sub": account, "access": access, **self.claims}
        return self.signer.sign(claims, self.lifetime_s)


def _access(scope: str, rights: Right) -> list[dict[str, Any]]:
    """Return a token's entry for *scope*, e.g. `repository:team/app:pull,push`, if there is one."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    host, slash, _ = name.partition("/")
    is_trust = bool(slash) and ("." in host or ":" in host)
    needed = {"pull": Right.PULL, "push": Right.PUSH | Right.SIGN if is_trust else Right.PUSH}
    if kind != "repository":
        return []
    granted = [each for each in actions.split(",") if each in needed and needed[each] in rights]
    return [{"type": kind, "name": name, "actions": granted}] if granted else []


class TokenService:
    """The usual token service, on loopback: `GET /token?service=…&scope=…` and Basic.

    Accounts may be added at any time. `requests` are those that came, `asked` their scopes.
    """

    def __init__(self, service: str, signer: TokenSigner) -> None:
        self.accounts: dict[str, Account] = {}
        self._lock = threading.Lock()
        self.server = SmallServer(self._answer)
        self.realm = Realm(f"{self.server.origin}/token", service, signer)

    def account(self, rights: Right) -> Account:
        """Add somebody who may do this much."""
        account = Account(f"user-{secrets.token_hex(4)}", rights)
        with self._lock:
            self.accounts[account.basic] = account
        return account

    @contextmanager
    def serve(self) -> Iterator["TokenService"]:
        """Answer until the block is left."""
        with self.server:
            yield self

    @property
    def asked(self) -> list[list[str]]:
        """The scopes of each request."""
        return [_query(request).get("scope", []) for request in self.server.requests]

    def _answer(self, request: Request) -> Reply:
        query = _query(request)
        if request.method != "GET" or not request.path.startswith("/token?"):
            return Reply(404)
        if query.get("service") != [self.realm.service]:
            return _refusal(400, "service: expected the one of the challenge")
        login = request.headers.get("Authorization", "")
        account = Account("", Right.PULL) if not login else self.accounts.get(login)
        if account is None:
            return _refusal(401, "incorrect username or password")
        token = self.realm.token(account.name, account.rights, *query.get("scope", []))
        answer = {"token": token, "expires_in": max(60, int(self.realm.lifetime_s))}
        return Reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})


def _refusal(status: int, details: str) -> Reply:
    return Reply(
        status, json.dumps({"details": details}).encode(), {"Content-Type": "application/json"}
    )


def _query(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.path).query)


def _encoded(document: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(document, separators=(",", ":")).encode())


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
