"""Key files: everything Docker, Notary and OpenSSL write is read, and nothing else."""

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from signimage import der, keyfile, pem
from signimage.errors import FormatError, InputError, PassphraseError
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey, PublicKey
from unit.vectors import CAROL, KEY_FILES, KEYS, OPENSSL_FILES, passphrase

# A non-ASCII passphrase with everything that shells, PEM and pipelines stumble over.
_PASSPHRASE = "pä$s %;]\"'\\ 🔑".encode()

_ALGORITHMS = {
    "p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "p384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "p521": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
    "rsa2048": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "rsa3072": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
    "ed25519": ["-algorithm", "ED25519"],
}

_PKCS8_OPTIONS = {
    "default": [],
    "aes256-sha1": ["-v2", "aes256", "-v2prf", "hmacWithSHA1"],
    "aes192-sha224": ["-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA224"],
    "aes128-sha384": ["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA384"],
    "aes256-sha512": ["-v2", "aes256", "-v2prf", "hmacWithSHA512", "-iter", "10000"],
    "3des-sha256": ["-v2", "des3"],
}


def _openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        ["openssl", *arguments], input=stdin, capture_output=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def openssl_keys() -> dict[str, bytes]:
    """One unencrypted PKCS#8 file of each kind, made by the openssl command."""
    return {name: _openssl("genpkey", *options) for name, options in _ALGORITHMS.items()}


@pytest.fixture
def passphrase_file(tmp_path: Path) -> str:
    path = tmp_path / "passphrase"
    path.write_bytes(_PASSPHRASE)
    return f"file:{path}"


def _public(data: bytes) -> PublicKey:
    """The public half, as the openssl command sees it."""
    return PublicKey.from_pem(_openssl("pkey", "-pubout", stdin=data))


def _signs_as(key: PrivateKey, public: PublicKey) -> bool:
    method, sig = key.sign(b"message")
    return key.public_key == public and public.verify(method, sig, b"message")


@pytest.mark.parametrize("path", KEY_FILES, ids=lambda path: path.stem[:12])
def test_docker_key_files_hold_the_key_they_are_named_after(path: Path) -> None:
    """Case 10."""
    file = KeyFile.parse(path.read_bytes(), what=path.name)
    assert file.encrypted
    key = file.decrypt(passphrase(file))
    assert key.public_key.canonical_id == path.stem
    assert _signs_as(key, key.public_key)


def test_all_golden_key_files_were_found() -> None:
    assert (len(KEY_FILES), len(OPENSSL_FILES)) == (14, 3)


@pytest.mark.parametrize("path", OPENSSL_FILES, ids=lambda path: path.name)
def test_one_key_is_the_same_in_every_encryption(path: Path) -> None:
    """Case 10."""
    file = KeyFile.parse(path.read_bytes())
    assert (file.role, file.gun, file.encrypted) == ("", "", True)
    assert file.decrypt(b"deleg-pass-1").public_key.canonical_id == CAROL


@pytest.mark.parametrize("path", [*KEY_FILES, *OPENSSL_FILES], ids=lambda path: path.name[:12])
@pytest.mark.parametrize("wrong", [b"deleg-pass-2", b"\x00", "ü".encode(), b"x" * 5000])
def test_wrong_passphrases_are_called_wrong(path: Path, wrong: bytes) -> None:
    file = KeyFile.parse(path.read_bytes(), what="key file ci.key")
    with pytest.raises(PassphraseError, match=r"^wrong passphrase for key file ci\.key$"):
        file.decrypt(wrong)


@pytest.mark.parametrize("missing", [None, b""])
def test_missing_passphrases_are_called_missing(missing: bytes | None) -> None:
    file = KeyFile.parse(KEY_FILES[0].read_bytes(), what="key file ci.key")
    with pytest.raises(
        PassphraseError, match=r"^key file ci\.key is encrypted: expected its passphrase, got none$"
    ):
        file.decrypt(missing)


def test_many_wrong_passphrases_never_pass_for_a_damaged_key() -> None:
    """One in 256 leaves padding that looks right; the noise before it is still no key."""
    file = KeyFile.parse((KEYS / "k_sec1enc.pem").read_bytes())
    for number in range(2000):
        with pytest.raises(PassphraseError, match="wrong passphrase"):
            file.decrypt(b"%d" % number)


@pytest.mark.parametrize("name", _ALGORITHMS)
def test_openssl_keys_are_read_unencrypted(name: str, openssl_keys: dict[str, bytes]) -> None:
    file = KeyFile.parse(openssl_keys[name])
    assert not file.encrypted
    assert _signs_as(file.decrypt(None), _public(openssl_keys[name]))


@pytest.mark.parametrize("name", _ALGORITHMS)
@pytest.mark.parametrize("options", _PKCS8_OPTIONS)
def test_openssl_keys_are_read_encrypted(
    name: str, options: str, openssl_keys: dict[str, bytes], passphrase_file: str
) -> None:
    data = _openssl(
        *("pkcs8", "-topk8", "-passout", passphrase_file, *_PKCS8_OPTIONS[options]),
        stdin=openssl_keys[name],
    )
    key = KeyFile.parse(data).decrypt(_PASSPHRASE)
    assert _signs_as(key, _public(openssl_keys[name]))


@pytest.mark.parametrize("name", ["p256", "p521", "rsa2048"])
@pytest.mark.parametrize("cipher", ["", "-aes128", "-aes192", "-aes256", "-des3"])
def test_openssl_keys_are_read_in_the_older_form(
    name: str, cipher: str, openssl_keys: dict[str, bytes], passphrase_file: str
) -> None:
    command = "rsa" if name.startswith("rsa") else "ec"
    form = ["-traditional"] if command == "rsa" else []
    lock = [cipher, "-passout", passphrase_file] if cipher else []
    data = _openssl(command, *form, *lock, stdin=openssl_keys[name])
    assert data.startswith(b"-----BEGIN %s PRIVATE KEY" % command.upper().encode())
    file = KeyFile.parse(data)
    assert file.encrypted == bool(cipher)
    assert _signs_as(file.decrypt(_PASSPHRASE), _public(openssl_keys[name]))


def test_the_parameters_openssl_puts_before_a_key_are_skipped() -> None:
    data = _openssl("ecparam", "-name", "prime256v1", "-genkey")
    assert data.startswith(b"-----BEGIN EC PARAMETERS-----")
    assert _signs_as(KeyFile.parse(data).decrypt(None), _public(data))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_headers_count_in_any_position(position: int) -> None:
    lines = (KEYS / "k_sec1enc.pem").read_text().splitlines()
    lines[1 + position : 1 + position] = ["role: carol", "path: x/y", "gun: localhost:5000/app"]
    file = KeyFile.parse("\r\n".join(["", *lines, "  ", ""]).encode())
    assert (file.role, file.gun, file.encrypted) == ("carol", "localhost:5000/app", True)
    assert file.decrypt(b"deleg-pass-1").public_key.canonical_id == CAROL


# --- writing


@pytest.mark.parametrize("name", _ALGORITHMS)
def test_what_is_written_is_read(name: str, openssl_keys: dict[str, bytes]) -> None:
    key = KeyFile.parse(openssl_keys[name]).decrypt(None)
    data = keyfile.encrypt(key, _PASSPHRASE, role="targets", gun="localhost:5000/app")
    file = KeyFile.parse(data)
    assert (file.role, file.gun, file.encrypted) == ("targets", "localhost:5000/app", True)
    assert _signs_as(file.decrypt(_PASSPHRASE), key.public_key)


def test_what_is_written_has_notarys_form() -> None:
    """Case 10: headers, lines and the encryption but salt, iterations and IV are Docker's."""
    path = next(path for path in KEY_FILES if b"gun: " not in path.read_bytes())
    file = KeyFile.parse(path.read_bytes())
    ours = keyfile.encrypt(file.decrypt(passphrase(file)), b"passphrase", role=file.role)
    lines, theirs = ours.decode().splitlines(), path.read_text().splitlines()
    assert lines[:3] == theirs[:3]
    assert lines[-1] == theirs[-1]
    assert {len(line) for line in lines[3:-2]} == {64}
    assert _parameters(ours) == (100_000, *_parameters(path.read_bytes())[1:])


def _parameters(data: bytes) -> tuple[int, str, str, str, int, int]:
    (block,) = pem.read(data, what="file")
    scheme = der.Reader(block.content, "file").enter().enter()
    pbes2, parameters = scheme.oid(), scheme.enter()
    derivation, cipher = parameters.enter(), parameters.enter()
    pbkdf2, values = derivation.oid(), derivation.enter()
    salt, iterations = values.read(der.OCTET_STRING), values.integer()
    values.end()  # neither key length nor PRF
    aes, iv = cipher.oid(), cipher.read(der.OCTET_STRING)
    return iterations, pbes2, pbkdf2, aes, len(salt), len(iv)


def test_openssl_reads_what_is_written(tmp_path: Path, passphrase_file: str) -> None:
    key = PrivateKey.generate_ecdsa()
    path = tmp_path / "ci.key"
    data = keyfile.encrypt(key, _PASSPHRASE, role="ci")
    path.write_bytes(data.replace(b"role: ci\n\n", b""))  # OpenSSL knows no such headers
    public = _openssl("pkey", "-in", str(path), "-passin", passphrase_file, "-pubout")
    assert PublicKey.from_pem(public) == key.public_key


def test_no_two_files_are_the_same() -> None:
    key = PrivateKey.generate_ecdsa()
    one, two = (keyfile.encrypt(key, b"passphrase", role="ci") for _ in range(2))
    assert not set(one.splitlines()[3:-1]) & set(two.splitlines()[3:-1])


def test_keys_are_not_written_without_a_passphrase() -> None:
    with pytest.raises(PassphraseError, match="new key file: expected a passphrase, got none"):
        keyfile.encrypt(PrivateKey.generate_ecdsa(), b"", role="ci")


def test_ed25519_keys_are_written_in_notarys_form_and_read_in_all_three() -> None:
    secret = ed25519.Ed25519PrivateKey.generate()
    seed = secret.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    key = PrivateKey.of(secret)
    legacy = pem.write("ED25519 PRIVATE KEY", public + seed + public, {"role": "ci"})
    ours = keyfile.encrypt(key, b"passphrase", role="ci")
    assert KeyFile.parse(legacy).decrypt(None).public_key == key.public_key
    assert KeyFile.parse(ours).decrypt(b"passphrase").public_key == key.public_key
    with pytest.raises(FormatError, match="expected a sound private key, got a damaged one"):
        KeyFile.parse(pem.write("ED25519 PRIVATE KEY", seed * 3)).decrypt(None)


# --- wrong files


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected PEM text, got an empty file"),
        (b"<html><body>Sign in</body></html>", "expected PEM text, got an HTML or XML page"),
        (KEYS / "alice.pub", "expected a private key, got PUBLIC KEY"),
        (KEYS / "dk.crt", "expected a private key, got CERTIFICATE"),
        (pem.write("OPENSSH PRIVATE KEY", b"x"), "expected PRIVATE KEY in PEM, got OPENSSH"),
        (pem.write("PRIVATE KEY", b"x") * 2, "expected one private key, got 2"),
        (pem.write("ENCRYPTED PRIVATE KEY", b""), "expected tag 0x30, got the end"),
        (
            pem.write("EC PRIVATE KEY", b"", {"Proc-Type": "4,ENCRYPTED"}),
            "expected AES or triple DES in CBC mode, got ''",
        ),
        (
            pem.write(
                "EC PRIVATE KEY", b"", {"Proc-Type": "4,ENCRYPTED", "DEK-Info": "DES-CBC,0011"}
            ),
            "expected AES or triple DES in CBC mode, got 'DES-CBC'",
        ),
        (
            pem.write(
                "EC PRIVATE KEY", b"", {"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,0011"}
            ),
            "expected an IV of 16 bytes, got 2",
        ),
        (
            pem.write(
                "EC PRIVATE KEY", b"", {"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,xy"}
            ),
            "expected a hexadecimal IV in DEK-Info, got other text",
        ),
    ],
)
def test_wrong_files_are_named_for_what_they_are(data: bytes | Path, message: str) -> None:
    content = data.read_bytes() if isinstance(data, Path) else data
    with pytest.raises(FormatError, match=rf"^key file ci\.key: .*{message}"):
        KeyFile.parse(content, what="key file ci.key")


def _swapped(old: str, new: str) -> bytes:
    """A good file of Docker's with one run of bytes (hexadecimal) exchanged for another."""
    (block,) = pem.read((KEYS / f"{CAROL}.key").read_bytes(), what="file")
    assert block.content.count(bytes.fromhex(old)) == 1
    content = block.content.replace(bytes.fromhex(old), bytes.fromhex(new))
    return pem.write(block.label, content, dict(block.headers))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2a864886f70d01050d", "2a864886f70d010503", "expected the encryption PBES2, got OID 1.2"),
        ("2a864886f70d01050c", "2a864886f70d01050a", "expected the key derivation PBKDF2, got OID"),
        ("60864801650304012a", "60864801650304012e", "expected AES or triple DES in CBC mode"),
        ("60864801650304012a", "608648016503040102", None),
        ("02020800", "02020000", "expected 1 to 1500000 iterations, got another number"),
        ("02020800", "0202f000", "expected 1 to 1500000 iterations, got another number"),
    ],
)
def test_other_encryptions_are_refused_by_name(old: str, new: str, message: str | None) -> None:
    data = _swapped(old, new)
    if message is None:  # AES-128 instead of AES-256 is known, but then the passphrase is wrong
        with pytest.raises(PassphraseError, match="wrong passphrase"):
            KeyFile.parse(data).decrypt(b"deleg-pass-1")
    else:
        with pytest.raises(FormatError, match=message):
            KeyFile.parse(data)


def test_endless_iterations_are_refused_before_they_are_done() -> None:
    file = _with_iterations(1_500_001)
    with pytest.raises(FormatError, match="expected 1 to 1500000 iterations"):
        KeyFile.parse(file)
    with pytest.raises(FormatError, match="expected 1 to 1500000 iterations"):
        KeyFile.parse(_with_iterations(2**100_000))


def test_an_endless_rsa_key_is_refused_before_its_primes_are_checked() -> None:
    numbers = (0, 2**8192, *[3] * 7)
    key = pem.write("RSA PRIVATE KEY", der.sequence(*[der.integer(n) for n in numbers]))
    with pytest.raises(FormatError, match="expected at most 8192 bits, got 8193"):
        KeyFile.parse(key).decrypt(None)


def _with_iterations(iterations: int) -> bytes:
    octets = der.element(der.OCTET_STRING, bytes(16))
    kdf = der.sequence(
        der.oid("1.2.840.113549.1.5.12"), der.sequence(octets, der.integer(iterations))
    )
    cipher = der.sequence(der.oid("2.16.840.1.101.3.4.1.42"), octets)
    scheme = der.sequence(der.oid("1.2.840.113549.1.5.13"), der.sequence(kdf, cipher))
    return pem.write("ENCRYPTED PRIVATE KEY", der.sequence(scheme, octets))


def _pkcs8(secret: Any) -> bytes:
    return bytes(secret.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (lambda: ec.generate_private_key(ec.SECP256K1()), "P-256, P-384 or P-521, got '1.3.132.0"),
        (
            lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505  # weak is the point
            "RSA with 2048 bits or more, got RSA with 1024 bits",
        ),
    ],
)
def test_keys_that_notary_does_not_know_are_refused(secret: Any, message: str) -> None:
    file = KeyFile.parse(pem.write("PRIVATE KEY", _pkcs8(secret())), what="ci.key")
    with pytest.raises(FormatError, match=f"^ci.key: .*{message}"):
        file.decrypt(None)


def test_a_key_with_anothers_public_part_is_refused() -> None:
    one, two = (_pkcs8(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    lie = one[:-64] + two[-64:]
    with pytest.raises(FormatError, match="expected a sound private key, got a damaged one"):
        KeyFile.parse(pem.write("PRIVATE KEY", lie)).decrypt(None)


def test_nothing_secret_is_in_a_repr() -> None:
    file = KeyFile.parse(_openssl("genpkey", *_ALGORITHMS["p256"]), what="ci.key")
    assert repr(file) == "KeyFile(what='ci.key', role='', gun='', _label='PRIVATE KEY')"


# --- laws


@settings(deadline=None)
@given(st.data())
def test_damaged_files_parse_or_raise_format_error(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([*KEY_FILES, *OPENSSL_FILES, KEYS / "alice.pub"]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        KeyFile.parse(bytes(content))


@settings(deadline=None)
@given(st.sampled_from(list(_ALGORITHMS)), st.integers(0), st.integers(0, 255))
def test_damaged_keys_decrypt_or_raise_format_error(
    openssl_keys: dict[str, bytes], name: str, at: int, byte: int
) -> None:
    (block,) = pem.read(openssl_keys[name], what="file")
    content = bytearray(block.content)
    content[at % len(content)] = byte
    file = KeyFile.parse(pem.write("PRIVATE KEY", bytes(content)))
    with contextlib.suppress(FormatError):
        file.decrypt(None)


@settings(deadline=None)
@given(st.sampled_from(["ENCRYPTED ", "", "EC ", "RSA ", "ED25519 "]), st.binary(max_size=120))
def test_anything_in_armour_parses_or_raises_an_input_or_format_error(
    kind: str, content: bytes
) -> None:
    with contextlib.suppress(FormatError, InputError):
        KeyFile.parse(pem.write(f"{kind}PRIVATE KEY", content)).decrypt(b"passphrase")


# --- Several keys in one file, and files that travel ------------------------------------------


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_any_number_of_blocks_parse_or_raise_format_error(contents: list[bytes]) -> None:
    data = b"".join(pem.write("ENCRYPTED PRIVATE KEY", content) for content in contents)
    with contextlib.suppress(FormatError):
        assert len(KeyFile.every(data)) == len(contents)


def test_every_key_of_a_file_keeps_its_own_headers_and_passphrase() -> None:
    keys = {name: PrivateKey.generate_ecdsa() for name in ("one", "two")}
    data = b"text between\n".join(
        keyfile.encrypt(key, name.encode() * 3, role=name) for name, key in keys.items()
    )
    found = {file.role: file.decrypt(file.role.encode() * 3) for file in KeyFile.every(data)}
    assert {name: key.public_key for name, key in found.items()} == {
        name: key.public_key for name, key in keys.items()
    }
    with pytest.raises(FormatError, match="expected one private key, got 2"):
        KeyFile.parse(data)


@pytest.mark.parametrize("path", KEY_FILES, ids=lambda path: path.name[:8])
def test_a_file_that_travels_is_the_same_inside_its_armour(path: Path) -> None:
    (before,) = pem.read(path.read_bytes(), what="before")
    file = KeyFile.parse(path.read_bytes())
    (after,) = pem.read(
        keyfile.for_travel(path.read_bytes(), path.stem, file.role, file.gun), what="after"
    )
    assert (after.label, after.content) == (before.label, before.content)
    assert dict(after.headers) == dict(before.headers) | {"path": path.stem}


def test_a_file_in_another_programs_form_travels_as_it_is() -> None:
    """Its encryption stands in headers, whose order means something."""
    data = (KEYS / "k_sec1enc.pem").read_bytes()
    assert keyfile.for_travel(data, CAROL, "ci", "") == data
