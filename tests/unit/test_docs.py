"""What is written is true of what there is: codes, commands, inputs, links, versions, headings.

The rules:

1. Whatever can be named in two places is compared in both directions where both are complete.
2. What a page is, and what is YAML in it: `documentation`. That the steps of the examples do their
   work is tested where there is something to do it on, in `tests/task/test_examples.py`.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import signimage
from signimage import cli, errors
from unit.documentation import (
    PAGES,
    ROOT,
    TEXTS,
    Example,
    PipelineStep,
    examples,
    name_of,
    project_files,
    text_of,
)

PACKAGE = ROOT / "pyworker" / "signimage"
TASK = json.loads((ROOT / "task.json").read_text("utf-8"))

# A place in somebody's home, or this very checkout; shorter paths may be meant as examples.
_OWN = f"|{re.escape(str(ROOT))}" if len(ROOT.parts) > 2 else ""
_OF_ONE_MACHINE = re.compile(rf"(?<![\w.-])(?:/home/\w+|/Users/\w+{_OWN})(?![\w.-])")
# Written in pieces, so that this file itself stays clean.
_REGISTRIES = ("pypi" + ".org", "python" + "hosted.org", "npmjs" + ".org", "--index" + "-url")


def headings(text: str, level: int) -> list[str]:
    return re.findall(rf"(?m)^{'#' * level} (.+)$", without_code(text))


def without_code(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def all_errors(base: type[errors.SignImageError]) -> Iterator[type[errors.SignImageError]]:
    yield base
    for each in base.__subclasses__():
        yield from all_errors(each)


# --- Errors, modules, headings ---------------------------------------------------------------


def test_every_error_code_has_its_section_and_no_section_is_orphaned() -> None:
    ours = [
        each for each in all_errors(errors.SignImageError) if each.__module__ == errors.__name__
    ]
    expected = sorted(f"{each.code}: {each.__name__}" for each in ours)
    assert headings(text_of("docs/errors.md"), 2) == expected


def test_every_error_code_is_used_once() -> None:
    codes = [each.code for each in all_errors(errors.SignImageError)]
    assert len(codes) == len(set(codes))


def test_every_module_is_on_the_map_and_nothing_else_is() -> None:
    rows = re.findall(r"(?m)^\|[^|]*\| `signimage\.(\w+)` \|", text_of("docs/architecture.md"))
    assert sorted(rows) == sorted({path.stem for path in PACKAGE.glob("*.py")} - {"__init__"})


def references() -> Iterator[tuple[str, str, str]]:
    """Yield each heading that a file of the program refers to: file, page, heading."""
    for path in sorted((ROOT / "pyworker").rglob("*.py")):
        if path not in set(project_files()):
            continue
        text = re.sub(r"\s+", " ", path.read_text("utf-8"))
        for page, quoted in re.findall(r'`(docs/[a-z-]+\.md)`((?:,? (?:and )?"[^"]+")*)', text):
            for heading in re.findall(r'"([^"]+)"', quoted):
                yield name_of(path), page, heading


def test_every_heading_that_the_code_refers_to_exists() -> None:
    found = list(references())
    assert len(found) > 5, "the search has gone blind"
    missing = [one for one in found if one[2] not in headings(text_of(one[1]), 2)]
    assert not missing


def test_every_page_that_the_code_refers_to_exists() -> None:
    for path in project_files():
        if path.suffix in {".py", ".js", ".json", ".sh"} and path != Path(__file__).resolve():
            for page in re.findall(r"docs/[\w/-]+\.md", path.read_text("utf-8")):
                assert (ROOT / page).is_file(), f"{name_of(path)} refers to {page}"


def test_every_invariant_names_its_tests() -> None:
    sections = re.split(r"(?m)^### ", text_of("docs/threat-model.md"))[1:]
    numbers = [section.partition(".")[0] for section in sections]
    assert numbers == [f"I{number}" for number in range(1, len(sections) + 1)]
    for section in sections:
        assert re.search(r"(?m)^Held by .*\]\(\.\./tests/\S+\.py\)", section), section[:60]


def test_every_decision_says_what_is_bad_about_it() -> None:
    pages = sorted(path for path in PAGES if path.parent.name == "adr")
    for number, path in enumerate(pages, start=1):
        assert headings(TEXTS[path], 1)[0].startswith(f"{number:04}. "), name_of(path)
        assert path.name.startswith(f"{number:04}-"), name_of(path)
        assert "- *Negative*: " in TEXTS[path], name_of(path)


# --- Acceptance cases ------------------------------------------------------------------------


def rows_of_cases() -> dict[int, list[str]]:
    """Return the tests of each acceptance case, as `file::name`, by its number."""
    section = text_of("docs/protocol.md").partition("\n## Acceptance cases\n")[2]
    rows = re.findall(r"(?m)^\| (\d+) \| [^|]+ \| ([^|]+) \|$", section)
    return {int(number): re.findall(r"`([^`]+::[^`]+)`", tests) for number, tests in rows}


def documented(file: str) -> dict[str, str]:
    """Return what each function and class of a test file says of itself, by its name."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    }


def numbers(docstring: str) -> set[int]:
    """Return the cases that a docstring names: `Case 3`, `cases 1, 2 and 5 to 7`."""
    found = set()
    for words in re.findall(r"\b[Cc]ases? (\d+(?:(?:, | and | to )\d+)*)", docstring):
        for part in re.split(", | and ", words):
            begin, _, end = part.partition(" to ")
            found |= set(range(int(begin), int(end or begin) + 1))
    return found


def test_every_acceptance_case_is_held_by_tests_that_name_it() -> None:
    rows = rows_of_cases()
    assert sorted(rows) == list(range(1, 53))
    for case, tests in rows.items():
        assert tests, f"case {case} has no test"
        for test in tests:
            file, _, name = test.partition("::")
            assert case in numbers(documented(file).get(name, "")), f"{test} and case {case}"


def test_every_case_that_a_test_names_has_a_row() -> None:
    for path in sorted((ROOT / "tests").glob("*/test_cases*.py")):
        for name, docstring in documented(name_of(path)).items():
            if name.startswith("test_"):
                assert numbers(docstring), f"{name_of(path)}::{name} names no case"
                assert numbers(docstring) <= set(range(1, 53)), name


# --- Versions, links, paths ------------------------------------------------------------------


def test_versions_agree() -> None:
    top = re.search(r"(?m)^## \[(\S+)\]", text_of("CHANGELOG.md"))
    assert top is not None
    extension = json.loads((ROOT / "vss-extension.json").read_text("utf-8"))
    task = "{Major}.{Minor}.{Patch}".format_map(TASK["version"])
    assert {top[1], task, extension["version"]} == {signimage.__version__}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(TEXTS[page])):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        wanted = (page.parent / path).resolve() if path else page
        assert wanted.exists(), target
        if anchor:
            known = [
                re.sub(r"[^\w -]", "", each).replace(" ", "-").lower()
                for level in (1, 2, 3)
                for each in headings(wanted.read_text("utf-8"), level)
            ]
            assert anchor in known, target


def test_no_file_names_a_path_of_one_machine_or_a_package_registry() -> None:
    found = []
    for path in project_files():
        if path.is_relative_to(ROOT / "tests" / "vectors"):
            continue  # as the original programs wrote it, and never edited
        text = path.read_bytes().decode("utf-8", "replace")
        places = _OF_ONE_MACHINE.findall(text)
        registries = [each for each in _REGISTRIES if each in text]
        found += [f"{name_of(path)}: {each}" for each in (*places, *registries)]
    assert not found


# --- Commands --------------------------------------------------------------------------------


def test_every_make_command_that_is_named_exists() -> None:
    known = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8")))
    for path, text in TEXTS.items():
        for command in re.findall(r"(?:`|\$ )make ([a-z-]+)", text):
            assert command in known, f"{name_of(path)}: make {command}"


def named_commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the commands of our program that the pages name, each with where it stands."""
    for path, text in TEXTS.items():
        for line in re.findall(r"(?:`|\$ )signimage ((?!-)[^`\n]+)", text):
            words = line.split()
            count = 2 if words[0] in {"key", "repo", "signer"} else 1
            yield name_of(path), tuple(words[:count])


def helped(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a command says of itself; one that does not exist ends with another code."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0, words
    return capsys.readouterr().out


def test_every_command_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for _, words in named_commands():
        helped(words, capsys)


def test_a_command_that_does_not_exist_would_be_noticed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (("key", "melt"), ("melt",)):
        with pytest.raises(AssertionError, match="melt"):
            helped(words, capsys)


def test_every_command_that_exists_stands_in_the_readme(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = re.findall(
        r"(?m)^  ([a-z]+(?: [a-z]+)?)  ", helped((), capsys).partition("\noptions:")[0]
    )
    commands = {tuple(row.split()) for row in rows}
    assert len(commands) > 5, "the search has gone blind"
    named = {words for page, words in named_commands() if page == "README.md"}
    assert named == commands


def test_the_readme_names_operands_as_the_program_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = re.findall(r"(?m)^\| `signimage ([a-z]+(?: [a-z]+)?)([^`]*)` \|", text_of("README.md"))
    assert len(rows) > 5, "the search has gone blind"
    for command, row in rows:
        words = tuple(command.split())
        usage = " ".join(helped(words, capsys).partition("\n\n")[0].split())
        operands = usage.partition(" [options] ")[2].replace("...", "…")
        assert re.sub(r"\[--[^]]+\]…?|--[a-z]+ \S+", "", row).split() == operands.split(), words


def test_every_option_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for path, text in TEXTS.items():
        for line in re.findall(r"(?:`|\$ )signimage ((?!-)[^`\n]+)", text):
            words = tuple(line.split())
            count = 2 if words[0] in {"key", "repo", "signer"} else 1
            for option in re.findall(r"--[a-z-]+", line):
                assert option in helped(words[:count], capsys), f"{name_of(path)}: {line}"


# --- The step --------------------------------------------------------------------------------


EXAMPLES = examples()
NAMED_TASK = f"{TASK['name']}@{TASK['version']['Major']}"
INPUTS = {each["name"]: each for each in TASK["inputs"]}
# Other steps may stand in examples, too: those of tasks that everybody has.
OTHER_TASKS = {"", "Docker@2", "DownloadSecureFile@1"}
# What Docker@2 takes, as its own task.json has it.
DOCKER2_INPUTS = {
    "containerRegistry",
    "repository",
    "command",
    "Dockerfile",
    "buildContext",
    "tags",
    "arguments",
    "addPipelineData",
    "addBaseImageData",
    "container",
}


def our_steps() -> list[tuple[str, PipelineStep]]:
    return [
        (example.where, step)
        for example in EXAMPLES
        for step in example.steps()
        if step.task == NAMED_TASK
    ]


def command_of(step: PipelineStep) -> str:
    return step.inputs.get("command", INPUTS["command"]["defaultValue"])


def is_visible(name: str, command: str) -> bool:
    """Whether the editor would show an input, for which a rule may ask about the command."""
    terms = [
        (operator == "=") == (value == command)
        for operator, value in re.findall(
            r"command (=|!=) (\w+)", INPUTS[name].get("visibleRule", "")
        )
    ]
    return all(terms) if "&&" in INPUTS[name].get("visibleRule", "") else any(terms or [True])


def test_examples_were_found() -> None:
    places = {where for where, _ in our_steps()}
    assert {place.partition(",")[0] for place in places} >= {"README.md", "overview.md"}
    for path in (ROOT / "docs" / "examples").iterdir():
        assert (name_of(path) in places) != path.stem.endswith("-before"), name_of(path)
    assert {command_of(step) for _, step in our_steps()} == set(INPUTS["command"]["options"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.where)
def test_an_example_is_yaml_indented_by_two_without_tabs(example: Example) -> None:
    for line in example.text.splitlines():
        assert "\t" not in line
        assert (len(line) - len(line.lstrip())) % 2 == 0, line
    assert {step.task for step in example.steps()} <= OTHER_TASKS | {NAMED_TASK}


@pytest.mark.parametrize(("where", "step"), our_steps())
def test_an_example_uses_inputs_that_exist_and_all_that_are_needed(
    where: str, step: PipelineStep
) -> None:
    command = command_of(step)
    visible = {name for name in INPUTS if is_visible(name, command)}
    needed = {
        name
        for name in visible
        if INPUTS[name].get("required") and not INPUTS[name].get("defaultValue")
    }
    assert set(step.inputs) <= visible, where
    assert needed <= set(step.inputs), where
    passphrase = ["DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"]
    assert list(step.env) == (passphrase if "signingKey" in needed else []), where


def test_the_readme_has_every_command() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \|", text_of("README.md").partition("## The step")[2])
    assert rows[: len(INPUTS["command"]["options"])] == list(INPUTS["command"]["options"])


def test_every_input_stands_in_the_readme() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \|", text_of("README.md"))
    assert rows.count("command") == 1
    named = [name for name in rows if name not in INPUTS["command"]["options"]]
    assert sorted(named) == sorted(INPUTS)


def test_every_output_stands_in_the_readme() -> None:
    for output in TASK["outputVariables"]:
        assert f"`{output['name']}`" in text_of("README.md")


def test_outputs_of_a_named_step_are_those_of_the_task() -> None:
    known = {output["name"] for output in TASK["outputVariables"]}
    for example in EXAMPLES:
        ours = {step.name for step in example.steps() if step.task == NAMED_TASK and step.name}
        read = re.findall(r"(?:\$\(|outputs\[')(\w+)\.(\w+)", example.text)
        assert {output for name, output in read if name in ours} <= known, example.where


def test_the_walk_through_names_what_the_classic_editor_shows() -> None:
    """Every bold cell at the beginning of a row is a label of the task, and all labels are there.

    What is shown is a matter of groups and rules of visibility, which `test_task_json` checks.
    """
    rows = re.findall(r"(?m)^\| \*\*(.+?)\*\* \|", text_of("docs/classic-editor.md"))
    assert rows == [each["label"] for each in TASK["inputs"]]


def test_moving_from_docker2_leads_to_inputs_that_exist() -> None:
    table = text_of("docs/moving-from-docker2.md").partition("## Inputs")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| `(\w+)` \| ([^|]+) \|", table)
    assert {old for old, _ in rows} == DOCKER2_INPUTS
    named = {name for _, new in rows for name in re.findall(r"`(\w+)`", new)}
    assert named <= set(INPUTS) | set(INPUTS["command"]["options"])


def test_troubleshooting_links_every_code_that_a_step_can_end_with() -> None:
    """The base class of all errors is never raised; all others have a row somewhere."""
    page = text_of("docs/troubleshooting.md")
    codes = {each.code for each in all_errors(errors.SignImageError)} - {"SI000"}
    assert set(re.findall(r"\[(SI\d{3})\]\(errors\.md#si\d{3}-\w+\)", page)) == codes
