"""`signimage.administration` on the real server, beside Docker's and Notary's programs.

Keys, key folders and caches are those of all three programs; what one does the others continue.
"""

import shutil
from collections.abc import Callable

import pytest

from peers.trio import Trio
from peers.workstation import PASSPHRASES, Workstation
from signimage.administration import initialise_repository
from signimage.arguments import EXIT_UNDECIDED
from signimage.errors import ConflictError, ThresholdError
from signimage.keystore import KeyStore, Passphrases
from signimage.metadata import RELEASES

# --- Initialising -----------------------------------------------------------------------------


def test_what_we_initialise_the_others_find_and_continue(trio: Trio) -> None:
    """And again by us: nothing changes, and the same root key is told."""
    first = trio.json("repo", "init", trio.gun)
    trio.docker("trust", "key", "generate", "bob", "--dir", str(trio.at.folder))
    trio.docker("trust", "signer", "add", "--key", trio.public("bob"), "bob", trio.gun)
    trio.notary_adds("1.0")
    held = trio.at.store.entries()
    again = trio.json("repo", "init", trio.gun)
    assert (first["existed"], again["existed"]) == (False, True)
    assert first["rootKeys"] == again["rootKeys"]
    assert trio.at.store.entries() == held
    assert trio.check_agreement()["SignedTags"][0]["SignedTag"] == "1.0"


@pytest.mark.parametrize("program", ["docker", "notary"])
def test_what_the_others_initialised_we_leave_as_it_is_and_continue(
    trio: Trio, program: str
) -> None:
    """With a fresh store, too: whoever merely looks has made no keys."""
    if program == "docker":
        trio.docker("trust", "key", "generate", "bob", "--dir", str(trio.at.folder))
        trio.docker("trust", "signer", "add", "--key", trio.public("bob"), "bob", trio.gun)
    else:
        trio.notary("init", "--publish", trio.gun)
    stranger = Workstation(trio.at.stack, trio.at.folder / "stranger", trio.gun)
    done = initialise_repository(stranger.server(), stranger.store, stranger.passphrases)
    assert done.existed
    assert stranger.store.entries() == ()
    assert trio.json("repo", "init", trio.gun)["existed"]
    trio.add("ci")
    assert "ci" in [each["Name"] for each in trio.check_agreement()["Signers"]]


def _docker_first(trio: Trio) -> None:
    trio.docker("trust", "key", "generate", "bob", "--dir", str(trio.at.folder))
    trio.docker("trust", "signer", "add", "--key", trio.public("bob"), "bob", trio.gun)


def _notary_first(trio: Trio) -> None:
    trio.notary("init", "--publish", trio.gun)


@pytest.mark.parametrize("rival", [_docker_first, _notary_first], ids=["docker", "notary"])
def test_who_loses_the_first_initialisation_to_another_program_keeps_nothing_wrong(
    trio: Trio, rival: Callable[[Trio], None]
) -> None:
    """The rival comes while we are asked for a passphrase; afterwards we go on as usual.

    Docker's own client keeps a root that nobody knows, and fails until its cache is deleted.
    """
    loser = Workstation(trio.at.stack, trio.at.folder / "loser", trio.gun)
    rivals = [rival]

    def answer(_: str) -> str:
        if rivals:
            rivals.pop()(trio)
        return "repository passphrase"

    with pytest.raises(ConflictError, match="was initialised by somebody else at the same moment"):
        initialise_repository(loser.server(), loser.store, Passphrases({}, answer))
    assert loser.store.entries() == ()
    again = initialise_repository(loser.server(), loser.store, loser.passphrases)
    assert again.existed
    assert again.repository.root.payload == trio.at.server().refresh().root.payload
    for program in (trio.at, loser):
        assert program.docker("trust", "inspect", trio.gun)


def test_whose_initialisation_was_won_by_us_finds_ours(trio: Trio) -> None:
    """Docker and Notary, from machines of their own, see our root and believe it."""
    trio.begin("ci")
    other = Workstation(trio.at.stack, trio.at.folder / "other", trio.gun)
    assert other.inspected()["Signers"] == trio.check_agreement()["Signers"]
    found = trio.at.stack.notary("list", trio.gun, trust_dir=other.config / "trust")
    assert "No targets present" in found.stdout


def test_who_answers_no_second_question_leaves_nothing_behind(trio: Trio) -> None:
    """Ctrl-C at any prompt: no key of a repository that does not exist."""
    store = KeyStore(trio.at.folder / "trust")
    for fails_at in range(4):
        questions = []

        def answer(question: str, fails_at: int = fails_at) -> str:
            questions.append(question)  # noqa: B023 -- of this very round
            if len(questions) > fails_at:  # noqa: B023 -- the same
                raise KeyboardInterrupt
            return "a long passphrase"

        with pytest.raises(KeyboardInterrupt):
            initialise_repository(trio.at.server(), store, Passphrases({}, answer))
        assert store.entries() == ()
    assert trio.ours("inspect", trio.gun, code=1) == ""


# --- Signers ----------------------------------------------------------------------------------


def test_of_several_repositories_one_fails_and_the_others_are_done(trio: Trio) -> None:
    """Each is reported, and the exit code is that of the failure."""
    other, missing = f"{trio.gun}-other", f"{trio.gun}-missing"
    trio.begin("ci")
    trio.ours("repo", "init", other)
    argv = ["signer", "add", "--key", trio.public("ci"), "twin", trio.gun, missing, other]
    said = trio.ours(*argv, code=1)
    assert said.splitlines()[0].startswith(f"twin may sign in {trio.gun} with ")
    assert said.splitlines()[1].startswith(f"twin may sign in {other} with ")
    assert f"signimage: {missing} has no trust data on https://localhost" in trio.said
    rows = trio.json("signer", "remove", "twin", other, missing, trio.gun, code=1)
    assert [(row["repository"], row.get("code")) for row in rows] == [
        (other, None),
        (missing, "SI301"),
        (trio.gun, None),
    ]
    assert [each["Name"] for each in trio.check_agreement()["Signers"]] == ["ci"]


def test_names_that_are_wrong_are_said_and_the_rest_is_done(trio: Trio) -> None:
    """A slip in one name costs nothing in the others; the code is that of wrong input."""
    trio.begin("ci")
    trio.ours("signer", "add", "--key", trio.public("ci"), "twin", "UPPER/case", trio.gun, code=2)
    assert "repository 'UPPER/case' is not a legal name" in trio.said
    assert len(trio.check_agreement()["Signers"]) == 2


def test_no_answer_from_the_server_is_told_apart_by_the_exit_code(trio: Trio) -> None:
    trio.begin("ci")
    argv = ["signer", "add", "--trust-server", "https://localhost:1", "--key", trio.public("ci")]
    trio.ours(*argv, "twin", trio.gun, code=EXIT_UNDECIDED)
    assert trio.said.count("\n") == 1


def test_a_signer_that_docker_added_is_removed_by_us_and_docker_signs_on(trio: Trio) -> None:
    """Docker 26 and later remove nobody, and say nothing."""
    trio.begin("ci")
    trio.docker("trust", "key", "generate", "bob", "--dir", str(trio.at.folder))
    trio.docker("trust", "signer", "add", "--key", trio.public("bob"), "bob", trio.gun)
    trio.notary_adds("1.0", "targets/bob", RELEASES)
    trio.ours("signer", "remove", "bob", trio.gun)
    trio.notary_adds("2.0", "targets/ci", RELEASES)
    seen = trio.check_agreement()
    assert [(row["SignedTag"], row["Signers"]) for row in seen["SignedTags"]] == [
        ("1.0", ["Repo Admin"]),
        ("2.0", ["ci"]),
    ]


def test_a_name_that_was_removed_is_given_again_only_knowingly(trio: Trio) -> None:
    """The server keeps the old role file: with the same key, what it says counts again."""
    trio.begin("ci", "qa")
    trio.notary_adds("1.0", "targets/qa", RELEASES)
    trio.ours("signer", "remove", "qa", trio.gun)
    argv = ["signer", "add", "--key", trio.public("qa"), "qa", trio.gun]
    trio.ours(*argv, code=2)
    assert f"signer qa of {trio.gun} was removed once" in trio.said
    assert "with --again its old signatures may count again" in trio.said
    trio.ours(*argv, "--again")
    assert trio.check_agreement()["SignedTags"][0]["Signers"] == ["qa"]


# --- Roles that are invalid -------------------------------------------------------------------


def orphaned(trio: Trio) -> None:
    """Let Notary's program take the key that signed the releases last away, as it does."""
    ids = trio.begin("ci", "qa")
    trio.notary_adds("1.0", "targets/ci", "targets/qa")
    # All keys of the role sign that are at hand; the one that goes is the only one.
    trio.hide(ids["ci"])
    trio.notary_adds("1.0", RELEASES)
    trio.show(ids["ci"])
    trio.notary("delegation", "remove", "-p", trio.gun, RELEASES, ids["qa"])


def test_an_orphaned_role_is_found_without_being_named_and_begun_anew(trio: Trio) -> None:
    """Its content is dropped only when that is asked for; then the tag is signed again."""
    orphaned(trio)
    floors = trio.at.server().refresh().floors
    trio.ours("witness", trio.gun, code=1)
    assert f"{RELEASES} of {trio.gun}: expected valid signatures by 1 of its keys" in trio.said
    assert f"signimage witness --drop {trio.gun} {RELEASES}" in trio.said
    assert trio.at.server().refresh().floors == floors
    assert trio.json("witness", "--drop", trio.gun)["roles"] == [RELEASES]
    assert trio.at.server().refresh().rejection(RELEASES) is None
    trio.notary_adds("1.0")
    assert trio.check_agreement()["SignedTags"][0]["Signers"] == ["ci", "qa"]
    assert trio.json("witness", trio.gun)["roles"] == []


def test_what_notary_witnesses_we_believe_and_what_we_witness_notary_does(trio: Trio) -> None:
    """Notary signs the old content again; so both programs show the tag afterwards."""
    orphaned(trio)
    with pytest.raises(ThresholdError, match="expected valid signatures by 1 of its keys, got 0"):
        trio.at.server().refresh().targets(RELEASES)
    trio.notary("witness", "-p", trio.gun, RELEASES)
    assert trio.notary_lists() == ["1.0"]
    assert [row["SignedTag"] for row in trio.check_agreement()["SignedTags"]] == ["1.0"]


# --- Folders and caches -----------------------------------------------------------------------


def test_a_cache_of_ours_is_the_cache_of_the_others(trio: Trio) -> None:
    """Case 52: every file that we keep is one that Docker and Notary keep, byte for byte."""
    ids = trio.begin("ci")
    trio.at.sign(trio.at.store.load(ids["ci"], trio.at.passphrases), "1.0")
    trio.json("inspect", trio.gun)
    folder = trio.trust_dir / "tuf" / trio.gun / "metadata"
    ours = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json")}
    shutil.rmtree(folder)
    trio.docker("trust", "inspect", trio.gun)
    theirs = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json")}
    assert ours == theirs


def test_one_passphrase_variable_missing_is_a_sentence_and_no_change(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.begin("ci")
    for name in PASSPHRASES:
        monkeypatch.delenv(name)
        floors = trio.at.server().refresh().floors
        trio.ours("rotate", "targets", trio.gun, code=2)
        assert trio.said.count("\n") == 1
        assert "Set DOCKER_CONTENT_TRUST_" in trio.said
        assert trio.at.server().refresh().floors == floors


def test_the_first_signer_after_the_last_has_releases_begun_anew(trio: Trio) -> None:
    """The trust server keeps what removed signers signed; nobody who is left vouches for it."""
    trio.begin("ci")
    trio.notary_adds("1.0")
    trio.ours("signer", "remove", "ci", trio.gun)
    key_id = trio.add("qa")
    assert trio.json("signer", "remove", "qa", trio.gun)
    again = trio.new_key("zed", "zed")
    assert trio.ours("signer", "add", "--key", again, "zed", trio.gun)
    assert trio.check_agreement()["SignedTags"] == []
    trio.notary_adds("2.0")
    assert trio.notary_lists() == ["2.0"]
    assert key_id


def test_who_removes_the_last_signer_is_told_what_goes_along(trio: Trio) -> None:
    trio.begin("ci", "qa")
    trio.notary_adds("1.0")
    (row,) = trio.json("signer", "remove", "qa", trio.gun)
    assert row["signersLeft"] == ["ci"]
    assert trio.check_agreement()["SignedTags"]
    said = trio.ours("signer", "remove", "ci", trio.gun)
    assert said.endswith("; no signer is left, and nothing that signers released counts any more\n")
    assert trio.check_agreement()["SignedTags"] == []


def test_a_first_signer_with_a_key_elsewhere_is_refused_before_consumers_get_nothing(
    trio: Trio,
) -> None:
    trio.begin("ci")
    trio.notary_adds("1.0")
    trio.ours("signer", "remove", "ci", trio.gun)
    before = trio.json("inspect", trio.gun)
    public = trio.new_key("zed", "zed")
    listed = trio.json("key", "list")
    trio.hide(next(row["keyId"] for row in listed if row["role"] == "zed"))
    trio.ours("signer", "add", "--key", public, "zed", trio.gun, code=2)
    assert "no consumer would get anything" in trio.said
    assert trio.json("inspect", trio.gun) == before
