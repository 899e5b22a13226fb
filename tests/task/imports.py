"""Which modules a program would load on a platform that is not at hand, by reading its sources.

1. What a module imports when it is loaded is followed; in our own, late imports are followed too.
2. Conditions on platform, version and type checking are decided as that platform would.
3. An import inside of `try` with a handler for its failure is a wish, together with all it needs;
   in libraries, one under a condition that cannot be decided is a wish too.
4. A compiled module is found by the file name that its platform gives it.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Modules of the standard library that one kind of system lacks.
POSIX_ONLY = frozenset(
    re.findall(
        r"\w+",
        """
        crypt curses fcntl grp nis posix pty pwd readline resource spwd syslog termios tty
        _curses _posixsubprocess ossaudiodev
        """,
    )
)
WINDOWS_ONLY = frozenset({"_winapi", "msvcrt", "nt", "winreg", "winsound"})
# Compiled modules do not say what they import.
HIDDEN = {"cryptography.hazmat.bindings._rust": ("_cffi_backend",)}
CAUGHT = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What a program can ask about where it runs, and how compiled modules are named there."""

    name: str  # as platforms.json has it
    system: str  # sys.platform
    python: tuple[int, int]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The endings of compiled modules that this Python loads, best first."""
        digits = "".join(map(str, self.python))
        machine = self.name.partition("-")[2]
        if self.system == "win32":
            return (f".cp{digits}-win_{machine}.pyd", ".pyd")
        if self.system == "darwin":
            return (f".cpython-{digits}-darwin.so", ".abi3.so")
        return (f".cpython-{digits}-{machine}-linux-gnu.so", ".abi3.so")

    @property
    def lacking(self) -> frozenset[str]:
        """Modules of the standard library that are not there."""
        return POSIX_ONLY if self.system == "win32" else WINDOWS_ONLY


@dataclass(frozen=True, slots=True)
class Wanted:
    """A module that a source names, and whether it can do without."""

    module: str
    optional: bool


@functools.cache
def parsed(file: Path) -> ast.Module:
    """Return the syntax tree of a source, read once."""
    return ast.parse(file.read_text("utf-8"))


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk over everything that is loaded with some modules.

    Args:
        platform: Where it would be loaded.
        folders: The module path, without the standard library.
        native: The folder that is also inside of `cryptography.hazmat.bindings`.
        library: The names of the standard library.
        own: The packages whose late imports count.
    """

    platform: Platform
    folders: Sequence[Path]
    native: Path
    library: frozenset[str]
    own: frozenset[str]
    files: dict[str, Path | None] = field(default_factory=dict)  # where each module is
    wants: dict[str, frozenset[Wanted]] = field(default_factory=dict)  # what each module imports

    def missing(self, *modules: str) -> set[str]:
        """Return what *modules* cannot be loaded without and is not there."""
        return {each for each in self.closure(modules) if self.is_absent(each)}

    def loaded(self, *modules: str) -> dict[str, Path]:
        """Return the files that are loaded with *modules*, by module, wishes granted included."""
        found: dict[str, Path] = {}
        ahead = set(modules)
        while ahead:
            closure = self.closure(ahead)
            ahead = set()
            for each in closure:
                if (file := self.find(each)) and each not in found:
                    found[each] = file
                    wishes = {one.module for one in self.imports(each) if one.optional}
                    ahead |= {wish for wish in wishes if not self.missing(wish)}
        return found

    def wished(self, *modules: str) -> set[str]:
        """Return what is not there, and what is loaded with *modules* does without."""
        loaded = self.loaded(*modules)
        wishes = {one.module for each in loaded for one in self.imports(each) if one.optional}
        return self.missing(*wishes)

    def closure(self, modules: Iterable[str]) -> set[str]:
        """Return *modules*, and all that they import without a choice."""
        ahead = [part for module in modules for part in packages(module)]
        found = set()
        while ahead:
            module = ahead.pop()
            if module not in found:
                found.add(module)
                needs = (one.module for one in self.imports(module) if not one.optional)
                ahead += [part for need in needs for part in packages(need)]
        return found

    def is_absent(self, module: str) -> bool:
        """Tell whether a module is neither in the folders nor in the standard library."""
        return not self.is_standard(module) and self.find(module) is None

    def is_standard(self, module: str) -> bool:
        """Tell whether a module is in the standard library of the platform."""
        top = module.partition(".")[0]
        return top in self.library and top not in self.platform.lacking

    def find(self, module: str) -> Path | None:
        """Return the file of a module, or None."""
        if module not in self.files:
            self.files[module] = next(filter(Path.is_file, self._places(module)), None)
        return self.files[module]

    def _places(self, module: str) -> Iterator[Path]:
        package, _, name = module.rpartition(".")
        inside = [folder / package.replace(".", "/") for folder in self.folders]
        if package == "cryptography.hazmat.bindings":
            inside.append(self.native)
        for folder in filter(Path.is_dir, inside):
            yield from (folder / name / "__init__.py", folder / f"{name}.py")
            yield from (folder / f"{name}{suffix}" for suffix in self.platform.suffixes)

    def imports(self, module: str) -> frozenset[Wanted]:
        """Return what loading a module imports; nothing for what is not in the folders."""
        if module not in self.wants:
            file = None if self.is_standard(module) else self.find(module)
            named = {Wanted(name, optional=False) for name in HIDDEN.get(module, ())}
            if file is not None and file.suffix == ".py":
                package = module if file.name == "__init__.py" else module.rpartition(".")[0]
                late = module.partition(".")[0] in self.own
                for node, optional in self._executed(parsed(file).body, late=late, optional=False):
                    named |= {Wanted(name, optional) for name in self._named(node, package)}
            self.wants[module] = frozenset(named)
        return self.wants[module]

    def _executed(
        self, body: Sequence[ast.stmt], *, late: bool, optional: bool
    ) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
        for node in body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield node, optional
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if late:
                    yield from self._executed(node.body, late=late, optional=optional)
            elif isinstance(node, ast.Try):
                wish = optional or any(map(catches, node.handlers))
                yield from self._executed(node.body, late=late, optional=wish)
                for part in (*(handler.body for handler in node.handlers), node.orelse):
                    yield from self._executed(part, late=late, optional=wish)
                yield from self._executed(node.finalbody, late=late, optional=optional)
            elif isinstance(node, ast.If):
                answer = self.decided(node.test)
                wish = optional or (answer is None and not late)
                if answer is not False:
                    yield from self._executed(node.body, late=late, optional=wish)
                if answer is not True:
                    yield from self._executed(node.orelse, late=late, optional=wish)
            else:
                inner = getattr(node, "body", [])
                yield from self._executed(inner, late=late, optional=optional)

    def decided(self, test: ast.expr) -> bool | None:
        """Return what a condition is on this platform, or None where that cannot be told."""
        known = {
            "sys.platform": self.platform.system,
            "sys.version_info": self.platform.python,
            "os.name": "nt" if self.platform.system == "win32" else "posix",
        }
        if ast.unparse(test).rpartition(".")[2] == "TYPE_CHECKING":
            return False
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            left, right = ast.unparse(test.left), test.comparators[0]
            if left in known and isinstance(right, (ast.Constant, ast.Tuple)):
                return compare(known[left], test.ops[0], ast.literal_eval(right))
        return None

    def _named(self, node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        parts = above if node.level else []
        source = ".".join([*parts, *filter(None, [node.module])])
        yield source
        for alias in node.names:
            # What is not a module of its own is a name inside of one.
            if self.find(f"{source}.{alias.name}") is not None:
                yield f"{source}.{alias.name}"


def packages(module: str) -> Iterator[str]:
    """Yield a module and the packages that it is in."""
    parts = module.split(".")
    yield from (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))


def catches(handler: ast.ExceptHandler) -> bool:
    """Tell whether a handler is for imports that fail."""
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(kind) in CAUGHT for kind in kinds)


def compare(left: object, operator: ast.cmpop, right: object) -> bool | None:
    """Return the result of a comparison of two texts or two versions."""
    if isinstance(operator, (ast.Eq, ast.NotEq)):
        return (left == right) is isinstance(operator, ast.Eq)
    if isinstance(left, tuple) and isinstance(right, tuple):
        length = len(right)
        if isinstance(operator, ast.GtE):
            return bool(left[:length] >= right)
        if isinstance(operator, ast.Lt):
            return bool(left[:length] < right)
    return None
