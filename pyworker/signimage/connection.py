"""The way to another machine: names, addresses, proxies, handshakes, and pools of connections.

The rules of this file:

1. Every part of the way has a limit: a name what is left of the whole call, each address and
   each handshake `CONNECT_S`; however the other side trickles, and however the resolver waits.
2. What a proxy does wrong comes out as a `ProxyError`, and then nothing has reached the server.

Which certificates count: `tls`; which proxy leads where: `proxies`.
RFC 9110 section 9.3.6 (CONNECT), RFC 9112 section 3.2.2 (the absolute form).
"""

import queue
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

import urllib3
from urllib3 import exceptions as foreign
from urllib3.util.connection import allowed_gai_family, create_connection
from urllib3.util.ssltransport import SSLTransport

from signimage import __version__
from signimage.errors import InputError
from signimage.proxies import Proxies, Proxy
from signimage.tls import ClientCertificate, client_context

BACKOFF_S = 0.5  # the first pause is at most this long, each further one twice the last
CONNECT_S = 10.0  # one address; a machine that is up answers a SYN within a few seconds
_POOL_SIZE = 4  # connections kept for one origin; more threads than that never ask one server
# The words of http.client, which tells the status of a proxy's answer in no other way.
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: ([0-9]{3})\b")


def _nobody_looks(event: str, **values: object) -> None:
    del event, values


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """What a `Transport` needs to know of its surroundings.

    `ca_files` and `ca_pem` are added to the system's certificate authorities.
    `verified` is False only where an agent's administrator switched verification off; `tls` has
    the rules for that, and for the client certificate.
    `observe` is told of every answer, as `observe("answer", method=…, url=…, status=…, ms=…)`, and
    of every pause before another try, as `observe("pause", url=…, why=…, ms=…)`; the URL is without
    its query, and nothing of headers or bodies is told.
    """

    ca_files: tuple[Path, ...] = ()
    ca_pem: tuple[str, ...] = ()
    client_certificate: ClientCertificate | None = None
    verified: bool = True
    proxies: Proxies = field(default_factory=Proxies)
    user_agent: str = f"signimage/{__version__}"
    observe: Callable[..., object] = _nobody_looks
    backoff_s: float = BACKOFF_S

    def with_proxies(self, environ: Mapping[str, str]) -> "TransportSettings":
        """Return these settings with `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` of *environ*."""
        return replace(self, proxies=Proxies.of_environment(environ))


class ProxyAnswerError(OSError):
    """A proxy answered with a *status* of its own instead of leading on."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the proxy answered {status}")
        self.status = status


@final
class Connections:
    """Pools of kept-alive connections, one for each scheme and proxy; safe between threads."""

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._pools: dict[tuple[str, Proxy | None], urllib3.PoolManager] = {}
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def for_url(self, url: str) -> urllib3.PoolManager:
        """Return the pool that leads to *url*.

        Raises:
            InputError: A certificate file or the proxy's address is not usable.
        """
        key = (urlsplit(url).scheme, self._settings.proxies.for_url(url))
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._new_pool(*key)
            return self._pools[key]

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for pools in self._pools.values():
                # Forgetting them alone would leave it to the garbage collector.
                for key in pools.pools.keys():  # noqa: SIM118 -- it is no mapping that iterates
                    pools.pools[key].close()
                pools.clear()
            self._pools.clear()

    def _new_pool(self, scheme: str, proxy: Proxy | None) -> urllib3.PoolManager:
        context = None
        if scheme == "https" or (proxy and proxy.address.startswith("https:")):
            # Reading the system's authorities takes some 35 ms: once, and only if needed.
            self._context = context = self._context or self._new_context()
        pool = (
            _proxy_pool(proxy, context)
            if proxy
            else urllib3.PoolManager(maxsize=_POOL_SIZE, ssl_context=context)
        )
        pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        return pool

    def _new_context(self) -> ssl.SSLContext:
        settings = self._settings
        if not settings.verified:
            # Said once in words of ours by whoever decided it, not for every request.
            warnings.simplefilter("ignore", foreign.InsecureRequestWarning)
        return client_context(
            settings.ca_files,
            settings.ca_pem,
            settings.client_certificate,
            verified=settings.verified,
        )


def _proxy_pool(proxy: Proxy, context: ssl.SSLContext | None) -> urllib3.PoolManager:
    login = proxy.credentials
    try:
        return urllib3.ProxyManager(
            proxy.address,
            maxsize=_POOL_SIZE,
            ssl_context=context,
            proxy_ssl_context=context,
            proxy_headers={"Proxy-Authorization": login.basic()} if login else None,
        )
    except (foreign.HTTPError, ValueError) as error:
        raise InputError(
            f"proxy {proxy.address} of {proxy.setting}: expected "
            "http(s)://[user:password@]host:port"
        ) from error


# --- one connection -------------------------------------------------------------------------


class _LedThrough:
    """Remembers that a proxy led on: what goes wrong then is no longer the proxy's fault.

    urllib3 forgets it as soon as it closes the connection, and blames the proxy for a server that
    hung up on a request; to us that would mean that the request may be sent again.
    """

    _is_led_through = False

    @property
    def has_connected_to_proxy(self) -> bool:
        """As urllib3 asks, after a failure."""
        return self._is_led_through


class _PlainConnection(_LedThrough, urllib3.connection.HTTPConnection):
    """A connection whose every part ends in time."""

    def connect(self) -> None:
        """Connect, to the server or to the proxy that passes requests on."""
        self._is_led_through = False
        super().connect()
        # Connecting has a limit of its own, which must not be that of the body that follows.
        self.sock.settimeout(self.timeout)
        self._is_led_through = bool(self.proxy)

    def _new_conn(self) -> socket.socket:
        return _dialled(self, self._dns_host)

    def getresponse(  # type: ignore[override]  # urllib3 departs from http.client here
        self,
    ) -> urllib3.HTTPResponse:
        with cut_after(self.timeout, partial(_end_reading, self)):
            return super().getresponse()


class _TlsConnection(_LedThrough, urllib3.connection.HTTPSConnection):
    """The same over TLS, directly or through a proxy's tunnel."""

    _line: "_Line | None" = None

    def connect(self) -> None:
        """Connect; the handshakes and the proxy's answer share one limit."""
        self._is_led_through = False
        try:
            super().connect()
        except (OSError, HTTPException, foreign.HTTPError) as error:
            if not isinstance(error, TimeoutError) and not (self._line and self._line.is_cut):
                raise
            if isinstance(error, foreign.ProxyError):
                raise foreign.ProxyError("no tunnel in time", TimeoutError()) from error
            raise foreign.ConnectTimeoutError(self, "no handshake in time") from error
        finally:
            if self._line:
                self._line.close()
        if isinstance(self.sock, SSLTransport):
            # TLS within TLS: urllib3's own kind of socket lacks what ends a read from outside.
            vars(self.sock)["shutdown"] = self.sock.socket.shutdown

    def request(self, method: str, url: str, *content: Any, **options: Any) -> None:
        """Send; a server that hangs up meanwhile may have said why, as urllib3 knows of http."""
        with suppress(ssl.SSLEOFError):
            super().request(method, url, *content, **options)

    def _new_conn(self) -> socket.socket:
        sock = _dialled(self, self._dns_host)
        self._line = _Line(sock, min(CONNECT_S, _limit_s(self)))
        return sock

    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except OSError as error:
            found = _TUNNEL_REFUSED.search(str(error))
            cause = ProxyAnswerError(int(found[1])) if found else error
            raise foreign.ProxyError("no tunnel", cause) from error
        except HTTPException as error:
            raise foreign.ProxyError("no tunnel", error) from error
        self._is_led_through = True

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


@final
class _Line:
    """A second handle on a socket, which can end it while TLS has taken the first one away."""

    def __init__(self, sock: socket.socket, limit_s: float) -> None:
        self.is_cut = False
        self._sock = sock.dup()
        self._timer = threading.Timer(limit_s, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        """Let the connection live on without a limit from here."""
        self._timer.cancel()
        self._sock.close()

    def _cut(self) -> None:
        self.is_cut = True
        with suppress(OSError):  # already closed
            self._sock.shutdown(socket.SHUT_RDWR)


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


# --- names and addresses --------------------------------------------------------------------


def _limit_s(connection: urllib3.connection.HTTPConnection) -> float:
    """Return what `Transport` leaves for connecting, by way of urllib3's time-out."""
    return CONNECT_S if connection.timeout is None else float(connection.timeout)


def _dialled(connection: urllib3.connection.HTTPConnection, host: str) -> socket.socket:
    """Return a socket to the first address of *host* that answers, within the limit.

    urllib3 would ask the resolver for as long as that likes, and each address for the whole limit.
    """
    end = time.monotonic() + _limit_s(connection)
    try:
        found = _resolved(host, connection.port, _limit_s(connection))
    except (socket.gaierror, TimeoutError) as error:
        fault = error if isinstance(error, socket.gaierror) else socket.gaierror("no answer")
        raise foreign.NameResolutionError(host, connection, fault) from error
    except UnicodeError as error:  # a part of more than 63 characters, or none
        raise foreign.LocationValueError(host) from error
    last: OSError = TimeoutError()
    for address in found:
        left_s = end - time.monotonic()
        if left_s <= 0:
            break
        try:
            return create_connection(
                (address, connection.port),
                min(CONNECT_S, left_s),
                connection.source_address,
                connection.socket_options,
            )
        except OSError as error:
            last = error
    if isinstance(last, TimeoutError):
        raise foreign.ConnectTimeoutError(connection, "no connection in time") from last
    raise foreign.NewConnectionError(connection, "no connection") from last


def _resolved(host: str, port: int, limit_s: float) -> list[str]:
    """Return the addresses of *host*; the system's resolver knows no limit and is left behind.

    Raises:
        OSError: There is no such name (`socket.gaierror`), or no answer in time (`TimeoutError`).
        UnicodeError: It cannot be a name.
    """
    if host.rstrip(".").lower().endswith(".localhost"):
        host = "localhost"  # all of them are (RFC 6761, 6.3), whatever a name server says
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
            answers.put([str(info[4][0]) for info in found])
        except Exception as error:  # noqa: BLE001 -- carried over to the thread that waits
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=max(limit_s, 0.0))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer
