"""`signimage.upload` against Docker's own registry; Docker pulls what arrived, and runs it."""

import hashlib
import io
import json
import os
import random
import re
import signal
import socket
import socketserver
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import pytest

from peers.authority import Authority
from peers.guarded import guarded
from peers.processes import find_program
from peers.servers import Starter, stop_all
from peers.stack import Stack
from peers.tokens import Right, TokenService, TokenSigner
from signimage.errors import UnreachableError
from signimage.oci import Blob, Descriptor, Digest, Manifest, Repository
from signimage.registry import Registry
from signimage.tags import move_tags, restore
from signimage.transport import Credentials, Transport, TransportSettings
from signimage.upload import Pace, upload_image

OCI = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# Small chunks, so that a small image has many.
PACE = Pace(chunk=200_000, pause_s=0.01)


@dataclass(frozen=True)
class MadeImage:
    """An image of layers that are given, with its configuration last."""

    contents: tuple[tuple[str, bytes], ...]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, *layers: bytes) -> "MadeImage":
        """Make an image that prints its file `/text`, if its layers have that and a busybox."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/busybox", "cat", "/text"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
            },
        }
        contents = [(LAYER, layer) for layer in layers]
        return cls((*contents, (CONFIG, json.dumps(config).encode())))

    def blobs(self) -> Iterator[Blob]:
        """Give the layers and the configuration."""
        for kind, content in self.contents:
            described = Descriptor(kind, Digest.of(content), len(content))
            yield Blob(described, partial(io.BytesIO, content))

    def manifests(self) -> tuple[Manifest, ...]:
        """Give the one manifest."""
        *layers, config = (
            {
                "mediaType": blob.descriptor.media_type,
                "digest": blob.descriptor.digest.text,
                "size": blob.descriptor.size,
            }
            for blob in self.blobs()
        )
        document = {"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": layers}
        content = json.dumps(document).encode()
        return (Manifest(Descriptor(OCI, Digest.of(content), len(content)), content),)


def layer_of(**files: bytes) -> bytes:
    """Return a tar archive; `bin__x` is `/bin/x`."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def runnable(text: str) -> MadeImage:
    """Make an image that prints *text*; the layer with the text is new for each text."""
    busybox = Path(find_program("busybox")).read_bytes()
    return MadeImage.of(layer_of(bin__busybox=busybox), layer_of(text=text.encode()))


def noise(size: int, seed: int) -> bytes:
    """Return content that no other test has."""
    return random.Random(seed).randbytes(size)  # noqa: S311 -- only to be different


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(TransportSettings(backoff_s=0.05)) as it:
        yield it


def asked(stack: Stack, path: str) -> list[str]:
    """Return the methods and statuses that the open registry's log has for a repository."""
    log = (stack.folder / "open-registry.log").read_text("utf-8", "replace")
    return re.findall(rf'"(\w+) /v2/{re.escape(path)}/(?:blobs|manifests)/[^"]*" \d+', log)


def test_docker_pulls_and_runs_what_was_uploaded(
    stack: Stack, transport: Transport, repository_name: str, tmp_path: Path
) -> None:
    login = Credentials(stack.username, stack.password)
    registry = Registry(transport, Repository(stack.registry, repository_name), login)
    image = runnable(repository_name)
    manifest = upload_image(registry, image, pace=PACE)
    assert manifest == image.manifests()[-1]
    assert registry.find("1.0") is None
    move_tags(registry, {"1.0": manifest, "latest": manifest})

    judge = stack.docker_config(tmp_path / "judge")
    name = f"{stack.registry}/{repository_name}"
    said = stack.docker("run", "--rm", "--network=none", f"{name}:1.0", config=judge).stdout
    assert said == repository_name
    pulled = stack.docker("pull", "--quiet=false", f"{name}:latest", config=judge).stdout
    assert f"Digest: {manifest.descriptor.digest}" in pulled


def test_what_is_there_is_not_sent_again(
    stack: Stack, transport: Transport, repository_name: str
) -> None:
    registry = Registry(transport, Repository(stack.open_registry, repository_name), None)
    upload_image(registry, runnable("one"), pace=PACE)
    before = asked(stack, repository_name)
    upload_image(registry, runnable("one"), pace=PACE)
    assert asked(stack, repository_name)[len(before) :] == ["HEAD"] * 3 + ["PUT", "GET"]


def test_layers_of_another_repository_are_mounted(
    stack: Stack, transport: Transport, repository_name: str
) -> None:
    host = stack.open_registry
    upload_image(Registry(transport, Repository(host, repository_name), None), runnable("base"))
    other = f"{repository_name}/other"
    registry = Registry(transport, Repository(host, other), None)
    upload_image(registry, runnable("derived"), mount_from=[repository_name], pace=PACE)
    seen = asked(stack, other)
    assert seen.count("POST") == 3
    assert seen.count("PATCH") == 0, "only the layer with busybox is large"


def test_tags_are_put_back_as_far_as_this_registry_can(
    stack: Stack, transport: Transport, repository_name: str
) -> None:
    registry = Registry(transport, Repository(stack.open_registry, repository_name), None)
    old, new = (upload_image(registry, runnable(text)) for text in ("old", "new"))
    move_tags(registry, {"1": old, "theirs": old})
    before = {tag: registry.find(tag) for tag in ("1", "2", "theirs")}
    move_tags(registry, dict.fromkeys(("1", "2"), new))
    left = restore(registry, before, dict.fromkeys(before, new.descriptor.digest))
    assert left == ("2",), "this registry removes no tags"
    assert {tag: registry.find(tag) for tag in before} == {"1": old, "2": new, "theirs": old}


# --- faults ---------------------------------------------------------------------------------


@final
class Cable:
    """A way to a registry that is cut: after so many bytes there, a connection ends at both sides.

    `cuts` are the numbers of bytes, one for each connection; those that follow are left whole.
    """

    def __init__(self, host: str, cuts: list[int]) -> None:
        self.cuts = cuts
        outer, (name, _, port) = self, host.partition(":")

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection((name, int(port))) as far:
                    outer._connect(self.request, far)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.host = f"localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "Cable":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for those that carry; the client has hung up

    def _connect(self, near: socket.socket, far: socket.socket) -> None:
        left = self.cuts.pop(0) if self.cuts else None
        back = threading.Thread(target=self._carry, args=(far, near, None))
        back.start()
        self._carry(near, far, left)
        back.join()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while left is None or left > 0:
                piece = source.recv(65_536)
                if not piece:
                    break
                target.sendall(piece[:left])
                left = None if left is None else left - len(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("first", [100, 3_000, 150_000, 401_500, 900_000])
def test_image_arrives_over_connections_that_are_cut(
    stack: Stack, transport: Transport, repository_name: str, first: int
) -> None:
    cuts = [first, 300_000, 2_000, 700_000, 450_000, 1_000, 0]
    image = MadeImage.of(noise(1_500_000, first), noise(30_000, first + 1))
    with (
        Cable(stack.open_registry, cuts) as cable,
        Transport(TransportSettings(backoff_s=0.01)) as cut,
    ):
        registry = Registry(cut, Repository(cable.host, repository_name), None)
        manifest = upload_image(registry, image, pace=PACE)
    assert len(cuts) < 4, "connections were cut"
    whole = Registry(transport, Repository(stack.open_registry, repository_name), None)
    assert whole.resolve(manifest.descriptor.digest) == manifest
    for blob in image.blobs():
        url = f"http://{stack.open_registry}/v2/{repository_name}/blobs/{blob.descriptor.digest}"
        stored = transport.request("GET", url, what="registry", max_bytes=2_000_000)
        assert Digest.of(stored.body) == blob.descriptor.digest


def test_upload_into_a_registry_that_was_killed_goes_well_the_next_time(
    transport: Transport, repository_name: str
) -> None:
    image = MadeImage.of(*(noise(3_000_000, seed) for seed in range(5)))
    with tempfile.TemporaryDirectory(prefix="killed-") as folder:
        starter = Starter(Path(folder), stays=False)
        try:
            host = starter.registry("mortal", {})
            victim = starter.processes[-1].pid

            def kill(there: int, _: int) -> None:
                if there > 4_000_000:
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)

            registry = Registry(transport, Repository(host, repository_name), None)
            with pytest.raises(UnreachableError, match=rf"^registry http://{host} cannot be reach"):
                upload_image(registry, image, kill, pace=PACE)
            again = starter.registry("mortal", {})
            registry = Registry(transport, Repository(again, repository_name), None)
            assert upload_image(registry, image, pace=PACE) == image.manifests()[-1]
        finally:
            stop_all(starter.processes)


# --- tokens ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token_stack(stack: Stack) -> Iterator[tuple[Stack, TokenService]]:
    """Start a registry that takes tokens."""
    with tempfile.TemporaryDirectory(prefix="tokens-") as folder:
        authority = Authority(Path(folder))
        service = TokenService("registry.test", TokenSigner(authority, "the peers' issuer"))
        with service.serve(), guarded(stack, Path(folder), authority, service.realm) as running:
            yield running, service


def test_uploads_and_mounts_side_by_side_share_tokens(
    token_stack: tuple[Stack, TokenService], transport: Transport, repository_name: str
) -> None:
    stack, service = token_stack
    account = service.account(Right.PULL | Right.PUSH)
    login = Credentials(account.name, account.password)
    layers = [noise(50_000, seed) for seed in range(8)]
    base = Registry(transport, Repository(stack.registry, repository_name), login)
    upload_image(base, MadeImage.of(*layers[:6]), pace=PACE)
    assert len(service.asked) == 1

    other = Registry(transport, Repository(stack.registry, f"{repository_name}/other"), login)
    image = MadeImage.of(*layers)
    manifest = upload_image(other, image, mount_from=[repository_name], pace=PACE)
    assert manifest == image.manifests()[-1]
    own, base_scope = f"repository:{repository_name}/other:pull,push", f"{repository_name}:pull"
    assert service.asked[1:] == [[own], [own, f"repository:{base_scope}"]]


def test_registry_with_tokens_is_never_asked_for_more_to_put_tags_back(
    token_stack: tuple[Stack, TokenService], transport: Transport, repository_name: str
) -> None:
    """The right to delete is asked for, and is not granted here."""
    stack, service = token_stack
    account = service.account(Right.PULL | Right.PUSH)
    login = Credentials(account.name, account.password)
    registry = Registry(transport, Repository(stack.registry, repository_name), login)
    manifest = upload_image(registry, MadeImage.of(noise(10, 1)))
    move_tags(registry, {"new": manifest})
    assert restore(registry, {"new": None}, {"new": manifest.descriptor.digest}) == ("new",)
    assert service.asked[-1] == [f"repository:{repository_name}:delete"]
    assert registry.find("new") == manifest
