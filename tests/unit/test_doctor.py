"""Checks in their order: what is made, what is not, and what the whole comes to."""

from functools import partial

import pytest

from signimage.doctor import Check, Status, Verdict, examine, failure, result, warning
from signimage.errors import InputError, SignImageError, UnavailableError, UnreachableError


def check(name: str, verdict: Verdict | SignImageError, *needs: str) -> Check:
    """A check that comes to *verdict*."""

    def probe() -> Verdict:
        if isinstance(verdict, SignImageError):
            raise verdict
        return verdict

    return Check(name, name.title(), probe, needs)


def test_checks_are_made_in_their_order_and_not_before_somebody_looks() -> None:
    made: list[str] = []

    def probe(name: str) -> Verdict:
        made.append(name)
        return Verdict(name)

    checks = [Check(name, name, partial(probe, name)) for name in ("a", "b")]
    findings = examine(checks)
    assert made == []
    assert next(findings).text == "a"
    assert made == ["a"]
    assert next(findings).text == "b"


def test_an_error_is_a_failure_with_its_hint_as_the_remedy() -> None:
    (found,) = examine([check("login", InputError("no login.", hint="Log in"))])
    assert (found.status, found.text, found.remedy) == (Status.FAILURE, "no login", "Log in")
    assert found.to_json() == {
        "check": "login",
        "status": "failure",
        "text": "no login",
        "remedy": "Log in",
    }


def test_what_needs_a_failed_check_is_not_made_and_names_the_first_that_failed() -> None:
    found = list(
        examine(
            [
                check("a", failure("broken")),
                check("b", Verdict("fine"), "a"),
                check("c", Verdict("fine"), "b"),
                check("d", Verdict("fine")),
            ]
        )
    )
    assert [each.text for each in found[1:]] == [
        "because of the failure of: A",
        "because of the failure of: A",
        "fine",
    ]
    assert [each.status for each in found[1:3]] == [Status.UNCHECKED] * 2


def test_a_warning_keeps_nothing_from_being_checked() -> None:
    found = list(examine([check("a", warning("odd")), check("b", Verdict("fine"), "a")]))
    assert [each.status for each in found] == [Status.WARNING, Status.OK]


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([Verdict("fine")], "ok"),
        ([Verdict("fine"), warning("odd")], "warning"),
        ([warning("odd"), failure("broken")], "failure"),
        ([UnreachableError("away"), Verdict("fine")], "unreachable"),
        ([UnavailableError("busy"), warning("odd")], "unreachable"),
        ([UnreachableError("away"), failure("broken")], "failure"),
    ],
)
def test_the_whole_is_undecided_only_where_nothing_but_ways_failed(
    verdicts: list[Verdict | SignImageError], whole: str
) -> None:
    checks = [check(str(number), verdict) for number, verdict in enumerate(verdicts)]
    assert result(examine(checks)) == whole
