"""Where the Dockerfile is, what is built with it, and on which image.

Names are found as `Docker@2` finds them: patterns below the working folder, the first match by
depth and name; without a build context, the Dockerfile's own folder is it.
The text is only looked at, never interpreted: whatever is not plain gives no answer.
"""

import glob
import re
from pathlib import Path

from signimage.errors import InputError

DOCKERFILE_MAX = 1024 * 1024  # bytes; longer ones exist only by mistake
# A host and path of 255 characters, a tag of 128 and a digest are less than half of it.
_NAME_MAX = 1024  # characters; an argument that is named many times would grow without a limit
_FROM = re.compile(
    r"^[ \t]*FROM[ \t]+(?:--\S+[ \t]+)*(?P<image>\S+)(?:[ \t]+AS[ \t]+(?P<stage>\S+))?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ARG = re.compile(r"^[ \t]*ARG[ \t]+(\w+)=(\"?)([^\s\"]*)\2[ \t]*$", re.IGNORECASE | re.MULTILINE)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def find_dockerfile(pattern: str, root: Path) -> Path:
    """Return the Dockerfile that *pattern* names, a path or a pattern below *root*.

    The agent has often put the root in front: `/agent/work/1/s/**/Dockerfile`.

    Raises:
        InputError: There is none, or the pattern makes no sense.
    """
    wanted = root / pattern.strip()
    if wanted.is_file():
        return wanted
    parts = wanted.parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    try:
        found = (
            [path for path in Path(*parts[:fixed]).glob("/".join(parts[fixed:])) if path.is_file()]
            if fixed < len(parts)
            else []
        )
    except ValueError as error:
        raise InputError(f"Dockerfile: expected a path or a pattern, got {pattern!r}") from error
    if not found:
        raise InputError(
            f"Dockerfile not found: {wanted}",
            hint="Set the input Dockerfile to its path below the sources folder",
        )
    return min(found, key=lambda path: (len(path.parts), path.as_posix()))


def build_context(value: str, dockerfile: Path, root: Path) -> Path:
    """Return the folder to build: *value*, or for `**` and nothing the Dockerfile's folder.

    The root folder itself is an answer, too: pipelines often name it.

    Raises:
        InputError: It is no folder.
    """
    text = value.strip()
    if not text or root / text == root / "**":
        return dockerfile.parent
    folder = root / text
    if not folder.is_dir():
        raise InputError(
            f"build context not found: {folder}",
            hint="Set the input buildContext to a folder below the sources folder",
        )
    return folder


def base_image(dockerfile: Path) -> str | None:
    """Return the image that the last stage is built on, if it is one and named plainly.

    None for `scratch`, for an earlier stage, and for names that depend on build arguments
    without a default.
    """
    with dockerfile.open("rb") as file:
        text = file.read(DOCKERFILE_MAX).decode("utf-8", "replace").replace("\r\n", "\n")
    stages = list(_FROM.finditer(text))
    if not stages or len(stages[-1]["image"]) > _NAME_MAX:
        return None
    arguments = _ARG.findall(text[: stages[0].start()])
    defaults = {name: value for name, _, value in arguments if len(value) <= _NAME_MAX}
    image = _VARIABLE.sub(lambda m: defaults.get(m[1] or m[2], m[0]), stages[-1]["image"])
    earlier = {stage["stage"].lower() for stage in stages[:-1] if stage["stage"]}
    if "$" in image or image.lower() == "scratch" or image.lower() in earlier:
        return None
    return image
