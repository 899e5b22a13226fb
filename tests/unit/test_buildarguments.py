"""Build arguments: one reader, and everything that asks it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.buildarguments import (
    BuildArguments,
    flags,
    given_values,
    goes_elsewhere,
    named_variables,
    read_arguments,
    split_arguments,
    without_push,
)
from signimage.errors import InputError


@pytest.mark.parametrize(
    ("text", "words", "dropped"),
    [
        ("", (), ()),
        ("--build-arg A=1  --pull\n--no-cache", ("--build-arg", "A=1", "--pull", "--no-cache"), ()),
        ("--label A \\\n  --pull \\\r\n--no-cache", ("--label", "A", "--pull", "--no-cache"), ()),
        ("--build-arg A=\\\\\n--pull", ("--build-arg", "A=\\", "--pull"), ()),
        ("--label 'A=b c' \"x=$(y) `z`\"", ("--label", "A=b c", "x=$(y) `z`"), ()),
        ("--disable-content-trust=false --pull", ("--pull",), ("--disable-content-trust=false",)),
        ("--disable-content-trust", (), ("--disable-content-trust",)),
        ("--label a=--disable-content-trust", ("--label", "a=--disable-content-trust"), ()),
    ],
)  # fmt: skip
def test_arguments_are_split_and_never_run(
    text: str, words: tuple[str, ...], dropped: tuple[str, ...]
) -> None:
    assert split_arguments(text) == (words, dropped)


def test_open_quotation_is_wrong_input_and_not_shown() -> None:
    with pytest.raises(InputError, match="expected every quotation to be closed") as caught:
        split_arguments("--build-arg 'TOKEN=s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--pull --label a=b", BuildArguments(("--pull", "--label", "a=b"))),
        ("--push --no-cache", BuildArguments(("--no-cache",))),
        ("--push=true", BuildArguments(())),
        ("-t a:1 --tag=b:2 -tc:3", BuildArguments((), names=("a:1", "b:2", "c:3"))),
        ("-qt a:1 -q", BuildArguments(("-q",), names=("a:1",))),
        ("--label --push", BuildArguments(("--label", "--push"))),
        ("--metadata-file m --metadata-file=n", BuildArguments((), metadata_file="n")),
        ("--iidfile i", BuildArguments(("--iidfile", "i"))),
        ("--builder=x --builder y", BuildArguments(("--builder=x", "--builder", "y"), builder="y")),
        ("--platform=p", BuildArguments(("--platform=p",), platforms="p")),
        ("--load", BuildArguments(("--load",), deciding="--load")),
        ("-otype=local,dest=x", BuildArguments(("-otype=local,dest=x",), deciding="--output")),
        ("-o=x", BuildArguments(("-o=x",), deciding="--output")),
        ("--output x", BuildArguments(("--output", "x"), deciding="--output")),
        ("--provenance=max --sbom=true", BuildArguments(("--provenance=max", "--sbom=true"))),
        ("-f x --tag", BuildArguments(("-f", "x"), names=("",), file="x")),
        ("- .", BuildArguments(("-", "."))),
    ],
)  # fmt: skip
def test_arguments_are_sorted_by_what_becomes_of_them(words: str, expected: BuildArguments) -> None:
    assert read_arguments(words.split()) == expected


@pytest.mark.parametrize(
    "output",
    ["type=registry", "type=image,push=true", 'type=image,"name=a,b",push=1', "push=,type=image"],
)
def test_an_output_to_a_registry_is_known_as_such(output: str) -> None:
    assert read_arguments(["-o", output, "--output=type=local,dest=x"]).pushing == output


@pytest.mark.parametrize(
    "output", ["x", "type=local,dest=push=true", "type=image,push=false", "type=docker", ""]
)
def test_an_output_to_anywhere_else_pushes_nothing(output: str) -> None:
    assert read_arguments(["--output", output]).pushing == ""


def test_what_pushes_is_taken_out_and_nothing_else() -> None:
    words = ("--push", "-t", "a:1", "--label", "--push", "--push=true", "--load")
    assert without_push(words) == ("-t", "a:1", "--label", "--push", "--load")


WORDS = st.one_of(
    st.sampled_from(["--push", "--tag", "-t", "-q", "--load", "--label", "--metadata-file=m", "-"]),
    st.text(max_size=8),
)


@given(st.lists(WORDS, max_size=8))
def test_what_is_kept_is_kept_again(words: list[str]) -> None:
    kept = read_arguments(words).kept
    remaining = iter(words)
    assert all(word in remaining for word in kept), "in the order of the user"
    again = read_arguments(kept)
    assert (again.kept, again.names, again.metadata_file) == (kept, (), "")


# --- what they say of builds ----------------------------------------------------------------


def test_a_flag_is_read_under_its_long_name_with_its_value_and_words() -> None:
    assert list(flags(["-f", "x", "-qt=a:1", "--pull", "--label=l", "."])) == [
        ("--file", "x", ("-f", "x")),
        ("--tag", "a:1", ("-qt=a:1",)),
        ("--pull", "", ("--pull",)),
        ("--label", "l", ("--label=l",)),
        (".", "", (".",)),
    ]


@pytest.mark.parametrize("words", ["--push", "-o x", "-ox", "--output=x", "--pull --push=true"])
def test_images_that_go_elsewhere(words: str) -> None:
    assert goes_elsewhere(words.split())


@pytest.mark.parametrize("words", ["", "--load", "--label --push", "-t --output"])
def test_images_that_stay_in_the_engine(words: str) -> None:
    assert not goes_elsewhere(words.split())


def test_a_value_is_never_taken_for_a_flag() -> None:
    words = ["--label", "--build-arg=A=1", "--cache-from", "--secret=id=B", "--build-arg", "C"]
    assert given_values(words, {"A": "a", "C": "c"}) == {"C": "c"}
    assert named_variables(words) == {"C"}


@given(st.lists(WORDS, max_size=8))
def test_every_word_stands_in_one_flag(words: list[str]) -> None:
    assert [word for flag in flags(words) for word in flag.words] == words
