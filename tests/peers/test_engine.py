"""`signimage.engine` with a real engine, its command line, and a registry that asks for a login."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.stack import Stack, make_context
from signimage.dockerbuild import BuildRequest
from signimage.dockerconfig import DockerConfig, private_config
from signimage.engine import Docker
from signimage.errors import BuildError, EngineError, UnauthorizedError
from signimage.oci import Repository
from signimage.registry import Registry
from signimage.transport import Credentials, Transport


@pytest.fixture
def login(stack: Stack) -> Credentials:
    return Credentials(stack.username, stack.password)


@pytest.fixture
def environ(stack: Stack, tmp_path: Path) -> dict[str, str]:
    """Return an environment without a home of Docker's, but with something to hide."""
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "DOCKER_HOST": stack.docker_host,
        "SYSTEM_ACCESSTOKEN": "s3cret",
        # With it the command would sign by itself, or fail for want of passphrases.
        "DOCKER_CONTENT_TRUST": "1",
    }


@pytest.fixture
def config(
    stack: Stack, tmp_path: Path, environ: dict[str, str], login: Credentials
) -> Iterator[DockerConfig]:
    with private_config(tmp_path, {stack.registry: login}, environ) as it:
        yield it


def _commands() -> tuple[str, ...]:
    """The docker commands of this machine, each once: their outputs differ by version."""
    found = {
        os.path.realpath(program): program
        for folder in os.environ["PATH"].split(os.pathsep)
        if (program := shutil.which("docker", path=folder))
    }
    return tuple(found.values())


@pytest.fixture(params=["", *_commands()], ids=lambda command: command or "engine alone")
def docker(
    request: pytest.FixtureRequest, environ: dict[str, str], config: DockerConfig, tmp_path: Path
) -> Iterator[Docker]:
    """Every way to the engine; without a command there is no program called docker on PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if request.param:
        (programs / "docker").symlink_to(request.param)
    environ["PATH"] = str(programs)
    with Docker(environ, config) as it:
        yield it


@pytest.fixture
def command_line(environ: dict[str, str], config: DockerConfig) -> Iterator[Docker]:
    with Docker(environ, config) as it:
        yield it


def build(docker: Docker, folder: Path, *names: str, **labels: str) -> tuple[str, str]:
    """Build what is in *folder*; return the image's ID and the output."""
    output: list[bytes] = []
    request = BuildRequest(folder / "Dockerfile", folder, names, labels)
    image_id = docker.build(request, output.append)
    return image_id, b"".join(output).decode()


def test_image_is_built_named_pushed_and_found_at_the_registry(
    docker: Docker, stack: Stack, tmp_path: Path, repository_name: str, login: Credentials
) -> None:
    folder = make_context(tmp_path / "web api", repository_name)
    name = f"{stack.registry}/{repository_name}"
    image_id, output = build(docker, folder, f"{name}:1.2", f"{name}:latest", label="a b;$x")
    assert "Step 1/" in output
    assert docker.find(f"{name}:latest") == image_id
    percentages: list[int] = []
    pushed = docker.push(name, "1.2", login, percentages.append)
    assert percentages == sorted(percentages)
    with Transport() as transport:
        registry = Registry(transport, Repository(stack.registry, repository_name), login)
        manifest = registry.resolve("1.2")
    assert (pushed.digest, pushed.size) == (manifest.descriptor.digest, manifest.descriptor.size)
    assert docker.push(name, "latest", login, percentages.append).digest == pushed.digest


def test_labels_arrive_as_they_are(
    docker: Docker, stack: Stack, tmp_path: Path, repository_name: str
) -> None:
    folder = make_context(tmp_path / "context")
    image_id, _ = build(docker, folder, f"{repository_name}:1", label='a b;$x "q" ü')
    judge = stack.docker_config(tmp_path / "judge")
    shown = stack.docker(
        "inspect", "--format", '{{index .Config.Labels "label"}}', image_id, config=judge
    )
    assert shown.stdout == 'a b;$x "q" ü\n'


def test_failing_instruction_is_a_build_error(docker: Docker, tmp_path: Path) -> None:
    folder = make_context(tmp_path / "context", instructions=['RUN ["busybox", "false"]'])
    with pytest.raises(BuildError, match=r"^image was not built: .*returned a non-zero code: 1$"):
        build(docker, folder)


def test_dockerfile_that_is_none_is_a_build_error(docker: Docker, tmp_path: Path) -> None:
    folder = make_context(tmp_path / "context")
    (folder / "Dockerfile").write_text("FORM scratch\n")
    with pytest.raises(BuildError, match=r"^image was not built: .*unknown instruction: FORM$"):
        build(docker, folder)


def test_commands_for_the_agent_arrive_as_bytes_like_any_other(
    docker: Docker, tmp_path: Path
) -> None:
    attack = "##vso[task.setvariable variable=x]y"
    run = f'RUN ["busybox", "echo", "{attack} {tmp_path.name}"]'
    _, output = build(docker, make_context(tmp_path / "context", instructions=[run]))
    assert f"\n{attack} {tmp_path.name}\n" in output


def test_dockerfile_may_be_outside_of_the_context(
    docker: Docker, tmp_path: Path, repository_name: str
) -> None:
    folder = make_context(tmp_path / "context")
    elsewhere = tmp_path / "else where" / "prod.Dockerfile"
    elsewhere.parent.mkdir()
    shutil.move(folder / "Dockerfile", elsewhere)
    request = BuildRequest(elsewhere, folder, (f"{repository_name}:1",))
    assert docker.build(request, lambda _: None).startswith("sha256:")


@pytest.mark.parametrize("password", ["wrong", None])
def test_push_without_the_right_password_is_refused(
    command_line: Docker, stack: Stack, tmp_path: Path, repository_name: str, password: str | None
) -> None:
    name = f"{stack.registry}/{repository_name}"
    build(command_line, make_context(tmp_path / "context"), f"{name}:1")
    login = None if password is None else Credentials(stack.username, password)
    with pytest.raises(UnauthorizedError, match=rf"^push of {name}:1: the registry does not allow"):
        command_line.push(name, "1", login, lambda _: None)


def test_push_of_an_image_that_is_not_there_is_an_engine_error(
    command_line: Docker, stack: Stack, repository_name: str, login: Credentials
) -> None:
    name = f"{stack.registry}/{repository_name}"
    with pytest.raises(EngineError, match=r"An image does not exist locally with the tag: "):
        command_line.push(name, "1", login, lambda _: None)


def test_base_image_is_named_by_its_digest_once_it_is_here(
    command_line: Docker, stack: Stack, tmp_path: Path, repository_name: str, login: Credentials
) -> None:
    name = f"{stack.registry}/{repository_name}"
    assert command_line.base_image_labels(f"{name}:1") == {}
    build(command_line, make_context(tmp_path / "context"), f"{name}:1")
    pushed = command_line.push(name, "1", login, lambda _: None)
    assert command_line.base_image_labels(f"{name}:1") == {
        "image.base.ref.name": f"{name}:1",
        "image.base.digest": pushed.digest.text,
    }


@pytest.mark.parametrize("command", _commands())
def test_an_engine_behind_ssh_is_reached_by_the_command(
    environ: dict[str, str],
    config: DockerConfig,
    stack: Stack,
    tmp_path: Path,
    repository_name: str,
    login: Credentials,
    command: str,
) -> None:
    """The other machine is this one: what stands for ssh starts what ssh would start there."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "docker").symlink_to(command)
    ssh = programs / "ssh"
    ssh.write_text(
        f"#!/bin/sh\nDOCKER_HOST={stack.docker_host} exec {command} system dial-stdio\n", "utf-8"
    )
    ssh.chmod(0o755)
    environ |= {"PATH": f"{programs}:{environ['PATH']}", "DOCKER_HOST": "ssh://somebody@elsewhere"}
    name = f"{stack.registry}/{repository_name}"
    with Docker(environ, config) as docker:
        build(docker, make_context(tmp_path / "context"), f"{name}:1")
        pushed = docker.push(name, "1", login, lambda _: None)
    assert pushed.digest.text.startswith("sha256:")


def test_versions_of_both_sides_are_told(docker: Docker) -> None:
    versions = docker.versions()
    assert versions.client.startswith("docker")
    assert versions.engine[:1].isdecimal()
