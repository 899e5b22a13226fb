"""Everything that can fail between a service connection and a signature: one lie at a time.

Each test is a step of `test_connections.py` with one thing wrong. It ends with one sentence that
names the hop, the cause and the remedy; nothing is built, pushed or signed; and no secret is to
be found, although the log is a debug log.
"""

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from peers.authority import Authority
from peers.processes import free_port
from peers.tokens import Right
from task import agent_process
from task.agent import Endpoint, StepResult
from task.cloud import connections, entra
from task.cloud.acr import ACR_IMAGE_SIGNER, ACR_PULL, ACR_PUSH, unauthorized
from task.cloud.entra import Identity, json_reply
from task.cloud.job import CloudJob, CloudOwner
from task.cloud.server import Hop, Reply
from task.cloud.subscription import REGISTRY, Cloud
from task.pipeline import SIGNER, SigningKey

_ALL = ACR_PUSH | ACR_IMAGE_SIGNER
_SUBJECT = "sc://company/Some Project/images"
_LIMIT_S = 90.0  # of a step; the product's own deadlines must have ended it long before
# With a long pause asked for there is no second try, which other tests look at.
_LATER = {"Retry-After": "3600"}
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"

_BUSY = Reply(503, _PAGE, {**_HTML, **_LATER})
_LIMITED = Reply(429, b"", _LATER)
_SIGN_IN = Reply(200, _PAGE, _HTML)
_ELSEWHERE = Reply(302, b"", {"Location": "https://elsewhere.example/token"})
_NO_TOKEN = json_reply(200, {"token_type": "Bearer"})
_HUGE = Reply(200, b'{"a":"' + b"x" * 2_000_000 + b'"}', {"Content-Type": "application/json"})
_CUT = Reply(is_cut=True)
_HALF = Reply(200, b'{"access_token":"ey', {"Content-Length": "2000"})
_FIREWALL = json_reply(
    403,
    {
        "errors": [
            {
                "code": "DENIED",
                "message": "client with IP '203.0.113.7' is not allowed access. Refer "
                "https://aka.ms/acr/firewall to grant access.",
            }
        ]
    },
)


@dataclass(frozen=True, slots=True)
class Place:
    """The job with its connection, made for one *identity* that may do everything."""

    cloud: Cloud
    job: CloudJob
    identity: Identity


Lie = Callable[[Place], object]


def _at(hop: Hop, reply: Reply) -> Lie:
    """Let one hop answer something else, always."""
    return lambda place: place.cloud.ledger.fail(hop, reply)


@pytest.fixture(autouse=True)
def bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a step that hangs, which is then an error of its test."""
    monkeypatch.setattr(agent_process, "_STEP_S", _LIMIT_S)


@pytest.fixture(scope="module")
def shared_path(cloud_owner: CloudOwner, key: SigningKey) -> str:
    """The path of a repository with trust data that no test here may change."""
    path = f"shared/{uuid.uuid4().hex[:12]}"
    cloud_owner.initialise(f"{REGISTRY}/{path}", {SIGNER: key.public})
    return path


@pytest.fixture
def place(cloud_job: CloudJob, shared_path: str) -> Iterator[Place]:
    """A job that would succeed, but for its connection, which is still to be made."""
    cloud_job.path = shared_path
    identity = cloud_job.cloud.application(_ALL, _SUBJECT)
    yield Place(cloud_job.cloud, cloud_job, identity)
    del cloud_job.cloud.entra.identities[identity.client_id]


def _service_principal(place: Place) -> Endpoint:
    return connections.service_principal(REGISTRY, place.cloud.entra.tenant, place.identity)


def _managed_identity(place: Place) -> Endpoint:
    place.cloud.imds.identity = place.identity
    return connections.managed_identity(REGISTRY, place.cloud.entra.tenant)


def _workload_identity(place: Place) -> Endpoint:
    tenant = place.cloud.entra.tenant
    connection = connections.workload_identity(REGISTRY, tenant, place.identity)
    place.cloud.oidc.connections[connection.id] = place.identity
    return connection


def _fails(place: Place, key: SigningKey, lie: Lie, sentence: str) -> StepResult:
    """Run the step with one *lie*; check that it fails with this *sentence* and changes nothing."""
    job = place.job
    job.agent.variables["System.Debug"] = "true"
    before = job.trusted()
    lie(place)
    result = job.run(job.step(key))
    _check_sentence(result, sentence)
    # What happened, what state things are in now, and what to do.
    assert re.search(r"[^ ]\. Nothing was pushed or signed\. [A-Z]", result.message)
    assert "##[group]Build" not in result.raw_lines
    assert (job.pushed(), job.trusted()) == ({}, before)
    return result


def _check_sentence(result: StepResult, sentence: str) -> None:
    message = result.message
    assert re.search(sentence, message), message
    assert (result.result, result.completes, result.errors) == ("Failed", ("Failed",), [message])
    assert message.endswith(".")
    assert not re.search(r"\n|[a-z]Error\b|Traceback|\bNone\b|<[A-Za-z.]+ object|''", message)
    assert (result.outputs, result.variables) == ({}, {})
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())


# --- workload identity federation ----------------------------------------------------------------


def _other_subject(place: Place) -> None:
    """The federated credential is for another service connection."""
    stranger = replace(place.identity, subject="sc://company/Some Project/other")
    place.cloud.entra.identities[place.identity.client_id] = stranger


def _no_application(place: Place) -> None:
    place.cloud.entra.identities[place.identity.client_id] = place.identity
    (connection,) = place.job.agent.endpoints
    parameters = {**connection.parameters, "serviceprincipalid": str(uuid.UUID(int=7))}
    place.job.agent.endpoints[:] = [replace(connection, parameters=parameters)]


def _other_tenant(place: Place) -> None:
    (connection,) = place.job.agent.endpoints
    parameters = {**connection.parameters, "tenantId": str(uuid.UUID(int=8))}
    place.job.agent.endpoints[:] = [replace(connection, parameters=parameters)]


_DEVOPS = r"^Azure DevOps http://127\.0\.0\.1:\d+ "
_ENTRA = r"^Microsoft Entra ID https://login\.microsoftonline\.com "
_REGISTRY = r"^registry https://\*\*\* "
_LATER_AGAIN = r"is not available: it answered {}\. .*Run the job again later"

_WORKLOAD_IDENTITY: dict[str, tuple[Lie, str]] = {
    "oidc-401": (_at(Hop.OIDC, Reply(401)), _DEVOPS + "gives this job no ID token .* 401.*Author"),
    "oidc-403": (
        _at(Hop.OIDC, json_reply(403, {"message": "TF400813: not authorized."})),
        _DEVOPS + r"gives this job no ID token .*403: TF400813: not authorized.*Authorize the pipe",
    ),
    "oidc-404": (
        lambda place: place.cloud.oidc.connections.clear(),
        _DEVOPS + ".*404: The service",
    ),
    "oidc-429": (_at(Hop.OIDC, _LIMITED), _DEVOPS + _LATER_AGAIN.format(429)),
    "oidc-503": (_at(Hop.OIDC, _BUSY), _DEVOPS + _LATER_AGAIN.format(503)),
    "oidc-page": (_at(Hop.OIDC, Reply(203, _PAGE, _HTML)), _DEVOPS + ".*203.*sign-in page"),
    "oidc-redirect": (_at(Hop.OIDC, _ELSEWHERE), _DEVOPS + ".*302.*sign-in page"),
    "oidc-without": (
        _at(Hop.OIDC, json_reply(200, {})),
        "ID token of http://127.*expected a token",
    ),
    "oidc-cut": (_at(Hop.OIDC, _CUT), _DEVOPS + "cannot be reached: the connection was closed"),
    "AADSTS700213": (
        _other_subject,
        _ENTRA + r"does not accept the service connection .*401: AADSTS700213: No matching "
        r"federated identity record found for presented assertion subject .*Add a federated "
        # Issuer and subject are parameters of the connection, and so the agent masks them.
        r"credential with exactly issuer \S+, subject .*, audience api://AzureADTokenExchange",
    ),
    "AADSTS700024": (
        _at(Hop.ENTRA, entra.outside_its_time()),
        _ENTRA + "does not .*AADSTS700024: Client assertion is not within.*check the clocks",
    ),
    "AADSTS7000222": (
        _at(Hop.ENTRA, entra.expired_secret("x")),
        _ENTRA + "does not .*AADSTS7000222: .*are expired.*client secret has expired: create",
    ),
    "AADSTS700016": (_no_application, _ENTRA + "does not .*AADSTS700016: .*service principal ID"),
    "AADSTS90002": (_other_tenant, _ENTRA + "does not .*AADSTS90002: .*Check the tenant ID"),
    "entra-404": (_at(Hop.ENTRA, Reply(404)), _ENTRA + "does not .*404"),
    "entra-429": (_at(Hop.ENTRA, _LIMITED), _ENTRA + _LATER_AGAIN.format(429)),
    "entra-503": (_at(Hop.ENTRA, _BUSY), _ENTRA + _LATER_AGAIN.format(503)),
    "entra-page": (_at(Hop.ENTRA, _SIGN_IN), "token of Microsoft Entra ID .*expected JSON, got"),
    "entra-redirect": (_at(Hop.ENTRA, _ELSEWHERE), _ENTRA + ".*302.*sign-in page"),
    "entra-without": (_at(Hop.ENTRA, _NO_TOKEN), "token of Microsoft Entra ID .*expected a token"),
    "entra-huge": (_at(Hop.ENTRA, _HUGE), _ENTRA[:-1] + ": expected at most"),
    "entra-cut": (_at(Hop.ENTRA, _CUT), _ENTRA + "cannot be reached: the connection was closed"),
    "entra-half": (_at(Hop.ENTRA, _HALF), _ENTRA + "cannot be reached: the answer ended before"),
    "exchange-400": (
        _at(Hop.EXCHANGE, Reply(400)),
        _REGISTRY + "does not accept the identity.*400",
    ),
    "exchange-401": (
        _at(Hop.EXCHANGE, unauthorized()),
        _REGISTRY + "does not accept the identity .*401: UNAUTHORIZED: .*AcrPush.*AcrImageSigner",
    ),
    "exchange-403": (_at(Hop.EXCHANGE, _FIREWALL), _REGISTRY + ".*403: DENIED: .*network rules"),
    "exchange-404": (
        _at(Hop.EXCHANGE, Reply(404)),
        _REGISTRY + "does not accept the identity.*404",
    ),
    "exchange-429": (_at(Hop.EXCHANGE, _LIMITED), _REGISTRY + _LATER_AGAIN.format(429)),
    "exchange-503": (_at(Hop.EXCHANGE, _BUSY), _REGISTRY + _LATER_AGAIN.format(503)),
    "exchange-page": (_at(Hop.EXCHANGE, _SIGN_IN), "login at registry .*expected JSON, got"),
    "exchange-redirect": (_at(Hop.EXCHANGE, _ELSEWHERE), _REGISTRY + ".*302.*sign-in page"),
    "exchange-without": (_at(Hop.EXCHANGE, _NO_TOKEN), "login at registry .*expected a token"),
    "exchange-huge": (_at(Hop.EXCHANGE, _HUGE), _REGISTRY[:-1] + ": expected at most"),
    "exchange-cut": (_at(Hop.EXCHANGE, _CUT), _REGISTRY + "cannot be reached: the connection was"),
}


@pytest.mark.parametrize("lie", _WORKLOAD_IDENTITY)
def test_workload_identity(place: Place, key: SigningKey, lie: str) -> None:
    place.job.log_in(_workload_identity(place))
    _fails(place, key, *_WORKLOAD_IDENTITY[lie])


def test_a_hop_that_answers_nothing_is_given_up(place: Place, key: SigningKey) -> None:
    place.job.log_in(_workload_identity(place))
    _fails(
        place,
        key,
        _at(Hop.EXCHANGE, Reply(hangs=True)),
        _REGISTRY + r"cannot be reached: no complete answer within \d+(\.\d)? s",
    )


# --- managed identity ----------------------------------------------------------------------------


def _nobody_listens(place: Place) -> None:
    variable = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
    nobody = f"http://127.0.0.1:{free_port()}"
    place.job.agent.environ = {**place.job.agent.environ, variable: nobody}


def _no_identity(place: Place) -> None:
    place.cloud.imds.identity = None


_MACHINE = r"^managed identity service http://127\.0\.0\.1:\d+ "
_NEEDED = r".*must be an Azure virtual machine with a managed identity"

_MANAGED_IDENTITY: dict[str, tuple[Lie, str]] = {
    "none": (
        _no_identity,
        _MACHINE + "gives this machine no token .*400.*Assign a managed" + _NEEDED,
    ),
    "absent": (_nobody_listens, _MACHINE + "cannot be reached: connection refused" + _NEEDED),
    "403": (_at(Hop.IMDS, Reply(403)), _MACHINE + "gives this machine no token .*403" + _NEEDED),
    "404": (_at(Hop.IMDS, Reply(404, b"", _LATER)), _MACHINE + "gives this .*404" + _NEEDED),
    "429": (_at(Hop.IMDS, _LIMITED), _MACHINE + _LATER_AGAIN.format(429)),
    "500": (_at(Hop.IMDS, Reply(500, b"", _LATER)), _MACHINE + _LATER_AGAIN.format(500)),
    "page": (_at(Hop.IMDS, _SIGN_IN), "token of the managed identity .*expected JSON, got"),
    "without": (_at(Hop.IMDS, _NO_TOKEN), "token of the managed identity .*expected a token"),
    "redirect": (_at(Hop.IMDS, _ELSEWHERE), _MACHINE + ".*302"),
    "cut": (_at(Hop.IMDS, _CUT), _MACHINE + "cannot be reached: the connection was" + _NEEDED),
    "exchange": (_at(Hop.EXCHANGE, unauthorized()), _REGISTRY + "does not accept .*AcrPush"),
}


@pytest.mark.parametrize("lie", _MANAGED_IDENTITY)
def test_managed_identity(place: Place, key: SigningKey, lie: str) -> None:
    place.job.log_in(_managed_identity(place))
    _fails(place, key, *_MANAGED_IDENTITY[lie])


# --- service principal, and whatever all have in common ------------------------------------------


def _rights(rights: Right) -> Lie:
    def grant(place: Place) -> None:
        limited = replace(place.identity, rights=rights)
        place.cloud.entra.identities[place.identity.client_id] = limited

    return grant


def _expired_secret(place: Place) -> None:
    """The secret that the connection holds is none of the application's any more."""
    renewed = replace(place.identity, secret="another secret")
    place.cloud.entra.identities[place.identity.client_id] = renewed


def _other_authority(place: Place) -> None:
    folder = place.job.agent.folder / "authority"
    folder.mkdir()
    other = Authority(folder, "another company")
    place.job.agent.variables["Agent.CAInfo"] = str(other.certificate)


def _no_proxy_there(place: Place) -> None:
    place.job.agent.variables["Agent.ProxyUrl"] = f"http://127.0.0.1:{free_port()}"


def _account_wanted(place: Place) -> None:
    place.cloud.gateway.account = "agent:the password"
    place.job.agent.variables["Agent.ProxyUsername"] = "agent"
    place.job.agent.secret_variables["Agent.ProxyPassword"] = "not the password"


def _clock_ahead(place: Place) -> None:
    """What the token service signs is not valid yet for those who check it."""
    place.cloud.realm.claims = {"nbf": 4_000_000_000}


_LOGIN = r"^login to \*\*\*: token service https://\*\*\*/oauth2/token "
_NOT_LET = r"^registry \*\*\* does not let the given user "
_SERVICE = r"^token service https://\*\*\*"
_TRUST = r"^trust server https://\*\*\*"
_PROXY = r"^registry https://\*\*\* cannot be reached: proxy http://127\.0\.0\.1:\d+"

_SERVICE_PRINCIPAL: dict[str, tuple[Lie, str]] = {
    "expired secret": (
        _expired_secret,
        _LOGIN + "does not accept the given user name and password .*401: UNAUTHORIZED: .*"
        "client secret of a service principal expires",
    ),
    "no AcrPush": (
        _rights(ACR_PULL),
        _NOT_LET + r"push to .*401: insufficient_scope.*the role AcrPush on this registry",
    ),
    "no AcrImageSigner": (
        _rights(ACR_PUSH),
        _TRUST + " does not let the given user publish the trust data of .*insufficient_scope.*"
        "the roles AcrImageSigner and AcrPush",
    ),
    "clock ahead": (_clock_ahead, _NOT_LET + "in with a token of its own .*invalid_token.*clocks"),
    "token-403": (_at(Hop.TOKEN, _FIREWALL), _LOGIN + ".*403: DENIED: .*network rules"),
    "token-404": (_at(Hop.TOKEN, Reply(404)), _SERVICE + "/oauth2/token answered 404"),
    "token-429": (_at(Hop.TOKEN, _LIMITED), _SERVICE + "/oauth2/token answered 429.*Wait"),
    "token-503": (_at(Hop.TOKEN, _BUSY), _SERVICE + "/oauth2/token answered 503.*Try again"),
    "token-page": (
        _at(Hop.TOKEN, _SIGN_IN),
        r"token of https://\*\*\*/oauth2/token: expected JSON",
    ),
    "token-redirect": (
        _at(Hop.TOKEN, _ELSEWHERE),
        _SERVICE + r": expected no redirect to another server, got one to https://elsewhere",
    ),
    "token-without": (_at(Hop.TOKEN, _NO_TOKEN), r"token of .*: expected a token, got none"),
    "token-huge": (_at(Hop.TOKEN, _HUGE), _SERVICE + ": expected at most"),
    "token-cut": (_at(Hop.TOKEN, _CUT), _SERVICE + " cannot be reached: the connection was"),
    "registry-403": (
        _at(Hop.REGISTRY, _FIREWALL),
        r"^registry \*\*\* does not let this machine in .*403: DENIED: .*network rules",
    ),
    "registry-404": (_at(Hop.REGISTRY, Reply(404)), r"^registry https://\*\*\*/v2/.* answered 404"),
    "registry-429": (_at(Hop.REGISTRY, _LIMITED), r"^registry https://\*\*\*/v2/.* 429.*Wait"),
    "registry-503": (_at(Hop.REGISTRY, _BUSY), r"^registry https://\*\*\*/v2/.* 503.*Try again"),
    "registry-page": (_at(Hop.REGISTRY, _SIGN_IN), r"^registry https://\*\*\*/v2/.* 200"),
    "trust-403": (
        _at(Hop.TRUST, Reply(403)),
        _TRUST + " does not let the given user read the trust data of .*403.*the role AcrPull",
    ),
    "trust-404": (
        _at(Hop.TRUST, Reply(404)),
        _TRUST + r"/v2/.*/root\.json answered 404.*the address of a trust server",
    ),
    "trust-429": (_at(Hop.TRUST, _LIMITED), _TRUST + r"/v2/.* answered 429.*Wait"),
    "trust-503": (_at(Hop.TRUST, _BUSY), _TRUST + r"/v2/.* answered 503.*Try again"),
    "trust-page": (
        _at(Hop.TRUST, _SIGN_IN),
        r"^root of \*\*\*/shared/.*: expected JSON, got a page",
    ),
    "another CA": (
        _other_authority,
        r"^registry https://\*\*\*: its certificate cannot be verified: .*caCertificate",
    ),
    "proxy-absent": (_no_proxy_there, _PROXY + ": connection refused"),
    "proxy-403": (_at(Hop.PROXY, Reply(403)), _PROXY + " refuses the way there .*403.*Have the"),
    "proxy-407": (
        _account_wanted,
        _PROXY + " does not accept the user name and password given .*407.*Check those",
    ),
    "proxy-502": (_at(Hop.PROXY, Reply(502)), _PROXY + r" found no way there .*502.*Agent\.Proxy"),
    "proxy-cut": (_at(Hop.PROXY, _CUT), _PROXY + ".*closed"),
}


@pytest.mark.parametrize("lie", _SERVICE_PRINCIPAL)
def test_service_principal(place: Place, key: SigningKey, lie: str) -> None:
    place.job.log_in(_service_principal(place))
    _fails(place, key, *_SERVICE_PRINCIPAL[lie])


# --- later than the preflight --------------------------------------------------------------------


def test_a_login_that_cannot_be_renewed_after_a_long_build(
    place: Place, cloud_job: CloudJob, key: SigningKey
) -> None:
    """The build is done, and that is all. By then the login has expired by its own account."""
    place.cloud.acr.refresh_lifetime_s = 3

    def begins(line: str) -> bool:
        if "Step 1/" in line:
            place.cloud.ledger.fail(Hop.ENTRA, entra.no_matching_identity(_SUBJECT))
        return False

    cloud_job.sources('RUN ["busybox", "sleep", "4"]')
    cloud_job.log_in(_workload_identity(place))
    before = cloud_job.trusted()
    result = cloud_job.run(replace(cloud_job.step(key), cancel_when=begins))
    _check_sentence(result, _ENTRA + "does not accept .*AADSTS700213")
    assert "##[group]Build" in result.raw_lines
    assert (cloud_job.pushed(), cloud_job.trusted()) == ({}, before)


def test_a_right_that_is_lost_between_push_and_signature(
    cloud_job: CloudJob, cloud_owner: CloudOwner, key: SigningKey
) -> None:
    """The sentence says what state things are in."""
    cloud = cloud_job.cloud
    identity = cloud.application(_ALL)
    cloud_owner.initialise(cloud_job.gun, {SIGNER: key.public})

    def begins(line: str) -> bool:
        if "##[group]Sign" in line:
            cloud.ledger.fail(Hop.TRUST, Reply(403))
        return False

    cloud_job.log_in(connections.service_principal(REGISTRY, cloud.entra.tenant, identity))
    before = cloud_job.trusted()
    result = cloud_job.run(replace(cloud_job.step(key), cancel_when=begins))
    _check_sentence(result, _TRUST + " does not let the given user .* has the tags 1.0 UNSIGNED")
    assert list(cloud_job.pushed()) == ["1.0"]
    assert cloud_job.trusted() == before
