"""The targets of `make fuzz` hold for their own seeds, and notice what breaks a contract."""

from pathlib import Path

import pytest

from bench.fuzz import Findings, Tally
from bench.targets import TARGETS, Broken, Target
from signimage.errors import FormatError, InputError


@pytest.mark.parametrize("name", TARGETS)
def test_every_parser_keeps_its_contract_on_the_seeds(name: str) -> None:
    target = TARGETS[name]
    inputs = list(target.seeds())
    assert inputs
    for data in [b"", *inputs]:
        target.check(data)
        target.check(data[: len(data) // 2])


def _raising(error: Exception) -> Target:
    def run(_data: bytes) -> None:
        raise error

    return Target(run, (FormatError,), list)


def test_an_undocumented_error_is_a_finding() -> None:
    with pytest.raises(InputError, match=r"^another$"):
        _raising(InputError("another")).check(b"")


@pytest.mark.parametrize(
    ("message", "law"),
    [
        ("a\nb", "holds control characters"),
        ("\ud800", "cannot be written as UTF-8"),
        ("x" * 5001, "has 5002 characters"),
    ],
)
def test_a_message_that_nobody_can_read_is_a_finding(message: str, law: str) -> None:
    with pytest.raises(Broken, match=law):
        _raising(FormatError(message)).check(b"")


def test_the_figures_are_those_of_libfuzzer_and_a_crash_is_counted() -> None:
    tally = Tally()
    turn = "#9 NEW cov: 7 ft: 9 corp: 3/1Kb lim\nstat::number_of_executed_units: {}\n"
    tally.add(turn.format(500), crashed=False)
    tally.add(turn.format(40) + "stat::peak_rss_mb:              62\n", crashed=True)
    assert tally == Tally(540, 7, 9, 3, 62, 1)


def test_one_finding_is_kept_for_each_place_in_the_code(tmp_path: Path) -> None:
    for data in (b"first", b"second"):
        try:
            _raising(InputError(data.decode())).check(data)
        except InputError as error:
            Findings(tmp_path).keep(data, error)
    (kept,) = tmp_path.glob("*.bin")
    assert kept.read_bytes() == b"first"
    assert "InputError: first" in kept.with_suffix(".txt").read_text("utf-8")
