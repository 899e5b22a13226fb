"""What the user's build arguments say, read as the Docker command line reads them.

The rules of this file:

1. There is one reader of words, `flags`; everything else asks it. Two readers that disagree would
   have one thing checked and another one built.
2. A word that is the value of a flag is never taken for a flag: `--label --push` pushes nothing.
3. Arguments are split as a shell would, and nothing in them is ever run.

Docker CLI `build`, `buildx build`.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from signimage.errors import InputError

# Flags of `docker buildx build` that take no value; every other one takes one.
_SWITCHES = frozenset(
    (  # noqa: SIM905 -- as a list this fills a screen
        "--check --compress --debug --force-rm --help --load --no-cache --pull --push --quiet "
        "--rm --squash"
    ).split()
)
_SHORT_SWITCHES = "Dhq"
_LONG_NAMES = {"-f": "--file", "-o": "--output", "-t": "--tag"}
_DECIDES = ("--output", "--load")
_OURS = ("--push", "--tag", "--metadata-file")
_TRUST_FLAG = "--disable-content-trust"
# A line that goes on in the next one; two backslashes are one that is meant.
_CONTINUATION = re.compile(r"(?<!\\)((?:\\\\)*)\\\r?\n")


class Flag(NamedTuple):
    """A flag under its long name, its value ("" for none), and the words that it stands in."""

    name: str
    value: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildArguments:
    """The user's build arguments, sorted by what becomes of them.

    `kept` go on to the builder; `names` were given by `--tag` and are left out, because images
    get their names when they are signed. `deciding` is the flag that says itself where the image
    goes, empty if none does; `pushing` is the `--output` that brings it to a registry, with tags.
    `file` is another Dockerfile than the one of the request.
    """

    kept: tuple[str, ...]
    names: tuple[str, ...] = ()
    builder: str = ""
    platforms: str = ""
    metadata_file: str = ""
    deciding: str = ""
    pushing: str = ""
    file: str = ""


def split_arguments(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split build arguments as a POSIX shell would, without doing anything else that it does.

    Returns:
        The arguments, and those left out because they mean nothing any more: content trust is
        what this product is for, and the flag has left Docker.

    Raises:
        InputError: A quotation is not closed.
    """
    try:
        words = shlex.split(_CONTINUATION.sub(r"\1", text), posix=True)
    except ValueError as error:
        raise InputError("arguments: expected every quotation to be closed") from error
    dropped = tuple(word for word in words if word.partition("=")[0] == _TRUST_FLAG)
    return tuple(word for word in words if word not in dropped), dropped


def flags(arguments: Sequence[str]) -> Iterator[Flag]:
    """Yield the flags of *arguments* in their order; a word that is none stands by itself."""
    words = iter(arguments)
    for word in words:
        name, value, is_complete = _parts(word)
        if is_complete:
            yield Flag(name, value, (word,))
        else:
            following = tuple(word for word in (next(words, None),) if word is not None)
            yield Flag(name, "".join(following), (word, *following))


def read_arguments(arguments: Sequence[str]) -> BuildArguments:
    """Sort the user's build *arguments*; of flags that count once, the last one counts."""
    found = tuple(flags(arguments))
    last = {flag.name: flag.value for flag in found}
    outputs = [flag.value for flag in found if flag.name == "--output"]
    return BuildArguments(
        kept=_words(flag for flag in found if flag.name not in _OURS),
        names=tuple(flag.value for flag in found if flag.name == "--tag"),
        builder=last.get("--builder", ""),
        platforms=last.get("--platform", ""),
        metadata_file=last.get("--metadata-file", ""),
        deciding=next((name for name in _DECIDES if name in last), ""),
        pushing=next((output for output in reversed(outputs) if _pushes(output)), ""),
        file=last.get("--file", ""),
    )


def without_push(arguments: Sequence[str]) -> tuple[str, ...]:
    """The same *arguments* without `--push`, which would move every tag before it is signed."""
    return _words(flag for flag in flags(arguments) if flag.name != "--push")


def goes_elsewhere(arguments: Sequence[str]) -> bool:
    """Tell whether *arguments* bring the image elsewhere than into the engine."""
    return any(flag.name in ("--push", "--output") for flag in flags(arguments))


def given_values(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The build arguments with their values: `--build-arg NAME` takes its own from *environment*.

    One that is not there has none, and is left out, as by Docker.
    """
    values: dict[str, str] = {}
    for flag in flags(arguments):
        if flag.name == "--build-arg":
            name, is_given, value = flag.value.partition("=")
            if is_given or name in environment:
                values[name] = value if is_given else environment[name]
    return values


def named_variables(arguments: Sequence[str]) -> frozenset[str]:
    """Return the environment variables that build *arguments* tell Docker to read."""
    names: set[str] = set()
    for flag in flags(arguments):
        if flag.name == "--build-arg" and "=" not in flag.value:
            names.add(flag.value)
        elif flag.name == "--secret":
            fields = dict(item.partition("=")[::2] for item in flag.value.split(","))
            source = fields.get("env")
            if source is None and not {"src", "source"} & fields.keys():
                source = fields.get("id")  # Docker then looks for a variable of that name
            names.add(source or "")
    return frozenset(names - {""})


def _words(chosen: Iterable[Flag]) -> tuple[str, ...]:
    return tuple(word for flag in chosen for word in flag.words)


def _pushes(output: str) -> bool:
    """Tell whether an *output* goes to a registry, as BuildKit reads it."""
    import csv  # noqa: PLC0415 -- takes 4 ms of every step, and few arguments have an output

    fields = dict(
        field.strip().lower().partition("=")[::2]
        for row in csv.reader(output.splitlines())
        for field in row
    )
    is_pushed = fields.get("push", "false") not in ("0", "f", "false")
    return fields.get("type") == "registry" or is_pushed


def _parts(word: str) -> tuple[str, str, bool]:
    """Return flag and value of a *word*, and whether the value is not in the next one."""
    if word.startswith("--"):
        name, is_given, value = word.partition("=")
        return name, value, bool(is_given) or name in _SWITCHES
    letters = word[1:].lstrip(_SHORT_SWITCHES) if word.startswith("-") else ""
    if not letters:
        return word, "", True
    name, value = f"-{letters[0]}", letters[1:]
    return _LONG_NAMES.get(name, name), value.removeprefix("="), bool(value)
