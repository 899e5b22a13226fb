"""What shells need to complete command lines of `signimage`: a script for each of them.

The scripts are made from the commands as they are declared, hold all they need, and never start
the program. A shell offers the commands of a group, then options and what they take; files where
a file is wanted.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from signimage.arguments import EXIT_DONE, command
from signimage.desk import Desk
from signimage.manual import Command

_FILES = frozenset({"FILE", "PUB"})
_FOLDERS = frozenset({"FOLDER"})


def add_command(commands: Any, whole: Command) -> None:
    """Add the command `completion` to *commands*, those of the program *whole*."""

    def run(arguments: argparse.Namespace, desk: Desk) -> int:
        text = script(arguments.shell, whole)
        desk.console.hand_over({"shell": arguments.shell, "script": text}, text.rstrip("\n"))
        return EXIT_DONE

    declared = command(
        commands,
        "completion",
        run,
        "print a script that completes command lines",
        more="""
        What is printed goes where the shell looks for such scripts, or is read by it when it
        starts.
        """,
        examples=(
            "bash:  source <(signimage completion bash)",
            'zsh:   signimage completion zsh > "${fpath[1]}/_signimage"',
            "fish:  signimage completion fish > ~/.config/fish/completions/signimage.fish",
        ),
    )
    declared.add_argument(
        "shell", metavar="SHELL", choices=tuple(_SCRIPTS), help=", ".join(_SCRIPTS)
    )


def script(shell: str, whole: Command) -> str:
    """Return the script for "bash", "zsh" or "fish" of the program *whole*."""
    return _SCRIPTS[shell](whole)


# --- bash ------------------------------------------------------------------------------------


def _bash(whole: Command) -> str:
    lines = [
        "# bash completion for signimage",
        "_signimage() {",
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}",
        "    local at= i words= options= kind=",
        "    COMPREPLY=()",
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "$at/${COMP_WORDS[i]}" in',
        f"            {'|'.join(each for each in _paths(whole) if each)})",
        "                at=$at/${COMP_WORDS[i]} ;;",
        "        esac",
        "    done",
        '    case "$at $prev" in',
    ]
    for path, each in _paths(whole).items():
        for option in each.options:
            if option.nargs != 0:
                names = "|".join(f'"{path} {name}"' for name in option.option_strings)
                lines.append(f"        {names}) {_bash_value(option)} ;;")
    lines += ["        *)", '            case "$at" in']
    for path, each in _paths(whole).items():
        lines.append(f'                "{path}") {_bash_words(each)} ;;')
    lines += [
        "            esac",
        "            if [[ $cur == -* ]]; then words=$options kind=; fi ;;",
        "    esac",
        "    case $kind in",
        '        files) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;',
        '        folders) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;',
        '        *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;',
        "    esac",
        "}",
        "complete -F _signimage signimage",
    ]
    return "\n".join(lines) + "\n"


def _bash_value(action: argparse.Action) -> str:
    if action.choices is not None:
        return f'words="{" ".join(map(str, action.choices))}"'
    return f"kind={_kind(action) or 'none'}"


def _bash_words(command: Command) -> str:
    kinds = [_kind(each) for each in command.operands if _kind(each)]
    return " ".join(
        [
            f'words="{" ".join(_plain_words(command))}"',
            f'options="{" ".join(_option_names(command))}"',
            *(f"kind={each}" for each in kinds[:1]),
        ]
    )


# --- zsh -------------------------------------------------------------------------------------


def _zsh(whole: Command) -> str:
    lines = [
        "#compdef signimage",
        "# zsh completion for signimage",
        "_signimage() {",
        "    local at= word",
        "    integer i=1 last=1",
        "    while (( ++i < CURRENT )); do",
        "        word=$words[i]",
        "        case $at/$word in",
        f"            ({'|'.join(each for each in _paths(whole) if each)}) at=$at/$word last=$i ;;",
        "        esac",
        "    done",
        "    shift $((last - 1)) words",
        "    (( CURRENT -= last - 1 ))",
        "    case $at in",
    ]
    for path, each in _paths(whole).items():
        lines.append(f"        ({path or _EMPTY})")
        lines += [
            f"            {line}" for line in (_zsh_group(each) if each.inner else _zsh_leaf(each))
        ]
        lines.append("            ;;")
    lines += [
        "    esac",
        "}",
        # Found in a folder of functions it is called at once, and read by hand it is announced.
        'if [[ $funcstack[1] == _signimage ]]; then _signimage "$@"',
        "else compdef _signimage signimage; fi",
    ]
    return "\n".join(lines) + "\n"


_EMPTY = "''"


def _zsh_group(command: Command) -> Iterator[str]:
    yield "local -a found=("
    for name, inner in command.inner.items():
        yield f"    {_quoted(name + ':' + (inner.description or ''))}"
    yield ")"
    yield "_describe command found"


def _zsh_leaf(command: Command) -> Iterator[str]:
    yield "_arguments \\"
    for option in command.options:
        about = (option.help or "").replace("[", "(").replace("]", ")").replace(":", "\\:")
        repeated = "*" if option.nargs == "+" or "repeated" in about else ""
        for name in option.option_strings:
            yield f"    {_quoted(f'{repeated}{name}[{about}]{_zsh_value(option)}')} \\"
    offered = [each for each in command.operands if _kind(each) or each.choices is not None]
    for operand in offered[:1]:
        yield f"    {_quoted(f'*{_zsh_value(operand)}')} \\"
    yield "    && return"


def _zsh_value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = str(action.metavar or action.dest).replace(":", "\\:")
    if action.choices is not None:
        return f":{name}:({' '.join(map(str, action.choices))})"
    return f":{name}:{_ZSH_KINDS[_kind(action)]}"


_ZSH_KINDS: Mapping[str, str] = {"files": "_files", "folders": "_files -/", "": " "}


# --- fish ------------------------------------------------------------------------------------


def _fish(whole: Command) -> str:
    known = " ".join(each for each in _paths(whole) if each)
    lines = [
        "# fish completion for signimage",
        "function __signimage_at",
        "    set -l at ''",
        "    for word in (commandline -opc)[2..-1]",
        f"        if contains -- $at/$word {known}",
        "            set at $at/$word",
        "        end",
        "    end",
        '    test "$at" = "$argv[1]"',
        "end",
        "complete -c signimage -f",
    ]
    for path, each in _paths(whole).items():
        here = f"complete -c signimage -n {_quoted('__signimage_at ' + _quoted(path))}"
        for name, inner in each.inner.items():
            lines.append(f"{here} -a {name} -d {_quoted(inner.description or '')}")
        lines += [f"{here} {_fish_option(option)}" for option in each.options]
        for operand in each.operands:
            if operand.choices is not None:
                lines.append(f"{here} -a {_quoted(' '.join(map(str, operand.choices)))}")
            elif _kind(operand):
                lines.append(f"{here} {_FISH_KINDS[_kind(operand)].removeprefix('-r ')}")
    return "\n".join(lines) + "\n"


# What an option or operand takes: -x is one value and no file, -rF one value that is a file.
_FISH_KINDS: Mapping[str, str] = {
    "files": "-r -F",
    "folders": "-x -a '(__fish_complete_directories)'",
    "": "-x",
}


def _fish_option(option: argparse.Action) -> str:
    words = [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in option.option_strings
    ]
    words.append(f"-d {_quoted(option.help or '')}")
    if option.choices is not None:
        words.append(f"-x -a {_quoted(' '.join(map(str, option.choices)))}")
    elif option.nargs != 0:
        words.append(_FISH_KINDS[_kind(option)])
    return " ".join(words)


# --- All of them -----------------------------------------------------------------------------

_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def _paths(command: Command, path: str = "") -> dict[str, Command]:
    """Every command and group by its words, each after a slash; the program itself by nothing."""
    found = {path: command}
    for name, inner in command.inner.items():
        found |= _paths(inner, f"{path}/{name}")
    return found


def _plain_words(command: Command) -> list[str]:
    words = list(command.inner)
    for operand in command.operands:
        words += map(str, operand.choices or ())
    return words


def _option_names(command: Command) -> list[str]:
    return [name for option in command.options for name in option.option_strings]


def _kind(action: argparse.Action) -> str:
    if action.metavar in _FILES:
        return "files"
    return "folders" if action.metavar in _FOLDERS else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
