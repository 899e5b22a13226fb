"""`signimage` on the command line: arguments in, one use case, text or JSON out.

The environment is Docker's: `DOCKER_CONFIG` holds the trust store, credentials and private CAs;
`DOCKER_CONTENT_TRUST_SERVER` names the trust server; the two `…_PASSPHRASE` variables answer for
the keys. Exit codes: 0 done, 1 refused or failed, 2 wrong input, 3 could not decide because a
server could not be reached.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from signimage import __version__
from signimage.administration import (
    add_signer,
    generate_key,
    initialise_repository,
    inspection,
    remove_signer,
    witness,
)
from signimage.authorization import TokenAuthorizer
from signimage.certificates import Certificate, parse_bundle
from signimage.credentials import StoredLogin
from signimage.errors import (
    FormatError,
    InputError,
    NotSignedError,
    SignImageError,
    UnreachableError,
)
from signimage.keys import PublicKey
from signimage.keystore import KeyStore, Passphrases, terminal
from signimage.lookup import released, signers_of
from signimage.notary import TrustServer
from signimage.oci import Reference, Repository
from signimage.permissions import ELSEWHERE, workstation
from signimage.pinning import RootPins
from signimage.publication import Recovery
from signimage.transport import Transport, TransportSettings
from signimage.trust import TrustedRepository
from signimage.trustapi import TrustApi, default_trust_server, gets_login
from signimage.trustcache import TrustCache

EXIT_DONE, EXIT_FAILED, EXIT_INPUT, EXIT_UNDECIDED = 0, 1, 2, 3
_MAX_PEM = 256 * 1024  # bytes, of a public key or of certificates


class Desk:
    """What a workstation offers to every command: trust store, credentials, CAs, passphrases."""

    def __init__(self, environment: Mapping[str, str], arguments: argparse.Namespace) -> None:
        home = Path(environment.get("HOME") or Path.home())
        self._docker_config = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
        self._environment = environment
        self._arguments = arguments
        self.trust_dir = self._docker_config / "trust"
        self.store = KeyStore(self.trust_dir)
        self.passphrases = Passphrases(environment, terminal())

    def server(self, repository: Repository, *, actions: str = "pull") -> TrustServer:
        """The trust server of *repository*, as Docker's client would find it."""
        url = (
            self._arguments.trust_server
            or self._environment.get("DOCKER_CONTENT_TRUST_SERVER")
            or default_trust_server(repository.host)
        )
        transport = Transport(self._settings(url))
        scope = f"repository:{repository.gun}:{actions}"
        login = StoredLogin(self._docker_config, repository.host, self._environment)
        is_ours = gets_login(url, repository.host)
        authorizer = TokenAuthorizer(
            transport,
            login if is_ours else None,
            scope,
            advice=workstation(repository.host) if is_ours else ELSEWHERE,
        )
        return TrustServer(
            TrustApi(transport, url, repository.gun, authorizer),
            pins=RootPins(
                key_ids=frozenset(self._arguments.root_key),
                authorities=self._root_authorities(),
                first_use=not self._arguments.no_first_use,
            ),
            cache=TrustCache(self.trust_dir, repository.gun),
        )

    def _root_authorities(self) -> tuple[Certificate, ...]:
        if not self._arguments.root_ca:
            return ()
        file = Path(self._arguments.root_ca)
        return parse_bundle(_read(file), what=str(file))

    def _settings(self, url: str) -> TransportSettings:
        host = url.partition("://")[2].partition("/")[0]
        private = sorted((self._docker_config / "tls" / host).glob("*.crt"))
        given = [Path(self._arguments.ca)] if self._arguments.ca else []
        settings = TransportSettings(ca_files=(*private, *given))
        return settings.with_proxies(self._environment)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace, Desk], int] = arguments.run
    try:
        return command(arguments, Desk(os.environ, arguments))
    except SignImageError as error:
        sys.stderr.write(f"signimage: {error.sentence}\n")
        return _exit_code(error)
    except KeyboardInterrupt:
        return EXIT_FAILED


def _exit_code(error: SignImageError) -> int:
    if isinstance(error, InputError):
        return EXIT_INPUT
    return EXIT_UNDECIDED if isinstance(error, UnreachableError) else EXIT_FAILED


def _key_generate(arguments: argparse.Namespace, desk: Desk) -> int:
    key = generate_key(desk.store, desk.passphrases, arguments.name, Path(arguments.dir))
    _tell(
        arguments,
        {"keyId": key.key_id, "private": str(key.private), "public": str(key.public)},
        f"Key {key.key_id}\n  private: {key.private}\n  public:  {key.public}",
    )
    return EXIT_DONE


def _key_list(arguments: argparse.Namespace, desk: Desk) -> int:
    entries = desk.store.entries()
    rows = [f"{each.role:<12} {each.key_id}  {each.gun or each.fault}" for each in entries]
    listed = [
        {"role": each.role, "gun": each.gun, "keyId": each.key_id, "file": str(each.path)}
        for each in entries
    ]
    _tell(arguments, listed, "\n".join(rows) or f"No keys in {desk.store.private}")
    return EXIT_DONE


def _repo_init(arguments: argparse.Namespace, desk: Desk) -> int:
    repository = Repository.parse(arguments.repository)
    server = desk.server(repository, actions="pull,push")
    done = initialise_repository(server, desk.store, desk.passphrases)
    root_keys = done.repository.root.body.roles["root"].keyids
    verb = "has trust data already" if done.existed else "initialised"
    _tell(
        arguments,
        {"repository": repository.gun, "existed": done.existed, "rootKeys": list(root_keys)},
        f"{repository} {verb}; root key to pin: {', '.join(root_keys)}",
    )
    return EXIT_DONE


def _signer_add(arguments: argparse.Namespace, desk: Desk) -> int:
    keys = [_public_key(Path(file)) for file in arguments.key]
    for name in arguments.repositories:
        repository = Repository.parse(name)
        server = desk.server(repository, actions="pull,push")
        add_signer(server, desk.store, desk.passphrases, arguments.name, keys)
        ids = [key.canonical_id for key in keys]
        _tell(
            arguments,
            {"repository": repository.gun, "signer": arguments.name, "keyIds": ids},
            f"{arguments.name} may sign in {repository} with {', '.join(ids)}",
        )
    return EXIT_DONE


def _signer_remove(arguments: argparse.Namespace, desk: Desk) -> int:
    for name in arguments.repositories:
        server = desk.server(Repository.parse(name), actions="pull,push")
        remove_signer(server, desk.store, desk.passphrases, arguments.name)
        _tell(
            arguments,
            {"repository": server.gun, "signer": arguments.name},
            f"{arguments.name} may not sign in {server.gun} any more",
        )
    return EXIT_DONE


def _repo_forget(arguments: argparse.Namespace, desk: Desk) -> int:
    repository = Repository.parse(arguments.repository)
    TrustCache(desk.trust_dir, repository.gun).forget()
    _tell(
        arguments,
        {"repository": repository.gun},
        f"{repository} is forgotten; the next root that is seen is believed at first sight",
    )
    return EXIT_DONE


def _witness(arguments: argparse.Namespace, desk: Desk) -> int:
    server = desk.server(Repository.parse(arguments.repository), actions="pull,push")
    recovery = Recovery.DROP if arguments.drop else Recovery.RESIGN
    witness(server, desk.store, desk.passphrases, arguments.roles, recovery)
    _tell(
        arguments,
        {"repository": server.gun, "roles": arguments.roles},
        f"{', '.join(arguments.roles)} of {server.gun} signed again where that was needed",
    )
    return EXIT_DONE


def _inspect(arguments: argparse.Namespace, desk: Desk) -> int:
    reference = Reference.parse(arguments.image)
    repository = _refreshed(arguments, desk, reference)
    report = inspection(arguments.image, repository)
    if reference.tag:
        report["SignedTags"] = [
            row for row in report["SignedTags"] if row["SignedTag"] == reference.tag
        ]
    rows = [
        f"{row['SignedTag']:<20} sha256:{row['Digest']}  {', '.join(row['Signers'])}"
        for row in report["SignedTags"]
    ]
    _tell(arguments, [report], "\n".join(rows) or f"{reference} has no signed tags")
    return EXIT_DONE


def _verify(arguments: argparse.Namespace, desk: Desk) -> int:
    reference = Reference.parse(arguments.image)
    if not reference.tag:
        raise InputError(f"{arguments.image}: expected a tag to verify, got none")
    repository = _refreshed(arguments, desk, reference)
    meta = released(repository, reference.tag)
    digest = f"sha256:{meta.sha256.hex()}"
    signers = signers_of(repository, reference.tag, meta)
    if reference.digest is not None and reference.digest.text != digest:
        raise NotSignedError(f"{reference}: another digest is signed, {digest}")
    missing = sorted(set(arguments.signer) - set(signers))
    if missing:
        raise NotSignedError(
            f"{reference} is not signed by {', '.join(missing)}; it is signed by "
            f"{', '.join(signers) or 'the repository key alone'}"
        )
    _tell(
        arguments,
        {"image": str(reference), "digest": digest, "signers": list(signers)},
        f"{reference} is signed: {digest} by {', '.join(signers) or 'the repository key'}",
    )
    return EXIT_DONE


def _refreshed(
    arguments: argparse.Namespace, desk: Desk, reference: Reference
) -> TrustedRepository:
    repository = desk.server(reference.repository).refresh(offline=arguments.offline)
    for warning in repository.warnings:
        sys.stderr.write(f"signimage: warning: {warning}\n")
    return repository


def _public_key(file: Path) -> PublicKey:
    return PublicKey.from_pem(_read(file), what=str(file))


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_PEM + 1)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_PEM:
        raise FormatError(f"{file}: expected at most {_MAX_PEM} bytes, got more")
    return data


def _tell(arguments: argparse.Namespace, value: Any, text: str) -> None:
    shown = json.dumps(value, indent=4, ensure_ascii=False) if arguments.json else text
    sys.stdout.write(f"{shown}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="signimage",
        description="Keys, signers and signatures of container images (Docker Content Trust).",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong input, 3 could not decide.",
    )
    parser.add_argument("--version", action="version", version=f"signimage {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    key = _group(commands, "key", "make and list signing keys")
    generate = _command(key, "generate", _key_generate, "make a signing key for NAME")
    generate.add_argument("name", metavar="NAME", help="the signer's name, e.g. ci")
    generate.add_argument("--dir", default=".", help="where NAME.pub goes (default: here)")
    _command(key, "list", _key_list, "list the private keys in the trust store")
    repo = _group(commands, "repo", "create trust data")
    init = _remote(repo, "init", _repo_init, "create the trust data of a repository")
    init.add_argument("repository", metavar="REPO", help="registry/path, without a tag")
    forget = _command(repo, "forget", _repo_forget, "forget what was believed of a repository")
    forget.add_argument("repository", metavar="REPO", help="one that was created anew")
    signer = _group(commands, "signer", "say who may sign")
    add = _remote(signer, "add", _signer_add, "let a public key sign in repositories")
    add.add_argument(
        "--key",
        action="append",
        required=True,
        metavar="PUB",
        help="public key or certificate (PEM); may be repeated",
    )
    add.add_argument("name", metavar="NAME", help="the signer's name")
    add.add_argument("repositories", metavar="REPO", nargs="+", help="registry/path")
    remove = _remote(signer, "remove", _signer_remove, "take a signer's right to sign")
    remove.add_argument("name", metavar="NAME", help="the signer's name")
    remove.add_argument("repositories", metavar="REPO", nargs="+", help="registry/path")
    again = _remote(commands, "witness", _witness, "sign expired or orphaned roles again")
    again.add_argument("repository", metavar="REPO", help="registry/path")
    again.add_argument("roles", metavar="ROLE", nargs="+", help="e.g. targets/releases")
    again.add_argument(
        "--drop",
        action="store_true",
        help="drop content that no present key signed, instead of refusing",
    )
    inspect = _remote(commands, "inspect", _inspect, "show what is signed, and by whom")
    inspect.add_argument("image", metavar="REPO[:TAG]")
    _offline(inspect)
    verify = _remote(commands, "verify", _verify, "check that a tag is signed")
    verify.add_argument("image", metavar="REPO:TAG[@DIGEST]")
    _offline(verify)
    verify.add_argument(
        "--signer",
        action="append",
        default=[],
        metavar="NAME",
        help="must have signed; may be repeated",
    )
    return parser


def _offline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--offline",
        action="store_true",
        help="where the server cannot be asked, believe what was kept, until that expires",
    )


def _group(commands: Any, name: str, text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace, Desk], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(
        run=run, trust_server="", ca="", root_key=[], root_ca="", no_first_use=False
    )
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    return parser


def _remote(
    commands: Any, name: str, run: Callable[[argparse.Namespace, Desk], int], text: str
) -> argparse.ArgumentParser:
    parser = _command(commands, name, run, text)
    parser.add_argument(
        "--trust-server",
        metavar="URL",
        help="default: $DOCKER_CONTENT_TRUST_SERVER, else the registry's host",
    )
    parser.add_argument("--ca", metavar="FILE", help="further CA certificates for it (PEM)")
    parser.add_argument(
        "--root-key",
        action="append",
        metavar="ID",
        help="believe only this root key ID at first use; may be repeated",
    )
    parser.add_argument(
        "--root-ca", metavar="FILE", help="believe only a root that this authority certified (PEM)"
    )
    parser.add_argument(
        "--no-first-use",
        action="store_true",
        help="believe no root at first sight that nothing is pinned for",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
