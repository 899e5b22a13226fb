"""What the doctor finds where all is well, and where one thing is wrong."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from signimage.checkup import Checkup
from signimage.credentials import StoredLogin
from signimage.doctor import Finding, Status, examine, result
from signimage.filemeta import Expiry
from signimage.keystore import KeyStore, Passphrases
from signimage.metadata import RELEASES, SNAPSHOT, TARGETS, TIMESTAMP
from signimage.notary import TrustServer
from signimage.oci import Repository
from signimage.pinning import RootPins
from signimage.registry import Registry
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi
from unit.certificates import Authority, make_authority
from unit.repositories import (
    GUN,
    IMAGE,
    NOW,
    PAST,
    GoodRepository,
    certificate,
    content,
    good_targets,
    key,
)
from unit.small_registry import GOOD, SmallRegistry
from unit.small_server import Reply, SmallServer
from unit.trust_server import Peer, TrustServerModel, error, kept

_VARIABLE = "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"
_PASSPHRASE = "correct horse"
_SERVER = "DOCKER_CONTENT_TRUST_SERVER"
_NOBODY = 65534


@dataclass
class Surgery:
    """A machine on which all is well, until a test makes something wrong."""

    peer: Peer
    small: SmallRegistry
    folder: Path
    pins: RootPins = field(default_factory=RootPins)
    environment: dict[str, str] = field(default_factory=dict)
    passphrase: str = _PASSPHRASE
    registry_host: str = ""
    trust_url: str = ""
    transport: Transport | None = None
    trust_transport: Transport | None = None
    ahead: timedelta = timedelta()

    @property
    def store(self) -> KeyStore:
        return KeyStore(self.folder / "trust")

    def checkup(self, *tags: str) -> Checkup:
        transport = self.transport or self.peer.transport
        repository = Repository(self.registry_host or self.small.server.host, "team/app")
        environment = {_VARIABLE: self.passphrase, "PATH": str(self.folder / "bin")}
        return Checkup(
            repository,
            tags,
            Registry(transport, repository, GOOD),
            transport,
            StoredLogin(self.folder, repository.host, {}),
            self.trust_url or self.peer.server.origin,
            self._server,
            self.store,
            Passphrases(environment),
            self.folder,
            {**environment, **self.environment},
            lambda: datetime.now(timezone.utc) + self.ahead,
        )

    def findings(self, *tags: str, is_reader: bool = False) -> dict[str, list[Finding]]:
        """What is found, by the name of the check."""
        found: dict[str, list[Finding]] = {}
        for each in examine(self.checkup(*tags).checks(is_reader=is_reader)):
            found.setdefault(each.check, []).append(each)
        return found

    def docker(self, says: str) -> None:
        """Have a docker command that prints *says*."""
        program = self.folder / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho '{says}'\n", "utf-8")
        program.chmod(0o755)

    def hold(self, repository: GoodRepository) -> None:
        """Show *repository* on the trust server."""
        self.peer.model.hold(repository)

    def _server(self, _actions: str) -> TrustServer:
        known = self.peer.client(self.folder / "trust", self.pins)
        transport = self.trust_transport or self.peer.transport
        api = TrustApi(transport, self.trust_url or self.peer.server.origin, GUN)
        return TrustServer(api, pins=known.pins, cache=known.cache, clock=known.clock)


@pytest.fixture
def surgery(peer: Peer, tmp_path: Path) -> Iterator[Surgery]:
    small = SmallRegistry()
    with small.server:
        it = Surgery(peer, small, tmp_path)
        it.store.add(key("ci"), "ci", "", _PASSPHRASE.encode())
        yield it


def only(findings: dict[str, list[Finding]], name: str) -> Finding:
    (found,) = findings[name]
    return found


def failed(findings: dict[str, list[Finding]]) -> list[str]:
    """The checks that failed."""
    return [
        name for name, each in findings.items() if any(one.status is Status.FAILURE for one in each)
    ]


def waiting(findings: dict[str, list[Finding]]) -> set[str]:
    """The checks that were not made."""
    return {
        name
        for name, each in findings.items()
        if all(one.status is Status.UNCHECKED for one in each)
    }


def everything(findings: dict[str, list[Finding]]) -> str:
    return result([one for each in findings.values() for one in each])


def test_where_all_is_well_only_the_first_visit_is_worth_a_word(surgery: Surgery) -> None:
    found = surgery.findings("1.0")
    assert [name for name, each in found.items() if each[0].status is not Status.OK] == [
        "pull",  # whose registry has no such tag
        "root",
    ]
    assert "images may be pushed" in only(found, "push").text
    assert "its passphrase opens it" in only(found, "keys").text
    assert "the tag 1.0 may be signed" in only(found, "signing").text
    assert everything(found) == "warning"


def test_with_a_pinned_root_all_is_ok(surgery: Surgery) -> None:
    surgery.pins = RootPins(frozenset({certificate("root", GUN, NOW).key_id}))
    found = surgery.findings()
    assert "the root is pinned" in only(found, "root").text
    assert everything(found) == "ok"


def test_nothing_is_changed_and_nothing_is_kept(surgery: Surgery) -> None:
    """A first visit stays a first visit, and what was begun at the registry is ended."""
    with surgery.peer.untouched(surgery.folder):
        surgery.findings("1.0")
    assert surgery.peer.model.posts == 0
    assert [line for line in surgery.small.server.seen() if not line.startswith("GET")] == [
        "POST /v2/team/app/blobs/uploads/",
        "DELETE /v2/team/app/blobs/uploads/42?_state=x",
    ]


def test_who_was_here_before_needs_no_pin(surgery: Surgery) -> None:
    surgery.peer.client(surgery.folder / "trust").refresh()
    before = kept(surgery.folder)
    assert "believed here before" in only(surgery.findings(), "root").text
    assert kept(surgery.folder) == before


def test_a_root_that_was_kept_and_is_damaged_is_a_failure(surgery: Surgery) -> None:
    """And no first visit, on which any root would be believed."""
    surgery.peer.client(surgery.folder / "trust").refresh()
    (surgery.folder / "trust" / "tuf" / GUN / "metadata" / "root.json").write_bytes(b"rubbish")
    findings = surgery.findings()
    assert failed(findings) == ["trust-data"]
    found = only(findings, "trust-data")
    assert found.text.startswith(f"kept root of {GUN}")
    assert found.remedy.endswith(f"then run: signimage repo forget {GUN}")


def test_who_only_verifies_is_asked_for_no_key_and_no_right_to_write(surgery: Surgery) -> None:
    surgery.small.granted = ["pull"]
    found = surgery.findings(is_reader=True)
    assert found.keys().isdisjoint({"push", "trust-write", "keys", "signing"})
    assert failed(found) == []


# --- The ways to the servers --------------------------------------------------------------------


def test_a_registry_that_does_not_answer_leaves_the_rest_to_be_checked(surgery: Surgery) -> None:
    surgery.registry_host = "127.0.0.1:1"
    found = surgery.findings()
    assert "cannot be reached" in only(found, "registry").text
    assert waiting(found) == {"pull", "push"}
    assert only(found, "push").text == "because of the failure of: Registry"
    assert everything(found) == "unreachable"


def test_a_name_that_nobody_knows_is_said_so(surgery: Surgery) -> None:
    surgery.registry_host = "registry.invalid"
    assert "its name cannot be resolved" in only(surgery.findings(), "registry").text


def test_an_unknown_authority_of_a_registry_belongs_where_the_engine_looks(
    surgery: Surgery, authority_of_peers: Authority
) -> None:
    with SmallServer(lambda _: Reply(401), tls=authority_of_peers.server_context()) as server:
        surgery.registry_host, surgery.transport = server.host, Transport(TransportSettings())
        found = only(surgery.findings(), "registry")
    assert "certificate cannot be verified" in found.text
    assert f"/etc/docker/certs.d/{server.host}/ca.crt" in found.remedy
    assert "--ca FILE" in found.remedy


def test_an_expired_certificate_of_a_registry_is_no_matter_of_authorities(
    surgery: Surgery, tmp_path: Path
) -> None:
    old = make_authority(tmp_path, shift=timedelta(days=-30))
    with SmallServer(lambda _: Reply(401), tls=old.server_context()) as server:
        surgery.registry_host = server.host
        surgery.transport = Transport(TransportSettings(ca_files=(old.ca_file,)))
        found = only(surgery.findings(), "registry")
    assert "expired" in found.text
    assert "have the certificate renewed" in found.remedy


def test_what_answers_as_no_registry_does_is_worth_a_look(surgery: Surgery) -> None:
    surgery.small.lie = lambda request, honest: Reply(418) if request.path == "/v2/" else honest
    found = only(surgery.findings(), "registry")
    assert found.status is Status.WARNING
    assert "answers 418" in found.text


def test_an_address_of_a_trust_server_that_is_none_is_an_input(surgery: Surgery) -> None:
    surgery.trust_url = "http://notary.example.com"
    found = surgery.findings()
    assert "expected an https:// URL" in only(found, "trust-server").text
    assert waiting(found) >= {"trust-read", "initialised", "trust-data", "keys", "signing"}
    assert everything(found) == "failure"


def test_a_trust_server_that_does_not_answer_says_nothing_of_the_registry(
    surgery: Surgery,
) -> None:
    surgery.trust_url = "https://127.0.0.1:1"
    found = surgery.findings()
    assert failed(found) == ["trust-server"]
    assert only(found, "push").status is Status.OK
    assert everything(found) == "unreachable"


def test_what_is_no_certificate_is_told_with_what_is_wanted(surgery: Surgery) -> None:
    file = surgery.folder / "ca.crt"
    file.write_text("rubbish", "utf-8")
    surgery.trust_transport = Transport(TransportSettings(ca_files=(file,)))
    found = only(surgery.findings(), "trust-server")
    assert found.text == f"CA certificate {file}: expected PEM, got something else"
    assert "each from BEGIN CERTIFICATE to END CERTIFICATE" in found.remedy


def test_an_unknown_authority_of_a_trust_server_belongs_in_dockers_folder(
    surgery: Surgery,
) -> None:
    surgery.trust_transport = Transport(TransportSettings())
    found = only(surgery.findings(), "trust-server")
    assert str(surgery.folder / "tls" / surgery.peer.server.host / "ca.crt") in found.remedy


@pytest.mark.parametrize(("variable", "is_told"), [("", True), ("https://{}", False)])
def test_where_no_trust_server_is_named_its_variable_is_the_remedy(
    surgery: Surgery, variable: str, *, is_told: bool
) -> None:
    """Registries of one's own are seldom trust servers as well, and need not speak TLS."""
    host = surgery.small.server.host
    surgery.trust_url = f"https://{host}"
    surgery.environment[_SERVER] = variable.format(host)
    found = only(surgery.findings(), "trust-server")
    assert found.is_unreachable
    assert (f"set {_SERVER}, or give --trust-server URL" in found.remedy) is is_told


@pytest.mark.parametrize(
    ("address", "variable", "text"),
    [
        ("{}", "https://other.example", f"{_SERVER} names https://other.example, and "),
        ("{}/v2", "", "ends in /v2"),
    ],
)
def test_oddities_of_the_address_are_warnings(
    surgery: Surgery, address: str, variable: str, text: str
) -> None:
    surgery.trust_url = address.format(surgery.peer.server.origin)
    surgery.environment[_SERVER] = variable
    found = surgery.findings()["trust-server"][1]
    assert found.status is Status.WARNING
    assert text in found.text


def test_a_password_in_the_variable_stays_there(surgery: Surgery) -> None:
    surgery.environment[_SERVER] = "https://me:s3cret@other.example"
    said = [one.text + one.remedy for each in surgery.findings().values() for one in each]
    assert any("other.example" in text for text in said)
    assert not any("s3cret" in text for text in said)


@pytest.mark.parametrize(
    ("minutes", "status"), [(-2, Status.WARNING), (5, Status.WARNING), (90, Status.FAILURE)]
)
def test_a_clock_that_differs_is_told_with_its_direction(
    surgery: Surgery, minutes: int, status: Status
) -> None:
    surgery.ahead = timedelta(minutes=minutes)
    found = only(surgery.findings(), "clock")
    assert found.status is status
    assert ("ahead of" if minutes > 0 else "behind") in found.text
    assert "timedatectl set-ntp true" in found.remedy


def test_without_a_server_there_is_nothing_to_set_the_clock_by(surgery: Surgery) -> None:
    surgery.registry_host, surgery.trust_url = "127.0.0.1:1", "https://127.0.0.1:1"
    found = surgery.findings()
    assert only(found, "clock").status is Status.UNCHECKED
    assert everything(found) == "unreachable"


# --- Who we are ---------------------------------------------------------------------------------


def test_a_login_that_makes_no_sense_is_found_before_it_is_used(surgery: Surgery) -> None:
    (surgery.folder / "config.json").write_text("{", "utf-8")
    found = surgery.findings()
    assert failed(found) == ["login"]
    assert waiting(found) >= {"pull", "push", "trust-read"}


def test_a_login_is_told_without_its_name(surgery: Surgery) -> None:
    auths = {surgery.small.server.host: {"auth": "bWU6cGFzcw=="}}
    (surgery.folder / "config.json").write_text(json.dumps({"auths": auths}), "utf-8")
    assert only(surgery.findings(), "login").text == (
        f"Docker has a login for {surgery.small.server.host}"
    )


@pytest.mark.parametrize(
    ("granted", "name", "words"),
    [([], "pull", "to pull from"), (["pull"], "push", "to push to")],
)
def test_a_right_that_is_missing_is_named(
    surgery: Surgery, granted: list[str], name: str, words: str
) -> None:
    surgery.small.granted = granted
    found = surgery.findings()
    assert failed(found) == [name]
    assert words in only(found, name).remedy


def test_a_right_to_publish_that_is_missing_is_named(surgery: Surgery) -> None:
    surgery.peer.model.replies[f"{TIMESTAMP}.key"] = error(403, "DENIED")
    found = surgery.findings()
    assert failed(found) == ["trust-write"]
    assert "publish the trust data of" in only(found, "trust-write").text


# --- What is believed ---------------------------------------------------------------------------


def test_a_repository_without_trust_data_is_told_how_to_get_some(surgery: Surgery) -> None:
    surgery.peer.server.answer_with(TrustServerModel().answer)
    found = surgery.findings()
    assert only(found, "trust-read").status is Status.OK
    assert f"signimage repo init {GUN}" in only(found, "initialised").remedy
    assert waiting(found) == {
        "trust-write", "trust-data", "root", "roles", "expiry", "keys", "signing"
    }  # fmt: skip
    asked = [line.rpartition("/")[2] for line in surgery.peer.server.seen()]
    assert not any(file.endswith(".key") for file in asked)  # which a server would make


def test_trust_data_that_does_not_hold_is_a_failure(surgery: Surgery) -> None:
    surgery.hold(GoodRepository(timestamp_version=2, snapshot_version=2, expiry={TIMESTAMP: PAST}))
    found = surgery.findings()
    assert failed(found) == ["trust-data"]
    assert "timestamp of registry.example/team/app expired" in only(found, "trust-data").text


def test_another_root_than_the_pinned_one_is_a_failure(surgery: Surgery) -> None:
    surgery.pins = RootPins(frozenset({"ab" * 32}))
    found = surgery.findings()
    assert failed(found) == ["trust-data"]
    assert "expected root key abab" in only(found, "trust-data").text


@pytest.mark.parametrize("below", ["trust/tuf", "trust/signimage"])
def test_a_trust_store_that_cannot_be_written_is_a_failure_with_its_place(
    surgery: Surgery, below: str
) -> None:
    """Everything else that would read or write there is not tried."""
    place = surgery.folder / below
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"")
    found = surgery.findings()
    (failed,) = found["trust-store"]
    assert failed.status is Status.FAILURE
    assert failed.text == f"{place} stands where a folder belongs"
    assert failed.remedy == f"Take {place} away"
    assert found["trust-server"][0].text == "because of the failure of: Trust store"
    place.unlink()
    assert surgery.findings()["trust-store"][0].status is Status.OK


def test_a_folder_of_another_account_in_the_trust_store_is_named(surgery: Surgery) -> None:
    """As it is where root ran Docker's command."""
    place = surgery.folder / "trust"
    place.chmod(0)
    if is_root := os.geteuid() == 0:
        os.setreuid(_NOBODY, -1)  # whose rights are asked for; what is read is read as before
    try:
        (failed,) = surgery.findings()["trust-store"]
    finally:
        if is_root:
            os.setreuid(0, -1)
        place.chmod(0o700)
    assert failed.status is Status.FAILURE
    assert failed.text == f"{place} may not be read and written by this account"
    assert "(chown)" in failed.remedy
    assert surgery.findings()["trust-store"][0].status is Status.OK


def test_a_first_visit_is_told_which_key_to_pin(surgery: Surgery) -> None:
    found = only(surgery.findings(), "root")
    pin = certificate("root", GUN, NOW).key_id
    assert found.status is Status.WARNING
    assert f"--root-key {pin}" in found.remedy
    assert "rootKeys" in found.remedy


def test_an_expired_role_is_told_with_what_renews_it(surgery: Surgery) -> None:
    good = GoodRepository()
    late = replace(good.delegated["targets/ci"], expires=PAST, version=2)
    surgery.hold(replace(good, delegated={**good.delegated, "targets/ci": late},
                         snapshot_version=2, timestamp_version=2))  # fmt: skip
    found = surgery.findings("1.0")
    assert failed(found) == ["roles", "signing"]
    assert f"signimage witness {GUN} targets/ci" in only(found, "roles").remedy


def test_a_role_that_ends_soon_is_a_warning(surgery: Surgery) -> None:
    good = GoodRepository()
    soon = Expiry.at(NOW + timedelta(days=30))
    surgery.hold(replace(good, targets=replace(good.targets, expires=soon, version=2),
                         snapshot_version=2, timestamp_version=2))  # fmt: skip
    found = only(surgery.findings(), "expiry")
    assert found.status is Status.WARNING
    assert found.text == "targets ends on 2026-12-22"
    assert f"signimage witness --again {GUN} targets" in found.remedy


# --- Keys ---------------------------------------------------------------------------------------


def test_a_wrong_passphrase_is_a_failure_that_names_its_variable(surgery: Surgery) -> None:
    surgery.passphrase = "wrong"
    found = surgery.findings("1.0")
    assert failed(found) == ["keys"]
    assert _VARIABLE in only(found, "keys").remedy
    assert "wrong" not in only(found, "keys").remedy


def test_a_missing_passphrase_is_a_failure_and_nothing_waits_for_it(surgery: Surgery) -> None:
    surgery.passphrase = ""
    found = only(surgery.findings(), "keys")
    assert "is encrypted: expected its passphrase, got none" in found.text
    assert f"Set {_VARIABLE}" in found.remedy


def test_a_damaged_key_file_is_named(surgery: Surgery) -> None:
    path = surgery.store.private / f"{'cd' * 32}.key"
    path.write_text("rubbish", "utf-8")
    path.chmod(0o600)
    found = surgery.findings()["keys"][0]
    assert found.status is Status.WARNING
    assert path.name in found.text
    assert str(path) in found.remedy


def test_a_damaged_key_file_is_no_key_to_sign_with(surgery: Surgery) -> None:
    """It is the only one that may sign here."""
    (path,) = surgery.store.private.iterdir()
    path.write_text("rubbish", "utf-8")
    found = surgery.findings("1.0")
    assert failed(found) == ["keys"]
    assert found["keys"][-1].text.startswith(f"no key in {surgery.store.private} may sign in ")


def test_a_key_file_that_others_may_read_is_a_warning(surgery: Surgery) -> None:
    (path,) = surgery.store.private.iterdir()
    path.chmod(0o644)
    found = surgery.findings()["keys"][0]
    assert "its mode is 0644" in found.text
    assert found.remedy == f"chmod 600 {path}"


@pytest.mark.parametrize(("tags", "status"), [((), Status.WARNING), (("1.0",), Status.FAILURE)])
def test_no_key_at_hand_is_a_failure_only_where_something_is_to_be_signed(
    surgery: Surgery, tags: tuple[str, ...], status: Status
) -> None:
    (path,) = surgery.store.private.iterdir()
    path.unlink()
    found = only(surgery.findings(*tags), "keys")
    assert found.status is status
    assert "its signers are ci (" in found.text
    assert f"signimage signer add --key FILE.pub NAME {GUN}" in found.remedy


@pytest.mark.parametrize("tags", [(), ("1.0",)])
def test_a_key_whose_signatures_nobody_sees_is_a_failure(
    surgery: Surgery, tags: tuple[str, ...]
) -> None:
    targets = content({}, version=2).with_delegation("targets/ci", [key("ci").public_key])
    targets = targets.with_delegation(RELEASES, [key("qa").public_key])
    good = GoodRepository(targets=targets, snapshot_version=2, timestamp_version=2)
    surgery.hold(replace(good, signers={RELEASES: [key("qa")]}))
    found = surgery.findings(*tags)
    assert failed(found) == ["signing"]
    assert "where consumers look" in only(found, "signing").text


def test_a_tag_that_the_paths_do_not_admit_is_a_failure(surgery: Surgery) -> None:
    good = good_targets("ci")
    narrow = tuple(replace(each, paths=("release-",)) for each in good.delegations)
    targets = replace(good, delegations=narrow, version=2)
    surgery.hold(GoodRepository(targets=targets, snapshot_version=2, timestamp_version=2))
    found = surgery.findings("release-1", "nightly")["signing"]
    assert [each.status for each in found] == [Status.OK, Status.FAILURE]
    assert "not the tag nightly; its paths are release-" in found[1].text


def test_without_signers_the_repository_key_signs(surgery: Surgery) -> None:
    surgery.store.add(key("targets"), TARGETS, GUN, _PASSPHRASE.encode())
    targets = content({"1.0": IMAGE}, version=2)
    surgery.hold(
        GoodRepository(targets=targets, delegated={}, snapshot_version=2, timestamp_version=2)
    )
    surgery.peer.model.sign_snapshot()
    found = surgery.findings("1.0")
    assert "of the repository is here" in only(found, "keys").text
    assert only(found, "signing").status is Status.OK


def test_a_snapshot_key_on_this_machine_keeps_others_from_publishing(surgery: Surgery) -> None:
    surgery.store.add(key("snapshot"), SNAPSHOT, GUN, _PASSPHRASE.encode())
    found = surgery.findings("1.0")["signing"][1]
    assert found.status is Status.WARNING
    assert f"signimage rotate snapshot {GUN}" in found.remedy


# --- Docker -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "switch", "status", "text"),
    [
        ("Docker version 29.1.2, build 890dcca", "1", Status.WARNING, "docker push signs nothing"),
        ("Docker version 29.1.2, build 890dcca", "", Status.OK, "signs without it"),
        ("Docker version 28.5.1+dfsg, build x", "1", Status.OK, "knows content trust and is"),
        ("Docker version 28.5.1+dfsg, build x", "", Status.OK, "Docker 28 knows content trust"),
        ("podman", "1", Status.WARNING, "does not say its version"),
    ],
)
def test_docker_is_told_by_its_version(
    surgery: Surgery, says: str, switch: str, status: Status, text: str
) -> None:
    surgery.docker(says)
    surgery.environment["DOCKER_CONTENT_TRUST"] = switch
    found = only(surgery.findings(), "docker")
    assert found.status is status
    assert text in found.text


def test_no_docker_is_no_fault(surgery: Surgery) -> None:
    found = only(surgery.findings(), "docker")
    assert (found.status, found.text[:33]) == (Status.OK, "there is no docker command here, ")
