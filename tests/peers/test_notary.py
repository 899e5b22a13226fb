"""`signimage.notary` and `administration` against the real trust server, judged by its own clients.

Whatever one side does, the other must see and be able to continue.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from peers.workstation import IMAGE, OTHER, Workstation
from signimage.administration import (
    initialise_repository,
    inspection,
    remove_signer,
)
from signimage.errors import (
    CertificateError,
    FormatError,
    InputError,
    NotASignerError,
    NotInitializedError,
    RootPinError,
    UnreachableError,
)
from signimage.keys import PrivateKey, PublicKey
from signimage.lookup import released, signers_of
from signimage.metadata import RELEASES, ROOT
from signimage.notary import TrustServer
from signimage.pinning import RootPins
from signimage.publication import signing_plan
from signimage.transport import Transport
from signimage.trustapi import TrustApi


def test_what_we_initialise_and_sign_the_real_clients_see(workstation: Workstation) -> None:
    """Case 2."""
    key = workstation.initialise()
    workstation.sign(key, "1.0", "latest")
    row = {"Digest": bytes(range(32)).hex(), "Signers": ["ci"]}
    seen = workstation.inspected()
    assert seen["SignedTags"] == [{"SignedTag": tag, **row} for tag in ("1.0", "latest")]
    assert seen["Signers"][0]["Keys"] == [{"ID": key.public_key.canonical_id}]
    assert seen == inspection(workstation.gun, workstation.server().refresh())
    for role in ("targets/ci", RELEASES):
        listed = workstation.stack.notary(
            "list", "-r", role, workstation.gun, trust_dir=workstation.config / "trust"
        ).stdout
        rows = [line.split() for line in listed.splitlines() if role in line]
        assert [row[0] for row in rows] == ["1.0", "latest"]
        assert {row[1] for row in rows} == {bytes(range(32)).hex()}


def test_docker_adds_a_signer_to_our_repository_and_we_sign_as_that_one(
    workstation: Workstation,
) -> None:
    ours = workstation.initialise()
    workstation.docker("trust", "key", "generate", "bob", "--dir", str(workstation.folder))
    workstation.docker(
        "trust", "signer", "add", "--key", str(workstation.folder / "bob.pub"), "bob",
        workstation.gun,
    )  # fmt: skip
    bob = PublicKey.from_pem((workstation.folder / "bob.pub").read_bytes())
    key = workstation.store.load(bob.canonical_id, workstation.passphrases)
    workstation.sign(key, "2.0")
    workstation.sign(ours, "2.0")
    assert workstation.inspected()["SignedTags"][0]["Signers"] == ["ci", "bob"]


def test_a_repository_of_docker_is_signed_by_us_and_then_by_docker_again(
    workstation: Workstation,
) -> None:
    """Case 2."""
    workstation.docker("trust", "key", "generate", "carol", "--dir", str(workstation.folder))
    workstation.docker(
        "trust", "signer", "add", "--key", str(workstation.folder / "carol.pub"), "carol",
        workstation.gun,
    )  # fmt: skip
    carol = PublicKey.from_pem((workstation.folder / "carol.pub").read_bytes())
    workstation.sign(workstation.store.load(carol.canonical_id, workstation.passphrases), "ours")
    workstation.docker("trust", "key", "generate", "dave", "--dir", str(workstation.folder))
    workstation.docker(
        "trust", "signer", "add", "--key", str(workstation.folder / "dave.pub"), "dave",
        workstation.gun,
    )  # fmt: skip
    seen = workstation.inspected()
    assert [signer["Name"] for signer in seen["Signers"]] == ["dave", "carol"]
    assert seen["SignedTags"][0]["SignedTag"] == "ours"
    assert signers_of(workstation.server().refresh(), "ours", IMAGE) == ("carol",)


def test_a_repository_of_notary_without_delegations_is_signed_with_its_targets_key(
    workstation: Workstation,
) -> None:
    trust_dir = workstation.config / "trust"
    env = {
        f"NOTARY_{role}_PASSPHRASE": "repository passphrase"
        for role in ("TARGETS", "SNAPSHOT", "DELEGATION")
    } | {"NOTARY_ROOT_PASSPHRASE": "root passphrase"}
    notary = workstation.stack.notary
    notary("init", "--publish", workstation.gun, trust_dir=trust_dir, env=env)
    # Notary keeps the snapshot key itself unless told otherwise; Docker's way is the server's.
    notary("key", "rotate", "-r", workstation.gun, "snapshot", trust_dir=trust_dir, env=env)
    (entry,) = [each for each in workstation.store.entries() if each.role == "targets"]
    workstation.sign(workstation.store.load(entry.key_id, workstation.passphrases), "v1")
    listed = notary("list", workstation.gun, trust_dir=trust_dir, env=env).stdout
    assert bytes(range(32)).hex() in listed


def test_signing_the_same_again_sends_nothing(workstation: Workstation) -> None:
    """Case 38."""
    key = workstation.initialise()
    workstation.sign(key, "1.0")
    before = workstation.server().refresh().floors
    key_id = key.public_key.canonical_id
    publication = workstation.server().publish(
        signing_plan({"1.0": IMAGE}, [key_id]), {key_id: key}
    )
    assert (publication.roles, publication.attempts) == ((), 0)
    assert publication.repository.floors == before


def test_the_last_writer_of_a_tag_wins_and_only_its_signers_are_shown(
    workstation: Workstation,
) -> None:
    ci = workstation.initialise()
    qa = workstation.initialise("qa")
    workstation.sign(ci, "1.0")
    workstation.sign(qa, "1.0", image=OTHER)
    repository = workstation.server().refresh()
    assert released(repository, "1.0") == OTHER
    assert signers_of(repository, "1.0", OTHER) == ("qa",)


def test_sixteen_publishers_at_once_lose_nothing(workstation: Workstation) -> None:
    """Case 44: Each is a first visitor with a connection of its own, as in a matrix of jobs."""
    key = workstation.initialise()
    tags = [f"job-{number}" for number in range(16)]
    with ThreadPoolExecutor(len(tags)) as pool:
        list(pool.map(lambda tag: workstation.sign(key, tag), tags))
    signed = workstation.inspected()["SignedTags"]
    assert sorted(row["SignedTag"] for row in signed) == sorted(tags)
    assert {row["Digest"] for row in signed} == {bytes(range(32)).hex()}


def test_a_removed_signer_who_signed_last_leaves_a_repository_that_docker_signs_in(
    workstation: Workstation,
) -> None:
    """Docker's own client leaves one in which nobody can sign any more."""
    ci = workstation.initialise()
    qa = workstation.initialise("qa")
    workstation.sign(ci, "1.0")
    workstation.sign(qa, "1.0")
    remove_signer(workstation.server(), workstation.store, workstation.passphrases, "qa")
    seen = workstation.inspected()
    assert [signer["Name"] for signer in seen["Signers"]] == ["ci"]
    assert [row["Signers"] for row in seen["SignedTags"]] == [["ci"]]
    workstation.sign(ci, "2.0")
    assert [row["SignedTag"] for row in workstation.inspected()["SignedTags"]] == ["1.0", "2.0"]


def test_the_last_signer_is_removed_without_a_trace_that_docker_stumbles_over(
    workstation: Workstation,
) -> None:
    ci = workstation.initialise()
    workstation.sign(ci, "1.0")
    remove_signer(workstation.server(), workstation.store, workstation.passphrases, "ci")
    assert workstation.inspected()["Signers"] == []
    with pytest.raises(InputError, match="has no signer ci; its signers are none"):
        remove_signer(workstation.server(), workstation.store, workstation.passphrases, "ci")


def test_initialising_twice_changes_nothing(workstation: Workstation) -> None:
    first = initialise_repository(workstation.server(), workstation.store, workstation.passphrases)
    keys = workstation.store.entries()
    again = initialise_repository(workstation.server(), workstation.store, workstation.passphrases)
    assert (first.existed, again.existed) == (False, True)
    assert workstation.store.entries() == keys


def test_an_unknown_repository_is_not_initialised(workstation: Workstation) -> None:
    with pytest.raises(NotInitializedError, match=f"{workstation.gun} has no trust data on https"):
        workstation.server().refresh()


def test_a_key_that_is_no_signer_is_refused_and_nothing_is_published(
    workstation: Workstation,
) -> None:
    workstation.initialise()
    before = workstation.server().refresh().floors
    with pytest.raises(NotASignerError, match=r"is not a signer of .*; its signers are ci \("):
        workstation.sign(PrivateKey.generate_ecdsa(), "1.0")
    assert workstation.server(cache=False).refresh().floors == before


def test_only_the_pinned_root_is_believed(workstation: Workstation) -> None:
    workstation.initialise()
    (root_key,) = workstation.server().refresh().root.body.roles[ROOT].keyids
    workstation.server(cache=False, pins=RootPins(frozenset({root_key}))).refresh()
    with pytest.raises(RootPinError, match=f"expected root key {'1' * 64}, got {root_key}"):
        workstation.server(cache=False, pins=RootPins(frozenset({"1" * 64}))).refresh()


def test_root_rotations_are_followed_from_a_kept_root(workstation: Workstation) -> None:
    workstation.initialise()
    workstation.server().refresh()
    trust_dir = workstation.config / "elsewhere"
    (trust_dir / "private").mkdir(parents=True, mode=0o700)
    for file in workstation.store.private.iterdir():
        (trust_dir / "private" / file.name).write_bytes(file.read_bytes())
        (trust_dir / "private" / file.name).chmod(0o600)
    env = {
        f"NOTARY_{role}_PASSPHRASE": "repository passphrase"
        for role in ("TARGETS", "SNAPSHOT", "DELEGATION")
    } | {"NOTARY_ROOT_PASSPHRASE": "root passphrase"}
    for _ in range(2):
        workstation.stack.notary(
            "key", "rotate", "-r", workstation.gun, "timestamp", trust_dir=trust_dir, env=env
        )
    repository = workstation.server().refresh()
    assert repository.root.body.version == 3
    assert workstation.server(cache=False).refresh().root.body.version == 3


def test_a_kept_newer_version_is_a_floor(workstation: Workstation) -> None:
    """What the cache holds was believed before; the server may not fall behind it."""
    key = workstation.initialise()
    workstation.sign(key, "1.0")
    assert workstation.server().refresh().floors[RELEASES] == 1
    server = workstation.server()
    assert server.refresh().floors == workstation.server().refresh().floors


def test_another_authority_is_not_trusted(workstation: Workstation) -> None:
    server = TrustServer(TrustApi(Transport(), workstation.stack.trust_server, workstation.gun))
    with pytest.raises(CertificateError, match="trust server https://localhost"):
        server.refresh()


def test_a_server_that_is_not_there_is_unreachable() -> None:
    server = TrustServer(TrustApi(Transport(), "https://localhost:1", "localhost/x"))
    with pytest.raises(UnreachableError, match="trust server https://localhost:1"):
        server.refresh()


@pytest.mark.parametrize("url", ["http://localhost", "localhost", "https://", "https://u@h", ""])
def test_only_https_urls_are_trust_servers(url: str) -> None:
    with pytest.raises(InputError, match="trust server: expected an https:// URL"):
        TrustApi(Transport(), url, "localhost/x")


def test_what_would_brick_a_repository_is_never_sent(workstation: Workstation) -> None:
    key = workstation.initialise()
    with pytest.raises(FormatError, match="control character"):
        workstation.sign(key, "1.0\n")
    assert workstation.inspected()["SignedTags"] == []
