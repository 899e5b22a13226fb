"""Microsoft Entra ID: how the identity behind a service connection becomes an access token.

The rules of this file:

1. The ID token of a job goes only to an authority on the list below, over https.
2. The managed identity of a machine is asked for on that machine: at the link-local address, or
   at loopback where somebody provides a stand-in. What is sent there is no secret.
3. A refusal names who refused, Entra's own code and first sentence, and what to do about it.
   The rest of what Entra says (trace IDs, times) changes with every run.

Protocols: RFC 7523, section 2.2 (client assertions); Microsoft identity platform, "client
credentials flow, federated credential"; Azure Instance Metadata Service, "managed identity".
"""

import http.client
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import SplitResult, urlencode, urlsplit

from signimage.errors import InputError, RemoteError, UnreachableError
from signimage.response import Response, is_loopback, readable
from signimage.tokenservice import Question, TokenServices, claims, refused

METADATA_HOST = "http://169.254.169.254"
METADATA_S = 15.0  # it is on the machine itself, but may be busy with a first token for seconds
CONNECTION = "registry service connection"

_ENTRA = "Microsoft Entra ID"
_METADATA = "managed identity service"
_DEVOPS = "Azure DevOps"
_METADATA_VERSION = "2018-02-01"
_ID_TOKEN_VERSION = "7.1"  # noqa: S105 -- of an interface
# It answers 404 and 410 while it is being updated; the transport repeats the other busy ones.
_METADATA_AGAIN = frozenset({404, 410, 500})
_METADATA_HINT = (
    "This agent must be an Azure virtual machine with a managed identity; for agents elsewhere, "
    "Microsoft's own included, use a service connection with workload identity federation"
)
_OIDC_HINT = "Authorize the pipeline to use the service connection, and run the job again"

_GUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_LABEL = r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_TENANT = re.compile(rf"{_GUID}|(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})+")
_AADSTS = re.compile(r"(AADSTS([0-9]{3,9})):(.*)", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[\r\n]|\s(?=Trace ID:|Correlation ID:|Timestamp:)")

# Azure in public; US Government; China, two names; Germany, until 2021; the closed US clouds;
# and the old names of the first, which connections of many years still hold.
AUTHORITIES = frozenset(
    {
        "login.microsoftonline.com",
        "login.microsoftonline.us",
        "login.chinacloudapi.cn",
        "login.partner.microsoftonline.cn",
        "login.microsoftonline.de",
        "login.microsoftonline.eaglex.ic.gov",
        "login.microsoftonline.microsoft.scloud",
        "login.microsoft.com",
        "login.windows.net",
    }
)


@dataclass(frozen=True, slots=True)
class Cloud:
    """One of the clouds of Azure: who issues tokens there, and for whom Azure itself takes them."""

    authority: str  # a host of AUTHORITIES
    audience: str  # of Azure Resource Manager
    # Of Azure Container Registry, for registries that take no tokens for the other.
    registry_audience: str = "https://containerregistry.azure.net"


class Identity(Protocol):
    """Somebody whom Microsoft Entra ID knows."""

    @property
    def tenant(self) -> str:
        """Tenant ID or domain; "" where it is not known."""

    @property
    def audience(self) -> str:
        """The audience of Azure Resource Manager in the cloud of this identity."""

    def access_token(self, services: TokenServices, audience: str) -> str:
        """Fetch an access token for *audience*.

        Raises:
            RemoteError: There is none to be had; the sentence names who said so, and why.
            FormatError: An answer is no token.
        """


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """The identity that Azure has assigned to the machine of the agent."""

    tenant: str
    audience: str
    host: str = METADATA_HOST  # scheme, host and port, see `metadata_host`

    def access_token(self, services: TokenServices, audience: str) -> str:
        """Fetch an access token from the instance metadata service."""
        query = urlencode({"api-version": _METADATA_VERSION, "resource": audience})
        question = Question(
            _METADATA,
            "GET",
            f"{self.host}/metadata/identity/oauth2/token?{query}",
            {"Metadata": "true", "Accept": "application/json"},
            again=_METADATA_AGAIN,
            deadline_s=METADATA_S,
        )
        try:
            response = services.ask(question)
        except UnreachableError as error:
            raise type(error)(str(error), hint=_METADATA_HINT) from error
        if response.status != http.client.OK:
            raise _no_managed_identity(response)
        return services.token(response, "access_token", "token of the managed identity")


@dataclass(frozen=True, slots=True)
class IdTokenRequest:
    """Where a job gets the token that says which service connection it may use."""

    url: str  # without a query
    connection_id: str
    job_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FederatedIdentity:
    """An application that trusts the ID tokens of a service connection."""

    tenant: str
    client_id: str
    authority: str  # a host of AUTHORITIES
    audience: str
    id_token: IdTokenRequest

    def access_token(self, services: TokenServices, audience: str) -> str:
        """Fetch an ID token of this job, and exchange it for an access token."""
        id_token = _id_token(services, self.id_token)
        response = services.ask(
            Question.form(
                _ENTRA,
                f"https://{self.authority}/{self.tenant}/oauth2/v2.0/token",
                {
                    "grant_type": "client_credentials",
                    "client_id": self.client_id,
                    "scope": f"{audience}/.default",
                    "client_assertion_type": (
                        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
                    ),
                    "client_assertion": id_token,
                },
            )
        )
        if response.status != http.client.OK:
            raise entra_refusal(response, self, claims(id_token))
        return services.token(response, "access_token", f"token of {_ENTRA}")


# --- what a person or the agent gave ---------------------------------------------------------


def check_authority(text: str) -> str:
    """Return the host of the authority *text*, such as `https://login.microsoftonline.com/`.

    Raises:
        InputError: It is none of Microsoft's.
    """
    parts = _split(text.strip())
    host = parts.hostname or ""
    bare = parts.netloc.lower() == host and parts.path in ("", "/")
    if parts.scheme != "https" or not bare or parts.query or host not in AUTHORITIES:
        raise InputError(
            f"{CONNECTION}: expected an authority of Microsoft Entra ID such as "
            f"https://login.microsoftonline.com/, got {readable(text.rpartition('@')[2])!r}",
            hint="Known authorities: " + ", ".join(sorted(AUTHORITIES)),
        )
    return host


def check_tenant(text: str) -> str:
    """Return the tenant *text*, which becomes part of an address: an ID or a domain.

    Raises:
        InputError: It is neither.
    """
    tenant = text.strip()
    if not _TENANT.fullmatch(tenant):
        raise InputError(f"{CONNECTION}: expected a tenant ID, got {readable(tenant)!r}")
    return tenant


def metadata_host(override: str) -> str:
    """Return where to ask for managed identities: Azure's address, or *override* if not empty.

    Raises:
        InputError: The override is neither on this machine nor the link-local address.
    """
    text = override.strip().rstrip("/")
    if not text:
        return METADATA_HOST
    parts = _split(text)
    host = parts.hostname or ""
    own = is_loopback(host) or f"http://{host}" == METADATA_HOST
    bare = not set("@\\") & set(parts.netloc)
    if parts.scheme != "http" or not bare or not own or parts.path or parts.query:
        raise InputError(
            f"AZURE_POD_IDENTITY_AUTHORITY_HOST: expected {METADATA_HOST}, or http:// with a "
            f"loopback address, got {readable(text.rpartition('@')[2])!r}"
        )
    return f"http://{parts.netloc}"


def _split(text: str) -> SplitResult:
    """Split *text*, or nothing if it is no URL at all."""
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.port != 0:  # looked at here: it is parsed, and refused, on access
            return parts
    return urlsplit("")


# --- hop 1 of federation: the job's ID token -------------------------------------------------


def _id_token(services: TokenServices, request: IdTokenRequest) -> str:
    query = urlencode(
        {"api-version": _ID_TOKEN_VERSION, "serviceConnectionId": request.connection_id}
    )
    question = Question(
        _DEVOPS,
        "POST",
        f"{request.url}?{query}",
        {
            "Accept": "application/json",
            "Authorization": f"Bearer {request.job_token}",
            "Content-Type": "application/json",
            "X-TFS-FedAuthRedirect": "Suppress",
        },
        body=b"",
    )
    response = services.ask(question)
    if response.status != http.client.OK:
        deed = "gives this job no ID token for the service connection"
        raise refused(response, _DEVOPS, deed, hint=_OIDC_HINT)
    return services.token(response, "oidcToken", "ID token")


# --- refusals --------------------------------------------------------------------------------

_FEDERATED_HINT = (
    "Add a federated credential with exactly {claims} to the application {client_id}. Where the "
    "log masks them, the service connection's page in the project settings shows them"
)
# By the number of Entra's code; "{…}" is filled in.
_REMEDIES: Mapping[int, str] = {
    70021: _FEDERATED_HINT,
    700211: _FEDERATED_HINT,
    700212: _FEDERATED_HINT,
    700213: _FEDERATED_HINT,
    700223: _FEDERATED_HINT,
    700024: "The job's ID token was out of its time when it arrived: run the job again, and check "
    "the clocks of Azure DevOps Server and of proxies if it stays",
    700016: "Check the service principal ID and the tenant ID of the service connection: the "
    "application {client_id} was deleted, or is in another tenant",
    7000229: "The application {client_id} has no service principal in the tenant: create one",
    7000112: "The application {client_id} is disabled: enable it",
    7000215: "Enter the value of a client secret, not its ID, into the service connection",
    7000222: "The client secret has expired: create another one for the application {client_id} "
    "and enter it into the service connection, or convert that to workload identity federation",
    90002: "Check the tenant ID {tenant} of the service connection, and that {authority} is the "
    "authority of its cloud",
    900023: "Check the tenant ID {tenant} of the service connection",
    53003: "Exempt the application {client_id} from the conditional access policy that blocks it",
    500011: "Check that the service connection, its registry and its authority belong to one cloud",
    50001: "Check that the service connection, its registry and its authority belong to one cloud",
}
_OTHER_REMEDY = "Look the code up in Microsoft's list of Entra error codes"


def entra_refusal(
    response: Response, identity: FederatedIdentity, known: Mapping[str, object]
) -> RemoteError:
    """Return the error for an answer of Microsoft Entra ID that is no token.

    Args:
        response: The answer.
        identity: Who asked.
        known: The claims of the ID token that was presented; they are no secrets.
    """
    number, said = _said_by_entra(response)
    template = _REMEDIES.get(number, _OTHER_REMEDY if number else "Check the service connection")
    shown = (("issuer", "iss"), ("subject", "sub"), ("audience", "aud"))
    texts = [f"{name} {readable(str(known[key]))}" for name, key in shown if key in known]
    hint = template.format(
        claims=", ".join(texts) or "the issuer, subject and audience that Entra names",
        client_id=readable(identity.client_id),
        tenant=identity.tenant,
        authority=identity.authority,
    )
    deed = "does not accept the service connection"
    return refused(response, _ENTRA, deed, said=said, hint=hint)


def _said_by_entra(response: Response) -> tuple[int, str]:
    """Return the number of Entra's code, 0 if there is none, and code and first sentence."""
    with suppress(ValueError, RecursionError):
        document = json.loads(response.body)
        said = document.get("error_description") if isinstance(document, dict) else None
        found = _AADSTS.search(said) if isinstance(said, str) else None
        if found:
            sentence = _SENTENCE_END.split(found[3], maxsplit=1)[0].strip()
            return int(found[2]), readable(f"{found[1]}: {sentence}" if sentence else found[1])
    return 0, ""


def _no_managed_identity(response: Response) -> RemoteError:
    deed = "gives this machine no token"
    hint = _METADATA_HINT
    if b"multiple user assigned" in response.body.lower():
        hint = (
            "The machine has several user-assigned identities, and a service connection cannot "
            "name one: leave one, or give the machine a system-assigned identity"
        )
    elif response.status in (http.client.BAD_REQUEST, http.client.FORBIDDEN):
        hint = f"Assign a managed identity to this machine. {_METADATA_HINT}"
    return refused(response, _METADATA, deed, hint=hint)
