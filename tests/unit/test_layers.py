"""Imports point strictly downwards, and the core stays pure: the map of design, checked.

The rules, and how to change them:

1. A module imports only what stands below it in `_LAYERS`; those on one line are strangers.
   A new module gets its line here, in the band it belongs to, or the test fails.
2. A pure module imports nothing that reaches a socket, a file, a clock or the environment, and
   calls nothing that does.
3. A heavy library is imported by its owner alone, and some only inside of a function.
4. `azure_pipelines_task_lib` knows nothing of `signimage`; only the shells of the step, the
   worker with its parts, inputs and outputs, know of it.
5. No file is longer than 500 lines.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_PYWORKER = Path(__file__).parents[2] / "pyworker"
_OURS, _TASK_LIB = "signimage", "azure_pipelines_task_lib"
_MAX_LINES = 500

_LAYERS = (
    # shells
    ("worker", "cli"),
    ("keycommands", "trustcommands", "imagecommands", "reportcommands", "completion"),
    ("arguments",),
    ("desk", "manual"),
    ("commands",),
    ("preparation",),
    ("outputs", "step", "console"),
    ("sources",),
    ("inputs", "summary"),
    # use cases
    ("checkup",),
    ("doctor", "rotation", "releases", "history"),
    ("signing", "administration", "custody"),
    ("verification",),
    ("bases",),
    # clients
    ("notary", "engine", "azure"),
    ("publisher", "dockercli", "enginesdk"),
    ("upload", "tags"),
    ("blobupload",),
    ("registry", "trustapi", "acr", "buildx"),
    ("authorization", "credentials", "entra"),
    ("securefiles", "tokenservice", "imagedetails", "enginestream", "dockerbuild"),
    ("programs",),
    # I/O tools
    ("archive",),
    ("dockerarchive",),
    ("ocilayout",),
    ("imagefiles",),
    ("compression", "tarball"),
    ("cancellation", "keystore", "trustcache", "turns", "dockerconfig", "dockerfile"),
    ("agentnetwork", "transport", "systemkeyring"),
    ("faults",),
    ("connection",),
    ("proxies", "tls"),
    ("response", "parallel"),
    # pure core
    ("succession",),
    ("reportpage",),
    ("reportdrawing",),
    ("report",),
    ("expiry",),
    ("publication",),
    ("lookup",),
    ("trust",),
    ("pinning",),
    ("metadata",),
    ("filemeta",),
    ("members",),
    ("keyfile",),
    ("keys",),
    ("certificates", "permissions"),
    ("stages",),
    ("instructions", "buildarguments"),
    ("substitution",),
    ("der", "pem", "canonical", "oci"),
    ("errors", "variables"),
)
_PURE = frozenset(name for layer in _LAYERS[_LAYERS.index(("succession",)) :] for name in layer)
_IMPURE = frozenset(
    re.findall(
        r"\w+",
        """
        asyncio builtins ctypes docker fcntl ftplib getpass glob http importlib io keyring
        locale logging mmap multiprocessing os pathlib pty random requests select selectors
        shutil signal socket socketserver ssl structlog subprocess sys tempfile threading
        time urllib urllib3
        """,
    )
)
_IMPURE_FUNCTIONS = frozenset({"input", "open", "print"})
_CLOCKS = frozenset({"now", "today", "utcnow"})
# Who may import it at all; of these, what start-up must not wait for.
_OWNERS = {
    "docker": {"enginesdk"},
    "keyring": {"systemkeyring"},
    "requests": {"enginesdk"},
    "rich": {"console"},
    "structlog": {"worker"},
    "urllib3": {"transport", "faults", "connection", "enginesdk"},
    _TASK_LIB: {"worker", "step", "outputs", "inputs"},
}
_LATE = frozenset({"docker", "keyring", "requests", "rich", "structlog"})


@dataclass(frozen=True, slots=True)
class _Import:
    module: str
    line: int
    late: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def violations(pyworker: Path) -> list[str]:
    """Return a sentence for each breach of the rules below the folder *pyworker*."""
    found = []
    for file in sorted(pyworker.rglob("*.py")):
        name = str(file.relative_to(pyworker))
        text = file.read_text("utf-8")
        if len(text.splitlines()) > _MAX_LINES:
            found.append(f"{name}: expected at most {_MAX_LINES} lines")
        tree = ast.parse(text, name)
        if file.parent == pyworker / _OURS:
            sentences = _module_violations(file.stem, tree)
        elif file.is_relative_to(pyworker / _TASK_LIB):
            sentences = _task_lib_violations(tree)
        else:
            sentences = _start_up_violations(tree)
        found += [f"{name}:{sentence}" for sentence in sentences]
    return found


def _module_violations(name: str, tree: ast.Module) -> Iterator[str]:
    if name != "__init__" and _depth(name) is None:
        yield f"1: {name} has no place in the layers"
        return
    for one in _imports(tree):
        yield from _direction_violations(name, one)
        if name not in _OWNERS.get(one.package, {name}):
            yield f"{one.line}: {one.package} belongs to others"
        if one.package in _LATE and not one.late:
            yield f"{one.line}: {one.package} is imported inside of functions only"
        # urllib.parse is about text.
        if name in _PURE and one.package in _IMPURE and one.module != "urllib.parse":
            yield f"{one.line}: {name} is pure and imports {one.module}"
    if name in _PURE:
        yield from (
            f"{line}: {name} is pure and calls {what}" for line, what in _impure_calls(tree)
        )


def _direction_violations(name: str, one: _Import) -> Iterator[str]:
    if one.module == _OURS or one.package != _OURS:
        return
    target = one.module.split(".")[1]
    own, other = _depth(name), _depth(target)
    if other is None or (own is not None and other <= own):
        yield f"{one.line}: {name} imports {target}, which is not below it"


def _task_lib_violations(tree: ast.Module) -> Iterator[str]:
    for one in _imports(tree):
        if one.package == _OURS:
            yield f"{one.line}: the task library knows nothing of {_OURS}"


def _start_up_violations(tree: ast.Module) -> Iterator[str]:
    for one in _imports(tree):
        if one.package in (_OURS, _TASK_LIB) and one.module != f"{_OURS}.worker":
            yield f"{one.line}: start-up imports {one.module}; expected {_OURS}.worker alone"


def _depth(name: str) -> int | None:
    """Return how far down *name* stands; the package itself, for its version, is at the bottom."""
    if name == "__init__":
        return len(_LAYERS)
    return next((depth for depth, layer in enumerate(_LAYERS) if name in layer), None)


def _imports(tree: ast.Module) -> Iterator[_Import]:
    late = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = _imported_from(node)
        else:
            continue
        yield from (_Import(name, node.lineno, id(node) in late) for name in names)


def _imported_from(node: ast.ImportFrom) -> list[str]:
    if node.level:
        return [f"{_OURS}.{node.module or node.names[0].name}"]
    if node.module == _OURS:
        # `from signimage import x` is a module, unless x is dunder data such as the version.
        return [_OURS if a.name.startswith("__") else f"{_OURS}.{a.name}" for a in node.names]
    return [str(node.module)]


def _is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _impure_calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in _IMPURE_FUNCTIONS:
            yield node.lineno, function.id
        if isinstance(function, ast.Attribute) and function.attr in _CLOCKS:
            yield node.lineno, function.attr


def test_the_tree_keeps_its_rules() -> None:
    assert violations(_PYWORKER) == []


def test_the_tree_is_seen() -> None:
    """A wrong folder would keep all rules."""
    assert (_PYWORKER / _OURS / "errors.py").is_file()
    assert (_PYWORKER / _TASK_LIB / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("signimage/trust.py", "from signimage.notary import x", "trust imports notary"),
        ("signimage/trust.py", "def f():\n  import signimage.cli", "trust imports cli"),
        ("signimage/notary.py", "from signimage import engine", "notary imports engine"),
        ("signimage/keys.py", "from . import trust", "keys imports trust"),
        ("signimage/keys.py", "from .metadata import Role", "keys imports metadata"),
        ("signimage/errors.py", "from signimage import nothing", "errors imports nothing"),
        ("signimage/utils.py", "", "utils has no place in the layers"),
        ("signimage/trust.py", "import socket", "trust is pure and imports socket"),
        (
            "signimage/oci.py",
            "from urllib.request import urlopen",
            "oci is pure and imports urllib",
        ),
        ("signimage/keys.py", "def f():\n  from os import environ", "keys is pure and imports os"),
        ("signimage/trust.py", "datetime.now(timezone.utc)", "trust is pure and calls now"),
        ("signimage/metadata.py", "open('x')", "metadata is pure and calls open"),
        ("signimage/signing.py", "def f():\n  import docker", "docker belongs to others"),
        (
            "signimage/enginesdk.py",
            "import docker.auth",
            "docker is imported inside of functions only",
        ),
        ("signimage/registry.py", "import urllib3", "urllib3 belongs to others"),
        ("signimage/cli.py", "import azure_pipelines_task_lib", "_task_lib belongs to others"),
        ("azure_pipelines_task_lib/task.py", "import signimage", "knows nothing of signimage"),
        ("startup.py", "from signimage.signing import x", "start-up imports signimage.signing"),
        ("signimage/trust.py", "x = 1\n" * 501, "expected at most 500 lines"),
    ],
)
def test_one_breach_is_found(tmp_path: Path, file: str, text: str, sentence: str) -> None:
    """Each rule fails on a tree that breaks it, and on nothing else in that tree."""
    _write(tmp_path, file, text)
    (found,) = violations(tmp_path)
    assert found.startswith(file)
    assert sentence in found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("signimage/cli.py", "from signimage import __version__\nfrom signimage.errors import x"),
        ("signimage/worker.py", "from signimage import signing\nimport azure_pipelines_task_lib"),
        ("signimage/oci.py", "from urllib.parse import urlsplit\nfrom datetime import datetime"),
        ("signimage/enginesdk.py", "def f():\n  import docker"),
        ("signimage/enginesdk.py", "if TYPE_CHECKING:\n  import docker"),
        ("startup.py", "import os\ndef f():\n  from signimage.worker import main"),
    ],
)
def test_what_is_allowed_is_no_breach(tmp_path: Path, file: str, text: str) -> None:
    _write(tmp_path, file, text)
    assert violations(tmp_path) == []


def _write(folder: Path, file: str, text: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text, "utf-8")
