"""Every step that the documentation shows is run, as it is written there, and has to succeed.

The rules:

1. Only the names that a reader has to replace are replaced, by `Place`: connection, repository,
   secure file, hosts, root key. Everything else, macros and expressions included, is as written.
2. Steps of other tasks are not run, but what they would have made is there: an image in the
   engine or the registry, an archive, a signature by an earlier run.
3. Texts with the same steps are run once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from peers.buildkit import FAR, BuildKit
from task.agent import Step, StepResult
from task.pipeline import SIGNER, Job, Owner, SigningKey
from unit.documentation import PipelineStep, examples

TASK = "SignImage@1"
ROOT_KEY = "0f0e0d0c0b0a09080706050403020100f0e0d0c0b0a090807060504030201000"
VARIANTS = ("slim", "full", "debug")
UNNAMED = "unnamed"
_STAGE_OUTPUT = re.compile(r"\$\[ stageDependencies\.(\w+\.\w+)\.outputs\['(\w+\.\w+)'\] \]")
_MACRO = re.compile(r"\$\(([^()]+)\)")


def scenarios() -> dict[str, tuple[PipelineStep, ...]]:
    """The steps of every text that has one of ours, each sequence once, by its first place."""
    found: dict[str, tuple[PipelineStep, ...]] = {}
    for example in examples():
        steps = tuple(example.steps())
        if any(step.task == TASK for step in steps) and steps not in found.values():
            found[example.where] = steps
    return found


SCENARIOS = scenarios()


@dataclass(slots=True)
class Place:
    """A project of Azure DevOps in which everything has the names of the documentation.

    Attributes:
        job: Runs the steps.
        owner: Whose engine and account other tasks use.
        key: Whose signatures a text may take for granted.
        names: What stands for the names in the texts.
        outputs: What steps left to other jobs, by `stage.job` and name.
        digest: Of what Docker@2 pushed last.
    """

    job: Job
    owner: Owner
    key: SigningKey
    names: Mapping[str, str]
    outputs: dict[tuple[str, str], str] = field(default_factory=dict)
    digest: str = ""

    def enter(self, step: PipelineStep) -> None:
        """Set the variables that the step's job has."""
        for name, text in step.variables.items():
            self.job.agent.variables[name] = _STAGE_OUTPUT.sub(
                lambda found: self.outputs.get((found[1], found[2]), self.digest), text
            )

    def run(self, step: PipelineStep) -> StepResult:
        """Run a step of ours."""
        inputs = {name: self.replaced(value) for name, value in step.inputs.items()}
        self.provide(inputs)
        result = self.job.run(Step(inputs, env=step.env, name=step.name or UNNAMED))
        for name, value in result.outputs.items():
            self.outputs[step.place, name] = value
            self.job.agent.variables[name] = value
        return result

    def replaced(self, text: str) -> str:
        """The text with the project's own names."""
        for name, value in self.names.items():
            text = text.replace(name, value)
        return text

    def expanded(self, text: str) -> str:
        """What the agent makes of a text."""
        known = {"Build.BuildNumber": "20261122.3", **self.job.agent.variables}
        return _MACRO.sub(lambda macro: known.get(macro[1], macro[0]), text)

    def tags(self, inputs: Mapping[str, str]) -> list[str]:
        """The tags that a step names, without digests."""
        items = re.split(r"[\n,]+", self.expanded(inputs["tags"]).strip())
        return [item.partition("@")[0].rpartition(":")[2] for item in items]

    def provide(self, inputs: Mapping[str, str]) -> None:
        """Make what a step needs and the text takes for granted."""
        command, tags = inputs.get("command"), self.tags(inputs)
        if command == "push" and "imageArchive" in inputs:
            self.save(Path(self.expanded(inputs["imageArchive"])))
        elif command == "push" and not all(self.is_built(tag) for tag in tags):
            self.build(tags)
        elif command == "sign" and not self.job.pushed().keys() >= {*tags}:
            self.build(tags)
            self.push(tags)
        elif command == "verify" and not self.owner.inspected(self.job.gun).keys() >= {*tags}:
            signs = self.job.step(self.key, tags=",".join(tags))
            assert self.job.run(signs).result == "Succeeded"

    def is_built(self, tag: str) -> bool:
        """Whether the engine has the image."""
        return bool(self.owner.docker("image", "ls", "--quiet", f"{self.job.gun}:{tag}"))

    def build(self, tags: list[str]) -> None:
        """Build as an earlier step of the job would."""
        names = [f"--tag={self.job.gun}:{tag}" for tag in tags]
        self.owner.docker("build", *names, str(self.job.agent.sources))

    def push(self, tags: list[str]) -> None:
        """Push as an earlier step would."""
        for tag in tags:
            self.owner.docker("push", f"{self.job.gun}:{tag}")
        self.digest = self.job.pushed()[tags[0]]

    def save(self, archive: Path) -> None:
        """Write what was built into a file, as a script and the artifacts of a run would."""
        archive.parent.mkdir()
        built = self.expanded(f"{self.job.gun}:$(Build.BuildNumber)")
        self.owner.docker("save", "--output", str(archive), built)


@pytest.fixture
def place(job: Job, owner: Owner, key: SigningKey) -> Place:
    """A project as the quick start leaves it, with sources for every example."""
    (root_key,) = owner.initialise(job.gun, {SIGNER: key.public})
    names = {
        "my-registry": job.connection.id,
        "registry.example.com": job.stack.registry,
        "https://notary.example.com": job.stack.trust_server,
        "team/app": job.path,
        "ci.key": job.upload(key.content),
        ROOT_KEY: root_key,
    }
    for variant in VARIANTS:
        job.sources(folder=f"images/{variant}")
    authorities = job.agent.sources / "certificates" / "company-ca.pem"
    authorities.parent.mkdir()
    authorities.write_bytes(job.stack.ca_file.read_bytes())
    job.agent.secret_variables["signingPassphrase"] = key.passphrase
    job.agent.variables["Pipeline.Workspace"] = str(job.agent.sources.parent)
    # Whoever has a trust server of their own says so for the whole pipeline, and whoever has a
    # private authority has told the agent.
    job.agent.variables["DOCKER_CONTENT_TRUST_SERVER"] = job.stack.trust_server
    authority = {"NODE_EXTRA_CA_CERTS": str(job.stack.ca_file)}
    job.agent.environ = {**job.agent.environ, **authority}
    return Place(job, owner, key, names)


@pytest.mark.parametrize("steps", SCENARIOS.values(), ids=SCENARIOS)
def test_every_step_that_is_shown_works(
    place: Place,
    steps: tuple[PipelineStep, ...],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if any(step.makes_builder for step in steps):
        builders: BuildKit = request.getfixturevalue("buildkit")
        home = builders.home(tmp_path / "home")
        place.job.agent.environ = {**place.job.agent.environ, **home, "BUILDX_BUILDER": FAR}
    for step in steps:
        place.enter(step)
        command = step.inputs.get("command", "buildAndPush")
        if step.task == "Docker@2" and command == "buildAndPush":
            place.build(place.tags(step.inputs))
            place.push(place.tags(step.inputs))
        if step.task == TASK:
            result = place.run(step)
            assert (result.result, result.errors) == ("Succeeded", []), "\n".join(result.log)
            assert bool(result.outputs) == (command != "build")
    inspected = place.owner.inspected(place.job.gun)
    platforms = {name: row for name, row in inspected.items() if name.startswith("sha256-")}
    pushed = place.job.pushed()
    expected = {tag: (pushed[tag], [SIGNER]) for tag in pushed}
    expected |= {name: (name.replace("-", ":"), [SIGNER]) for name in platforms}
    assert inspected == expected
