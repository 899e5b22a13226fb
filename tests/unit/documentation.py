"""The project's own files, its pages, and the YAML in them: read for the tests that check them.

The rules:

1. The project's files are those that `.gitignore` does not leave out.
2. YAML is every file of `docs/examples` and every block of a page that calls itself so.
3. All scalars are text, as they are for a step: Azure Pipelines hands out nothing else.
"""

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def project_files() -> Iterator[Path]:
    """Yield every file of the project itself, not what was installed or built beside it."""
    lines = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    left_out = [line.rstrip("/") for line in lines if line and not line.startswith("#")]
    folders = [ROOT]
    for folder in folders:  # grows while it is walked
        for path in sorted(folder.iterdir()):
            if path.name == ".git" or any(fnmatch.fnmatch(path.name, name) for name in left_out):
                continue
            if path.is_dir():
                folders.append(path)
            else:
                yield path


PAGES = [path for path in project_files() if path.suffix == ".md"]
TEXTS = {path: path.read_text("utf-8") for path in PAGES}


def name_of(path: Path) -> str:
    """The path of a file of the project, from its root."""
    return str(path.relative_to(ROOT))


def text_of(name: str) -> str:
    """The text of a page, by its path from the root."""
    return TEXTS[ROOT / name]


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """One step as a job would run it.

    Attributes:
        task: `Name@1`; empty for a script and its like.
        name: By which other steps read its outputs; may be empty.
        inputs: As written, macros unexpanded.
        env: The same.
        variables: Those of its stage and job, and of one leg of a matrix.
        place: `stage.job`, as expressions in other jobs name it.
        makes_builder: Whether it is a script that makes a builder for later steps.
    """

    task: str
    name: str
    inputs: Mapping[str, str]
    env: Mapping[str, str]
    variables: Mapping[str, str]
    place: str
    makes_builder: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One YAML text of the documentation, and where it stands."""

    where: str
    text: str = field(repr=False)

    @property
    def content(self) -> Any:
        """What the text says, in lists, mappings and strings."""
        # BaseLoader makes nothing but text of scalars, and no objects at all.
        return yaml.load(self.text, Loader=yaml.BaseLoader)  # noqa: S506 -- the reason is above

    def steps(self) -> list[PipelineStep]:
        """All steps in the order of the text, once for each leg of a matrix."""
        content = self.content
        return list(_steps({"steps": content} if isinstance(content, list) else content, {}, "."))


def examples() -> list[Example]:
    """Return every YAML text of the documentation."""
    files = sorted((ROOT / "docs" / "examples").iterdir())
    found = [Example(name_of(path), path.read_text("utf-8")) for path in files]
    for path, text in TEXTS.items():
        blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```$", text)
        found += [
            Example(f"{name_of(path)}, block {number}", block)
            for number, block in enumerate(blocks, start=1)
        ]
    return found


def _steps(node: Any, variables: Mapping[str, str], place: str) -> Iterator[PipelineStep]:
    """Walk through stages, jobs and strategies down to the steps."""
    if isinstance(node, list):
        for each in node:
            yield from _steps(each, variables, place)
    if not isinstance(node, dict):
        return
    stage, job = place.split(".")
    place = f"{node.get('stage', stage)}.{node.get('job') or node.get('deployment') or job}"
    known = {**variables, **_variables(node.get("variables", {}))}
    matrix = node.get("strategy", {}).get("matrix", {})
    for leg in matrix.values() or [{}]:
        for step in node.get("steps", []):
            yield _step(step, {**known, **leg}, place)
    for key, value in node.items():
        if key not in ("steps", "variables"):
            yield from _steps(value, known, place)


def _variables(node: Any) -> dict[str, str]:
    """The variables of a stage or job, in either of the two forms; groups have unknown ones."""
    if isinstance(node, dict):
        return node
    return {each["name"]: each["value"] for each in node if "name" in each}


def _step(node: dict[str, Any], variables: Mapping[str, str], place: str) -> PipelineStep:
    parts = (node.get("task", ""), node.get("name", ""))
    makes_builder = "docker buildx create" in node.get("script", "")
    given = (node.get("inputs", {}), node.get("env", {}))
    return PipelineStep(*parts, *given, variables, place, makes_builder)
