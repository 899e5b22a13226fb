"""The texts of the task in a form that translators and the editor's other languages can use.

task.json holds the English texts and is their only source. From it come, for the package:

- `task.loc.json`, which is task.json with `ms-resource:<key>` in the place of each text;
- `Strings/resources.resjson/en-US/resources.resjson`, the texts by their keys;
- one such file for each translation, `packaging/strings/<culture>.json`, if it has all keys.

Keys are those of the tasks that Azure Pipelines ships: `loc.input.label.<name>`, and so on.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TRANSLATIONS = Path(__file__).parent / "strings"
_TOP = ("friendlyName", "helpMarkDown", "description", "instanceNameFormat", "releaseNotes")
_INPUT = {"label": "label", "helpMarkDown": "help"}


class LocalisationError(Exception):
    """A translation does not fit the task; the message says which and why."""


def texts(task: dict[str, Any]) -> dict[str, str]:
    """Return the English texts of *task*, the content of task.json, by their keys."""
    return {key: str(holder[name]) for key, holder, name in _places(task)}


def without_texts(task: dict[str, Any]) -> dict[str, Any]:
    """Return *task* with the key of each text in its place."""
    copy: dict[str, Any] = json.loads(json.dumps(task))
    for key, holder, name in list(_places(copy)):
        holder[name] = f"ms-resource:{key}"
    return copy


def write(task_folder: Path, translations: Path = TRANSLATIONS) -> None:
    """Write the localised files beside the task.json in *task_folder*.

    Raises:
        LocalisationError: A translation lacks a text, or has one that the task has not.
    """
    task = json.loads((task_folder / "task.json").read_text("utf-8"))
    english = texts(task)
    _write(task_folder / "task.loc.json", without_texts(task))
    languages = {"en-US": english}
    for file in sorted(translations.glob("*.json")):
        languages[file.stem] = json.loads(file.read_text("utf-8"))
        odd = sorted(languages[file.stem].keys() ^ english.keys())
        if odd:
            raise LocalisationError(
                f"{file.name}: expected the keys of task.json, got other ones: {', '.join(odd)}"
            )
    for culture, found in languages.items():
        folder = task_folder / "Strings" / "resources.resjson" / culture
        _write(folder / "resources.resjson", dict(sorted(found.items())))


def _places(task: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield each text's key, and the object and member that hold it."""
    for name in _TOP:
        if name in task:
            yield f"loc.{name}", task, name
    for group in task.get("groups", []):
        yield f"loc.group.displayName.{group['name']}", group, "displayName"
    for entry in task["inputs"]:
        for member, kind in _INPUT.items():
            if member in entry:
                yield f"loc.input.{kind}.{entry['name']}", entry, member
    messages = task.get("messages", {})
    for name in messages:
        yield f"loc.messages.{name}", messages, name


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    file.write_bytes(text.encode() + b"\n")
