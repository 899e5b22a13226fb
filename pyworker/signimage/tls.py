"""TLS: which servers are believed, and which certificate this side shows.

The rules of this file:

1. TLS 1.2 or newer, verified, loopback included; private CAs are added to the system's.
2. Only who administers an agent can switch verification off, for that agent; then it is off for
   every server, as the agent itself does it. The versions stay.
3. A client certificate is shown to every server that asks for one, and to no other: TLS has the
   server ask first. It holds no secret, and the reverse proxies that want it stand before
   registries as well as before Azure DevOps Server.
4. A private key in an archive goes to OpenSSL encrypted; it is never on a disk in clear.
5. What is configured and cannot be used is an `InputError` that names it, never ignored.

RFC 8446 section 4.3.2 and RFC 5246 section 7.4.4 (certificate requests), RFC 7292 (PKCS #12).
"""

import secrets
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from signimage.errors import InputError
from signimage.response import readable

_PASSWORD_HINT = "Check the password that this certificate was configured with"  # noqa: S105 -- a sentence
_ARCHIVE_MAX = 1024 * 1024  # bytes; a key and its chain are some KiB


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What this side shows to servers that ask.

    `file` holds the chain as PEM, `key` the key to it (None: in the same file); or `file` is an
    archive of both (PKCS #12) with `is_archive`. `password` opens key or archive, "" for none.
    """

    file: Path
    key: Path | None = None
    is_archive: bool = False
    password: str = field(default="", repr=False)

    @property
    def what(self) -> str:
        """How texts name it."""
        return f"client certificate {'archive ' if self.is_archive else ''}{self.file}"


def client_context(
    ca_files: tuple[Path, ...],
    ca_pem: tuple[str, ...],
    client: ClientCertificate | None,
    *,
    verified: bool,
) -> ssl.SSLContext:
    """Return the rules for connections to servers and proxies.

    Raises:
        InputError: A file cannot be read, or is not what it should be.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # One set of rules whatever the Python: 3.13 began to refuse private CAs without key usage,
    # which Docker accepts; and like Docker, a given certificate is an anchor though it is no root.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for path in ca_files:
        _load_authorities(f"CA certificate {path}", context, cafile=path)
    for pem in ca_pem:
        _load_authorities("CA certificate", context, cadata=pem)
    if client is not None:
        _load_client(context, client)
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # rule 2
    return context


def _load_authorities(
    what: str, context: ssl.SSLContext, *, cafile: Path | None = None, cadata: str | None = None
) -> None:
    try:
        context.load_verify_locations(cafile=cafile, cadata=cadata)
    except (ssl.SSLError, ValueError, TypeError) as error:  # an SSLError is an OSError, too
        raise InputError(
            f"{what}: expected PEM, got something else",
            hint="Give certificates as text, each from BEGIN CERTIFICATE to END CERTIFICATE",
        ) from error
    except OSError as error:
        raise InputError(f"{what}: cannot be read: {system_words(error)}") from error


def _load_client(context: ssl.SSLContext, client: ClientCertificate) -> None:
    if client.is_archive:
        _load_archive(context, client)
        return
    # An empty passphrase makes an encrypted key fail; without one OpenSSL asks the terminal.
    load = partial(context.load_cert_chain, client.file, client.key, client.password)
    _load_pair(client.what, load)


def _load_pair(what: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InputError(f"{what}: expected the key that belongs to it, got another") from error
        raise InputError(
            f"{what}: expected PEM and the password of its key, got something else",
            hint=_PASSWORD_HINT,
        ) from error
    except ValueError as error:  # a password longer than OpenSSL takes
        raise InputError(f"{what}: its password is too long", hint=_PASSWORD_HINT) from error
    except OSError as error:
        raise InputError(f"{what} or its key: cannot be read: {system_words(error)}") from error


def _load_archive(context: ssl.SSLContext, client: ClientCertificate) -> None:
    """Unpack in memory; OpenSSL takes keys from files only, so one exists, encrypted, meanwhile."""
    once = secrets.token_urlsafe(32)
    pem = _unpacked(client, once.encode("ascii"))
    with tempfile.TemporaryDirectory(prefix="signimage-") as folder:  # of mode 0700
        file = Path(folder) / "client.pem"
        file.write_bytes(pem)
        _load_pair(client.what, partial(context.load_cert_chain, file, None, once))


def _unpacked(client: ClientCertificate, passphrase: bytes) -> bytes:
    """Return chain and key of an archive as PEM, the key encrypted with *passphrase*."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 -- few have an archive
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        pkcs12,
    )

    data = _archive(client)
    # An archive without a password may have been written with none, or with an empty one.
    found = None
    for password in [client.password.encode()] if client.password else [None, b""]:
        try:
            found = found or pkcs12.load_pkcs12(data, password)
        except ValueError:
            continue
    if found is None:
        raise InputError(
            f"{client.what}: expected PKCS #12 and its password, got something else",
            hint=_PASSWORD_HINT,
        )
    if found.key is None or found.cert is None:
        raise InputError(f"{client.what}: expected a certificate with its private key")
    chain = [found.cert, *found.additional_certs]
    return b"".join(each.certificate.public_bytes(Encoding.PEM) for each in chain) + (
        found.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)
        )
    )


def _archive(client: ClientCertificate) -> bytes:
    try:
        with client.file.open("rb") as file:
            data = file.read(_ARCHIVE_MAX + 1)
    except OSError as error:
        raise InputError(f"{client.what}: cannot be read: {system_words(error)}") from error
    if len(data) > _ARCHIVE_MAX:
        raise InputError(f"{client.what}: expected at most {_ARCHIVE_MAX} bytes, got more")
    return data


def system_words(error: OSError) -> str:
    """Return the operating system's words for *error*, fit for the middle of a sentence."""
    words = readable(error.strerror or type(error).__name__)
    return words[:1].lower() + words[1:]
