"""task.json and vss-extension.json keep the rules of their formats, and agree with each other.

The rules of a task.json are those of Microsoft's published schema for it. What the schema does not
say, and the server or the editor still refuses, follows after it.
"""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

import signimage
from signimage.inputs import Command

ROOT = Path(__file__).resolve().parents[2]
TASK = json.loads((ROOT / "task.json").read_text("utf-8"))
EXTENSION = json.loads((ROOT / "vss-extension.json").read_text("utf-8"))
INPUTS = {entry["name"]: entry for entry in TASK["inputs"]}

NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*")
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
INPUT_TYPE = re.compile(
    "boolean|filePath|multiLine|pickList|radio|secureFile|string|int|connectedService:.+"
)
TRUE_FALSE = re.compile("True|False")
NUMBER = re.compile(r"\d+")

# Each key with the type of its value, as far as this project uses them.
TASK_KEYS = {
    "$schema": str,
    "author": str,
    "category": str,
    "description": str,
    "execution": dict,
    "friendlyName": str,
    "groups": list,
    "helpMarkDown": str,
    "id": str,
    "inputs": list,
    "instanceNameFormat": str,
    "minimumAgentVersion": str,
    "name": str,
    "outputVariables": list,
    "postjobexecution": dict,
    "restrictions": dict,
    "runsOn": list,
    "showEnvironmentVariables": bool,
    "version": dict,
    "visibility": list,
}
INPUT_KEYS = {
    "aliases": list,
    "defaultValue": (str, bool),
    "groupName": str,
    "helpMarkDown": str,
    "label": str,
    "name": str,
    "options": dict,
    "properties": dict,
    "required": bool,
    "type": str,
    "visibleRule": str,
}


def check_keys(found: dict[str, Any], allowed: dict[str, Any], required: set[str]) -> None:
    assert set(found) <= set(allowed), set(found) - set(allowed)
    assert required <= set(found), required - set(found)
    for key, value in found.items():
        assert isinstance(value, allowed[key]), key


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def test_the_task_has_known_keys_only_and_all_that_are_needed() -> None:
    check_keys(TASK, TASK_KEYS, set(TASK_KEYS))


def test_the_task_is_named_as_the_formats_demand() -> None:
    assert GUID.fullmatch(TASK["id"])
    assert re.fullmatch(r"[A-Za-z0-9-]+", TASK["name"])
    assert TASK["name"] == "SignImage"
    assert len(TASK["friendlyName"]) <= 40
    assert len(TASK["description"]) <= 80
    assert TASK["category"] == "Build"
    assert TASK["visibility"] == ["Build", "Release"]
    assert TASK["runsOn"] == ["Agent", "DeploymentGroup"]


def test_versions_are_numbers_and_all_the_same() -> None:
    """A version in quotes is refused by the server, and a version that lags is never installed."""
    assert set(TASK["version"]) == {"Major", "Minor", "Patch"}
    assert all(type(part) is int for part in TASK["version"].values())
    text = "{Major}.{Minor}.{Patch}".format_map(TASK["version"])
    assert text == signimage.__version__ == EXTENSION["version"]


def test_the_oldest_agent_is_the_first_that_has_the_runner() -> None:
    assert TASK["minimumAgentVersion"] == "3.232.1"


@pytest.mark.parametrize("phase", ["execution", "postjobexecution"])
def test_every_target_exists_and_runs_on_the_nodes_that_agents_have(phase: str) -> None:
    """There is no runner named Node20; an agent ignores the task without saying so."""
    assert set(TASK[phase]) == {"Node20_1", "Node24"}
    for runner in TASK[phase].values():
        assert set(runner) == {"target"}
        assert (ROOT / runner["target"]).is_file()


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_keeps_the_rules(name: str) -> None:
    entry = INPUTS[name]
    check_keys(entry, INPUT_KEYS, {"name", "label", "type", "helpMarkDown", "groupName"})
    assert NAME.fullmatch(name)
    assert INPUT_TYPE.fullmatch(entry["type"])
    assert entry["helpMarkDown"].endswith(".")
    assert entry["groupName"] in {group["name"] for group in TASK["groups"]}
    if entry["type"] == "pickList":
        assert entry["defaultValue"] in entry["options"]
    else:
        assert "options" not in entry


@pytest.mark.parametrize("name", INPUTS)
def test_properties_of_an_input_are_known_ones(name: str) -> None:
    properties = dict(INPUTS[name].get("properties", {}))
    assert isinstance(properties.pop("resizable", True), bool)
    texts = {"EditableOptions": TRUE_FALSE, "rows": NUMBER}
    for key, value in properties.items():
        assert texts[key].fullmatch(value)


@pytest.mark.parametrize("entry", TASK["inputs"] + TASK["groups"], ids=lambda entry: entry["name"])
def test_a_rule_of_visibility_is_one_that_every_server_can_evaluate(entry: dict[str, Any]) -> None:
    """It names an input that exists and one of its options, and mixes no operators."""
    rule = entry.get("visibleRule")
    if rule is None:
        return
    assert not ("&&" in rule and "||" in rule)
    for term in re.split(r"&&|\|\|", rule):
        name, operator, value = term.split()
        assert operator in {"=", "!="}
        assert value in INPUTS[name]["options"]


def test_every_command_of_the_editor_is_one_of_the_worker() -> None:
    assert list(INPUTS["command"]["options"]) == [command.value for command in Command]


def test_names_are_unique_and_stay_so_as_environment_variables() -> None:
    assert len(INPUTS) == len(TASK["inputs"])
    names = [
        each.upper() for name, entry in INPUTS.items() for each in [name, *entry.get("aliases", [])]
    ]
    assert len(set(names)) == len(names)
    groups = [group["name"] for group in TASK["groups"]]
    assert len(set(groups)) == len(groups)


def test_groups_are_complete_and_each_has_an_input() -> None:
    for group in TASK["groups"]:
        check_keys(
            group,
            {"name": str, "displayName": str, "isExpanded": bool},
            {"name", "displayName", "isExpanded"},
        )
    used = {entry["groupName"] for entry in TASK["inputs"]}
    assert used == {group["name"] for group in TASK["groups"]}


def test_inputs_shared_with_docker_have_its_names_types_and_defaults() -> None:
    """Changing `Docker@2` to `SignImage@1` must not change what the inputs mean."""
    shared = {
        "containerRegistry": ("Container registry", "connectedService:dockerregistry", None),
        "repository": ("Container repository", "string", ""),
        "command": ("Command", "pickList", "buildAndPush"),
        "Dockerfile": ("Dockerfile", "filePath", "**/Dockerfile"),
        "buildContext": ("Build context", "filePath", "**"),
        "tags": ("Tags", "multiLine", "$(Build.BuildId)"),
        "arguments": ("Arguments", "string", None),
        "addPipelineData": ("Add Pipeline metadata to image(s)", "boolean", True),
        "addBaseImageData": ("Add base image metadata to image(s)", "boolean", True),
    }
    for name, expected in shared.items():
        entry = INPUTS[name]
        assert (entry["label"], entry["type"], entry.get("defaultValue")) == expected


def test_our_own_inputs_are_these() -> None:
    """Names of inputs are an interface: none may be renamed or vanish within a major version."""
    ours = {
        name: INPUTS[name]["type"]
        for name in (
            *("signingKey", "trustServer", "rootKeys", "requiredSigners", "imageArchive"),
            *("caCertificate", "pythonPath", "platforms", "baseImages", "signBeforeTag"),
            "recursive",
        )
    }
    assert ours == {
        "signingKey": "secureFile",
        "requiredSigners": "multiLine",
        "platforms": "multiLine",
        "baseImages": "pickList",
        "signBeforeTag": "pickList",
        "recursive": "boolean",
        "imageArchive": "string",
        "trustServer": "string",
        "rootKeys": "multiLine",
        "caCertificate": "multiLine",
        "pythonPath": "string",
    }
    assert len(INPUTS) == 9 + len(ours)


def test_paths_that_may_be_left_out_are_no_file_paths() -> None:
    """The agent turns an empty filePath into the root of the sources."""
    for entry in TASK["inputs"]:
        if entry["type"] == "filePath":
            assert entry.get("defaultValue"), entry["name"]


def test_the_step_may_set_its_outputs_and_what_docker_sets_and_no_other_variable() -> None:
    outputs = [output["name"] for output in TASK["outputVariables"]]
    assert outputs == ["digest", "imageReferences", "signers", "signedTags"]
    for output in TASK["outputVariables"]:
        check_keys(output, {"name": str, "description": str}, {"name", "description"})
        assert NAME.fullmatch(output["name"])
    # RESOURCE_URIS must keep its bare name, which an output variable would lose.
    assert TASK["restrictions"] == {"settableVariables": {"allowed": [*outputs, "RESOURCE_URIS"]}}


def test_the_passphrase_can_be_mapped_in_the_classic_editor() -> None:
    assert TASK["showEnvironmentVariables"] is True


def test_the_name_of_a_step_uses_inputs_that_exist() -> None:
    for name in re.findall(r"\$\((.*?)\)", TASK["instanceNameFormat"]):
        assert name in INPUTS


def test_no_input_asks_for_a_secret() -> None:
    """Inputs are trimmed and shown; the passphrase has only the environment."""
    for name in INPUTS:
        assert not re.search("pass(word|phrase)|secret|token", name, re.IGNORECASE)


def test_the_extension_keeps_the_rules_of_the_marketplace() -> None:
    assert EXTENSION["manifestVersion"] == 1
    assert EXTENSION["publisher"] == "signimage"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", EXTENSION["id"])
    assert len(EXTENSION["name"]) <= 200
    assert len(EXTENSION["description"]) <= 200
    assert EXTENSION["targets"] == [{"id": "Microsoft.VisualStudio.Services"}]
    assert EXTENSION["categories"] == ["Azure Pipelines"]
    assert re.fullmatch("#[0-9A-F]{6}", EXTENSION["branding"]["color"])


def test_the_extension_contributes_the_task_under_its_fixed_name() -> None:
    (contribution,) = EXTENSION["contributions"]
    assert contribution["id"] == "SignAndPushImage"
    assert contribution["type"] == "ms.vss-distributed-task.task"
    assert contribution["targets"] == ["ms.vss-distributed-task.tasks"]
    assert contribution["properties"]["name"] == TASK["name"]
    task, pictures = EXTENSION["files"]
    assert task == {"path": TASK["name"]}
    assert pictures == {"path": "images", "addressable": True}


def test_icons_have_the_sizes_that_are_asked_for() -> None:
    assert png_size(ROOT / "icons" / "extension.png") == (128, 128)
    assert png_size(ROOT / "icons" / "task.png") == (32, 32)


def test_the_page_needs_no_network_and_shows_every_output() -> None:
    """The Marketplace refuses pictures from elsewhere that are not https, and inline SVG."""
    page = (ROOT / "overview.md").read_text("utf-8")
    assert "<svg" not in page
    assert not re.search(r"!\[[^]]*\]\(http:", page)
    for output in TASK["outputVariables"]:
        assert f"`{output['name']}`" in page
