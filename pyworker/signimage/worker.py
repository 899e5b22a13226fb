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
from signimage.authorization import TokenAuthorizer
from signimage.azure import pipeline_labels
from signimage.cancellation import Canceled, cancellation, ignore_signals
from signimage.credentials import StoredLogin, logged_in
from signimage.dockerbuild import BuildRequest
from signimage.dockerconfig import private_config, user_folder
from signimage.dockerfile import build_context, find_dockerfile
from signimage.engine import Docker, split_arguments
from signimage.errors import InputError, PassphraseError, SignImageError
from signimage.inputs import Command, Inputs, read_inputs
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore
from signimage.notary import TrustServer
from signimage.outputs import public_variables, report, report_build, tell_environments
from signimage.permissions import ELSEWHERE, PIPELINE
from signimage.pinning import RootPins
from signimage.registry import Registry
from signimage.response import Credentials, CredentialSource
from signimage.securefiles import SecureFile, fetch_secure_file
from signimage.signing import Gate, Order, push_and_sign, sign_pushed, verify
from signimage.sources import ArchivedImage, BuiltImage, EngineImages
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi, gets_login

_PERCENT = {
    "Preflight": 5,
    "Find": 10,
    "Load": 10,
    "Build": 10,
    "Push": 60,
    "Sign": 90,
    "Verify": 50,
}
_HELPER_S = 15.0  # a credential helper on an agent has nobody to ask
_UNTOUCHED = "Nothing was pushed or signed"
# What a step that is canceled leaves behind, by the part of the work it was in.
_STATES = {
    "Push": "Tags may be in the registry, and none of them is signed",
    "Sign": "The tags are in the registry; run the step again to have them signed for certain",
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
    configuration = user_folder(os.environ)
    inputs = read_inputs(task, lambda: logged_in(configuration))
    _tell_support(task, inputs)
    with (
        _private_folder(task) as folder,
        Transport(_settings(task, inputs)) as transport,
        closing(_Log(task)) as log,
    ):
        step = _Step(task, inputs, folder, transport, log)
        try:
            _WORK[inputs.command](step)
        except Canceled as canceled:
            canceled.state = _STATES.get(log.current, _UNTOUCHED)
            raise
        finally:
            ignore_signals()  # what is left is to clean up, and to tell a result that is known


class _Step:
    """The parts that the work of every command is made of, each made when it is asked for."""

    def __init__(
        self, task: Task, inputs: Inputs, folder: Path, transport: Transport, log: "_Log"
    ) -> None:
        self.task = task
        self.inputs = inputs
        self.log = log
        self.transport = transport
        self.folder = folder
        login = inputs.login
        self.credentials: CredentialSource = (
            login.source(transport, task.set_secret)
            if login
            else _EarlierLogin(
                StoredLogin(user_folder(os.environ), inputs.repository.host, os.environ, _HELPER_S),
                task,
            )
        )

    def registry(self, *, actions: str = "pull,push") -> Registry:
        """The repository in its registry."""
        inputs = self.inputs
        return Registry(
            self.transport,
            inputs.repository,
            self.credentials,
            actions=actions,
            secret=self.task.set_secret,
        )

    def trust_server(self, *, actions: str = "pull,push") -> TrustServer:
        """The repository on its trust server."""
        repository, url = self.inputs.repository, self.inputs.trust_server
        is_ours = gets_login(url, repository.host)
        authorizer = TokenAuthorizer(
            self.transport,
            self.credentials if is_ours else None,
            f"repository:{repository.gun}:{actions}",
            advice=PIPELINE if is_ours else ELSEWHERE,
            secret=self.task.set_secret,
        )
        api = TrustApi(self.transport, url, repository.gun, authorizer)
        return TrustServer(api, pins=RootPins(self.inputs.root_keys))

    def order(self) -> Order:
        """What to sign; fetches the key."""
        inputs = self.inputs
        if inputs.signing_key is None:
            raise AssertionError(f"the command {inputs.command.value} makes no signature")
        key = _signing_key(self.task, self.transport, inputs, inputs.signing_key, self.folder)
        return Order(inputs.repository, inputs.tags, key, inputs.digests)

    @contextmanager
    def source(self) -> Iterator[EngineImages]:
        """Where the images come from."""
        inputs, login = self.inputs, self.inputs.login
        request = _build_request(self.task, inputs, self.log) if inputs.command.builds else None
        now = self.credentials.current()
        auths = {login.auth_key: now} if login and now else {}
        with (
            private_config(self.folder, auths, os.environ) as config,
            Docker(os.environ, config) as engine,
        ):
            parts = (engine, inputs.repository, inputs.tags, self.credentials, self._show_push)
            if request is not None:
                yield BuiltImage(*parts, request, inputs.add_base_image_data, self.task.sink)
            elif inputs.image_archive:
                yield ArchivedImage(*parts, _below_root(self.task, inputs.image_archive))
            else:
                yield EngineImages(*parts)

    def _show_push(self, percent: int) -> None:
        begin, end = _PERCENT["Push"], _PERCENT["Sign"]
        self.task.set_progress(begin + (end - begin) * percent // 100, f"Push: {percent} %")


class _EarlierLogin:
    """What an earlier step logged in with, told to the log as a secret before it is used."""

    def __init__(self, stored: StoredLogin, task: Task) -> None:
        self._stored = stored
        self._task = task

    def current(self) -> Credentials | None:
        login = self._stored.current()
        if login is not None:
            self._task.set_secret(login.password)
        return login


def _push_and_sign(step: _Step) -> None:
    order = step.order()
    with step.source() as source:
        found = push_and_sign(order, source, step.registry(), step.trust_server(), step.log)
        tell_environments(step.task, step.transport, step.inputs, source, found)
    report(step.task, step.inputs, found, order.key_id)


def _build(step: _Step) -> None:
    with step.source() as source:
        step.log.step("Preflight")
        source.check()
        step.log.step(source.title)
        image_ids = set(source.images().values())
    report_build(step.task, step.inputs, *image_ids)


def _sign(step: _Step) -> None:
    order = step.order()
    registry = step.registry(actions="pull")
    found = sign_pushed(order, registry, step.trust_server(), step.log)
    report(step.task, step.inputs, found, order.key_id)


def _verify(step: _Step) -> None:
    inputs = step.inputs
    gate = Gate(inputs.repository, inputs.tags, inputs.digests, inputs.required_signers)
    registry, server = step.registry(actions="pull"), step.trust_server(actions="pull")
    report(step.task, inputs, verify(gate, registry, server, step.log), "")


_WORK = {
    Command.BUILD_AND_PUSH: _push_and_sign,
    Command.BUILD: _build,
    Command.PUSH: _push_and_sign,
    Command.SIGN: _sign,
    Command.VERIFY: _verify,
}


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
        given = _below_root(task, inputs.authorities)
        settings = replace(settings, ca_files=(*settings.ca_files, given))
    if _is_debugged(task):
        settings = replace(settings, observe=_debug_log(task))
    return settings


def _is_debugged(task: Task) -> bool:
    return task.get_variable("System.Debug").lower() == "true"


def _debug_log(task: Task) -> Callable[..., object]:
    """Tells the log of every HTTP answer, one event a line; the task redacts and neutralises."""
    import structlog  # noqa: PLC0415 -- 40 ms that only a debugged step spends

    class Lines:
        def info(self, line: str) -> None:
            task.debug(line)

    renderer = structlog.processors.LogfmtRenderer(key_order=["event"])
    tell: Callable[..., object] = structlog.wrap_logger(Lines(), processors=[renderer]).info
    return tell


def _signing_key(
    task: Task, transport: Transport, inputs: Inputs, secure: SecureFile, folder: Path
) -> PrivateKey:
    data = fetch_secure_file(transport, secure)
    file = KeyFile.parse(data, what=secure.what)
    try:
        key = file.decrypt(os.fsencode(inputs.passphrase) or None)
    except PassphraseError as error:
        hint = (
            f"Check the value of {REPOSITORY_VARIABLE}; it is the passphrase of this key"
            if inputs.passphrase
            else f"Map it to the step from a secret variable, in env: {REPOSITORY_VARIABLE}"
        )
        raise PassphraseError(str(error), hint=hint) from error
    if not file.encrypted:
        task.warning(f"{file.what} is not encrypted; whoever gets the file can sign with it")
    else:
        KeyStore(folder / "trust").install(data, key.public_key.canonical_id)
    return key


def _build_request(task: Task, inputs: Inputs, log: "_Log") -> BuildRequest:
    """What to build; the log is told of arguments that were left out."""
    root = _below_root(task, "")
    dockerfile = find_dockerfile(inputs.dockerfile, root)
    arguments, left_out = split_arguments(inputs.arguments)
    if left_out:
        words = " ".join(left_out)
        log.done(f"Left out of the arguments, as this step signs by itself: {words}")
    variables = public_variables(task)
    return BuildRequest(
        dockerfile=dockerfile,
        context=build_context(inputs.build_context, dockerfile, root),
        references=tuple(f"{inputs.repository}:{tag}" for tag in inputs.tags),
        labels=pipeline_labels(variables, add_pipeline_data=inputs.add_pipeline_data),
        arguments=arguments,
    )


def _tell_support(task: Task, inputs: Inputs) -> None:
    """Tell a debug log what somebody who helps from afar asks for first."""
    if not _is_debugged(task):
        return
    task.debug(
        f"SignImage {__version__}, Python {platform.python_version()} ({sys.executable}), "
        f"{platform.platform()}, agent {task.get_variable('Agent.Version') or 'unknown'}"
    )
    task.debug(
        f"{inputs.command.value} {inputs.repository}: {', '.join(inputs.tags)}; trust server "
        f"{inputs.trust_server}; pinned root keys: {', '.join(inputs.root_keys) or 'none'}"
    )


def _below_root(task: Task, path: str) -> Path:
    """Where a path that a person typed leads to."""
    return Path(task.get_variable("System.DefaultWorkingDirectory") or ".") / path


class _Log:
    """The progress of the use case as groups of the agent's log."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._is_open = False
        self.current = ""

    def step(self, text: str) -> None:
        self.close()
        self.current = text
        self._task.set_progress(_PERCENT[text], text)
        self._task.group(text)
        self._is_open = True

    def done(self, text: str) -> None:
        self._task.write(text)

    def close(self) -> None:
        """End the open group, if there is one."""
        if self._is_open:
            self._task.endgroup()
        self._is_open = False
