"""The container engine: build an image, name it, push it, and hear which digest it got.

The rules of this file:

1. Programs are started from argument lists, never by a shell, with a chosen environment, in a
   session of their own, so that ending one ends all that it started.
2. The engine reports errors inside answers that look like success: every line is looked at.
3. What the engine says of a digest is a claim; the registry's bytes decide (see `registry`).

Docker Engine API: `POST /build`, `/images/{name}/tag`, `/images/{name}/push`; Docker CLI `build`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from signimage.dockerconfig import (
    DockerConfig,
    EngineAddress,
    child_environment,
    engine_address,
    engine_options,
    split_arguments,
)
from signimage.dockerfile import base_image
from signimage.errors import (
    BuildError,
    EngineError,
    FormatError,
    NotFoundError,
    RemoteError,
    SignImageError,
    UnauthorizedError,
)
from signimage.oci import Digest
from signimage.transport import FOREIGN_ERRORS, Credentials, readable, reason

if TYPE_CHECKING:
    from docker import APIClient

LINE_MAX = 64 * 1024  # bytes; longer lines arrive in parts
GRACE_S = 3.0  # between asking a program to end and ending it; the agent gives us 10 s in all
SILENCE_S = 600  # the engine may compress a large layer for minutes without a word
PROBE_S = 20  # for `docker buildx version`, which takes some 30 ms
_TAIL = 40  # lines kept to find the reason of a failed build in

Output = Callable[[bytes], object]

__all__ = ["BuildRequest", "Docker", "Pushed", "split_arguments"]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build: `references` are the names (`host/path:tag`) that the image gets."""

    dockerfile: Path
    context: Path
    references: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the engine says that it pushed; `size` is the length of the manifest in bytes."""

    digest: Digest
    size: int


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
            tail: deque[str] = deque(maxlen=_TAIL)
            status = run_program(
                build_command(program, request, id_file),
                environment,
                _tee(on_output, tail),
            )
            if status != 0:
                raise _not_built(_failure(tail, status))
            return _read_id(id_file)

    def base_image_labels(self, dockerfile: Path) -> dict[str, str]:
        """Return the labels that name the base image, empty unless the engine has it already."""
        image = base_image(dockerfile)
        if image is None:
            return {}
        try:
            with _sdk_errors(self._address):
                found = self._engine().inspect_image(image)  # type: ignore[no-untyped-call]  # types-docker forgot it
        except EngineError:  # not here, or not to be had: the image goes without these labels
            return {}
        digests = found.get("RepoDigests") or []
        digest = digests[0].rpartition("@")[2] if digests else ""
        return {"image.base.ref.name": image, "image.base.digest": digest} if digest else {}

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
        if credentials is not None:
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
        with _sdk_errors(self._address, _not_built):
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


def build_command(program: str, request: BuildRequest, id_file: Path) -> list[str]:
    """Return the argument list; the user's come after ours and win, except for the ID file."""
    command = [program, "build", "--file", str(request.dockerfile)]
    for reference in request.references:
        command += ["--tag", reference]
    for name, value in request.labels.items():
        command += ["--label", f"{name}={value}"]
    return [*command, *request.arguments, "--iidfile", str(id_file), str(request.context)]


def loaded(request: BuildRequest) -> BuildRequest:
    """Have BuildKit bring the image into the engine: builders in containers keep it otherwise.

    Where the user's arguments say what becomes of the image, that is what becomes of it.
    """
    own = ("--load", "--push", "--output", "-o")
    if any(word.partition("=")[0] in own for word in request.arguments):
        return request
    return replace(request, arguments=(*request.arguments, "--load"))


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


def run_program(command: Sequence[str], environment: Mapping[str, str], on_output: Output) -> int:
    """Run a program to its end and return its exit status; both its streams go to *on_output*.

    Whatever interrupts this function ends the program and all that it started.

    Raises:
        EngineError: It cannot be started.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 -- an argument list, never a shell
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except OSError as error:
        raise EngineError(f"{command[0]} cannot be started: {reason(error)}") from error
    with process:
        try:
            stream = process.stdout
            while stream is not None and (line := stream.readline(LINE_MAX)):
                on_output(line)
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    finally:
        # The program may be gone and its children not.
        _signal(process, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, number)


def _tee(on_output: Output, tail: deque[str]) -> Output:
    def write(line: bytes) -> None:
        text = readable(line.decode("utf-8", "replace"))
        if text:
            tail.append(text)
        on_output(line)

    return write


def _failure(tail: Iterable[str], status: int) -> str:
    """Return the line that says why a build failed: the last that speaks of an error."""
    lines = list(tail)
    signs = ("error", "failed", "non-zero", "cannot", "unknown flag", "denied", "not found")
    for line in reversed(lines):
        if any(sign in line.lower() for sign in signs):
            return line.removeprefix("Error response from daemon: ")
    how = f"docker ended with status {status}" if status > 0 else f"signal {-status} ended docker"
    return f"{how}: {lines[-1]}" if lines else how


def _read_id(id_file: Path) -> str:
    try:
        return Digest.parse(id_file.read_text("ascii").strip()).text
    except (OSError, ValueError, FormatError) as error:
        raise EngineError("docker build: expected the ID of an image, got none") from error


# --- the SDK --------------------------------------------------------------------------------


def _connect(address: EngineAddress) -> "APIClient":
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
    return docker.APIClient(base_url=address.host, version="auto", timeout=SILENCE_S, tls=tls)


def _not_built(said: str) -> BuildError:
    return BuildError(f"image was not built: {said}")


def _refused(said: str) -> EngineError:
    return EngineError(f"Docker engine refused: {said}")


@contextmanager
def _sdk_errors(
    address: EngineAddress, refused: Callable[[str], SignImageError] = _refused
) -> Iterator[None]:
    """Turn what the SDK and the libraries below it raise into errors of ours."""
    from docker.errors import APIError, DockerException  # noqa: PLC0415 -- see _connect

    try:
        yield
    except APIError as error:
        raise refused(readable(str(error.explanation or error))) from error
    except (DockerException, *FOREIGN_ERRORS) as error:
        raise EngineError(
            f"Docker engine cannot be reached at {readable(address.host)}: {_why(error)}",
            hint="Run the job on an agent with Docker, or set DOCKER_HOST",
        ) from error


def _why(error: Exception) -> str:
    words = reason(error)
    return readable(str(error)) if words.startswith("unexpected ") else words


def read_build(lines: Iterable[Mapping[str, Any]], on_output: Output) -> str:
    """Follow a build that the engine reports; return the image's ID.

    Raises:
        BuildError: The engine reports an error.
        EngineError: It reports neither an error nor an image.
    """
    image_id = ""
    for line in lines:
        if "error" in line or "errorDetail" in line:
            raise _not_built(_error_text(line))
        text = line.get("stream") or line.get("status")
        if isinstance(text, str):
            on_output(text.encode() if text.endswith("\n") else f"{text}\n".encode())
        aux = line.get("aux")
        if isinstance(aux, dict) and isinstance(aux.get("ID"), str):
            image_id = aux["ID"]
    if not image_id:
        raise EngineError("Docker engine: expected the ID of the built image, got none")
    return image_id


def read_push(
    lines: Iterable[Mapping[str, Any]], name: str, on_progress: Callable[[int], None]
) -> Pushed:
    """Follow a push that the engine reports; return what it says that it pushed.

    The last object with a digest counts: engines with containerd's store send others, too.

    Raises:
        UnauthorizedError, NotFoundError, EngineError: As `Docker.push`.
    """
    pushed: Pushed | None = None
    layers: dict[str, tuple[int, int]] = {}
    shown = -1
    for line in lines:
        if "error" in line or "errorDetail" in line:
            raise _push_error(_error_text(line), name)
        pushed = _read_aux(line.get("aux")) or pushed
        percent = _percentage(layers, line)
        if percent > shown:
            shown = percent
            on_progress(percent)
    if pushed is None:
        raise EngineError(f"push of {name}: expected a digest from the engine, got none")
    return pushed


def _read_aux(aux: Any) -> Pushed | None:
    if not isinstance(aux, dict) or not isinstance(aux.get("Digest"), str):
        return None
    size = aux.get("Size")
    return Pushed(Digest.parse(aux["Digest"]), size if isinstance(size, int) else 0)


def _percentage(layers: dict[str, tuple[int, int]], line: Mapping[str, Any]) -> int:
    """Enter one progress line into *layers*; return the percentage of all, -1 if unknown."""
    detail, layer = line.get("progressDetail"), line.get("id")
    if not isinstance(detail, dict) or not isinstance(layer, str):
        return -1
    current, total = detail.get("current"), detail.get("total")
    if isinstance(current, int) and isinstance(total, int) and total > 0:
        layers[layer] = (min(current, total), total)
    elif line.get("status") == "Pushed" and layer in layers:
        layers[layer] = (layers[layer][1], layers[layer][1])
    else:
        return -1
    sent = sum(part for part, _ in layers.values())
    return 100 * sent // sum(whole for _, whole in layers.values())


def _error_text(line: Mapping[str, Any]) -> str:
    detail = line.get("errorDetail")
    said = detail.get("message") if isinstance(detail, dict) else None
    return readable(str(said or line.get("error") or "the engine does not say why"))


def _push_error(said: str, name: str) -> RemoteError:
    lower = said.lower()
    if any(sign in lower for sign in ("denied", "unauthorized", "no basic auth", "authentication")):
        return UnauthorizedError(
            f"push of {name}: the registry does not allow it: {said}",
            hint="Check user name, password and permissions of the registry service connection",
        )
    if "name unknown" in lower or "name_unknown" in lower or "not found" in lower:
        return NotFoundError(f"push of {name}: the registry does not know the repository: {said}")
    return EngineError(f"push of {name} failed: {said}")
