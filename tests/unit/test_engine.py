"""Claims about `signimage.engine`: which way to the engine is taken, and what all ways share.

The ways themselves are in `test_dockercli.py` and `test_enginesdk.py`.
"""

import json
from pathlib import Path

import pytest

from signimage.dockerconfig import DockerConfig
from signimage.engine import Docker
from signimage.enginestream import Versions
from signimage.errors import EngineError
from unit.small_docker import SmallDocker

PIPE = "npipe:////./pipe/docker_engine"
IMAGE_ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64


@pytest.fixture
def small(tmp_path: Path) -> SmallDocker:
    return SmallDocker(tmp_path / "programs")


@pytest.fixture
def config(tmp_path: Path) -> DockerConfig:
    return DockerConfig(tmp_path, {"DOCKER_CONFIG": str(tmp_path)})


@pytest.fixture
def docker(small: SmallDocker, config: DockerConfig) -> Docker:
    return Docker({"PATH": str(small.folder), "DOCKER_HOST": PIPE}, config)


@pytest.mark.parametrize("host", [PIPE, "ssh://somebody@h", "unix:///no.sock", "tcp://h:1"])
def test_with_the_command_every_kind_of_address_goes_by_it(
    small: SmallDocker, config: DockerConfig, host: str
) -> None:
    """Also those that Docker's library cannot reach: a named pipe of Windows, and ssh."""
    with Docker({"PATH": str(small.folder), "DOCKER_HOST": host}, config) as docker:
        docker.check()
        assert docker.versions() == Versions("docker 28.2.2", "20.10.24+dfsg1")
    (call,) = small.calls("version")
    assert call.environment["DOCKER_HOST"] == host
    assert call.environment["DOCKER_CONFIG"] == str(config.folder)


def test_without_the_command_a_named_pipe_is_out_of_reach(config: DockerConfig) -> None:
    with (
        Docker({"PATH": "/no", "DOCKER_HOST": PIPE}, config) as docker,
        pytest.raises(EngineError, match=r"docker_engine: that takes the docker command, which"),
    ):
        docker.check()


def test_a_command_among_the_sources_is_not_started(
    small: SmallDocker, config: DockerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.folder)
    with (
        Docker({"PATH": ".", "DOCKER_HOST": PIPE}, config) as docker,
        pytest.raises(EngineError, match=r"that takes the docker command"),
    ):
        docker.check()
    assert small.calls("version") == []


def test_an_image_is_found_by_its_name(docker: Docker, small: SmallDocker) -> None:
    small.tell("image inspect", output=json.dumps({"Id": IMAGE_ID}))
    assert docker.find("a/b:1") == IMAGE_ID


def test_an_image_without_an_id_is_none(docker: Docker, small: SmallDocker) -> None:
    small.tell("image inspect", output="{}")
    with pytest.raises(EngineError, match=r"^image a/b:1: expected its ID from the engine, got no"):
        docker.find("a/b:1")


def test_base_image_is_named_by_labels(docker: Docker, small: SmallDocker) -> None:
    elsewhere = f"localhost:5000/alpine@sha256:{'0' * 64}"
    digests = {"RepoDigests": [f"<none>@{DIGEST}", elsewhere, f"alpine@{DIGEST}"]}
    small.tell("image inspect", output=json.dumps(digests))
    labels = {"image.base.ref.name": "alpine:3.20", "image.base.digest": DIGEST}
    assert docker.base_image_labels("alpine:3.20") == labels
    small.tell("image inspect", output=json.dumps({"RepoDigests": [elsewhere]}))
    assert docker.base_image_labels("alpine:3.20") == {}
    small.tell("image inspect", output=json.dumps({"RepoDigests": None}))
    assert docker.base_image_labels("alpine:3.20") == {}
    small.tell("image inspect", complaint="Error: No such image: alpine:3.20", status=1)
    assert docker.base_image_labels("alpine:3.20") == {}


def test_layers_are_the_history_and_the_digests(docker: Docker, small: SmallDocker) -> None:
    step = {"CreatedAt": "2026-11-22T08:58:00Z", "CreatedBy": "COPY a b", "Size": "7"}
    small.tell("history", output=json.dumps(step))
    small.tell("image inspect", output=json.dumps({"RootFS": {"Layers": [DIGEST]}}))
    steps, blobs = docker.layers(IMAGE_ID)
    assert [(one.created_by, one.size) for one in steps] == [("COPY a b", 7)]
    assert blobs == [DIGEST]
