"""`signimage.registry` against Docker's own registry, with and without accounts."""

import json
from collections.abc import Iterator

import pytest

from peers.stack import Stack
from signimage.errors import NotFoundError, RemoteError, UnauthorizedError
from signimage.oci import Descriptor, Digest, Manifest, Repository
from signimage.registry import Registry
from signimage.transport import Credentials, Transport

OCI = "application/vnd.oci.image.manifest.v1+json"
EMPTY = b"{}"


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport() as it:
        yield it


@pytest.fixture
def login(stack: Stack) -> Credentials:
    return Credentials(stack.username, stack.password)


def put_blob(transport: Transport, registry: str, repository: str) -> None:
    """Upload the empty JSON document, by hand and in one piece."""
    base = f"http://{registry}/v2/{repository}/blobs/uploads/"
    begun = transport.request("POST", base, what="registry", max_bytes=0, body=b"")
    location = f"{begun.headers['Location']}&digest={Digest.of(EMPTY)}"
    ended = transport.request("PUT", location, what="registry", max_bytes=0, body=EMPTY)
    assert ended.status == 201


def manifest_of(text: str) -> Manifest:
    blob = {"digest": Digest.of(EMPTY).text, "size": len(EMPTY)}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", **blob},
        "layers": [],
        "annotations": {"text": text},
    }
    content = json.dumps(document).encode()
    return Manifest(Descriptor(OCI, Digest.of(content), len(content)), content)


def test_account_may_push_and_leaves_nothing_behind(
    stack: Stack, transport: Transport, login: Credentials, repository_name: str
) -> None:
    registry = Registry(transport, Repository(stack.registry, repository_name), login)
    registry.check_push()
    with pytest.raises(NotFoundError, match="does not have "):
        registry.resolve("latest")


def test_open_registry_needs_no_account(
    stack: Stack, transport: Transport, repository_name: str
) -> None:
    Registry(transport, Repository(stack.open_registry, repository_name), None).check_push()


@pytest.mark.parametrize("password", ["wrong", ""])
def test_wrong_password_is_refused_in_one_sentence(
    stack: Stack, transport: Transport, repository_name: str, password: str
) -> None:
    repository = Repository(stack.registry, repository_name)
    registry = Registry(transport, repository, Credentials(stack.username, password))
    claim = rf"^registry {stack.registry} does not accept the given user name and password \(it an"
    with pytest.raises(UnauthorizedError, match=claim):
        registry.check_push()


def test_nobody_is_refused_in_one_sentence(
    stack: Stack, transport: Transport, repository_name: str
) -> None:
    registry = Registry(transport, Repository(stack.registry, repository_name), None)
    with pytest.raises(UnauthorizedError, match="does not let anonymous users pull from team/"):
        registry.resolve("1")


def test_manifest_comes_back_by_tag_and_by_digest(
    stack: Stack, transport: Transport, repository_name: str
) -> None:
    put_blob(transport, stack.open_registry, repository_name)
    registry = Registry(transport, Repository(stack.open_registry, repository_name), None)
    manifest = manifest_of("first")
    registry.put_manifest("1.2", manifest)
    registry.put_manifest("latest", manifest)
    assert registry.resolve("latest") == manifest
    assert registry.resolve(manifest.descriptor.digest) == manifest


def test_manifest_of_unknown_blobs_is_refused_with_the_registrys_words(
    stack: Stack, transport: Transport, repository_name: str
) -> None:
    registry = Registry(transport, Repository(stack.open_registry, repository_name), None)
    with pytest.raises(RemoteError, match=r"answered 400: MANIFEST_BLOB_UNKNOWN: "):
        registry.put_manifest("1.2", manifest_of("second"))
