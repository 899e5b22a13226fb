"""The stand-ins for the agent and for Azure DevOps: they must be as strict as the real ones.

Rule: every claim of the documented behaviour that a task test leans on is shown here to hold for
the stand-in, with a task that is a few lines of JavaScript.
"""

import base64
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.agent import Agent, AgentError, Endpoint, SecureFile, Step, mangle
from task.agent_model import (
    Command,
    Masker,
    Record,
    Restrictions,
    merge_results,
    parse_command,
    unescape,
)
from task.devops import DevOps, Lie

_FILE_ID = "0F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0"
_TICKET = "ticket of job 7"
_INPUTS = [
    {"name": "fooBar", "type": "string", "label": "x", "defaultValue": " as declared "},
    {"name": "Dockerfile", "type": "filePath", "label": "x", "defaultValue": "**/Dockerfile"},
    {"name": "containerRegistry", "type": "connectedService:dockerregistry", "label": "x"},
    {"name": "signingKey", "type": "secureFile", "label": "x"},
]


def _task(folder: Path, script: str, **more: Any) -> Path:
    definition = {
        "inputs": _INPUTS,
        "execution": {"Node20_1": {"target": "main.js"}},
        "postjobexecution": {"Node24": {"target": "main.js"}},
        **more,
    }
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(definition), "utf-8")
    (folder / "main.js").write_text(script, "utf-8")
    return folder


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """Return an agent with an empty job."""
    return Agent(tmp_path / "agent")


# Commands


@pytest.mark.parametrize(
    "line",
    [
        "##vso[task.complete result=Failed;]why",
        "#5 1.2 ##vso[task.complete result=Failed;]why",
        "####vso[Task.Complete RESULT=Failed]why",
        "##\u200bvs\u00ado[task.complete result=Failed;]why",
        "#\x00#vso\ufeff[task.complete result=Failed;;]why",
    ],
)
def test_a_command_is_found_anywhere_and_under_any_disguise(line: str) -> None:
    assert parse_command(line) == Command("task.complete", {"result": "Failed"}, "why")


@pytest.mark.parametrize(
    "line", ["", "vso[task.complete]", "##vso[task.complete", "##vso[complete]x", "##VSO[a.b]x"]
)
def test_what_is_no_command_is_none(line: str) -> None:
    assert parse_command(line) is None


@given(st.text())
def test_any_text_survives_the_escapes(text: str) -> None:
    escaped = text.replace("%", "%AZP25").replace(";", "%3B").replace("]", "%5D")
    escaped = escaped.replace("\r", "%0D").replace("\n", "%0A")
    assert unescape(escaped) == text
    command = parse_command(f"##vso[task.setvariable variable={escaped};]{escaped}")
    assert command == Command("task.setvariable", {"variable": text}, text)


@given(st.text())
def test_any_line_is_a_command_or_none(line: str) -> None:
    """Nothing that a step writes makes the model itself fail."""
    record = Record(Masker())
    record.feed(line)
    record.feed(f"##vso[task.{line}]{line}")
    assert len(record.raw_lines) == 2


# Results, issues, restrictions, masks


def test_the_worst_result_wins_and_what_is_final_stays() -> None:
    assert merge_results(None, "Succeeded") == "Succeeded"
    assert merge_results("Failed", "Succeeded") == "Failed"
    assert merge_results("SucceededWithIssues", "Failed") == "Failed"
    assert merge_results("Canceled", "Failed") == "Canceled"


def test_a_result_in_a_spelling_that_the_agent_lacks_fails_the_step() -> None:
    record = Record(Masker())
    record.feed("##vso[task.complete result=Cancelled;]")
    assert record.result == "Failed"
    assert "Unable to process command" in record.issues[0].message


def test_a_command_that_cannot_be_carried_out_fails_the_step(tmp_path: Path) -> None:
    record = Record(Masker())
    record.feed("##vso[task.complete result=Succeeded;]")
    record.feed(f"##vso[task.uploadsummary]{tmp_path / 'missing.md'}")
    assert record.result == "Failed"


def test_a_restricted_command_only_warns() -> None:
    definition = {
        "restrictions": {
            "commands": {"mode": "restricted"},
            "settableVariables": {"allowed": ["digest", "sign*"]},
        }
    }
    record = Record(Masker(), restrictions=(Restrictions.of(definition),))
    record.feed("##vso[task.uploadsummary]/missing")
    record.feed("##vso[task.setvariable variable=PATH]/evil")
    record.feed("##vso[task.setvariable variable=Digest]sha256:0")
    record.feed("##vso[task.setvariable variable=signers]ci")
    assert record.result is None
    assert [issue.type for issue in record.issues] == ["warning", "warning"]
    assert record.variables == {"Digest": "sha256:0", "signers": "ci"}


def test_ten_issues_of_a_type_are_kept() -> None:
    record = Record(Masker())
    for number in range(12):
        record.feed(f"##vso[task.logissue type=error;code=X]{number}")
        record.feed(f"##vso[task.logissue type=warning]{number}")
    assert [issue.message for issue in record.issues if issue.type == "error"] == list("0123456789")
    assert len(record.issues) == 20


def test_outputs_are_the_declared_and_the_marked_variables() -> None:
    record = Record(Masker(), output_names=frozenset({"digest"}))
    record.feed("##vso[task.setvariable variable=Digest]a")
    record.feed("##vso[task.setvariable variable=other;isoutput=true]b")
    record.feed("##vso[task.setvariable variable=RESOURCE_URIS]c")
    assert record.outputs == {"Digest": "a", "other": "b"}
    assert record.variables == {"RESOURCE_URIS": "c"}


def test_a_secret_of_several_lines_is_refused() -> None:
    record = Record(Masker())
    record.feed("##vso[task.setvariable variable=x;issecret=true]a%0Ab")
    assert "Secrets cannot contain multiple lines" in record.issues[0].message


def test_a_secret_is_masked_in_its_usual_encodings_from_then_on() -> None:
    record = Record(Masker())
    secret = 'p"a/ss%;'
    encoded = [json.dumps(secret), base64.b64encode(secret.encode()).decode(), "p%22a%2Fss%25%3B"]
    record.feed(f"before {secret}")
    record.feed('##vso[task.setsecret]p"a/ss%AZP25%3B')
    record.feed(f"after {secret} {' '.join(encoded)} https://me:word@host/")
    assert record.log == [f"before {secret}", 'after *** "***" *** *** https://me:***@host/']
    assert record.spoken == [record.raw_lines[0], record.raw_lines[2]]


# The environment


def test_names_are_mangled_and_hyphens_stay() -> None:
    assert mangle("Agent.Temp Directory-x") == "AGENT_TEMP_DIRECTORY-X"


def test_a_step_sees_its_inputs_as_the_agent_prepares_them(agent: Agent, tmp_path: Path) -> None:
    """Trimmed, then expanded; unknown macros stay; file paths are rooted, even the empty one."""
    agent.secret_variables["pass phrase"] = "  blanks survive  "
    definition = json.loads((_task(tmp_path / "t", "") / "task.json").read_text())
    step = Step(
        {"FOOBAR": "  $(Pass Phrase)$(nope) ", "dockerfile": " sub dir/D ", "extra": "x"},
        env={"DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "$(pass phrase)"},
    )
    environ = agent.environment(definition, step, {})
    assert environ["INPUT_FOOBAR"] == "  blanks survive  $(nope)"
    assert environ["INPUT_DOCKERFILE"] == str(agent.sources / "sub dir/D")
    assert environ["INPUT_EXTRA"] == "x"
    assert environ["DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"] == "  blanks survive  "
    assert environ["SECRET_PASS_PHRASE"] == "  blanks survive  "
    assert json.loads(environ["VSTS_SECRET_VARIABLES"]) == ["pass phrase", "System.AccessToken"]

    defaults = agent.environment(definition, Step({"dockerfile": " "}), {})
    assert defaults["INPUT_FOOBAR"] == "as declared"
    assert defaults["INPUT_DOCKERFILE"] == str(agent.sources)


def test_a_step_sees_only_the_endpoints_and_files_that_it_names(
    agent: Agent, tmp_path: Path
) -> None:
    named = Endpoint.registry("https://registry.example/", "robot", "pass")
    other = Endpoint.registry("https://other.example/", "robot", "secret")
    agent.endpoints += [named, other]
    agent.secure_files += [SecureFile(_FILE_ID, "delegation.key", _TICKET)]
    definition = json.loads((_task(tmp_path / "t", "") / "task.json").read_text())
    inputs = {"containerRegistry": named.id.upper(), "signingKey": _FILE_ID.lower()}
    environ = agent.environment(definition, Step(inputs), {"state": "x"})
    assert environ[f"ENDPOINT_AUTH_PARAMETER_{named.id}_PASSWORD"] == "pass"
    assert json.loads(environ[f"ENDPOINT_AUTH_{named.id}"])["scheme"] == "UsernamePassword"
    assert environ[f"ENDPOINT_DATA_{named.id}_REGISTRYTYPE"] == "Others"
    assert environ["ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN"] == agent.token
    assert environ[f"SECUREFILE_TICKET_{_FILE_ID}"] == _TICKET
    assert environ["VSTS_TASKVARIABLE_STATE"] == "x"
    assert not any(other.id in name for name in environ)

    without = agent.environment(definition, Step({}), {})
    assert not any(name.startswith("SECUREFILE_") for name in without)
    assert not any(named.id in name for name in without)


# The process


def test_node_gets_the_documented_process(agent: Agent, tmp_path: Path) -> None:
    """Hyphenated names arrive, the folder is the sources, standard input is at its end."""
    script = (
        "process.stdin.on('end', () => { console.error('stdin ended');"
        " console.log(process.cwd(), process.env['ENDPOINT_AUTH_SCHEME_' + process.env"
        ".INPUT_CONTAINERREGISTRY], process.argv.length); }).resume();"
    )
    named = Endpoint.registry("https://registry.example/", "robot", "pass")
    agent.endpoints.append(named)
    result = agent.run(_task(tmp_path / "t", script), Step({"containerRegistry": named.id}))
    assert result.result == "Succeeded"
    assert sorted(result.raw_lines) == [f"{agent.sources} UsernamePassword 2", "stdin ended"]


def test_an_exit_code_fails_the_step_with_the_agents_ugly_words(
    agent: Agent, tmp_path: Path
) -> None:
    task = _task(
        tmp_path / "t", "console.log('##vso[task.complete result=Succeeded]');process.exitCode = 3;"
    )
    result = agent.run(task, Step({}))
    assert result.result == "Failed"
    assert result.errors[0].startswith("Exit code 3 returned from process: file name '")


def test_what_a_step_leaves_behind_is_seen(agent: Agent, tmp_path: Path) -> None:
    """A file in the temporary folder, a file in the task's folder, a process of its own session."""
    script = (
        "const fs = require('fs'), path = require('path');"
        "fs.mkdirSync(path.join(process.env.AGENT_TEMPDIRECTORY, 'key'));"
        "fs.writeFileSync(path.join(__dirname, 'cache'), '');"
        "const options = {detached: true, stdio: 'ignore'};"
        "require('child_process').spawn('sleep', ['613'], options).unref();"
    )
    result = agent.run(_task(tmp_path / "t", script), Step({}))
    assert result.leftovers == ("key",)
    assert result.changed_task_files == ("cache",)
    assert result.orphans == ("sleep 613",)
    assert not result.streams_held


def test_streams_held_by_a_child_are_dropped(agent: Agent, tmp_path: Path) -> None:
    script = (
        "const options = {detached: true, stdio: 'inherit'};"
        "require('child_process').spawn('sleep', ['614'], options).unref();"
    )
    result = agent.run(_task(tmp_path / "t", script), Step({}))
    assert result.streams_held
    assert result.orphans == ("sleep 614",)


def test_cancel_goes_to_node_alone_and_ends_with_a_kill(agent: Agent, tmp_path: Path) -> None:
    """A node that ignores both signals is killed; the child that it did not stop is an orphan."""
    agent.variables |= {"PROCESS_SIGINT_TIMEOUT": "1500", "PROCESS_SIGTERM_TIMEOUT": "1500"}
    script = (
        "for (const s of ['SIGINT', 'SIGTERM']) process.on(s, () => console.log('got ' + s));"
        "require('child_process').spawn('sleep', ['615'], {stdio: 'ignore'});"
        "console.log('ready'); setInterval(() => {}, 1000);"
    )
    step = Step({}, cancel_when=lambda line: line == "ready")
    result = agent.run(_task(tmp_path / "t", script), step)
    assert result.result == "Canceled"
    assert result.raw_lines == ("ready", "got SIGINT", "got SIGTERM")
    assert result.exit_code == -9
    assert result.orphans == ("sleep 615",)


def test_a_canceled_step_that_ends_in_time_is_not_killed(agent: Agent, tmp_path: Path) -> None:
    script = (
        "process.on('SIGINT', () => { console.log('bye'); process.exit(0); });"
        "console.log('ready'); setInterval(() => {}, 1000);"
    )
    step = Step({}, cancel_when=lambda line: line == "ready")
    result = agent.run(_task(tmp_path / "t", script), step)
    assert (result.result, result.exit_code, result.raw_lines) == ("Canceled", 0, ("ready", "bye"))


def test_the_post_job_gets_the_task_variables_of_the_run(agent: Agent, tmp_path: Path) -> None:
    script = (
        "console.log('##vso[task.settaskvariable variable=my state]' + process.pid);"
        "console.log(process.env.VSTS_TASKVARIABLE_MY_STATE);"
    )
    task = _task(tmp_path / "t", script)
    ran = agent.run(task, Step({}))
    after = agent.run_post_job(task, Step({}), ran)
    assert ran.raw_lines[1] == "undefined"
    assert after.raw_lines[1] == ran.task_variables["my state"]


def test_lines_end_as_the_agents_reader_ends_them(agent: Agent, tmp_path: Path) -> None:
    script = r"process.stdout.write('a\rb\r\nc\n\u00e4'); process.stderr.write('');"
    result = agent.run(_task(tmp_path / "t", script), Step({}))
    assert result.raw_lines == ("a", "b", "c", "ä")


def test_a_task_without_a_known_handler_is_an_error(agent: Agent, tmp_path: Path) -> None:
    task = _task(tmp_path / "t", "", execution={"Node20": {"target": "main.js"}})
    with pytest.raises(AgentError, match="execution has no handler that the agent knows"):
        agent.run(task, Step({}))


# Azure DevOps


@pytest.fixture
def devops() -> Iterator[DevOps]:
    """Serve a library with one secure file."""
    server = DevOps(token="job token", project="Größe & Co")
    server.add_secure_file(_FILE_ID, _TICKET, b"the key file")
    with server.serve():
        yield server


def _download(devops: DevOps, **changes: str) -> tuple[int, bytes, str]:
    """Ask as documented, but for *changes*; return status, body and Content-Type."""
    request = {
        "method": "GET",
        "project": devops.project_id,
        "query": f"ticket={_TICKET.replace(' ', '%20')}&download=false&api-version=5.0-preview.1",
        "accept": "application/octet-stream",
        "authorization": "Basic " + base64.b64encode(b"PAT:job token").decode(),
        **changes,
    }
    base = urlsplit(devops.collection_uri)
    path = f"{base.path}{request['project']}/_apis/distributedtask/securefiles/{_FILE_ID.lower()}"
    connection = http.client.HTTPConnection(base.netloc)
    headers = {"Accept": request["accept"], "Authorization": request["authorization"]}
    try:
        connection.request(request["method"], f"{path}?{request['query']}", headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers["Content-Type"]
    finally:
        connection.close()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"project": "Gr%C3%B6%C3%9Fe%20%26%20Co"},
        {"authorization": "Bearer job token"},
        {"authorization": "Basic " + base64.b64encode(b":job token").decode()},
        {"accept": "application/octet-stream;api-version=7.2-preview.1"},
    ],
)
def test_the_documented_requests_get_the_file(devops: DevOps, changes: dict[str, str]) -> None:
    if changes.get("authorization") == "Bearer job token":
        devops.token = "token"  # a bearer token has no blanks
        changes = {"authorization": "Bearer token"}
    assert _download(devops, **changes) == (200, b"the key file", "application/octet-stream")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"method": "POST"}, 405),
        ({"project": "Another%20Project"}, 404),
        ({"query": "ticket=another&download=false"}, 403),
        ({"query": "download=false"}, 403),
        ({"query": "ticket=ticket%20of%20job%207"}, 400),
        ({"authorization": "Basic " + base64.b64encode(b"PAT:wrong").decode()}, 401),
        ({"authorization": "Basic job token"}, 401),
        ({"accept": "application/json"}, 406),
    ],
)
def test_a_good_request_with_one_fault_is_refused(
    devops: DevOps, changes: dict[str, str], status: int
) -> None:
    found, body, media_type = _download(devops, **changes)
    assert found == status
    assert media_type.startswith("application/json")
    assert json.loads(body)["message"]


@pytest.mark.parametrize(
    ("lie", "status", "body"),
    [
        (Lie.SIGN_IN_PAGE, 203, b"<!DOCTYPE html>"),
        (Lie.SIGN_IN_REDIRECT, 302, b"<!DOCTYPE html>"),
        (Lie.HTML_OK, 200, b"<!DOCTYPE html>"),
        (Lie.EMPTY, 200, b""),
        (Lie.UNAUTHORIZED, 401, b'{"$id"'),
        (Lie.FORBIDDEN, 403, b'{"$id"'),
        (Lie.NOT_FOUND, 404, b'{"$id"'),
        (Lie.UNAVAILABLE, 503, b'{"$id"'),
        (Lie.UNAVAILABLE_ONCE, 503, b'{"$id"'),
        (Lie.OTHER_ORIGIN, 302, b""),
        (Lie.OVERSIZED, 200, bytes(100)),
    ],
)
def test_each_lie_is_told(devops: DevOps, lie: Lie, status: int, body: bytes) -> None:
    devops.lie = lie
    found, content, _ = _download(devops)
    assert found == status
    assert content.startswith(body)
    assert content != b"the key file"


def test_a_truncated_file_breaks_off(devops: DevOps) -> None:
    devops.lie = Lie.TRUNCATED
    with pytest.raises(http.client.IncompleteRead, match="6 bytes read, 6 more expected"):
        _download(devops)


def test_unavailable_once_is_over_after_once(devops: DevOps) -> None:
    devops.lie = Lie.UNAVAILABLE_ONCE
    assert [_download(devops)[0], _download(devops)[0]] == [503, 200]
    assert [request.method for request in devops.requests] == ["GET", "GET"]
