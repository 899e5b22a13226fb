"""What the tests of the packaged task share: the package, an owner, a job for each test."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.stack import Stack
from task.agent import Agent, Endpoint
from task.devops import DevOps
from task.packaged import build_vsix, unpack
from task.pipeline import SIGNER, Job, Owner, SigningKey


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged task, unpacked once, in a folder that nobody may write to."""
    folder = tmp_path_factory.mktemp("tasks") / "SignImage_293032d2" / "1.0.0"
    return unpack(build_vsix(), folder, read_only=True)


@pytest.fixture(scope="session")
def owner(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Owner:
    """The owner of all repositories, with one root key for them."""
    return Owner(stack, tmp_path_factory.mktemp("owner"))


@pytest.fixture(scope="session")
def key(owner: Owner) -> SigningKey:
    """The pipeline's signing key, of the usual kind."""
    return owner.new_key()


@pytest.fixture
def job(stack: Stack, task_folder: Path, tmp_path: Path, repository_name: str) -> Iterator[Job]:
    """A job on a fresh agent, with a registry connection and a Dockerfile in its sources."""
    account = {"username": stack.username, "password": stack.password}
    connection = Endpoint.registry(f"http://{stack.registry}", **account)
    devops = DevOps(token=secrets.token_urlsafe(32))
    # What tempfile and Docker's programs leave behind must be seen.
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with devops.serve():
        agent = Agent(
            tmp_path / "agent 7 ü",
            devops.collection_uri,
            devops.token,
            environ={
                "DOCKER_HOST": stack.docker_host,
                "PATH": os.environ["PATH"],
                "TMPDIR": str(scratch),
            },
            endpoints=[connection],
        )
        job = Job(stack, task_folder, agent, devops, connection, repository_name)
        job.sources()
        yield job
    assert not list(scratch.iterdir())


@pytest.fixture
def signable(job: Job, owner: Owner, key: SigningKey) -> Job:
    """The job, with its repository initialised and the usual key a signer of it."""
    owner.initialise(job.gun, {SIGNER: key.public})
    return job
