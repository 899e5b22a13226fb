"""Our port does what Microsoft's library does, on thousands of generated steps.

Both get the same environment and the same calls; compared are every value, everything printed and
the environment that is left. Where we differ on purpose, `DIFFERENCES` says what and why, and each
entry is itself a test: it fails when a difference is gone.

The library is installed by `npm ci` in `tests/task/oracle`; without it these tests fail.
"""

import io
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from azure_pipelines_task_lib import ConnectionDataError, IssueType, Result, Task, TaskError
from azure_pipelines_task_lib.commands import format_command
from task.task_lib_cases import ID, KINDS, Call, Case, Environ, Generator

ORACLE = Path(__file__).parent / "oracle"
SEED = 20_261_122  # any; fixed, so that a failure can be looked at again
CASES = 3000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case: a value for each call, the commands printed, what children inherit."""

    values: list[Any]
    printed: list[str]
    environ: Environ


# --- Our library, under the names of theirs ------------------------------------------------------

ISSUE_TYPES = (IssueType.ERROR, IssueType.WARNING)
PORT: dict[str, Callable[..., Any]] = {
    "getInput": lambda task, name, required: task.get_input(name, required=required),
    "getBoolInput": lambda task, name, required: task.get_bool_input(name, required=required),
    "getDelimitedInput": lambda task, name, delimiter, required: task.get_delimited_input(
        name, _delimiter(delimiter), required=required
    ),
    "getPathInput": lambda task, name, required, check: task.get_path_input(
        name, required=required, check=check
    ),
    "filePathSupplied": Task.file_path_supplied,
    "getVariable": Task.get_variable,
    "getVariables": lambda task: [
        {"name": variable.name, "value": variable.value, "secret": variable.is_secret}
        for variable in task.get_variables()
    ],
    "setVariable": lambda task, name, value, is_secret, is_output: task.set_variable(
        name, value, is_secret=is_secret, is_output=is_output
    ),
    "getTaskVariable": Task.get_task_variable,
    "setTaskVariable": lambda task, name, value, is_secret: task.set_task_variable(
        name, value, is_secret=is_secret
    ),
    "getEndpointUrl": lambda task, name, optional: task.get_endpoint_url(
        name, required=not optional
    ),
    "getEndpointDataParameter": lambda task, name, key, optional: task.get_endpoint_data_parameter(
        name, key, required=not optional
    ),
    "getEndpointAuthorizationScheme": lambda task, name, optional: (
        task.get_endpoint_authorization_scheme(name, required=not optional)
    ),
    "getEndpointAuthorizationParameter": lambda task, name, key, optional: (
        task.get_endpoint_authorization_parameter(name, key, required=not optional)
    ),
    "getEndpointAuthorization": lambda task, name, optional: _authorization(
        task, name, optional=optional
    ),
    "getSecureFileName": Task.get_secure_file_name,
    "getSecureFileTicket": Task.get_secure_file_ticket,
    "setSecret": Task.set_secret,
    "setProgress": Task.set_progress,
    "uploadSummary": Task.upload_summary,
    "uploadFile": Task.upload_file,
    "addAttachment": Task.add_attachment,
    "prependPath": Task.prepend_path,
    "debug": Task.debug,
    "warning": Task.warning,
    "error": Task.error,
    "logIssue": lambda task, kind, message, path, line, column, code: task.log_issue(
        ISSUE_TYPES[kind],
        message,
        source_path=path,
        line_number=line,
        column_number=column,
        code=code,
    ),
    "setResult": lambda task, result, message, done: task.set_result(
        list(Result)[result], message, done=done
    ),
    "formatCommand": lambda _task, *arguments: format_command(*arguments),
}
SAYING_ONLY = ("set", "upload", "add", "prepend", "debug", "warning", "error", "log")


def _delimiter(argument: str | dict[str, str]) -> str | re.Pattern[str]:
    return argument if isinstance(argument, str) else re.compile(argument["pattern"])


def _authorization(task: Task, name: str, *, optional: bool) -> dict[str, Any] | None:
    """Look an authorization up; ours is never optional."""
    try:
        authorization = task.get_endpoint_authorization(name)
    except ConnectionDataError:
        if optional:
            return None
        raise
    return {"scheme": authorization.scheme, "parameters": dict(authorization.parameters)}


def ask_ours(case: Case) -> Outcome:
    """Run *case* with our library."""
    environ = dict(case.environ)
    stream = io.BytesIO()
    task = Task(environ, stream)
    values: list[Any] = []
    for name, *arguments in case.calls:
        try:
            value = PORT[name](task, *arguments)
        except TaskError as error:
            values.append({"error": str(error)})
        else:
            values.append(None if name.startswith(SAYING_ONLY) else value)
    return Outcome(values, stream.getvalue().decode().splitlines(keepends=True), environ)


def ask_theirs(cases: list[Case]) -> list[Outcome]:
    """Run all *cases* with Microsoft's library, in one process."""
    requests = [json.dumps({"environ": case.environ, "calls": case.calls}) for case in cases]
    done = subprocess.run(
        ["node", "oracle.js"],
        cwd=ORACLE,
        input="\n".join(requests).encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [Outcome(each["values"], each["printed"], each["environ"]) for each in answers]


# --- What is the same, and what differs on purpose -----------------------------------------------

DEBUG = "##vso[task.debug]"
SAID = f"{DEBUG}said: "


def comparable(outcome: Outcome) -> Outcome:
    """Return *outcome* without what `DIFFERENCES` explains for every step."""
    values = [_comparable_value(value) for value in outcome.values]
    printed = [
        _comparable_line(line)
        for line in outcome.printed
        if line.startswith(SAID) or not line.startswith(DEBUG)
    ]
    inherited = {name: value for name, value in outcome.environ.items() if name[:4] != "NEW_"}
    return Outcome(values, printed, inherited)


def _comparable_value(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict) and "error" in value:
        return "an error"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        named = [{**item, "value": item.get("value") or ""} for item in value]
        return sorted(named, key=lambda item: str(item["name"]))
    return value


def _comparable_line(line: str) -> str:
    line = line.replace(" isOutput=", " isoutput=").replace(";isOutput=", ";isoutput=")
    return re.sub(
        r"^##vso\[task\.issue type=(\w+);source=TaskInternal;\]",
        r"##vso[task.logissue type=\1;]",
        line,
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """A case on which the two libraries are meant to differ."""

    what: str
    why: str
    calls: list[Call]
    theirs: Any  # values and printed commands, without task.debug unless it is the subject
    ours: Any
    environ: Environ = field(default_factory=dict)
    shows_debug: bool = False


NO_AUTHORIZATION = "Endpoint auth data not present: id"
DIFFERENCES = [
    Difference(
        "values are not echoed",
        "an input or a variable may be a secret, and the debug log is a log",
        [["getInput", "name", False]],
        (["value"], ["##vso[task.debug]name=value\n"]),
        (["value"], []),
        environ={"INPUT_NAME": "value"},
        shows_debug=True,
    ),
    Difference(
        "nothing is undefined",
        "the agent does not tell an empty value from none; text has one type in Python",
        [["getInput", "name", False]],
        ([None], []),
        ([""], []),
    ),
    Difference(
        "issues use the documented command",
        "task.issue is an alias that the documentation of logging commands does not know",
        [["warning", "careful"]],
        ([None], ["##vso[task.issue type=warning;source=TaskInternal;]careful\n"]),
        ([None], ["##vso[task.logissue type=warning;]careful\n"]),
    ),
    Difference(
        "issues carry no correlation",
        "the agent gives the identifier to Microsoft's own tasks only",
        [["warning", "careful"]],
        (
            [None],
            ["##vso[task.issue type=warning;source=TaskInternal;correlationId=c1;]careful\n"],
        ),
        ([None], ["##vso[task.logissue type=warning;]careful\n"]),
        environ={"COMMAND_CORRELATION_ID": "c1"},
    ),
    Difference(
        "properties use the documented spelling",
        "isoutput is spelled in lower case there; the agent takes both",
        [["setVariable", "v", "1", False, True]],
        ([None], ["##vso[task.setvariable variable=v;isOutput=true;issecret=false;]1\n"]),
        ([None], ["##vso[task.setvariable variable=v;isoutput=true;issecret=false;]1\n"]),
    ),
    Difference(
        "a cancelled step is spelled as the agent parses it",
        "TaskResult.Canceled has one l there, and the agent ignores what it cannot parse",
        [["setResult", 3, "", False]],
        ([None], ["##vso[task.complete result=Cancelled;]\n"]),
        ([None], ["##vso[task.complete result=Canceled;]\n"]),
    ),
    Difference(
        "a step has one result",
        "what is said twice is shown twice; a worse result is still sent",
        [["setResult", 2, "", False], ["setResult", 0, "", False]],
        (
            [None, None],
            ["##vso[task.complete result=Failed;]\n", "##vso[task.complete result=Succeeded;]\n"],
        ),
        ([None, None], ["##vso[task.complete result=Failed;]\n"]),
    ),
    Difference(
        "text for people is neutralised",
        "messages quote what a server or a Dockerfile said",
        [["debug", "##vso[task.complete result=Succeeded;]\r\nx"]],
        ([None], ["##vso[task.debug]##vso[task.complete result=Succeeded;]%0D%0Ax\n"]),
        ([None], ["##vso[task.debug]##_vso[task.complete result=Succeeded;]%0Ax\n"]),
        shows_debug=True,
    ),
    Difference(
        "text for people is redacted",
        "the agent knows a secret only as it was given, we know its usual disguises",
        [["error", "caf%C3%A9-au-lait"]],
        (
            [None],
            ["##vso[task.issue type=error;source=TaskInternal;]caf%AZP25C3%AZP25A9-au-lait\n"],
        ),
        ([None], ["##vso[task.logissue type=error;]***\n"]),
        environ={"SECRET_DRINK": "café-au-lait"},
    ),
    Difference(
        "a task variable leaves the pipeline's variable of that name alone",
        "they are different things; in that library the second look-up finds nothing",
        [["setTaskVariable", "v", "1", False], ["getVariable", "v"]],
        ([None, None], ["##vso[task.settaskvariable variable=v;issecret=false;]1\n"]),
        ([None, "2"], ["##vso[task.settaskvariable variable=v;issecret=false;]1\n"]),
        environ={"V": "2"},
    ),
    Difference(
        "a secret of several lines is registered line by line",
        "the agent masks lines; refusing would leave a key unmasked",
        [["setSecret", "line-1\nline-2"]],
        ([{"error": "Secrets cannot contain multiple lines"}], []),
        ([None], ["##vso[task.setsecret]line-1\n", "##vso[task.setsecret]line-2\n"]),
    ),
    Difference(
        "a secret of a few letters is not registered",
        "masking every 'a' blanks the log and protects nothing",
        [["setSecret", "a"]],
        ([None], ["##vso[task.setsecret]a\n"]),
        ([None], []),
    ),
    Difference(
        "a missing authorization is an error",
        "a look-up must not end the step behind the back of its caller",
        [["getEndpointAuthorization", "id", False]],
        (
            [None],
            [
                f"##vso[task.issue type=error;source=TaskInternal;]{NO_AUTHORIZATION}\n",
                f"##vso[task.complete result=Failed;]{NO_AUTHORIZATION}\n",
            ],
        ),
        (
            [{"error": "service connection id: expected an authorization, got none"}],
            [],
        ),
    ),
    Difference(
        "a malformed authorization is not quoted",
        "it holds a password",
        [["getEndpointAuthorization", ID, False]],
        ([{"error": "Invalid endpoint auth: hunter22"}], []),
        (
            [
                {
                    "error": "authorization of a service connection: expected JSON with scheme and "
                    "parameters, got something else"
                }
            ],
            [],
        ),
        environ={f"ENDPOINT_AUTH_{ID}": "hunter22"},
    ),
    Difference(
        "names of parameters are mangled as the agent mangles them",
        "with toUpperCase alone, a parameter with a dot or a blank is never found",
        [["getEndpointAuthorizationParameter", ID, "api.key", True]],
        ([None], []),
        (["k"], []),
        environ={f"ENDPOINT_AUTH_PARAMETER_{ID}_API_KEY": "k"},
    ),
    Difference(
        "ids of connections and secure files are found in any case",
        "a GUID is the same in capitals",
        [["getEndpointUrl", ID.upper(), True], ["getSecureFileName", ID.upper()]],
        ([None, None], []),
        (["u", "n"], []),
        environ={f"ENDPOINT_URL_{ID}": "u", f"SECUREFILE_NAME_{ID}": "n"},
    ),
    Difference(
        "a file that is not there is not offered",
        "the agent fails the whole step over it",
        [["uploadSummary", "/none/summary.md"]],
        ([None], ["##vso[task.uploadsummary]/none/summary.md\n"]),
        (
            [
                {
                    "error": "file to hand to the agent: expected an existing file, "
                    "got /none/summary.md"
                }
            ],
            [],
        ),
    ),
    Difference(
        "a folder that cannot be entered holds no path",
        "the answer to 'is it there' is no, not a stack trace; only the sentence differs",
        [["getPathInput", "p", False, True]],
        ([{"error": "ENOTDIR: not a directory, stat '/dev/null/x'"}], []),
        ([{"error": "input p: expected an existing path, got /dev/null/x"}], []),
        environ={"INPUT_P": "/dev/null/x"},
    ),
]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.what)
def test_a_deliberate_difference_is_as_described(difference: Difference) -> None:
    case = Case(difference.environ, difference.calls)
    seen = []
    for outcome in (ask_theirs([case])[0], ask_ours(case)):
        printed = [
            line for line in outcome.printed if difference.shows_debug or not line.startswith(DEBUG)
        ]
        loading = ("##vso[task.debug]agent.", "##vso[task.debug]load")
        seen.append((outcome.values, [line for line in printed if not line.startswith(loading)]))
    assert seen == [difference.theirs, difference.ours]


ENVIRONMENTS_LEFT: list[tuple[str, Environ, Environ, Environ]] = [
    ("an empty value is taken out, too", {"INPUT_A": ""}, {"INPUT_A": ""}, {}),
    ("the environment is not where variables are kept", {}, {"V": "1"}, {}),
]


@pytest.mark.parametrize(
    ("why", "environ", "theirs", "ours"),
    ENVIRONMENTS_LEFT,
    ids=[row[0] for row in ENVIRONMENTS_LEFT],
)
def test_a_deliberate_difference_in_what_children_inherit(
    why: str, environ: Environ, theirs: Environ, ours: Environ
) -> None:
    calls: list[Call] = [] if environ else [["setVariable", "v", "1", False, False]]
    case = Case(environ, calls)
    assert (ask_theirs([case])[0].environ, ask_ours(case).environ) == (theirs, ours), why


# --- Thousands of steps --------------------------------------------------------------------------


def test_every_function_of_the_port_is_compared() -> None:
    assert sorted(name for names in KINDS.values() for name in names) == sorted(PORT)


def test_both_libraries_agree_on_generated_steps() -> None:
    generator = Generator(SEED, existing=str(ORACLE / "oracle.js"))
    cases = [generator.case() for _ in range(CASES)]
    for case, theirs in zip(cases, ask_theirs(cases), strict=True):
        ours, expected = comparable(ask_ours(case)), comparable(theirs)
        assert ours.values == expected.values, case
        assert ours.printed == expected.printed, case
        assert ours.environ == expected.environ, case
