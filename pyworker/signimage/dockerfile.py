"""Where the Dockerfile is, what is built with it, and on which image.

Names are found as `Docker@2` finds them: patterns below the working folder, the first match by
depth and name; without a build context, the Dockerfile's own folder is it.
Which images the file names is said by `signimage.stages`.
"""

import glob
import tempfile
from pathlib import Path

from signimage.errors import FormatError, InputError
from signimage.oci import Reference
from signimage.stages import BuildOptions, read_stages

DOCKERFILE_MAX = 1024 * 1024  # bytes; longer ones exist only by mistake


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
    # The root is no pattern, whatever the names of its folders are.
    known = len(root.parts) if wanted.is_relative_to(root) else 0
    fixed = next((i for i in range(known, len(parts)) if glob.has_magic(parts[i])), len(parts))
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


def read_dockerfile(dockerfile: Path) -> str:
    """Return the text of a Dockerfile; bytes that are no UTF-8 come through as they are.

    Raises:
        InputError: It cannot be read.
        FormatError: It is longer than any that people write.
    """
    try:
        with dockerfile.open("rb") as file:
            content = file.read(DOCKERFILE_MAX + 1)
    except OSError as error:
        raise InputError(f"Dockerfile {dockerfile} cannot be read: {error.strerror}") from error
    if len(content) > DOCKERFILE_MAX:
        raise FormatError(f"Dockerfile: expected at most {DOCKERFILE_MAX} bytes, got more")
    return content.decode("utf-8", "surrogateescape")


def write_dockerfile(text: str, original: Path, folder: Path) -> Path:
    """Write *text* to a new folder below *folder*, and return the file to build with.

    It has the name of *original*, and beside it what is there under the name that belongs to
    that one alone: `<Dockerfile>.dockerignore`.
    """
    place = Path(tempfile.mkdtemp(prefix="dockerfile-", dir=folder))  # 0700
    copy = place / original.name
    copy.write_bytes(text.encode("utf-8", "surrogateescape"))
    ignored = original.with_name(f"{original.name}.dockerignore")
    if ignored.is_file():
        (place / ignored.name).write_bytes(ignored.read_bytes())
    return copy


def base_image(dockerfile: Path, options: BuildOptions) -> str | None:
    """Return the image that the last stage is built on, if it is one and can be known.

    None for `scratch`, for an earlier stage, and for names that are no image's or depend on what
    is not known.
    """
    try:
        image = read_stages(read_dockerfile(dockerfile), options).base
        if image is not None:
            Reference.parse(image)
    except (FormatError, InputError):
        return None
    return image
