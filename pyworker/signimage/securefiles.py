"""Secure files of a pipeline's library, fetched into memory.

The rules of this file:

1. The ticket and the job token go only to the collection's own address, as the agent gave it.
   It may be http there: servers in a company's own network still are, and the agent itself
   talks to them that way.
2. Only 200 with `application/octet-stream` is a secure file; a sign-in page is not.
3. A file's name is for sentences. No path is made of it, here or elsewhere, and nothing is
   written to disk.
4. No text made here holds a token, a ticket or a password.

Shape of the call: the agent's and the in-box tasks' own, "securefiles" of the area
"distributedtask"; Azure DevOps Server 2019 answers it and everything since.
"""

import http.client
import re
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from signimage.errors import (
    InputError,
    NotFoundError,
    RemoteError,
    UnauthorizedError,
    UnavailableError,
)
from signimage.transport import (
    Credentials,
    Response,
    Transport,
    origin,
    readable,
    refusal,
    said_by_server,
)

_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
SECURE_FILE_MAX = 10 * 1024 * 1024  # bytes; the server's own limit
_API_VERSION = "5.0-preview.1"
_FILE_HINT = "Authorize the pipeline to use the secure file, and run the job again"
_NAME_HINT = (
    "Azure DevOps replaces the name of a secure file by its ID when a run begins: write the name "
    "into the step itself, or into a variable that is known by then"
)


@dataclass(frozen=True, slots=True)
class SecureFile:
    """A file in the pipeline library, and what this job may fetch it with."""

    collection_uri: str
    project: str
    file_id: str
    name: str
    ticket: str = field(repr=False)
    token: str = field(repr=False)

    @property
    def what(self) -> str:
        """How sentences call the file."""
        return f"secure file {readable(self.name or self.file_id)}"


def fetch_secure_file(transport: Transport, file: SecureFile) -> bytes:
    """Download a secure file and return its content; nothing is written to disk.

    Raises:
        InputError: There is a name where the agent should have put an ID.
        UnauthorizedError: Ticket or token are not accepted.
        NotFoundError: The file was deleted.
        RemoteError: Anything else that is not the file: an error, a sign-in page, nothing.
    """
    if not _ID.fullmatch(file.file_id):
        raise InputError(
            f"secure file: expected an ID, got {readable(file.file_id)!r}", hint=_NAME_HINT
        )
    if not file.ticket:
        raise UnauthorizedError(
            f"{file.what}: the agent gave this job no ticket to read it", hint=_FILE_HINT
        )
    try:
        response = _get_secure_file(transport, file)
    except RemoteError as error:
        raise _named(error, file.what) from error
    _check_secure_file(response, file.what)
    return response.body


def _get_secure_file(transport: Transport, file: SecureFile) -> Response:
    query = urlencode(
        {"ticket": file.ticket, "download": "false", "api-version": _API_VERSION},
        quote_via=quote,
    )
    # On a server of one's own the collection's name is part of the path, blanks included.
    collection = quote(file.collection_uri.strip().rstrip("/"), safe="/:%[]")
    return transport.request(
        "GET",
        f"{collection}/{quote(file.project, safe='')}"
        f"/_apis/distributedtask/securefiles/{file.file_id}?{query}",
        what="Azure DevOps",
        max_bytes=SECURE_FILE_MAX,
        headers={
            "Accept": "application/octet-stream",
            "Authorization": Credentials("PAT", file.token).basic(),
            "X-TFS-FedAuthRedirect": "Suppress",
        },
        redirects=0,
    )


# 203 is how Azure DevOps answers who it does not know; 302 is what it sends a browser.
_SIGN_IN_STATUSES = frozenset({200, 203, 301, 302, 303, 307, 308})


def _check_secure_file(response: Response, what: str) -> None:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    status = response.status
    server = f"Azure DevOps {origin(response.url)}"
    if status == http.client.OK and kind == "application/octet-stream":
        if not response.body:
            raise RemoteError(f"{what}: expected its content from {server}, got nothing")
        return
    said = said_by_server(response)
    if status == http.client.NOT_FOUND:
        raise NotFoundError(
            f"{what}: {server} does not have it (it answered {_answer(status, said)})",
            hint="Check that the file is still in the library of this project",
        )
    if status in (http.client.BAD_REQUEST, http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise UnauthorizedError(
            f"{what}: {server} does not let this job read it (it answered {_answer(status, said)})",
            hint=_FILE_HINT,
        )
    if status in _SIGN_IN_STATUSES:
        raise RemoteError(
            f"{what}: expected its content from {server}, got {_answer(status, said)} "
            f"with {readable(kind) or 'no type'}, probably a sign-in page"
        )
    if status == http.client.TOO_MANY_REQUESTS or status >= http.client.INTERNAL_SERVER_ERROR:
        raise UnavailableError(
            f"{what}: {server} is not available: it answered {_answer(status, said)}",
            hint="Run the job again later",
        )
    raise _named(refusal(response, "Azure DevOps"), what)


def _answer(status: int, said: str) -> str:
    return f"{status}: {said}" if said else f"{status}"


def _named(error: RemoteError, what: str) -> RemoteError:
    return type(error)(f"{what}: {error}", hint=error.hint)
