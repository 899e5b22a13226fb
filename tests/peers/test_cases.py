"""Acceptance cases that need the real server or the real clients as judges.

2, 23, 24, 35, 42, 50 and 52; the table in `docs/protocol.md` names the tests of all cases.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shop import Shop, opened_shop
from peers.stack import Stack
from peers.workstation import IMAGE, OTHER, PASSPHRASES, Workstation
from signimage import cli
from signimage.administration import initialise_repository
from signimage.errors import RootPinError
from signimage.filemeta import FileMeta
from signimage.lookup import released, signers_of
from signimage.metadata import SNAPSHOT, TARGETS, TIMESTAMP
from signimage.notary import TrustServer
from signimage.oci import Descriptor, Digest, Manifest
from signimage.signing import sign_pushed
from signimage.transport import Transport
from signimage.trustapi import TrustApi
from signimage.trustcache import TrustCache

INDEX = "application/vnd.oci.image.index.v1+json"
NOTARY_WORDS = {
    f"NOTARY_{role}_PASSPHRASE": "repository passphrase"
    for role in ("TARGETS", "SNAPSHOT", "DELEGATION")
} | {"NOTARY_ROOT_PASSPHRASE": "root passphrase"}


def notary(workstation: Workstation, *arguments: str) -> None:
    """Run the notary CLI on a trust directory with the same keys, and a cache of its own."""
    trust_dir = workstation.folder / "notary"
    if not trust_dir.exists():
        shutil.copytree(workstation.store.private, trust_dir / "private")
    workstation.stack.notary(*arguments, trust_dir=trust_dir, env=NOTARY_WORDS)


@pytest.fixture
def command_line(workstation: Workstation, monkeypatch: pytest.MonkeyPatch) -> Workstation:
    """Put our command line onto the workstation."""
    monkeypatch.setenv("DOCKER_CONFIG", str(workstation.config))
    monkeypatch.setenv("DOCKER_CONTENT_TRUST_SERVER", workstation.stack.trust_server)
    for name, value in PASSPHRASES.items():
        monkeypatch.setenv(name, value)
    return workstation


@pytest.mark.parametrize(
    ("role", "options"),
    [(TIMESTAMP, ["-r"]), (SNAPSHOT, ["-r"]), (SNAPSHOT, []), (TARGETS, [])],
    ids=["timestamp", "snapshot to the server", "snapshot to the owner", "targets"],
)
def test_a_key_that_notary_rotates_is_followed_by_a_client_that_kept_the_old_one(
    workstation: Workstation, role: str, options: list[str]
) -> None:
    """Case 23: in one refresh, whoever holds the key afterwards."""
    key = workstation.initialise()
    workstation.sign(key, "1.0")
    before = workstation.server().refresh().root.body
    notary(workstation, "key", "rotate", *options, workstation.gun, role)
    repository = workstation.server().refresh()
    assert repository.root.body.version == before.version + 1
    assert repository.root.body.roles[role] != before.roles[role]
    assert released(repository, "1.0") == IMAGE


def test_a_repository_that_was_deleted_and_made_anew_is_refused_until_it_is_forgotten(
    command_line: Workstation,
) -> None:
    """Case 24: also by the owner, before anything is sent, and forgotten by a command."""
    workstation = command_line
    workstation.initialise()
    stranger = Workstation(workstation.stack, workstation.folder / "stranger", workstation.gun)
    notary(workstation, "delete", "--remote", workstation.gun)
    with pytest.raises(RootPinError, match="had trust data when we looked last, and https://loc"):
        initialise_repository(workstation.server(), workstation.store, workstation.passphrases)
    initialise_repository(stranger.server(), stranger.store, stranger.passphrases)
    with pytest.raises(RootPinError, match="shows another root than the one believed before"):
        workstation.server().refresh()
    assert cli.main(["repo", "forget", workstation.gun]) == 0
    workstation.server().refresh()


def test_a_signer_is_added_to_every_repository_up_to_the_one_that_fails(
    command_line: Workstation, repository_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 35: the error names it, and running the command again does the rest."""
    workstation = command_line
    workstation.initialise()
    key = str(workstation.folder / "ci.pub")
    other = f"{workstation.stack.open_registry}/{repository_name}-other"
    argv = ["signer", "add", "--key", key, "twin", workstation.gun, other]
    assert cli.main(argv) == 1
    said = capsys.readouterr()
    assert f"twin may sign in {workstation.gun}" in said.out
    assert f"signimage: {other} has no trust data on https://localhost" in said.err
    assert [signer["Name"] for signer in workstation.inspected()["Signers"]] == ["twin", "ci"]
    assert cli.main(["repo", "init", other]) == 0
    assert cli.main(argv) == 0


# --- Images -----------------------------------------------------------------------------------


@pytest.fixture
def shop(workstation: Workstation, stack: Stack, tmp_path: Path) -> Iterator[Shop]:
    """Set up a shop with the signer `ci`."""
    with opened_shop(workstation, stack, tmp_path) as shop:
        yield shop


def test_what_we_push_and_sign_docker_pulls_by_its_signature(shop: Shop) -> None:
    """Case 2: with content trust, by the digest that was signed; a tag without one it refuses."""
    at = shop.workstation
    image = shop.signs(shop.order("1.0"), shop.built("1.0"))
    shop.registry.put_manifest("unsigned", shop.registry.resolve("1.0"))
    trusting = {"DOCKER_CONTENT_TRUST": "1"}
    pulled = at.stack.docker("pull", f"{at.gun}:1.0", config=at.config, env=trusting)
    assert f"Digest: {image.digests['1.0']}" in pulled.stdout
    refused = at.stack.docker(
        "pull", f"{at.gun}:unsigned", config=at.config, env=trusting, check=False
    )
    assert refused.returncode == 1


def _index(shop: Shop) -> Manifest:
    """An index of two platforms, as people write it: its bytes are its own."""
    source = shop.built("1.0")
    source.prepare()
    one = source.deliver(shop.registry)["1.0"].descriptor
    entry = {"mediaType": one.media_type, "digest": one.digest.text, "size": one.size}
    platforms = [{"os": "linux", "architecture": each} for each in ("amd64", "arm64")]
    document = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{**entry, "platform": each} for each in platforms],
    }
    content = json.dumps(document, indent=3).encode()
    return Manifest(Descriptor(INDEX, Digest.of(content), len(content)), content)


def test_an_index_is_signed_as_the_registry_holds_it(shop: Shop) -> None:
    """Case 42: Docker's client cannot sign what names several platforms."""
    index = _index(shop)
    described = index.descriptor
    shop.registry.put_manifest("multi", index)
    order = shop.order("multi")
    image = sign_pushed(order, shop.registry, shop.workstation.server(), shop)
    assert (image.digests, image.signers) == ({"multi": described.digest}, ("ci",))
    meta = released(shop.workstation.server(cache=False).refresh(), "multi")
    assert (meta.length, meta.sha256) == (described.size, described.digest.raw)
    (row,) = shop.workstation.inspected()["SignedTags"]
    assert (row["SignedTag"], row["Digest"]) == ("multi", described.digest.hex)


# --- Parity with Docker's command line --------------------------------------------------------


def test_an_inspection_on_the_command_line_is_dockers(
    command_line: Workstation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 50: of a repository, of one tag, and of a tag that is not there."""
    workstation = command_line
    ci, qa = workstation.initialise(), workstation.initialise("qa")
    workstation.sign(ci, "v10", "v9", "latest", "1.0")
    workstation.sign(qa, "v9")
    workstation.sign(qa, "1.0", image=OTHER)
    for name in (workstation.gun, f"{workstation.gun}:v9", f"{workstation.gun}:absent"):
        assert cli.main(["inspect", "--json", name]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(
            workstation.docker("trust", "inspect", name)
        )


def test_an_inspection_of_nothing_fails_as_dockers_does(
    command_line: Workstation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 50: exit code 1 from both; ours says why."""
    workstation = command_line
    judged = workstation.stack.docker(
        "trust", "inspect", workstation.gun, config=workstation.config, check=False
    )
    assert (judged.returncode, cli.main(["inspect", "--json", workstation.gun])) == (1, 1)
    assert f"{workstation.gun} has no trust data on" in capsys.readouterr().err


def kept(workstation: Workstation) -> dict[str, bytes]:
    """The role files in the cache that we share with Docker, by name."""
    folder = workstation.config / "trust" / "tuf" / workstation.gun / "metadata"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*.json")
        if path.is_file()
    }


def test_docker_goes_on_with_the_cache_and_the_keys_that_we_wrote(workstation: Workstation) -> None:
    """Case 52: it reads our cache offline, and adds a signer with the repository key of ours."""
    key = workstation.initialise()
    workstation.sign(key, "1.0")
    ours = workstation.server().refresh()
    assert kept(workstation) == {f"{role}.json": data for role, data in ours.files.items()}
    seen = workstation.stack.docker(
        "trust",
        "inspect",
        workstation.gun,
        config=workstation.config,
        env={"DOCKER_CONTENT_TRUST_SERVER": "https://localhost:1"},
    )
    assert [row["SignedTag"] for row in json.loads(seen.stdout)[0]["SignedTags"]] == ["1.0"]
    public = str(workstation.folder / "ci.pub")
    workstation.docker("trust", "signer", "add", "--key", public, "twin", workstation.gun)
    assert [each["Name"] for each in workstation.inspected()["Signers"]] == ["twin", "ci"]


def test_we_go_on_with_the_cache_and_the_keys_that_docker_wrote(workstation: Workstation) -> None:
    """Case 52: offline from its cache alone, and with the repository key that it made."""
    workstation.docker("trust", "key", "generate", "carol", "--dir", str(workstation.folder))
    public = str(workstation.folder / "carol.pub")
    workstation.docker("trust", "signer", "add", "--key", public, "carol", workstation.gun)
    (carol,) = (each for each in workstation.store.entries() if each.role == "carol")
    workstation.sign(workstation.store.load(carol.key_id, workstation.passphrases), "1.0")
    workstation.inspected()
    before = kept(workstation)
    with Transport() as transport:
        nowhere = TrustServer(
            TrustApi(transport, "https://localhost:1", workstation.gun),
            cache=TrustCache(workstation.config / "trust", workstation.gun),
        )
        repository = nowhere.refresh(offline=True)
    assert released(repository, "1.0") == IMAGE
    assert signers_of(repository, "1.0", IMAGE) == ("carol",)
    assert kept(workstation) == before
    dave = workstation.initialise("dave")
    workstation.sign(dave, "2.0", image=FileMeta(1, {"sha256": bytes(32)}))
    assert {row["SignedTag"] for row in workstation.inspected()["SignedTags"]} == {"1.0", "2.0"}
