"""X.509 certificates as Notary uses them: named envelopes around root and signer keys.

The rules of this file:

1. A certificate is read here and judged elsewhere: no clock, no pins, no trust.
2. The first certificate of a bundle is the leaf, whose key signs; the others are intermediates.
3. Names are read and written by hand: a repository name may be longer than the 64 characters that
   X.520 allows, Notary writes it all the same, and X.509 libraries complain or refuse.

Specification: Notary v1, `docs/protocol.md`, "Root certificates"; RFC 5280 for the encoding.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from signimage import der, pem
from signimage.errors import FormatError

LABEL = "CERTIFICATE"

# Notary's validity; the key behind it may be certified again at any time.
_VALIDITY = timedelta(days=3650)

_COMMON_NAME = "2.5.4.3"

_BOOLEAN = 0x01
_UTF8_STRING = 0x0C
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_FIRST_GENERALIZED_YEAR = 2050  # RFC 5280: earlier years are written with two digits

# DER tags of the strings a name may be made of, and how their bytes are to be read.
_STRINGS = {_UTF8_STRING: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}

# Everything `cryptography` raises on certificates it cannot use.
_UNUSABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

CertifiableKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a trust rule may ask about one certificate.

    `common_name` is "" when the subject has none; times are aware and in UTC; `signature_hash`
    is "sha256", "sha1" and so on, or "" for signatures without one; `key_type` is "ecdsa", "rsa"
    or ""; `key_bits` is the size of the curve or modulus, 0 if unknown.
    `is_ca` says whether it may issue others, by its basic constraints and, where it has one, its
    key usage; `path_length` is how many intermediates may stand under it, None for any number.
    """

    common_name: str
    not_before: datetime
    not_after: datetime
    is_ca: bool
    path_length: int | None
    signature_hash: str
    key_type: str
    key_bits: int
    subject_public_key: bytes = field(repr=False)  # DER SubjectPublicKeyInfo; b"" if unknown
    encoded: bytes = field(repr=False)  # DER

    @property
    def self_signed(self) -> bool:
        """True when the certificate's own key signed it."""
        return self.is_issued_by(self)

    def is_issued_by(self, issuer: "Certificate") -> bool:
        """True when *issuer* is named as the issuer and its key made the signature."""
        try:
            _load(self.encoded).verify_directly_issued_by(_load(issuer.encoded))
        except (*_UNUSABLE, InvalidSignature):
            return False
        return True


@lru_cache(maxsize=256)
def parse_bundle(text: bytes, *, what: str) -> tuple[Certificate, ...]:
    """Read the PEM text of a leaf certificate and the intermediates that follow it.

    Raises:
        FormatError: anything but certificates, or one that cannot be read.
    """
    certificates = []
    for block in pem.read(text, what=what):
        if block.label != LABEL:
            raise FormatError(f"{what}: expected only certificates, got {block.label}")
        certificates.append(parse(block.content, what=what))
    return tuple(certificates)


def parse(encoded: bytes, *, what: str) -> Certificate:
    """Read one DER certificate.

    Raises:
        FormatError: the bytes are not a certificate.
    """
    try:
        common_name = _common_name(encoded, what)
        loaded = _load(encoded)
        key_type, key_bits, subject_public_key = _subject_key(loaded)
        is_ca, path_length = _constraints(loaded)
        return Certificate(
            common_name=common_name,
            not_before=loaded.not_valid_before_utc,
            not_after=loaded.not_valid_after_utc,
            is_ca=is_ca,
            path_length=path_length,
            signature_hash=_signature_hash(loaded),
            key_type=key_type,
            key_bits=key_bits,
            subject_public_key=subject_public_key,
            encoded=encoded,
        )
    except _UNUSABLE as error:
        raise FormatError(
            f"{what}: expected an X.509 certificate, got one that is broken"
        ) from error


def self_signed(key: CertifiableKey, common_name: str, now: datetime) -> bytes:
    """Make the certificate in which Notary wraps a root key; gives its PEM text.

    It is the form that Notary's clients make, member by member: v3, random serial, subject and
    issuer `CN=<GUN>`, ten years, for digital signatures, key encipherment and code signing.
    """
    algorithm = _signature_algorithm(key)
    name = _name(common_name)
    tbs = der.sequence(
        der.element(der.context(0), der.integer(2)),  # v3
        der.integer(x509.random_serial_number() >> 32),  # Notary's are below 2**128
        algorithm,
        name,
        der.sequence(_time(now), _time(now + _VALIDITY)),
        name,
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.element(der.context(3), der.sequence(*_EXTENSIONS)),
    )
    signed = der.sequence(tbs, algorithm, der.element(der.BIT_STRING, b"\0", _sign(key, tbs)))
    return pem.write(LABEL, signed)


@lru_cache(maxsize=256)
def _load(encoded: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(encoded)


def _subject_key(certificate: x509.Certificate) -> tuple[str, int, bytes]:
    try:
        key = certificate.public_key()
    except _UNUSABLE:
        return "", 0, b""
    if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        # Written anew, as Notary does before it hashes: the points of a curve are uncompressed.
        encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "rsa" if isinstance(key, rsa.RSAPublicKey) else "ecdsa", key.key_size, encoded
    return "", 0, b""


def _common_name(encoded: bytes, what: str) -> str:
    """Read the last CN of the subject, which is the one that Go takes."""
    fields = der.Reader(encoded, what).enter().enter()
    fields.optional(der.context(0))  # version
    if fields.integer() <= 0:  # libraries are about to stop reading these; so do we, at once
        raise fields.fault("expected a positive serial number, got another")
    for _ in ("signature", "issuer", "validity"):
        fields.skip()
    subject, name = fields.enter(), ""
    while subject.peek() is not None:
        relative = subject.enter(der.SET)
        while relative.peek() is not None:
            attribute = relative.enter()
            oid, tag = attribute.oid(), attribute.peek()
            if oid == _COMMON_NAME and tag in _STRINGS:
                name = attribute.read(tag).decode(_STRINGS[tag])
    return name


def _constraints(certificate: x509.Certificate) -> tuple[bool, int | None]:
    """Whether it may issue others, and over how many intermediates."""
    extensions = certificate.extensions
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False, None
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return basic.ca, basic.path_length
    return basic.ca and usage.key_cert_sign, basic.path_length


def _signature_hash(certificate: x509.Certificate) -> str:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""
    return algorithm.name if algorithm else ""


def _signature_algorithm(key: CertifiableKey) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return der.sequence(der.oid("1.2.840.113549.1.1.11"), der.element(der.NULL))
    return der.sequence(der.oid("1.2.840.10045.4.3.2"))


def _sign(key: CertifiableKey, tbs: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(tbs, PKCS1v15(), hashes.SHA256())
    return key.sign(tbs, ec.ECDSA(hashes.SHA256()))


def _name(common_name: str) -> bytes:
    value = der.element(_UTF8_STRING, common_name.encode())
    return der.sequence(der.element(der.SET, der.sequence(der.oid(_COMMON_NAME), value)))


def _time(moment: datetime) -> bytes:
    utc = moment.astimezone(timezone.utc)
    if utc.year < _FIRST_GENERALIZED_YEAR:
        return der.element(_UTC_TIME, f"{utc:%y%m%d%H%M%SZ}".encode())
    return der.element(_GENERALIZED_TIME, f"{utc:%Y%m%d%H%M%SZ}".encode())


def _extension(oid: str, value: bytes, *, critical: bool) -> bytes:
    flag = der.element(_BOOLEAN, b"\xff") if critical else b""
    return der.sequence(der.oid(oid), flag, der.element(der.OCTET_STRING, value))


_EXTENSIONS = (
    # key usage: digital signature and key encipherment (bits 0 and 2, five bits unused)
    _extension("2.5.29.15", der.element(der.BIT_STRING, b"\x05\xa0"), critical=True),
    # extended key usage: code signing
    _extension("2.5.29.37", der.sequence(der.oid("1.3.6.1.5.5.7.3.3")), critical=False),
    # basic constraints: no CA
    _extension("2.5.29.19", der.sequence(), critical=True),
)
