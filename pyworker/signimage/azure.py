"""What Azure Pipelines knows of a step, in the terms of containers: logins and labels.

The rules of this file:

1. A connection's address is what a person typed: it is read, never believed to be well formed.
2. A connection is one of Azure Container Registry if its data says so, whatever its address.
3. The job token goes only to the collection's own address, as the agent gave it. It may be http
   there: servers in a company's own network still are.
4. No text made here holds a token or a password.

Shapes of connections: the agent's and the in-box tasks' own. Nothing here asks a network; what a
login takes to get is described, and done by its `source`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from signimage import acr
from signimage.entra import (
    CONNECTION,
    Cloud,
    FederatedIdentity,
    Identity,
    IdTokenRequest,
    ManagedIdentity,
    check_authority,
    check_tenant,
    metadata_host,
)
from signimage.errors import InputError
from signimage.oci import normal_host
from signimage.response import Credentials, CredentialSource, Fixed, origin, readable
from signimage.tokenservice import TokenServices
from signimage.transport import Transport

# What a connection can hold, in lower case, and how texts write it.
PARAMETERS = {
    name.lower(): name
    for name in (
        "authenticationType",
        "loginServer",
        "password",
        "registry",
        "scheme",
        "servicePrincipalCertificate",
        "servicePrincipalId",
        "servicePrincipalKey",
        "tenantId",
        "username",
    )
}
DATA = ("registrytype", "activedirectoryauthority", "activedirectoryserviceendpointresourceid")
_HINT = "Check the Docker registry service connection in the project settings"
_CERTIFICATE_HINT = (
    "Use a connection with workload identity federation, which needs no secret at all, or one "
    "with a client secret"
)


@dataclass(frozen=True, slots=True)
class ServiceConnection:
    """A service connection as the agent hands it to a step.

    Names in `parameters` (secret) and `data` are in lower case, see `PARAMETERS` and `DATA`.
    """

    id: str
    scheme: str
    url: str
    parameters: Mapping[str, str] = field(repr=False)
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """The running job as Azure DevOps names it, what it may do there, and where it runs."""

    collection_uri: str
    project_id: str = ""
    hub: str = ""  # "build", "release", …
    plan_id: str = ""
    job_id: str = ""
    id_token_uri: str = ""  # System.OidcRequestUri; older agents have none
    token: str = field(default="", repr=False)
    metadata_host: str = ""  # where managed identities are asked for, if not at Azure's address


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """How to log in to a registry.

    `host` is the registry as image names spell it; `proof` is what the registry accepts itself, or
    an identity whose tokens it takes.
    """

    host: str
    proof: Credentials | Identity

    def source(self, transport: Transport, secret: Callable[[str], object]) -> CredentialSource:
        """Return where to ask for the credentials; *secret* is told of every token on the way."""
        if isinstance(self.proof, Credentials):
            return Fixed(self.proof)
        return acr.RegistryTokens(TokenServices(transport, secret), self.host, self.proof)


def registry_login(connection: ServiceConnection, job: Job) -> RegistryLogin:
    """Turn a Docker registry connection into a login; no network is asked.

    Raises:
        InputError: The connection is of a kind that is not supported, incomplete, or names a
            host that must not get what it holds.
    """
    if connection.data.get("registrytype", "").lower() != "acr":
        return _password_login(connection)
    scheme = connection.scheme or connection.parameters.get("scheme") or "ServicePrincipal"
    login = _AZURE_LOGINS.get(scheme.lower())
    if login is None:
        raise InputError(
            f"{CONNECTION}: expected authentication by a service principal, a managed identity or "
            f"workload identity federation, got {readable(scheme)}",
            hint=_HINT,
        )
    (login_server,) = _needed(connection, "loginServer")
    host = acr.registry_host(login_server)
    return RegistryLogin(host, login(connection, acr.cloud_of(host), job))


def _password_login(connection: ServiceConnection) -> RegistryLogin:
    scheme = connection.scheme or connection.parameters.get("scheme") or "UsernamePassword"
    if scheme.lower() != "usernamepassword":
        raise InputError(
            f"{CONNECTION}: expected authentication by user name and password, "
            f"got {readable(scheme)}, which is for registries of Azure only",
            hint=_HINT,
        )
    address, username, password = _needed(connection, "registry", "username", "password")
    host = registry_host(address)
    return RegistryLogin(host, Credentials(username, password))


def _needed(connection: ServiceConnection, *names: str) -> list[str]:
    values = [connection.parameters.get(name.lower(), "") for name in names]
    missing = [name for name, value in zip(names, values, strict=True) if not value.strip()]
    if missing:
        raise InputError(
            f"{CONNECTION}: expected a {' and a '.join(missing)}, got none", hint=_HINT
        )
    return values


# --- Azure Container Registry ----------------------------------------------------------------


def _service_principal(connection: ServiceConnection, cloud: Cloud, job: Job) -> Credentials:
    """The registry's own token service takes ID and secret as user name and password."""
    del cloud, job
    kind = connection.parameters.get("authenticationtype", "").lower()
    if kind == "spncertificate" or connection.parameters.get("serviceprincipalcertificate"):
        raise InputError(
            f"{CONNECTION}: expected a service principal with a client secret, got one with a "
            "certificate, which registries do not take",
            hint=_CERTIFICATE_HINT,
        )
    client_id, key = _needed(connection, "servicePrincipalId", "servicePrincipalKey")
    return Credentials(client_id.strip(), key)


def _managed_identity(connection: ServiceConnection, cloud: Cloud, job: Job) -> ManagedIdentity:
    tenant = connection.parameters.get("tenantid", "")
    return ManagedIdentity(
        check_tenant(tenant) if tenant.strip() else "",
        cloud.audience,
        metadata_host(job.metadata_host),
    )


def _federated(connection: ServiceConnection, cloud: Cloud, job: Job) -> FederatedIdentity:
    tenant, client_id = _needed(connection, "tenantId", "servicePrincipalId")
    authority = connection.data.get("activedirectoryauthority", "")
    return FederatedIdentity(
        tenant=check_tenant(tenant),
        client_id=client_id.strip(),
        authority=check_authority(authority) if authority.strip() else cloud.authority,
        audience=_audience(connection) or cloud.audience,
        id_token=IdTokenRequest(id_token_url(job), connection.id, job.token),
    )


_AZURE_LOGINS: Mapping[str, Callable[[ServiceConnection, Cloud, Job], Credentials | Identity]] = {
    "serviceprincipal": _service_principal,
    "managedserviceidentity": _managed_identity,
    "workloadidentityfederation": _federated,
}


def _audience(connection: ServiceConnection) -> str:
    """Return the audience of Azure Resource Manager as the connection gives it, or "".

    Its URL is that of Azure Resource Manager only if the portal has made it; other tools put the
    registry there.
    """
    named = connection.data.get("activedirectoryserviceendpointresourceid", "").strip()
    if named:
        return named
    with suppress(ValueError):
        if (urlsplit(connection.url).hostname or "").startswith("management."):
            return connection.url.strip()
    return ""


def id_token_url(job: Job) -> str:
    """Return where this job asks for ID tokens, without a query.

    As the agent says, if that is at the collection's own origin; else as it is on every server.
    """
    collection = job.collection_uri.strip().rstrip("/")
    with suppress(ValueError):
        given = urlsplit(job.id_token_uri.strip())
        if "@" not in given.netloc and origin(given.geturl()) == origin(collection):
            return given._replace(query="", fragment="").geturl()
    project, hub, plan, own = (
        quote(part, safe="") for part in (job.project_id, job.hub, job.plan_id, job.job_id)
    )
    return (
        f"{quote(collection, safe='/:%[]')}/{project}/_apis/distributedtask/hubs/{hub}"
        f"/plans/{plan}/jobs/{own}/oidctoken"
    )


# --- any registry ----------------------------------------------------------------------------


def registry_host(address: str) -> str:
    """Return the host (and port) of a registry from what was typed into a connection.

    Understands `https://index.docker.io/v1/`, `reg.example.com:5000`, `https://reg/v2/`,
    and `reg/team`, whose path says nothing about where the registry is.

    Raises:
        InputError: There is no host in it.
    """
    text = address.strip()
    text = text if "://" in text else f"https://{text}"
    parts = urlsplit("")
    host, port = None, None
    with suppress(ValueError):
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    usable = host and "@" not in parts.netloc and parts.scheme in ("http", "https")
    if not usable or not host or not all(ch.isalnum() or ch in ".-_:" for ch in host):
        raise InputError(
            f"{CONNECTION}: expected a registry address such as "
            f"https://registry.example.com, got {readable(address.rpartition('@')[2])!r}",
            hint=_HINT,
        )
    name = f"[{host}]" if ":" in host else host
    return normal_host(name if port is None else f"{name}:{port}")


# --- labels ----------------------------------------------------------------------------------

# As `Docker@2` names them; a release has no one repository.
_COMMON_LABELS = ("system.teamfoundationcollectionuri", "build.sourceversion")
_BUILD_LABELS = (
    "system.teamproject",
    "build.repository.name",
    "build.repository.uri",
    "build.sourcebranchname",
    "build.definitionname",
    "build.buildnumber",
    "build.builduri",
)
_RELEASE_LABELS = (
    "system.teamproject",
    "release.releaseid",
    "release.definitionname",
    "release.releaseweburl",
)


def pipeline_labels(variables: Mapping[str, str], *, add_pipeline_data: bool) -> dict[str, str]:
    """Return the labels that `Docker@2` puts on an image, by their names.

    A name is the collection's host reversed, `image`, and the variable:
    `com.azure.dev.image.build.sourceversion`. Variables that are not set have no label.

    Args:
        variables: Pipeline variables by their names, e.g. `Build.SourceVersion`, in any case.
        add_pipeline_data: Also name project, repository, branch and run.
    """
    known = {name.lower(): value for name, value in variables.items()}
    host = urlsplit(known.get("system.teamfoundationcollectionuri", "")).hostname
    if not host:
        return {}
    prefix = ".".join(reversed(host.split(".")))
    names: tuple[str, ...] = _COMMON_LABELS
    if add_pipeline_data:
        is_build = known.get("system.hosttype", "build").lower() == "build"
        names += _BUILD_LABELS if is_build else _RELEASE_LABELS
    return {f"{prefix}.image.{name}": known[name] for name in names if known.get(name)}
