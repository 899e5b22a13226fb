"""Many signers of one repository at once, beside Docker signing the same tags one after another.

Ours three times: signers that have started already, on one machine, where they take turns, and as
on machines of their own, where they collide at the server; and whole steps, each with a node and a
Python of its own to start, all on the cores of this one machine.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from bench.process import run
from bench.series import Row
from bench.workshop import Signed, Workshop
from peers.owner import Owner
from peers.publishers import Crowd, Job


def crowd(workshop: Workshop, signers: int) -> dict[str, Row]:
    """Let as many sign one tag each; Docker alone signs them all."""
    tags = [f"crowd-{number}" for number in range(signers)]
    ours = workshop.prepare("crowd-ours")
    theirs = workshop.prepare("crowd-docker")
    for repository in (ours, theirs):
        workshop.unsigned(repository, tags)
    rows = {
        "ours, started, one machine": _started(workshop, signers, is_apart=False),
        "ours, started, own machines": _started(workshop, signers, is_apart=True),
        "ours, whole steps": _steps(workshop, ours, tags),
        "docker, one by one": _one_by_one(workshop, theirs, tags),
    }
    ours_s = rows["ours, started, one machine"]["median_s"]
    docker = rows["docker, one by one"]
    docker["ours_to_it"] = round(ours_s / docker["median_s"], 3)
    return rows


def _started(workshop: Workshop, signers: int, *, is_apart: bool) -> Row:
    stack = workshop.stack
    folder = workshop.folder / f"crowd-{is_apart}"
    owner = Owner(stack, f"{stack.open_registry}/bench/{folder.name.lower()}", folder)
    owner.initialise("ci")
    jobs = [
        replace(Job.signing(owner.keys["ci"], f"t{number}"), is_apart=is_apart)
        for number in range(signers)
    ]
    outcomes = Crowd(owner, jobs).outcomes()
    attempts = [number for outcome in outcomes for number in outcome.attempts]
    return {
        "median_s": round(max(outcome.seconds for outcome in outcomes), 3),
        "signed": len(owner.released()),
        "attempts": round(sum(attempts) / len(attempts), 2),
    }


def _steps(workshop: Workshop, repository: Signed, tags: Sequence[str]) -> Row:
    environments = []
    for tag in tags:
        agent = workshop.agent(repository)
        environments.append(workshop.step(agent, repository, [tag], {"command": "sign"}))
    begin = time.perf_counter()
    processes = [
        subprocess.Popen(
            workshop.program,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    with ThreadPoolExecutor(len(processes)) as pool:
        said = list(pool.map(lambda process: process.communicate()[0], processes))
    seconds = time.perf_counter() - begin
    failed = [text for text in said if "result=Succeeded" not in text]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(tags)} steps failed: {failed[0][-500:]}")
    return {"median_s": round(seconds, 3), "signed": _signed(workshop, repository)}


def _one_by_one(workshop: Workshop, repository: Signed, tags: Sequence[str]) -> Row:
    begin = time.perf_counter()
    for name in repository.references(tags):
        workshop.docker("push", "--disable-content-trust=false", name)
    seconds = time.perf_counter() - begin
    return {"median_s": round(seconds, 3), "signed": _signed(workshop, repository)}


def _signed(workshop: Workshop, repository: Signed) -> int:
    """How many tags Docker sees signed."""
    said = run(["docker", "trust", "inspect", repository.name], workshop.environment())
    return len(json.loads(said)[0]["SignedTags"])
