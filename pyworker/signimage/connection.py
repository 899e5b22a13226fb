"""The way to another machine: certificates, proxies, and pools of connections.

The rules of this file:

1. TLS 1.2 or newer, always verified, loopback included; private CAs are added to the system's.
2. Loopback is never proxied, as in Docker: the proxy's loopback is another machine's.
3. What is configured and cannot be used is an `InputError` that names it, never ignored.

RFC 9112 (HTTP/1.1); the proxy variables as curl and Go read them.
"""

import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3
from urllib3 import exceptions as foreign

from signimage import __version__
from signimage.errors import InputError
from signimage.response import is_loopback, readable

BACKOFF_S = 0.5  # the first pause is at most this long, each further one twice the last
_DEFAULT_PORTS = {"http": 80, "https": 443}
_POOL_SIZE = 4  # connections kept for one origin; more threads than that never ask one server


def _nobody_looks(event: str, **values: object) -> None:
    del event, values


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """What a `Transport` needs to know of its surroundings.

    `ca_files` and `ca_pem` are added to the system's certificate authorities.
    `observe` is told of every answer, as `observe("answer", method=…, url=…, status=…, ms=…)`;
    the URL is without its query, and nothing of headers or bodies is told.
    `client_certificate` is a PEM file with the chain, `client_key` its key (or in the same file).
    Proxies are URLs, empty for none; `no_proxy` holds hosts, `.domains`, networks, or `*`.
    """

    ca_files: tuple[Path, ...] = ()
    ca_pem: tuple[str, ...] = ()
    client_certificate: Path | None = None
    client_key: Path | None = None
    http_proxy: str = field(default="", repr=False)
    https_proxy: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()
    user_agent: str = f"signimage/{__version__}"
    observe: Callable[..., object] = _nobody_looks
    backoff_s: float = BACKOFF_S

    def with_proxies(self, environ: Mapping[str, str]) -> "TransportSettings":
        """Return these settings with `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` of *environ*.

        Either spelling counts, the lower-case one first, as in curl and Go.
        """

        def read(name: str) -> str:
            return (environ.get(name) or environ.get(name.upper()) or "").strip()

        entries = tuple(entry for entry in re.split(r"[,\s]+", read("no_proxy")) if entry)
        return replace(
            self,
            http_proxy=read("http_proxy"),
            https_proxy=read("https_proxy"),
            no_proxy=entries,
        )

    def proxy_for(self, url: str) -> str:
        """Return the proxy's URL for *url*, or "" to go directly.

        Loopback is never proxied, as in Docker: the proxy's loopback is another machine's.
        """
        parts = urlsplit(url)
        proxy = self.https_proxy if parts.scheme == "https" else self.http_proxy
        host = (parts.hostname or "").rstrip(".")
        if not proxy or is_loopback(host):
            return ""
        if any(_excludes(entry.lower(), host, parts) for entry in self.no_proxy):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"


def _excludes(entry: str, host: str, parts: SplitResult) -> bool:
    """Tell whether one entry of NO_PROXY covers *host*; networks as in Go, the rest as in curl."""
    if entry == "*":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    name, _, port = entry.partition(":")
    actual = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    if port and port != str(actual):
        return False
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


class Connections:
    """Pools of kept-alive connections, one for each scheme and proxy; safe between threads."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def for_url(self, url: str) -> urllib3.PoolManager:
        """Return the pool that leads to *url*.

        Raises:
            InputError: A certificate file or the proxy's address is not usable.
        """
        key = (urlsplit(url).scheme, self._settings.proxy_for(url))
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._new_pool(*key)
            return self._pools[key]

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()

    def _new_pool(self, scheme: str, proxy: str) -> urllib3.PoolManager:
        context = None
        if scheme == "https" or proxy.startswith("https:"):
            # Reading the system's authorities takes some 35 ms: once, and only if needed.
            self._context = context = self._context or _tls_context(self._settings)
        pool = (
            _proxy_pool(proxy, context)
            if proxy
            else urllib3.PoolManager(maxsize=_POOL_SIZE, ssl_context=context)
        )
        pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        return pool


class _PlainConnection(urllib3.connection.HTTPConnection):
    """A connection whose status line and headers share one time-out, however they trickle."""

    def getresponse(  # type: ignore[override]  # urllib3 departs from http.client here
        self,
    ) -> urllib3.HTTPResponse:
        with cut_after(self.timeout, partial(_end_reading, self)):
            return super().getresponse()


class _TlsConnection(urllib3.connection.HTTPSConnection):
    """The same over TLS."""

    def getresponse(  # type: ignore[override]  # urllib3 departs from http.client here
        self,
    ) -> urllib3.HTTPResponse:
        with cut_after(self.timeout, partial(_end_reading, self)):
            return super().getresponse()


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _end_reading(connection: urllib3.connection.HTTPConnection) -> None:
    connection.sock.shutdown(socket.SHUT_RD)


@contextmanager
def cut_after(limit_s: float | None, cut: Callable[[], None]) -> Iterator[None]:
    """Run *cut* if the block takes longer; socket time-outs alone start anew at every byte."""

    def fire() -> None:
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # already closed
            cut()

    if limit_s is None:
        yield
        return
    timer = threading.Timer(limit_s, fire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tls_context(settings: TransportSettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # One set of rules whatever the Python: 3.13 began to refuse private CAs without key usage,
    # which Docker accepts; and like Docker, a given certificate is an anchor though it is no root.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for path in settings.ca_files:
        _load(f"CA certificate {path}", partial(context.load_verify_locations, cafile=path))
    for pem in settings.ca_pem:
        _load("CA certificate", partial(context.load_verify_locations, cadata=pem))
    if settings.client_certificate is not None:
        chain, key = settings.client_certificate, settings.client_key
        # An empty passphrase makes an encrypted key fail; without one OpenSSL asks the terminal.
        _load(f"client certificate {chain}", partial(context.load_cert_chain, chain, key, ""))
    return context


def _load(what: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (ssl.SSLError, ValueError, TypeError) as error:  # an SSLError is an OSError, too
        raise InputError(f"{what}: expected PEM, got something else") from error
    except OSError as error:
        raise InputError(f"{what}: cannot be read: {system_words(error)}") from error


def _proxy_pool(proxy: str, context: ssl.SSLContext | None) -> urllib3.PoolManager:
    shown_proxy = without_userinfo(proxy)
    try:
        parsed = urllib3.util.parse_url(proxy)
        if not parsed.host:
            raise foreign.LocationValueError(proxy)
        login = unquote(parsed.auth) if parsed.auth else ""
        secret = urllib3.make_headers(proxy_basic_auth=login) if login else None
        return urllib3.ProxyManager(
            shown_proxy,
            maxsize=_POOL_SIZE,
            ssl_context=context,
            proxy_ssl_context=context,
            proxy_headers=secret,
        )
    except (foreign.HTTPError, ValueError) as error:
        raise InputError(
            f"proxy {shown_proxy}: expected http(s)://[user:password@]host:port"
        ) from error


def without_userinfo(url: str) -> str:
    """Return a proxy's address as texts may show it."""
    scheme, _, rest = url.partition("://")
    return readable(f"{scheme}://{rest.rpartition('@')[2]}")


def system_words(error: OSError) -> str:
    """Return the operating system's words for *error*, fit for the middle of a sentence."""
    words = readable(error.strerror or type(error).__name__)
    return words[:1].lower() + words[1:]
