"""`signimage sign`, `verify`, `inspect`, `revoke`, `history`: what is signed, and by whom."""

import argparse
from typing import Any, final

from signimage.administration import full_inspection, inspection, keys_at_hand
from signimage.arguments import EXIT_DONE, EXIT_FAILED, offline, remote
from signimage.console import Console
from signimage.desk import Desk
from signimage.errors import InputError, NotInitializedError, SignImageError
from signimage.history import MAX_PUBLICATIONS, Moment, history
from signimage.oci import Digest, Reference, check_tag
from signimage.releases import (
    KeyedServer,
    gate_for,
    revoke,
    revoke_all,
    shared_roles,
    signing_key,
)
from signimage.signing import Order, sign_pushed
from signimage.trust import TrustedRepository
from signimage.variables import REPOSITORY_VARIABLE
from signimage.verification import Gate, SignedTags, check_digest, pass_gate

_WRITE = "pull,push"
_PUBLICATIONS = 100  # to look back over, unless asked for more; up to four requests each


def add_commands(commands: Any) -> None:
    """Add the commands of this file to those of the program."""
    _add_sign(commands)
    _add_verify(commands)
    _add_inspect(commands)
    _add_revoke(commands)
    _add_history(commands)


def _add_sign(commands: Any) -> None:
    sign = remote(
        commands,
        "sign",
        _sign,
        "sign an image that is in the registry",
        more="""
        The image is named by a tag, a digest or both; for several platforms it is the index that
        is signed. Every tag must be in the registry and be that image. No engine is needed.
        """,
        examples=[
            "signimage sign registry.example.com/team/app:1.0",
            "signimage sign registry.example.com/team/app@sha256:… --tag 1.0 --tag latest",
        ],
        environment=[REPOSITORY_VARIABLE],
    )
    sign.add_argument("image", metavar="REF", help="REPO:TAG, REPO@DIGEST or REPO:TAG@DIGEST")
    sign.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="TAG",
        help="sign the image under this tag, too; may be repeated",
    )
    sign.add_argument(
        "--recursive",
        action="store_true",
        help="sign the image of each platform, too, under the name sha256-<its digest>",
    )
    sign.add_argument(
        "--as",
        dest="name",
        default="",
        metavar="NAME",
        help="the signer, where the trust store has the keys of several",
    )


def _add_verify(commands: Any) -> None:
    verify = remote(
        commands,
        "verify",
        _verify,
        "check that an image is signed",
        more="""
        A gate before a deployment: ends with 0 only if the trust data holds, the image is
        released, everybody who must have signed it has, and the registry has the same image.
        On a new machine give the root key that its owner published with --root-key.
        """,
        examples=[
            "signimage verify --signer ci --root-key ID registry.example.com/team/app:1.0",
            "signimage verify --json registry.example.com/team/app@sha256:…",
        ],
    )
    verify.add_argument("image", metavar="REF", help="REPO:TAG, REPO@DIGEST or REPO:TAG@DIGEST")
    verify.add_argument(
        "--signer",
        action="append",
        default=[],
        type=_signer,
        metavar="NAME",
        help="a signer who must have signed; may be repeated",
    )
    verify.add_argument(
        "--trust-only", action="store_true", help="do not ask the registry what it has"
    )
    offline(verify)


def _add_inspect(commands: Any) -> None:
    inspect = remote(
        commands,
        "inspect",
        _inspect,
        "show what is signed, and by whom",
        more="""
        With --json the same document that docker trust inspect prints.
        """,
        examples=["signimage inspect --full registry.example.com/team/app"],
    )
    inspect.add_argument("images", metavar="REPO[:TAG]", nargs="+", help="what to show")
    inspect.add_argument(
        "--full",
        action="store_true",
        help="also show each role: keys, threshold, version, expiry",
    )
    offline(inspect)


def _add_revoke(commands: Any) -> None:
    take = remote(
        commands,
        "revoke",
        _revoke,
        "take the signatures of a tag back",
        more="""
        The tag is taken out of every role that holds it, or out of none: where the key of a role
        is missing, nothing is changed unless --partial allows it. The image stays in the
        registry. With a digest, the tag is only revoked while that is what is signed.
        """,
        examples=[
            "signimage revoke registry.example.com/team/app:1.0",
            "signimage revoke --all --yes registry.example.com/team/app",
        ],
        environment=[REPOSITORY_VARIABLE],
    )
    take.add_argument("image", metavar="REF", help="REPO:TAG or REPO:TAG@DIGEST; REPO with --all")
    take.add_argument("--all", action="store_true", help="all tags of the repository; asks first")
    take.add_argument("--yes", action="store_true", help="do not ask")
    take.add_argument(
        "--partial",
        action="store_true",
        help="leave it in roles of signers whose keys are elsewhere; consumers no longer get it",
    )


def _add_history(commands: Any) -> None:
    past = remote(
        commands,
        "history",
        _history,
        "show what a tag was before",
        more="""
        Old states are judged by the rules of their time, as far as the trust server still shows
        them. What cannot be known is said beside the result.
        """,
        examples=["signimage history registry.example.com/team/app:latest"],
    )
    past.add_argument("image", metavar="REPO:TAG", help="the tag")
    past.add_argument(
        "--limit",
        default=str(_PUBLICATIONS),
        metavar="N",
        help=f"look back over the last N publications (default: {_PUBLICATIONS})",
    )


# --- Signing ----------------------------------------------------------------------------------


def _sign(arguments: argparse.Namespace, desk: Desk) -> int:
    reference = Reference.parse(arguments.image)
    tags = tuple(dict.fromkeys((*filter(None, [reference.tag]), *arguments.tag)))
    for tag in tags:
        check_tag(tag)
    if not tags:
        raise InputError(
            f"{arguments.image}: expected a tag to sign it under, got none",
            hint="Name one with --tag; consumers ask for tags",
        )
    server = desk.server(reference.repository, actions=_WRITE)
    registry = desk.registry(reference.repository)
    repository = server.refresh()
    key_id = signing_key(repository, desk.store, arguments.name)
    shared = shared_roles(repository, desk.store, tags, key_id)
    at_home = keys_at_hand(repository, desk.store, desk.passphrases, *shared)
    digest = reference.digest
    if digest is None:
        digest = registry.resolve(reference.tag).descriptor.digest
    order = Order(
        reference.repository,
        tags,
        desk.store.load(key_id, desk.passphrases),
        digests=dict.fromkeys(tags, digest),
        is_recursive=arguments.recursive,
    )
    with desk.console.working(f"Signing {reference}"):
        keyed = KeyedServer.beside(server, at_home)
        found = sign_pushed(order, registry, keyed, _Told(desk.console))
    _warn(desk, found.warnings)
    desk.console.tell(
        {**_described(found), "keyId": key_id},
        f"{', '.join(tags)} of {reference.repository} signed: {digest}",
    )
    return EXIT_DONE


@final
class _Told:
    """Progress of a use case, as notes beside the result."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def step(self, text: str) -> None:
        """Say nothing: what follows says more."""

    def done(self, text: str) -> None:
        """Say what was found or done."""
        self._console.note(text)


# --- Looking ----------------------------------------------------------------------------------


def _signer(text: str) -> str:
    """Refuse a name that an unset variable left empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected the name of a signer, got none")
    return text


def _verify(arguments: argparse.Namespace, desk: Desk) -> int:
    image = arguments.image
    try:
        reference = Reference.parse(image)
        image = str(reference)
        found = _verified(arguments, desk, reference)
    except SignImageError as error:
        verdict = {"image": image, "verified": False}
        desk.console.tell({**verdict, "code": error.code, "reason": error.sentence}, "")
        raise
    digest = found.images[0]
    _warn(desk, found.warnings)
    desk.console.tell(
        {"image": image, "verified": True, **_described(found)},
        f"{image} is signed: {digest} by {found.who}",
    )
    return EXIT_DONE


def _verified(arguments: argparse.Namespace, desk: Desk, reference: Reference) -> SignedTags:
    """What is signed under *reference*, compared with the registry unless that is not wanted.

    Raises:
        SignImageError: It does not pass, or that could not be found out.
    """
    if not reference.tag and reference.digest is None:
        raise InputError(f"{arguments.image}: expected a tag or a digest to verify, got neither")
    repository = desk.server(reference.repository).refresh(offline=arguments.offline)
    needed = tuple(dict.fromkeys(arguments.signer))
    if reference.tag:
        digests = {reference.tag: reference.digest} if reference.digest else {}
        gate = Gate(reference.repository, (reference.tag,), digests, needed)
    else:
        gate = gate_for(reference.repository, _digest(reference), needed, repository)
    found = pass_gate(gate, repository)
    if not arguments.trust_only and not arguments.offline:
        registry = desk.registry(reference.repository)
        # Whoever deploys by tag gets what the registry has under it.
        manifest = registry.resolve(reference.tag or _digest(reference))
        what = f"{reference}, as the registry has it"
        check_digest(what, found.images[0], manifest.descriptor.digest)
    return found


def _digest(reference: Reference) -> Digest:
    if reference.digest is None:
        raise InputError(f"{reference}: expected a digest, got none")
    return reference.digest


def _described(found: SignedTags) -> dict[str, Any]:
    return {
        "repository": found.repository.gun,
        "digest": found.images[0].text,
        "tags": list(found.tags),
        "signers": list(found.signers),
        "rootKeys": list(found.root_key_ids),
        "expires": f"{found.expires:%Y-%m-%dT%H:%M:%SZ}",
        "warnings": list(found.warnings),
    }


def _inspect(arguments: argparse.Namespace, desk: Desk) -> int:
    reports: list[dict[str, Any]] = []
    errors: list[SignImageError] = []
    for image in arguments.images:
        try:
            reports.append(_inspected(arguments, desk, image))
        except SignImageError as error:
            errors.append(error)
        else:
            _show(desk, image, reports[-1])
    # Docker prints what it found, and an empty list where there is nothing.
    if desk.console.json and (reports or isinstance(errors[0], NotInitializedError)):
        desk.console.tell(reports, "")
    for further in errors[1:]:
        desk.console.error(further.sentence)
    if errors:
        raise errors[0]
    return EXIT_DONE


def _inspected(arguments: argparse.Namespace, desk: Desk, image: str) -> dict[str, Any]:
    reference = Reference.parse(image)
    if reference.digest is not None:
        raise InputError(
            f"{image}: expected a repository or a tag, got a digest",
            hint=f"Ask for a digest with: signimage verify {image}",
        )
    repository: TrustedRepository = desk.server(reference.repository).refresh(
        offline=arguments.offline
    )
    _warn(desk, repository.warnings)
    report = (full_inspection if arguments.full else inspection)(image, repository)
    if reference.tag:
        rows = [row for row in report["SignedTags"] if row["SignedTag"] == reference.tag]
        report["SignedTags"] = rows
    return report


def _show(desk: Desk, image: str, report: dict[str, Any]) -> None:
    """Show a report to people; as JSON it is printed once for all."""
    if desk.console.json:
        return
    rows = [
        (row["SignedTag"], f"sha256:{row['Digest']}", ", ".join(row["Signers"]))
        for row in report["SignedTags"]
    ]
    empty = f"{image} has no signed tags"
    desk.console.table(report, ("TAG", "DIGEST", "SIGNERS"), rows, empty=empty)
    if "Roles" in report:
        desk.console.tell(report, "\n".join(("", *map(_role_text, report["Roles"]))))


def _role_text(role: dict[str, Any]) -> str:
    state = f"version {role['Version']}, expires {role['Expires']}"
    count = f"{role['Threshold']} of {len(role['Keys'])} keys"
    lines = [f"{role['Name']}: {state if role['Expires'] else 'never published'}, {count}"]
    if "Paths" in role:
        lines.append(f"  paths: {', '.join(repr(path) for path in role['Paths']) or 'none'}")
    for key in role["Keys"]:
        until = f", until {key['CertificateExpires']}" if "CertificateExpires" in key else ""
        lines.append(f"  key {key['ID']} ({key['Type']}{until})")
    if "Problem" in role:
        lines.append(f"  INVALID: {role['Problem']}")
    return "\n".join(lines)


def _warn(desk: Desk, warnings: tuple[str, ...] | list[str]) -> None:
    for warning in warnings:
        desk.console.warn(warning)


# --- Taking back, looking back ------------------------------------------------------------------


def _revoke(arguments: argparse.Namespace, desk: Desk) -> int:
    reference = Reference.parse(arguments.image)
    if arguments.all == bool(reference.tag) or (arguments.all and reference.digest):
        raise InputError(
            f"{arguments.image}: expected a tag, or a repository with --all, got "
            f"{'both' if arguments.all else 'neither'}"
        )
    question = f"Take all signatures in {reference.repository} back?"
    if arguments.all and not arguments.yes and not desk.console.confirm(question):
        desk.console.note("Nothing was changed")
        return EXIT_FAILED
    server = desk.server(reference.repository, actions=_WRITE)
    at = (server, desk.store, desk.passphrases)
    if arguments.all:
        done = revoke_all(*at, partial=arguments.partial)
    else:
        done = revoke(*at, reference.tag, digest=reference.digest, partial=arguments.partial)
    for name in done.left:
        desk.console.warn(f"{name} still vouches for it; consumers no longer get it")
    gone = ", ".join(done.tags)
    desk.console.tell(
        {"repository": server.gun, "revoked": list(done.tags), "stillSignedBy": list(done.left)},
        f"{gone} of {server.gun} revoked" if gone else f"{server.gun} has no signed tags",
    )
    return EXIT_DONE


def _history(arguments: argparse.Namespace, desk: Desk) -> int:
    reference = Reference.parse(arguments.image)
    if not reference.tag or reference.digest is not None:
        raise InputError(f"{arguments.image}: expected a repository with a tag, REPO:TAG")
    limit = int(arguments.limit) if arguments.limit.isdecimal() else 0
    if not 1 <= limit <= MAX_PUBLICATIONS:
        raise InputError(
            f"--limit: expected a number from 1 to {MAX_PUBLICATIONS}, got {arguments.limit[:20]!r}"
        )
    with desk.console.working(f"Looking back at {reference}"):
        found = history(desk.server(reference.repository), reference.tag, limit)
    desk.console.table(
        {
            "image": str(reference),
            "moments": [_moment(each) for each in found.moments],
            "notes": list(found.notes),
        },
        ("SINCE", "DIGEST", "SIGNERS", "REMARK"),
        [_moment_row(each) for each in found.moments],
        empty=f"{reference} was never signed, as far as can be seen",
    )
    for note in found.notes:
        desk.console.note(note)
    return EXIT_DONE


def _moment(moment: Moment) -> dict[str, Any]:
    return {
        "publication": moment.version,
        "since": moment.since,
        "digest": moment.digest.text if moment.digest else None,
        "signers": list(moment.signers),
        "problem": moment.problem,
        "proven": moment.is_proven,
    }


def _moment_row(moment: Moment) -> tuple[str, ...]:
    remark = moment.problem or ("" if moment.is_proven else "unproven")
    state = moment.digest.text if moment.digest else "not signed"
    since = moment.since.partition(".")[0] or f"publication {moment.version}"
    return since, "?" if moment.problem else state, ", ".join(moment.signers), remark
