"""`doctor` and `report` on the real servers: what they find, and that they leave nothing behind."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from peers.stack import Stack
from peers.trio import Shelf, Trio
from peers.workstation import IMAGE, PASSPHRASES
from signimage.administration import add_signer, generate_key, initialise_repository
from signimage.keys import PublicKey
from signimage.notary import utc_now
from signimage.publication import signing_plan

_REPOSITORY_PASSPHRASE = "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"


def doctor(trio: Trio, *words: str, code: int = 0) -> dict[str, Any]:
    """The findings, by the name of the check; the last of each."""
    found = trio.json("doctor", *words, trio.gun, code=code)
    rows = {row["check"]: row for row in found["checks"]}
    return {**rows, "result": found["result"]}


def failed(found: dict[str, Any]) -> list[str]:
    return [
        name for name, row in found.items() if isinstance(row, dict) and row["status"] == "failure"
    ]


def kept(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_where_all_is_well_the_doctor_says_so(trio: Trio, shelf: Shelf) -> None:
    trio.begin("ci")
    shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    found = doctor(trio, "--tag", "1.0")
    assert found["result"] == "ok"
    assert found["registry"]["text"].endswith("answers (over http, on this machine)")
    assert "believed here before" in found["root"]["text"]
    assert "the tag 1.0 may be signed" in found["signing"]["text"]
    shown = trio.ours("doctor", "--tag", "1.0", trio.gun)
    assert all(line.startswith("ok  ") for line in shown.splitlines())
    assert trio.ours("doctor", "--quiet", trio.gun) == ""


def test_the_doctor_leaves_nothing_behind(trio: Trio, shelf: Shelf) -> None:
    """On a machine that never saw the repository it stays so, and the servers show the same."""
    trio.begin("ci")
    shelf.image("one", "1.0")
    shown = trio.docker("trust", "inspect", trio.gun)
    trio.ours("repo", "forget", trio.gun)
    before = kept(trio.at.config)
    for _ in range(2):
        assert "nothing is pinned" in doctor(trio)["root"]["text"]
    assert kept(trio.at.config) == before
    assert trio.docker("trust", "inspect", trio.gun) == shown


def test_a_repository_without_trust_data_stays_without(trio: Trio, shelf: Shelf) -> None:
    shelf.image("one", "1.0")
    found = doctor(trio, code=1)
    assert failed(found) == ["initialised"]
    assert f"signimage repo init {trio.gun}" in found["initialised"]["remedy"]
    assert doctor(trio, code=1)["trust-read"]["text"].endswith("may be asked about " + trio.gun)


def test_the_remedies_of_the_doctor_mend_what_was_wrong(trio: Trio, shelf: Shelf) -> None:
    """From nothing to a signature, by doing what each failure says."""
    shelf.image("one", "1.0")
    command = doctor(trio, "--tag", "1.0", code=1)["initialised"]["remedy"]
    trio.ours(*re.search(r"signimage (repo init \S+)", command)[1].split())  # type: ignore[index]  # it is there
    found = doctor(trio, "--tag", "1.0")
    assert "of the repository is here" in found["keys"]["text"]
    key_id = trio.add("ci")
    assert doctor(trio, "--tag", "1.0")["result"] == "ok"
    trio.hide(key_id)
    found = doctor(trio, "--tag", "1.0", code=1)
    assert failed(found) == ["keys"]
    assert "signimage key import FILE" in found["keys"]["remedy"]
    trio.ours("key", "import", str(trio.at.folder / f"{key_id}.key"))
    assert doctor(trio, "--tag", "1.0")["result"] == "ok"
    trio.ours("sign", f"{trio.gun}:1.0")


def test_the_remedies_for_what_ends_soon_renew_it(trio: Trio) -> None:
    """Everything was signed three years ago but for a month, and by the keys of today."""
    at = trio.at
    server = at.server()
    server.clock = lambda: utc_now() - timedelta(days=3 * 365 - 30)
    initialise_repository(server, at.store, at.passphrases)
    made = generate_key(at.store, at.passphrases, "ci", at.folder)
    public = PublicKey.from_pem(made.public.read_bytes())
    add_signer(server, at.store, at.passphrases, "ci", [public])
    key = at.store.load(made.key_id, at.passphrases)
    server.publish(signing_plan({"1.0": IMAGE}, [made.key_id]), {made.key_id: key})
    rows = [row for row in trio.json("doctor", trio.gun)["checks"] if row["check"] == "expiry"]
    remedies = [re.search(r"signimage (.+)", row["remedy"]) for row in rows]
    assert [found and found[1].split()[-1] for found in remedies] == [
        "targets", "targets/ci", "targets/releases"
    ]  # fmt: skip
    for found in remedies:
        trio.ours(*found[1].split())  # type: ignore[index]  # each was found
    assert doctor(trio)["expiry"]["status"] == "ok"
    assert trio.check_agreement()["SignedTags"][0]["Signers"] == ["ci"]


def test_a_passphrase_that_is_not_the_keys_is_found(
    trio: Trio, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.begin("ci")
    shelf.image("one", "1.0")
    monkeypatch.setenv(_REPOSITORY_PASSPHRASE, "n0t-the-right-one")
    found = doctor(trio, "--no-keyring", code=1)
    assert failed(found) == ["keys"]
    assert _REPOSITORY_PASSPHRASE in found["keys"]["remedy"]
    assert "n0t-the-right-one" not in json.dumps(found) + trio.said


def test_servers_that_are_away_leave_it_undecided(trio: Trio, shelf: Shelf) -> None:
    shelf.image("one", "1.0")
    found = doctor(trio, "--trust-server", "https://localhost:1", code=3)
    assert failed(found) == ["trust-server"]
    assert found["result"] == "unreachable"
    assert found["push"]["status"] == "ok"


def test_a_missing_authority_is_mended_where_the_remedy_says(trio: Trio, shelf: Shelf) -> None:
    trio.begin("ci")
    shelf.image("one", "1.0")
    file = trio.at.config / "tls" / trio.at.stack.trust_host / "ca.crt"
    content = file.read_bytes()
    file.unlink()
    found = doctor(trio, code=3)
    assert failed(found) == ["trust-server"]
    assert str(file) in found["trust-server"]["remedy"]
    file.write_bytes(content)
    assert doctor(trio)["result"] == "ok"


def test_a_registry_that_wants_a_login_is_told_apart(
    stack: Stack, trio: Trio, repository_name: str
) -> None:
    """The stack's guarded registry, with the login that Docker has for it and without."""
    name = f"{stack.registry}/{repository_name}"
    found = trio.json("doctor", name, code=1)
    rows = {row["check"]: row for row in found["checks"]}
    assert (rows["pull"]["status"], rows["push"]["status"]) == ("ok", "ok")
    (trio.at.config / "config.json").write_text("{}", "utf-8")
    found = trio.json("doctor", name, code=1)
    rows = {row["check"]: row for row in found["checks"]}
    assert f"docker login {stack.registry}" in rows["pull"]["remedy"]
    assert rows["push"]["text"] == "because of the failure of: Pulling"


def test_another_root_than_the_one_that_is_pinned_stops_the_doctor(
    trio: Trio, shelf: Shelf
) -> None:
    trio.begin("ci")
    shelf.image("one", "1.0")
    found = doctor(trio, "--root-key", "ab" * 32, code=1)
    assert failed(found) == ["trust-data"]
    assert "Ask its owner" in found["trust-data"]["remedy"]


def test_who_only_verifies_needs_no_key(trio: Trio, shelf: Shelf) -> None:
    for key_id in trio.begin("ci").values():
        trio.hide(key_id)
    shelf.image("one", "1.0")
    assert doctor(trio, "--read-only")["result"] == "ok"


@pytest.mark.parametrize("image", [":1.0", f"@sha256:{'0' * 64}"])
def test_a_tag_is_no_repository(trio: Trio, image: str) -> None:
    for command in ("doctor", "report"):
        trio.ours(command, f"{trio.gun}{image}", code=2)
        assert "expected a repository, got a tag or a digest" in trio.said


# --- The report -------------------------------------------------------------------------------


def test_a_report_shows_what_docker_shows(trio: Trio, shelf: Shelf) -> None:
    keys = trio.begin("ci", "qa")
    digest = shelf.image("one", "1.0")
    trio.ours("sign", "--as", "ci", f"{trio.gun}:1.0")
    trio.notary_adds("2.0", "targets/releases", "targets/qa")
    file = trio.at.folder / "page.html"
    told = trio.json("report", "--output", str(file), "--signer", "qa", "--registry", trio.gun)
    (row,) = told["repositories"]
    assert (told["output"], row["tags"]) == (str(file), 2)
    assert row["problems"] == ["qa must sign every tag, and has not signed 1 tag (1.0)"]
    assert row["notices"] == ["the registry does not have 1 signed tag (2.0)"]
    page = file.read_text("utf-8")
    shown = json.loads(trio.docker("trust", "inspect", trio.gun))[0]
    for entry in shown["SignedTags"]:
        assert f"sha256:{entry['Digest']}" in page
    assert digest.text in page
    assert all(key_id in page for key_id in keys.values())
    assert not any(secret in page for secret in PASSPHRASES.values())


def test_a_tag_that_was_moved_stands_in_the_report(trio: Trio, shelf: Shelf) -> None:
    trio.begin("ci")
    shelf.image("one", "1.0")
    trio.ours("sign", f"{trio.gun}:1.0")
    moved = shelf.image("two", "1.0")
    page = trio.ours("report", "--output", "-", "--registry", trio.gun)
    assert "the registry has another image than was signed under 1 tag (1.0)" in page
    assert moved.text in page


def test_a_repository_that_cannot_be_shown_has_its_place(trio: Trio, shelf: Shelf) -> None:
    trio.begin("ci")
    file = trio.at.folder / "page.html"
    words = ["report", "--output", str(file), trio.gun, f"{trio.gun}-lost"]
    trio.ours(*words, code=1)
    assert f"{trio.gun}-lost has no trust data" in trio.said
    page = file.read_text("utf-8")
    assert f"{trio.gun}-lost has no trust data" in page
    assert "2 repositories" in page
    shelf.image("one")
    trio.ours(*words[:4], "--trust-server", "https://localhost:1", code=3)
    assert "cannot be reached" in file.read_text("utf-8")
    assert [each.name for each in trio.at.folder.glob(".signimage-*")] == []


def test_what_was_kept_is_shown_as_such(trio: Trio) -> None:
    trio.begin("ci")
    words = ["report", "--output", "-", "--trust-server", "https://localhost:1", trio.gun]
    assert "this is what was kept" in trio.ours(*words, "--offline")


def test_a_folder_that_is_not_there_is_wrong_input(trio: Trio) -> None:
    trio.begin("ci")
    trio.ours("report", "--output", str(trio.at.folder / "no" / "page.html"), trio.gun, code=2)
    assert "No such file or directory" in trio.said
