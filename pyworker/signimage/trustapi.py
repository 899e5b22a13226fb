"""The REST interface of a trust server: what can be asked and sent, and what the answers mean.

Nothing is believed here: bytes come out as they came in, limited in size. The server's answers
become errors by what the caller can do about them:

| answer | error | what it means |
|---|---|---|
| 400 `VERSION` | `ConflictError` | somebody else published first, or a version number is used up |
| 429, 5xx | `UnavailableError` | whether a publication took place is not known |
| none, or a part | `UnreachableError` | the same |
| 401, 403 | `UnauthorizedError` | no later attempt will be answered differently |
| other 4xx | `RemoteError` | an update breaks a rule of the server |

Specification: Notary 0.7, `server.go` (`docs/protocol.md`, "Publishing").
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from signimage.authorization import TokenAuthorizer, failure
from signimage.errors import (
    STRANGER_HINT,
    ConflictError,
    FormatError,
    InputError,
    NotFoundError,
    NotInitializedError,
    RemoteError,
    TooLargeError,
)
from signimage.oci import DOCKER_HUB
from signimage.permissions import Permission, is_azure_registry
from signimage.transport import Response, Transport, origin

if TYPE_CHECKING:
    from signimage.keys import PublicKey

_WHAT = "trust server"

# Limits for files whose length nothing has named yet. Notary allows 1 MiB and 100 MiB; a root
# grows by about 1 kB with every rotation.
_MAX_TIMESTAMP = 1024 * 1024  # bytes
_MAX_ROOT = 16 * 1024 * 1024  # bytes
_MAX_KEY = 256 * 1024  # bytes
_MAX_ANSWER = 64 * 1024  # bytes, of an error document
_MAX_FILE = 100 * 1024 * 1024  # bytes; also when the snapshot names more
_MAX_CHANGES = 8 * 1024 * 1024  # bytes; a record of a change is about 300

_MAX_ORPHANS = 100

# Of an address that pages show within a command to copy.
_ADDRESS = re.compile(r"[A-Za-z0-9.:/_~%+\[\]-]+")


def default_trust_server(host: str) -> str:
    """The URL of the trust server that belongs to the registry *host*, as Docker derives it."""
    return "https://notary.docker.io" if host == DOCKER_HUB else f"https://{host}"


def gets_login(url: str, host: str) -> bool:
    """Tell whether the trust server at *url* may get the login of the registry *host*.

    A registry of Azure is its own trust server, and its logins go nowhere else: whose address it
    is may come out of a variable, which any earlier step can set.
    """
    try:
        return not is_azure_registry(host) or origin(url) == origin(f"https://{host}")
    except ValueError:  # not an address, which is refused elsewhere
        return False


@dataclass(slots=True)
class TrustApi:
    """The interface for one repository.

    Attributes:
        transport: The HTTP to use; connections are shared with its other users.
        url: `https://host[:port][/prefix]`, without the interface's own path.
        gun: The repository's globally unique name.
        authorizer: Answers the server's challenges; by default those of an anonymous visitor.

    Raises:
        InputError: The URL is not such a URL.
    """

    transport: Transport
    url: str
    gun: str
    authorizer: TokenAuthorizer | None = None
    _begun: "SimpleQueue[Response | Exception] | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            # What was given may hold a password.
            shown = self.url.rpartition("@")[2].partition("?")[0]
            raise InputError(
                "trust server: expected an https:// URL without account, query and fragment, "
                f"got {shown[:200]!r}",
                hint="Give its address in full, such as https://notary.example.com",
            )
        self.url = self.url.rstrip("/")

    def begin(self) -> None:
        """Ask for the newest root beside other work; the next `root` waits for that answer.

        What goes wrong comes out of `root`. An answer that is old by then does no harm: a root
        that the snapshot does not name is asked for again.
        """
        answer: SimpleQueue[Response | Exception] = SimpleQueue()
        self._begun = answer

        def ask() -> None:
            try:
                answer.put(self._newest_root())
            except Exception as error:  # noqa: BLE001 -- raised by whoever waits for the answer
                answer.put(error)

        # A daemon: a step that has failed meanwhile waits for no trust server.
        Thread(target=ask, daemon=True).start()

    def root(self) -> bytes:
        """The newest root.

        Raises:
            NotInitializedError: The server holds no trust data for the repository.
        """
        begun, self._begun = self._begun, None
        response = begun.get() if begun else self._newest_root()
        if isinstance(response, Exception):
            raise response
        if _is_absent(response):
            raise NotInitializedError(
                f"{self.gun} has no trust data on {self.url}",
                hint=f"Its owner can initialise it with: signimage repo init {self.gun}",
            )
        return self._content(response)

    def _newest_root(self) -> Response:
        return self._get("root.json", _MAX_ROOT, fresh=True)

    def old_root(self, version: int) -> bytes:
        """The root of that *version*."""
        return self._content(self._get(f"{version}.root.json", _MAX_ROOT, fresh=False))

    def timestamp(self) -> bytes:
        """The newest timestamp."""
        return self._content(self._get("timestamp.json", _MAX_TIMESTAMP, fresh=True))

    def by_hash(self, role: str, sha256: bytes, length: int) -> bytes:
        """The file of *role* with that hash, at most *length* bytes.

        Raises:
            TooLargeError: It is longer, or longer than any role file may be.
            NotFoundError: The server does not have it, although it said so.
        """
        if length > _MAX_FILE:
            raise TooLargeError(
                f"{role} of {self.gun}: expected at most {_MAX_FILE} bytes, got {length}"
            )
        response = self._get(f"{role}.{sha256.hex()}.json", length, fresh=False)
        if _is_absent(response):
            raise NotFoundError(
                f"{role} of {self.gun}: {self.url} names a file that it does not have",
                hint="If this lasts, the repository's trust data is damaged; its owner must "
                "publish that role again",
            )
        return self._content(response)

    def key(self, role: str) -> "PublicKey":
        """The public key with which the server itself signs *role*; only publishers get it."""
        return self._key(role, self._get(f"{role}.key", _MAX_KEY, fresh=True))

    def new_key(self, role: str) -> "PublicKey":
        """Have the server make a new key for *role*; it signs with it once a root names it.

        Servers with tokens want the action `*` for this.
        """
        response = self.transport.request(
            "POST",
            f"{self._base}/{role}.key",
            what=_WHAT,
            max_bytes=_MAX_KEY,
            body=b"",
            authorizer=self.authorizer,
        )
        return self._key(role, response)

    def _key(self, role: str, response: Response) -> "PublicKey":
        from signimage.keys import PublicKey  # noqa: PLC0415 -- a step begins to talk without it

        content = self._content(response, Permission.SIGN)
        what = f"{role} key from {self.url}"
        try:
            value: Any = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{what}: expected JSON, got something else") from error
        return PublicKey.from_json(value, what=what)

    def old(self, role: str, version: int) -> bytes | None:
        """The file of *role* with that *version*, shown or not; None where there is none."""
        response = self._get(f"{version}.{role}.json", _MAX_FILE, fresh=False)
        return None if _is_absent(response) else self._content(response)

    def publication_times(self, limit: int) -> dict[int, str]:
        """When the last *limit* publications arrived, by version of the timestamp.

        The server's word, signed by nobody. Empty where the server keeps no record: it did not
        always, and copies of a registry keep none.
        """
        response = self.transport.request(
            "GET",
            f"{self.url}/v2/{self.gun}/_trust/changefeed?records=-{limit}&change_id=-1",
            what=_WHAT,
            max_bytes=_MAX_CHANGES,
            authorizer=self.authorizer,
        )
        if response.status != HTTPStatus.OK:
            return {}
        found = response.json(f"record of changes of {self.gun}")
        records = found.get("records") if isinstance(found, dict) else None
        return {
            each["Version"]: each["CreatedAt"]
            for each in records or ()
            if isinstance(each, dict)
            and type(each.get("Version")) is int
            and isinstance(each.get("CreatedAt"), str)
            and each.get("Category") == "update"
        }

    def newest_version(self, role: str, above: int) -> int:
        """The highest version of *role* that the server holds, orphans included.

        The server's race between `targets` and delegations can leave a version that nothing
        refers to and whose number is used up.
        """
        version = above
        while version < above + _MAX_ORPHANS:
            response = self._get(f"{version + 1}.{role}.json", _MAX_FILE, fresh=True)
            if _is_absent(response):
                break
            self._content(response)
            version += 1
        return version

    def post(self, files: Mapping[str, bytes]) -> None:
        """Send role *files* in one form; the server takes all of them or none.

        Raises:
            RemoteError: They were not taken, or that is not known; see above.
        """
        boundary = secrets.token_hex(24)
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{role}"\r\n'
            f"Content-Type: application/octet-stream\r\n\r\n".encode()
            + data
            + b"\r\n"
            for role, data in files.items()
        ]
        response = self.transport.request(
            "POST",
            f"{self._base}/",
            what=_WHAT,
            max_bytes=_MAX_ANSWER,
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
            body=b"".join([*parts, f"--{boundary}--\r\n".encode()]),
            authorizer=self.authorizer,
        )
        if response.status != HTTPStatus.OK:
            raise self._refused(response, Permission.SIGN)

    def _get(self, file: str, limit: int, *, fresh: bool) -> Response:
        return self.transport.request(
            "GET",
            f"{self._base}/{file}",
            what=_WHAT,
            max_bytes=max(limit, _MAX_ANSWER),
            # A shared cache may otherwise serve a timestamp that is five minutes old.
            headers={"Cache-Control": "no-cache"} if fresh else {},
            authorizer=self.authorizer,
        )

    def _content(self, response: Response, permission: Permission = Permission.READ) -> bytes:
        if response.status != HTTPStatus.OK:
            raise self._refused(response, permission)
        return response.body

    def _refused(self, response: Response, permission: Permission) -> RemoteError:
        if response.status == HTTPStatus.BAD_REQUEST and "VERSION" in _error_codes(response):
            return ConflictError(f"{self.gun} was changed by somebody else on {self.url}")
        if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            visitor = self.authorizer or TokenAuthorizer(self.transport, None, "")
            return visitor.denial(response, f"{_WHAT} {self.url}", permission, self.gun)
        error = failure(response, _WHAT)
        if error.hint == STRANGER_HINT:
            error.hint = "Check that this is the address of a trust server (Notary v1)"
        return error

    @property
    def _base(self) -> str:
        return f"{self.url}/v2/{self.gun}/_trust/tuf"


def _is_address(url: str) -> bool:
    """Whether *url* is what a trust server's address looks like."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return usable and bool(_ADDRESS.fullmatch(url))


def _is_absent(response: Response) -> bool:
    """Whether a trust server says that it has no such file; any other 404 is no such answer."""
    return response.status == HTTPStatus.NOT_FOUND and "METADATA_NOT_FOUND" in _error_codes(
        response
    )


def _error_codes(response: Response) -> frozenset[str]:
    try:
        errors = json.loads(response.body)["errors"]
        return frozenset(str(error["code"]) for error in errors)
    except (ValueError, LookupError, TypeError, RecursionError):
        return frozenset()
