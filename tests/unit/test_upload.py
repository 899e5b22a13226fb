"""Claims about `signimage.upload`: a whole image, by digest, several blobs side by side."""

import io
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from signimage.cancellation import Canceled
from signimage.errors import FormatError, HashMismatchError, RemoteError, UnavailableError
from signimage.oci import Blob, Descriptor, Digest, Manifest, Repository
from signimage.registry import PARALLEL, Registry
from signimage.transport import Transport, TransportSettings
from signimage.upload import Pace, upload_image
from unit.small_server import Reply
from unit.upload_registry import REPOSITORY, Arrival, Fault, UploadRegistry

PACE = Pace(chunk=30_000, pause_s=0.001, stall_s=10.0, answer_s=10.0)
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def described(kind: str, content: bytes) -> Descriptor:
    return Descriptor(kind, Digest.of(content), len(content))


def document(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.text,
        "size": descriptor.size,
    }


def manifest_of(kind: str, **content: object) -> Manifest:
    text = json.dumps({"schemaVersion": 2, "mediaType": kind, **content}).encode()
    return Manifest(described(kind, text), text)


@dataclass
class Image:
    """An index of two images, of blobs given."""

    contents: list[bytes]
    made: int = 0
    names: tuple[str, ...] = ()

    def blobs(self) -> Iterator[Blob]:
        self.made = 0
        for content in self.contents:
            self.made += 1
            yield Blob(described("application/x", content), partial(io.BytesIO, content))

    def manifests(self) -> tuple[Manifest, ...]:
        assert self.made == len(self.contents), "asked too early"
        config = document(described("application/x", self.contents[-1]))
        layers = [document(described("application/x", each)) for each in self.contents[:-1]]
        images = [manifest_of(OCI, config=config, layers=each) for each in (layers, layers[1:])]
        index = manifest_of(INDEX, manifests=[document(each.descriptor) for each in images])
        return (*images, index)


def random_image(*sizes: int) -> Image:
    dice = random.Random(3)  # noqa: S311 -- only to be different
    return Image([dice.randbytes(size) for size in sizes])


@pytest.fixture
def server() -> Iterator[UploadRegistry]:
    with UploadRegistry() as it:
        yield it


@pytest.fixture
def registry(server: UploadRegistry) -> Iterator[Registry]:
    with Transport(TransportSettings(backoff_s=0.001)) as transport:
        yield Registry(transport, Repository(server.host, REPOSITORY), None)


def test_image_arrives_whole_by_digest_and_without_a_tag(
    server: UploadRegistry, registry: Registry
) -> None:
    image = random_image(100_000, 20, 70_000, 0, 300)
    manifest = upload_image(registry, image, pace=PACE)
    assert manifest == image.manifests()[-1]
    assert server.blobs == {Digest.of(each).text: len(each) for each in image.contents}
    stored = [each.descriptor.digest.text for each in image.manifests()]
    assert server.seen("PUT")[-3:] == [f"PUT manifests/{each}" for each in stored]
    assert list(server.manifests) == stored
    assert server.seen()[-1] == f"GET manifests/{stored[-1]}"


def test_second_upload_sends_no_content(server: UploadRegistry, registry: Registry) -> None:
    upload_image(registry, random_image(100_000, 20, 70_000), pace=PACE)
    server.arrivals.clear()
    upload_image(registry, random_image(100_000, 20, 70_000), pace=PACE)
    assert len(server.seen("HEAD")) == 3
    assert server.seen("POST", "PATCH") == []


def test_blobs_are_mounted_from_where_the_caller_says(
    server: UploadRegistry, registry: Registry
) -> None:
    image = random_image(100_000, 70_000)
    server.mountable = {("team/base", Digest.of(each).text) for each in image.contents}
    upload_image(registry, image, mount_from=["team/none", "team/base"], pace=PACE)
    assert server.received == 0


def test_progress_ends_at_all_there_is_and_never_goes_back(
    server: UploadRegistry, registry: Registry
) -> None:
    image = random_image(400_000, 200_000, 50)
    server.blobs[Digest.of(image.contents[0]).text] = 400_000
    told: list[tuple[int, int]] = []
    upload_image(registry, image, lambda there, known: told.append((there, known)), pace=PACE)
    assert told == sorted(told)
    assert told[-1] == (600_050, 600_050)


def test_further_blobs_are_made_only_when_there_is_a_lane(
    server: UploadRegistry, registry: Registry
) -> None:
    """What waits is on somebody's disk."""
    image = random_image(*range(100, 120))
    most = 0

    def watch(arrival: Arrival) -> Fault:
        nonlocal most
        if arrival.method == "PUT" and "manifests" not in arrival.path:
            most = max(most, image.made - len(server.blobs))
        return None

    server.disturb = watch
    upload_image(registry, image, pace=PACE)
    assert 1 < most <= PARALLEL + 1


def test_blobs_go_side_by_side(server: UploadRegistry, registry: Registry) -> None:
    """Nobody gets an answer before all lanes are in use."""
    gathered = threading.Barrier(PARALLEL, timeout=20)

    def gather(arrival: Arrival) -> Fault:
        if arrival.method == "HEAD":
            gathered.wait()
        return None

    server.disturb = gather
    upload_image(registry, random_image(*range(10, 10 + PARALLEL)), pace=PACE)
    assert not gathered.broken


@pytest.mark.parametrize("number", [1, 3, 6])
def test_blob_that_is_refused_ends_the_upload_without_a_manifest(
    server: UploadRegistry, registry: Registry, number: int
) -> None:
    image = random_image(*range(1000, 1012))
    server.disturb = lambda arrival: (
        Reply(400) if (arrival.method, arrival.number) == ("PUT", number) else None
    )
    with pytest.raises(RemoteError, match=r"/blobs/uploads/\d+ answered 400$"):
        upload_image(registry, image, pace=PACE)
    assert server.manifests == {}
    assert image.made <= number + 2 * PARALLEL


def test_image_that_turns_out_damaged_ends_the_upload_without_a_manifest(
    server: UploadRegistry, registry: Registry
) -> None:
    class Damaged(Image):
        def blobs(self) -> Iterator[Blob]:
            yield from super().blobs()
            raise FormatError("layer 3: expected a tar archive, got something else")

    with pytest.raises(FormatError, match=r"^layer 3: expected"):
        upload_image(registry, Damaged(random_image(9, 10).contents), pace=PACE)
    assert server.manifests == {}


def test_cancel_waits_for_nobody(server: UploadRegistry, registry: Registry) -> None:
    """A registry that hangs would hold up the end of the step, and what it removes."""

    class Stopped(Image):
        def blobs(self) -> Iterator[Blob]:
            yield from super().blobs()
            hanging.acquire()
            raise Canceled

    hanging = threading.Semaphore(0)

    def hang(arrival: Arrival) -> Fault:
        if arrival.method == "PUT":
            hanging.release()
            server.stopping.wait()
        return None

    server.disturb = hang
    with pytest.raises(Canceled):
        upload_image(registry, Stopped(random_image(9, 10).contents), pace=PACE)
    assert server.manifests == {}


def test_manifest_that_comes_back_as_another_is_refused(
    server: UploadRegistry, registry: Registry
) -> None:
    server.lie = lambda arrival, honest: (
        Reply(200, honest.body + b" ", honest.headers)
        if "manifests" in arrival.path and arrival.method == "GET"
        else honest
    )
    with pytest.raises(HashMismatchError, match=r"^manifest of .*: expected sha256:"):
        upload_image(registry, random_image(1), pace=PACE)


def test_manifest_is_sent_again_to_a_busy_registry(
    server: UploadRegistry, registry: Registry
) -> None:
    busy = {2, 4, 5}
    server.disturb = lambda arrival: (
        Reply(503) if arrival.method == "PUT" and arrival.number in busy else None
    )
    image = random_image(1)
    assert upload_image(registry, image, pace=PACE) == image.manifests()[-1]
    server.disturb = lambda arrival: Reply(503) if arrival.method == "PUT" else None
    with pytest.raises(UnavailableError, match=r"/manifests/sha256:\w+ answered 503$"):
        upload_image(registry, image, pace=PACE)


# --- memory ---------------------------------------------------------------------------------

_LARGE = 300_000_000  # bytes
_PROGRAM = """
import sys
from dataclasses import dataclass
from hashlib import sha256
from io import RawIOBase

from signimage.oci import Blob, Descriptor, Digest, Manifest, Repository
from signimage.registry import Registry
from signimage.transport import Transport
from signimage.upload import upload_image

host, size = sys.argv[1], int(sys.argv[2])


class Zeros(RawIOBase):
    left = size

    def read(self, most):
        most = min(most, self.left)
        self.left -= most
        return bytes(most)


digest = sha256()
for _ in range(size // 1_000_000):
    digest.update(bytes(1_000_000))
text = b'{"schemaVersion": 2}'
kind = "application/vnd.oci.image.manifest.v1+json"


class Image:
    def blobs(self):
        yield Blob(Descriptor("x", Digest("sha256:" + digest.hexdigest()), size), Zeros)

    def manifests(self):
        return (Manifest(Descriptor(kind, Digest.of(text), len(text)), text),)


def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))


before = memory("VmRSS:")
upload_image(Registry(Transport(), Repository(host, "team/app"), None), Image())
print(memory("VmHWM:") - before)
"""


def test_large_blob_needs_little_memory(server: UploadRegistry) -> None:
    pyworker = Path(__file__).parents[2] / "pyworker"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, server.host, str(_LARGE)],
        env={"PYTHONPATH": str(pyworker)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert server.received == _LARGE
    assert int(done.stdout) < 16 * 1024, "KiB over what the libraries need"
