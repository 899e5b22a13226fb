"""`signimage.publisher` and a trust server that is away: who waits for it, and who does not."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from signimage.errors import (
    CertificateError,
    NotFoundError,
    NotInitializedError,
    RemoteError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from signimage.lookup import released
from signimage.metadata import RELEASES
from signimage.notary import TrustServer
from signimage.publication import signing_plan
from signimage.publisher import IN_DOUBT, Publication
from signimage.transport import ATTEMPTS, Transport
from signimage.trustapi import TrustApi
from signimage.turns import turn
from unit.repositories import GUN, IMAGE, content, key, sign
from unit.small_server import Reply, Request
from unit.trust_server import CI, NEW, Peer, TrustServerModel, error, lose

HANG_UP = Reply(raw=b"")
OUTAGES = pytest.mark.parametrize(
    "reply",
    [HANG_UP, Reply(502), Reply(503), error(500, "UNKNOWN"), error(429, "TOOMANYREQUESTS")],
    ids=["no answer", "502", "503", "500", "429"],
)


def publish(client: TrustServer) -> Publication:
    """Sign the tag 2.0 as `ci`."""
    return client.publish(signing_plan({"2.0": NEW}, [CI]), {CI: key("ci")})


def away(peer: Peer, reply: Reply, *, requests: int) -> None:
    """Let the server answer *reply* to that many requests from now on, and then the truth."""
    end = len(peer.server.requests) + requests

    def answer(request: Request) -> Reply:
        return reply if len(peer.server.requests) <= end else peer.model.answer(request)

    peer.server.answer_with(answer)


class Clock:
    """A clock for the publisher alone, that moves when it sleeps and when a test says so.

    Attributes:
        pauses: How long each sleep was, in seconds.
    """

    def __init__(self) -> None:
        self.now = 1.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self.now

    def sleep(self, pause_s: float) -> None:
        """Move on."""
        self.now += pause_s
        self.pauses.append(pause_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the publisher a clock of its own, and random pauses that take as long as they may.

    However short its tests are, no look is recent in them.
    """
    it = Clock()
    monkeypatch.setattr("signimage.publisher.time", it)
    monkeypatch.setattr("signimage.notary._RECENT_S", 0.0)
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    return it


# --- Turns ---


def test_who_waits_for_a_turn_looks_again_and_collides_with_nobody(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 44: what another publisher of this machine did meanwhile is built upon."""
    rival = {
        role: sign(content({"1.0": IMAGE, "rival": NEW}, version=2), [key("ci")])
        for role in ("targets/ci", RELEASES)
    }
    is_waited_for = Event()

    def wait(pause_s: float) -> None:
        is_waited_for.set()
        time.sleep(pause_s)

    monkeypatch.setattr("signimage.turns._wait", wait)
    with ThreadPoolExecutor(1) as pool:
        with turn(f"{peer.server.origin} {GUN}", patience_s=60.0) as is_held:
            assert is_held
            under_way = pool.submit(peer.sign)
            assert is_waited_for.wait(60)
            peer.model.carry_out(rival)
        done = under_way.result()
    assert (done.attempts, peer.model.posts) == (1, 1)
    assert released(done.repository, "rival") == released(done.repository, "2.0") == NEW


def test_without_turns_nothing_is_lost_either(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 44: as publishers on machines of their own."""
    monkeypatch.setattr("tempfile.tempdir", "/none/such")
    tags = [f"tag-{number}" for number in range(6)]
    with ThreadPoolExecutor(len(tags)) as pool:
        list(pool.map(peer.sign, tags))
    repository = peer.client().refresh()
    assert all(released(repository, tag) == NEW for tag in tags)


# --- Who waits ---


@OUTAGES
def test_a_server_that_is_away_at_the_first_look_is_waited_for(peer: Peer, reply: Reply) -> None:
    """Case 46: the image may be in the registry by then, and only the signature missing."""
    away(peer, reply, requests=ATTEMPTS + 1)
    done = peer.sign()
    assert (done.attempts, peer.model.posts) == (1, 1)
    assert released(done.repository, "2.0") == NEW


def test_what_turns_out_to_be_there_when_the_server_is_back_is_not_sent(peer: Peer) -> None:
    """Case 46: somebody ran the same step before."""
    peer.sign()
    away(peer, HANG_UP, requests=2 * ATTEMPTS)
    done = peer.sign()
    assert (done.attempts, done.roles, peer.model.posts) == (0, (), 1)


@OUTAGES
def test_whoever_looks_does_not_wait(peer: Peer, reply: Reply) -> None:
    """Nothing is pushed yet: better to fail before the build than to begin late."""
    away(peer, reply, requests=2 * ATTEMPTS)
    with pytest.raises((UnreachableError, UnavailableError), match="trust server https://127"):
        peer.client().refresh()
    assert len(peer.server.requests) <= ATTEMPTS


@OUTAGES
def test_whoever_asks_for_permission_does_not_wait(peer: Peer, reply: Reply) -> None:
    away(peer, reply, requests=2 * ATTEMPTS)
    with pytest.raises((UnreachableError, UnavailableError), match="trust server https://127"):
        peer.client().check_write()
    assert len(peer.server.requests) <= ATTEMPTS


def test_a_proof_is_looked_for_at_once_and_only_what_is_lost_is_waited_with(
    peer: Peer, clock: Clock
) -> None:
    """Case 45: one pause after the lost update, none after the one that a look proves."""
    peer.model.fates.append(lose())
    assert peer.sign().attempts == 2
    assert len(clock.pauses) == 1


# --- For how long ---


def test_a_server_that_has_shown_nothing_yet_is_not_waited_for_as_long(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address may be wrong: one try takes longer than there is patience here."""
    monkeypatch.setattr("signimage.publisher._FIRST_OUTAGE_S", 0.0)
    away(peer, HANG_UP, requests=2 * ATTEMPTS)
    with pytest.raises(UnreachableError, match="cannot be reached: the connection was closed"):
        peer.sign()
    assert len(peer.server.requests) == ATTEMPTS


def test_a_server_that_was_seen_is_waited_for_as_a_known_one(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the preflight of a step: the server was there, so it will come back."""
    monkeypatch.setattr("signimage.publisher._FIRST_OUTAGE_S", 0.0)
    client = peer.client()
    client.refresh()
    away(peer, HANG_UP, requests=2 * ATTEMPTS)
    assert released(publish(client).repository, "2.0") == NEW


@pytest.mark.parametrize(("is_known", "most_s"), [(True, 60.0), (False, 15.0)])
def test_a_server_that_stays_away_is_given_up(
    peer: Peer, clock: Clock, *, is_known: bool, most_s: float
) -> None:
    """With the error that it was away with, not with one about other publishers."""
    client = peer.client()
    if is_known:
        client.refresh()
    begun = clock.now
    away(peer, error(500, "UNKNOWN"), requests=10**6)
    with pytest.raises(UnavailableError, match="answered 500"):
        publish(client)
    assert most_s < clock.now - begun <= most_s + 1.0
    assert peer.model.posts == 0


def test_an_outage_is_over_when_the_server_is_seen_again(peer: Peer, clock: Clock) -> None:
    """Case 46: one that dies at the look and again at the update is not away all the time."""
    client = peer.client()
    client.refresh()

    def die_at_the_look(_request: Request) -> Reply:
        clock.now += 59.0
        peer.server.answer_with(peer.model.answer)
        return error(500, "UNKNOWN")

    def die_at_the_update(_model: TrustServerModel, _files: dict[str, bytes]) -> Reply:
        clock.now += 59.0
        return HANG_UP

    peer.server.answer_with(die_at_the_look)
    peer.model.fates.append(die_at_the_update)
    assert released(publish(client).repository, "2.0") == NEW


def test_a_server_that_goes_away_with_an_update_is_given_up_in_time(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signimage.publisher._OUTAGE_S", 0.0)

    def take_and_leave(request: Request) -> Reply:
        return HANG_UP if peer.model.posts else peer.model.answer(request)

    peer.server.answer_with(take_and_leave)
    with pytest.raises(UnreachableError, match="cannot be reached: the connection was closed"):
        peer.sign()
    assert peer.model.posts == 1


def test_pauses_grow_while_nobody_answers(peer: Peer, clock: Clock) -> None:
    """Full jitter: any time from none to a limit that doubles up to a second."""
    away(peer, error(500, "UNKNOWN"), requests=8)
    peer.sign()
    assert clock.pauses == [0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0, 1.0]


def test_pauses_between_rivals_are_measured_by_how_long_a_try_takes(
    peer: Peer, clock: Clock
) -> None:
    """Case 44: with fixed ones, many who share a busy server would all be at it all the time."""

    def refuse_slowly(_model: TrustServerModel, _files: dict[str, bytes]) -> Reply:
        clock.now += 0.25
        return error(400, "VERSION")

    peer.model.fates.extend([refuse_slowly] * 6)
    peer.sign()
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


# --- What is not waited for ---


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (Reply(403), UnauthorizedError, "answered 403"),
        (Reply(404), NotFoundError, "answered 404"),
        (Reply(418), RemoteError, "answered 418"),
        (error(404, "METADATA_NOT_FOUND"), NotInitializedError, f"{GUN} has no trust data on"),
    ],
)
def test_an_answer_at_the_first_look_is_no_outage(
    peer: Peer, reply: Reply, kind: type[Exception], message: str
) -> None:
    away(peer, reply, requests=10**6)
    with pytest.raises(kind, match=message):
        peer.sign()
    assert len(peer.server.requests) == 1


def test_a_certificate_that_does_not_hold_is_no_outage(peer: Peer) -> None:
    """It will not be another one soon: authorities and addresses are a matter for people."""
    with Transport() as transport:
        stranger = TrustServer(TrustApi(transport, peer.server.origin, GUN))
        with pytest.raises(CertificateError, match="its certificate cannot be verified"):
            publish(stranger)
    assert peer.server.connections == 1


def test_error_after_something_was_sent_says_that_it_may_be_there(peer: Peer) -> None:
    """Acknowledged, and then nobody may look: that is not "nothing was signed"."""

    def answer(request: Request) -> Reply:
        if peer.model.posts and request.method == "GET":
            return Reply(403)
        return peer.model.answer(request)

    peer.server.answer_with(answer)
    with pytest.raises(UnauthorizedError, match="does not let") as caught:
        peer.sign()
    assert caught.value.state == IN_DOUBT
    assert any(b'"2.0"' in data for data in peer.model.current.values())


def test_error_before_anything_was_sent_leaves_no_doubt(peer: Peer) -> None:
    peer.server.answer_with(
        lambda request: Reply(403) if request.method == "POST" else peer.model.answer(request)
    )
    with pytest.raises(UnauthorizedError, match="does not let") as caught:
        peer.sign()
    assert caught.value.state == ""
