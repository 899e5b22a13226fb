"""What the exceptions of urllib3, ssl and the sockets mean: in words, with a remedy.

The rules of this file:

1. Every foreign exception has words; a test holds the list against urllib3's own.
2. A sentence names the hop that failed: the server, or the proxy before it without its account.
3. A hint names the setting to look at, and never advises to weaken a check.

RFC 8446 section 6 (alerts), RFC 5280 section 6 (why a certificate is refused),
RFC 9110 section 15.5.8 (407).
"""

import http.client
import socket
import ssl
from collections.abc import Iterator
from datetime import datetime, timezone
from http import HTTPStatus
from typing import NamedTuple

from urllib3 import exceptions as foreign

from signimage.connection import ProxyAnswerError, TransportSettings
from signimage.errors import CertificateError, UnreachableError
from signimage.proxies import AGENT_SETTING, Proxy
from signimage.response import origin, readable
from signimage.tls import system_words

# Whatever comes out of urllib3, and of libraries built on it (`requests`' own are OSErrors).
FOREIGN_ERRORS = (foreign.HTTPError, http.client.HTTPException, OSError, ValueError)

_ADDRESS_HINT = "Check the address, and that this machine may connect to it"
_CA_HINT = (
    "If this server uses a private certificate authority, give its certificate (PEM)"
    " in the input caCertificate, or set SSL_CERT_FILE"
)
_NAME_HINT = "Use the name that the certificate is made for, or have it made for this one, too"
_TLS_HINT = "Have TLS 1.2 or 1.3 switched on at the server"
_SHOW_HINT = (
    "An agent shows the certificate that it was configured with: --sslclientcert,"
    " --sslclientcertkey and --sslclientcertarchive"
)
_SHOWN_HINT = "Check that it is in force, and issued by an authority that the server accepts"

# The first match counts, so kinds stand before their families.
_REASONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((foreign.NameResolutionError, socket.gaierror), "its name cannot be resolved"),
    ((foreign.NewConnectionError,), "no connection"),
    ((foreign.ConnectTimeoutError,), "no connection in time"),
    ((foreign.ReadTimeoutError, foreign.TimeoutError, TimeoutError), "no answer in time"),
    ((foreign.SSLError, ssl.SSLError), "TLS failed"),
    ((foreign.ProtocolError, foreign.ConnectionError), "the connection was lost"),
    ((foreign.DecodeError,), "the answer cannot be decoded"),
    (
        (
            foreign.InvalidHeader,
            foreign.HeaderParsingError,
            foreign.BodyNotHttplibCompatible,
            foreign.ResponseError,
            http.client.HTTPException,
        ),
        "the answer is not valid HTTP",
    ),
    ((foreign.ProxyError, foreign.ProxySchemeUnsupported), "the proxy cannot be used"),
    ((foreign.ProxySchemeUnknown,), "the proxy's address is not usable"),
    ((foreign.LocationValueError,), "the address is not usable"),
    ((foreign.PoolError,), "no connection could be used"),
    (
        (foreign.TimeoutStateError, foreign.UnrewindableBodyError),
        "the request could not be sent",
    ),
)

# OpenSSL's names, of errors found here and of alerts (after "ALERT_") that the other side sent.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})
_OLD_TLS = frozenset(
    {"UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "WRONG_SSL_VERSION", "PROTOCOL_VERSION"}
)
_WANTS_CERTIFICATE = "CERTIFICATE_REQUIRED"
_REFUSES_CERTIFICATE = frozenset(
    {"BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE", "CERTIFICATE_REVOKED", "CERTIFICATE_EXPIRED",
     "CERTIFICATE_UNKNOWN", "UNKNOWN_CA", "ACCESS_DENIED"}
)  # fmt: skip
_BREAKS_OFF = "HANDSHAKE_FAILURE"

# OpenSSL's X509_V_ERR_… codes.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = frozenset({62, 64})


class _Fault(NamedTuple):
    """What happened, fit for the end of a sentence, and what to do."""

    words: str
    hint: str = _ADDRESS_HINT


def unreachable(
    error: BaseException, what: str, url: str, settings: TransportSettings
) -> UnreachableError:
    """Return the error of ours that *error* means; the caller raises it.

    Args:
        error: One of `FOREIGN_ERRORS`.
        what: The other side's role, e.g. "trust server".
        url: What was asked for.
        settings: With what.
    """
    where = f"{what} {origin(url)}"
    proxy = settings.proxies.for_url(url)
    if isinstance(error, foreign.ProxyError) and proxy is not None:
        return _by_proxy(error.original_error, where, proxy, settings)
    untrusted = _certificate_fault(error)
    if untrusted:
        return CertificateError(
            f"{where}: its certificate cannot be verified: {untrusted.words}", hint=untrusted.hint
        )
    words, hint = _fault(error, settings)
    return UnreachableError(f"{where} cannot be reached: {words}", hint=hint)


def too_late(
    what: str,
    url: str,
    deadline_s: float,
    settings: TransportSettings,
    *,
    missing: str = "complete answer",
) -> UnreachableError:
    """Return the error for a call whose *deadline_s* passed, and what is *missing*."""
    sentence = f"{what} {origin(url)} cannot be reached: no {missing} within {deadline_s:g} s"
    proxy = settings.proxies.for_url(url)
    if proxy is None:
        return UnreachableError(sentence)
    return UnreachableError(f"{sentence} by way of proxy {proxy.address}", hint=_proxy_hint(proxy))


def _by_proxy(
    cause: BaseException, where: str, proxy: Proxy, settings: TransportSettings
) -> UnreachableError:
    named = f"{where} cannot be reached: proxy {proxy.address}"
    untrusted = _certificate_fault(cause)
    if untrusted:
        return CertificateError(
            f"{named}: its certificate cannot be verified: {untrusted.words}", hint=untrusted.hint
        )
    if isinstance(cause, ProxyAnswerError):
        words, hint = _refusal(cause.status, proxy)
        return UnreachableError(f"{named} {words}", hint=hint)
    return UnreachableError(f"{named}: {_fault(cause, settings).words}", hint=_proxy_hint(proxy))


def _refusal(status: int, proxy: Proxy) -> _Fault:
    """Say what a proxy's own answer means."""
    agent = proxy.setting == AGENT_SETTING
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and proxy.credentials is None:
        return _Fault(
            "wants a user name and a password (it answered 407)",
            "Configure the agent with --proxyusername and --proxypassword"
            if agent
            else f"Write them into {proxy.setting}: http://user:password@host:port",
        )
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return _Fault(
            "does not accept the user name and password given (it answered 407)",
            f"Check those of {proxy.setting}; they are sent by the scheme Basic, which the proxy"
            " must allow",
        )
    if status in (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.UNAUTHORIZED):
        return _Fault(
            f"refuses the way there (it answered {status})",
            f"Have the proxy allow this server, or name the server in {_bypass(proxy)}",
        )
    return _Fault(f"found no way there (it answered {status})", _proxy_hint(proxy))


def _proxy_hint(proxy: Proxy) -> str:
    return f"Check {proxy.setting}; servers that need no proxy belong in {_bypass(proxy)}"


def _bypass(proxy: Proxy) -> str:
    return "the agent's .proxybypass or NO_PROXY" if proxy.setting == AGENT_SETTING else "NO_PROXY"


def _fault(error: BaseException, settings: TransportSettings) -> _Fault:
    """Say what *error* means, and what to do, knowing how this side was set up."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return _tls_fault(cause.reason, settings) or _Fault(reason(error))
    return _Fault(reason(error))


def _tls_fault(name: str, settings: TransportSettings) -> _Fault | None:
    alert = name.rpartition("ALERT_")[2]
    client = settings.client_certificate
    if name in _NO_TLS:
        return _Fault("TLS failed: it does not speak TLS", "Check scheme and port of the address")
    if alert in _OLD_TLS:
        return _Fault("TLS failed: expected TLS 1.2 or newer, got an older version", _TLS_HINT)
    if alert == _WANTS_CERTIFICATE or (alert in _REFUSES_CERTIFICATE and alert != name):
        if client is None:
            return _Fault("TLS failed: it wants a client certificate", _SHOW_HINT)
        return _Fault(f"TLS failed: it does not accept the {client.what}", _SHOWN_HINT)
    if alert == _BREAKS_OFF and client is None:
        return _Fault(
            "TLS failed: it broke off the handshake, as servers of TLS 1.2 do that want a client"
            " certificate",
            _SHOW_HINT,
        )
    return None


def reason(error: BaseException) -> str:
    """Say in a few words what *error* means, from the operating system's own where it has them."""
    if is_slow_name(error):
        return "its name was not resolved in time"
    for cause in _causes(error):
        words = _own_words(cause)
        if words:
            return words
    for kinds, words in _REASONS:
        if isinstance(error, kinds):
            return words
    return f"unexpected {type(error).__name__}"


def _own_words(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLEOFError):
        return "TLS failed: the connection was closed"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {readable((cause.reason or 'handshake').replace('_', ' ').lower())}"
    if isinstance(cause, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(cause, http.client.IncompleteRead):  # and urllib3's kinds of it
        return "the answer ended before it was complete"
    if isinstance(cause, OSError) and cause.errno and not isinstance(cause, socket.gaierror):
        return system_words(cause)
    return ""


def is_slow_name(error: BaseException) -> bool:
    """Tell whether a name's resolver gave no answer, which no deadline says by itself."""
    return isinstance(error, foreign.NameResolutionError) and any(
        isinstance(cause, TimeoutError) for cause in _causes(error)
    )


def is_nobody(error: BaseException) -> bool:
    """Tell whether nothing listens at an address, or nobody has that name."""
    return any(
        isinstance(cause, ConnectionRefusedError)
        or (isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME)
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and what is behind it: urllib3 chains some causes and keeps others as args."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        behind = (current.__cause__, current.__context__, *current.args)
        pending.extend(item for item in behind if isinstance(item, BaseException))


def _certificate_fault(error: BaseException) -> _Fault | None:
    """Return why a certificate was refused here, or None if that is not the matter."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            words = readable(cause.verify_message or "verification failed").rstrip(".")
            return _Fault(words, _certificate_hint(cause.verify_code))
    return None


def _certificate_hint(code: int) -> str:
    if code in _OTHER_NAME:
        return _NAME_HINT
    if code in (_EXPIRED, _NOT_YET_VALID):
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        return f"This machine's clock says {now}; if that is right, have the certificate renewed"
    return _CA_HINT
