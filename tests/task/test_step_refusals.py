"""Wrong input: one clear sentence, a failed step, and a world that is as it was before.

Every test is the step of `test_step.py` with one thing wrong, on a repository that all share:
whatever is pushed or published there by mistake makes the tests that follow fail as well.
"""

import re
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest

from peers.processes import free_port
from signimage.keystore import REPOSITORY_VARIABLE
from task.agent import Endpoint, Step
from task.devops import Lie
from task.pipeline import SIGNER, Job, Owner, SigningKey


@pytest.fixture(scope="session")
def guarded_path(owner: Owner, key: SigningKey) -> str:
    """The path of a repository with trust data that no test here may change."""
    path = f"guarded/{uuid.uuid4().hex[:12]}"
    owner.initialise(f"{owner.stack.registry}/{path}", {SIGNER: key.public})
    return path


@pytest.fixture
def guarded(job: Job, guarded_path: str) -> Job:
    """The job, with the repository that must stay as it is."""
    job.path = guarded_path
    return job


def _refused(job: Job, step: Step, sentence: str, *, built: bool = False) -> str:
    """Run *step*; check that it fails with one sentence that matches, and changes nothing."""
    before = job.trusted()
    result = job.run(step)
    message = result.message
    assert re.search(sentence, message), message
    assert (result.result, result.completes) == ("Failed", ("Failed",))
    assert (result.errors, result.warnings) == ([message], [])
    assert message.endswith(".")
    assert not re.search(r"\n|[a-z]Error\b|Traceback|\bNone\b|<[A-Za-z.]+ object|\.\.|''", message)
    assert (result.outputs, result.variables) == ({}, {})
    assert ("##[group]Build" in result.raw_lines) is built
    assert (job.pushed(), job.trusted()) == ({}, before)
    assert (result.leftovers, result.changed_task_files, result.orphans) == ((), (), ())
    return message


# --- passphrase and key --------------------------------------------------------------------------


def test_no_passphrase(guarded: Job, key: SigningKey) -> None:
    step = replace(guarded.step(key), env={})
    _refused(
        guarded,
        step,
        rf"secure file .*ci\.key.* is encrypted: expected its passphrase, got none\. .*"
        rf"{REPOSITORY_VARIABLE}",
    )


def test_a_passphrase_variable_that_nobody_defined(guarded: Job, key: SigningKey) -> None:
    """The agent then passes the name on, as it was written."""
    step = replace(guarded.step(key), env={REPOSITORY_VARIABLE: "$(notDefined)"})
    _refused(
        guarded,
        step,
        rf"{REPOSITORY_VARIABLE} is the literal text \$\(notDefined\): no variable of that name",
    )


def test_a_wrong_passphrase(guarded: Job, key: SigningKey) -> None:
    step = guarded.step(replace(key, passphrase="another passphrase"))
    message = _refused(
        guarded, step, rf"wrong passphrase for secure file ci\.key\. .*{REPOSITORY_VARIABLE}"
    )
    assert "another passphrase" not in message


def _certificate() -> bytes:
    request = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x")
    argv = [*request, "-keyout", "/dev/null"]
    return subprocess.run(argv, capture_output=True, check=True).stdout


_NO_KEYS: dict[str, tuple[Callable[[SigningKey], bytes], str]] = {
    "text": (lambda _: b"the key is under the mat\n", "expected PEM text, got something else"),
    "html": (
        lambda _: b"<!DOCTYPE html><html></html>",
        "expected PEM text, got an HTML or XML page",
    ),
    "binary": (lambda _: bytes(range(256)), "expected PEM text, got something else"),
    "public key": (lambda key: key.public.to_pem(SIGNER), "expected a private key.*PUBLIC KEY"),
    "certificate": (lambda _: _certificate(), "expected a private key.*CERTIFICATE"),
    "half a key": (lambda key: key.content[: len(key.content) // 2], "expected"),
}


@pytest.mark.parametrize("kind", _NO_KEYS)
def test_a_file_that_is_no_key(guarded: Job, key: SigningKey, kind: str) -> None:
    make, sentence = _NO_KEYS[kind]
    file_id = guarded.upload(make(key))
    step = guarded.step(key, signingKey=file_id)
    _refused(guarded, step, rf"secure file ci\.key: .*{sentence}")


def test_a_key_that_is_no_signer(guarded: Job, owner: Owner, key: SigningKey) -> None:
    """The signers are listed, with their keys, and the command that would add this one."""
    stranger = owner.new_key("stranger")
    message = _refused(
        guarded, guarded.step(stranger), rf"is not a signer of {re.escape(guarded.gun)}"
    )
    assert stranger.public.canonical_id in message
    assert f"its signers are {SIGNER} ({key.public.canonical_id[:7]}" in message
    assert "signimage signer add" in message


# --- the library ---------------------------------------------------------------------------------

_LIES = {
    Lie.SIGN_IN_PAGE: r"expected its content .* got 203.* with text/html, probably a sign-in page",
    Lie.SIGN_IN_REDIRECT: r"expected its content .* got 302.*, probably a sign-in page",
    Lie.HTML_OK: r"expected its content .* got 200.* with text/html, probably a sign-in page",
    Lie.OTHER_ORIGIN: r"expected its content .* got 302",
    Lie.EMPTY: r"expected its content .*, got nothing",
    Lie.UNAUTHORIZED: r"does not let this job read it .*401.*TF400813",
    Lie.FORBIDDEN: r"does not let this job read it .*403: The ticket has expired",
    Lie.NOT_FOUND: r"does not have it .*404: The secure file was deleted.*still in the library",
    Lie.TRUNCATED: r"Azure DevOps http://127\.0\.0\.1:\d+ ",
    Lie.OVERSIZED: r"Azure DevOps http://127\.0\.0\.1:\d+: expected at most",
}


@pytest.mark.parametrize("lie", _LIES, ids=lambda lie: lie.name.lower())
def test_an_answer_that_is_not_the_secure_file(guarded: Job, key: SigningKey, lie: Lie) -> None:
    step = guarded.step(key)
    guarded.devops.lie = lie
    message = _refused(guarded, step, _LIES[lie])
    assert guarded.devops.strangers == []
    assert "ticket=" not in message


def test_a_wrong_ticket(guarded: Job, key: SigningKey) -> None:
    step = guarded.step(key)
    (file,) = guarded.agent.secure_files
    guarded.agent.secure_files[:] = [replace(file, ticket="another-ticket")]
    message = _refused(
        guarded, step, r"ci\.key.* does not let this job read it .*The ticket is not valid"
    )
    assert "another-ticket" not in message


def test_a_secure_file_that_the_pipeline_has_no_ticket_for(guarded: Job, key: SigningKey) -> None:
    step = guarded.step(key)
    guarded.agent.secure_files.clear()
    _refused(guarded, step, r"secure file")


def test_no_secure_file(guarded: Job, key: SigningKey) -> None:
    _refused(guarded, guarded.step(key, signingKey=""), r"input signingKey: expected a value")


# --- trust server --------------------------------------------------------------------------------


def test_a_repository_without_trust_data(job: Job, key: SigningKey) -> None:
    _refused(
        job,
        job.step(key),
        rf"{re.escape(job.gun)} has no trust data on https://localhost:\d+.*signimage repo init",
    )
    assert job.trusted() is None


def test_a_trust_server_that_is_not_there(guarded: Job, key: SigningKey) -> None:
    url = f"https://localhost:{free_port()}"
    step = guarded.step(key, trustServer=url)
    _refused(guarded, step, rf"trust server {url} cannot be reached: connection refused")


def test_a_trust_server_of_an_unknown_authority(guarded: Job, key: SigningKey) -> None:
    step = guarded.step(key, caCertificate="")
    _refused(guarded, step, r"trust server https://localhost:\d+: .*certificate.*caCertificate")


def test_a_trust_server_without_encryption(guarded: Job, key: SigningKey) -> None:
    step = guarded.step(key, trustServer="http://localhost:4443")
    sentence = r"trust server: expected an https:// URL .*, got 'http://localhost:4443'"
    _refused(guarded, step, sentence)


def test_another_root_key_than_the_pinned_one(guarded: Job, key: SigningKey) -> None:
    step = guarded.step(key, rootKeys="1" * 64)
    _refused(guarded, step, rf"expected root key {'1' * 64}, got [0-9a-f]{{64}}")


def test_authorities_that_cannot_be_read(guarded: Job, key: SigningKey) -> None:
    (guarded.agent.sources / "ca.pem").write_text("no certificate", "ascii")
    step = guarded.step(key, caCertificate="ca.pem")
    _refused(guarded, step, r"CA certificate .*/ca\.pem: expected PEM, got something else")


# --- registry and its connection -----------------------------------------------------------------


def test_a_wrong_registry_password(guarded: Job, key: SigningKey) -> None:
    connection = guarded.account(password="wrong password")
    step = guarded.step(key, containerRegistry=connection.id)
    message = _refused(
        guarded,
        step,
        rf"registry {guarded.stack.registry}.*(credentials|password).*service connection",
    )
    assert "wrong password" not in message


def test_no_connection_where_the_registry_asks_for_one(guarded: Job, key: SigningKey) -> None:
    step = guarded.step(key, containerRegistry="", repository=guarded.gun)
    _refused(guarded, step, rf"registry {guarded.stack.registry}")


def test_a_connection_that_is_not_the_jobs(guarded: Job, key: SigningKey) -> None:
    """It was deleted, or the pipeline may not use it: the agent then passes nothing on."""
    unknown = "0ddba11c-0000-4000-8000-000000000000"
    step = guarded.step(key, containerRegistry=unknown)
    _refused(guarded, step, rf"service connection {unknown}: ")


def test_a_connection_without_a_password(guarded: Job, key: SigningKey) -> None:
    connection = guarded.account(password="")
    step = guarded.step(key, containerRegistry=connection.id)
    _refused(guarded, step, r"registry service connection: expected a password, got none")


def test_a_connection_of_a_kind_that_is_not_supported(guarded: Job, key: SigningKey) -> None:
    parameters = {"loginserver": "x.azurecr.io", "serviceprincipalkey": "a long secret"}
    connection = guarded.connect(
        Endpoint(str(uuid.uuid4()), "https://x.azurecr.io", "ServicePrincipal", parameters)
    )
    step = guarded.step(key, containerRegistry=connection.id)
    _refused(guarded, step, r"expected authentication by user name .*, got ServicePrincipal")


# --- names ---------------------------------------------------------------------------------------

_INPUTS = {
    "no tags": ({"tags": ""}, r"tags: expected at least one tag, got none"),
    "blank tags": ({"tags": " ,\r\n , "}, r"tags: expected at least one tag, got none"),
    "tag": ({"tags": "1.0,not/legal"}, r"tag 'not/legal' is not a legal name\. .*Use "),
    "tag variable": ({"tags": "$(noSuchThing)"}, r"\$\(noSuchThing\).*no variable"),
    "repository": ({"repository": "Team/äpp"}, r"repository 'team/äpp' is not a legal name"),
    "repository variable": ({"repository": "$(noName)"}, r"repository.* \$\(noName\).*no variable"),
    "command": ({"command": "login"}, r"command: expected one of .*, got 'login'"),
    "dockerfile": ({"Dockerfile": "no/Dockerfile"}, r"Dockerfile not found: .*/no/Dockerfile\. "),
    "context": ({"buildContext": "nowhere"}, r"build context not found: .*/nowhere\. "),
}


@pytest.mark.parametrize("case", _INPUTS)
def test_an_input_without_a_legal_value(guarded: Job, key: SigningKey, case: str) -> None:
    inputs, sentence = _INPUTS[case]
    _refused(guarded, guarded.step(key, **inputs), sentence)


# --- engine and build ----------------------------------------------------------------------------


def test_an_engine_that_is_not_there(guarded: Job, key: SigningKey) -> None:
    host = "unix:///nonexistent/docker.sock"
    guarded.agent.environ = {**guarded.agent.environ, "DOCKER_HOST": host}
    _refused(guarded, guarded.step(key), rf"Docker engine cannot be reached at {host}: .*no such")


@pytest.mark.parametrize(
    ("instruction", "sentence"),
    [
        ('RUN ["busybox", "false"]', r"image was not built: .*busybox false.* non-zero code: 1"),
        ("COPY missing /", r"image was not built: .*missing"),
        ("NONSENSE", r"image was not built: .*(?i:nonsense)"),
    ],
    ids=["command", "copy", "syntax"],
)
def test_a_build_that_fails(guarded: Job, key: SigningKey, instruction: str, sentence: str) -> None:
    guarded.sources(instruction)
    _refused(guarded, guarded.step(key), sentence, built=True)
