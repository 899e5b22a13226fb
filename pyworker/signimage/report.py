"""What there is to say of a repository on one page: who may sign, what ends, what is odd.

`chapter` is a pure function from believed trust data to `Chapter`, which `reportpage` sets.
Anomalies are written for people who run a platform, not for those who know TUF:

1. A *problem* means that consumers get something else than they should, or soon nothing.
2. A *notice* is worth a look, and may be as it was meant.
3. Each says what to do, where there is something to do.

`docs/doctor-and-report.md`, "What the report looks for".
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from signimage.expiry import Term, is_with_owner, terms
from signimage.filemeta import FileMeta
from signimage.lookup import (
    SignerRole,
    all_released,
    invalid_roles,
    is_same,
    natural,
    releasers,
    signers,
    who_signed,
)
from signimage.metadata import BASE_ROLES, RELEASES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from signimage.oci import Digest
from signimage.trust import TrustedRepository, canonical_ids

ABSENT = "no such tag"
_NAMED = 8  # tags or keys in one sentence; the table has them all
_CUT = 40  # characters of one of them


class Basis(Enum):
    """Why the root was believed."""

    PINNED = "pinned"
    KEPT = "believed here before"
    FIRST_USE = "believed at first sight"


@dataclass(frozen=True, slots=True)
class Subject:
    """A believed repository, and what else is known of it.

    Attributes:
        repository: The believed state; its `now` is the moment of the report.
        trust_server: The URL that it came from.
        basis: Why its root was believed.
        required: Signers who must have signed every tag.
        held: Canonical IDs of the keys on this machine.
        in_registry: What the registry has, by tag: a digest, None where it has no such tag. What
            was not asked for is not in it.
        registry_fault: Why the registry could not be asked, though it should have been.
        is_kept: Whether the trust server could not be asked, and this is what was kept.
    """

    repository: TrustedRepository
    trust_server: str
    basis: Basis
    required: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    in_registry: Mapping[str, Digest | None] | None = None
    registry_fault: str = ""
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something odd, as a sentence, and what to do about it."""

    text: str
    remedy: str = ""
    is_problem: bool = False


@dataclass(frozen=True, slots=True)
class Signatory:
    """Somebody who may sign.

    Attributes:
        name: As people know the signer.
        key_ids: Canonical.
        paths: Beginnings of the tags that may be signed; "" is every tag.
        releases: Whether consumers see what is signed.
        tags: How many tags are signed; None where the role is not believed.
    """

    name: str
    key_ids: tuple[str, ...]
    paths: tuple[str, ...]
    releases: bool
    tags: int | None


@dataclass(frozen=True, slots=True)
class Node:
    """A role as it stands in the hierarchy of keys."""

    role: str
    parent: str  # "" for root
    key_ids: tuple[str, ...]
    threshold: int
    keeper: str
    ends: datetime | None
    is_odd: bool = False


@dataclass(frozen=True, slots=True)
class Released:
    """What consumers get for a tag; `digest` is "" where there is no SHA-256 hash.

    `signers` are names, `signed_by` says in words who signed it where there is no name.
    `in_registry` is what the registry has instead: "" where that is the same or nobody asked.
    """

    tag: str
    digest: str
    signers: tuple[str, ...]
    signed_by: str
    in_registry: str = ""


@dataclass(frozen=True, slots=True)
class Chapter:
    """All that the page says of one repository."""

    gun: str
    now: datetime
    trust_server: str = ""
    basis: Basis | None = None
    root_key_ids: tuple[str, ...] = ()
    anomalies: tuple[Anomaly, ...] = ()
    signatories: tuple[Signatory, ...] = ()
    nodes: tuple[Node, ...] = ()
    terms: tuple[Term, ...] = ()
    released: tuple[Released, ...] = ()
    is_compared: bool = False  # with the registry

    @property
    def problems(self) -> int:
        """How many of the anomalies are problems."""
        return sum(each.is_problem for each in self.anomalies)


def unread(gun: str, now: datetime, reason: str) -> Chapter:
    """The chapter of a repository of which nothing is known but the *reason* for that."""
    return Chapter(gun, now, anomalies=(Anomaly(reason, is_problem=True),))


def chapter(subject: Subject) -> Chapter:
    """Say all there is to say of *subject*."""
    repository = subject.repository
    ends = terms(repository, subject.held)
    metas = released_content(repository)
    vouched = {each.name: _own_tags(repository, each) for each in signers(repository)}
    rows = tuple(
        _released(subject, tag, metas[tag], vouched)
        for tag in sorted(metas, key=natural, reverse=True)
    )
    return Chapter(
        gun=repository.gun,
        now=repository.now,
        trust_server=subject.trust_server,
        basis=subject.basis,
        root_key_ids=repository.root.body.roles[ROOT].keyids,
        anomalies=tuple(sorted(_anomalies(subject, ends, rows, vouched), key=_problems_first)),
        signatories=tuple(_signatories(repository)),
        nodes=tuple(_nodes(subject, ends)),
        terms=ends,
        released=rows,
        is_compared=subject.in_registry is not None,
    )


def released_content(repository: TrustedRepository) -> dict[str, FileMeta]:
    """What consumers get, by tag; nothing where `targets/releases` is there and not believed."""
    return {} if repository.rejection(RELEASES) else all_released(repository)


def _own_tags(repository: TrustedRepository, signer: SignerRole) -> dict[str, FileMeta]:
    if repository.rejection(signer.role) is not None:
        return {}
    entries = repository.targets(signer.role).targets
    return {tag: meta for tag, meta in entries.items() if repository.admits(signer.role, tag)}


def _released(
    subject: Subject, tag: str, meta: FileMeta, vouched: Mapping[str, Mapping[str, FileMeta]]
) -> Released:
    digest = Digest.of_raw(meta.sha256).text if meta.sha256 else ""
    names = tuple(name for name, own in vouched.items() if is_same(own.get(tag), meta))
    known = subject.in_registry or {}
    instead = ""
    if tag in known:
        has = known[tag]
        if has is None or has.text != digest:
            instead = has.text if has else ABSENT
    signed_by = who_signed(subject.repository, tag, meta, names)
    return Released(tag, digest, names, signed_by, instead)


def _signatories(repository: TrustedRepository) -> Iterator[Signatory]:
    top = repository.targets()
    if not top.delegations:
        ids = canonical_ids(*repository.role_keys(TARGETS))
        yield Signatory("repository key", ids, ("",), releases=True, tags=len(top.targets))
        return
    may_release = frozenset(releasers(repository))
    paths = {entry.signer: entry.paths or () for entry in top.children(TARGETS)}
    for signer in signers(repository):
        is_believed = repository.rejection(signer.role) is None
        yield Signatory(
            signer.name,
            signer.key_ids,
            paths[signer.name],
            releases=not may_release.isdisjoint(signer.key_ids),
            tags=len(repository.targets(signer.role).targets) if is_believed else None,
        )


def _nodes(subject: Subject, ends: Iterable[Term]) -> Iterator[Node]:
    repository = subject.repository
    until = {term.role: term.ends for term in ends if term.what == term.role}
    due = {term.role for term in ends if term.is_due(repository.now)}
    held = is_with_owner(repository, subject.held)
    keepers = {
        ROOT: "owner",
        TARGETS: "owner",
        SNAPSHOT: "owner" if held else "trust server",
        TIMESTAMP: "trust server",
    }
    entries = [entry.name for entry in repository.delegations()]
    for name in (*BASE_ROLES, *entries):
        role, keys = repository.role_keys(name)
        parent = "" if name == ROOT else ROOT if name in BASE_ROLES else name.rpartition("/")[0]
        keeper = keepers.get(name, "every signer" if name == RELEASES else "signer")
        is_odd = name in due or repository.rejection(name) is not None
        # Of root the IDs that pins name, of all others those that files of keys are named after.
        ids = role.keyids if name == ROOT else canonical_ids(role, keys)
        yield Node(name, parent, ids, role.threshold, keeper, until.get(name), is_odd)


# --- What is odd ------------------------------------------------------------------------------


def _problems_first(anomaly: Anomaly) -> bool:
    return not anomaly.is_problem


def _anomalies(
    subject: Subject,
    ends: Iterable[Term],
    rows: Collection[Released],
    vouched: Mapping[str, Mapping[str, FileMeta]],
) -> Iterator[Anomaly]:
    yield from _of_roles(subject.repository)
    yield from _of_time(subject.repository, ends)
    yield from _of_tags(subject, rows, vouched)
    yield from _of_keys(subject.repository)
    yield from _of_custody(subject)


def _of_roles(repository: TrustedRepository) -> Iterator[Anomaly]:
    for name in invalid_roles(repository):
        rejection = repository.rejection(name)
        error = rejection.error if rejection else None
        reason = str(error) if error else name
        gone = "; no tag is released" if name == RELEASES else ""
        yield Anomaly(f"{reason}{gone}", error.hint if error else "", is_problem=True)


def _of_time(repository: TrustedRepository, ends: Iterable[Term]) -> Iterator[Anomaly]:
    for term in ends:
        if term.is_due(repository.now) and not term.has_ended(repository.now):
            days = (term.ends - repository.now).days
            text = f"{term.what} ends in {counted(days, 'day')}, on {term.ends:%Y-%m-%d}"
            yield Anomaly(text, f"Its owner renews it: {term.remedy}")


def _of_tags(
    subject: Subject,
    rows: Collection[Released],
    vouched: Mapping[str, Mapping[str, FileMeta]],
) -> Iterator[Anomaly]:
    gun = subject.repository.gun
    for name in subject.required:
        missing = [row.tag for row in rows if name not in row.signers]
        if missing:
            remedy = f"Have {name} sign them, or take them back: signimage revoke {gun}:TAG"
            text = f"{name} must sign every tag, and has not signed {listed(missing, 'tag')}"
            yield Anomaly(text, remedy, is_problem=True)
    alone = [row.tag for row in rows if vouched and not row.signers]
    if alone:
        text = f"no signer vouches for {listed(alone, 'released tag')}"
        yield Anomaly(text, "Have a signer sign them, or revoke them", is_problem=True)
    yield from _of_registry(subject, rows)
    yield from _of_own_tags(rows, vouched)


def _of_registry(subject: Subject, rows: Iterable[Released]) -> Iterator[Anomaly]:
    if subject.registry_fault:
        yield Anomaly(f"the tags were not compared: {subject.registry_fault}", is_problem=True)
    odd = [row for row in rows if row.in_registry]
    moved = [row.tag for row in odd if row.in_registry != ABSENT]
    if moved:
        text = f"the registry has another image than was signed under {listed(moved, 'tag')}"
        yield Anomaly(text, "Find out who moved them; then sign or push anew", is_problem=True)
    gone = [row.tag for row in odd if row.in_registry == ABSENT]
    if gone:
        text = f"the registry does not have {listed(gone, 'signed tag')}"
        revoke = f"signimage revoke {subject.repository.gun}:TAG"
        yield Anomaly(text, f"Take back what is gone for good: {revoke}")


def _of_own_tags(
    rows: Collection[Released], vouched: Mapping[str, Mapping[str, FileMeta]]
) -> Iterator[Anomaly]:
    released = {row.tag for row in rows}
    for name, own in vouched.items():
        hidden = [tag for tag in sorted(own, key=natural) if tag not in released]
        if hidden and rows:
            text = f"{name} signed {listed(hidden, 'tag')}, and no consumer sees it: not released"
            yield Anomaly(text, "Sign them again to release them, or revoke them")
        other = [row.tag for row in rows if row.tag in own and name not in row.signers]
        if other:
            text = f"{name} signed another image than the one that is released as "
            yield Anomaly(text + listed(other, "tag"), "Sign anew, as whoever is right")


def _of_keys(repository: TrustedRepository) -> Iterator[Anomaly]:
    top = repository.targets()
    used = {key_id for entry in top.delegations for key_id in entry.role.keyids}
    idle = [key_id for key_id in top.delegation_keys if key_id not in used]
    if idle:
        text = f"{listed([each[:12] for each in idle], 'key')} listed for signers, and in no role"
        yield Anomaly(text, "They have no effect; removing a signer clears them away")
    known = signers(repository)
    may_release = frozenset(releasers(repository))
    for signer in known:
        if may_release.isdisjoint(signer.key_ids):
            remedy = f"Its owner adds it: signimage signer add --key FILE.pub {signer.name} "
            text = f"{signer.name} is not in {RELEASES}: no consumer sees what it signs"
            yield Anomaly(text, remedy + repository.gun, is_problem=True)
    strange = may_release.difference(*(signer.key_ids for signer in known))
    if strange:
        text = f"{listed(sorted(each[:12] for each in strange), 'key')} may release, and belongs "
        yield Anomaly(f"{text}to no signer", "Find out whose it is", is_problem=True)
    owners: dict[str, list[str]] = {}
    for signer in known:
        for key_id in signer.key_ids:
            owners.setdefault(key_id, []).append(signer.name)
    for key_id, names in owners.items():
        if len(names) > 1:
            text = f"{' and '.join(names)} share the key {key_id[:12]}"
            yield Anomaly(text, "Whoever has it signs as either; give each a key of its own")
    yield from _of_base_keys(repository, owners)


def _of_base_keys(
    repository: TrustedRepository, owners: Mapping[str, list[str]]
) -> Iterator[Anomaly]:
    roles: dict[str, list[str]] = {key_id: [f"signer {each[0]}"] for key_id, each in owners.items()}
    for name in BASE_ROLES:
        for key_id in canonical_ids(*repository.role_keys(name)):
            roles.setdefault(key_id, []).append(name)
    for key_id, names in roles.items():
        if len(names) > 1:
            text = f"one key, {key_id[:12]}, is used for {' and '.join(names)}"
            yield Anomaly(text, "Whoever gets hold of one then has the other, too; rotate one")


def _of_custody(subject: Subject) -> Iterator[Anomaly]:
    repository = subject.repository
    if subject.is_kept:
        yield Anomaly(
            "the trust server could not be asked: this is what was kept, and will be believed "
            f"until {repository.timestamp.body.expires.moment:%Y-%m-%d}",
            "What was published since is not here",
        )
    if is_with_owner(repository, subject.held):
        yield Anomaly(
            "the snapshot key is kept on this machine: nobody else can publish a signature",
            f"Give that work to the trust server: signimage rotate snapshot {repository.gun}",
        )
    if not repository.targets().delegations:
        yield Anomaly(
            "there are no signers: tags are signed with the repository key itself",
            "Give each pipeline a key of its own: signimage signer add --key FILE.pub NAME "
            f"{repository.gun}",
        )
    if subject.basis is Basis.FIRST_USE:
        pins = " ".join(f"--root-key {each}" for each in repository.root.body.roles[ROOT].keyids)
        yield Anomaly(
            "its root key was believed at first sight: nothing was pinned",
            f"If its owner confirms the key, pin it: {pins}",
        )


def counted(number: int, noun: str) -> str:
    """A number with its noun, e.g. `1 tag`, `2 tags`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Collection[str], noun: str) -> str:
    """Names behind their number, e.g. `2 tags (1.0, 1.1)`; of many, the first."""
    shown = [f"{name[:_CUT]}…" if len(name) > _CUT else name for name in list(names)[:_NAMED]]
    more = f" and {counted(len(names) - len(shown), 'other')}" if len(names) > len(shown) else ""
    return f"{counted(len(names), noun)} ({', '.join(shown)}{more})"
