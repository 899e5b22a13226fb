"""`signimage.stages`: which images a Dockerfile names, and the same file with images pinned."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError, InputError
from signimage.stages import BuildOptions, Stages, build_options, pinned, read_stages, same_image

PIN = "registry.example/pinned@sha256:" + "0" * 64
CLASSIC = BuildOptions(is_classic=True)


def images(text: str, options: BuildOptions | None = None) -> list[str]:
    """The names of the images that *text* uses."""
    return [use.image for use in read_stages(text, options or BuildOptions()).uses]


# --- What names an image ---


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM alpine", ["alpine"]),
        ("FROM --platform=linux/arm64 a:1 AS x\nFROM b@sha256:1", ["a:1", "b@sha256:1"]),
        ("FROM a AS build\nFROM Build AS c\nFROM c", ["a"]),
        ("FROM build\nFROM a AS build", ["build", "a"]),
        ("FROM a AS x\nFROM b AS x\nFROM x", ["a", "b"]),
        ("FROM scratch\nFROM a AS scratch\nFROM scratch\nCOPY --from=scratch x y", ["a"]),
        ('FROM "a:1"\nFROM \'b\'', ["a:1", "b"]),
        ("FROM a\nCOPY --from=b:2 x y\nCOPY x y\nADD x y", ["a", "b:2"]),
        ("FROM a AS x\nFROM b\nCOPY --from=X x y\nCOPY --from=0 x y\nCOPY --from= x y", ["a", "b"]),
        ("FROM a\nCOPY --from=later x y\nFROM b AS later", ["a", "b"]),
        ("FROM a\nRUN --mount=type=cache,target=/x --mount=target=/y,from=b ls", ["a", "b"]),
        ("FROM a AS x\nRUN --mount=from=x --mount=FROM=scratch --mount=from= ls", ["a"]),
        ("FROM a\nRUN --mount=from=b,from=c --mount='type=bind,\"from=d\"' ls", ["a", "c", "d"]),
        ('FROM a\nRUN --mount="from=b","target=/x y" --mount=xfrom=c,x=from=d ls', ["a", "b"]),
        ("FROM a\nRUN --mount=from=0 ls", ["a", "0"]),
        ("FROM a\nRUN <<EOF\nFROM b\nEOF\nCMD FROM c", ["a"]),
    ],
)  # fmt: skip
def test_images_are_those_that_the_builder_would_fetch(text: str, found: list[str]) -> None:
    assert images(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM a AS x\nONBUILD COPY --from=b x y", ["a"]),
        ("FROM a AS x\nONBUILD COPY --from=b x y\nFROM x", ["a", "b"]),
        ("FROM a AS x\nONBUILD RUN --mount=from=b ls\nFROM c\nFROM X", ["a", "b", "c"]),
        ("FROM a AS x\nONBUILD COPY --from=y x y\nFROM c AS y\nFROM x", ["a", "c"]),
    ],
)
def test_onbuild_counts_where_this_file_sets_it_off(text: str, found: list[str]) -> None:
    assert images(text) == found


def test_uses_know_their_lines_and_places() -> None:
    text = "FROM a AS x\n\nFROM \\\n  b:1\nCOPY --from=c \\\n x y\n"
    uses = read_stages(text, BuildOptions()).uses
    assert [(use.line, text[slice(*use.span)]) for use in uses] == [(1, "a"), (3, "b:1"), (5, "c")]
    assert uses[2].place == "line 5"


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("FROM a\nFROM b", "b"),
        ("FROM a AS x\nFROM x", None),
        ("FROM a\nFROM scratch", None),
        ("FROM x-$TARGETARCH", None),
    ],
)
def test_base_is_what_the_last_stage_is_built_on(text: str, base: str | None) -> None:
    assert read_stages(text, BuildOptions()).base == base


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "Dockerfile: expected at least one FROM, got none"),
        ("ARG X\n", "Dockerfile: expected at least one FROM, got none"),
        ("RUN x\nFROM a", "line 1: expected FROM before RUN"),
        ("FROM", "line 1: FROM: expected an image, or an image AS the name of a stage, got ''"),
        ("FROM a b", "line 1: FROM: expected an image, .* got 'a b'"),
        ("FROM a IS b", "line 1: FROM: expected an image, .* got 'a IS b'"),
        ("FROM a AS 1b", "line 1: FROM: expected an image, .* got 'a AS 1b'"),
        ("FROM ''", "line 1: expected the name of an image, got \"''\""),
        ("ARG X\nFROM ${X}", r"line 2: expected the name of an image, got '\$\{X\}'"),
        ("FROM ${X", "line 1: substitution of X: '' is none"),
        ("FROM a\nCOPY --from=$X x y", r"line 2: from=\$X: variables are filled in for FROM alone"),
        ("FROM a\nRUN --mount=from=${X} x", r"line 2: from=\$\{X\}: variables are filled in"),
        ("FROM a\nCOPY --from=1 x y", "line 2: --from=1: expected the number of a stage"),
    ],
)
def test_dockerfile_that_no_builder_takes_is_refused(text: str, fault: str) -> None:
    with pytest.raises(FormatError, match=fault):
        read_stages(text, BuildOptions())


def test_the_reader_of_the_file_is_known() -> None:
    text = "# syntax=docker/dockerfile:1\nFROM a"
    assert read_stages(text, BuildOptions()).syntax == "docker/dockerfile:1"
    other = BuildOptions(arguments={"BUILDKIT_SYNTAX": "other/reader"})
    assert read_stages(text, other).syntax == "other/reader"
    assert read_stages(text, CLASSIC).syntax == ""


# --- Variables ---


@pytest.mark.parametrize(
    ("text", "given", "image"),
    [
        ("ARG V=3.20\nFROM a:$V", {}, "a:3.20"),
        ("ARG V=3.20\nFROM a:$V", {"V": "4"}, "a:4"),
        ("ARG V\nFROM a:${V:-1}", {}, "a:1"),
        ("ARG V\nFROM a:$V", {"V": "4"}, "a:4"),
        ("FROM a$V", {"V": "4"}, "a"),
        ('ARG N="a b" W=c\nARG V="${N#a }"\nFROM $V-$W', {}, "b-c"),
        ("ARG V=1\nARG W=$V V=2\nFROM a:$W-$V", {}, "a:1-2"),
        ("ARG V=1\nFROM a:$V\nARG V=2\nFROM b:$V", {}, "a:1"),
        ("ARG V='$W'\nARG W=1\nFROM a:$V", {}, "a:$W"),
        ("# escape=`\nARG V=`$W\nFROM a:$V", {}, "a:$W"),
        ("ARG V=${\nFROM a", {}, "a"),
        ("ARG TARGETARCH=x\nFROM a-$TARGETARCH", {}, "a-x"),
        ("FROM a-$TARGETARCH", {"TARGETARCH": "y"}, "a-y"),
    ],
)
def test_variables_come_from_arguments_before_the_first_from(
    text: str, given: Mapping[str, str], image: str
) -> None:
    assert images(text, BuildOptions(arguments=given))[0] == image


def test_a_default_that_is_not_understood_counts_where_it_is_used() -> None:
    with pytest.raises(FormatError, match="line 2: expected a name after"):
        read_stages("ARG V=${}\nFROM a:$V", BuildOptions())


def test_platforms_are_filled_in() -> None:
    text = "FROM $BUILDPLATFORM-$TARGETOS-$TARGETARCH-$TARGETVARIANT"
    one = BuildOptions(platforms=("linux/arm/v7",), build_platform="linux/amd64")
    assert images(text, one) == ["linux/amd64-linux-arm-v7"]
    assert images(text, BuildOptions(build_platform="linux/amd64")) == ["linux/amd64-linux-amd64-"]


def test_a_build_for_several_platforms_may_name_several_images() -> None:
    text = (
        "FROM amd AS base-amd64\nFROM arm AS base-arm64\nFROM base-$TARGETARCH\nFROM x-$TARGETARCH"
    )
    options = BuildOptions(platforms=("linux/amd64", "linux/arm64"))
    stages = read_stages(text, options)
    assert [use.image for use in stages.uses] == ["amd", "arm", "x-amd64", "x-arm64"]
    assert stages.base is None
    with pytest.raises(InputError, match="line 4: names different images for different platforms"):
        pinned(stages, {"x-amd64": PIN})


@pytest.mark.parametrize("platform", ["", "linux/arm", "linux/arm64/v8", "linux/x86_64", "any"])
def test_a_platform_that_builders_may_write_otherwise_is_unknown(platform: str) -> None:
    options = BuildOptions(platforms=(platform,), build_platform="linux/amd64")
    (use,) = read_stages("FROM a-$TARGETARCH", options).uses
    assert (use.image, use.line) == ("", 1)
    assert use.fault == "it depends on TARGETARCH, and the platform is not known here"


def test_an_unknown_variable_counts_where_it_is_used() -> None:
    text = "ARG X=$TARGETARCH\nFROM a\nFROM b-$X"
    assert images(text) == ["a", ""]


# --- The classic builder ---


def test_the_classic_builder_knows_no_platforms() -> None:
    assert images("FROM a$TARGETARCH", CLASSIC) == ["a"]


def test_for_the_classic_builder_a_later_stage_is_an_image() -> None:
    assert images("FROM a\nCOPY --from=b x y\nFROM c AS b", CLASSIC) == ["a", "b", "c"]


def test_a_heredoc_is_not_for_the_classic_builder() -> None:
    with pytest.raises(FormatError, match="line 2: a heredoc, which only BuildKit understands"):
        read_stages("FROM a\nRUN <<EOF\nEOF\n", CLASSIC)


# --- Build options ---


def test_build_arguments_are_read_as_docker_reads_them() -> None:
    words = ["--build-arg", "A=1=2", "--build-arg=B", "--build-arg", "C", "--no-cache"]
    words += ["--build-context", "x=./dir", "--build-context=y=docker-image://z:1"]
    words += ["--platform", "linux/amd64,linux/arm64", "--label", "--build-arg"]
    found = build_options(words, {"B": "b", "D": "d"}, build_platform="linux/386")
    assert found == BuildOptions(
        arguments={"A": "1=2", "B": "b"},
        contexts={"x": "./dir", "y": "docker-image://z:1"},
        platforms=("linux/amd64", "linux/arm64"),
        build_platform="linux/386",
    )


@pytest.mark.parametrize("words", [["--target", "a"], ["--target=a"]])
def test_with_a_target_the_base_of_the_last_stage_is_not_that_of_the_image(
    words: list[str],
) -> None:
    stages = read_stages("FROM x AS a\nFROM y\n", build_options(words, {}))
    assert [use.image for use in stages.uses] == ["x", "y"]
    assert stages.base is None


def test_the_default_platform_comes_from_the_environment() -> None:
    assert build_options([], {"DOCKER_DEFAULT_PLATFORM": "linux/s390x"}).platforms == (
        "linux/s390x",
    )


def test_platforms_may_be_said_outside_of_the_arguments() -> None:
    found = build_options(["--platform=linux/386"], {}, platforms=["linux/amd64"])
    assert found.platforms == ("linux/amd64",)


def test_a_named_context_is_used_instead_of_the_image() -> None:
    contexts = {"alpine": "./dir", "docker.io/library/b:latest": "oci-layout://x", "c:1": "."}
    text = "FROM alpine:latest\nFROM alpine:3\nCOPY --from=b x y\nRUN --mount=from=c:1 x"
    assert images(text, BuildOptions(contexts=contexts)) == ["alpine:3"]


def test_a_context_may_be_an_image() -> None:
    options = BuildOptions(
        contexts={"a": "docker-image://b:2", "no": "docker-image://scratch", "dir": "."}
    )
    (use,) = read_stages("FROM a", options).uses
    assert (use.image, use.place) == ("b:2", "build context a")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("alpine", "docker.io/library/alpine:latest", True),
        ("alpine", "alpine:3", False),
        ("alpine@sha256:" + "0" * 64, "alpine", False),
        ("No Name", "No Name", True),
        ("No Name", "alpine", False),
    ],
)
def test_names_of_one_image_are_told_apart_from_others(
    one: str,
    other: str,
    is_same: bool,  # noqa: FBT001 -- a row of a table
) -> None:
    assert same_image(one, other) is is_same


# --- Pinning ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\r\nFROM b", f"FROM {PIN}\r\nFROM b"),
        ("\ufefffrom\t a  as x \n", f"\ufefffrom\t {PIN}  as x \n"),
        ("ARG V=a\nFROM --platform=linux/386 ${V}", f"ARG V=a\nFROM --platform=linux/386 {PIN}"),
        ("FROM 'a'", f"FROM {PIN}"),
        ("FROM b\nCOPY --from='a' x y", f"FROM b\nCOPY --from='{PIN}' x y"),
        ("FROM b\nCOPY --fr\\om=a x y", f"FROM b\nCOPY --fr\\om={PIN} x y"),
        ("FROM b\nRUN --mount=from=a,target=/x x", f"FROM b\nRUN --mount=from={PIN},target=/x x"),
        ("FROM b\nRUN --mount='\"from=a\"' x", f"FROM b\nRUN --mount='\"from={PIN}\"' x"),
        ("FROM a AS x\nCOPY --from=x a a", f"FROM {PIN} AS x\nCOPY --from=x a a"),
        ("FROM \\\n # FROM a\n a", f"FROM \\\n # FROM a\n {PIN}"),
        ("FROM \\\n a\\\n\n AS x", f"FROM \\\n {PIN}\\\n\n AS x"),
        ("FROM b\n# \udce9 FROM a\nFROM a", f"FROM b\n# \udce9 FROM a\nFROM {PIN}"),
    ],
)
def test_pinning_changes_the_names_and_nothing_else(text: str, expected: str) -> None:
    assert pinned(read_stages(text, BuildOptions()), {"a": PIN}) == expected


def test_a_name_that_cannot_be_replaced_is_refused() -> None:
    """Its second quotation mark would be left alone."""
    stages = read_stages("FROM b\nCOPY --from=a:'1' x y", BuildOptions())
    with pytest.raises(InputError, match="the names of its images cannot be replaced as they are"):
        pinned(stages, {"a:1": PIN})


_WORDS = st.sampled_from(["a", "a:1", "$A", "${B:-b:2}", "c", "'d'", "e\\\n:5", "base", "scratch"])
_NAMES = st.sampled_from(["", " AS base", " as c", " AS \\\n  # FROM a\n x"])
_OTHERS = st.sampled_from(
    [
        "RUN x",
        "RUN --mount=type=bind,from=a:1,target=/x --mount=from=base x",
        "COPY --chown=1 --from=c x y",
        'COPY --from="d" \\\n\n x y',
        "COPY --from=0 x y",
        "ONBUILD COPY --from=a x y",
        "RUN <<EOF\nFROM a\nEOF",
        "# FROM a",
        "ENV a=FROM \\\n a",
        "",
    ]
)
_STAGE = st.builds("FROM {}{}\n{}".format, _WORDS, _NAMES, st.lists(_OTHERS).map("\n".join))
_FILES = st.builds(
    "{}ARG A=a:1\nARG B\n{}\n".format,
    st.sampled_from(["", "\ufeff", "# syntax=a\n", "# escape=\\\n", "\n\n"]),
    st.lists(_STAGE, min_size=1, max_size=4).map("\n".join),
)
_PINS = st.sets(st.sampled_from(["a", "a:1", "b:2", "c", "d", "e:5", "base"])).map(
    lambda names: {
        name: f"registry.example/{name.replace(':', '-')}@sha256:{'1' * 64}" for name in names
    }
)


@given(_FILES, _PINS, st.sampled_from(["\n", "\r\n"]))
def test_a_pinned_file_is_the_same_file_with_pinned_images(
    text: str, pins: dict[str, str], end: str
) -> None:
    """Read again it has the same stages; taken out again, the pins leave every byte."""
    before = read_stages(text.replace("\n", end), BuildOptions())
    after = read_stages(pinned(before, pins), BuildOptions())
    assert [use.image for use in after.uses] == [pins.get(u.image, u.image) for u in before.uses]
    assert (after.names, after.syntax) == (before.names, before.syntax)
    assert restored(before, after) == before.text


def restored(before: Stages, after: Stages) -> str:
    """The text of *after* with the words of *before* in the places of its images."""
    text = after.text
    for old, new in reversed(list(zip(before.uses, after.uses, strict=True))):
        begin, end = new.span
        text = text[:begin] + before.text[slice(*old.span)] + text[end:]
    return text


@given(st.text(max_size=80) | _FILES)
def test_any_text_is_read_or_refused(text: str) -> None:
    for options in (BuildOptions(), CLASSIC):
        try:
            stages = read_stages(text, options)
        except FormatError:
            continue
        assert all(bool(use.image) != bool(use.fault) for use in stages.uses)
        assert pinned(stages, {}) == text


# --- What builders do not agree on ---


@pytest.mark.parametrize(
    "text",
    [
        'FROM a\nRUN --mount=from=b,target=/t,\\"id=x\\"\\",from=a,y\\" ls',
        'FROM c AS s\nFROM a\nRUN --mount=from=b,\\"id=x\\"\\",from=s,y\\" ls',
    ],
)
def test_quotes_in_the_values_of_a_mount_hide_no_image(text: str) -> None:
    assert "b" in images(text)


def test_a_mount_that_is_no_list_of_values_is_refused() -> None:
    with pytest.raises(FormatError, match="line 2: mount: expected comma-separated values, got"):
        images('FROM a\nRUN --mount=from=b,id=\\"x ls')


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ARG X=a\nARG X\nFROM ${X:-b}", "an ARG without a value"),
        ("ARG X\nFROM r/${X-a}${X+b}", "an ARG without a value"),
        ("ARG X\nARG Y=${X+b}\nFROM r/${Y:-a}", "an ARG without a value"),
        ("ARG HTTP_PROXY\nFROM r/${HTTP_PROXY:+b}${Z-a}", "Docker may set by itself"),
        ("ARG https_proxy=\nFROM r/${https_proxy:+b}${Z-a}", "Docker may set by itself"),
        ("ARG SOURCE_DATE_EPOCH\nFROM r/${SOURCE_DATE_EPOCH:+b}a", "Docker may set by itself"),
        ("FROM r/${TARGETSTAGE+b}${X-a}", "TARGETSTAGE, which not all builders set"),
    ],
)
def test_a_name_that_builders_read_in_two_ways_is_not_known(text: str, why: str) -> None:
    (use,) = read_stages(text, BuildOptions()).uses
    assert use.image == ""
    assert why in use.fault


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ARG X\nFROM a:${X:-1}", ["a:1"]),
        ("ARG X\nARG X=2\nFROM a:${X-1}", ["a:2"]),
        ("ARG HTTP_PROXY\nFROM a", ["a"]),
    ],
)
def test_what_all_builders_read_alike_is_known(text: str, found: list[str]) -> None:
    assert images(text) == found


def test_a_value_that_the_arguments_give_is_known() -> None:
    given_ = BuildOptions(arguments={"HTTP_PROXY": "b", "TARGETSTAGE": "c", "X": "d"})
    text = "ARG HTTP_PROXY\nARG X\nFROM r/${HTTP_PROXY}${TARGETSTAGE}${X-a}"
    assert images(text, given_) == ["r/bcd"]


@pytest.mark.parametrize("before", ["RUN", "ONBUILD RUN"])
def test_a_heredoc_that_only_some_builders_see_hides_no_image(before: str) -> None:
    with pytest.raises(FormatError, match="expected its name right after <<, got a blank"):
        images(f'FROM a\n{before} cat << "USER root"\nFROM b\nUSER root')


def test_a_directive_behind_a_shebang_is_refused() -> None:
    """BuildKit looks for the reader of the file behind `#!`, and for nothing else."""
    with pytest.raises(FormatError, match="line 2: expected no directive syntax after #!, got one"):
        images("#!/usr/bin/x\n# syntax=evil\nFROM a")
    assert images("#!/usr/bin/x\n# words\n# syntax=none\nFROM a") == ["a"]
