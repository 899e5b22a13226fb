"""The pipeline step: inputs -> use case -> outputs and exactly one result.

Rules of this file:

1. Secrets leave the environment before anything else happens, and exist afterwards only in
   memory and in one private folder below the agent's temporary folder.
2. That folder is gone when the step ends, however it ends.
3. Every ending is one result with one sentence: what happened, what state things are in now,
   and what to do. Nothing but a verified signature ends as Succeeded.

What the agent does with all this: `docs/architecture.md`, "The step and its agent".
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from azure_pipelines_task_lib import Result, Task, TaskError, standard_output
from signimage import __version__
from signimage.agentnetwork import transport_settings
from signimage.cancellation import Canceled, cancellation, ignore_signals
from signimage.credentials import logged_in
from signimage.dockerconfig import user_folder
from signimage.errors import InputError, SignImageError
from signimage.inputs import Inputs, read_inputs
from signimage.step import Log, Step, below_root, is_debugged
from signimage.transport import Transport, TransportSettings
from signimage.variables import REPOSITORY_VARIABLE, ROOT_VARIABLE

_UNTOUCHED = "Nothing was pushed or signed"
# What a step that is canceled leaves behind, by the part of the work it was in.
_STATES = {
    "Push": "The image may be in the registry, and nothing was signed",
    "Sign": "The image is in the registry; run the step again to have it signed for certain",
    "Tag": "Everything is signed; run the step again to have every tag moved for certain",
}


def main() -> int:
    """Run the step; gives the exit code, which is 0 whenever a result was reported."""
    task = Task(os.environ, standard_output(), take=(REPOSITORY_VARIABLE, ROOT_VARIABLE))
    try:
        with cancellation(_shim()):
            run(task)
    except Canceled as canceled:
        task.set_result(Result.FAILED, f"The step was canceled. {canceled.state or _UNTOUCHED}.")
    except SignImageError as error:
        _fail(task, error)
    except TaskError as error:
        _fail(task, InputError(str(error)))
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        _fail(task, InputError(f"this machine does not let the step work: {what}"))
    return 0


def _shim() -> int:
    """The number of the process that started this one, as task/index.js gives it."""
    return int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdecimal() else 0


def _fail(task: Task, error: SignImageError) -> None:
    error.state = error.state or _UNTOUCHED
    task.set_result(Result.FAILED, error.sentence, code=error.code)


def run(task: Task) -> None:
    """Do what the inputs ask for, and report it.

    Raises:
        SignImageError: It was not done, or not to the end.
    """
    inputs = read_inputs(task, lambda: logged_in(user_folder(os.environ)))
    _tell_support(task, inputs)
    with (
        _private_folder(task) as folder,
        Transport(_settings(task, inputs)) as transport,
        closing(Log(task)) as log,
    ):
        step = Step(task, inputs, folder, transport, log)
        try:
            step.begin()
            from signimage.commands import WORK  # noqa: PLC0415 -- the network takes as long

            WORK[inputs.command](step)
        except Canceled as canceled:
            canceled.state = canceled.state or _STATES.get(log.current, _UNTOUCHED)
            raise
        finally:
            ignore_signals()  # what is left is to clean up, and to tell a result that is known


# --- The step's own resources ---


@contextmanager
def _private_folder(task: Task) -> Iterator[Path]:
    """A folder that only this user can read, and that is gone afterwards."""
    parent = task.get_variable("Agent.TempDirectory") or tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="signimage-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settings(task: Task, inputs: Inputs) -> TransportSettings:
    settings = transport_settings(task.get_variable, os.environ, warn=task.warning)
    for proxy in (settings.proxies.http, settings.proxies.https):
        if proxy and proxy.credentials:  # the agent knows its own, not those of HTTPS_PROXY
            task.set_secret(proxy.credentials.password)
    if "-----BEGIN" in inputs.authorities:
        settings = replace(settings, ca_pem=(inputs.authorities,))
    elif inputs.authorities:
        given = below_root(task, inputs.authorities)
        settings = replace(settings, ca_files=(*settings.ca_files, given))
    if is_debugged(task):
        settings = replace(settings, observe=_debug_log(task))
    return settings


def _debug_log(task: Task) -> Callable[..., object]:
    """Tells the log of every HTTP answer, one event a line; the task redacts and neutralises."""
    import structlog  # noqa: PLC0415 -- 40 ms that only a debugged step spends

    class Lines:
        def info(self, line: str) -> None:
            task.debug(line)

    renderer = structlog.processors.LogfmtRenderer(key_order=["event"])
    tell: Callable[..., object] = structlog.wrap_logger(Lines(), processors=[renderer]).info
    return tell


def _tell_support(task: Task, inputs: Inputs) -> None:
    """Tell a debug log what somebody who helps from afar asks for first."""
    if not is_debugged(task):
        return
    task.debug(
        f"SignImage {__version__}, Python {platform.python_version()} ({sys.executable}), "
        f"{platform.platform()}, agent {task.get_variable('Agent.Version') or 'unknown'}"
    )
    task.debug(
        f"{inputs.command.value} {inputs.repository}: {', '.join(inputs.tags)}; trust server "
        f"{inputs.trust_server}; pinned root keys: {', '.join(inputs.root_keys) or 'none'}"
    )
