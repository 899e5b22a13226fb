"""Whatever owners and signers do one after the other, Docker can read what is there in the end.

Random sequences of operations on real repositories, each beside a `Ledger`. After every step a
first visitor, the Docker CLI and the ledger say the same; after the last one so does Notary.

More sequences than the usual few, and other ones each time:

    SIGNIMAGE_SEQUENCES=500 pytest tests/peers/test_sequences.py
"""

import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from peers.ledger import OWNER, Ledger, Moment, Refused
from peers.operations import (
    EVERYBODY,
    HANDS,
    OWNERS,
    Operation,
    PowerCut,
    adding,
    at_hand,
    dying,
    key,
    key_id,
    metas,
    overtaken,
    removing,
    revoking,
    signing,
)
from peers.owner import image
from peers.stack import Stack
from peers.workstation import PASSPHRASES
from signimage.administration import inspection, remove_signer, witness
from signimage.errors import ExpiredError, SignImageError
from signimage.keys import root_certificate
from signimage.keystore import REPOSITORY_VARIABLE, KeyStore, Passphrases
from signimage.lookup import signers
from signimage.metadata import LIFETIMES, RELEASES, ROOT, TARGETS
from signimage.notary import TrustServer, utc_now
from signimage.pinning import NO_PINS, RootPins
from signimage.publication import Recovery
from signimage.publisher import Publication
from signimage.transport import Transport, TransportSettings
from signimage.trust import TrustedRepository, canonical_ids
from signimage.trustapi import TrustApi
from signimage.trustcache import TrustCache

# Every moment lies before the end of the server's own timestamps, which last for 14 days.
CLOCKS = {
    Moment.LONG_AGO: timedelta(days=5) - LIFETIMES[TARGETS],
    Moment.TODAY: timedelta(),
    Moment.SOON: timedelta(days=7),
}
SETTINGS = settings(
    max_examples=int(os.environ.get("SIGNIMAGE_SEQUENCES", "12")),
    stateful_step_count=14,
    derandomize="SIGNIMAGE_SEQUENCES" not in os.environ,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

NAMES = ("ci", "qa", "dev")
# What there is at the moment is chosen more often than what there is not.
NAME = st.sampled_from(NAMES) | st.runner().flatmap(lambda one: st.sampled_from(one.names()))
SIGNER = st.runner().flatmap(lambda one: st.sampled_from(one.who_may_sign()))
ROLES = st.runner().flatmap(lambda one: st.sampled_from(one.roles()))
HAND = st.sampled_from(HANDS)
BEGINNINGS = st.sampled_from(
    [
        (("ci", "a"), ("qa", "b")),
        (("ci", "a"), ("qa", "b"), ("dev", "c")),
        (("ci", "a"), ("qa", "a"), ("ci", "d")),
        (("ci", "a"),),
        (),
    ]
)
TAGS = st.dictionaries(
    st.sampled_from(["1.0", "v10", "latest"]),
    st.sampled_from(["one", "other", "third"]),
    min_size=1,
)
SOME = st.lists(st.sampled_from(EVERYBODY), unique=True, max_size=3).map(tuple)
ALL, OWN = st.just(EVERYBODY), st.just(OWNERS)
NEVER = st.sampled_from([False])
STORES: tuple[tuple[str, ...], ...] = (EVERYBODY, (OWNER, "b", "d"), OWNERS, ("a",))
MOMENTS = st.sampled_from([Moment.TODAY, *Moment])
WRONG = st.sampled_from([Moment.LONG_AGO, Moment.SOON])
DESKS = st.sampled_from(["laptop", "drawer", "agent", "daemon"])
RECOVERIES = st.sampled_from(Recovery)

SIGNING = st.builds(signing, TAGS, SIGNER | SIGNER | SOME, RECOVERIES)
ADDING = st.builds(adding, NAME, HAND, OWN | OWN | SOME, again=st.booleans())
REMOVING = st.builds(removing, NAME, ALL | OWN | SOME)
REVOKING = st.builds(
    revoking, st.none() | st.frozensets(st.sampled_from(["1.0", "v10"]), min_size=1), ALL | SOME
)
# In a race, what has the same outcome as one of the two after the other.
RIVALS = (
    st.builds(signing, TAGS, SIGNER, st.just(Recovery.REFUSE))
    | st.builds(adding, NAME, HAND, OWN, again=NEVER)
    | st.builds(removing, NAME, ALL)
    | st.builds(revoking, st.none(), ALL)
)


@dataclass(frozen=True)
class Town:
    """What all sequences share: the peers, a connection, key stores, and a count of what was done.

    Attributes:
        config: A DOCKER_CONFIG, whose trust directory our client uses as well.
        drawer: Another trust directory.
        stores: Key stores by whose keys they hold.
    """

    stack: Stack
    transport: Transport
    config: Path
    drawer: Path
    stores: Mapping[tuple[str, ...], KeyStore]
    passphrases: Passphrases = field(default_factory=lambda: Passphrases(PASSPHRASES))
    counts: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def town(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    """Prepare the people's machines; nobody else is there to interfere, so nobody waits for it."""
    monkeypatch.setattr("signimage.publisher._SETTLE_S", 0.01)
    transport = Transport(TransportSettings(ca_files=(stack.ca_file,)))
    config = stack.docker_config(tmp_path / "docker", login=False)
    stores = {names: KeyStore(tmp_path / "-".join(names)) for names in STORES}
    for names, store in stores.items():
        for name in names:
            store.add(key(name), name, "", PASSPHRASES[REPOSITORY_VARIABLE].encode())
    return Town(stack, transport, config, tmp_path / "drawer", stores)


class Sequence(RuleBasedStateMachine):
    """One repository from its creation on, and the people around it.

    They work at four desks: a `laptop` whose trust directory is Docker's as well, a `drawer`
    with a cache that falls behind, an `agent` that is new each time, and a `daemon` that goes on.
    """

    def __init__(self, town: Town) -> None:
        super().__init__()
        self.town = town
        self.gun = f"{town.stack.open_registry}/sequence/{uuid.uuid4().hex[:12]}"
        self.root = root_certificate(key(ROOT), self.gun, utc_now() + CLOCKS[Moment.LONG_AGO])
        self.daemon = self.client("agent")
        self.ledger = Ledger()
        self.versions: dict[str, int] = {}
        self.is_sound = False  # until the last step was checked

    def teardown(self) -> None:
        """Ask Notary as well, and look at what will have expired soon."""
        if self.is_sound:
            self.check_listed()
            self.check_heard(Moment.SOON)
            self.town.counts["sequences"] += 1

    # --- What happens ---

    @initialize(first=BEGINNINGS, tags=st.none() | TAGS)
    def create(self, first: tuple[tuple[str, str], ...], tags: dict[str, str] | None) -> None:
        """Create the repository; the owner may sign in it before there are signers."""
        owner = at_hand((OWNER, ROOT))
        self.client("agent").initialise(self.root, key(OWNER).public_key, owner)
        self.check({TARGETS})
        if tags:
            self.carry_out(signing(tags, OWNERS, Recovery.REFUSE), "laptop")
        for name, hand in first:
            self.carry_out(adding(name, hand, OWNERS, again=False), "drawer")

    @rule(operation=SIGNING, desk=DESKS)
    def sign(self, operation: Operation, desk: str) -> None:
        self.carry_out(operation, desk)

    @rule(operation=SIGNING, desk=DESKS, moment=WRONG)
    def sign_with_a_wrong_clock(self, operation: Operation, desk: str, moment: Moment) -> None:
        self.carry_out(operation, desk, moment)

    @rule(operation=ADDING | REMOVING | REVOKING, desk=DESKS, moment=MOMENTS)
    def administer(self, operation: Operation, desk: str, moment: Moment) -> None:
        self.carry_out(operation, desk, moment)

    @rule(name=NAME, stored=st.sampled_from(STORES), desk=DESKS, moment=MOMENTS)
    def remove(self, name: str, stored: tuple[str, ...], desk: str, moment: Moment) -> None:
        """By the command, with the keys of a store."""
        server, store = self.client(desk, moment), self.town.stores[stored]
        self.agree(
            "remove by command",
            lambda ledger: ledger.remove_by_command(name, stored, moment),
            lambda: remove_signer(server, store, self.town.passphrases, name),
        )

    @rule(
        roles=ROLES,
        stored=st.sampled_from((EVERYBODY, *STORES)),
        recovery=RECOVERIES,
        desk=DESKS,
        moment=MOMENTS | st.just(Moment.SOON),
    )
    def witness(
        self,
        roles: tuple[str, ...],
        stored: tuple[str, ...],
        recovery: Recovery,
        desk: str,
        moment: Moment,
    ) -> None:
        """By the command: sign roles again that are invalid, or might be."""
        server, store = self.client(desk, moment), self.town.stores[stored]
        self.agree(
            f"witness and {recovery.value}",
            lambda ledger: ledger.witness_by_command(roles, stored, moment, recovery),
            lambda: witness(server, store, self.town.passphrases, roles, recovery),
        )

    @rule(
        operation=SIGNING | ADDING | REMOVING | REVOKING,
        desk=DESKS,
        look=st.integers(1, 3),
    )
    def die_and_run_again(self, operation: Operation, desk: str, look: int) -> None:
        """The process ends when it looks first, when it has just sent, or looks once more."""
        after = self.ledger.copy()
        try:
            written = operation.entered(after, Moment.TODAY)
        except Refused:
            written = set()
        else:
            looks = 1 + bool(written) + (TARGETS in written)
            if look <= looks:
                self.die(operation, desk, look)
                self.ledger = after if look > 1 else self.ledger
                self.check(written if look > 1 else set())
        self.carry_out(operation, desk)

    @rule(operation=RIVALS, rival=RIVALS, desk=DESKS)
    def be_overtaken(self, operation: Operation, rival: Operation, desk: str) -> None:
        """Somebody else publishes between its first look and what is sent on its ground."""
        try:
            first = operation.entered(self.ledger.copy(), Moment.TODAY)
        except Refused:
            self.carry_out(operation, desk)  # refused at its first look
            return
        plan = overtaken(operation.plan, lambda: self.carry_out(rival, "agent"))
        error: SignImageError | None = None
        try:
            self.client(desk).publish(plan, at_hand(operation.keys))
        except SignImageError as caught:
            error = caught

        def tell() -> None:
            if error is not None:
                raise error

        if first:
            self.agree(
                f"race {operation.kind} {rival.kind}",
                lambda ledger: operation.entered(ledger, Moment.TODAY),
                tell,
                versions_are_known=False,
            )

    # --- Who and what there is ---

    def names(self) -> tuple[str, ...]:
        """The signers, or who might become one."""
        return tuple(self.ledger.signers()) or NAMES

    def who_may_sign(self) -> list[tuple[str, ...]]:
        """Each key that may sign a tag now."""
        hands = {hand for hands in self.ledger.signers().values() for hand in hands}
        return [(hand,) for hand in sorted(hands or OWNERS)]

    def roles(self) -> list[tuple[str, ...]]:
        """What a witness may be asked for: what needs one today or soon, else what does not."""
        faulty = [role for role in self.ledger.roles if self.ledger.fault(role, Moment.SOON)]
        each = [(role,) for role in faulty or self.ledger.roles]
        return [tuple(faulty) or (RELEASES,), *each]

    # --- How it happens ---

    def client(self, desk: str, moment: Moment = Moment.TODAY) -> TrustServer:
        """Our client at *desk*, with the clock of *moment*."""
        if desk == "daemon":
            self.daemon.clock = lambda: utc_now() + CLOCKS[moment]
            return self.daemon
        folders = {"laptop": self.town.config / "trust", "drawer": self.town.drawer}
        cache = TrustCache(folders[desk], self.gun) if desk in folders else None
        return TrustServer(
            TrustApi(self.town.transport, self.town.stack.trust_server, self.gun),
            pins=NO_PINS if cache else RootPins(frozenset({self.root.key_id})),
            cache=cache,
            clock=lambda: utc_now() + CLOCKS[moment],
        )

    def carry_out(self, operation: Operation, desk: str, moment: Moment = Moment.TODAY) -> None:
        """Do *operation*, and find it done, or refused with nothing changed."""
        server = self.client(desk, moment)
        self.agree(
            operation.kind,
            lambda ledger: operation.entered(ledger, moment),
            lambda: server.publish(operation.plan, at_hand(operation.keys)),
        )

    def die(self, operation: Operation, desk: str, look: int) -> None:
        """Begin *operation* in a process that ends at its *look*-th look."""
        self.is_sound = False
        server = self.client(desk)
        with pytest.raises(PowerCut, match=f"at look {look}"):
            server.publish(dying(operation.plan, look), at_hand(operation.keys))
        self.town.counts[f"died at look {look}"] += 1
        if desk == "daemon":
            self.daemon = self.client("agent")

    def agree(
        self,
        kind: str,
        entered: Callable[[Ledger], set[str]],
        act: Callable[[], object],
        *,
        versions_are_known: bool = True,
    ) -> None:
        """Check that *act* does what the ledger does: the same, or the same refusal."""
        self.is_sound = False
        after = self.ledger.copy()
        try:
            written = entered(after)
        except Refused as refused:
            written, outcome = set[str](), refused.kind.__name__
            check_refused(act, refused)
        else:
            done, outcome = act(), "done" if written else "nothing to do"
            self.ledger = after
            if isinstance(done, Publication):
                assert (set(done.roles), done.attempts) == (written, 1 if written else 0)
        self.town.counts[f"{kind}: {outcome}"] += 1
        self.check(written if versions_are_known else None)

    # --- What must hold ---

    def check(self, written: set[str] | None) -> None:
        """See that all agree, and that the roles *written*, where known, went up by one."""
        self.is_sound = False
        repository = self.check_heard(Moment.TODAY)
        if repository is None:
            raise AssertionError("targets are valid today, whatever happens")
        found = versions(repository)
        if written is not None:
            self.versions |= {role: self.versions.get(role, 0) + 1 for role in written}
            assert found == {role: self.versions[role] for role in found}
        assert all(found[role] >= self.versions.get(role, 0) for role in found)
        self.versions |= found
        self.check_inspected(repository)
        self.is_sound = True

    def check_heard(self, moment: Moment) -> TrustedRepository | None:
        """See that a first visitor with the pinned root believes what the ledger says."""
        visitor = self.client("agent", moment)
        if self.ledger.fault(TARGETS, moment):
            with pytest.raises(ExpiredError, match="targets of"):
                visitor.refresh()
            return None
        repository = visitor.refresh()
        assert set(repository.snapshot.body.meta) == {ROOT, *self.ledger.pages}
        assert [(each.name, each.key_ids) for each in signers(repository)] == [
            (name, tuple(map(key_id, hands))) for name, hands in self.ledger.signers().items()
        ]
        for role, hands in {TARGETS: OWNERS, **self.ledger.roles}.items():
            assert canonical_ids(*repository.role_keys(role)) == tuple(map(key_id, hands))
            rejection = repository.rejection(role)
            fault = self.ledger.fault(role, moment)
            assert (type(rejection.error) if rejection else None) is fault, role
            if rejection is None:
                assert repository.targets(role).targets == metas(self.ledger.tags(role, moment))
        return repository

    def check_inspected(self, repository: TrustedRepository) -> None:
        """See that Docker shows what the ledger says, and that we show what Docker shows."""
        stack, config = self.town.stack, self.town.config
        (seen,) = json.loads(stack.docker("trust", "inspect", self.gun, config=config).stdout)
        assert {
            (row["SignedTag"], row["Digest"], tuple(row["Signers"])) for row in seen["SignedTags"]
        } == {(tag, image(name).sha256.hex(), who) for tag, name, who in self.ledger.rows()}
        assert {each["Name"]: [one["ID"] for one in each["Keys"]] for each in seen["Signers"]} == {
            name: [key_id(hand) for hand in hands] for name, hands in self.ledger.signers().items()
        }
        fault = self.ledger.fault(RELEASES, Moment.TODAY) if RELEASES in self.ledger.roles else None
        if fault is None:
            ours = inspection(self.gun, repository)
            assert [row["SignedTag"] for row in ours["SignedTags"]] == [
                row["SignedTag"] for row in seen["SignedTags"]
            ]
            assert sorted_rows(ours) == sorted_rows(seen)
            return
        # Docker then shows `targets` alone, as if nobody had ever released anything.
        with pytest.raises(fault, match=f"{RELEASES} of"):
            inspection(self.gun, repository)

    def check_listed(self) -> None:
        """See that Notary lists the same of every role."""
        trust_dir = self.town.drawer.with_name("notary")
        for role in (TARGETS, *self.ledger.roles):
            done = self.town.stack.notary("list", "-r", role, self.gun, trust_dir=trust_dir)
            rows = [row for line in done.stdout.splitlines() if len(row := line.split()) == 4][1:]
            assert {tag: (digest, below) for tag, digest, _size, below in rows} == {
                tag: (image(name).sha256.hex(), below)
                for tag, (name, below) in self.ledger.listed(role).items()
            }


def sorted_rows(inspected: dict[str, Any]) -> dict[str, Any]:
    """What was *inspected*; where one tag has two images, Docker shows them in any order."""
    rows = sorted(inspected["SignedTags"], key=lambda row: (row["SignedTag"], row["Digest"]))
    return {**inspected, "SignedTags": rows}


def check_refused(act: Callable[[], object], refused: Refused) -> None:
    """See that *act* fails as the ledger says, with exactly that kind of error."""
    with pytest.raises(refused.kind, match=re.escape(refused.text)) as caught:
        act()
    assert type(caught.value) is refused.kind


def versions(repository: TrustedRepository) -> dict[str, int]:
    """The version of every role file that is in force or was rejected."""
    found = {}
    for role in (TARGETS, *(each.name for each in repository.delegations())):
        rejection = repository.rejection(role)
        found[role] = rejection.version if rejection else repository.targets(role).version
    return {role: version for role, version in found.items() if version}


def test_whatever_is_done_leaves_a_repository_that_docker_can_read(
    town: Town, request: pytest.FixtureRequest
) -> None:
    """Also where processes die, are overtaken, use a stale cache or have no right to it."""

    class SequenceInTown(Sequence):
        def __init__(self) -> None:
            super().__init__(town)

    try:
        run_state_machine_as_test(SequenceInTown, settings=SETTINGS)
    finally:
        request.node.user_properties += sorted(town.counts.items())
