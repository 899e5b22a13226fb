"""The way to the engine without the docker command: its own API, through Docker's library.

The library is imported only when it is needed: it takes longer to import than most questions take
to answer. It reaches engines at `unix://` and `tcp://`; the others take the command.

Docker Engine API: `GET /version`, `/images/{name}/json`, `/images/{name}/history`,
`POST /build`, `/images/{name}/tag`, `/images/{name}/push`.
"""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from signimage.buildarguments import flags, given_values
from signimage.buildx import Builder
from signimage.dockerbuild import BuildRequest
from signimage.dockerconfig import (
    DockerConfig,
    EngineAddress,
    child_environment,
    engine_address,
)
from signimage.enginestream import (
    Pushed,
    Versions,
    not_built,
    not_here,
    read_build,
    read_push,
    refused,
    unreachable,
)
from signimage.errors import InputError, SignImageError
from signimage.imagedetails import Layer
from signimage.oci import Digest, Repository
from signimage.programs import Output
from signimage.transport import FOREIGN_ERRORS, Credentials, readable, reason

if TYPE_CHECKING:
    from docker import APIClient

SILENCE_S = 600  # the engine may compress a large layer for minutes without a word
PROBE_S = 20  # for a question that takes some 30 ms: a version
_NEEDS_COMMAND = ("npipe:", "ssh:")
# Flags of `docker build` that the engine's own classic builder understands, and its names.
_VALUES = {"--target": "target", "--platform": "platform", "--network": "network_mode"}
_SWITCHES = {"--no-cache": "nocache", "--pull": "pull", "--squash": "squash"}


@final
class EngineSdk:
    """An engine that is spoken to directly; what its methods promise is said in `Engine`."""

    def __init__(self, environ: Mapping[str, str], config: DockerConfig) -> None:
        self._environ = environ
        self._config = config
        self._address = engine_address(environ)
        self._client: APIClient | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def versions(self) -> Versions:
        """Connect, which asks for a version."""
        client = self._connected()
        import docker  # noqa: PLC0415 -- see _connect

        with _sdk_errors(self._address):
            answer = client.version()
        return Versions(f"docker-py {docker.__version__}", str(answer.get("Version", "")))

    def check(self) -> None:
        """Connect, unless that was done before."""
        self._connected()

    def build(self, request: BuildRequest, on_output: Output) -> str:
        """Build by the engine's classic builder."""
        environment = child_environment(self._environ, request.arguments, self._config)
        options = engine_options(request.arguments, environment)
        references = request.references
        with _sdk_errors(self._address, not_built):
            lines = self._connected().build(
                path=str(request.context),
                dockerfile=str(request.dockerfile.absolute()),
                tag=references[0] if references else None,
                labels=dict(request.labels),
                rm=True,
                decode=True,
                **options,
            )
            image_id = read_build(lines, on_output)
            for reference in references[1:]:
                repository, _, tag = reference.rpartition(":")
                self._connected().tag(image_id, repository, tag)
        return image_id

    def builder(self, arguments: Sequence[str]) -> Builder | None:
        """Return none: BuildKit is reached by the docker command alone."""
        if "--builder" in (word.partition("=")[0] for word in arguments):
            raise InputError(
                "arguments: --builder needs the docker command, which is not on PATH",
                hint="Install Docker's command line with the plugin docker-buildx on the agent",
            )
        return None

    def build_by_digest(
        self,
        _request: BuildRequest,
        _repository: Repository,
        _credentials: Credentials | None,
        _on_output: Output,
    ) -> Digest:
        """Refuse: there is no builder that could."""
        raise AssertionError("there is no builder without the docker command")

    def build_layout(self, _request: BuildRequest, _folder: Path, _on_output: Output) -> Digest:
        """Refuse: there is no builder that could."""
        raise AssertionError("there is no builder without the docker command")

    def inspect(self, reference: str) -> Mapping[str, Any]:
        """Ask for one image."""
        engine = self._connected()
        from docker.errors import ImageNotFound  # noqa: PLC0415 -- see _connect

        try:
            with _sdk_errors(self._address, through=(ImageNotFound,)):
                return dict(engine.inspect_image(reference))  # type: ignore[no-untyped-call]  # types-docker forgot it
        except ImageNotFound as error:
            raise not_here(reference) from error

    def history(self, image_id: str) -> list[Layer]:
        """Ask for the steps that made an image."""
        with _sdk_errors(self._address):
            steps = self._connected().history(image_id)  # type: ignore[no-untyped-call]  # types-docker forgot it
        return [
            Layer(str(step.get("CreatedBy") or ""), int(step["Created"]), int(step["Size"]))
            for step in steps
        ]

    def push(
        self,
        repository: str,
        tag: str,
        credentials: Credentials | None,
        on_progress: Callable[[int], None],
    ) -> Pushed:
        """Push, with the credentials in a header."""
        login = {}
        if credentials is not None and credentials.is_identity_token:
            login = {"identitytoken": credentials.password}
        elif credentials is not None:
            login = {"username": credentials.username, "password": credentials.password}
        with _sdk_errors(self._address):
            lines = self._connected().push(
                repository, tag=tag, stream=True, decode=True, auth_config=login
            )
            return read_push(lines, f"{repository}:{tag}", on_progress)

    def _connected(self) -> "APIClient":
        if self._client is None:
            with _sdk_errors(self._address):
                self._client = _connect(self._address)
        return self._client


def _connect(address: EngineAddress) -> "APIClient":
    if address.host.startswith(_NEEDS_COMMAND):
        raise unreachable(
            address.host,
            "that takes the docker command, which is not here",
            hint="Install the docker command on the agent, and see that it is on PATH",
        )
    if address.host.startswith("unix://"):  # the SDK would leave a socket open on failure
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(address.host.removeprefix("unix://"))
    import docker  # noqa: PLC0415 -- takes some 80 ms, and signing alone needs no engine
    import docker.tls  # noqa: PLC0415 -- the same

    tls: Any = False
    if address.uses_tls:
        pair = (address.certificate, address.key) if address.certificate else None
        tls = docker.tls.TLSConfig(
            client_cert=pair,
            ca_cert=address.ca or None,
            verify=address.is_verified,
        )
    # The first question, for the version, is one that every engine answers at once.
    client = docker.APIClient(base_url=address.host, version="auto", timeout=PROBE_S, tls=tls)
    client.timeout = SILENCE_S
    return client


@contextmanager
def _sdk_errors(
    address: EngineAddress,
    failed: Callable[[str], SignImageError] = refused,
    *,
    through: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn what the SDK and the libraries below it raise into errors of ours, but for *through*."""
    from docker.errors import APIError, DockerException  # noqa: PLC0415 -- see _connect

    try:
        yield
    except through:
        raise
    except APIError as error:
        raise failed(readable(str(error.explanation or error))) from error
    except (DockerException, *FOREIGN_ERRORS) as error:
        raise unreachable(address.host, _why(error)) from error


def _why(error: Exception) -> str:
    if "timed out" in str(error):
        return "it takes connections and does not answer"
    words = reason(error)
    return readable(str(error)) if words.startswith("unexpected ") else words


def engine_options(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Translate build *arguments* for the engine's own builder.

    Raises:
        InputError: One needs the command line.
    """
    options: dict[str, Any] = {"buildargs": given_values(arguments, environment)}
    for flag in flags(arguments):
        if flag.name in _SWITCHES and flag.value in ("", "true"):
            options[_SWITCHES[flag.name]] = True
        elif flag.name in _VALUES:
            options[_VALUES[flag.name]] = flag.value
        elif flag.name != "--build-arg":
            raise InputError(
                f"arguments: {readable(flag.name)!r} needs the docker command line, "
                "which is not here",
                hint="Install the docker command on the agent",
            )
    return options
