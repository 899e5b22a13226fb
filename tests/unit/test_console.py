"""The one door for what the command line says: where it goes, when, and what cannot pass."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.console import Console, columns, safe
from signimage.errors import InputError

# What a terminal obeys: colours, the title of its window, a cleared line, text that runs backwards.
_ATTACKS = ("\x1b[31mred", "\x1b]0;title\x07", "\r\x1b[2Kgone", "\x9b31m", "\u202etxt.exe")


class Said:
    """A console whose both streams are kept."""

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.output, self.errors = io.StringIO(), io.StringIO()
        self.console = Console(
            self.output, self.errors, json=json, quiet=quiet, verbose=verbose
        )  # fmt: skip

    def texts(self) -> tuple[str, str]:
        return self.output.getvalue(), self.errors.getvalue()


def _everything(console: Console) -> None:
    console.tell({"a": 1}, "told")
    console.table([["x"]], ("HEADING",), [("cell",)], empty="nothing")
    console.note("noted")
    console.warn("warned")
    console.error("failed")
    console.trace("answer", method="GET", url="https://a/b", status=200, ms=7)


def test_results_go_to_one_stream_and_all_else_to_the_other() -> None:
    said = Said()
    _everything(said.console)
    assert said.texts() == (
        "told\nHEADING\ncell\n",
        "noted\nsignimage: warning: warned\nsignimage: failed\n",
    )


def test_with_json_the_output_is_json_alone() -> None:
    said = Said(json=True)
    said.console.tell({"ä": ["ö"]}, "told")
    said.console.note("noted")
    said.console.warn("warned")
    assert said.texts() == (
        '{\n    "ä": [\n        "ö"\n    ]\n}\n',
        "signimage: warning: warned\n",
    )


def test_quiet_says_nothing_but_errors() -> None:
    said = Said(quiet=True)
    _everything(said.console)
    assert said.texts() == ("", "signimage: failed\n")


def test_verbose_tells_every_pause_and_answer_beside_the_result() -> None:
    said = Said(verbose=True)
    said.console.trace("pause", url="https://a/b", why="connection refused", ms=20)
    said.console.trace("answer", method="GET", url="https://a/b", status=200, ms=7)
    assert said.texts() == (
        "",
        "https://a/b: connection refused; again in 20 ms\nGET https://a/b 200 (7 ms)\n",
    )


def test_a_table_without_rows_says_so() -> None:
    said = Said()
    said.console.table([], ("HEADING",), [], empty="No keys")
    assert said.texts()[0] == "No keys\n"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert columns(("A", "BB"), [("long", ""), ("x", "y")]) == "A     BB\nlong\nx     y"


@pytest.mark.parametrize("attack", _ATTACKS)
def test_words_of_others_do_not_steer_the_terminal(attack: str) -> None:
    said = Said()
    said.console.tell({}, attack)
    said.console.table({}, ("HEADING",), [(attack,)])
    for text in (attack, f"line\n{attack}"):
        said.console.warn(text)
        said.console.error(text)
        said.console.note(text)
    for text in said.texts():
        assert not set(text) & set("\x1b\x07\r\x9b\u202e")


def test_a_cell_of_a_table_has_one_line() -> None:
    assert columns(("A",), [("one\ntwo",)]).splitlines() == ["A", "one\ufffdtwo"]


@given(st.text())
def test_whatever_is_said_is_printable_line_by_line(text: str) -> None:
    for line in safe(text).split("\n"):
        assert all(each.isprintable() or not each.isascii() for each in line)
        assert line.encode("utf-8").decode("utf-8") == line


@given(st.recursive(st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)))
def test_json_says_everything_and_steers_nothing(value: object) -> None:
    said = Said(json=True)
    said.console.tell(value, "")
    text = said.texts()[0]
    assert json.loads(text) == value
    assert all(each == "\n" or each.isprintable() or not each.isascii() for each in text)
    assert not set(text) & set("\x7f\x9b\u202e\u2028")


def test_nobody_is_asked_where_there_is_no_terminal() -> None:
    said = Said()
    with pytest.raises(InputError, match=r"^Revoke all\? expected an answer, got no terminal$"):
        said.console.confirm("Revoke all?")
    assert said.texts() == ("", "")


def test_work_leaves_no_trace_where_nobody_looks() -> None:
    said = Said()
    with said.console.working("Looking"):
        pass
    assert said.texts() == ("", "")
