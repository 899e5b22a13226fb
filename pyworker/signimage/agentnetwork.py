"""What an agent and its environment say of the network, as settings for a `Transport`.

The rules of this file:

1. The agent's own configuration goes first, as whoever set up the machine made it; the variables
   that curl and others follow fill what it leaves open.
2. Entries of the agent's bypass list are regular expressions of .NET in its ECMAScript mode,
   without regard to case, searched in `scheme://host[:port]` (the port unless it is the
   default), as the agent itself does it. Its task library for Node searches the whole address,
   so they are tried with a final slash, too; paths and queries have no business here.
3. An entry that cannot be used here, or whose matching could take for ever, is left out with a
   warning that gives its number. A leading `*`, which is no regular expression, comes from
   `NO_PROXY=*.example.com` on the agent, and is read as it was meant.
4. What is asked for and missing is told, never passed over.

Agent: `Agent.Proxy…`, `Agent.CAInfo`, `Agent.ClientCert…`, `Agent.SkipCertValidation`.
"""

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from signimage.connection import TransportSettings
from signimage.errors import InputError
from signimage.proxies import AGENT_SETTING, MATCHED_MAX, Proxies, Proxy
from signimage.response import Credentials, readable
from signimage.tls import ClientCertificate

_BYPASS = "Agent.ProxyBypassList"
_PATTERN_MAX = 256  # characters; a name has at most 253

_WAYS_MAX = 1e8  # three repeats without end; more would be seconds and more for a long address
# Bundles of authorities that other programs of a pipeline are given; OpenSSL itself follows
# SSL_CERT_FILE and SSL_CERT_DIR.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")

_SKIPPED = (
    "This agent is configured to verify no TLS certificates (Agent.SkipCertValidation), and this "
    "step follows it: anybody between the agent and Azure DevOps, the registry or the trust "
    "server could read the passwords and tokens sent there, and answer in their place. "
    "Signatures themselves stay verified. To end this, configure the agent without "
    "--sslskipcertvalidation and with --sslcacert"
)

_PART = re.compile(
    r"""
      \\.                                   # an escape
    | \[\^?\]?(?:\\.|[^\]\\])*\]            # a class
    | \((?:\?(?:[:=!]|<[=!]|P?<\w+>))?      # the beginning of a group
    | [*+?]\?? | \{(?:[0-9]+(?:,[0-9]*)?|,[0-9]*)\}\??  # a repeat
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_NET_TO_PYTHON = (
    (re.compile(r"\(\?i\)"), ""),  # all of it ignores case
    (re.compile(r"\(\?<(?=[A-Za-z_])"), "(?P<"),
    (re.compile(r"\\k<(\w+)>"), r"(?P=\1)"),
    (re.compile(r"\\z"), r"\\Z"),
)


def transport_settings(
    variable: Callable[[str], str],
    environment: Mapping[str, str],
    *,
    warn: Callable[[str], None],
) -> TransportSettings:
    """Return how this step reaches other machines.

    Args:
        variable: Returns a variable of the agent, public or secret, "" if there is none.
        environment: Of the step.
        warn: Told in a sentence what cannot be used, and what is dangerous.

    Raises:
        InputError: Half of a client certificate is configured.
    """
    verified = variable("Agent.SkipCertValidation").strip().lower() != "true"
    if not verified:
        warn(_SKIPPED)
    return TransportSettings(
        ca_files=_authorities(variable, environment, warn),
        client_certificate=_client_certificate(variable),
        verified=verified,
        proxies=_proxies(variable, environment, warn),
    )


# --- certificates ---------------------------------------------------------------------------


def _authorities(
    variable: Callable[[str], str], environment: Mapping[str, str], warn: Callable[[str], None]
) -> tuple[Path, ...]:
    """Return the files of authorities; that of the agent must be usable, the others may be gone."""
    files = [Path(path) for path in [variable("Agent.CAInfo").strip()] if path]
    for name in _BUNDLES:
        path = environment.get(name, "").strip()
        if path and os.access(path, os.R_OK) and Path(path).is_file():
            files.append(Path(path))
        elif path:
            warn(f"{name}: expected a readable file of certificates, got {readable(path)}")
    return tuple(dict.fromkeys(files))


def _client_certificate(variable: Callable[[str], str]) -> ClientCertificate | None:
    """Return the agent's certificate: the pair of PEM files, else the archive.

    Agents are configured with all three files and one password for key and archive.
    """
    chain, key, archive = (
        variable(f"Agent.ClientCert{part}").strip() for part in ("", "Key", "Archive")
    )
    password = variable("Agent.ClientCertPassword")
    if chain and key:
        return ClientCertificate(Path(chain), Path(key), password=password)
    if archive:
        return ClientCertificate(Path(archive), is_archive=True, password=password)
    if chain or key:
        raise InputError(
            "Agent.ClientCert and Agent.ClientCertKey: expected both or neither, got one",
            hint="Configure the agent with --sslclientcert, --sslclientcertkey and "
            "--sslclientcertarchive",
        )
    return None


# --- proxies --------------------------------------------------------------------------------


def _proxies(
    variable: Callable[[str], str], environment: Mapping[str, str], warn: Callable[[str], None]
) -> Proxies:
    own = Proxies.of_environment(environment)
    address = variable(AGENT_SETTING).strip()
    if not address:
        return own
    user, password = variable("Agent.ProxyUsername"), variable("Agent.ProxyPassword")
    # A name without a password means the machine's own account to agents, which is not for Basic.
    account = Credentials(user, password) if user and password else None
    proxy = Proxy(address, AGENT_SETTING, account)
    return replace(own, http=proxy, https=proxy, bypassed=_bypassed(variable(_BYPASS), warn))


def _bypassed(text: str, warn: Callable[[str], None]) -> tuple[re.Pattern[str], ...]:
    """Read the bypass list, a JSON array of regular expressions."""
    try:
        entries = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        warn(f"{_BYPASS}: expected a JSON array of regular expressions, got something else")
        return ()
    found = []
    for number, entry in enumerate(entries, 1):
        if entry == "" or (isinstance(entry, str) and entry.isspace()):  # as agents pass over it
            continue
        try:
            found.append(pattern(entry))
        except ValueError as error:
            warn(
                f"{_BYPASS}: entry {number} is left out: expected a regular expression that can "
                f"be used here, got {error}"
            )
    return tuple(found)


def pattern(entry: object) -> re.Pattern[str]:
    """Return the pattern that one entry of the bypass list means.

    Raises:
        ValueError: It is none, or cannot be used here; the text says why.
    """
    if not isinstance(entry, str):
        raise ValueError("something that is no text")  # noqa: TRY004 -- one kind for one caller
    text = entry.strip()
    if len(text) > _PATTERN_MAX:
        raise ValueError(f"one of {len(text)} characters, more than {_PATTERN_MAX}")
    if text.startswith("*"):
        text = f".{text}"
    for theirs, ours in _NET_TO_PYTHON:
        text = theirs.sub(ours, text)
    _check_effort(text)
    try:
        with warnings.catch_warnings():
            # Python announces in this way that it may read a class otherwise than .NET.
            warnings.simplefilter("error")
            return re.compile(text, re.IGNORECASE | re.ASCII)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise ValueError(f"{readable(entry)!r} ({readable(str(error))})") from error


def _check_effort(text: str) -> None:
    """Refuse what could take for ever: Python's matcher tries every way, and nothing stops it."""
    ways = _ways(text)
    if ways > _WAYS_MAX:
        raise ValueError(
            f"{readable(text)!r}, which could be tried in too many ways: it has repeats within a "
            "repeat, or too many of them"
        )


def _ways(text: str) -> float:
    """Return at most how many ways there are to lay a pattern over the longest address."""
    outer: list[tuple[float, float]] = []  # of each open group: alternatives before, ways before
    before, ways, last = 0.0, 1.0, 1.0
    for part in _PART.findall(text):
        if part.startswith("("):
            outer.append((before, ways * last))
            before, ways, last = 0.0, 1.0, 1.0
        elif part == ")" and outer:
            last = before + ways * last
            before, ways = outer.pop()
        elif part == "|":
            before, ways, last = before + ways * last, 1.0, 1.0
        elif part[0] in "*+?" or (part[0] == "{" and len(part) > 1):
            last = _repeated(last, part)
        else:
            ways, last = ways * last, 1.0
    # A bracket within a comment closes nothing, and is nothing that anybody needs here.
    return math.inf if outer else before + ways * last


def _repeated(ways: float, repeat: str) -> float:
    if repeat[0] == "?":
        return ways + 1
    least, _, most = repeat.strip("{}?").partition(",")
    if repeat[0] in "*+" or ("," in repeat and not most):
        return float(MATCHED_MAX) if ways == 1 else math.inf
    least, most = least or "0", most or least
    if len(most) > 3 or len(least) > 3:  # noqa: PLR2004 -- digits: longer than any address
        return math.inf
    choices = max(int(most) - int(least) + 1, 1)
    try:
        # Repeats of one character grow with the address; ways within them at once, and anew at
        # each of its characters.
        return choices * ways ** int(most) * (1 if ways == 1 else MATCHED_MAX)
    except OverflowError:
        return math.inf
