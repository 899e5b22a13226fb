"""What the doctor says of rights, to servers that check tokens: Docker's registry, and Notary's."""

import base64
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peers.authority import Authority
from peers.guarded import guarded
from peers.stack import Stack
from peers.tokens import Account, Right, TokenService, TokenSigner
from peers.workstation import PASSPHRASES
from signimage import cli

_ALL = Right.PULL | Right.PUSH | Right.SIGN


@pytest.fixture(scope="module")
def guarded_stack(stack: Stack) -> Iterator[tuple[Stack, TokenService]]:
    """Start a registry and a trust server that believe the same token service."""
    with tempfile.TemporaryDirectory(prefix="guarded-") as folder:
        authority = Authority(Path(folder))
        service = TokenService("registry.test", TokenSigner(authority, "the peers' issuer"))
        with service.serve(), guarded(stack, Path(folder), authority, service.realm) as running:
            yield running, service


@dataclass
class Visit:
    """A machine on which different accounts log in."""

    stack: Stack
    service: TokenService
    gun: str
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def log_in(self, account: Account) -> None:
        """Have Docker's login be that of *account*."""
        auth = base64.b64encode(f"{account.name}:{account.password}".encode()).decode()
        settings = {"auths": {self.stack.registry: {"auth": auth}}}
        (self.folder / "config.json").write_text(json.dumps(settings), "utf-8")

    def run(self, *words: str, code: int = 0) -> Any:
        """The document that our command prints."""
        self.capsys.readouterr()
        ended = cli.main([*words, self.gun, "--ca", str(self.stack.ca_file), "--json"])
        found = self.capsys.readouterr()
        assert ended == code, found
        return json.loads(found.out)

    def failures(self, *words: str) -> dict[str, dict[str, str]]:
        """The checks that fail, by name."""
        found = self.run("doctor", *words, code=1)
        return {row["check"]: row for row in found["checks"] if row["status"] == "failure"}


@pytest.fixture
def visit(
    guarded_stack: tuple[Stack, TokenService],
    repository_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Visit:
    """Initialise a repository with an account that may do everything."""
    stack, service = guarded_stack
    settings = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTENT_TRUST_SERVER": stack.trust_server}
    for name, value in {**settings, **PASSPHRASES}.items():
        monkeypatch.setenv(name, value)
    it = Visit(stack, service, f"{stack.registry}/{repository_name}", tmp_path, capsys)
    it.log_in(service.account(_ALL))
    it.run("repo", "init")
    return it


def test_an_account_with_every_right_has_every_right(visit: Visit) -> None:
    assert visit.run("doctor")["result"] == "ok"


def test_an_account_that_may_only_look_cannot_push_or_publish(visit: Visit) -> None:
    visit.log_in(visit.service.account(Right.PULL))
    found = visit.failures()
    assert found.keys() == {"push", "trust-write"}
    assert "needs the right to push to this repository" in found["push"]["remedy"]
    assert "and to sign in it" in found["trust-write"]["remedy"]
    assert visit.run("doctor", "--read-only")["result"] == "ok"


def test_an_account_without_rights_cannot_look(visit: Visit) -> None:
    visit.log_in(visit.service.account(Right.NOTHING))
    found = visit.failures()
    assert found.keys() == {"pull", "trust-read"}
    assert "needs the right to pull" in found["pull"]["remedy"]


def test_a_login_that_is_refused_is_told_apart_from_a_right_that_is_missing(visit: Visit) -> None:
    visit.log_in(Account("nobody", Right.NOTHING, "wr0ng-password"))
    found = visit.failures()
    assert found.keys() == {"pull", "trust-read"}
    assert "does not accept the given user name and password" in found["pull"]["text"]
    assert f"docker login {visit.stack.registry}" in found["pull"]["remedy"]
    assert "wr0ng-password" not in json.dumps(found)
