"""Publishing: the tries that it takes to bring a plan into a repository, and to prove it there.

Publish, until the plan has nothing left to do:
 1. Refresh, and ask the plan what is missing. Nothing: it is there, verified; done.
    Before anything is sent a turn is taken among the publishers of this machine; where that had
    to be waited for, they have changed what was seen, and this step is done again.
 2. Sign each changed role with a version above every one seen; check the bytes we made.
 3. Send all roles in one form. Then go to 1: a 200 proves nothing, the next refresh does.
    The server may also lose an acknowledged update, even one that was seen: it is sent again.
 4. Where root or targets changed, look once more after a while: they are what the server loses.
 5. A server that does not answer, or cannot serve, is waited for, at the first look too: what is
    to be published may be in the registry already. One that has shown this process nothing yet
    is waited for only shortly: its address may be wrong. Whoever merely looks does not wait.

Server behaviour: `docs/protocol.md`, "Publishing".
"""

import random
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from signimage.errors import (
    CertificateError,
    ConflictError,
    NotFoundError,
    RemoteError,
    RollbackError,
    SignImageError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    WedgedRootError,
)
from signimage.keys import Signer
from signimage.metadata import ROOT, TARGETS
from signimage.publication import Changes, Plan, signed_files
from signimage.trust import TrustedRepository
from signimage.trustapi import TrustApi
from signimage.turns import turn

# 64 writers that share two busy cores with the server need half a minute.
_PUBLISH_DEADLINE_S = 180.0
# A server that restarts is back by then; one that stays away is not waited for.
_OUTAGE_S = 60.0
# A supervisor brings a dead server back in less; for a wrong address nobody waits a minute.
_FIRST_OUTAGE_S = 15.0
_BACKOFF_S, _BACKOFF_CAP_S = 0.02, 1.0
# In times and seconds. Longer pauses leave the server idle, and whoever lost most waits longest.
_RIVALRY_DOUBLINGS, _RIVALRY_CAP_S = 4, 8.0
# The server's race ends with the publication it ran beside; those take some hundredths.
_SETTLE_S = 1.0
# A turn that is free is taken in less; whoever waits looks again after more.
_AT_ONCE_S = 0.002
# Whoever is hit by it notices after that time, and repairs it within a few tries.
_PATIENCE_S = 10.0

# The state after something was sent that the server did not refuse, and that was not seen there.
IN_DOUBT = "What was sent to the trust server may be published all the same"

# No later attempt will be answered differently.
_FINAL = (UnauthorizedError, NotFoundError, TooLargeError)
# The server is away; what it did with a request is unknown.
_OUTAGES = (UnreachableError, UnavailableError)


class Server(Protocol):
    """The trust server as a publisher sees it: something to look at, and something to send to."""

    api: TrustApi

    @property
    def gun(self) -> str:
        """The repository's globally unique name."""

    @property
    def has_answered(self) -> bool:
        """Whether it has shown the repository before, so that its address is certainly right."""

    def refresh(self) -> TrustedRepository:
        """Fetch and verify the repository's current state."""

    def recent(self) -> TrustedRepository | None:
        """What the last look showed, if that was a moment ago."""

    def restore_floors(self, floors: Mapping[str, int]) -> None:
        """Lower floors to what they were before an update of ours that the server undid."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A finished publication: what is believed now, and which roles were sent for it."""

    repository: TrustedRepository
    roles: tuple[str, ...]  # empty: everything was there already, nothing was sent
    attempts: int


@dataclass(slots=True)
class Attempts:
    """The tries of one publication: what was sent, and what came of it."""

    server: Server
    plan: Plan
    signers: Mapping[str, Signer]
    number: int = 0
    roles: tuple[str, ...] = ()
    trouble: RemoteError | RollbackError | None = None
    _begun: float = field(default_factory=time.monotonic)
    _used: dict[str, int] = field(default_factory=dict)  # versions that are taken, by role
    _conflicted: dict[str, int] = field(default_factory=dict)  # the base of the last conflict
    _believed: dict[str, int] = field(default_factory=dict)  # floors of what was sent, before it
    _patience_until: float | None = None
    _outdated: int = 0  # the timestamp that was current before the last acknowledged update
    _is_settled: bool = False
    _acknowledged: int = 0
    _is_unproven: bool = False  # acknowledged, and to be looked for without delay
    _may_be_there: bool = False  # something was sent, and not refused
    _is_away: bool = False  # the last look was in vain
    _outage_since: float | None = None
    _waits: int = 0
    _looks: int = 0
    _turn: ExitStack = field(default_factory=ExitStack)
    _had_turn: bool = False
    _is_late: bool = False  # the turn took a while to come, and what was seen before is old

    def run(self) -> Publication:
        """Look, and send what is missing, until nothing is."""
        try:
            with self._turn:
                return self._published()
        except SignImageError as error:
            if self._may_be_there:
                error.state = IN_DOUBT
            raise

    def _published(self) -> Publication:
        while True:
            begun = time.monotonic()
            try:
                done = self._step()
            except RollbackError as error:
                self._take_back(error)
            else:
                if done is not None:
                    return done
            self._pause(begun)

    def _step(self) -> Publication | None:
        try:
            repository = self._base()
            self._check_later(repository)
        except RemoteError as error:
            if self.number == 0 and not _may_pass(error):
                raise
            if isinstance(error, _FINAL) and not isinstance(error, NotFoundError):
                raise
            # Copies of a server's database may show a file only after the one that names it.
            self.trouble, self._is_away = error, True
            return None
        if self._is_away:
            self._is_away, self.trouble, self._outage_since = False, None, None
        changes = self.plan(repository)
        self._patience_until = None
        if not changes and self._may_rest():
            return Publication(repository, self.roles, self.number)
        if self._is_unproven:
            # With changes: it is lost, and whoever published beside it is likely still at it.
            self._is_unproven = not changes
        elif changes and self._is_our_turn():
            self._send(repository, changes)
        return None

    def _is_our_turn(self) -> bool:
        """Whether to send now; False where it came late, and a look is due that shows the others.

        The first look is made before, so that only what collides is done one after another.
        """
        if not self._had_turn:
            self._had_turn = True
            begun = time.monotonic()
            self._turn.enter_context(turn(f"{self.server.api.url} {self.server.gun}"))
            self._is_late = time.monotonic() - begun > _AT_ONCE_S
        return not self._is_late

    def _base(self) -> TrustedRepository:
        """What to plan upon: for the first try, what a preflight has seen a moment ago will do.

        Where it is outdated the server says so, as it takes no version twice. That there is
        nothing to do is never believed of it.
        """
        recent = self.server.recent() if self._looks == 0 else None
        self._looks += 1
        return recent if recent is not None and self.plan(recent) else self.server.refresh()

    def _take_back(self, error: RollbackError) -> None:
        """Look again after the server's race undid an update that was seen already.

        If it was ours, it is as if it had never been taken; another's will be published again.
        """
        now = time.monotonic()
        self._patience_until = self._patience_until or now + _PATIENCE_S
        if now > self._patience_until:
            raise error
        self.server.restore_floors(self._believed)
        self.trouble = error

    def _check_later(self, repository: TrustedRepository) -> None:
        """Refuse a state from before our update, which a cache on the way may still show.

        The server signs a new timestamp for every update that it acknowledges.
        """
        if repository.timestamp.body.version <= self._outdated:
            raise UnavailableError(
                f"{self.server.gun} is still shown as it was before it was published"
            )

    def _may_rest(self) -> bool:
        """Whether what is there now will still be there in a moment."""
        if self._is_settled or {ROOT, TARGETS}.isdisjoint(self.roles):
            return True
        self._is_settled = self._is_unproven = True
        time.sleep(_SETTLE_S)
        return False

    def _send(self, repository: TrustedRepository, changes: Changes) -> None:
        self.number += 1
        self._is_settled = False
        versions = {
            role: 1 + max(content.version, repository.floors.get(role, 0), self._used.get(role, 0))
            for role, content in changes.items()
        }
        files = signed_files(repository, changes, versions, self.signers)
        self._believed = {role: repository.floors.get(role, 0) for role in files}
        try:
            self.server.api.post(files)
        except _OUTAGES as error:
            # It may have arrived all the same; the next refresh tells.
            self.roles, self.trouble = tuple(files), error
            self._may_be_there = True
        except ConflictError as error:
            self.trouble = error
            self._learn(changes)
        except RemoteError as error:
            if isinstance(error, _FINAL) or not self._has_moved(repository):
                raise
            self.trouble = error
        else:
            # Where the server then loses the update, its version stays taken.
            self.roles, self._used, self.trouble = tuple(files), versions, None
            self._acknowledged += 1
            self._is_unproven = self._may_be_there = True
            self._outdated = repository.timestamp.body.version

    def _excuse(self) -> str:
        if self._acknowledged:
            return f"the server acknowledged {self._acknowledged} of them and shows none"
        return "other publishers won"

    def _learn(self, changes: Changes) -> None:
        """After two conflicts on one base nobody was faster: a version number is used up."""
        base = {role: content.version for role, content in changes.items()}
        if base == self._conflicted:
            api = self.server.api
            try:
                self._used = {role: api.newest_version(role, base[role]) for role in base}
            except RemoteError:
                return  # the next conflict asks again; not every server answers by number
            if self._used.get(ROOT, 0) > base.get(ROOT, 0) and not self._is_rotated(base[ROOT]):
                raise WedgedRootError(
                    f"{api.gun}: {api.url} holds root version {self._used[ROOT]}, but refers to "
                    f"version {base[ROOT]} and takes no other",
                    hint="The server lost a root that it had acknowledged. Its operator must "
                    "delete the lost version from its database",
                )
        self._conflicted = base

    def _is_rotated(self, version: int) -> bool:
        """Whether the server shows a later root than *version*: one of somebody who was faster."""
        try:
            return self.server.refresh().root.body.version > version
        except _OUTAGES:
            return True  # not known; the next conflict asks again

    def _has_moved(self, repository: TrustedRepository) -> bool:
        """Whether somebody published since *repository* was fetched; a refusal may be due to it."""
        try:
            now = self.server.refresh()
        except _OUTAGES:
            return True  # not known; the next try shows
        return now.snapshot.body.version != repository.snapshot.body.version

    def _pause(self, begun: float) -> None:
        """Wait a random time, so that publishers who collided do not collide again.

        Args:
            begun: When the try began that this pause follows.
        """
        if self._is_late:
            self._is_late = False
            return
        now = time.monotonic()
        self._check_outage(begun, now)
        is_acknowledged = self._is_unproven and self.trouble is None  # one look tells
        if now > self._begun + _PUBLISH_DEADLINE_S and not is_acknowledged:
            raise ConflictError(
                f"{self.server.gun} could not be published in {_PUBLISH_DEADLINE_S:.0f} seconds "
                f"and {self.number} tries: {self.trouble or self._excuse()}",
                hint="Nothing that was signed before was lost; run it again",
            )
        if self.trouble is not None or not self._is_unproven:
            self._is_unproven = False
            self._waits += 1
            limit_s = self._longest_pause_s(now - begun)
            time.sleep(random.uniform(0, limit_s))  # noqa: S311 -- spreads load, guards nothing

    def _longest_pause_s(self, tried_s: float) -> float:
        if self._is_away or isinstance(self.trouble, _OUTAGES):
            return min(_BACKOFF_CAP_S, _BACKOFF_S * 2.0 ** min(self._waits, 10))
        # A try succeeds if no other ends within it; so that is the unit to make room by, and on
        # busy machines it grows with the number of rivals.
        slot_s = max(_BACKOFF_S, tried_s)
        return min(_RIVALRY_CAP_S, slot_s * 2.0 ** min(self._waits, _RIVALRY_DOUBLINGS))

    def _check_outage(self, begun: float, now: float) -> None:
        """Give up on a server that stays away."""
        if self.trouble is None or not (self._is_away or isinstance(self.trouble, _OUTAGES)):
            self._outage_since = None
            return
        # From the beginning of the try: one that hangs takes most of the time by itself.
        self._outage_since = self._outage_since or begun
        patience_s = _OUTAGE_S if self.server.has_answered else _FIRST_OUTAGE_S
        if now > self._outage_since + patience_s:
            raise self.trouble


def _may_pass(error: RemoteError) -> bool:
    """Whether the same server may answer soon; a wrong certificate is a matter for people."""
    return isinstance(error, _OUTAGES) and not isinstance(error, CertificateError)
