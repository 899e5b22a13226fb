"""An image into a registry, by digest: when it is there, nothing names it yet.

The rules of this file:

1. Blobs first, several side by side while further ones are being made; then the manifests, each
   before what refers to it; tags never.
2. The first fault ends the rest. What it leaves behind are uploads without an end, which
   registries drop by themselves, and content that nothing names.
3. A step that is canceled waits for none of it.

OCI Distribution Specification 1.1, "Pushing blobs", "Pushing manifests".
"""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import final

from signimage.blobupload import AbandonedError, BlobUpload, Mounts, Pace
from signimage.oci import Blob, Descriptor, Manifest, StoredImage
from signimage.registry import PARALLEL, Registry

__all__ = ["Pace", "upload_image"]

# For those that end because another failed: they hold files open that the caller will remove.
_GRACE_S = 5.0

Progress = Callable[[int, int], object]  # bytes that are there, bytes known of by now


def upload_image(
    registry: Registry,
    image: StoredImage,
    on_progress: Progress = lambda _, __: None,
    *,
    mount_from: Sequence[str] = (),
    pace: Pace | None = None,
) -> Manifest:
    """Put *image* into the repository, untagged, and return its manifest as read back from there.

    Args:
        registry: Where to.
        image: What; its blobs may be made while others are on their way.
        on_progress: Told how many bytes are there, of how many that are known of by now; never
            by two threads at once.
        mount_from: Paths of other repositories of that registry which may have blobs of it.
        pace: How large pieces are, and how patient we are.

    Raises:
        HashMismatchError: Content is not what its descriptor says, or the registry's not ours.
        InputError: Content cannot be read.
        UnauthorizedError: Our credentials do not let us push.
        RemoteError: The registry refuses something, or fails again and again.
    """
    mounts = Mounts(registry, mount_from)
    with _Lanes(registry, mounts, pace or Pace(), _Tally(on_progress)) as lanes:
        for blob in image.blobs():
            lanes.send(blob)
        lanes.join()
    manifests = image.manifests()
    for manifest in manifests:
        registry.put_manifest(manifest.descriptor.digest, manifest)
    return registry.resolve(manifests[-1].descriptor.digest)


@final
class _Tally:
    """How much of an image is there."""

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._known = 0
        self._there: dict[str, int] = {}

    def add(self, descriptor: Descriptor) -> Callable[[int], None]:
        """Return what is to be told how much of one blob is there."""
        with self._lock:
            self._known += descriptor.size

        def taken(size: int) -> None:
            with self._lock:
                if size > self._there.get(descriptor.digest.text, 0):
                    self._there[descriptor.digest.text] = size
                    self._on_progress(sum(self._there.values()), self._known)

        return taken


@final
class _Lanes:
    """Blobs on their way side by side, each in a thread that dies with the process."""

    def __init__(self, registry: Registry, mounts: Mounts, pace: Pace, tally: _Tally) -> None:
        self._registry = registry
        self._mounts = mounts
        self._pace = pace
        self._tally = tally
        self._free = threading.Semaphore(PARALLEL)
        self._abandoned = threading.Event()
        self._faults: list[Exception] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "_Lanes":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abandoned.set()
        if isinstance(error, Exception):  # not for a cancel
            end = time.monotonic() + _GRACE_S
            for thread in self._threads:
                thread.join(max(0.0, end - time.monotonic()))

    def send(self, blob: Blob) -> None:
        """Begin to upload *blob*, as soon as there is a lane for it; raise what failed before."""
        self._free.acquire()
        self._check()
        upload = BlobUpload(
            self._registry,
            blob,
            self._pace,
            mounts=self._mounts,
            taken=self._tally.add(blob.descriptor),
            abandoned=self._abandoned,
        )
        thread = threading.Thread(target=self._run, args=(upload,), daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        """Return when all are there; raise what failed."""
        for _ in range(PARALLEL):
            self._free.acquire()
            self._check()

    def _run(self, upload: BlobUpload) -> None:
        try:
            upload.run()
        except AbandonedError:
            pass
        except Exception as error:  # noqa: BLE001 -- raised again in the thread that waits
            self._abandoned.set()
            self._faults.append(error)
        finally:
            self._free.release()

    def _check(self) -> None:
        if self._faults:
            raise self._faults[0]
