"""What many unit tests share: a trust server of their own."""

from collections.abc import Iterator

import pytest

from unit.certificates import Authority, make_authority
from unit.repositories import GoodRepository
from unit.small_server import SmallServer
from unit.trust_server import Peer, TrustServerModel


@pytest.fixture(scope="session")
def authority_of_peers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make one certificate for all trust servers of the session."""
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def peer(authority_of_peers: Authority) -> Iterator[Peer]:
    """Start a trust server that holds a good repository."""
    model = TrustServerModel.holding(GoodRepository())
    with SmallServer(model.answer, tls=authority_of_peers.server_context()) as server:
        yield Peer(model, server, authority_of_peers.ca_file)
