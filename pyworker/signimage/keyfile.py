"""Key files: private keys as Docker, Notary and OpenSSL write them.

The rules of this file:

1. Everything those programs write is read: PKCS#8, encrypted (PBES2) or not, in the standard's
   form and in Notary's; the older PEM encryption; `role`, `gun` and `path` headers anywhere.
2. What is written, Docker reads: PBES2 with HMAC-SHA1 and AES-256-CBC is the only encryption
   that Notary's reader knows, and its strength rests on the iterations and the passphrase.
3. A damaged file, a wrong passphrase and an unknown algorithm are three different errors.
   Anything else parses, or raises `FormatError`.
4. No error says anything about a passphrase or a key.

Specification: Notary v1, `docs/protocol.md`, "Key files"; RFC 8018 (PBES2), RFC 5958 (PKCS#8),
RFC 5915 (EC keys), RFC 8017 (RSA keys), RFC 8410 (Ed25519).
"""

import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from signimage import der, keys, pem
from signimage.errors import FormatError, PassphraseError

# Notary itself uses 2048; more is compatible. This costs an attacker 50 times as much per guess,
# and whoever opens the file, Docker included, about 0.1 s; a million would cost Docker 1 s a key.
ITERATIONS = 100_000

# The highest number anybody advises is 1,300,000 (OWASP, for SHA-1); these take under 2 s.
_MAX_ITERATIONS = 1_500_000

_MAX_RSA_BITS = 8192  # whose primes take 4 s to check; twice the bits would take a minute

_ENCRYPTED_PKCS8 = "ENCRYPTED PRIVATE KEY"
_PKCS8 = "PRIVATE KEY"
_EC = "EC PRIVATE KEY"
_RSA = "RSA PRIVATE KEY"
_ED25519 = "ED25519 PRIVATE KEY"  # Notary's
_LABELS = (_ENCRYPTED_PKCS8, _PKCS8, _EC, _RSA, _ED25519)

_OID_PBES2 = "1.2.840.113549.1.5.13"
_OID_PBKDF2 = "1.2.840.113549.1.5.12"
_OID_AES_256_CBC = "2.16.840.1.101.3.4.1.42"
_OID_EC = "1.2.840.10045.2.1"
_OID_RSA = "1.2.840.113549.1.1.1"
_OID_ED25519 = "1.3.101.112"
_OID_NOTARY_ED25519 = "1.3.6.1.4.1.11591.15.1"

_PRF_SHA1 = "1.2.840.113549.2.7"
_PRFS = {
    _PRF_SHA1: "sha1",
    "1.2.840.113549.2.8": "sha224",
    "1.2.840.113549.2.9": "sha256",
    "1.2.840.113549.2.10": "sha384",
    "1.2.840.113549.2.11": "sha512",
}

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "1.3.132.0.33": ec.SECP224R1,
    "1.2.840.10045.3.1.7": ec.SECP256R1,
    "1.3.132.0.34": ec.SECP384R1,
    "1.3.132.0.35": ec.SECP521R1,
}

# Ciphers by their OID (PBES2) and their DEK-Info name (older PEM); all in CBC mode.
_CIPHERS: dict[str, tuple[type[AES | TripleDES], int]] = {  # key size in bytes
    "2.16.840.1.101.3.4.1.2": (AES, 16),
    "2.16.840.1.101.3.4.1.22": (AES, 24),
    _OID_AES_256_CBC: (AES, 32),
    "1.2.840.113549.3.7": (TripleDES, 24),
    "AES-128-CBC": (AES, 16),
    "AES-192-CBC": (AES, 24),
    "AES-256-CBC": (AES, 32),
    "DES-EDE3-CBC": (TripleDES, 24),
}


@dataclass(frozen=True, slots=True)
class _Lock:
    """How the bytes of a file are encrypted; `prf` is "" for the older PEM encryption."""

    cipher: str
    iv: bytes
    salt: bytes
    iterations: int
    prf: str

    def open(self, content: bytes, passphrase: bytes) -> bytes | None:
        """Decrypt; `None` when the padding shows that the passphrase is not the right one."""
        algorithm, size = _CIPHERS[self.cipher]
        block = _block_size(algorithm)
        if not content or len(content) % block:
            return None
        decryptor = Cipher(algorithm(self._key(passphrase, size)), CBC(self.iv)).decryptor()
        padded = decryptor.update(content) + decryptor.finalize()
        count = padded[-1]
        if not 0 < count <= block or padded[-count:] != bytes([count]) * count:
            return None
        return padded[:-count]

    def close(self, content: bytes, passphrase: bytes) -> bytes:
        """Encrypt, PKCS#7-padded."""
        algorithm, size = _CIPHERS[self.cipher]
        count = _block_size(algorithm) - len(content) % _block_size(algorithm)
        encryptor = Cipher(algorithm(self._key(passphrase, size)), CBC(self.iv)).encryptor()
        return encryptor.update(content + bytes([count]) * count) + encryptor.finalize()

    def _key(self, passphrase: bytes, size: int) -> bytes:
        if self.prf:
            return hashlib.pbkdf2_hmac(self.prf, passphrase, self.salt, self.iterations, size)
        key = digest = b""
        while len(key) < size:  # OpenSSL's EVP_BytesToKey, whose only hash here is MD5
            digest = hashlib.md5(digest + passphrase + self.salt, usedforsecurity=False).digest()
            key += digest
        return key[:size]


_HINT = "Give a private key in PEM, as signimage, docker trust, notary and openssl write it"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key file, understood but not decrypted.

    `what` names it in errors; `role` and `gun` are its headers, "" where it has none.
    """

    what: str
    role: str
    gun: str
    _label: str
    _content: bytes = field(repr=False)
    _lock: _Lock | None = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, *, what: str = "key file") -> "KeyFile":
        """Read a file with one private key in it.

        Args:
            data: The file as it is.
            what: Names the file in errors, e.g. "key file ci.key".

        Raises:
            FormatError: no private key (says what it is instead), several of them, or an
                encryption that is not known.
        """
        return cls._of(_private_block(_blocks(data, what), what), what)

    @classmethod
    def every(cls, data: bytes, *, what: str = "key file") -> "tuple[KeyFile, ...]":
        """Read a file with any number of private keys in it, as `notary key export` writes.

        Raises:
            FormatError: as `parse`, but for several keys.
        """
        return tuple(cls._of(each, what) for each in _private_blocks(_blocks(data, what), what))

    @classmethod
    def _of(cls, block: pem.Block, what: str) -> "KeyFile":
        lock, content = None, block.content
        if block.label == _ENCRYPTED_PKCS8:
            lock, content = _pbes2(block.content, what)
        elif "ENCRYPTED" in block.header("Proc-Type"):
            lock = _dek_info(block.header("DEK-Info"), what)
        return cls(what, block.header("role"), block.header("gun"), block.label, content, lock)

    @property
    def encrypted(self) -> bool:
        """True when `decrypt` needs a passphrase."""
        return self._lock is not None

    def decrypt(self, passphrase: bytes | None) -> keys.PrivateKey:
        """Give the key. A file that is not encrypted ignores *passphrase*.

        Raises:
            PassphraseError: the passphrase is missing, empty or wrong.
            FormatError: the key inside is damaged or of a kind that Notary does not know.
        """
        content = self._content
        if self._lock is not None:
            content = self._opened(self._lock, passphrase)
        try:
            return keys.PrivateKey.of(self._secret(content), what=self.what)
        except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm) as error:
            raise FormatError(
                f"{self.what}: expected a sound private key, got a damaged one"
            ) from error

    def _opened(self, lock: _Lock, passphrase: bytes | None) -> bytes:
        if not passphrase:
            raise PassphraseError(f"{self.what} is encrypted: expected its passphrase, got none")
        content = lock.open(content=self._content, passphrase=passphrase)
        if content is None or not self._is_complete(content):
            raise PassphraseError(f"wrong passphrase for {self.what}")
        return content

    def _is_complete(self, content: bytes) -> bool:
        """Tell a key from the noise that a wrong passphrase leaves once in 256 times."""
        try:
            outer = der.Reader(content, self.what)
            outer.read(der.SEQUENCE)
            outer.end()
        except FormatError:
            return self._label == _ED25519
        return True

    def _secret(self, content: bytes) -> keys.Secret:
        reader = der.Reader(content, self.what)
        if self._label == _EC:
            return _ec_key(reader, "")
        if self._label == _RSA:
            return _rsa_key(reader)
        if self._label == _ED25519:
            return _notary_ed25519_key(content)
        return _pkcs8_key(reader, self.what)


def encrypt(key: keys.PrivateKey, passphrase: bytes, *, role: str, gun: str = "") -> bytes:
    """Write a key file as Notary's clients do (rule 2).

    Args:
        key: The key.
        passphrase: Verbatim; must not be empty.
        role: "root", "targets", "snapshot" or the signer's name.
        gun: The repository, for "targets" and "snapshot" only.
    """
    if not passphrase:
        raise PassphraseError("new key file: expected a passphrase, got none")
    lock = _Lock(
        _OID_AES_256_CBC,
        iv=secrets.token_bytes(16),
        salt=secrets.token_bytes(8),
        iterations=ITERATIONS,
        prf=_PRFS[_PRF_SHA1],
    )
    kdf = der.sequence(der.element(der.OCTET_STRING, lock.salt), der.integer(lock.iterations))
    cipher = der.sequence(der.oid(lock.cipher), der.element(der.OCTET_STRING, lock.iv))
    parameters = der.sequence(der.sequence(der.oid(_OID_PBKDF2), kdf), cipher)
    content = der.sequence(
        der.sequence(der.oid(_OID_PBES2), parameters),
        der.element(der.OCTET_STRING, lock.close(_notary_pkcs8(key), passphrase)),
    )
    return pem.write(_ENCRYPTED_PKCS8, content, {"role": role} | ({"gun": gun} if gun else {}))


def for_travel(data: bytes, key_id: str, role: str, gun: str, *, what: str = "key file") -> bytes:
    """Give a key file the headers by which Notary takes an encrypted key that it cannot open.

    What is inside the armour stays as it is, and so does a file in another program's form.

    Raises:
        FormatError: as `KeyFile.parse`.
    """
    block = _private_block(_blocks(data, what), what)
    if block.label != _ENCRYPTED_PKCS8:
        return data
    headers = {"path": key_id, "role": role, "gun": gun}
    return pem.write(block.label, block.content, {k: v for k, v in headers.items() if v})


def _blocks(data: bytes, what: str) -> tuple[pem.Block, ...]:
    try:
        return pem.read(data, what=what)
    except FormatError as error:
        raise FormatError(f"{error}; a private key was expected", hint=_HINT) from error


def _private_block(blocks: tuple[pem.Block, ...], what: str) -> pem.Block:
    found = _private_blocks(blocks, what)
    if len(found) > 1:
        raise FormatError(f"{what}: expected one private key, got {len(found)}")
    return found[0]


def _private_blocks(blocks: tuple[pem.Block, ...], what: str) -> list[pem.Block]:
    found = [block for block in blocks if block.label.endswith("PRIVATE KEY")]
    if not found:
        public = blocks[0].label == "PUBLIC KEY"
        raise FormatError(
            f"{what}: expected a private key, got {blocks[0].label}",
            hint="Give the private key that belongs to this public key" if public else _HINT,
        )
    if strange := next((block for block in found if block.label not in _LABELS), None):
        raise FormatError(
            f"{what}: expected PRIVATE KEY in PEM, got {strange.label}",
            hint="Convert it with openssl pkcs8 -topk8, or make a new key",
        )
    return found


def _pbes2(content: bytes, what: str) -> tuple[_Lock, bytes]:
    """Read EncryptedPrivateKeyInfo; gives how it is encrypted, and the encrypted bytes."""
    outer = der.Reader(content, what)
    info = outer.enter()
    outer.end()
    scheme, encrypted = info.enter(), info.read(der.OCTET_STRING)
    info.end()
    _expect_oid(scheme, _OID_PBES2, "the encryption PBES2", what)
    parameters = scheme.enter()
    derivation, encryption = parameters.enter(), parameters.enter()
    _expect_oid(derivation, _OID_PBKDF2, "the key derivation PBKDF2", what)
    cipher, iv = encryption.oid(), encryption.read(der.OCTET_STRING)
    return _pbkdf2(derivation.enter(), _checked_cipher(cipher, iv, what), iv, what), encrypted


def _pbkdf2(parameters: der.Reader, cipher: str, iv: bytes, what: str) -> _Lock:
    salt, iterations = parameters.read(der.OCTET_STRING), parameters.integer()
    size = parameters.integer() if parameters.peek() == der.INTEGER else _CIPHERS[cipher][1]
    prf = parameters.enter().oid() if parameters.peek() == der.SEQUENCE else _PRF_SHA1
    parameters.end()
    if not 0 < iterations <= _MAX_ITERATIONS:
        raise FormatError(f"{what}: expected 1 to {_MAX_ITERATIONS} iterations, got another number")
    if size != _CIPHERS[cipher][1]:
        raise FormatError(
            f"{what}: expected a key of {_CIPHERS[cipher][1]} bytes, got another size"
        )
    if prf not in _PRFS:
        raise FormatError(f"{what}: expected PBKDF2 with HMAC-SHA1 or SHA-2, got OID {prf}")
    return _Lock(cipher, iv, salt, iterations, _PRFS[prf])


def _dek_info(header: str, what: str) -> _Lock:
    cipher, _, text = header.partition(",")
    try:
        iv = binascii.unhexlify(text.strip())
    except (binascii.Error, ValueError) as error:
        raise FormatError(
            f"{what}: expected a hexadecimal IV in DEK-Info, got other text"
        ) from error
    cipher = _checked_cipher(cipher.strip().upper(), iv, what)
    return _Lock(cipher, iv, salt=iv[:8], iterations=1, prf="")


def _checked_cipher(cipher: str, iv: bytes, what: str) -> str:
    if cipher not in _CIPHERS:
        raise FormatError(f"{what}: expected AES or triple DES in CBC mode, got {cipher[:64]!r}")
    size = _block_size(_CIPHERS[cipher][0])
    if len(iv) != size:
        raise FormatError(f"{what}: expected an IV of {size} bytes, got {len(iv)}")
    return cipher


def _block_size(algorithm: type[AES | TripleDES]) -> int:
    return algorithm.block_size // 8


def _expect_oid(reader: der.Reader, expected: str, name: str, what: str) -> None:
    if (found := reader.oid()) != expected:
        raise FormatError(
            f"{what}: expected {name}, got OID {found}",
            hint="Convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc",
        )


def _pkcs8_key(reader: der.Reader, what: str) -> keys.Secret:
    """Read PrivateKeyInfo; Notary writes version 1 for EC keys, without a public key in it."""
    info = reader.enter()
    reader.end()
    if info.integer() not in (0, 1):
        raise info.fault("expected PrivateKeyInfo version 0 or 1, got another")
    algorithm, content = info.enter(), info.read(der.OCTET_STRING)
    oid = algorithm.oid()
    inner = der.Reader(content, what)
    if oid == _OID_EC:
        return _ec_key(inner, algorithm.oid())
    if oid == _OID_RSA:
        return _rsa_key(inner)
    if oid == _OID_ED25519:
        return ed25519.Ed25519PrivateKey.from_private_bytes(inner.read(der.OCTET_STRING))
    if oid == _OID_NOTARY_ED25519:
        return _notary_ed25519_key(content)
    raise FormatError(f"{what}: expected an ECDSA, RSA or Ed25519 key, got OID {oid}")


def _ec_key(reader: der.Reader, curve: str) -> ec.EllipticCurvePrivateKey:
    """Read ECPrivateKey; *curve* is the OID that PKCS#8 gave, "" if only the key itself has it."""
    fields = reader.enter()
    if fields.integer() != 1:
        raise fields.fault("expected ECPrivateKey version 1, got another")
    number = int.from_bytes(fields.read(der.OCTET_STRING), "big")
    if fields.peek() == der.context(0):
        named = fields.enter(der.context(0)).oid()
        if named != (curve or named):
            raise fields.fault("expected one curve, got two")
        curve = named
    if curve not in _CURVES:
        raise fields.fault(f"expected the curve P-224, P-256, P-384 or P-521, got {curve!r}")
    key = ec.derive_private_key(number, _CURVES[curve]())
    if fields.peek() == der.context(1):
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        _check_public(fields.enter(der.context(1)).read(der.BIT_STRING), b"\0" + point)
    return key


def _rsa_key(reader: der.Reader) -> rsa.RSAPrivateKey:
    """Read RSAPrivateKey: n, e, d, p, q, d mod p-1, d mod q-1, q⁻¹ mod p."""
    fields = reader.enter()
    if fields.integer() != 0:
        raise fields.fault("expected RSAPrivateKey version 0, got another")
    n, e, d, p, q, dmp1, dmq1, iqmp = [fields.integer() for _ in range(8)]
    if n.bit_length() > _MAX_RSA_BITS:
        raise fields.fault(f"expected at most {_MAX_RSA_BITS} bits, got {n.bit_length()}")
    public = rsa.RSAPublicNumbers(e, n)
    return rsa.RSAPrivateNumbers(p, q, d, dmp1, dmq1, iqmp, public).private_key()


def _notary_ed25519_key(content: bytes) -> ed25519.Ed25519PrivateKey:
    """Read Notary's 96 bytes: the public key, the seed, and the public key again."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(content[32:64])
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    _check_public(content[:32] + content[64:], public + public)
    return key


def _check_public(found: bytes, expected: bytes) -> None:
    if not hmac.compare_digest(found, expected):
        raise ValueError("the public part belongs to another key")


def _notary_pkcs8(key: keys.PrivateKey) -> bytes:
    """Write PrivateKeyInfo as Notary reads it: the standard's form, except for Ed25519."""
    encoded = key.to_pkcs8()
    if key.public_key.keytype != keys.ED25519:
        return encoded
    info = der.Reader(encoded, "new key file").enter()
    info.integer()
    info.enter()
    seed = der.Reader(info.read(der.OCTET_STRING), "new key file").read(der.OCTET_STRING)
    content = key.public_key.public + seed + key.public_key.public
    return der.sequence(
        der.integer(0),
        der.sequence(der.oid(_OID_NOTARY_ED25519)),
        der.element(der.OCTET_STRING, content),
    )
