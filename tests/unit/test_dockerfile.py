"""Claims about `signimage.dockerfile`, on real folders."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signimage.dockerfile import (
    DOCKERFILE_MAX,
    base_image,
    build_context,
    find_dockerfile,
    read_dockerfile,
    write_dockerfile,
)
from signimage.errors import FormatError, InputError
from signimage.stages import BuildOptions

PINNED = "b:2@sha256:" + "0" * 64


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Make sources with two Dockerfiles at one depth and one deeper."""
    root = tmp_path / "1" / "s"
    for name in ("web api/Dockerfile", "b/Dockerfile", "a/deep/Dockerfile", "a/prod.Dockerfile"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("FROM scratch\n")
    (root / "c" / "Dockerfile").mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/Dockerfile", "b/Dockerfile"),
        ("a/**/Dockerfile", "a/deep/Dockerfile"),
        ("**/*.Dockerfile", "a/prod.Dockerfile"),
        ("web api/Dockerfile", "web api/Dockerfile"),
        ("web*/Dockerfile", "web api/Dockerfile"),
        ("./b/Dockerfile ", "b/Dockerfile"),
    ],
)
def test_first_match_by_depth_and_name_is_taken(sources: Path, pattern: str, found: str) -> None:
    assert find_dockerfile(pattern, sources) == sources / found
    rooted = str(sources / pattern.strip())
    assert find_dockerfile(rooted, Path("/nowhere")) == sources / found


def test_name_with_brackets_is_a_name_first(sources: Path) -> None:
    (sources / "[b]").mkdir()
    (sources / "[b]" / "Dockerfile").write_text("FROM scratch\n")
    assert find_dockerfile("[b]/Dockerfile", sources) == sources / "[b]" / "Dockerfile"


def test_folders_above_the_sources_are_no_pattern(tmp_path: Path) -> None:
    root, neighbour = tmp_path / "agent[1]" / "s", tmp_path / "agent1" / "s"
    for folder in (root / "web", neighbour):
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text("FROM scratch\n")
    found = root / "web" / "Dockerfile"
    assert find_dockerfile("**/Dockerfile", root) == found
    assert find_dockerfile(str(root / "**" / "Dockerfile"), root) == found


@pytest.mark.parametrize("pattern", ["nope/Dockerfile", "**/Nope", "b", "c/Dockerfile", ""])
def test_absent_dockerfile_is_named(sources: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"^Dockerfile not found: /.*/1/s"):
        find_dockerfile(pattern, sources)


@pytest.mark.parametrize("value", ["**", "", "  ", "/root/**"])
def test_context_is_the_folder_of_the_dockerfile_by_default(sources: Path, value: str) -> None:
    root = Path("/root") if value.startswith("/root") else sources
    dockerfile = sources / "web api" / "Dockerfile"
    assert build_context(value, dockerfile, root) == sources / "web api"


def test_context_may_be_any_folder_and_the_root_itself(sources: Path) -> None:
    dockerfile = sources / "b" / "Dockerfile"
    assert build_context("web api", dockerfile, sources) == sources / "web api"
    assert build_context(str(sources), dockerfile, sources) == sources
    assert build_context(".", dockerfile, sources) == sources


@pytest.mark.parametrize("value", ["nope", "b/Dockerfile"])
def test_context_that_is_no_folder_is_named(sources: Path, value: str) -> None:
    with pytest.raises(InputError, match=rf"^build context not found: /.*/{value}$"):
        build_context(value, sources / "b" / "Dockerfile", sources)


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("FROM alpine", "alpine"),
        (f"FROM alpine:3.20 AS x\nFROM --platform=linux/amd64 {PINNED} \n", PINNED),
        ("# FROM no\r\n  from alpine as a\r\nRUN x\r\n", "alpine"),
        ('ARG V=3.20\nARG B="alpine"\nFROM ${B}:$V\n', "alpine:3.20"),
        ("ARG V\nFROM alpine:$V\n", None),
        ("ARG V\nFROM alpine$V\n", "alpine"),
        ("FROM a\nRUN <<EOF\nFROM no\nEOF\n", "a"),
        ("FROM a-$TARGETARCH", None),
        ("FROM Alpine", None),
        (r"FROM \$a", None),
        ("FORM a\nFROM a", None),
        ("FROM a AS build\nFROM build\n", None),
        ("FROM a AS build\nFROM b\nCOPY --from=build /x /x\n", "b"),
        ("FROM scratch", None),
        ("RUN echo FROM x", None),
        ("", None),
    ],
)  # fmt: skip
def test_base_image_is_that_of_the_last_stage(tmp_path: Path, text: str, image: str | None) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(text, newline="")
    assert base_image(file, BuildOptions()) == image


def test_argument_that_would_grow_without_a_limit_names_no_image(tmp_path: Path) -> None:
    """Half a MiB, named a hundred thousand times, is 50 GB."""
    file = tmp_path / "Dockerfile"
    file.write_text(f"ARG A={'x' * 500_000}\nFROM {'$A' * 100_000}\n")
    assert base_image(file, BuildOptions()) is None
    file.write_text(f"ARG A={'x' * 500_000}\nFROM $A\n")
    assert base_image(file, BuildOptions()) is None


def test_base_image_follows_the_build_arguments(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("ARG V=3.20\nFROM alpine:$V\n")
    assert base_image(file, BuildOptions(arguments={"V": "3.21"})) == "alpine:3.21"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_looked_at_without_a_fault(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "Dockerfile"
    file.write_bytes(content)
    assert base_image(file, BuildOptions()) != ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_written_as_they_were_read(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "Dockerfile"
    file.write_bytes(content)
    copy = write_dockerfile(read_dockerfile(file), file, tmp_path)
    assert copy.read_bytes() == content
    assert copy.name == "Dockerfile"
    assert copy.parent.parent == tmp_path
    assert [each.name for each in copy.parent.iterdir()] == ["Dockerfile"]


def test_what_is_ignored_for_one_dockerfile_goes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "prod.Dockerfile"
    file.write_text("FROM a\n")
    (tmp_path / "prod.Dockerfile.dockerignore").write_bytes(b"*\r\n!x\n")
    copy = write_dockerfile("FROM b\n", file, tmp_path)
    assert copy.read_text() == "FROM b\n"
    assert (copy.parent / "prod.Dockerfile.dockerignore").read_bytes() == b"*\r\n!x\n"


def test_a_dockerfile_that_is_none_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Dockerfile /.*/nope cannot be read: No such file"):
        read_dockerfile(tmp_path / "nope")
    file = tmp_path / "Dockerfile"
    file.write_bytes(b"#" * DOCKERFILE_MAX)
    assert len(read_dockerfile(file)) == DOCKERFILE_MAX
    file.write_bytes(b"#" * (DOCKERFILE_MAX + 1))
    with pytest.raises(FormatError, match="expected at most 1048576 bytes, got more"):
        read_dockerfile(file)
    assert base_image(file, BuildOptions()) is None
