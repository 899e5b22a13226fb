"""`signimage.history`: what a tag was, told from old files that are judged like new ones."""

import json
from dataclasses import replace

import pytest

from signimage.errors import RemoteError, UnreachableError
from signimage.filemeta import FileMeta
from signimage.history import history
from signimage.metadata import RELEASES, ROOT, TIMESTAMP
from signimage.oci import Digest
from signimage.publication import revocation_plan, signing_plan
from unit.repositories import GUN, IMAGE, GoodRepository, key, next_root, root_file, sign
from unit.small_server import Reply, Request
from unit.trust_server import CI, NEW, Peer, error

OLD_IMAGE, NEW_IMAGE = Digest.of_raw(IMAGE.sha256), Digest.of_raw(NEW.sha256)


def publish(peer: Peer, tag: str, meta: FileMeta) -> None:
    peer.client().publish(signing_plan({tag: meta}, [CI]), {CI: key("ci")})


def told(peer: Peer, tag: str = "1.0", limit: int = 100) -> list[tuple[object, ...]]:
    """The moments of *tag*: publication, digest, signers, and what is wrong with it."""
    found = history(peer.client(), tag, limit).moments
    return [(each.version, each.digest, each.signers, each.problem) for each in found]


def test_a_tag_that_never_changed_has_one_moment(peer: Peer) -> None:
    publish(peer, "2.0", NEW)
    assert told(peer) == [(1, OLD_IMAGE, ("ci",), "")]


def test_each_change_is_a_moment_the_newest_first(peer: Peer) -> None:
    publish(peer, "1.0", NEW)
    publish(peer, "other", NEW)
    peer.client().publish(revocation_plan(["1.0"], [CI]), {CI: key("ci")})
    publish(peer, "1.0", IMAGE)
    assert told(peer) == [
        (5, OLD_IMAGE, ("ci",), ""),
        (4, None, (), ""),
        (2, NEW_IMAGE, ("ci",), ""),
        (1, OLD_IMAGE, ("ci",), ""),
    ]


def test_before_the_first_signature_there_is_nothing_to_tell(peer: Peer) -> None:
    publish(peer, "other", NEW)
    publish(peer, "2.0", NEW)
    assert told(peer, "2.0") == [(3, NEW_IMAGE, ("ci",), "")]
    assert told(peer, "never") == []


def test_only_so_many_publications_are_looked_at(peer: Peer) -> None:
    publish(peer, "1.0", NEW)
    publish(peer, "other", NEW)
    assert told(peer, limit=1) == [(3, NEW_IMAGE, ("ci",), "")]
    notes = history(peer.client(), "1.0", 1).notes
    assert any(note.startswith("Publications before 3 were not looked at") for note in notes)


def test_an_old_file_that_nobody_signed_is_a_problem_of_its_time_alone(peer: Peer) -> None:
    """The server can show what it likes of the past; it cannot make anybody have signed it."""
    lie = sign(GoodRepository().delegated["targets/ci"], [key("stranger")])
    publish(peer, "1.0", NEW)
    peer.model.sign_snapshot(naming={RELEASES: FileMeta.of(lie)})
    peer.model.versions[RELEASES][99] = lie
    peer.model.sign_snapshot()
    moments = told(peer)
    assert moments[0] == (4, NEW_IMAGE, ("ci",), "")
    assert moments[1][:3] == (3, None, ())
    assert f"{RELEASES} of {GUN}: expected valid signatures by 1 of its keys, got 0" in str(
        moments[1][3]
    )
    assert [row[1] for row in moments[2:]] == [NEW_IMAGE, OLD_IMAGE]


def test_an_old_file_that_is_gone_is_a_problem_of_its_time_alone(peer: Peer) -> None:
    first = FileMeta.of(peer.model.current[RELEASES]).sha256.hex()
    publish(peer, "1.0", NEW)
    peer.model.replies[f"{RELEASES}.{first}.json"] = error(404, "METADATA_NOT_FOUND")
    newest, oldest = told(peer)
    assert newest == (2, NEW_IMAGE, ("ci",), "")
    assert "names a file that it does not have" in str(oldest[3])


def test_a_timestamp_under_another_number_is_a_problem(peer: Peer) -> None:
    publish(peer, "1.0", NEW)
    publish(peer, "1.0", IMAGE)
    peer.model.replies["2.timestamp.json"] = Reply(200, peer.model.versions[TIMESTAMP][1])
    assert told(peer)[1] == (
        2,
        None,
        (),
        f"old timestamp of {GUN}: expected version 2, got 1",
    )


def test_publications_that_are_not_shown_any_more_are_counted(peer: Peer) -> None:
    publish(peer, "1.0", NEW)
    publish(peer, "1.0", IMAGE)
    peer.model.replies["1.timestamp.json"] = error(404, "METADATA_NOT_FOUND")
    found = history(peer.client(), "1.0", 100)
    assert [each.version for each in found.moments] == [3, 2]
    assert "1 publications between 1 and 1 are not shown any more" in found.notes


def rotate_root(peer: Peer, *signers: str) -> None:
    """Show a second root, whose key is `second`, signed by *signers*."""
    second = next_root(GoodRepository().root, "second")
    peer.model.store(ROOT, root_file(second, *signers))
    peer.model.sign_snapshot()


def test_what_stands_under_an_older_root_key_is_unproven(peer: Peer) -> None:
    """Who signed the newer root proves nothing of the older: its signature can be made up."""
    rotate_root(peer, "root", "second")
    found = history(peer.client(), "1.0", 100)
    assert [(each.version, each.is_proven) for each in found.moments] == [(2, True), (1, False)]
    assert any("that the two belong together is the trust server's word" in each
               for each in found.notes)  # fmt: skip


def test_a_root_that_the_same_key_signed_is_proven(peer: Peer) -> None:
    second = replace(GoodRepository().root, version=2)
    peer.model.store(ROOT, root_file(second, "root"))
    peer.model.sign_snapshot()
    found = history(peer.client(), "1.0", 100)
    assert [(each.version, each.is_proven) for each in found.moments] == [(1, True)]


def test_a_root_that_is_not_shown_any_more_is_a_problem_of_its_time(peer: Peer) -> None:
    rotate_root(peer, "root", "second")
    client = peer.client()
    client.refresh()
    peer.model.replies["1.root.json"] = error(404, "METADATA_NOT_FOUND")
    found = history(client, "1.0", 100)
    assert found.moments[1].problem.endswith("the root of that time is not shown any more")


# --- The server's record of times -------------------------------------------------------------


def with_record(peer: Peer, reply: Reply) -> None:
    """Answer *reply* to whoever asks for the record of changes."""

    def answer(request: Request) -> Reply:
        return reply if "changefeed" in request.path else peer.model.answer(request)

    peer.server.answer_with(answer)


def record(*entries: object) -> Reply:
    return Reply(200, json.dumps({"count": len(entries), "records": entries}).encode())


def test_times_are_told_where_the_server_keeps_them_and_said_to_be_its_word(peer: Peer) -> None:
    publish(peer, "1.0", NEW)
    with_record(
        peer,
        record(
            {"ID": "1", "Version": 1, "CreatedAt": "2026-01-01T00:00:00Z", "Category": "update"},
            {"ID": "2", "Version": 2, "CreatedAt": "2026-01-02T00:00:00Z", "Category": "update"},
            {"ID": "3", "Version": 1, "CreatedAt": "2026-01-03T00:00:00Z", "Category": "deletion"},
            {"ID": "4", "Version": "2", "CreatedAt": None, "Category": "update"},
            "nonsense",
        ),
    )
    found = history(peer.client(), "1.0", 100)
    assert [each.since for each in found.moments] == [
        "2026-01-02T00:00:00Z",
        "2026-01-01T00:00:00Z",
    ]
    assert found.notes[0] == (
        "When something was published is the trust server's word; nobody signed it"
    )


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, b"{}"),
        Reply(200, b"<html>"),
        Reply(200, b"[]"),
        Reply(200, b'{"records":null}'),
        Reply(500, b""),
    ],
)
def test_without_a_record_there_is_a_history_without_times(peer: Peer, reply: Reply) -> None:
    with_record(peer, reply)
    found = history(peer.client(), "1.0", 100)
    assert [(each.version, each.since) for each in found.moments] == [(1, "")]
    assert found.notes == ("The trust server keeps no record of when something was published",)


def test_a_server_that_falls_silent_ends_it(peer: Peer) -> None:
    """What could not be asked is not called absent."""
    client = peer.client()
    client.refresh()
    peer.model.replies["1.timestamp.json"] = Reply(raw=b"")
    with pytest.raises(UnreachableError, match="closed without an answer"):
        history(client, "1.0", 100)
    peer.model.replies["1.timestamp.json"] = Reply(500, b"")
    with pytest.raises(RemoteError, match="answered 500"):
        history(client, "1.0", 100)
