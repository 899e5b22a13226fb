"""What the tests of whole repositories share: a fresh machine of an owner."""

from pathlib import Path

import pytest

from peers.stack import Stack
from peers.workstation import Workstation


@pytest.fixture
def workstation(stack: Stack, tmp_path: Path, repository_name: str) -> Workstation:
    """Prepare a fresh machine, and the name of a repository that does not exist yet."""
    return Workstation(stack, tmp_path, f"{stack.open_registry}/{repository_name}")
