"""Certificates made on the spot, for servers on loopback."""

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


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


def make_authority(folder: Path, host: str = "127.0.0.1") -> Authority:
    """Make an authority whose files live in *folder*, with a server at *host*."""
    ca_key, ca = _certificate("Test CA", None)
    key, leaf = _certificate(host, (ca_key, ca))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    authority = Authority(folder / "ca.crt", folder / "server.pem")
    authority.ca_file.write_bytes(ca.public_bytes(pem))
    authority.chain_file.write_bytes(leaf.public_bytes(pem) + private)
    return authority


_Issuer = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def _certificate(name: str, issuer: _Issuer | None) -> _Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
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
