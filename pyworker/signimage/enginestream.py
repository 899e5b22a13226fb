"""What the Docker engine says while it builds and pushes: its result, and how far it got.

The rules of this file:

1. The engine answers 200 and reports errors inside: every line is looked at.
2. What goes wrong with an engine is said here, so that it sounds the same on every way to it.

Docker Engine API: the JSON lines of `POST /build` and `/images/{name}/push`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from signimage.errors import (
    BuildError,
    EngineError,
    InputError,
    NotFoundError,
    RemoteError,
    UnauthorizedError,
)
from signimage.oci import Digest
from signimage.programs import Output
from signimage.response import readable

_NO_ENGINE_HINT = "Run the job on an agent with Docker, or set DOCKER_HOST"
_NO_RIGHT_HINT = "Add this account to the group docker, and start the agent anew"


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the engine says that it pushed; `size` is the length of the manifest in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Versions:
    """Who talks to which engine: the program or library with its version, the engine's version."""

    client: str
    engine: str


def not_built(said: str, hint: str = "") -> BuildError:
    """The error for a build that the engine or the command line gave up with these words."""
    return BuildError(f"image was not built: {said}", hint=hint)


def unreachable(host: str, why: str, hint: str = "") -> EngineError:
    """The error for an engine that does not answer at *host*, as `DOCKER_HOST` names it."""
    is_closed = host.startswith("unix:") and "permission denied" in why.lower()
    usual = _NO_RIGHT_HINT if is_closed else _NO_ENGINE_HINT
    return EngineError(
        f"Docker engine cannot be reached at {readable(host)}: {why}", hint=hint or usual
    )


def refused(said: str) -> EngineError:
    """The error for an engine that answered with these words."""
    return EngineError(f"Docker engine refused: {said}")


def not_here(reference: str) -> InputError:
    """The error for an image that the engine does not have."""
    return InputError(
        f"image {reference} is not in the engine",
        hint="An earlier step of the same job must build it, under this very name",
    )


def not_pushed(said: str, name: str) -> RemoteError:
    """The error for a push of *name* that the engine gave up with these words."""
    lower = said.lower()
    if any(sign in lower for sign in ("denied", "unauthorized", "no basic auth", "authentication")):
        return UnauthorizedError(
            f"push of {name}: the registry does not allow it: {said}",
            hint="Check user name, password and permissions of the registry service connection",
        )
    if "name unknown" in lower or "name_unknown" in lower or "not found" in lower:
        return NotFoundError(f"push of {name}: the registry does not know the repository: {said}")
    return EngineError(f"push of {name} failed: {said}")


def no_digest(name: str) -> EngineError:
    """The error for a push of *name* that ended well and told no digest."""
    return EngineError(f"push of {name}: expected a digest from the engine, got none")


def read_build(lines: Iterable[Mapping[str, Any]], on_output: Output) -> str:
    """Follow a build that the engine reports; return the image's ID.

    Raises:
        BuildError: The engine reports an error.
        EngineError: It reports neither an error nor an image.
    """
    image_id = ""
    for line in lines:
        if "error" in line or "errorDetail" in line:
            raise not_built(_error_text(line))
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
        UnauthorizedError, NotFoundError, EngineError: As `Engine.push`.
    """
    pushed: Pushed | None = None
    layers: dict[str, tuple[int, int]] = {}
    shown = -1
    for line in lines:
        if "error" in line or "errorDetail" in line:
            raise not_pushed(_error_text(line), name)
        pushed = _read_aux(line.get("aux")) or pushed
        percent = _percentage(layers, line)
        if percent > shown:
            shown = percent
            on_progress(percent)
    if pushed is None:
        raise no_digest(name)
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
