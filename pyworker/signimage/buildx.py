"""Builds by BuildKit that reach the registry before any tag does.

The rules of this file:

1. A build goes to the registry by its digest, untagged, or into an OCI layout; names are given
   later, when the signatures are there.
2. Where the image goes is said once: what the user's arguments say of it, beside us, is either
   done already (`--push`), taken over (`--metadata-file`), left out (`--tag`), or it makes this
   way of building impossible (`--output`, `--load`), and never silently wins or loses.
3. The builder is the one that `docker buildx build` would use, remote ones and Kubernetes
   included; nothing of ours stands between.
4. Attestations are part of the image: the index that holds them is what gets signed.
5. What the builder says of a digest is a claim; the registry's bytes decide (see `registry`).

Docker CLI `buildx build`, `buildx inspect`; BuildKit, "Image exporter", "OCI and Docker exporters".
"""

import csv
import io
import json
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from signimage.buildarguments import BuildArguments, read_arguments
from signimage.dockerbuild import TAIL, BuildRequest, failure, is_misuse, tee
from signimage.enginestream import not_built, not_pushed
from signimage.errors import EngineError, FormatError, InputError, SignImageError
from signimage.members import Members
from signimage.oci import Digest, Repository
from signimage.programs import Output, ask_program, run_program
from signimage.transport import readable, reason

PROBE_S = 30  # buildx itself gives a builder far away 20 s to answer
METADATA_MAX = 16 * 1024 * 1024  # bytes; complete provenance of a large build takes some 100 KiB
# buildx itself takes this label of a worker for the sign of containerd's image store.
_CONTAINERD_STORE = "org.mobyproject.buildkit.worker.snapshotter"
_DIGEST = "containerimage.digest"
_NO_CONTEXTS: Mapping[str, str] = MappingProxyType({})
_MISUSED = "Check arguments, which are passed on to docker buildx build"
_LOUD = ("ERROR: ", "failed to build: ", "failed to solve: ")


@dataclass(frozen=True, slots=True)
class Builder:
    """The builder that `docker buildx build` would use: its name, its driver, and what it can.

    `by_digest` and `layout` are empty where it can push by digest, or write an OCI layout; else
    they are the reason why it cannot, as the end of a sentence.
    """

    name: str
    driver: str
    by_digest: str = ""
    layout: str = ""


# --- builders -------------------------------------------------------------------------------


def find_builder(
    program: str, environment: Mapping[str, str], arguments: Sequence[str]
) -> Builder | None:
    """Return the builder for a build with the user's *arguments*; None to build without BuildKit.

    As for Docker, `--builder` counts before `BUILDX_BUILDER`, and that before the chosen one.

    Args:
        program: The Docker command line.
        environment: Its environment; `DOCKER_BUILDKIT=0` there means: without BuildKit.
        arguments: The user's build arguments.

    Raises:
        InputError: There is no builder of the name that *arguments* or *environment* give.
        EngineError: The builder does not answer.
    """
    given = read_arguments(arguments)
    if environment.get("DOCKER_BUILDKIT", "").lower() in ("0", "f", "false") and not given.builder:
        return None
    chosen = [f"--builder={given.builder}"] if given.builder else []
    answer = ask_program([program, "buildx", "inspect", *chosen], environment, PROBE_S)
    if answer.status == 0:
        return read_builder(answer.output, given)
    if ask_program([program, "buildx", "version"], environment, PROBE_S).status == 0:
        raise _no_builder(answer.complaint)
    if given.builder:
        raise InputError(
            f"arguments: --builder {readable(given.builder)} needs docker buildx, "
            "which is not here",
            hint="Install the plugin docker-buildx on the agent",
        )
    return None


def read_builder(text: str, arguments: BuildArguments) -> Builder:
    """Read what `docker buildx inspect` says of a builder.

    Raises:
        FormatError: It is not such a text.
        EngineError: The builder does not answer.
    """
    head, _, rest = text.partition("\nNodes:")
    about = dict(_members(head))
    nodes = [dict(_members(node)) for node in rest.split("\n\n")]
    name, driver = about.get("Name", ""), about.get("Driver", "")
    # An engine's own builder may not work where the engine builds without it: Windows containers.
    failed = about.get("Error", "") or (_failure_of(nodes, driver) if driver != "docker" else "")
    if failed:
        raise EngineError(
            f"builder {readable(name)} does not answer: {readable(failed)}",
            hint="The builder is chosen by --builder, BUILDX_BUILDER or docker buildx use; "
            "look at it with: docker buildx inspect",
        )
    if not name or not driver:
        raise FormatError("docker buildx inspect: expected the name of a builder and its driver")
    if arguments.deciding:
        why = f"arguments: {arguments.deciding} says where the image goes"
        return Builder(name, driver, why, why)
    if driver != "docker":
        return Builder(name, driver)
    has_store = any(_CONTAINERD_STORE in node for node in nodes)
    return Builder(
        name,
        driver,
        by_digest=f"builder {name} is the engine's own, which pushes nothing without a tag",
        layout="" if has_store else f"the engine of builder {name} has no containerd image store",
    )


def check_platforms(builder: Builder | None, platforms: Sequence[str]) -> None:
    """Refuse to build for several *platforms* where that cannot become one image.

    Raises:
        InputError: There is no BuildKit, or its builder keeps images for one platform only.
    """
    if len(platforms) < 2 or (builder and "" in (builder.by_digest, builder.layout)):  # noqa: PLR2004 -- several
        return
    why = (
        builder.layout if builder else "docker buildx is not here, or DOCKER_BUILDKIT turns it off"
    )
    raise InputError(
        f"platforms: expected a builder for {len(platforms)} platforms, but {why}",
        hint="Use a builder that docker buildx create made, and leave to the step where images go",
    )


def _members(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _failure_of(nodes: Iterable[Mapping[str, str]], driver: str) -> str:
    """Return why none of the *nodes* works, empty if one may."""
    found = []
    for node in nodes:
        # The other drivers start their builders when they are needed.
        is_gone = driver == "remote" and node.get("Status") == "inactive"
        found.append(
            node.get("Error") or (f"nothing listens at {node.get('Endpoint')}" if is_gone else "")
        )
    return "" if "" in found else found[0]


def _no_builder(complaint: str) -> SignImageError:
    said = failure(map(readable, complaint.splitlines()), 1)
    return InputError(
        f"docker buildx: {_bare(said)}",
        hint="Check --builder in arguments and BUILDX_BUILDER, and see: docker buildx ls",
    )


# --- builds ---------------------------------------------------------------------------------


def build_by_digest(
    program: str,
    environment: Mapping[str, str],
    request: BuildRequest,
    repository: Repository,
    on_output: Output,
    *,
    platforms: Sequence[str] = (),
    contexts: Mapping[str, str] = _NO_CONTEXTS,
) -> Digest:
    """Build and push to *repository* without any tag; return the digest of what was pushed.

    Args:
        program: The Docker command line.
        environment: Its environment, which names the configuration with the registry's login.
        request: What to build; its references are not given to anything.
        repository: Where to push.
        on_output: Gets what the builder says, line by line, with its line ends.
        platforms: What to build for, e.g. `linux/arm64`; the builder's own platform if empty.
        contexts: Named contexts by name, e.g. `alpine` as `docker-image://…@sha256:…`; they win
            over those of the user's own arguments.

    Raises:
        InputError: The user's arguments decide themselves where the image goes.
        BuildError: The Dockerfile or the arguments are at fault.
        UnauthorizedError: The registry does not let the builder push.
        NotFoundError: The registry does not know the repository.
        EngineError: The push failed otherwise, or the builder does not say what it built.
    """
    output = _Output(
        f"type=image,name={repository},push-by-digest=true,name-canonical=true,push=true",
        str(repository),
        platforms,
        contexts,
    )
    return _build(program, environment, request, output, on_output)


def build_layout(
    program: str,
    environment: Mapping[str, str],
    request: BuildRequest,
    folder: Path,
    on_output: Output,
    *,
    platforms: Sequence[str] = (),
    contexts: Mapping[str, str] = _NO_CONTEXTS,
) -> Digest:
    """Build into the OCI layout *folder*; return the digest of the image or index in it.

    The references of *request* are what attestations call the image. Other arguments and errors
    are those of `build_by_digest`; nothing is pushed.
    """
    names = (f"name={','.join(request.references)}",) if request.references else ()
    place = _csv("type=oci", f"dest={folder}", "tar=false", *names)
    output = _Output(place, "", platforms, contexts)
    return _build(program, environment, request, output, on_output)


@dataclass(frozen=True, slots=True)
class _Output:
    """What is to become of a build; `pushed_to` is empty if nothing is pushed."""

    place: str
    pushed_to: str = ""
    platforms: Sequence[str] = ()
    contexts: Mapping[str, str] = field(default_factory=dict)


def _build(
    program: str,
    environment: Mapping[str, str],
    request: BuildRequest,
    output: _Output,
    on_output: Output,
) -> Digest:
    given = read_arguments(request.arguments)
    _check_arguments(given, output)
    tail: deque[str] = deque(maxlen=TAIL)
    with tempfile.TemporaryDirectory(dir=environment.get("DOCKER_CONFIG")) as folder:
        metadata = Path(folder, "metadata.json")
        command = _command(program, request, given, output)
        command += ["--metadata-file", str(metadata), str(request.context)]
        status = run_program(command, environment, tee(on_output, tail))
        if status != 0:
            raise _failed(tail, status, output.pushed_to)
        content = _read(metadata)
    if given.metadata_file:
        _write(Path(given.metadata_file), content)
    return read_metadata(content)


def _check_arguments(given: BuildArguments, output: _Output) -> None:
    if given.deciding:
        raise InputError(
            f"arguments: expected the step to decide where the image goes, got {given.deciding}"
        )
    if given.platforms and output.platforms:
        raise InputError("platforms: expected them once, got them in arguments (--platform), too")


def _command(
    program: str, request: BuildRequest, given: BuildArguments, output: _Output
) -> list[str]:
    """Return the argument list up to the metadata file; of two that differ, the last one wins."""
    command = [program, "buildx", "build", "--file", str(request.dockerfile)]
    for name, value in request.labels.items():
        command += ["--label", f"{name}={value}"]
    command += given.kept
    if output.platforms:
        command += ["--platform", ",".join(output.platforms)]
    for name, source in output.contexts.items():
        command += ["--build-context", f"{name}={source}"]
    return [*command, "--output", output.place]


def _csv(*fields: str) -> str:
    """Join fields as `--output` takes them, which is how CSV quotes commas and quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


# --- results --------------------------------------------------------------------------------


def read_metadata(content: bytes) -> Digest:
    """Read the digest of an image or index out of BuildKit's metadata file.

    Raises:
        FormatError: It is not such a file.
        EngineError: It is, of a run that built no image.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError("BuildKit's metadata: expected JSON") from error
    members = Members(value, "BuildKit's metadata", (_DIGEST,))
    if members.value(_DIGEST) is None:
        raise _nothing_built()
    return Digest.parse(members.text(_DIGEST))


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(METADATA_MAX + 1)
    except OSError as error:
        raise _nothing_built() from error
    if len(content) > METADATA_MAX:
        raise FormatError(f"BuildKit's metadata: expected at most {METADATA_MAX} bytes, got more")
    return content


def _nothing_built() -> EngineError:
    return EngineError(
        "docker buildx build: expected the digest of an image, got none",
        hint="Remove arguments that ask for something else than an image, like --check",
    )


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"arguments: --metadata-file {file} cannot be written: {reason(error)}"
        ) from error


def _failed(tail: Iterable[str], status: int, repository: str) -> SignImageError:
    """Return the error for a build that said this and ended with *status*."""
    said = _bare(failure(tail, status))
    if not repository or not said.startswith(f"failed to push {repository}"):
        return not_built(said, hint=_MISUSED if is_misuse(tail) else "")
    error = not_pushed(said, repository)
    if isinstance(error, EngineError):
        error.hint = "The builder itself must reach the registry, and trust its certificate"
    return error


def _bare(said: str) -> str:
    for words in _LOUD:
        said = said.removeprefix(words)
    return said
