"""Claims about `signimage.securefiles`; Azure DevOps is a small server that can lie."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from signimage.errors import (
    InputError,
    NotFoundError,
    RemoteError,
    SignImageError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from signimage.securefiles import SECURE_FILE_MAX, SecureFile, fetch_secure_file
from signimage.transport import Credentials, Transport, TransportSettings
from unit.small_server import Reply, Request, SmallServer

FILE_ID = "11223344-0000-4000-8000-00000000000a"
CONTENT = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\r\n\x00\xff"
BYTES = {"Content-Type": "application/octet-stream"}
TICKET, TOKEN = "ticket/+&=s3cret", "token-s3cret"


class Library:
    """Azure DevOps' answer to a download, honest unless `lie` is set."""

    def __init__(self) -> None:
        self.lie: Callable[[], Reply] | None = None
        self.server = SmallServer(self._answer)

    def file(self) -> SecureFile:
        """Describe the file it has."""
        collection = f"{self.server.origin}/Default Collection/"
        return SecureFile(collection, "My Project/ü", FILE_ID, "ci.key", TICKET, TOKEN)

    def _answer(self, request: Request) -> Reply:
        if self.lie is not None:
            return self.lie()
        parts = urlsplit(request.path)
        path = f"/Default Collection/My Project%2Fü/_apis/distributedtask/securefiles/{FILE_ID}"
        assert unquote(parts.path.replace("%2F", "%252F")) == path
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert query.pop("api-version") == "5.0-preview.1"
        assert request.headers["Accept"] == "application/octet-stream"
        assert request.headers["X-TFS-FedAuthRedirect"] == "Suppress"
        if request.headers["Authorization"] != Credentials("PAT", TOKEN).basic():
            return Reply(401)
        if query != {"ticket": TICKET, "download": "false"}:
            return Reply(403, json.dumps({"message": "VS800075: the ticket is invalid"}).encode())
        return Reply(200, CONTENT, BYTES)


@pytest.fixture
def library() -> Iterator[Library]:
    it = Library()
    with it.server:
        yield it


def fetch(file: SecureFile) -> bytes:
    with Transport(TransportSettings(backoff_s=0.001)) as transport:
        return fetch_secure_file(transport, file)


def test_secure_file_arrives_byte_for_byte(library: Library) -> None:
    assert fetch(library.file()) == CONTENT


def test_secure_file_arrives_after_a_busy_server(library: Library) -> None:
    replies = [Reply(503), Reply(502), Reply(200, CONTENT, BYTES)]
    library.lie = lambda: replies.pop(0)
    assert fetch(library.file()) == CONTENT


def test_wrong_ticket_is_quoted_from_the_server(library: Library) -> None:
    claim = r"^secure file ci.key: .* does not let this job read it \(it answered 403: VS800075"
    with pytest.raises(UnauthorizedError, match=claim) as caught:
        fetch(replace(library.file(), ticket="other-s3cret"))
    assert "Authorize the pipeline" in caught.value.hint


@pytest.mark.parametrize(
    ("lie", "kind", "claim"),
    [
        (Reply(401), UnauthorizedError, "does not let this job read it"),
        (Reply(400, b'{"message":"bad"}'), UnauthorizedError, "answered 400: bad"),
        (Reply(404, b'{"message":"VS800: gone"}'), NotFoundError, "does not have it .*VS800: gone"),
        (Reply(203, b"<html>", {"Content-Type": "text/html; charset=utf-8"}), RemoteError,
         "got 203 with text/html, probably a sign-in page"),
        (Reply(200, b"<html>", {"Content-Type": "text/html"}), RemoteError, "got 200 with text/"),
        (Reply(200, b"x"), RemoteError, "got 200 with no type"),
        (Reply(203, b"x", BYTES), RemoteError, "got 203 with application/octet-stream"),
        (Reply(302, headers={"Location": "/_signin"}), RemoteError, "got 302 with no type"),
        (Reply(200, b"", BYTES), RemoteError, "expected its content from .*, got nothing$"),
        (Reply(204, b"", BYTES), RemoteError, "answered 204 with"),
        (Reply(500, b'{"message":"oops"}'), UnavailableError, "answered 500: oops$"),
        (Reply(200, b"x" * (SECURE_FILE_MAX + 1), BYTES), TooLargeError, "at most 10485760 bytes"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"), UnreachableError, "ended"),
    ],
)  # fmt: skip
def test_what_is_not_the_file_is_refused_without_its_secrets(
    library: Library, lie: Reply, kind: type[SignImageError], claim: str
) -> None:
    library.lie = lambda: lie
    with pytest.raises(kind, match=claim) as caught:
        fetch(library.file())
    assert type(caught.value) is kind
    texts = [caught.value.sentence, repr(library.file()), repr(caught.value.__cause__)]
    assert not any("s3cret" in text for text in texts)


def test_token_follows_no_redirect(library: Library) -> None:
    with SmallServer(lambda _: Reply(200, CONTENT, BYTES)) as other:
        library.lie = lambda: Reply(307, headers={"Location": f"{other.origin}/x"})
        with pytest.raises(RemoteError, match="got 307"):
            fetch(library.file())
    assert other.requests == []


def test_collection_that_is_no_address_is_wrong_input(library: Library) -> None:
    with pytest.raises(InputError, match=r"^address of Azure DevOps: expected http"):
        fetch(replace(library.file(), collection_uri=""))


def test_busy_server_is_waited_for_as_it_asks_within_the_bound(library: Library) -> None:
    """A wait that is longer than the whole call may take is not begun."""
    library.lie = lambda: Reply(503, headers={"Retry-After": "86400"})
    with pytest.raises(RemoteError, match=r"^secure file ci.key: .* answered 503$"):
        fetch(library.file())
    assert len(library.server.requests) == 1


def test_server_that_stays_busy_is_given_up(library: Library) -> None:
    library.lie = lambda: Reply(429)
    with pytest.raises(UnavailableError, match=r"^secure file ci.key: .* answered 429$"):
        fetch(library.file())
    assert 1 < len(library.server.requests) < 10


def test_chunks_that_end_too_early_are_no_file(library: Library) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    library.lie = lambda: Reply(raw=head + b"Transfer-Encoding: chunked\r\n\r\n9\r\n12345")
    with pytest.raises(UnreachableError, match=r"^secure file ci.key: .* cannot be reached"):
        fetch(library.file())


@pytest.mark.parametrize("name", ["../../ci.key", "/etc/passwd", "..", "C:\\x", "a\nb", "a\0b"])
def test_name_is_never_a_path(
    library: Library, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither asked for nor written to; the file is its ID, and stays in memory."""
    monkeypatch.chdir(tmp_path)
    assert fetch(replace(library.file(), name=name)) == CONTENT
    assert os.listdir(tmp_path) == []  # noqa: PTH208 -- of a folder that pytest made
    (request,) = library.server.requests
    assert urlsplit(request.path).path.endswith(f"/securefiles/{FILE_ID}")


@pytest.mark.parametrize("text", ["ci.key", "..", "../../plans", f"{FILE_ID}/..", "a?b=c", ""])
def test_what_is_no_id_is_not_asked_for(library: Library, text: str) -> None:
    with pytest.raises(InputError, match=r"^secure file: expected an ID, got") as caught:
        fetch(replace(library.file(), file_id=text))
    assert "write the name into the step itself" in caught.value.hint
    assert library.server.requests == []


def test_file_without_a_ticket_was_not_given_to_this_job(library: Library) -> None:
    with pytest.raises(UnauthorizedError, match="the agent gave this job no ticket") as caught:
        fetch(replace(library.file(), ticket=""))
    assert "Authorize the pipeline" in caught.value.hint
