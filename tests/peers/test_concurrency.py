"""Many publishers of one repository at once: nothing that was acknowledged is lost.

Cases 44 to 49, against the real trust server, on both of its kinds of storage. What is asserted
is the outcome, never that a race took place; how often it did is recorded with the test.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from peers.owner import Owner, hashes, image, images
from peers.postgres import PostgresTrust
from peers.publishers import Crowd, Job, Outcome
from peers.stack import Stack
from signimage.administration import inspection
from signimage.errors import NotASignerError
from signimage.keys import PrivateKey
from signimage.keystore import KeyStore
from signimage.lookup import released, signers_of
from signimage.metadata import RELEASES, TARGETS, Targets
from signimage.publication import (
    Changes,
    Plan,
    signer_plan,
    signer_removal_plan,
    signing_plan,
)
from signimage.trust import TrustedRepository
from signimage.trustcache import TrustCache

Record = Callable[[str, object], None]


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Return how a test keeps what it measured: in its report, where nothing is asserted of it."""
    return lambda name, value: request.node.user_properties.append((name, value))


@pytest.fixture(scope="module")
def postgres(stack: Stack) -> Iterator[PostgresTrust]:
    """Start a trust server on PostgreSQL; it crashes now and then, and comes back."""
    running = PostgresTrust(stack)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(params=["memory", "postgres"])
def trust(request: pytest.FixtureRequest, stack: Stack) -> Stack:
    """Return the peers, with the trust server on one storage after the other."""
    if request.param == "memory":
        return stack
    postgres: PostgresTrust = request.getfixturevalue("postgres")
    return postgres.stack


@pytest.fixture
def owner(trust: Stack, tmp_path: Path, repository_name: str) -> Owner:
    """Return the owner of a repository with the signer `ci`."""
    made = Owner(trust, f"{trust.open_registry}/{repository_name}", tmp_path)
    made.initialise("ci")
    return made


def add_all(owner: Owner, names: Iterable[str]) -> None:
    """Let a new key sign as each of *names*, all of them in one publication."""
    keys = {name: PrivateKey.generate_ecdsa() for name in names}

    def plan(repository: TrustedRepository) -> Changes:
        top = wanted = repository.targets()
        for name, key in keys.items():
            for role in (f"{TARGETS}/{name}", RELEASES):
                wanted = wanted.with_delegation(role, [key.public_key])
        return {} if wanted == top else {TARGETS: wanted}

    owner.publish(plan)
    owner.keys |= keys


def signing_jobs(
    owner: Owner, folder: Path, *, processes: int, tags: int, kind: str = "sign"
) -> list[Job]:
    """One job for each process: tags of its own, a cache of its own, one signer for all."""
    return [
        replace(
            Job.signing(
                owner.keys["ci"],
                *(f"p{number}-{tag}" for tag in range(tags)),
                trust_dir=folder / f"process-{number}",
            ),
            kind=kind,
        )
        for number in range(processes)
    ]


def check_all_signed(owner: Owner, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """Every process succeeded, and Docker and a first visitor of ours see every tag."""
    assert [outcome.error for outcome in outcomes] == [""] * len(jobs)
    wanted = images(tag for job in jobs for tag in job.tags)
    seen = owner.inspected()
    assert {row["SignedTag"]: row["Digest"] for row in seen["SignedTags"]} == hashes(wanted)
    assert {tuple(row["Signers"]) for row in seen["SignedTags"]} == {("ci",)}
    assert seen == inspection(owner.gun, owner.visitor().refresh())


def record_attempts(record: Record, outcomes: Sequence[Outcome]) -> None:
    """Keep with the test how hard it was."""
    attempts = [count for outcome in outcomes for count in outcome.attempts] or [0]
    record("attempts_mean", round(sum(attempts) / len(attempts), 1))
    record("attempts_max", max(attempts))
    record("seconds", round(max(outcome.seconds for outcome in outcomes), 1))


# --- Case 44: one role, many writers ---


@pytest.mark.parametrize(
    ("processes", "tags", "kind"),
    [(64, 1, "sign"), (16, 20, "sign"), (16, 20, "each")],
    ids=["64x1", "16x20-at-once", "16x20-one-by-one"],
)
def test_every_tag_of_every_process_is_there_in_the_end(
    owner: Owner,
    tmp_path: Path,
    record: Record,
    processes: int,
    tags: int,
    kind: str,
) -> None:
    """Case 44."""
    jobs = signing_jobs(owner, tmp_path, processes=processes, tags=tags, kind=kind)
    outcomes = Crowd(owner, jobs).outcomes()
    record_attempts(record, outcomes)
    check_all_signed(owner, jobs, outcomes)


def test_every_tag_of_processes_that_take_turns_is_there_in_the_end(
    owner: Owner, tmp_path: Path, record: Record
) -> None:
    """Case 44: as jobs of agents on one machine; those of the other tests are each on their own."""
    jobs = [replace(job, is_apart=False) for job in
            signing_jobs(owner, tmp_path, processes=16, tags=1)]  # fmt: skip
    outcomes = Crowd(owner, jobs).outcomes()
    record_attempts(record, outcomes)
    check_all_signed(owner, jobs, outcomes)


def test_the_last_of_many_writers_of_one_tag_wins_and_the_signers_agree(owner: Owner) -> None:
    """Case 44: one tag, eight digests; what is released is one of them, and its signer's."""
    choices = {f"s{number}": image(f"choice {number}") for number in range(8)}
    add_all(owner, choices)
    with ThreadPoolExecutor(len(choices)) as pool:
        list(pool.map(lambda name: owner.sign(name, {"latest": choices[name]}), choices))
    repository = owner.visitor().refresh()
    winner = released(repository, "latest")
    (name,) = (name for name, meta in choices.items() if meta == winner)
    assert name in signers_of(repository, "latest", winner)
    assert owner.released() == {"latest": winner.sha256.hex()}


# --- Case 45: several roles ---


def test_signers_of_sibling_roles_do_not_undo_each_other(owner: Owner, record: Record) -> None:
    """Case 45: each writes its own role, and all of them `targets/releases`."""
    names = [f"s{number}" for number in range(8)]
    add_all(owner, names)
    jobs = [replace(Job.signing(owner.keys[name], *(f"{name}-{tag}" for tag in range(5))),
                    kind="each") for name in names]  # fmt: skip
    outcomes = Crowd(owner, jobs).outcomes()
    record_attempts(record, outcomes)
    assert [outcome.error for outcome in outcomes] == [""] * len(jobs)
    rows = owner.inspected()["SignedTags"]
    assert {row["SignedTag"]: row["Signers"] for row in rows} == {
        f"{name}-{tag}": [name] for name in names for tag in range(5)
    }


@dataclass
class Watched:
    """A plan that counts how often it found missing what the server had acknowledged."""

    plan: Plan
    asked: int = 0

    def __call__(self, repository: TrustedRepository) -> Changes:
        changes = self.plan(repository)
        self.asked += bool(changes)
        return changes


def test_signers_come_and_go_beside_pipelines_that_sign(
    owner: Owner, tmp_path: Path, record: Record
) -> None:
    """Case 45: the server can undo `targets` while a delegation is published; we notice."""
    jobs = signing_jobs(owner, tmp_path, processes=4, tags=12, kind="each")
    add_all(owner, [f"leaving{number}" for number in range(4)])
    keep = [owner.keys["ci"].public_key.canonical_id]
    keys = {f"new{number}": PrivateKey.generate_ecdsa() for number in range(6)}
    plans = [Watched(signer_plan(name, [key.public_key])) for name, key in keys.items()] + [
        Watched(signer_removal_plan(f"leaving{number}", keep)) for number in range(4)
    ]
    crowd = Crowd(owner, jobs)
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda plan: owner.publish(plan, "ci"), plans))
    outcomes = crowd.outcomes()
    record_attempts(record, outcomes)
    record("targets_attempts", [each.attempts for each in done])
    record("plans_missing_something", [plan.asked for plan in plans])
    assert [outcome.error for outcome in outcomes] == [""] * len(jobs)
    assert owner.released() == hashes(images(tag for job in jobs for tag in job.tags))
    assert {each["Name"] for each in owner.inspected()["Signers"]} == {"ci", *keys}


# --- Case 46: a server that fails ---


def test_a_server_that_is_killed_again_and_again_loses_nothing_that_was_acknowledged(
    postgres: PostgresTrust, tmp_path: Path, repository_name: str, record: Record
) -> None:
    """Case 46: after every tenth publication, whatever the fifteen others are doing then."""
    owner = Owner(postgres.stack, f"{postgres.stack.open_registry}/{repository_name}", tmp_path)
    owner.initialise("ci")
    jobs = signing_jobs(owner, tmp_path, processes=16, tags=4, kind="each")
    before = postgres.restarts
    crowd = Crowd(owner, jobs)
    for count, _ in enumerate(crowd.progress(), start=1):
        if count % 10 == 0:
            postgres.kill()
    outcomes = crowd.outcomes()
    postgres.wait()
    record_attempts(record, outcomes)
    record("restarts", postgres.restarts - before)
    check_all_signed(owner, jobs, outcomes)
    assert postgres.restarts - before >= 6


def test_publishers_that_are_killed_and_run_again_are_as_if_run_once(
    owner: Owner, tmp_path: Path
) -> None:
    """Case 46, from the other side: at any moment, with whatever they left in their caches."""
    jobs = signing_jobs(owner, tmp_path, processes=4, tags=3)
    for patience_s in (0.3, 0.4, 0.5, 0.6):
        crowd = Crowd(owner, jobs)
        crowd.is_done(random.uniform(0, patience_s))  # noqa: S311 -- a moment, no secret
        crowd.kill()
        assert len(crowd.outcomes()) <= len(jobs)
    check_all_signed(owner, jobs, Crowd(owner, jobs).outcomes())
    versions = owner.visitor().refresh().floors
    assert {count for outcome in Crowd(owner, jobs).outcomes() for count in outcome.attempts} == {0}
    assert owner.visitor().refresh().floors == versions


# --- Case 47: the first publication ---


@pytest.mark.parametrize("number", range(3))
def test_of_two_who_initialise_at_once_one_does_and_the_other_can_go_on(
    trust: Stack, tmp_path: Path, repository_name: str, record: Record, number: int
) -> None:
    """Case 47: one repository; the loser gets a clean error and keeps nothing that is wrong."""
    owner = Owner(trust, f"{trust.open_registry}/{repository_name}-{number}", tmp_path)
    homes = [tmp_path / f"home-{number}" for number in range(4)]
    jobs = [Job("initialise", trust_dir=str(home)) for home in homes]
    outcomes = Crowd(owner, jobs).outcomes()
    winners = [each for each in outcomes if each.attempts == (1,)]
    losers = [each for each in outcomes if each.error]
    assert len(winners) == 1
    for loser in losers:
        assert loser.error == (
            f"ConflictError: {owner.gun} was initialised by somebody else at the same moment"
        )
    record("losers", len(losers))
    winner = winners[0].number
    held = [[each.role for each in KeyStore(home).entries() if each.role == TARGETS]
            for home in homes]  # fmt: skip
    assert held == [[TARGETS] if number == winner else [] for number in range(len(homes))]
    first = owner.visitor().refresh()
    for home in homes:
        assert owner.visitor(home).refresh().root.payload == first.root.payload


def test_whoever_lost_the_initialisation_signs_like_everybody_else(
    trust: Stack, tmp_path: Path, repository_name: str
) -> None:
    """Case 47: both tags are signed, the loser's from the very cache it lost with."""
    gun = f"{trust.open_registry}/{repository_name}"
    owners = [Owner(trust, gun, tmp_path / name) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        faults = list(pool.map(_initialisation_fault, owners))
    assert Counter(faults) == {
        "": 1,
        f"{gun} was initialised by somebody else at the same moment": 1,
    }
    winner, loser = owners if not faults[0] else reversed(owners)
    for name in ("ci", "qa"):
        winner.add(name)
    loser.keys = winner.keys
    winner.sign("ci", {"1": image("1")})
    loser.sign("qa", {"2": image("2")})
    assert loser.released() == hashes(images(["1", "2"]))


def _initialisation_fault(owner: Owner) -> str:
    try:
        owner.initialise()
    except Exception as error:  # noqa: BLE001 -- its kind is asserted with its text
        return str(error)
    return ""


# --- Case 48: one cache, many users ---


def test_readers_and_writers_of_one_cache_never_see_a_torn_file(
    owner: Owner, tmp_path: Path
) -> None:
    """Case 48: processes and threads; what a reader believed once stays believed."""
    home = tmp_path / "home"
    writers = [
        replace(job, trust_dir=str(home))
        for job in signing_jobs(owner, home, processes=3, tags=4, kind="each")
    ]
    readers = [Job("look", tags=("",) * 10, trust_dir=str(home)) for _ in range(4)]
    crowd = Crowd(owner, [*writers, *readers])
    with ThreadPoolExecutor(3) as pool:
        looks = [pool.submit(lambda: owner.visitor(home).refresh()) for _ in range(20)]
        assert all(look.result().gun == owner.gun for look in looks)
    outcomes = crowd.outcomes()
    assert [outcome.error for outcome in outcomes] == [""] * 7
    cache = TrustCache(home, owner.gun)
    newest = owner.visitor(home).refresh()
    assert cache.floors() == newest.floors
    assert {role: cache.read(role) for role in newest.files} == newest.files
    assert owner.released() == hashes(images(tag for job in writers for tag in job.tags))
    leftovers = [file for file in home.rglob(".*") if file.is_file()]
    assert leftovers == []


def test_floors_only_rise_whoever_writes_beside_us(owner: Owner, tmp_path: Path) -> None:
    """Case 48: a writer that read the floors before another wrote them does not undo the other."""
    roles = tuple(f"targets/s{number}" for number in range(6))
    jobs = [Job("raise", tags=(role,), trust_dir=str(tmp_path)) for role in roles]
    assert [outcome.error for outcome in Crowd(owner, jobs).outcomes()] == [""] * len(jobs)
    assert TrustCache(tmp_path, owner.gun).floors() == dict.fromkeys(roles, 40)


# --- Case 49: the ground moves ---


@dataclass
class Interrupted:
    """A plan beside which something happens once, after it was made and before it is sent."""

    plan: Plan
    happens: Callable[[], object]
    made: int = 0

    def __call__(self, repository: TrustedRepository) -> Changes:
        changes = self.plan(repository)
        self.made += 1
        if self.made == 1:
            self.happens()
        return changes


def interrupted_signing(owner: Owner, happens: Callable[[], object]) -> Interrupted:
    """Sign the tag `2` as `ci`, with *happens* between the look and the publication."""
    ci = owner.keys["ci"]
    plan = Interrupted(signing_plan(images(["2"]), [ci.public_key.canonical_id]), happens)
    owner.visitor().publish(plan, {ci.public_key.canonical_id: ci})
    return plan


def test_a_signer_who_is_removed_between_look_and_publication_is_told(owner: Owner) -> None:
    """Case 49: the server refuses the update, and the new plan knows why."""
    owner.add("qa")
    owner.sign("qa", images(["1"]))
    plan = signer_removal_plan("ci", [owner.keys["qa"].public_key.canonical_id])
    with pytest.raises(NotASignerError, match=r"is not a signer of .*; its signers are qa \("):
        interrupted_signing(owner, lambda: owner.publish(plan, "qa"))
    assert owner.released() == hashes(images(["1"]))


def test_when_the_last_signer_is_removed_meanwhile_nobody_may_sign(owner: Owner) -> None:
    """Case 49: both roles are deleted, and the repository key is not at hand."""
    with pytest.raises(NotASignerError, match=r"is not a signer of .*; it has no signers yet"):
        interrupted_signing(owner, lambda: owner.publish(signer_removal_plan("ci", [])))
    assert owner.released() == {}


def test_a_signer_whose_key_is_replaced_meanwhile_is_told(owner: Owner) -> None:
    """Case 49: the role is there, and another key speaks for it."""
    other = PrivateKey.generate_ecdsa().public_key

    def replace_key(repository: TrustedRepository) -> Mapping[str, Targets]:
        old = repository.targets()
        if old.delegations and other.key_id in old.delegation_keys:
            return {}
        bare = replace(old, delegations=(), delegation_keys={})
        return {TARGETS: bare.with_delegation("targets/ci", [other]).with_delegation(
            RELEASES, [other])}  # fmt: skip

    with pytest.raises(NotASignerError, match=r"is not a signer of .*; its signers are ci \("):
        interrupted_signing(owner, lambda: owner.publish(replace_key))
    assert owner.released() == {}


def test_a_signer_who_is_added_meanwhile_is_no_reason_to_fail(owner: Owner) -> None:
    """Case 49, the good end: planned again, and signed."""
    done = interrupted_signing(owner, lambda: owner.add("qa"))
    assert done.made > 1
    assert owner.released() == hashes(images(["2"]))
    assert {each["Name"] for each in owner.inspected()["Signers"]} == {"ci", "qa"}
