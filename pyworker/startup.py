"""What happens between the shim and the worker: the second gate, and the way to the libraries.

The rule of this file: it imports the standard library only, and `signimage` last of all.

1. An interpreter that can load no native modules: exit code 86, the shim tries the next one.
2. A packaged task: put `vendor/common` and `vendor/native/<platform>` on the module path.
   A checkout has no `vendor` folder and uses what is installed for the interpreter.
3. A machine the package holds no native modules for: one sentence, a failed step, exit code 87.
4. Run the worker: exit code 87 if it returned 0, having reported its own result; 1 otherwise.
   Never 0: that is what any program ends with that calls itself python and runs no worker.

No other exit codes are ever used: the shim reads some of them as "this is no usable Python".
"""

import json
import os
import sys
import traceback
from pathlib import Path

UNFIT, REPORTED = 86, 87
# Systems as people and wheels call them, where Python has another name.
SYSTEMS = {"win32": "win", "darwin": "macos"}
HERE = Path(__file__).resolve().parent
VENDOR = HERE / "vendor"


def interpreter_fault() -> str:
    """Return why the native modules cannot load in any build like this one, or an empty text."""
    if sys.implementation.name != "cpython":
        return f"not CPython but {sys.implementation.name}"
    if "t" in getattr(sys, "abiflags", "") or sys.version.find("free-threading") >= 0:
        return "a free-threaded build"
    if sys.maxsize < 2**32:
        return "a 32-bit build"
    return ""


def platform_facts() -> dict[str, str]:
    """Return system, machine and C library as `vendor/platforms.json` names them."""
    if sys.platform == "win32":
        # The build's own architecture counts, not the machine's: x64 builds run on ARM machines.
        return {"system": "win32", "machine": "arm64" if "ARM64" in sys.version else "amd64"}
    facts = {"system": sys.platform, "machine": os.uname().machine}
    if sys.platform == "linux":
        facts["libc"] = "glibc" if is_glibc() else "musl"
    return facts


def described(facts: dict[str, str]) -> str:
    """Return the facts of a platform in words, e.g. "linux-x86_64 with musl" or "macos-arm64"."""
    system = SYSTEMS.get(facts["system"], facts["system"])
    libc = f" with {facts['libc']}" if "libc" in facts else ""
    return f"{system}-{facts['machine']}{libc}"


def is_glibc() -> bool:
    """Tell glibc from musl, whose native modules differ while their file names may not."""
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


def graft(native: Path) -> None:
    """Put the vendored libraries on the module path, before everything but the worker itself."""
    sys.path[1:1] = [str(VENDOR / "common"), str(native)]
    # The one native module that belongs inside a package: the pure part is shared by all platforms.
    from cryptography.hazmat import bindings  # noqa: PLC0415 - importable only from here on

    bindings.__path__.append(str(native))


def say(command: str, text: str) -> None:
    """Print *text* as the data of a logging command of the agent."""
    for plain, escaped in (("%", "%AZP25"), ("\r", "%0D"), ("\n", "%0A"), ("]", "%5D")):
        text = text.replace(plain, escaped)
    sys.stdout.write(f"##vso[{command}]{text}\n")
    sys.stdout.flush()


def fail(sentence: str) -> None:
    """Report a failed step, for a reason the shim could not word."""
    say("task.logissue type=error;", sentence)
    say("task.complete result=Failed;", sentence)


def unfit(reason: str) -> int:
    """Return the exit code for "not with this interpreter"; details are for System.Debug."""
    say("task.debug", f"{sys.executable}: {reason}")
    return UNFIT


def not_packaged(facts: dict[str, str], known: list[dict[str, str]]) -> str:
    """Return the sentence for a platform whose native modules the package does not have."""
    *others, last = map(described, known)
    supported = f"{', '.join(others)} and {last}" if others else last
    return (
        f"SignImage has no native modules for this agent: it is {described(facts)}, "
        f"supported are {supported}. Nothing was built, pushed or signed; run the step on an agent "
        "or in a container of such a platform, or with a Python of such a platform (pythonPath)."
    )


def use_vendored() -> int | None:
    """Let the packaged libraries in, or return the exit code of a process that cannot have them."""
    if fault := interpreter_fault():
        return unfit(fault)
    table = json.loads((VENDOR / "platforms.json").read_text("utf-8"))
    facts = platform_facts()
    platform = next((n for n, p in table["platforms"].items() if p["runs_on"] == facts), None)
    if platform is None:
        fail(not_packaged(facts, [each["runs_on"] for each in table["platforms"].values()]))
        return REPORTED
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version not in table["pythons"]:
        return unfit(f"no native modules for Python {version} in the package")
    graft(VENDOR / "native" / platform)
    return None


def use_installed() -> None:
    """Let in what is installed for the interpreter: the shim starts it without (-S)."""
    import site  # noqa: PLC0415 - a packaged task must never load it

    site.main()


def run() -> int:
    """Run the worker and let no exit code but 87 and 1 through."""
    try:
        from signimage.worker import main as worker  # noqa: PLC0415 - needs the libraries

        status: str | int | None = worker()
    except SystemExit as stop:
        status = stop.code
    except KeyboardInterrupt:
        return 1  # the shim knows that it forwarded a signal, and words the result
    except Exception as error:  # noqa: BLE001 - the last net: messages may hold what is secret
        place = "; ".join(
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
        )
        sys.stderr.write(f"SignImage stopped on {type(error).__name__} ({place})\n")
        return 1
    return REPORTED if status in (0, None) else 1


def main() -> int:
    """Bring the worker up, run it, and return the exit code of the process."""
    if not VENDOR.is_dir():
        use_installed()
    elif (refused := use_vendored()) is not None:
        return refused
    return run()
