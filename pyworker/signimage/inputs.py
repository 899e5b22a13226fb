"""What the author of a pipeline asked for: inputs, connection and secure file of one step, checked.

Every input is read once, here, and refused here when nothing could be done with it; whatever
needs network, disk or clock is not asked. Where the agent puts these things:
`azure_pipelines_task_lib.environment`; what the inputs mean to people: `task.json`.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from azure_pipelines_task_lib import Task, TaskError, is_unexpanded_macro
from signimage.azure import (
    DATA,
    PARAMETERS,
    Job,
    RegistryLogin,
    ServiceConnection,
    registry_login,
)
from signimage.errors import FormatError, InputError, PassphraseError
from signimage.oci import DOCKER_HUB, Digest, Reference, Repository, check_tag, normal_host
from signimage.securefiles import SecureFile
from signimage.trustapi import default_trust_server
from signimage.variables import REPOSITORY_VARIABLE

_KEY_ID = re.compile(r"[0-9a-fA-F]{64}")
_PLATFORM = re.compile(r"[a-z0-9_.-]{1,40}(/[a-z0-9_.-]{1,40}){1,2}")
# What to do about base images: the values of `bases.BasePolicy`, which few steps import.
BASE_IMAGES = ("off", "verify", "pin", "require")
# Commands of `Docker@2` that this step has no use for, and why.
_NEEDLESS = {
    "login": "this step logs in by itself, with the connection in containerRegistry",
    "logout": "this step leaves no login behind",
    "start": "this step runs no containers",
    "stop": "this step runs no containers",
}


class Command(Enum):
    """What a step can do; the values are those of the input `command`."""

    BUILD_AND_PUSH = "buildAndPush"
    BUILD = "build"
    PUSH = "push"
    SIGN = "sign"
    VERIFY = "verify"

    @property
    def builds(self) -> bool:
        """Whether an image is built."""
        return self in (Command.BUILD_AND_PUSH, Command.BUILD)

    @property
    def signs(self) -> bool:
        """Whether a signature is made, which takes a key."""
        return self not in (Command.BUILD, Command.VERIFY)


class Moment(Enum):
    """When tags move; the values are those of the input `signBeforeTag`."""

    AUTO = "auto"  # after they are signed, wherever the image can be pushed by digest
    REQUIRE = "require"  # never before


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the author of the pipeline asked for, checked as far as it can be without I/O."""

    command: Command
    repository: Repository
    tags: tuple[str, ...]
    digests: Mapping[str, Digest]  # what some of the tags must be
    image_archive: str  # a path; empty for an image in the engine
    platforms: tuple[str, ...]  # of the build, e.g. `linux/arm64`
    base_images: str  # one of `BASE_IMAGES`
    is_recursive: bool  # whether the manifests below an index are signed, too
    sign_before_tag: Moment
    required_signers: tuple[str, ...]
    dockerfile: str
    build_context: str
    arguments: str
    add_pipeline_data: bool
    add_base_image_data: bool
    trust_server: str
    authorities: str  # a path, or PEM text
    root_keys: frozenset[str]
    signing_key: SecureFile | None  # None where the command makes no signature
    login: RegistryLogin | None
    job: Job
    passphrase: str = field(repr=False)


def read_inputs(task: Task, logged_in: Callable[[], Sequence[str]] = tuple) -> Inputs:
    """Read every input once, and refuse what cannot work.

    Args:
        task: The step.
        logged_in: Tells which registries an earlier step has logged in to; asked where neither a
            connection nor the repository's name says which registry is meant.

    Raises:
        InputError: An input has no legal value.
        TaskError: A required input is missing, or a connection cannot be read.
    """
    command = _command(task)
    job = _job(task)
    login = _login(task, job)
    repository = _repository(task, command, login, logged_in)
    tags, digests = _tags(task, command, repository)
    return Inputs(
        command=command,
        repository=repository,
        tags=tags,
        digests=digests,
        image_archive=_text(task, "imageArchive") if command is Command.PUSH else "",
        platforms=_platforms(task) if command.builds else (),
        base_images=_base_images(task) if command.builds else BASE_IMAGES[0],
        is_recursive=_switch(task, "recursive", unset="false"),
        sign_before_tag=_moment(task),
        required_signers=_signers(task) if command is Command.VERIFY else (),
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
        signing_key=_secure_file(task, job) if command.signs else None,
        login=login,
        job=job,
        passphrase=_passphrase(task) if command.signs else "",
    )


def _command(task: Task) -> Command:
    """The command; as with `Docker@2`, in any letter case."""
    text = _text(task, "command") or Command.BUILD_AND_PUSH.value
    for command in Command:
        if text.lower() == command.value.lower():
            return command
    known = ", ".join(command.value for command in Command)
    needless = _NEEDLESS.get(text.lower())
    raise InputError(
        f"command: expected one of {known}, got {text[:40]!r}",
        hint=f"Remove the step: {needless}" if needless else "",
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


def _moment(task: Task) -> Moment:
    text = (_text(task, "signBeforeTag") or Moment.AUTO.value).lower()
    known = [moment.value for moment in Moment]
    if text not in known:
        raise InputError(f"signBeforeTag: expected one of {', '.join(known)}, got {text[:40]!r}")
    return Moment(text)


def _base_images(task: Task) -> str:
    text = (_text(task, "baseImages") or BASE_IMAGES[0]).lower()
    if text not in BASE_IMAGES:
        raise InputError(f"baseImages: expected one of {', '.join(BASE_IMAGES)}, got {text[:40]!r}")
    return text


def _platforms(task: Task) -> tuple[str, ...]:
    platforms = _list(task, "platforms")
    for platform in platforms:
        if not _PLATFORM.fullmatch(platform):
            raise InputError(
                f"platforms: expected names such as linux/amd64, got {platform[:80]!r}"
            )
    return platforms


def _switch(task: Task, name: str, *, unset: str = "true") -> bool:
    """A boolean input; *unset* is what an empty one means."""
    value = _text(task, name).lower() or unset
    if value not in ("true", "false"):
        raise InputError(f"input {name}: expected true or false, got {value[:40]!r}")
    return value == "true"


def _list(task: Task, name: str) -> tuple[str, ...]:
    """The items of a multi-line input, separated by line ends or commas, each once."""
    items = (item.strip() for item in re.split(r"[\r\n,]+", _text(task, name)))
    return tuple(dict.fromkeys(item for item in items if item))


def _tags(
    task: Task, command: Command, repository: Repository
) -> tuple[tuple[str, ...], dict[str, Digest]]:
    """The tags, and what some of them must be: `1.0@sha256:…`, or such a reference in full."""
    tags: dict[str, Digest | None] = {}
    for item in _list(task, "tags"):
        if is_unexpanded_macro(item):
            raise InputError(f"tags: no variable is known to this step for {item}")
        name, at, digest = item.partition("@")
        is_known = command in (Command.SIGN, Command.VERIFY)  # and may be named in full
        tag = _tag_of(name, repository) if is_known else name
        if at and not is_known:
            raise InputError(
                f"tags: expected tags, got {item[:200]!r}",
                hint="Only the commands sign and verify can say which digest a tag must have",
            )
        check_tag(tag)
        before, wanted = tags.get(tag), _digest(item, digest) if at else None
        if before and wanted and before != wanted:
            raise InputError(f"tags: expected one digest of {tag}, got {before} and {wanted}")
        tags[tag] = wanted or before
    if not tags:
        raise InputError("tags: expected at least one tag, got none")
    return tuple(tags), {tag: digest for tag, digest in tags.items() if digest}


def _tag_of(name: str, repository: Repository) -> str:
    if "/" in name:
        reference = Reference.parse(name)
        if reference.repository != repository or not reference.tag:
            raise InputError(f"tags: expected tags of {repository}, got {name[:200]!r}")
        return reference.tag
    return name


def _digest(item: str, digest: str) -> Digest:
    try:
        return Digest.parse(digest)
    except FormatError as error:
        raise InputError(f"tags: expected TAG@sha256:…, got {item[:200]!r}") from error


def _signers(task: Task) -> tuple[str, ...]:
    from signimage.publication import check_signer_name  # noqa: PLC0415 -- only gates need it

    names = _list(task, "requiredSigners")
    for name in names:
        check_signer_name(name)
    return names


def _repository(
    task: Task,
    command: Command,
    login: RegistryLogin | None,
    logged_in: Callable[[], Sequence[str]],
) -> Repository:
    # Docker@2 lower-cases names and removes blanks; pipelines that move here rely on it.
    name = re.sub(r"\s", "", _text(task, "repository", required=True)).lower()
    if login is not None:
        return Repository.parse(name, host=login.host)
    repository = Repository.parse(name)
    if repository.host != DOCKER_HUB or _names_host(name):
        return repository
    hosts = logged_in()
    if len(hosts) == 1:
        return Repository.parse(name, host=hosts[0])
    if command is Command.BUILD:
        return repository
    found = f"logins to {', '.join(hosts)}" if hosts else "none"
    raise InputError(
        "input containerRegistry: expected a service connection, or a repository whose name "
        f"begins with its registry, or one login by an earlier step; got {found}",
        hint="Name the service connection of the registry",
    )


def _names_host(name: str) -> bool:
    """Tell whether the *name* of a repository on Docker Hub begins with the Hub itself."""
    first, slash, _ = name.partition("/")
    return bool(slash) and normal_host(first) == DOCKER_HUB


def _root_keys(task: Task) -> frozenset[str]:
    ids = _list(task, "rootKeys")
    for key_id in ids:
        if not _KEY_ID.fullmatch(key_id):
            raise InputError(
                f"rootKeys: expected key IDs of 64 hexadecimal digits, got {key_id[:80]!r}"
            )
    return frozenset(key_id.lower() for key_id in ids)


def _login(task: Task, job: Job) -> RegistryLogin | None:
    connection_id = _agents_id(_text(task, "containerRegistry"))
    if not connection_id:
        return None
    scheme, parameters = _authorization(task, connection_id)
    data = {
        name: task.get_endpoint_data_parameter(connection_id, name, required=False) for name in DATA
    }
    url = task.get_endpoint_url(connection_id, required=False)
    return registry_login(ServiceConnection(connection_id, scheme, url, parameters, data), job)


def _authorization(task: Task, connection_id: str) -> tuple[str, dict[str, str]]:
    """Scheme and parameters of a connection; agents give them one by one and as JSON."""
    scheme = task.get_endpoint_authorization_scheme(connection_id, required=False)
    given = {
        name: task.get_endpoint_authorization_parameter(connection_id, name, required=False)
        for name in PARAMETERS
    }
    single = {name: value for name, value in given.items() if value}
    try:
        whole = task.get_endpoint_authorization(connection_id)
    except TaskError as error:
        if single:
            return scheme, single
        raise InputError(
            str(error),
            hint="Check that the connection exists and that this pipeline may use it. A shell "
            "script in the place of python3 loses connections, too: set the input pythonPath",
        ) from error
    parameters = {name.lower(): value for name, value in whole.parameters.items()}
    return scheme or whole.scheme, {**parameters, **single}


def _job(task: Task) -> Job:
    return Job(
        collection_uri=task.get_variable("System.TeamFoundationCollectionUri"),
        project_id=task.get_variable("System.TeamProjectId"),
        hub=task.get_variable("System.HostType"),
        plan_id=task.get_variable("System.PlanId"),
        job_id=task.get_variable("System.JobId"),
        id_token_uri=task.get_variable("System.OidcRequestUri"),
        token=task.get_endpoint_authorization_parameter("SYSTEMVSSCONNECTION", "AccessToken"),
        metadata_host=task.get_variable("AZURE_POD_IDENTITY_AUTHORITY_HOST"),
    )


def _secure_file(task: Task, job: Job) -> SecureFile:
    file_id = _agents_id(_text(task, "signingKey", required=True))
    return SecureFile(
        collection_uri=job.collection_uri,
        project=task.get_variable("System.TeamProject") or job.project_id,
        file_id=file_id,
        name=task.get_secure_file_name(file_id),
        ticket=task.get_secure_file_ticket(file_id),
        token=job.token,
    )


def _agents_id(text: str) -> str:
    """Return an ID as the agent spells it in names; it reads all forms of .NET, as people copy."""
    digits = re.sub(r"[-{}()]", "", text)
    return str(uuid.UUID(digits)) if re.fullmatch(r"[0-9A-Fa-f]{32}", digits) else text


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
