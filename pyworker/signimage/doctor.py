"""Checks in their order, and what came of them: `signimage doctor` without a single question.

The rules of this file:

1. A check asks one question and changes nothing. It gives verdicts, or raises the error that
   whoever does the work would get; that error is the failure, and its hint the remedy.
2. A check that needs another which failed is not made: it says whose failure it waits for, the
   first one in the chain.
3. Only what is wrong in itself is a failure. What may be meant so is a warning.
4. Where nothing failed but the ways to servers, the whole is undecided.

What the checks ask: `checkup`. `docs/doctor-and-report.md`, "The checks".
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from signimage.errors import SignImageError, UnavailableError, UnreachableError


class Status(Enum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    UNCHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that a check found: a sentence without its full stop, and what mends it."""

    text: str
    remedy: str = ""
    status: Status = Status.OK


@dataclass(frozen=True, slots=True)
class Check:
    """One question.

    Attributes:
        name: For scripts, and for `needs` of others.
        title: For people.
        probe: Finds the answer, or raises a `SignImageError`.
        needs: Names of the checks without which this one makes no sense.
    """

    name: str
    title: str
    probe: Callable[[], Verdict | Sequence[Verdict]]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What is said of a check: one of its verdicts, or why there is none."""

    check: str
    title: str
    status: Status
    text: str
    remedy: str = ""
    is_unreachable: bool = False

    def to_json(self) -> dict[str, Any]:
        """The finding for scripts."""
        return {
            "check": self.check,
            "status": self.status.value,
            "text": self.text,
            "remedy": self.remedy,
        }


def warning(text: str, remedy: str = "") -> Verdict:
    """A verdict of something that may be meant so."""
    return Verdict(text, remedy, Status.WARNING)


def failure(text: str, remedy: str = "") -> Verdict:
    """A verdict of something that is wrong."""
    return Verdict(text, remedy, Status.FAILURE)


def examine(checks: Iterable[Check]) -> Iterator[Finding]:
    """Make *checks* in their order, and tell what came of each as soon as it is known."""
    failed: dict[str, str] = {}  # by name, the title of the check that failed first
    for check in checks:
        culprit = next((failed[need] for need in check.needs if need in failed), "")
        if culprit:
            failed[check.name] = culprit
            text = f"because of the failure of: {culprit}"
            yield Finding(check.name, check.title, Status.UNCHECKED, text)
            continue
        findings = _made(check)
        if any(each.status is Status.FAILURE for each in findings):
            failed[check.name] = check.title
        yield from findings


def result(findings: Iterable[Finding]) -> str:
    """Sum up in a word: `ok`, `warning`, `failure`, or `unreachable` (rule 4)."""
    found = list(findings)
    failures = [each for each in found if each.status is Status.FAILURE]
    if failures:
        return "unreachable" if all(each.is_unreachable for each in failures) else "failure"
    return "warning" if any(each.status is Status.WARNING for each in found) else "ok"


def _made(check: Check) -> list[Finding]:
    try:
        found = check.probe()
    except SignImageError as error:
        away = isinstance(error, (UnreachableError, UnavailableError))
        text, remedy = str(error).rstrip("."), error.hint
        return [Finding(check.name, check.title, Status.FAILURE, text, remedy, away)]
    verdicts = [found] if isinstance(found, Verdict) else found
    return [
        Finding(check.name, check.title, each.status, each.text, each.remedy) for each in verdicts
    ]
