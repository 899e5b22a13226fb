"""The conversation with an OCI registry: may we push, what is this tag, store that manifest.

The rules of this file:

1. A manifest is what its bytes hash to; a registry's own word for it is only compared.
2. Credentials go to the registry that asked and to the token service it names, over https;
   over http only where the registry itself is on loopback.
3. http is spoken only on loopback, and only if https does not answer there, as in Docker.

OCI Distribution Specification 1.1 ("Pulling manifests", "Pushing blobs", "Pushing manifests");
Distribution's token authentication; RFC 9110, section 11.6 (challenges).
"""

import http.client
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit, urlunsplit

from signimage.errors import (
    CertificateError,
    FormatError,
    HashMismatchError,
    InputError,
    NotFoundError,
    RemoteError,
    UnauthorizedError,
    UnreachableError,
)
from signimage.oci import DOCKER_HUB, Descriptor, Digest, Repository
from signimage.transport import (
    Credentials,
    Response,
    Transport,
    is_loopback,
    origin,
    readable,
    refusal,
    said_by_server,
    shown,
)

MANIFEST_MAX = 4 * 1024 * 1024  # bytes; the least a registry must take (OCI 1.1), and usual
ANSWER_MAX = 64 * 1024  # bytes; tokens of some registries reach 10 KiB
LIFETIME_MIN_S = 60.0  # of a token without `expires_in`, as the token specification says
LIFETIME_MAX_S = 86_400.0  # far longer than any step; `expires_in` may be any number
EARLY_S = 10.0  # a token is not used in its last seconds: clocks and networks differ
PROBE_S = 5.0  # for finding out whether https answers on loopback, as Docker does

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_HUB_API_HOST = "registry-1.docker.io"
_WHAT = "registry"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2  # noqa: S105 -- a grammar
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|$|(?=,))(?!=)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers; scheme and names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index, byte for byte as the registry keeps it."""

    descriptor: Descriptor
    content: bytes = field(repr=False)

    def check_image(self, image_id: str) -> None:
        """Refuse the manifest of another image than *image_id*, the engine's `sha256:…`.

        Engines name an image by its configuration or by its manifest. An index names neither
        by itself, so for an index there is nothing to compare.

        Raises:
            HashMismatchError: It is the manifest of another image.
        """
        config = json.loads(self.content).get("config")
        if not isinstance(config, dict):
            return
        names = (config.get("digest"), self.descriptor.digest.text)
        if image_id not in names:
            raise HashMismatchError(
                f"pushed image: expected {image_id}, which was built, got {names[0]}",
                hint="Another job on this agent may use the same tag; run the step again",
            )


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Read a `WWW-Authenticate` header; what follows the first senseless part is left out."""
    found: list[Challenge] = []
    position = 0
    while scheme := _SCHEME.match(header, position):
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            name, bare, quoted = parameter.groups()
            parameters[name.lower()] = bare if bare is not None else re.sub(r"\\(.)", r"\1", quoted)
            position = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return tuple(found)


class TokenAuthorizer:
    """Answers the challenges of one registry or trust server for one scope.

    A token is fetched at the first challenge and used until shortly before it expires.
    """

    def __init__(self, transport: Transport, credentials: Credentials | None, scope: str) -> None:
        self._transport = transport
        self._credentials = credentials
        self._scope = scope
        self._origin = ""
        self._authorization = ""
        self._expires = float("inf")  # on the monotonic clock

    def headers(self, method: str, url: str) -> Mapping[str, str]:
        """Return the `Authorization` that the server of *url* asked for, if it did."""
        del method
        if self._authorization and origin(url) == self._origin and time.monotonic() < self._expires:
            return {"Authorization": self._authorization}
        return {}

    def answer(self, response: Response) -> bool:
        """Take up the challenge of a 401; True if there is something new to say.

        Raises:
            UnauthorizedError: The token service does not accept the credentials.
            RemoteError: The token service cannot be used.
        """
        before = self._authorization if time.monotonic() < self._expires else ""
        self._origin = origin(response.url)
        offers = parse_challenges(response.headers.get("WWW-Authenticate", ""))
        for offer in offers:
            if offer.scheme == "bearer" and offer.parameters.get("realm"):
                self._fetch_token(offer)
                return self._authorization != before
        if self._credentials is not None and any(offer.scheme == "basic" for offer in offers):
            self._authorization, self._expires = self._credentials.basic(), float("inf")
            return self._authorization != before
        return False

    def _fetch_token(self, offer: Challenge) -> None:
        url = _token_url(offer, self._scope, self._origin)
        headers = {"Accept": "application/json"}
        if self._credentials is not None:
            headers["Authorization"] = self._credentials.basic()
        asked = time.monotonic()
        response = self._transport.request(
            "GET", url, what="token service", max_bytes=ANSWER_MAX, headers=headers
        )
        if response.status != http.client.OK:
            raise refusal(response, "token service")
        token, lifetime_s = _read_token(response)
        self._authorization = f"Bearer {token}"
        self._expires = asked + lifetime_s - EARLY_S


def _token_url(offer: Challenge, scope: str, asked_by: str) -> str:
    """Return where to fetch a token; refuse to send credentials anywhere unprotected."""
    realm = offer.parameters["realm"]
    try:
        parts = urlsplit(realm)
        usable = parts.port != 0 and re.fullmatch(r"[\x21-\x7e]+", realm)
        host = (usable and parts.hostname) or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    local = is_loopback(host) and is_loopback(urlsplit(asked_by).hostname or "")
    if not host or "@" in parts.netloc or parts.scheme not in (("https", "http")[: 1 + local]):
        raise RemoteError(
            f"{asked_by}: expected a token service with an https address, got {shown_realm(realm)}"
        )
    query = parse_qsl(parts.query)
    if "service" in offer.parameters:
        query.append(("service", offer.parameters["service"]))
    query.append(("scope", scope))
    return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", urlencode(query), ""))


def shown_realm(realm: str) -> str:
    """Return a token service's address as texts may show it, even if it is not one."""
    with suppress(ValueError):
        return shown(realm)
    return readable(realm.partition("?")[0])


def _read_token(response: Response) -> tuple[str, float]:
    document = response.json("token")
    fields = document if isinstance(document, dict) else {}
    token = fields.get("token") or fields.get("access_token")
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise FormatError(f"token of {shown(response.url)}: expected a token, got none")
    lifetime = fields.get("expires_in")
    if isinstance(lifetime, (int, float)) and lifetime > LIFETIME_MIN_S:
        return token, float(min(lifetime, LIFETIME_MAX_S))
    return token, LIFETIME_MIN_S


class Registry:
    """One repository in a registry, with what our credentials may do there."""

    def __init__(
        self,
        transport: Transport,
        repository: Repository,
        credentials: Credentials | None,
        *,
        actions: str = "pull,push",
    ) -> None:
        self._transport = transport
        self._repository = repository
        self._anonymous = credentials is None
        scope = f"repository:{repository.path}:{actions}"
        self._authorizer = TokenAuthorizer(transport, credentials, scope)
        self._base = ""

    def check_push(self) -> None:
        """Find out whether our credentials let us push, by beginning an upload and ending it.

        Raises:
            UnauthorizedError: They do not.
            RemoteError: The registry cannot be used.
        """
        response = self._request("POST", "blobs/uploads/", max_bytes=ANSWER_MAX, body=b"")
        if response.status != http.client.ACCEPTED:
            raise self._refused(response, "push to")
        # Only tidiness: registries drop abandoned uploads by themselves.
        with suppress(RemoteError, FormatError, InputError, ValueError):  # or no address at all
            location = urljoin(response.url, response.headers.get("Location", ""))
            if origin(location) == origin(response.url):
                self._transport.request(
                    "DELETE",
                    location,
                    what=_WHAT,
                    max_bytes=ANSWER_MAX,
                    authorizer=self._authorizer,
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
        )
        joint = "@" if isinstance(reference, Digest) else ":"
        name = f"{self._repository}{joint}{reference}"
        if response.status == http.client.NOT_FOUND:
            raise NotFoundError(f"{_WHAT} {self._repository.host} does not have {name}")
        if response.status != http.client.OK:
            raise self._refused(response, "pull from")
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
            raise self._refused(response, "push to")
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
    ) -> Response:
        if not self._base:
            self._base = base_url(self._transport, self._repository.host)
        try:
            return self._transport.request(
                method,
                f"{self._base}/v2/{self._repository.path}/{path}",
                what=_WHAT,
                max_bytes=max_bytes,
                headers=headers,
                body=body,
                authorizer=self._authorizer,
            )
        except UnauthorizedError as error:  # from the token service
            raise UnauthorizedError(
                f"{_WHAT} {self._repository.host} does not accept the given user name and "
                f"password: {error}",
                hint="Check the registry service connection",
            ) from error

    def _refused(self, response: Response, action: str) -> RemoteError:
        said = said_by_server(response)
        answer = f"{response.status}: {said}" if said else f"{response.status}"
        host, path = self._repository.host, self._repository.path
        if response.status not in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            return refusal(response, _WHAT)
        who = "anonymous users" if self._anonymous else "the given user"
        return UnauthorizedError(
            f"{_WHAT} {host} does not let {who} {action} {path} (it answered {answer})",
            hint="The registry wants an account: name its service connection in containerRegistry"
            if self._anonymous
            else "Check user name, password and permissions of the registry service connection",
        )


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
