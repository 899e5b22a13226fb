"""A stand-in for Azure DevOps: the REST calls by which a step gets a secure file, and a token.

The rules:

1. Strict: what the documented interface does not promise to accept is refused, so that a sloppy
   request fails here and not at a customer's.
2. Misbehaviour is data: each `Lie` is one way in which a real server, or a proxy before it,
   answers something else than the file.
3. Every request is kept, with its headers, for the tests to look at.
"""

import base64
import binascii
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from task.cloud import server

_SIGN_IN = (
    b"<!DOCTYPE html><html><head><title>Azure DevOps Services | Sign In</title></head></html>"
)
_OVERSIZED = 10 * 1024 * 1024 + 1  # bytes; the library takes files of up to 10 MB
_SCHEME_LENGTH = 2  # "Basic xyz": a scheme and one value


class Lie(Enum):
    """What the server answers instead of the secure file."""

    SIGN_IN_PAGE = "203 and HTML, as for a token that is not accepted"
    SIGN_IN_REDIRECT = "302 to a sign-in page"
    HTML_OK = "200 and HTML, as from a proxy"
    EMPTY = "200 and nothing"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403 and a message"
    NOT_FOUND = "404 and a message"
    UNAVAILABLE_ONCE = "503, then the file"
    UNAVAILABLE = "503, always"
    OTHER_ORIGIN = "302 to another origin"
    TRUNCATED = "200 and half of the file"
    OVERSIZED = "200 and more than a secure file can have"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)


@dataclass(slots=True)
class DevOps:
    """A collection with one project; URLs are `http://127.0.0.1:<port>/<collection>/…`."""

    token: str = field(repr=False)
    project: str = "Some Project"
    project_id: str = "6d1fbb54-0b1b-4d3c-9c62-3e6a3b8f2a55"
    collection: str = "Default Collection"
    port: int = 0
    lie: Lie | None = None
    # By file id: the ticket of this job and the content.
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict, repr=False)
    requests: list[Request] = field(default_factory=list)
    strangers: list[Request] = field(default_factory=list)
    stranger_port: int = 0
    # Who answers the requests for a token that says which service connection this is, if anybody.
    oidc: Callable[[server.Request], server.Reply] | None = None
    # What Environments were told of images, and the status that they answer.
    image_details: list[dict[str, Any]] = field(default_factory=list)
    image_details_status: HTTPStatus = HTTPStatus.OK
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def collection_uri(self) -> str:
        """System.CollectionUri: percent-encoded and with a slash at the end, as agents get it."""
        return f"http://127.0.0.1:{self.port}/{quote(self.collection)}/"

    def add_secure_file(self, file_id: str, ticket: str, content: bytes) -> None:
        """Put a file into the library, with the ticket that a job has got for it."""
        self.files[file_id.lower()] = (ticket, content)

    @contextmanager
    def serve(self) -> Iterator["DevOps"]:
        """Answer on loopback until the block is left; `strangers` counts on a second port."""
        with _server(self, _Handler) as self.port, _server(self, _Stranger) as self.stranger_port:
            try:
                yield self
            finally:
                self.stopping.set()


@contextmanager
def _server(devops: DevOps, handler: type["_Quiet"]) -> Iterator[int]:
    bound = type(handler.__name__, (handler,), {"devops": devops})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(BaseHTTPRequestHandler):
    devops: DevOps
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Keep standard error for the tests."""

    def _request(self) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, self.path, headers)

    def _send(
        self, status: int, body: bytes, media_type: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        complete = {"Content-Type": media_type, "Content-Length": str(len(body))} | (headers or {})
        for name, value in complete.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _message(self, status: HTTPStatus, message: str) -> None:
        answer = {"$id": "1", "message": message, "typeKey": status.phrase.replace(" ", "")}
        self._send(status, json.dumps(answer).encode(), "application/json; charset=utf-8")


class _Stranger(_Quiet):
    """Another origin: whatever arrives here should not have."""

    def do_GET(self) -> None:
        """Answer as if this were the file."""
        self.devops.strangers.append(self._request())
        self._send(HTTPStatus.OK, b"a stranger's file", "application/octet-stream")


class _Handler(_Quiet):
    def do_GET(self) -> None:
        """Answer with the file, a refusal, or the lie of the day."""
        self.devops.requests.append(self._request())
        refusal = self._refusal()
        if refusal:
            self._message(*refusal)
        elif self.devops.lie is None:
            self._file(self._content())
        else:
            self._tell(self.devops.lie)

    def do_POST(self) -> None:
        """Answer with a token, take what is told of an image, or refuse."""
        if self.devops.oidc is not None and "/oidctoken?" in self.path:
            server.send(self, self.devops.oidc(server.read_request(self)), self.devops.stopping)
            return
        url = urlsplit(self.path)
        if unquote(url.path).endswith(f"/{self.devops.project}/_apis/deployment/imagedetails"):
            self._take_image_details(parse_qs(url.query))
            return
        self.do_DELETE()

    def _take_image_details(self, query: dict[str, list[str]]) -> None:
        if query != {"api-version": ["5.0-preview.1"]} or not self._is_authorized():
            self._message(HTTPStatus.BAD_REQUEST, "The request is not the documented one.")
        elif self.devops.image_details_status is not HTTPStatus.OK:
            self._message(self.devops.image_details_status, "VS403: no permission to view it.")
        else:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.devops.image_details.append(json.loads(content))
            self._send(HTTPStatus.OK, content, "application/json; charset=utf-8")

    def do_DELETE(self) -> None:
        """Refuse."""
        self.devops.requests.append(self._request())
        self.close_connection = True
        self._message(HTTPStatus.METHOD_NOT_ALLOWED, "The requested resource allows GET only.")

    do_PUT = do_HEAD = do_OPTIONS = do_PATCH = do_DELETE  # noqa: N815  # the base's names

    def _refusal(self) -> tuple[HTTPStatus, str] | None:
        """Return why the request is not the documented one, or None."""
        url = urlsplit(self.path)
        parts = url.path.split("/")[1:]
        if len(parts) != 6 or parts[2:5] != ["_apis", "distributedtask", "securefiles"]:
            return HTTPStatus.NOT_FOUND, f"The controller for path '{url.path}' was not found."
        collection, project = unquote(parts[0]), unquote(parts[1])
        if collection != self.devops.collection:
            return HTTPStatus.NOT_FOUND, f"TF: the collection {collection} does not exist."
        if project not in (self.devops.project, self.devops.project_id):
            return HTTPStatus.NOT_FOUND, f"TF200016: the project {project} does not exist."
        if not self._is_authorized():
            return HTTPStatus.UNAUTHORIZED, "TF400813: the user is not authorized."
        if "application/octet-stream" not in self.headers.get("Accept", ""):
            return HTTPStatus.NOT_ACCEPTABLE, "Accept: expected application/octet-stream."
        return self._file_refusal(parts[5], parse_qs(url.query))

    def _file_refusal(
        self, file_id: str, query: dict[str, list[str]]
    ) -> tuple[HTTPStatus, str] | None:
        if query.get("download") != ["false"]:
            return HTTPStatus.BAD_REQUEST, "download: expected false."
        if file_id.lower() not in self.devops.files:
            return HTTPStatus.NOT_FOUND, f"There is no secure file {file_id}."
        ticket, _ = self.devops.files[file_id.lower()]
        if query.get("ticket") != [ticket]:
            return HTTPStatus.FORBIDDEN, "The ticket is not valid for this secure file."
        return None

    def _is_authorized(self) -> bool:
        words = self.headers.get("Authorization", "").split()
        if len(words) != _SCHEME_LENGTH:
            return False
        scheme, value = words
        if scheme == "Bearer":
            return value == self.devops.token
        try:
            account = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return False
        return scheme == "Basic" and account.partition(":")[2] == self.devops.token

    def _content(self) -> bytes:
        file_id = urlsplit(self.path).path.rpartition("/")[2]
        return self.devops.files[file_id.lower()][1]

    def _file(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        self._send(HTTPStatus.OK, content, "application/octet-stream", headers)

    def _tell(self, lie: Lie) -> None:
        content = self._content()
        elsewhere = f"http://127.0.0.1:{self.devops.stranger_port}/file"
        html = "text/html; charset=utf-8"
        match lie:
            case Lie.SIGN_IN_PAGE:
                self._send(HTTPStatus.NON_AUTHORITATIVE_INFORMATION, _SIGN_IN, html)
            case Lie.HTML_OK:
                self._send(HTTPStatus.OK, _SIGN_IN, html)
            case Lie.SIGN_IN_REDIRECT:
                location = f"http://127.0.0.1:{self.devops.port}/_signin?realm=x"
                self._send(HTTPStatus.FOUND, _SIGN_IN, html, {"Location": location})
            case Lie.OTHER_ORIGIN:
                self._send(HTTPStatus.FOUND, b"", html, {"Location": elsewhere})
            case Lie.EMPTY:
                self._file(b"")
            case Lie.OVERSIZED:
                self._file(bytes(_OVERSIZED))
            case Lie.TRUNCATED:
                self.close_connection = True
                half = content[: len(content) // 2]
                self._file(half, {"Content-Length": str(len(content))})
            case _:
                self._refuse(lie)

    def _refuse(self, lie: Lie) -> None:
        match lie:
            case Lie.UNAUTHORIZED:
                self._message(HTTPStatus.UNAUTHORIZED, "TF400813: the user is not authorized.")
            case Lie.FORBIDDEN:
                self._message(HTTPStatus.FORBIDDEN, "The ticket has expired.")
            case Lie.NOT_FOUND:
                self._message(HTTPStatus.NOT_FOUND, "The secure file was deleted.")
            case Lie.UNAVAILABLE_ONCE:
                self.devops.lie = None
                self._message(HTTPStatus.SERVICE_UNAVAILABLE, "The service is unavailable.")
            case _:
                self._message(HTTPStatus.SERVICE_UNAVAILABLE, "The service is unavailable.")
