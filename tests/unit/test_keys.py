"""Keys, against Notary's own signatures and certificates, and against OpenSSL's."""

import base64
import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from signimage import canonical, keys
from signimage.errors import FormatError, InputError
from signimage.keys import PrivateKey, PublicKey
from unit.vectors import KEYS, VECTORS

NOW = datetime(2026, 11, 22, 3, 4, 5, tzinfo=timezone.utc)
LONG_GUN = "registry.example.com:5000/" + "team/" * 20 + "app"

_METHODS = ["ecdsa", "rsapss", "rsapkcs1v15", "eddsa", "pycrypto-pkcs#1 pss", "ECDSA", ""]
_KEYTYPES = ["ecdsa", "rsa", "ed25519", "ecdsa-x509", "rsa-x509", "dsa", ""]


@pytest.fixture(scope="module")
def rsa_2048() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _golden_signatures() -> list[Any]:
    """Every signature of the golden repositories, with the key that must have made it."""
    found = []
    for repository in sorted(VECTORS.glob("*-*")):
        files = {path: _parse(path) for path in sorted(repository.glob("**/*.json"))}
        known: dict[str, object] = {}
        for file in files.values():
            known |= file["signed"].get("keys", {})
            known |= file["signed"].get("delegations", {}).get("keys", {})
        found += [
            pytest.param(known[entry["keyid"]], file["signed"], entry, id=f"{path.name}-{number}")
            for path, file in files.items()
            for number, entry in enumerate(file["signatures"])
        ]
    return found


def _parse(path: Path) -> Any:
    return canonical.parse(path.read_bytes(), what=path.name)


@pytest.mark.parametrize(("value", "signed", "entry"), _golden_signatures())
def test_golden_signatures_verify_and_their_keys_have_the_ids_notary_gave(
    value: object, signed: Any, entry: dict[str, str]
) -> None:
    key = PublicKey.from_json(value)
    sig, message = base64.b64decode(entry["sig"]), canonical.encode(signed)
    assert key.key_id == entry["keyid"]
    assert key.verify(entry["method"], sig, message)
    assert not key.verify(entry["method"], sig, message + b" ")
    assert not key.verify(entry["method"], sig[:-1] + bytes([sig[-1] ^ 1]), message)


def test_golden_keys_are_written_as_they_were_read() -> None:
    values = _parse(VECTORS / "docker-b" / "root.json")["signed"]["keys"].values()
    assert len(values) == 4
    for value in values:
        assert PublicKey.from_json(value).to_json() == value


@pytest.mark.parametrize("name", ["alice", "bob", "bob2", "sp1"])
def test_pub_files_are_written_as_docker_writes_them(name: str) -> None:
    data = (KEYS / f"{name}.pub").read_bytes()
    key = PublicKey.from_pem(data)
    assert key.keytype == "ecdsa"
    assert (KEYS / f"{key.key_id}.key").exists()
    assert key.canonical_id == key.key_id
    assert key.to_pem(name) == data


@pytest.mark.parametrize(
    ("name", "keytype", "canonical_id", "common_name", "bits"),
    [
        (
            "dk.crt",
            "ecdsa-x509",
            "cc8acefdb7eaee288c793996b9573951a04ced5d0ed342a14de9ca908a0f643c",
            "deleg",
            256,
        ),
        (
            "drsa.crt",
            "rsa-x509",
            "bdc9a639cda7a8efc2ad6223a2508cdb6e9a998d8d0f4b39560792008280068e",
            "rsadeleg",
            2048,
        ),
    ],
)
def test_certificates_have_the_canonical_ids_that_the_notary_cli_lists(
    name: str, keytype: str, canonical_id: str, common_name: str, bits: int
) -> None:
    key = PublicKey.from_pem((KEYS / name).read_bytes())
    assert key.keytype == keytype
    assert key.canonical_id == canonical_id
    assert key.bare.key_id == canonical_id
    assert key.key_id != canonical_id
    found = keys.certificate(key)
    assert (found.common_name, found.key_bits) == (common_name, bits)
    assert found.not_before == datetime(2026, 11, 22, 1, 24, 8, tzinfo=timezone.utc)
    assert found.not_after == datetime(2028, 4, 5, 1, 24, 8, tzinfo=timezone.utc)
    assert (found.signature_hash, found.self_signed, found.is_ca) == ("sha256", True, True)


def test_the_first_root_certificate_of_docker_is_read() -> None:
    root = _parse(VECTORS / "docker-b" / "1.root.json")["signed"]
    (key_id,) = root["roles"]["root"]["keyids"]
    found = keys.certificate(PublicKey.from_json(root["keys"][key_id]))
    assert found.common_name == "localhost:5000/agent2/b"
    assert found.not_after - found.not_before == timedelta(days=3650)
    assert (found.key_type, found.self_signed, found.is_ca) == ("ecdsa", True, False)


# --- signing and verifying


@pytest.mark.parametrize("curve", [ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_ecdsa_signatures_are_two_padded_numbers_over_sha256(curve: Any) -> None:
    """Case 6."""
    secret = ec.generate_private_key(curve())
    key = PrivateKey.of(secret)
    size = (secret.key_size + 7) // 8
    for number in range(30):  # short numbers r and s turn up, and must be padded
        message = b"message %d" % number
        method, sig = key.sign(message)
        assert (method, len(sig)) == ("ecdsa", 2 * size)
        r, s = int.from_bytes(sig[:size], "big"), int.from_bytes(sig[size:], "big")
        secret.public_key().verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        assert key.public_key.verify(method, sig, message)


def test_ecdsa_signatures_with_short_numbers_verify_only_padded() -> None:
    """Case 6."""
    key = PrivateKey.generate_ecdsa()
    messages = (b"%d" % number for number in range(10_000))
    message, sig = next(
        (message, sig)
        for message in messages
        for sig in [key.sign(message)[1]]
        if sig[0] == 0 or sig[32] == 0
    )
    assert key.public_key.verify("ecdsa", sig, message)
    shorter = sig[1:] if sig[0] == 0 else sig[:32] + sig[33:]
    assert not key.public_key.verify("ecdsa", shorter, message)
    assert not key.public_key.verify("ecdsa", b"\0" + sig, message)
    assert not key.public_key.verify("ecdsa", b"\0" + sig[:32] + b"\0" + sig[32:], message)


def test_rsa_signs_with_pss_and_a_salt_of_32_bytes(rsa_2048: rsa.RSAPrivateKey) -> None:
    """Case 6."""
    key = PrivateKey.of(rsa_2048)
    method, sig = key.sign(b"message")
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)
    rsa_2048.public_key().verify(sig, b"message", pss, hashes.SHA256())
    assert method == "rsapss"
    assert key.public_key.verify(method, sig, b"message")
    assert not key.public_key.verify("rsapkcs1v15", sig, b"message")
    assert not key.public_key.verify("ecdsa", sig, b"message")


@pytest.mark.parametrize("salt", [0, 20, 31, 33, 64])
def test_rsapss_with_another_salt_length_does_not_verify(
    rsa_2048: rsa.RSAPrivateKey, salt: int
) -> None:
    """Case 7."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=salt)
    sig = rsa_2048.sign(b"message", pss, hashes.SHA256())
    assert not PrivateKey.of(rsa_2048).public_key.verify("rsapss", sig, b"message")


def test_rsapkcs1v15_verifies(rsa_2048: rsa.RSAPrivateKey) -> None:
    """Case 6."""
    sig = rsa_2048.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    key = PrivateKey.of(rsa_2048).public_key
    assert key.verify("rsapkcs1v15", sig, b"message")
    assert not key.verify("rsapkcs1v15", sig, b"massage")
    other_hash = rsa_2048.sign(b"message", padding.PKCS1v15(), hashes.SHA512())
    assert not key.verify("rsapkcs1v15", other_hash, b"message")


def test_short_rsa_keys_neither_sign_nor_verify() -> None:
    """Case 7."""
    secret = rsa.generate_private_key(65537, 1024)  # noqa: S505  # that it is weak is the point
    encoded = secret.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    sig = secret.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    assert not PublicKey("rsa", encoded).verify("rsapkcs1v15", sig, b"message")
    with pytest.raises(FormatError, match="RSA with 2048 bits or more, got RSA with 1024 bits"):
        PrivateKey.of(secret)


def test_ed25519_keys_sign_the_message_itself() -> None:
    """Case 6."""
    secret = ed25519.Ed25519PrivateKey.generate()
    key = PrivateKey.of(secret)
    method, sig = key.sign(b"message")
    secret.public_key().verify(sig, b"message")
    assert (method, len(sig), len(key.public_key.public)) == ("eddsa", 64, 32)
    assert key.public_key.verify(method, sig, b"message")
    assert not key.public_key.verify(method, sig, b"massage")


def test_other_curves_neither_sign_nor_verify() -> None:
    secret = ec.generate_private_key(ec.SECP256K1())
    with pytest.raises(FormatError, match=r"P-224 to P-521 .*, got ECDSA on secp256k1"):
        PrivateKey.of(secret)


@pytest.mark.parametrize("method", _METHODS[1:])
def test_a_good_signature_under_another_method_does_not_verify(method: str) -> None:
    key = PrivateKey.generate_ecdsa()
    _, sig = key.sign(b"message")
    assert not key.public_key.verify(method, sig, b"message")


@pytest.mark.parametrize("keytype", ["rsa", "ed25519", "rsa-x509", "ecdsa-x509", "unknown"])
def test_a_good_signature_under_another_key_type_does_not_verify(keytype: str) -> None:
    key = PrivateKey.generate_ecdsa()
    method, sig = key.sign(b"message")
    assert not PublicKey(keytype, key.public_key.public).verify(method, sig, b"message")


@given(st.sampled_from(_KEYTYPES), st.binary(), st.sampled_from(_METHODS), st.binary(), st.binary())
def test_verifying_never_raises(
    keytype: str, public: bytes, method: str, sig: bytes, message: bytes
) -> None:
    assert PublicKey(keytype, public).verify(method, sig, message) is False


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_verifying_with_damaged_keys_never_raises(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["alice.pub", "dk.crt", "drsa.crt"]))
    good = PublicKey.from_pem((KEYS / name).read_bytes())
    inside = (
        base64.b64decode(b"".join(good.public.splitlines()[1:-1]))
        if "x509" in (good.keytype)
        else good.public
    )
    at = data.draw(st.integers(0, len(inside) - 1))
    broken = inside[:at] + bytes([data.draw(st.integers(0, 255))]) + inside[at + 1 :]
    if "x509" in good.keytype:
        broken = x509_text(broken)
    method, size = ("ecdsa", 64) if good.keytype.startswith("ecdsa") else ("rsapss", 256)
    assert not PublicKey(good.keytype, broken).verify(method, bytes(size), b"message")


def x509_text(encoded: bytes) -> bytes:
    """Armour certificate bytes, whatever they are."""
    text = base64.encodebytes(encoded)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


# --- reading


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"keytype": 1}, "expected keytype and public to be strings"),
        ({"keyval": None}, "expected an object with the member 'public'"),
        ({"keyval": {"private": None}}, "expected an object with the member 'public'"),
        ({"keyval": {"private": None, "public": None}}, "to be strings"),
        ({"keyval": {"private": "QQ==", "public": "QQ=="}}, "got a private part as well"),
        ({"keyval": {"private": None, "public": "QQ"}}, "expected base64"),
        ({"keyval": {"private": None, "public": "QR=="}}, "expected padded standard base64"),
        ({"keyval": {"private": None, "public": "QQ==\n"}}, "expected base64"),
        ({"keyval": {"private": None, "public": "_-8="}}, "expected base64"),
        ({"keytype": "ec\ndsa"}, "expected no control characters"),
    ],
)
def test_malformed_keys_are_refused(lie: dict[str, object], message: str) -> None:
    good = PrivateKey.generate_ecdsa().public_key.to_json()
    with pytest.raises(FormatError, match=message):
        PublicKey.from_json({**good, **lie})


@pytest.mark.parametrize("value", [None, [], "ecdsa", {"keytype": "ecdsa"}])
def test_other_things_are_no_keys(value: object) -> None:
    with pytest.raises(FormatError, match="snapshot key: expected an object with the member"):
        PublicKey.from_json(value, what="snapshot key")


def test_unknown_key_types_are_kept_and_verify_nothing() -> None:
    value = {"keytype": "sphincs", "keyval": {"private": None, "public": "QQ=="}}
    key = PublicKey.from_json(value)
    assert key.to_json() == value
    assert key.canonical_id == key.key_id
    text = '{"keytype":"sphincs","keyval":{"private":null,"public":"QQ=="}}'
    assert key.key_id == hashlib.sha256(text.encode()).hexdigest()
    assert not key.verify("sphincs", b"", b"")
    with pytest.raises(FormatError, match="expected ecdsa, rsa or ed25519, got 'sphincs'"):
        key.to_pem()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", FormatError, "expected PEM text, got an empty file"),
        (b"ssh-ed25519 AAAA me", FormatError, "expected PEM text, got an SSH public key"),
        (KEYS / "k_ossl_def.pem", InputError, "expected a public key, got a private key"),
        (KEYS / "k_sec1enc.pem", InputError, "expected a public key, got a private key"),
        (
            b"-----BEGIN PUBLIC KEY-----\nQQ==\n-----END PUBLIC KEY-----\n",
            FormatError,
            "expected an ECDSA, RSA or Ed25519 key",
        ),
        (
            b"-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n",
            FormatError,
            "not valid DER: expected tag 0x30, got 0x41",
        ),
        (
            b"-----BEGIN CERTIFICATE REQUEST-----\nQQ==\n-----END CERTIFICATE REQUEST-----\n",
            FormatError,
            "expected PUBLIC KEY or CERTIFICATE, got CERTIFICATE REQUEST",
        ),
    ],
)
def test_files_without_a_public_key_are_refused(
    data: bytes | Path, error: type[Exception], message: str
) -> None:
    """Case 35."""
    content = data.read_bytes() if isinstance(data, Path) else data
    with pytest.raises(error, match=rf"^ci\.pub: {message}"):
        PublicKey.from_pem(content, what="ci.pub")


@pytest.mark.parametrize("kind", ["ecdsa", "rsa", "ed25519"])
def test_public_keys_survive_their_pem_file(kind: str, rsa_2048: rsa.RSAPrivateKey) -> None:
    secret: Any = {
        "ecdsa": ec.generate_private_key(ec.SECP384R1()),
        "rsa": rsa_2048,
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }[kind]
    key = PrivateKey.of(secret).public_key
    assert key.keytype == kind
    assert PublicKey.from_pem(key.to_pem("ci")) == key
    assert PublicKey.from_pem(key.to_pem().replace(b"\n", b"\r\n")) == key
    openssl = secret.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert key.to_pem() == openssl


# --- private keys and certificates


def test_nothing_secret_is_in_a_repr() -> None:
    key = PrivateKey.generate_ecdsa()
    assert key.to_pkcs8().hex() not in repr(key)
    assert "_secret" not in repr(key)
    assert "PrivateKey(public_key=PublicKey(keytype='ecdsa'" in repr(key)


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
@pytest.mark.parametrize("gun", ["localhost:5000/team/app", LONG_GUN])
def test_root_certificates_have_notarys_form(
    kind: str, gun: str, rsa_2048: rsa.RSAPrivateKey
) -> None:
    """Case 10."""
    secret = PrivateKey.generate_ecdsa() if kind == "ecdsa" else PrivateKey.of(rsa_2048)
    key = keys.root_certificate(secret, gun, NOW)
    view = keys.certificate(key)
    assert key.keytype == f"{kind}-x509"
    assert key.canonical_id == secret.public_key.key_id
    assert (view.common_name, view.not_before) == (gun, NOW)
    assert view.not_after == NOW + timedelta(days=3650)
    assert (view.signature_hash, view.self_signed, view.is_ca) == ("sha256", True, False)

    found = x509.load_pem_x509_certificate(key.public)
    assert found.version is x509.Version.v3
    assert 0 < found.serial_number < 2**128
    usage = found.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_encipherment
    assert not usage.value.key_cert_sign
    extended = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(extended.value) == [ExtendedKeyUsageOID.CODE_SIGNING]
    basic = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert len(found.extensions) == 3


def test_every_root_certificate_is_another_key() -> None:
    key = PrivateKey.generate_ecdsa()
    one, two = (keys.root_certificate(key, "localhost:5000/app", NOW) for _ in range(2))
    assert one.key_id != two.key_id
    assert one.canonical_id == two.canonical_id


def test_signatures_of_a_root_key_verify_with_its_certificate() -> None:
    secret = PrivateKey.generate_ecdsa()
    root = keys.root_certificate(secret, LONG_GUN, NOW)
    made = keys.signature(secret, root, b"message")
    assert made.keyid == root.key_id
    assert root.verify(made.method, made.sig, b"message")
    assert secret.public_key.verify(made.method, made.sig, b"message")


def test_a_key_does_not_sign_for_another_key() -> None:
    one, two = PrivateKey.generate_ecdsa(), PrivateKey.generate_ecdsa()
    with pytest.raises(
        InputError, match=f"expected key {two.public_key.key_id}, got {one.public_key.key_id}"
    ):
        keys.signature(one, two.public_key, b"message")


def test_ed25519_keys_cannot_be_root_keys() -> None:
    key = PrivateKey.of(ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(InputError, match="expected an ECDSA or RSA key, got Ed25519"):
        keys.root_certificate(key, "localhost:5000/app", NOW)


def test_bare_keys_have_no_certificate() -> None:
    with pytest.raises(FormatError, match="expected a certificate, got a bare 'ecdsa' key"):
        keys.certificate(PrivateKey.generate_ecdsa().public_key)


def test_a_certificate_of_the_other_kind_is_no_key() -> None:
    good = PublicKey.from_pem((KEYS / "dk.crt").read_bytes())
    lie = PublicKey("rsa-x509", good.public)
    with pytest.raises(FormatError, match="expected rsa-x509, got ecdsa-x509"):
        keys.certificate(lie)
    assert not lie.verify("rsapss", bytes(256), b"message")


def test_intermediates_follow_the_leaf() -> None:
    authority = ec.generate_private_key(ec.SECP256R1())
    leaf = ec.generate_private_key(ec.SECP256R1())
    issuer = _certificate("CA", "CA", authority, authority)
    bundle = _certificate("localhost:5000/app", "CA", leaf, authority) + issuer
    key = PublicKey("ecdsa-x509", bundle)
    first, second = keys.certificate_bundle(key)
    assert (first.common_name, first.is_ca, first.self_signed) == (
        "localhost:5000/app",
        False,
        False,
    )
    assert (second.common_name, second.is_ca, second.self_signed) == ("CA", True, True)
    assert first.is_issued_by(second)
    assert not second.is_issued_by(first)
    assert key.canonical_id == PrivateKey.of(leaf).public_key.key_id
    method, sig = PrivateKey.of(leaf).sign(b"message")
    assert key.verify(method, sig, b"message")


def test_a_bundle_holds_nothing_but_certificates() -> None:
    good = (KEYS / "dk.crt").read_bytes()
    lie = PublicKey("ecdsa-x509", good + (KEYS / "alice.pub").read_bytes())
    with pytest.raises(FormatError, match="expected only certificates, got PUBLIC KEY"):
        keys.certificate(lie)
    with pytest.raises(FormatError, match="expected only certificates, got PUBLIC KEY"):
        _ = lie.canonical_id


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> bytes:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=subject == issuer, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
