"""`signimage.notary` against a trust server that lies, loses, collides and hangs up."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest

from signimage.errors import (
    ConflictError,
    FormatError,
    HashMismatchError,
    InputError,
    NotASignerError,
    NotFoundError,
    NotInitializedError,
    RemoteError,
    RollbackError,
    RootPinError,
    TooLargeError,
    TrustError,
    UnauthorizedError,
    UnreachableError,
)
from signimage.filemeta import FileMeta
from signimage.lookup import released, signers, signers_of, signing_roles
from signimage.metadata import RELEASES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from signimage.publication import signer_plan, signing_plan
from signimage.transport import Transport
from signimage.trustapi import TrustApi
from unit.repositories import GUN, IMAGE, GoodRepository, content, good_root, key, sign
from unit.small_server import Reply, Request
from unit.trust_server import (
    CI,
    NEW,
    Fate,
    Peer,
    TrustServerModel,
    carry_out_and_hang_up,
    error,
    first,
    lose,
    refuse,
)

# --- Beginning ---


def test_a_conversation_that_was_begun_asks_for_the_root_once(peer: Peer) -> None:
    client = peer.client()
    client.api.begin()
    assert released(client.refresh(), "1.0") == IMAGE
    assert peer.fetched().count(ROOT) == 1


def test_what_goes_wrong_at_the_beginning_is_told_when_the_root_is_needed(peer: Peer) -> None:
    """And once: whoever asks again gets an answer of their own."""
    peer.model.replies["root.json"] = Reply(403)
    client = peer.client()
    client.api.begin()
    with pytest.raises(UnauthorizedError, match="does not let"):
        client.refresh()
    del peer.model.replies["root.json"]
    assert released(client.refresh(), "1.0") == IMAGE


def test_a_root_that_was_asked_for_before_a_rotation_is_followed_to_the_newest(peer: Peer) -> None:
    is_answered = Event()

    def answer(request: Request) -> Reply:
        reply = peer.model.answer(request)
        is_answered.set()
        return reply

    peer.server.answer_with(answer)
    client = peer.client()
    client.api.begin()
    assert is_answered.wait(60)
    _rotate(peer.model, "root", "second", 2)
    assert client.refresh().root.body.version == 2


# --- Publishing ---


def test_signing_fetches_once_sends_once_and_proves_it(peer: Peer) -> None:
    done = peer.sign()
    assert done.roles == ("targets/ci", RELEASES)
    assert released(done.repository, "2.0") == NEW
    assert signers_of(done.repository, "2.0", NEW) == ("ci",)
    assert peer.model.posts == 1
    names = [line.rpartition("/_trust/tuf/")[2].split(".")[0] for line in peer.server.seen()]
    assert names == [
        *(ROOT, TIMESTAMP, SNAPSHOT, TARGETS, "targets/ci", RELEASES),
        "",
        *(TIMESTAMP, SNAPSHOT, "targets/ci", RELEASES),
    ]


@pytest.fixture
def just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look be recent, on slow machines too."""
    monkeypatch.setattr("signimage.notary._RECENT_S", 3600.0)


@pytest.mark.usefixtures("just_now")
def test_what_a_preflight_saw_a_moment_ago_is_not_fetched_again(peer: Peer) -> None:
    """No request but the update itself, and what the server shows of it afterwards."""
    client = peer.client()
    client.refresh()
    before = len(peer.fetched())
    done = client.publish(signing_plan({"2.0": NEW}, [CI]), {CI: key("ci")})
    assert released(done.repository, "2.0") == NEW
    assert peer.fetched()[before:] == ["", TIMESTAMP, SNAPSHOT, "targets/ci", RELEASES]


def test_what_a_preflight_saw_long_ago_is_looked_at_again(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 44: after a build somebody else has likely published."""
    monkeypatch.setattr("signimage.notary._RECENT_S", 0.0)
    client = peer.client()
    client.refresh()
    peer.sign("rival")
    client.publish(signing_plan({"2.0": NEW}, [CI]), {CI: key("ci")})
    assert peer.model.posts == 2


@pytest.mark.usefixtures("just_now")
def test_whoever_was_faster_since_the_preflight_loses_nothing(peer: Peer) -> None:
    """Case 44: the server refuses the version, and the next try is made upon what it has."""
    client = peer.client()
    client.refresh()
    peer.sign("rival")
    done = client.publish(signing_plan({"2.0": NEW}, [CI]), {CI: key("ci")})
    assert released(done.repository, "rival") == released(done.repository, "2.0") == NEW
    assert (done.attempts, peer.model.posts) == (2, 3)


@pytest.mark.usefixtures("just_now")
def test_that_nothing_is_to_be_done_is_not_believed_of_what_was_seen_before(peer: Peer) -> None:
    peer.sign()
    client = peer.client()
    client.refresh()
    before = len(peer.fetched())
    done = client.publish(signing_plan({"2.0": NEW}, [CI]), {CI: key("ci")})
    assert (done.attempts, peer.fetched()[before:]) == (0, [TIMESTAMP])


def test_what_a_rival_made_of_a_file_that_was_sent_is_what_is_believed(peer: Peer) -> None:

    def first_ours(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        reply = model.carry_out(files)
        rival = {"1.0": IMAGE, "2.0": NEW, "rival": NEW}
        model.carry_out({RELEASES: sign(content(rival, version=3), [key("ci")])})
        return reply

    peer.model.fates.append(first_ours)
    done = peer.sign()
    assert released(done.repository, "rival") == NEW
    assert peer.fetched()[-4:] == [TIMESTAMP, SNAPSHOT, "targets/ci", RELEASES]


def test_what_was_sent_must_be_shown_by_the_server(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes an update and does not hand it out has published nothing."""

    def taken_and_kept(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        reply = model.carry_out(files)
        digest = FileMeta.of(files[RELEASES]).sha256.hex()
        model.replies[f"{RELEASES}.{digest}.json"] = error(404, "METADATA_NOT_FOUND")
        return reply

    monkeypatch.setattr("signimage.publisher._PUBLISH_DEADLINE_S", 1.0)
    monkeypatch.setattr("signimage.publisher._OUTAGE_S", 1.0)
    peer.model.fates.append(taken_and_kept)
    with pytest.raises(RemoteError, match=RELEASES):
        peer.sign()


def test_what_is_signed_already_is_not_sent_again(peer: Peer) -> None:
    peer.sign()
    assert peer.sign().roles == ()
    assert peer.model.posts == 1


@pytest.mark.parametrize(
    "fate",
    [
        refuse(500, "UPDATING"),
        refuse(500, "UNKNOWN"),
        refuse(503, "NO_STORAGE"),
        refuse(429, "TOOMANYREQUESTS"),
        refuse(400, "VERSION"),
        carry_out_and_hang_up(),
        lose(),
        lambda _model, _files: Reply(raw=b""),
        lambda _model, _files: Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"),
    ],
    ids=["updating", "unknown", "503", "429", "conflict", "hang up", "lost", "cut", "cut late"],
)
def test_one_mishap_is_survived_without_sending_anything_twice(peer: Peer, fate: Fate) -> None:
    """Case 46."""
    peer.model.fates.append(fate)
    assert released(peer.sign().repository, "2.0") == NEW
    assert released(peer.client().refresh(), "1.0") == IMAGE


def test_a_lost_update_is_noticed_and_published_above_its_used_up_version(peer: Peer) -> None:
    """Case 45."""
    peer.model.fates.extend([lose(), lose()])
    done = peer.sign()
    assert done.attempts == 3
    assert done.repository.floors[RELEASES] == 4


def test_an_orphaned_version_is_jumped_over(peer: Peer) -> None:
    """Case 45: Somebody else's lost update has used up the next version numbers."""
    for number in (2, 3):
        orphan = content({"x": NEW}, version=number)
        peer.model.versions[RELEASES][number] = sign(orphan, [key("ci")])
    done = peer.sign()
    assert done.repository.floors[RELEASES] == 4
    assert set(done.repository.targets(RELEASES).targets) == {"1.0", "2.0"}


def test_what_a_rival_published_meanwhile_is_kept(peer: Peer) -> None:
    rival = {
        role: sign(content({"1.0": IMAGE, "rival": NEW}, version=2), [key("ci")])
        for role in ("targets/ci", RELEASES)
    }
    peer.model.fates.append(first(rival))
    repository = peer.sign().repository
    assert released(repository, "rival") == released(repository, "2.0") == NEW
    assert repository.floors[RELEASES] == 3


def test_a_signer_who_is_removed_meanwhile_is_told(peer: Peer) -> None:
    """Case 49."""
    other = content({}, version=2).with_delegation("targets/qa", [key("qa").public_key])

    def remove_and_refuse(model: TrustServerModel, _files: dict[str, bytes]) -> Reply:
        model.carry_out({TARGETS: sign(other, [key("targets")])})
        return error(400, "INVALID_UPDATE")

    peer.model.fates.append(remove_and_refuse)
    with pytest.raises(NotASignerError, match=f"key {CI} is not a signer of {GUN}; its signers"):
        peer.sign()
    assert peer.model.posts == 1


@pytest.mark.parametrize(
    ("fate", "kind", "message"),
    [
        (refuse(400, "INVALID_UPDATE"), RemoteError, "answered 400"),
        (refuse(413, "TOO_LARGE"), RemoteError, "answered 413"),
        (refuse(404, "METADATA_NOT_FOUND"), NotFoundError, "answered 404"),
        (refuse(403, "DENIED"), UnauthorizedError, "answered 403"),
    ],
)
def test_a_final_refusal_is_not_repeated(
    peer: Peer, fate: Fate, kind: type[Exception], message: str
) -> None:
    peer.model.fates.append(fate)
    with pytest.raises(kind, match=message):
        peer.sign()
    assert peer.model.posts == 1


def test_a_signer_is_added_to_what_is_there(peer: Peer) -> None:
    targets = key("targets")
    plan = signer_plan("qa", [key("qa").public_key])
    done = peer.client().publish(plan, {targets.public_key.canonical_id: targets})
    assert [signer.name for signer in signers(done.repository)] == ["ci", "qa"]
    assert signing_roles(done.repository, "x", [key("qa").public_key.canonical_id]) == (
        RELEASES,
        "targets/qa",
    )
    again = peer.client().publish(plan, {targets.public_key.canonical_id: targets})
    assert again.roles == ()


# --- Refreshing ---


def test_an_unknown_repository_is_not_initialised(peer: Peer) -> None:
    peer.model.replies["root.json"] = error(404, "METADATA_NOT_FOUND")
    with pytest.raises(NotInitializedError, match=f"{GUN} has no trust data on https://127"):
        peer.client().refresh()


@pytest.mark.parametrize(
    ("name", "reply", "kind", "message"),
    [
        ("root.json", Reply(200, b"<html>"), FormatError, f"root of {GUN}"),
        ("root.json", Reply(200, b""), FormatError, f"root of {GUN}"),
        ("timestamp.json", Reply(200, b"{}"), FormatError, f"timestamp of {GUN}"),
        ("timestamp.json", Reply(200, b" " * 2**21), TooLargeError, "trust server https://127"),
        ("timestamp.json", Reply(401, b""), UnauthorizedError, "answered 401"),
        ("timestamp.json", Reply(500, b""), RemoteError, "answered 500"),
        ("timestamp.json", Reply(raw=b""), UnreachableError, "cannot be reached"),
        ("timestamp.json", Reply(302, b"", {"Location": "/x"}), RemoteError, "answered 404"),
    ],
)
def test_one_bad_answer_ends_a_refresh(
    peer: Peer, name: str, reply: Reply, kind: type[Exception], message: str
) -> None:
    peer.model.replies[name] = reply
    with pytest.raises(kind, match=message):
        peer.client().refresh()


def test_a_file_with_other_bytes_than_named_is_refused(peer: Peer) -> None:
    name = f"{RELEASES}.{FileMeta.of(peer.model.current[RELEASES]).sha256.hex()}.json"
    wrong = peer.model.current[RELEASES].replace(b"1.0", b"6.6")
    peer.model.replies[name] = Reply(200, wrong)
    with pytest.raises(HashMismatchError, match=f"{RELEASES} of {GUN}: expected sha256"):
        peer.client().refresh()


def test_a_file_that_is_named_and_missing_is_said_to_be(peer: Peer) -> None:
    name = f"{RELEASES}.{FileMeta.of(peer.model.current[RELEASES]).sha256.hex()}.json"
    peer.model.replies[name] = error(404, "METADATA_NOT_FOUND")
    with pytest.raises(NotFoundError, match="names a file that it does not have"):
        peer.client().refresh()


def test_a_second_refresh_fetches_only_what_changed(peer: Peer) -> None:
    client = peer.client()
    client.refresh()
    before = len(peer.server.requests)
    client.refresh()
    assert [line.rpartition("/")[2] for line in peer.server.seen()[before:]] == ["timestamp.json"]


def test_a_server_that_goes_back_is_not_believed(peer: Peer, tmp_path: Path) -> None:
    """Neither in one process, nor by a later one that shares the cache."""
    cache = tmp_path / "trust"
    old = peer.model.current[TIMESTAMP]
    client = peer.client(cache)
    peer.sign()
    client.refresh()
    kept = {path: path.read_bytes() for path in cache.rglob("*.json")}
    peer.model.replies["timestamp.json"] = Reply(200, old)
    for each in (client, peer.client(cache)):
        with pytest.raises(RollbackError, match=f"timestamp of {GUN}: expected version 2 or later"):
            each.refresh()
    assert {path: path.read_bytes() for path in cache.rglob("*.json")} == kept


def test_a_newer_root_is_followed_step_by_step(peer: Peer, tmp_path: Path) -> None:
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    names = ["root", "second", "third", "root"]
    for version, (old, new) in enumerate(pairwise(names), start=2):
        _rotate(peer.model, old, new, version)
    repository = peer.client(cache).refresh()
    assert repository.root.body.version == 4
    assert released(repository, "1.0") == IMAGE


def test_a_missing_step_to_the_newest_root_is_refused(peer: Peer, tmp_path: Path) -> None:
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    _rotate(peer.model, "root", "second", 2)
    _rotate(peer.model, "second", "third", 3)
    peer.model.replies["2.root.json"] = error(404, "METADATA_NOT_FOUND")
    with pytest.raises(NotFoundError, match="answered 404"):
        peer.client(cache).refresh()


def test_a_recreated_repository_is_not_believed(peer: Peer, tmp_path: Path) -> None:
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    kept = {path: path.read_bytes() for path in cache.rglob("*.json")}
    new = good_root("stranger")
    peer.model.hold(GoodRepository(root=new, signers={ROOT: [key("stranger")]}))
    with pytest.raises((RootPinError, TrustError), match=f"root of {GUN}"):
        peer.client(cache).refresh()
    assert {path: path.read_bytes() for path in cache.rglob("*.json")} == kept


def test_hopeless_collisions_end_in_bounded_time(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signimage.publisher._PUBLISH_DEADLINE_S", 0.2)
    peer.model.fates.extend([refuse(400, "VERSION")] * 1000)
    with pytest.raises(ConflictError, match=f"{GUN} could not be published in 0 seconds and"):
        peer.sign()


def _rotate(model: TrustServerModel, old: str, new: str, version: int) -> None:
    previous = good_root(old, version=version - 1)
    body = good_root(new, version=version)
    ids = (previous.roles[ROOT].keyids[0], body.roles[ROOT].keyids[0])
    body = replace(body, keys={**previous.keys, **body.keys})
    model.carry_out({ROOT: sign(body, [key(old), key(new)], keyids=ids)})


@pytest.mark.parametrize(
    "reply",
    [Reply(404, b"<html>nginx</html>"), Reply(404), error(404, "NAME_UNKNOWN")],
    ids=["a page", "nothing", "another code"],
)
def test_a_404_that_is_not_the_trust_servers_own_is_not_absence(peer: Peer, reply: Reply) -> None:
    """Whoever mistypes the address must not be told to create the repository."""
    peer.model.replies["root.json"] = reply
    with pytest.raises(NotFoundError, match="answered 404") as caught:
        peer.client().refresh()
    assert caught.value.hint == "Check that this is the address of a trust server (Notary v1)"


def test_a_server_that_acknowledges_and_shows_nothing_is_told_so(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signimage.publisher._PUBLISH_DEADLINE_S", 1.0)
    peer.model.fates.extend([lambda _model, _files: Reply(200)] * 1000)
    with pytest.raises(ConflictError, match=f"{GUN} could not be published in 1 seconds and"):
        peer.sign()
    assert peer.model.posts < 30, "it must wait between its tries"


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pass%40word@trust.example",
        "https://trust.example/?x=1",
        "https://trust.example/#x",
        "https://trust.example:99999",
        "https://trust.example:0",
        "https://",
        "http://trust.example",
        "trust.example",
        # The page of a run shows it within a command to copy.
        "https://trust.example/;curl$IFS.x",
        "https://trust.example/```",
        "https://trust.example\n/x",
    ],
)
def test_what_is_no_address_of_a_trust_server_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InputError, match="trust server: expected an https:// URL without") as error:
        TrustApi(Transport(), url, GUN)
    assert "pass" not in error.value.sentence
