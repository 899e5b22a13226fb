"""`sign`, `verify`, `inspect`, `revoke` and `history` on the real servers, beside the other two."""

import json

import pytest

from peers.stack import make_context
from peers.trio import Shelf, Trio
from peers.workstation import IMAGE, Workstation
from signimage.metadata import RELEASES
from signimage.oci import Digest

# --- Signing ----------------------------------------------------------------------------------


def test_what_we_sign_by_tag_docker_pulls_by_its_signature(trio: Trio) -> None:
    """And what Docker pushes and signs with its own command, ours verifies."""
    trio.begin("ci")
    image = f"{trio.gun}:1.0"
    trio.docker("build", "--tag", image, str(make_context(trio.at.folder / "context", trio.gun)))
    trio.docker("push", image)
    told = trio.json("sign", image)
    assert (told["tags"], told["signers"]) == (["1.0"], ["ci"])
    assert f"Digest: {told['digest']}" in trio.docker("pull", image, trust="1")
    second = f"{trio.gun}:2.0"
    trio.docker("tag", image, second)
    trio.docker("push", second, trust="1")
    assert trio.json("verify", "--signer", "ci", second)["digest"] == told["digest"]
    assert [row["SignedTag"] for row in trio.check_agreement()["SignedTags"]] == ["1.0", "2.0"]


def test_an_image_is_signed_by_digest_under_the_tags_that_are_named(
    trio: Trio, shelf: Shelf
) -> None:
    trio.begin("ci")
    digest = shelf.image("one", "1.0", "latest")
    told = trio.json("sign", f"{trio.gun}@{digest}", "--tag", "1.0", "--tag", "latest")
    assert (told["tags"], told["digest"]) == (["1.0", "latest"], digest.text)
    assert trio.notary_lists() == ["1.0", "latest"]
    (size,) = {row.split()[2] for row in trio.notary("list", trio.gun).splitlines()
               if digest.hex in row}  # fmt: skip
    assert int(size) > 100


def test_a_tag_that_is_another_image_is_not_signed(trio: Trio, shelf: Shelf) -> None:
    """Whoever signs by digest is protected from tags that move meanwhile."""
    trio.begin("ci")
    one, two = shelf.image("one", "1.0"), shelf.image("two", "latest")
    trio.ours("sign", f"{trio.gun}:1.0", "--tag", "latest", code=1)
    assert f"{trio.gun}:latest: expected {one}, got {two}" in trio.said
    assert trio.check_agreement()["SignedTags"] == []


def test_an_index_is_signed_and_each_of_its_images_on_request(trio: Trio, shelf: Shelf) -> None:
    """Docker's program cannot sign either; it shows both."""
    trio.begin("ci")
    images = [shelf.image("amd64"), shelf.image("arm64")]
    index = shelf.index(images, "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    assert [row["Digest"] for row in trio.check_agreement()["SignedTags"]] == [index.hex]
    trio.ours("sign", "--recursive", f"{trio.gun}:1.0")
    rows = {row["SignedTag"]: row["Digest"] for row in trio.check_agreement()["SignedTags"]}
    assert rows == {"1.0": index.hex} | {f"sha256-{each.hex}": each.hex for each in images}
    found = trio.json("verify", "--signer", "ci", f"{trio.gun}@{images[0]}")
    assert found["tags"] == [f"sha256-{images[0].hex}"]


def test_with_the_keys_of_several_signers_it_is_said_as_whom(trio: Trio, shelf: Shelf) -> None:
    trio.begin("ci", "qa")
    shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0", code=2)
    assert f"keys of several signers of {trio.gun}: ci, qa. Say as whom to sign with" in trio.said
    for name in ("ci", "qa"):
        assert name in trio.json("sign", "--as", name, f"{trio.gun}:1.0")["signers"]
    trio.ours("sign", "--as", "bob", f"{trio.gun}:1.0", code=2)
    assert f"may sign in {trio.gun} as bob; its signers are ci (" in trio.said
    (row,) = trio.check_agreement()["SignedTags"]
    assert row["Signers"] == ["ci", "qa"]


def test_a_repository_without_signers_is_signed_with_its_own_key(trio: Trio, shelf: Shelf) -> None:
    trio.begin()
    digest = shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    assert trio.notary_lists("targets") == ["1.0"]
    assert trio.json("verify", f"{trio.gun}:1.0")["digest"] == digest.text


def test_signing_wants_no_engine(trio: Trio, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    trio.begin("ci")
    shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")


# --- Looking ----------------------------------------------------------------------------------


def test_a_gate_lets_through_what_everybody_signed_who_must(trio: Trio, shelf: Shelf) -> None:
    """With the root pinned, on a machine that never saw the repository."""
    trio.begin("ci", "qa")
    digest = shelf.image("one", "1.0")
    for name in ("ci", "qa"):
        trio.ours("sign", "--as", name, f"{trio.gun}:1.0")
    (root,) = trio.json("repo", "init", trio.gun)["rootKeys"]
    argv = ["verify", "--root-key", root, "--no-first-use", "--signer", "ci", "--signer", "qa"]
    found = trio.json(*argv, f"{trio.gun}:1.0@{digest}")
    assert (found["verified"], found["signers"], found["rootKeys"]) == (True, ["ci", "qa"], [root])
    assert trio.json(*argv, f"{trio.gun}@{digest}")["tags"] == ["1.0"]
    assert trio.json(*argv, "--trust-only", f"{trio.gun}:1.0")["digest"] == digest.text


@pytest.mark.parametrize(
    ("options", "image", "code", "reason"),
    [
        (["--signer", "qa"], ":1.0", "SI307", "is not signed by qa; it is signed by ci"),
        ([], ":2.0", "SI307", "is not signed: neither targets/releases nor targets has the tag"),
        ([], f":1.0@sha256:{'0' * 64}", "SI305", "as it is signed: expected sha256:0000"),
        ([], f"@sha256:{'0' * 64}", "SI307", "is not signed: it is released under no tag"),
        ([], ":moved", "SI305", "as the registry has it: expected sha256:"),
        (["--signer", "qa"], "@{one}", "SI307", "is not signed by qa; it is signed by ci"),
    ],
)
def test_a_gate_stops_what_is_not_as_it_must_be(
    trio: Trio, shelf: Shelf, options: list[str], image: str, code: str, reason: str
) -> None:
    """In one sentence for people and one document for scripts; the exit code is 1."""
    trio.begin("ci", "qa")
    one = shelf.image("one", "1.0", "moved")
    trio.ours("sign", "--as", "ci", f"{trio.gun}:1.0", "--tag", "moved")
    shelf.image("two", "moved", "2.0")
    name = f"{trio.gun}{image.format(one=one)}"
    verdict = trio.json("verify", *options, name, code=1)
    assert (verdict["verified"], verdict["code"]) == (False, code)
    assert reason in verdict["reason"]
    assert reason in trio.said
    assert trio.said.count("\n") == 1


def test_a_gate_by_trust_data_alone_does_not_ask_the_registry(trio: Trio, shelf: Shelf) -> None:
    trio.begin("ci")
    shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    shelf.image("two", "1.0")
    trio.ours("verify", f"{trio.gun}:1.0", code=1)
    trio.ours("verify", "--trust-only", f"{trio.gun}:1.0")
    away = ["verify", "--trust-server", "https://localhost:1", f"{trio.gun}:1.0"]
    assert trio.json(*away, code=3)["code"] == "SI401"
    found = trio.json(*away, "--offline")
    assert found["verified"]
    assert any("is shown as it was kept" in each for each in found["warnings"])


def test_everything_there_is_is_shown_on_request(trio: Trio) -> None:
    """Docker's document, and each role with keys, threshold, version and expiry beside it."""
    ids = trio.begin("ci")
    trio.notary_adds("1.0", "targets/ci", RELEASES)
    docker = trio.check_agreement()
    (full,) = trio.json("inspect", "--full", trio.gun)
    assert {name: full[name] for name in docker} == docker
    roles = {role["Name"]: role for role in full["Roles"]}
    assert list(roles) == ["root", "targets", "snapshot", "timestamp", "targets/ci", RELEASES]
    assert roles["targets/ci"]["Keys"] == [{"ID": ids["ci"], "Type": "ecdsa"}]
    assert roles["targets/ci"]["Paths"] == [""]
    assert roles["root"]["Keys"][0]["CertificateExpires"] > roles["timestamp"]["Expires"]
    text = trio.ours("inspect", "--full", trio.gun)
    assert "targets/releases: version 1, expires 20" in text
    assert "1.0" in text.splitlines()[1]
    trio.add("qa")
    assert "targets/qa: never published, 1 of 1 keys" in trio.ours("inspect", "--full", trio.gun)


def test_several_are_inspected_at_once_as_docker_does(trio: Trio) -> None:
    """With what there is of them; nothing at all is an empty list and exit code 1."""
    trio.begin("ci")
    trio.notary_adds("1.0")
    missing = f"{trio.gun}-missing"
    printed = json.loads(trio.docker("trust", "inspect", f"{trio.gun}:1.0", trio.gun))
    assert trio.json("inspect", f"{trio.gun}:1.0", trio.gun) == printed
    assert len(trio.json("inspect", missing, trio.gun, code=1)) == 1
    assert trio.json("inspect", missing, code=1) == []
    assert "has no trust data" in trio.said


# --- Taking back ------------------------------------------------------------------------------


def test_what_we_revoke_is_gone_for_the_others_and_what_they_revoke_for_us(trio: Trio) -> None:
    trio.begin("ci")
    for tag in ("1.0", "2.0", "3.0"):
        trio.notary_adds(tag, "targets/ci", RELEASES)
    assert trio.json("revoke", f"{trio.gun}:1.0")["revoked"] == ["1.0"]
    assert trio.notary_lists() == trio.notary_lists("targets/ci") == ["2.0", "3.0"]
    trio.docker("trust", "revoke", "--yes", f"{trio.gun}:2.0")
    assert [row["SignedTag"] for row in trio.check_agreement()["SignedTags"]] == ["3.0"]
    trio.notary("remove", "-p", "-r", RELEASES, trio.gun, "3.0")
    trio.ours("verify", "--trust-only", f"{trio.gun}:3.0", code=1)
    trio.ours("revoke", f"{trio.gun}:3.0")
    trio.ours("revoke", f"{trio.gun}:3.0", code=1)
    assert f"{trio.gun}:3.0 is not signed: no role has the tag" in trio.said


def test_all_tags_are_revoked_only_when_that_is_confirmed(trio: Trio) -> None:
    """No terminal and no --yes: nobody can have been asked."""
    trio.begin("ci")
    trio.notary_adds("1.0", "targets/ci", RELEASES)
    trio.ours("revoke", "--all", trio.gun, code=2)
    assert "expected an answer, got no terminal. Repeat it with --yes." in trio.said
    assert trio.notary_lists() == ["1.0"]
    assert trio.json("revoke", "--all", "--yes", trio.gun)["revoked"] == ["1.0"]
    assert trio.check_agreement()["SignedTags"] == []
    assert trio.json("revoke", "--all", "--yes", trio.gun)["revoked"] == []


def test_a_tag_of_several_signers_is_revoked_whole_or_knowingly_in_part(trio: Trio) -> None:
    """In part consumers get it no more, and whose word is left is said."""
    ids = trio.begin("ci", "qa")
    trio.notary_adds("1.0", "targets/ci", "targets/qa", RELEASES)
    trio.hide(ids["qa"])
    floors = trio.at.server().refresh().floors
    trio.ours("revoke", f"{trio.gun}:1.0", code=2)
    assert "no key at hand may take tags out of targets/qa" in trio.said
    assert trio.at.server().refresh().floors == floors
    told = trio.json("revoke", "--partial", f"{trio.gun}:1.0")
    assert told["stillSignedBy"] == ["qa"]
    assert "qa still vouches for it" in trio.said
    assert trio.check_agreement()["SignedTags"] == []
    trio.show(ids["qa"])
    assert trio.json("revoke", f"{trio.gun}:1.0")["stillSignedBy"] == []


def test_a_tag_is_revoked_only_while_it_is_what_was_named(trio: Trio) -> None:
    trio.begin("ci")
    trio.notary_adds("1.0", "targets/ci", RELEASES)
    trio.ours("revoke", f"{trio.gun}:1.0@sha256:{'0' * 64}", code=1)
    assert "1.0, as it is signed: expected sha256:0000" in trio.said
    trio.ours("revoke", f"{trio.gun}:1.0@sha256:{IMAGE.sha256.hex()}")
    assert trio.check_agreement()["SignedTags"] == []


# --- Looking back -----------------------------------------------------------------------------


def test_the_history_of_a_tag_is_who_signed_what_from_when_on(trio: Trio, shelf: Shelf) -> None:
    """Whichever program did it: signed, moved, signed by another, revoked, signed again."""
    trio.begin("ci", "qa")
    one, two = shelf.image("one", "1.0"), shelf.image("two", "other")
    trio.ours("sign", "--as", "ci", f"{trio.gun}:1.0")
    trio.ours("sign", "--as", "qa", f"{trio.gun}:1.0")
    trio.notary("addhash", "-p", "-r", RELEASES, trio.gun, "1.0", "7", "--sha256", two.hex)
    trio.ours("revoke", f"{trio.gun}:1.0")
    trio.ours("rotate", "root", trio.gun)
    trio.ours("sign", "--as", "qa", f"{trio.gun}:1.0")
    told = trio.json("history", f"{trio.gun}:1.0")
    rows = [(each["digest"], each["signers"], each["proven"]) for each in told["moments"]]
    assert rows == [
        (one.text, ["qa"], True),
        (None, [], True),  # by the new root; what follows stands under the old one
        (None, [], False),
        (two.text, [], False),
        (one.text, ["ci", "qa"], False),
        (one.text, ["ci"], False),
    ]
    times = [each["since"] for each in told["moments"]]
    assert all(times)
    assert times == sorted(times, reverse=True)
    assert any("under an older root key" in note for note in told["notes"])


def test_a_history_is_as_long_as_was_asked_for_and_says_so(trio: Trio) -> None:
    trio.begin("ci")
    for tag in ("1.0", "2.0", "3.0"):
        trio.notary_adds(tag)
    told = trio.json("history", "--limit", "1", f"{trio.gun}:1.0")
    assert len(told["moments"]) == 1
    assert any("were not looked at; --limit looks further back" in each for each in told["notes"])
    whole = trio.json("history", f"{trio.gun}:1.0")
    assert whole["moments"][0]["publication"] < told["moments"][0]["publication"]
    assert trio.json("history", f"{trio.gun}:melon")["moments"] == []


def test_what_docker_signed_has_a_history(trio: Trio) -> None:
    """Docker's own repository and signatures, looked back at by a first visitor."""
    trio.docker("trust", "key", "generate", "bob", "--dir", str(trio.at.folder))
    trio.docker("trust", "signer", "add", "--key", trio.public("bob"), "bob", trio.gun)
    image = f"{trio.gun}:1.0"
    digests: list[str] = []
    for text in ("first", "second"):
        folder = make_context(trio.at.folder / text, f"{trio.gun} {text}")
        trio.docker("build", "--tag", image, str(folder))
        trio.docker("push", image, trust="1")
        digests.insert(0, trio.check_agreement()["SignedTags"][0]["Digest"])
    told = trio.json("history", image)
    assert [(each["digest"], each["signers"]) for each in told["moments"]] == [
        (f"sha256:{digest}", ["bob"]) for digest in digests
    ]


# --- Wrong input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sign", "{gun}"], "expected a tag to sign it under, got none"),
        (["sign", "{gun}:1.0", "--tag", "x/y"], "tag 'x/y' is not a legal name"),
        (["sign", "{gun}@sha256:12"], "expected sha256:<64 lower-case hex>"),
        (["verify", "{gun}"], "expected a tag or a digest to verify, got neither"),
        (["inspect", "{gun}@sha256:" + "0" * 64], "expected a repository or a tag, got a digest"),
        (["revoke", "{gun}"], "expected a tag, or a repository with --all, got neither"),
        (["revoke", "--all", "{gun}:1.0"], "expected a tag, or a repository with --all, got both"),
        (["history", "{gun}"], "expected a repository with a tag"),
        (["history", "--limit", "0", "{gun}:1"], "--limit: expected a number from 1 to 10000"),
        (["history", "--limit", "x", "{gun}:1"], "--limit: expected a number from 1 to 10000"),
    ],
)
def test_wrong_input_is_one_sentence_and_no_request(
    trio: Trio, arguments: list[str], sentence: str
) -> None:
    argv = [each.format(gun=trio.gun) for each in arguments]
    trio.ours(*argv, "--verbose", code=2)
    assert sentence in trio.said
    assert trio.said.count("\n") == 1
    assert trio.at.store.entries() == ()


def test_a_stranger_signs_nothing_and_is_told_who_may(trio: Trio, shelf: Shelf) -> None:
    trio.begin("ci")
    shelf.image("one", "1.0")
    stranger = Workstation(trio.at.stack, trio.at.folder / "stranger", trio.gun)
    (trio.trust_dir / "private").rename(trio.at.folder / "private")
    trio.ours("sign", f"{trio.gun}:1.0", code=2)
    assert f"may sign in {trio.gun}; its signers are ci (" in trio.said
    assert f"signimage signer add --key FILE.pub NAME {trio.gun}" in trio.said
    assert stranger.inspected()["SignedTags"] == []
    assert Digest.of(b"").hex not in trio.said
