"""What a workstation offers to every command: trust store, credentials, CAs, passphrases.

The environment is Docker's: `DOCKER_CONFIG` holds the trust store, credentials and private CAs;
`DOCKER_CONTENT_TRUST_SERVER` names the trust server; the two `…_PASSPHRASE` variables answer for
the keys. Options of a command come before all of these.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import final

from signimage.authorization import TokenAuthorizer
from signimage.certificates import Certificate, parse_bundle
from signimage.console import Console
from signimage.credentials import StoredLogin
from signimage.dockerconfig import user_folder
from signimage.errors import FormatError, InputError
from signimage.keystore import KeyStore, Passphrases, terminal
from signimage.notary import TrustServer
from signimage.oci import Repository
from signimage.permissions import ELSEWHERE, workstation
from signimage.pinning import RootPins
from signimage.registry import Registry
from signimage.systemkeyring import SystemKeyring
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi, default_trust_server, gets_login
from signimage.trustcache import TrustCache

_KEY_ID = re.compile("[0-9a-fA-F]{64}")
_MAX_PEM = 256 * 1024  # bytes, of a public key or of certificates

# Where the engine looks for the authorities of private registries, below a folder for each host;
# one without root looks below its owner's folder of settings.
_ENGINE_CERTIFICATES = Path("docker", "certs.d")


@final
class Desk:
    """One workstation and one command: what is kept here, and the ways to the servers.

    Connections are shared by all that a command talks to, and closed at the end of the block.

    Args:
        environment: Docker's variables, and those of proxies.
        arguments: The options of the command that `arguments.remote` adds.
        console: Where things are said.
    """

    def __init__(
        self, environment: Mapping[str, str], arguments: argparse.Namespace, console: Console
    ) -> None:
        self._environment = environment
        self._arguments = arguments
        self._transports: dict[tuple[Path, ...], Transport] = {}
        self.console = console
        self.docker_config = user_folder(environment)
        self.trust_dir = self.docker_config / "trust"
        self.store = KeyStore(self.trust_dir)
        self.keyring = None if getattr(arguments, "no_keyring", False) else SystemKeyring()
        self.passphrases = Passphrases(environment, terminal(), self.keyring)

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *exception: object) -> None:
        for transport in self._transports.values():
            transport.close()

    def server(self, repository: Repository, *, actions: str = "pull") -> TrustServer:
        """The trust server of *repository*, as Docker's client would find it."""
        url = self.trust_server(repository)
        host = url.partition("://")[2].partition("/")[0]
        transport = self._transport(self.docker_config / "tls" / host)
        is_ours = gets_login(url, repository.host)
        authorizer = TokenAuthorizer(
            transport,
            self.login(repository) if is_ours else None,
            f"repository:{repository.gun}:{actions}",
            advice=workstation(repository.host) if is_ours else ELSEWHERE,
        )
        return TrustServer(
            TrustApi(transport, url, repository.gun, authorizer),
            pins=RootPins(
                key_ids=frozenset(map(_key_id, self._arguments.root_key)),
                authorities=self._root_authorities(),
                first_use=not self._arguments.no_first_use,
            ),
            cache=TrustCache(self.trust_dir, repository.gun),
        )

    def registry(self, repository: Repository, *, actions: str = "pull") -> Registry:
        """The registry of *repository*, with the login that Docker has for it."""
        return Registry(
            self.registry_transport(repository),
            repository,
            self.login(repository),
            actions=actions,
            advice=workstation(repository.host),
        )

    def registry_transport(self, repository: Repository) -> Transport:
        """The connections to the registry of *repository*, as nobody: without any login."""
        return self._transport(*(folder / repository.host for folder in self._engine_folders()))

    def login(self, repository: Repository) -> StoredLogin:
        """The login that Docker has for the registry of *repository*."""
        return StoredLogin(self.docker_config, repository.host, self._environment)

    def trust_server(self, repository: Repository) -> str:
        """The URL of the trust server of *repository*."""
        return (
            self._arguments.trust_server
            or self._environment.get("DOCKER_CONTENT_TRUST_SERVER")
            or default_trust_server(repository.host)
        )

    def _root_authorities(self) -> tuple[Certificate, ...]:
        if not self._arguments.root_ca:
            return ()
        file = Path(self._arguments.root_ca)
        with wrong_files():
            return parse_bundle(read_pem(file), what=str(file))

    def _engine_folders(self) -> tuple[Path, Path]:
        environment = self._environment
        own = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/"), ".config")
        return Path("/etc") / _ENGINE_CERTIFICATES, Path(own) / _ENGINE_CERTIFICATES

    def _transport(self, *authorities: Path) -> Transport:
        """The connections to servers whose private CAs are in the folders *authorities*."""
        given = (Path(self._arguments.ca),) if self._arguments.ca else ()
        found = (file for folder in authorities for file in sorted(folder.glob("*.crt")))
        files = (*found, *given)
        if files not in self._transports:
            settings = TransportSettings(ca_files=files, observe=self.console.trace)
            self._transports[files] = Transport(settings.with_proxies(self._environment))
        return self._transports[files]


@contextmanager
def wrong_files() -> Iterator[None]:
    """Read what somebody named on the command line: what is wrong with it is theirs to mend.

    Raises:
        InputError: It has not the form that its kind requires.
    """
    try:
        yield
    except FormatError as error:
        raise InputError(str(error), hint=error.hint) from error


def read_pem(file: Path) -> bytes:
    """Read a file that somebody named on the command line: a key, or certificates.

    Raises:
        InputError: It cannot be read.
        FormatError: It is larger than any such file.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_PEM + 1)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_PEM:
        raise FormatError(f"{file}: expected at most {_MAX_PEM} bytes, got more")
    return data


def _key_id(text: str) -> str:
    """Check a root key ID of the command line, which no server has anything to do with."""
    if not _KEY_ID.fullmatch(text):
        raise InputError(f"--root-key: expected 64 hexadecimal digits, got {text[:80]!r}")
    return text.lower()
