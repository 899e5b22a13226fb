"""What owners and signers do, each thing twice: as a plan for the product, and in a `Ledger`."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache

from peers.ledger import OWNER, Ledger, Moment
from peers.owner import image
from signimage.filemeta import FileMeta
from signimage.keys import PrivateKey
from signimage.publication import (
    Changes,
    Plan,
    Recovery,
    revocation_plan,
    signer_plan,
    signer_removal_plan,
    signing_plan,
    whole_revocation_plan,
)
from signimage.trust import TrustedRepository

HANDS = ("a", "b", "c", "d")  # who hold the keys of signers


@cache
def key(name: str) -> PrivateKey:
    """The private key that *name* stands for, the same one all through a test session."""
    del name
    return PrivateKey.generate_ecdsa()


def key_id(name: str) -> str:
    """The canonical ID of the key *name*."""
    return key(name).public_key.canonical_id


def at_hand(names: Collection[str]) -> dict[str, PrivateKey]:
    """The keys *names*, as publishers take them."""
    return {key_id(name): key(name) for name in names}


def metas(tags: Mapping[str, str]) -> dict[str, FileMeta]:
    """What *tags* are signed as, by the names of their images."""
    return {tag: image(name) for tag, name in tags.items()}


@dataclass(frozen=True)
class Operation:
    """Something to do with some keys at hand.

    Attributes:
        kind: What it is in one word.
        text: The rest, for people who read a failing sequence.
        keys: Whose keys there are.
        plan: How the product does it.
        entered: How it is entered in a ledger; gives the roles that are written.
    """

    kind: str
    text: str
    keys: tuple[str, ...]
    plan: Plan
    entered: Callable[[Ledger, Moment], set[str]]

    def __repr__(self) -> str:
        return f"<{self.kind} {self.text}, by {' '.join(self.keys) or 'nobody'}>"


def signing(tags: Mapping[str, str], keys: tuple[str, ...], recovery: Recovery) -> Operation:
    """Sign *tags*, with several keys at once or in vain."""
    text = " ".join(f"{tag}={name}" for tag, name in tags.items())
    ids = [key_id(name) for name in keys]
    return Operation(
        "sign",
        f"{text} and {recovery.value}",
        keys,
        signing_plan(metas(tags), ids, recovery=recovery),
        lambda ledger, moment: ledger.sign(tags, keys, moment, recovery),
    )


def adding(name: str, hand: str, keys: tuple[str, ...], *, again: bool) -> Operation:
    """Let the key *hand* sign as *name*, new, known or removed."""
    return Operation(
        "add",
        f"{name} {hand}{' again' if again else ''}",
        keys,
        signer_plan(name, [key(hand).public_key], again=again),
        lambda ledger, moment: ledger.add(name, hand, keys, moment, again=again),
    )


def removing(name: str, keys: tuple[str, ...]) -> Operation:
    """Remove the signer *name*, if there is one."""
    return Operation(
        "remove",
        name,
        keys,
        signer_removal_plan(name, [key_id(each) for each in keys]),
        lambda ledger, moment: ledger.remove(name, keys, moment),
    )


def revoking(tags: frozenset[str] | None, keys: tuple[str, ...]) -> Operation:
    """Revoke *tags*, or all of them."""
    ids = [key_id(name) for name in keys]
    return Operation(
        "revoke",
        "everything" if tags is None else " ".join(sorted(tags)),
        keys,
        whole_revocation_plan(ids) if tags is None else revocation_plan(tags, ids),
        lambda ledger, moment: ledger.revoke(tags, keys, moment),
    )


class PowerCut(Exception):  # noqa: N818 -- what ends a process, and no error of ours
    """The process is gone."""


def dying(plan: Plan, look: int) -> Plan:
    """*plan*, for a process that ends when it looks for the *look*-th time."""
    looks = []

    def interrupted(repository: TrustedRepository) -> Changes:
        looks.append(repository)
        if len(looks) == look:
            raise PowerCut(f"at look {look}")
        return plan(repository)

    return interrupted


def overtaken(plan: Plan, rival: Callable[[], object]) -> Plan:
    """*plan*, where *rival* acts between its first look and what is sent on its ground."""
    waiting = [rival]

    def slow(repository: TrustedRepository) -> Changes:
        changes = plan(repository)
        if waiting:
            waiting.pop()()
        return changes

    return slow


OWNERS = (OWNER,)
EVERYBODY = (OWNER, *HANDS)
