"""Steps of pipelines, generated: environments as an agent builds them, and calls of the library.

The functions are named as Microsoft's library names them. Nothing here draws what the two libraries
are known to see differently; those cases are written down one by one in the test of the oracle.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

Environ = dict[str, str]
Call = list[Any]  # a function of Microsoft's library, then its arguments


@dataclass(frozen=True, slots=True)
class Case:
    """A step: its environment, and what it asks and says."""

    environ: Environ
    calls: list[Call]


NAMES = ["tags", "containerRegistry", "My.Var", "a b.c", "x", "Build.BuildId", "naïve", "Straße.x"]
ID = "3f2a8c1e-0d5b-4c6e-9a7f-1b2c3d4e5f60"
IDS = [ID, "0A1B2C3D-0000-4000-8000-ABCDEFABCDEF", "SystemVssConnection", "plain", "with.dot x"]
KEYS = ["username", "password", "loginServer", "registrytype", "accessToken"]
PIECES = [
    "%", "%AZP25", "%0A", "%3B", ";", "]", "[", "=", "\n", "\r", "\r\n", " ", "\t", ",", "|",
    "a", "B7", "val", "ü", "Ж", "漢", "\U0001f512", "##", "/", ".", "\\", '"', "'", "$(x)", "true",
]  # fmt: skip
DELIMITERS: list[str | dict[str, str]] = [
    ",", "\n", "a", ", ", "%AZP25", {"pattern": r"[\r\n,]"}, {"pattern": r"\s+"},
    {"pattern": r"(,|;)"}, {"pattern": "x*,"},
]  # fmt: skip
# Text for people is compared without what our one door changes: see DIFFERENCES.
PLAIN = [piece for piece in PIECES if piece not in ("\r", "\r\n", "##")]
BOOLS = ["true", "TRUE", "True", "tRuE", "false", "1", "yes", " true", "", "trüe"]


class Generator:
    """Draws cases; every draw comes from one seed."""

    def __init__(self, seed: int, existing: str) -> None:
        self.random = random.Random(seed)  # noqa: S311 -- not for secrecy
        self.existing = existing  # the path of some file

    def text(self, pieces: list[str] = PIECES, most: int = 6) -> str:
        """Draw a text that is often hard to escape."""
        return "".join(self.random.choices(pieces, k=self.random.randint(0, most)))

    def maybe(self) -> bool:
        """Draw a bool."""
        return self.random.random() < 0.5

    def one(self, values: list[Any]) -> Any:
        """Draw one of *values*."""
        return self.random.choice(values)

    def case(self) -> Case:
        """Draw a step with an environment full of values, a dozen calls and one result."""
        calls = [self.call() for _ in range(12)]
        return Case(self.environ(), [*calls, self.call_of("result")])

    def environ(self) -> Environ:
        """Draw an environment as an agent builds it."""
        environ: Environ = {}
        public, secret = [], []
        for name in NAMES:
            key = name.replace(".", "_").replace(" ", "_").upper()
            if self.maybe():
                environ[f"INPUT_{key}"] = self.input_value() or "x"
            if self.maybe():
                environ[f"VSTS_TASKVARIABLE_{key}"] = self.text() or "x"
            kind = self.random.randrange(3)
            if kind == 1:
                environ[key] = self.text()
                public.append(name)
            elif kind == 2:
                environ[f"SECRET_{key}"] = self.secret()
                secret.append(name)
        if self.maybe():
            environ["VSTS_PUBLIC_VARIABLES"] = json.dumps(public)
            environ["VSTS_SECRET_VARIABLES"] = json.dumps(secret)
        environ["SYSTEM_DEFAULTWORKINGDIRECTORY"] = "/w/1/s"
        if self.maybe():
            environ["COMMAND_CORRELATION_ID"] = ""
        for endpoint_id in IDS:
            if self.maybe():
                environ |= self.endpoint(endpoint_id)
        return environ

    def secret(self) -> str:
        """Draw a secret variable's value; not one that texts for people hold, see DIFFERENCES."""
        return f"s3cr3t-{self.random.getrandbits(64):x}"

    def input_value(self) -> str:
        """Draw a value of an input: text, a bool, a path."""
        paths = [self.existing, "/none", "/w/1/s", "/w/1/s/.", "/w/1/s/file", "relative"]
        return str(self.one([self.text(), self.one(BOOLS), self.one(paths)]))

    def endpoint(self, endpoint_id: str) -> Environ:
        """Draw a service connection and a secure file of one id."""
        parameters = {key: self.secret() for key in KEYS if self.maybe()}
        authorization = {"parameters": parameters, "scheme": "UsernamePassword"}
        environ = {
            f"ENDPOINT_URL_{endpoint_id}": self.text() or "u",
            f"ENDPOINT_AUTH_{endpoint_id}": json.dumps(authorization, ensure_ascii=self.maybe()),
            f"ENDPOINT_AUTH_SCHEME_{endpoint_id}": "UsernamePassword",
            f"SECUREFILE_NAME_{endpoint_id}": self.text() or "n",
            f"SECUREFILE_TICKET_{endpoint_id}": self.secret(),
        }
        for key, value in parameters.items():
            environ[f"ENDPOINT_AUTH_PARAMETER_{endpoint_id}_{key.upper()}"] = value
            environ[f"ENDPOINT_DATA_{endpoint_id}_{key.upper()}"] = self.text() or "d"
        return environ

    def call(self) -> Call:
        """Draw a call."""
        kind = self.one([each for each in KINDS if each != "result"])
        return self.call_of(kind)

    def call_of(self, kind: str) -> Call:
        """Draw a call of one of the functions of *kind*."""
        name = self.one(KINDS[kind])
        return [name, *getattr(self, f"arguments_of_{kind}")(name)]

    def arguments_of_input(self, name: str) -> list[Any]:
        """Draw the arguments of a function that reads an input."""
        middle: list[Any] = [self.one(DELIMITERS)] if name == "getDelimitedInput" else []
        last = [self.maybe()] if name == "getPathInput" else []
        return [self.name(), *middle, self.maybe(), *last]

    def arguments_of_name(self, name: str) -> list[Any]:
        """Draw the one argument of a function that looks a name up, perhaps one that was set."""
        prefix = {"getVariable": "new.", "getTaskVariable": "own."}.get(name, "")
        return [f"{prefix if self.maybe() else ''}{self.name()}"]

    def arguments_of_nothing(self, _name: str) -> list[Any]:
        """Return no arguments."""
        return []

    def arguments_of_variable(self, name: str) -> list[Any]:
        """Draw the arguments of a function that sets a variable; secret values are not texts."""
        if name == "setTaskVariable":
            return [f"own.{self.name()}", self.text(), False]
        return [f"new.{self.name()}", self.text(), False, self.maybe()]

    def arguments_of_endpoint(self, name: str) -> list[Any]:
        """Draw the arguments of a function that reads a service connection."""
        key = [self.one(KEYS)] if name.endswith("Parameter") else []
        optional = True if name == "getEndpointAuthorization" else self.maybe()
        return [self.one(IDS), *key, optional]

    def arguments_of_file(self, _name: str) -> list[Any]:
        """Draw the id of a secure file."""
        return [self.one(IDS)]

    def arguments_of_path(self, name: str) -> list[Any]:
        """Draw the arguments of a function that offers a file."""
        return [
            *([self.text() or "t", self.text() or "n"] if name[0] == "a" else []),
            self.existing,
        ]

    def arguments_of_message(self, _name: str) -> list[Any]:
        """Draw a text for people, which can be told from what Microsoft's library says unasked."""
        return [f"said: {self.text(PLAIN)}"]

    def arguments_of_secret(self, _name: str) -> list[Any]:
        """Draw a secret of one line."""
        return [f"{self.secret()};]%{self.random.randrange(9)}"]

    def arguments_of_progress(self, _name: str) -> list[Any]:
        """Draw a percentage and what is going on."""
        return [self.random.randrange(101), self.text(PLAIN)]

    def arguments_of_issue(self, _name: str) -> list[Any]:
        """Draw an issue with or without its place."""
        place = [self.text(), self.random.randrange(3), self.random.randrange(3)]
        return [self.random.randrange(2), self.text(PLAIN), *place, self.text(PLAIN)]

    def arguments_of_result(self, _name: str) -> list[Any]:
        """Draw a result; Cancelled is one of DIFFERENCES."""
        return [self.one([0, 1, 2, 4]), self.text(PLAIN), self.maybe()]

    def arguments_of_command(self, _name: str) -> list[Any]:
        """Draw a command with any properties."""
        properties = {f"key{number}": self.text() for number in range(self.random.randrange(4))}
        return [self.one(["task.debug", "a.b"]), properties, self.text(most=12)]

    def name(self) -> str:
        """Draw a name, in any case."""
        name = str(self.one(NAMES))
        return str(self.one([name, name.upper(), name.lower()]))


KINDS = {
    "input": ["getInput", "getBoolInput", "getDelimitedInput", "getPathInput"],
    "name": ["getVariable", "getTaskVariable", "filePathSupplied"],
    "nothing": ["getVariables"],
    "variable": ["setVariable", "setTaskVariable"],
    "endpoint": [
        "getEndpointUrl",
        "getEndpointDataParameter",
        "getEndpointAuthorizationScheme",
        "getEndpointAuthorizationParameter",
        "getEndpointAuthorization",
    ],
    "file": ["getSecureFileName", "getSecureFileTicket"],
    "path": ["uploadSummary", "uploadFile", "addAttachment", "prependPath"],
    "message": ["debug", "warning", "error"],
    "secret": ["setSecret"],
    "progress": ["setProgress"],
    "issue": ["logIssue"],
    "result": ["setResult"],
    "command": ["formatCommand"],
}
