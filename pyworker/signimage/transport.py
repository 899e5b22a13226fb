"""HTTP as every other module uses it: one request in, one whole response or one error out.

The rules of this file:

1. Connections follow the rules of `connection` and `tls`; no caller can loosen them.
2. Every call has one deadline over all its tries, redirects and bytes; what its authorizer asks
   elsewhere is a call of its own. Every body has a maximum, and what is larger is refused, never
   cut.
3. Only GET and HEAD follow redirects or are sent again once a byte of them may have arrived.
   Another origin is followed to only where the caller says so, which is for content that is
   verified by itself; credentials never follow there, and https is never left for http.
4. Any HTTP status is an answer, for the caller to judge; only its absence is an error here.
   Whatever urllib3, ssl or the sockets raise comes out as an error of `signimage.errors`.
5. No text made here holds a header, the query of a URL, or a proxy's password.

RFC 9110 (semantics: 9.2.2 idempotent methods, 10.2.3 Retry-After, 15.4 redirection).
"""

import http.client
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Protocol, final
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3 import exceptions as foreign

from signimage.connection import (
    Connections,
    ProxyAnswerError,
    TransportSettings,
    cut_after,
)
from signimage.errors import STRANGER_HINT, InputError, RemoteError, TooLargeError
from signimage.faults import FOREIGN_ERRORS, is_slow_name, reason, too_late, unreachable
from signimage.response import (
    Credentials,
    Response,
    is_loopback,
    origin,
    readable,
    refusal,
    said_by_server,
    shown,
)

__all__ = [
    "FOREIGN_ERRORS",
    "Authorizer",
    "Credentials",
    "Response",
    "Transport",
    "TransportSettings",
    "is_loopback",
    "origin",
    "readable",
    "reason",
    "refusal",
    "said_by_server",
    "shown",
]

DEADLINE_S = 60.0  # one call, all tries together
ATTEMPTS = 5
BACKOFF_CAP_S = 8.0
REDIRECTS = 5  # as many as curl's users see in practice; browsers stop at 20
CHUNK = 64 * 1024  # bytes
ERROR_BODY_MAX = 64 * 1024  # bytes; error documents are a few hundred, proxies' pages some KiB

_SAFE_METHODS = frozenset({"GET", "HEAD"})
_AGAIN_LATER = frozenset({429, 502, 503, 504})
_REDIRECTIONS = frozenset({301, 302, 303, 307, 308})
_CREDENTIAL_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Authorizer(Protocol):
    """How a client proves who it is: what to send at first, and what to make of a 401."""

    def headers(self, method: str, url: str) -> Mapping[str, str]:
        """Return the headers to send; empty for none."""

    def answer(self, response: Response) -> bool:
        """Look at a 401; True if `headers` now has something better, worth one more try."""


@final
class Transport:
    """A pool of connections and the rules for using them; may be shared between threads."""

    def __init__(self, settings: TransportSettings | None = None) -> None:
        self._settings = settings or TransportSettings()
        self._connections = Connections(self._settings)

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def request(  # noqa: PLR0913 -- one HTTP exchange has this many parts; all but five have defaults
        self,
        method: str,
        url: str,
        *,
        what: str,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        authorizer: Authorizer | None = None,
        deadline_s: float = DEADLINE_S,
        redirects: int = REDIRECTS,
        leave_origin: bool = False,
    ) -> Response:
        """Send one request and return the answer, whatever its status.

        1. Send; GET and HEAD again on 429, 502, 503, 504 and lost connections.
        2. On 401 ask the authorizer once, and send again.
        3. Follow redirects of GET and HEAD, *redirects* at most (0: they are returned).

        Args:
            method: Upper case.
            url: Absolute, http or https.
            what: The other side's role in error texts, e.g. "trust server".
            max_bytes: Of the body of a 2xx answer, decoded.
            headers: Sent with every try; credentials among them stay with their origin.
            body: Sent as it is; the caller gives its Content-Type.
            authorizer: Asked for headers before each try.
            deadline_s: For everything together.
            redirects: How many may be followed.
            leave_origin: Whether they may lead to another scheme, host or port. Only for content
                that its digest proves, which registries keep elsewhere: who follows a redirect
                lets the server choose whom this machine talks to, and who answers.

        Raises:
            InputError: The URL, a CA file or a proxy setting is not usable.
            CertificateError: The certificate of the other side cannot be verified.
            UnreachableError: No complete answer arrived.
            TooLargeError: The answer is larger than *max_bytes*.
            RemoteError: A redirect that must not be followed.
        """
        call = _Call(method, what, max_bytes, dict(headers or {}), body, authorizer, deadline_s)
        response = self._authorized(call, _checked_url(url, what))
        for _ in range(redirects):
            target = _redirection(call, response)
            if target is None:
                return response
            if origin(target) != origin(response.url):
                if not leave_origin:
                    raise RemoteError(
                        f"{what} {origin(response.url)}: expected no redirect to another "
                        f"server, got one to {origin(target)}",
                        hint=STRANGER_HINT,
                    )
                call = call.without_credentials()
            response = self._authorized(call, target)
        if redirects and _redirection(call, response) is not None:
            raise RemoteError(f"{what} {origin(url)}: expected at most {redirects} redirects")
        return response

    def _authorized(self, call: "_Call", url: str) -> Response:
        authorizer = call.authorizer
        if authorizer is None:
            return self._repeated(call, url, call.headers)
        first = {**call.headers, **authorizer.headers(call.method, url)}
        response = self._repeated(call, url, first)
        begin = time.monotonic()
        if response.status == http.client.UNAUTHORIZED and authorizer.answer(response):
            call = call.later(time.monotonic() - begin)
            second = {**call.headers, **authorizer.headers(call.method, url)}
            response = self._repeated(call, url, second)
        return response

    def _repeated(self, call: "_Call", url: str, headers: Mapping[str, str]) -> Response:
        for attempt in range(1, ATTEMPTS + 1):
            pause_s = _pause_s(self._settings.backoff_s, attempt)
            try:
                response = self._once(call, url, headers)
            except FOREIGN_ERRORS as error:
                if attempt == ATTEMPTS or not call.may_repeat(error) or pause_s > call.left_s():
                    raise self._translated(error, call, url) from error
            else:
                if attempt == ATTEMPTS or not call.is_worth_repeating(response):
                    return response
                pause_s = max(pause_s, _retry_after_s(response))
                if pause_s > call.left_s():
                    return response
            time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, call: "_Call", url: str, headers: Mapping[str, str]) -> Response:
        left_s = call.left_s()
        if left_s <= 0:
            raise TimeoutError
        begin = time.monotonic()
        answer = self._connections.for_url(url).urlopen(
            call.method,
            url,
            body=call.body,
            headers=_checked_headers(
                {
                    "User-Agent": self._settings.user_agent,
                    "Accept-Encoding": "identity",
                    **headers,
                }
            ),
            timeout=urllib3.Timeout(total=left_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        with _released(answer):
            if answer.status == http.client.PROXY_AUTHENTICATION_REQUIRED and _is_forwarded(
                url, self._settings
            ):
                raise foreign.ProxyError("not forwarded", ProxyAnswerError(answer.status))
            body = _read(answer, call, url)
        ms = round((time.monotonic() - begin) * 1000)
        self._settings.observe(
            "answer", method=call.method, url=shown(url), status=answer.status, ms=ms
        )
        return Response(answer.status, answer.headers, body, url)

    def _translated(self, error: Exception, call: "_Call", url: str) -> Exception:
        """Return the error of ours that *error* means; the one door for foreign exceptions."""
        if isinstance(error, foreign.MaxRetryError) and error.reason is not None:
            error = error.reason
        if call.left_s() <= 0 and not is_slow_name(error):
            return too_late(call.what, url, call.deadline_s, self._settings)
        return unreachable(error, call.what, url, self._settings)


@dataclass(frozen=True, slots=True)
class _Call:
    """What stays the same over all tries of one request."""

    method: str
    what: str
    max_bytes: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    authorizer: Authorizer | None
    deadline_s: float
    started: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        return self.started + self.deadline_s - time.monotonic()

    def may_repeat(self, error: Exception) -> bool:
        """Tell whether *error* leaves it certain that sending again does nothing twice."""
        lost = (foreign.ProtocolError, foreign.TimeoutError, TimeoutError, ConnectionError)
        if isinstance(error, foreign.ProxyError):  # the server has seen nothing yet
            cause = error.original_error
            if isinstance(cause, ProxyAnswerError):
                return cause.status in _AGAIN_LATER
            return isinstance(cause, lost)
        if isinstance(error, foreign.ConnectTimeoutError):  # and its kinds: nothing was sent
            return True
        return self.method in _SAFE_METHODS and isinstance(error, lost)

    def is_worth_repeating(self, response: Response) -> bool:
        return self.method in _SAFE_METHODS and response.status in _AGAIN_LATER

    def later(self, pause_s: float) -> "_Call":
        """Return the call without the time that others took, within deadlines of their own."""
        return replace(self, started=self.started + pause_s)

    def without_credentials(self) -> "_Call":
        kept = {k: v for k, v in self.headers.items() if k.lower() not in _CREDENTIAL_HEADERS}
        return replace(self, headers=kept, authorizer=None)


# --- checks before anything is sent ---------------------------------------------------------


def _is_forwarded(url: str, settings: TransportSettings) -> bool:
    """Tell whether a proxy passes on the request for *url* itself, instead of its bytes."""
    return url.startswith("http:") and settings.proxies.for_url(url) is not None


def _checked_url(url: str, what: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    else:
        usable = usable and "@" not in parts.netloc
    # Behind a backslash parsers differ on where the host ends.
    if not usable or not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise InputError(
            f"address of {what}: expected http(s)://host[:port]/…, "
            f"got {readable(url.partition('?')[0].rpartition('@')[2])!r}"
        )
    return url


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse what http.client would refuse with the value, maybe a token, in its message."""
    for name, value in headers.items():
        if not _HEADER_VALUE.fullmatch(value):
            raise InputError(f"header {name}: expected one line of Latin-1 text")
    return headers


def _redirection(call: _Call, response: Response) -> str | None:
    """Return where *response* sends us, or None if it is an answer to keep."""
    location = response.headers.get("Location")
    if call.method not in _SAFE_METHODS or response.status not in _REDIRECTIONS or location is None:
        return None
    try:
        target = _checked_url(urljoin(response.url, location), call.what)
    except (InputError, ValueError) as error:
        raise RemoteError(
            f"{call.what} {origin(response.url)}: expected a redirect to an http(s) address"
        ) from error
    if response.url.startswith("https:") and not target.startswith("https:"):
        raise RemoteError(
            f"{call.what} {origin(response.url)}: expected a redirect to https, "
            f"got one to {origin(target)}"
        )
    return target.partition("#")[0]


@contextmanager
def _released(answer: urllib3.BaseHTTPResponse) -> Iterator[None]:
    """Give the connection back after a whole body, close it after anything else."""
    try:
        yield
    except BaseException:
        answer.close()
        raise
    answer.release_conn()


def _read(answer: urllib3.BaseHTTPResponse, call: _Call, url: str) -> bytes:
    """Read the body up to its maximum.

    An error page over its maximum is dropped, whole: its status is the answer.
    """
    good = answer.status < http.client.MULTIPLE_CHOICES
    limit = call.max_bytes if good else max(call.max_bytes, ERROR_BODY_MAX)
    chunks: list[bytes] = []
    size = 0
    with cut_after(max(call.left_s(), 0.0), answer.shutdown):
        while chunk := answer.read1(CHUNK, decode_content=True):
            size += len(chunk)
            if size > limit:
                answer.close()
                if not good:
                    return b""
                raise TooLargeError(
                    f"{call.what} {origin(url)}: expected at most {limit} bytes, got more",
                    hint=STRANGER_HINT,
                )
            chunks.append(chunk)
            if call.left_s() <= 0:
                break
    if call.left_s() <= 0:  # a cut connection looks like the end of a body without a length
        raise TimeoutError
    return b"".join(chunks)


# --- waiting --------------------------------------------------------------------------------


def _pause_s(base_s: float, attempt: int) -> float:
    """Return a pause with full jitter, so that many clients do not come back in step."""
    longest = min(BACKOFF_CAP_S, base_s * 2 ** (attempt - 1))
    return random.SystemRandom().uniform(0, longest)


def _retry_after_s(response: Response) -> float:
    """Return the seconds a server asks us to wait; 0 if it does not say or makes no sense."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    with suppress(ValueError, TypeError, OverflowError):  # a year, or a zone, of any number
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())
    return 0.0
