"""One step of a pipeline: what it was given, and what it says to its agent.

The behaviour is that of Microsoft's library for Node, on purpose and as far as a test can compare
them, with the differences that `tests/task/test_task_lib_oracle.py` lists. The main ones: nothing
that was given is ever printed, a missing thing is an error and not a result, and every text for
people is redacted and neutralised on its way out (`output.py`).

An empty value and no value are the same thing to an agent; both are "" here.
"""

import os
import re
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from azure_pipelines_task_lib.commands import IssueType, Result
from azure_pipelines_task_lib.environment import (
    EndpointAuthorization,
    TakenEnvironment,
    Variable,
    parse_authorization,
    variable_key,
)
from azure_pipelines_task_lib.errors import (
    ConnectionDataError,
    InputRequiredError,
    MultilineSecretError,
    PathNotFoundError,
)
from azure_pipelines_task_lib.output import ByteStream, LineSink, Output
from azure_pipelines_task_lib.redaction import secret_parts
from azure_pipelines_task_lib.text import is_unicode, split_lines


class Task:
    """A step, from its environment and to its output; there is no state outside of it.

    Args:
        environ: Usually `os.environ`. What the agent put there for this step alone is removed,
            see `environment.py`; that happens before anything else, and prints nothing.
        stream: Usually `standard_output()`.
        take: Further names to take out, such as those of passphrases. Their values are secrets.
    """

    def __init__(
        self, environ: MutableMapping[str, str], stream: ByteStream, take: Iterable[str] = ()
    ) -> None:
        self._environment = TakenEnvironment(environ, take)
        self._output = Output(stream)
        self._result: Result | None = None
        for secret in self._environment.secrets():
            self._output.redactor.add(secret)

    # --- What the step was given -------------------------------------------------------------

    def taken(self, name: str) -> str:
        """Return what the environment held as *name*, one of the names in `take`."""
        return self._environment.taken(name)

    def get_input(self, name: str, *, required: bool = False) -> str:
        """Return the input *name*.

        Raises:
            InputRequiredError: It is required and not set.
        """
        value = self._environment.taken(f"INPUT_{variable_key(name)}")
        if required and not value:
            raise InputRequiredError(f"input {name}: expected a value, got none")
        return value

    def get_bool_input(self, name: str, *, required: bool = False) -> bool:
        """Tell whether the input *name* is "true", in any case; anything else is not."""
        return self.get_input(name, required=required).upper() == "TRUE"

    def get_delimited_input(
        self, name: str, delimiter: str | re.Pattern[str], *, required: bool = False
    ) -> list[str]:
        """Return the items of the input *name*, without the empty ones, and not trimmed.

        A delimiter "" separates all characters; groups of a pattern become items of their own.
        """
        value = self.get_input(name, required=required)
        if isinstance(delimiter, re.Pattern):
            items: list[str | None] = [*delimiter.split(value)]
        else:
            items = [*(value.split(delimiter) if delimiter else value)]
        return [item for item in items if item]

    def get_path_input(self, name: str, *, required: bool = False, check: bool = False) -> str:
        """Return the path in the input *name*; with *check*, only if something is there.

        Raises:
            InputRequiredError: It is required and not set.
            PathNotFoundError: It is set, *check* is asked for, and nothing is there.
        """
        path = self.get_input(name, required=required)
        if path and check and not Path(path).exists():
            raise PathNotFoundError(f"input {name}: expected an existing path, got {path}")
        return path

    def file_path_supplied(self, name: str) -> bool:
        """Tell whether a `filePath` input was filled in: the agent makes an empty one the root."""
        root = self.get_variable("build.sourcesDirectory") or self.get_variable(
            "system.defaultWorkingDirectory"
        )
        return _absolute(self.get_path_input(name)) != _absolute(root)

    def get_variable(self, name: str) -> str:
        """Return the variable *name*, public or secret."""
        return self._environment.variable(name)

    def get_variables(self) -> tuple[Variable, ...]:
        """Return every variable that the agent named or this step set."""
        return self._environment.variables()

    def get_task_variable(self, name: str) -> str:
        """Return the task variable *name*, trimmed; only phases of one step share these."""
        return self._environment.taken(f"VSTS_TASKVARIABLE_{variable_key(name)}").strip()

    def get_endpoint_url(self, endpoint_id: str, *, required: bool = True) -> str:
        """Return the URL of the service connection *endpoint_id*."""
        url = self._environment.left(f"ENDPOINT_URL_{endpoint_id}")
        return _found(url, f"service connection {endpoint_id}: expected a URL", required=required)

    def get_endpoint_data_parameter(
        self, endpoint_id: str, key: str, *, required: bool = True
    ) -> str:
        """Return the data item *key* of the service connection *endpoint_id*."""
        value = self._environment.left(f"ENDPOINT_DATA_{endpoint_id}_{variable_key(key)}")
        what = f"service connection {endpoint_id}: expected data {key}"
        return _found(value, what, required=required)

    def get_endpoint_authorization_scheme(self, endpoint_id: str, *, required: bool = True) -> str:
        """Return the authorization scheme of the service connection *endpoint_id*."""
        scheme = self._environment.taken(f"ENDPOINT_AUTH_SCHEME_{endpoint_id}")
        what = f"service connection {endpoint_id}: expected an authorization scheme"
        return _found(scheme, what, required=required)

    def get_endpoint_authorization_parameter(
        self, endpoint_id: str, key: str, *, required: bool = True
    ) -> str:
        """Return the authorization parameter *key* of the service connection *endpoint_id*.

        Raises:
            ConnectionDataError: It is required and not there, or is no Unicode text.
        """
        name = f"ENDPOINT_AUTH_PARAMETER_{endpoint_id}_{variable_key(key)}"
        what = f"service connection {endpoint_id}: expected authorization parameter {key}"
        value = self._environment.taken(name)
        if not is_unicode(value):
            raise ConnectionDataError(f"{what} in Unicode, got something else")
        return _found(value, what, required=required)

    def get_endpoint_authorization(self, endpoint_id: str) -> EndpointAuthorization:
        """Return scheme and parameters of the service connection *endpoint_id* in one.

        Raises:
            ConnectionDataError: There is no such connection, or its data cannot be read.
        """
        text = self._environment.taken(f"ENDPOINT_AUTH_{endpoint_id}")
        what = f"service connection {endpoint_id}: expected an authorization"
        return parse_authorization(_found(text, what, required=True))

    def get_secure_file_name(self, secure_file_id: str) -> str:
        """Return the name that the secure file *secure_file_id* has in the library."""
        return self._environment.left(f"SECUREFILE_NAME_{secure_file_id}")

    def get_secure_file_ticket(self, secure_file_id: str) -> str:
        """Return the ticket with which the secure file *secure_file_id* can be fetched once."""
        return self._environment.taken(f"SECUREFILE_TICKET_{secure_file_id}")

    # --- What the step says to people --------------------------------------------------------

    def write(self, text: str) -> None:
        """Print *text*, one line or several."""
        self._output.write_lines(split_lines(text))

    def sink(self) -> LineSink:
        """Return a writable for the bytes of another program's output."""
        return LineSink(self._output)

    def group(self, title: str) -> None:
        """Open a group of lines that the log viewer can fold; groups do not nest."""
        self._output.write_decorated("group", title)

    def endgroup(self) -> None:
        """Close the group."""
        self._output.write_decorated("endgroup", "")

    def section(self, title: str) -> None:
        """Print a heading."""
        self._output.write_decorated("section", title)

    def command_line(self, text: str) -> None:
        """Print a command line that is about to be executed."""
        self._output.write_decorated("command", text)

    def debug(self, message: str) -> None:
        """Say *message* to those who set `System.Debug`."""
        self._output.write_command("task.debug", {}, self._output.clean_text(message))

    def warning(self, message: str) -> None:
        """Log a warning that is shown on the summary of the run."""
        self.log_issue(IssueType.WARNING, message)

    def error(self, message: str) -> None:
        """Log an error that is shown on the summary of the run; it does not fail the step."""
        self.log_issue(IssueType.ERROR, message)

    def log_issue(
        self,
        issue_type: IssueType,
        message: str,
        *,
        source_path: str = "",
        line_number: int = 0,
        column_number: int = 0,
        code: str = "",
    ) -> None:
        """Log an issue, with the place in the sources (counted from 1) where it arose if any."""
        properties = {
            "type": issue_type.value,
            "code": self._output.clean_text(code),
            "sourcepath": source_path,
            "linenumber": str(line_number or ""),
            "columnnumber": str(column_number or ""),
        }
        self._output.write_command("task.logissue", properties, self._output.clean_text(message))

    def set_progress(self, percent: int, current_operation: str) -> None:
        """Show how far the step is, 0 to 100."""
        self._output.write_command(
            "task.setprogress",
            {"value": str(percent)},
            self._output.clean_text(current_operation),
        )

    # --- What the step tells the agent -------------------------------------------------------

    @property
    def result_reported(self) -> bool:
        """Whether the agent has been told how the step ended."""
        return self._result is not None

    def set_result(
        self, result: Result, message: str = "", *, done: bool = False, code: str = ""
    ) -> bool:
        """Report how the step ended, and *message* as an issue if it ended less than well.

        The first report counts. A later one is sent only if it is worse, as the agent would merge
        them: a failure after a success must not be lost, and nothing is said twice.

        Args:
            result: How the step ended.
            message: One sentence; it becomes the result's text, too.
            done: Make the agent go on even while this process or a child of it lives.
            code: Goes with the issue.

        Returns:
            Whether the report was sent.
        """
        with self._output.lock:
            if self._result is not None and not self._result.yields_to(result):
                return False
            self._result = result
            if message and result is Result.FAILED:
                self.log_issue(IssueType.ERROR, message, code=code)
            if message and result is Result.SUCCEEDED_WITH_ISSUES:
                self.log_issue(IssueType.WARNING, message, code=code)
            properties = {"result": result.value, "done": "true" if done else ""}
            self._output.write_command(
                "task.complete", properties, self._output.clean_text(message)
            )
        return True

    def set_secret(self, secret: str) -> None:
        """Have *secret* masked from now on, by us and by the agent.

        The agent masks single lines, so each line of *secret* is given to it by itself. Parts of
        less than `redaction.SHORTEST_SECRET` characters are not: masking them blanks the log.
        """
        with self._output.lock:
            self._output.redactor.add(secret)
            for part in secret_parts(secret):
                if len(split_lines(part)) == 1:
                    self._output.write_command("task.setsecret", {}, part)

    def set_variable(
        self, name: str, value: str, *, is_secret: bool = False, is_output: bool = False
    ) -> None:
        """Set the variable *name* for the steps that follow. Once secret, always secret.

        The value is passed on exactly, so it must not come from somebody who is not trusted
        without having been parsed.

        Raises:
            MultilineSecretError: The value is secret and has several lines; agents refuse that
                unless `System.UnsafeAllowMultilineSecret` is true.
        """
        is_secret = is_secret or self._environment.is_secret(name)
        with self._output.lock:
            if is_secret:
                self._check_secret(name, value)
                self._output.redactor.add(value)
            self._environment.set_variable(name, value, is_secret=is_secret)
            properties = {
                "variable": name,
                "isoutput": str(is_output).lower(),
                "issecret": str(is_secret).lower(),
            }
            self._output.write_command("task.setvariable", properties, value)

    def set_task_variable(self, name: str, value: str, *, is_secret: bool = False) -> None:
        """Set a variable for the later phases of this very step, such as its clean-up."""
        with self._output.lock:
            if is_secret:
                self._output.redactor.add(value)
            self._environment.set_task_variable(name, value)
            properties = {"variable": name, "issecret": str(is_secret).lower()}
            self._output.write_command("task.settaskvariable", properties, value)

    def prepend_path(self, directory: str) -> None:
        """Put *directory* in front of PATH for the steps that follow."""
        self._output.write_command("task.prependpath", {}, directory)

    def upload_summary(self, path: str) -> None:
        """Show the Markdown file *path* on the summary of the run; its content is not masked."""
        self._output.write_command("task.uploadsummary", {}, _existing(path))

    def upload_file(self, path: str) -> None:
        """Add the file *path* to the logs that can be downloaded."""
        self._output.write_command("task.uploadfile", {}, _existing(path))

    def add_attachment(self, attachment_type: str, name: str, path: str) -> None:
        """Attach the file *path* to the record of this step."""
        properties = {"type": attachment_type, "name": name}
        self._output.write_command("task.addattachment", properties, _existing(path))

    def _check_secret(self, name: str, value: str) -> None:
        allowed = self.get_variable("System.UnsafeAllowMultilineSecret").upper() == "TRUE"
        if ("\n" in value or "\r" in value) and not allowed:
            raise MultilineSecretError(f"secret variable {name}: expected one line, got several")


def _found(value: str, what: str, *, required: bool) -> str:
    if required and not value:
        raise ConnectionDataError(f"{what}, got none")
    return value


def _existing(path: str) -> str:
    """Return *path* if it is a file: a command that names a missing one fails the whole step."""
    if not Path(path).is_file():
        raise PathNotFoundError(f"file to hand to the agent: expected an existing file, got {path}")
    return path


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 -- as Node resolves, without following links
