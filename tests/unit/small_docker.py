"""A program called docker that says what it is told to say, and writes down how it was called.

The real ones, and a real engine, are in `tests/peers`.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROGRAM = """
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
arguments = sys.argv[1:]
config = os.path.join(os.environ.get("DOCKER_CONFIG", ""), "config.json")
login = json.load(open(config)) if os.path.exists(config) else None
with open(os.path.join(here, "calls"), "a") as calls:
    call = {"arguments": arguments, "environment": dict(os.environ), "config": login}
    calls.write(json.dumps(call) + "\\n")
told = json.load(open(os.path.join(here, "told")))
words = [key for key in told if " ".join(arguments).startswith(key)]
answer = told[max(words, key=len)] if words else {"complaint": "not told", "status": 99}
if "image_id" in answer:
    open(arguments[arguments.index("--iidfile") + 1], "w").write(answer["image_id"])
os.write(1, answer.get("output", "").encode())
os.write(2, answer.get("complaint", "").encode())
if answer.get("waits"):
    import time
    time.sleep(600)
sys.exit(answer.get("status", 0))
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the program: what it was given, and the configuration that it found."""

    arguments: list[str]
    environment: dict[str, str]
    config: Mapping[str, Any] | None


class SmallDocker:
    """The program, in a *folder* of its own, for a PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told: dict[str, dict[str, object]] = {}
        folder.mkdir()
        program = folder / "docker"
        program.write_text(f"#!{sys.executable} -IS\n{_PROGRAM}", "utf-8")
        program.chmod(0o755)
        self.tell("version", output=VERSION_28)

    def tell(self, words: str, **answer: object) -> None:
        """Have the program answer what begins with *words*: output, complaint, status, …."""
        self._told[words] = answer
        (self.folder / "told").write_text(json.dumps(self._told), "utf-8")

    def calls(self, word: str) -> list[Call]:
        """Return the calls whose first argument was *word*."""
        file = self.folder / "calls"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        calls = [Call(**json.loads(line)) for line in lines]
        return [call for call in calls if call.arguments[0] == word]


# docker version --format '{{json .}}' by 28.2.2 and 20.10.24, shortened.
VERSION_28 = (
    '{"Client":{"Version":"28.2.2","ApiVersion":"1.41","DefaultAPIVersion":"1.50",'
    '"Os":"linux","Arch":"amd64","Context":"default"},"Server":{"Platform":{"Name":""},'
    '"Components":[{"Name":"Engine","Version":"20.10.24+dfsg1"}],"Version":"20.10.24+dfsg1",'
    '"ApiVersion":"1.41","MinAPIVersion":"1.12"}}\n'
)
VERSION_20_ALONE = (
    '{"Client":{"Platform":{"Name":""},"Version":"20.10.24+dfsg1","ApiVersion":"1.41",'
    '"Context":"default","Experimental":true},"Server":null}\n'
)
