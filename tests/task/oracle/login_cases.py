"""Service connections of every kind, as a server sends them with a job, and one secure file.

Each differs from a plain one in one thing, and has the name of that. What belongs into which
field is what the portal, Terraform and releases of many years ago have written there.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from http import HTTPStatus

from task.agent import Endpoint
from task.oracle.recording import COLLECTION, TENANT

CLIENT = "7d1c8f0a-41a1-4a0e-9c88-3f6d2b9e5c71"
_SECRET = "s3cret&+ %/="
_PRINCIPAL, _MANAGED = "ServicePrincipal", "ManagedServiceIdentity"
_FEDERATED = "WorkloadIdentityFederation"
_PORTAL = "https://management.azure.com/"
_CLASSIC = "https://management.core.windows.net/"
_CHINA = "https://management.chinacloudapi.cn/"
_GOVERNMENT = "https://management.usgovcloudapi.net/"
_OLD = json.dumps({"loginServer": "contoso.azurecr.io", "id": "/subscriptions/1"})
_ID_TOKEN = (
    f"{COLLECTION}6d1fbb54-0b1b-4d3c-9c62-3e6a3b8f2a55/_apis/distributedtask/hubs/build/plans/"
    "9a2b5f1e-6a5b-4c8c-a5b0-6cf1cfa3f6e2/jobs/12f1170f-54f2-53f3-20dd-22fc7dff55f9/oidctoken"
)


class Wanted(Enum):
    """What a case is about, and which library of Microsoft's is asked for it."""

    LOGIN = "a login at the registry, by docker-common and azure-arm-rest"
    ACCESS_TOKEN = "an access token for Azure, by @azure/identity"
    FILE = "the secure file, by securefiles-common"


@dataclass(frozen=True, slots=True)
class Case:
    """A step with one service connection, or with none and the secure file.

    The hop `refused[0]` answers its first request with the status `refused[1]`.
    """

    name: str
    endpoint: Endpoint | None = None
    wanted: Wanted = Wanted.LOGIN
    host_type: str = "build"
    variables: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, int] | None = None


def _password(registry: str, kind: str) -> Endpoint:
    account = {"registry": registry, "username": "me", "password": _SECRET, "email": ""}
    url = "https://hub.docker.com/"
    return Endpoint(str(uuid.uuid4()), url, "UsernamePassword", account, {"registrytype": kind})


def _azure(
    scheme: str, server: str = "contoso.azurecr.io", url: str = _PORTAL, **data: str
) -> Endpoint:
    parameters = {"loginServer": server, "tenantId": TENANT, "role": "", "scope": ""}
    if scheme != _MANAGED:
        parameters["serviceprincipalid"] = CLIENT
    if scheme not in (_MANAGED, _FEDERATED):
        parameters |= {"serviceprincipalkey": _SECRET, "authenticationType": "spnKey"}
    data = {"registrytype": "ACR", "registryId": "/subscriptions/1/registries/contoso", **data}
    return Endpoint(str(uuid.uuid4()), url, scheme, parameters, data)


def managed_identity(server: str, tenant: str) -> Endpoint:
    """Return a plain connection to *server* with a managed identity of *tenant*."""
    endpoint = _azure(_MANAGED, server)
    return replace(endpoint, parameters={**endpoint.parameters, "tenantId": tenant})


_REQUEST_URI = {"System.OidcRequestUri": _ID_TOKEN}
_PROJECT = {"System.TeamProject": "Größe & mehr + 1%"}
_BUSY, _NO = HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.UNAUTHORIZED

CASES = [
    Case("Docker Hub", _password("https://index.docker.io/v1/", "DockerHub")),
    Case("another registry", _password("https://reg.example.com/v2/", "Others")),
    Case("principal", _azure(_PRINCIPAL)),
    Case("principal, address", _azure(_PRINCIPAL, "https://contoso.azurecr.io/")),
    Case("principal, old JSON", _azure(_PRINCIPAL, _OLD)),
    Case("principal, stranger", _azure(_PRINCIPAL, "registry.example.com")),
    Case("no scheme", _azure("")),
    Case("managed", _azure(_MANAGED)),
    Case("managed, capitals", _azure(_MANAGED, "Contoso.AzureCR.io")),
    Case("managed, China", _azure(_MANAGED, "contoso.azurecr.cn", _CHINA)),
    Case("managed, stranger", _azure(_MANAGED, "registry.example.com")),
    Case("managed, service busy", _azure(_MANAGED), refused=("managed identity", _BUSY)),
    Case("managed, registry busy", _azure(_MANAGED), refused=("exchange", _BUSY)),
    Case("managed, access token", _azure(_MANAGED, url=_CLASSIC), Wanted.ACCESS_TOKEN),
    Case("federation", _azure(_FEDERATED)),
    Case("federation, request URI", _azure(_FEDERATED), variables=_REQUEST_URI),
    Case("federation, release", _azure(_FEDERATED), host_type="release"),
    Case("federation, capitals", _azure(_FEDERATED, "Contoso.AzureCR.io")),
    Case("federation, address", _azure(_FEDERATED, "https://contoso.azurecr.io/")),
    Case("federation, stranger", _azure(_FEDERATED, "registry.example.com")),
    Case(
        "federation, resource",
        _azure(_FEDERATED, activeDirectoryServiceEndpointResourceId=_CLASSIC),
    ),
    Case("federation, Terraform", _azure(_FEDERATED, url="https://contoso.azurecr.io")),
    Case(
        "federation, Government",
        _azure(
            _FEDERATED,
            "contoso.azurecr.us",
            _GOVERNMENT,
            activeDirectoryAuthority="https://login.microsoftonline.us/",
        ),
    ),
    Case(
        "federation, China",
        _azure(
            _FEDERATED,
            "contoso.azurecr.cn",
            _CHINA,
            activeDirectoryAuthority="https://login.chinacloudapi.cn/",
        ),
    ),
    Case("federation, unnamed China", _azure(_FEDERATED, "contoso.azurecr.cn", _CHINA)),
    Case("federation, DevOps busy", _azure(_FEDERATED), refused=("OIDC token", _BUSY)),
    Case("federation, no ARM tokens", _azure(_FEDERATED), refused=("exchange", _NO)),
    Case(
        "federation, access token",
        _azure(_FEDERATED, url=_CLASSIC),
        Wanted.ACCESS_TOKEN,
        variables=_REQUEST_URI,
    ),
    Case("secure file", wanted=Wanted.FILE),
    Case("secure file, project", wanted=Wanted.FILE, variables=_PROJECT),
    Case("secure file, release", wanted=Wanted.FILE, host_type="release"),
    Case("secure file, busy", wanted=Wanted.FILE, refused=("secure file", _BUSY)),
    Case("secure file, refused", wanted=Wanted.FILE, refused=("secure file", _NO)),
]
