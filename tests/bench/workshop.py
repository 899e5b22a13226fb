"""Who takes part in the benchmark, each with the tools and the surroundings it has in practice.

1. All use the same engine, registry and trust server on loopback, the latter through a proxy that
   counts. All build with the classic builder, as every engine has it.
2. *Ours* runs as an agent runs it: node, from the unpacked package, a first visitor every time.
3. *The recipe* is the documented one, a process of node for each of its steps, on the libraries
   of Microsoft's tasks; a fresh configuration of Docker every time, as its login makes one.
4. *Docker* gets what makes it fast: one kept trust cache, keys unlocked by the environment, and
   no pipeline around it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.process import run
from bench.recorder import Recorder
from peers.stack import Stack, make_context
from signimage.administration import add_signer, generate_key, initialise_repository
from signimage.keys import PublicKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore, Passphrases
from signimage.notary import TrustServer
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi
from task.agent import Agent, Endpoint, SecureFile, Step
from task.devops import DevOps

PASSPHRASES = {ROOT_VARIABLE: "root passphrase", REPOSITORY_VARIABLE: "bench passphrase"}
_RECIPE = Path(__file__).with_name("recipe.js")
_KEY_FILE = "5e0c1f5a-8f0e-4a57-9d63-2f6c8f1f0b11"
_TICKET = "ticket-of-the-benchmark"
# As many as the step adds by itself; the classic builder makes a layer of each.
_LABELS = ("bench.collection=http://127.0.0.1/", "bench.version=0123456789abcdef")
# The interpreter itself, not a version manager's script in front of it.
PATH = f"{sys.base_prefix}/bin{os.pathsep}{os.environ['PATH']}"
# Inputs as Docker@2 and DownloadSecureFile@1 declare them, as far as the agent needs to know.
_RECIPE_INPUTS = {
    "inputs": [
        {"name": "containerRegistry", "type": "connectedService:dockerregistry"},
        {"name": "secureFile", "type": "secureFile"},
    ]
}


@dataclass(frozen=True)
class Signed:
    """A repository with one signer."""

    name: str  # with its registry
    key_file: Path
    key_id: str

    def references(self, tags: Iterable[str]) -> list[str]:
        """The full name of each of *tags*."""
        return [f"{self.name}:{tag}" for tag in tags]


class Workshop:
    """The contestants, in a folder of their own."""

    def __init__(
        self, folder: Path, stack: Stack, recorder: Recorder, ca_file: Path, task: Path
    ) -> None:
        self.folder = folder
        self.stack = stack
        self.recorder = recorder
        self.ca_file = ca_file
        self.task = task
        self.owner = stack.docker_config(folder / "owner")
        self.add_authority(self.owner)
        self.store = KeyStore(self.owner / "trust")
        self.devops = DevOps(token="the-job-token")
        account = (stack.username, stack.password)
        self.connection = Endpoint.registry(f"http://{stack.registry}", *account)
        self.count = 0

    def prepare(self, name: str) -> Signed:
        """Initialise a repository with one signer."""
        repository = f"{self.stack.registry}/bench/{name}"
        passphrases = Passphrases(PASSPHRASES)
        with Transport(TransportSettings(ca_files=(self.ca_file,))) as transport:
            server = TrustServer(TrustApi(transport, self.recorder.url, repository))
            initialise_repository(server, self.store, passphrases)
            key = generate_key(self.store, passphrases, name, self.folder)
            public = PublicKey.from_pem(key.public.read_bytes())
            add_signer(server, self.store, passphrases, name, [public])
        return Signed(repository, key.private, key.key_id)

    def context(self, folder: Path | None = None) -> Path:
        """A build context whose last layer is new: nothing may come from the cache alone."""
        self.count += 1
        folder = folder or self.folder / f"context-{self.count}"
        return make_context(folder, text=f"bench {self.count}")

    def add_authority(self, config: Path) -> None:
        """Let Docker, with the configuration *config*, believe the proxy's certificate."""
        tls = config / "tls" / self.recorder.url.removeprefix("https://")
        tls.mkdir(parents=True)
        shutil.copyfile(self.ca_file, tls / "ca.crt")

    # --- Docker ---

    def docker(self, *arguments: str) -> None:
        """Run the Docker CLI as the owner of everything."""
        run(["docker", *arguments], self.environment())

    def environment(self) -> dict[str, str]:
        """What the Docker CLI runs with."""
        return {
            **os.environ,
            **PASSPHRASES,
            "DOCKER_HOST": self.stack.docker_host,
            "DOCKER_CONFIG": str(self.owner),
            "DOCKER_CONTENT_TRUST_SERVER": self.recorder.url,
            "DOCKER_BUILDKIT": "0",
        }

    def build(self, repository: Signed, tags: Sequence[str]) -> None:
        """Build a new image with all *tags*, and the labels that a step adds."""
        flags = [f"--tag={name}" for name in repository.references(tags)]
        flags += [f"--label={each}" for each in _LABELS]
        self.docker("build", *flags, str(self.context()))

    def docker_step(self, repository: Signed, tags: Sequence[str], *, signed: bool) -> float:
        """Build, and push tag by tag, signed or not."""
        begin = time.perf_counter()
        self.build(repository, tags)
        for name in repository.references(tags):
            self.docker("push", f"--disable-content-trust={str(not signed).lower()}", name)
        return time.perf_counter() - begin

    def docker_sign(self, repository: Signed, tags: Sequence[str]) -> float:
        """Sign what the registry has, tag by tag; `--local` reads the image from the engine."""
        begin = time.perf_counter()
        for name in repository.references(tags):
            self.docker("trust", "sign", "--local", name)
        return time.perf_counter() - begin

    def unsigned(self, repository: Signed, tags: Sequence[str]) -> None:
        """Put a new image into the registry, with all *tags* and no signature."""
        self.build(repository, tags)
        for name in repository.references(tags):
            self.docker("push", "--disable-content-trust=true", name)

    # --- In a pipeline ---

    def agent(self, repository: Signed) -> Agent:
        """A fresh agent, whose library has the key of *repository*."""
        self.devops.add_secure_file(_KEY_FILE, _TICKET, repository.key_file.read_bytes())
        return Agent(
            Path(tempfile.mkdtemp(dir=self.folder)),
            self.devops.collection_uri,
            self.devops.token,
            environ={
                "DOCKER_HOST": self.stack.docker_host,
                "DOCKER_BUILDKIT": "0",
                "PATH": PATH,
            },
            secret_variables={"passphrase": PASSPHRASES[REPOSITORY_VARIABLE]},
            endpoints=[self.connection],
            secure_files=[SecureFile(_KEY_FILE, f"{repository.key_id}.key", _TICKET)],
        )

    def step(
        self, agent: Agent, repository: Signed, tags: Sequence[str], inputs: Mapping[str, str]
    ) -> dict[str, str]:
        """The environment of our step on *agent*."""
        given = {
            "containerRegistry": self.connection.id,
            "repository": repository.name.partition("/")[2],
            "tags": "\n".join(tags),
            "signingKey": _KEY_FILE,
            "trustServer": self.recorder.url,
            "caCertificate": str(self.ca_file),
            "addPipelineData": "false",
            "addBaseImageData": "false",
            **inputs,
        }
        definition = json.loads((self.task / "task.json").read_text("utf-8"))
        step = Step(given, env={REPOSITORY_VARIABLE: "$(passphrase)"})
        return agent.environment(definition, step, {})

    @property
    def program(self) -> list[str]:
        """What an agent starts for our step."""
        return ["node", str(self.task / "task" / "index.js")]

    def ours(self, repository: Signed, tags: Sequence[str], **inputs: str) -> float:
        """One step of ours."""
        agent = self.agent(repository)
        self.context(agent.sources)
        environment = self.step(agent, repository, tags, inputs)
        begin = time.perf_counter()
        self.node(self.program, environment, agent.sources)
        return time.perf_counter() - begin

    def node(self, program: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
        """Run a step as an agent does, and give what it says."""
        done = subprocess.run(
            program,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0 or "result=Failed" in done.stdout:
            raise SystemExit(f"{program}: {done.stdout[-2000:]}")
        return done.stdout

    def recipe(self, repository: Signed, tags: Sequence[str]) -> float:
        """The documented recipe: log in, fetch the key, put it where Docker looks, build, push."""
        agent = self.agent(repository)
        self.context(agent.sources)
        begin = time.perf_counter()
        said = self.recipe_step(agent, "login", {}, {})
        found = re.search(r"variable=DOCKER_CONFIG;[^]]*\](.+)", said)
        if found is None:
            raise SystemExit(f"the login made no configuration: {said}")
        config = Path(found[1].strip())
        self.recipe_step(agent, "download", {"secureFile": _KEY_FILE}, {})
        # The script of the recipe.
        private = config / "trust" / "private"
        name = f"{repository.key_id}.key"
        script = f"mkdir -p {private} && cp {agent.temp / name} {private}/ && chmod 600 {private}/*"
        run(["bash", "-c", script], {**os.environ})
        self.add_authority(config)
        inputs = {
            "repository": repository.name.partition("/")[2],
            "tags": "\n".join(tags),
            "Dockerfile": str(agent.sources / "Dockerfile"),
            "buildContext": str(agent.sources / "**"),
            "arguments": "--disable-content-trust=false",
        }
        env = {
            "DOCKER_CONFIG": str(config),
            "DOCKER_CONTENT_TRUST_SERVER": self.recorder.url,
            REPOSITORY_VARIABLE: "$(passphrase)",
        }
        for step in ("build", "push"):
            self.recipe_step(agent, step, inputs, env)
        return time.perf_counter() - begin

    def recipe_step(
        self, agent: Agent, name: str, inputs: Mapping[str, str], env: Mapping[str, str]
    ) -> str:
        """Run one step of the recipe."""
        step = Step({"containerRegistry": self.connection.id, **inputs}, env=env)
        environment = agent.environment(_RECIPE_INPUTS, step, {})
        return self.node(["node", str(_RECIPE), name], environment, agent.sources)

    # --- Archives ---

    def archive(self, name: str, layers: Iterable[bytes]) -> Path:
        """What `docker save` writes of a new image *name* with those further *layers*."""
        context = self.context()
        with (context / "Dockerfile").open("a") as file:
            for number, content in enumerate(layers):
                (context / f"layer-{number}").write_bytes(content)
                file.write(f"COPY layer-{number} /layer-{number}\n")
        self.docker("build", f"--tag={name}", str(context))
        archive = self.folder / f"archive-{self.count}.tar"
        self.docker("save", f"--output={archive}", name)
        self.docker("rmi", name)
        return archive

    def skopeo(self, repository: Signed, tag: str, archive: Path) -> float:
        """Copy *archive* to the registry; nothing is signed."""
        begin = time.perf_counter()
        login = ["--dest-authfile", str(self.owner / "config.json"), "--dest-tls-verify=false"]
        source, target = f"docker-archive:{archive}", f"docker://{repository.name}:{tag}"
        run(["skopeo", "--insecure-policy", "copy", *login, source, target], self.environment())
        return time.perf_counter() - begin
