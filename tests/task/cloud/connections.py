"""Service connections to a container registry as Azure DevOps sends them with a job.

Each has the parameters and data of the real ones: those that its creation form makes, and those
that the server adds when a job starts.
"""

import uuid
from collections.abc import Mapping

from task.agent import Endpoint
from task.cloud.entra import Identity

_SUBSCRIPTION = "5c0f6f0e-2f5c-4a8b-9c57-5a1c2f6f5b10"
_GROUP = f"/subscriptions/{_SUBSCRIPTION}/resourceGroups/images"


def others(registry: str, username: str, password: str) -> Endpoint:
    """Return a connection of the type "Others"."""
    return Endpoint.registry(registry, username, password)


def docker_hub(username: str, password: str) -> Endpoint:
    """Return a connection of the type "Docker Hub"."""
    parameters = {
        "registry": "https://index.docker.io/v1/",
        "username": username,
        "password": password,
        "email": "somebody@example.invalid",
    }
    url, data = "https://hub.docker.com/", {"registrytype": "DockerHub"}
    return Endpoint(str(uuid.uuid4()), url, "UsernamePassword", parameters, data)


def service_principal(login_server: str, tenant: str, identity: Identity) -> Endpoint:
    """Return a connection to Azure Container Registry by an application's secret."""
    parameters = {
        "serviceprincipalid": identity.client_id,
        "serviceprincipalkey": identity.secret,
        "authenticationType": "spnKey",
    }
    return _acr("ServicePrincipal", login_server, tenant, parameters)


def managed_identity(login_server: str, tenant: str) -> Endpoint:
    """Return a connection to Azure Container Registry by the identity of the agent's machine."""
    return _acr("ManagedServiceIdentity", login_server, tenant, {})


def workload_identity(login_server: str, tenant: str, identity: Identity) -> Endpoint:
    """Return a connection to Azure Container Registry by a federated credential."""
    parameters = {
        "serviceprincipalid": identity.client_id,
        "workloadIdentityFederationIssuer": identity.issuer,
        "workloadIdentityFederationSubject": identity.subject,
    }
    return _acr("WorkloadIdentityFederation", login_server, tenant, parameters)


def _acr(scheme: str, login_server: str, tenant: str, parameters: Mapping[str, str]) -> Endpoint:
    registry_id = f"{_GROUP}/providers/Microsoft.ContainerRegistry/registries/myreg"
    complete = {
        "loginServer": login_server,
        "tenantId": tenant,
        "role": "8311e382-0749-4cb8-b61a-304f252e45ec",
        "scope": registry_id,
        **parameters,
    }
    data = {
        "registrytype": "ACR",
        "registryId": registry_id,
        "subscriptionId": _SUBSCRIPTION,
        "subscriptionName": "Company",
        "creationMode": "Automatic",
        "appObjectId": "",
        "spnObjectId": "",
        "azureSpnPermissions": "",
        "azureSpnRoleAssignmentId": "",
    }
    url = "https://management.azure.com/"
    return Endpoint(str(uuid.uuid4()), url, scheme, complete, data)
