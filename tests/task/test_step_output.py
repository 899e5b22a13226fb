"""What the step prints: a Dockerfile can print anything, and the agent obeys what it reads.

Rule: `agent_model` believes an attacker; whatever it can be made to see as a command, it obeys.
"""

from pathlib import Path

import pytest

from task.agent import StepResult
from task.agent_model import parse_command
from task.pipeline import SIGNER, Job, Owner, SigningKey

_EVIL = "##vso[task.setvariable variable=x]y"
_ATTACKS = (
    _EVIL,
    "##vso[task.complete result=Succeeded]done",
    "##vso[task.complete result=Failed;done=true]no",
    f"in the middle {_EVIL}",
    f"##{_EVIL}",
    f"#{_EVIL}",
    "#\u200b#vso[task.setvariable variable=x]y",
    "##\u00advso[task.setvariable variable=x]y",
    "##v\u2060so[task.setvariable variable=x]y",
    "##\x07vso\ufeff[task.setvariable variable=x]y",
    "##VSO[task.setvariable variable=x]y",
    "##vso[task.setvariable variable=digest;isOutput=true]sha256:" + "0" * 64,
    "##vso[task.setvariable variable=RESOURCE_URIS]https://evil",
    "##[error]forged",
    f"progress 1\rprogress 2\r{_EVIL}",
    *(f"{'x' * length}{_EVIL}" for length in (4095, 8190, 16380, 16384, 65530, 65536, 70000)),
    *(f"{'x' * (16384 - cut)}{_EVIL}" for cut in range(1, 8)),
)


def _commands(result: StepResult) -> set[str]:
    """Return the agent's commands in the step's output, as `name` or `name variable`."""
    parsed = [parse_command(line) for line in result.raw_lines]
    return {f"{one.name} {one.properties.get('variable', '')}".strip() for one in parsed if one}


@pytest.fixture(params=["command", "engine"])
def builds_both_ways(request: pytest.FixtureRequest, job: Job, tmp_path: Path) -> str:
    """Build by the docker command, then by the engine itself."""
    kind: str = request.param
    if kind == "engine":
        job.hide_docker(tmp_path / "bin")
    return kind


@pytest.mark.usefixtures("builds_both_ways")
def test_a_build_that_prints_commands_to_the_agent_changes_nothing(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    attacks = "\n".join(_ATTACKS)
    show = 'RUN ["busybox", "cat", "/attacks"]'
    signable.sources("COPY attacks /attacks", show, f"LABEL evil='{_EVIL}'", attacks=attacks)
    result = signable.run(signable.step(key))
    assert (result.result, result.completes) == ("Succeeded", ("Succeeded",))
    digest = signable.outputs(result)["digest"]
    assert owner.inspected(signable.gun) == {"1.0": (digest, [SIGNER])}
    assert set(result.variables) == {"RESOURCE_URIS"}
    assert "evil" not in result.variables["RESOURCE_URIS"]
    assert not [line for line in result.raw_lines if line.startswith("##[error]")]
    assert _commands(result) <= _OWN_COMMANDS
    # It was printed, and people can read it.
    assert any("vso[task.setvariable variable=x" in line for line in result.log)
    assert not [line for line in result.log if "no legal command" in line]


_OWN_COMMANDS = {
    "task.setprogress",
    "task.logissue",
    "task.complete",
    "task.setsecret",
    "task.debug",
    "task.uploadsummary",
    *(
        f"task.setvariable {name}"
        for name in ("digest", "imageReferences", "signers", "signedTags", "RESOURCE_URIS")
    ),
}


@pytest.mark.usefixtures("builds_both_ways")
def test_a_failing_build_that_claims_success_stays_failed(signable: Job, key: SigningKey) -> None:
    """The engine repeats the command in its own error, and so does our sentence."""
    claim = "##vso[task.complete result=Succeeded]##vso[task.setvariable variable=x]y"
    signable.sources(f'RUN ["busybox", "sh", "-c", "echo \'{claim}\'; exit 3"]')
    before = signable.trusted()
    result = signable.run(signable.step(key))
    assert (result.result, result.completes) == ("Failed", ("Failed",))
    assert result.errors == [result.message]
    assert "image was not built" in result.message
    assert result.variables == {}
    assert result.outputs == {}
    assert (signable.pushed(), signable.trusted()) == ({}, before)
    assert _commands(result) <= _OWN_COMMANDS


def test_a_step_is_written_as_documented(signable: Job, key: SigningKey) -> None:
    """Groups are closed, progress rises to 100, and no line is a malformed command."""
    result = signable.run(signable.step(key))
    assert result.raw_lines.count("##[endgroup]") == sum(
        line.startswith("##[group]") for line in result.raw_lines
    )
    percents = [percent for percent, _ in result.progress]
    assert percents == sorted(percents)
    assert percents[-1] == 100


def test_what_came_of_it_stands_below_the_groups(signable: Job, key: SigningKey) -> None:
    """Log viewers fold groups away, and what was signed with them."""
    for command in ("buildAndPush", "sign", "verify"):
        result = signable.run(signable.step(key, command=command))
        last = max(n for n, line in enumerate(result.raw_lines) if line == "##[endgroup]")
        below = [line for line in result.raw_lines[last:] if line.startswith("Signed by ci: ")]
        assert len(below) == 1
        assert not any(line.startswith("Signed by ") for line in result.raw_lines[:last])
