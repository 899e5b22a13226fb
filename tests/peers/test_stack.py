"""The stack itself: if the peers are not what they seem, no other peer test means anything.

Rule: claims are checked with the judges (Docker CLI, notary CLI, plain HTTP), not with our code.
"""

import base64
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.processes import PeerError, Process, start
from peers.stack import Stack, main, make_context

_PASSPHRASES = {
    "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "root passphrase",
    "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "repository passphrase",
}


@pytest.fixture
def stack_folder() -> Iterator[Path]:
    """Return a folder outside of pytest's, as the `stack` fixture does and for its reason."""
    with tempfile.TemporaryDirectory(prefix="stack-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _registry_status(host: str, authorization: str | None = None) -> int:
    connection = http.client.HTTPConnection(host)
    try:
        headers = {"Authorization": authorization} if authorization else {}
        connection.request("GET", "/v2/", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def test_the_judges_agree_on_what_docker_signed(
    stack: Stack, repository_name: str, tmp_path: Path
) -> None:
    """A build, a signed push, and both CLIs name the digest that the registry has."""
    image = f"{stack.registry}/{repository_name}:1"
    config = stack.docker_config(tmp_path / "docker")
    context = make_context(tmp_path / "context", instructions=['RUN ["busybox", "true"]'])
    trusted = {**_PASSPHRASES, "DOCKER_CONTENT_TRUST": "1"}
    stack.docker("build", "--tag", image, str(context), config=config)
    pushed = stack.docker("push", image, config=config, env=trusted)
    assert "Successfully signed" in pushed.stdout

    shown = stack.docker("trust", "inspect", image.rpartition(":")[0], config=config)
    digest = json.loads(shown.stdout)[0]["SignedTags"][0]["Digest"]
    assert f"sha256:{digest}" in pushed.stdout

    listed = stack.notary("list", f"{stack.registry}/{repository_name}", trust_dir=tmp_path / "n")
    assert digest in listed.stdout


def test_an_image_of_make_context_runs_its_text(stack: Stack, tmp_path: Path) -> None:
    config = stack.docker_config(tmp_path / "docker")
    context = make_context(tmp_path / "context", text="ä text of its own")
    built = stack.docker("build", "--quiet", str(context), config=config)
    image = built.stdout.strip()
    ran = stack.docker("run", "--rm", "--network=none", image, config=config)
    assert ran.stdout == "ä text of its own"


def test_the_registry_lets_in_its_account_and_nobody_else(stack: Stack) -> None:
    """The password's blanks, quotes and non-ASCII letters survive HTTP Basic."""
    assert _registry_status(stack.registry) == 401
    assert _registry_status(stack.registry, _basic(stack.username, "wrong")) == 401
    assert _registry_status(stack.registry, _basic(stack.username, stack.password)) == 200


def test_the_open_registry_asks_for_nothing(stack: Stack) -> None:
    assert _registry_status(stack.open_registry) == 200


def test_the_trust_server_is_not_trusted_without_its_ca(stack: Stack) -> None:
    connection = http.client.HTTPSConnection(stack.trust_host, context=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError, match="CERTIFICATE_VERIFY_FAILED"):
        connection.request("GET", "/v2/")


def test_a_failing_judge_is_an_error_with_its_words(stack: Stack, tmp_path: Path) -> None:
    config = stack.docker_config(tmp_path / "docker")
    with pytest.raises(PeerError, match=r"trust inspect .*exit code 1\n[^$]*[Nn]o signatures"):
        stack.docker("trust", "inspect", f"{stack.registry}/never/signed", config=config)


def test_a_peer_that_ends_early_is_an_error_with_its_log(tmp_path: Path) -> None:
    peer = start("crasher", ["busybox", "nonsense"], tmp_path / "crasher.log")
    with pytest.raises(PeerError, match=r"crasher ended before it answers:[^$]*not found"):
        peer.wait_until(lambda: False, "it answers")


def test_a_program_that_is_not_installed_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"no-such-peer: not installed\. Run packaging/setup"):
        start("no-such-peer", ["no-such-peer"], tmp_path / "log")


def test_a_reused_pid_is_never_killed(tmp_path: Path) -> None:
    """The record of another life of this pid: stop leaves the present one alone."""
    peer = start("sleeper", ["busybox", "sleep", "600"], tmp_path / "log")
    Process("sleeper", peer.pid, peer.started - 1, peer.log).stop()
    assert peer.alive
    peer.stop()
    assert not peer.alive


def test_a_killed_session_leaves_no_process(stack_folder: Path) -> None:
    """SIGKILL to the process that started the stack ends every peer that it started."""
    script = (
        "import pathlib, signal, sys; from peers.stack import Stack\n"
        "Stack.start(pathlib.Path(sys.argv[1]))\n"
        "print('up', flush=True); signal.pause()\n"
    )
    environ = {
        **os.environ,
        # Not the engine of this session: it must be seen to end, too.
        "DOCKER_HOST": f"unix://{stack_folder}/nothing.sock",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    argv = [sys.executable, "-c", script, str(stack_folder / "s")]
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"up\n"
        started = Stack.load(stack_folder / "s").processes
        session.send_signal(signal.SIGKILL)
    names = [process.name for process in started]
    assert names == ["dockerd", "registry", "open-registry", "notary-signer", "notary-server"]
    for process in started:
        process.join()
    # Only the folder of its sockets is left for `down` to remove.
    assert main(["down", str(stack_folder / "s")]) == 0


def test_up_twice_is_one_stack_and_down_ends_it(
    stack_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(stack_folder)
    assert main(["up", folder]) == 0
    first = capsys.readouterr().out
    processes = Stack.load(Path(folder)).processes
    try:
        assert main(["up", folder]) == 0
        assert capsys.readouterr().out == first
        assert "export DOCKER_CONTENT_TRUST_SERVER=https://localhost:" in first
    finally:
        assert main(["down", folder]) == 0
    assert not any(process.alive for process in processes)


def test_a_copy_of_the_folder_has_no_power_over_the_original(
    stack: Stack, stack_folder: Path
) -> None:
    """Neither the processes nor the sockets of a stack end with the `down` of its copy."""
    copy = stack_folder / "copy"
    shutil.copytree(stack.folder, copy, symlinks=True, ignore=shutil.ignore_patterns("data"))
    with pytest.raises(FileNotFoundError, match=r"copied from .*; nothing runs here"):
        Stack.load(copy)
    assert main(["down", str(copy)]) == 0
    assert all(process.alive for process in stack.processes)
    stack.docker("version", config=stack.docker_config(stack_folder / "docker"))


def test_anything_else_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sideways"]) == 2
    assert "usage:" in capsys.readouterr().err
