"""What the agent hands to a step through its environment, taken out of it.

| what                         | name in the environment                          | taken out |
|------------------------------|--------------------------------------------------|-----------|
| input                        | `INPUT_<NAME>`                                   | yes       |
| secret variable              | `SECRET_<NAME>`                                  | yes       |
| public variable              | `<NAME>`                                         | no        |
| names of variables           | `VSTS_PUBLIC_VARIABLES`, `VSTS_SECRET_VARIABLES` | yes       |
| task variable                | `VSTS_TASKVARIABLE_<NAME>`                       | yes       |
| authorization of an endpoint | `ENDPOINT_AUTH_<id>`                             | yes       |
| its scheme                   | `ENDPOINT_AUTH_SCHEME_<id>`                      | yes       |
| its parameters               | `ENDPOINT_AUTH_PARAMETER_<id>_<NAME>`            | yes       |
| URL and data of an endpoint  | `ENDPOINT_URL_<id>`, `ENDPOINT_DATA_<id>_<NAME>` | no        |
| ticket of a secure file      | `SECUREFILE_TICKET_<id>`                         | yes       |
| name of a secure file        | `SECUREFILE_NAME_<id>`                           | no        |
| for Microsoft's own tasks    | `COMMAND_CORRELATION_ID`                         | yes       |

Taken out means: no program this process starts can inherit it. `<NAME>` is the name in capitals
with `_` for dots and blanks; an id keeps its hyphens and its case. Look-ups here take any case.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from azure_pipelines_task_lib.errors import ConnectionDataError, EnvironmentFormatError
from azure_pipelines_task_lib.text import is_unicode

_TAKEN_PREFIXES = (
    "INPUT_",
    "ENDPOINT_AUTH_",
    "SECUREFILE_TICKET_",
    "SECRET_",
    "VSTS_TASKVARIABLE_",
)
_PUBLIC_NAMES = "VSTS_PUBLIC_VARIABLES"
_SECRET_NAMES = "VSTS_SECRET_VARIABLES"  # noqa: S105 -- the name of a list of names
_TAKEN_NAMES = (_PUBLIC_NAMES, _SECRET_NAMES, "COMMAND_CORRELATION_ID")

# Parameters of an authorization that name things. Masking them would hide in our own messages
# which registry and which account they speak of, and protect nothing. All others are secrets.
_NAMING_PARAMETERS = frozenset(
    {
        "APPOBJECTID",
        "AUDIENCE",
        "AUTHENTICATIONTYPE",
        "EMAIL",
        "EXPIRESAT",
        "ISSUEDAT",
        "LOGINSERVER",
        "REGISTRY",
        "ROLE",
        "SCHEME",
        "SCOPE",
        "SERVICEPRINCIPALID",
        "TENANTID",
        "USERNAME",
        "WORKLOADIDENTITYFEDERATIONISSUER",
        "WORKLOADIDENTITYFEDERATIONISSUERTYPE",
        "WORKLOADIDENTITYFEDERATIONSUBJECT",
    }
)


@dataclass(frozen=True, slots=True)
class EndpointAuthorization:
    """How a service connection authenticates: its scheme and the parameters of the scheme."""

    scheme: str  # as the server spells it, e.g. "UsernamePassword"
    parameters: Mapping[str, str] = field(repr=False)  # names as the server spells them


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the pipeline as this step sees it; a secret value is not in the `repr`."""

    name: str  # as it was defined, or the mangled name if only that is known
    value: str = field(repr=False)
    is_secret: bool


class TakenEnvironment:
    """The agent's part of an environment, after taking its sensitive part out.

    Raises:
        EnvironmentFormatError: The lists of variable names are not lists of names. Everything
            sensitive has been taken out even then.
    """

    def __init__(self, environ: MutableMapping[str, str], take: Iterable[str] = ()) -> None:
        self._environ = environ
        extra = frozenset(map(str.upper, take))
        self._taken: dict[str, str] = {}
        for name in list(environ):
            if name.startswith(_TAKEN_PREFIXES) or name in _TAKEN_NAMES or (name.upper() in extra):
                self._taken[name.upper()] = environ.pop(name)
        self._extra = extra
        self._set: dict[str, str] = {}
        self._secret_by_key: dict[str, bool] = {}
        self._name_by_key: dict[str, str] = {}
        self._know_variables()

    def taken(self, name: str) -> str:
        """Return the value taken from the environment's *name*, or "" if it had none."""
        return self._taken.get(name.upper(), "")

    def left(self, name: str) -> str:
        """Return the value that still stands in the environment as *name*, in any case."""
        wanted = name.upper()
        found = (value for key, value in self._environ.items() if key.upper() == wanted)
        return self._environ.get(name) or next(found, "")

    def secrets(self) -> Iterator[str]:
        """Yield every value that must not be shown."""
        for name, value in self._taken.items():
            if name.startswith(("SECRET_", "SECUREFILE_TICKET_")) or name in self._extra:
                yield value
            elif name.startswith("ENDPOINT_AUTH_PARAMETER_"):
                # Ids have no underscores; one that had would only make more values secret.
                key = name.removeprefix("ENDPOINT_AUTH_PARAMETER_").partition("_")[2]
                if key not in _NAMING_PARAMETERS:
                    yield value
            elif name.startswith("ENDPOINT_AUTH_") and not name.startswith("ENDPOINT_AUTH_SCHEME_"):
                yield from _secrets_of_authorization(value)

    def is_secret(self, name: str) -> bool:
        """Tell whether the variable *name* is known to be secret."""
        return self._secret_by_key.get(variable_key(name), False)

    def variable(self, name: str) -> str:
        """Return the value of the variable *name*, "" if it is empty or there is none."""
        key = variable_key(name)
        if key in self._set:
            return self._set[key]
        return self.taken(f"SECRET_{key}") if self.is_secret(name) else self._environ.get(key, "")

    def variables(self) -> tuple[Variable, ...]:
        """Return all variables whose names are known, in the agent's order, then as set."""
        return tuple(
            Variable(name, self.variable(name), self._secret_by_key[key])
            for key, name in self._name_by_key.items()
        )

    def set_variable(self, name: str, value: str, *, is_secret: bool) -> None:
        """Remember what this step sets; the environment that children inherit stays as it is.

        Except for one thing: a value that became secret may not stay there in public.
        """
        key = variable_key(name)
        if is_secret:
            self._environ.pop(key, None)
        self._set[key] = value
        self._name_by_key[key] = name
        self._secret_by_key[key] = is_secret

    def set_task_variable(self, name: str, value: str) -> None:
        """Remember a task variable that this step sets."""
        self._taken[f"VSTS_TASKVARIABLE_{variable_key(name)}"] = value

    def _know_variables(self) -> None:
        for name in self._taken:
            if name.startswith("SECRET_") and name != "SECRET_":
                self._know(name.removeprefix("SECRET_"), is_secret=True)
        for name in _names(self.taken(_PUBLIC_NAMES), _PUBLIC_NAMES):
            self._know(name, is_secret=False)
        for name in _names(self.taken(_SECRET_NAMES), _SECRET_NAMES):
            self._know(name, is_secret=True)

    def _know(self, name: str, *, is_secret: bool) -> None:
        self._name_by_key[variable_key(name)] = name
        self._secret_by_key[variable_key(name)] = is_secret


def variable_key(name: str) -> str:
    """Mangle *name* as the agent does for the environment."""
    return name.replace(".", "_").replace(" ", "_").upper()


def parse_authorization(text: str) -> EndpointAuthorization:
    """Read the JSON of `ENDPOINT_AUTH_<id>`: `{"scheme": …, "parameters": {…}}`.

    Raises:
        ConnectionDataError: It is something else, or holds what no request can hold. The message
            holds no part of *text*.
    """
    content = _parse_json(text)
    scheme = content.get("scheme", "") if isinstance(content, dict) else None
    parameters = content.get("parameters", {}) if isinstance(content, dict) else None
    if not isinstance(scheme, str) or not isinstance(parameters, dict):
        raise ConnectionDataError(
            "authorization of a service connection: expected JSON with scheme and parameters, "
            "got something else"
        )
    kept = {name: value for name, value in parameters.items() if isinstance(value, str)}
    if not is_unicode("".join((scheme, *kept, *kept.values()))):
        raise ConnectionDataError(
            "authorization of a service connection: expected Unicode text, got something else"
        )
    return EndpointAuthorization(scheme, kept)


def _secrets_of_authorization(text: str) -> Iterator[str]:
    try:
        parameters = parse_authorization(text).parameters
    except ConnectionDataError:
        yield text
        return
    for name, value in parameters.items():
        if variable_key(name) not in _NAMING_PARAMETERS:
            yield value


def _names(text: str, what: str) -> list[str]:
    names = _parse_json(text or "[]")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise EnvironmentFormatError(f"{what}: expected a JSON list of names, got something else")
    return names


def _parse_json(text: str) -> Any:
    """Return what *text* says, None if it is not JSON.

    The decoder's error goes no further: it carries the text, which may hold a password.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
