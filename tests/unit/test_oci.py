"""`signimage.oci`: names are read as Docker reads them, and digests are what they say."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError, HashMismatchError, InputError
from signimage.oci import Digest, Reference, Repository, check_tag, normal_host


@pytest.mark.parametrize(
    ("text", "host", "gun"),
    [
        ("alpine", "", "docker.io/library/alpine"),
        ("team/app", "", "docker.io/team/app"),
        ("index.docker.io/team/app", "", "docker.io/team/app"),
        ("localhost/app", "", "localhost/app"),
        ("localhost:5000/a/b/c/d", "", "localhost:5000/a/b/c/d"),
        ("Registry.Example/team/app", "", "registry.example/team/app"),
        ("team/app", "registry.example:5000", "registry.example:5000/team/app"),
        ("registry.example/team/app", "registry.example", "registry.example/team/app"),
        ("other.example/app", "registry.example", "registry.example/other.example/app"),
        ("app", "docker.io", "docker.io/library/app"),
        ("docker.io/app", "docker.io", "docker.io/library/app"),
        ("[::1]:5000/app", "", "[::1]:5000/app"),
    ],
)
def test_repository_names(text: str, host: str, gun: str) -> None:
    assert Repository.parse(text, host=host).gun == gun


@pytest.mark.parametrize(
    "text",
    ["", "/", "App/x", "a//b", "a/", "/a", "a b", "a..b", "a/-b", "é", "a:1", "a\nb", "x" * 256],
)
def test_illegal_repository_names(text: str) -> None:
    with pytest.raises(InputError, match="repository"):
        Repository.parse(text, host="registry.example")


def test_references() -> None:
    digest = Digest.of(b"x")
    whole = Reference.parse(f"localhost:5000/team/app:1.0@{digest}")
    assert (whole.repository.gun, whole.tag, whole.digest) == (
        "localhost:5000/team/app",
        "1.0",
        digest,
    )
    assert str(whole) == f"localhost:5000/team/app:1.0@{digest}"
    assert Reference.parse("localhost:5000/app").tag == ""
    with pytest.raises(InputError, match="digest: expected sha256"):
        Reference.parse("app@sha256:abc")


@pytest.mark.parametrize("tag", ["1", "v1.0-rc_1", "_x", "A" * 128])
def test_legal_tags(tag: str) -> None:
    check_tag(tag)


@pytest.mark.parametrize("tag", ["", ".x", "-x", "a b", "a/b", "a:b", "é", "A" * 129, "x\n"])
def test_illegal_tags(tag: str) -> None:
    with pytest.raises(InputError, match="is not a legal name"):
        check_tag(tag)


@given(st.binary())
def test_a_digest_is_that_of_its_content_only(content: bytes) -> None:
    digest = Digest.of(content)
    assert Digest.parse(str(digest)) == digest
    assert digest.raw == hashlib.sha256(content).digest()
    digest.check(content, what="content")
    with pytest.raises(HashMismatchError, match=f"blob: expected {digest}, got sha256"):
        digest.check(content + b"!", what="blob")


@given(st.text())
def test_anything_is_a_digest_or_a_format_error(text: str) -> None:
    try:
        assert Digest.parse(text).text == text
    except FormatError as error:
        assert "expected sha256:<64 lower-case hex>" in str(error)  # noqa: PT017 -- either way is fine


@given(st.text())
def test_anything_is_a_reference_or_an_input_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InputError:
        return
    assert Reference.parse(str(reference)) == reference


def test_docker_hub_has_one_name() -> None:
    assert normal_host("Index.Docker.io") == normal_host("registry-1.docker.io") == "docker.io"
