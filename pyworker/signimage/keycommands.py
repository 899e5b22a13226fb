"""`signimage key …`: signing keys on this machine."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from signimage.administration import generate_key
from signimage.arguments import (
    EXIT_DONE,
    EXIT_FAILED,
    PASSPHRASES,
    command,
    group,
    remote,
)
from signimage.custody import (
    Imported,
    change_passphrase,
    encrypted_file,
    import_key,
    keys_in,
    public_file,
    rights,
)
from signimage.desk import Desk, wrong_files
from signimage.errors import InputError, SignImageError
from signimage.keys import KINDS, P256
from signimage.keystore import Entry, write_new
from signimage.oci import Repository
from signimage.variables import NEW_VARIABLE


def add_commands(commands: Any) -> None:
    """Add the commands of this file to those of the program."""
    key = group(commands, "key", "make, move and list signing keys")
    _add_generate(key)
    _add_import(key)
    _add_export(key)
    _add_list(key)
    _add_passwd(key)
    _add_keyring(key)


# --- What there is ---------------------------------------------------------------------------


def _add_generate(key: Any) -> None:
    generate = command(
        key,
        "generate",
        _generate,
        "make a signing key for NAME",
        more="""
        The private half goes, encrypted, into trust/private below Docker's folder, where docker
        and notary find it, too. The public half goes into NAME.pub, for signer add.

        Docker's own commands take the public half of every kind but ed25519.
        """,
        examples=("signimage key generate ci", "signimage key generate --dir keys release"),
        environment=(PASSPHRASES[1],),
    )
    generate.add_argument("name", metavar="NAME", help="the signer's name, e.g. ci")
    generate.add_argument(
        "--dir", default=".", metavar="FOLDER", help="where NAME.pub goes (default: here)"
    )
    generate.add_argument(
        "--type", choices=KINDS, default=P256, help=f"kind of key (default: {P256})"
    )


def _add_import(key: Any) -> None:
    bring = command(
        key,
        "import",
        _import,
        "bring private keys into the trust store",
        more="""
        FILE is a private key in PEM: PKCS#8, SEC1 or PKCS#1, encrypted or not, with or without
        its certificate beside it; or what notary key export or docker trust wrote, with any
        number of keys. A folder is searched for files that end in .key, the root_keys and
        tuf_keys of older clients included.

        An encrypted key keeps its passphrase, and one without gets one. A key that is in the
        store already stays as it is.
        """,
        examples=(
            "signimage key import --name ci ci.pem",
            "signimage key import --role targets --gun registry.example.com/team/app repo.pem",
            "signimage key import ~/.notary/private",
        ),
        environment=PASSPHRASES,
    )
    bring.add_argument("file", metavar="FILE", help="a key file, or a folder of key files")
    role = bring.add_mutually_exclusive_group()
    role.add_argument("--name", metavar="NAME", help="the signer's name (default: the file's)")
    role.add_argument(
        "--role",
        choices=("root", "targets", "snapshot"),
        help="a key that is not a signer's (default: the file's)",
    )
    bring.add_argument("--gun", metavar="REPO", help="the repository of a targets or snapshot key")


def _add_export(key: Any) -> None:
    give = command(
        key,
        "export",
        _export,
        "write a private key out, encrypted as it is",
        more="""
        The file is what key import, docker trust key load and notary key import take. It is
        new, and only its owner can read it.
        """,
        examples=(
            "signimage key export 4a96bb4cb115 --output ci.pem",
            "signimage key export --public 4a96bb4cb115 > ci.pub",
        ),
        environment=PASSPHRASES,
    )
    give.add_argument("key", metavar="KEYID", help="the key's ID, or its first digits")
    give.add_argument("--output", metavar="FILE", help="a new file (default: standard output)")
    give.add_argument(
        "--public", action="store_true", help="write the public half; takes the passphrase, too"
    )


def _add_list(key: Any) -> None:
    listed = remote(
        key,
        "list",
        _list,
        "list the private keys in the trust store",
        more="""
        Role, repository, ID and place of each key, as notary key list shows them. Without
        --repositories no server is asked, and no passphrase is needed.
        """,
        examples=(
            "signimage key list",
            "signimage key list --repositories registry.example.com/team/app",
        ),
    )
    listed.add_argument(
        "--repositories",
        nargs="+",
        default=[],
        metavar="REPO",
        help="also show which roles of these repositories each key may sign",
    )


def _add_passwd(key: Any) -> None:
    change = command(
        key,
        "passwd",
        _passwd,
        "put a private key under another passphrase",
        more="""
        The passphrase it has comes from Docker's variables, the keyring or the terminal; the new
        one from SIGNIMAGE_NEW_PASSPHRASE or, twice, from the terminal. The file is replaced whole.
        """,
        examples=("signimage key passwd 4a96bb4cb115",),
        environment=(*PASSPHRASES, NEW_VARIABLE),
    )
    change.add_argument("key", metavar="KEYID", help="the key's ID, or its first digits")


def _add_keyring(key: Any) -> None:
    remember = command(
        key,
        "remember",
        _remember,
        "keep a key's passphrase in the keyring of this system",
        more="""
        From then on it is asked for neither on the terminal nor in the environment. Only
        keyrings that keep it encrypted are used, such as those of GNOME, KDE, macOS and Windows.
        It takes the library keyring, which the extra cli brings.
        """,
        examples=("signimage key remember 4a96bb4cb115",),
        environment=PASSPHRASES,
    )
    remember.add_argument("key", metavar="KEYID", help="the key's ID, or its first digits")
    forget = command(
        key,
        "forget",
        _forget,
        "take a key's passphrase out of the keyring of this system",
        examples=("signimage key forget 4a96bb4cb115",),
    )
    forget.add_argument("key", metavar="KEYID", help="the key's ID, or its first digits")


# --- What it does ----------------------------------------------------------------------------


def _generate(arguments: argparse.Namespace, desk: Desk) -> int:
    folder = Path(arguments.dir)
    key = generate_key(desk.store, desk.passphrases, arguments.name, folder, arguments.type)
    desk.console.tell(
        {"keyId": key.key_id, "private": str(key.private), "public": str(key.public)},
        f"Key {key.key_id}\n  private: {key.private}\n  public:  {key.public}",
    )
    return EXIT_DONE


def _import(arguments: argparse.Namespace, desk: Desk) -> int:
    role = arguments.name or arguments.role or ""
    gun = Repository.parse(arguments.gun).gun if arguments.gun else ""
    with wrong_files():
        found = list(keys_in(Path(arguments.file)))
    if len(found) > 1 and (role or gun):
        raise InputError(
            f"{arguments.file}: expected one key for --name, --role or --gun, got {len(found)}",
            hint="Bring the keys in one by one, or leave the names to their files",
        )
    done, failed = [], []
    for each in found:
        try:
            with wrong_files():
                done.append(import_key(desk.store, desk.passphrases, each, role, gun))
        except SignImageError as error:
            if len(found) == 1:
                raise
            failed.append(error.sentence)
    desk.console.tell(
        [
            {
                "keyId": each.key_id,
                "role": each.role,
                "gun": each.gun,
                "file": str(each.path),
                "existed": each.existed,
            }
            for each in done
        ],
        "\n".join(_told(each) for each in done),
    )
    for sentence in failed:
        desk.console.error(sentence)
    return EXIT_FAILED if failed else EXIT_DONE


def _told(key: Imported) -> str:
    whose = f"{key.role} of {key.gun}" if key.gun else key.role
    verb = "was there already" if key.existed else "brought in"
    return f"Key {key.key_id} ({whose}) {verb}\n  private: {key.path}"


def _export(arguments: argparse.Namespace, desk: Desk) -> int:
    entry = desk.store.look_up(arguments.key)
    if arguments.public:
        data, mode = public_file(desk.store, desk.passphrases, entry), 0o644
    else:
        data, mode = encrypted_file(desk.store, entry), 0o600
    if not arguments.output:
        value = {"keyId": entry.key_id, "pem": data.decode()}
        desk.console.hand_over(value, data.decode().rstrip())
        return EXIT_DONE
    write_new(Path(arguments.output), data, mode)
    desk.console.tell(
        {"keyId": entry.key_id, "file": arguments.output},
        f"Key {entry.key_id}\n  {'public' if arguments.public else 'private'}: {arguments.output}",
    )
    return EXIT_DONE


def _list(arguments: argparse.Namespace, desk: Desk) -> int:
    entries = desk.store.entries()
    roles = {
        repository.gun: rights(desk.server(repository).refresh())
        for repository in map(Repository.parse, arguments.repositories)
    }
    listed = [_listed(each, roles) for each in entries]
    headings = ["ROLE", "GUN", "KEY ID", "LOCATION"]
    rows = [[each.role, each.gun, each.key_id, str(each.path.parent)] for each in entries]
    columns = {
        "MAY SIGN": [_may_sign(each, roles) for each in entries],
        "NOTE": [_note(each) for each in entries],
    }
    for heading, cells in columns.items():
        if any(cells):
            headings.append(heading)
            rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    desk.console.table(listed, headings, rows, empty=f"No keys in {desk.store.private}")
    return EXIT_DONE


def _listed(entry: Entry, roles: Mapping[str, Mapping[str, list[str]]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "role": entry.role,
        "gun": entry.gun,
        "keyId": entry.key_id,
        "file": str(entry.path),
        "encrypted": entry.encrypted,
        "fault": entry.fault,
    }
    if roles:
        found["repositories"] = {gun: of.get(entry.key_id, []) for gun, of in roles.items()}
    return found


def _may_sign(entry: Entry, roles: Mapping[str, Mapping[str, list[str]]]) -> str:
    found = {gun: of[entry.key_id] for gun, of in roles.items() if entry.key_id in of}
    return "; ".join(f"{gun}: {', '.join(names)}" for gun, names in found.items())


def _note(entry: Entry) -> str:
    return entry.fault or ("" if entry.encrypted else "not encrypted")


def _passwd(arguments: argparse.Namespace, desk: Desk) -> int:
    entry = desk.store.look_up(arguments.key)
    new = change_passphrase(desk.store, desk.passphrases, entry)
    if desk.keyring and desk.keyring.get(entry.key_id):
        desk.keyring.keep(entry.key_id, new)
    desk.console.tell(
        {"keyId": entry.key_id, "file": str(entry.path)},
        f"Key {entry.key_id} has another passphrase",
    )
    return EXIT_DONE


def _remember(arguments: argparse.Namespace, desk: Desk) -> int:
    entry = desk.store.look_up(arguments.key)
    if desk.keyring is None:
        raise InputError("key remember: expected a keyring, got --no-keyring")
    passphrase = desk.store.passphrase(entry, desk.passphrases)
    if not passphrase:
        raise InputError(f"key {entry.key_id} is not encrypted: there is no passphrase to keep")
    desk.keyring.keep(entry.key_id, passphrase)
    desk.console.tell(
        {"keyId": entry.key_id, "kept": True},
        f"The passphrase of key {entry.key_id} is in the keyring of this system",
    )
    return EXIT_DONE


def _forget(arguments: argparse.Namespace, desk: Desk) -> int:
    entry = desk.store.look_up(arguments.key)
    kept = desk.keyring is not None and desk.keyring.forget(entry.key_id)
    verb = "is no longer" if kept else "was not"
    desk.console.tell(
        {"keyId": entry.key_id, "kept": False},
        f"The passphrase of key {entry.key_id} {verb} in the keyring of this system",
    )
    return EXIT_DONE
