"""Text for a log: nothing in it is a command, and everything else is as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_pipelines_task_lib import is_unexpanded_macro, neutralise
from azure_pipelines_task_lib.text import split_lines
from unit.test_task_lib_model import finds_marker, parse_command

INVISIBLE = (
    "\x00\x08\x1b\t\u00ad\u034f\u115f\u180e\u200b\u200d\u2060\u3164\ufe0f\ufeff\U000e0041\ue000"
)
BREAKS = "\n\r\v\f\x85\u2028\u2029"
HIDDEN = st.text(st.sampled_from(INVISIBLE), max_size=2)
# A marker, each of its characters in some disguise, with something invisible between them.
MARKER = st.tuples(
    *(
        st.tuples(st.sampled_from(spellings), HIDDEN).map("".join)
        for spellings in (
            "#\uff03\ufe5f",
            "#\uff03",
            "vV\uff56\u24e5",
            "sS\u017f",
            "oO\u1d52",
            "[\uff3b",
        )
    )
).map("".join)
DECORATION = st.tuples(st.just("##"), HIDDEN, st.sampled_from("[\uff3b")).map("".join)
HOSTILE = st.lists(
    st.one_of(MARKER, DECORATION, st.text(st.sampled_from("##vso[m0_ " + INVISIBLE), max_size=3)),
    max_size=4,
).map("".join)
HOSTILE_LINES = st.text(
    st.one_of(st.sampled_from("###vso[[\x1b0m" + INVISIBLE + BREAKS), st.characters())
)


@given(HOSTILE)
def test_the_most_generous_agent_finds_no_marker(text: str) -> None:
    shown = neutralise(text)
    assert not finds_marker(shown, "##vso[")
    assert not finds_marker(shown, "##[")


@given(HOSTILE, st.frozensets(st.sampled_from(INVISIBLE)))
def test_an_agent_that_skips_only_some_characters_finds_no_marker(
    text: str, skipped: frozenset[str]
) -> None:
    assert not finds_marker(neutralise(text), "##vso[", skipped)


@given(HOSTILE_LINES)
def test_no_line_of_any_text_is_a_command(text: str) -> None:
    for line in neutralise(text).splitlines():
        assert parse_command(line) is None
        assert not finds_marker(line, "##vso[")


@given(HOSTILE_LINES)
def test_neutralising_twice_changes_nothing_more(text: str) -> None:
    assert neutralise(neutralise(text)) == neutralise(text)


@given(
    st.text(
        st.characters(exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="#\ufe5f\uff03")
    )
)
def test_text_without_hashes_and_controls_is_unchanged(text: str) -> None:
    assert neutralise(text) == text


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# comment",
        "## Title",
        "### Title [link](https://example.com)",
        "#1 [internal] load build definition from Dockerfile",
        "#5 DONE 0.3s",
        "#!/bin/sh",
        "Step 1/3 : FROM scratch",
        "\tindented ## [x]",
        "\x1b[1;31mred\x1b[0m",
        "Подпись образа ## готова",
        "镜像已签名 ## 完成",
        "family \U0001f468\u200d\U0001f469\u200d\U0001f467 ## flag \U0001f1e9\U0001f1ea",
        "key cap #\ufe0f\u20e3",
        "cafe\u0301 #vso[ and # #vso[ and vso[",
    ],
)
def test_ordinary_lines_are_unchanged(line: str) -> None:
    assert neutralise(line) == line


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("##vso[task.complete result=Succeeded]", "##_vso[task.complete result=Succeeded]"),
        ("a ####vso[x.y]z", "a ####_vso[x.y]z"),
        ("##VSO[x.y]", "##_VSO[x.y]"),
        ("#\u200b#\u200bvso[x.y]", "#\u200b#_\u200bvso[x.y]"),
        ("##v\x00so[x.y]", "##_vso[x.y]"),
        ("##[error]forged", "##_[error]forged"),
        ("##\x1b[0m", "##_\x1b[0m"),
        ("##vso[a.b]##vso[c.d]", "##_vso[a.b]##_vso[c.d]"),
        ("#\r#vso[a.b]", "#\n#vso[a.b]"),
    ],
)
def test_markers_are_broken_where_a_reader_can_see_it(hostile: str, shown: str) -> None:
    assert neutralise(hostile) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[2K\x1b[1Ax", "x"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;https://example.com\x1b\\x", "x"),
        ("a\x07b\x7fc\x9bd", "abcd"),
        ("\x1b\x1b[2K[0m", "[0m"),
        ("\x1b[?25lx", "x"),
    ],
)
def test_controls_that_no_log_can_show_are_removed(raw: str, shown: str) -> None:
    assert neutralise(raw) == shown


def test_lines_end_wherever_a_reader_could_end_them() -> None:
    assert split_lines("a\r\nb\rc\nd\ve\ff\x85g\u2028h\u2029i") == list("abcdefghi")


@pytest.mark.parametrize(
    ("text", "lines"), [("", [""]), ("a\n", ["a"]), ("\n", [""]), ("a\n\n", ["a", ""])]
)
def test_a_break_at_the_end_opens_no_further_line(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines


@pytest.mark.parametrize("text", ["$(name)", "$(My.Pass phrase)", "$(a) and $(b)"])
def test_a_macro_that_was_not_expanded_is_recognised(text: str) -> None:
    assert is_unexpanded_macro(text)


@pytest.mark.parametrize("text", ["", "$()", "$name", "x$(name)", "$(name)x", "$(na\nme)", "(a)"])
def test_other_text_is_no_macro(text: str) -> None:
    assert not is_unexpanded_macro(text)
