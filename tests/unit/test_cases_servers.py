"""Acceptance cases 26 to 28: large repositories, wrong clocks, and servers that misbehave."""

import gzip
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from signimage.errors import (
    ExpiredError,
    FormatError,
    RemoteError,
    RollbackError,
    TooLargeError,
    TrustError,
)
from signimage.filemeta import Expiry
from signimage.lookup import released
from signimage.metadata import (
    RELEASES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Delegation,
    Role,
    Targets,
)
from unit.repositories import (
    GUN,
    IMAGE,
    LATER,
    NOW,
    GoodRepository,
    believe,
    content,
    good_root,
    key,
    newer,
)
from unit.small_server import Reply, Request
from unit.trust_server import Peer, kept

CI_KEY = key("ci").public_key
CI_ROLE = Role.of(CI_KEY)
BAD_CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"


# --- Size -------------------------------------------------------------------------------------


def test_a_hundred_thousand_tags_cost_no_request_more_than_one(peer: Peer, tmp_path: Path) -> None:
    """Case 26: one file for each role, and nothing at all the second time."""
    cache = tmp_path / "trust"
    tags = {f"v{number}": IMAGE for number in range(100_000)}
    good = GoodRepository()
    good.delegated[RELEASES] = content(tags)
    peer.model.hold(good)
    repository = peer.client(cache).refresh()
    assert len(repository.targets(RELEASES).targets) == 100_000
    assert released(repository, "v99999") == IMAGE
    assert peer.fetched() == [ROOT, TIMESTAMP, SNAPSHOT, TARGETS, "targets/ci", RELEASES]
    peer.client(cache).refresh()
    assert peer.fetched()[6:] == [TIMESTAMP]


def test_fifty_levels_of_delegation_are_walked(peer: Peer) -> None:
    """Case 26: one request for each, and the deepest speaks where all above it may."""
    names = ["targets" + "/d" * depth for depth in range(1, 51)]
    good = GoodRepository(targets=_entrusting([names[0]]), delegated={})
    for name, below in zip(names, [*names[1:], ""], strict=True):
        tags = content({"v": IMAGE})
        good.delegated[name] = (
            replace(_entrusting([below]), targets=tags.targets) if below else tags
        )
    peer.model.hold(good)
    repository = peer.client().refresh()
    assert [each.name for each in repository.delegations()] == names
    assert repository.admits(names[-1], "v")
    assert len(peer.fetched()) == 4 + 50


def test_a_thousand_delegations_are_fetched_once_each(peer: Peer) -> None:
    """Case 26: as many requests as there are different files, whatever their number."""
    names = [f"targets/s{number}" for number in range(1000)]
    good = GoodRepository(targets=_entrusting(names), delegated={})
    good.delegated = {name: content({name: IMAGE}) for name in names}
    peer.model.hold(good)
    repository = peer.client().refresh()
    assert [each.name for each in repository.delegations()] == names
    assert len(peer.fetched()) == 4 + 1000
    assert repository.warnings == []


def test_more_delegations_than_anybody_has_are_refused(peer: Peer, tmp_path: Path) -> None:
    """Case 26: 2000 are walked, one more is an error, and none of them was fetched."""
    cache = tmp_path / "trust"
    names = [f"targets/s{number}" for number in range(2001)]
    many = GoodRepository(targets=_entrusting(names[:2000]), delegated={})
    assert len(list(believe(many.files()).delegations())) == 2000
    peer.model.hold(GoodRepository(targets=_entrusting(names), delegated={}))
    sentence = f"{GUN}: expected at most 2000 delegations, got more"
    with peer.untouched(cache), pytest.raises(TrustError, match=sentence):
        peer.client(cache).refresh()


def _entrusting(names: list[str]) -> Targets:
    entries = tuple(Delegation(name, CI_ROLE, ("",)) for name in names)
    return replace(content({}), delegations=entries, delegation_keys={CI_KEY.key_id: CI_KEY})


def test_files_that_are_announced_as_huge_together_are_not_asked_for(
    peer: Peer, tmp_path: Path
) -> None:
    """Case 26: each may have 100 MiB, and all of them 256 MiB."""
    cache = tmp_path / "trust"
    roles = (TARGETS, "targets/ci", RELEASES)
    peer.model.sign_snapshot(naming=dict.fromkeys(roles, replace(IMAGE, length=100 * 2**20)))
    sentence = f"{GUN}: expected at most 268435456 bytes of trust data, got 31457"
    with peer.untouched(cache), pytest.raises(TooLargeError, match=sentence):
        peer.client(cache).refresh()
    assert not [each.path for each in peer.server.requests if "targets" in each.path]


@pytest.mark.parametrize("role", [TARGETS, "targets/ci", RELEASES])
def test_a_file_that_is_announced_as_huge_is_not_asked_for(
    peer: Peer, tmp_path: Path, role: str
) -> None:
    """Case 26: 100 MiB are the most, also where the snapshot says more."""
    cache = tmp_path / "trust"
    peer.model.sign_snapshot(naming={role: replace(IMAGE, length=100 * 2**20 + 1)})
    sentence = f"{role} of {GUN}: expected at most 104857600 bytes, got 104857601"
    with peer.untouched(cache), pytest.raises(TooLargeError, match=sentence):
        peer.client(cache).refresh()
    assert role not in peer.fetched()


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'{"signed":{"version":' + b"9" * 1_000_000 + b"}}",
        b'{"signed":{"version":1e999999999}}',
        b'"' + b"\\ud800" * 100_000 + b'"',
        b"\xff\xfe" * 1000,
        b'{"signed":' + b"[" * 70 + b"]" * 70 + b"}",
    ],
    ids=["lists", "objects", "digits", "exponent", "surrogates", "no UTF-8", "70 levels"],
)
def test_a_file_made_to_exhaust_its_reader_is_a_format_error(
    peer: Peer, tmp_path: Path, data: bytes
) -> None:
    """Case 26: depth and size are limited before anything is made of them."""
    cache = tmp_path / "trust"
    peer.model.replies["timestamp.json"] = Reply(200, data)
    with peer.untouched(cache), pytest.raises(FormatError, match=f"timestamp of {GUN}: expected"):
        peer.client(cache).refresh()


# --- Clocks -----------------------------------------------------------------------------------


def test_a_clock_that_is_behind_is_named(peer: Peer, tmp_path: Path) -> None:
    """Case 27: two days before the root certificate was made."""
    cache = tmp_path / "trust"
    peer.now = NOW - timedelta(days=2)
    sentence = (
        f"root of {GUN}: its root certificate is valid from 2026-11-22T12:00:00Z; this machine's "
        "clock says 2026-11-20T12:00:00Z"
    )
    with peer.untouched(cache), pytest.raises(TrustError, match=sentence):
        peer.client(cache).refresh()


def test_a_clock_that_is_ahead_is_named(peer: Peer, tmp_path: Path) -> None:
    """Case 27: when the clock is ahead by more than the timestamp's two weeks."""
    cache = tmp_path / "trust"
    peer.now = LATER.moment + timedelta(days=20)
    good = GoodRepository(
        root=replace(good_root("root"), expires=Expiry.at(LATER.moment + timedelta(days=900)))
    )
    peer.model.hold(good)
    sentence = f"timestamp of {GUN} expired at 2027-12-27T12:00:00Z; this machine's clock says 2028"
    with peer.untouched(cache), pytest.raises(ExpiredError, match=sentence) as caught:
        peer.client(cache).refresh()
    assert caught.value.hint.startswith("If the clock is right")


def test_a_clock_that_jumps_back_does_not_bring_an_older_state_back(
    peer: Peer, tmp_path: Path
) -> None:
    """Case 27: what was believed before is a floor at any time."""
    cache = tmp_path / "trust"
    peer.model.hold(newer(GoodRepository()))
    peer.client(cache).refresh()
    peer.now = NOW - timedelta(hours=20)
    peer.model.hold(GoodRepository())
    with peer.untouched(cache), pytest.raises(RollbackError, match="version 2 or later, got 1"):
        peer.client(cache).refresh()


# --- Servers and what stands before them ------------------------------------------------------


def test_a_redirect_within_the_server_is_followed(peer: Peer) -> None:
    """Case 28: a load balancer may move things about."""
    honest = peer.model.answer

    def moved(request: Request) -> Reply:
        if request.path.startswith("/moved"):
            return honest(replace(request, path=request.path.removeprefix("/moved")))
        return Reply(301, headers={"Location": f"/moved{request.path}"})

    peer.server.answer_with(moved)
    assert released(peer.client().refresh(), "1.0") == IMAGE


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://127.0.0.1:1/x", "expected a redirect to https, got one to http://127.0.0.1:1"),
        ("ftp://127.0.0.1/x", r"expected a redirect to an http\(s\) address"),
        ("/again", "expected at most 5 redirects"),
    ],
)
def test_other_redirects_are_refused(
    peer: Peer, tmp_path: Path, location: str, message: str
) -> None:
    """Case 28: out of TLS, to elsewhere, and in a circle."""
    cache = tmp_path / "trust"
    peer.server.answer_with(lambda _: Reply(301, headers={"Location": location}))
    with (
        peer.untouched(cache),
        pytest.raises(RemoteError, match=f"trust server https://127.*: {message}"),
    ):
        peer.client(cache).refresh()


def test_a_publication_is_never_sent_to_where_a_redirect_points(peer: Peer) -> None:
    """Case 28: a 301 to a POST is a refusal."""
    moved = Reply(301, headers={"Location": "/elsewhere"})
    peer.model.fates.append(lambda _model, _files: moved)
    with pytest.raises(RemoteError, match="answered 301"):
        peer.sign()
    assert peer.model.posts == 1


def test_a_compressed_answer_is_the_same_answer(peer: Peer) -> None:
    """Case 28: also from a proxy that compresses without being asked to."""
    honest = peer.model.answer

    def packed(request: Request) -> Reply:
        reply = honest(request)
        return replace(reply, body=gzip.compress(reply.body), headers={"Content-Encoding": "gzip"})

    peer.server.answer_with(packed)
    assert released(peer.client().refresh(), "1.0") == IMAGE
    assert {each.headers["Accept-Encoding"] for each in peer.server.requests} == {"identity"}


def test_what_may_have_changed_is_asked_for_past_every_cache(peer: Peer) -> None:
    """Case 28: a proxy may keep a timestamp for five minutes unless it is told not to."""
    peer.sign()
    named = {"root.json", "timestamp.json"}
    for request in peer.server.requests:
        if request.method == "GET":
            is_named = request.path.rpartition("/")[2] in named
            assert (request.headers["Cache-Control"] == "no-cache") is is_named, request.path


def test_a_stale_timestamp_after_publishing_is_waited_out(peer: Peer) -> None:
    """Case 28: a cache that serves it all the same costs time, and no second publication."""
    old = peer.model.current[TIMESTAMP]
    honest = peer.model.answer
    stale_answers = 0

    def cached(request: Request) -> Reply:
        nonlocal stale_answers
        if peer.model.posts and request.path.endswith("timestamp.json") and stale_answers < 3:
            stale_answers += 1
            return Reply(200, old)
        return honest(request)

    peer.server.answer_with(cached)
    done = peer.sign()
    assert (done.attempts, peer.model.posts, stale_answers) == (1, 1, 3)
    assert done.repository.timestamp.body.version == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(200, b"<html>log in</html>", {"Content-Type": "text/html"}), "expected JSON"),
        (Reply(200, b""), "expected JSON"),
        (Reply(204), "answered 204"),
        (Reply(304), "answered 304"),
        (Reply(407, b"proxy"), "answered 407"),
        (Reply(raw=b"SSH-2.0-x\r\n"), "cannot be reached: "),
        (
            Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "cannot be reached: ",
        ),
    ],
    ids=["page", "empty", "204", "304", "407", "no HTTP", "bad chunk"],
)
def test_an_answer_that_is_none_is_an_error_of_ours(
    peer: Peer, tmp_path: Path, reply: Reply, message: str
) -> None:
    """Case 28: whatever it is, in one sentence, and what was kept stays."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    before = kept(cache)
    peer.model.replies["timestamp.json"] = reply
    with peer.untouched(cache), pytest.raises((RemoteError, FormatError), match=message):
        peer.client(cache).refresh()
    assert kept(cache) == before != {}
