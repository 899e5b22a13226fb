"""The commands of the step beside `buildAndPush`, and what each of them leaves to be seen.

Each claim is checked against what engine, registry, Docker's CLI and notary's CLI say afterwards.
"""

import re
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from task.agent import Step, StepResult
from task.agent_model import Restrictions
from task.pipeline import SIGNER, Job, Owner, SigningKey

SUMMARY = "Distributedtask.Core.Summary"


def succeeded(job: Job, result: StepResult) -> dict[str, str]:
    """Check what every good step has in common; give its outputs."""
    assert (result.result, result.errors) == ("Succeeded", []), "\n".join(result.log)
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())
    return job.outputs(result)


def failed(result: StepResult) -> str:
    """Check what every failed step has in common; give its sentence."""
    (sentence,) = result.errors
    assert (result.result, result.outputs) == ("Failed", {})
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())
    return sentence


def built(job: Job, owner: Owner, *tags: str, text: str = "built before") -> None:
    """Build an image with *tags* as an earlier step of the job would."""
    job.sources(f"LABEL text={text!r}")
    names = [f"--tag={job.gun}:{tag}" for tag in tags]
    owner.docker("build", *names, str(job.agent.sources))


def without_engine(job: Job, folder: Path) -> None:
    """Take Docker's command line and its engine away from the step."""
    job.hide_docker(folder)
    job.agent.environ = {**job.agent.environ, "DOCKER_HOST": "unix:///nowhere.sock"}


def signs(job: Job, key: SigningKey, **inputs: str) -> StepResult:
    """Push and sign what was built before."""
    return job.run(job.step(key, command="push", **inputs))


def gate(job: Job, **inputs: str) -> Step:
    """A step that verifies, without a key and without a passphrase."""
    usual = {
        "command": "verify",
        "containerRegistry": job.connection.id,
        "repository": job.path,
        "tags": "1.0",
        "trustServer": job.stack.trust_server,
        "caCertificate": str(job.stack.ca_file),
    }
    return Step({**usual, **inputs}, name="image")


# --- build ------------------------------------------------------------------------------------


def test_build_only_builds(job: Job, owner: Owner, key: SigningKey) -> None:
    """It needs no key, and says that nothing is signed; a later `push` finds the image."""
    inputs = {"command": "build", "containerRegistry": job.connection.id, "repository": job.path}
    result = job.run(Step({**inputs, "tags": "1.0,latest"}, name="image"))
    assert succeeded(job, result) == {}
    assert result.message.endswith("built, neither pushed nor signed")
    assert (job.pushed(), job.trusted()) == ({}, None)
    owner.initialise(job.gun, {SIGNER: key.public})
    assert succeeded(job, signs(job, key, tags="1.0,latest"))["signedTags"] == "1.0,latest"


# --- push -------------------------------------------------------------------------------------


@pytest.fixture(params=["command", "engine"])
def both_ways(request: pytest.FixtureRequest, job: Job, tmp_path: Path) -> None:
    """Go to the engine by the docker command, then without one."""
    if request.param == "engine":
        job.hide_docker(tmp_path / "bin")


@pytest.mark.usefixtures("both_ways")
def test_push_signs_what_an_earlier_step_built(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    built(signable, owner, "1.0", "latest")
    outputs = succeeded(signable, signs(signable, key, tags="1.0,latest"))
    digest = outputs["digest"]
    assert signable.pushed() == {"1.0": digest, "latest": digest}
    assert owner.inspected(signable.gun) == dict.fromkeys(("1.0", "latest"), (digest, [SIGNER]))


def test_push_signs_several_images_in_one_publication(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    built(signable, owner, "slim", text="slim")
    built(signable, owner, "full", text="full")
    outputs = succeeded(signable, signs(signable, key, tags="slim,full"))
    slim, full = outputs["digest"].split(",")
    assert slim != full
    assert signable.pushed() == {"slim": slim, "full": full}
    assert owner.inspected(signable.gun) == {"slim": (slim, [SIGNER]), "full": (full, [SIGNER])}


@pytest.mark.usefixtures("both_ways")
def test_an_image_that_was_not_built_is_named(signable: Job, key: SigningKey) -> None:
    before = signable.trusted()
    sentence = failed(signs(signable, key, tags="absent"))
    assert f"image {signable.gun}:absent is not in the engine. " in sentence
    assert "Nothing was pushed or signed" in sentence
    assert (signable.pushed(), signable.trusted()) == ({}, before)


@pytest.mark.usefixtures("both_ways")
def test_push_signs_the_image_of_an_archive(signable: Job, owner: Owner, key: SigningKey) -> None:
    """As a release has it from a build: the engine never saw the image, names do not matter."""
    built(signable, owner, "build-7")
    archive = signable.agent.sources / "drop" / "image.tar"
    archive.parent.mkdir()
    owner.docker("save", "--output", str(archive), f"{signable.gun}:build-7")
    owner.docker("image", "rm", f"{signable.gun}:build-7")
    result = signs(signable, key, imageArchive="drop/image.tar", tags="1.0,latest")
    digest = succeeded(signable, result)["digest"]
    assert signable.pushed() == {"1.0": digest, "latest": digest}
    assert owner.inspected(signable.gun) == dict.fromkeys(("1.0", "latest"), (digest, [SIGNER]))


def test_a_classic_release_signs_what_a_build_left(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    """It has artifacts in the place of sources, and no variable of a build."""
    built(signable, owner, "build-7")
    signable.agent.host_type = "release"
    archive = signable.agent.sources / "_team app" / "drop" / "image.tar"
    archive.parent.mkdir(parents=True)
    owner.docker("save", "--output", str(archive), f"{signable.gun}:build-7")
    result = signs(signable, key, imageArchive="_team app/drop/image.tar")
    assert signable.pushed() == {"1.0": succeeded(signable, result)["digest"]}
    (details,) = signable.devops.image_details
    assert (details["runId"], details["pipelineVersion"]) == (42, "Release-42")
    assert "_releaseProgress?releaseId=42" in details["logsUri"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "imageArchive .*absent.tar: .* No such file or directory"),
        (b"no archive", "imageArchive .*absent.tar: .* expected a whole archive, got one that is"),
    ],
    ids=["absent", "text"],
)
@pytest.mark.usefixtures("both_ways")
def test_what_is_no_archive_is_refused(
    signable: Job, key: SigningKey, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (signable.agent.sources / "absent.tar").write_bytes(content)
    said = failed(signs(signable, key, imageArchive="absent.tar"))
    assert re.search(sentence, said)
    assert signable.pushed() == {}


# --- sign -------------------------------------------------------------------------------------


def test_sign_needs_no_engine(signable: Job, owner: Owner, key: SigningKey, tmp_path: Path) -> None:
    built(signable, owner, "1.0")
    owner.docker("push", f"{signable.gun}:1.0")
    without_engine(signable, tmp_path / "programs")
    outputs = succeeded(signable, signable.run(signable.step(key, command="sign")))
    assert owner.inspected(signable.gun) == {"1.0": (outputs["digest"], [SIGNER])}
    assert signable.pushed() == {"1.0": outputs["digest"]}


def test_sign_refuses_a_tag_that_has_moved(signable: Job, owner: Owner, key: SigningKey) -> None:
    """Between the step that pushed and this one, somebody pushed something else."""
    built(signable, owner, "1.0", text="honest")
    owner.docker("push", f"{signable.gun}:1.0")
    digest = signable.pushed()["1.0"]
    built(signable, owner, "1.0", text="other")
    owner.docker("push", f"{signable.gun}:1.0")
    before = signable.trusted()
    wanted = f"{signable.gun}:1.0@{digest}"
    sentence = failed(signable.run(signable.step(key, command="sign", tags=wanted)))
    assert f"{signable.gun}:1.0: expected {digest}, got sha256:" in sentence
    assert signable.trusted() == before


def test_sign_of_a_tag_that_is_not_there(signable: Job, key: SigningKey) -> None:
    before = signable.trusted()
    sentence = failed(signable.run(signable.step(key, command="sign", tags="absent")))
    assert f"does not have {signable.gun}:absent" in sentence
    assert signable.trusted() == before


# --- verify -----------------------------------------------------------------------------------


def test_verify_gives_the_digest_that_is_signed(
    signable: Job, owner: Owner, key: SigningKey, tmp_path: Path
) -> None:
    """The gate of a deployment: no key, no engine; it insists on signer and root."""
    built(signable, owner, "1.0")
    signed = succeeded(signable, signs(signable, key))
    without_engine(signable, tmp_path / "programs")
    result = signable.run(gate(signable, requiredSigners=SIGNER, tags=signed["imageReferences"]))
    assert succeeded(signable, result) == signed
    assert result.message.endswith("verified, signed by ci")


def test_verify_says_of_each_tag_who_signed_it(
    signable: Job, owner: Owner, key: SigningKey, tmp_path: Path
) -> None:
    other = owner.new_key("qa")
    owner.add_signer(signable.gun, "qa", other.public)
    for tag, who in (("1.0", key), ("2.0", other)):
        built(signable, owner, tag)
        succeeded(signable, signs(signable, who, tags=tag))
    without_engine(signable, tmp_path / "programs")
    result = signable.run(gate(signable, tags="1.0,2.0"))
    assert succeeded(signable, result)["signers"] == ""
    assert result.message.endswith("verified, signed by different signers")
    lines = [line for line in result.log if line.startswith("Signed by ")]
    assert [line.partition("@")[0] for line in lines] == [
        f"Signed by {who}: {signable.gun}:{tag}" for who, tag in ((SIGNER, "1.0"), ("qa", "2.0"))
    ]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"tags": "absent"}, ":absent is not signed: neither targets/releases nor targets has"),
        ({"requiredSigners": "ci,qa"}, ":1.0 is not signed by qa; it is signed by ci"),
        ({"rootKeys": "0" * 64}, f"expected root key {'0' * 64}"),
        ({"tags": f"1.0@sha256:{'0' * 64}"}, f"as it is signed: expected sha256:{'0' * 64}, got"),
    ],
    ids=["unsigned", "signer", "root", "digest"],
)
def test_the_gate_stays_shut(
    signable: Job, owner: Owner, key: SigningKey, inputs: dict[str, str], sentence: str
) -> None:
    built(signable, owner, "1.0")
    succeeded(signable, signs(signable, key))
    assert sentence in failed(signable.run(gate(signable, **inputs)))


def test_the_gate_stays_shut_where_the_registry_has_something_else(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    """Whoever deploys the tag would get what nobody signed."""
    built(signable, owner, "1.0", text="honest")
    digest = succeeded(signable, signs(signable, key))["digest"]
    built(signable, owner, "1.0", text="other")
    owner.docker("push", f"{signable.gun}:1.0")
    sentence = failed(signable.run(gate(signable)))
    assert f"{signable.gun}:1.0, as the registry has it: expected {digest}, got" in sentence


# --- What people see --------------------------------------------------------------------------


def test_the_run_has_a_page_without_what_the_log_masks(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    built(signable, owner, "1.0")
    result = signs(signable, key)
    digest = succeeded(signable, result)["digest"]
    ((kind, name), page) = next(iter(result.attachments.items()))
    text = page.decode()
    assert (kind, name) == (SUMMARY, f"{signable.path.replace('/', ' ')} 1.0.md")
    assert f"## Signed: {signable.path}" in text
    assert f"| `1.0` | `{digest}` |" in text
    assert key.public.canonical_id in text
    for secret in (*signable.connection.secrets, signable.stack.registry):
        assert not secret or secret not in text


def test_environments_are_told_of_what_was_built(signable: Job, key: SigningKey) -> None:
    result = signable.run(signable.step(key, tags="1.0,latest"))
    digest = succeeded(signable, result)["digest"]
    (details,) = signable.devops.image_details
    assert details["imageUri"] == f"https://{signable.gun}@{digest}"
    assert details["hash"] == digest.removeprefix("sha256:")
    assert details["tags"] == ["1.0", "latest"]
    assert details["buildOptions"]["dockerFilePath"].endswith("Dockerfile")
    assert details["layerInfo"][0]["directive"] == "COPY"
    assert isinstance(details["runId"], int)


def test_environments_that_refuse_are_a_warning(signable: Job, key: SigningKey) -> None:
    signable.devops.image_details_status = HTTPStatus.FORBIDDEN
    result = signable.run(signable.step(key))
    succeeded(signable, result)
    assert any("Environments were not told of the image: Azure DevOps" in each
               for each in result.warnings)  # fmt: skip


def test_a_step_whose_commands_are_restricted_signs_all_the_same(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    """The agent of a pipeline with `target: commands: restricted` drops the page with a warning."""
    restricted = replace(signable.step(key), restrictions=Restrictions(restricted=True))
    result = signable.run(restricted)
    assert (result.result, result.errors, result.attachments) == ("Succeeded", [], {})
    assert owner.inspected(signable.gun) == {"1.0": (signable.pushed()["1.0"], [SIGNER])}
