"""The container engine: build an image, find it, push it, and hear which digest it got.

The rules of this file:

1. Where there is a docker command, everything goes by it: it knows every way to an engine, and
   starts sooner than a library is imported. Without one, the engine's API is spoken to directly.
2. What the engine says of a digest is a claim; the registry's bytes decide (see `registry`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, final

from signimage.buildx import Builder
from signimage.dockerbuild import BuildRequest
from signimage.dockercli import PROGRAM, DockerCommand
from signimage.dockerconfig import DockerConfig
from signimage.enginesdk import EngineSdk
from signimage.enginestream import Pushed, Versions
from signimage.errors import EngineError, InputError
from signimage.imagedetails import Layer
from signimage.oci import Digest, Reference, Repository
from signimage.programs import Output, find_program
from signimage.transport import Credentials


class Engine(Protocol):
    """A way to an engine. Every method raises `EngineError` where the engine does not answer."""

    def close(self) -> None:
        """Give back what is open."""

    def versions(self) -> Versions:
        """Tell who talks to which engine."""

    def check(self) -> None:
        """Find out whether the engine answers."""

    def build(self, request: BuildRequest, on_output: Output) -> str:
        """Build and name an image; gives its ID (`sha256:…`) as the engine has it.

        Raises:
            BuildError: The Dockerfile or the arguments are at fault.
        """

    def builder(self, arguments: Sequence[str]) -> Builder | None:
        """Return the builder for a build with *arguments*, None if only the engine builds."""

    def build_by_digest(
        self,
        request: BuildRequest,
        repository: Repository,
        credentials: Credentials | None,
        on_output: Output,
    ) -> Digest:
        """Build, and push without any tag; return the digest of what was pushed."""

    def build_layout(self, request: BuildRequest, folder: Path, on_output: Output) -> Digest:
        """Build into an OCI layout, *folder*; return the digest of what is in it."""

    def inspect(self, reference: str) -> Mapping[str, Any]:
        """Return what `GET /images/{name}/json` answers.

        Raises:
            InputError: There is no such image.
        """

    def history(self, image_id: str) -> list[Layer]:
        """Return the steps that made an image, the newest first."""

    def push(
        self,
        repository: str,
        tag: str,
        credentials: Credentials | None,
        on_progress: Callable[[int], None],
    ) -> Pushed:
        """Push one tag.

        Raises:
            UnauthorizedError: The registry does not let us.
            NotFoundError: The registry does not know the repository.
        """


@final
class Docker:
    """One engine, as the Docker command line would find it; close it after use."""

    def __init__(self, environ: Mapping[str, str], config: DockerConfig) -> None:
        program = find_program(PROGRAM, environ)
        self._engine: Engine = (
            DockerCommand(program, environ, config) if program else EngineSdk(environ, config)
        )

    def __enter__(self) -> "Docker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._engine.close()

    def check(self) -> None:
        """Find out whether the engine answers.

        Raises:
            EngineError: It does not.
        """
        self._engine.check()

    def versions(self) -> Versions:
        """Tell who talks to which engine, for a debug log.

        Raises:
            EngineError: The engine does not answer.
        """
        return self._engine.versions()

    def build(self, request: BuildRequest, on_output: Output) -> str:
        """Build and name an image; return its ID (`sha256:…`) as the engine has it.

        Args:
            request: What to build.
            on_output: Gets what the builder says, line by line, with its line ends.

        Raises:
            BuildError: The Dockerfile or the arguments are at fault.
            EngineError: The engine cannot be reached.
        """
        self._engine.check()
        return self._engine.build(request, on_output)

    def builder(self, arguments: Sequence[str]) -> Builder | None:
        """Return the builder for a build with *arguments*; None if only the engine itself builds.

        Raises:
            InputError: There is no builder of the name that is asked for.
            EngineError: It does not answer.
        """
        return self._engine.builder(arguments)

    def build_by_digest(
        self,
        request: BuildRequest,
        repository: Repository,
        credentials: Credentials | None,
        on_output: Output,
    ) -> Digest:
        """Build, and push to *repository* without any tag; return the digest of what was pushed.

        Only with a `builder` that can; errors are those of `build` and `push`.
        """
        return self._engine.build_by_digest(request, repository, credentials, on_output)

    def build_layout(self, request: BuildRequest, folder: Path, on_output: Output) -> Digest:
        """Build into an OCI layout, *folder*; return the digest of what is in it.

        Only with a `builder` that can; errors are those of `build`.
        """
        return self._engine.build_layout(request, folder, on_output)

    def base_image_labels(self, image: str) -> dict[str, str]:
        """Return the labels that name a base image, empty unless the engine has it already."""
        try:
            found = self._engine.inspect(image)
        except (EngineError, InputError):  # not here: the image goes without these labels
            return {}
        digest = _digest_at(image, found.get("RepoDigests") or [])
        return {"image.base.ref.name": image, "image.base.digest": digest} if digest else {}

    def find(self, reference: str) -> str:
        """Return the ID of the image that the engine has under *reference*.

        Raises:
            InputError: It has none.
            EngineError: The engine does not answer.
        """
        image_id = self._engine.inspect(reference).get("Id")
        if not isinstance(image_id, str):
            raise EngineError(f"image {reference}: expected its ID from the engine, got none")
        return image_id

    def layers(self, image_id: str) -> tuple[list[Layer], list[str]]:
        """Return the steps of an image's history, newest first, and its layers' digests.

        Raises:
            EngineError: The engine does not have it.
        """
        found = self._engine.inspect(image_id)
        steps = self._engine.history(image_id)
        return steps, list((found.get("RootFS") or {}).get("Layers") or [])

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
            on_progress: Gets the percentage that is pushed, rising.

        Raises:
            UnauthorizedError: The registry does not let us.
            NotFoundError: The registry does not know the repository.
            EngineError: Anything else.
        """
        return self._engine.push(repository, tag, credentials, on_progress)


def _digest_at(image: str, known: Iterable[str]) -> str:
    """The digest that *image* has in its own repository; the engine may know it from others, too.

    Another repository may hold the same image under another manifest.
    """
    wanted = Reference.parse(image).repository
    for name in known:
        with suppress(InputError):  # old engines have `<none>` among them
            found = Reference.parse(name)
            if found.repository == wanted and found.digest is not None:
                return found.digest.text
    return ""
