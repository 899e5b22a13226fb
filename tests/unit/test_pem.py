"""PEM: what Docker writes comes back byte for byte, and what people's tools do is forgiven."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage import pem
from signimage.errors import FormatError
from unit.vectors import KEY_FILES, KEYS

_GOOD = pem.write("PRIVATE KEY", b"content " * 20, {"role": "alice"})


@pytest.mark.parametrize("path", [*KEY_FILES, KEYS / "alice.pub", KEYS / "dk.crt"])
def test_golden_files_are_written_as_they_were_read(path: object) -> None:
    data = (KEYS / str(path)).read_bytes()
    (block,) = pem.read(data, what="file")
    assert pem.write(block.label, block.content, dict(block.headers)).rstrip() == data.rstrip()


@given(st.binary(), st.dictionaries(st.sampled_from(["role", "gun", "path"]), st.just("a/b:1")))
def test_reading_undoes_writing(content: bytes, headers: dict[str, str]) -> None:
    (block,) = pem.read(pem.write("X KEY", content, headers), what="file")
    assert (block.label, dict(block.headers), block.content) == ("X KEY", headers, content)


@pytest.mark.parametrize(
    "disguised",
    [
        _GOOD.replace(b"\n", b"\r\n"),
        _GOOD.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + _GOOD,
        b"\n\n  " + _GOOD + b"\n\n\x0c",
        b"\n".join(b"  " + line + b" \t" for line in _GOOD.splitlines()),
        b"Bag Attributes\n    friendlyName: x\n" + _GOOD + b"and more text",
        _GOOD.replace(b"\n\n", b"\n"),
        _GOOD.replace(b"role: alice\n\n", b"\n").replace(b"\n-----END", b"\nrole: alice\n-----END"),
    ],
)
def test_what_tools_do_to_text_is_forgiven(disguised: bytes) -> None:
    (block,) = pem.read(disguised, what="file")
    assert (block.label, block.header("Role"), block.content) == (
        "PRIVATE KEY",
        "alice",
        b"content " * 20,
    )


def test_every_block_is_read() -> None:
    blocks = pem.read(pem.write("A", b"1") + b"text\n" + pem.write("B", b"2"), what="file")
    assert [(block.label, block.content) for block in blocks] == [("A", b"1"), ("B", b"2")]
    assert blocks[0].header("role") == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected PEM text, got an empty file"),
        (b" \r\n", "expected PEM text, got an empty file"),
        (b"<!DOCTYPE html><html>", "expected PEM text, got an HTML or XML page"),
        (b'{"message":"not found"}', "expected PEM text, got a JSON document"),
        (_GOOD.decode().encode("utf-16"), "expected PEM text, got UTF-16 text"),
        (b"0\x82\x01\x00\x02\x01", r"expected PEM text, got binary data \(DER or PKCS#12\)"),
        (b"ecdsa-sha2-nistp256 AAAA", "expected PEM text, got an SSH public key"),
        (b"PK\x03\x04", "expected PEM text, got a ZIP archive"),
        (b"hello", "expected PEM text, got something else"),
        (b"\xff" + _GOOD, "expected PEM text, got bytes that are not UTF-8"),
        (b"x" * 262145, "expected at most 262144 bytes, got 262145"),
        (b"-----BEGIN A", "expected PEM text, got no complete BEGIN line"),
        (_GOOD[:-12], "expected -----END PRIVATE KEY-----, got '-----END PRIVA'"),
        (_GOOD[:60], "expected -----END PRIVATE KEY-----, got the end of the file"),
        (_GOOD.replace(b"END PRIVATE", b"END PUBLIC"), "got '-----END PUBLIC KEY-----'"),
        (_GOOD.replace(b"Y29", b"Y*9"), "expected base64 between BEGIN and END, got other text"),
        (_GOOD.replace(b"=", b""), "expected base64 between BEGIN and END"),
    ],
)
def test_files_that_are_not_pem_are_named_for_what_they_are(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"^ci.key: .*{message}"):
        pem.read(data, what="ci.key")


def test_a_header_cannot_smuggle_in_a_line() -> None:
    with pytest.raises(FormatError, match="PEM header role: expected printable text"):
        pem.write("PRIVATE KEY", b"", {"role": "a\ngun: b"})


@given(st.binary() | st.builds(lambda text: b"-----BEGIN A-----\n" + text, st.binary()))
def test_anything_reads_or_raises_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        pem.read(data, what="anything")
