"""The packaged step with a real BuildKit: no tag before its signature, platforms, base images.

What the step leaves is asked of the registry, and of Docker's and Notary's command lines.
"""

import json
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from peers.buildkit import FAR, BuildKit
from signimage.bases import BasePolicy
from signimage.inputs import BASE_IMAGES
from task.agent import StepResult
from task.pipeline import SIGNER, Job, Owner, SigningKey

INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def building(signable: Job, buildkit: BuildKit, tmp_path: Path) -> Job:
    """The job on an agent whose Docker has buildx and two builders."""
    home = buildkit.home(tmp_path / "home")
    signable.agent.environ = {**signable.agent.environ, **home}
    return signable


def succeeded(job: Job, result: StepResult) -> str:
    """Check what every good step has in common; give its digest."""
    assert (result.result, result.errors) == ("Succeeded", []), "\n".join(result.log)
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())
    return job.outputs(result)["digest"]


def failed(result: StepResult) -> str:
    """Check what every failed step has in common; give its sentence."""
    (sentence,) = result.errors
    assert (result.result, result.outputs) == ("Failed", {})
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())
    return sentence


@pytest.mark.parametrize("builder", ["default", FAR])
def test_buildkit_brings_the_image_into_the_registry_before_any_tag(
    building: Job, owner: Owner, key: SigningKey, builder: str
) -> None:
    """By digest from a builder elsewhere, through a layout from the engine's own."""
    arguments = f"--builder {builder} --provenance=false"
    step = building.step(
        key,
        arguments=arguments,
        tags="1.0,latest",
        signBeforeTag="require",
        platforms="linux/amd64",
    )
    digest = succeeded(building, building.run(step))
    assert building.pushed() == {"1.0": digest, "latest": digest}
    assert owner.inspected(building.gun) == dict.fromkeys(("1.0", "latest"), (digest, [SIGNER]))
    (details,) = building.devops.image_details
    assert details["hash"] == digest.removeprefix("sha256:")
    assert [layer["directive"] for layer in details["layerInfo"]][:1] == ["COPY"]


@pytest.mark.parametrize("builder", ["default", FAR])
def test_the_index_of_several_platforms_is_what_is_signed(
    building: Job, owner: Owner, key: SigningKey, builder: str
) -> None:
    """And, where that is wanted, the images below it, but not their attestations."""
    step = building.step(
        key,
        arguments=f"--builder {builder}",
        platforms="linux/amd64\nlinux/arm64",
        recursive="true",
    )
    digest = succeeded(building, building.run(step))
    index = json.loads(building.manifest(digest))
    assert index["mediaType"] == INDEX
    platforms = {entry["platform"]["architecture"]: entry["digest"] for entry in index["manifests"]}
    assert sorted(platforms) == ["amd64", "arm64", "unknown"]
    images = [platforms["amd64"], platforms["arm64"]]
    assert owner.inspected(building.gun) == {
        "1.0": (digest, [SIGNER]),
        **{each.replace(":", "-"): (each, [SIGNER]) for each in images},
    }


def test_several_platforms_need_buildkit(signable: Job, key: SigningKey) -> None:
    """Said before anything is built."""
    step = signable.step(key, platforms="linux/amd64,linux/arm64")
    sentence = failed(signable.run(step))
    assert (
        "platforms: expected a builder for 2 platforms, but docker buildx is not here" in sentence
    )
    assert signable.pushed() == {}


def test_platforms_are_said_once(signable: Job, key: SigningKey) -> None:
    arguments = "--platform=linux/arm64"
    step = signable.step(key, platforms="linux/amd64", arguments=arguments)
    sentence = failed(signable.run(step))
    assert "platforms: expected them once, got them in arguments as well" in sentence


def test_who_must_sign_first_is_refused_where_only_the_engine_can_push(
    signable: Job, key: SigningKey
) -> None:
    sentence = failed(signable.run(signable.step(key, signBeforeTag="require")))
    assert "signBeforeTag: tags cannot be signed before they move: this engine builds" in sentence
    assert signable.pushed() == {}


@pytest.mark.parametrize("output", ["type=registry", "type=image,push=true"])
def test_arguments_that_move_tags_before_they_are_signed_are_refused(
    building: Job, key: SigningKey, output: str
) -> None:
    sentence = failed(building.run(building.step(key, arguments=f"--output={output}")))
    assert sentence == (
        f"arguments: --output {output} moves tags before they are signed. Nothing was pushed or "
        "signed. Leave it out: the step pushes by itself, and signs before tags move."
    )
    assert building.pushed() == {}


def test_a_builder_that_does_not_exist_ends_the_step_before_the_build(
    building: Job, key: SigningKey
) -> None:
    sentence = failed(building.run(building.step(key, arguments="--builder nobody")))
    assert 'docker buildx: no builder "nobody" found' in sentence
    assert "Nothing was pushed or signed" in sentence


def test_a_build_that_fails_pushes_nothing(building: Job, key: SigningKey) -> None:
    building.sources("COPY absent /")
    before = building.trusted()
    result = building.run(building.step(key, arguments=f"--builder {FAR}"))
    assert "image was not built" in failed(result)
    assert (building.pushed(), building.trusted()) == ({}, before)


# --- Base images ------------------------------------------------------------------------------


def test_the_values_of_the_input_are_the_policies() -> None:
    assert tuple(policy.value for policy in BasePolicy) == BASE_IMAGES


@pytest.fixture
def based(building: Job, key: SigningKey) -> str:
    """A signed base image, whose tag was moved afterwards to something else; gives its name."""
    digest = succeeded(
        building,
        building.run(building.step(key, tags="base", arguments="--load --provenance=false")),
    )
    building.sources()
    moved = building.step(key, tags="moved", arguments=f"--builder {FAR} --provenance=false")
    succeeded(building, building.run(moved))
    building.move("base", building.pushed()["moved"])
    assert building.pushed()["base"] != digest
    context = building.agent.sources
    (context / "Dockerfile").write_text(
        f"FROM {building.gun}:base\nLABEL built={secrets.token_hex(4)}\n", "utf-8"
    )
    return digest


@pytest.mark.parametrize("way", ["classic", "default", FAR])
def test_a_pinned_base_is_what_was_signed_wherever_its_tag_points(
    building: Job, key: SigningKey, based: str, way: str
) -> None:
    arguments = "" if way == "classic" else f"--builder {way} --provenance=false"
    if way == "classic":
        building.agent.environ = {**building.agent.environ, "DOCKER_BUILDKIT": "0"}
    step = building.step(key, baseImages="pin", arguments=arguments)
    digest = succeeded(building, building.run(step))
    base, image = (json.loads(building.manifest(each)) for each in (based, digest))
    first = [layer["digest"] for layer in base["layers"]]
    assert [layer["digest"] for layer in image["layers"]][: len(first)] == first


def test_a_base_that_was_moved_is_refused_where_bases_are_verified(
    building: Job, key: SigningKey, based: str
) -> None:
    step = building.step(key, baseImages="verify", arguments=f"--builder {FAR}")
    sentence = failed(building.run(step))
    assert f"expected {based}, which is signed" in sentence
    assert "1.0" not in building.pushed()


def test_a_base_without_a_signature_is_refused_where_it_must_have_one(
    building: Job, key: SigningKey
) -> None:
    (building.agent.sources / "Dockerfile").write_text(f"FROM {building.gun}:absent\n", "utf-8")
    step = building.step(key, baseImages="require", arguments=f"--builder {FAR}")
    sentence = failed(building.run(step))
    assert f"base image {building.gun}:absent (line 1) is not signed" in sentence
    reported = building.run(replace(step, inputs={**step.inputs, "baseImages": "verify"}))
    assert any("is not signed" in warning for warning in reported.warnings)


@pytest.mark.parametrize("words", ["--file=Other", "-f Other", "-qfOther"])
def test_another_dockerfile_than_the_one_that_is_looked_at_is_refused(
    building: Job, key: SigningKey, based: str, words: str
) -> None:
    """Docker builds the last one that it is told of."""
    (building.agent.sources / "Other").write_text(f"FROM {building.gun}:moved\n", "utf-8")
    step = building.step(key, baseImages="require", arguments=f"--builder {FAR} {words}")
    sentence = failed(building.run(step))
    assert "arguments: expected the input Dockerfile to say what is built, got --file" in sentence
    assert building.pushed()["base"] != based
    assert "1.0" not in building.pushed()
