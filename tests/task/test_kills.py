"""Whatever is killed, at whatever instant: nothing that was signed is lost, no tag is unsigned.

A step signs the same tags again and again, each time with a new image. One such run is measured,
part by part; in each of the following something is killed at an instant of a part, all parts in
turn, and the step is run again.
`SIGNIMAGE_KILLS` is the number of instants for each way and victim; usually there are few.
"""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, cycle, islice
from pathlib import Path

import pytest

from peers.buildkit import FAR, BuildKit, running_buildkit
from peers.postgres import PostgresTrust
from peers.processes import answers
from peers.servers import Starter, engine_answers
from peers.stack import Stack
from task.agent import Endpoint, Step
from task.casualties import Books, Ending, Peer, Run
from task.pipeline import PASSPHRASE, SIGNER, Job, Owner, SigningKey
from task.secrecy import everything_below, forms, key_lines, leaks_in_files
from unit.stored_images import docker_archive, layer_of, tar_of

_KILLS = int(os.environ.get("SIGNIMAGE_KILLS", "0"))
_VICTIMS = ("worker", "node", "trust server", "registry", "dockerd")
_TAGS = ("1.0", "latest")
_SIZE = 100_000  # bytes of a layer: enough to be killed while it is sent


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers of these tests, each with data that outlive it."""

    stack: Stack
    trust: PostgresTrust
    registry: Peer
    buildkit: BuildKit
    dockerd: Peer


@pytest.fixture(scope="module")
def peers(stack: Stack) -> Iterator[Peers]:
    """Start a registry, a trust server and an engine with BuildKit that belong to this module."""
    trust = PostgresTrust(stack)
    with (
        tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder,
        running_buildkit() as buildkit,
    ):
        starter = Starter(Path(folder), stays=False)
        host = starter.registry("registry", starter.password_file(stack.username, stack.password))
        (process,) = starter.processes
        port = int(host.rpartition(":")[2])
        registry = Peer(process.pid, process.log, lambda: answers(port))
        engine = Path(buildkit.docker_host.removeprefix("unix://")).parent
        dockerd = Peer(
            int((engine / "dockerd.pid").read_text("ascii")),
            engine / "dockerd.log",
            lambda: engine_answers(stack.docker_cli, buildkit.docker_host),
        )
        try:
            trust.start()
            own = replace(trust.stack, registry=host, docker_host=buildkit.docker_host)
            yield Peers(own, trust, registry, buildkit, dockerd)
        finally:
            trust.stop()
            for process in starter.processes:
                process.stop()
            for peer in (registry, dockerd):
                peer.stop()


# The fixtures of `conftest`, on these peers.


@pytest.fixture(scope="module")
def owner(peers: Peers, tmp_path_factory: pytest.TempPathFactory) -> Owner:
    return Owner(peers.stack, tmp_path_factory.mktemp("owner"))


@pytest.fixture(scope="module")
def key(owner: Owner) -> SigningKey:
    return owner.new_key()


@pytest.fixture
def signable(job: Job, peers: Peers, owner: Owner, key: SigningKey) -> Job:
    stack = peers.stack
    account = {"username": stack.username, "password": stack.password}
    connection = Endpoint.registry(f"http://{stack.registry}", **account)
    job.agent.environ = {**job.agent.environ, "DOCKER_HOST": stack.docker_host}
    job.agent.endpoints[:] = [connection]
    moved = replace(job, stack=stack, connection=connection)
    owner.initialise(moved.gun, {SIGNER: key.public})
    return moved


# --- the step that is run again and again ---------------------------------------------------


@dataclass(slots=True)
class Scene:
    """A job that signs the same tags again and again, in one way, and who watches it."""

    peers: Peers
    job: Job
    key: SigningKey
    way: str
    books: Books
    folder: Path
    number: int = 0
    usual: Step | None = None

    def step(self) -> Step:
        """A step with a new image, for the usual tags and for one of its own."""
        self.number += 1
        if self.usual is None:
            self.usual = self.job.step(self.key, **self._inputs())
        text = f"{self.job.path} {self.number}"
        if self.way == "archive":
            files = docker_archive([layer_of(text, _SIZE), layer_of("everybody's")])
            (self.job.agent.sources / "image.tar").write_bytes(tar_of(files))
        else:
            self.job.sources()
        return replace(self.usual, inputs={**self.usual.inputs, "tags": ",".join(self.tags)})

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the last step."""
        return (*_TAGS, f"run-{self.number}")

    def _inputs(self) -> dict[str, str]:
        if self.way == "archive":
            return {"command": "push", "imageArchive": "image.tar"}
        return {"arguments": f"--builder={FAR}"} if self.way == "BuildKit" else {}

    def begin(self) -> Run:
        """Begin to run the step."""
        return Run(self.job, self.step())

    def measured(self) -> dict[str, float]:
        """Run the step undisturbed; gives how many seconds each part of it took."""
        run = self.begin()
        parts = run.parts()
        self._check_undisturbed(run.end())
        return parts

    def run(self) -> None:
        """Run the step undisturbed, and find that all agree."""
        self._check_undisturbed(self.begin().end())

    def _check_undisturbed(self, ending: Ending) -> None:
        assert (self.books.look(), ending.survivors) == ({}, ()), ending.said
        self.books.check_agreement(ending, *self.tags)

    def survive(self, victim: str, part: str, delay_s: float) -> str:
        """Kill *victim* so long after a *part* of a run began; tells what had happened by then."""
        run = self.begin()
        before = dict(self.books.now)
        was_over = run.is_over_before(part, delay_s)
        if not was_over:
            self._kill(victim, run, comes_back_at_once=self.number % 4 == 1)
        ending = run.end()
        self._recover()
        unsigned = self._check(victim, ending)
        moved = sum(self.books.tags.get(tag) != before.get(tag) for tag in self.tags)
        signed = "signed" if self.books.now != before else "not signed"
        when = "too late, " if was_over else ""
        return f"{when}{ending.result}, {signed}, {moved} moved, {len(unsigned)} unsigned"

    def _check(self, victim: str, ending: Ending) -> dict[str, str]:
        """See what must hold after a run beside which *victim* was killed; gives unsigned tags."""
        where = f"{victim} was killed:\n{ending.said}"
        left = list(self.job.agent.temp.glob("signimage-*"))
        assert (ending.survivors, left) == ((), []), where
        unsigned = self.books.look()
        may_be = self.way == "engine" and (victim == "worker" or "UNSIGNED" in ending.said)
        early = {_TAGS[0]} if may_be else set()
        assert unsigned.keys() <= early, where
        if ending.result == "Succeeded":
            self.books.check_agreement(ending, *self.tags)
        return unsigned

    def _kill(self, victim: str, run: Run, *, comes_back_at_once: bool) -> None:
        """Kill *victim*."""
        match victim:
            case "worker":
                run.kill_worker()
            case "node":
                run.kill_node()
            case "trust server":
                self.peers.trust.kill()
            case "registry" | "dockerd":
                peer = self.peers.registry if victim == "registry" else self.peers.dockerd
                peer.kill()
                if comes_back_at_once:
                    peer.start()

    def _recover(self) -> None:
        """Return when every peer answers."""
        self.peers.registry.start()
        self.peers.dockerd.start()
        self.peers.trust.wait()

    def secrets_left(self) -> set[str]:
        """Which secrets are in which files, anywhere the step could write."""
        stack = self.job.stack
        secrets = {
            "key": key_lines(self.key),
            "passphrase": forms(PASSPHRASE),
            "password": forms(stack.password) | forms(f"{stack.username}:{stack.password}"),
            "token": forms(self.job.devops.token),
        }
        return leaks_in_files(secrets, everything_below(self.folder))


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    peers: Peers,
    signable: Job,
    key: SigningKey,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Scene:
    """Prepare a job that signs in the way that the test is given."""
    way: str = request.param
    visitors = map(str, count())
    elsewhere = tmp_path_factory.mktemp("visitors")
    if way == "BuildKit":
        home = peers.buildkit.home(tmp_path / "home")
        signable.agent.environ = {**signable.agent.environ, **home}
    books = Books(signable, lambda: Owner(peers.stack, elsewhere / next(visitors)))
    return Scene(peers, signable, key, way, books, tmp_path)


# --- the tests ------------------------------------------------------------------------------


def instants(name: str, number: int, parts: Mapping[str, float]) -> list[tuple[str, float]]:
    """*number* random instants, as parts of a step and seconds since they began.

    The parts that come last take their turns first, for nothing is signed before them. The same
    *name* gives the same instants, of steps that take the same time.
    """
    chance = random.Random(name)  # noqa: S311 -- to be drawn again, and no secret
    turns = islice(cycle(reversed(list(parts))), number)
    return [(part, chance.uniform(0, parts[part])) for part in turns]


@pytest.mark.parametrize(
    ("scene", "victims", "usual"),
    [
        ("archive", _VICTIMS[:-1], _VICTIMS[:-1] * 2),
        ("BuildKit", _VICTIMS, ("worker", "dockerd")),
        ("engine", _VICTIMS, ("worker", "dockerd")),
    ],
    ids=["archive", "BuildKit", "engine"],
    indirect=["scene"],
)
def test_nothing_is_lost_or_unsigned_whatever_is_killed(
    scene: Scene,
    victims: tuple[str, ...],
    usual: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:
    """And the next run mends what there is to mend.

    An engine without BuildKit moves one tag before it is signed; that one may be unsigned then.
    """
    parts = scene.measured()
    kills = Counter(usual) if not _KILLS else Counter(dict.fromkeys(victims, _KILLS))
    for victim, number in kills.items():
        seen: Counter[str] = Counter()
        for part, delay_s in instants(f"{scene.way} {victim}", number, parts):
            seen[scene.survive(victim, part, delay_s)] += 1
            scene.run()
        request.node.user_properties.append((f"{scene.way}: {victim} killed", dict(seen)))
    assert scene.secrets_left() == set()
