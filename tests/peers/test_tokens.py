"""Logins by token, with servers that check them: Docker's registry and Notary's server.

What an account may do is decided by the token service; what a token lets through, by the servers.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from peers.authority import Authority
from peers.guarded import guarded
from peers.stack import Stack
from peers.test_registry import manifest_of
from peers.tokens import LEEWAY_S, Account, Right, TokenService, TokenSigner
from peers.workstation import IMAGE, PASSPHRASES
from signimage.administration import add_signer, initialise_repository
from signimage.authorization import TokenAuthorizer
from signimage.errors import (
    NotFoundError,
    NotInitializedError,
    RemoteError,
    UnauthorizedError,
)
from signimage.keys import PrivateKey
from signimage.keystore import KeyStore, Passphrases
from signimage.notary import TrustServer
from signimage.oci import Repository
from signimage.publication import signing_plan
from signimage.registry import Registry
from signimage.transport import Credentials, Transport, TransportSettings
from signimage.trustapi import TrustApi

_ALL = Right.PULL | Right.PUSH | Right.SIGN
# After that long the servers refuse a token. They take it for some time after its end, so these
# are given out when theirs is over already.
_SHORT_S = 4


@dataclass(frozen=True, slots=True)
class Visitor:
    """One account's clients for one repository; `account` is None for nobody."""

    stack: Stack
    transport: Transport
    path: str
    account: Account | None

    @property
    def gun(self) -> str:
        """The repository's whole name."""
        return f"{self.stack.registry}/{self.path}"

    def registry(self) -> Registry:
        """The registry, on a first visit."""
        return Registry(self.transport, Repository(self.stack.registry, self.path), self._login())

    def trust_server(self) -> TrustServer:
        """The trust server, on a first visit."""
        scope = f"repository:{self.gun}:pull,push"
        authorizer = TokenAuthorizer(self.transport, self._login(), scope)
        return TrustServer(TrustApi(self.transport, self.stack.trust_server, self.gun, authorizer))

    def _login(self) -> Credentials | None:
        return Credentials(self.account.name, self.account.password) if self.account else None


class Place:
    """The servers, their token service, and a repository that nobody has."""

    def __init__(self, stack: Stack, service: TokenService, path: str) -> None:
        self.stack = stack
        self.service = service
        self.path = path
        self.transport = Transport(TransportSettings(ca_files=(stack.ca_file,)))
        service.server.requests.clear()

    def visitor(self, rights: Right) -> Visitor:
        """Somebody new with these rights."""
        return Visitor(self.stack, self.transport, self.path, self.service.account(rights))

    def nobody(self) -> Visitor:
        """Somebody without an account."""
        return Visitor(self.stack, self.transport, self.path, None)


@pytest.fixture(scope="module")
def guarded_stack(stack: Stack) -> Iterator[tuple[Stack, TokenService]]:
    """Start a registry and a trust server that believe the same token service."""
    with tempfile.TemporaryDirectory(prefix="guarded-") as folder:
        authority = Authority(Path(folder))
        service = TokenService("registry.test", TokenSigner(authority, "the peers' issuer"))
        with service.serve(), guarded(stack, Path(folder), authority, service.realm) as running:
            yield running, service


@pytest.fixture
def place(guarded_stack: tuple[Stack, TokenService], repository_name: str) -> Iterator[Place]:
    stack, service = guarded_stack
    before = service.realm.lifetime_s
    place = Place(stack, service, repository_name)
    with place.transport:
        yield place
    service.realm.lifetime_s, service.realm.claims = before, {}


def test_an_account_with_all_rights_initialises_signs_and_docker_reads_it(
    place: Place, tmp_path: Path
) -> None:
    visitor = place.visitor(_ALL)
    store, passphrases = KeyStore(tmp_path / "trust"), Passphrases(PASSPHRASES)
    initialise_repository(visitor.trust_server(), store, passphrases)
    key = PrivateKey.generate_ecdsa()
    add_signer(visitor.trust_server(), store, passphrases, "ci", [key.public_key])
    plan = signing_plan({"1.0": IMAGE}, [key.public_key.canonical_id])
    visitor.trust_server().publish(plan, {key.public_key.canonical_id: key})
    visitor.registry().check_push()

    assert visitor.account is not None
    judge = replace(place.stack, username=visitor.account.name, password=visitor.account.password)
    config = judge.docker_config(tmp_path / "docker")
    (seen,) = json.loads(judge.docker("trust", "inspect", visitor.gun, config=config).stdout)
    (row,) = seen["SignedTags"]
    assert row == {"SignedTag": "1.0", "Digest": bytes(range(32)).hex(), "Signers": ["ci"]}


def test_one_token_serves_all_requests_of_one_visit(place: Place) -> None:
    """And it was asked for with the scope of its use, and no other."""
    visitor = place.visitor(Right.PULL)
    registry = visitor.registry()
    for tag in ("1.0", "1.1", "latest"):
        with pytest.raises(NotFoundError, match="does not have "):
            registry.resolve(tag)
    assert place.service.asked == [[f"repository:{place.path}:pull,push"]]


def test_a_check_of_pushing_asks_for_no_right_to_delete(place: Place) -> None:
    place.visitor(_ALL).registry().check_push()
    assert place.service.asked == [[f"repository:{place.path}:pull,push"]]


def test_an_account_that_may_only_pull_learns_that_it_may_not_push(place: Place) -> None:
    visitor = place.visitor(Right.PULL)
    claim = (
        rf"^registry {place.stack.registry} does not let the given user push to {place.path} "
        r"\(it answered 401: insufficient_scope: .*\)$"
    )
    with pytest.raises(UnauthorizedError, match=claim) as refusal:
        visitor.registry().check_push()
    assert refusal.value.hint == "The account needs the right to push to this repository"


@pytest.mark.parametrize("rights", [Right.PULL, Right.PULL | Right.PUSH], ids=["pull", "push"])
def test_an_account_that_may_not_sign_learns_it_before_it_has_anything_to_sign(
    place: Place, rights: Right
) -> None:
    """Pushing images is another right than publishing trust data."""
    visitor = place.visitor(rights)
    claim = (
        rf"^trust server {place.stack.trust_server} does not let the given user publish the trust "
        rf"data of {visitor.gun} \(it answered 401: insufficient_scope: .*\)$"
    )
    with pytest.raises(UnauthorizedError, match=claim) as refusal:
        visitor.trust_server().check_write()
    assert "right to push to the repository, and to sign in it" in refusal.value.hint
    if Right.PUSH in rights:
        visitor.registry().check_push()


def test_an_account_that_may_not_sign_publishes_nothing(place: Place, tmp_path: Path) -> None:
    store, passphrases = KeyStore(tmp_path / "trust"), Passphrases(PASSPHRASES)
    visitor = place.visitor(Right.PULL | Right.PUSH)
    with pytest.raises(UnauthorizedError, match="does not let the given user publish"):
        initialise_repository(visitor.trust_server(), store, passphrases)
    with pytest.raises(NotInitializedError, match="has no trust data on"):
        place.visitor(_ALL).trust_server().refresh()


def test_a_wrong_password_is_refused_by_the_token_service(place: Place) -> None:
    known = place.visitor(_ALL)
    assert known.account is not None
    stranger = Visitor(
        place.stack, place.transport, place.path, Account(known.account.name, _ALL, "wrong")
    )
    claim = (
        rf"^login to {place.stack.registry}: token service http://127\.0\.0\.1:\d+/token does not "
        r"accept the given user name and password \(it answered 401: incorrect username or "
        r"password\)$"
    )
    with pytest.raises(UnauthorizedError, match=claim):
        stranger.registry().check_push()


def test_nobody_may_read_where_everybody_may(place: Place) -> None:
    with pytest.raises(NotFoundError, match="does not have "):
        place.nobody().registry().resolve("1.0")
    with pytest.raises(UnauthorizedError, match="does not let anonymous users push to"):
        place.nobody().registry().check_push()


def test_a_token_that_expires_in_the_middle_of_a_job_is_replaced(place: Place) -> None:
    registry = place.visitor(_ALL).registry()
    place.service.realm.lifetime_s = _SHORT_S - LEEWAY_S
    begin = time.monotonic()
    while len(place.service.asked) < 2:
        with pytest.raises(NotFoundError, match="does not have "):
            registry.resolve("1.0")
        assert time.monotonic() - begin < 60, "tokens do not expire"
    assert place.service.asked == [[f"repository:{place.path}:pull,push"]] * 2


def test_a_token_of_the_trust_server_is_replaced_as_well(place: Place, tmp_path: Path) -> None:
    visitor = place.visitor(_ALL)
    store, passphrases = KeyStore(tmp_path / "trust"), Passphrases(PASSPHRASES)
    initialise_repository(visitor.trust_server(), store, passphrases)
    place.service.realm.lifetime_s = _SHORT_S - LEEWAY_S
    trust_server = visitor.trust_server()
    begin, asked = time.monotonic(), len(place.service.asked)
    while len(place.service.asked) < asked + 2:
        trust_server.refresh()
        assert time.monotonic() - begin < 60, "tokens do not expire"


def test_a_registry_that_calls_its_token_not_yet_valid_is_asked_once(place: Place) -> None:
    """The clock of the token service is ahead; another token would not be any better."""
    place.service.realm.claims = {"nbf": int(time.time()) + 3600}
    registry = place.visitor(_ALL).registry()
    with pytest.raises(UnauthorizedError, match=r"^registry .* \(it answered 401: .*\)$"):
        registry.check_push()
    assert len(place.service.asked) == 1


def test_a_trust_server_that_calls_its_token_not_yet_valid_is_asked_once(place: Place) -> None:
    place.service.realm.claims = {"nbf": int(time.time()) + 3600}
    trust_server = place.visitor(_ALL).trust_server()
    with pytest.raises(UnauthorizedError, match=r"^trust server .* \(it answered 401: .*\)$"):
        trust_server.check_write()
    assert len(place.service.asked) == 1


def test_a_token_of_another_issuer_lets_nobody_in(place: Place) -> None:
    place.service.realm.claims = {"iss": "somebody else"}
    with pytest.raises(UnauthorizedError, match=r"does not let .* \(it answered 401: .*\)$"):
        place.visitor(_ALL).registry().check_push()


def test_a_manifest_is_stored_only_with_the_right_to_push(place: Place) -> None:
    with pytest.raises(UnauthorizedError, match="does not let the given user push to"):
        place.visitor(Right.PULL).registry().put_manifest("1.0", manifest_of("x"))
    with pytest.raises(RemoteError, match="MANIFEST_BLOB_UNKNOWN"):
        place.visitor(_ALL).registry().put_manifest("1.0", manifest_of("x"))
