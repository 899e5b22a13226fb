"""One blob into a registry: mounted, in one piece or in chunks, and on after a fault.

The rules of this file:

1. What the registry has is not sent again.
2. All that is sent is hashed on the way; content that is not what its descriptor says is never
   sent to its end, nor mounted from another repository.
3. No more than a part of a blob is ever in memory.
4. After a fault a blob in chunks goes on where the registry says that it got to, if it is not
   further than we have sent. A registry that cannot do chunks gets the blob in one piece.
5. A fault is met with a limited number of tries, which begin anew with every further chunk.

OCI Distribution Specification 1.1, "Pushing blobs": in one piece (POST then PUT), in chunks,
"Mounting a blob from another repository".
"""

import hashlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, final
from urllib.parse import quote, urlsplit

from signimage.authorization import TokenAuthorizer
from signimage.errors import (
    CertificateError,
    HashMismatchError,
    InputError,
    RemoteError,
    UnavailableError,
    UnreachableError,
)
from signimage.oci import Blob, Digest
from signimage.permissions import Permission
from signimage.registry import Registry, check_claim, located
from signimage.transport import STALL_S, Response, Stream, pause_s, reason, retry_after_s

PART = 256 * 1024  # bytes, in memory; larger ones made no upload faster
CHUNK = 32 * 1024 * 1024  # bytes; well between what registries want and what proxies let through
TRIES = 5
PAUSE_S = 1.0  # at most before the second try; twice as long before each further one
ANSWER_S = 300.0  # registries on object storage copy a blob before they answer
WAIT_MAX_S = 60.0  # what a registry may ask for in Retry-After

_UPLOADS = "blobs/uploads/"
_BINARY = "application/octet-stream"
_ENDED = (http.client.CREATED, http.client.OK, http.client.NO_CONTENT)
_FORBIDDEN = (http.client.UNAUTHORIZED, http.client.FORBIDDEN)
_NOT_OF_CHUNKS = (*_FORBIDDEN, http.client.TOO_MANY_REQUESTS)
_FAILED = http.client.INTERNAL_SERVER_ERROR
# The upload is not known any more, as where a registry was restarted.
_LOST = (http.client.NOT_FOUND, http.client.REQUESTED_RANGE_NOT_SATISFIABLE)
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_SIZE_HINT = "A proxy before the registry may allow smaller uploads only"


class AbandonedError(Exception):
    """The image will not be uploaded any more, so no blob is."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How an upload goes on.

    Attributes:
        chunk: What goes in one piece, in bytes.
        tries: How many without a further chunk.
        pause_s: At most before the second try.
        stall_s: In which the registry must take each part.
        answer_s: In which it must answer to what it has taken.
    """

    chunk: int = CHUNK
    tries: int = TRIES
    pause_s: float = PAUSE_S
    stall_s: float = STALL_S
    answer_s: float = ANSWER_S


@final
class Mounts:
    """Other repositories of the registry that may have a blob; may be shared between threads."""

    def __init__(self, registry: Registry, paths: Sequence[str]) -> None:
        own = registry.repository.path
        # Each visitor has a token of its own: one that may not read there costs the others nothing.
        self._visitors = {path: registry.visitor(path) for path in paths if path != own}

    def candidates(self) -> Iterator[tuple[str, TokenAuthorizer]]:
        """Yield each path with who may read there."""
        yield from tuple(self._visitors.items())

    def drop(self, path: str) -> None:
        """Leave out a repository that we may not read."""
        self._visitors.pop(path, None)


@final
class _Content:
    """The bytes of a blob, from any place on."""

    def __init__(
        self, blob: Blob, taken: Callable[[int], object], abandoned: threading.Event
    ) -> None:
        self._blob = blob
        self._what = f"content of {blob.descriptor.digest}"
        self._taken = taken
        self._abandoned = abandoned
        self._file: BinaryIO | None = None
        self._position = 0
        self._hash = hashlib.sha256()

    def parts(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from *start* to before *end*.

        Raises:
            HashMismatchError: Before the last of all: they are not what the descriptor says.
            InputError: They cannot be read.
        """
        size = self._blob.descriptor.size
        if start < self._position or self._file is None:
            self._open()
        while self._position < start:
            self._next(start)
        while self._position < end:
            part = self._next(end)
            if self._position == size:
                self._check_whole()
            yield part
            self._taken(self._position)
        if size == 0:
            self._check_whole()

    def prove(self) -> None:
        """Read it to its end, unless its descriptor was made from it.

        Raises:
            HashMismatchError: It is not what the descriptor says.
            InputError: It cannot be read.
        """
        if self._blob.is_proven:
            return
        size = self._blob.descriptor.size
        self._open()
        while self._position < size:
            self._next(size)
        self._check_whole()
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self.close()
        try:
            self._file = self._blob.open()
        except OSError as error:
            raise self._unreadable(error) from error
        self._position = 0
        self._hash = hashlib.sha256()

    def _next(self, end: int) -> bytes:
        if self._abandoned.is_set():
            raise AbandonedError
        part = self._read(min(PART, end - self._position))
        if not part:
            expected = self._blob.descriptor.size
            raise HashMismatchError(
                f"{self._what}: expected {expected} bytes, got {self._position}"
            )
        self._hash.update(part)
        self._position += len(part)
        return part

    def _check_whole(self) -> None:
        descriptor = self._blob.descriptor
        if self._read(1):
            raise HashMismatchError(f"{self._what}: expected {descriptor.size} bytes, got more")
        found = Digest.of_raw(self._hash.digest())
        if found != descriptor.digest:
            raise HashMismatchError(f"{self._what}: expected {descriptor.digest}, got {found}")

    def _read(self, most: int) -> bytes:
        assert self._file is not None  # noqa: S101 -- for mypy; opened above
        try:
            return self._file.read(most)
        except (OSError, EOFError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self._what} cannot be read: {reason(error)}")


@final
class BlobUpload:
    """One blob on its way into a registry."""

    def __init__(
        self,
        registry: Registry,
        blob: Blob,
        pace: Pace,
        *,
        mounts: Mounts,
        taken: Callable[[int], object] = lambda _: None,
        abandoned: threading.Event | None = None,
    ) -> None:
        """Prepare an upload; nothing is asked yet.

        Args:
            registry: Where to.
            blob: What.
            pace: How.
            mounts: Where the registry may have it already.
            taken: Told how far it got, in bytes; less than before where it has to go back.
            abandoned: Ends the upload with an `AbandonedError` when it is set.
        """
        self._registry = registry
        self._digest, self._size = blob.descriptor.digest, blob.descriptor.size
        self._pace = pace
        self._mounts = mounts
        self._abandoned = abandoned or threading.Event()
        self._taken = taken
        self._content = _Content(blob, taken, self._abandoned)
        self._chunk = pace.chunk
        self._is_whole = self._size <= pace.chunk
        self._may_mount = True
        self._session = ""  # where the registry takes more; "" for nowhere yet
        self._is_doubtful = False  # whether the registry must be asked how far it got
        self._is_lost = False  # whether the registry once expected another range than we sent
        self._offset = self._sent = self._furthest = 0  # bytes: to send from, sent, taken
        self._faults = 0  # since the last further chunk
        self._asked_s = 0.0  # what the registry asked us to wait

    def run(self) -> None:
        """Put the blob into the repository.

        1. Look whether it is there; also after each fault, as it may be an answer that was lost.
        2. Have it mounted from another repository.
        3. Begin an upload, or find out how far the last one got.
        4. Send all in one piece or, where it is larger than that, chunk by chunk.
        5. End the upload.

        Raises:
            HashMismatchError: The content is not what its descriptor says, or not what the
                registry says that it stored.
            InputError: The content cannot be read.
            UnauthorizedError: Our credentials do not let us push.
            RemoteError: The registry refuses the blob, or fails again and again.
        """
        with closing(self._content):
            while not self._abandoned.is_set():
                try:
                    if self._is_there():
                        self._taken(self._size)
                        return
                    if self._try():
                        return
                except CertificateError:
                    raise
                except (UnavailableError, UnreachableError) as error:
                    self._note(error)
        raise AbandonedError

    def _is_there(self) -> bool:
        """Step 1. An answer that is no clear yes only means to send."""
        try:
            # Some keep blobs elsewhere, and nothing but a length is believed.
            response = self._registry.request("HEAD", f"blobs/{self._digest}", leave_origin=True)
        except RemoteError:
            return False
        length = response.headers.get("Content-Length", "")
        return response.status == http.client.OK and length in ("", str(self._size))

    def _try(self) -> bool:
        """Steps 2 to 5, as far as they go; False if they must be begun anew, in another way."""
        if self._is_doubtful:
            self._is_doubtful = False
            self._look()
        if not self._session and self._mount():
            return True
        if not self._session:
            self._begin()
        if self._is_whole:
            return self._send_whole()
        return self._send_chunks() and self._end_chunks()

    def _note(self, error: RemoteError) -> None:
        """Count a fault and wait, or give up."""
        self._faults += 1
        if self._faults >= self._pace.tries:
            raise error
        self._is_doubtful = True
        self._abandoned.wait(max(self._asked_s, pause_s(self._pace.pause_s, self._faults)))
        self._asked_s = 0.0

    def _refused(self, response: Response) -> RemoteError:
        """Return what a refusal means; the caller raises it, and what passes is met by `_note`."""
        self._asked_s = min(retry_after_s(response), WAIT_MAX_S)
        error = self._registry.refused(response, Permission.PUSH)
        if response.status == http.client.REQUEST_ENTITY_TOO_LARGE:
            error.hint = _SIZE_HINT
        return error

    # --- beginning and going on -------------------------------------------------------------

    def _mount(self) -> bool:
        """Step 2, once; where the registry begins an upload instead, that one is used.

        Only for who has the content: whoever wrote an image may know the digest of a blob that
        they must not read, and would get it, by our login, out of another repository.
        """
        candidates = list(self._mounts.candidates()) if self._may_mount else []
        self._may_mount = False
        if candidates:
            self._content.prove()
        for path, visitor in candidates:
            query = f"mount={quote(self._digest.text)}&from={quote(path, safe='')}"
            try:
                response = self._registry.request(
                    "POST", f"{_UPLOADS}?{query}", body=b"", repeatable=True, visitor=visitor
                )
            except UnreachableError:
                raise
            except RemoteError:  # there is no token for it
                self._mounts.drop(path)
                continue
            if response.status == http.client.CREATED:
                check_claim(response, self._digest, f"blob mounted from {path}")
                self._taken(self._size)
                return True
            if response.status == http.client.ACCEPTED:
                self._open(response)
            elif response.status in _FORBIDDEN:
                self._mounts.drop(path)
        return False

    def _begin(self) -> None:
        """Step 3. One that was begun twice ends by itself."""
        response = self._registry.request("POST", _UPLOADS, body=b"", repeatable=True)
        if response.status != http.client.ACCEPTED:
            raise self._refused(response)
        self._open(response)

    def _open(self, response: Response) -> None:
        self._session = located(response)
        self._offset = self._sent = 0
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        if re.fullmatch(r"[0-9]{1,12}", least):
            self._chunk = max(self._pace.chunk, int(least))
        self._is_whole = self._is_whole or self._size <= self._chunk

    def _look(self) -> None:
        """Step 3 after a fault; without a clear answer all is begun anew."""
        if self._is_whole or not self._session:
            self._session = ""
            return
        response = self._registry.request_at("GET", self._session)
        reached = _reached(response)
        if response.status != http.client.NO_CONTENT or reached is None or reached > self._sent:
            self._session = ""
            return
        self._offset = reached
        self._go_on_at(response)

    def _go_on_at(self, response: Response) -> None:
        if "Location" in response.headers:
            self._session = located(response)

    def _send_otherwise(self) -> bool:
        """Give up chunks, for registries and proxies that do not take them as specified."""
        self._is_whole, self._session = True, ""
        return False

    # --- sending ----------------------------------------------------------------------------

    def _send_whole(self) -> bool:
        response = self._put(self._stream(0, self._size))
        if response.status in _ENDED:
            return self._stored(response)
        error = self._refused(response)
        raise UnavailableError(str(error)) if response.status in _LOST else error

    def _send_chunks(self) -> bool:
        while self._offset < self._size:
            end = min(self._offset + self._chunk, self._size)
            self._sent = max(self._sent, end)
            response = self._registry.request_at(
                "PATCH",
                self._session,
                headers={
                    "Content-Type": _BINARY,
                    "Content-Range": f"{self._offset}-{end - 1}",
                },
                body=self._stream(self._offset, end),
                deadline_s=self._pace.answer_s,
            )
            if not self._is_taken(response, end):
                return False
        return True

    def _is_taken(self, response: Response, end: int) -> bool:
        """Go on behind what the registry took of the chunk before *end*."""
        if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and not self._is_lost:
            self._is_lost = self._is_doubtful = True
            return False
        if response.status != http.client.ACCEPTED:
            if _may_pass(response):
                raise self._refused(response)
            return self._send_otherwise()
        reached = _reached(response)
        reached = end if reached is None else reached
        if not self._offset < reached <= end:
            return self._send_otherwise()
        self._offset = reached
        if reached > self._furthest:
            self._furthest, self._faults = reached, 0
        self._go_on_at(response)
        return True

    def _end_chunks(self) -> bool:
        response = self._put(b"")
        if response.status in _ENDED:
            return self._stored(response)
        if _may_pass(response):
            raise self._refused(response)
        return self._send_otherwise()

    def _put(self, body: bytes | Stream) -> Response:
        joint = "&" if urlsplit(self._session).query else "?"
        return self._registry.request_at(
            "PUT",
            f"{self._session}{joint}digest={quote(self._digest.text)}",
            headers={"Content-Type": _BINARY},
            body=body,
            deadline_s=self._pace.answer_s,
        )

    def _stream(self, start: int, end: int) -> Stream:
        read = partial(self._content.parts, start, end)
        return Stream(end - start, read, self._pace.stall_s)

    def _stored(self, response: Response) -> bool:
        check_claim(response, self._digest, f"blob stored in {self._registry.repository}")
        return True


def _may_pass(response: Response) -> bool:
    """Tell whether a refusal is about us or the moment, rather than about chunks."""
    if response.status == http.client.NOT_IMPLEMENTED:
        return False
    return response.status in _NOT_OF_CHUNKS or response.status >= _FAILED


def _reached(response: Response) -> int | None:
    """Return how many bytes a registry says to have; None if it does not say."""
    found = _RANGE.fullmatch(response.headers.get("Range", "").strip())
    if found is None:
        return None
    last = int(found[1])
    return last + 1 if last else 0  # "0-0" is what registries say of nothing at all
