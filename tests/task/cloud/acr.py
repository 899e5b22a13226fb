"""A stand-in for the front of Azure Container Registry: its tokens; behind it, real servers.

The rules:

1. `/oauth2/exchange` takes a token of Entra and gives a refresh token; `/oauth2/token` takes that,
   or an application's secret, and gives access tokens with scopes.
2. Everything below `/v2/` goes on to the real registry, and where it is about trust, to the real
   trust server; they alone decide by the access token what may be done.
3. What is not a Bearer token has no business below `/v2/`.
4. Anonymous pull is enabled, for Notary's program, which looks without an account. The product
   has one here, and has to use it.
"""

import base64
import binascii
import http.client
import ssl
from urllib.parse import urlencode, urlsplit

from peers.stack import Stack
from peers.tokens import Realm, Right
from task.cloud.entra import Entra, Identity, json_reply
from task.cloud.server import Hop, Ledger, Reply, Request, Violation, check

NOBODY = "00000000-0000-0000-0000-000000000000"  # the user name beside a refresh token
# What the roles of an identity let it do.
ACR_PULL = Right.PULL
ACR_PUSH = Right.PULL | Right.PUSH
ACR_IMAGE_SIGNER = Right.SIGN
REFRESH_LIFETIME_S = 3 * 3600
_ANYBODY = Identity("anybody", Right.PULL)
_BEHIND_S = 60
# What concerns one connection only (RFC 9110, section 7.6.1), or is said anew.
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class Acr:
    """One registry; `accepts_arm` is its policy on tokens for Azure Resource Manager.

    `behind` is the stack with the real servers, which are started after this is known to them.
    `refresh_lifetime_s` is what refresh tokens say of themselves; they are taken until `reset` or
    `revoke`, so that a slow machine does not look like a slow client.
    """

    def __init__(self, ledger: Ledger, entra: Entra, realm: Realm, host: str) -> None:
        self.ledger = ledger
        self.entra = entra
        self.realm = realm
        self.host = host
        self.behind: Stack | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all refresh tokens, and be as registries usually are."""
        self.accepts_arm = True
        self.refresh_lifetime_s: float = REFRESH_LIFETIME_S
        self.revoke()

    def revoke(self) -> None:
        """Take no refresh token that was given out before."""
        self.refresh_tokens: dict[str, Identity] = {}

    def answer(self, request: Request) -> Reply:
        """Answer one request to this host."""
        if request.path == "/oauth2/exchange":
            return self.ledger.answer(Hop.EXCHANGE, request, self._exchange)
        if request.path == "/oauth2/token":
            return self.ledger.answer(Hop.TOKEN, request, self._token)
        return self.ledger.answer(_hop(request), request, self._forwarded, self._check_token)

    def _exchange(self, request: Request) -> Reply:
        if request.method != "POST":
            raise Violation(f"{request.line()}: expected POST")
        form = {"grant_type": "access_token", "service": self.host, "tenant": self.entra.tenant}
        fields = check(request, form={**form, "access_token": None})
        grant = self.entra.grants.get(fields["access_token"])
        if grant is None:
            return unauthorized()
        if not self.accepts_arm and "management" in grant.audience:
            return unauthorized()
        return json_reply(200, {"refresh_token": self._refresh_token(grant.identity)})

    def _refresh_token(self, identity: Identity) -> str:
        claims = {"aud": self.host, "sub": identity.client_id, "grant_type": "refresh_token"}
        token = self.realm.signer.sign(claims, self.refresh_lifetime_s)
        self.refresh_tokens[token] = identity
        return token

    def _token(self, request: Request) -> Reply:
        if request.method == "POST":
            form = {"grant_type": "refresh_token", "service": self.host}
            usual: dict[str, str | None] = {**form, "scope": None, "refresh_token": None}
            fields = check(request, form=usual)
            identity, scopes = self.refresh_tokens.get(fields["refresh_token"]), [fields["scope"]]
        else:
            identity, scopes = self._asked_with_basic(request)
        if identity is None:
            return unauthorized()
        return json_reply(
            200, {"access_token": self.realm.token(identity.client_id, identity.rights, *scopes)}
        )

    def _asked_with_basic(self, request: Request) -> tuple[Identity | None, list[str]]:
        scopes = [value for name, value in request.query if name == "scope"]
        if not request.is_ours and "authorization" not in request.headers:
            return _ANYBODY, scopes
        if request.is_ours:
            query = {"service": self.host, "scope": None}
            check(request, query=query, headers={"authorization": None})
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if request.method != "GET" or scheme != "Basic":
            raise Violation(f"{request.line()}: expected GET, and Basic authorization")
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Violation(f"{request.line()}: expected Basic authorization") from error
        if user == NOBODY:
            return self.refresh_tokens.get(password), scopes
        identity = self.entra.identities.get(user)
        return identity if identity and identity.secret == password else None, scopes

    def _check_token(self, request: Request) -> None:
        authorization = request.headers.get("authorization", "Bearer")
        if authorization.split()[0] != "Bearer" or request.host != self.host:
            raise Violation(f"{request.line()}: expected a Bearer token for {self.host}, or none")

    def _server_of(self, hop: Hop) -> http.client.HTTPConnection:
        assert self.behind is not None
        if hop is Hop.TRUST:
            url = urlsplit(self.behind.trust_server)
            context = ssl.create_default_context(cafile=str(self.behind.ca_file))
            return http.client.HTTPSConnection(url.netloc, timeout=_BEHIND_S, context=context)
        return http.client.HTTPConnection(self.behind.registry, timeout=_BEHIND_S)

    def _forwarded(self, request: Request) -> Reply:
        connection = self._server_of(_hop(request))
        query = f"?{urlencode(request.query)}" if request.query else ""
        kept = {k: v for k, v in request.headers.items() if k not in _HOP_BY_HOP}
        headers = {**kept, "X-Forwarded-Proto": "https"}
        connection.request(request.method, request.path + query, request.body or None, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        given = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP_BY_HOP}
        if request.method == "HEAD":
            given["Content-Length"] = answer.headers.get("Content-Length", "0")
        return Reply(answer.status, body, given)


def _hop(request: Request) -> Hop:
    return Hop.TRUST if "/_trust/" in request.path else Hop.REGISTRY


def unauthorized(status: int = 401) -> Reply:
    """Return the registry's error document for an unwelcome token or account."""
    message = (
        "authentication required, visit https://aka.ms/acr/authorization for more information."
    )
    return json_reply(
        status, {"errors": [{"code": "UNAUTHORIZED", "message": message, "detail": None}]}
    )
