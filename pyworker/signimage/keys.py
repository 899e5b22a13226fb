"""Keys: who signed, and how to sign.

The rules of this file:

1. A key is known by an ID that is a hash of its content. There are two: the *TUF ID*
   (`key_id`) is what role files say, the *canonical ID* (`canonical_id`) is what key files are
   named after; they differ for certificates only.
2. Verifying answers yes or no and never raises, whatever key, method and signature it is given.
3. Key material leaves a `PrivateKey` only through `to_pkcs8`, and never through a repr or an error.

Specification: Notary v1, `docs/protocol.md`, "Keys" and "Signatures".
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from signimage import canonical, certificates, pem
from signimage.certificates import Certificate
from signimage.errors import FormatError, InputError

# Key types, as role files spell them.
ECDSA = "ecdsa"
RSA = "rsa"
ED25519 = "ed25519"
ECDSA_X509 = "ecdsa-x509"
RSA_X509 = "rsa-x509"

# Methods of signing, as role files spell them.
METHOD_ECDSA = "ecdsa"
METHOD_RSAPSS = "rsapss"
METHOD_RSAPKCS1V15 = "rsapkcs1v15"  # verified, never made
METHOD_EDDSA = "eddsa"

_BARE = {ECDSA_X509: ECDSA, RSA_X509: RSA}

# What `PrivateKey.generate` makes. P-256 is what every Notary client makes; an Ed25519 key has no
# certificate and so is no root key, and Docker's own commands do not take its public half.
P256, P384, RSA_3072 = "p256", "p384", "rsa-3072"
KINDS = (P256, P384, RSA_3072, ED25519)

_CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_MIN_RSA_BITS = 2048  # Notary's floor, for signing and for verifying
_MAX_RSA_BITS = 16384  # OpenSSL's ceiling; a larger modulus only burns time

# SHA-256 whatever the curve, and a salt of exactly the digest's length: other choices do not
# verify in Notary.
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
_PKCS1V15 = padding.PKCS1v15()

_MEMBERS = frozenset({"keytype", "keyval", "private", "public"})

# Everything `cryptography` raises on keys and signatures it cannot use.
_UNUSABLE = (ValueError, TypeError, OverflowError, UnsupportedAlgorithm, InvalidSignature)

_Verifier: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
Secret: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key as role files carry it.

    `public` is DER SubjectPublicKeyInfo for "ecdsa" and "rsa", PEM certificates (leaf first) for
    "ecdsa-x509" and "rsa-x509", 32 raw bytes for "ed25519". Other key types are kept as they
    are and verify nothing.
    """

    keytype: str
    public: bytes

    @classmethod
    def from_json(cls, value: object, *, what: str = "key") -> "PublicKey":
        """Read `{"keytype":…,"keyval":{"private":null,"public":<base64>}}` as parsed from JSON.

        Unknown members are ignored, as Notary does.

        Raises:
            FormatError: another shape, base64 that is not strict, or a private part.
        """
        keytype = _member(value, "keytype", what)
        keyval = _member(value, "keyval", what)
        text = _member(keyval, "public", what)
        if not isinstance(keytype, str) or not isinstance(text, str):
            raise FormatError(f"{what}: expected keytype and public to be strings")
        if isinstance(keyval, dict) and keyval.get("private") is not None:
            raise FormatError(f"{what}: expected a public key, got a private part as well")
        key = cls(keytype, _strict_base64(text, what))
        _key_id(key)  # a key type without canonical form has no ID
        return key

    @classmethod
    def from_pem(cls, data: bytes, *, what: str = "public key") -> "PublicKey":
        """Read a public key (`PUBLIC KEY`) or a certificate, which becomes a `*-x509` key.

        Headers such as `role:` are skipped. Of a certificate bundle the first one counts, as in
        Docker; whether it is still valid is for the caller to ask (`certificate`).

        Raises:
            InputError: the file holds a private key.
            FormatError: anything else that is neither.
        """
        block = pem.read(data, what=what)[0]
        if block.label.endswith("PRIVATE KEY"):
            raise InputError(
                f"{what}: expected a public key, got a private key",
                hint="Give the file that ends in .pub, and keep the private key to yourself",
            )
        if block.label == certificates.LABEL:
            leaf = certificates.parse(block.content, what=what)
            return cls(_x509_type(leaf, what), pem.write(certificates.LABEL, block.content))
        if block.label != "PUBLIC KEY":
            raise FormatError(f"{what}: expected PUBLIC KEY or CERTIFICATE, got {block.label}")
        try:
            return _public_key(load_der_public_key(block.content))
        except _UNUSABLE as error:
            raise FormatError(f"{what}: expected an ECDSA, RSA or Ed25519 key") from error

    @property
    def key_id(self) -> str:
        """The TUF ID: 64 hex digits."""
        return _key_id(self)

    @property
    def canonical_id(self) -> str:
        """The ID of the bare key: for a certificate that of its leaf's key, else `key_id`.

        Raises:
            FormatError: the certificate cannot be read.
        """
        return _key_id(self.bare)

    @property
    def bare(self) -> "PublicKey":
        """The key without its certificate: the "ecdsa" or "rsa" key of the leaf, else itself."""
        if self.keytype not in _BARE:
            return self
        return PublicKey(_BARE[self.keytype], certificate(self).subject_public_key)

    def to_json(self) -> dict[str, Any]:
        """Give the member of a role file's `keys`; `private` is always there, and null."""
        public = base64.b64encode(self.public).decode()
        return {"keytype": self.keytype, "keyval": {"private": None, "public": public}}

    def to_pem(self, role: str = "") -> bytes:
        """Write a `.pub` file as `docker trust key generate` does; certificates as they are.

        Raises:
            FormatError: a key type that has no PEM form.
        """
        if self.keytype in _BARE:
            return self.public
        verifier = _verifier(self)
        if verifier is None:
            raise FormatError(f"public key: expected ecdsa, rsa or ed25519, got {self.keytype!r}")
        encoded = verifier.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return pem.write("PUBLIC KEY", encoded, {"role": role} if role else None)

    def verify(self, method: str, sig: bytes, message: bytes) -> bool:
        """Say whether *sig*, made by *method* (lower case), is this key's signature of *message*.

        False for everything that is not, unknown methods and unusable keys included (rule 2).
        """
        key = _verifier(self)
        try:
            if method == METHOD_ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(_der_signature(sig, key.key_size), message, ec.ECDSA(hashes.SHA256()))
            elif method == METHOD_RSAPSS and isinstance(key, rsa.RSAPublicKey):
                key.verify(sig, message, _PSS, hashes.SHA256())
            elif method == METHOD_RSAPKCS1V15 and isinstance(key, rsa.RSAPublicKey):
                key.verify(sig, message, _PKCS1V15, hashes.SHA256())
            elif method == METHOD_EDDSA and isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(sig, message)
            else:
                return False
        except _UNUSABLE:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signature:
    """One entry of a file's `signatures`: the TUF ID of the key, the method, the bytes."""

    keyid: str
    method: str
    sig: bytes


class Signer(Protocol):
    """Whoever can sign: a `PrivateKey`, or a key that never leaves its device."""

    @property
    def public_key(self) -> PublicKey:
        """The bare public key; its certificates, if any, are the caller's knowledge."""
        ...

    def sign(self, message: bytes) -> tuple[str, bytes]:
        """Sign *message* (not its digest); gives the method and the signature bytes."""
        ...


def signature(signer: Signer, key: PublicKey, message: bytes) -> Signature:
    """Sign for *key*, the role's form of the signer's key: itself, or its certificate.

    Raises:
        InputError: *key* is another key than the signer's.
    """
    if key.canonical_id != signer.public_key.canonical_id:
        raise InputError(
            f"signing: expected key {key.canonical_id}, got {signer.public_key.canonical_id}"
        )
    method, sig = signer.sign(message)
    return Signature(key.key_id, method, sig)


@dataclass(frozen=True, slots=True, eq=False)
class PrivateKey:
    """A key that can sign, in memory. Made by `generate` or by reading a key file."""

    public_key: PublicKey
    _secret: Secret = field(repr=False)

    @classmethod
    def generate_ecdsa(cls) -> "PrivateKey":
        """Make a new P-256 key, the kind that every Notary client makes and reads."""
        return cls.generate(P256)

    @classmethod
    def generate(cls, kind: str) -> "PrivateKey":
        """Make a new key of one of the `KINDS`.

        Raises:
            InputError: Another kind.
        """
        if kind not in _NEW:
            raise InputError(f"kind of key: expected {', '.join(KINDS)}, got {kind[:40]!r}")
        return cls.of(_NEW[kind]())

    @classmethod
    def of(cls, secret: Secret, *, what: str = "private key") -> "PrivateKey":
        """Take a loaded key.

        Raises:
            FormatError: a curve or a size that Notary does not know.
        """
        key = cls(_public_key(secret.public_key()), secret)
        if _verifier(key.public_key) is None:
            raise FormatError(
                f"{what}: expected ECDSA on P-224 to P-521 or RSA with {_MIN_RSA_BITS} bits or "
                f"more, got {_kind(secret)}"
            )
        return key

    def sign(self, message: bytes) -> tuple[str, bytes]:
        """Sign *message*; gives the method and the signature as Notary spells them."""
        secret = self._secret
        if isinstance(secret, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(secret.sign(message, ec.ECDSA(hashes.SHA256())))
            size = (secret.key_size + 7) // 8
            return METHOD_ECDSA, r.to_bytes(size, "big") + s.to_bytes(size, "big")
        if isinstance(secret, rsa.RSAPrivateKey):
            return METHOD_RSAPSS, secret.sign(message, _PSS, hashes.SHA256())
        return METHOD_EDDSA, secret.sign(message)

    def to_pkcs8(self) -> bytes:
        """Write the DER PrivateKeyInfo, unprotected: for encrypting it into a key file."""
        return self._secret.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def certify(self, common_name: str, now: datetime) -> PublicKey:
        """Wrap this key in a new self-signed certificate; every call makes another TUF ID.

        Raises:
            InputError: an Ed25519 key, for which Notary has no certificates.
        """
        if isinstance(self._secret, ed25519.Ed25519PrivateKey):
            raise InputError("root key: expected an ECDSA or RSA key, got Ed25519")
        text = certificates.self_signed(self._secret, common_name, now)
        return PublicKey(f"{self.public_key.keytype}-x509", text)


_NEW: Mapping[str, Callable[[], Secret]] = {
    P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    RSA_3072: lambda: rsa.generate_private_key(public_exponent=65537, key_size=3072),
    ED25519: ed25519.Ed25519PrivateKey.generate,
}


def root_certificate(private_key: PrivateKey, gun: str, now: datetime) -> PublicKey:
    """Make the key that a repository's root role holds: the root key, certified for *gun*.

    Args:
        private_key: The root key; ECDSA or RSA, else `InputError`.
        gun: The repository's full name, the certificate's common name.
        now: The beginning of its ten years; aware.
    """
    return private_key.certify(gun, now)


def certificate(key: PublicKey) -> Certificate:
    """Give the leaf certificate of an x509 key.

    Raises:
        FormatError: no x509 key, or not a certificate of the key type's kind.
    """
    return certificate_bundle(key)[0]


def certificate_bundle(key: PublicKey) -> tuple[Certificate, ...]:
    """Give the certificates of an x509 key: the leaf, then its intermediates.

    Raises:
        FormatError: no x509 key, or not a certificate of the key type's kind.
    """
    what = f"key {key.key_id[:12]}"
    if key.keytype not in _BARE:
        raise FormatError(f"{what}: expected a certificate, got a bare {key.keytype!r} key")
    bundle = certificates.parse_bundle(key.public, what=what)
    if _x509_type(bundle[0], what) != key.keytype:
        raise FormatError(f"{what}: expected {key.keytype}, got {bundle[0].key_type}-x509")
    return bundle


@lru_cache(maxsize=1024)
def _key_id(key: PublicKey) -> str:
    return hashlib.sha256(canonical.encode(key.to_json())).hexdigest()


@lru_cache(maxsize=1024)
def _verifier(key: PublicKey) -> _Verifier | None:
    """Load a key for verifying; `None` for every key that must not verify anything."""
    try:
        bare = key.bare
        if bare.keytype == ED25519:
            return ed25519.Ed25519PublicKey.from_public_bytes(bare.public)
        if bare.keytype not in (ECDSA, RSA):
            return None
        loaded = load_der_public_key(bare.public)
    except (*_UNUSABLE, FormatError):
        return None
    if bare.keytype == ECDSA and isinstance(loaded, ec.EllipticCurvePublicKey):
        return loaded if isinstance(loaded.curve, _CURVES) else None
    if bare.keytype == RSA and isinstance(loaded, rsa.RSAPublicKey):
        return loaded if _MIN_RSA_BITS <= loaded.key_size <= _MAX_RSA_BITS else None
    return None


def _public_key(loaded: object) -> PublicKey:
    if isinstance(loaded, ed25519.Ed25519PublicKey):
        return PublicKey(ED25519, loaded.public_bytes(Encoding.Raw, PublicFormat.Raw))
    if isinstance(loaded, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        encoded = loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return PublicKey(RSA if isinstance(loaded, rsa.RSAPublicKey) else ECDSA, encoded)
    raise TypeError(f"expected an ECDSA, RSA or Ed25519 key, got {type(loaded).__name__}")


def _x509_type(leaf: Certificate, what: str) -> str:
    if not leaf.key_type:
        raise FormatError(f"{what}: expected a certificate of an ECDSA or RSA key, got another")
    return f"{leaf.key_type}-x509"


def _der_signature(sig: bytes, key_bits: int) -> bytes:
    """Turn Notary's r‖s into what `cryptography` verifies; the length must match exactly."""
    size = (key_bits + 7) // 8
    if len(sig) != 2 * size:
        raise ValueError
    return encode_dss_signature(
        int.from_bytes(sig[:size], "big"), int.from_bytes(sig[size:], "big")
    )


def _kind(secret: Secret) -> str:
    if isinstance(secret, ec.EllipticCurvePrivateKey):
        return f"ECDSA on {secret.curve.name}"
    return (
        f"RSA with {secret.key_size} bits" if isinstance(secret, rsa.RSAPrivateKey) else "Ed25519"
    )


def _member(value: object, name: str, what: str) -> object:
    if not isinstance(value, dict) or name not in value:
        raise FormatError(f"{what}: expected an object with the member {name!r}")
    for other in value:
        if other not in _MEMBERS and other.casefold() in _MEMBERS:
            raise FormatError(f"{what}: member {other[:60]!r} is misspelt in letter case")
    return value[name]


def _strict_base64(text: str, what: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{what}: expected base64, got other text") from error
    if base64.b64encode(decoded).decode() != text:
        raise FormatError(f"{what}: expected padded standard base64, got another spelling")
    return decoded
