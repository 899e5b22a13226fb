"""Claims about `signimage.azure`; the conversations behind a login are in `test_acr`."""

from dataclasses import replace

import pytest

from signimage.acr import RegistryTokens
from signimage.azure import (
    Job,
    RegistryLogin,
    ServiceConnection,
    id_token_url,
    pipeline_labels,
    registry_host,
    registry_login,
)
from signimage.entra import (
    METADATA_HOST,
    FederatedIdentity,
    IdTokenRequest,
    ManagedIdentity,
)
from signimage.errors import InputError
from signimage.transport import Credentials, Transport
from unit.small_cloud import ARM, CLIENT, CONNECTION, JOB_TOKEN, TENANT

JOB = Job(
    collection_uri="https://dev.azure.com/org/",
    project_id="11111111-2222",
    hub="build",
    plan_id="33333333-4444",
    job_id="55555555-6666",
    id_token_uri="https://dev.azure.com/org/1/_apis/distributedtask/hubs/b/plans/2/jobs/3/oidctoken",
    token=JOB_TOKEN,
)

# --- user name and password -----------------------------------------------------------------

GOOD = {"registry": "https://reg.example.com:5000/v2/", "username": "me", "password": "s3cret"}


def connection(**parameters: str) -> ServiceConnection:
    data = {"registrytype": "Others"}
    url = "https://hub.docker.com/"
    return ServiceConnection(CONNECTION, "UsernamePassword", url, parameters, data)


def login_of(it: ServiceConnection) -> RegistryLogin:
    return registry_login(it, JOB)


def test_connection_with_a_password_becomes_a_login() -> None:
    login = login_of(connection(**GOOD, email="me@example.com"))
    assert login == RegistryLogin("reg.example.com:5000", Credentials("me", "s3cret"))
    with Transport() as transport:
        assert login.source(transport, _no_token).current() == Credentials("me", "s3cret")


def _no_token(token: str) -> None:
    raise AssertionError(token)


@pytest.mark.parametrize("address", ["https://index.docker.io/v1/", "docker.io", "Index.Docker.IO"])
def test_docker_hub_has_one_name(address: str) -> None:
    assert login_of(connection(**{**GOOD, "registry": address})).host == "docker.io"


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://reg.example.com", "reg.example.com"),
        ("https://reg.example.com/", "reg.example.com"),
        ("https://reg.example.com/v2/", "reg.example.com"),
        ("http://reg.example.com", "reg.example.com"),
        ("REG.example.com", "reg.example.com"),
        ("reg.example.com:5000", "reg.example.com:5000"),
        ("reg.example.com:5000/team/", "reg.example.com:5000"),
        ("http://localhost:5000", "localhost:5000"),
        (" localhost:5000 ", "localhost:5000"),
        ("https://[::1]:5000/", "[::1]:5000"),
    ],
)
def test_address_as_typed_becomes_a_host(address: str, host: str) -> None:
    assert registry_host(address) == host


@pytest.mark.parametrize(
    "address", ["https://", "/", "ftp://h", "me:s3cret@h", "https://h:x/", "h ost", "https://[h"]
)
def test_address_without_a_host_is_wrong_input(address: str) -> None:
    with pytest.raises(InputError, match=r"expected a registry address such as") as caught:
        registry_host(address)
    assert "s3cret" not in caught.value.sentence


@pytest.mark.parametrize("absent", ["registry", "username", "password"])
def test_incomplete_connection_is_wrong_input(absent: str) -> None:
    with pytest.raises(InputError, match=f"^registry service connection: expected a {absent}, got"):
        login_of(connection(**{**GOOD, absent: ""}))


@pytest.mark.parametrize("scheme", ["ServicePrincipal", "WorkloadIdentityFederation", "None"])
def test_registry_that_is_not_azures_takes_passwords_only(scheme: str) -> None:
    """Its host is anybody's, whatever it calls itself."""
    good = {**GOOD, **AZURE, "registry": "myreg.azurecr.io"}
    with pytest.raises(InputError, match=f"by user name and password, got {scheme}, which is"):
        login_of(replace(connection(**good), scheme=scheme))


def test_secrets_of_a_connection_are_not_shown() -> None:
    given = [connection(**GOOD), azure("ServicePrincipal"), azure("WorkloadIdentityFederation")]
    shown = repr([*given, *map(login_of, given), JOB])
    assert "s3cret" not in shown


# --- Azure Container Registry ---------------------------------------------------------------

AZURE = {
    "loginserver": "MyReg.azurecr.io",
    "tenantid": TENANT,
    "serviceprincipalid": CLIENT,
    "serviceprincipalkey": "key-s3cret",
    "authenticationtype": "spnKey",
}


def azure(scheme: str, *, url: str = "https://myreg.azurecr.io", **data: str) -> ServiceConnection:
    return ServiceConnection(CONNECTION, scheme, url, AZURE, {"registrytype": "ACR", **data})


def without(it: ServiceConnection, name: str) -> ServiceConnection:
    return replace(it, parameters={**it.parameters, name: " "})


@pytest.mark.parametrize("scheme", ["ServicePrincipal", "serviceprincipal", ""])
def test_service_principal_logs_in_with_its_secret(scheme: str) -> None:
    """The registry's own token service takes it; nothing is exchanged before."""
    host = "myreg.azurecr.io"
    assert login_of(azure(scheme)) == RegistryLogin(host, Credentials(CLIENT, "key-s3cret"))


def test_scheme_may_be_a_parameter() -> None:
    it = azure("")
    named = replace(it, parameters={**AZURE, "scheme": "ManagedServiceIdentity"})
    assert isinstance(login_of(named).proof, ManagedIdentity)


@pytest.mark.parametrize(
    "more", [{"authenticationtype": "spnCertificate"}, {"serviceprincipalcertificate": "PEM"}]
)
def test_service_principal_with_a_certificate_is_refused(more: dict[str, str]) -> None:
    it = azure("ServicePrincipal")
    with pytest.raises(InputError, match="got one with a certificate, which registries") as caught:
        login_of(replace(it, parameters={**AZURE, **more}))
    assert "workload identity federation" in caught.value.hint


def test_managed_identity_is_this_machines() -> None:
    login = login_of(azure("ManagedServiceIdentity"))
    assert login.proof == ManagedIdentity(TENANT, ARM, METADATA_HOST)
    assert login.host == "myreg.azurecr.io"


def test_managed_identity_may_not_know_its_tenant() -> None:
    login = login_of(without(azure("ManagedServiceIdentity"), "tenantid"))
    assert login.proof == ManagedIdentity("", ARM, METADATA_HOST)


def test_managed_identity_is_asked_for_where_the_environment_says() -> None:
    job = replace(JOB, metadata_host="http://127.0.0.1:4242/")
    login = registry_login(azure("ManagedServiceIdentity"), job)
    assert login.proof == ManagedIdentity(TENANT, ARM, "http://127.0.0.1:4242")


def test_workload_identity_has_all_for_its_three_requests() -> None:
    login = login_of(azure("WorkloadIdentityFederation"))
    assert login.proof == FederatedIdentity(
        tenant=TENANT,
        client_id=CLIENT,
        authority="login.microsoftonline.com",
        audience=ARM,
        id_token=IdTokenRequest(JOB.id_token_uri, CONNECTION, JOB_TOKEN),
    )
    with Transport() as transport:
        assert isinstance(login.source(transport, _no_token), RegistryTokens)


@pytest.mark.parametrize(
    ("url", "named", "audience"),
    [
        ("https://management.azure.com/", "", "https://management.azure.com/"),
        ("https://management.azure.com/", "https://named/", "https://named/"),
        ("https://myreg.azurecr.io", "", ARM),
        ("https://[broken", "", ARM),
        ("", "", ARM),
    ],
)
def test_audience_is_named_by_the_connection_or_its_cloud(
    url: str, named: str, audience: str
) -> None:
    it = azure(
        "WorkloadIdentityFederation", url=url, activedirectoryserviceendpointresourceid=named
    )
    proof = login_of(it).proof
    assert isinstance(proof, FederatedIdentity)
    assert proof.audience == audience


@pytest.mark.parametrize(
    ("server", "authority", "audience"),
    [
        ("r.azurecr.us", "login.microsoftonline.us", "https://management.core.usgovcloudapi.net/"),
        ("r.azurecr.cn", "login.chinacloudapi.cn", "https://management.core.chinacloudapi.cn/"),
    ],
)
def test_sovereign_clouds_have_authorities_of_their_own(
    server: str, authority: str, audience: str
) -> None:
    it = azure("WorkloadIdentityFederation")
    proof = login_of(replace(it, parameters={**AZURE, "loginserver": server})).proof
    assert isinstance(proof, FederatedIdentity)
    assert (proof.authority, proof.audience) == (authority, audience)


def test_authority_of_the_connection_counts_if_it_is_microsofts() -> None:
    it = azure("WorkloadIdentityFederation", activedirectoryauthority="https://login.windows.net/")
    proof = login_of(it).proof
    assert isinstance(proof, FederatedIdentity)
    assert proof.authority == "login.windows.net"
    evil = azure("WorkloadIdentityFederation", activedirectoryauthority="https://evil.example/")
    with pytest.raises(InputError, match="expected an authority of Microsoft Entra ID"):
        login_of(evil)


@pytest.mark.parametrize(
    ("scheme", "absent", "shown"),
    [
        ("ServicePrincipal", "loginserver", "loginServer"),
        ("ServicePrincipal", "serviceprincipalid", "servicePrincipalId"),
        ("ServicePrincipal", "serviceprincipalkey", "servicePrincipalKey"),
        ("WorkloadIdentityFederation", "tenantid", "tenantId"),
        ("WorkloadIdentityFederation", "serviceprincipalid", "servicePrincipalId"),
        ("ManagedServiceIdentity", "loginserver", "loginServer"),
    ],
)
def test_incomplete_connection_to_azure_is_wrong_input(
    scheme: str, absent: str, shown: str
) -> None:
    with pytest.raises(InputError, match=f"expected a {shown}, got none"):
        login_of(without(azure(scheme), absent))


@pytest.mark.parametrize(
    "scheme", ["ServicePrincipal", "ManagedServiceIdentity", "WorkloadIdentityFederation"]
)
def test_nothing_is_sent_to_a_host_that_is_not_azures(scheme: str) -> None:
    evil = replace(azure(scheme), parameters={**AZURE, "loginserver": "evil.example"})
    with pytest.raises(InputError, match=r"expected a registry of Azure such as .* 'evil.example'"):
        login_of(evil)


def test_unknown_scheme_is_named() -> None:
    with pytest.raises(InputError, match="or workload identity federation, got Kerberos"):
        login_of(azure("Kerberos"))


# --- where the job's ID token is ------------------------------------------------------------

BUILT = (
    "https://dev.azure.com/org/11111111-2222/_apis/distributedtask/hubs/build/plans/33333333-4444"
    "/jobs/55555555-6666/oidctoken"
)


def test_id_token_is_where_the_agent_says() -> None:
    assert id_token_url(JOB) == JOB.id_token_uri
    assert id_token_url(replace(JOB, id_token_uri=f"{JOB.id_token_uri}?x=1#y")) == JOB.id_token_uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://evil.example/oidctoken",
        "http://dev.azure.com/oidctoken",
        "https://dev.azure.com:8443/oidctoken",
        "https://dev.azure.com@evil.example/oidctoken",
        "https://me@dev.azure.com/oidctoken",
        "https://dev.azure.com.evil.example/",
        "https://[evil",
        "https://dev.azure.com:x/",
        "//dev.azure.com/x",
    ],
)
def test_job_token_goes_to_the_collection_only(uri: str) -> None:
    assert id_token_url(replace(JOB, id_token_uri=uri)) == BUILT


def test_names_of_a_server_of_ones_own_are_encoded() -> None:
    job = replace(
        JOB, collection_uri="http://tfs:8080/tfs/Default Collection/", hub="a/b", id_token_uri=""
    )
    url = id_token_url(job)
    assert url.startswith("http://tfs:8080/tfs/Default%20Collection/11111111-2222/_apis/")
    assert "/hubs/a%2Fb/plans/" in url


# --- labels ---------------------------------------------------------------------------------

VARIABLES = {
    "System.TeamFoundationCollectionUri": "https://dev.azure.com/org/",
    "System.HostType": "build",
    "System.TeamProject": "My Project",
    "Build.SourceVersion": "abc",
    "Build.Repository.Name": "r",
    "Build.Repository.Uri": "https://r",
    "Build.SourceBranchName": "main",
    "Build.DefinitionName": "ci",
    "Build.BuildNumber": "7",
    "Build.BuildUri": "vstfs:///Build/Build/7",
    "Release.ReleaseId": "9",
    "Release.DefinitionName": "cd",
    "Release.ReleaseWebUrl": "https://web",
}
PREFIX = "com.azure.dev.image."


def names_of(labels: dict[str, str]) -> set[str]:
    return {name.removeprefix(PREFIX) for name in labels}


def test_labels_without_pipeline_data_are_the_source_only() -> None:
    labels = pipeline_labels(VARIABLES, add_pipeline_data=False)
    assert labels == {
        f"{PREFIX}system.teamfoundationcollectionuri": "https://dev.azure.com/org/",
        f"{PREFIX}build.sourceversion": "abc",
    }


def test_labels_of_a_build_name_the_run() -> None:
    labels = pipeline_labels(VARIABLES, add_pipeline_data=True)
    assert names_of(labels) == {
        "system.teamfoundationcollectionuri", "build.sourceversion", "system.teamproject",
        "build.repository.name", "build.repository.uri", "build.sourcebranchname",
        "build.definitionname", "build.buildnumber", "build.builduri",
    }  # fmt: skip


def test_labels_of_a_release_name_the_release() -> None:
    labels = pipeline_labels({**VARIABLES, "system.hosttype": "release"}, add_pipeline_data=True)
    assert names_of(labels) == {
        "system.teamfoundationcollectionuri", "build.sourceversion", "system.teamproject",
        "release.releaseid", "release.definitionname", "release.releaseweburl",
    }  # fmt: skip


def test_labels_need_a_collection() -> None:
    assert pipeline_labels({"Build.SourceVersion": "abc"}, add_pipeline_data=True) == {}
