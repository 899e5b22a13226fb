"""Claims about `signimage.registry`, against a small registry on loopback that can lie."""

import base64
import json
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from signimage.errors import (
    CertificateError,
    FormatError,
    HashMismatchError,
    NotFoundError,
    RemoteError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from signimage.oci import INDEX_TYPES, Descriptor, Digest, Manifest, Repository
from signimage.registry import (
    MANIFEST_MAX,
    MANIFEST_TYPES,
    PARALLEL,
    Registry,
    base_url,
)
from signimage.tags import move_tags, restore
from signimage.transport import ATTEMPTS, Transport, TransportSettings
from unit.certificates import make_authority
from unit.small_registry import BAD, CONTENT, GOOD, OCI, SmallRegistry, client, to
from unit.small_server import Reply, Request, SmallServer


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


# --- push permission ------------------------------------------------------------------------


def test_permission_to_push_is_found_out_and_leaves_no_upload(
    transport: Transport, small: SmallRegistry
) -> None:
    client(transport, small).check_push()
    assert small.server.seen()[-1] == "DELETE /v2/team/app/blobs/uploads/42?_state=x"


def test_wrong_password_is_said_and_not_shown(transport: Transport, small: SmallRegistry) -> None:
    claim = r"does not accept the given user name and password \(it answered 401: "
    with pytest.raises(UnauthorizedError, match=claim) as caught:
        client(transport, small, BAD).check_push()
    assert "s3cret" not in caught.value.sentence
    assert "service connection" in caught.value.hint


def test_anonymous_push_is_refused_in_one_sentence(
    transport: Transport, small: SmallRegistry
) -> None:
    with pytest.raises(UnauthorizedError, match="does not let anonymous users ") as caught:
        client(transport, small, None).check_push()
    assert "name its service connection in containerRegistry" in caught.value.hint


def test_user_who_may_only_pull_cannot_push(transport: Transport, bearer: SmallRegistry) -> None:
    bearer.granted = ["pull"]
    claim = r"does not let the given user push to team/app \(it answered 401: UNAUTHORIZED: auth"
    registry = client(transport, bearer)
    with pytest.raises(UnauthorizedError, match=claim) as caught:
        registry.check_push()
    assert caught.value.hint == "The account needs the right to push to this repository"
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


def test_no_right_to_delete_is_asked_for_to_end_an_upload(
    transport: Transport, bearer: SmallRegistry
) -> None:
    wants_more = {"WWW-Authenticate": f'{bearer.challenge().partition(",scope=")[0]},scope="x:y:z"'}
    bearer.lie = to("/uploads/42", lambda _: Reply(401, headers=wants_more))
    client(transport, bearer).check_push()
    assert [line.partition("?")[0] for line in bearer.server.seen()] == [
        "POST /v2/team/app/blobs/uploads/",
        "GET /token",
        "POST /v2/team/app/blobs/uploads/",
        "DELETE /v2/team/app/blobs/uploads/42",
    ]


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


@pytest.mark.parametrize(
    ("status", "hint"), [(429, "Wait a while; "), (503, "Try again; its operator can see why")]
)
def test_registry_that_cannot_now_is_told_from_one_that_refuses(
    transport: Transport, bearer: SmallRegistry, status: int, hint: str
) -> None:
    busy = Reply(status, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}')
    bearer.lie = to("/uploads/", lambda _: busy)
    claim = rf"answered {status}: TOOMANYREQUESTS: slow down$"
    with pytest.raises(UnavailableError, match=claim) as caught:
        client(transport, bearer).check_push()
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("status", [429, 503])
def test_busy_registry_is_asked_again_whether_we_may_push(
    transport: Transport, bearer: SmallRegistry, status: int
) -> None:
    replies = iter([Reply(status, headers={"Retry-After": "0"})])
    bearer.lie = to("/blobs/uploads/", lambda honest: next(replies, honest))
    client(transport, bearer).check_push()
    assert next(replies, None) is None


def test_server_that_is_no_registry_is_refused(transport: Transport, bearer: SmallRegistry) -> None:
    bearer.lie = to("/uploads/", lambda _: Reply(200, b"<html>"))
    with pytest.raises(
        RemoteError, match=r"^registry http://.*/blobs/uploads/ answered 200 with no type, which is"
    ):
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
        # One digest for what two readers take for two things.
        (OCI, b'{"schemaVersion": 2, "mediaType": "x"}', "expected type .*, got another one insid"),
        (OCI, b'{"schemaVersion": 2, "manifests": []}', "expected no 'manifests' in type"),
        (INDEX_TYPES[0], b'{"schemaVersion": 2, "layers": []}', "expected no 'layers' in type"),
        (OCI, b'{"schemaVersion": 2, "config": {}, "config": 1}', "each member once, got 'config'"),
        (OCI, b'{"schemaVersion": 2, "Layers": []}', "member 'Layers' is misspelt in letter case"),
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


def another(text: str) -> Manifest:
    """Make a manifest that the registry does not have."""
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI, "layers": [], "is": text}).encode()
    return Manifest(Descriptor(OCI, Digest.of(content), len(content)), content)


def test_manifest_is_stored_untagged_under_its_digest(
    transport: Transport, small: SmallRegistry
) -> None:
    manifest = another("untagged")
    digest = manifest.descriptor.digest
    client(transport, small).put_manifest(digest, manifest)
    assert small.server.requests[-1].path == f"/v2/team/app/manifests/{digest}"
    assert client(transport, small).resolve(digest) == manifest


def test_manifest_is_not_sent_under_the_digest_of_another(
    transport: Transport, small: SmallRegistry
) -> None:
    with pytest.raises(HashMismatchError, match=r"^manifest stored as .*@sha256:.*: expected sha2"):
        client(transport, small).put_manifest(Digest.of(b""), another("other"))
    assert small.server.requests == []


def test_absence_is_an_answer_and_nothing_else_is_absence(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    assert registry.find("1.2") == registry.resolve("1.2")
    assert registry.find("nope") is None
    for status, kind in [(401, UnauthorizedError), (500, UnavailableError), (400, RemoteError)]:
        bearer.lie = to_get("nope", Reply(status))
        with pytest.raises(kind, match=r"answered \d+"):
            registry.find("nope")


def to_get(name: str, reply: Reply) -> Callable[[Request, Reply], Reply]:
    """Answer so to everybody who looks at *name*."""
    return lambda request, honest: (
        reply if request.method == "GET" and request.path.endswith(f"/{name}") else honest
    )


def to_put(name: str, reply: Reply) -> Callable[[Request, Reply], Reply]:
    """Write *name*, and answer so."""
    return lambda request, honest: (
        reply if honest.status == 201 and request.path.endswith(f"/{name}") else honest
    )


# --- tags -----------------------------------------------------------------------------------


def test_all_tags_are_moved(transport: Transport, small: SmallRegistry) -> None:
    registry = client(transport, small)
    wanted = {f"1.{number}": another(str(number % 2)) for number in range(20)}
    move_tags(registry, wanted)
    assert {tag: registry.find(tag) for tag in wanted} == wanted


def test_tag_that_cannot_be_moved_keeps_no_other_from_it_and_is_named(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    bearer.refused = {"2"}
    with pytest.raises(RemoteError, match=r"/manifests/2 answered 400: DENIED: locked$") as caught:
        move_tags(registry, {tag: another("x") for tag in ("1", "2", "3")})
    repository = f"{bearer.server.host}/team/app"
    assert caught.value.state == f"Tags of {repository} moved: 1, 3; not moved: 2"
    assert (registry.find("1"), registry.find("2")) == (another("x"), None)


@pytest.mark.parametrize("status", [400, 403, 405, 409, 412])
def test_tag_that_may_not_be_overwritten_is_told_from_a_stranger_in_the_place_of_the_registry(
    transport: Transport, bearer: SmallRegistry, status: int
) -> None:
    locked = Reply(status, b'{"errors":[{"code":"TAG_INVALID","message":"immutable"}]}')
    bearer.lie = to_put("1", locked)
    with pytest.raises(RemoteError, match=rf"answered {status}: TAG_INVALID: immutable") as caught:
        client(transport, bearer).put_manifest("1", another("x"))
    assert caught.value.hint.startswith("If the registry keeps tags from being overwritten, ")


def test_tag_whose_answer_was_lost_is_looked_up(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    bearer.lie = to_put("2", Reply(raw=b""))
    move_tags(registry, {"1": another("x"), "2": another("x")})
    assert registry.find("2") == another("x")


def test_tag_of_which_nothing_is_known_is_told_from_one_that_was_not_moved(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    bearer.lie = lambda request, honest: (
        Reply(503) if request.path.endswith("/2") and honest.status != 401 else honest
    )
    bearer.refused = {"3"}
    with pytest.raises(UnavailableError, match=r"/manifests/2 answered 503$") as caught:
        move_tags(registry, {tag: another("x") for tag in ("1", "2", "3")})
    assert caught.value.state.endswith(" moved: 1; not moved: 3; moved or not: 2")


def test_busy_registry_is_asked_again_to_move_a_tag(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    left = [503, 429]
    bearer.lie = lambda request, honest: (
        Reply(left.pop()) if left and request.method == "PUT" and honest.status == 201 else honest
    )
    move_tags(registry, {"1": another("x")})
    assert (registry.find("1"), left) == (another("x"), [])


def test_tag_is_moved_where_the_look_after_a_failure_finds_the_registry_back(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    bearer.refused = {"1", "2"}
    left = ATTEMPTS

    def be_away(request: Request, honest: Reply) -> Reply:
        nonlocal left
        if not (honest.status == 400 and request.path.endswith("/1")):
            return honest
        left -= 1
        if not left:
            bearer.refused.remove("1")
        return Reply(503)

    bearer.lie = be_away
    with pytest.raises(RemoteError, match=r"/manifests/2 answered 400: DENIED: locked$") as caught:
        move_tags(registry, {"1": another("x"), "2": another("x")})
    assert caught.value.state.endswith(" moved: 1; not moved: 2")
    assert (registry.find("1"), left) == (another("x"), 0)


def test_no_further_tag_is_moved_once_the_step_is_canceled(
    transport: Transport, bearer: SmallRegistry
) -> None:
    """What is under way comes to its end; it would otherwise go on behind whoever puts back."""
    registry = client(transport, bearer)
    registry.check_push()
    threads = set(threading.enumerate())
    arrived, canceled = threading.Semaphore(0), threading.Event()

    def hold(_: Request, honest: Reply) -> Reply:
        arrived.release()
        canceled.wait()
        return honest

    bearer.lie = hold

    def cancel() -> None:
        for _ in range(PARALLEL):
            arrived.acquire()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=cancel).start()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        move_tags(registry, {str(number): another("x") for number in range(20)})
    bearer.server.requests.clear()
    canceled.set()
    for thread in set(threading.enumerate()) - threads:
        if "work" in thread.name:
            thread.join(20)
    assert bearer.server.requests == []


def test_tags_are_put_back_and_those_that_were_not_there_removed(
    transport: Transport, small: SmallRegistry
) -> None:
    small.granted = ["pull", "push", "delete"]
    registry = client(transport, small)
    before = {tag: registry.find(tag) for tag in ("1.2", "new")}
    ours = another("ours")
    move_tags(registry, dict.fromkeys(before, ours))
    assert restore(registry, before, dict.fromkeys(before, ours.descriptor.digest)) == ()
    assert {tag: registry.find(tag) for tag in before} == before


def test_tag_that_somebody_else_moved_is_left_alone(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    before = {"1.2": registry.find("1.2"), "new": None}
    theirs = another("theirs")
    move_tags(registry, dict.fromkeys(before, theirs))
    assert restore(registry, before, dict.fromkeys(before, another("ours").descriptor.digest)) == ()
    assert registry.find("1.2") == registry.find("new") == theirs


def test_tag_that_named_the_same_before_is_not_touched(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    before = registry.resolve("1.2")
    bearer.server.requests.clear()
    assert restore(registry, {"1.2": before}, {"1.2": before.descriptor.digest}) == ()
    assert bearer.server.requests == []


def test_tags_that_cannot_be_put_back_are_named(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    before = {tag: registry.find(tag) for tag in ("1.2", "new", "gone")}
    ours = another("ours")
    move_tags(registry, dict.fromkeys(("1.2", "new"), ours))
    bearer.refused = {"1.2"}
    left = restore(registry, before, dict.fromkeys(before, ours.descriptor.digest))
    assert left == ("1.2", "new"), "nobody may delete here"
    bearer.lie = to_get("gone", Reply(500))
    assert restore(registry, {"gone": None}, {"gone": ours.descriptor.digest}) == ("gone",)


def test_removed_tag_is_gone_and_its_manifest_is_not(
    transport: Transport, bearer: SmallRegistry
) -> None:
    bearer.granted = ["pull", "push", "delete"]
    registry = client(transport, bearer)
    registry.put_manifest("old", registry.resolve("1.2"))
    assert registry.remove_tag("old")
    assert registry.find("old") is None
    assert registry.find(Digest.of(CONTENT)) is not None


def test_right_to_delete_is_asked_for_only_to_remove_a_tag(
    transport: Transport, bearer: SmallRegistry
) -> None:
    bearer.granted = ["pull", "push", "delete"]
    registry = client(transport, bearer)
    move_tags(registry, {"1": another("x")})
    registry.remove_tag("1")
    registry.find("1")
    tokens = [line for line in bearer.server.seen() if line.startswith("GET /token")]
    assert [line.rpartition("%3A")[2] for line in tokens] == ["pull%2Cpush", "delete"]


@pytest.mark.parametrize(
    "answer",
    [
        Reply(405),
        Reply(404),
        Reply(
            400, b'{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}'
        ),
        Reply(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not"}]}'),
    ],
)
def test_registry_that_cannot_remove_a_tag_says_so(
    transport: Transport, bearer: SmallRegistry, answer: Reply
) -> None:
    bearer.lie = lambda request, honest: answer if request.method == "DELETE" else honest
    assert client(transport, bearer).remove_tag("1.2") is False


def test_account_that_may_not_remove_a_tag_is_told(
    transport: Transport, bearer: SmallRegistry
) -> None:
    with pytest.raises(UnauthorizedError, match=r"let the given user remove tags from team/app"):
        client(transport, bearer).remove_tag("1.2")


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
