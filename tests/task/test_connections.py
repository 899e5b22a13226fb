"""Every kind of service connection: the whole step, and each request that it makes on its way.

The registry and the trust server are real and check tokens themselves; what is signed is judged
by Docker's and Notary's own programs. A request that is not the documented one fails the test.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

import pytest

from task.agent import Endpoint, StepResult
from task.cloud import connections
from task.cloud.acr import ACR_IMAGE_SIGNER, ACR_PUSH
from task.cloud.entra import Identity
from task.cloud.job import CloudJob, CloudOwner
from task.cloud.server import Hop, Reply, Request
from task.cloud.subscription import REGISTRY, Cloud
from task.pipeline import SIGNER, Job, Owner, SigningKey

_SUBJECT = "sc://company/Some Project/images"
# Azure Resource Manager under its two names: for machines, and as connections have it.
_ARM_OF_MACHINES = "https://management.core.windows.net/"
_ARM = "https://management.azure.com/"
_LOGIN = (Hop.OIDC, Hop.IMDS, Hop.ENTRA, Hop.EXCHANGE)
# What is different at each run, and secret in part.
_VARYING = ("access_token", "client_assertion")


@pytest.fixture
def identity(cloud: Cloud) -> Identity:
    """Somebody who may push images and sign them."""
    return cloud.application(ACR_PUSH | ACR_IMAGE_SIGNER, _SUBJECT)


def _service_principal(cloud: Cloud, identity: Identity, login_server: str = REGISTRY) -> Endpoint:
    return connections.service_principal(login_server, cloud.entra.tenant, identity)


def _managed_identity(cloud: Cloud, identity: Identity) -> Endpoint:
    cloud.imds.identity = identity
    return connections.managed_identity(REGISTRY, cloud.entra.tenant)


def _workload_identity(cloud: Cloud, identity: Identity) -> Endpoint:
    connection = connections.workload_identity(REGISTRY, cloud.entra.tenant, identity)
    cloud.oidc.connections[connection.id] = identity
    return connection


def _sign(job: CloudJob, owner: CloudOwner, key: SigningKey, **inputs: str) -> StepResult:
    """Run the whole step on a fresh repository, and let the judges look."""
    owner.initialise(job.gun, {SIGNER: key.public})
    result = job.run(job.step(key, **inputs))
    _check_signed(job, owner, result)
    return result


def _check_signed(job: Job, owner: Owner, result: StepResult) -> None:
    assert (result.result, result.errors) == ("Succeeded", []), "\n".join(result.log)
    digest = job.outputs(result)["digest"]
    assert job.pushed() == {"1.0": digest}
    assert owner.inspected(job.gun) == {"1.0": (digest, [SIGNER])}
    assert owner.listed(job.gun, "targets/releases") == {"1.0": digest}
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())


def _told(requests: Iterable[Request]) -> list[tuple[str, dict[str, str]]]:
    """Return method, host and path, and the fields of query and form, of each request.

    Registry and trust server are asked side by side, so their tokens come by name.
    """
    told = [
        (request.line(), {k: v for k, v in _fields(request) if k not in _VARYING})
        for request in requests
    ]
    same = (list(group) for _, group in groupby(told, key=itemgetter(0)))
    return [each for group in same for each in sorted(group, key=_scope)]


def _scope(told: tuple[str, dict[str, str]]) -> str:
    return told[1].get("scope", "") if told[0].startswith("GET") else ""


def _fields(request: Request) -> list[tuple[str, str]]:
    is_form = "form" in request.headers.get("content-type", "")
    return [*request.query, *(request.form if is_form else ())]


def _scoped(job: CloudJob) -> list[tuple[str, dict[str, str]]]:
    """What is asked for access to the image, and for access to its trust data."""
    names = sorted((job.path, job.gun))
    return [
        (
            f"GET {REGISTRY}/oauth2/token",
            {"service": REGISTRY, "scope": f"repository:{name}:pull,push"},
        )
        for name in names
    ]


def _exchange(cloud: Cloud) -> tuple[str, dict[str, str]]:
    fields = {"grant_type": "access_token", "service": REGISTRY, "tenant": cloud.entra.tenant}
    return f"POST {REGISTRY}/oauth2/exchange", fields


def _id_token(job: CloudJob, connection: Endpoint) -> tuple[str, dict[str, str]]:
    address = job.cloud.oidc.uri.removeprefix("http://")
    return f"POST {address}", {"api-version": "7.1", "serviceConnectionId": connection.id}


def _access_token(
    cloud: Cloud, identity: Identity, resource: str = _ARM
) -> tuple[str, dict[str, str]]:
    return f"POST login.microsoftonline.com/{cloud.entra.tenant}/oauth2/v2.0/token", {
        "grant_type": "client_credentials",
        "client_id": identity.client_id,
        "scope": f"{resource}/.default",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }


# --- Azure Container Registry --------------------------------------------------------------------


def test_a_service_principals_secret_goes_to_the_registry_alone(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    """There is nothing to exchange: the registry's token service knows applications."""
    cloud = cloud_job.cloud
    cloud_job.agent.variables["System.Debug"] = "true"
    cloud_job.log_in(_service_principal(cloud, identity))
    _sign(cloud_job, cloud_owner, key)
    assert _told(cloud.ledger.ours(*_LOGIN, Hop.TOKEN)) == _scoped(cloud_job)
    assert set(cloud.gateway.tunnels) == {f"{REGISTRY}:443"}


def test_a_managed_identity_is_asked_for_on_the_machine_and_never_through_a_proxy(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    cloud = cloud_job.cloud
    cloud_job.agent.variables["System.Debug"] = "true"
    cloud_job.log_in(_managed_identity(cloud, identity))
    result = _sign(cloud_job, cloud_owner, key)
    machine = f"GET 127.0.0.1:{cloud.imds_port}/metadata/identity/oauth2/token"
    assert _told(cloud.ledger.ours(*_LOGIN, Hop.TOKEN)) == [
        (machine, {"api-version": "2018-02-01", "resource": _ARM_OF_MACHINES}),
        _exchange(cloud),
        *_scoped(cloud_job),
    ]
    assert set(cloud.gateway.tunnels) == {f"{REGISTRY}:443"}
    assert set(result.secrets) >= {*cloud.entra.grants, *cloud.acr.refresh_tokens}


def test_a_workload_identity_is_a_token_of_the_job_then_of_entra_then_of_the_registry(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    cloud = cloud_job.cloud
    cloud_job.agent.variables["System.Debug"] = "true"
    connection = _workload_identity(cloud, identity)
    cloud_job.log_in(connection)
    result = _sign(cloud_job, cloud_owner, key)
    assert _told(cloud.ledger.ours(*_LOGIN, Hop.TOKEN)) == [
        _id_token(cloud_job, connection),
        _access_token(cloud, identity),
        _exchange(cloud),
        *_scoped(cloud_job),
    ]
    assert set(cloud.gateway.tunnels) == {f"{REGISTRY}:443", "login.microsoftonline.com:443"}
    tokens = {*cloud.entra.assertions, *cloud.entra.grants, *cloud.acr.refresh_tokens}
    assert set(result.secrets) >= tokens


def test_an_old_connection_whose_login_server_is_json(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    registry_id = "/subscriptions/x/resourceGroups/y/providers/z/registries/myreg"
    login_server = f'{{"loginServer":"https://MyReg.azurecr.io/","id":"{registry_id}"}}'
    cloud_job.log_in(_service_principal(cloud_job.cloud, identity, login_server))
    _sign(cloud_job, cloud_owner, key)


def test_a_registry_that_takes_no_tokens_for_azure_resource_manager(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    """It is offered one for registries, after it has refused the usual one."""
    cloud = cloud_job.cloud
    cloud.acr.accepts_arm = False
    connection = _workload_identity(cloud, identity)
    cloud_job.log_in(connection)
    _sign(cloud_job, cloud_owner, key)
    assert _told(cloud.ledger.ours(*_LOGIN)) == [
        _id_token(cloud_job, connection),
        _access_token(cloud, identity),
        _exchange(cloud),
        _id_token(cloud_job, connection),
        _access_token(cloud, identity, "https://containerregistry.azure.net"),
        _exchange(cloud),
    ]


def test_a_login_that_expires_during_a_long_build_is_renewed_before_the_push(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    """Docker gets the new one, too: the registry refuses the old one by then."""
    cloud = cloud_job.cloud
    cloud.acr.refresh_lifetime_s = 3

    def begins(line: str) -> bool:
        if "Step 1/" in line:
            cloud.acr.revoke()
        return False

    # Until then, half of its time has passed for every login that was used for the preflight.
    cloud_job.sources('RUN ["busybox", "sleep", "2"]')
    cloud_job.log_in(_workload_identity(cloud, identity))
    cloud_owner.initialise(cloud_job.gun, {SIGNER: key.public})
    result = cloud_job.run(replace(cloud_job.step(key), cancel_when=begins))
    _check_signed(cloud_job, cloud_owner, result)


def test_every_hop_may_be_busy_once(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    cloud = cloud_job.cloud
    cloud_job.log_in(_workload_identity(cloud, identity))
    cloud_owner.initialise(cloud_job.gun, {SIGNER: key.public})
    busy = [Reply(503), Reply(429, headers={"Retry-After": "1"}), Reply(is_cut=True)]
    for number, hop in enumerate((Hop.OIDC, Hop.ENTRA, Hop.EXCHANGE, Hop.TOKEN, Hop.TRUST)):
        cloud.ledger.fail(hop, busy[number % len(busy)], times=1)
    _check_signed(cloud_job, cloud_owner, cloud_job.run(cloud_job.step(key)))
    assert len(cloud.ledger.ours(*_LOGIN)) == 6


def test_a_proxy_that_wants_an_account_gets_it_and_nobody_sees_it(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    cloud = cloud_job.cloud
    password = "proxy pass:%;]\"'\\ wörd"
    cloud.gateway.account = f"agent:{password}"
    cloud_job.agent.variables |= {"Agent.ProxyUsername": "agent", "System.Debug": "true"}
    cloud_job.agent.secret_variables["Agent.ProxyPassword"] = password
    cloud_job.log_in(_service_principal(cloud, identity))
    _sign(cloud_job, cloud_owner, key)


def test_an_agent_that_verifies_no_certificates_is_followed_with_a_warning(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey, identity: Identity
) -> None:
    del cloud_job.agent.variables["Agent.CAInfo"]
    cloud_job.agent.variables["Agent.SkipCertValidation"] = "True"
    cloud_job.log_in(_service_principal(cloud_job.cloud, identity))
    result = _sign(cloud_job, cloud_owner, key)
    assert [text for text in result.warnings if "verify no TLS certificates" in text]


# --- other registries ----------------------------------------------------------------------------


@pytest.mark.parametrize("address", [REGISTRY, f"https://{REGISTRY}/v2/"])
def test_a_registry_by_user_name_and_password(
    cloud_job: CloudJob,
    cloud_owner: CloudOwner,
    key: SigningKey,
    identity: Identity,
    address: str,
) -> None:
    """With and without a scheme; a token service then wants Basic authorization."""
    cloud = cloud_job.cloud
    cloud_job.log_in(connections.others(address, identity.client_id, identity.secret))
    _sign(cloud_job, cloud_owner, key)
    assert _told(cloud.ledger.ours(*_LOGIN, Hop.TOKEN)) == _scoped(cloud_job)


@pytest.mark.parametrize("spell", ["{}", "http://{}/"])
def test_a_registry_with_a_port_by_user_name_and_password(
    signable: Job, owner: Owner, key: SigningKey, spell: str
) -> None:
    """With and without a slash at the end; this registry has no token service."""
    connection = signable.account(registry=spell.format(signable.stack.registry))
    result = signable.run(signable.step(key, containerRegistry=connection.id))
    _check_signed(signable, owner, result)


def test_docker_hub_is_asked_at_its_own_address(cloud_job: CloudJob, key: SigningKey) -> None:
    """There is no Docker Hub here, so the way ends at the proxy."""
    cloud = cloud_job.cloud
    cloud_job.log_in(connections.docker_hub("somebody", "a password of Docker Hub"))
    cloud.ledger.fail(Hop.PROXY, Reply(403))
    result = cloud_job.run(cloud_job.step(key))
    assert result.result == "Failed"
    assert "registry https://registry-1.docker.io" in result.message
    asked = {"registry-1.docker.io:443", "notary.docker.io:443"}  # side by side
    assert {"registry-1.docker.io:443"} <= set(cloud.gateway.asked) <= asked
