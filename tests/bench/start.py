"""What a step of ours takes before it begins to work, and what the work of signing takes itself."""

import subprocess
import time
from statistics import median

from bench.series import Row
from bench.workshop import PASSPHRASES, PATH, Signed, Workshop
from signimage.filemeta import FileMeta
from signimage.keystore import Passphrases
from signimage.notary import TrustServer
from signimage.publication import signing_plan
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi

_ROUNDS = 15


def starts(workshop: Workshop) -> dict[str, Row]:
    """All the figures, by what they are of."""
    repository = workshop.prepare("start")
    workshop.unsigned(repository, ["start"])
    return {
        "node to the first line": _row([_first_line(workshop) for _ in range(_ROUNDS)]),
        "node to the first request": _row(
            [_first_request(workshop, repository) for _ in range(_ROUNDS)]
        ),
        "signing 1 tag, once started": _row(
            [_signing(workshop, repository, f"tag-{number}") for number in range(_ROUNDS)]
        ),
        "unsigned docker push, 1 tag": _row([_push(workshop, repository) for _ in range(_ROUNDS)]),
    }


def _row(seconds: list[float]) -> Row:
    return {
        "median_s": round(median(seconds), 3),
        "min_s": round(min(seconds), 3),
        "max_s": round(max(seconds), 3),
    }


def _first_line(workshop: Workshop) -> float:
    """From starting node to the worker's first line, with nothing to do but refuse."""
    environment = {"PATH": PATH, "INPUT_COMMAND": "none"}
    begin = time.perf_counter()
    with subprocess.Popen(
        workshop.program, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        if process.stdout is None or not process.stdout.readline():
            raise SystemExit("the worker said nothing")
        seconds = time.perf_counter() - begin
        process.communicate()
    return seconds


def _first_request(workshop: Workshop, repository: Signed) -> float:
    """From starting node to the first request at the trust server, in a step that signs."""
    agent = workshop.agent(repository)
    environment = workshop.step(agent, repository, ["start"], {"command": "sign"})
    workshop.recorder.reset()
    begin = time.perf_counter()
    workshop.node(workshop.program, environment, agent.sources)
    return workshop.recorder.first_at - begin


def _signing(workshop: Workshop, repository: Signed, tag: str) -> float:
    """All that signing adds to a push, as a first visitor, but the start of the program."""
    key = workshop.store.load(repository.key_id, Passphrases(PASSPHRASES))
    image = FileMeta(529, {"sha256": bytes(32)})
    begin = time.perf_counter()
    with Transport(TransportSettings(ca_files=(workshop.ca_file,))) as transport:
        server = TrustServer(TrustApi(transport, workshop.recorder.url, repository.name))
        server.refresh()
        server.check_write()
        server.publish(signing_plan({tag: image}, [repository.key_id]), {repository.key_id: key})
    return time.perf_counter() - begin


def _push(workshop: Workshop, repository: Signed) -> float:
    begin = time.perf_counter()
    workshop.docker("push", "--disable-content-trust=true", f"{repository.name}:start")
    return time.perf_counter() - begin
