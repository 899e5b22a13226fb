"""How commands are declared: their options, their page of help, the function that runs them.

Every command takes `--json`, `--quiet` and `--verbose`; those that talk to a trust server share
the options that say which one, and what of it is believed.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from signimage.desk import Desk
from signimage.manual import Command
from signimage.variables import NEW_VARIABLE, REPOSITORY_VARIABLE, ROOT_VARIABLE

# Exit codes: done; refused or failed; wrong input; a server could not be reached.
EXIT_DONE, EXIT_FAILED, EXIT_INPUT, EXIT_UNDECIDED = 0, 1, 2, 3

Run: TypeAlias = Callable[[argparse.Namespace, Desk], int]

# What the variables mean. A command names those that count for it beside `_ALWAYS`.
VARIABLES = {
    "DOCKER_CONFIG": "Docker's folder, with trust/, config.json and tls/; else ~/.docker",
    "DOCKER_CONTENT_TRUST_SERVER": "URL of the trust server; else that of the registry's host",
    ROOT_VARIABLE: "passphrase of root keys; else the keyring's, else it is asked for",
    REPOSITORY_VARIABLE: "passphrase of all other keys; else the keyring's, else it is asked for",
    NEW_VARIABLE: "the new passphrase; else it is asked for twice",
    "HTTPS_PROXY, NO_PROXY": "the proxy, and the hosts that are reached without it",
    "NO_COLOR": "no colours on a terminal, if it is set",
}
PASSPHRASES = (ROOT_VARIABLE, REPOSITORY_VARIABLE)
_ALWAYS = ("DOCKER_CONFIG", "NO_COLOR")
_REMOTE = ("DOCKER_CONTENT_TRUST_SERVER", "HTTPS_PROXY, NO_PROXY")


def group(commands: Any, name: str, text: str) -> Any:
    """Add a group of commands, and give what its commands are added to."""
    parser = commands.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def command(  # noqa: PLR0913 -- what a page of help has; all but four have defaults
    commands: Any,
    name: str,
    run: Run,
    text: str,
    *,
    more: str = "",
    examples: Sequence[str] = (),
    environment: Sequence[str] = (),
    exit_codes: Mapping[str, str] | None = None,
) -> Command:
    """Add a command that works on this machine alone.

    Args:
        commands: What a group's commands are added to.
        name: Its own word on the command line.
        run: Does the work; gives the exit code.
        text: One line, as in "make a signing key".
        more: Paragraphs for its page, divided by blank lines.
        examples: Command lines for its page.
        environment: Names in `VARIABLES` that count for it, e.g. `PASSPHRASES`; a command that
            names one of those may ask the keyring of the system as well, and can be told not to.
        exit_codes: What a code means, where that is not what it means for all others.
    """
    names = {*_ALWAYS, *environment}
    parser: Command = commands.add_parser(
        name,
        help=text,
        description=text,
        more=more,
        examples=examples,
        environment={each: text for each, text in VARIABLES.items() if each in names},
        exit_codes=exit_codes,
    )
    parser.set_defaults(
        run=run, trust_server="", ca="", root_key=[], root_ca="", no_first_use=False
    )
    said = parser.add_mutually_exclusive_group()
    said.add_argument("--json", action="store_true", help="print JSON for scripts")
    said.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--verbose", action="store_true", help="tell every HTTP request, without its secrets"
    )
    if not names.isdisjoint(PASSPHRASES):
        parser.add_argument(
            "--no-keyring", action="store_true", help="do not ask the keyring of this system"
        )
    parser.common = parser.options[:-1]
    return parser


def remote(  # noqa: PLR0913 -- as `command`
    commands: Any,
    name: str,
    run: Run,
    text: str,
    *,
    more: str = "",
    examples: Sequence[str] = (),
    environment: Sequence[str] = (),
    exit_codes: Mapping[str, str] | None = None,
) -> Command:
    """Add a command that talks to a trust server; arguments as for `command`."""
    parser = command(
        commands,
        name,
        run,
        text,
        more=more,
        examples=examples,
        environment=(*environment, *_REMOTE),
        exit_codes=exit_codes,
    )
    parser.add_argument(
        "--trust-server",
        metavar="URL",
        help="default: $DOCKER_CONTENT_TRUST_SERVER, else the registry's host",
    )
    parser.add_argument("--ca", metavar="FILE", help="further CA certificates (PEM)")
    parser.add_argument(
        "--root-key",
        action="append",
        metavar="ID",
        help="believe only this root key ID at first use; may be repeated",
    )
    parser.add_argument(
        "--root-ca", metavar="FILE", help="believe only a root that this authority certified (PEM)"
    )
    parser.add_argument(
        "--no-first-use",
        action="store_true",
        help="believe no root at first sight that nothing is pinned for",
    )
    parser.common = parser.options[:-1]
    return parser


def offline(parser: Command) -> None:
    """Add the option for looking without a server."""
    parser.add_argument(
        "--offline",
        action="store_true",
        help="where the server cannot be asked, believe what was kept, until that expires",
    )
