"""`packaging/localisation.py`: every text of the task has a key, and every language all of them."""

import json
from pathlib import Path

import localisation
import pytest

ROOT = Path(__file__).resolve().parents[2]
TASK = json.loads((ROOT / "task.json").read_text("utf-8"))


def folder_with_task(tmp_path: Path) -> Path:
    """A folder as the package has it, with nothing but task.json."""
    (tmp_path / "task.json").write_text(json.dumps(TASK), "utf-8")
    return tmp_path


def test_every_text_that_people_see_has_a_key() -> None:
    texts = localisation.texts(TASK)
    assert texts["loc.friendlyName"] == TASK["friendlyName"]
    for entry in TASK["inputs"]:
        assert texts[f"loc.input.label.{entry['name']}"] == entry["label"]
        assert texts[f"loc.input.help.{entry['name']}"] == entry["helpMarkDown"]
    for group in TASK["groups"]:
        assert texts[f"loc.group.displayName.{group['name']}"] == group["displayName"]


def test_nothing_but_the_texts_is_replaced() -> None:
    found = localisation.without_texts(TASK)
    assert found["friendlyName"] == "ms-resource:loc.friendlyName"
    assert json.dumps(found).count("ms-resource:") == len(localisation.texts(TASK))
    assert (found["id"], found["execution"]) == (TASK["id"], TASK["execution"])
    assert "ms-resource" not in json.dumps(TASK)


def test_the_package_gets_english_and_each_translation(tmp_path: Path) -> None:
    translations = tmp_path / "strings"
    translations.mkdir()
    german = {key: f"de {text}" for key, text in localisation.texts(TASK).items()}
    (translations / "de-DE.json").write_text(json.dumps(german), "utf-8")
    localisation.write(folder_with_task(tmp_path), translations)
    strings = tmp_path / "Strings" / "resources.resjson"
    for culture, expected in (("en-US", localisation.texts(TASK)), ("de-DE", german)):
        assert json.loads((strings / culture / "resources.resjson").read_text("utf-8")) == expected


def test_a_translation_that_lacks_a_text_stops_the_build(tmp_path: Path) -> None:
    translations = tmp_path / "strings"
    translations.mkdir()
    half = {"loc.friendlyName": "Signieren", "loc.other": "?"}
    (translations / "de-DE.json").write_text(json.dumps(half), "utf-8")
    with pytest.raises(
        localisation.LocalisationError, match=r"de-DE\.json: expected the keys .*loc\.other"
    ):
        localisation.write(folder_with_task(tmp_path), translations)
