"""How a client proves who it is to a registry or a trust server, and how a refusal is explained.

The rules of this file:

1. Credentials go to the server that asked and to the token service it names, over https; over
   http only where both are on loopback. A registry of Azure is its own token service.
2. Their source is asked each time they are needed, as they may have been renewed since.
3. A token is asked for with the scope of its use, whatever else may be done to the same thing.
   What a challenge names beside that thing, or calls it, is asked for as well.
4. A token is used until shortly before its end by our own monotonic clock, whatever clock its
   maker has. One that the server refuses before is replaced once for each request, unless the
   server says that it is good and does not reach: another would reach no further.
5. No text names a user, a password or a token.

Distribution: "Token Authentication Specification", "Oauth2 Token Authentication";
RFC 9110, section 11.6 (challenges); RFC 6750, section 3.1 (`insufficient_scope`).
"""

import http.client
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from signimage.errors import (
    STRANGER_HINT,
    FormatError,
    RemoteError,
    UnauthorizedError,
    UnavailableError,
)
from signimage.permissions import (
    BUSY_HINT,
    CLOCKS_HINT,
    FIREWALL_HINT,
    PIPELINE,
    RATE_HINT,
    LoginAdvice,
    Permission,
    is_azure_registry,
    is_firewall,
    permission_hint,
    refused_hint,
)
from signimage.response import (
    Credentials,
    CredentialSource,
    Fixed,
    Response,
    is_loopback,
    origin,
    readable,
    refusal,
    said_by_server,
    shown,
)
from signimage.transport import Transport

ANSWER_MAX = 64 * 1024  # bytes; tokens of some registries reach 10 KiB
LIFETIME_MIN_S = 60.0  # of a token without `expires_in`, as the token specification says
LIFETIME_MAX_S = 86_400.0  # far longer than any step; `expires_in` may be any number
EARLY_S = 10.0  # a token is not used in its last seconds: clocks and networks differ
SCOPES_MAX = 8  # our own and those that challenges add; registries name one or two
CLIENT_ID = "signimage"  # tells the operator of a token service who asks
# What a server may find wrong with a token: it is none of its own, or it is and does not reach.
INVALID_TOKEN, INSUFFICIENT_SCOPE = "invalid_token", "insufficient_scope"
_WHAT = "token service"
_PASSWORD, _IDENTITY = "user name and password", "identity token"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2  # noqa: S105 -- a grammar
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|$|(?=,))(?!=)")
# How OAuth2 says that the refresh token is no good (RFC 6749, section 5.2).
_REFUSED_GRANTS = ("invalid_grant", "invalid_client", "unauthorized_client")

Login: TypeAlias = CredentialSource | Credentials | None


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers; scheme and names in lower case."""

    scheme: str
    parameters: Mapping[str, str]

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that are named, e.g. `repository:team/app:pull,push`."""
        return tuple(self.parameters.get("scope", "").split())

    @property
    def error(self) -> str:
        """What is wrong with the token that came with the request, "" if that is not said."""
        said = self.parameters.get("error", "")
        return said if said in (INVALID_TOKEN, INSUFFICIENT_SCOPE) else ""


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Read a `WWW-Authenticate` header; what follows the first senseless part is left out."""
    found: list[Challenge] = []
    position = 0
    while scheme := _SCHEME.match(header, position):
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            name, bare, quoted = parameter.groups()
            parameters[name.lower()] = bare if bare is not None else re.sub(r"\\(.)", r"\1", quoted)
            position = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return tuple(found)


class TokenAuthorizer:
    """Answers the challenges of one registry or trust server, for one visitor and one use.

    May be shared between threads: they get one token between them.
    """

    def __init__(
        self,
        transport: Transport,
        login: Login,
        *scopes: str,
        advice: LoginAdvice = PIPELINE,
        secret: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Begin as a visitor of whom nothing is known yet.

        Args:
            transport: Reaches the token service.
            login: Credentials, or where to ask for them at each use; None for anonymous visits.
            scopes: What the requests need, e.g. `repository:team/app:pull,push`.
            advice: What to tell somebody whose login is missing or refused.
            secret: Told of every token that a service gives.
        """
        self._transport = transport
        self._secret = secret
        self._source = Fixed(login) if login is None or isinstance(login, Credentials) else login
        self._scopes = scopes
        self._advice = advice
        self._given = "" if self._source == Fixed(None) else _PASSWORD  # "" for anonymous
        self._origin = ""
        self._authorization = ""
        self._expires = float("inf")  # on the monotonic clock
        self._lock = threading.Lock()

    def headers(self, method: str, url: str) -> Mapping[str, str]:
        """Return the `Authorization` that the server of *url* asked for, if it did.

        Waits for a token that another thread is asking for.
        """
        del method
        with self._lock:
            current = self._current(url)
        return {"Authorization": current} if current else {}

    def answer(self, response: Response, sent: Mapping[str, str]) -> bool:
        """Take up the challenge of a 401; True if there is something new to say.

        Args:
            response: The 401.
            sent: What `headers` gave for the request.

        Raises:
            UnauthorizedError: The token service does not accept the login, or wants one.
            RemoteError: The token service cannot be used.
        """
        with self._lock:
            return self._answer(response, sent.get("Authorization", ""))

    def _current(self, url: str) -> str:
        is_good = origin(url) == self._origin and time.monotonic() < self._expires
        return self._authorization if is_good else ""

    def _answer(self, response: Response, sent: str) -> bool:
        # Another thread may have replaced what was refused, while this one waited for its answer.
        is_replaced = self._current(response.url) not in ("", sent)
        self._origin = origin(response.url)
        offers = _offers(response)
        for offer in offers:
            if offer.scheme == "bearer" and offer.parameters.get("realm"):
                has_more = self._add_scopes(offer)
                if is_replaced and not has_more:
                    return True
                if sent and offer.error == INSUFFICIENT_SCOPE and not has_more:
                    return False
                self._fetch_token(offer)
                return self._authorization != sent
        if any(offer.scheme == "basic" for offer in offers):
            return self._answer_basic(sent)
        return False

    def denial(
        self, response: Response, server: str, permission: Permission, repository: str
    ) -> UnauthorizedError:
        """Return the error for a 401 or 403 of the server itself; the caller raises it.

        Args:
            response: The refusal.
            server: The other side's role and address, e.g. "registry reg.example.com".
            permission: What was wanted.
            repository: Where, as texts name it.
        """
        host = urlsplit(response.url).netloc
        answer = _answer(response)
        if is_firewall(answer):
            return UnauthorizedError(
                f"{server} does not let this machine in (it answered {answer})", hint=FIREWALL_HINT
            )
        # Without a token a 401 is about who we are, with one about what we may do.
        has_token = self._authorization.startswith("Bearer ")
        if self._given and response.status == http.client.UNAUTHORIZED and not has_token:
            return UnauthorizedError(
                f"{server} does not accept the given {self._given} (it answered {answer})",
                hint=refused_hint(host, self._advice),
            )
        who = "the given user" if self._given else "anonymous users"
        if has_token and _fault(response) == INVALID_TOKEN:
            return UnauthorizedError(
                f"{server} does not let {who} in with a token of its own token service "
                f"(it answered {answer})",
                hint=CLOCKS_HINT,
            )
        return UnauthorizedError(
            f"{server} does not let {who} {permission.value} {repository} (it answered {answer})",
            hint=permission_hint(host, permission) if self._given else self._advice.missing,
        )

    def _credentials(self) -> Credentials | None:
        credentials = self._source.current()
        if credentials is None:
            self._given = ""
        else:
            self._given = _IDENTITY if credentials.is_identity_token else _PASSWORD
        return credentials

    def _answer_basic(self, before: str) -> bool:
        credentials = self._credentials()
        if credentials is None or credentials.is_identity_token:
            return False
        self._authorization, self._expires = credentials.basic(), float("inf")
        return self._authorization != before

    def _add_scopes(self, offer: Challenge) -> bool:
        """Add what *offer* names and we do not know; tell whether there was any."""
        known = len(self._scopes)
        for scope in offer.scopes:
            resources = [_resource(each) for each in self._scopes]
            if _resource(scope) not in resources and len(resources) < SCOPES_MAX:
                self._scopes += (scope,)
        return len(self._scopes) > known

    def _fetch_token(self, offer: Challenge) -> None:
        service = _token_service(offer.parameters["realm"], self._origin)
        credentials = self._credentials()
        fields = [("service", offer.parameters.get("service", ""))]
        asked = time.monotonic()
        if credentials is not None and credentials.is_identity_token:
            response = self._post(service, fields, credentials.password)
        else:
            response = self._get(service, fields, credentials)
        if response.status != http.client.OK:
            raise self._not_served(response)
        token, lifetime_s = _read_token(response)
        self._secret(token)
        self._authorization = f"Bearer {token}"
        self._expires = asked + lifetime_s - EARLY_S

    def _get(
        self, service: str, fields: list[tuple[str, str]], credentials: Credentials | None
    ) -> Response:
        headers = {"Accept": "application/json"}
        if credentials is not None:
            headers["Authorization"] = credentials.basic()
        parts = urlsplit(service)
        named = [(name, value) for name, value in fields if value]
        query = [*parse_qsl(parts.query), *named, *(("scope", each) for each in self._scopes)]
        url = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
        return self._transport.request(
            "GET", url, what=_WHAT, max_bytes=ANSWER_MAX, headers=headers
        )

    def _post(self, service: str, fields: list[tuple[str, str]], identity_token: str) -> Response:
        form = [
            ("grant_type", "refresh_token"),
            *fields,
            ("client_id", CLIENT_ID),
            ("scope", " ".join(self._scopes)),
            ("refresh_token", identity_token),
        ]
        return self._transport.request(
            "POST",
            service,
            what=_WHAT,
            max_bytes=ANSWER_MAX,
            headers={
                "Accept": "application/json",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            body=urlencode(form).encode("ascii"),
        )

    def _not_served(self, response: Response) -> RemoteError:
        """The error for an answer of the token service that holds no token."""
        answer = _answer(response)
        if not _is_refusal(response):
            return failure(response, _WHAT)
        host = urlsplit(self._origin).netloc
        where = f"login to {host}: {_WHAT} {shown(response.url)}"
        if is_firewall(answer):
            return UnauthorizedError(
                f"{where} does not let this machine in (it answered {answer})", hint=FIREWALL_HINT
            )
        if not self._given:
            return UnauthorizedError(
                f"{where} does not let anonymous users in (it answered {answer})",
                hint=self._advice.missing,
            )
        return UnauthorizedError(
            f"{where} does not accept the given {self._given} (it answered {answer})",
            hint=refused_hint(host, self._advice),
        )


def failure(response: Response, what: str) -> RemoteError:
    """Return the error for an answer that says no more than that *what* did not do it.

    `UnavailableError` for 429 and 5xx, where the same may go well later; else as `refusal`.
    """
    error = refusal(response, what)
    if response.status == http.client.TOO_MANY_REQUESTS:
        return UnavailableError(str(error), hint=RATE_HINT)
    if response.status >= http.client.INTERNAL_SERVER_ERROR:
        return UnavailableError(str(error), hint=BUSY_HINT)
    return error


def shown_realm(realm: str) -> str:
    """Return a token service's address as texts may show it, even if it is not one."""
    with suppress(ValueError):
        return shown(realm)
    return readable(realm.partition("?")[0])


def _offers(response: Response) -> tuple[Challenge, ...]:
    return parse_challenges(response.headers.get("WWW-Authenticate", ""))


def _answer(response: Response) -> str:
    """Return status, reason and words of a refusal for a text."""
    said = said_by_server(response)
    return ": ".join(part for part in (str(response.status), _fault(response), said) if part)


def _fault(response: Response) -> str:
    """Return what a server finds wrong with the token that it got."""
    return next((offer.error for offer in _offers(response) if offer.error), "")


def _is_refusal(response: Response) -> bool:
    if response.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        return True
    return response.status == http.client.BAD_REQUEST and any(
        word in said_by_server(response) for word in _REFUSED_GRANTS
    )


def _resource(scope: str) -> str:
    """Return what a scope is about, without what may be done to it."""
    return scope.rpartition(":")[0]


def _token_service(realm: str, asked_by: str) -> str:
    """Return where to ask for a token; refuse to send credentials where they do not belong."""
    try:
        parts = urlsplit(realm)
        usable = parts.port != 0 and re.fullmatch(r"[\x21-\x5b\x5d-\x7e]+", realm)
        host = (usable and parts.hostname) or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    asking = urlsplit(asked_by).hostname or ""
    local = is_loopback(host) and is_loopback(asking)
    if not host or "@" in parts.netloc or parts.scheme not in (("https", "http")[: 1 + local]):
        raise RemoteError(
            f"{asked_by}: expected a token service with an https address, got {shown_realm(realm)}"
        )
    if is_azure_registry(asking) and origin(realm) != asked_by:
        raise RemoteError(
            f"{asked_by}: expected the registry's own token service, got {shown_realm(realm)}",
            hint="Something between this machine and the registry answers in its name",
        )
    return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", parts.query, ""))


def _read_token(response: Response) -> tuple[str, float]:
    document = response.json("token")
    fields = document if isinstance(document, dict) else {}
    token = fields.get("token") or fields.get("access_token")
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise FormatError(
            f"token of {shown(response.url)}: expected a token, got none", hint=STRANGER_HINT
        )
    lifetime = fields.get("expires_in")
    if isinstance(lifetime, (int, float)) and lifetime > LIFETIME_MIN_S:
        return token, float(min(lifetime, LIFETIME_MAX_S))
    return token, LIFETIME_MIN_S
