"""Azure Container Registry: how an access token of Microsoft Entra ID becomes a registry login.

The rules of this file:

1. A host gets a token or a client secret only if it is a name below one of Azure's own suffixes:
   a service connection is what a person typed.
2. The registry is first offered a token for Azure Resource Manager, as every client does. One
   that takes none of these (`azureADAuthenticationAsArmPolicy` disabled) says 401 or 403, and is
   then offered a token for itself.
3. A login is renewed before it expires. While it is still good, a renewal that fails is no
   failure: it is tried again later.

Protocol: Azure Container Registry, "Authentication with Microsoft Entra ID", `/oauth2/exchange`.
"""

import http.client
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from signimage.entra import CONNECTION, Cloud, Identity
from signimage.errors import FormatError, InputError, RemoteError
from signimage.permissions import FIREWALL_HINT, is_firewall
from signimage.response import Credentials, Response, readable, said_by_server
from signimage.tokenservice import Question, TokenServices, lifetime_s, refused

# By the end of a registry's name. Who is not on this list gets no token.
CLOUDS = {
    ".azurecr.io": Cloud("login.microsoftonline.com", "https://management.core.windows.net/"),
    ".azurecr.us": Cloud(
        "login.microsoftonline.us",
        "https://management.core.usgovcloudapi.net/",
        "https://containerregistry.azure.us",
    ),
    ".azurecr.cn": Cloud(
        "login.chinacloudapi.cn",
        "https://management.core.chinacloudapi.cn/",
        "https://containerregistry.azure.cn",
    ),
    ".azurecr.de": Cloud(
        "login.microsoftonline.de",
        "https://management.core.cloudapi.de/",
        "https://containerregistry.azure.de",
    ),
    ".azurecr.eaglex.ic.gov": Cloud(
        "login.microsoftonline.eaglex.ic.gov", "https://management.core.eaglex.ic.gov/"
    ),
    ".azurecr.microsoft.scloud": Cloud(
        "login.microsoftonline.microsoft.scloud", "https://management.core.microsoft.scloud/"
    ),
}
TOKEN_USER = "00000000-0000-0000-0000-000000000000"  # noqa: S105 -- the name that means: a token
REFRESH_TOKEN_S = 3 * 3600.0  # as documented
EARLY_S = 300.0  # longer than any one request to a registry
RETRY_S = 30.0  # between two tries to renew what is still good

_WHAT = "registry"
_OTHER_AUDIENCE = frozenset({401, 403})
_LABEL = r"[0-9a-z](?:[0-9a-z-]*[0-9a-z])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_ROLE_HINT = (
    "Give the identity of the service connection the role AcrPush on this registry, and "
    "AcrImageSigner for signing; a new role takes some minutes. The tenant of the connection must "
    "be that of the registry"
)


def registry_host(login_server: str) -> str:
    """Return the host of a registry from what a connection has as `loginServer`.

    Understands `MyRegistry.azurecr.io`, `https://myregistry.azurecr.io/` and the JSON of old
    connections, `{"loginServer": "myregistry.azurecr.io", "id": …}`.

    Raises:
        InputError: It is no registry of Azure's.
    """
    text = login_server.strip()
    if text.startswith("{"):
        with suppress(ValueError, RecursionError):
            inner = json.loads(text).get("loginServer")
            text = inner.strip() if isinstance(inner, str) else ""
    host = text.lower().removeprefix("https://").rstrip("/")
    if not _NAME.fullmatch(host) or _suffix(host) is None:
        raise InputError(
            f"{CONNECTION}: expected a registry of Azure such as myregistry.azurecr.io, "
            f"got {readable(text.rpartition('@')[2])!r}",
            hint="For another registry use a connection of the type Others",
        )
    return host


def cloud_of(host: str) -> Cloud:
    """Return the cloud of the registry *host*, which `registry_host` has returned."""
    return CLOUDS[_suffix(host) or ".azurecr.io"]


def _suffix(host: str) -> str | None:
    return next((end for end in CLOUDS if host.endswith(end) and host != end), None)


class RegistryTokens:
    """The login of an identity at one registry, renewed as needed; a `CredentialSource`."""

    def __init__(
        self,
        services: TokenServices,
        host: str,
        identity: Identity,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services = services
        self._host = host
        self._identity = identity
        self._clock = clock
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None
        self._renew_at = self._expires_at = 0.0  # seconds of the clock

    def current(self) -> Credentials:
        """Return a login that is good for some minutes at least.

        Raises:
            RemoteError: The identity gets no token, or the registry does not accept it.
            FormatError: An answer is no token.
        """
        with self._lock:
            now = self._clock()
            if self._credentials is None or now >= self._renew_at:
                self._credentials = self._renewed(self._credentials, now)
            return self._credentials

    def _renewed(self, old: Credentials | None, now: float) -> Credentials:
        try:
            token = self._refresh_token()
        except (RemoteError, FormatError):
            if old is None or now >= self._expires_at:
                raise
            self._renew_at = min(now + RETRY_S, self._expires_at)
            return old
        life_s = lifetime_s(token, REFRESH_TOKEN_S)
        self._expires_at = now + life_s
        self._renew_at = now + max(life_s / 2, life_s - EARLY_S)
        return Credentials(TOKEN_USER, token)

    def _refresh_token(self) -> str:
        response = self._exchange(self._identity.audience)
        if response.status in _OTHER_AUDIENCE:
            refusal = self._refusal(response)
            try:
                response = self._exchange(cloud_of(self._host).registry_audience)
            except (RemoteError, FormatError) as error:
                # Not every tenant knows the other audience; the registry's own no says more.
                raise refusal from error
        if response.status != http.client.OK:
            raise self._refusal(response)
        return self._services.token(response, "refresh_token", f"login at {_WHAT}")

    def _exchange(self, audience: str) -> Response:
        access_token = self._identity.access_token(self._services, audience)
        fields = {"grant_type": "access_token", "service": self._host}
        if self._identity.tenant:
            fields["tenant"] = self._identity.tenant
        fields["access_token"] = access_token
        url = f"https://{self._host}/oauth2/exchange"
        return self._services.ask(Question.form(_WHAT, url, fields))

    def _refusal(self, response: Response) -> RemoteError:
        hint = FIREWALL_HINT if is_firewall(said_by_server(response)) else _ROLE_HINT
        deed = "does not accept the identity of the service connection"
        return refused(response, _WHAT, deed, hint=hint)
