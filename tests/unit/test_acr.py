"""Claims about `signimage.acr`, and the whole conversation below it; the cloud is small."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.acr import CLOUDS, TOKEN_USER, RegistryTokens, cloud_of, registry_host
from signimage.entra import (
    AUTHORITIES,
    FederatedIdentity,
    Identity,
    IdTokenRequest,
    ManagedIdentity,
)
from signimage.errors import (
    CertificateError,
    FormatError,
    InputError,
    NotFoundError,
    RemoteError,
    SignImageError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from signimage.permissions import AZURE_REGISTRIES
from signimage.response import Credentials
from signimage.tokenservice import TokenServices
from signimage.transport import Transport
from unit.small_cloud import (
    ACR,
    ARM,
    AUTHORITY,
    CLIENT,
    CONNECTION,
    ISSUER,
    JOB_TOKEN,
    REGISTRY,
    SUBJECT,
    TENANT,
    Hop,
    SmallCloud,
    as_json,
)
from unit.small_server import Reply

# --- hosts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("myreg.azurecr.io", "myreg.azurecr.io"),
        (" MyReg.AzureCR.io ", "myreg.azurecr.io"),
        ("https://myreg.azurecr.io", "myreg.azurecr.io"),
        ("https://MYREG.azurecr.io///", "myreg.azurecr.io"),
        ("HTTPS://myreg.azurecr.io/", "myreg.azurecr.io"),
        ('{"loginServer":"MyReg.azurecr.io","id":"/subscriptions/x"}', "myreg.azurecr.io"),
        ('{"loginServer":" https://myreg.azurecr.io/ "}', "myreg.azurecr.io"),
        ("team-abc123.azurecr.io", "team-abc123.azurecr.io"),
        ("myreg.eastus.geo.azurecr.io", "myreg.eastus.geo.azurecr.io"),
        ("myreg.azurecr.cn", "myreg.azurecr.cn"),
        ("myreg.azurecr.us", "myreg.azurecr.us"),
        ("myreg.azurecr.microsoft.scloud", "myreg.azurecr.microsoft.scloud"),
    ],
)
def test_login_server_as_connections_have_it_becomes_a_host(text: str, host: str) -> None:
    assert registry_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "azurecr.io",
        ".azurecr.io",
        "http://myreg.azurecr.io",
        "myreg.azurecr.io:443",
        "myreg.azurecr.io/v2",
        "myreg.azurecr.io.evil.example",
        "evil.example#.azurecr.io",
        "evil.example/.azurecr.io",
        "evil.example?.azurecr.io",
        "evil.example\\.azurecr.io",
        "me:s3cret@myreg.azurecr.io",
        "myreg.azurecr.io.",
        "-.azurecr.io",
        "a b.azurecr.io",
        "myregazurecr.io",
        "myreg.azurecr.io\n.azurecr.io",
        "ⅿyreg.azurecr.io",
        "{}",
        "{",
        '{"loginServer":7}',
        '{"loginServer":"evil.example"}',
        "localhost:5000",
    ],
)
def test_another_host_gets_no_token(text: str) -> None:
    with pytest.raises(InputError, match="expected a registry of Azure such as") as caught:
        registry_host(text)
    assert "s3cret" not in caught.value.sentence


@given(st.text(max_size=40) | st.from_regex(r"\{.{0,30}\}") | st.from_regex(r".{0,9}\.azurecr\.io"))
def test_any_text_is_a_host_of_azures_or_refused(text: str) -> None:
    try:
        host = registry_host(text)
    except InputError:
        return
    assert host.endswith(AZURE_REGISTRIES)
    assert not set(host) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")


def test_every_cloud_is_known_to_everybody() -> None:
    """What may get a token, and what is called a registry of Azure elsewhere, are the same."""
    assert tuple(CLOUDS) == AZURE_REGISTRIES
    for suffix, cloud in CLOUDS.items():
        assert cloud_of(f"myreg{suffix}") == cloud
        assert cloud.authority in AUTHORITIES
        assert cloud.audience.startswith("https://management.core.")


# --- logins -----------------------------------------------------------------------------------


class Login:
    """A login at the registry of a small cloud, with a clock that a test sets."""

    def __init__(self, cloud: SmallCloud, transport: Transport, identity: Identity) -> None:
        self.cloud = cloud
        self.secrets: list[str] = []
        self.now_s = 1000.0
        services = TokenServices(transport, self.secrets.append, pause_s=0.001)
        self.source = RegistryTokens(services, REGISTRY, identity, clock=lambda: self.now_s)

    def refusal(self, hop: Hop, *replies: Reply) -> SignImageError:
        """Return the error after *hop* answers with *replies*; it holds no secret."""
        self.cloud.lie(hop, *replies)
        with pytest.raises(SignImageError, match=r"answered|expected|cannot be") as caught:
            self.source.current()
        texts = [caught.value.sentence, repr(caught.value.__cause__), repr(caught.value)]
        assert not any("s3cret" in text or "eyJ" in text for text in texts)
        return caught.value


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[SmallCloud]:
    with SmallCloud(tmp_path) as it:
        yield it


@pytest.fixture
def transport(cloud: SmallCloud) -> Iterator[Transport]:
    with Transport(cloud.settings) as it:
        yield it


@pytest.fixture
def federated(cloud: SmallCloud, transport: Transport) -> Login:
    id_token = IdTokenRequest(f"{cloud.origin}/org/oidctoken", CONNECTION, JOB_TOKEN)
    identity = FederatedIdentity(TENANT, CLIENT, AUTHORITY, ARM, id_token)
    return Login(cloud, transport, identity)


@pytest.fixture
def managed(cloud: SmallCloud, transport: Transport) -> Login:
    return Login(cloud, transport, ManagedIdentity(TENANT, ARM, cloud.origin))


def test_federated_identity_logs_in_by_three_requests(federated: Login) -> None:
    """The exchange as documented, field by field."""
    cloud = federated.cloud
    credentials = federated.source.current()
    assert cloud.hops() == [Hop.DEVOPS, Hop.ENTRA, Hop.REGISTRY]
    id_token, access_token, refresh_token = cloud.tokens
    (_, devops), (_, entra), (_, registry) = cloud.asked
    assert devops.path == f"/org/oidctoken?api-version=7.1&serviceConnectionId={CONNECTION}"
    assert (devops.method, devops.body, devops.headers["Content-Length"]) == ("POST", b"", "0")
    assert devops.headers["Authorization"] == f"Bearer {JOB_TOKEN}"
    assert devops.headers["Content-Type"] == "application/json"
    assert devops.headers["X-TFS-FedAuthRedirect"] == "Suppress"
    assert (entra.method, entra.path) == ("POST", f"/{TENANT}/oauth2/v2.0/token")
    assert cloud.fields(1) == {
        "grant_type": "client_credentials",
        "client_id": CLIENT,
        "scope": f"{ARM}/.default",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": id_token,
    }
    assert (registry.method, registry.path) == ("POST", "/oauth2/exchange")
    assert cloud.fields(2) == {
        "grant_type": "access_token",
        "service": REGISTRY,
        "tenant": TENANT,
        "access_token": access_token,
    }
    assert credentials == Credentials(TOKEN_USER, refresh_token)
    for request in (entra, registry):
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert "Authorization" not in request.headers


def test_managed_identity_logs_in_by_two_requests(managed: Login) -> None:
    cloud = managed.cloud
    credentials = managed.source.current()
    assert cloud.hops() == [Hop.METADATA, Hop.REGISTRY]
    request = cloud.asked[0][1]
    assert request.path.partition("?")[0] == "/metadata/identity/oauth2/token"
    assert (request.method, request.headers["Metadata"]) == ("GET", "true")
    assert cloud.fields(0) == {"api-version": "2018-02-01", "resource": ARM}
    assert cloud.fields(1)["tenant"] == TENANT
    assert credentials == Credentials(TOKEN_USER, cloud.tokens[-1])


def test_machine_that_does_not_know_its_tenant_names_none(
    cloud: SmallCloud, transport: Transport
) -> None:
    login = Login(cloud, transport, ManagedIdentity("", ARM, cloud.origin))
    assert login.source.current().username == TOKEN_USER
    assert "tenant" not in cloud.fields(1)


def test_every_token_is_a_secret_as_soon_as_it_is_known(federated: Login) -> None:
    federated.source.current()
    assert federated.secrets == federated.cloud.tokens
    federated.cloud.lie(Hop.REGISTRY, Reply(404))
    federated.now_s += 3 * 3600
    with pytest.raises(NotFoundError, match="does not accept the identity"):
        federated.source.current()
    assert federated.secrets == federated.cloud.tokens


@pytest.mark.parametrize("name", ["federated", "managed"])
def test_registry_without_arm_tokens_gets_one_for_itself(
    name: str, request: pytest.FixtureRequest
) -> None:
    login: Login = request.getfixturevalue(name)
    login.cloud.takes_arm_tokens = False
    assert login.source.current().password == login.cloud.tokens[-1]
    hops = login.cloud.hops()
    assert hops == hops[: len(hops) // 2] * 2
    fields = login.cloud.fields(-2)
    assert fields.get("scope", f"{fields.get('resource')}/.default") == f"{ACR}/.default"


# --- renewals ---------------------------------------------------------------------------------


def test_login_is_kept_while_it_is_good(federated: Login) -> None:
    first = federated.source.current()
    federated.now_s += 10_800 - 301
    assert federated.source.current() == first
    assert len(federated.cloud.asked) == 3


def test_login_is_renewed_before_it_expires(federated: Login) -> None:
    first = federated.source.current()
    federated.now_s += 10_800 - 299
    second = federated.source.current()
    assert second != first
    assert federated.cloud.hops() == [Hop.DEVOPS, Hop.ENTRA, Hop.REGISTRY] * 2
    assert federated.source.current() == second


def test_short_login_is_renewed_at_half_of_its_time(federated: Login) -> None:
    federated.cloud.lifetime_s = 100
    first = federated.source.current()
    federated.now_s += 49
    assert federated.source.current() == first
    federated.now_s += 2
    assert federated.source.current() != first


def test_renewal_that_fails_is_tried_again_while_the_login_is_good(federated: Login) -> None:
    first = federated.source.current()
    federated.cloud.lie(Hop.ENTRA, Reply(503))
    federated.now_s += 10_800 - 200
    assert federated.source.current() == first
    asked = len(federated.cloud.asked)
    assert federated.source.current() == first
    assert len(federated.cloud.asked) == asked, "tried again at once"
    federated.cloud.lie(Hop.ENTRA)
    federated.now_s += 31
    assert federated.source.current() != first


def test_renewal_that_fails_after_the_end_is_an_error(federated: Login) -> None:
    federated.source.current()
    federated.cloud.lie(Hop.ENTRA, Reply(503))
    federated.now_s += 10_800
    with pytest.raises(UnavailableError, match=r"^Microsoft Entra ID .* it answered 503"):
        federated.source.current()


# --- failures ---------------------------------------------------------------------------------

HTML = Reply(200, b"<html>", {"Content-Type": "text/html"})
SIGN_IN = Reply(203, b"<html>", {"Content-Type": "text/html; charset=utf-8"})
HUGE = Reply(200, b"x" * 70_000)
CUT = Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1")
DENIED = as_json(403, {"errors": [{"code": "DENIED", "message": "no"}]})
FIREWALL = as_json(
    403,
    {"errors": [{"code": "DENIED", "message": "client with IP '1.2.3.4' is not allowed access."}]},
)
NAMES = {
    Hop.DEVOPS: "Azure DevOps http://127.0.0.1:[0-9]+",
    Hop.METADATA: "managed identity service http://127.0.0.1:[0-9]+",
    Hop.ENTRA: "Microsoft Entra ID https://login.microsoftonline.com",
    Hop.REGISTRY: "registry https://myreg.azurecr.io",
}


@pytest.mark.parametrize("hop", Hop)
@pytest.mark.parametrize(
    ("reply", "kind", "claim"),
    [
        (Reply(400), UnauthorizedError, "answered 400"),
        (Reply(401), UnauthorizedError, "answered 401"),
        (Reply(403), UnauthorizedError, "answered 403"),
        (Reply(404), NotFoundError, "answered 404"),
        (Reply(418), RemoteError, "answered 418"),
        (Reply(429), UnavailableError, "is not available: it answered 429"),
        (Reply(500), UnavailableError, "is not available: it answered 500"),
        (Reply(503), UnavailableError, "is not available: it answered 503"),
        (SIGN_IN, RemoteError, "got 203 with text/html; charset=utf-8, probably a sign-in page"),
        (Reply(302, headers={"Location": "/x"}), RemoteError, "got 302 with no type, probably a"),
        (HTML, FormatError, "expected JSON, got 6 bytes of text/html"),
        (as_json(200, {}), FormatError, "expected a token as .*, got none"),
        (HUGE, TooLargeError, "expected at most 65536 bytes, got more"),
        (CUT, UnreachableError, "cannot be reached: .* ended before it was complete"),
    ],
)
def test_failure_names_the_hop_and_its_cause(
    hop: Hop,
    reply: Reply,
    kind: type[SignImageError],
    claim: str,
    request: pytest.FixtureRequest,
) -> None:
    login: Login = request.getfixturevalue("managed" if hop is Hop.METADATA else "federated")
    error = login.refusal(hop, reply)
    assert type(error) is kind
    address = NAMES[hop].rpartition(" ")[2]
    with pytest.raises(
        type(error), match=f"{address if kind is FormatError else NAMES[hop]}.*{claim}"
    ):
        raise error
    assert error.hint
    assert login.cloud.hops()[-1] is hop


@pytest.mark.parametrize(
    ("hop", "reply", "hint"),
    [
        (Hop.DEVOPS, Reply(401), "Authorize the pipeline to use the service connection"),
        (Hop.METADATA, Reply(404), "must be an Azure virtual machine with a managed identity"),
        (
            Hop.METADATA,
            as_json(400, {"error_description": "Identity not found"}),
            "Assign a managed identity to this machine",
        ),
        (
            Hop.METADATA,
            as_json(400, {"error_description": "Multiple user assigned identities exist"}),
            "The machine has several user-assigned identities",
        ),
        (
            Hop.ENTRA,
            as_json(401, {"error_description": "AADSTS700213: No match."}),
            f"issuer {ISSUER}, subject {SUBJECT}, audience api://AzureADTokenExchange to the appl",
        ),
        (Hop.REGISTRY, DENIED, "the role AcrPush on this registry, and AcrImageSigner for"),
        (Hop.REGISTRY, FIREWALL, "The registry's network rules keep this machine out"),
        (Hop.REGISTRY, Reply(429), "Run the job again later"),
    ],
)
def test_refusal_says_what_to_do(
    hop: Hop, reply: Reply, hint: str, request: pytest.FixtureRequest
) -> None:
    login: Login = request.getfixturevalue("managed" if hop is Hop.METADATA else "federated")
    assert hint in login.refusal(hop, reply).hint


def test_registrys_own_no_counts_where_the_other_audience_is_unknown(federated: Login) -> None:
    """Not every tenant knows registries as an audience; that is not what went wrong."""
    cloud = federated.cloud
    cloud.takes_arm_tokens = False
    good = as_json(200, {"access_token": "s3cret-of-nobody"})
    cloud.lie(Hop.ENTRA, good, as_json(400, {"error_description": "AADSTS500011: Not found."}))
    with pytest.raises(
        UnauthorizedError, match=r"^registry .* \(it answered 401: UNAUTH"
    ) as caught:
        federated.source.current()
    assert "AADSTS500011" in str(caught.value.__cause__)


def test_machine_without_the_service_is_told_so(cloud: SmallCloud, transport: Transport) -> None:
    """The port was ours a moment ago, and nobody listens there now."""
    with SmallCloud(Path(cloud.settings.ca_files[0]).parent) as gone:
        origin = gone.origin
    login = Login(cloud, transport, ManagedIdentity(TENANT, ARM, origin))
    with pytest.raises(UnreachableError, match=r"^managed identity service .* cannot be") as caught:
        login.source.current()
    assert "must be an Azure virtual machine with a managed identity" in caught.value.hint


def test_registry_with_another_certificate_gets_no_token(
    cloud: SmallCloud, federated: Login
) -> None:
    with Transport(replace(cloud.settings, ca_files=())) as transport:
        id_token = IdTokenRequest(f"{cloud.origin}/org/oidctoken", CONNECTION, JOB_TOKEN)
        identity = FederatedIdentity(TENANT, CLIENT, AUTHORITY, ARM, id_token)
        login = Login(cloud, transport, identity)
        with pytest.raises(CertificateError, match=r"^Microsoft Entra ID https://login"):
            login.source.current()
    assert cloud.hops() == [Hop.DEVOPS]
    assert federated.source.current().username == TOKEN_USER


@pytest.mark.parametrize(
    ("host", "end"),
    [
        ("r.azurecr.io", "net"),
        ("r.azurecr.us", "us"),
        ("r.azurecr.cn", "cn"),
        ("r.azurecr.de", "de"),
    ],
)
def test_each_cloud_has_its_own_audience_for_registries(host: str, end: str) -> None:
    """As Microsoft's own task library for Azure has them."""
    assert cloud_of(host).registry_audience == f"https://containerregistry.azure.{end}"
