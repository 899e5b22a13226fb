"""A registry and a trust server that ask for tokens: the same programs, with a realm.

The rules are those of `peers.stack`; what comes out is a `Stack` in which these two, and where it
is asked for an engine of its own, have taken the place of the usual ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from peers.authority import Authority
from peers.servers import READINESS, Starter, stop_all
from peers.stack import Stack, forget
from peers.tokens import Realm, Right


@contextmanager
def guarded(
    stack: Stack,
    folder: Path,
    authority: Authority,
    realm: Realm,
    *,
    engine: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Yield *stack* with servers that take tokens of *realm*; they end with the block.

    Args:
        stack: The usual peers.
        folder: For logs and data of the new ones.
        authority: Issues the certificates.
        realm: Its service need not answer yet.
        engine: The environment of an engine of its own, if one is wanted.

    Raises:
        PeerError: One of them did not become ready; all are stopped again.
    """
    starter = Starter(folder, stays=False)
    auth = {"token": realm.settings}
    ready = realm.token("readiness", ~Right.NOTHING, f"repository:{READINESS}:pull,push")
    try:
        yield replace(
            stack,
            folder=folder,
            docker_host=(
                stack.docker_host if engine is None else starter.engine(stack.docker_cli, engine)
            ),
            registry=starter.registry("guarded-registry", auth),
            trust_server=starter.notary_server(
                authority,
                starter.notary_signer(authority),
                {"type": "token", "options": realm.settings},
                ready,
            ),
            ca_file=authority.certificate,
        )
    finally:
        stop_all(starter.processes)
        forget(folder)
