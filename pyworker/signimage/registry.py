"""The conversation with an OCI registry: may we push, what is this tag, store that manifest.

The rules of this file:

1. A manifest is what its bytes hash to; a registry's own word for it is only compared.
2. http is spoken only on loopback, and only if https does not answer there, as in Docker.

OCI Distribution Specification 1.1 ("Pulling manifests", "Pushing blobs", "Pushing manifests").
Who we are and what we may do there is `authorization`'s.
"""

import http.client
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import quote, urljoin, urlsplit

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
from signimage.oci import DOCKER_HUB, Descriptor, Digest, Manifest, Repository
from signimage.permissions import PIPELINE, LoginAdvice, Permission
from signimage.transport import Response, Transport, is_loopback, origin, readable

MANIFEST_MAX = 4 * 1024 * 1024  # bytes; the least a registry must take (OCI 1.1), and usual
ANSWER_MAX = 64 * 1024  # bytes, of anything but a manifest
PROBE_S = 5.0  # for finding out whether https answers on loopback, as Docker does

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_HUB_API_HOST = "registry-1.docker.io"
_WHAT = "registry"


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
        scope = f"repository:{repository.path}:{actions}"
        self._authorizer = TokenAuthorizer(transport, login, scope, advice=advice, secret=secret)
        self._base = ""

    def check_push(self) -> None:
        """Find out whether our credentials let us push, by beginning an upload and ending it.

        Raises:
            UnauthorizedError: They do not.
            RemoteError: The registry cannot be used.
        """
        response = self._request("POST", "blobs/uploads/", max_bytes=ANSWER_MAX, body=b"")
        if response.status != http.client.ACCEPTED:
            raise self._refused(response, Permission.PUSH)
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
        response = self._request(
            "GET",
            f"manifests/{quote(str(reference), safe=':')}",
            max_bytes=MANIFEST_MAX,
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
            # Some keep manifests elsewhere; what a digest proves may come from anywhere.
            leave_origin=isinstance(reference, Digest),
        )
        joint = "@" if isinstance(reference, Digest) else ":"
        name = f"{self._repository}{joint}{reference}"
        if response.status == http.client.NOT_FOUND:
            raise NotFoundError(f"{_WHAT} {self._repository.host} does not have {name}")
        if response.status != http.client.OK:
            raise self._refused(response, Permission.PULL)
        manifest = _parse_manifest(response, f"manifest of {name}")
        if isinstance(reference, Digest):
            reference.check(manifest.content, what=f"manifest of {name}")
        _check_claim(response, manifest.descriptor.digest, f"manifest of {name}")
        return manifest

    def put_manifest(self, tag: str, manifest: Manifest) -> None:
        """Store *manifest* under *tag*; what it refers to must be in the repository already.

        Raises:
            UnauthorizedError: Our credentials do not let us push.
            HashMismatchError: The registry says that it stored something else.
            RemoteError: The registry refuses it.
        """
        response = self._request(
            "PUT",
            f"manifests/{quote(tag, safe='')}",
            max_bytes=ANSWER_MAX,
            headers={"Content-Type": manifest.descriptor.media_type},
            body=manifest.content,
        )
        if response.status != http.client.CREATED:
            raise self._refused(response, Permission.PUSH)
        what = f"manifest stored as {self._repository}:{tag}"
        _check_claim(response, manifest.descriptor.digest, what)

    def _request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        leave_origin: bool = False,
    ) -> Response:
        if not self._base:
            self._base = base_url(self._transport, self._repository.host)
        return self._transport.request(
            method,
            f"{self._base}/v2/{self._repository.path}/{path}",
            what=_WHAT,
            max_bytes=max_bytes,
            headers=headers,
            body=body,
            authorizer=self._authorizer,
            leave_origin=leave_origin,
        )

    def _refused(self, response: Response, permission: Permission) -> RemoteError:
        if response.status not in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            return failure(response, _WHAT)
        server = f"{_WHAT} {self._repository.host}"
        return self._authorizer.denial(response, server, permission, self._repository.path)


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
    return Manifest(Descriptor(media_type, Digest.of(content), len(content)), content)


def _check_claim(response: Response, digest: Digest, what: str) -> None:
    """Compare with the registry's own word, which is optional and may use another algorithm."""
    claimed = response.headers.get("Docker-Content-Digest", "")
    if claimed.startswith("sha256:") and claimed != digest.text:
        raise HashMismatchError(
            f"{what}: expected {digest}, got {readable(claimed)} in Docker-Content-Digest"
        )
