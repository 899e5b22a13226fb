"""`signimage.bases` with real signatures; the real classic builder is the judge of our reader."""

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from peers.buildkit import BuildKit
from peers.stack import PeerError, Stack, make_context
from peers.workstation import Workstation
from signimage.bases import BasePolicy, Bases, trusted_bases
from signimage.dockerfile import read_dockerfile, write_dockerfile
from signimage.errors import HashMismatchError, NotSignedError
from signimage.filemeta import FileMeta
from signimage.notary import TrustServer
from signimage.oci import Digest, Reference, Repository
from signimage.registry import Registry
from signimage.stages import BuildOptions, build_options, pinned, read_stages
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi

CLASSIC = BuildOptions(is_classic=True)


class Shop:
    """Somebody who publishes a base image, and somebody who builds on it."""

    def __init__(self, workstation: Workstation) -> None:
        self.stack: Stack = workstation.stack
        self.workstation = workstation
        self.folder = workstation.folder
        self.name = workstation.gun
        self._key = workstation.initialise()

    def push(self, text: str, tag: str) -> FileMeta:
        """Build an image that holds *text*, and let *tag* point at it."""
        folder = make_context(self.folder / text, text)
        self.workstation.docker("build", "--tag", f"{self.name}:{tag}", str(folder))
        self.workstation.docker("push", f"{self.name}:{tag}")
        described = self.resolve(tag)
        return FileMeta(described[1], {"sha256": described[0].raw})

    def sign(self, tag: str, image: FileMeta) -> None:
        """Sign *image* as *tag*."""
        self.workstation.sign(self._key, tag, image=image)

    def resolve(self, tag: str) -> tuple[Digest, int]:
        """What *tag* points at in the registry."""
        with Transport() as transport:
            registry = Registry(transport, Repository.parse(self.name), None)
            found = registry.resolve(tag).descriptor
            return found.digest, found.size

    def digest_of(self, reference: Reference) -> Digest:
        """What a tag of ours points at."""
        assert reference.repository.gun == self.name
        return self.resolve(reference.tag)[0]

    def server_for(self, repository: Repository) -> TrustServer:
        """A first visitor of the trust server."""
        transport = Transport(TransportSettings(ca_files=(self.stack.ca_file,)))
        return TrustServer(TrustApi(transport, self.stack.trust_server, repository.gun))

    def bases(
        self,
        dockerfile: Path,
        policy: BasePolicy,
        digest_of: Callable[[Reference], Digest] | None = None,
        options: BuildOptions = CLASSIC,
    ) -> Bases:
        """What becomes of the images of *dockerfile*."""
        stages = read_stages(read_dockerfile(dockerfile), options)
        return trusted_bases(stages, policy, self.server_for, lambda _: None, digest_of)

    def built(self, dockerfile: Path) -> str:
        """Build with *dockerfile* by the classic builder; what `/text` says in the result."""
        image = f"{self.name}-built:1"
        (self.folder / "empty").mkdir(exist_ok=True)
        self.workstation.docker(
            "build", "--no-cache", "--file", str(dockerfile), "--tag", image,
            str(self.folder / "empty"),
        )  # fmt: skip
        shown = self.workstation.docker("run", "--rm", "--network", "none", image)
        self.workstation.docker("image", "rm", image)
        return shown


@pytest.fixture
def shop(workstation: Workstation) -> Shop:
    return Shop(workstation)


PLAIN = "FROM {}:1"
INTRICATE = r"""ARG NAME="{0}"
FROM --platform=linux/amd64 \
  # FROM {0}:2

  ${{NAME}}:${{TAG:-1}} AS result
"""
COPYING = r"""FROM {0}:2 AS other
FROM scratch
COPY --from={0}:1 /bin /bin
COPY --from="{0}:1" \
  /text /text
CMD ["/bin/busybox", "cat", "/text"]
"""


@pytest.mark.parametrize("text", [PLAIN, INTRICATE, COPYING])
def test_a_tag_that_was_moved_after_signing_is_not_what_is_built(shop: Shop, text: str) -> None:
    """The tag points at something else, in the registry and in the engine."""
    signed = shop.push("signed", "1")
    shop.sign("1", signed)
    shop.push("moved", "1")
    shop.push("moved", "2")
    dockerfile = shop.folder / "Dockerfile"
    dockerfile.write_text(text.format(shop.name), "utf-8")
    bases = shop.bases(dockerfile, BasePolicy.PIN)
    pin = f"{shop.name}@{Digest.of_raw(signed.sha256)}"
    assert bases.pins == {f"{shop.name}:1": pin}
    rewritten = bases.dockerfile()
    assert rewritten is not None
    assert shop.built(dockerfile) == "moved"
    assert shop.built(write_dockerfile(rewritten, dockerfile, shop.folder)) == "signed"


def test_a_moved_tag_does_not_verify(shop: Shop) -> None:
    dockerfile = shop.folder / "Dockerfile"
    dockerfile.write_text(f"FROM {shop.name}:1\n")
    shop.sign("1", shop.push("signed", "1"))
    verified = shop.bases(dockerfile, BasePolicy.VERIFY, shop.digest_of)
    assert verified.bases[0].signed_by == "ci"
    shop.push("moved", "1")
    with pytest.raises(HashMismatchError, match=f"{shop.name}:1 in the registry: expected sha256"):
        shop.bases(dockerfile, BasePolicy.VERIFY, shop.digest_of)


def test_an_unsigned_base_is_refused_where_it_must_be_signed(shop: Shop) -> None:
    dockerfile = shop.folder / "Dockerfile"
    dockerfile.write_text(f"FROM {shop.name}:1\nFROM {shop.name}-other:1\n")
    shop.sign("1", shop.push("signed", "1"))
    with pytest.raises(
        NotSignedError,
        match=rf"^base image {shop.name}-other:1 \(line 2\) is not signed: {shop.name}-other has",
    ):
        shop.bases(dockerfile, BasePolicy.REQUIRE)


# --- BuildKit ---


@dataclass(frozen=True, slots=True)
class Yard:
    """Where BuildKit builds, without an image store in between."""

    buildkit: BuildKit
    environ: Mapping[str, str]
    folder: Path

    def build(self, dockerfile: Path, *arguments: str) -> Path:
        """The folder with the files of the result."""
        result = Path(tempfile.mkdtemp(dir=self.folder))
        (self.folder / "empty").mkdir(exist_ok=True)
        self.buildkit.docker(
            self.environ, "buildx", "build", "--builder=default", "--network=none", "--pull",
            *arguments, "--file", str(dockerfile), "--output", f"type=local,dest={result}",
            str(self.folder / "empty"),
        )  # fmt: skip
        return result


@pytest.fixture
def yard(buildkit: BuildKit, tmp_path: Path) -> Yard:
    return Yard(buildkit, buildkit.home(tmp_path / "home"), tmp_path)


HEREDOC = r"""FROM {0}:2 AS other
COPY <<EOF /other
FROM {0}:2
EOF
FROM {0}:1
COPY --from=other /other /other
"""
MOUNT = r"""FROM scratch
RUN --mount=target=/m,from={0}:1 ["/m/bin/busybox", "cp", "/m/text", "/text"]
"""


@pytest.mark.parametrize("text", [PLAIN, INTRICATE, COPYING, HEREDOC, MOUNT])
def test_buildkit_builds_from_what_was_signed(shop: Shop, yard: Yard, text: str) -> None:
    """The same file, and the same tag: only the named context is different."""
    signed = shop.push("signed", "1")
    shop.sign("1", signed)
    shop.push("moved", "1")
    shop.push("moved", "2")
    dockerfile = shop.folder / "Dockerfile"
    dockerfile.write_text(text.format(shop.name), "utf-8")
    bases = shop.bases(dockerfile, BasePolicy.PIN, options=BuildOptions())
    assert bases.dockerfile() is None
    assert (yard.build(dockerfile) / "text").read_text() == "moved"
    result = yard.build(dockerfile, *bases.build_arguments)
    assert (result / "text").read_text() == "signed"


def test_a_stage_that_is_called_like_its_image_needs_another_dockerfile(
    shop: Shop, yard: Yard
) -> None:
    """`FROM app AS app`: a context of that name stands in for the whole stage."""
    pin = f"{shop.name}@{Digest.of_raw(shop.push('signed', '1').sha256)}"
    dockerfile = shop.folder / "Dockerfile"
    dockerfile.write_text("FROM app AS app\nCOPY <<EOF /added\nEOF\n")
    by_context = yard.build(dockerfile, f"--build-context=app=docker-image://{pin}")
    assert not (by_context / "added").exists()
    text = pinned(read_stages(read_dockerfile(dockerfile), BuildOptions()), {"app": pin})
    by_name = yard.build(write_dockerfile(text, dockerfile, shop.folder))
    assert (by_name / "text").read_text() == "signed"
    assert (by_name / "added").exists()


def test_what_is_ignored_for_one_dockerfile_is_ignored_for_its_copy(shop: Shop, yard: Yard) -> None:
    dockerfile = shop.folder / "prod.Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    (shop.folder / "prod.Dockerfile.dockerignore").write_text("secret\n")
    (shop.folder / "empty").mkdir()
    for name in ("secret", "open"):
        (shop.folder / "empty" / name).touch()
    copy = write_dockerfile(read_dockerfile(dockerfile), dockerfile, shop.folder)
    assert [file.name for file in yard.build(copy).iterdir()] == ["open"]


# --- Our readers, and the builders' ---

AMD64 = ("--platform=linux/amd64",)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("FROM {}:1", ()),
        ("\ufeff# escape=`\r\nfrom `\r\n  {}`\r\n:1 `\r\n# FROM x\r\n as y\r\n", ()),
        ("ARG V=0\nARG W='1'\nFROM {}:${{V:+}}$W\n", ()),
        ("ARG V\nFROM {}:${{V:+$V-}}x\n", ("--build-arg", "V=2")),
        ("ARG V=1\nFROM {}:${{V:-3}}$NO$TARGETARCH\n", ("--build-arg=V=2", "--build-arg", "NO=1")),
        ("FROM scratch AS a\nFROM A\nCOPY --from={}:1 x y\n", ()),
        ("FROM scratch AS a\nCOPY --from={}:1 x y\nFROM scratch AS b\n", ()),
        ("FROM scratch AS a\nONBUILD COPY --from={}:1 x y\nFROM a\n", ()),
        ('FROM scratch\nCOPY --fr"om"=\\\n{}":1" x y\n', ()),
        ("FROM \"{}\":'1'\n", ()),
    ],
)
def test_the_builder_asks_for_the_image_that_we_read(
    workstation: Workstation, text: str, arguments: tuple[str, ...]
) -> None:
    """There is no such image, so the builder says which one it wanted.

    What an old builder does not understand it refuses, and never takes for another image.
    """
    name = f"{workstation.gun}-absent"
    dockerfile = workstation.folder / "Dockerfile"
    dockerfile.write_bytes(text.format(name).encode())
    options = build_options(arguments, {}, is_classic=True)
    (use,) = read_stages(read_dockerfile(dockerfile), options).uses
    assert use.image.startswith(name)
    (workstation.folder / "empty").mkdir()
    done = workstation.stack.docker(
        "build", *arguments, "--file", str(dockerfile), str(workstation.folder / "empty"),
        config=workstation.config, check=False,
    )  # fmt: skip
    assert f"manifest for {use.image} not found" in done.stderr


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("\ufeff# escape=`\r\nfrom `\r\n  {}`\r\n:1 `\r\n# FROM x\r\n as y\r\n", ()),
        ("ARG V=v1.2\nARG W='1'\nFROM {}:${{V#v}}-${{V%.*}}-${{V/./_}}$W\n", ()),
        ("ARG A=1 B=$A\nFROM {}:$B${{NO-x}}${{A+y}}\n", ("--build-arg", "NO=1")),
        ("FROM {}:$TARGETARCH-$BUILDOS\n", AMD64),
        ("FROM {}:$TARGETARCH$TARGETVARIANT\n", ("--platform", "linux/arm/v6")),
        ("FROM scratch AS a-amd64\nFROM a-$TARGETARCH\nCOPY --from={}:1 x y\n", AMD64),
        ("FROM scratch\nCOPY --from=b x y\nFROM scratch AS b\nCOPY --from={}:1 x y\n", ()),
        ('FROM scratch\nRUN --mount="type=cache,target=/x y",from={}:1 x\n', ()),
        ("FROM scratch\nRUN <<A cat - <<-'B C' <<<x\nFROM a\nA\n\t\tB C\nCOPY --from={}:1 x y", ()),
        ("FROM scratch AS b\nFROM b\nCOPY --from=B x y\nADD x y\nCOPY --from={}:1 x y", ()),
    ],
)  # fmt: skip
def test_buildkit_asks_for_the_image_that_we_read(
    workstation: Workstation, yard: Yard, text: str, arguments: tuple[str, ...]
) -> None:
    """There is no such image, so the builder says which one it wanted."""
    name = f"{workstation.gun}-absent"
    dockerfile = workstation.folder / "Dockerfile"
    dockerfile.write_bytes(text.format(name).encode())
    options = build_options(arguments, {}, build_platform="linux/amd64")
    (use,) = read_stages(read_dockerfile(dockerfile), options).uses
    assert use.image.startswith(name)
    with pytest.raises(PeerError, match=rf"ERROR: .*{re.escape(use.image)}: not found"):
        yard.build(dockerfile, *arguments)
