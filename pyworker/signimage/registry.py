"""The conversation with an OCI registry: may we push, what is this tag, store that manifest.

The rules of this file:

1. A manifest is what its bytes hash to; a registry's own word for it is only compared. One that
   two readers may read in two ways is none.
2. http is spoken only on loopback, and only if https does not answer there, as in Docker.
3. An address that a registry gives is used as it is, but credentials stay with the registry, and
   https is never left for http.
4. Nothing is ever deleted by its digest: others may have it under other names.

OCI Distribution Specification 1.1 ("Pulling manifests", "Pushing blobs", "Pushing manifests",
"Deleting tags").
Who we are and what we may do there is `authorization`'s, how blobs get there `upload`'s.
"""

import http.client
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import quote, urljoin, urlsplit

from signimage import canonical
from signimage.authorization import Login, TokenAuthorizer, failure
from signimage.errors import (
    CertificateError,
    FormatError,
    HashMismatchError,
    InputError,
    NotFoundError,
    RemoteError,
    UnreachableError,
)
from signimage.members import Members
from signimage.oci import (
    DOCKER_HUB,
    DOCUMENT_MEMBERS,
    IMAGE_TYPES,
    INDEX_TYPES,
    Descriptor,
    Digest,
    Manifest,
    Repository,
    check_type,
)
from signimage.permissions import PIPELINE, LoginAdvice, Permission
from signimage.transport import (
    DEADLINE_S,
    Response,
    Stream,
    Transport,
    is_loopback,
    origin,
    readable,
    said_by_server,
)

MANIFEST_MAX = 4 * 1024 * 1024  # bytes; the least a registry must take (OCI 1.1), and usual
ANSWER_MAX = 64 * 1024  # bytes, of anything but a manifest
PROBE_S = 5.0  # for finding out whether https answers on loopback, as Docker does
PARALLEL = 4  # requests to one registry; each has a connection that is kept
REDIRECTS = 3  # of one upload; storage is one step away

MANIFEST_TYPES = INDEX_TYPES + IMAGE_TYPES
_HUB_API_HOST = "registry-1.docker.io"
_WHAT = "registry"
_MOVED = (http.client.TEMPORARY_REDIRECT, http.client.PERMANENT_REDIRECT)  # method and body stay
# What registries answer where a tag may not be overwritten, and we may push all the same.
_PROTECTED = (
    http.client.BAD_REQUEST,
    http.client.FORBIDDEN,
    http.client.METHOD_NOT_ALLOWED,
    http.client.CONFLICT,
    http.client.PRECONDITION_FAILED,
)
_PROTECTED_HINT = (
    "If the registry keeps tags from being overwritten, choose a tag that it does not have yet"
)
_DELETED = (http.client.OK, http.client.ACCEPTED, http.client.NO_CONTENT)
_UNDELETED = (http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED)
_ONLY_BY_DIGEST = ("UNSUPPORTED", "DIGEST_INVALID")  # the second: distribution up to 2.8


class Registry:
    """One repository in a registry, with what our credentials may do there."""

    def __init__(
        self,
        transport: Transport,
        repository: Repository,
        login: Login,
        *,
        actions: str = "pull,push",
        advice: LoginAdvice = PIPELINE,
        secret: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._transport = transport
        self._repository = repository
        self._path = f"repository:{repository.path}"

        def visitor(*scopes: str) -> TokenAuthorizer:
            return TokenAuthorizer(transport, login, *scopes, advice=advice, secret=secret)

        self._visitor = visitor
        self._authorizer = visitor(f"{self._path}:{actions}")
        self._base = ""
        self._lock = threading.Lock()

    def check_push(self) -> None:
        """Find out whether our credentials let us push, by beginning an upload and ending it.

        Raises:
            UnauthorizedError: They do not.
            RemoteError: The registry cannot be used.
        """
        # An upload that was begun twice ends by itself.
        response = self.request("POST", "blobs/uploads/", body=b"", repeatable=True)
        if response.status != http.client.ACCEPTED:
            raise self.refused(response, Permission.PUSH)
        # Only tidiness: registries drop abandoned uploads by themselves. So no right is asked for
        # that we do not have; some want one to delete for it.
        with suppress(RemoteError, FormatError, InputError, ValueError):  # or no address at all
            location = urljoin(response.url, response.headers.get("Location", ""))
            if origin(location) == origin(response.url):
                self._transport.request(
                    "DELETE",
                    location,
                    what=_WHAT,
                    max_bytes=ANSWER_MAX,
                    headers=self._authorizer.headers("DELETE", location),
                )

    def resolve(self, reference: str | Digest) -> Manifest:
        """Fetch the manifest or index behind a tag or digest, and hash it.

        Raises:
            NotFoundError: The registry does not have it.
            UnauthorizedError: Our credentials do not let us pull.
            HashMismatchError: Its bytes are not what the digest asked for, or the registry's
                `Docker-Content-Digest`, says.
            FormatError: It is not a manifest.
        """
        response = self.request(
            "GET",
            _manifest_path(reference),
            max_bytes=MANIFEST_MAX,
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
            # Some keep manifests elsewhere; what a digest proves may come from anywhere.
            leave_origin=isinstance(reference, Digest),
        )
        name = self._named(reference)
        if response.status == http.client.NOT_FOUND:
            raise NotFoundError(f"{_WHAT} {self._repository.host} does not have {name}")
        if response.status != http.client.OK:
            raise self.refused(response, Permission.PULL)
        manifest = _parse_manifest(response, f"manifest of {name}")
        if isinstance(reference, Digest):
            reference.check(manifest.content, what=f"manifest of {name}")
        check_claim(response, manifest.descriptor.digest, f"manifest of {name}")
        return manifest

    def find(self, reference: str | Digest) -> Manifest | None:
        """Do the same where it may be absent: None if the registry answers that it has none."""
        try:
            return self.resolve(reference)
        except NotFoundError:
            return None

    def put_manifest(self, reference: str | Digest, manifest: Manifest) -> None:
        """Store *manifest* under a tag or, untagged, under its own digest.

        What it refers to must be in the repository already.

        Raises:
            UnauthorizedError: Our credentials do not let us push.
            HashMismatchError: The digest is not the manifest's, or the registry says that it
                stored something else.
            RemoteError: The registry refuses it.
        """
        what = f"manifest stored as {self._named(reference)}"
        if isinstance(reference, Digest):
            reference.check(manifest.content, what=what)
        response = self.request(
            "PUT",
            _manifest_path(reference),
            headers={"Content-Type": manifest.descriptor.media_type},
            body=manifest.content,
            repeatable=True,
        )
        if response.status != http.client.CREATED:
            error = self.refused(response, Permission.PUSH)
            if isinstance(reference, str) and response.status in _PROTECTED:
                error.hint = _PROTECTED_HINT
            raise error
        check_claim(response, manifest.descriptor.digest, what)

    def remove_tag(self, tag: str) -> bool:
        """Remove a tag and nothing else; False if the registry cannot, or has no such tag.

        Raises:
            UnauthorizedError: Our credentials do not let us.
            RemoteError: It is not known whether the tag is gone.
        """
        # A right of its own, so that all else is done without it.
        visitor = self._visitor(f"{self._path}:delete")
        response = self.request("DELETE", _manifest_path(tag), visitor=visitor)
        if response.status in _DELETED:
            return True
        said = said_by_server(response)
        if response.status in _UNDELETED or any(word in said for word in _ONLY_BY_DIGEST):
            return False
        raise self.refused(response, Permission.REMOVE, visitor)

    def _named(self, reference: str | Digest) -> str:
        joint = "@" if isinstance(reference, Digest) else ":"
        return f"{self._repository}{joint}{reference}"

    # --- for `upload` -----------------------------------------------------------------------

    @property
    def repository(self) -> Repository:
        """The repository that this is about."""
        return self._repository

    def visitor(self, *readable_too: str) -> TokenAuthorizer:
        """Return who we are, with the right to read other repositories of this registry as well.

        Asking for that right may fail where we lack it, so the usual requests do not ask.
        """
        pulled = (f"repository:{path}:pull" for path in readable_too)
        return self._visitor(f"{self._path}:pull,push", *pulled)

    def request(  # noqa: PLR0913 -- a narrower `Transport.request`, whose parts these are
        self,
        method: str,
        path: str,
        *,
        max_bytes: int = ANSWER_MAX,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        leave_origin: bool = False,
        repeatable: bool = False,
        visitor: TokenAuthorizer | None = None,
    ) -> Response:
        """Send a request about something in the repository, e.g. `manifests/1.0`."""
        return self._transport.request(
            method,
            f"{self._api()}/v2/{self._repository.path}/{path}",
            what=_WHAT,
            max_bytes=max_bytes,
            headers=headers,
            body=body,
            authorizer=visitor or self._authorizer,
            leave_origin=leave_origin,
            repeatable=repeatable,
        )

    def request_at(
        self,
        method: str,
        location: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Stream | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Response:
        """Send a request to an address that `located` gave, and on to where it is redirected."""
        for _ in range(REDIRECTS):
            ours = origin(location) == origin(self._api())
            response = self._transport.request(
                method,
                location,
                what=_WHAT,
                max_bytes=ANSWER_MAX,
                headers=headers,
                body=body,
                authorizer=self._authorizer if ours else None,
                deadline_s=deadline_s,
            )
            if response.status not in _MOVED or "Location" not in response.headers:
                return response
            location = located(response)
        raise RemoteError(f"{_WHAT} {origin(location)}: expected at most {REDIRECTS} redirects")

    def refused(
        self, response: Response, permission: Permission, visitor: TokenAuthorizer | None = None
    ) -> RemoteError:
        """Return the error for an answer that is not the expected one; the caller raises it."""
        is_refusal = response.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN)
        if not is_refusal or origin(response.url) != origin(self._api()):  # its storage's
            return failure(response, _WHAT)
        server = f"{_WHAT} {self._repository.host}"
        visitor = visitor or self._authorizer
        return visitor.denial(response, server, permission, self._repository.path)

    def _api(self) -> str:
        with self._lock:
            self._base = self._base or base_url(self._transport, self._repository.host)
            return self._base


def _manifest_path(reference: str | Digest) -> str:
    return f"manifests/{quote(str(reference), safe=':')}"


def located(response: Response) -> str:
    """Return the address that a registry gives in `Location`.

    Raises:
        RemoteError: It gives none, or none that may be used.
    """
    where = f"{_WHAT} {origin(response.url)}"
    given = response.headers.get("Location", "")
    try:
        location = urljoin(response.url, given).partition("#")[0]
        parts = urlsplit(location)
        origin(location)
        is_usable = (
            re.fullmatch(r"[\x21-\x5b\x5d-\x7e]+", given)
            and parts.scheme in ("http", "https")
            and parts.hostname
            and "@" not in parts.netloc
        )
    except ValueError:
        is_usable = False
    if not is_usable:
        raise RemoteError(
            f"{where}: expected an http(s) address to go on at, "
            f"got {readable(given.partition('?')[0].rpartition('@')[2])!r}"
        )
    if parts.scheme == "http" and response.url.startswith("https:"):
        raise RemoteError(
            f"{where}: expected an https address to go on at, got one at {origin(location)}",
            hint="A proxy before the registry must tell it of https, by X-Forwarded-Proto",
        )
    return location


def base_url(transport: Transport, host: str) -> str:
    """Return scheme and host under which the API of the registry *host* answers.

    1. Docker Hub's API has a host of its own.
    2. https, unless the registry is on loopback;
    3. there https if it answers, whatever it says, else http.

    Raises:
        CertificateError: https answers on loopback with a certificate that is not trusted.
    """
    if host == DOCKER_HUB:
        return f"https://{_HUB_API_HOST}"
    secure = f"https://{host}"
    if is_loopback(urlsplit(secure).hostname or ""):
        try:
            transport.request(
                "GET", f"{secure}/v2/", what=_WHAT, max_bytes=ANSWER_MAX, deadline_s=PROBE_S
            )
        except CertificateError:
            raise
        except UnreachableError:
            return f"http://{host}"
    return secure


def _parse_manifest(response: Response, what: str) -> Manifest:
    document = response.json(what)
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:  # noqa: PLR2004 -- OCI
        raise FormatError(f"{what}: expected a document of schemaVersion 2, got another")
    header = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    named = (header, document.get("mediaType"))
    media_type = next((kind for kind in named if kind in MANIFEST_TYPES), None)
    if media_type is None:
        raise FormatError(
            f"{what}: expected an image manifest or index, got {readable(header) or 'no type'}"
        )
    content = response.body
    # As strictly as in an archive: what is signed must mean one thing to everybody.
    value = canonical.parse(content, what=what)
    Members(value, what, DOCUMENT_MEMBERS)
    check_type(value, media_type, what=what)
    return Manifest(Descriptor(media_type, Digest.of(content), len(content)), content)


def check_claim(response: Response, digest: Digest, what: str) -> None:
    """Compare with the registry's own word, which is optional and may use another algorithm.

    Raises:
        HashMismatchError: It is another.
    """
    claimed = response.headers.get("Docker-Content-Digest", "")
    if claimed.startswith("sha256:") and claimed != digest.text:
        raise HashMismatchError(
            f"{what}: expected {digest}, got {readable(claimed)} in Docker-Content-Digest"
        )
