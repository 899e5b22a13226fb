"""Claims about `signimage.buildx`: recorded words of buildx, and a small program in its place.

Builds by a real BuildKit are in `tests/peers/test_buildx.py`. Builders in containers and in
Kubernetes are only read here: there is neither on loopback.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.buildarguments import BuildArguments, read_arguments
from signimage.buildx import (
    METADATA_MAX,
    Builder,
    build_by_digest,
    build_layout,
    check_platforms,
    find_builder,
    read_builder,
    read_metadata,
)
from signimage.dockerbuild import BuildRequest
from signimage.errors import EngineError, FormatError, InputError, SignImageError
from signimage.oci import Digest, Repository

DIGEST = "sha256:e10d78f11db01a67b51755970d8e0d1b36bc18be1b9582f06235cecda2a2051f"
REPOSITORY = Repository("reg.example.com", "team/app")
NOTHING = BuildArguments(())

# --- recorded -------------------------------------------------------------------------------
# `docker buildx inspect` of Debian's docker-buildx 0.13.1 (trixie) and 0.29.1 (sid), 2026-11-22.

# 0.13.1, the engine docker.io 20.10.24 with its own image store.
OLD_ENGINE = """\
Name:          default
Driver:        docker
Last Activity: 2026-11-22 08:59:28 +0000 UTC

Nodes:
Name:             default
Endpoint:         default
Status:           running
BuildKit version: v0.8+unknown
Platforms:        linux/amd64, linux/386
"""
# 0.29.1, the engine docker.io 26.1.5 with containerd's image store.
NEW_ENGINE = """\
Name:          default
Driver:        docker
Last Activity: 2026-11-22 09:06:13 +0000 UTC

Nodes:
Name:             default
Endpoint:         default
Status:           running
BuildKit version: v0.0.0+unknown
Platforms:        linux/amd64, linux/amd64/v2, linux/amd64/v3, linux/amd64/v4
Labels:
 org.mobyproject.buildkit.worker.executor:             containerd
 org.mobyproject.buildkit.worker.moby.host-gateway-ip: <nil>
 org.mobyproject.buildkit.worker.snapshotter:          native
"""
# 0.29.1, `docker buildx create --name cont --driver docker-container`, never used yet.
CONTAINER = """\
Name:          cont
Driver:        docker-container
Last Activity: 2026-11-22 09:02:12 +0000 UTC

Nodes:
Name:                  cont0
Endpoint:              unix:///var/run/docker.sock
Status:                inactive
BuildKit daemon flags: --allow-insecure-entitlement=network.host
"""
# 0.29.1, `docker buildx create --name kub2 --driver kubernetes` for a cluster that is not there.
KUBERNETES = """\
Name:          kub2
Driver:        kubernetes
Last Activity: 2026-11-22 09:18:28 +0000 UTC

Nodes:
Name:                  kub20
Endpoint:              kubernetes:///kub2?deployment=buildkit-24e38e71-deeca&kubeconfig=%2Fkube.yaml
Status:                inactive
BuildKit daemon flags: --allow-insecure-entitlement=network.host
"""
# 0.13.1, `docker buildx create --name dead --driver remote tcp://127.0.0.1:9`.
DEAD = """\
Name:          dead
Driver:        remote
Last Activity: 2026-11-22 09:01:30 +0000 UTC

Nodes:
Name:     dead0
Endpoint: tcp://127.0.0.1:9
Status:   inactive
"""
# 0.29.1, DOCKER_HOST=unix:///nosuch.
NO_ENGINE = """\
Name:          default
Driver:        
Last Activity: 2026-11-22 08:59:28 +0000 UTC
Error:         Cannot connect to the Docker daemon at unix:///nosuch. Is the docker daemon running?
"""  # noqa: W291 -- as recorded
# 0.29.1, a build with provenance by a builder of the driver remote.
METADATA = {
    "buildx.build.provenance": {
        "builder": {"id": ""},
        "buildType": "https://mobyproject.org/buildkit@v1",
        "invocation": {"configSource": {}, "environment": {"platform": "linux/amd64"}},
    },
    "buildx.build.ref": "far/far0/ohhs47h2yx04cy0hg3iiluo9z",
    "containerimage.descriptor": {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": DIGEST,
        "size": 855,
    },
    "containerimage.digest": DIGEST,
    "image.name": "localhost:15999/a/b",
}


# --- builders -------------------------------------------------------------------------------


def test_engine_with_a_store_of_its_own_can_do_neither() -> None:
    builder = read_builder(OLD_ENGINE, NOTHING)
    assert builder.by_digest == (
        "builder default is the engine's own, which pushes nothing without a tag"
    )
    assert builder.layout == "the engine of builder default has no containerd image store"


def test_engine_with_containerds_store_writes_layouts() -> None:
    builder = read_builder(NEW_ENGINE, NOTHING)
    assert (builder.driver, bool(builder.by_digest), builder.layout) == ("docker", True, "")


@pytest.mark.parametrize(
    ("text", "builder"),
    [
        (CONTAINER, Builder("cont", "docker-container")),
        (KUBERNETES, Builder("kub2", "kubernetes")),
    ],
)
def test_builder_that_is_started_when_needed_need_not_run_yet(text: str, builder: Builder) -> None:
    assert read_builder(text, NOTHING) == builder


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (DEAD, "dead does not answer: nothing listens at tcp://127.0.0.1:9"),
        (NO_ENGINE, "default does not answer: Cannot connect to the Docker daemon at unix:///no"),
        (
            CONTAINER.replace("Status:                inactive", "Error: no permission"),
            "cont does not answer: no permission",
        ),
    ],
)
def test_builder_that_does_not_answer_is_named(text: str, why: str) -> None:
    with pytest.raises(EngineError, match=rf"^builder {why}") as caught:
        read_builder(text, NOTHING)
    assert "docker buildx inspect" in caught.value.hint


def test_builder_works_while_one_of_its_nodes_does() -> None:
    node = DEAD.partition("Nodes:\n")[2]
    text = f"{DEAD}\n{node.replace('dead0', 'dead1').replace('inactive', 'running')}"
    assert read_builder(text, NOTHING) == Builder("dead", "remote")


def test_engine_without_buildkit_may_still_build() -> None:
    text = OLD_ENGINE.replace("Status:           running", "Error: Windows has none")
    assert read_builder(text, NOTHING).layout


def test_arguments_that_say_where_the_image_goes_leave_nothing_to_decide() -> None:
    builder = read_builder(CONTAINER, read_arguments(["--load"]))
    assert builder.by_digest == builder.layout == "arguments: --load says where the image goes"


@pytest.mark.parametrize("text", ["", "Name: x", "Driver: docker", "{}", "\nNodes:\nName: x\n"])
def test_other_words_are_no_builder(text: str) -> None:
    with pytest.raises(FormatError, match="expected the name of a builder and its driver"):
        read_builder(text, NOTHING)


@given(st.one_of(st.text(), st.lists(st.sampled_from(DEAD.splitlines(keepends=True))).map("".join)))
def test_anything_is_a_builder_or_an_error_of_ours(text: str) -> None:
    try:
        builder = read_builder(text, NOTHING)
    except (FormatError, EngineError):
        return
    assert builder.name
    assert builder.driver


@pytest.mark.parametrize(
    ("builder", "why"),
    [
        (None, "docker buildx is not here, or DOCKER_BUILDKIT turns it off"),
        (
            read_builder(OLD_ENGINE, NOTHING),
            "the engine of builder default has no containerd image store",
        ),
        (
            read_builder(CONTAINER, read_arguments(["-o", "x"])),
            "arguments: --output says where the image goes",
        ),
    ],
)
def test_several_platforms_need_a_builder_that_can_hold_them(
    builder: Builder | None, why: str
) -> None:
    check_platforms(builder, ["linux/amd64"])
    with pytest.raises(
        InputError, match=f"^platforms: expected a builder for 2 platforms, but {why}$"
    ):
        check_platforms(builder, ["linux/amd64", "linux/arm64"])


@pytest.mark.parametrize("text", [NEW_ENGINE, CONTAINER])
def test_several_platforms_are_possible_where_an_index_can_go(text: str) -> None:
    check_platforms(read_builder(text, NOTHING), ["linux/amd64", "linux/arm64"])


# --- metadata -------------------------------------------------------------------------------


def test_digest_of_an_index_is_read() -> None:
    assert read_metadata(json.dumps(METADATA).encode()) == Digest.parse(DIGEST)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "expected JSON"),
        (b"\xff", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"[]", "expected an object, got a list"),
        (b'{"containerimage.digest": 1}', "digest must be a string, got a number"),
        (b'{"containerimage.digest": "sha256:1"}', r"^digest: expected sha256:<64 lower-case hex>"),
        (b'{"ContainerImage.Digest": "x"}', "is misspelt in letter case"),
    ],
)
def test_other_bytes_are_no_metadata(content: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        read_metadata(content)


def metadata_of(text: str) -> bytes:
    return json.dumps({"containerimage.digest": text}).encode()


@given(st.one_of(st.binary(), st.text().map(metadata_of), st.just(metadata_of(DIGEST))))
def test_anything_is_metadata_or_an_error_of_ours(content: bytes) -> None:
    try:
        found = read_metadata(content)
    except (FormatError, EngineError):
        return
    assert found.text in content.decode()


# --- a program in the place of docker ---------------------------------------------------------

Program = Callable[[str], str]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Return a maker of programs, in Python; `file` there is the metadata file."""

    def make(text: str) -> str:
        lines = [
            f"#!{sys.executable} -I",
            "import json, os, sys",
            "words = sys.argv[1:]",
            "file = words[words.index('--metadata-file') + 1] if 'build' in words else ''",
            text,
        ]
        path = tmp_path / "docker"
        path.write_text("\n".join(lines))
        path.chmod(0o700)
        return str(path)

    return make


def request(*arguments: str) -> BuildRequest:
    names = ("h/a:1", "h/a:2")
    return BuildRequest(
        Path("/s/web api/Dockerfile"), Path("/s/web api"), names, {"l": "a b;$x"}, arguments
    )


BUILT = f"open(file, 'w').write({json.dumps(METADATA)!r})"


def test_command_says_once_where_the_image_goes(program: Program, tmp_path: Path) -> None:
    said: list[bytes] = []
    docker = program(f"{BUILT}; print(json.dumps(words))")
    arguments = ("--push", "-t", "x", "--build-context=a=./b", "--sbom=true")
    found = build_by_digest(
        docker, {"DOCKER_CONFIG": str(tmp_path)}, request(*arguments), REPOSITORY, said.append,
        platforms=("linux/amd64", "linux/arm64"), contexts={"a": "docker-image://a@sha256:1"},
    )  # fmt: skip
    assert found == Digest.parse(DIGEST)
    words = json.loads(b"".join(said))
    metadata = Path(words.pop(-2))
    assert words == [
        "buildx", "build", "--file", "/s/web api/Dockerfile", "--label", "l=a b;$x",
        "--build-context=a=./b", "--sbom=true", "--platform", "linux/amd64,linux/arm64",
        "--build-context", "a=docker-image://a@sha256:1", "--output",
        "type=image,name=reg.example.com/team/app,push-by-digest=true,name-canonical=true,push=true",
        "--metadata-file", "/s/web api",
    ]  # fmt: skip
    assert metadata.parents[1] == tmp_path
    assert not metadata.parent.exists()


def test_layout_may_lie_in_any_folder(program: Program) -> None:
    said: list[bytes] = []
    docker = program(f"{BUILT}; print(words[words.index('--output') + 1])")
    build_layout(docker, {}, request(), Path('/a, "b"/c'), said.append)
    assert said == [b'type=oci,"dest=/a, ""b""/c",tar=false,"name=h/a:1,h/a:2"\n']


def test_who_decides_where_the_image_goes_cannot_have_it_pushed(program: Program) -> None:
    docker = program("raise SystemExit('not to be started')")
    with pytest.raises(
        InputError, match=r"^arguments: expected the step to decide .*, got --load$"
    ):
        build_by_digest(docker, {}, request("--load"), REPOSITORY, print)


def test_platforms_are_named_in_one_place(program: Program) -> None:
    docker = program("raise SystemExit('not to be started')")
    with pytest.raises(InputError, match=r"^platforms: expected them once, .*\(--platform\), too$"):
        build_layout(docker, {}, request("--platform=x"), Path("/l"), print, platforms=("y",))


@pytest.mark.parametrize("text", ["", "open(file, 'w').write('{}')"])
def test_run_that_builds_nothing_is_told_from_a_build(program: Program, text: str) -> None:
    with pytest.raises(EngineError, match=r"expected the digest of an image, got none$"):
        build_by_digest(program(text), {}, request("--check"), REPOSITORY, print)


def test_metadata_has_a_limit(program: Program) -> None:
    docker = program(f"open(file, 'w').truncate({METADATA_MAX + 1})")
    with pytest.raises(FormatError, match="expected at most 16777216 bytes, got more"):
        build_by_digest(docker, {}, request(), REPOSITORY, print)


def test_metadata_file_of_the_user_is_written_or_it_is_said(
    program: Program, tmp_path: Path
) -> None:
    docker, file = program(BUILT), tmp_path / "theirs"
    build_by_digest(docker, {}, request(f"--metadata-file={file}"), REPOSITORY, print)
    assert json.loads(file.read_bytes()) == METADATA
    with pytest.raises(InputError, match=r"^arguments: --metadata-file /no/m cannot be written: "):
        build_by_digest(docker, {}, request("--metadata-file=/no/m"), REPOSITORY, print)


# Last lines of failed pushes: buildx 0.29.1, and what registries of clouds say to it.
@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "failed to push {0}: unexpected status from HEAD request to x: 401 Unauthorized",
            "push of {0}: the registry does not allow it: ",
        ),
        (
            "failed to push {0}: server message: insufficient_scope: authorization failed, denied",
            "push of {0}: the registry does not allow it: ",
        ),
        (
            'failed to push {0}: failed to do request: Head "https://x/y": connection refused',
            "push of {0} failed: failed to push {0}: failed to do request: ",
        ),
        (
            "a/b:1: pull access denied, repository does not exist or may require authorization",
            "image was not built: a/b:1: pull access denied",
        ),
    ],
)
def test_words_of_a_failure_say_whose_it_is(program: Program, said: str, sentence: str) -> None:
    line = f"ERROR: failed to build: failed to solve: {said.format(REPOSITORY)}"
    with pytest.raises(SignImageError, match=f"^{sentence.format(REPOSITORY)}"):
        build_by_digest(program(f"sys.exit({line!r})"), {}, request(), REPOSITORY, print)


def test_builder_that_is_not_there_is_told_from_a_plugin_that_is_not_there(
    program: Program,
) -> None:
    docker = program("sys.exit('no builder \\x1b[1m##vso[x]' if 'inspect' in words else 0)")
    with pytest.raises(InputError, match=r"^docker buildx: .*no builder "):
        find_builder(docker, {}, [])


def test_without_the_plugin_docker_builds_without_buildkit(program: Program) -> None:
    assert find_builder(program("sys.exit('docker: unknown command')"), {}, ["--pull"]) is None
