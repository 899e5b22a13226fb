"""What users of content trust have complained of for ten years, one complaint a test.

Each docstring is the complaint as its users know it, often the message itself, and then what we
do instead. The real programs stand beside ours, on the same server, keys and cache.
"""

import json
import shutil
from pathlib import Path

import pytest

from peers.operations import overtaken
from peers.trio import Shelf, Trio
from peers.workstation import IMAGE, OTHER, Workstation
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE
from signimage.lookup import released
from signimage.metadata import RELEASES
from signimage.publication import signing_plan


def machine(trio: Trio, name: str) -> Workstation:
    """Another machine of the same people: nothing is on it yet."""
    return Workstation(trio.at.stack, trio.at.folder / name, trio.gun)


def test_1_images_for_several_platforms(trio: Trio, shelf: Shelf) -> None:
    """Manifest lists cannot be signed. Ours signs the index, from the registry, without a push."""
    trio.begin("ci")
    index = shelf.index([shelf.image("amd64"), shelf.image("arm64")], "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    assert trio.json("verify", f"{trio.gun}:1.0")["digest"] == index.text
    assert trio.check_agreement()["SignedTags"][0]["Digest"] == index.hex


def test_2_conflicts(trio: Trio) -> None:
    """`trust server rejected operation.` Ours looks again, and signs on top of what came first."""
    ids = trio.begin("ci")
    key = trio.at.store.load(ids["ci"], trio.at.passphrases)
    plan = overtaken(signing_plan({"ours": OTHER}, [ids["ci"]]), lambda: trio.notary_adds("theirs"))
    done = trio.at.server(cache=False).publish(plan, {ids["ci"]: key})
    assert done.attempts > 1
    assert [row["SignedTag"] for row in trio.check_agreement()["SignedTags"]] == ["ours", "theirs"]


def test_2_refusals(trio: Trio, shelf: Shelf) -> None:
    """`trust server rejected operation.` Ours says who may sign, before the server is troubled."""
    ids = trio.begin("ci")
    shelf.image("one", "1.0")
    trio.hide(ids["ci"])
    trio.ours("key", "generate", "--dir", str(trio.at.folder), "bob")
    trio.ours("sign", f"{trio.gun}:1.0", code=2)
    assert f"may sign in {trio.gun}; its signers are ci ({ids['ci']})" in trio.said


def test_3_a_cache_with_a_root_that_nobody_knows(trio: Trio) -> None:
    """`could not rotate trust to a new trusted root`. Ours says what it is, and what mends it."""
    trio.notary("init", trio.gun)  # it writes into the cache what it does not publish
    other = machine(trio, "other")
    other.initialise()
    with pytest.raises(AssertionError, match="could not rotate trust to a new trusted root"):
        _listed_by_notary(trio)
    trio.ours("inspect", trio.gun, code=1)
    assert "shows another root than the one believed before" in trio.said
    trio.ours("repo", "forget", trio.gun)
    trio.ours("inspect", trio.gun)
    assert trio.check_agreement()["Signers"] == other.inspected()["Signers"]
    _listed_by_notary(trio)


def _listed_by_notary(trio: Trio) -> None:
    done = trio.at.stack.notary("list", trio.gun, trust_dir=trio.trust_dir, check=False)
    assert done.returncode == 0, done.stderr


def test_4_a_signer_who_goes(trio: Trio) -> None:
    """A removed signer invalidates a role. Ours signs it again in the same publication."""
    ids = trio.begin("ci", "qa")
    trio.hide(ids["ci"])
    trio.notary_adds("1.0", "targets/qa", RELEASES)
    trio.show(ids["ci"])
    trio.ours("signer", "remove", "qa", trio.gun)
    assert trio.at.server().refresh().rejection(RELEASES) is None
    trio.notary_adds("2.0", "targets/ci", RELEASES)
    assert len(trio.check_agreement()["SignedTags"]) == 2


def test_4_a_role_that_is_invalid(trio: Trio) -> None:
    """It needs an obscure `witness`. Ours finds the role by itself, and says the command."""
    ids = trio.begin("ci", "qa")
    trio.hide(ids["ci"])
    trio.notary_adds("1.0", "targets/qa", RELEASES)
    trio.show(ids["ci"])
    trio.notary("delegation", "remove", "-p", trio.gun, RELEASES, ids["qa"])
    trio.ours("verify", "--trust-only", f"{trio.gun}:1.0", code=1)
    assert f"signimage witness --drop {trio.gun} {RELEASES}" in trio.said
    trio.ours("witness", "--drop", trio.gun)
    trio.notary_adds("1.0", "targets/ci", RELEASES)
    trio.ours("verify", "--trust-only", "--signer", "ci", f"{trio.gun}:1.0")


def test_5_hashes(trio: Trio, shelf: Shelf) -> None:
    """`no hashes specified for target`. Ours takes digest and length from the registry's bytes."""
    trio.begin("ci")
    digest = shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    (row,) = [each.split() for each in trio.notary("list", trio.gun).splitlines()
              if digest.hex in each]  # fmt: skip
    meta = released(trio.at.server().refresh(), "1.0")
    assert (row[1], int(row[2])) == (digest.hex, meta.length)
    assert meta.length > 100


def test_6_pushed_and_not_signed(trio: Trio, shelf: Shelf) -> None:
    """Push and signature are two things. Ours takes neither for the other, and repeats."""
    trio.begin("ci")
    shelf.image("one", "1.0")
    away = ["--trust-server", "https://localhost:1"]
    trio.ours("sign", *away, f"{trio.gun}:1.0", code=3)
    verdict = trio.json("verify", f"{trio.gun}:1.0", code=1)
    assert not verdict["verified"]
    assert "is not signed" in verdict["reason"]
    trio.ours("sign", f"{trio.gun}:1.0")
    assert trio.json("verify", f"{trio.gun}:1.0")["verified"]


def test_7_trust_at_first_sight(trio: Trio, shelf: Shelf) -> None:
    """Docker pins no root. With ours an impostor's repository is refused at first sight."""
    impostor = machine(trio, "impostor")
    impostor.initialise()
    shelf.image("one", "1.0")
    victim = machine(trio, "victim")
    assert victim.inspected()["Signers"][0]["Name"] == "ci"
    trio.ours("inspect", "--root-key", "1" * 64, trio.gun, code=1)
    assert f"expected root key {'1' * 64}, got " in trio.said
    trio.ours("inspect", "--no-first-use", trio.gun, code=1)
    assert not (trio.trust_dir / "tuf").exists()


@pytest.mark.parametrize(
    ("variable", "role", "arguments"),
    [
        (ROOT_VARIABLE, "root", ["rotate", "timestamp"]),
        (REPOSITORY_VARIABLE, "targets", ["signer", "remove", "ci"]),
    ],
)
def test_8_passphrases(
    trio: Trio, monkeypatch: pytest.MonkeyPatch, variable: str, role: str, arguments: list[str]
) -> None:
    """It hangs at a prompt, or names no key. Ours ends at once, naming the variable and the key."""
    trio.begin("ci")
    (key_id,) = [entry.key_id for entry in trio.at.store.entries() if entry.role == role]
    monkeypatch.setenv(variable, "wrong")
    trio.ours(*arguments, trio.gun, code=2)
    assert f"Check the value of {variable}" in trio.said
    assert f"key file {key_id}.key" in trio.said
    monkeypatch.delenv(variable)
    trio.ours(*arguments, trio.gun, code=2)
    assert f"Set {variable}" in trio.said


def test_9_keys_that_do_not_sign_any_more(trio: Trio, shelf: Shelf) -> None:
    """`no valid signing keys for delegation roles`. Ours says whose keys do, and how to add one."""
    trio.begin()
    shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    ids = {"ci": trio.add("ci")}
    trio.hide(ids["ci"])
    trio.ours("sign", f"{trio.gun}:1.0", code=2)
    assert f"its signers are ci ({ids['ci']})" in trio.said
    assert f"Its owner can add a key with: signimage signer add --key FILE.pub NAME {trio.gun}" in (
        trio.said
    )
    trio.show(ids["ci"])
    trio.ours("sign", f"{trio.gun}:1.0")
    assert trio.check_agreement()["SignedTags"][0]["Signers"] == ["ci"]


def test_10_keys_and_state_on_several_machines(
    trio: Trio, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local state is hard to share. Ours needs one key file, and keeps nothing that must follow."""
    ids = trio.begin("ci")
    shelf.image("one", "1.0")
    other = machine(trio, "other")
    folder = other.config / "trust" / "private"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    shutil.copy(trio.trust_dir / "private" / f"{ids['ci']}.key", folder)
    monkeypatch.setenv("DOCKER_CONFIG", str(other.config))
    trio.ours("sign", f"{trio.gun}:1.0")
    monkeypatch.setenv("DOCKER_CONFIG", str(trio.at.config))
    assert trio.check_agreement()["SignedTags"][0]["Signers"] == ["ci"]


def test_10_changes_of_yesterday(trio: Trio, shelf: Shelf) -> None:
    """A failed command's changes come with the next one. Ours publishes what it is asked to."""
    trio.begin("ci")
    digest = IMAGE.sha256.hex()
    trio.notary("addhash", "-r", RELEASES, trio.gun, "stale", "529", "--sha256", digest)
    changes = list(_changes(trio))
    assert changes
    shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    assert list(_changes(trio)) == changes
    assert [row["SignedTag"] for row in trio.json("inspect", trio.gun)[0]["SignedTags"]] == ["1.0"]
    trio.notary("publish", trio.gun)
    shown = json.loads(trio.docker("trust", "inspect", trio.gun))[0]["SignedTags"]
    assert [row["SignedTag"] for row in shown] == ["1.0", "stale"]


def _changes(trio: Trio) -> list[Path]:
    return sorted((trio.trust_dir / "tuf" / trio.gun / "changelist").glob("*.change"))
