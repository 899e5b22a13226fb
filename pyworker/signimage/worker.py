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
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from azure_pipelines_task_lib import (
    Result,
    Task,
    TaskError,
    is_unexpanded_macro,
    standard_output,
)
from signimage.azure import (
    RegistryLogin,
    SecureFile,
    ServiceConnection,
    fetch_secure_file,
    pipeline_labels,
    registry_login,
)
from signimage.cancellation import Canceled, cancellation
from signimage.dockerconfig import private_config
from signimage.dockerfile import build_context, find_dockerfile
from signimage.engine import BuildRequest, Docker, split_arguments
from signimage.errors import InputError, PassphraseError, SignImageError
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore
from signimage.notary import TrustServer
from signimage.oci import DOCKER_HUB, Digest, Repository, check_tag
from signimage.pinning import RootPins
from signimage.registry import Registry, TokenAuthorizer
from signimage.signing import Order, SignedImage, build_push_sign
from signimage.transport import Credentials, Transport, TransportSettings
from signimage.trustapi import TrustApi, default_trust_server

_COMMANDS = ("buildAndPush",)
_KEY_ID = re.compile(r"[0-9a-fA-F]{64}")
_PERCENT = {"Preflight": 5, "Build": 10, "Push": 60, "Sign": 90}
_UNTOUCHED = "Nothing was pushed or signed"
# What a step that is canceled leaves behind, by the part of the work it was in.
_STATES = {
    "Preflight": _UNTOUCHED,
    "Build": _UNTOUCHED,
    "Push": "Tags may be in the registry, and none of them is signed",
    "Sign": "The tags are in the registry; run the step again to have them signed for certain",
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the author of the pipeline asked for, checked as far as it can be without I/O."""

    repository: Repository
    tags: tuple[str, ...]
    dockerfile: str
    build_context: str
    arguments: str
    add_pipeline_data: bool
    add_base_image_data: bool
    trust_server: str
    authorities: str  # a path, or PEM text
    root_keys: frozenset[str]
    signing_key: SecureFile
    login: RegistryLogin | None
    passphrase: str = field(repr=False)

    @property
    def credentials(self) -> Credentials | None:
        """The account for registry and trust server; None for an anonymous visitor."""
        return self.login.credentials if self.login else None


def main() -> int:
    """Run the step; gives the exit code, which is 0 whenever a result was reported."""
    task = Task(os.environ, standard_output(), take=(REPOSITORY_VARIABLE, ROOT_VARIABLE))
    try:
        with cancellation():
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


def _fail(task: Task, error: SignImageError) -> None:
    error.state = error.state or _UNTOUCHED
    task.set_result(Result.FAILED, error.sentence, code=error.code)


def run(task: Task) -> None:
    """Do what the inputs ask for, and report it.

    Raises:
        SignImageError: It was not done, or not to the end.
    """
    inputs = read_inputs(task)
    with _private_folder(task) as folder, Transport(_settings(task, inputs)) as transport:
        request, left_out = _build_request(task, inputs)
        key = _signing_key(task, transport, inputs, folder)
        auths = {login.auth_key: login.credentials for login in [inputs.login] if login}
        with (
            private_config(folder, auths, os.environ) as config,
            Docker(os.environ, config) as engine,
            closing(_Log(task)) as log,
        ):
            if left_out:
                log.done(f"Left out of the arguments, as this step signs by itself: {left_out}")
            try:
                image = build_push_sign(
                    Order(inputs.repository, inputs.tags, key),
                    _Builder(task, engine, request, inputs),
                    Registry(transport, inputs.repository, inputs.credentials),
                    _trust_server(transport, inputs),
                    log,
                )
            except Canceled as canceled:
                canceled.state = _STATES[log.current]
                raise
    _report(task, image, inputs)


# --- Inputs ---


def read_inputs(task: Task) -> Inputs:
    """Read every input once, and refuse what cannot work.

    Raises:
        InputError: An input has no legal value.
        TaskError: A required input is missing, or a connection cannot be read.
    """
    command = task.get_input("command") or _COMMANDS[0]
    if command.lower() not in {known.lower() for known in _COMMANDS}:
        raise InputError(f"command: expected {' or '.join(_COMMANDS)}, got {command!r}")
    login = _login(task)
    repository = _repository(task, login)
    tags = _tags(task)
    signing_key = _secure_file(task)
    return Inputs(
        repository=repository,
        tags=tags,
        dockerfile=_text(task, "Dockerfile") or "**/Dockerfile",
        build_context=_text(task, "buildContext") or "**",
        arguments=_text(task, "arguments"),
        add_pipeline_data=_switch(task, "addPipelineData"),
        add_base_image_data=_switch(task, "addBaseImageData"),
        trust_server=_text(task, "trustServer")
        or task.get_variable("DOCKER_CONTENT_TRUST_SERVER")
        or default_trust_server(repository.host),
        authorities=_text(task, "caCertificate"),
        root_keys=_root_keys(task),
        signing_key=signing_key,
        login=login,
        passphrase=_passphrase(task),
    )


def _text(task: Task, name: str, *, required: bool = False) -> str:
    value = task.get_input(name, required=required).strip()
    if is_unexpanded_macro(value):
        raise InputError(
            f"input {name} is the literal text {value}: no variable of that name is known to "
            "this step",
            hint="Define the variable, or link the variable group that holds it",
        )
    return value


def _switch(task: Task, name: str) -> bool:
    """A boolean input that is on unless it is switched off."""
    value = _text(task, name).lower() or "true"
    if value not in ("true", "false"):
        raise InputError(f"input {name}: expected true or false, got {value[:40]!r}")
    return value == "true"


def _list(task: Task, name: str) -> tuple[str, ...]:
    """The items of a multi-line input, separated by line ends or commas, each once."""
    items = (item.strip() for item in re.split(r"[\r\n,]+", _text(task, name)))
    return tuple(dict.fromkeys(item for item in items if item))


def _tags(task: Task) -> tuple[str, ...]:
    tags = _list(task, "tags")
    if not tags:
        raise InputError("tags: expected at least one tag, got none")
    for tag in tags:
        if is_unexpanded_macro(tag):
            raise InputError(f"tags: no variable is known to this step for {tag}")
        check_tag(tag)
    return tags


def _repository(task: Task, login: RegistryLogin | None) -> Repository:
    # Docker@2 lower-cases names and removes blanks; pipelines that move here rely on it.
    name = re.sub(r"\s", "", _text(task, "repository", required=True)).lower()
    repository = Repository.parse(name, host=login.host if login else "")
    if login is None and repository.host == DOCKER_HUB:
        raise InputError(
            "input containerRegistry: expected a service connection, got none, and the input "
            "repository names no registry either",
            hint="Name the service connection of the registry",
        )
    return repository


def _root_keys(task: Task) -> frozenset[str]:
    ids = _list(task, "rootKeys")
    for key_id in ids:
        if not _KEY_ID.fullmatch(key_id):
            raise InputError(
                f"rootKeys: expected key IDs of 64 hexadecimal digits, got {key_id[:80]!r}"
            )
    return frozenset(key_id.lower() for key_id in ids)


def _login(task: Task) -> RegistryLogin | None:
    connection_id = _text(task, "containerRegistry")
    if not connection_id:
        return None
    scheme, parameters = _authorization(task, connection_id)
    connection = ServiceConnection(
        id=connection_id,
        scheme=scheme,
        url=task.get_endpoint_url(connection_id, required=False),
        parameters=parameters,
        data={
            "registrytype": task.get_endpoint_data_parameter(
                connection_id, "registrytype", required=False
            )
        },
    )
    return registry_login(connection)


def _authorization(task: Task, connection_id: str) -> tuple[str, dict[str, str]]:
    """Scheme and parameters of a connection; agents give them one by one and as JSON."""
    scheme = task.get_endpoint_authorization_scheme(connection_id, required=False)
    single = {
        name: task.get_endpoint_authorization_parameter(connection_id, name, required=False)
        for name in ("registry", "username", "password")
    }
    if scheme and all(single.values()):
        return scheme, single
    try:
        whole = task.get_endpoint_authorization(connection_id)
    except TaskError as error:
        raise InputError(
            str(error),
            hint="Check that the connection exists and that this pipeline may use it. A shell "
            "script in the place of python3 loses connections, too: set the input pythonPath",
        ) from error
    parameters = {name.lower(): value for name, value in whole.parameters.items()}
    return whole.scheme or scheme, {**parameters, **{k: v for k, v in single.items() if v}}


def _secure_file(task: Task) -> SecureFile:
    file_id = _text(task, "signingKey", required=True)
    return SecureFile(
        collection_uri=task.get_variable("System.TeamFoundationCollectionUri"),
        project=task.get_variable("System.TeamProject")
        or task.get_variable("System.TeamProjectId"),
        file_id=file_id,
        name=task.get_secure_file_name(file_id),
        ticket=task.get_secure_file_ticket(file_id),
        token=task.get_endpoint_authorization_parameter("SYSTEMVSSCONNECTION", "AccessToken"),
    )


def _passphrase(task: Task) -> str:
    passphrase = task.taken(REPOSITORY_VARIABLE)
    if is_unexpanded_macro(passphrase):
        raise PassphraseError(
            f"{REPOSITORY_VARIABLE} is the literal text {passphrase}: no variable of that name "
            "is known to this step",
            hint="Define it as a secret variable, or link the variable group that holds it",
        )
    if passphrase:
        task.set_secret(passphrase)
    return passphrase


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
    files = [Path(path) for path in [task.get_variable("Agent.CAInfo")] if path]
    texts = []
    if "-----BEGIN" in inputs.authorities:
        texts.append(inputs.authorities)
    elif inputs.authorities:
        root = task.get_variable("System.DefaultWorkingDirectory") or "."
        files.append(Path(root) / inputs.authorities)
    settings = TransportSettings(ca_files=tuple(files), ca_pem=tuple(texts))
    if task.get_variable("System.Debug").lower() == "true":
        settings = replace(settings, observe=_debug_log(task))
    return settings.with_proxies(os.environ)


def _debug_log(task: Task) -> Callable[..., object]:
    """Tells the log of every HTTP answer, one event a line; the task redacts and neutralises."""
    import structlog  # noqa: PLC0415 -- 40 ms that only a debugged step spends

    class Lines:
        def info(self, line: str) -> None:
            task.debug(line)

    renderer = structlog.processors.LogfmtRenderer(key_order=["event"])
    tell: Callable[..., object] = structlog.wrap_logger(Lines(), processors=[renderer]).info
    return tell


def _signing_key(task: Task, transport: Transport, inputs: Inputs, folder: Path) -> PrivateKey:
    data = fetch_secure_file(transport, inputs.signing_key)
    file = KeyFile.parse(data, what=inputs.signing_key.what)
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


def _trust_server(transport: Transport, inputs: Inputs) -> TrustServer:
    gun = inputs.repository.gun
    authorizer = TokenAuthorizer(transport, inputs.credentials, f"repository:{gun}:pull,push")
    api = TrustApi(transport, inputs.trust_server, gun, authorizer)
    return TrustServer(api, pins=RootPins(inputs.root_keys))


def _build_request(task: Task, inputs: Inputs) -> tuple[BuildRequest, str]:
    """What to build, and the arguments that were left out."""
    root = Path(task.get_variable("System.DefaultWorkingDirectory") or ".")
    dockerfile = find_dockerfile(inputs.dockerfile, root)
    arguments, left_out = split_arguments(inputs.arguments)
    variables = {each.name: each.value for each in task.get_variables() if not each.is_secret}
    request = BuildRequest(
        dockerfile=dockerfile,
        context=build_context(inputs.build_context, dockerfile, root),
        references=tuple(f"{inputs.repository}:{tag}" for tag in inputs.tags),
        labels=pipeline_labels(variables, add_pipeline_data=inputs.add_pipeline_data),
        arguments=arguments,
    )
    return request, " ".join(left_out)


class _Builder:
    """The engine as the use case sees it, with everything it says going to the log."""

    def __init__(self, task: Task, engine: Docker, request: BuildRequest, inputs: Inputs) -> None:
        self._task = task
        self._engine = engine
        self._request = request
        self._inputs = inputs

    def check(self) -> None:
        self._engine.check()

    def build(self) -> str:
        request = self._request
        if self._inputs.add_base_image_data:
            base = self._engine.base_image_labels(request.dockerfile)
            request = replace(request, labels={**request.labels, **base})
        with self._task.sink() as sink:
            return self._engine.build(request, sink.write)

    def push(self, tag: str) -> Digest:
        def show(percent: int) -> None:
            begin, end = _PERCENT["Push"], _PERCENT["Sign"]
            self._task.set_progress(begin + (end - begin) * percent // 100, f"Push: {percent} %")

        repository = self._inputs.repository
        return self._engine.push(repository.gun, tag, self._inputs.credentials, show).digest


class _Log:
    """The progress of the use case as groups of the agent's log."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._is_open = False
        self.current = "Preflight"

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


# --- The end ---


def _report(task: Task, image: SignedImage, inputs: Inputs) -> None:
    """Set the outputs of a step that signed, and its result."""
    resource = f"https://{image.repository}@{image.digest}"
    before = [uri for uri in task.get_variable("RESOURCE_URIS").split(",") if uri]
    outputs = {
        "digest": image.digest.text,
        "imageReferences": "\n".join(image.references),
        "signers": ",".join(image.signers),
        "signedTags": ",".join(image.tags),
    }
    for name, value in outputs.items():
        task.set_variable(name, value, is_output=True)
    task.set_variable("RESOURCE_URIS", ",".join(dict.fromkeys([*before, resource])))
    for warning in image.warnings:
        task.warning(warning)
    if not inputs.root_keys:
        task.warning(
            f"The root of trust of {image.repository} was believed at first sight. To pin it, "
            f"set the input rootKeys to {', '.join(image.root_key_ids)}"
        )
    for reference in image.references:
        task.write(f"Signed by {', '.join(image.signers) or 'the repository key'}: {reference}")
    task.set_progress(100, "Signed")
    task.set_result(
        Result.SUCCEEDED,
        f"{image.repository}: {', '.join(image.tags)} signed by "
        f"{', '.join(image.signers) or 'the repository key'} and verified",
    )
