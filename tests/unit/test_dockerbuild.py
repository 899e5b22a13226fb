"""Claims about `signimage.dockerbuild`: what is asked for, and why it failed."""

from dataclasses import replace
from pathlib import Path

import pytest

from signimage.dockerbuild import BuildRequest, build_command, failure, is_misuse, loaded


def test_command_is_a_list_with_the_users_arguments_before_our_id_file() -> None:
    request = BuildRequest(
        Path("/s/web api/Dockerfile"), Path("/s/web api"), ("h/a:1", "h/a:2"), {"l": "a b;$x"},
        ("--pull", "--iidfile", "/theirs"),
    )  # fmt: skip
    assert build_command("/bin/docker", request, Path("/t/id")) == [
        "/bin/docker", "build", "--file", "/s/web api/Dockerfile", "--tag", "h/a:1", "--tag",
        "h/a:2", "--label", "l=a b;$x", "--pull", "--iidfile", "/theirs", "--iidfile", "/t/id",
        "/s/web api",
    ]  # fmt: skip


def test_buildkit_brings_the_image_into_the_engine_unless_told_otherwise() -> None:
    plain = BuildRequest(Path("Dockerfile"), Path(), ("app:1",), arguments=("--no-cache",))
    assert loaded(plain).arguments == ("--no-cache", "--load")
    for own in ("--load", "--push", "--output=type=local,dest=x", "-o", "-otype=local,dest=x"):
        chosen = replace(plain, arguments=(own,))
        assert loaded(chosen) is chosen


# What `docker build` says of an argument list that is wrong, by 20.10.24 and by 28.2.2, then
# `docker buildx build`, by the sources of buildx 0.20.
_EXTRA_20 = """"docker build" requires exactly 1 argument.
See 'docker build --help'.
Usage:  docker build [OPTIONS] PATH | URL | -
Build an image from a Dockerfile"""
_EXTRA_28 = """DEPRECATED: The legacy builder is deprecated and will be removed in a future release.
docker: 'docker build' requires 1 argument
Usage:  docker build [OPTIONS] PATH | URL | -
Run 'docker build --help' for more information"""
_MEMORY_20 = """invalid argument "x" for "-m, --memory" flag: invalid size: 'x'
See 'docker build --help'."""
_MEMORY_28 = """invalid argument "x" for "-m, --memory" flag: invalid size: 'x'
Usage:  docker build [OPTIONS] PATH | URL | -
Run 'docker build --help' for more information"""
_FLAG_20 = """unknown flag: --nope
See 'docker build --help'."""
_EXTRA_BUILDX = """ERROR: docker: 'docker buildx build' requires 1 argument
Usage:  docker buildx build [OPTIONS] PATH | URL | -
Run 'docker buildx build --help' for more information"""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (_EXTRA_20, '"docker build" requires exactly 1 argument.'),
        (_EXTRA_28, "docker: 'docker build' requires 1 argument"),
        (_MEMORY_20, """invalid argument "x" for "-m, --memory" flag: invalid size: 'x'"""),
        (_MEMORY_28, """invalid argument "x" for "-m, --memory" flag: invalid size: 'x'"""),
        (_FLAG_20, "unknown flag: --nope"),
        (_EXTRA_BUILDX, "ERROR: docker: 'docker buildx build' requires 1 argument"),
    ],
)
def test_of_wrong_arguments_the_reason_is_told_and_not_the_help(said: str, reason: str) -> None:
    lines = said.splitlines()
    assert is_misuse(lines)
    assert failure(lines, 125).endswith(reason)


def test_help_that_a_program_prints_within_a_build_is_no_reason() -> None:
    lines = ["Usage: busybox grep", "The command '/bin/x' returned a non-zero code: 1"]
    assert failure(lines, 1) == lines[1]
    assert not is_misuse(lines)


@pytest.mark.parametrize(
    ("lines", "status", "why"),
    [
        ([], 3, "docker ended with status 3"),
        (["all is well"], 3, "docker ended with status 3: all is well"),
        (["all is well"], -9, "signal 9 ended docker: all is well"),
        (["Error response from daemon: no"], 1, "no"),
    ],
)
def test_a_failure_is_told_by_its_last_words(lines: list[str], status: int, why: str) -> None:
    assert failure(lines, status) == why
