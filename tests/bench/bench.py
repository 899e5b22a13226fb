"""`make bench`: our step beside everything else that builds, pushes and signs, in one run.

Who takes part, and with what: `bench.workshop`. What is compared:

- the whole of it, for 1 and for 20 tags: our step, the documented recipe, the Docker CLI alone,
  and Docker without any signature;
- signing what is in the registry already;
- an archive brought to the registry, by our step with a signature, by skopeo without;
- 64 signers of one repository at once, and Docker signing their tags one after another;
- one more signature, and one look, in a repository of 10,000 tags;
- what a step takes before it works, and what signing itself takes.

With words behind it, `python -m bench.bench start tags`, it does the parts whose titles have one.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.crowds import crowd
from bench.large import Large
from bench.recorder import recording
from bench.series import Row, contest
from bench.start import starts
from bench.workshop import Workshop
from peers.authority import Authority
from peers.stack import Stack
from task.packaged import build_vsix, unpack

_ROUNDS = {1: 7, 20: 3}  # by number of tags
_NOISE = 48 * 1024**2  # bytes
_LAYERS = 4
_LAYER = 64 * 1024**2  # bytes
_ARCHIVE_ROUNDS = 3
_SIGNERS = 64
_NOTE = (
    "Docker@2 and DownloadSecureFile@1 are not on npm: the recipe runs on the libraries they are "
    "made of, without what the tasks themselves add"
)


def _tags(number: int, count: int) -> list[str]:
    return [f"r{number}-{tag}" for tag in range(count)]


def build_push_sign(workshop: Workshop, count: int) -> dict[str, Row]:
    """Build an image, push it with *count* tags, sign them all; the last does not sign."""
    names = ("ours", "recipe", "docker", "unsigned")
    ours, recipe, docker, plain = (workshop.prepare(f"{name}{count}") for name in names)
    contestants: dict[str, Callable[[int], float]] = {
        "ours": lambda number: workshop.ours(ours, _tags(number, count)),
        "recipe": lambda number: workshop.recipe(recipe, _tags(number, count)),
        "docker": lambda number: workshop.docker_step(docker, _tags(number, count), signed=True),
        "docker, unsigned": lambda number: workshop.docker_step(
            plain, _tags(number, count), signed=False
        ),
    }
    return contest(contestants, _ROUNDS[count], workshop.recorder)


def sign_pushed(workshop: Workshop, count: int) -> dict[str, Row]:
    """Sign *count* tags that the registry has."""
    rounds = _ROUNDS[count]
    ours, docker = workshop.prepare(f"sign-ours{count}"), workshop.prepare(f"sign-docker{count}")
    for number in range(rounds + 1):
        workshop.unsigned(ours, _tags(number, count))
        workshop.unsigned(docker, _tags(number, count))
    contestants = {
        "ours": lambda number: workshop.ours(ours, _tags(number, count), command="sign"),
        "docker trust sign": lambda number: workshop.docker_sign(docker, _tags(number, count)),
    }
    return contest(contestants, rounds, workshop.recorder)


def noise() -> list[bytes]:
    """One layer that no compression makes smaller, as one of pictures and packages would be."""
    return [os.urandom(_NOISE)]


def programs() -> list[bytes]:
    """Layers of what this system's own folders hold: programs, libraries, text; always new ones."""
    files = (path for path in sorted(Path("/usr").rglob("*")) if path.is_file())
    pieces = (path.read_bytes() for path in files if not path.is_symlink())
    content = b"".join(_until(pieces, _LAYERS * _LAYER))
    return [
        os.urandom(32) + content[start : start + _LAYER]
        for start in range(0, _LAYERS * _LAYER, _LAYER)
    ]


def _until(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Give of *pieces* as many as have *size* bytes together."""
    for piece in pieces:
        yield piece
        size -= len(piece)
        if size <= 0:
            return


def archives(workshop: Workshop, title: str, layers: Callable[[], list[bytes]]) -> dict[str, Row]:
    """Bring an archive to the registry, one for both in each round, to a place for each."""
    ours, theirs = workshop.prepare(f"{title}-ours"), workshop.prepare(f"{title}-skopeo")
    names = ours.references(f"r{number}-0" for number in range(_ARCHIVE_ROUNDS + 1))
    files = [workshop.archive(name, layers()) for name in names]

    def push(number: int) -> float:
        where = str(files[number])
        return workshop.ours(ours, _tags(number, 1), command="push", imageArchive=where)

    contestants: dict[str, Callable[[int], float]] = {
        "ours, signed": push,
        "skopeo, unsigned": lambda number: workshop.skopeo(theirs, f"r{number}-0", files[number]),
    }
    return contest(contestants, _ARCHIVE_ROUNDS, workshop.recorder)


def measured(workshop: Workshop) -> Iterator[tuple[str, Callable[[], Mapping[str, Any]]]]:
    """Every part of the benchmark, with its title."""
    for count in _ROUNDS:
        yield f"build, push, sign: {count} tags", partial(build_push_sign, workshop, count)
    for count in _ROUNDS:
        yield f"sign what is pushed: {count} tags", partial(sign_pushed, workshop, count)
    size = _NOISE >> 20
    yield f"archive of {size} MiB of noise", partial(archives, workshop, "noise", noise)
    size = _LAYERS * _LAYER >> 20
    yield f"archive of {size} MiB of programs", partial(archives, workshop, "programs", programs)
    yield f"{_SIGNERS} signers at once", partial(crowd, workshop, _SIGNERS)
    yield "start", partial(starts, workshop)
    large = Large(workshop.owner, workshop.recorder, workshop.stack, workshop.folder)
    yield "10,000 tags", large.contest


def _lines(title: str, rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield f"{title}"
    for name, row in rows.items():
        spread = f"[{row['min_s']:.3f} {row['max_s']:.3f}]" if "min_s" in row else ""
        text = f"  {name:34}{row['median_s']:>9.3f} s {spread:18}"
        if "ours_to_it" in row:
            text += f"  ours takes {row['ours_to_it']:.2f} of it"
        for key, words in _WORDS.items():
            if key in row:
                text += f"  {row[key]:g} {words}"
        yield text.rstrip()


_WORDS = {
    "trust_server_requests": "requests",
    "trust_server_connections": "connections",
    "attempts": "attempts each",
    "signed": "tags signed",
    "requests": "requests",
    "kB_up": "kB up",
    "kB_down": "kB down",
}


def main(words: list[str]) -> int:
    """Run the parts with *words*, or all; print a table and write `build/bench.json`."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    stack = Stack.start(folder / "stack")
    report: dict[str, Any] = {"note": _NOTE, "vsix_bytes": build_vsix().stat().st_size}
    try:
        authority = Authority(folder)
        leaf = authority.issue("recorder")
        task = unpack(build_vsix(), folder / "task", read_only=True)
        with recording(stack.trust_server, leaf.certificate, leaf.key, stack.ca_file) as recorder:
            workshop = Workshop(folder, stack, recorder, authority.certificate, task)
            report["docker"] = stack.docker("--version", config=workshop.owner).stdout.strip()
            print(f"{report['docker']}\n{_NOTE}\n", flush=True)
            with workshop.devops.serve():
                for title, work in measured(workshop):
                    if words and not any(word in title for word in words):
                        continue
                    report[title] = work()
                    print("\n".join(_lines(title, report[title])), flush=True)
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    output = Path("build", "bench.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nsize of the VSIX: {report['vsix_bytes'] / 1e6:.2f} MB\nwritten to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
