"""`signimage.substitution`: a word of a Dockerfile means what it means to BuildKit."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError
from signimage.substitution import SPACE, WORD_MAX, expand, words

VALUES = {
    "HOME": "/home",
    "TAG": "1.2.3-rc.1+b",
    "EMPTY": "",
    "GREEK": "βγδ",
    "PATH": "a/b/c.tar.gz",
}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("alpine", "alpine"),
        ("a$HOME.", "a/home."),
        ("a${HOME}b", "a/homeb"),
        ("a$NONE-b", "a-b"),
        ("$1x$@y${2}$$z", "xyz"),
        ("$.$", "$.$"),
        ("ü$GREEK", "üβγδ"),
        (r"\$HOME", "$HOME"),
        (r"a\b\\", "ab\\"),
        ("a\\", "a"),
        ("'$HOME'\"$HOME\"", "$HOME/home"),
        (r'"\$HOME \" \x \\"', r'$HOME " \x ' + "\\"),
        ("${NONE:-a}${NONE-b}${EMPTY:-c}${EMPTY-d}${HOME:-e}", "abc/home"),
        ("${NONE:+a}${NONE+b}${EMPTY:+c}${EMPTY+d}${HOME:+e}", "de"),
        ("${NONE:-${EMPTY:-$HOME}}", "/home"),
        ("${NONE:-'}'}", "}"),
        ("${HOME:?}${EMPTY?}", "/home"),
        ("${TAG#*.}", "2.3-rc.1+b"),
        ("${TAG##*.}", "1+b"),
        ("${TAG%.*}", "1.2.3-rc"),
        ("${TAG%%.*}", "1"),
        ("${TAG#x}${TAG%x}", "1.2.3-rc.1+b" * 2),
        ("${TAG%?[b]}", "1.2.3-rc.1+b"),
        ("${PATH%%.???.*}", "a/b/c"),
        (r"${NONE#\*}${PATH#a\/}", "b/c.tar.gz"),
        ("${TAG/./-}", "1-2.3-rc.1+b"),
        ("${TAG//./-}", "1-2-3-rc-1+b"),
        ("${TAG/+b/}", "1.2.3-rc.1"),
        ("<a<<  b", "<a<<  b"),
    ],
)
def test_word_is_filled_in(word: str, value: str) -> None:
    assert expand(word, VALUES.get) == value


def test_the_escape_character_is_the_files_own() -> None:
    assert expand(r"C:\`$HOME`", VALUES.get, "`") == r"C:\$HOME"


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("${", "expected a name after"),
        ("${}", "expected a name after"),
        ("${:-x}", "expected a name after"),
        ("${HOME", "'' is none that is understood"),
        ("${HOME:", "':' is none that is understood"),
        ("${HOME:=x}", "':' is none that is understood"),
        ("${HOME=x}", "'=' is none that is understood"),
        ("${HOME:#x}", "':' is none that is understood"),
        ("${HOME:-x", "expected '}' at the end"),
        ("${NONE?no luck}", "variable NONE: no luck"),
        ("${EMPTY:?}", "variable EMPTY: expected a value, got none"),
        (r"${HOME#\x}", r"pattern '\\\\x': expected \*, \? or"),
        ("${HOME/*/x}", "expected plain text to replace"),
        ("${HOME//x}", "expected '/' at the end"),
        ("'a", "expected a closing '"),
        ('"a', 'expected a closing "'),
        ('"a\\', 'expected a closing "'),
        ("${a:-" * 21 + "}" * 21, "expected at most 20 substitutions in each other"),
        ("x" * (WORD_MAX + 1), "expected at most 1024 characters"),
        ('"' + "$HOME" * 500 + '"', "expected at most 1024 characters"),
    ],
)
def test_word_that_buildkit_would_not_take_is_refused(word: str, fault: str) -> None:
    with pytest.raises(FormatError, match=fault):
        expand(word, VALUES.get)


def test_a_variable_is_asked_for_only_where_it_is_named() -> None:
    asked: list[str] = []

    def lookup(name: str) -> None:
        asked.append(name)

    assert expand(r"a'$NO'\$NO${YES:-$TOO}", lookup) == "a$NO$NO"
    assert asked == ["TOO", "YES"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("RUN a  b\tc", ["RUN", "a", "b", "c"]),
        ("""a "b c" 'd e'f""", ["a", '"b c"', "'d e'f"]),
        (r"a\ b \"c", [r"a\ b", r"\"c"]),
        ("a << EOF <<EOF2 <b", ["a", "<< EOF", "<<EOF2", "<b"]),
        ("$X ${Y:-z}", ["$X", "${Y:-z}"]),
        ("", []),
    ],
)
def test_line_is_split_at_its_blanks_and_not_changed(line: str, found: list[str]) -> None:
    assert words(line) == found


# --- Laws ------------------------------------------------------------------------------------

ANY_WORD = st.text(st.sampled_from("ab$ {}:-+?#%/'\"\\`<\n*"), max_size=25) | st.text(max_size=25)


@given(ANY_WORD, st.sampled_from("\\`"))
def test_any_word_is_understood_or_refused(word: str, escape: str) -> None:
    with suppress(FormatError):
        assert len(expand(word, VALUES.get, escape)) <= WORD_MAX


@given(ANY_WORD)
def test_any_line_is_split_or_refused_and_loses_only_blanks(line: str) -> None:
    try:
        found = words(line)
    except FormatError:
        return
    assert not set("".join(found)) - set(line)
    assert "".join(found).translate(dict.fromkeys(map(ord, SPACE))) == line.translate(
        dict.fromkeys(map(ord, SPACE))
    )


@given(st.text(st.characters(blacklist_characters="$'\"\\<", blacklist_categories=["Cs"])))
def test_plain_text_means_itself(text: str) -> None:
    short = text[:WORD_MAX]
    assert expand(short, VALUES.get) == short


@given(st.text(st.sampled_from("ab."), max_size=8), st.text(st.sampled_from("ab.*?"), max_size=5))
def test_the_rest_after_a_pattern_is_a_rest(value: str, pattern: str) -> None:
    """The shortest and the longest match leave an end of the value, or the value."""
    lookup = {"V": value}.get
    short, long = (expand(f"${{V{sign}{pattern}}}", lookup) for sign in ("#", "##"))
    assert value.endswith(short)
    if not pattern.startswith("#"):
        assert short.endswith(long)
