"""The stages of a Dockerfile: which images it names, and the same file with images pinned.

The rules of this file:

1. An image is named by `FROM`, `COPY --from`, `RUN --mount=…,from=` and by build contexts that
   begin with `docker-image://`; names of stages, numbers, `scratch` and other contexts are none.
2. Variables of `FROM` come from the `ARG`s before the first one, from build arguments and from the
   platforms; what cannot be known is said to be unknown, never guessed.
3. All stages count, also those that `--target` leaves out.
4. `ONBUILD` counts where a later stage of the same file sets it off.
5. Pinning replaces the images' names and nothing else, and is read again to prove it.

Dockerfile reference: "FROM", "COPY --from", "RUN --mount", "Understand how ARG and FROM interact",
"Automatic platform ARGs in the global scope".
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from signimage.buildarguments import flags, given_values
from signimage.errors import FormatError, InputError
from signimage.instructions import Instruction, Listing, Passage, parse, parse_words, triggered
from signimage.oci import Reference
from signimage.substitution import expand

_SCRATCH = "scratch"
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
# Fields of a mount are comma-separated values; one with a comma within stands in quotes, and two
# quotes in it stand for one.
_MOUNT_FIELD = re.compile(r'(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^,"]*))(?=,|\Z)')
_PLATFORM = re.compile(r"(?P<os>[a-z]+)/(?P<arch>[a-z0-9]+)(?:/(?P<variant>v\d+))?")
# Where BuildKit adds a variant of its own, or drops one, the variables are left unknown.
_PLAIN_ARCHITECTURES = frozenset({"386", "amd64", "loong64", "ppc64le", "riscv64", "s390x"})
_GLOBAL = tuple(
    side + part
    for side in ("BUILD", "TARGET")
    for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)
_STAGE = "TARGETSTAGE"  # which newer builders set
_IMAGE_CONTEXT = "docker-image://"
# Values that Docker's programs give by themselves: from its configuration, from the environment.
_UNASKED = frozenset(
    "ALL_PROXY FTP_PROXY HTTPS_PROXY HTTP_PROXY NO_PROXY SOURCE_DATE_EPOCH".split()  # noqa: SIM905 -- as a list this fills a screen
)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What decides, beside the file, which images are named.

    Attributes:
        arguments: Values of build arguments, by name.
        contexts: Named build contexts, by name: a folder, an address, `docker-image://…`.
        platforms: What is built for, as `linux/arm64`; empty where the builder decides.
        build_platform: What the builder runs on; empty where that is not known.
        is_classic: The engine's own builder is used, which knows no platform variables.
        has_target: The build may end with another stage than the last.
    """

    arguments: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[str, ...] = ()
    build_platform: str = ""
    is_classic: bool = False
    has_target: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """One place that names an image.

    Attributes:
        image: Its name, variables filled in; empty where that cannot be known.
        line: Counted from 1; 0 for a build context.
        span: Where the name stands in the text; empty for a build context.
        context: The name of the build context that it is, or empty.
        fault: Why the name cannot be known, or empty.
    """

    image: str
    line: int
    span: tuple[int, int] = (0, 0)
    context: str = ""
    fault: str = ""

    @property
    def place(self) -> str:
        """Where that is, for people."""
        return f"line {self.line}" if self.line else f"build context {self.context}"


@dataclass(frozen=True, slots=True)
class Stages:
    """What a Dockerfile says of images.

    Attributes:
        text: The file itself.
        uses: Where it names images, in the order of the file, contexts last.
        names: Of its stages, in small letters.
        base: What the image's own stage, the last one, is built on; None if that is no image, or
            not known.
        syntax: The image that the file is read by, empty for the builder's own reader.
        options: What it was read with.
    """

    text: str
    uses: tuple[Use, ...]
    names: frozenset[str]
    base: str | None
    syntax: str
    options: BuildOptions


def build_options(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    platforms: Sequence[str] = (),
    build_platform: str = "",
    is_classic: bool = False,
) -> BuildOptions:
    """Read what the *arguments* of `docker build` say of images.

    Args:
        arguments: The user's words.
        environment: What the program will have: `--build-arg NAME` takes its value from there.
        platforms: What is built for, if that is said outside of the arguments.
        build_platform: What the builder runs on, if that is known.
        is_classic: The engine's own builder is used.
    """
    last: dict[str, str] = {}
    contexts: dict[str, str] = {}
    for flag in flags(arguments):
        last[flag.name] = flag.value
        if flag.name == "--build-context":
            name, _, contexts[name] = flag.value.partition("=")
    wanted = last.get("--platform", environment.get("DOCKER_DEFAULT_PLATFORM", ""))
    return BuildOptions(
        given_values(arguments, environment),
        contexts,
        tuple(platforms) or tuple(filter(None, wanted.split(","))),
        build_platform,
        is_classic,
        "--target" in last,
    )


def read_stages(text: str, options: BuildOptions) -> Stages:
    """Find out which images a Dockerfile names.

    Raises:
        FormatError: No builder would take it, or not the classic one if that is meant.
    """
    listing = parse(text)
    if options.is_classic:
        _check_classic(listing)
    platforms = options.platforms or (options.build_platform,)
    found = [_Reading(listing, options, platform).read() for platform in platforms]
    uses = dict.fromkeys(use for uses, _, _ in found for use in uses)
    bases = {base for _, base, _ in found}
    syntax = options.arguments.get("BUILDKIT_SYNTAX") or listing.syntax
    return Stages(
        text=text,
        uses=(*sorted(uses, key=lambda use: use.span), *_image_contexts(options)),
        names=found[0][2],
        base=bases.pop() if len(bases) == 1 and not options.has_target else None,
        syntax="" if options.is_classic else syntax,
        options=options,
    )


def pinned(stages: Stages, pins: Mapping[str, str]) -> str:
    """Write other names for images into the file: *pins* has them by the names it uses.

    Raises:
        InputError: One place names different images for different platforms, or a name is
            written in a way that cannot be replaced.
    """
    replacements: dict[tuple[int, int], str] = {}
    for use in stages.uses:
        if use.line:
            pin = pins.get(use.image, "")
            if replacements.setdefault(use.span, pin) != pin:
                raise InputError(
                    f"Dockerfile line {use.line}: names different images for different platforms",
                    hint="Build with BuildKit, for which nothing is written into the file",
                )
    pieces, at = [], 0
    for (begin, end), pin in sorted(replacements.items()):
        pieces += [stages.text[at:begin], pin or stages.text[begin:end]]
        at = end
    text = "".join([*pieces, stages.text[at:]])
    _check_pinned(stages, text, pins)
    return text


def same_image(one: str, other: str) -> bool:
    """Tell whether two names mean one image, as `alpine` and `docker.io/library/alpine:latest`."""
    return _normal(one) == _normal(other)


def _check_pinned(stages: Stages, text: str, pins: Mapping[str, str]) -> None:
    expected = [(pins.get(use.image, use.image), use.fault) for use in stages.uses if use.line]
    again = read_stages(text, stages.options)
    found = [(use.image, use.fault) for use in again.uses if use.line]
    if found != expected:
        raise InputError(
            "Dockerfile: the names of its images cannot be replaced as they are written",
            hint="Write each as one plain word without quotes and line ends in it",
        )


def _check_classic(listing: Listing) -> None:
    for instruction in listing.instructions:
        if instruction.has_heredoc:
            raise FormatError(
                f"Dockerfile line {instruction.line}: a heredoc, which only BuildKit understands"
            )


def _image_contexts(options: BuildOptions) -> Iterator[Use]:
    for name, content in options.contexts.items():
        if content.startswith(_IMAGE_CONTEXT):
            image = content.removeprefix(_IMAGE_CONTEXT)
            if image != _SCRATCH:
                yield Use(image, 0, context=name)


def _normal(image: str) -> str:
    try:
        reference = Reference.parse(image)
    except InputError:
        return image
    return str(reference) if reference.tag or reference.digest else f"{reference}:latest"


class _UnknownVariableError(Exception):
    """A variable counts, and its value is not known here."""


@final
class _Reading:
    """The file as it is read for one platform."""

    def __init__(self, listing: Listing, options: BuildOptions, platform: str) -> None:
        self._listing = listing
        self._options = options
        self._contexts = {_normal(name) for name in options.contexts}
        self._values: dict[str, str | Exception] = {}
        self._emptied: set[str] = set()  # by an `ARG` without a value, for older builders
        if not options.is_classic:
            self._set_platforms(platform)
        self._count = len(_froms(listing))
        self._stages: dict[str, int] = {}  # by name, the last one that had it
        self._all_names = frozenset(_stage_name(each) for each in _froms(listing)) - {""}
        self._triggers: list[list[Instruction]] = []  # of each stage
        self._uses: list[Use] = []
        self._base: str | None = None

    def read(self) -> tuple[list[Use], str | None, frozenset[str]]:
        """Give the uses, the last stage's base image, and the names of all stages."""
        for instruction in self._listing.instructions:
            try:
                self._read(instruction)
            except FormatError as error:
                raise FormatError(f"Dockerfile line {instruction.line}: {error}") from error
        if not self._triggers:
            raise FormatError("Dockerfile: expected at least one FROM, got none")
        return self._uses, self._base, self._all_names

    def _read(self, instruction: Instruction) -> None:
        if instruction.name == "FROM":
            self._begin_stage(instruction)
        elif not self._triggers and instruction.name == "ARG":
            self._declare(instruction)
        elif not self._triggers:
            raise FormatError(f"expected FROM before {instruction.name}")
        elif instruction.name == "ONBUILD":
            self._triggers[-1].append(triggered(instruction, self._listing.escape))
        else:
            self._read_sources(instruction)

    # --- variables ---

    def _set_platforms(self, platform: str) -> None:
        unknown = {
            name: _UnknownVariableError(f"it depends on {name}, and the platform is not known here")
            for name in _GLOBAL
        }
        self._values |= {
            **unknown,
            _STAGE: _UnknownVariableError(f"it depends on {_STAGE}, which not all builders set"),
            **_platform_values("TARGET", platform),
            **_platform_values("BUILD", self._options.build_platform),
        }
        for name in (*unknown, _STAGE):
            if name not in self._options.arguments:
                continue
            self._values[name] = self._options.arguments[name]

    def _lookup(self, name: str) -> str | None:
        value = self._values.get(name)
        if isinstance(value, Exception):
            raise value
        return value

    def _lookup_emptied(self, name: str) -> str | None:
        return "" if name in self._emptied else self._lookup(name)

    def _expanded(self, word: str) -> str:
        """Fill in the variables of *word*, if all builders would do it alike."""
        lookups = (self._lookup, self._lookup_emptied)
        found = {expand(word, lookup, self._listing.escape) for lookup in lookups}
        if len(found) > 1:
            raise _UnknownVariableError("it depends on an ARG without a value, read in two ways")
        return found.pop()

    def _declare(self, instruction: Instruction) -> None:
        for word in parse_words(instruction.arguments, self._listing.escape):
            name, has_default, default = word.text.partition("=")
            self._emptied.discard(name)
            if name in self._options.arguments:
                self._values[name] = self._options.arguments[name]
            elif name.upper() in _UNASKED:
                self._values[name] = _UnknownVariableError(
                    f"it depends on {name}, which Docker may set by itself"
                )
            elif has_default:
                try:
                    self._values[name] = self._expanded(default)
                except (FormatError, _UnknownVariableError) as error:  # counts where it is used
                    self._values[name] = error
            else:
                self._emptied.add(name)

    # --- images ---

    def _begin_stage(self, instruction: Instruction) -> None:
        name = _stage_name(instruction)
        word = instruction.arguments.split()[0]
        self._base, fault = None, ""
        try:
            image = self._expanded(word.text)
            if not image:
                raise FormatError(f"expected the name of an image, got {word.text[:100]!r}")
        except _UnknownVariableError as error:
            image, fault = "", str(error)
        parent = self._stages.get(image.lower())
        if parent is None:
            self._base = self._use(image, instruction, word, fault)
        else:
            # Once: set off again they name the same, or what has become a stage by then.
            for each in self._triggers[parent]:
                self._read_sources(each)
            self._triggers[parent].clear()
        if name:
            self._stages[name] = len(self._triggers)
        self._triggers.append([])

    def _read_sources(self, instruction: Instruction) -> None:
        if instruction.name == "COPY":
            for word in instruction.flag("from"):
                self._read_source(instruction, word)
        elif instruction.name == "RUN":
            for mount in instruction.flag("mount"):
                for word in _mount_sources(mount):
                    self._read_source(instruction, word, takes_number=False)

    def _read_source(
        self, instruction: Instruction, word: Passage, *, takes_number: bool = True
    ) -> None:
        name = word.text
        if "$" in name[:-1]:
            raise FormatError(f"from={name[:100]}: variables are filled in for FROM alone")
        if takes_number and re.fullmatch("[0-9]{1,9}", name):
            if int(name) >= self._count:
                raise FormatError(f"--from={name[:100]}: expected the number of a stage")
            return
        # BuildKit knows all stages before it looks; for the classic builder, a later one is none.
        names = self._stages if self._options.is_classic else self._all_names
        if name and name.lower() not in names:
            self._use(name, instruction, word, "")

    def _use(self, image: str, instruction: Instruction, word: Passage, fault: str) -> str | None:
        if image == _SCRATCH or (image and _normal(image) in self._contexts):
            return None
        self._uses.append(Use(image, instruction.line, word.span, fault=fault))
        return image or None


def _froms(listing: Listing) -> list[Instruction]:
    return [each for each in listing.instructions if each.name == "FROM"]


def _stage_name(instruction: Instruction) -> str:
    """The name that a `FROM` gives its stage, in small letters, or nothing."""
    words = [word.text for word in instruction.arguments.split()]
    match words:
        case [image] if image:
            return ""
        case [_, between, name] if between.upper() == "AS" and _STAGE_NAME.fullmatch(name.lower()):
            return name.lower()
    raise FormatError(
        f"Dockerfile line {instruction.line}: FROM: expected an image, or an image AS the name of "
        f"a stage, got {' '.join(words)[:100]!r}"
    )


def _mount_sources(mount: Passage) -> list[Passage]:
    """The value of `from` in the value of a `--mount`, if it has one; the last one counts."""
    found, at = [], 0
    while at <= len(mount.text):
        match = _MOUNT_FIELD.match(mount.text, at)
        if match is None:
            raise FormatError(f"mount: expected comma-separated values, got {mount.text[:100]!r}")
        kind = "plain" if match["quoted"] is None else "quoted"
        key, equals, value = match[kind].partition("=")
        if key.lower() == "from" and equals and value:
            begin = match.start(kind) + len(key) + len(equals)
            found.append(mount.part(begin, match.end(kind)))
        at = match.end() + 1
    return found[-1:]


def _platform_values(side: str, platform: str) -> dict[str, str]:
    """The variables of a *platform*, as far as their values are certain."""
    match = _PLATFORM.fullmatch(platform)
    if match is None:
        return {}
    architecture = match["arch"]
    values = {f"{side}OS": match["os"]}
    is_plain = architecture in _PLAIN_ARCHITECTURES and match["variant"] is None
    if is_plain or platform in ("linux/arm64", "linux/arm/v6", "linux/arm/v7"):
        values |= {
            f"{side}PLATFORM": platform,
            f"{side}ARCH": architecture,
            f"{side}VARIANT": match["variant"] or "",
        }
    return values
