"""OCI names and digests: what an image is called, and what it is.

A *reference* is a name people type; a *digest* is the identity we sign.
Nothing here opens a socket or a file, and every parser raises only `InputError` (names, which
people type) or `FormatError` (digests and manifests, which machines send).

Grammar: OCI Distribution Specification 1.1, "Pulling manifests", and Docker's familiar-name rules
(the `docker.io` default and its `library/` prefix).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from signimage.errors import FormatError, HashMismatchError, InputError

DOCKER_HUB = "docker.io"
# Names that Docker has used for its Hub; trust data and credentials know only the first.
_DOCKER_HUB_ALIASES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
IMAGE_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# The members of either; whoever reads in Go takes them in any letter case.
DOCUMENT_MEMBERS = ("schemaVersion", "mediaType", "config", "layers", "manifests", "subject")

# Lower-case only: two spellings of one digest would sign as two different targets.
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*")
_DOMAIN_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_HOST = re.compile(
    rf"(?:{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?"
)
# Docker's limit for host and path together (distribution/reference, NameTotalLengthMax).
_MAX_NAME = 255  # characters
MAX_DEPTH = 4  # indexes in each other; builders write two


@dataclass(frozen=True, slots=True)
class Digest:
    """The SHA-256 identity of some content, always `sha256:<64 lower-case hex>`."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Read a digest as written in a reference or a `Docker-Content-Digest` header."""
        if not _DIGEST.fullmatch(text):
            raise FormatError(f"digest: expected sha256:<64 lower-case hex>, got {text[:100]!r}")
        return cls(text)

    @classmethod
    def of(cls, content: bytes) -> "Digest":
        """Compute the digest of *content*."""
        return cls(f"sha256:{hashlib.sha256(content).hexdigest()}")

    @classmethod
    def of_raw(cls, raw: bytes) -> "Digest":
        """Name the digest whose hash is the 32 bytes *raw*, as a target holds it."""
        return cls.parse(f"sha256:{raw.hex()}")

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits without the algorithm."""
        return self.text.removeprefix("sha256:")

    @property
    def tag(self) -> str:
        """A name for the content that is legal as a tag: `sha256-<64 hex>`."""
        return self.text.replace(":", "-")

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the hash, as Notary writes them (in base64) into a target."""
        return bytes.fromhex(self.hex)

    def check(self, content: bytes, *, what: str) -> None:
        """Refuse *content* unless it is what this digest names.

        Args:
            content: The bytes as received, before any decoding.
            what: Names the content in the error, e.g. "manifest of app:1.2".

        Raises:
            HashMismatchError: The content has another digest.
        """
        found = Digest.of(content)
        if found != self:
            raise HashMismatchError(f"{what}: expected {self.text}, got {found.text}")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Repository:
    """A place in a registry: `host` as one connects to it, `path` of one or more segments."""

    host: str
    path: str

    @classmethod
    def parse(cls, text: str, *, host: str = "") -> "Repository":
        """Read a repository name as people and pipelines write it.

        Args:
            text: `team/app`, or with the registry in front, `reg.example.com:5000/team/app`.
            host: The registry that the name belongs to, when it is known already; a name that
                repeats it is understood. Without it, Docker's rule decides whether the first
                segment is a host.

        Raises:
            InputError: The name breaks the grammar of OCI repository names.
        """
        known = normal_host(host) if host else ""
        first, slash, rest = text.partition("/")
        if slash and known and normal_host(first) == known:
            return cls._checked(known, rest, text)
        if known:
            return cls._checked(known, text, text)
        if slash and ("." in first or ":" in first or first == "localhost"):
            return cls._checked(normal_host(first), rest, text)
        return cls._checked(DOCKER_HUB, text, text)

    @classmethod
    def _checked(cls, host: str, path: str, text: str) -> "Repository":
        if host == DOCKER_HUB and "/" not in path:
            path = f"library/{path}"
        if not _HOST.fullmatch(host):
            raise InputError(f"repository {text[:300]!r}: {host[:100]!r} is not a registry host")
        if not _PATH.fullmatch(path):
            raise InputError(
                f"repository {text[:300]!r} is not a legal name",
                hint="Use lower-case letters, digits and single separators (. _ - /) between them",
            )
        if len(host) + 1 + len(path) > _MAX_NAME:
            raise InputError(f"repository name: expected at most {_MAX_NAME} characters, got more")
        return cls(host, path)

    @property
    def gun(self) -> str:
        """The globally unique name under which Notary keeps the trust data of this repository."""
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        return self.gun


@dataclass(frozen=True, slots=True)
class Reference:
    """An image as people name it: a repository with a tag, a digest, or both."""

    repository: Repository
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read `repo`, `repo:tag`, `repo@sha256:…` or `repo:tag@sha256:…`.

        Raises:
            InputError: A part breaks its grammar.
        """
        name, at, digest_text = text.partition("@")
        head, colon, tail = name.rpartition(":")
        tag = ""
        if colon and "/" not in tail:
            name, tag = head, tail
            check_tag(tag)
        try:
            digest = Digest.parse(digest_text) if at else None
        except FormatError as error:
            raise InputError(f"image {text[:300]!r}: {error}") from error
        return cls(Repository.parse(name), tag, digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a registry says of some content: its type, identity and length in bytes."""

    media_type: str
    digest: Digest
    size: int  # bytes

    @classmethod
    def parse(cls, entry: object) -> "Descriptor":
        """Read a descriptor from a manifest.

        Raises:
            FormatError: It is none.
        """
        members = entry if isinstance(entry, dict) else {}
        kind, digest, size = (members.get(name) for name in ("mediaType", "digest", "size"))
        if not isinstance(kind, str) or not isinstance(digest, str) or not isinstance(size, int):
            raise FormatError("descriptor: expected mediaType, digest and size, got something else")
        if size < 0:
            raise FormatError(f"descriptor of {digest[:100]!r}: expected a size, got {size}")
        return cls(kind, Digest.parse(digest), size)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index, byte for byte as the registry keeps it."""

    descriptor: Descriptor
    content: bytes = field(repr=False)

    def is_image(self, image_id: str) -> bool:
        """Tell whether an engine calls this *image_id*, `sha256:…`.

        Engines name an image by its configuration, or by its manifest or index.
        """
        return image_id in (self.config_digest, self.descriptor.digest.text)

    def check_image(self, image_id: str) -> None:
        """Refuse the manifest of another image than *image_id*, the engine's `sha256:…`.

        Where the engine keeps the image of one platform out of many, the index that it pushes
        names neither; then there is nothing to compare.

        Raises:
            HashMismatchError: It is the manifest of another image.
        """
        if self.config_digest and not self.is_image(image_id):
            raise HashMismatchError(
                f"pushed image: expected {image_id}, which was built, got {self.config_digest}",
                hint="Another job on this agent may use the same tag; run the step again",
            )

    @property
    def config_digest(self) -> str:
        """The digest of the configuration, `sha256:…`; "" for an index."""
        config = json.loads(self.content).get("config")
        return str(config.get("digest", "")) if isinstance(config, dict) else ""

    def layers(self) -> tuple[Descriptor, ...]:
        """The layers of a single image, the lowest first; none for an index.

        Raises:
            FormatError: An entry is no descriptor.
        """
        entries = json.loads(self.content).get("layers")
        return tuple(Descriptor.parse(one) for one in entries) if isinstance(entries, list) else ()

    def children(self) -> tuple["Child", ...]:
        """The manifests that an index refers to; none for the manifest of a single image.

        Raises:
            FormatError: An entry is no descriptor.
        """
        entries = json.loads(self.content).get("manifests")
        if not isinstance(entries, list):
            return ()
        return tuple(Child.parse(entry) for entry in entries)


@dataclass(frozen=True, slots=True)
class Child:
    """What an index says of one of its manifests; `platform` as `linux/arm64/v8`, "" if unsaid.

    BuildKit keeps attestations beside the images, under the platform `unknown/unknown`.
    OCI Image Specification 1.1, "Image Index".
    """

    digest: Digest
    platform: str
    is_image: bool

    @classmethod
    def parse(cls, entry: object) -> "Child":
        """Read one entry of `manifests`."""
        if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
            raise FormatError("image index: expected descriptors in manifests, got something else")
        platform = entry.get("platform")
        parts = platform if isinstance(platform, dict) else {}
        names = [parts.get(name) for name in ("os", "architecture", "variant")]
        text = "/".join(name for name in names if isinstance(name, str) and name)
        return cls(Digest.parse(entry["digest"]), text, text != "unknown/unknown")


@dataclass(frozen=True, slots=True)
class Blob:
    """Some content that a manifest refers to: a layer, a configuration.

    `open` gives it from its first byte and may be called again; whoever calls it closes it.
    `is_proven` tells that the descriptor was made from the content, and not only found beside it.
    """

    descriptor: Descriptor
    open: Callable[[], BinaryIO]
    is_proven: bool = False


class StoredImage(Protocol):
    """An image, or an index of images, outside of any registry."""

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called there, as whoever wrote it says."""

    def blobs(self) -> Iterator[Blob]:
        """Give each blob once, layers before configurations; may take long, as it compresses.

        Raises:
            FormatError: The image is damaged, or is not what it says.
        """

    def manifests(self) -> tuple[Manifest, ...]:
        """Give each manifest before what refers to it, the image's own last.

        Only after `blobs` has come to its end.
        """


def check_type(document: Mapping[str, object], expected: str, *, what: str) -> None:
    """Refuse a *document* that is no image or index, or not the *expected* one alone.

    What one reader takes for an image and another for an index has one digest, and so one
    signature for both (CVE-2021-41190).

    Raises:
        FormatError: It is of another type, or may be read as another.
    """
    if expected not in INDEX_TYPES + IMAGE_TYPES:
        raise FormatError(f"{what}: expected an image or an index, got type {expected!r}")
    if document.get("mediaType") not in (None, expected):
        raise FormatError(f"{what}: expected type {expected!r}, got another one inside")
    foreign = ("config", "layers") if expected in INDEX_TYPES else ("manifests",)
    for member in foreign:
        if document.get(member) is not None:
            raise FormatError(f"{what}: expected no {member!r} in type {expected!r}, got one")


def check_tag(tag: str) -> None:
    """Refuse a *tag* that no registry would take.

    Raises:
        InputError: The tag breaks the grammar of OCI tags.
    """
    if not _TAG.fullmatch(tag):
        raise InputError(
            f"tag {tag[:200]!r} is not a legal name",
            hint="Use up to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'",
        )


def normal_host(host: str) -> str:
    """The one spelling of a registry *host*: lower case, Docker Hub under its short name."""
    lower = host.lower()
    return DOCKER_HUB if lower in _DOCKER_HUB_ALIASES else lower
