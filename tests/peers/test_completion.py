"""Completion of command lines, in the shells themselves."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from peers.processes import find_program
from peers.servers import plain_environment
from signimage import cli
from signimage.completion import script
from unit.terminal import Terminal

_BASH = """
source "$1"
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
compopt() { :; }
_signimage
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files to complete, and the script of each shell."""
    for name in ("key one.pem", "key.pem"):
        (tmp_path / name).write_text("")
    (tmp_path / "keys").mkdir()
    for shell in ("bash", "zsh", "fish"):
        (tmp_path / f".{shell}").write_text(script(shell, cli.parser()))
    return tmp_path


def bash(folder: Path, *words: str) -> set[str]:
    """What bash offers for the last of *words*."""
    argv = [find_program("bash"), "--norc", "-c", _BASH, "bash", str(folder / ".bash"), *words]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


def fish(folder: Path, *words: str) -> set[str]:
    """What fish offers for the last of *words*."""
    code = 'source $argv[1]; complete -C "$argv[2]"'
    line = " ".join(words)
    argv = [find_program("fish"), "--no-config", "-c", code, str(folder / ".fish"), line]
    environment = {**plain_environment(), "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}


_BOTH = pytest.mark.parametrize("shell", [bash, fish])


@_BOTH
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("signimage", "ke"), {"key"}),
        (("signimage", "key", "ex"), {"export"}),
        (("signimage", "key", "generate", "--t"), {"--type"}),
        (("signimage", "key", "generate", "--type", "rsa"), {"rsa-3072"}),
        (("signimage", "key", "generate", "--dir", "ke"), {"keys/"}),
        (("signimage", "key", "import", "--json", "key"), {"key.pem", "key one.pem", "keys/"}),
        (("signimage", "completion", "z"), {"zsh"}),
        (("signimage", "key", "generate", "--root"), set()),
        (("signimage", "key", "list", "--root-c"), {"--root-ca"}),
    ],
)
def test_what_may_come_next_is_offered(
    folder: Path,
    shell: Callable[..., set[str]],
    words: tuple[str, ...],
    offered: set[str],
) -> None:
    found = shell(folder, *words)
    assert {each.rstrip("/").replace("\\ ", " ") for each in found} == {
        each.rstrip("/") for each in offered
    }


@_BOTH
def test_the_commands_of_the_program_and_of_a_group_are_all_offered(
    folder: Path, shell: Callable[..., set[str]]
) -> None:
    whole = cli.parser()
    plain = {each for each in shell(folder, "signimage", "") if not each.startswith("-")}
    assert plain == set(whole.inner)
    inner = {each for each in shell(folder, "signimage", "key", "") if not each.startswith("-")}
    assert inner == set(whole.inner["key"].inner)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("signimage key exp", "signimage key export"),
        ("signimage key list --repo", "signimage key list --repositories"),
        ("signimage key generate --type rsa", "signimage key generate --type rsa-3072"),
        ("signimage key import key.", "signimage key import key.pem"),
        ("signimage key generate --dir ke", "signimage key generate --dir keys"),
        ("signimage completion fi", "signimage completion fish"),
    ],
)
def test_zsh_completes_what_is_typed(folder: Path, typed: str, completed: str) -> None:
    environment = {**plain_environment(), "HOME": str(folder), "TERM": "dumb", "PS1": ""}
    with Terminal([find_program("zsh"), "-f", "-i"], environment, folder) as terminal:
        terminal.type("autoload -U compinit; compinit -u -D; source .zsh; echo rea''dy")
        terminal.expect("(?m)^ready$")
        terminal.type(typed, end="\t")
        terminal.expect(f"{completed}\\b")
