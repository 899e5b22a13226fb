"""`make demo`: the product from end to end on real parts, judged by programs that are not ours.

The rules:

1. Only what a user would do is done: the command line prepares, the packaged task signs.
2. The judges are the Docker and notary CLIs; if either disagrees with the step, this fails.
3. It says what it is doing, and leaves nothing running behind.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.stack import PeerError, Stack, make_context
from task.agent import Agent, Endpoint, SecureFile, Step, StepResult
from task.devops import DevOps
from task.packaged import build_vsix, unpack

_SIGNER = "ci"
_TAGS = ("1.0", "latest")
_KEY_FILE = "0b4c9d0e-51f7-4c3a-9a1e-7f1d2c3b4a59"  # the secure file's id in the library
_TICKET = secrets.token_urlsafe(24)
_STEP_NAME = "image"


class Disagreement(Exception):  # noqa: N818  # it is one, whoever is in error
    """A judge sees something else than the step reported, or a step of the demo failed."""


@dataclass(frozen=True, slots=True)
class _Passphrases:
    """Three people's: of the root key, of the repository's own key, of the pipeline's key."""

    root: str
    repository: str
    delegation: str

    @classmethod
    def fresh(cls) -> "_Passphrases":
        return cls(*(f"%;]\"'\\ ü {secrets.token_urlsafe(12)}" for _ in range(3)))


class Demo:
    """One run, in a folder of its own, for the repository *name* of the stack's registry."""

    def __init__(self, folder: Path, stack: Stack, name: str = "demo/app") -> None:
        self.folder = folder
        self.stack = stack
        self.name = name
        self.image = f"{stack.registry}/{name}"
        # Whoever owns the repository works on a machine of their own, and has this trust store.
        self.owner = stack.docker_config(folder / "owner")
        # Judges have never been here: no keys, no cache.
        self.judge = stack.docker_config(folder / "judge")
        self.passphrases = _Passphrases.fresh()
        self.count = 0

    def run(self) -> None:
        """Prepare, run the step, let the judges look."""
        self.say("Make a delegation key for the pipeline (signimage key generate)")
        key_file = self.generate_key()
        self.say(f"Initialise the trust data of {self.image} (signimage repo init)")
        initialised = json.loads(self.signimage("repo", "init", "--json", self.image))
        self.say(f"Let the key sign there under the name {_SIGNER} (signimage signer add)")
        public = str(self.folder / f"{_SIGNER}.pub")
        self.signimage("signer", "add", "--key", public, _SIGNER, self.image)
        self.say("Pack the extension and unpack its task as an agent does")
        task = unpack(build_vsix(), self.folder / "task")
        self.say(f"Run the step SignImage@1: buildAndPush with the tags {', '.join(_TAGS)}")
        result = self.run_step(task, key_file, initialised["rootKeys"])
        if result.result != "Succeeded":
            raise Disagreement(f"the step ended as {result.result}: {result.message}")
        self.check_tidiness(result)
        expected = self.expected(result)
        self.say("Ask the Docker CLI who signed what (docker trust inspect --pretty)")
        self.ask_docker(expected)
        self.say("Ask the notary CLI what is signed (notary list)")
        self.ask_notary(expected)
        self.say("Pull with DOCKER_CONTENT_TRUST=1, which takes only what is signed")
        self.pull(expected)

    def say(self, sentence: str) -> None:
        """Announce the next thing to be done."""
        self.count += 1
        print(f"\n{self.count:2}. {sentence}", flush=True)

    def signimage(self, *arguments: str, passphrase: str = "") -> str:
        """Run our command line as the repository's owner, and return what it printed."""
        print(f"    $ signimage {' '.join(arguments)}", flush=True)
        environ = {
            **os.environ,
            **self.stack.env(),
            "DOCKER_CONFIG": str(self.owner),
            "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": self.passphrases.root,
            "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": passphrase or self.passphrases.repository,
        }
        program = Path(sys.executable).with_name("signimage")
        done = subprocess.run(
            [program, *arguments],
            env=environ,
            cwd=self.folder,
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
        _show(done.stdout)
        if done.returncode != 0:
            raise Disagreement(f"signimage {arguments[0]}: exit code {done.returncode}")
        return done.stdout

    def generate_key(self) -> Path:
        """Make the pipeline's key pair; return the private key's file."""
        passphrase = self.passphrases.delegation
        said = self.signimage("key", "generate", "--json", _SIGNER, passphrase=passphrase)
        return Path(json.loads(said)["private"])

    def run_step(self, task: Path, key_file: Path, root_keys: Sequence[str]) -> StepResult:
        """Run the packaged task under the fake agent; show what a pipeline's log would show."""
        devops = DevOps(token=secrets.token_urlsafe(32))
        devops.add_secure_file(_KEY_FILE, _TICKET, key_file.read_bytes())
        # On the agent only the secure file's copy exists; the owner keeps theirs elsewhere.
        key_file.unlink()
        registry = Endpoint.registry(
            f"http://{self.stack.registry}", self.stack.username, self.stack.password
        )
        with devops.serve():
            agent = Agent(
                self.folder / "agent",
                devops.collection_uri,
                devops.token,
                environ={"DOCKER_HOST": self.stack.docker_host},
                secret_variables={"signingPassphrase": self.passphrases.delegation},
                endpoints=[registry],
                secure_files=[SecureFile(_KEY_FILE, key_file.name, _TICKET)],
            )
            make_context(agent.sources / "app", text=secrets.token_hex(16))
            step = self.step(registry, root_keys)
            result = agent.run(task, step)
            agent.run_post_job(task, step, result)
        _show("\n".join(result.log))
        print(f"    -> {result.result}")
        for name, value in result.outputs.items():
            print(f"    -> $({name}) = {value}".replace("\n", " "))
        return result

    def check_tidiness(self, result: StepResult) -> None:
        """See that the step left nothing behind, and kept its secrets to itself."""
        _agree("files left by the step", result.leftovers, ())
        _agree("processes left by the step", result.orphans, ())
        for secret in (self.passphrases.delegation, self.stack.password, _TICKET):
            _agree("lines that hold a secret", [x for x in result.spoken if secret in x], [])

    def step(self, registry: Endpoint, root_keys: Sequence[str]) -> Step:
        """Return the step as its YAML would be."""
        inputs = {
            "command": "buildAndPush",
            "containerRegistry": registry.id,
            "repository": self.name,
            "tags": "\n".join(_TAGS),
            "signingKey": _KEY_FILE,
            "trustServer": self.stack.trust_server,
            "caCertificate": str(self.stack.ca_file),
            "rootKeys": "\n".join(root_keys),
        }
        passphrase = {"DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "$(signingPassphrase)"}
        return Step(inputs, env=passphrase, name=_STEP_NAME)

    def expected(self, result: StepResult) -> Mapping[str, str]:
        """Return what the step claims to have signed, as tag -> digest."""
        outputs = {name.partition(".")[2]: value for name, value in result.outputs.items()}
        _agree("the step's signedTags", sorted(_words(outputs["signedTags"])), sorted(_TAGS))
        _agree("the step's signers", _words(outputs["signers"]), [_SIGNER])
        digest = outputs["digest"]
        references = [f"{self.image}:{tag}@{digest}" for tag in _TAGS]
        _agree("the step's imageReferences", _words(outputs["imageReferences"]), references)
        return dict.fromkeys(_TAGS, digest)

    def ask_docker(self, expected: Mapping[str, str]) -> None:
        """Compare tags, digests and signers with what the Docker CLI reports."""
        shown = self.stack.docker("trust", "inspect", "--pretty", self.image, config=self.judge)
        _show(shown.stdout)
        read = self.stack.docker("trust", "inspect", self.image, config=self.judge)
        (report,) = json.loads(read.stdout)
        rows = report["SignedTags"]
        found = {row["SignedTag"]: f"sha256:{row['Digest']}" for row in rows}
        _agree("docker's tags and digests", found, expected)
        signers = {row["SignedTag"]: row["Signers"] for row in rows}
        _agree("docker's signers", signers, {tag: [_SIGNER] for tag in expected})

    def ask_notary(self, expected: Mapping[str, str]) -> None:
        """Compare tags and digests, in both roles that the key may sign, with notary's."""
        for role in ("targets/releases", f"targets/{_SIGNER}"):
            listed = self.stack.notary(
                "list", "--roles", role, self.image, trust_dir=self.folder / "notary"
            )
            _show(listed.stdout)
            rows = re.findall(rf"(?m)^(\S+) +([0-9a-f]{{64}}) +\d+ +{role} *$", listed.stdout)
            found = {tag: f"sha256:{digest}" for tag, digest in rows}
            _agree(f"notary's tags and digests in {role}", found, expected)

    def pull(self, expected: Mapping[str, str]) -> None:
        """Pull each tag by its signature, and compare the digest that the CLI resolved."""
        # Not what the build left in the engine: what the registry has.
        self.remove(expected)
        for tag, digest in expected.items():
            pulled = self.stack.docker(
                "pull",
                f"{self.image}:{tag}",
                config=self.judge,
                env={"DOCKER_CONTENT_TRUST": "1"},
            )
            _show(pulled.stdout)
            resolved = re.findall(r"(?m)^Digest: (sha256:[0-9a-f]{64})", pulled.stdout)
            _agree(f"the digest of the signed pull of {tag}", resolved, [digest])

    def remove(self, tags: Iterable[str]) -> None:
        """Remove the demo's images from the engine, which may be the user's own."""
        images = [f"{self.image}:{tag}" for tag in tags]
        self.stack.docker("image", "rm", "--force", *images, config=self.judge)


def _agree(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Disagreement(f"{what}: expected {expected}, got {found}")


def _words(text: str) -> Sequence[str]:
    return [word for word in re.split(r"[\s,]+", text) if word]


def _show(text: str) -> None:
    for line in text.strip("\n").splitlines():
        print(f"    | {line}")


def main() -> int:
    """Run the demo on a stack of its own; 1 if anything is not as it was reported."""
    print("SignImage demo: real Docker engine, registry and trust server, on loopback only.")
    print("\n 0. Start dockerd (if no engine answers), docker-registry, notary-signer and -server")
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    try:
        stack = Stack.start(folder / "stack")
    except PeerError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    try:
        print(f"    registry {stack.registry}, trust server {stack.trust_server}")
        Demo(folder, stack).run()
    except Disagreement as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print("\nDone: the step's report, the Docker CLI and the notary CLI agree.")
    print(f"The extension is {os.path.relpath(build_vsix())}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
