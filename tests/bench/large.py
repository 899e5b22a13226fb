"""One more signature, and one cold look, in a repository of 10,000 tags: ours beside Docker's.

Whole processes on both sides, each from a trust store without a cache of the repository. They
are timed at the trust server itself; requests and bytes are counted in a further run of each,
through the proxy, which would cost more than what is to be measured.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.process import run
from bench.recorder import Recorder
from bench.series import Row
from peers.stack import Stack, make_context
from signimage.administration import add_signer, generate_key, initialise_repository
from signimage.filemeta import FileMeta
from signimage.keys import PublicKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore, Passphrases
from signimage.notary import TrustServer
from signimage.publication import signing_plan
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi

_TAGS = 10_000
_ROUNDS = 5
_PASSPHRASES = {ROOT_VARIABLE: "root passphrase", REPOSITORY_VARIABLE: "bench passphrase"}


class Large:
    """The repository, and the two who work in it."""

    def __init__(self, owner: Path, recorder: Recorder, stack: Stack, folder: Path) -> None:
        self.owner = owner
        self.recorder = recorder
        self.stack = stack
        self.folder = folder
        self.repository = f"{stack.registry}/bench/large"
        self.store = KeyStore(owner / "trust")
        self.url = stack.trust_server
        # One file with both authorities: the trust server's own, and the proxy's.
        self.ca_file = folder / "both.crt"
        self.ca_file.write_bytes(
            b"".join(path.read_bytes() for path in (owner / "tls").rglob("ca.crt"))
        )

    def contest(self) -> dict[str, Row]:
        """Sign and look, in turn."""
        key_id = self.prepare()
        image = self.image()
        return {
            **self.turns(
                "sign one more",
                lambda number: self.sign_ours(key_id, f"ours-{number}"),
                lambda number: self.sign_docker(image, f"docker-{number}"),
            ),
            **self.turns("cold look", lambda _: self.look_ours(), lambda _: self.look_docker()),
        }

    def prepare(self) -> str:
        """Fill the repository; gives the canonical ID of its signer's key."""
        passphrases = Passphrases(_PASSPHRASES)
        with Transport(TransportSettings(ca_files=(self.ca_file,))) as transport:
            server = TrustServer(TrustApi(transport, self.url, self.repository))
            initialise_repository(server, self.store, passphrases)
            made = generate_key(self.store, passphrases, "large", self.folder)
            public = PublicKey.from_pem(made.public.read_bytes())
            add_signer(server, self.store, passphrases, "large", [public])
            key = self.store.load(made.key_id, passphrases)
            image = FileMeta(529, {"sha256": bytes(32)})
            tags = dict.fromkeys([f"v1.0.{number:08d}" for number in range(_TAGS)], image)
            server.publish(signing_plan(tags, [made.key_id]), {made.key_id: key})
        return made.key_id

    def image(self) -> str:
        """A small image in the engine for Docker to push; gives its name without a tag."""
        context = make_context(self.folder / "large-context", text="large")
        run(["docker", "build", f"--tag={self.repository}:base", str(context)], self.environment())
        return self.repository

    def environment(self, config: Path | None = None) -> dict[str, str]:
        """What either side runs with."""
        # As where it is installed: pip compiles, while a checkout is run from its source.
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.folder / "pyc")}
        return {
            **os.environ,
            **compiled,
            **_PASSPHRASES,
            "DOCKER_HOST": self.stack.docker_host,
            "DOCKER_CONFIG": str(config or self.owner),
            "DOCKER_CONTENT_TRUST_SERVER": self.url,
            "DOCKER_BUILDKIT": "0",
        }

    def sign_ours(self, key_id: str, tag: str) -> None:
        """A process of ours that signs one tag."""
        arguments = [self.url, str(self.ca_file), self.repository, key_id, tag]
        program = [sys.executable, "-m", "bench.sign_one", str(self.owner / "trust"), *arguments]
        run(program, self.environment())

    def sign_docker(self, image: str, tag: str) -> None:
        """Docker pushes and signs one tag; its push of known layers takes some hundredths."""
        shutil.rmtree(self.owner / "trust" / "tuf", ignore_errors=True)
        name = f"{image}:{tag}"
        run(["docker", "tag", f"{image}:base", name], self.environment())
        run(["docker", "push", "--disable-content-trust=false", name], self.environment())

    def look_ours(self) -> None:
        """`signimage inspect` by somebody who was never here."""
        program = [str(Path(sys.executable).with_name("signimage")), "inspect", "--json"]
        run([*program, self.repository], self.environment(self.visitor()))

    def look_docker(self) -> None:
        """`docker trust inspect` by somebody who was never here."""
        run(["docker", "trust", "inspect", self.repository], self.environment(self.visitor()))

    def visitor(self) -> Path:
        """A DOCKER_CONFIG with the CA and nothing else."""
        config = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(self.owner / "tls", config / "tls")
        return config

    def turns(
        self, what: str, ours: Callable[[int], None], docker: Callable[[int], None]
    ) -> dict[str, Row]:
        """A B A B …, after one run of each that is counted and not timed."""
        sides = {f"{what}, ours": ours, f"{what}, docker": docker}
        passed = {name: self.counted(work) for name, work in sides.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(1, _ROUNDS + 1):
            for name, work in sides.items():
                begin = time.perf_counter()
                work(number)
                seconds[name].append(time.perf_counter() - begin)
        rows = {name: _figures(seconds[name], passed[name]) for name in sides}
        mine, theirs = rows.values()
        theirs["ours_to_it"] = round(mine["median_s"] / theirs["median_s"], 3)
        return rows

    def counted(self, work: Callable[[int], None]) -> Row:
        """What *work* sends and receives."""
        self.recorder.reset()
        self.url = self.recorder.url
        work(0)
        self.url = self.stack.trust_server
        return {
            "requests": len(self.recorder.requests),
            "kB_up": self.recorder.sent / 1000,
            "kB_down": self.recorder.received / 1000,
        }


def _figures(seconds: Sequence[float], passed: Mapping[str, float]) -> Row:
    return {
        "median_s": round(median(seconds), 3),
        "min_s": round(min(seconds), 3),
        "max_s": round(max(seconds), 3),
        **passed,
    }
