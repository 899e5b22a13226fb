"""The packaged task as an ordinary user runs it: what it needs is its own, or can be read by all.

Whoever runs these tests as root has the steps run by `nobody`; anybody else is ordinary already.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from peers.processes import find_program
from task.agent import Step, StepResult
from task.packaged import build_vsix, unpack
from task.pipeline import SIGNER, Job, Owner, SigningKey

_NOBODY = 65534


@pytest.fixture
def ordinary(signable: Job) -> Iterator[Job]:
    """The job on an agent of an ordinary user; the task is unpacked read-only, by somebody else."""
    # Not below pytest's folder, which is its user's alone.
    with tempfile.TemporaryDirectory(prefix="ordinary-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        scratch = folder / "scratch"
        scratch.mkdir()
        environ = {**signable.agent.environ, "TMPDIR": str(scratch)}
        agent = replace(signable.agent, folder=folder / "agent", environ=environ)
        if os.geteuid() == 0:
            agent.node = str(_as_nobody(folder / "node"))
            for path in (scratch, agent.folder, *agent.folder.rglob("*")):
                os.chown(path, _NOBODY, _NOBODY)
        task = unpack(build_vsix(), folder / "task", read_only=True)
        shutil.copyfile(signable.stack.ca_file, folder / "ca.crt")
        yield replace(signable, agent=agent, task=task)
        assert not list(scratch.iterdir())


def _as_nobody(program: Path) -> Path:
    """Write a node that is another user's; in Python, as a shell would lose service connections."""
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, sys\n"
        f"os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY})\n"
        f"os.execv({find_program('node')!r}, ['node', *sys.argv[1:]])\n",
        "utf-8",
    )
    program.chmod(0o755)
    return program


def _run(job: Job, step: Step) -> StepResult:
    authority = str(job.task.parent / "ca.crt")
    result = job.run(replace(step, inputs={**step.inputs, "caCertificate": authority}))
    assert (result.result, result.errors) == ("Succeeded", []), "\n".join(result.log)
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())
    return result


def test_an_ordinary_user_signs_and_verifies(ordinary: Job, owner: Owner, key: SigningKey) -> None:
    ordinary.sources()
    owner.docker("build", f"--tag={ordinary.gun}:1.0", str(ordinary.agent.sources))
    owner.docker("push", f"{ordinary.gun}:1.0")
    signed = _run(ordinary, ordinary.step(key, command="sign"))
    digest = ordinary.outputs(signed)["digest"]
    assert owner.inspected(ordinary.gun) == {"1.0": (digest, [SIGNER])}
    gate = replace(ordinary.step(key, command="verify"), env={})
    assert ordinary.outputs(_run(ordinary, gate))["digest"] == digest
