"""Claims about `signimage.sources`, on a small program called docker."""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest

from signimage.dockerbuild import BuildRequest
from signimage.dockerconfig import DockerConfig
from signimage.engine import Docker
from signimage.oci import Repository
from signimage.response import Fixed
from signimage.sources import BuiltImage
from unit.small_docker import SmallDocker

DIGEST = "sha256:" + "2" * 64
DOCKERFILE = """
ARG V=3.20
FROM alpine:$V AS tools
FROM debian:$V
"""


@pytest.fixture
def small(tmp_path: Path) -> SmallDocker:
    small = SmallDocker(tmp_path / "programs")
    small.tell("build", image_id="sha256:" + "1" * 64)
    digests = [f"{name}@{DIGEST}" for name in ("alpine", "debian")]
    small.tell("image inspect", output=json.dumps({"RepoDigests": digests}))
    return small


@pytest.fixture
def built(small: SmallDocker, tmp_path: Path) -> Iterator[Callable[..., BuiltImage]]:
    """Give what builds the Dockerfile above with some arguments."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(DOCKERFILE)
    environment = {"PATH": str(small.folder), "DOCKER_BUILDKIT": "0", "V": "12"}
    config = DockerConfig(tmp_path, {"DOCKER_CONFIG": str(tmp_path)})
    with Docker(environment, config) as engine:

        def build(*arguments: str) -> BuiltImage:
            image = BuiltImage(
                engine,
                Repository.parse("reg.example.com/app"),
                ("1",),
                Fixed(None),
                lambda _: None,
                BuildRequest(dockerfile, tmp_path, ("reg.example.com/app:1",), {}, arguments),
                (),
                pushes=False,
                labels_base=True,
                sink=lambda: nullcontext(BytesIO()),
                pinned=lambda request, _: request,
                scratch=tmp_path,
                environment=environment,
            )
            image.check()
            image.prepare()
            return image

        yield build


def labels(small: SmallDocker) -> list[str]:
    """Return the labels that the builder was given."""
    (call,) = small.calls("build")
    words = call.arguments
    return [word for flag, word in pairwise(words) if flag == "--label"]


@pytest.mark.parametrize(
    ("arguments", "base"),
    [
        ((), "debian:3.20"),
        (("--build-arg", "V=11"), "debian:11"),
        (("--build-arg=V",), "debian:12"),
    ],
)
def test_the_base_image_of_the_labels_is_the_one_that_the_arguments_lead_to(
    built: Callable[..., BuiltImage], small: SmallDocker, arguments: tuple[str, ...], base: str
) -> None:
    built(*arguments)
    (looked_at,) = small.calls("image")
    assert looked_at.arguments[-1] == base
    assert labels(small) == [f"image.base.ref.name={base}", f"image.base.digest={DIGEST}"]


@pytest.mark.parametrize("arguments", [("--target", "tools"), ("--target=tools",), ("-f", "other")])
def test_no_base_image_is_named_where_another_stage_or_file_is_built(
    built: Callable[..., BuiltImage], small: SmallDocker, arguments: tuple[str, ...]
) -> None:
    built(*arguments)
    assert labels(small) == []
