"""`make bench`: one step of ours beside the Docker CLI's loop over the tags, in one run.

Both build the same image on the same warm engine, push it to the same registry and sign it on the
same trust server, in turn: A B A B. Docker gets what it needs to be fast (a kept trust cache, keys
unlocked by the environment), we run as an agent runs us: from the unpacked package, a first
visitor every time. A proxy counts the requests to the trust server on both sides.

Figures are medians of whole processes, in seconds; the machine's noise is in min and max.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.large import Large
from bench.process import run
from bench.recorder import Recorder, recording
from peers.authority import Authority
from peers.stack import Stack, make_context
from signimage.administration import add_signer, generate_key, initialise_repository
from signimage.keys import PublicKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore, Passphrases
from signimage.notary import TrustServer
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi
from task.agent import Agent, Endpoint, SecureFile, Step
from task.devops import DevOps
from task.packaged import build_vsix, unpack

_PASSPHRASES = {ROOT_VARIABLE: "root passphrase", REPOSITORY_VARIABLE: "bench passphrase"}
_KEY_FILE = "5e0c1f5a-8f0e-4a57-9d63-2f6c8f1f0b11"
_TICKET = "ticket-of-the-benchmark"
_ROUNDS = {1: 7, 20: 3}  # by number of tags
_STARTS = 15
# As many as the step adds by itself; the classic builder makes a layer of each.
_LABELS = ("bench.collection=http://127.0.0.1/", "bench.version=0123456789abcdef")
# The interpreter itself, not a version manager's script in front of it.
_PATH = f"{sys.base_prefix}/bin{os.pathsep}{os.environ['PATH']}"


@dataclass
class Series:
    """The runs of one contestant for one number of tags."""

    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)

    def add(self, seconds: float, requests: int, connections: int) -> None:
        """Enter one run."""
        self.seconds.append(seconds)
        self.requests.append(requests)
        self.connections.append(connections)

    def row(self) -> dict[str, float]:
        """The figures to print and to keep."""
        return {
            "median_s": round(median(self.seconds), 3),
            "min_s": round(min(self.seconds), 3),
            "max_s": round(max(self.seconds), 3),
            "trust_server_requests": median(self.requests),
            "trust_server_connections": median(self.connections),
        }


class Bench:
    """The contest, in a folder of its own."""

    def __init__(self, folder: Path, stack: Stack, recorder: Recorder, ca_file: Path) -> None:
        self.folder = folder
        self.stack = stack
        self.recorder = recorder
        self.ca_file = ca_file
        self.owner = stack.docker_config(folder / "owner")
        tls = self.owner / "tls" / recorder.url.removeprefix("https://")
        tls.mkdir(parents=True)
        shutil.copyfile(ca_file, tls / "ca.crt")
        self.store = KeyStore(self.owner / "trust")
        self.task = unpack(build_vsix(), folder / "task", read_only=True)
        self.count = 0

    def prepare(self, name: str) -> tuple[str, Path]:
        """Initialise a repository with one signer; gives its name and the signer's key file."""
        repository = f"{self.stack.registry}/bench/{name}"
        passphrases = Passphrases(_PASSPHRASES)
        with Transport(TransportSettings(ca_files=(self.ca_file,))) as transport:
            server = TrustServer(TrustApi(transport, self.recorder.url, repository))
            initialise_repository(server, self.store, passphrases)
            key = generate_key(self.store, passphrases, name, self.folder)
            public = PublicKey.from_pem(key.public.read_bytes())
            add_signer(server, self.store, passphrases, name, [public])
        return repository, key.private

    def context(self, folder: Path) -> Path:
        """A build context whose last layer is new: nothing may come from the cache alone."""
        self.count += 1
        return make_context(folder, text=f"bench {self.count}")

    def docker(self, repository: str, tags: Sequence[str]) -> float:
        """The documented recipe on a Docker CLI that still signs; gives its wall time."""
        context = self.context(self.folder / f"context-{self.count}")
        environment = {
            **os.environ,
            **_PASSPHRASES,
            "DOCKER_HOST": self.stack.docker_host,
            "DOCKER_CONFIG": str(self.owner),
            "DOCKER_CONTENT_TRUST_SERVER": self.recorder.url,
            "DOCKER_BUILDKIT": "0",
        }
        names = [f"{repository}:{tag}" for tag in tags]
        begin = time.perf_counter()
        flags = [*(f"--tag={name}" for name in names), *(f"--label={each}" for each in _LABELS)]
        run(["docker", "build", *flags, str(context)], environment)
        for name in names:
            run(["docker", "push", "--disable-content-trust=false", name], environment)
        return time.perf_counter() - begin

    def ours(self, repository: str, key: Path, tags: Sequence[str]) -> float:
        """One step; gives its wall time as the agent sees it."""
        devops = DevOps(token="the-job-token")
        devops.add_secure_file(_KEY_FILE, _TICKET, key.read_bytes())
        registry = Endpoint.registry(
            f"http://{self.stack.registry}", self.stack.username, self.stack.password
        )
        with devops.serve():
            agent = Agent(
                Path(tempfile.mkdtemp(dir=self.folder)),
                devops.collection_uri,
                devops.token,
                environ={
                    "DOCKER_HOST": self.stack.docker_host,
                    "DOCKER_BUILDKIT": "0",
                    "PATH": _PATH,
                },
                secret_variables={"passphrase": _PASSPHRASES[REPOSITORY_VARIABLE]},
                endpoints=[registry],
                secure_files=[SecureFile(_KEY_FILE, key.name, _TICKET)],
            )
            self.context(agent.sources)
            inputs = {
                "containerRegistry": registry.id,
                "repository": repository.partition("/")[2],
                "tags": "\n".join(tags),
                "signingKey": _KEY_FILE,
                "trustServer": self.recorder.url,
                "caCertificate": str(self.ca_file),
                "addPipelineData": "false",
                "addBaseImageData": "false",
            }
            step = Step(inputs, env={REPOSITORY_VARIABLE: "$(passphrase)"})
            begin = time.perf_counter()
            result = agent.run(self.task, step)
            seconds = time.perf_counter() - begin
        if result.result != "Succeeded":
            raise SystemExit(f"the step ended as {result.result}: {result.message}")
        return seconds

    def contest(self, tags: int, rounds: int) -> dict[str, Any]:
        """A B A B …, after one run of each that is not counted."""
        ours, docker = Series(), Series()
        mine, key = self.prepare(f"ours{tags}")
        theirs, _ = self.prepare(f"docker{tags}")
        for number in range(rounds + 1):
            names = [f"r{number}-{tag}" for tag in range(tags)]
            figures = self.measured(partial(self.ours, mine, key, names))
            others = self.measured(partial(self.docker, theirs, names))
            if number > 0:
                ours.add(*figures)
                docker.add(*others)
        return {
            "ours": ours.row(),
            "docker": docker.row(),
            "ratio": round(median(ours.seconds) / median(docker.seconds), 3),
        }

    def measured(self, work: Callable[[], float]) -> tuple[float, int, int]:
        """Seconds, requests and connections of *work*."""
        self.recorder.reset()
        seconds = work()
        return seconds, len(self.recorder.requests), self.recorder.connections

    def first_line(self) -> dict[str, float]:
        """From starting node to the worker's first line, with nothing to do but refuse."""
        seconds = []
        environment = {"PATH": _PATH, "INPUT_COMMAND": "none"}
        for _ in range(_STARTS):
            begin = time.perf_counter()
            with subprocess.Popen(
                ["node", str(self.task / "task" / "index.js")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            ) as process:
                if process.stdout is None or not process.stdout.readline():
                    raise SystemExit("the worker said nothing")
                seconds.append(time.perf_counter() - begin)
                process.communicate()
        return {"median_s": round(median(seconds), 3), "min_s": round(min(seconds), 3)}


def _cells(*sides: Mapping[str, float]) -> list[str]:
    return [f"{x['median_s']:.2f} s [{x['min_s']:.2f} {x['max_s']:.2f}]" for x in sides]


def _table(report: Mapping[str, Any]) -> str:
    titles = ("ours: median [min max]", "docker: median [min max]")
    head = "".join(f"{title:>28}" for title in titles)
    lines = [f"{'':24}{head}{'ratio':>8}{'requests ours/docker':>24}"]
    for tags, contest in report["build_push_sign"].items():
        ours, docker = contest["ours"], contest["docker"]
        cells = [
            f"{x['median_s']:.2f} s [{x['min_s']:.2f} {x['max_s']:.2f}]" for x in (ours, docker)
        ]
        requests = f"{ours['trust_server_requests']:.0f} / {docker['trust_server_requests']:.0f}"
        lines.append(
            f"{tags + ' tags':24}{cells[0]:>28}{cells[1]:>28}{contest['ratio']:>8.2f}{requests:>24}"
        )
    for what, figures in report["ten_thousand_tags"].items():
        ours, docker = figures["ours"], figures["docker"]
        cells = [
            f"{x['median_s']:.2f} s [{x['min_s']:.2f} {x['max_s']:.2f}]" for x in (ours, docker)
        ]
        requests = f"{ours['requests']:.0f} / {docker['requests']:.0f}"
        lines.append(f"{what:24}{cells[0]:>28}{cells[1]:>28}{figures['ratio']:>8.2f}{requests:>24}")
        lines.append(
            f"{'  kB up / down':24}{ours['kB_up']:>21.0f} / {ours['kB_down']:<4.0f}"
            f"{docker['kB_up']:>21.0f} / {docker['kB_down']:<4.0f}"
        )
    start = report["node_to_first_line"]
    lines.append(f"{'node to first line':24}{start['median_s'] * 1000:.0f} ms median")
    lines.append(f"{'size of the VSIX':24}{report['vsix_bytes'] / 1e6:.2f} MB")
    return "\n".join(lines)


def main() -> int:
    """Run the contest; print a table and write `build/bench.json`."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    stack = Stack.start(folder / "stack")
    try:
        authority = Authority(folder)
        leaf = authority.issue("recorder")
        with recording(stack.trust_server, leaf.certificate, leaf.key, stack.ca_file) as recorder:
            bench = Bench(folder, stack, recorder, authority.certificate)
            report = {
                "docker": stack.docker("--version", config=bench.owner).stdout.strip(),
                "build_push_sign": {
                    str(tags): bench.contest(tags, rounds) for tags, rounds in _ROUNDS.items()
                },
                "ten_thousand_tags": Large(bench.owner, recorder, stack, folder).contest(),
                "node_to_first_line": bench.first_line(),
                "vsix_bytes": build_vsix().stat().st_size,
            }
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    output = Path("build", "bench.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{report['docker']}\n{_table(report)}\n\nwritten to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
