"""The container engine: build an image, name it, push it, and hear which digest it got.

The rules of this file:

1. Programs are started as `programs` says, with a chosen environment.
2. What the engine says of a digest is a claim; the registry's bytes decide (see `registry`).

Docker Engine API: `POST /build`, `/images/load`, `/images/{name}/tag`, `/images/{name}/push`;
Docker CLI `build`.
"""

import shutil
import socket
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from signimage.dockerbuild import TAIL, BuildRequest, build_command, failure, loaded, tee
from signimage.dockerconfig import (
    DockerConfig,
    EngineAddress,
    child_environment,
    engine_address,
    engine_options,
    split_arguments,
)
from signimage.dockerfile import base_image
from signimage.enginestream import Pushed, not_built, read_build, read_load, read_push
from signimage.errors import EngineError, FormatError, InputError, SignImageError
from signimage.imagedetails import Layer
from signimage.oci import Digest
from signimage.programs import Output, run_program
from signimage.transport import FOREIGN_ERRORS, Credentials, readable, reason

if TYPE_CHECKING:
    from docker import APIClient

SILENCE_S = 600  # the engine may compress a large layer for minutes without a word
PROBE_S = 20  # for a question that takes some 30 ms: a version

__all__ = ["Docker", "Pushed", "split_arguments"]


@final
class Docker:
    """One engine, as the Docker command line would find it; close it after use."""

    def __init__(self, environ: Mapping[str, str], config: DockerConfig) -> None:
        self._environ = environ
        self._config = config
        self._address = engine_address(environ)
        self._client: APIClient | None = None

    def __enter__(self) -> "Docker":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def check(self) -> None:
        """Find out whether the engine answers.

        Raises:
            EngineError: It does not.
        """
        self._engine()

    def build(self, request: BuildRequest, on_output: Output) -> str:
        """Build and name an image; return its ID (`sha256:…`) as the engine has it.

        Args:
            request: What to build.
            on_output: Gets what the builder says, line by line, with its line ends.

        Raises:
            BuildError: The Dockerfile or the arguments are at fault.
            EngineError: The engine cannot be reached.
        """
        self.check()
        environment = child_environment(self._environ, request.arguments, self._config)
        program = shutil.which("docker", path=environment.get("PATH"))
        if program is None:
            return self._build_by_engine(request, on_output)
        buildx = has_buildx(program, environment)
        environment.setdefault("DOCKER_BUILDKIT", "1" if buildx else "0")
        if buildx and environment["DOCKER_BUILDKIT"] != "0":
            request = loaded(request)
        with tempfile.TemporaryDirectory(dir=self._config.folder) as folder:
            id_file = Path(folder, "id")
            tail: deque[str] = deque(maxlen=TAIL)
            status = run_program(
                build_command(program, request, id_file),
                environment,
                tee(on_output, tail),
            )
            if status != 0:
                raise not_built(failure(tail, status))
            return _read_id(id_file)

    def base_image_labels(self, dockerfile: Path) -> dict[str, str]:
        """Return the labels that name the base image, empty unless the engine has it already."""
        image = base_image(dockerfile)
        if image is None:
            return {}
        try:
            found = self._inspect(image)
        except (EngineError, InputError):  # not here: the image goes without these labels
            return {}
        digests = found.get("RepoDigests") or []
        digest = digests[0].rpartition("@")[2] if digests else ""
        return {"image.base.ref.name": image, "image.base.digest": digest} if digest else {}

    def find(self, reference: str) -> str:
        """Return the ID of the image that the engine has under *reference*.

        Raises:
            InputError: It has none.
            EngineError: The engine does not answer.
        """
        return str(self._inspect(reference)["Id"])

    def load(self, archive: Path) -> str:
        """Bring the one image of a `docker save` archive into the engine; return its ID.

        Raises:
            InputError: The file is not such an archive, or holds another number of images.
            EngineError: The engine does not take it.
        """
        try:
            with archive.open("rb") as file, _sdk_errors(self._address):
                lines = self._engine().load_image(file, quiet=True)  # type: ignore[no-untyped-call]  # types-docker forgot it
                names = read_load(lines, str(archive))
        except OSError as error:
            raise InputError(f"imageArchive: {archive} cannot be read: {error.strerror}") from error
        images = {self.find(name) for name in names}
        if len(images) != 1:
            raise InputError(f"imageArchive: expected one image in {archive}, got {len(images)}")
        return images.pop()

    def layers(self, image_id: str) -> tuple[list[Layer], list[str]]:
        """Return the steps of an image's history, newest first, and its layers' digests.

        Raises:
            EngineError: The engine does not have it.
        """
        found = self._inspect(image_id)
        with _sdk_errors(self._address):
            steps = self._engine().history(image_id)  # type: ignore[no-untyped-call]  # types-docker forgot it
        layers = [
            Layer(str(step.get("CreatedBy") or ""), int(step["Created"]), int(step["Size"]))
            for step in steps
        ]
        return layers, list((found.get("RootFS") or {}).get("Layers") or [])

    def _inspect(self, reference: str) -> dict[str, Any]:
        from docker.errors import ImageNotFound  # noqa: PLC0415 -- see _connect

        engine = self._engine()
        try:
            with _sdk_errors(self._address, through=(ImageNotFound,)):
                return dict(engine.inspect_image(reference))  # type: ignore[no-untyped-call]  # types-docker forgot it
        except ImageNotFound as error:
            raise InputError(
                f"image {reference} is not in the engine",
                hint="An earlier step of the same job must build it, under this very name",
            ) from error

    def tag(self, image_id: str, repository: str, tag: str) -> None:
        """Give an image a further name.

        Raises:
            EngineError: The engine does not do it.
        """
        with _sdk_errors(self._address):
            self._engine().tag(image_id, repository, tag)

    def push(
        self,
        repository: str,
        tag: str,
        credentials: Credentials | None,
        on_progress: Callable[[int], None],
    ) -> Pushed:
        """Push `repository:tag` and return what the engine says that it became.

        Args:
            repository: With its host, e.g. `localhost:5000/team/app`.
            tag: The one tag to push.
            credentials: None to push without.
            on_progress: Gets the percentage of layer bytes sent, rising.

        Raises:
            UnauthorizedError: The registry does not let us.
            NotFoundError: The registry does not know the repository.
            EngineError: Anything else.
        """
        login = {}
        if credentials is not None and credentials.is_identity_token:
            login = {"identitytoken": credentials.password}
        elif credentials is not None:
            login = {"username": credentials.username, "password": credentials.password}
        with _sdk_errors(self._address):
            lines = self._engine().push(
                repository, tag=tag, stream=True, decode=True, auth_config=login
            )
            return read_push(lines, f"{repository}:{tag}", on_progress)

    def _engine(self) -> "APIClient":
        if self._client is None:
            with _sdk_errors(self._address):
                self._client = _connect(self._address)
        return self._client

    def _build_by_engine(self, request: BuildRequest, on_output: Output) -> str:
        """Build without the command line, by the engine's classic builder."""
        environment = child_environment(self._environ, request.arguments, self._config)
        options = engine_options(request.arguments, environment)
        repository_tags = list(request.references)
        with _sdk_errors(self._address, not_built):
            lines = self._engine().build(
                path=str(request.context),
                dockerfile=str(request.dockerfile.absolute()),
                tag=repository_tags[0] if repository_tags else None,
                labels=dict(request.labels),
                rm=True,
                decode=True,
                **options,
            )
            image_id = read_build(lines, on_output)
            for reference in repository_tags[1:]:
                repository, _, tag = reference.rpartition(":")
                self._engine().tag(image_id, repository, tag)
        return image_id


# --- the command line -----------------------------------------------------------------------


def has_buildx(program: str, environment: Mapping[str, str]) -> bool:
    """Tell whether `docker build` can use BuildKit."""
    try:
        probe = subprocess.run(  # noqa: S603 -- an argument list, found on the user's own PATH
            [program, "buildx", "version"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


def _read_id(id_file: Path) -> str:
    try:
        return Digest.parse(id_file.read_text("ascii").strip()).text
    except (OSError, ValueError, FormatError) as error:
        raise EngineError("docker build: expected the ID of an image, got none") from error


# --- the SDK --------------------------------------------------------------------------------


def _connect(address: EngineAddress) -> "APIClient":
    if address.host.startswith("npipe:"):  # the SDK needs an extension of Windows' own for it
        raise EngineError(
            f"Docker engine cannot be reached at {readable(address.host)}: named pipes are not "
            "supported",
            hint="Have the engine listen on tcp://127.0.0.1:2375, too, and set DOCKER_HOST to it",
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


def _refused(said: str) -> EngineError:
    return EngineError(f"Docker engine refused: {said}")


@contextmanager
def _sdk_errors(
    address: EngineAddress,
    refused: Callable[[str], SignImageError] = _refused,
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
        raise refused(readable(str(error.explanation or error))) from error
    except (DockerException, *FOREIGN_ERRORS) as error:
        raise EngineError(
            f"Docker engine cannot be reached at {readable(address.host)}: {_why(error)}",
            hint="Run the job on an agent with Docker, or set DOCKER_HOST",
        ) from error


def _why(error: Exception) -> str:
    if "timed out" in str(error):
        return "it takes connections and does not answer"
    words = reason(error)
    return readable(str(error)) if words.startswith("unexpected ") else words
