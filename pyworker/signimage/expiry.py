"""What of a believed repository ends when, who renews it, and when to begin to worry.

The rules of this file:

1. The trust server signs timestamp and snapshot again by itself when they end, unless somebody
   else holds the key of the snapshot; nobody has to think of what renews itself.
2. Notary's clients refuse to publish a root that ends within half a year, and so its owner hears
   of it that early; of every other role a season ahead, which is time enough to find its key.
3. A delegation that is set aside because it has expired has ended, and is listed with the rest.

`docs/doctor-and-report.md`, "What ends".
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from signimage.errors import FormatError
from signimage.keys import certificate
from signimage.metadata import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Body
from signimage.trust import ROOT_NOTICE, TrustedRepository, canonical_ids

OWNER_NOTICE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Term:
    """Something that ends.

    Attributes:
        role: The role that it is about.
        what: As a sentence names it, e.g. `targets/ci`, `certificate of root key 7c96…`.
        ends: The moment.
        notice: How long before that somebody should be told; None where it renews itself.
        remedy: What its owner can do.
    """

    role: str
    what: str
    ends: datetime
    notice: timedelta | None
    remedy: str = ""

    def has_ended(self, now: datetime) -> bool:
        """Whether it is over."""
        return self.ends <= now

    def is_due(self, now: datetime) -> bool:
        """Whether it is over, or will be so soon that somebody has to act."""
        return self.has_ended(now) or (self.notice is not None and self.ends <= now + self.notice)


def terms(repository: TrustedRepository, held: Collection[str] = ()) -> tuple[Term, ...]:
    """All that ends, the first first; *held* are canonical IDs of keys that an owner has."""
    return tuple(sorted(_terms(repository, held), key=lambda term: (term.ends, term.what)))


def is_with_owner(repository: TrustedRepository, held: Collection[str]) -> bool:
    """Whether the snapshot is signed by one of the keys *held*, and so not by the trust server."""
    return not set(held).isdisjoint(canonical_ids(*repository.role_keys(SNAPSHOT)))


def _terms(repository: TrustedRepository, held: Collection[str]) -> Iterator[Term]:
    gun, root = repository.gun, repository.root.body
    renew = f"signimage rotate root --renew {gun}"
    yield Term(ROOT, ROOT, root.expires.moment, ROOT_NOTICE, renew)
    for key_id in root.roles[ROOT].keyids:
        with suppress(FormatError):
            leaf = certificate(root.keys[key_id])
            what = f"certificate of root key {key_id[:8]}"
            yield Term(ROOT, what, leaf.not_after, ROOT_NOTICE, renew)
    yield from _published(repository, TARGETS, repository.targets(), OWNER_NOTICE)
    by_owner = OWNER_NOTICE if is_with_owner(repository, held) else None
    yield from _published(repository, SNAPSHOT, repository.snapshot.body, by_owner)
    yield from _published(repository, TIMESTAMP, repository.timestamp.body, None)
    for entry in repository.delegations():
        rejection = repository.rejection(entry.name)
        content = rejection.expired if rejection else repository.targets(entry.name)
        if content is not None:
            yield from _published(repository, entry.name, content, OWNER_NOTICE)


def _published(
    repository: TrustedRepository, role: str, body: Body, notice: timedelta | None
) -> Iterator[Term]:
    if body.version:
        again = f"signimage witness --again {repository.gun} {role}" if notice else ""
        yield Term(role, role, body.expires.moment, notice, again)
