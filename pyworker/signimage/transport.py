"""HTTP as every other module uses it: one request in, one whole response or one error out.

The rules of this file:

1. Connections follow the rules of `connection` and `tls`; no caller can loosen them.
2. Every call has one deadline over all its tries, redirects and bytes; what its authorizer asks
   elsewhere is a call of its own. A body that is read while it is sent may take as long as it
   gets on: each part of it has a limit, and the deadline begins anew at its end. Every answer's
   body has a maximum, and what is larger is refused, never cut.
3. Only GET and HEAD follow redirects. Only they, and what a caller says may happen twice, are sent
   again once a byte of them may have arrived.
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
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
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
from signimage.faults import FOREIGN_ERRORS, is_nobody, is_slow_name, reason, too_late, unreachable
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
    "Stream",
    "Transport",
    "TransportSettings",
    "is_loopback",
    "origin",
    "pause_s",
    "readable",
    "reason",
    "refusal",
    "retry_after_s",
    "said_by_server",
    "shown",
]

DEADLINE_S = 60.0  # one call, all tries together
STALL_S = 60.0  # for one part of a streamed body; at 256 KiB that is slower than any modem
ATTEMPTS = 5
BACKOFF_CAP_S = 8.0
# Where nobody ever answered, the address is wrong more often than somebody is late: five tries
# take less than a second.
_UNMET_BACKOFF_S = 0.05
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

    def answer(self, response: Response, sent: Mapping[str, str]) -> bool:
        """Look at a 401 to a request that had *sent* of `headers`.

        True if `headers` now has something better, worth one more try.
        """


@dataclass(frozen=True, slots=True)
class Stream:
    """A body that is read while it is sent.

    Attributes:
        size: Its length in bytes.
        read: Gives exactly as many, in parts, from the first on; called for each try.
        stall_s: How long the other side may take to accept one part.
    """

    size: int
    read: Callable[[], Iterator[bytes]]
    stall_s: float = STALL_S


@final
class Transport:
    """A pool of connections and the rules for using them; may be shared between threads."""

    def __init__(self, settings: TransportSettings | None = None) -> None:
        self._settings = settings or TransportSettings()
        self._connections = Connections(self._settings)
        self._met: set[str] = set()  # origins that have answered

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def request(  # noqa: PLR0913 -- one HTTP exchange has this many parts; all but four have defaults
        self,
        method: str,
        url: str,
        *,
        what: str,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | Stream | None = None,
        authorizer: Authorizer | None = None,
        deadline_s: float = DEADLINE_S,
        redirects: int = REDIRECTS,
        leave_origin: bool = False,
        repeatable: bool = False,
    ) -> Response:
        """Send one request and return the answer, whatever its status.

        1. Send; GET, HEAD and what is *repeatable* again on 429, 502, 503, 504 and lost
           connections.
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
            deadline_s: For everything together; after a `Stream` for the answer alone.
            redirects: How many may be followed.
            leave_origin: Whether they may lead to another scheme, host or port. Only for content
                that its digest proves, which registries keep elsewhere: who follows a redirect
                lets the server choose whom this machine talks to, and who answers.
            repeatable: Whether sending it twice does what sending it once does.

        Raises:
            InputError: The URL, a CA file or a proxy setting is not usable.
            CertificateError: The certificate of the other side cannot be verified.
            UnreachableError: No complete answer arrived.
            TooLargeError: The answer is larger than *max_bytes*.
            RemoteError: A redirect that must not be followed.
        """
        call = _Call(
            method,
            what,
            max_bytes,
            dict(headers or {}),
            body,
            authorizer,
            _Clock(deadline_s),
            is_repeatable=repeatable or method in _SAFE_METHODS,
        )
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
        with call.clock.paused():
            sent = authorizer.headers(call.method, url)
        response = self._repeated(call, url, {**call.headers, **sent})
        if response.status != http.client.UNAUTHORIZED:
            return response
        with call.clock.paused():
            has_better = authorizer.answer(response, sent)
            sent = authorizer.headers(call.method, url) if has_better else sent
        return self._repeated(call, url, {**call.headers, **sent}) if has_better else response

    def _repeated(self, call: "_Call", url: str, headers: Mapping[str, str]) -> Response:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._once(call, url, headers)
            except FOREIGN_ERRORS as error:
                wait_s, why = pause_s(self._backoff_s(error, url), attempt), reason(error)
                if (
                    attempt == ATTEMPTS
                    or not call.may_repeat(error)
                    or wait_s > call.clock.left_s()
                ):
                    raise self._translated(error, call, url) from error
            else:
                if attempt == ATTEMPTS or not call.is_worth_repeating(response):
                    return response
                wait_s = max(pause_s(self._settings.backoff_s, attempt), retry_after_s(response))
                why = f"the answer is {response.status}"
                if wait_s > call.clock.left_s():
                    return response
            self._settings.observe("pause", url=shown(url), why=why, ms=round(wait_s * 1000))
            time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _backoff_s(self, error: Exception, url: str) -> float:
        """The longest first pause after *error*."""
        backoff_s = self._settings.backoff_s
        is_unmet = is_nobody(error) and origin(url) not in self._met
        return min(backoff_s, _UNMET_BACKOFF_S) if is_unmet else backoff_s

    def _once(self, call: "_Call", url: str, headers: Mapping[str, str]) -> Response:
        left_s = call.clock.left_s()
        if left_s <= 0:
            raise TimeoutError
        begin = time.monotonic()
        timeout, length = urllib3.Timeout(total=left_s), {}
        if isinstance(call.body, Stream):
            timeout = urllib3.Timeout(connect=call.body.stall_s, read=call.clock.deadline_s)
            length = {"Content-Length": str(call.body.size)}
        with call.content() as content:
            answer = self._connections.for_url(url).urlopen(
                call.method,
                url,
                body=content,
                headers=_checked_headers(
                    {
                        "User-Agent": self._settings.user_agent,
                        "Accept-Encoding": "identity",
                        **headers,
                        **length,
                    }
                ),
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
        self._met.add(origin(url))
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
        if call.clock.left_s() <= 0 and not is_slow_name(error):
            missing = "further data taken" if call.clock.is_sending else "complete answer"
            return too_late(call.what, url, call.clock.limit_s, self._settings, missing=missing)
        return unreachable(error, call.what, url, self._settings)


@final
class _Clock:
    """What is left of the time for a call, or for one part of the body that it streams."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = self.limit_s = deadline_s
        self.is_sending = False
        self._end = time.monotonic() + deadline_s

    def left_s(self) -> float:
        return self._end - time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that others take in the block, within deadlines of their own."""
        begin = time.monotonic()
        yield
        self._end += time.monotonic() - begin

    def begin_part(self, limit_s: float) -> None:
        self.is_sending, self.limit_s = True, limit_s
        self._end = time.monotonic() + limit_s

    def begin_answer(self) -> None:
        self.is_sending, self.limit_s = False, self.deadline_s
        self._end = time.monotonic() + self.deadline_s


@dataclass(frozen=True, slots=True)
class _Call:
    """What stays the same over all tries of one request."""

    method: str
    what: str
    max_bytes: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | Stream | None = field(repr=False)
    authorizer: Authorizer | None
    clock: _Clock
    is_repeatable: bool

    def content(self) -> AbstractContextManager[bytes | Iterator[bytes] | None]:
        """Open the body for one try."""
        if isinstance(self.body, Stream):
            return closing(self._parts(self.body))
        return nullcontext(self.body)

    def _parts(self, body: Stream) -> Generator[bytes, None, None]:
        for part in body.read():
            self.clock.begin_part(body.stall_s)
            yield part
        self.clock.begin_answer()

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
        return self.is_repeatable and isinstance(error, lost)

    def is_worth_repeating(self, response: Response) -> bool:
        return self.is_repeatable and response.status in _AGAIN_LATER

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
    except BaseException:  # a cancel, too: what is left of the answer is read by nobody
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
    with cut_after(max(call.clock.left_s(), 0.0), answer.shutdown):
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
            if call.clock.left_s() <= 0:
                break
    if call.clock.left_s() <= 0:  # a cut connection looks like the end of a body without a length
        raise TimeoutError
    return b"".join(chunks)


# --- waiting --------------------------------------------------------------------------------


def pause_s(base_s: float, attempt: int) -> float:
    """Return a pause with full jitter, so that many clients do not come back in step."""
    longest = min(BACKOFF_CAP_S, base_s * 2 ** (attempt - 1))
    return random.SystemRandom().uniform(0, longest)


def retry_after_s(response: Response) -> float:
    """Return the seconds a server asks us to wait; 0 if it does not say or makes no sense."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    with suppress(ValueError, TypeError, OverflowError):  # a year, or a zone, of any number
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())
    return 0.0
