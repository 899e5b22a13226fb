"""What stands around one step in the tests: the job that runs it, and the owner of repositories.

The rules:

1. The job holds what Azure DevOps would: the library with its secure files, service connections,
   variables. The owner works on another machine, and hands over nothing but key files.
2. What the world looks like after a step is asked of registry and trust server themselves, over
   plain HTTP, and of the Docker and notary CLIs; never of our own clients.
"""

import base64
import json
import os
import re
import secrets
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peers.stack import Stack, make_context
from signimage.administration import add_signer, initialise_repository
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey, PublicKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore, Passphrases
from signimage.notary import TrustServer
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi
from task.agent import Agent, Endpoint, SecureFile, Step, StepResult
from task.devops import DevOps

PASSPHRASE = "pass %;]\"'\\ phräse ü🔑"  # all that a pipeline stumbles over
ADMINISTRATION = {
    ROOT_VARIABLE: "the owner's root passphrase",
    REPOSITORY_VARIABLE: PASSPHRASE,
    "NOTARY_ROOT_PASSPHRASE": "the owner's root passphrase",
    "NOTARY_TARGETS_PASSPHRASE": PASSPHRASE,
    "NOTARY_SNAPSHOT_PASSPHRASE": PASSPHRASE,
    "NOTARY_DELEGATION_PASSPHRASE": PASSPHRASE,
}
SIGNER = "ci"
_MANIFEST_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)
_LISTED = re.compile(r"(?m)^(\S+) +([0-9a-f]{64}) +\d+ +(\S+) *$")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key as it is uploaded to the library, and the passphrase to it ("" for none)."""

    content: bytes = field(repr=False)
    passphrase: str = field(default=PASSPHRASE, repr=False)

    @property
    def public(self) -> PublicKey:
        """The public half."""
        passphrase = self.passphrase.encode() or None
        return KeyFile.parse(self.content).decrypt(passphrase).public_key


class Owner:
    """The machine of whoever owns repositories; our commands and the real CLIs share it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.config = stack.docker_config(folder / "docker")
        self.store = KeyStore(self.config / "trust")
        self._passphrases = Passphrases(ADMINISTRATION)

    def new_key(self, name: str = SIGNER) -> SigningKey:
        """Make a signing key as `signimage key generate` does."""
        file = self.store.add(PrivateKey.generate_ecdsa(), name, "", PASSPHRASE.encode())
        return SigningKey(file.read_bytes())

    def initialise(self, gun: str, signers: Mapping[str, PublicKey]) -> tuple[str, ...]:
        """Initialise *gun* and let *signers* sign there; gives the IDs of the root keys."""
        initialised = initialise_repository(self._server(gun), self.store, self._passphrases)
        for name, key in signers.items():
            self.add_signer(gun, name, key)
        return initialised.repository.root.body.roles["root"].keyids

    def add_signer(self, gun: str, name: str, key: PublicKey) -> None:
        """Let one more key sign in *gun*."""
        add_signer(self._server(gun), self.store, self._passphrases, name, [key])

    def docker(self, *arguments: str, trust: str = "0") -> str:
        """Run the Docker CLI with all passphrases at hand, and return what it printed."""
        environ = {**ADMINISTRATION, "DOCKER_CONTENT_TRUST": trust}
        return self.stack.docker(*arguments, config=self.config, env=environ).stdout

    def notary(self, *arguments: str, trust_dir: Path | None = None) -> str:
        """Run the notary CLI with all passphrases at hand, and return what it printed."""
        folder = trust_dir or self.store.directory
        return self.stack.notary(*arguments, trust_dir=folder, env=ADMINISTRATION).stdout

    def inspected(self, gun: str) -> dict[str, tuple[str, list[str]]]:
        """Return tag -> digest and signers as `docker trust inspect` reports them."""
        (report,) = json.loads(self.docker("trust", "inspect", gun))
        return {
            row["SignedTag"]: (f"sha256:{row['Digest']}", sorted(row["Signers"]))
            for row in report["SignedTags"]
        }

    def listed(self, gun: str, role: str) -> dict[str, str]:
        """Return tag -> digest of one role as `notary list` reports them, on a first visit."""
        fresh = self.folder / f"notary-{secrets.token_hex(4)}"
        rows = _LISTED.findall(self.notary("list", "--roles", role, gun, trust_dir=fresh))
        return {tag: f"sha256:{digest}" for tag, digest, found in rows if found == role}

    def _server(self, gun: str) -> TrustServer:
        transport = Transport(TransportSettings(ca_files=(self.stack.ca_file,)))
        return TrustServer(TrustApi(transport, self.stack.trust_server, gun))


@dataclass(slots=True)
class Job:
    """A job with one agent: what is in its library, and the step's usual inputs."""

    stack: Stack
    task: Path
    agent: Agent
    devops: DevOps
    connection: Endpoint
    path: str  # the repository's, without its host

    @property
    def gun(self) -> str:
        """The repository's whole name."""
        return f"{self.stack.registry}/{self.path}"

    def upload(self, content: bytes, file_id: str = "") -> str:
        """Put a secure file into the library, with a ticket for this job; gives its id."""
        file_id = file_id or str(uuid.uuid4())
        ticket = secrets.token_urlsafe(24)
        self.devops.add_secure_file(file_id, ticket, content)
        self.agent.secure_files.append(SecureFile(file_id, "ci.key", ticket))
        return file_id

    def connect(self, endpoint: Endpoint) -> Endpoint:
        """Add a service connection to the project."""
        self.agent.endpoints.append(endpoint)
        return endpoint

    def account(self, **parameters: str) -> Endpoint:
        """Add a connection like the usual one but for some of its *parameters*."""
        changed = {**self.connection.parameters, **parameters}
        return self.connect(replace(self.connection, id=str(uuid.uuid4()), parameters=changed))

    def step(self, key: SigningKey, /, **inputs: str) -> Step:
        """Return a step that should succeed, but for what *inputs* say otherwise."""
        usual = {
            "command": "buildAndPush",
            "containerRegistry": self.connection.id,
            "repository": self.path,
            "tags": "1.0",
            "signingKey": inputs.get("signingKey") or self.upload(key.content),
            "trustServer": self.stack.trust_server,
            "caCertificate": str(self.stack.ca_file),
            # Each label is a container for the classic builder, and most tests look at none.
            "addPipelineData": "false",
        }
        given = {name.lower() for name in inputs}
        kept = {name: value for name, value in usual.items() if name.lower() not in given}
        self.agent.secret_variables["signingPassphrase"] = key.passphrase
        env = {REPOSITORY_VARIABLE: "$(signingPassphrase)"} if key.passphrase else {}
        return Step({**kept, **inputs}, env=env, name="image")

    def run(self, step: Step) -> StepResult:
        """Run *step*, and after it the task's clean-up as at the end of the job."""
        result = self.agent.run(self.task, step)
        cleaned = self.agent.run_post_job(self.task, step, result)
        assert (cleaned.result, cleaned.errors) == ("Succeeded", [])
        return result

    def sources(self, *instructions: str, folder: str = ".", **files: str) -> Path:
        """Write a Dockerfile with further *instructions*, and *files* by name, as sources."""
        context = make_context(self.agent.sources / folder, secrets.token_hex(8), instructions)
        for name, content in files.items():
            (context / name).write_text(content, "utf-8")
        return context

    def hide_docker(self, folder: Path) -> None:
        """Give steps a PATH, *folder*, with links to every program but docker."""
        folder.mkdir()
        for place in map(Path, os.environ["PATH"].split(os.pathsep)):
            for program in place.iterdir() if place.is_dir() else ():
                link = folder / program.name
                if program.name != "docker" and not link.is_symlink():
                    link.symlink_to(program)
        self.agent.environ = {**self.agent.environ, "PATH": str(folder)}

    def outputs(self, result: StepResult) -> dict[str, str]:
        """Return the output variables by their names without the step's."""
        return {name.removeprefix("image."): value for name, value in result.outputs.items()}

    def pushed(self, gun: str = "") -> dict[str, str]:
        """Return tag -> digest as the registry has them."""
        listing = self._ask_registry("tags/list", gun)
        tags = json.loads(listing[1])["tags"] or [] if listing else []
        found = {tag: self._ask_registry(f"manifests/{tag}", gun) for tag in tags}
        return {tag: answer[0]["docker-content-digest"] for tag, answer in found.items() if answer}

    def manifest(self, reference: str) -> bytes:
        """Return what the registry has under a tag or digest."""
        answer = self._ask_registry(f"manifests/{reference}")
        assert answer is not None
        return answer[1]

    def move(self, tag: str, digest: str) -> None:
        """Let *tag* point at *digest*, as somebody else would who may push."""
        answer = self._ask_registry(f"manifests/{digest}")
        assert answer is not None
        headers, content = answer
        self._ask_registry(
            f"manifests/{tag}", body=content, headers={"Content-Type": headers["content-type"]}
        )

    def _ask_registry(
        self,
        path: str,
        gun: str = "",
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Mapping[str, Any], bytes] | None:
        host, _, name = (gun or self.gun).partition("/")
        account = f"{self.stack.username}:{self.stack.password}"
        own = {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"}
        own["Accept"] = ", ".join(_MANIFEST_TYPES)
        return _ask(f"http://{host}/v2/{name}/{path}", {**own, **(headers or {})}, body=body)

    def trusted(self, gun: str = "") -> bytes | None:
        """Return the trust server's timestamp of the repository; any publication changes it."""
        url = f"{self.stack.trust_server}/v2/{gun or self.gun}/_trust/tuf/timestamp.json"
        context = ssl.create_default_context(cafile=str(self.stack.ca_file))
        answer = _ask(url, {}, context)
        return answer[1] if answer else None


def _ask(
    url: str,
    headers: Mapping[str, str],
    context: ssl.SSLContext | None = None,
    *,
    body: bytes | None = None,
) -> tuple[Mapping[str, Any], bytes] | None:
    """Return headers (in lower case) and body of an answer, None if there is no such thing."""
    method = "PUT" if body else "GET"
    request = urllib.request.Request(url, body, dict(headers), method=method)  # noqa: S310  # a peer's
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:  # noqa: S310  # the same
            named = {name.lower(): value for name, value in answer.headers.items()}
            return named, answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise
        return None
