"""Claims about `signimage.blobupload`: one blob, and a registry that fails at every point."""

import io
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signimage.blobupload import AbandonedError, BlobUpload, Mounts, Pace
from signimage.errors import (
    HashMismatchError,
    InputError,
    RemoteError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from signimage.oci import Blob, Descriptor, Digest, Repository
from signimage.registry import Registry
from signimage.transport import Transport, TransportSettings
from unit.small_registry import GOOD
from unit.small_server import Reply
from unit.upload_registry import (
    REPOSITORY,
    Arrival,
    Drop,
    Fault,
    Mute,
    Session,
    Stall,
    UploadRegistry,
    nth,
    relocated,
)

CONTENT = random.Random(7).randbytes(1_000_000)  # noqa: S311 -- only to be no pattern
PACE = Pace(chunk=300_000, pause_s=0.001, stall_s=10.0, answer_s=10.0)
CHUNKS = ["0-299999", "300000-599999", "600000-899999", "900000-999999"]


@pytest.fixture
def server() -> Iterator[UploadRegistry]:
    with UploadRegistry() as it:
        yield it


@pytest.fixture
def registry(server: UploadRegistry) -> Iterator[Registry]:
    with Transport(TransportSettings(backoff_s=0.001)) as transport:
        yield Registry(transport, Repository(server.host, REPOSITORY), None)


def blob_of(content: bytes, read: Callable[[], BinaryIO] | None = None) -> Blob:
    descriptor = Descriptor("application/x", Digest.of(content), len(content))
    return Blob(descriptor, read or partial(io.BytesIO, content))


def upload(
    registry: Registry,
    content: bytes = CONTENT,
    pace: Pace = PACE,
    blob: Blob | None = None,
    **mounts: str,
) -> list[int]:
    """Upload and return how far it was said to be."""
    told: list[int] = []
    BlobUpload(
        registry,
        blob or blob_of(content),
        pace,
        mounts=Mounts(registry, list(mounts.values())),
        taken=told.append,
    ).run()
    return told


def is_there(server: UploadRegistry, content: bytes = CONTENT) -> bool:
    return server.blobs.get(Digest.of(content).text) == len(content)


# --- in one piece, in chunks, not at all ----------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 299_999, 300_000])
def test_small_content_goes_in_one_piece(
    server: UploadRegistry, registry: Registry, size: int
) -> None:
    upload(registry, CONTENT[:size])
    assert is_there(server, CONTENT[:size])
    assert server.seen() == [
        f"HEAD blobs/{Digest.of(CONTENT[:size])}",
        "POST blobs/uploads/",
        "PUT blobs/uploads/1",
    ]


def test_large_content_goes_in_chunks(server: UploadRegistry, registry: Registry) -> None:
    told = upload(registry)
    assert is_there(server)
    assert server.ranges() == CHUNKS
    assert server.arrivals[-1].path.endswith(
        f"/uploads/1?_state=1000000&digest={Digest.of(CONTENT).text.replace(':', '%3A')}"
    )
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)


@pytest.mark.parametrize(("least", "chunks"), [("600000", 2), ("2000000", 0), ("many", 4)])
def test_chunks_are_as_large_as_the_registry_wants(
    server: UploadRegistry, registry: Registry, least: str, chunks: int
) -> None:
    server.lie = lambda arrival, honest: (
        replace(honest, headers={**honest.headers, "OCI-Chunk-Min-Length": least})
        if arrival.method == "POST"
        else honest
    )
    upload(registry)
    assert is_there(server)
    assert len(server.ranges()) == chunks


def test_what_the_registry_has_is_not_sent(server: UploadRegistry, registry: Registry) -> None:
    server.blobs[Digest.of(CONTENT).text] = len(CONTENT)
    assert upload(registry) == [len(CONTENT)]
    assert server.seen() == [f"HEAD blobs/{Digest.of(CONTENT)}"]


@pytest.mark.parametrize(
    "answer", [Reply(200, b"<html>"), Reply(403), Reply(405), Reply(302), Reply(500)]
)
def test_what_is_no_clear_yes_is_sent(
    server: UploadRegistry, registry: Registry, answer: Reply
) -> None:
    server.disturb = lambda arrival: answer if arrival.method == "HEAD" else None
    upload(registry)
    assert is_there(server)


@settings(max_examples=30)  # each is a server of its own
@given(st.binary(max_size=60), st.integers(1, 20))
def test_any_content_arrives_in_chunks_of_any_size(content: bytes, chunk: int) -> None:
    with UploadRegistry() as server, Transport() as transport:
        registry = Registry(transport, Repository(server.host, REPOSITORY), None)
        upload(registry, content, replace(PACE, chunk=chunk))
        assert is_there(server, content)


# --- mounts ---------------------------------------------------------------------------------


def test_what_another_repository_has_is_mounted(server: UploadRegistry, registry: Registry) -> None:
    server.mountable.add(("team/base", Digest.of(CONTENT).text))
    assert upload(registry, one=REPOSITORY, two="team/base") == [len(CONTENT)]
    assert server.seen() == [f"HEAD blobs/{Digest.of(CONTENT)}", "POST blobs/uploads/"]
    assert server.arrivals[-1].query["from"] == ["team/base"]


def test_what_nobody_has_the_content_of_is_not_mounted(
    server: UploadRegistry, registry: Registry
) -> None:
    """An archive may name what its author must not read, and our login may."""
    server.mountable.add(("team/private", Digest.of(CONTENT).text))
    described = blob_of(CONTENT).descriptor
    blob = Blob(described, partial(io.BytesIO, bytes(len(CONTENT))))
    with pytest.raises(HashMismatchError, match=rf"^content of {described.digest}: expected sha"):
        upload(registry, blob=blob, private="team/private")
    assert not any("mount" in arrival.query for arrival in server.arrivals)
    assert not server.blobs


def test_what_was_described_by_reading_it_is_mounted_without_reading_it_again(
    server: UploadRegistry, registry: Registry
) -> None:
    server.mountable.add(("team/base", Digest.of(CONTENT).text))
    blob = Blob(blob_of(CONTENT).descriptor, partial(io.BytesIO, b""), is_proven=True)
    assert upload(registry, blob=blob, base="team/base") == [len(CONTENT)]


def test_upload_that_a_registry_begins_instead_of_a_mount_is_used(
    server: UploadRegistry, registry: Registry
) -> None:
    upload(registry, CONTENT[:9], one="team/base")
    assert is_there(server, CONTENT[:9])
    assert server.seen("POST", "PUT") == ["POST blobs/uploads/", "PUT blobs/uploads/1"]


@pytest.mark.parametrize("status", [401, 403, 404, 405, 500])
def test_refused_mount_is_no_fault(server: UploadRegistry, registry: Registry, status: int) -> None:
    server.disturb = lambda arrival: Reply(status) if "mount" in arrival.query else None
    upload(registry, one="team/base", two="team/other")
    assert is_there(server)


def test_repository_that_we_may_not_read_is_asked_for_one_blob_only(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = lambda arrival: Reply(403) if "mount" in arrival.query else None
    mounts = Mounts(registry, ["team/base"])
    for content in (b"1", b"2", b"3"):
        BlobUpload(registry, blob_of(content), PACE, mounts=mounts).run()
        assert is_there(server, content)
    assert sum("mount" in arrival.query for arrival in server.arrivals) == 1


def test_mounted_blob_that_is_another_is_refused(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = lambda arrival: (
        Reply(201, headers={"Docker-Content-Digest": Digest.of(b"").text})
        if "mount" in arrival.query
        else None
    )
    with pytest.raises(HashMismatchError, match=r"^blob mounted from team/base: expected sha256:"):
        upload(registry, one="team/base")


# --- faults on the way ----------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 2, 150_000, 299_999, 300_000])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_upload_goes_on_where_a_lost_connection_left_it(
    server: UploadRegistry, registry: Registry, number: int, after: int
) -> None:
    server.disturb = nth("PATCH", {number: Drop(after, kept=after)})
    upload(registry)
    assert is_there(server)
    assert server.ranges()[number].startswith(f"{(number - 1) * 300_000 + after}-")
    assert server.received == len(CONTENT) - after, "nothing was sent twice"


def test_one_byte_looks_like_none_and_makes_the_upload_begin_anew(
    server: UploadRegistry, registry: Registry
) -> None:
    """Registries say "0-0" of both."""
    server.disturb = nth("PATCH", {1: Drop(1, kept=1)})
    upload(registry)
    assert is_there(server)


def test_what_a_registry_took_and_did_not_keep_is_sent_again(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = nth("PATCH", {2: Drop(200_000, kept=50_000)})
    upload(registry)
    assert is_there(server)
    assert server.ranges()[2].startswith("350000-")


@pytest.mark.parametrize(
    ("method", "number"), [("POST", 1), ("PATCH", 1), ("PATCH", 3), ("PUT", 1), ("HEAD", 1)]
)
def test_answer_that_is_lost_is_no_fault(
    server: UploadRegistry, registry: Registry, method: str, number: int
) -> None:
    server.disturb = nth(method, {number: Mute()})
    upload(registry)
    assert is_there(server)
    assert server.received == len(CONTENT), "nothing was sent twice"


@pytest.mark.parametrize("fault", [Drop(), Drop(5), Reply(500), Reply(429), Reply(404)])
def test_one_piece_is_sent_again_from_the_start(
    server: UploadRegistry, registry: Registry, fault: Fault
) -> None:
    server.disturb = nth("PUT", {1: fault, 2: fault})
    upload(registry, CONTENT[:1000])
    assert is_there(server, CONTENT[:1000])
    assert len(server.seen("PUT")) == 3


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_registry_is_asked_how_far_it_got(
    server: UploadRegistry, registry: Registry, status: int
) -> None:
    server.disturb = nth("PATCH", {2: Reply(status, headers={"Retry-After": "0"})})
    upload(registry)
    assert server.ranges() == [*CHUNKS[:2], *CHUNKS[1:]]
    assert server.received == len(CONTENT)


def test_upload_that_the_registry_forgot_is_begun_anew(
    server: UploadRegistry, registry: Registry
) -> None:
    def forget(arrival: Arrival) -> Fault:
        if arrival.method == "PATCH" and arrival.number == 3:
            server.sessions.clear()
            return Drop(7)
        return None

    server.disturb = forget
    upload(registry)
    assert is_there(server)
    assert len(server.seen("POST")) == 2


@pytest.mark.parametrize(
    ("fault", "kind", "claim"),
    [
        (Drop(9), UnreachableError, r"^registry http://.* cannot be reached: "),
        (Reply(503), UnavailableError, r"^registry http://.*/blobs/uploads/\d answered 503$"),
    ],
)
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_tries_end(
    server: UploadRegistry,
    registry: Registry,
    method: str,
    fault: Fault,
    kind: type[RemoteError],
    claim: str,
) -> None:
    server.disturb = lambda arrival: fault if arrival.method == method else None
    with pytest.raises(kind, match=claim):
        upload(registry, CONTENT if method == "PATCH" else CONTENT[:1000])
    assert len(server.seen(method)) == PACE.tries


def test_tries_begin_anew_with_every_further_chunk(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = lambda arrival: (
        Drop(5) if arrival.method == "PATCH" and arrival.number % 4 else None
    )
    upload(registry)
    assert is_there(server)
    assert len(server.ranges()) == 16


def test_registry_that_takes_nothing_more_is_given_up(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = lambda arrival: Stall() if arrival.method == "PUT" else None
    large = bytes(60_000_000)  # more than the buffers of both sides
    pace = replace(PACE, chunk=len(large), tries=1, stall_s=0.2)
    with pytest.raises(UnreachableError, match=r"no further data taken within 0\.2 s$"):
        upload(registry, large, pace)


def test_registry_that_never_answers_is_given_up(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = lambda arrival: Stall() if arrival.method == "PUT" else None
    pace = replace(PACE, tries=1, answer_s=0.2)
    with pytest.raises(UnreachableError, match=r"no complete answer within 0\.2 s$"):
        upload(registry, CONTENT[:10], pace)


# --- registries that do chunks in another way, or lie ---------------------------------------


@pytest.mark.parametrize("status", [200, 400, 404, 405, 411, 413, 415, 501])
@pytest.mark.parametrize("number", [1, 3])
def test_registry_that_takes_no_chunks_gets_one_piece(
    server: UploadRegistry, registry: Registry, status: int, number: int
) -> None:
    server.disturb = nth("PATCH", {number: Reply(status)})
    upload(registry)
    assert is_there(server)
    assert len(server.seen("PATCH")) == number
    assert len(server.seen("PUT")) == 1


def test_registry_that_is_somewhere_else_is_asked_where(
    server: UploadRegistry, registry: Registry
) -> None:
    def elsewhere(arrival: Arrival) -> Fault:
        if arrival.method == "PATCH" and arrival.number == 3:
            server.sessions["1"] = Session()
        return None

    server.disturb = elsewhere
    upload(registry)
    assert is_there(server)
    assert server.ranges() == [*CHUNKS[:3], *CHUNKS]


def test_registry_that_finds_every_range_wrong_gets_one_piece(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = lambda arrival: Reply(416) if arrival.method == "PATCH" else None
    upload(registry)
    assert is_there(server)
    assert len(server.ranges()) == 2


def saying(said: str, method: str, number: int = 0) -> Callable[[Arrival, Reply], Reply]:
    """Have requests of one *method*, or the one of that *number*, answered with another range."""

    def lie(arrival: Arrival, honest: Reply) -> Reply:
        if arrival.method != method or number not in (0, arrival.number):
            return honest
        return replace(honest, headers={**honest.headers, "Range": said})

    return lie


@pytest.mark.parametrize("said", ["0-299998", "0-1", "bytes=0-299999"])
def test_registry_may_take_less_than_a_chunk(
    server: UploadRegistry, registry: Registry, said: str
) -> None:
    """What it says counts, where it can be true; its content is proven by the digest."""
    server.lie = saying(said, "PATCH", 1)
    upload(registry)
    assert is_there(server)


@pytest.mark.parametrize("said", ["0-300000", "0-999999999999", "0-0"])
def test_registry_that_took_what_was_not_sent_gets_one_piece(
    server: UploadRegistry, registry: Registry, said: str
) -> None:
    server.lie = saying(said, "PATCH", 1)
    upload(registry)
    assert is_there(server)
    assert len(server.seen("PATCH")) == 1


@pytest.mark.parametrize("said", ["", "5-9", "0-", "0-x", "-1"])
def test_registry_that_does_not_say_how_far_it_got_is_taken_to_have_all(
    server: UploadRegistry, registry: Registry, said: str
) -> None:
    server.lie = saying(said, "PATCH")
    upload(registry)
    assert is_there(server)
    assert server.ranges() == CHUNKS


@pytest.mark.parametrize("said", ["0-999999", "0-599999", "", "x"])
def test_lie_about_how_far_it_got_makes_the_upload_begin_anew(
    server: UploadRegistry, registry: Registry, said: str
) -> None:
    server.disturb = nth("PATCH", {1: Drop(5)})
    server.lie = saying(said, "GET")
    upload(registry)
    assert is_there(server)
    assert len(server.seen("POST")) == 2


def test_registry_that_finds_another_digest_in_chunks_gets_one_piece(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = nth("PUT", {1: Reply(400)})
    upload(registry)
    assert is_there(server)


def test_registry_that_stored_something_else_is_refused(
    server: UploadRegistry, registry: Registry
) -> None:
    server.lie = lambda arrival, honest: (
        Reply(201, headers={"Docker-Content-Digest": Digest.of(b"").text})
        if arrival.method == "PUT"
        else honest
    )
    with pytest.raises(HashMismatchError, match=r"^blob stored in .*/team/app: expected sha256:"):
        upload(registry, CONTENT[:10])


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_refusal_ends_the_upload(server: UploadRegistry, registry: Registry, method: str) -> None:
    denied = Reply(403, b'{"errors":[{"code":"DENIED","message":"read only"}]}')
    server.disturb = lambda arrival: denied if arrival.method == method else None
    with pytest.raises(UnauthorizedError, match=r"push to team/app \(it answered 403: DENIED: rea"):
        upload(registry)
    assert len(server.seen(method)) == 1


def test_repository_that_cannot_be_made_ends_the_upload(
    server: UploadRegistry, registry: Registry
) -> None:
    unknown = Reply(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}')
    server.disturb = lambda arrival: unknown if arrival.method == "POST" else None
    with pytest.raises(RemoteError, match=r"answered 404: NAME_UNKNOWN: no such repository$"):
        upload(registry)
    assert len(server.seen("POST")) == 1


def test_proxy_that_finds_it_too_large_is_told_of(
    server: UploadRegistry, registry: Registry
) -> None:
    server.disturb = lambda arrival: Reply(413) if arrival.method in ("PATCH", "PUT") else None
    with pytest.raises(RemoteError, match=r"answered 413$") as caught:
        upload(registry)
    assert "A proxy before the registry" in caught.value.hint


# --- what is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [PACE, replace(PACE, chunk=2_000_000)])
@pytest.mark.parametrize(
    ("found", "claim"),
    [
        (CONTENT[:-1] + b"!", r"^content of sha256:\w+: expected sha256:\w+, got sha256:\w+$"),
        (CONTENT[:-1], "expected 1000000 bytes, got 999999$"),
        (CONTENT[:5], "expected 1000000 bytes, got 5$"),
        (b"", "expected 1000000 bytes, got 0$"),
        (CONTENT + b"!", "expected 1000000 bytes, got more$"),
    ],
)
def test_content_that_is_not_what_it_should_be_is_never_sent_to_its_end(
    server: UploadRegistry, registry: Registry, pace: Pace, found: bytes, claim: str
) -> None:
    blob = blob_of(CONTENT, lambda: io.BytesIO(found))
    with pytest.raises(HashMismatchError, match=claim):
        upload(registry, pace=pace, blob=blob)
    assert server.received < len(CONTENT)
    assert server.blobs == {}


class Broken(io.BytesIO):
    """A file that fails half-way."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > len(CONTENT) // 2:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_content_that_cannot_be_read_is_not_the_registrys_fault(registry: Registry) -> None:
    claim = r"^content of sha256:\w+ cannot be read: input/output error$"
    with pytest.raises(InputError, match=claim):
        upload(registry, blob=blob_of(CONTENT, lambda: Broken(CONTENT)))


def test_content_that_is_gone_is_said(registry: Registry) -> None:
    def gone() -> BinaryIO:
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(InputError, match=r"cannot be read: no such file or directory$"):
        upload(registry, blob=blob_of(CONTENT, gone))


def test_every_file_is_closed(server: UploadRegistry, registry: Registry) -> None:
    opened: list[io.BytesIO] = []

    def read() -> BinaryIO:
        opened.append(io.BytesIO(CONTENT))
        return opened[-1]

    server.disturb = nth("PATCH", {2: Drop(100), 4: Drop(100)})
    upload(registry, blob=blob_of(CONTENT, read))
    assert len(opened) > 1
    assert all(file.closed for file in opened)


def test_upload_that_is_given_up_sends_nothing_more(
    server: UploadRegistry, registry: Registry
) -> None:
    abandoned = threading.Event()
    server.disturb = lambda arrival: abandoned.set() if arrival.method == "PATCH" else None
    with pytest.raises(AbandonedError):
        BlobUpload(
            registry,
            blob_of(CONTENT),
            PACE,
            mounts=Mounts(registry, []),
            abandoned=abandoned,
        ).run()
    assert len(server.seen("PATCH")) <= 2, "the second has no content"
    assert server.received <= 300_000


# --- who sends, and where to ----------------------------------------------------------------


def test_token_that_ends_on_the_way_is_replaced(server: UploadRegistry) -> None:
    """Every token is good for three requests."""
    used: dict[str, int] = {}

    def guard(arrival: Arrival) -> Fault:
        if arrival.path.startswith("/token"):
            return Reply(200, b'{"token":"t%d"}' % len(used))
        token = arrival.headers["Authorization"] or ""
        used[token] = used.get(token, 0) + 1
        if token and used[token] <= 3:
            return None
        return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{server.origin}/token"'})

    server.disturb = guard
    with Transport(TransportSettings(backoff_s=0.001)) as transport:
        upload(Registry(transport, Repository(server.host, REPOSITORY), GOOD))
    assert is_there(server)
    assert server.received == len(CONTENT)


@pytest.mark.parametrize("status", [202, 307, 308])
@pytest.mark.parametrize("size", [1000, len(CONTENT)])
def test_storage_elsewhere_gets_the_content_and_no_credentials(
    server: UploadRegistry, status: int, size: int
) -> None:
    """Some registries name an address elsewhere at once, others redirect to it."""

    def guard(arrival: Arrival) -> Fault:
        if arrival.headers["Authorization"] != GOOD.basic():
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        if arrival.method in ("PUT", "PATCH"):
            return Reply(status, headers={"Location": f"{storage.origin}{arrival.path}"})
        return None

    with UploadRegistry() as storage, Transport() as transport:
        storage.sessions["1"] = Session()
        address = f"{storage.origin}/v2/{REPOSITORY}/blobs/uploads/1"
        server.disturb = guard
        if status == 202:
            server.lie = lambda _, honest: relocated(honest, address)
        upload(Registry(transport, Repository(server.host, REPOSITORY), GOOD), CONTENT[:size])
        assert is_there(storage, CONTENT[:size])
        assert {arrival.headers["Authorization"] for arrival in storage.arrivals} == {None}
    assert server.received == 0


def test_storage_elsewhere_gets_no_credentials_even_if_it_asks(server: UploadRegistry) -> None:
    with UploadRegistry() as storage, Transport() as transport:
        asks = {"WWW-Authenticate": f'Bearer realm="{storage.origin}/token"'}
        storage.disturb = lambda _: Reply(401, headers=asks)
        server.lie = lambda _, honest: relocated(honest, f"{storage.origin}/x")
        registry = Registry(transport, Repository(server.host, REPOSITORY), GOOD)
        with pytest.raises(UnauthorizedError, match=rf"^registry {storage.origin}/x answered 401$"):
            upload(registry, CONTENT[:10])
        assert storage.seen() == ["PUT /x"]


@pytest.mark.parametrize(
    ("location", "claim"),
    [
        ("", "expected an http\\(s\\) address to go on at, got ''$"),
        ("ftp://h/x", "got 'ftp://h/x'$"),
        ("http://[", r"got 'http://\['$"),
        ("http://u:s3cret@h/x", "got 'h/x'$"),
        ("http://h:99999/?s3cret", "got 'http://h:99999/'$"),
        ("/a b", "got '/a b'$"),
    ],
)
def test_address_that_is_none_is_refused(
    server: UploadRegistry, registry: Registry, location: str, claim: str
) -> None:
    server.disturb = lambda arrival: (
        Reply(202, headers={"Location": location}) if arrival.method == "POST" else None
    )
    with pytest.raises(RemoteError, match=claim):
        upload(registry)


def test_redirects_without_end_end(server: UploadRegistry, registry: Registry) -> None:
    server.disturb = lambda arrival: (
        Reply(307, headers={"Location": arrival.path}) if arrival.method == "PUT" else None
    )
    with pytest.raises(RemoteError, match=r"expected at most 3 redirects$"):
        upload(registry, CONTENT[:10])
