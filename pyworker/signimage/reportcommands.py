"""`signimage doctor` and `report`: what stands in the way of signing, and a page for the wall."""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from signimage.arguments import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_UNDECIDED,
    offline,
    remote,
)
from signimage.checkup import Checkup
from signimage.desk import Desk
from signimage.doctor import Finding, Status, examine, result
from signimage.errors import InputError, SignImageError, UnreachableError
from signimage.notary import utc_now
from signimage.oci import Digest, Reference, Repository, check_tag
from signimage.parallel import results
from signimage.registry import PARALLEL, Registry
from signimage.report import Basis, Chapter, Subject, chapter, released_content, unread
from signimage.reportpage import page
from signimage.trust import TrustedRepository
from signimage.variables import REPOSITORY_VARIABLE

_PAGE = "signing-report.html"
_WRITE = "pull,push"
_AT_ONCE = 32  # tags that are asked for before anybody looks whether it makes sense to go on
_EXIT = {
    "ok": EXIT_DONE,
    "warning": EXIT_DONE,
    "failure": EXIT_FAILED,
    "unreachable": EXIT_UNDECIDED,
}
_COLUMN = max(len(status.value) for status in Status)


def add_commands(commands: Any) -> None:
    """Add the commands of this file to those of the program."""
    _add_doctor(commands)
    _add_report(commands)


def _add_doctor(commands: Any) -> None:
    doctor = remote(
        commands,
        "doctor",
        _doctor,
        "find out what keeps a repository from being signed",
        more="""
        Asks, in this order: do the servers answer; what may our login do there; is there trust
        data, is it valid, and by which root; what ends soon; do the clocks agree; are the keys
        here, do their passphrases open them, may they sign; which Docker is this. Each failure
        comes with the command or the setting that mends it. Nothing is changed anywhere.
        """,
        examples=["signimage doctor --tag 1.0 registry.example.com/team/app"],
        environment=[REPOSITORY_VARIABLE],
        exit_codes={
            "0": "all is well, warnings aside",
            "1": "something must be mended",
            "3": "a server could not be reached, and nothing else is known to be wrong",
        },
    )
    doctor.add_argument("image", metavar="REPO", help="the repository")
    doctor.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="TAG",
        help="a tag that the keys of this machine should be able to sign; may be repeated",
    )
    doctor.add_argument(
        "--read-only",
        action="store_true",
        help="check only what is needed to verify, not to sign",
    )


def _add_report(commands: Any) -> None:
    report = remote(
        commands,
        "report",
        _report,
        "make a page about who may sign what",
        more="""
        One HTML file without script, that needs no network: signers and their keys, who vouches
        for whom, what ends when, every signed tag, and what is odd about all that. A repository
        that cannot be shown has its place on the page, too, with the reason.
        """,
        examples=[
            "signimage report registry.example.com/team/app registry.example.com/team/web",
            "signimage report --signer qa --registry registry.example.com/team/app",
        ],
    )
    report.add_argument("images", metavar="REPO", nargs="+", help="a repository")
    report.add_argument(
        "--output",
        default=_PAGE,
        metavar="FILE",
        help=f"where the page goes, - for the standard output (default: {_PAGE})",
    )
    report.add_argument(
        "--signer",
        action="append",
        default=[],
        metavar="NAME",
        help="must have signed every tag, or that is a problem; may be repeated",
    )
    report.add_argument(
        "--registry",
        action="store_true",
        help="also ask the registry for every signed tag, and compare",
    )
    offline(report)


# --- doctor -----------------------------------------------------------------------------------


def _doctor(arguments: argparse.Namespace, desk: Desk) -> int:
    repository = _repository(arguments.image)
    for tag in arguments.tag:
        check_tag(tag)
    checkup = Checkup(
        repository=repository,
        tags=tuple(dict.fromkeys(arguments.tag)),
        registry=desk.registry(repository, actions="pull" if arguments.read_only else _WRITE),
        transport=desk.registry_transport(repository),
        login=desk.login(repository),
        trust_url=desk.trust_server(repository),
        server=lambda actions: desk.server(repository, actions=actions),
        store=desk.store,
        passphrases=desk.passphrases,
        docker_config=desk.docker_config,
        environment=desk.console.environment,
    )
    findings = []
    for finding in examine(checkup.checks(is_reader=arguments.read_only)):
        findings.append(finding)
        if not desk.console.json:
            desk.console.tell(None, _line(finding))
    found = result(findings)
    if desk.console.json:
        whole = {
            "repository": repository.gun,
            "trustServer": checkup.trust_url.rpartition("@")[2],
            "result": found,
            "checks": [finding.to_json() for finding in findings],
        }
        desk.console.tell(whole, "")
    return _EXIT[found]


def _line(finding: Finding) -> str:
    text = f"{finding.status.value.ljust(_COLUMN)}  {finding.title}: {finding.text}"
    return f"{text}\n{' ' * _COLUMN}  -> {finding.remedy}" if finding.remedy else text


def _repository(image: str) -> Repository:
    reference = Reference.parse(image)
    if reference.tag or reference.digest is not None:
        raise InputError(f"{image}: expected a repository, got a tag or a digest as well")
    return reference.repository


# --- report -----------------------------------------------------------------------------------


def _report(arguments: argparse.Namespace, desk: Desk) -> int:
    repositories = list(dict.fromkeys(map(_repository, arguments.images)))
    chapters: list[Chapter] = []
    errors: list[SignImageError] = []
    now = utc_now()
    for repository in repositories:
        with desk.console.working(f"Looking at {repository}"):
            try:
                chapters.append(_chapter(arguments, desk, repository))
            except SignImageError as error:
                desk.console.error(error.sentence)
                errors.append(error)
                chapters.append(unread(repository.gun, now, error.sentence))
    text = page(chapters, now)
    if arguments.output == "-":
        desk.console.hand_over(_summary(chapters, ""), text.rstrip("\n"))
    else:
        _write(Path(arguments.output), text)
        desk.console.tell(_summary(chapters, arguments.output), f"{arguments.output} is written")
    if not errors:
        return EXIT_DONE
    away = all(isinstance(error, UnreachableError) for error in errors)
    return EXIT_UNDECIDED if away else EXIT_FAILED


def _chapter(arguments: argparse.Namespace, desk: Desk, name: Repository) -> Chapter:
    server = desk.server(name)
    was_known = server.has_root
    repository = server.refresh(offline=arguments.offline)
    basis = Basis.KEPT if was_known else Basis.FIRST_USE
    subject = Subject(
        repository,
        server.api.url,
        Basis.PINNED if server.pins.is_pinned else basis,
        tuple(dict.fromkeys(arguments.signer)),
        frozenset(entry.key_id for entry in desk.store.entries()),
        is_kept=not server.has_answered,
    )
    if arguments.registry:
        try:
            known = _in_registry(desk.registry(name), repository)
            subject = replace(subject, in_registry=known)
        except SignImageError as error:
            desk.console.warn(error.sentence)
            subject = replace(subject, registry_fault=error.sentence)
    return chapter(subject)


def _in_registry(registry: Registry, repository: TrustedRepository) -> dict[str, Digest | None]:
    """What the registry has under each released tag.

    Raises:
        SignImageError: It cannot be asked; only the tags of one round are tried in vain.
    """
    tags = [tag for tag in sorted(released_content(repository)) if _is_tag(tag)]
    found: dict[str, Digest | None] = {}
    for begin in range(0, len(tags), _AT_ONCE):
        some = tags[begin : begin + _AT_ONCE]
        calls: Mapping[str, Callable[[], Digest | None]] = {
            tag: partial(_digest, registry, tag) for tag in some
        }
        found |= results(calls, at_once=PARALLEL)
    return found


def _digest(registry: Registry, tag: str) -> Digest | None:
    manifest = registry.find(tag)
    return manifest.descriptor.digest if manifest else None


def _is_tag(name: str) -> bool:
    """Whether a registry can have it; a role file may hold names of any other kind, too."""
    try:
        check_tag(name)
    except SignImageError:
        return False
    return True


def _summary(chapters: Iterable[Chapter], output: str) -> dict[str, Any]:
    return {
        "output": output,
        "repositories": [
            {
                "repository": each.gun,
                "tags": len(each.released),
                "problems": [one.text for one in each.anomalies if one.is_problem],
                "notices": [one.text for one in each.anomalies if not one.is_problem],
            }
            for each in chapters
        ],
    }


def _write(path: Path, text: str) -> None:
    """Put the page in the place of an older one, whole at every moment.

    A link keeps its place, and what is no file, such as a device, is written to as it is.

    Raises:
        InputError: It cannot be written there.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            with path.open("w", encoding="utf-8", newline="\n") as opened:
                opened.write(text)
            return
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".signimage-") as folder:
            new = Path(folder, "page")  # with the rights that the user's own files have
            new.write_text(text, "utf-8", newline="\n")
            new.replace(target)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
