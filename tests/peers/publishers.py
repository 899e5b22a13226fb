"""Many visitors of one repository at the same moment, each in a process of its own.

`Crowd` starts them and reads what became of each. As a program, `python -m peers.publishers`
with `tests` on PYTHONPATH, it is their parent: it reads the jobs from its input, makes one
process for each, lets all begin at once, and each writes a line for every publication that it has
proved, and one with its outcome.

1. What a process does is what a job says: sign tags, look often, or create the repository.
2. Keys come by a pipe; they are in no argument, environment or file.
3. Processes are made before there is a connection or a thread to share.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from peers.owner import Owner, images, visitor
from signimage.administration import initialise_repository
from signimage.errors import SignImageError
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore, Passphrases
from signimage.notary import TrustServer
from signimage.publication import signing_plan
from signimage.trustcache import TrustCache


@dataclass(frozen=True, slots=True)
class Job:
    """What one process is to do.

    Attributes:
        kind: `sign` all tags in one publication, sign them in one publication `each`, `look` as
            often as there are tags, each time as a new visitor, `initialise`, or `raise` the
            kept version of the role that is the one tag, from 1 to 40.
        tags: Signed with the image that `peers.owner.image` has for each.
        trust_dir: Where to keep what was verified; empty for nowhere.
        key: The signer's, DER in base64.
        is_apart: Whether it is on a machine of its own: it takes no turns with the others, and
            all of them collide at the server.
    """

    kind: str
    tags: tuple[str, ...] = ()
    trust_dir: str = ""
    key: str = ""
    url: str = ""
    ca_file: str = ""
    gun: str = ""
    is_apart: bool = True

    @classmethod
    def signing(cls, key: PrivateKey, *tags: str, trust_dir: Path | None = None) -> "Job":
        """Sign *tags* in one publication."""
        return cls("sign", tags, str(trust_dir or ""), base64.b64encode(key.to_pkcs8()).decode())

    def server(self) -> TrustServer:
        """The client that this job describes."""
        kept = Path(self.trust_dir) if self.trust_dir else None
        return visitor(self.url, Path(self.ca_file), self.gun, kept)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    Attributes:
        number: The job's place among the jobs.
        attempts: How often each publication was sent.
        seconds: From the common beginning to this end.
        error: Class and message of what ended it early, or empty.
    """

    number: int
    attempts: tuple[int, ...]
    seconds: float
    error: str


class Crowd:
    """Processes at work on the repository of *owner*, all begun at once."""

    def __init__(self, owner: Owner, jobs: Iterable[Job]) -> None:
        stack = owner.stack
        url, ca_file = stack.trust_server, str(stack.ca_file)
        placed = [replace(job, url=url, ca_file=ca_file, gun=owner.gun) for job in jobs]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        _pipe(self._process.stdin).write(json.dumps([asdict(job) for job in placed]).encode())
        _pipe(self._process.stdin).close()
        self._outcomes: list[Outcome] = []

    def is_done(self, within_s: float) -> bool:
        """Wait so long; tell whether every process has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        return self._process.returncode is not None

    def kill(self) -> None:
        """End every process as a power cut would."""
        with suppress(ProcessLookupError):  # they may have been through with it just now
            os.killpg(self._process.pid, signal.SIGKILL)

    def progress(self) -> Iterator[None]:
        """Yield as often as a publication was proved, each time soon after; end when all do."""
        for line in _pipe(self._process.stdout):
            row = json.loads(line)
            if row is None:
                yield
            else:
                outcome = Outcome(**{**row, "attempts": tuple(row["attempts"])})
                self._outcomes.append(outcome)

    def outcomes(self) -> list[Outcome]:
        """Wait for the end of all; what those have to say who got so far, in the jobs' order."""
        with self._process:
            for _ in self.progress():
                pass
        return sorted(self._outcomes, key=lambda row: row.number)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("a pipe was asked for before it was made")
    return stream


# --- In the processes ---


def _sign(job: Job) -> tuple[int, ...]:
    return _publish(job, [job.tags])


def _sign_each(job: Job) -> tuple[int, ...]:
    return _publish(job, [(tag,) for tag in job.tags])


def _publish(job: Job, batches: Iterable[tuple[str, ...]]) -> tuple[int, ...]:
    pem = f"-----BEGIN PRIVATE KEY-----\n{job.key}\n-----END PRIVATE KEY-----\n"
    key = KeyFile.parse(pem.encode()).decrypt(None)
    key_id = key.public_key.canonical_id
    server = job.server()
    attempts = []
    for tags in batches:
        done = server.publish(signing_plan(images(tags), [key_id]), {key_id: key})
        attempts.append(done.attempts)
        _write(None)
    return tuple(attempts)


def _look(job: Job) -> tuple[int, ...]:
    """Look again and again; what was believed once must stay, whoever writes beside us."""
    floors: Mapping[str, int] = {}
    for _ in job.tags:
        server = job.server()
        found = dict(server.refresh().floors)
        kept = server.cache.floors() if server.cache else found
        if any(found.get(role, 0) < floors[role] or kept.get(role, 0) < floors[role]
               for role in floors):  # fmt: skip
            raise ValueError(f"expected at least {floors}, got {found}, kept {kept}")
        floors = found
    return ()


def _initialise(job: Job) -> tuple[int, ...]:
    words = {ROOT_VARIABLE: "root passphrase", REPOSITORY_VARIABLE: "repository passphrase"}
    done = initialise_repository(job.server(), KeyStore(Path(job.trust_dir)), Passphrases(words))
    return (0 if done.existed else 1,)


def _raise_floors(job: Job) -> tuple[int, ...]:
    cache = TrustCache(Path(job.trust_dir), job.gun)
    (role,) = job.tags
    for version in range(1, 41):
        cache.write({}, {role: version})
        if cache.floors()[role] < version:
            raise ValueError(f"expected {version} for {role}, got {cache.floors()}")
    return ()


_KINDS: Mapping[str, Callable[[Job], tuple[int, ...]]] = {
    "sign": _sign,
    "each": _sign_each,
    "look": _look,
    "initialise": _initialise,
    "raise": _raise_floors,
}


def _work(number: int, job: Job) -> None:
    begun = time.monotonic()
    attempts: tuple[int, ...] = ()
    error = ""
    if job.is_apart:
        tempfile.tempdir = "/none/such"  # where turns would be taken
    try:
        attempts = _KINDS[job.kind](job)
    except (SignImageError, ValueError, OSError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    _write(asdict(Outcome(number, attempts, time.monotonic() - begun, error)))


def _write(row: Mapping[str, object] | None) -> None:
    # One write of less than a pipe's buffer: lines of several processes do not mix.
    os.write(sys.stdout.fileno(), json.dumps(row).encode() + b"\n")


def main() -> int:
    """Read the jobs, do all at once, and wait for all."""
    jobs = [Job(**{**job, "tags": tuple(job["tags"])}) for job in json.load(sys.stdin)]
    ready, begin = os.pipe()
    for number, job in enumerate(jobs):
        if os.fork() == 0:
            os.close(begin)
            os.read(ready, 1)  # ends when the parent closes the other end
            _work(number, job)
            os._exit(0)
    os.close(begin)
    return max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in jobs)


if __name__ == "__main__":
    sys.exit(main())
