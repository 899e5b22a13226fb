"""Proxies: which of them leads to an address, and which account it wants.

The rules of this file:

1. Loopback and link-local addresses are never proxied: the proxy's are another machine's, and
   cloud machines have their metadata service there.
2. The proxy of an agent goes before those of `HTTP_PROXY` and `HTTPS_PROXY`; either spelling of
   these counts, the lower-case one first, as in curl and Go.
3. `NO_PROXY` holds for all of them; the patterns of an agent hold for the agent's own.
4. No text made here holds the user or password of a proxy.

Pure: settings in, decisions out. RFC 9110 section 11.7 (proxy authentication), RFC 3986 section
3.2.1 (user information); `NO_PROXY` as curl reads names and Go reads networks.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from signimage.errors import InputError
from signimage.response import Credentials, is_loopback, origin, readable

AGENT_SETTING = "Agent.ProxyUrl"
NO_PROXY = "NO_PROXY"

# Characters: scheme, a name of at most 253 and a port. Nothing longer is asked of a pattern, as
# the time that one takes may grow with a high power of the length.
MATCHED_MAX = 280
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"(\[[^]]*\]|[^:\[\]]*):([0-9]+)")


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy as somebody configured it; `setting` names where.

    `text` is `[http[s]://][user[:password]@]host[:port]`; `account` stands for the user
    information in it, where both are given.
    """

    text: str = field(repr=False)
    setting: str
    account: Credentials | None = None

    @property
    def address(self) -> str:
        """Scheme, host and port, without any account: fit for texts, and for connecting.

        Raises:
            InputError: It is no http or https address.
        """
        scheme, rest = self._parts()
        bare = rest.rpartition("@")[2].rstrip("/")
        address = readable(f"{scheme}://{bare}")
        try:
            parts = urlsplit(address)
            usable = scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        else:
            usable = usable and not re.search(r"[^\x21-\x7e]|[/?#]", bare)
        if not usable:
            # Not even a part is shown: what is no address may have its password anywhere.
            raise InputError(
                f"proxy of {self.setting}: expected http(s)://[user:password@]host:port, "
                "got something else",
                hint="Percent-encode what an address cannot hold in user name and password",
            )
        return address

    @property
    def credentials(self) -> Credentials | None:
        """The account to use at the proxy; percent-encoding is undone in user information."""
        login = self._parts()[1].rpartition("@")[0]
        if self.account or not login:
            return self.account
        user, _, password = login.partition(":")
        return Credentials(unquote(user), unquote(password))

    def _parts(self) -> tuple[str, str]:
        # A password may hold what no URL allows there, so the last @ decides, not a parser.
        scheme, found, rest = self.text.partition("://")
        return (scheme.lower(), rest) if found else ("http", self.text)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies for http and https addresses, and who goes without.

    `excluded` are entries of `NO_PROXY`: hosts and domains, with or without a port, networks,
    or `*`. `bypassed` are patterns that are searched in `scheme://host[:port]`, with and without
    a final slash; they hold for the proxy of an agent.
    """

    http: Proxy | None = None
    https: Proxy | None = None
    excluded: tuple[str, ...] = ()
    bypassed: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> "Proxies":
        """Read `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`."""

        def proxy(name: str) -> Proxy | None:
            text = _either(environ, name)
            return Proxy(text, name) if text else None

        entries = re.split(r"[,\s]+", _either(environ, NO_PROXY).lower())
        return cls(
            http=proxy("HTTP_PROXY"),
            https=proxy("HTTPS_PROXY"),
            excluded=tuple(entry for entry in entries if entry),
        )

    def for_url(self, url: str) -> Proxy | None:
        """Return the proxy for *url*, an http or https address, or None to go directly."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        if proxy is None or _is_near(host):
            return None
        if any(_excludes(entry, host, port) for entry in self.excluded):
            return None
        if proxy.setting == AGENT_SETTING and self._is_bypassed(origin(url)):
            return None
        return proxy

    def _is_bypassed(self, address: str) -> bool:
        if len(address) > MATCHED_MAX:
            return False
        return any(
            pattern.search(address) or pattern.search(f"{address}/") for pattern in self.bypassed
        )


def _either(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name.lower()) or environ.get(name) or "").strip()


def _is_near(host: str) -> bool:
    """Tell whether *host* can only be reached from this machine itself."""
    try:
        return is_loopback(host) or ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False


def _excludes(entry: str, host: str, port: int) -> bool:
    """Tell whether one entry of `NO_PROXY`, in lower case, covers *host* at *port*."""
    pair = _HOST_AND_PORT.fullmatch(entry)
    name, wanted = pair.groups() if pair else (entry, "")
    if wanted and int(wanted) != port:
        return False
    if name == "*":
        return True
    try:
        network = ipaddress.ip_network(name.strip("[]"), strict=False)
    except ValueError:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:  # a name: what it stands for is looked up by nobody here
        return False
