"""Certificates made on the spot: for servers on loopback, and for root keys."""

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from signimage import certificates
from signimage.keys import PrivateKey, PublicKey


@dataclass(frozen=True)
class Authority:
    """A certificate authority with the certificate of one server."""

    ca_file: Path
    chain_file: Path

    def server_context(self) -> ssl.SSLContext:
        """Return the TLS settings of a server that uses the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain_file)
        return context


def make_authority(
    folder: Path, host: str = "127.0.0.1", *, shift: timedelta = timedelta()
) -> Authority:
    """Make an authority whose files live in *folder*, with a server at *host*.

    The server's certificate is in force from yesterday until tomorrow, *shift* earlier or later.
    """
    ca_key, ca = _certificate(f"Test CA of {host}", None)
    key, leaf = _certificate(host, (ca_key, ca), shift)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    authority = Authority(folder / "ca.crt", folder / "server.pem")
    authority.ca_file.write_bytes(ca.public_bytes(pem))
    authority.chain_file.write_bytes(leaf.public_bytes(pem) + private)
    return authority


_Issuer = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def _certificate(name: str, issuer: _Issuer | None, shift: timedelta = timedelta()) -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc) + shift
    is_address = name[:1].isdigit()
    host = x509.IPAddress(IPv4Address(name)) if is_address else x509.DNSName(name)
    names = x509.SubjectAlternativeName([host])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[1].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    builder = builder.add_extension(names, critical=False) if issuer else builder
    return key, builder.sign(issuer[0] if issuer else key, hashes.SHA256())


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, which may issue others or be a root key."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def as_pin(self) -> certificates.Certificate:
        """The certificate as a pinned authority."""
        return certificates.parse(
            self.certificate.public_bytes(serialization.Encoding.DER), what="pin"
        )

    @property
    def signer(self) -> PrivateKey:
        """The private key as a signer."""
        return PrivateKey.of(self.key)

    def root_key(self, *intermediates: "Issued") -> PublicKey:
        """The key as a root file has it: this certificate, then the *intermediates*."""
        pem = serialization.Encoding.PEM
        bundle = (self, *intermediates)
        text = b"".join(each.certificate.public_bytes(pem) for each in bundle)
        kind = "rsa" if isinstance(self.key, rsa.RSAPrivateKey) else "ecdsa"
        return PublicKey(f"{kind}-x509", text)


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    since: datetime,
    days: int = 3650,
    constraints: x509.BasicConstraints | None = None,
    may_sign: bool = True,
    rsa_bits: int = 0,
) -> Issued:
    """Make a certificate for *name*, self-signed without an *issuer*.

    Args:
        name: The common name.
        issuer: Whose key signs it.
        since: The beginning of its validity.
        days: The length of its validity.
        constraints: Its basic constraints; none by default.
        may_sign: For one with constraints: whether its key usage allows signing certificates.
        rsa_bits: Make an RSA key of that size instead of one on P-256.
    """
    key = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else _p256()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(since + timedelta(days=days))
    )
    if constraints is not None:
        unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                  "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=may_sign, **dict.fromkeys(unused, False)
        )
        builder = builder.add_extension(constraints, critical=True)
        builder = builder.add_extension(usage, critical=True)
    return Issued(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))


def _p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
