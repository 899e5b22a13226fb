"""Claims about `signimage.azure`; Azure DevOps is a small server that can lie."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from signimage.azure import (
    HUB_AUTH_KEY,
    SECURE_FILE_MAX,
    RegistryLogin,
    SecureFile,
    ServiceConnection,
    fetch_secure_file,
    pipeline_labels,
    registry_host,
    registry_login,
)
from signimage.errors import (
    InputError,
    NotFoundError,
    RemoteError,
    SignImageError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
)
from signimage.transport import Credentials, Transport, TransportSettings
from unit.small_server import Reply, Request, SmallServer

# --- service connections --------------------------------------------------------------------


def connection(**parameters: str) -> ServiceConnection:
    return ServiceConnection(
        "0a1b-2c3d", "UsernamePassword", "https://hub.docker.com/", parameters, {}
    )


GOOD = {"registry": "https://reg.example.com:5000/v2/", "username": "me", "password": "s3cret"}


def test_connection_with_a_password_becomes_a_login() -> None:
    assert registry_login(connection(**GOOD, email="me@example.com")) == RegistryLogin(
        "reg.example.com:5000", Credentials("me", "s3cret"), "reg.example.com:5000"
    )


@pytest.mark.parametrize("address", ["https://index.docker.io/v1/", "docker.io", "Index.Docker.IO"])
def test_docker_hub_has_one_name_and_its_own_key(address: str) -> None:
    login = registry_login(connection(**{**GOOD, "registry": address}))
    assert (login.host, login.auth_key) == ("docker.io", HUB_AUTH_KEY)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://reg.example.com", "reg.example.com"),
        ("https://reg.example.com/", "reg.example.com"),
        ("https://reg.example.com/v2/", "reg.example.com"),
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
        registry_login(connection(**{**GOOD, absent: ""}))


@pytest.mark.parametrize("scheme", ["ServicePrincipal", "WorkloadIdentityFederation", "None", ""])
def test_other_connections_are_refused_for_now(scheme: str) -> None:
    with pytest.raises(InputError, match=r"which is not supported yet$"):
        registry_login(replace(connection(**GOOD), scheme=scheme))


def test_secrets_of_a_connection_are_not_shown() -> None:
    shown = repr(connection(**GOOD)) + repr(registry_login(connection(**GOOD)))
    assert "s3cret" not in shown


# --- secure files ---------------------------------------------------------------------------

CONTENT = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\r\n\x00\xff"
BYTES = {"Content-Type": "application/octet-stream"}
TICKET, TOKEN = "ticket/+&=s3cret", "token-s3cret"


class Library:
    """Azure DevOps' answer to a download, honest unless `lie` is set."""

    def __init__(self) -> None:
        self.lie: Callable[[], Reply] | None = None
        self.server = SmallServer(self._answer)

    def file(self) -> SecureFile:
        """Describe the file it has."""
        collection = f"{self.server.origin}/Default Collection/"
        return SecureFile(collection, "My Project/ü", "11-22-33", "ci.key", TICKET, TOKEN)

    def _answer(self, request: Request) -> Reply:
        if self.lie is not None:
            return self.lie()
        parts = urlsplit(request.path)
        path = "/Default Collection/My Project%2Fü/_apis/distributedtask/securefiles/11-22-33"
        assert unquote(parts.path.replace("%2F", "%252F")) == path
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert query.pop("api-version") == "5.0-preview.1"
        assert request.headers["Accept"] == "application/octet-stream"
        assert request.headers["X-TFS-FedAuthRedirect"] == "Suppress"
        if request.headers["Authorization"] != Credentials("PAT", TOKEN).basic():
            return Reply(401)
        if query != {"ticket": TICKET, "download": "false"}:
            return Reply(403, json.dumps({"message": "VS800075: the ticket is invalid"}).encode())
        return Reply(200, CONTENT, BYTES)


@pytest.fixture
def library() -> Iterator[Library]:
    it = Library()
    with it.server:
        yield it


def fetch(file: SecureFile) -> bytes:
    with Transport(TransportSettings(backoff_s=0.001)) as transport:
        return fetch_secure_file(transport, file)


def test_secure_file_arrives_byte_for_byte(library: Library) -> None:
    assert fetch(library.file()) == CONTENT


def test_secure_file_arrives_after_a_busy_server(library: Library) -> None:
    replies = [Reply(503), Reply(502), Reply(200, CONTENT, BYTES)]
    library.lie = lambda: replies.pop(0)
    assert fetch(library.file()) == CONTENT


def test_wrong_ticket_is_quoted_from_the_server(library: Library) -> None:
    claim = r"^secure file ci.key: .* does not let this job read it \(it answered 403: VS800075"
    with pytest.raises(UnauthorizedError, match=claim) as caught:
        fetch(replace(library.file(), ticket="other-s3cret"))
    assert "Authorize the pipeline" in caught.value.hint


@pytest.mark.parametrize(
    ("lie", "kind", "claim"),
    [
        (Reply(401), UnauthorizedError, "does not let this job read it"),
        (Reply(400, b'{"message":"bad"}'), UnauthorizedError, "answered 400: bad"),
        (Reply(404, b'{"message":"VS800: gone"}'), NotFoundError, "does not have it .*VS800: gone"),
        (Reply(203, b"<html>", {"Content-Type": "text/html; charset=utf-8"}), RemoteError,
         "got 203 with text/html, probably a sign-in page"),
        (Reply(200, b"<html>", {"Content-Type": "text/html"}), RemoteError, "got 200 with text/"),
        (Reply(200, b"x"), RemoteError, "got 200 with no type"),
        (Reply(203, b"x", BYTES), RemoteError, "got 203 with application/octet-stream"),
        (Reply(302, headers={"Location": "/_signin"}), RemoteError, "got 302 with no type"),
        (Reply(200, b"", BYTES), RemoteError, "expected its content from .*, got nothing$"),
        (Reply(204, b"", BYTES), RemoteError, "answered 204$"),
        (Reply(500, b'{"message":"oops"}'), RemoteError, "answered 500: oops$"),
        (Reply(200, b"x" * (SECURE_FILE_MAX + 1), BYTES), TooLargeError, "at most 10485760 bytes"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"), UnreachableError, "ended"),
    ],
)  # fmt: skip
def test_what_is_not_the_file_is_refused_without_its_secrets(
    library: Library, lie: Reply, kind: type[SignImageError], claim: str
) -> None:
    library.lie = lambda: lie
    with pytest.raises(kind, match=claim) as caught:
        fetch(library.file())
    assert type(caught.value) is kind
    texts = [caught.value.sentence, repr(library.file()), repr(caught.value.__cause__)]
    assert not any("s3cret" in text for text in texts)


def test_token_follows_no_redirect(library: Library) -> None:
    with SmallServer(lambda _: Reply(200, CONTENT, BYTES)) as other:
        library.lie = lambda: Reply(307, headers={"Location": f"{other.origin}/x"})
        with pytest.raises(RemoteError, match="got 307"):
            fetch(library.file())
    assert other.requests == []


def test_collection_that_is_no_address_is_wrong_input(library: Library) -> None:
    with pytest.raises(InputError, match=r"^address of Azure DevOps: expected http"):
        fetch(replace(library.file(), collection_uri=""))


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
