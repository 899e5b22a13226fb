"""What the tests of whole repositories share: a fresh machine of an owner."""

from pathlib import Path

import pytest

from peers.stack import Stack
from peers.trio import Shelf, Trio
from peers.workstation import PASSPHRASES, Workstation


@pytest.fixture
def workstation(stack: Stack, tmp_path: Path, repository_name: str) -> Workstation:
    """Prepare a fresh machine, and the name of a repository that does not exist yet."""
    return Workstation(stack, tmp_path, f"{stack.open_registry}/{repository_name}")


@pytest.fixture
def trio(
    workstation: Workstation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Trio:
    """Put our command line beside Docker's and Notary's onto the machine."""
    monkeypatch.setenv("DOCKER_CONFIG", str(workstation.config))
    monkeypatch.setenv("DOCKER_CONTENT_TRUST_SERVER", workstation.stack.trust_server)
    for name, value in PASSPHRASES.items():
        monkeypatch.setenv(name, value)
    return Trio(workstation, capsys)


@pytest.fixture
def shelf(trio: Trio) -> Shelf:
    """Prepare the repository's place in the registry."""
    return Shelf(trio.gun)
