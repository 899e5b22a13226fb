"""`signimage.archive` with what real programs write: uploaded, pulled, run, and trusted."""

import gzip
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peers.buildkit import BuildKit
from peers.newer_docker import running_newer_docker
from peers.processes import find_program
from peers.servers import plain_environment, run
from peers.stack import Stack, make_context
from peers.workstation import Workstation
from signimage.archive import open_image
from signimage.filemeta import FileMeta
from signimage.oci import Digest, Manifest, Repository
from signimage.registry import Registry
from signimage.transport import Transport
from signimage.upload import upload_image

PYWORKER = Path(__file__).parents[2] / "pyworker"
DOCKER_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
OCI_TYPE = "application/vnd.oci.image.manifest.v1+json"
# A plain and a compressed layer of 300 MB, and what remains of a worker's memory beside them.
LAYER_SIZE = 300_000_000  # bytes
MEMORY_KB = 80 * 1024


class Bench:
    """Somebody with an engine, tools that write archives, and one repository."""

    def __init__(
        self, stack: Stack, transport: Transport, folder: Path, repository_name: str
    ) -> None:
        self.stack, self.folder = stack, folder
        self.repository = Repository(stack.open_registry, repository_name)
        self.config = stack.docker_config(folder / "docker")
        self.text = repository_name
        self.context = make_context(folder / "context", self.text)
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self._transport = transport

    def build(self) -> str:
        """Build an image that says its own text; gives its name."""
        name = f"{self.repository}:built"
        self.docker("build", "--tag", name, str(self.context))
        return name

    def saved(self) -> Path:
        """Have the engine save the image."""
        file = self.folder / "saved.tar"
        self.docker("save", "--output", str(file), self.build())
        return file

    def docker(self, *arguments: str) -> str:
        return self.stack.docker(*arguments, config=self.config).stdout

    def tool(self, name: str, *arguments: str) -> str:
        environ = {**plain_environment(), "HOME": str(self.folder)}
        return run([find_program(name), *arguments], environ, check=True).stdout

    def skopeo(self, source: str, target: str) -> None:
        self.tool("skopeo", "--insecure-policy", "copy", "--quiet", source, target)

    def buildah(self, *arguments: str) -> str:
        """Run buildah on a storage of its own."""
        places = ("--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"))
        return self.tool("buildah", "--storage-driver=vfs", *places, *arguments).strip()

    def built_by_buildah(self) -> str:
        container = self.buildah("from", "scratch")
        self.buildah("copy", container, str(self.context / "busybox"), "/bin/busybox")
        self.buildah("copy", container, str(self.context / "text"), "/text")
        self.buildah("config", "--cmd", '["/bin/busybox", "cat", "/text"]', container)
        return self.buildah("commit", "--quiet", container, "app:1.0")

    def upload(self, path: Path, tag: str, name: str = "") -> Manifest:
        """Upload an image, and tag it."""
        registry = Registry(self._transport, self.repository, None)
        with open_image(path, self.scratch, name=name) as image:
            manifest = upload_image(registry, image)
        assert not list(self.scratch.iterdir())
        registry.put_manifest(tag, manifest)
        return manifest

    def resolve(self, tag: str) -> Manifest:
        return Registry(self._transport, self.repository, None).resolve(tag)

    def what_runs(self, reference: str) -> str:
        """Pull an image by its tag or digest, and run it."""
        name = f"{self.repository}{reference}"
        self.docker("pull", name)
        return self.docker("run", "--rm", "--network=none", name)


@pytest.fixture
def bench(stack: Stack, tmp_path: Path, repository_name: str) -> Iterator[Bench]:
    with Transport() as transport:
        yield Bench(stack, transport, tmp_path, repository_name)


def saved(bench: Bench) -> Path:
    return bench.saved()


def saved_and_compressed(bench: Bench) -> Path:
    file = bench.saved().with_suffix(".tar.gz")
    file.write_bytes(gzip.compress(bench.saved().read_bytes(), 1))
    return file


def docker_archive_of_skopeo(bench: Bench) -> Path:
    file = bench.folder / "skopeo.tar"
    bench.skopeo(f"docker-archive:{bench.saved()}", f"docker-archive:{file}:app:1.0")
    return file


def layout_of_skopeo(bench: Bench) -> Path:
    folder = bench.folder / "layout"
    bench.skopeo(f"docker-archive:{bench.saved()}", f"oci:{folder}:1.0")
    return folder


def layout_in_a_tar_of_skopeo(bench: Bench) -> Path:
    file = bench.folder / "layout.tar"
    bench.skopeo(f"docker-archive:{bench.saved()}", f"oci-archive:{file}:1.0")
    return file


def layout_of_buildah(bench: Bench) -> Path:
    file = bench.folder / "buildah.tar"
    bench.buildah("push", "--quiet", bench.built_by_buildah(), f"oci-archive:{file}:app:1.0")
    return file


def docker_archive_of_buildah(bench: Bench) -> Path:
    file = bench.folder / "buildah.tar"
    bench.buildah("push", "--quiet", bench.built_by_buildah(), f"docker-archive:{file}:app:1.0")
    return file


Writer = Callable[[Bench], Path]


@pytest.mark.parametrize(
    ("write", "media_type"),
    [
        (saved, DOCKER_TYPE),
        (saved_and_compressed, DOCKER_TYPE),
        (docker_archive_of_skopeo, DOCKER_TYPE),
        (layout_of_skopeo, OCI_TYPE),
        (layout_in_a_tar_of_skopeo, OCI_TYPE),
        (layout_of_buildah, OCI_TYPE),
        (docker_archive_of_buildah, DOCKER_TYPE),
    ],
)
def test_an_image_runs_whoever_wrote_it(bench: Bench, write: Writer, media_type: str) -> None:
    manifest = bench.upload(write(bench), "1.0")
    assert manifest.descriptor.media_type == media_type
    assert bench.resolve("1.0") == manifest
    assert bench.what_runs(f"@{manifest.descriptor.digest}") == bench.text


@pytest.mark.parametrize("write", [layout_of_skopeo, layout_in_a_tar_of_skopeo])
def test_a_layout_keeps_its_digest(bench: Bench, write: Writer) -> None:
    path = write(bench)
    if path.is_dir():
        index = json.loads((path / "index.json").read_bytes())
    else:
        with tarfile.open(path) as archive:
            file = archive.extractfile("index.json")
            assert file is not None
            index = json.load(file)
    uploaded = bench.upload(path, "1.0").descriptor
    assert [each["digest"] for each in index["manifests"]] == [str(uploaded.digest)]


def test_a_saved_image_becomes_what_docker_pushes(bench: Bench) -> None:
    """The same configuration, types and contents; only gzip's own spelling is ours."""
    ours = json.loads(bench.upload(bench.saved(), "ours").content)
    name = bench.build()
    bench.docker("push", name)
    theirs = json.loads(bench.resolve("built").content)
    assert ours["config"] == theirs["config"]
    for document in (ours, theirs):
        for layer in document["layers"]:
            assert layer.pop("size")
            assert layer.pop("digest")
    assert ours == theirs
    assert list(ours) == list(theirs)
    assert (
        bench.docker("image", "inspect", "--format", "{{.Id}}", name).strip()
        == (ours["config"]["digest"])
    )


def test_the_same_image_has_one_digest(bench: Bench) -> None:
    file = bench.saved()
    first = bench.upload(file, "1").descriptor
    again = bench.folder / "again.tar"
    bench.docker("save", "--output", str(again), f"{bench.repository}:built")
    assert bench.upload(again, "2").descriptor == first


def test_an_image_is_chosen_among_several(bench: Bench) -> None:
    first = bench.build()
    (bench.context / "text").write_text("another")
    second = f"{bench.repository}:second"
    bench.docker("build", "--tag", second, str(bench.context))
    file = bench.folder / "both.tar"
    bench.docker("save", "--output", str(file), first, second)
    bench.upload(file, "1.0", second)
    assert bench.what_runs(":1.0") == "another"
    bench.upload(file, "1.0", first)
    assert bench.what_runs(":1.0") == bench.text


# --- Docker since 25 -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def newer_docker() -> Iterator[str]:
    with running_newer_docker() as host:
        yield host


def saved_by(bench: Bench, docker_host: str) -> Path:
    """Build and save an image at another engine."""

    def docker(*arguments: str) -> str:
        other = {"DOCKER_HOST": docker_host}
        return bench.stack.docker(*arguments, config=bench.config, env=other).stdout

    docker("build", "--tag", "app:1.0", str(bench.context))
    file = bench.folder / "saved.tar"
    docker("save", "--output", str(file), "app:1.0")
    return file


def test_docker_25_saves_layers_without_compression(bench: Bench, newer_docker: str) -> None:
    """Its archive is a layout, too, but not of the image that it would push."""
    file = saved_by(bench, newer_docker)
    with tarfile.open(file) as archive:
        assert {"oci-layout", "index.json", "manifest.json"} <= set(archive.getnames())
    manifest = bench.upload(file, "1.0")
    assert manifest.descriptor.media_type == DOCKER_TYPE
    assert bench.what_runs(":1.0") == bench.text
    assert bench.upload(file, "1.1", "app:1.0") == manifest


def test_docker_with_containerds_store_saves_the_image_itself(
    bench: Bench, buildkit: BuildKit
) -> None:
    file = saved_by(bench, buildkit.docker_host)
    other = {"DOCKER_HOST": buildkit.docker_host}
    inspect = ("image", "inspect", "--format", "{{.Id}}", "app:1.0")
    image_id = bench.stack.docker(*inspect, config=bench.config, env=other).stdout.strip()
    manifest = bench.upload(file, "1.0")
    assert manifest.descriptor.digest == Digest.parse(image_id)
    assert bench.what_runs(":1.0") == bench.text


# --- trust -----------------------------------------------------------------------------------


def test_docker_trusts_the_same_image_from_everywhere(
    bench: Bench, workstation: Workstation
) -> None:
    """Pushed by the engine, uploaded from its archive, uploaded from a layout: all verify."""
    assert workstation.gun == str(bench.repository)
    key = workstation.initialise()
    bench.docker("push", bench.build())
    manifests = {
        "built": bench.resolve("built"),
        "archive": bench.upload(bench.saved(), "archive"),
        "layout": bench.upload(layout_of_skopeo(bench), "layout"),
    }
    for tag, manifest in manifests.items():
        descriptor = manifest.descriptor
        image = FileMeta(descriptor.size, {"sha256": descriptor.digest.raw})
        workstation.sign(key, tag, image=image)
    trusting = {"DOCKER_CONTENT_TRUST": "1"}
    for tag, manifest in manifests.items():
        name = f"{bench.repository}:{tag}"
        bench.docker("rmi", "--force", name)
        pulled = bench.stack.docker("pull", name, config=workstation.config, env=trusting).stdout
        assert f"Digest: {manifest.descriptor.digest}" in pulled
        assert bench.docker("run", "--rm", "--network=none", name) == bench.text


# --- memory ----------------------------------------------------------------------------------

_READER = """
import sys
from pathlib import Path
from signimage.archive import open_image

with open_image(Path(sys.argv[1]), Path(sys.argv[2])) as image:
    for blob in image.blobs():
        with blob.open() as stream:
            while stream.read(65536):
                pass
    image.manifests()
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def large_archive(folder: Path, *, compress: bool) -> Path:
    """Write Docker's archive with one large layer of zeros, as a hole in a file where it can be."""
    digest = Digest.of(bytes(LAYER_SIZE))
    rootfs = {"type": "layers", "diff_ids": [str(digest)]}
    documents: dict[str, Any] = {
        "config.json": {"rootfs": rootfs},
        "manifest.json": [{"Config": "config.json", "Layers": ["layer.tar"]}],
    }
    layer = folder / "layer.tar"
    if compress:
        layer.write_bytes(gzip.compress(bytes(LAYER_SIZE), 1))
    else:
        layer.touch()
        os.truncate(layer, LAYER_SIZE)
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    with tarfile.open(folder / "image.tar", "w") as archive:
        for name in (*documents, "layer.tar"):
            archive.add(folder / name, name)
    return folder / "image.tar"


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
def test_memory_does_not_grow_with_the_layers(tmp_path: Path, *, compress: bool) -> None:
    path = large_archive(tmp_path, compress=compress)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(path), str(scratch)],
        env={"PYTHONPATH": str(PYWORKER)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < MEMORY_KB
