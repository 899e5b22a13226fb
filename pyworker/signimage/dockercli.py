"""The way to the engine by the docker command: whatever Docker's own tool reaches, we reach.

That is sockets, named pipes, other machines by TLS and by ssh, and contexts. The rules of this
file:

1. Names stand behind `--`, so none is taken for an option. A secret is in no argument.
2. Answers are asked for as JSON where Docker offers it. Its words are read only to tell what went
   wrong, and the digest of a push, which is a claim either way.
3. The login stands in the step's private configuration, written anew for every push.

Docker CLI 20.10 to 29: `version`, `build`, `image inspect`, `history`, `push`.
"""

import json
import re
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, final

from signimage.buildx import Builder, build_by_digest, build_layout, find_builder
from signimage.dockerbuild import TAIL, BuildRequest, build_command, failure, is_misuse, loaded, tee
from signimage.dockerconfig import DockerConfig, child_environment, engine_address, log_in
from signimage.enginestream import (
    Pushed,
    Versions,
    no_digest,
    not_built,
    not_here,
    not_pushed,
    refused,
    unreachable,
)
from signimage.errors import EngineError, FormatError, SignImageError
from signimage.imagedetails import Layer
from signimage.oci import Digest, Repository
from signimage.programs import Answer, Output, ask_program, follow_program, run_program
from signimage.transport import Credentials, readable, reason

PROGRAM = "docker.exe" if sys.platform == "win32" else "docker"
PATIENCE_S = 120.0  # for a question; one by ssh may take half a minute to connect

_JSON = ("--format", "{{json .}}")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LAYER = re.compile(r"((?:sha256:)?[0-9a-f]{12,64}): (.+)")
_LAYER_DONE = ("Pushed", "Layer already exists", "Already exists", "Mounted from")
_PUSHED = re.compile(r"(\S+): digest: (\S+) size: ([0-9]{1,18})")
_NOISE = ("WARNING: ", "DEPRECATED: ")
# How the versions of the command say that there is nobody to talk to.
_NOBODY = re.compile(
    r"cannot connect to the docker daemon|failed to connect to the docker api|"
    r"error during connect|permission denied while trying to connect|"
    r"unable to resolve docker endpoint|protocol not available",
    re.IGNORECASE,
)
_MISUSE_HINT = "Check the input arguments for a word too many, or a flag without its value"


@final
class DockerCommand:
    """An engine that the docker command finds; what its methods promise is said in `Engine`."""

    def __init__(self, program: str, environ: Mapping[str, str], config: DockerConfig) -> None:
        self._program = program
        self._environ = environ
        self._config = config
        self._environment = child_environment(environ, (), config)
        self._host = engine_address(environ).host
        self._versions: Versions | None = None

    def close(self) -> None:
        """Nothing stays open between two commands."""

    def versions(self) -> Versions:
        """Ask for both versions, once."""
        if self._versions is None:
            answer = self._ask("version", *_JSON)
            self._versions = _read_versions(answer)
        return self._versions

    def check(self) -> None:
        """Ask for the version, unless that was done before."""
        self.versions()

    def build(self, request: BuildRequest, on_output: Output) -> str:
        """Build with BuildKit where the command has it."""
        environment = child_environment(self._environ, request.arguments, self._config)
        buildx = has_buildx(self._program, environment)
        environment.setdefault("DOCKER_BUILDKIT", "1" if buildx else "0")
        if buildx and environment["DOCKER_BUILDKIT"] != "0":
            request = loaded(request)
        with tempfile.TemporaryDirectory(dir=self._config.folder) as folder:
            id_file = Path(folder, "id")
            tail: deque[str] = deque(maxlen=TAIL)
            status = run_program(
                build_command(self._program, request, id_file), environment, tee(on_output, tail)
            )
            if status != 0:
                hint = _MISUSE_HINT if is_misuse(tail) else ""
                raise not_built(failure(tail, status), hint)
            return _read_id(id_file)

    def builder(self, arguments: Sequence[str]) -> Builder | None:
        """Ask buildx."""
        environment = child_environment(self._environ, arguments, self._config)
        return find_builder(self._program, environment, arguments)

    def build_by_digest(
        self,
        request: BuildRequest,
        repository: Repository,
        credentials: Credentials | None,
        on_output: Output,
    ) -> Digest:
        """Have the builder push, with the credentials in the private configuration."""
        log_in(self._config.folder, repository.host, credentials)
        environment = child_environment(self._environ, request.arguments, self._config)
        return build_by_digest(self._program, environment, request, repository, on_output)

    def build_layout(self, request: BuildRequest, folder: Path, on_output: Output) -> Digest:
        """Have the builder write a layout."""
        environment = child_environment(self._environ, request.arguments, self._config)
        return build_layout(self._program, environment, request, folder, on_output)

    def inspect(self, reference: str) -> Mapping[str, Any]:
        """Ask for one image."""
        answer = self._run("image", "inspect", *_JSON, "--", reference)
        if answer.status != 0:
            if "no such image" in answer.complaint.lower():
                raise not_here(reference)
            raise self._error(answer)
        return _read_object(answer.output, "image inspect")

    def history(self, image_id: str) -> list[Layer]:
        """Ask for the steps that made an image."""
        options = ("--no-trunc", "--human=false", *_JSON)
        lines = self._ask("history", *options, "--", image_id).splitlines()
        return [_read_layer(_read_object(line, "history")) for line in lines if line.strip()]

    def push(
        self,
        repository: str,
        tag: str,
        credentials: Credentials | None,
        on_progress: Callable[[int], None],
    ) -> Pushed:
        """Push, with the credentials in the private configuration."""
        name = f"{repository}:{tag}"
        log_in(self._config.folder, repository.partition("/")[0], credentials)
        words = PushWords(tag, on_progress)
        answer = self._follow(words.read, "push", "--", name)
        if answer.status != 0:
            raise self._error(answer, lambda said: not_pushed(said, name))
        if words.pushed is None:
            raise no_digest(name)
        return words.pushed

    def _run(self, *arguments: str) -> Answer:
        return ask_program([self._program, *arguments], self._environment, PATIENCE_S)

    def _ask(self, *arguments: str) -> str:
        answer = self._run(*arguments)
        if answer.status != 0:
            raise self._error(answer)
        return answer.output

    def _follow(self, on_line: Callable[[str], object], *arguments: str) -> Answer:
        def read(line: bytes) -> None:
            on_line(_plain(line.decode("utf-8", "replace")))

        return follow_program([self._program, *arguments], self._environment, read)

    def _error(
        self, answer: Answer, failed: Callable[[str], SignImageError] = refused
    ) -> SignImageError:
        said = _said(answer)
        if not _NOBODY.search(said):
            return failed(readable(said))
        return unreachable(self._host, readable(_why(self._host, said)))


class PushWords:
    """What the command says while it pushes; `pushed` is what it claims in the end.

    There is no count of bytes in it: progress is that of layers, and full with the digest only.
    """

    def __init__(self, tag: str, on_progress: Callable[[int], None]) -> None:
        self.pushed: Pushed | None = None
        self._tag = tag
        self._on_progress = on_progress
        self._is_done: dict[str, bool] = {}
        self._shown = 0

    def read(self, line: str) -> None:
        """Take one line, in plain text.

        Raises:
            FormatError: It tells a digest that is none.
        """
        if (claim := _PUSHED.fullmatch(line)) and claim[1] == self._tag:
            self.pushed = Pushed(Digest.parse(claim[2]), int(claim[3]))
            self._show(100)
        elif layer := _LAYER.fullmatch(line):
            self._is_done[layer[1]] = layer[2].startswith(_LAYER_DONE)
            self._show(min(99, 100 * sum(self._is_done.values()) // len(self._is_done)))

    def _show(self, percent: int) -> None:
        if percent > self._shown:
            self._shown = percent
            self._on_progress(percent)


def has_buildx(program: str, environment: Mapping[str, str]) -> bool:
    """Tell whether `docker build` can use BuildKit."""
    try:
        return ask_program([program, "buildx", "version"], environment, PATIENCE_S).status == 0
    except EngineError:
        return False


def _plain(text: str) -> str:
    """Return a line without colours, and of what overwrites itself the last state."""
    return _ANSI.sub("", text.rstrip("\r\n")).rpartition("\r")[2].strip()


def _said(answer: Answer) -> str:
    """Return why a command failed, in its own words, however many these are."""
    lines = [_plain(line) for line in answer.complaint.splitlines()]
    words = " ".join(line for line in lines if line and not line.startswith(_NOISE))
    if said := words.removeprefix("Error response from daemon: ").removeprefix("Error: "):
        return said
    if answer.status < 0:
        return f"signal {-answer.status} ended docker"
    return f"docker ended with status {answer.status}"


def _why(host: str, said: str) -> str:
    if host.startswith("unix://"):  # the command does not say what the system said
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(host.removeprefix("unix://"))
        except OSError as error:
            return reason(error)
    if said.startswith("Cannot connect to the Docker daemon at "):
        return "nobody answers there"
    by_ssh = said.partition("stderr=")[2]
    return by_ssh or said.removeprefix("error during connect: ")


def _read_versions(text: str) -> Versions:
    answer = _read_object(text, "version")

    def version(side: str) -> str:
        found = answer.get(side)
        return str(found.get("Version", "")) if isinstance(found, dict) else ""

    return Versions(f"docker {version('Client')}".strip(), version("Server"))


def _read_object(text: str, what: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"docker {what}: expected JSON, got {len(text)} characters") from error
    if not isinstance(found, dict):
        raise EngineError(f"docker {what}: expected a JSON object, got something else")
    return found


def _read_layer(step: Mapping[str, Any]) -> Layer:
    try:
        created = datetime.fromisoformat(str(step["CreatedAt"]).replace("Z", "+00:00"))
        return Layer(str(step["CreatedBy"]), int(created.timestamp()), int(step["Size"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise EngineError("docker history: expected date and size of every step") from error


def _read_id(id_file: Path) -> str:
    try:
        return Digest.parse(id_file.read_text("ascii").strip()).text
    except (OSError, ValueError, FormatError) as error:
        raise EngineError("docker build: expected the ID of an image, got none") from error
