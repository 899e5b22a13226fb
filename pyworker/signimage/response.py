"""An HTTP answer, who asked, and what may be said about both in a text.

Pure: nothing here opens a socket, and nothing here is believed; the readers of an answer decide.
No text made here holds a header or the query of a URL: either may be a token or a ticket.

RFC 9110 (statuses), RFC 7617 (Basic), RFC 6761 section 6.3 (`localhost`);
OCI Distribution Specification 1.1, "Error Codes".
"""

import base64
import http.client
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from signimage.errors import (
    STRANGER_HINT,
    FormatError,
    NotFoundError,
    RemoteError,
    UnauthorizedError,
)

_QUOTED_MAX = 300  # characters of a server's own words in our messages
_UNREADABLE = re.compile(r"[^\x20-\x7e\xa1-\u2027\u202a-\ud7ff\ue000-\U0010ffff]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password, or a token that is used as one.

    An identity token (OAuth2: refresh token) is no password: it goes to token services alone,
    in a form of its own, and the user name beside it means nothing.
    """

    username: str
    password: str = field(repr=False)
    is_identity_token: bool = False

    def basic(self) -> str:
        """Return the value of an `Authorization` header (RFC 7617, UTF-8)."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


class CredentialSource(Protocol):
    """Credentials that may change while they are needed: asked for at each use, never kept."""

    def current(self) -> Credentials | None:
        """Return what to log in with now; None for an anonymous visitor."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Credentials that stay as they are."""

    credentials: Credentials | None

    def current(self) -> Credentials | None:
        """Return the credentials given."""
        return self.credentials


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, complete; `headers` ignore case, `url` is where it finally came from."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str = field(repr=False)

    def json(self, what: str) -> Any:
        """Parse the body; `FormatError` names *what* was expected to be JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{what} of {shown(self.url)}: expected JSON, got {len(self.body)} bytes of "
                f"{readable(self.headers.get('Content-Type', 'no type'))}",
                hint=STRANGER_HINT,
            ) from error


def origin(url: str) -> str:
    """Return scheme, host and port of *url*, the port only where it is not the default."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def shown(url: str) -> str:
    """Return *url* as texts may show it: the query may hold a token or a ticket."""
    return readable(origin(url) + urlsplit(url).path)


def readable(text: str) -> str:
    """Return a server's words as one short line without control characters.

    It is cut between words: who masks secrets does not know them by their halves.
    """
    line = _UNREADABLE.sub(" ", text).strip()
    if len(line) <= _QUOTED_MAX:
        return line
    return (line[:_QUOTED_MAX].rpartition(" ")[0] + " …").strip()


def is_loopback(host: str) -> bool:
    """Tell whether *host* (no port) names this very machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def refusal(response: Response, what: str) -> RemoteError:
    """Return the error for an answer that is not the expected one; the caller raises it.

    401 and 403 are `UnauthorizedError`, 404 is `NotFoundError`, all others `RemoteError`.
    """
    said = said_by_server(response)
    message = f"{what} {shown(response.url)} answered {response.status}"
    message += f": {said}" if said else ""
    if response.status < http.client.MULTIPLE_CHOICES:  # success, and not the expected one
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        message += f" with {readable(kind) or 'no type'}, which is no answer of such a server"
    if response.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        return UnauthorizedError(message)
    if response.status == http.client.NOT_FOUND:
        return NotFoundError(message, hint=STRANGER_HINT)
    return RemoteError(message, hint=STRANGER_HINT)


def said_by_server(response: Response) -> str:
    """Return code and message of an error document as one line, or "" if there is none.

    Understands the documents of registries and trust servers (`errors`), of token services
    (`error`, `error_description`; `details`) and of Azure DevOps (`message`).
    """
    try:
        document = json.loads(response.body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else document
    if not isinstance(first, dict):
        return ""
    keys = ("code", "error", "message", "error_description", "details")
    words = [first[key] for key in keys if isinstance(first.get(key), str) and first[key]]
    return readable(": ".join(words))
