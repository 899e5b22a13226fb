"""`signimage.buildx` with a real BuildKit, by the engine's own builder and by one far away."""

import json
import os
import select
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from peers.buildkit import FAR, BuildKit
from peers.stack import Stack, make_context
from signimage.archive import open_image
from signimage.buildx import Builder, build_by_digest, build_layout, find_builder
from signimage.dockerbuild import BuildRequest
from signimage.dockerconfig import child_environment, private_config
from signimage.errors import BuildError, EngineError, InputError, UnauthorizedError
from signimage.oci import Digest, Manifest, Repository
from signimage.registry import Registry
from signimage.transport import Credentials, Transport

LABEL = 'a b;$x "q"'
PLATFORMS = ("linux/amd64", "linux/arm64")
PLAIN = "--provenance=false"
# The engine of the tests has no bridge for what runs while it builds.
NO_NETWORK = "--network=none"
ENDING_MS = 20_000


@dataclass(frozen=True, slots=True)
class Desk:
    """Somebody with buildx, a login at a registry, and one repository there."""

    buildkit: BuildKit
    environ: dict[str, str]
    program: str
    repository: Repository
    login: Credentials
    folder: Path

    def find(self, *arguments: str, **variables: str) -> Builder | None:
        return find_builder(self.program, {**self.environ, **variables}, arguments)

    def push(
        self,
        context: Path,
        *arguments: str,
        builder: str = FAR,
        platforms: Sequence[str] = (),
        contexts: dict[str, str] | None = None,
    ) -> Digest:
        return build_by_digest(
            self.program,
            self.environ,
            request_of(context, f"--builder={builder}", *arguments),
            self.repository,
            lambda _: None,
            platforms=platforms,
            contexts=contexts or {},
        )

    def resolve(self, reference: str | Digest) -> Manifest:
        with Transport() as transport:
            return Registry(transport, self.repository, self.login).resolve(reference)

    def read(self, reference: str | Digest) -> dict[str, Any]:
        return dict(json.loads(self.resolve(reference).content))


@pytest.fixture
def desk(buildkit: BuildKit, stack: Stack, tmp_path: Path, repository_name: str) -> Iterator[Desk]:
    login = Credentials(stack.username, stack.password)
    environ = buildkit.home(tmp_path / "home")
    with private_config(tmp_path, {stack.registry: login}, environ) as config:
        yield Desk(
            buildkit,
            child_environment(environ, (), config),
            buildkit.docker_cli,
            Repository(stack.registry, repository_name),
            login,
            tmp_path,
        )


def request_of(context: Path, *arguments: str) -> BuildRequest:
    return BuildRequest(context / "Dockerfile", context, (), {"l": LABEL}, arguments)


def tags_of(repository: Repository, login: Credentials) -> list[str]:
    """Ask the registry itself for all tags; a repository without any is none to it."""
    manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    url = f"http://{repository.host}/v2/{repository.path}/tags/list"
    manager.add_password(None, url, login.username, login.password)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    try:
        with opener.open(url) as answer:
            return list(json.load(answer)["tags"] or ())
    except urllib.error.HTTPError as error:
        with error:
            if "NAME_UNKNOWN" not in error.read().decode():
                raise
        return []


# --- which builder --------------------------------------------------------------------------


def test_builder_is_the_one_that_docker_would_use(desk: Desk) -> None:
    assert desk.find() == Builder(
        "default",
        "docker",
        by_digest="builder default is the engine's own, which pushes nothing without a tag",
    )
    assert desk.find(f"--builder={FAR}") == Builder(FAR, "remote")
    assert desk.find(BUILDX_BUILDER=FAR) == Builder(FAR, "remote")
    assert desk.find("--builder", FAR, BUILDX_BUILDER="default") == Builder(FAR, "remote")


def test_builder_that_was_chosen_before_the_step_is_used(desk: Desk) -> None:
    desk.buildkit.docker(desk.environ, "buildx", "use", FAR)
    assert desk.find() == Builder(FAR, "remote")
    assert desk.find("--builder=default") != Builder(FAR, "remote")


def test_builder_that_nobody_made_is_wrong_input(desk: Desk) -> None:
    with pytest.raises(InputError, match=r'^docker buildx: no builder "nosuch" found$'):
        desk.find("--builder=nosuch")


def test_builder_that_does_not_answer_fails_before_any_build(desk: Desk, tmp_path: Path) -> None:
    home = {**desk.environ, "DOCKER_CONFIG": str(tmp_path / "home" / ".docker")}
    with socket.socket(socket.AF_UNIX) as deaf:  # a name that nothing listens at
        deaf.bind(str(tmp_path / "deaf"))
        desk.buildkit.create_builder(home, "dead", tmp_path / "deaf")
        with pytest.raises(
            EngineError, match=rf"^builder dead does not answer: nothing listens at unix://{tmp_path}/deaf$"
        ):  # fmt: skip
            desk.find("--builder=dead")


def test_engine_that_does_not_answer_fails_before_any_build(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^builder default does not answer: Cannot connect to "):
        desk.find(DOCKER_HOST=f"unix://{tmp_path}/none")


def test_without_buildx_there_is_no_builder(desk: Desk, tmp_path: Path) -> None:
    assert desk.find(DOCKER_CONFIG=str(tmp_path)) is None
    with pytest.raises(InputError, match=f"^arguments: --builder {FAR} needs docker buildx, which"):
        desk.find(f"--builder={FAR}", DOCKER_CONFIG=str(tmp_path))


def test_who_turns_buildkit_off_has_no_builder(desk: Desk) -> None:
    assert desk.find(DOCKER_BUILDKIT="0") is None


# --- pushed by digest -----------------------------------------------------------------------


def test_image_is_in_the_registry_and_no_tag_is(desk: Desk) -> None:
    digest = desk.push(make_context(desk.folder / "web api"), PLAIN, "--tag", "left:out", "--push")
    assert tags_of(desk.repository, desk.login) == []
    assert len(desk.read(digest)["layers"]) == 2


def test_image_for_two_platforms_is_an_index(desk: Desk) -> None:
    digest = desk.push(make_context(desk.folder / "context"), PLAIN, platforms=PLATFORMS)
    found = [one["platform"] for one in desk.read(digest)["manifests"]]
    assert found == [{"os": "linux", "architecture": each} for each in ("amd64", "arm64")]
    assert tags_of(desk.repository, desk.login) == []


def test_provenance_is_part_of_what_gets_a_digest(desk: Desk) -> None:
    digest = desk.push(make_context(desk.folder / "context"), "--provenance=mode=max")
    image, statement = desk.read(digest)["manifests"]
    assert statement["annotations"] == {
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }


def test_labels_arrive_as_they_are(desk: Desk) -> None:
    digest = desk.push(make_context(desk.folder / "context"), PLAIN)
    name = f"{desk.repository}@{digest}"
    desk.buildkit.docker(desk.environ, "pull", name)
    form = '{{index .Config.Labels "l"}}'
    assert desk.buildkit.docker(desk.environ, "inspect", "--format", form, name) == f"{LABEL}\n"


def test_metadata_is_also_written_where_the_arguments_want_it(desk: Desk) -> None:
    file = desk.folder / "theirs.json"
    digest = desk.push(make_context(desk.folder / "context"), "--metadata-file", str(file))
    assert json.loads(file.read_text())["containerimage.digest"] == digest.text


def test_named_context_decides_what_a_base_image_is(desk: Desk) -> None:
    signed = desk.push(make_context(desk.folder / "1", "signed"), PLAIN)
    moved = desk.push(make_context(desk.folder / "2", "moved"), PLAIN)
    base = f"{desk.repository}:1"
    with Transport() as transport:
        registry = Registry(transport, desk.repository, desk.login)
        registry.put_manifest("1", registry.resolve(moved))
    context = desk.folder / "3"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY Dockerfile /more\n")
    pin = {base: f"docker-image://{desk.repository}@{signed}"}
    theirs = f"--build-context={base}=docker-image://{desk.repository}@{moved}"
    for digest, expected in (
        (desk.push(context, PLAIN), moved),
        (desk.push(context, PLAIN, contexts=pin), signed),
        (desk.push(context, PLAIN, theirs, contexts=pin), signed),
    ):
        layers = desk.read(expected)["layers"]
        assert desk.read(digest)["layers"][: len(layers)] == layers


# --- into a layout --------------------------------------------------------------------------


@pytest.mark.parametrize("builder", ["default", FAR])
def test_layout_holds_the_index_for_two_platforms(desk: Desk, builder: str) -> None:
    context = make_context(desk.folder / "context")
    request = request_of(context, f"--builder={builder}")
    folder = desk.folder / 'with, "marks"'
    digest = build_layout(
        desk.program, desk.environ, request, folder, lambda _: None, platforms=PLATFORMS
    )
    with open_image(folder, desk.folder) as image:
        blobs = {blob.descriptor.digest.text for blob in image.blobs()}
        *parts, index = image.manifests()
    assert index.descriptor.digest == digest
    # Each platform, and an attestation that is the same for both, as it names no image.
    assert len(parts) == len(PLATFORMS) + 1
    assert {json.loads(part.content)["config"]["digest"] for part in parts} <= blobs


def test_attestations_in_a_layout_name_the_image(desk: Desk) -> None:
    folder = desk.folder / "layout"
    request = replace(
        request_of(make_context(desk.folder / "context"), "--provenance=true"),
        references=("reg.example.com/a:1", "reg.example.com/a:2"),
    )
    build_layout(desk.program, desk.environ, request, folder, lambda _: None)
    with open_image(folder, desk.folder) as image:
        blobs, statement = list(image.blobs()), image.manifests()[1]
        (layer,) = json.loads(statement.content)["layers"]
        (blob,) = (one for one in blobs if one.descriptor.digest.text == layer["digest"])
        with blob.open() as stream:
            subjects = json.load(stream)["subject"]
    assert [one["name"].partition("?")[0] for one in subjects] == [
        "pkg:docker/reg.example.com/a@1",
        "pkg:docker/reg.example.com/a@2",
    ]


# --- failures -------------------------------------------------------------------------------


def test_the_engines_own_builder_still_refuses_to_push_by_digest(desk: Desk) -> None:
    with pytest.raises(BuildError, match="push-by-digest is currently not implemented for docker"):
        desk.push(make_context(desk.folder / "context"), builder="default")


def test_failing_instruction_is_a_build_error(desk: Desk) -> None:
    context = make_context(desk.folder / "context", instructions=['RUN ["busybox", "false"]'])
    with pytest.raises(
        BuildError,
        match=r'^image was not built: process "busybox false" did not .*: exit code: 1$',
    ):
        desk.push(context, NO_NETWORK)


def test_dockerfile_that_is_none_is_a_build_error(desk: Desk) -> None:
    context = make_context(desk.folder / "context")
    (context / "Dockerfile").write_text("FORM scratch\n")
    with pytest.raises(
        BuildError, match=r"^image was not built: dockerfile parse error .*instruction: FORM"
    ):
        desk.push(context)


def test_argument_that_nobody_knows_is_a_build_error(desk: Desk) -> None:
    with pytest.raises(BuildError, match=r"^image was not built: unknown flag: --bogus") as caught:
        desk.push(make_context(desk.folder / "context"), "--bogus=1")
    assert caught.value.hint == "Check arguments, which are passed on to docker buildx build"


def test_registry_that_refuses_is_no_error_of_the_build(
    desk: Desk, stack: Stack, tmp_path: Path
) -> None:
    wrong = Credentials(stack.username, "wrong")
    with private_config(tmp_path, {stack.registry: wrong}, desk.environ) as config:
        desk.environ["DOCKER_CONFIG"] = str(config.folder)
        with pytest.raises(
            UnauthorizedError,
            match=rf"^push of {desk.repository}: the registry does not allow it: ",
        ):
            desk.push(make_context(desk.folder / "context"))


def test_registry_that_the_builder_cannot_reach_is_no_error_of_the_build(desk: Desk) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        place = Repository(f"localhost:{deaf.getsockname()[1]}", "team/app")
        request = request_of(make_context(desk.folder / "context"), f"--builder={FAR}")
        with pytest.raises(
            EngineError, match=rf"^push of {place} failed: .*connection refused$"
        ) as caught:
            build_by_digest(desk.program, desk.environ, request, place, lambda _: None)
    assert caught.value.hint.startswith("The builder itself must reach the registry")


class CancelledError(BaseException):
    """What a signal handler may raise."""


def test_canceled_build_leaves_no_process_and_nothing_pushed(desk: Desk) -> None:
    marker = f"86399.{uuid.uuid4().int}"
    run = f'RUN ["busybox", "sh", "-c", "echo begun-$((6*7)); exec busybox sleep {marker}"]'
    context = make_context(desk.folder / "context", instructions=[run])
    words = (f"--builder={FAR}", NO_NETWORK, "--progress=plain", f"--label=marker={marker}")
    with ExitStack() as handles:
        running: list[int] = []

        def cancel(line: bytes) -> None:
            if b"begun-42" in line:
                for process in processes(marker):
                    running.append(os.pidfd_open(process))
                    handles.callback(os.close, running[-1])
                raise CancelledError

        request = request_of(context, *words)
        with pytest.raises(CancelledError):
            build_by_digest(desk.program, desk.environ, request, desk.repository, cancel)
        # The command line, its plugin, and what ran in BuildKit, which ends when it has heard.
        assert len(running) >= 3, "the search has gone blind"
        for handle in running:
            watch = select.poll()
            watch.register(handle, select.POLLIN)
            assert watch.poll(ENDING_MS), "still runs"
    assert tags_of(desk.repository, desk.login) == []


def processes(part: str) -> list[int]:
    """Return the processes whose argument list holds *part*."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if part.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
