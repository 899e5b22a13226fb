"""What the tests of the packaged task share: the package, an owner, a job for each test."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.stack import Stack
from task.agent import Agent, Endpoint
from task.cloud.job import CloudJob, CloudOwner
from task.cloud.subscription import Cloud
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


@pytest.fixture(scope="session")
def running_cloud(stack: Stack) -> Iterator[Cloud]:
    """A cloud with one registry, before the stack's programs and with an engine of its own."""
    # Not below pytest's folder, for the same reason as the stack.
    with (
        tempfile.TemporaryDirectory(prefix="cloud-", ignore_cleanup_errors=True) as folder,
        Cloud(Path(folder)).serve(stack) as cloud,
    ):
        yield cloud


@pytest.fixture
def cloud(running_cloud: Cloud) -> Iterator[Cloud]:
    """The cloud, in which everything works and nothing has happened yet."""
    running_cloud.reset()
    yield running_cloud
    running_cloud.reset()


@pytest.fixture(scope="session")
def cloud_owner(running_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> CloudOwner:
    """The owner of all repositories in the cloud."""
    return CloudOwner(running_cloud, tmp_path_factory.mktemp("cloud-owner"))


@pytest.fixture
def cloud_job(
    cloud: Cloud, task_folder: Path, tmp_path: Path, repository_name: str
) -> Iterator[CloudJob]:
    """A job on a fresh agent behind the company's proxy; its connection is to be added."""
    devops = DevOps(token=secrets.token_urlsafe(32))
    with devops.serve():
        environ = {"PATH": os.environ["PATH"]}
        agent = Agent(tmp_path / "agent", devops.collection_uri, devops.token, environ=environ)
        job = CloudJob.begin(cloud, task_folder, agent, devops, repository_name)
        job.sources()
        yield job
