"""Secrets stay where they are: not in a log, an argument, a child's environment, an image, a file.

The rules:

1. What is looked for is looked for in every form that programs usually write (`secrecy`).
2. Children are watched by a `docker` of ours, first on PATH, which takes down what it and every
   other process was given, and what is on disk at that moment; then it becomes the real one.
"""

import base64
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from peers.processes import find_program
from task.agent import StepResult
from task.pipeline import SIGNER, Job, Owner, SigningKey
from task.secrecy import everything_below, forms, key_lines, leaks, leaks_in_files

# $$ and $1 are the shell's; the folder for the records stands where {records} is.
_WATCHER = """#!/bin/sh
mine={records}/$$
mkdir "$mine"
cat /proc/$$/environ >"$mine/environ"
cat /proc/$$/cmdline >"$mine/argv"
cat /proc/[0-9]*/cmdline >"$mine/every-argv" 2>/dev/null
cp -a {temp} "$mine/temp"
exec {docker} "$@"
"""


class Watch:
    """What children of the step saw, and what was on disk while they ran."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.records = folder / "records"
        programs = folder / "programs"
        self.records.mkdir(parents=True)
        programs.mkdir()
        program = programs / "docker"
        watcher = _WATCHER.format(
            records=shlex.quote(str(self.records)),
            temp=shlex.quote(str(job.agent.temp)),
            docker=find_program("docker"),
        )
        program.write_text(watcher, "utf-8")
        program.chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        job.agent.environ = {**job.agent.environ, "PATH": path}

    def seen(self, name: str) -> list[bytes]:
        """Return what each child had as *name*."""
        found = [path.read_bytes() for path in sorted(self.records.glob(f"*/{name}"))]
        assert found
        return found

    def files(self) -> Iterator[Path]:
        """Yield the copies of all files and folders that were below Agent.TempDirectory."""
        for temp in sorted(self.records.glob("*/temp")):
            yield from sorted(temp.rglob("*"))


def _secrets(job: Job, key: SigningKey) -> dict[str, set[bytes]]:
    """Return what must not be seen, by what it is."""
    account = f"{job.stack.username}:{job.stack.password}"
    tickets = [file.ticket for file in job.agent.secure_files]
    return {
        "secure file": key_lines(key),
        "passphrase": forms(key.passphrase),
        "job token": forms(job.agent.token),
        "ticket": set().union(*map(forms, tickets)),
        "registry password": forms(job.stack.password),
        "registry login": {base64.b64encode(account.encode())},
    }


def _check_tidy(
    job: Job,
    key: SigningKey,
    result: StepResult,
    home: Path,
    shared_temp: Callable[[], list[Path]],
) -> None:
    """Check log, disk and processes after the step."""
    secrets = _secrets(job, key)
    assert leaks(secrets, "\n".join(result.spoken).encode()) == set()
    assert leaks(secrets, "\n".join(result.log).encode()) == set()
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())
    # Of the step's own making, only the page that the agent is about to send is left.
    assert [path.name for path in everything_below(job.agent.temp) if path.is_file()] == [
        name for _, name in result.attachments
    ]
    # HOME and the sources are below the agent's folder.
    assert leaks_in_files(secrets, everything_below(job.agent.folder, home)) == set()
    assert _grep(secrets, shared_temp()) == ""


def _grep(secrets: dict[str, set[bytes]], places: Sequence[Path]) -> str:
    """Return which files hold one of *secrets*, in places that others write to at the same time."""
    patterns = b"\n".join(set().union(*secrets.values()))
    argv = ["grep", "-rlsaF", "--devices=skip", "-f", "-", "--", *map(str, places), "/dev/null"]
    done = subprocess.run(argv, input=patterns, capture_output=True, check=False)
    return done.stdout.decode()


@pytest.fixture
def shared_temp() -> Callable[[], list[Path]]:
    """Return a function that lists what has come into the machine's temporary folder."""
    folder = Path("/tmp")  # noqa: S108  # where careless programs leave things, whatever TMPDIR is
    before = set(folder.iterdir())
    return lambda: sorted(set(folder.iterdir()) - before)


@pytest.fixture
def home(job: Job, tmp_path: Path) -> Path:
    """The agent user's DOCKER_CONFIG, with a setting and a login of their own."""
    folder = tmp_path / "home" / ".docker"
    folder.mkdir(parents=True)
    login = base64.b64encode(b"somebody:else's").decode()
    settings = {"auths": {"registry.invalid": {"auth": login}}, "detachKeys": "ctrl-e,e"}
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")
    job.agent.environ = {**job.agent.environ, "DOCKER_CONFIG": str(folder)}
    return folder


def test_the_forms_are_found() -> None:
    """The search itself: each way of writing a secret down is seen."""
    secrets = {"it": forms("p ä%;]\"'\\secret")}
    for text in (
        b"p \xc3\xa4%;]\"'\\secret",
        b"a=p%20%C3%A4%25%3B%5D%22%27%5Csecret&b",
        json.dumps({"password": "p ä%;]\"'\\secret"}).encode(),
        *(base64.b64encode(b"x" * n + "p ä%;]\"'\\secret".encode() + b":y") for n in range(6)),
    ):
        assert leaks(secrets, b"before " + text + b" after") == {"it"}, text
    assert leaks(secrets, b"nothing") == set()


@pytest.mark.parametrize("debug", ["false", "true"])
def test_no_secret_leaves_the_step(
    signable: Job,
    key: SigningKey,
    tmp_path: Path,
    home: Path,
    shared_temp: Callable[[], list[Path]],
    debug: str,
) -> None:
    """Not by its log, nor by arguments, environments or files, nor within the image."""
    watch = Watch(signable, tmp_path / "watch")
    signable.agent.variables["System.Debug"] = debug
    signable.sources('RUN ["busybox", "env"]')
    user_settings = (home / "config.json").read_bytes()
    result = signable.run(signable.step(key, tags="1.0,latest"))
    assert (result.result, result.errors) == ("Succeeded", []), "\n".join(result.log)
    # What is said to a debug log alone is in the log that is searched, the engine's version too.
    assert any(", by docker" in line for line in result.raw_lines) == (debug == "true")
    secrets = _secrets(signable, key)
    _check_tidy(signable, key, result, home, shared_temp)
    assert (home / "config.json").read_bytes() == user_settings
    for name in ("argv", "every-argv", "environ"):
        assert leaks(secrets, b"\0".join(watch.seen(name))) == set()
    assert leaks(secrets, _image(signable)) == set()
    # The agent masks the passphrase, too, in whatever later steps print.
    assert key.passphrase in result.secrets


def _image(job: Job) -> bytes:
    """Return the image as `docker save` writes it: its layers are not compressed."""
    environ = {**os.environ, "DOCKER_HOST": job.stack.docker_host}
    argv = [job.stack.docker_cli, "save", f"{job.gun}:1.0"]
    return subprocess.run(argv, env=environ, capture_output=True, check=True).stdout


def test_while_the_step_runs_only_its_user_can_read_its_files(
    signable: Job, key: SigningKey, tmp_path: Path
) -> None:
    """The key as it was uploaded, and the login, in private folders; no passphrase, no token."""
    watch = Watch(signable, tmp_path / "watch")
    assert signable.run(signable.step(key)).result == "Succeeded"
    files = list(watch.files())
    readable = {path for path in files if not path.is_symlink() and path.stat().st_mode & 0o077}
    assert {path for path in readable if path.is_dir()} == set()
    assert {path for path in readable if path.is_file()} == set()
    (installed,) = {path.name: path for path in files if path.suffix == ".key"}.values()
    assert installed.name == f"{key.public.canonical_id}.key"
    assert installed.parts[-3:-1] == ("trust", "private")
    assert installed.read_bytes() == key.content
    secrets = _secrets(signable, key)
    for expected in ("secure file", "registry login", "registry password"):
        del secrets[expected]
    assert leaks_in_files(secrets, files) == set()


def test_a_key_without_a_passphrase_is_never_written(
    signable: Job, owner: Owner, tmp_path: Path
) -> None:
    argv = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    plain = SigningKey(subprocess.run(argv, capture_output=True, check=True).stdout, "")
    owner.add_signer(signable.gun, SIGNER, plain.public)
    watch = Watch(signable, tmp_path / "watch")
    assert signable.run(signable.step(plain)).result == "Succeeded"
    assert leaks_in_files({"secure file": key_lines(plain)}, watch.files()) == set()


def test_a_build_cannot_ask_for_the_steps_secrets(
    signable: Job, key: SigningKey, tmp_path: Path
) -> None:
    """Not even by naming the variable: it is gone before docker is started."""
    watch = Watch(signable, tmp_path / "watch")
    name = "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"
    signable.sources(f"ARG {name}", f"LABEL passphrase=${name}")
    result = signable.run(signable.step(key, arguments=f"--build-arg {name}"))
    assert result.result == "Succeeded"
    secrets = _secrets(signable, key)
    assert leaks(secrets, b"".join(watch.seen("environ")) + _image(signable)) == set()


# --- cancel --------------------------------------------------------------------------------------


@pytest.mark.parametrize("builder", ["command", "engine"])
def test_a_canceled_build_leaves_nothing(
    signable: Job,
    key: SigningKey,
    tmp_path: Path,
    home: Path,
    shared_temp: Callable[[], list[Path]],
    builder: str,
) -> None:
    """No process, no container, no folder, no credential; nothing pushed, nothing signed."""
    if builder == "engine":
        signable.hide_docker(tmp_path / "bin")
    label = f"canceled={signable.path}"
    # The instruction itself is printed as well, and must not be taken for what it prints.
    wait = "echo now-it-wa''its; exec busybox tail -f /dev/null"
    signable.sources(f"LABEL {label}", f'RUN ["busybox", "sh", "-c", "{wait}"]')
    step = signable.step(key)
    canceled = replace(step, cancel_when=lambda line: "now-it-waits" in line)
    before = signable.trusted()
    result = signable.run(canceled)
    assert result.result == "Canceled"
    assert result.completes == ("Failed",)
    assert "canceled" in result.message
    assert result.exit_code == 0
    assert not result.streams_held
    _check_tidy(signable, key, result, home, shared_temp)
    assert (signable.pushed(), signable.trusted()) == ({}, before)
    assert _running(signable, label) == ""


def test_a_step_whose_shim_is_killed_pushes_and_signs_nothing(
    signable: Job, key: SigningKey
) -> None:
    """The agent's last resort kills node alone; the worker must not go on behind its back."""
    label = f"killed={signable.path}"
    wait = "echo now-it-wa''its; exec busybox tail -f /dev/null"
    signable.sources(f"LABEL {label}", f'RUN ["busybox", "sh", "-c", "{wait}"]')
    definition = json.loads((signable.task / "task.json").read_text("utf-8"))
    before = signable.trusted()
    with subprocess.Popen(
        ["node", str(signable.task / "task" / "index.js")],
        env=signable.agent.environment(definition, signable.step(key), {}),
        cwd=signable.agent.sources,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as node:
        assert node.stdout is not None
        for line in node.stdout:
            if line.strip() == "now-it-waits":
                break
        node.kill()
        rest = node.stdout.read()  # ends when the worker has closed its end, too
    assert "##vso[task.complete result=Failed;]The step was canceled." in rest
    assert list(signable.agent.temp.iterdir()) == []
    assert (signable.pushed(), signable.trusted()) == ({}, before)
    assert _running(signable, label) == ""


def _running(job: Job, label: str) -> str:
    """Wait for the end of containers with *label*, and return what still runs of them."""
    environ = {**os.environ, "DOCKER_HOST": job.stack.docker_host}

    def docker(*arguments: str) -> str:
        argv = [job.stack.docker_cli, *arguments]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    listed = ("ps", "--quiet", "--filter", f"label={label}")
    for container in docker(*listed).split():
        docker("wait", container)
    return docker(*listed)
