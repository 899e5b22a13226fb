"""What the Azure Pipelines agent makes of a step's output: commands, masks, restrictions, result.

Written from the documented behaviour of the agent, pure: lines in, a `Record` out. The rules:

1. A command is found *anywhere* in a line, and even with characters in between that a
   culture-sensitive search may ignore: the model believes an attacker, the task must not.
2. A command that cannot be carried out fails the step; one that is not allowed only warns.
3. Results merge, the worst wins, and what is final stays.
4. What people see has been masked; what was really written is kept apart, for the tests.
"""

import base64
import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

# Characters of no weight in a culture-sensitive comparison: controls, joiners, marks of direction.
_WEIGHTLESS = (
    "[\\x00-\\x08\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f\\xad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]*"
)
_PREFIX = re.compile(_WEIGHTLESS.join(re.escape(letter) for letter in "##vso["))
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]+):([^\s/@]+)(?=@)")
_MASK = "***"
_KEPT_ISSUES = 10  # of each type, per timeline record
_ESCAPES = ((";", "%3B"), ("\r", "%0D"), ("\n", "%0A"), ("]", "%5D"), ("%", "%AZP25"))
_RESULTS = ("Succeeded", "SucceededWithIssues", "Failed", "Canceled", "Skipped", "Abandoned")
_FAILED = _RESULTS.index("Failed")
_RESTRICTED = frozenset(
    {
        "task.complete",
        "task.debug",
        "task.logdetail",
        "task.logissue",
        "task.prependpath",
        "task.setprogress",
        "task.setsecret",
        "task.settaskvariable",
        "task.setvariable",
    }
)
_BUILD_AREAS = frozenset({"build", "artifact"})


@dataclass(frozen=True, slots=True)
class Command:
    """A logging command as the agent understood it; names and keys in lower case."""

    name: str
    properties: Mapping[str, str]
    data: str


@dataclass(frozen=True, slots=True)
class Issue:
    """One line of the step's list of errors and warnings."""

    type: str
    message: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What a task.json, or a step's `target`, forbids; None means that all may be set."""

    restricted: bool = False
    settable: tuple[str, ...] | None = None

    @classmethod
    def of(cls, definition: Mapping[str, Any]) -> "Restrictions":
        """Read the `restrictions` of a task.json."""
        stated = definition.get("restrictions", {})
        allowed = stated.get("settableVariables", {}).get("allowed")
        mode = stated.get("commands", {}).get("mode")
        return cls(mode == "restricted", None if allowed is None else tuple(allowed))

    def allows(self, command: Command) -> bool:
        """Tell whether the agent would carry *command* out."""
        if self.restricted and command.name not in _RESTRICTED:
            return False
        if self.settable is None or command.name not in ("task.setvariable", "task.prependpath"):
            return True
        name = command.properties.get("variable", "PATH").lower()
        return any(fnmatch.fnmatchcase(name, pattern.lower()) for pattern in self.settable)


def unescape(text: str) -> str:
    """Undo the agent's escapes; `%AZP25` comes last, or `%AZP253B` would become a semicolon."""
    for plain, escaped in _ESCAPES:
        text = text.replace(escaped, plain)
    return text


def mentions_command(line: str) -> bool:
    """Tell whether the agent would look for a command in *line*."""
    return _PREFIX.search(line) is not None


def parse_command(line: str) -> Command | None:
    """Return the first command in *line*, or None if it holds no well-formed one."""
    prefix = _PREFIX.search(line)
    end = line.find("]", prefix.end()) if prefix else -1
    if prefix is None or end < 0:
        return None
    head, _, rest = line[prefix.end() : end].partition(" ")
    name = [part for part in head.split(".") if part]
    if len(name) != 2:
        return None
    pairs = (pair.partition("=") for pair in rest.split(";") if "=" in pair)
    properties = {key.strip().lower(): unescape(value) for key, _, value in pairs}
    return Command(".".join(name).lower(), properties, unescape(line[end + 1 :]))


def merge_results(current: str | None, coming: str) -> str:
    """Return the worse of two results; beyond Failed the first is final."""
    if current is None:
        return coming
    was, will_be = _RESULTS.index(current), _RESULTS.index(coming)
    return current if was > _FAILED or will_be < was else coming


class Masker:
    """Replaces every known secret, and its usual encodings, in what people will see."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Mask *secret* from now on."""
        if secret:
            escaped = secret
            for plain, code in reversed(_ESCAPES):
                escaped = escaped.replace(plain, code)
            self._values |= {secret, escaped, json.dumps(secret)[1:-1], quote(secret, safe="")}
            self._values |= {secret.replace("\\", "\\\\"), secret.strip("\"'")} - {""}
            self._values.add(base64.b64encode(secret.encode()).decode())

    def mask(self, line: str) -> str:
        """Return *line* as the log shows it."""
        for value in sorted(self._values, key=len, reverse=True):
            line = line.replace(value, _MASK)
        return _URL_PASSWORD.sub(rf"\1:{_MASK}", line)


@dataclass(slots=True)
class Record:
    """A step's timeline record while the step runs: feed it lines, then read its fields.

    `outputs` are the variables that later steps read as `$(<step name>.<name>)`, `variables` the
    others. `secrets` are values registered during the step. `log` is what people see, `raw_lines`
    what was written. `attachments` maps (type, name) to the file's content at that moment.
    """

    masker: Masker
    restrictions: tuple[Restrictions, ...] = ()
    output_names: frozenset[str] = frozenset()  # lower case
    host_type: str = "build"
    debug: bool = False
    result: str | None = None
    message: str = ""
    issues: list[Issue] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    task_variables: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    progress: list[tuple[int, str]] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    completes: list[str] = field(default_factory=list)
    attachments: dict[tuple[str, str], bytes] = field(default_factory=dict)
    handed: list[Path] = field(default_factory=list)  # the agent sends these later
    log: list[str] = field(default_factory=list)
    raw_lines: list[str] = field(default_factory=list)

    def feed(self, line: str) -> None:
        """Take one line of the step's standard output or standard error."""
        self.raw_lines.append(line)
        command = parse_command(line)
        if command is None:
            if mentions_command(line):
                self.issue("warning", f"{line!r} has the keyword ##vso, but is no legal command")
            self.log.append(self.masker.mask(line))
            return
        if not all(one.allows(command) for one in self.restrictions):
            refused = "is not allowed in this step due to policy restrictions"
            self.issue("warning", f"##vso[{command.name}] {refused}")
            return
        try:
            self._carry_out(command)
        except (KeyError, ValueError, OSError) as error:
            self.issue("error", f"Unable to process command {line!r} successfully: {error!r}")
            self.result = merge_results(self.result, "Failed")
        if self.debug and command.name != "task.debug":
            self.log.append(self.masker.mask(f"##[debug]Processed: {unescape(line)}"))

    def issue(self, type_: str, message: str, code: str = "") -> None:
        """Keep an issue, if there is room for one more of its type, and show it."""
        shown = self.masker.mask(message)
        if sum(one.type == type_ for one in self.issues) < _KEPT_ISSUES:
            self.issues.append(Issue(type_, shown, code))
        self.log += [f"##[{type_}]{line}" for line in shown.splitlines() or [""]]

    @property
    def spoken(self) -> list[str]:
        """The lines as written, but those that register a secret: no secret belongs in these."""
        return [
            line
            for line in self.raw_lines
            if (command := parse_command(line)) is None
            or not (
                command.name == "task.setsecret" or _is_true(command.properties.get("issecret", ""))
            )
        ]

    def _carry_out(self, command: Command) -> None:
        area = command.name.partition(".")[0]
        if (area == "release") if self.host_type == "build" else (area in _BUILD_AREAS):
            raise ValueError(f"{area}.* is not supported in a {self.host_type}")
        handlers: dict[str, Callable[[Command], None]] = {
            "task.logissue": self._log_issue,
            "task.complete": self._complete,
            "task.setprogress": self._set_progress,
            "task.setvariable": self._set_variable,
            "task.setsecret": self._set_secret,
            "task.settaskvariable": self._set_task_variable,
            "task.debug": self._debug,
            "task.uploadsummary": self._upload_summary,
            "task.addattachment": self._add_attachment,
            "task.uploadfile": self._upload_file,
        }
        self.commands.append(command)
        if handler := handlers.get(command.name):
            handler(command)
        elif command.name not in _RESTRICTED and area not in _BUILD_AREAS:
            self.issue("warning", f"##vso[{command.name}] is not a recognized command")

    def _log_issue(self, command: Command) -> None:
        type_ = command.properties["type"].lower()
        if type_ not in ("error", "warning"):
            raise ValueError(f"issue type: expected error or warning, got {type_}")
        self.issue(type_, command.data, command.properties.get("code", ""))

    def _complete(self, command: Command) -> None:
        result = command.properties["result"]
        if result not in _RESULTS:
            raise ValueError(f"result: expected one of {', '.join(_RESULTS)}, got {result}")
        self.completes.append(result)
        self.result = merge_results(self.result, result)
        if command.data:
            self.message = self.masker.mask(command.data)

    def _set_progress(self, command: Command) -> None:
        percent = int(command.properties["value"])
        if not 0 <= percent <= 100:
            raise ValueError(f"progress: expected 0 to 100, got {percent}")
        self.progress.append((percent, command.data))

    def _set_variable(self, command: Command) -> None:
        name = command.properties["variable"]
        if not name:
            raise ValueError("variable: expected a name, got nothing")
        if _is_true(command.properties.get("issecret", "")):
            if re.search(r"[\r\n]", command.data.strip("\r\n")):
                raise ValueError("Secrets cannot contain multiple lines")
            self._set_secret(command)
        is_output = _is_true(command.properties.get("isoutput", ""))
        declared = name.lower() in self.output_names
        (self.outputs if is_output or declared else self.variables)[name] = command.data

    def _set_secret(self, command: Command) -> None:
        self.secrets.append(command.data)
        self.masker.add(command.data)

    def _set_task_variable(self, command: Command) -> None:
        self.task_variables[command.properties["variable"]] = command.data

    def _debug(self, command: Command) -> None:
        if self.debug:
            self.log.append(self.masker.mask(f"##[debug]{command.data}"))

    def _upload_summary(self, command: Command) -> None:
        path = Path(command.data)
        self.handed.append(path)
        self.attachments["Distributedtask.Core.Summary", path.name] = path.read_bytes()

    def _add_attachment(self, command: Command) -> None:
        key = command.properties["type"], command.properties["name"]
        if re.search(r"[\x00-\x1f\"<>|:*?\\/]", "".join(key)):
            raise ValueError(f"attachment: not a valid file name in {key}")
        self.attachments[key] = Path(command.data).read_bytes()

    def _upload_file(self, command: Command) -> None:
        path = Path(command.data)
        self.attachments["DistributedTask.Core.FileAttachment", path.name] = path.read_bytes()


def _is_true(text: str) -> bool:
    return text.strip().lower() == "true"
