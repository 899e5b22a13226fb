"""What a repository should hold, in plain dictionaries: no file, no signature, no server.

The rules of `docs/protocol.md`, "Who signs what", said a second time and differently, so that
the product and this page can disagree. A ledger is small and is copied before it is changed:

1. A role has at most one *page*: its newest file. A removed role keeps its page, as the server
   keeps the file.
2. A page counts while one of the role's present keys signed it, and until it expires.
3. Whatever may not be done is `Refused`, with the error that the product must give for it.

Keys, tags and images go by short names; `OWNER` is the key of `targets`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from signimage.errors import (
    ExpiredError,
    InputError,
    NotASignerError,
    SignImageError,
    ThresholdError,
    TrustError,
)
from signimage.metadata import RELEASES, TARGETS
from signimage.publication import Recovery

OWNER = "owner"


class Moment(Enum):
    """What the clock of whoever does something says."""

    LONG_AGO = "long ago"  # a file that is signed then is valid today, and not for long
    TODAY = "today"
    SOON = "soon"  # later than what was signed long ago


class Refused(Exception):  # noqa: N818 -- nothing is wrong: it is the right answer
    """What is asked must fail with an error of *kind* whose text has *text*."""

    def __init__(self, kind: type[SignImageError], text: str) -> None:
        super().__init__(f"{kind.__name__}: {text}")
        self.kind = kind
        self.text = text


@dataclass(frozen=True, slots=True)
class Page:
    """The newest file of a role: tags with the names of their images, and whose keys signed it."""

    tags: Mapping[str, str]
    signed: frozenset[str]
    ends_soon: bool = False


@dataclass(slots=True)
class Ledger:
    """A repository as its users think of it.

    Attributes:
        roles: The keys of each delegation, in the order of `targets`.
        pages: The newest file of each role that ever had one.
    """

    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pages: dict[str, Page] = field(default_factory=lambda: {TARGETS: Page({}, frozenset({OWNER}))})

    def copy(self) -> "Ledger":
        """Another ledger with the same entries; the entries themselves never change."""
        return Ledger(dict(self.roles), dict(self.pages))

    # --- Questions ---

    def signers(self) -> dict[str, tuple[str, ...]]:
        """The keys of each signer, by name."""
        return {
            role.removeprefix("targets/"): keys
            for role, keys in self.roles.items()
            if role != RELEASES
        }

    def fault(self, role: str, moment: Moment) -> type[TrustError] | None:
        """Why the page of *role* does not count."""
        page = self.pages.get(role)
        if page is None:
            return None
        if page.signed.isdisjoint(self._keys(role)):
            return ThresholdError
        return ExpiredError if page.ends_soon and moment is Moment.SOON else None

    def tags(self, role: str, moment: Moment = Moment.TODAY) -> Mapping[str, str]:
        """What *role* says now: nothing where its page does not count."""
        is_heard = role in {TARGETS, *self.roles} and self.fault(role, moment) is None
        return self.pages[role].tags if is_heard and role in self.pages else {}

    def rows(self) -> set[tuple[str, str, tuple[str, ...]]]:
        """Every tag with every image that Docker shows for it, and who vouches for that."""
        shown = {row for role in (RELEASES, TARGETS) for row in self.tags(role).items()}
        return {(tag, image, self._vouching(tag, image)) for tag, image in shown}

    def listed(self, role: str) -> dict[str, tuple[str, str]]:
        """What Notary lists below *role*: image and role of each tag, parents before children."""
        found: dict[str, tuple[str, str]] = {}
        for each in (role, *(self.roles if role == TARGETS else ())):
            for tag, image in self.tags(each).items():
                found.setdefault(tag, (image, each))
        return found

    # --- Operations: each gives the roles that it writes ---

    def sign(
        self, tags: Mapping[str, str], keys: Collection[str], moment: Moment, recovery: Recovery
    ) -> set[str]:
        """Sign *tags* with *keys*, in every role of theirs."""
        self._open(moment)
        roles = [role for role, own in self.roles.items() if set(own) & set(keys)]
        if not self.roles and OWNER in keys:
            roles = [TARGETS]
        if not roles:
            raise Refused(NotASignerError, "is not a signer of")
        new = {}
        for role in roles:
            base = self._continued(role, moment, recovery)
            is_changed = any(base.get(tag) != image for tag, image in tags.items())
            if is_changed or self.fault(role, moment):
                new[role] = {**base, **tags}
        return self._write(new, keys, moment)

    def add(
        self, name: str, key: str, keys: Collection[str], moment: Moment, *, again: bool
    ) -> set[str]:
        """Let *key* sign as *name*."""
        self._open(moment)
        role = f"{TARGETS}/{name}"
        if role in self.pages and role not in self.roles and not again:
            raise Refused(InputError, f"signer {name} of")
        wanted = dict(self.roles)
        for each in (role, RELEASES):
            wanted[each] = tuple(dict.fromkeys((*wanted.get(each, ()), key)))
        return self._appoint(wanted, {}, keys, moment)

    def remove(self, name: str, keys: Collection[str], moment: Moment) -> set[str]:
        """Take from *name* the right to sign; what the others released stays released."""
        self._open(moment)
        role = f"{TARGETS}/{name}"
        if role not in self.roles:
            return set()
        left = {each: own for each, own in self.roles.items() if each != role}
        staying = {key for each, own in left.items() if each != RELEASES for key in own}
        gone = set(self.roles[role]) - staying
        left[RELEASES] = tuple(key for key in left[RELEASES] if key not in gone)
        if not left[RELEASES]:
            del left[RELEASES]
        return self._appoint(left, self._at_stake(left, keys, name, moment), keys, moment)

    def revoke(
        self, tags: Collection[str] | None, keys: Collection[str], moment: Moment
    ) -> set[str]:
        """Take *tags*, or all where there are none, out of every role."""
        self._open(moment)
        new = {}
        for role in (TARGETS, *self.roles):
            old = self._continued(role, moment, Recovery.REFUSE)
            kept = {tag: old[tag] for tag in old if tags is not None and tag not in tags}
            if kept != old:
                new[role] = kept
        if any(set(self._keys(role)).isdisjoint(keys) for role in new):
            raise Refused(NotASignerError, "no key at hand may take tags out of")
        return self._write(new, keys, moment)

    def witness(
        self, roles: Iterable[str], keys: Collection[str], moment: Moment, recovery: Recovery
    ) -> set[str]:
        """Sign those of *roles* again that do not count."""
        self._open(moment)
        faulty = [role for role in roles if role in self.roles and self.fault(role, moment)]
        new = {role: self._continued(role, moment, recovery) for role in faulty}
        return self._write(new, keys, moment)

    # --- Commands: with the keys of a store, as few as it takes ---

    def remove_by_command(self, name: str, stored: Collection[str], moment: Moment) -> set[str]:
        """Remove *name*; the first key of another signer signs the releases again."""
        self._open(moment)
        if name not in self.signers():
            raise Refused(InputError, f"has no signer {name}")
        if OWNER not in stored:
            raise Refused(InputError, "its repository key")
        others = [key for each, own in self.signers().items() if each != name for key in own]
        held = [key for key in others if key in stored]
        return self.remove(name, (OWNER, *held[:1]), moment)

    def witness_by_command(
        self, roles: Collection[str], stored: Collection[str], moment: Moment, recovery: Recovery
    ) -> set[str]:
        """Sign those of *roles* again that do not count, with one key of each."""
        self._open(moment)
        keys = []
        for role in roles:
            if role not in self.roles:
                raise Refused(TrustError, f"has no delegation {role}")
            held = [key for key in self.roles[role] if key in stored]
            if not held:
                raise Refused(InputError, "no key of")
            keys.append(held[0])
        return self.witness(roles, keys, moment, recovery)

    # --- Rules ---

    def _keys(self, role: str) -> tuple[str, ...]:
        return (OWNER,) if role == TARGETS else self.roles.get(role, ())

    def _open(self, moment: Moment) -> None:
        if self.fault(TARGETS, moment):
            raise Refused(ExpiredError, "targets of")

    def _continued(self, role: str, moment: Moment, recovery: Recovery) -> Mapping[str, str]:
        fault = self.fault(role, moment)
        if fault is not None and recovery is Recovery.DROP:
            return {}
        if fault is not None and not (fault is ExpiredError and recovery is Recovery.RESIGN):
            raise Refused(fault, f"{role} of")
        return self.pages[role].tags if role in self.pages else {}

    def _at_stake(
        self, left: Mapping[str, Collection[str]], keys: Collection[str], name: str, moment: Moment
    ) -> dict[str, Mapping[str, str]]:
        """The releases: where they count or did, one of those who are *left* signs them again."""
        fault = self.fault(RELEASES, moment)
        if RELEASES not in left or fault not in (None, ExpiredError):
            return {}
        page = self.pages.get(RELEASES)
        if set(left[RELEASES]) & set(keys):
            return {RELEASES: page.tags if page else {}}
        if fault is not None:
            raise Refused(NotASignerError, f"{RELEASES} of")
        if page and page.signed.isdisjoint(left[RELEASES]):
            raise Refused(NotASignerError, f"signer {name} signed {RELEASES} of")
        return {}

    def _appoint(
        self,
        roles: dict[str, tuple[str, ...]],
        new: Mapping[str, Mapping[str, str]],
        keys: Collection[str],
        moment: Moment,
    ) -> set[str]:
        if roles == self.roles:
            return set()
        before, self.roles = self.roles, roles
        try:
            return self._write({TARGETS: self.pages[TARGETS].tags, **new}, keys, moment)
        except Refused:
            self.roles = before
            raise

    def _write(
        self, new: Mapping[str, Mapping[str, str]], keys: Collection[str], moment: Moment
    ) -> set[str]:
        ends_soon = moment is Moment.LONG_AGO
        pages = {
            role: Page(tags, frozenset(self._keys(role)) & frozenset(keys), ends_soon)
            for role, tags in new.items()
        }
        if not all(page.signed for page in pages.values()):
            raise Refused(NotASignerError, "expected 1 of its keys at hand, got 0")
        self.pages |= pages
        return set(pages)

    def _vouching(self, tag: str, image: str) -> tuple[str, ...]:
        roles = (role for role in self.roles if role != RELEASES)
        who = tuple(role for role in roles if self.tags(role).get(tag) == image)
        return tuple(role.removeprefix("targets/") for role in who) or ("Repo Admin",)
