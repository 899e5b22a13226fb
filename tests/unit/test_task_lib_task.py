"""What a step says reaches the agent, once and safely."""

import io
from pathlib import Path

import pytest

from azure_pipelines_task_lib import (
    IssueType,
    MultilineSecretError,
    PathNotFoundError,
    Result,
    Task,
)
from unit.test_task_lib_model import ParsedCommand, parse_command

ATTACK = "##vso[task.setvariable variable=x]y"
CONNECTION = "3f2a8c1e-0d5b-4c6e-9a7f-1b2c3d4e5f60"


class Step:
    """A task whose output can be read."""

    def __init__(self, **environ: str) -> None:
        self.stream = io.BytesIO()
        self.task = Task(environ, self.stream, take=("PASS",))

    def lines(self) -> list[str]:
        """Return everything printed so far."""
        return self.stream.getvalue().decode().splitlines()

    def commands(self) -> list[ParsedCommand]:
        """Return what an agent understood so far."""
        parsed = [parse_command(line) for line in self.lines()]
        return [command for command in parsed if command is not None]


def test_a_step_says_nothing_unasked() -> None:
    assert Step(INPUT_A="1", SECRET_B="2222").lines() == []


def test_decorations_stand_at_the_start_of_one_line() -> None:
    step = Step()
    step.task.group("Build\n##[error]forged")
    step.task.section("Sign")
    step.task.command_line(f"docker build {ATTACK}")
    step.task.endgroup()
    assert step.lines() == [
        "##[group]Build ##_[error]forged",
        "##[section]Sign",
        "##[command]docker build ##_vso[task.setvariable variable=x]y",
        "##[endgroup]",
    ]


def test_a_text_of_several_lines_is_safe_in_each() -> None:
    step = Step()
    step.task.write(f"one\n{ATTACK}\rthree\n")
    assert step.lines() == ["one", "##_vso[task.setvariable variable=x]y", "three"]


@pytest.mark.parametrize("say", ["debug", "warning", "error"])
def test_a_message_keeps_its_lines_and_loses_its_commands(say: str) -> None:
    step = Step()
    getattr(step.task, say)(f"100% [x];\r\n{ATTACK}")
    (command,) = step.commands()
    assert command.data == "100% [x];\n##_vso[task.setvariable variable=x]y"


def test_an_issue_carries_its_code_and_place() -> None:
    step = Step()
    step.task.log_issue(
        IssueType.WARNING, "old", source_path="a;b/Dockerfile", line_number=3, code="SI100"
    )
    properties = {
        "type": "warning", "code": "SI100", "sourcepath": "a;b/Dockerfile", "linenumber": "3"
    }  # fmt: skip
    assert step.commands() == [ParsedCommand("task.logissue", properties, "old")]


def test_progress_is_a_number_and_a_word() -> None:
    step = Step()
    step.task.set_progress(40, "Pushing")
    assert step.lines() == ["##vso[task.setprogress value=40;]Pushing"]


def test_a_failure_is_an_issue_and_a_result() -> None:
    step = Step()
    assert not step.task.result_reported
    assert step.task.set_result(Result.FAILED, "No tags.", code="SI100", done=True)
    assert step.task.result_reported
    assert step.lines() == [
        "##vso[task.logissue type=error;code=SI100;]No tags.",
        "##vso[task.complete result=Failed;done=true;]No tags.",
    ]


def test_the_first_result_counts_unless_a_later_one_is_worse() -> None:
    step = Step()
    sent = [
        step.task.set_result(result)
        for result in (Result.SUCCEEDED, Result.SUCCEEDED, Result.FAILED, Result.SUCCEEDED)
    ]
    assert sent == [True, False, True, False]
    assert [command.properties["result"] for command in step.commands()] == ["Succeeded", "Failed"]


def test_a_secret_of_several_lines_is_given_to_the_agent_line_by_line() -> None:
    step = Step()
    step.task.set_secret("-----BEGIN\r\nMIIB;]%xyz\n=\n")
    assert step.commands() == [
        ParsedCommand("task.setsecret", {}, "-----BEGIN"),
        ParsedCommand("task.setsecret", {}, "MIIB;]%xyz"),
    ]


def test_a_secret_of_one_line_is_given_to_the_agent_whole() -> None:
    step = Step()
    step.task.set_secret("pass word")
    assert step.commands() == [ParsedCommand("task.setsecret", {}, "pass word")]


def test_a_passphrase_of_one_letter_blanks_no_log() -> None:
    step = Step(PASS="a")
    step.task.set_secret(step.task.taken("PASS"))
    step.task.write("a banana")
    assert step.lines() == ["a banana"]


def test_what_was_taken_as_secret_is_shown_nowhere() -> None:
    secrets = {
        "SECRET_VARIABLE": "value-of-variable",
        f"SECUREFILE_TICKET_{CONNECTION}": "ticket-of-file",
        f"ENDPOINT_AUTH_PARAMETER_{CONNECTION}_PASSWORD": "password-of-registry",
        "PASS": "passphrase-of-key",
    }
    authorization = '{"scheme":"Token","parameters":{"apitoken":"token-in-json","username":"ci"}}'
    step = Step(**secrets, **{f"ENDPOINT_AUTH_{CONNECTION}": authorization})
    values = " ".join([*secrets.values(), "token-in-json"])
    step.task.write(values)
    step.task.section(values)
    step.task.debug(values)
    step.task.set_progress(1, values)
    step.task.log_issue(IssueType.ERROR, values, code=values)
    step.task.set_result(Result.FAILED, values)
    with step.task.sink() as sink:
        sink.write(values.encode())
    shown = "\n".join(step.lines())
    assert not [value for value in values.split() if value in shown]
    assert shown.count("*** *** *** *** ***") == 9


def test_the_names_in_a_connection_are_shown() -> None:
    parameters = {
        "USERNAME": "ci-bot",
        "REGISTRY": "reg.example.com",
        "PASSWORD": "hidden",
    }
    prefix = f"ENDPOINT_AUTH_PARAMETER_{CONNECTION}"
    step = Step(**{f"{prefix}_{name}": value for name, value in parameters.items()})
    step.task.write("ci-bot at reg.example.com with hidden")
    assert step.lines() == ["ci-bot at reg.example.com with ***"]


def test_a_variable_arrives_exactly() -> None:
    step = Step(SECRET_PART="part-of-it")
    step.task.set_variable("references", "a;b]%0A\npart-of-it", is_output=True)
    (command,) = step.commands()
    assert command.properties == {"variable": "references", "isoutput": "true", "issecret": "false"}
    assert command.data == "a;b]%0A\npart-of-it"
    assert step.task.get_variable("References") == "a;b]%0A\npart-of-it"


def test_once_secret_always_secret() -> None:
    step = Step(SECRET_MY_PASS="old-value", VSTS_SECRET_VARIABLES='["My.Pass"]')
    step.task.set_variable("my.pass", "new-value")
    (command,) = step.commands()
    assert command.properties["issecret"] == "true"
    step.task.write("new-value")
    assert step.lines()[-1] == "***"


def test_a_value_that_became_secret_does_not_stay_in_the_environment() -> None:
    environ = {"MY_VALUE": "public", "VSTS_PUBLIC_VARIABLES": '["my.value"]'}
    task = Task(environ, io.BytesIO())
    task.set_variable("my.value", "hidden", is_secret=True)
    assert environ == {}
    assert task.get_variable("my.value") == "hidden"


def test_a_secret_variable_of_several_lines_is_refused_and_not_quoted() -> None:
    step = Step()
    with pytest.raises(MultilineSecretError, match="variable v: expected one line, got several"):
        step.task.set_variable("v", "one\ntwo", is_secret=True)
    assert step.lines() == []


def test_a_secret_variable_of_several_lines_is_allowed_where_the_agent_allows_it() -> None:
    step = Step(SYSTEM_UNSAFEALLOWMULTILINESECRET="True")
    step.task.set_variable("v", "one\ntwo", is_secret=True)
    assert step.commands()[0].data == "one\ntwo"


def test_a_task_variable_is_for_the_phases_of_this_step() -> None:
    step = Step(VSTS_TASKVARIABLE_OLD=" before ")
    step.task.set_task_variable("my.folder", "/agent/x", is_secret=False)
    assert step.task.get_task_variable("old") == "before"
    assert step.task.get_task_variable("My Folder") == "/agent/x"
    assert step.lines() == [
        "##vso[task.settaskvariable variable=my.folder;issecret=false;]/agent/x"
    ]


def test_files_are_offered_by_their_exact_names(tmp_path: Path) -> None:
    path = tmp_path / "a;b]%.md"
    path.write_text("# Signed")
    step = Step(SECRET_X=str(tmp_path))
    step.task.upload_summary(str(path))
    step.task.upload_file(str(path))
    step.task.add_attachment("my.type", "report", str(path))
    step.task.prepend_path(str(tmp_path))
    assert step.commands() == [
        ParsedCommand("task.uploadsummary", {}, str(path)),
        ParsedCommand("task.uploadfile", {}, str(path)),
        ParsedCommand("task.addattachment", {"type": "my.type", "name": "report"}, str(path)),
        ParsedCommand("task.prependpath", {}, str(tmp_path)),
    ]


def test_a_missing_file_is_not_offered_since_that_would_fail_the_step(tmp_path: Path) -> None:
    step = Step()
    with pytest.raises(PathNotFoundError, match="expected an existing file, got /"):
        step.task.upload_summary(str(tmp_path / "none.md"))
    assert step.lines() == []
