"""What the Docker engine says while it builds and pushes: its result, and how far it has got.

The engine answers 200 and reports errors inside: every line is looked at.

Docker Engine API: the JSON lines of `POST /build`, `/images/load` and
`/images/{name}/push`.
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


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the engine says that it pushed; `size` is the length of the manifest in bytes."""

    digest: Digest
    size: int


def not_built(said: str) -> BuildError:
    """The error for a build that the engine or the command line gave up with these words."""
    return BuildError(f"image was not built: {said}")


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


def read_load(lines: Iterable[Mapping[str, Any]], archive: str) -> tuple[str, ...]:
    """Follow the loading of an archive; return names and IDs of what was in it.

    Raises:
        InputError: The engine does not take the file.
    """
    loaded = []
    for line in lines:
        if "error" in line or "errorDetail" in line:
            raise InputError(
                f"imageArchive: {archive} cannot be loaded: {_error_text(line)}",
                hint="It must be an archive as docker save writes it",
            )
        text = line.get("stream")
        if isinstance(text, str) and text.startswith("Loaded image"):
            loaded.append(text.partition(": ")[2].strip())
    return tuple(loaded)


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
