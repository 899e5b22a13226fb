"""Claims about `signimage.registry`, against a small registry on loopback that can lie."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import (
    CertificateError,
    FormatError,
    HashMismatchError,
    NotFoundError,
    RemoteError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
)
from signimage.oci import Descriptor, Digest, Repository
from signimage.registry import (
    MANIFEST_MAX,
    MANIFEST_TYPES,
    Challenge,
    Manifest,
    Registry,
    TokenAuthorizer,
    base_url,
    parse_challenges,
)
from signimage.transport import Credentials, Transport, TransportSettings
from unit.certificates import make_authority
from unit.small_server import Reply, Request, SmallServer

OCI = "application/vnd.oci.image.manifest.v1+json"
CONTENT = json.dumps({"schemaVersion": 2, "mediaType": OCI, "layers": []}).encode()
GOOD = Credentials("me", "pass:wörd %;")
BAD = Credentials("me", "s3cret-but-wrong")


class SmallRegistry:
    """A registry with token authentication for one user and one repository, `team/app`.

    `lie` may replace any reply; it gets the request and the honest reply.
    """

    def __init__(self, scheme: str = "Bearer") -> None:
        self.lie: Callable[[Request, Reply], Reply] = lambda _, reply: reply
        self.granted = ["pull", "push"]
        self._scheme = scheme
        self._stored = {"1.2": (OCI, CONTENT)}
        self.server = SmallServer(lambda request: self.lie(request, self._honest(request)))

    def _honest(self, request: Request) -> Reply:
        path = urlsplit(request.path).path
        given_ = request.headers["Authorization"] or ""
        if path == "/token":
            return self._token(request, given_)
        if not self._is_allowed(request.method, given_):
            return self._challenge()
        if path == "/v2/team/app/blobs/uploads/" and request.method == "POST":
            return Reply(202, headers={"Location": "/v2/team/app/blobs/uploads/42?_state=x"})
        if path.endswith("/uploads/42") and request.method == "DELETE":
            return Reply(204)
        return self._manifest(request, path.removeprefix("/v2/team/app/manifests/"))

    def _token(self, request: Request, given_: str) -> Reply:
        if given_ != GOOD.basic():
            return Reply(401, b'{"details":"incorrect username or password"}')
        scope = parse_qs(urlsplit(request.path).query)["scope"][0]
        asked = scope.rpartition(":")[2].split(",")
        granted = ",".join(action for action in asked if action in self.granted)
        return Reply(200, json.dumps({"token": f"may-{granted}", "expires_in": 300}).encode())

    def _is_allowed(self, method: str, given_: str) -> bool:
        if self._scheme == "Basic":
            return given_ == GOOD.basic()
        action = "pull" if method in ("GET", "HEAD") else "push"
        return given_.startswith("Bearer may-") and action in given_

    def _challenge(self) -> Reply:
        origin = self.server.origin
        bearer = f'Bearer realm="{origin}/token?a=b",service="reg",scope="repository:x:pull"'
        value = bearer if self._scheme == "Bearer" else 'Basic realm="reg"'
        document = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
        return Reply(401, document, {"WWW-Authenticate": value})

    def _manifest(self, request: Request, reference: str) -> Reply:
        if request.method == "PUT":
            self._stored[reference] = (request.headers["Content-Type"], request.body)
            digest = Digest.of(request.body).text
            return Reply(201, headers={"Docker-Content-Digest": digest})
        for tag, (kind, content) in self._stored.items():
            digest = Digest.of(content).text
            if reference in (tag, digest):
                headers = {"Content-Type": kind, "Docker-Content-Digest": digest}
                return Reply(200, content, headers)
        return Reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}')


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(TransportSettings(backoff_s=0.001)) as it:
        yield it


@pytest.fixture(params=["Bearer", "Basic"])
def small(request: pytest.FixtureRequest) -> Iterator[SmallRegistry]:
    registry = SmallRegistry(request.param)
    with registry.server:
        yield registry


@pytest.fixture
def bearer() -> Iterator[SmallRegistry]:
    registry = SmallRegistry()
    with registry.server:
        yield registry


def client(
    transport: Transport, small: SmallRegistry, credentials: Credentials | None = GOOD
) -> Registry:
    return Registry(transport, Repository(small.server.host, "team/app"), credentials)


def to(path: str, lie: Callable[[Reply], Reply]) -> Callable[[Request, Reply], Reply]:
    """Lie about one path, once the asker is authenticated."""

    def tell(request: Request, honest: Reply) -> Reply:
        return lie(honest) if path in request.path and honest.status < 400 else honest

    return tell


# --- push permission ------------------------------------------------------------------------


def test_permission_to_push_is_found_out_and_leaves_no_upload(
    transport: Transport, small: SmallRegistry
) -> None:
    client(transport, small).check_push()
    assert small.server.seen()[-1] == "DELETE /v2/team/app/blobs/uploads/42?_state=x"


def test_token_is_fetched_once_and_used_again(transport: Transport, bearer: SmallRegistry) -> None:
    registry = client(transport, bearer)
    registry.check_push()
    registry.resolve("1.2")
    registry.put_manifest("1.3", registry.resolve("1.2"))
    tokens = [path for path in bearer.server.seen() if "/token" in path]
    assert tokens == ["GET /token?a=b&service=reg&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"]


def test_wrong_password_is_said_and_not_shown(transport: Transport, small: SmallRegistry) -> None:
    with pytest.raises(UnauthorizedError, match=r"^registry 127\.0\.0\.1:\d+ does not ") as caught:
        client(transport, small, BAD).check_push()
    assert "s3cret" not in caught.value.sentence
    assert "service connection" in caught.value.hint


def test_anonymous_push_is_refused_in_one_sentence(
    transport: Transport, small: SmallRegistry
) -> None:
    with pytest.raises(UnauthorizedError, match=r"does not (let anonymous|accept|let)"):
        client(transport, small, None).check_push()


def test_user_who_may_only_pull_cannot_push(transport: Transport, bearer: SmallRegistry) -> None:
    bearer.granted = ["pull"]
    claim = r"does not let the given user push to team/app \(it answered 401: UNAUTHORIZED: auth"
    registry = client(transport, bearer)
    with pytest.raises(UnauthorizedError, match=claim):
        registry.check_push()
    assert registry.resolve("1.2").content == CONTENT


def test_refused_push_names_repository_and_reason(
    transport: Transport, bearer: SmallRegistry
) -> None:
    denied = Reply(403, b'{"errors":[{"code":"DENIED","message":"requested access is denied"}]}')
    bearer.lie = to("/uploads/", lambda _: denied)
    with pytest.raises(UnauthorizedError, match=r"push to team/app \(it answered 403: DENIED: req"):
        client(transport, bearer).check_push()


def test_upload_that_cannot_be_ended_is_no_fault(
    transport: Transport, bearer: SmallRegistry
) -> None:
    bearer.lie = to("/uploads/42", lambda _: Reply(405))
    client(transport, bearer).check_push()
    assert bearer.server.seen()[-1].startswith("DELETE ")


@pytest.mark.parametrize(
    "location", ["http://127.0.0.2:9/x", "http://[", "http://h:99999/", "http://a b/"]
)
def test_upload_elsewhere_is_left_alone(
    transport: Transport, bearer: SmallRegistry, location: str
) -> None:
    away = Reply(202, headers={"Location": location})
    bearer.lie = to("/uploads/", lambda _: away)
    client(transport, bearer).check_push()
    assert not any(line.startswith("DELETE") for line in bearer.server.seen())


def test_server_that_is_no_registry_is_refused(transport: Transport, bearer: SmallRegistry) -> None:
    bearer.lie = to("/uploads/", lambda _: Reply(200, b"<html>"))
    with pytest.raises(RemoteError, match=r"^registry http://.*/blobs/uploads/ answered 200$"):
        client(transport, bearer).check_push()


# --- manifests ------------------------------------------------------------------------------


def test_tag_and_digest_resolve_to_the_same_bytes(
    transport: Transport, small: SmallRegistry
) -> None:
    registry = client(transport, small)
    manifest = registry.resolve("1.2")
    assert manifest == registry.resolve(manifest.descriptor.digest)
    assert manifest.descriptor == Descriptor(OCI, Digest.of(CONTENT), len(CONTENT))
    accepted = small.server.requests[-1].headers["Accept"]
    assert set(accepted.split(", ")) == set(MANIFEST_TYPES)


def test_stored_manifest_comes_back(transport: Transport, small: SmallRegistry) -> None:
    registry = client(transport, small)
    manifest = registry.resolve("1.2")
    registry.put_manifest("new", manifest)
    assert registry.resolve("new") == manifest


def test_absent_tag_is_not_found(transport: Transport, small: SmallRegistry) -> None:
    with pytest.raises(NotFoundError, match=r"does not have 127\.0\.0\.1:\d+/team/app:nope$"):
        client(transport, small).resolve("nope")


def test_other_bytes_than_asked_for_by_digest_are_refused(
    transport: Transport, bearer: SmallRegistry
) -> None:
    bearer.lie = to("/manifests/", lambda honest: replace(honest, body=honest.body + b" "))
    with pytest.raises(HashMismatchError, match=r"^manifest of .*: expected sha256:.*, got sha256"):
        client(transport, bearer).resolve(Digest.of(CONTENT))


def test_registry_that_contradicts_itself_is_refused(
    transport: Transport, bearer: SmallRegistry
) -> None:
    bearer.lie = to("/manifests/", lambda honest: replace(honest, body=honest.body + b" "))
    with pytest.raises(HashMismatchError, match=r"in Docker-Content-Digest$"):
        client(transport, bearer).resolve("1.2")


@pytest.mark.parametrize("claim", ["", "sha512:00"])
def test_registry_need_not_name_the_digest(
    transport: Transport, bearer: SmallRegistry, claim: str
) -> None:
    headers = {"Content-Type": OCI, "Docker-Content-Digest": claim}
    bearer.lie = to("/manifests/", lambda honest: replace(honest, headers=headers))
    assert client(transport, bearer).resolve("1.2").content == CONTENT


def test_other_digest_after_storing_is_refused(transport: Transport, bearer: SmallRegistry) -> None:
    registry = client(transport, bearer)
    manifest = registry.resolve("1.2")
    other = {"Docker-Content-Digest": Digest.of(b"other").text}
    bearer.lie = to("/manifests/x", lambda honest: replace(honest, headers=other))
    with pytest.raises(HashMismatchError, match=r"^manifest stored as .*:x: expected sha256:"):
        registry.put_manifest("x", manifest)


@pytest.mark.parametrize(
    ("kind", "body", "claim"),
    [
        ("text/html", b"<html>", "expected JSON, got 6 bytes of text/html"),
        (OCI, b"[]", "expected a document of schemaVersion 2"),
        (OCI, b'{"schemaVersion": 1}', "expected a document of schemaVersion 2"),
        ("text/plain", b'{"schemaVersion": 2}', "expected an image manifest or index, got text/p"),
        ("", b'{"schemaVersion": 2, "mediaType": []}', "manifest or index, got no type"),
    ],
)
def test_what_is_no_manifest_is_refused(
    transport: Transport, bearer: SmallRegistry, kind: str, body: bytes, claim: str
) -> None:
    bearer.lie = to("/manifests/", lambda _: Reply(200, body, {"Content-Type": kind}))
    with pytest.raises(FormatError, match=claim):
        client(transport, bearer).resolve("1.2")


def test_type_may_stand_in_the_document(transport: Transport, bearer: SmallRegistry) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    bearer.lie = to("/manifests/", lambda honest: replace(honest, headers=headers))
    assert client(transport, bearer).resolve("1.2").descriptor.media_type == OCI


def test_manifest_over_the_maximum_is_refused(transport: Transport, bearer: SmallRegistry) -> None:
    bearer.lie = to("/manifests/", lambda _: Reply(200, b" " * (MANIFEST_MAX + 1)))
    with pytest.raises(TooLargeError, match=f"expected at most {MANIFEST_MAX} bytes"):
        client(transport, bearer).resolve("1.2")


def test_registry_that_refuses_a_manifest_is_quoted(
    transport: Transport, bearer: SmallRegistry
) -> None:
    fault = Reply(400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}')
    bearer.lie = to("/manifests/x", lambda _: fault)
    manifest = Manifest(Descriptor(OCI, Digest.of(CONTENT), len(CONTENT)), CONTENT)
    with pytest.raises(RemoteError, match=r"answered 400: MANIFEST_BLOB_UNKNOWN: blob unknown$"):
        client(transport, bearer).put_manifest("x", manifest)


# --- tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_token_of_either_name_is_used(
    transport: Transport, bearer: SmallRegistry, field: str
) -> None:
    body = json.dumps({field: "may-pull,push"}).encode()
    bearer.lie = to("/token", lambda _: Reply(200, body))
    client(transport, bearer).check_push()


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b'{"token": 7}', b'{"token": "a\\r\\nX: y"}', b"<html>"],
)
def test_answer_without_a_token_is_refused(
    transport: Transport, bearer: SmallRegistry, body: bytes
) -> None:
    bearer.lie = to("/token", lambda _: Reply(200, body))
    with pytest.raises(FormatError, match=r"^token of http://.*/token: expected "):
        client(transport, bearer).check_push()


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example.com/token",
        "ftp://127.0.0.1/",
        "//x",
        "http://u:p@127.0.0.1/",
        "http://[",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1/a b",
    ],
)
def test_credentials_go_to_no_unprotected_token_service(
    transport: Transport, bearer: SmallRegistry, realm: str
) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    bearer.lie = lambda _, __: Reply(401, headers=challenge)
    with pytest.raises(RemoteError, match="expected a token service with an https address, got "):
        client(transport, bearer).check_push()
    assert all(request.headers["Authorization"] is None for request in bearer.server.requests)


def test_authorizer_tells_its_secret_only_to_the_server_that_asked(
    transport: Transport, bearer: SmallRegistry
) -> None:
    url = f"{bearer.server.origin}/v2/team/app/manifests/1.2"
    authorizer = TokenAuthorizer(transport, GOOD, "repository:team/app:pull")
    assert authorizer.headers("GET", url) == {}
    challenge = transport.request("GET", url, what="registry", max_bytes=999)
    assert authorizer.answer(challenge)
    assert authorizer.headers("GET", url) == {"Authorization": "Bearer may-pull"}
    assert authorizer.headers("GET", "https://elsewhere.example.com/") == {}
    assert not authorizer.answer(challenge), "the same token again is not worth a try"


@pytest.mark.parametrize("lifetime", ["1" + "0" * 400, "Infinity", "1e400", "0.5", "-1", '"5"'])
def test_token_may_claim_any_lifetime(
    transport: Transport, bearer: SmallRegistry, lifetime: str
) -> None:
    body = f'{{"token":"may-pull,push","expires_in":{lifetime}}}'.encode()
    bearer.lie = to("/token", lambda _: Reply(200, body))
    assert client(transport, bearer).resolve("1.2").content == CONTENT


def test_expired_token_is_fetched_again(transport: Transport, bearer: SmallRegistry) -> None:
    times = iter(range(1, 9))

    def refuse_used_tokens(request: Request, honest: Reply) -> Reply:
        if request.path.startswith("/token"):
            return Reply(200, json.dumps({"token": f"may-pull,push-{next(times)}"}).encode())
        spent = "push-1" in (request.headers["Authorization"] or "") and request.method == "GET"
        return Reply(401, headers=bearer._challenge().headers) if spent else honest  # noqa: SLF001 -- the test's own server

    bearer.lie = refuse_used_tokens
    registry = client(transport, bearer)
    registry.check_push()
    assert registry.resolve("1.2").content == CONTENT
    assert next(times) == 3


# --- challenges -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="r"', [("basic", {"realm": "r"})]),
        ("Negotiate", [("negotiate", {})]),
        ("Negotiate, Basic realm=r", [("negotiate", {}), ("basic", {"realm": "r"})]),
        (
            'BEARER Realm="https://a/t?x=1,2",service = "s" , scope="a:b:pull,push"',
            [("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "a:b:pull,push"})],
        ),
        (
            'Basic realm="a \\"b\\\\", charset=UTF-8, Bearer realm="c"',
            [("basic", {"realm": 'a "b\\', "charset": "UTF-8"}), ("bearer", {"realm": "c"})],
        ),
        ("", []),
        ('"', []),
        ("=x", []),
    ],
)
def test_challenges_are_read(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert list(parse_challenges(header)) == [Challenge(*parts) for parts in challenges]


@given(st.text(alphabet='ab="\\, \t%', max_size=60))
def test_any_challenge_is_read_without_a_fault(header: str) -> None:
    assert len(parse_challenges(header)) <= len(header)


# --- where the API is -----------------------------------------------------------------------


def test_api_of_docker_hub_has_its_own_host(transport: Transport) -> None:
    assert base_url(transport, "docker.io") == "https://registry-1.docker.io"


def test_other_hosts_are_spoken_to_over_https_only(transport: Transport) -> None:
    assert base_url(transport, "registry.invalid:5000") == "https://registry.invalid:5000"


def test_loopback_is_spoken_to_over_https_if_it_answers(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    tls = authority.server_context()
    with SmallServer(lambda _: Reply(401), tls=tls) as server:
        with Transport(TransportSettings(ca_files=(authority.ca_file,))) as transport:
            assert base_url(transport, server.host) == server.origin
        with Transport() as transport, pytest.raises(CertificateError, match="cannot be verified"):
            base_url(transport, server.host)


def test_loopback_is_spoken_to_over_http_otherwise(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(401)) as server:
        assert base_url(transport, server.host) == server.origin


def test_registry_that_is_down_is_unreachable(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(200)) as server:
        host = server.host
    registry = Registry(transport, Repository(host, "team/app"), GOOD)
    with pytest.raises(UnreachableError, match=rf"^registry http://{host} cannot be reached: conn"):
        registry.check_push()


def test_password_is_sent_as_utf8() -> None:
    encoded = GOOD.basic().removeprefix("Basic ")
    assert base64.b64decode(encoded).decode() == "me:pass:wörd %;"
