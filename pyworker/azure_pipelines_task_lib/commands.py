"""Logging commands: how a step speaks to its agent. Pure.

    ##vso[area.event key=value;key=value;]message

| character | in a value of a property | in the message |
|-----------|--------------------------|----------------|
| `%`       | `%AZP25`                 | `%AZP25`       |
| CR        | `%0D`                    | `%0D`          |
| LF        | `%0A`                    | `%0A`          |
| `]`       | `%5D`                    | as it is       |
| `;`       | `%3B`                    | as it is       |

`%` is replaced first and restored last, so that `%0A` in a text survives. A property without a
value is left out, and a message begins behind the first `]`: both as Microsoft's library does.
"""

from collections.abc import Mapping
from enum import Enum


class Result(Enum):
    """How a step ended, in the words that the agent parses, from best to worst."""

    SUCCEEDED = "Succeeded"
    SUCCEEDED_WITH_ISSUES = "SucceededWithIssues"
    FAILED = "Failed"
    CANCELED = "Canceled"
    SKIPPED = "Skipped"

    def yields_to(self, coming: "Result") -> bool:
        """Tell whether the agent, told *coming* after this, changes its mind.

        The worse result wins, up to Failed; behind that, the first one stays.
        """
        order = list(Result)
        at, to = order.index(self), order.index(coming)
        return at < to and at <= order.index(Result.FAILED)


class IssueType(Enum):
    """The two kinds of issue that are counted and shown on the summary of a run."""

    ERROR = "error"
    WARNING = "warning"


def escape_message(text: str) -> str:
    """Escape *text* to stand behind the `]` of a command."""
    return text.replace("%", "%AZP25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Escape *text* to stand as the value of a property."""
    return escape_message(text).replace("]", "%5D").replace(";", "%3B")


def format_command(name: str, properties: Mapping[str, str], message: str) -> str:
    """Spell the command *name* ("area.event"), without an end of line."""
    given = "".join(
        f"{key}={escape_property(value)};" for key, value in properties.items() if value
    )
    # Microsoft's library writes the blank for any property, given a value or not.
    blank = " " if properties else ""
    return f"##vso[{name}{blank}{given}]{escape_message(message)}"
