"""`make fuzz`: coverage-guided fuzzing of every parser in `bench.targets`, one after another.

The rules of this file:

1. One process at a time, at the lowest priority; the targets take turns until the time is up.
2. A finding does not end a run: its input and traceback are kept, one for each place in the code,
   and the fuzzer goes on. Any finding makes the whole run fail.
3. Time and memory are part of the contract: more than `SLOW_S` of CPU time for one input is a
   finding, and so is a process that passes `MEMORY_MB`.

The corpus grows below `--corpus`, outside of the project, and is used again by the next run.
Coverage and executions are libFuzzer's own figures, of Python instructions that atheris watches.
"""

import argparse
import base64
import binascii
import hashlib
import importlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLOW_S = 2.0  # CPU time; the largest inputs are far smaller than what a server may send
MEMORY_MB = 1024
LONGEST = 16_384  # bytes of an input
HANG_S = 60  # then libFuzzer ends the process
SLOT_S = 60  # one turn of one target
_LIBRARIES = ("signimage", "azure_pipelines_task_lib")
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)")
_PEAK = re.compile(r"stat::peak_rss_mb: +(\d+)")

# What a JSON value is replaced by.
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 1.0, 1e300, "", [], {}),
    *("\ud800", "a" * 300, "targets/releases", "2026-01-01T00:00:00Z", "null", 10**400),
)


@dataclass(slots=True)
class Tally:
    """What became of one target over all its turns."""

    executions: int = 0
    coverage: int = 0
    features: int = 0
    corpus: int = 0  # inputs
    peak_mb: int = 0
    crashes: int = 0  # processes that ended otherwise than by the end of their time

    def add(self, output: str, *, crashed: bool) -> None:
        """Enter one turn, from what libFuzzer printed."""
        self.executions += sum(map(int, _EXECUTIONS.findall(output)))
        self.crashes += crashed
        self.peak_mb = max(self.peak_mb, *map(int, _PEAK.findall(output)), 0)
        for coverage, features, corpus in _COVERAGE.findall(output):
            self.coverage, self.features = int(coverage), int(features)
            self.corpus = int(corpus)


class Findings:
    """The folder of findings of one target: inputs, and what went wrong with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, data: bytes, error: BaseException) -> None:
        """Keep the first input for each kind of error and place in the code."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} {[(f.filename, f.lineno) for f in frames[-4:]]}"
        name = hashlib.sha256(place.encode()).hexdigest()[:12]
        report = self._folder / f"{name}.txt"
        if not report.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{name}.bin").write_bytes(data)
            lines = "".join(traceback.format_exception(error))
            report.write_text(lines, "utf-8", "backslashreplace")


class TooSlowError(Exception):
    """One input took too long."""


def main() -> int:
    """Fuzz all targets in turn, or one of them in this very process; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, prog="fuzz")
    parser.add_argument("--seconds", type=int, default=3600, help="for everything together")
    parser.add_argument("--slot", type=int, default=SLOT_S, help="seconds of one turn")
    parser.add_argument(
        "--corpus", type=Path, default=Path(tempfile.gettempdir()) / "signimage-fuzz"
    )
    parser.add_argument("--only", nargs="*", default=[], help="names of targets")
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.target:
        _fuzz(options.target, options.corpus, options.slot)
        return 0
    return _take_turns(options.corpus, options.seconds, options.slot, options.only)


def _take_turns(corpus: Path, seconds: int, slot: int, only: list[str]) -> int:
    """Give every target its turns until the time is up, one at least; print the figures."""
    names = only or _names()
    slot = max(1, min(slot, seconds // len(names)))
    tallies = {name: Tally() for name in names}
    end = time.monotonic() + seconds
    turn = 0
    while turn < len(names) or time.monotonic() + slot <= end:
        name = names[turn % len(names)]
        turn += 1
        _one_turn(name, corpus, slot, tallies[name])
        if turn % len(names) == 0:
            _print_table(tallies, corpus)
    _print_table(tallies, corpus)
    found = sorted((corpus / "findings").glob("*/*"))
    for path in found:
        print(path)
    good = all(tally.executions and not tally.crashes for tally in tallies.values())
    return 0 if good and not found else 1


def _one_turn(name: str, corpus: Path, slot: int, tally: Tally) -> None:
    arguments = ["--target", name, "--corpus", str(corpus), "--slot", str(slot)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.fuzz", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        preexec_fn=_be_modest,
    )
    output = done.stdout.decode("utf-8", "replace")
    tally.add(output, crashed=done.returncode != 0)
    if done.returncode:
        (corpus / f"{name}.log").write_text(output, "utf-8")


def _be_modest() -> None:
    os.nice(19)


def _print_table(tallies: dict[str, Tally], corpus: Path) -> None:
    print(f"{'target':16} executions coverage features  corpus peak MB findings crashes")
    for name, tally in tallies.items():
        findings = len(list((corpus / "findings" / name).glob("*.txt")))
        print(
            f"{name:16} {tally.executions:10} {tally.coverage:8} {tally.features:8} "
            f"{tally.corpus:7} {tally.peak_mb:7} {findings:8} {tally.crashes:7}",
            flush=True,
        )
    print(f"{'together':16} {sum(tally.executions for tally in tallies.values()):10}", flush=True)


def _names() -> list[str]:
    return list(importlib.import_module("bench.targets").TARGETS)


def _fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Fuzz one target in this process; libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")  # only where it is installed
    with atheris.instrument_imports(include=list(_LIBRARIES)):
        target = importlib.import_module("bench.targets").TARGETS[name]
    inputs = corpus / "inputs" / name
    inputs.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (inputs / f"seed-{hashlib.sha256(seed).hexdigest()[:16]}").write_bytes(seed)
    findings = Findings(corpus / "findings" / name)

    def once(data: bytes) -> None:
        begin = time.process_time()
        try:
            target.check(data)
            if time.process_time() - begin > SLOW_S:
                raise TooSlowError(f"{time.process_time() - begin:.1f} s")  # noqa: TRY301 -- kept like any other finding
        except Exception as error:  # noqa: BLE001 -- any of them is a finding
            findings.keep(data, error)

    arguments = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={HANG_S}",
        f"-artifact_prefix={corpus}/{name}-",
        "-print_final_stats=1",
        "-len_control=10",
    ]

    def mutate(content: bytes, size: int) -> bytes:
        changed: bytes = atheris.Mutate(content, size)  # another function once Fuzz() runs
        return changed

    mutator = {"custom_mutator": _json_mutator(mutate)} if target.is_json else {}
    atheris.Setup([sys.argv[0], *arguments, str(inputs)], once, **mutator)
    atheris.Fuzz()


# --- mutations that keep JSON JSON -------------------------------------------------------------


def _json_mutator(mutate: Callable[[bytes, int], bytes]) -> Callable[[bytes, int, int], bytes]:
    """Make a mutator that changes one value or member, or else any byte."""

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)  # noqa: S311 -- has to be repeatable
        try:
            document = [json.loads(data)]
            if chance.random() < 0.2:
                return mutate(data, max_size)
            for _ in range(chance.choice((1, 1, 2, 4))):
                _change(document, chance, mutate)
            changed = json.dumps(document[0], separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            return mutate(data, max_size)
        return changed[:max_size]

    return mutator


def _change(document: list[Any], chance: random.Random, mutate: Callable[..., bytes]) -> None:
    places = list(_places(document))
    container, key = chance.choice(places)
    kind = chance.randrange(5)
    if kind == 0:
        container[key] = chance.choice(_VALUES)
    elif kind == 1:
        other, name = chance.choice(places)
        container[key] = json.loads(json.dumps(other[name]))
    elif kind == 2 and container is not document:
        del container[key]
    elif kind == 3 and isinstance(container, dict):
        container[_mutated(key, mutate)] = container.pop(key)
    elif isinstance(container[key], str):
        container[key] = _mutated(container[key], mutate)
    elif isinstance(container[key], int):
        container[key] += chance.choice((-1, 1, 2**31))


def _places(value: Any) -> Any:
    """Yield every container with each of its keys, the outermost first."""
    pending = [value]
    while pending:
        container = pending.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            yield container, key
            if isinstance(container[key], (dict, list)):
                pending.append(container[key])


def _mutated(text: str, mutate: Callable[..., bytes]) -> str:
    """Change a string; what is base64 stays base64."""
    try:
        content = base64.b64decode(text, validate=True)
        if content:
            return base64.b64encode(mutate(content, len(content) + 64)).decode()
    except (binascii.Error, ValueError):
        pass
    content = text.encode("utf-8", "surrogatepass")
    return mutate(content, len(content) + 16).decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
