"""The step does its job: whatever a pipeline may look like, its image ends up pushed and signed.

Each claim is checked against what registry, Docker's CLI and notary's CLI say afterwards.
"""

import json
import os
import subprocess
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from task.agent import StepResult
from task.devops import Lie
from task.pipeline import PASSPHRASE, SIGNER, Job, Owner, SigningKey


def _succeeded(job: Job, result: StepResult) -> dict[str, str]:
    """Check what every good step has in common; give its outputs."""
    assert (result.result, result.errors) == ("Succeeded", []), "\n".join(result.log)
    assert result.completes == ("Succeeded",)
    assert result.exit_code == 0
    assert not result.streams_held
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())
    return job.outputs(result)


def _signed(job: Job, owner: Owner, result: StepResult, *tags: str, signer: str = SIGNER) -> str:
    """Check that *tags* are pushed and signed as the step says; give their digest."""
    outputs = _succeeded(job, result)
    digest = outputs["digest"]
    expected = dict.fromkeys(tags, digest)
    assert job.pushed() == expected
    assert owner.inspected(job.gun) == {tag: (digest, [signer]) for tag in tags}
    assert owner.listed(job.gun, "targets/releases") == expected
    assert owner.listed(job.gun, f"targets/{signer}") == expected
    assert outputs["signedTags"].split(",") == list(tags)
    assert outputs["signers"] == signer
    return digest


def test_outputs_name_what_was_signed(signable: Job, owner: Owner, key: SigningKey) -> None:
    """Digest, references, signers and tags, and RESOURCE_URIS after those of earlier steps."""
    signable.agent.variables["RESOURCE_URIS"] = "https://example.invalid/other@sha256:00"
    result = signable.run(signable.step(key, tags="1.0\nlatest"))
    digest = _signed(signable, owner, result, "1.0", "latest")
    assert signable.outputs(result) == {
        "digest": digest,
        "imageReferences": f"{signable.gun}:1.0@{digest}\n{signable.gun}:latest@{digest}",
        "signers": SIGNER,
        "signedTags": "1.0,latest",
    }
    uri = f"https://{signable.gun}@{digest}"
    assert result.variables == {"RESOURCE_URIS": f"https://example.invalid/other@sha256:00,{uri}"}


def test_a_signed_image_is_pulled_by_its_signature(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    digest = _signed(signable, owner, signable.run(signable.step(key)), "1.0")
    assert f"Digest: {digest}" in owner.docker("pull", f"{signable.gun}:1.0", trust="1")


def test_pinning_the_root_key_silences_the_warning_that_asks_for_it(
    job: Job, owner: Owner, key: SigningKey
) -> None:
    (root_key,) = owner.initialise(job.gun, {SIGNER: key.public})
    (warning,) = job.run(job.step(key)).warnings
    assert warning.endswith(f"set the input rootKeys to {root_key}")
    pinned = job.run(job.step(key, rootKeys=root_key))
    assert (pinned.result, pinned.warnings) == ("Succeeded", [])


def test_inputs_in_any_letter_case_and_a_command_in_capitals(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    step = signable.step(key)
    loud = {name.upper(): value for name, value in step.inputs.items()} | {
        "COMMAND": "BUILDANDPUSH"
    }
    _signed(signable, owner, signable.run(replace(step, inputs=loud)), "1.0")


@pytest.mark.parametrize("spell", [str.lower, str.upper], ids=["lower", "upper"])
def test_ids_in_either_letter_case(
    signable: Job, owner: Owner, key: SigningKey, spell: Callable[[str], str]
) -> None:
    """The agent names variables by the server's spelling, inputs by the author's."""
    file_id = "ABCDEF01-2345-6789-abcd-ef0123456789"
    connection = replace(signable.connection, id="FEDCBA98-7654-3210-fedc-ba9876543210")
    signable.connect(connection)
    signable.upload(key.content, file_id)
    inputs = {"containerRegistry": spell(connection.id), "signingKey": spell(file_id)}
    _signed(signable, owner, signable.run(signable.step(key, **inputs)), "1.0")


def test_blanks_in_the_names_of_project_and_collection(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    project = "Größere Dinge & mehr"
    signable.agent.project = signable.devops.project = project
    _signed(signable, owner, signable.run(signable.step(key)), "1.0")
    (request,) = signable.devops.requests
    assert request.path.startswith(f"/Default%20Collection/{urllib.parse.quote(project)}/_apis/")


def test_tags_are_separated_by_commas_and_line_ends_and_count_once(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    tags = "1.0,latest\r\n\r\n v2 ,,1.0\r\nlatest\nstable, "
    result = signable.run(signable.step(key, tags=tags))
    _signed(signable, owner, result, "1.0", "latest", "v2", "stable")


def test_twenty_tags_in_one_publication(signable: Job, owner: Owner, key: SigningKey) -> None:
    tags = [f"1.{number}" for number in range(20)]
    result = signable.run(signable.step(key, tags=",".join(tags)))
    digest = _succeeded(signable, result)["digest"]
    assert owner.inspected(signable.gun) == {tag: (digest, [SIGNER]) for tag in tags}
    assert signable.pushed() == dict.fromkeys(tags, digest)
    assert json.loads(signable.trusted() or b"{}")["signed"]["version"] == 3  # init, signer, this


def test_a_repository_of_four_segments(job: Job, owner: Owner, key: SigningKey) -> None:
    job.path = f"dept.one/team_two/{job.path}"
    owner.initialise(job.gun, {SIGNER: key.public})
    _signed(job, owner, job.run(job.step(key)), "1.0")


def test_a_repository_that_repeats_its_registry(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    _signed(signable, owner, signable.run(signable.step(key, repository=signable.gun)), "1.0")


def test_a_dockerfile_below_a_folder_with_a_blank(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    (signable.agent.sources / "Dockerfile").unlink()
    signable.sources(folder="my app/größer")
    step = signable.step(key, Dockerfile="my app/größer/Dockerfile")
    _signed(signable, owner, signable.run(step), "1.0")


def test_the_default_pattern_finds_a_dockerfile_below(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    (signable.agent.sources / "Dockerfile").unlink()
    signable.sources(folder="deep down/below")
    _signed(signable, owner, signable.run(signable.step(key)), "1.0")


def test_build_arguments_and_the_labels_of_the_pipeline_reach_the_image(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    signable.sources("ARG WHO", "ARG WHAT", "LABEL who=$WHO what=$WHAT")
    arguments = "--build-arg \"WHO=a person\" --build-arg WHAT --label 'own=x y'"
    step = signable.step(key, arguments=arguments, addPipelineData="true")
    result = signable.run(replace(step, env={**step.env, "WHAT": "from the environment"}))
    _signed(signable, owner, result, "1.0")
    labels = _labels(owner, f"{signable.gun}:1.0")
    assert labels["who"] == "a person"
    assert labels["what"] == "from the environment"
    assert labels["own"] == "x y"
    assert labels["1.0.0.127.image.build.sourceversion"].startswith("3b7f0a9a")
    assert labels["1.0.0.127.image.system.teamproject"] == signable.agent.project


def test_pipeline_labels_can_be_left_out(signable: Job, owner: Owner, key: SigningKey) -> None:
    result = signable.run(signable.step(key, addPipelineData="false"))
    _signed(signable, owner, result, "1.0")
    labels = _labels(owner, f"{signable.gun}:1.0")
    assert "1.0.0.127.image.build.sourceversion" in labels
    assert "1.0.0.127.image.system.teamproject" not in labels


def _labels(owner: Owner, image: str) -> dict[str, str]:
    """Return the labels of *image* as the registry has it."""
    owner.docker("image", "rm", "--force", image)
    owner.docker("pull", image)
    (inspected,) = json.loads(owner.docker("image", "inspect", image))
    labels: dict[str, str] = inspected["Config"]["Labels"]
    return labels


def test_a_release_signs_what_its_artifacts_hold(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    """In a release there are no Build variables, and other commands are out of bounds."""
    signable.agent.host_type = "release"
    signable.agent.sources.mkdir(parents=True)
    signable.sources()
    _signed(signable, owner, signable.run(signable.step(key)), "1.0")


def test_without_a_docker_command_the_engine_builds(
    signable: Job, owner: Owner, key: SigningKey, tmp_path: Path
) -> None:
    signable.hide_docker(tmp_path / "bin")
    signable.sources("ARG WHO", "LABEL who=$WHO")
    step = signable.step(key, tags="1.0,latest", arguments="--build-arg WHO=me")
    _signed(signable, owner, signable.run(step), "1.0", "latest")
    assert _labels(owner, f"{signable.gun}:latest")["who"] == "me"


def test_a_registry_that_asks_nobody_needs_no_connection(
    job: Job, owner: Owner, key: SigningKey
) -> None:
    gun = f"{job.stack.open_registry}/{job.path}"
    owner.initialise(gun, {SIGNER: key.public})
    outputs = _succeeded(job, job.run(job.step(key, containerRegistry="", repository=gun)))
    assert job.pushed(gun) == {"1.0": outputs["digest"]}
    assert owner.inspected(gun) == {"1.0": (outputs["digest"], [SIGNER])}


def test_the_address_of_a_connection_is_what_a_person_typed(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    connection = signable.account(registry=f"https://{signable.stack.registry}/v2/")
    step = signable.step(key, containerRegistry=connection.id)
    _signed(signable, owner, signable.run(step), "1.0")


def test_a_connection_that_says_nothing_of_its_registrys_type(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    (connection,) = signable.agent.endpoints
    signable.agent.endpoints[:] = [replace(connection, data={})]
    _signed(signable, owner, signable.run(signable.step(key)), "1.0")


def test_signing_the_same_again_succeeds_and_publishes_nothing(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    """The agent's retryCountOnTaskFailure runs a step anew, and a person may do so, too."""
    step = signable.step(key, tags="1.0,latest")
    digest = _signed(signable, owner, signable.run(step), "1.0", "latest")
    before = signable.trusted()
    assert _signed(signable, owner, signable.run(step), "1.0", "latest") == digest
    assert signable.trusted() == before


def test_a_new_image_takes_over_its_tags_and_leaves_the_others(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    old = _signed(
        signable, owner, signable.run(signable.step(key, tags="1.0,latest")), "1.0", "latest"
    )
    signable.sources()
    new = _succeeded(signable, signable.run(signable.step(key, tags="1.1,latest")))["digest"]
    assert new != old
    expected = {"1.0": (old, [SIGNER]), "1.1": (new, [SIGNER]), "latest": (new, [SIGNER])}
    assert owner.inspected(signable.gun) == expected


def test_a_second_signer_joins_the_first(signable: Job, owner: Owner, key: SigningKey) -> None:
    other = owner.new_key("qa")
    owner.add_signer(signable.gun, "qa", other.public)
    digest = _signed(signable, owner, signable.run(signable.step(key)), "1.0")
    outputs = _succeeded(signable, signable.run(signable.step(other)))
    assert outputs["signers"].split(",") == ["ci", "qa"]
    assert owner.inspected(signable.gun) == {"1.0": (digest, ["ci", "qa"])}


def test_an_authority_given_as_text_or_by_a_path_in_the_sources(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    pem = signable.stack.ca_file.read_text("ascii")
    (signable.agent.sources / "our ca.pem").write_text(pem, "ascii")
    _signed(signable, owner, signable.run(signable.step(key, caCertificate=pem)), "1.0")
    _signed(signable, owner, signable.run(signable.step(key, caCertificate="our ca.pem")), "1.0")


def test_neither_a_home_nor_a_locale_is_needed(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    """The agent of these tests lives below a folder with a blank and letters beyond ASCII."""
    bare = {"HOME": "/nonexistent", "LC_ALL": "C", "LANG": "C"}
    signable.agent.environ = {**signable.agent.environ, **bare}
    _signed(signable, owner, signable.run(signable.step(key)), "1.0")


def test_a_secure_file_that_comes_at_the_second_try(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    step = signable.step(key)
    signable.devops.lie = Lie.UNAVAILABLE_ONCE
    _signed(signable, owner, signable.run(step), "1.0")


# --- keys from elsewhere -------------------------------------------------------------------------


def _openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    """Run openssl with the passphrase in its environment, and return what it printed."""
    environ = {**os.environ, "PASSPHRASE": PASSPHRASE}
    argv = ["openssl", *arguments]
    return subprocess.run(argv, input=stdin, env=environ, capture_output=True, check=True).stdout


_P256 = ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
_RSA = ("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
_PKCS8 = ("pkcs8", "-topk8", "-passout", "env:PASSPHRASE")


def _docker_key(owner: Owner) -> SigningKey:
    before = set(owner.store.entries())
    owner.docker("trust", "key", "generate", "by-docker", "--dir", str(owner.folder))
    (entry,) = set(owner.store.entries()) - before
    return SigningKey(entry.path.read_bytes())


def _notary_key(owner: Owner) -> SigningKey:
    before = set(owner.store.entries())
    owner.notary("key", "generate", "ecdsa", "--role", "targets/ci")
    (entry,) = set(owner.store.entries()) - before
    return SigningKey(entry.path.read_bytes())


_FOREIGN_KEYS: dict[str, Callable[[Owner], SigningKey]] = {
    "docker trust key generate": _docker_key,
    "notary key generate": _notary_key,
    "openssl, PKCS#8, encrypted": lambda _: SigningKey(_openssl(*_PKCS8, stdin=_openssl(*_P256))),
    "openssl, RSA, encrypted": lambda _: SigningKey(_openssl(*_PKCS8, stdin=_openssl(*_RSA))),
    "openssl, SEC1, encrypted": lambda _: SigningKey(
        _openssl("ec", "-aes256", "-passout", "env:PASSPHRASE", stdin=_openssl(*_P256))
    ),
    "openssl, PKCS#8, plain": lambda _: SigningKey(_openssl(*_P256), ""),
    "openssl, RSA, plain, CRLF": lambda _: SigningKey(_openssl(*_RSA).replace(b"\n", b"\r\n"), ""),
}


@pytest.mark.parametrize("kind", _FOREIGN_KEYS)
def test_a_key_that_another_program_made(job: Job, owner: Owner, kind: str) -> None:
    key = _FOREIGN_KEYS[kind](owner)
    owner.initialise(job.gun, {SIGNER: key.public})
    _signed(job, owner, job.run(job.step(key)), "1.0")


# --- repositories from elsewhere -----------------------------------------------------------------


def test_in_a_repository_of_docker_both_sign_on_each_others_changes(
    job: Job, owner: Owner, key: SigningKey, tmp_path: Path
) -> None:
    """Docker initialises; we sign; Docker adds a signer and signs; we sign again."""
    public, second = tmp_path / "ci.pub", tmp_path / "bob.pub"
    public.write_bytes(key.public.to_pem(SIGNER))
    owner.docker("trust", "signer", "add", "--key", str(public), SIGNER, job.gun)
    first = _signed(job, owner, job.run(job.step(key)), "1.0")
    owner.docker("trust", "key", "generate", "bob", "--dir", str(tmp_path))
    owner.docker("trust", "signer", "add", "--key", str(second), "bob", job.gun)
    owner.docker("tag", f"{job.gun}:1.0", f"{job.gun}:by-docker")
    owner.docker("push", f"{job.gun}:by-docker", trust="1")
    job.sources()
    last = _succeeded(job, job.run(job.step(key, tags="2.0")))["digest"]
    seen = owner.inspected(job.gun)
    assert seen["1.0"] == (first, [SIGNER])
    assert seen["by-docker"][0] == first
    assert "bob" in seen["by-docker"][1]
    assert seen["2.0"] == (last, [SIGNER])


def test_in_a_repository_of_ours_docker_signs_and_we_sign_on(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    """The owner's machine has the usual key, so Docker signs with that very one."""
    first = _signed(signable, owner, signable.run(signable.step(key)), "1.0")
    owner.docker("tag", f"{signable.gun}:1.0", f"{signable.gun}:by-docker")
    owner.docker("push", f"{signable.gun}:by-docker", trust="1")
    assert owner.inspected(signable.gun)["by-docker"] == (first, [SIGNER])
    step = signable.step(key, tags="1.0,2.0")
    _succeeded(signable, signable.run(step))
    assert set(owner.listed(signable.gun, "targets/releases")) == {"1.0", "2.0", "by-docker"}


def test_in_a_repository_of_notary_without_delegations_its_own_key_signs(
    job: Job, owner: Owner
) -> None:
    """As in the days before delegations: `docker push` signed with the repository key."""
    before = set(owner.store.entries())
    owner.notary("init", "--publish", job.gun)
    owner.notary("key", "rotate", job.gun, "snapshot", "--server-managed")
    added = set(owner.store.entries()) - before
    (targets,) = (entry for entry in added if entry.role == "targets")
    result = job.run(job.step(SigningKey(targets.path.read_bytes())))
    digest = _succeeded(job, result)["digest"]
    assert owner.listed(job.gun, "targets") == {"1.0": digest}
    assert owner.inspected(job.gun) == {"1.0": (digest, ["Repo Admin"])}
