"""`signimage repo …`, `signer …`, `rotate`, `witness`: who may sign in a repository."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from signimage.administration import (
    add_signer,
    initialise_repository,
    remove_signer,
    sign_again,
    witness,
)
from signimage.arguments import (
    EXIT_DONE,
    PASSPHRASES,
    command,
    group,
    remote,
)
from signimage.desk import Desk, read_pem, wrong_files
from signimage.errors import InputError, SignImageError
from signimage.keys import PublicKey
from signimage.lookup import invalid_roles, signers
from signimage.manual import Command
from signimage.metadata import BASE_ROLES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from signimage.oci import Repository
from signimage.publication import Recovery
from signimage.rotation import (
    Rotation,
    renew_root,
    replace_signer_keys,
    rotate_here,
    rotate_root,
    rotate_root_to,
    rotate_to_server,
)
from signimage.trust import TrustedRepository, canonical_ids
from signimage.trustcache import TrustCache
from signimage.variables import REPOSITORY_VARIABLE

_WRITE = "pull,push"
# Token services want more for a new key of the server than for publishing.
_ALL = "pull,push,*"

# What was done in one repository: for scripts, and in a sentence.
_Done: TypeAlias = tuple[dict[str, Any], str]


def add_commands(commands: Any) -> None:
    """Add the commands of this file to those of the program."""
    _add_repo(group(commands, "repo", "create trust data"))
    _add_signer(group(commands, "signer", "say who may sign"))
    _add_rotate(commands)
    _add_witness(commands)


def _add_repo(repo: Any) -> None:
    init = remote(
        repo,
        "init",
        _repo_init,
        "create the trust data of a repository",
        more="""
        A repository that has trust data is left as it is. The root key is the one in the trust
        store, or a new one; of several --key chooses. The repository key, which names the signers,
        is always new. What is printed is the ID that pipelines pin.
        """,
        examples=["signimage repo init registry.example.com/team/app"],
        environment=PASSPHRASES,
    )
    init.add_argument("repository", metavar="REPO", help="registry/path, without a tag")
    init.add_argument(
        "--key", default="", metavar="ID", help="the root key to use, by the name of its file"
    )
    forget = command(
        repo,
        "forget",
        _repo_forget,
        "forget what was believed of a repository",
        more="""
        For a repository that was deleted and created anew. Ask its owner for the new root key
        first, and give it to the next command with --root-key.
        """,
    )
    forget.add_argument("repository", metavar="REPO", help="one that was created anew")


def _add_signer(signer: Any) -> None:
    add = remote(
        signer,
        "add",
        _signer_add,
        "let a public key sign in repositories",
        more="""
        Needs the repository key of each. Where one of several repositories fails, the others are
        done all the same.
        """,
        examples=["signimage signer add --key ci.pub ci registry.example.com/team/app"],
        environment=[REPOSITORY_VARIABLE],
    )
    _signer_arguments(add, key="public key or certificate (PEM); may be repeated")
    add.add_argument(
        "--again",
        action="store_true",
        help="allow a name that a removed signer had; with the same key, what that one signed "
        "counts again",
    )
    remove = remote(
        signer,
        "remove",
        _signer_remove,
        "take a signer's right to sign",
        more="""
        What others released stays valid: where the signer signed the releases last, a remaining
        signer's key in the trust store signs them again in the same publication, or the removal
        is refused. With the last signer all releases go.
        """,
        examples=["signimage signer remove ci registry.example.com/team/app"],
        environment=[REPOSITORY_VARIABLE],
    )
    _signer_arguments(remove)
    rotate = remote(
        signer,
        "rotate",
        _signer_rotate,
        "put new keys in the place of a signer's keys",
        more="""
        What the signer signed stays signed: the new key signs it again in the same publication.
        It must be in the trust store, or have signed before, with: signimage witness --again.
        """,
        examples=["signimage signer rotate --key new.pub ci registry.example.com/team/app"],
        environment=[REPOSITORY_VARIABLE],
    )
    _signer_arguments(rotate, key="its new public key or certificate (PEM); may be repeated")


def _signer_arguments(parser: Command, *, key: str = "") -> None:
    if key:
        parser.add_argument("--key", action="append", required=True, metavar="PUB", help=key)
    parser.add_argument("name", metavar="NAME", help="the signer's name")
    parser.add_argument("repositories", metavar="REPO", nargs="+", help="registry/path")


def _add_rotate(commands: Any) -> None:
    rotate = remote(
        commands,
        "rotate",
        _rotate,
        "give a role of a repository a new key",
        more="""
        ROLE is root, targets (the repository key), snapshot or timestamp. Needs the root key.
        A replaced key's file is removed once the change was found on the server and verified;
        root keys are kept, because other repositories may have them. Whoever has pinned the old
        root key is led to the new one, but should change the pin.

        For the key of a signer see: signimage signer rotate --help
        """,
        examples=[
            "signimage rotate targets registry.example.com/team/app",
            "signimage rotate root --renew registry.example.com/team/app",
        ],
        environment=PASSPHRASES,
    )
    rotate.add_argument("role", metavar="ROLE", help="root, targets, snapshot or timestamp")
    rotate.add_argument("repository", metavar="REPO", help="registry/path")
    which = rotate.add_mutually_exclusive_group()
    which.add_argument(
        "--local",
        action="store_true",
        help="snapshot: keep the key here, not on the server; then nobody can sign without it",
    )
    which.add_argument(
        "--key", default="", metavar="ID", help="root: the key to use, by the name of its file"
    )
    which.add_argument(
        "--renew",
        action="store_true",
        help="root: keep the key; its certificate and the root file begin a new life",
    )


def _add_witness(commands: Any) -> None:
    again = remote(
        commands,
        "witness",
        _witness,
        "sign expired or orphaned roles again",
        more="""
        Without a ROLE, all invalid roles are signed; with --again also those whose keys are in the
        trust store. A role that has merely expired keeps its content; one that a removed signer
        signed last is begun anew only with --drop, and its tags must be signed again.
        """,
        examples=["signimage witness registry.example.com/team/app targets/releases"],
        environment=[REPOSITORY_VARIABLE],
    )
    again.add_argument("repository", metavar="REPO", help="registry/path")
    again.add_argument("roles", metavar="ROLE", nargs="*", help="e.g. targets/releases")
    again.add_argument(
        "--again",
        action="store_true",
        help="also sign valid roles that end soon, or that the newest key in the trust store has "
        "not signed",
    )
    again.add_argument(
        "--drop",
        action="store_true",
        help="drop content that no present key signed, instead of refusing",
    )


def _repo_init(arguments: argparse.Namespace, desk: Desk) -> int:
    repository = Repository.parse(arguments.repository)
    server = desk.server(repository, actions=_WRITE)
    done = initialise_repository(server, desk.store, desk.passphrases, root_key_id=arguments.key)
    root_keys = done.repository.root.body.roles[ROOT].keyids
    verb = "has trust data already" if done.existed else "initialised"
    desk.console.tell(
        {"repository": repository.gun, "existed": done.existed, "rootKeys": list(root_keys)},
        f"{repository} {verb}; root key to pin: {', '.join(root_keys)}",
    )
    return EXIT_DONE


def _repo_forget(arguments: argparse.Namespace, desk: Desk) -> int:
    repository = Repository.parse(arguments.repository)
    TrustCache(desk.trust_dir, repository.gun).forget()
    desk.console.tell(
        {"repository": repository.gun},
        f"{repository} is forgotten; the next root that is seen is believed at first sight",
    )
    return EXIT_DONE


def _signer_add(arguments: argparse.Namespace, desk: Desk) -> int:
    keys = _public_keys(arguments)
    ids = [key.canonical_id for key in keys]

    def add(repository: Repository) -> _Done:
        server = desk.server(repository, actions=_WRITE)
        at = (server, desk.store, desk.passphrases)
        add_signer(*at, arguments.name, keys, again=arguments.again)
        return {"keyIds": ids}, f"{arguments.name} may sign in {repository} with {', '.join(ids)}"

    return _each(arguments, desk, add)


def _signer_remove(arguments: argparse.Namespace, desk: Desk) -> int:
    def remove(repository: Repository) -> _Done:
        server = desk.server(repository, actions=_WRITE)
        after = remove_signer(server, desk.store, desk.passphrases, arguments.name)
        left = [signer.name for signer in signers(after)]
        text = f"{arguments.name} may not sign in {repository} any more"
        if not left:
            text += "; no signer is left, and nothing that signers released counts any more"
        return {"signersLeft": left}, text

    return _each(arguments, desk, remove)


def _signer_rotate(arguments: argparse.Namespace, desk: Desk) -> int:
    keys = _public_keys(arguments)
    ids = [key.canonical_id for key in keys]

    def rotate(repository: Repository) -> _Done:
        server = desk.server(repository, actions=_WRITE)
        replace_signer_keys(server, desk.store, desk.passphrases, arguments.name, keys)
        return (
            {"keyIds": ids},
            f"{arguments.name} signs in {repository} with {', '.join(ids)} alone",
        )

    return _each(arguments, desk, rotate)


def _each(arguments: argparse.Namespace, desk: Desk, act: Callable[[Repository], _Done]) -> int:
    """Do something for a signer in each repository, whatever becomes of the others.

    Raises:
        SignImageError: It failed somewhere; the first of the errors.
    """
    rows: list[dict[str, Any]] = []
    errors: list[SignImageError] = []
    for name in arguments.repositories:
        row = {"repository": name, "signer": arguments.name}
        try:
            repository = Repository.parse(name)
            value, text = act(repository)
        except SignImageError as error:
            errors.append(error)
            rows.append({**row, "error": error.sentence, "code": error.code})
        else:
            rows.append({**row, "repository": repository.gun, **value})
            if not desk.console.json:
                desk.console.tell(rows[-1], text)
    if desk.console.json:
        desk.console.tell(rows, "")
    for further in errors[1:]:
        desk.console.error(further.sentence)
    if errors:
        raise errors[0]
    return EXIT_DONE


def _rotate(arguments: argparse.Namespace, desk: Desk) -> int:
    _check_rotation(arguments)
    repository = Repository.parse(arguments.repository)
    server = desk.server(repository, actions=_ALL if _is_for_server(arguments) else _WRITE)
    at = (server, desk.store, desk.passphrases)
    if _is_for_server(arguments):
        done = rotate_to_server(*at, arguments.role)
    elif arguments.role != ROOT:
        done = rotate_here(*at, arguments.role)
    elif arguments.key:
        done = rotate_root_to(*at, arguments.key)
    else:
        done = renew_root(*at) if arguments.renew else rotate_root(*at)
    _tell_rotation(desk, repository, done)
    return EXIT_DONE


def _is_for_server(arguments: argparse.Namespace) -> bool:
    return arguments.role == TIMESTAMP or (arguments.role == SNAPSHOT and not arguments.local)


def _check_rotation(arguments: argparse.Namespace) -> None:
    role = arguments.role
    if role not in BASE_ROLES:
        hint = ""
        if role.startswith(f"{TARGETS}/"):
            name = role.removeprefix(f"{TARGETS}/")
            hint = f"For a signer: signimage signer rotate --key NEW.pub {name} REPO"
        raise InputError(
            f"role {role[:100]!r}: expected {', '.join(BASE_ROLES)}, got another", hint=hint
        )
    if arguments.local and role != SNAPSHOT:
        raise InputError(f"--local: expected the role {SNAPSHOT}, got {role}")
    if (arguments.key or arguments.renew) and role != ROOT:
        raise InputError(f"--key and --renew: expected the role {ROOT}, got {role}")


def _tell_rotation(desk: Desk, repository: Repository, done: Rotation) -> None:
    root_keys = done.repository.root.body.roles[ROOT].keyids
    text = f"{done.role} of {repository} has the key {done.key_id}"
    if done.role == ROOT:
        text += f"; root key to pin: {', '.join(root_keys)}"
    if done.removed:
        text += f"; removed the key file of {', '.join(done.removed)}"
    desk.console.tell(
        {
            "repository": repository.gun,
            "role": done.role,
            "keyId": done.key_id,
            "removedKeyIds": list(done.removed),
            "rootKeys": list(root_keys),
        },
        text,
    )


def _witness(arguments: argparse.Namespace, desk: Desk) -> int:
    server = desk.server(Repository.parse(arguments.repository), actions=_WRITE)
    _check_witnessed(arguments)
    roles = arguments.roles or _roles_in_need(server.refresh(), desk, again=arguments.again)
    recovery = Recovery.DROP if arguments.drop else Recovery.RESIGN
    use_case = sign_again if arguments.again else witness
    if roles:
        use_case(server, desk.store, desk.passphrases, roles, recovery)
    desk.console.tell(
        {"repository": server.gun, "roles": roles},
        f"{', '.join(roles)} of {server.gun} signed again where that was needed"
        if roles
        else f"No role of {server.gun} is invalid"
        + (", and none has its key here" if arguments.again else ""),
    )
    return EXIT_DONE


def _check_witnessed(arguments: argparse.Namespace) -> None:
    others = {ROOT, TIMESTAMP} if arguments.again else {ROOT, TIMESTAMP, SNAPSHOT}
    hints = {
        ROOT: "For the root: signimage rotate root --renew REPO",
        SNAPSHOT: "For a snapshot key at home: signimage witness --again REPO snapshot",
        TIMESTAMP: "The trust server signs it by itself",
    }
    for role in arguments.roles:
        if role in others:
            raise InputError(
                f"role {role}: expected {TARGETS} or a delegation, got another", hint=hints[role]
            )


def _roles_in_need(repository: TrustedRepository, desk: Desk, *, again: bool) -> list[str]:
    """The roles to look at where none is named: what is invalid, and with *again* what is ours."""
    invalid = invalid_roles(repository)
    if not again:
        return list(invalid)
    held = {entry.key_id for entry in desk.store.entries() if not entry.fault}

    def is_ours(name: str) -> bool:
        role, keys = repository.role_keys(name)
        return len(held.intersection(canonical_ids(role, keys))) >= role.threshold

    owners = [name for name in (TARGETS, SNAPSHOT) if is_ours(TARGETS) and is_ours(name)]
    delegated = [entry.name for entry in repository.delegations()]
    return [*owners, *(name for name in delegated if name in invalid or is_ours(name))]


def _public_keys(arguments: argparse.Namespace) -> list[PublicKey]:
    with wrong_files():
        return [PublicKey.from_pem(read_pem(Path(file)), what=file) for file in arguments.key]
