"""Claims about `signimage.tls`: which servers are believed, and what they are shown.

Real handshakes with small servers on loopback, each a good one plus one lie.
"""

import socket
import ssl
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from signimage.errors import CertificateError, InputError, UnreachableError
from signimage.tls import ClientCertificate
from signimage.transport import Transport, TransportSettings
from unit.certificates import Authority, Issued, issue, make_authority
from unit.small_server import Reply, SmallServer

PASSWORD = "pass wörd"
BEGIN = datetime.now(timezone.utc) - timedelta(days=1)
GOOD = Reply(200, b"good")


def get(settings: TransportSettings, url: str) -> bytes:
    """Return what *url* answers."""
    with Transport(settings) as transport:
        return transport.request(
            "GET", url, what="trust server", max_bytes=100, deadline_s=20.0
        ).body


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def trusting(authority: Authority) -> TransportSettings:
    return TransportSettings(ca_files=(authority.ca_file,))


# --- servers --------------------------------------------------------------------------------


def test_private_authority_is_trusted_from_a_file_and_from_text(authority: Authority) -> None:
    text = authority.ca_file.read_text()
    with SmallServer(lambda _: GOOD, tls=authority.server_context()) as server:
        for settings in [
            TransportSettings(ca_files=(authority.ca_file,)),
            TransportSettings(ca_pem=(text,)),
        ]:
            assert get(settings, server.origin) == b"good"


def test_unknown_authority_is_refused_even_on_loopback(authority: Authority) -> None:
    claim = r"^trust server https://127\.0\.0\.1:\d+: its certificate cannot be verified: unable to"
    with (
        SmallServer(lambda _: GOOD, tls=authority.server_context()) as server,
        pytest.raises(CertificateError, match=claim) as caught,
    ):
        get(TransportSettings(), server.origin)
    assert "caCertificate" in caught.value.hint
    assert server.requests == []


def test_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    other = make_authority(tmp_path, "registry.example.com")
    with (
        SmallServer(lambda _: GOOD, tls=other.server_context()) as server,
        pytest.raises(CertificateError, match="IP address mismatch") as caught,
    ):
        get(TransportSettings(ca_files=(other.ca_file,)), server.origin)
    assert caught.value.hint.startswith("Use the name that the certificate is made for")


@pytest.mark.parametrize(
    ("days", "said"), [(-10, "certificate has expired"), (10, "certificate is not yet valid")]
)
def test_certificate_out_of_its_time_is_refused_with_the_time_here(
    tmp_path: Path, days: int, said: str
) -> None:
    made = make_authority(tmp_path, shift=timedelta(days=days))
    with (
        SmallServer(lambda _: GOOD, tls=made.server_context()) as server,
        pytest.raises(CertificateError, match=f"cannot be verified: {said}$") as caught,
    ):
        get(TransportSettings(ca_files=(made.ca_file,)), server.origin)
    assert caught.value.hint.startswith(f"This machine's clock says {datetime.now().year}")  # noqa: DTZ005 -- a year


def test_tls_older_than_1_2_is_refused_and_said(
    authority: Authority, trusting: TransportSettings
) -> None:
    context = authority.server_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of the old version
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        careless = ssl.create_default_context(cafile=str(authority.ca_file))
        careless.minimum_version = ssl.TLSVersion.TLSv1_1
        careless.set_ciphers("ALL:@SECLEVEL=0")
    with SmallServer(lambda _: GOOD, tls=context) as server:
        address = ("127.0.0.1", int(server.host.rpartition(":")[2]))
        with (
            socket.create_connection(address) as plain,
            careless.wrap_socket(plain, server_hostname="127.0.0.1") as old,
        ):
            assert old.version() == "TLSv1.1"
        claim = r"cannot be reached: TLS failed: expected TLS 1\.2 or newer, got an older version$"
        with pytest.raises(UnreachableError, match=claim) as caught:
            get(trusting, server.origin)
    assert caught.value.hint == "Have TLS 1.2 or 1.3 switched on at the server"
    assert server.requests == []


def test_https_to_a_plain_server_says_so() -> None:
    with (
        SmallServer(lambda _: GOOD) as server,
        pytest.raises(UnreachableError, match=r"TLS failed: it does not speak TLS$") as caught,
    ):
        get(TransportSettings(), server.origin.replace("http:", "https:"))
    assert not isinstance(caught.value, CertificateError)


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x03\x40\x00"])
def test_handshake_that_is_silent_or_trickles_is_cut_at_the_deadline(begin: bytes) -> None:
    """The *begin* is that of a record of 16 KiB, which then comes byte by byte."""
    ending = threading.Event()

    def trickle(listener: socket.socket) -> None:
        with listener.accept()[0] as peer, suppress(OSError):  # the client goes away
            peer.sendall(begin)
            while not ending.wait(0.02):
                peer.sendall(b"\x00" if begin else b"")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        with (
            Transport() as transport,
            pytest.raises(UnreachableError, match=r"no complete answer within 0\.4 s$"),
        ):
            transport.request("GET", url, what="registry", max_bytes=9, deadline_s=0.4)
        ending.set()
        thread.join()


def test_bad_certificate_files_are_wrong_input_and_named(tmp_path: Path) -> None:
    junk, absent = tmp_path / "junk.crt", tmp_path / "absent.crt"
    junk.write_text("no certificate")
    for settings, claim in [
        (TransportSettings(ca_files=(junk,)), r"^CA certificate .*junk\.crt: expected PEM"),
        (TransportSettings(ca_files=(absent,)), r"^CA certificate .*absent\.crt: cannot be read: "),
        (TransportSettings(ca_pem=("junk",)), r"^CA certificate: expected PEM"),
        (TransportSettings(ca_pem=("ö",)), r"^CA certificate: expected PEM"),
    ]:
        with pytest.raises(InputError, match=claim):
            get(settings, "https://127.0.0.1:1/")


# --- verification switched off --------------------------------------------------------------


def test_verification_can_be_switched_off_for_an_agent_whatever_is_wrong(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    wrong = make_authority(tmp_path, "registry.example.com", shift=timedelta(days=-10))
    with SmallServer(lambda _: GOOD, tls=wrong.server_context()) as server:
        assert get(TransportSettings(verified=False), server.origin) == b"good"
    assert [str(each.message) for each in recwarn if "nverified" in str(each.message)] == []


def test_old_tls_stays_refused_with_verification_switched_off(authority: Authority) -> None:
    context = authority.server_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of the old version
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        SmallServer(lambda _: GOOD, tls=context) as server,
        pytest.raises(UnreachableError, match=r"expected TLS 1\.2 or newer"),
    ):
        get(TransportSettings(verified=False), server.origin)


# --- client certificates --------------------------------------------------------------------


@pytest.fixture(scope="module")
def visitors() -> Issued:
    """The authority whose visitors are let in."""
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    return issue("visitors", since=BEGIN, constraints=constraints)


@pytest.fixture(scope="module")
def visitor(visitors: Issued) -> Issued:
    return issue("agent 7", visitors, since=BEGIN)


def asking(
    authority: Authority, visitors: Issued, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """The rules of a server that lets in only visitors with a certificate."""
    context = authority.server_context()
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=visitors.certificate.public_bytes(Encoding.PEM).decode())
    return context


def encryption(password: str) -> KeySerializationEncryption:
    return BestAvailableEncryption(password.encode()) if password else NoEncryption()


def pair(folder: Path, visitor: Issued, password: str = "") -> ClientCertificate:
    """Write certificate and key as PEM files."""
    chain, key = folder / "client.pem", folder / "client.key"
    chain.write_bytes(visitor.certificate.public_bytes(Encoding.PEM))
    key.write_bytes(
        visitor.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption(password))
    )
    return ClientCertificate(chain, key, password=password)


def archive(folder: Path, visitor: Issued, password: str = "") -> ClientCertificate:
    """Write certificate and key as one archive."""
    file = folder / "client.pfx"
    file.write_bytes(
        pkcs12.serialize_key_and_certificates(
            b"agent", visitor.key, visitor.certificate, None, encryption(password)
        )
    )
    return ClientCertificate(file, is_archive=True, password=password)


def showing(authority: Authority, client: ClientCertificate) -> TransportSettings:
    return TransportSettings(ca_files=(authority.ca_file,), client_certificate=client)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("password", ["", PASSWORD])
@pytest.mark.parametrize("write", [pair, archive])
def test_client_certificate_is_shown_to_a_server_that_asks(
    tmp_path: Path,
    authority: Authority,
    visitors: Issued,
    visitor: Issued,
    version: ssl.TLSVersion,
    password: str,
    write: Callable[[Path, Issued, str], ClientCertificate],
) -> None:
    client = write(tmp_path, visitor, password)
    with SmallServer(lambda _: GOOD, tls=asking(authority, visitors, version)) as server:
        assert get(showing(authority, client), server.origin) == b"good"


def test_key_of_an_archive_leaves_no_file_and_is_never_in_clear(
    tmp_path: Path,
    authority: Authority,
    visitors: Issued,
    visitor: Issued,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = archive(tmp_path, visitor, PASSWORD)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    written: list[bytes] = []
    real = Path.write_bytes

    def spying(path: Path, content: bytes) -> int:
        written.append(content)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", spying)
    with SmallServer(lambda _: GOOD, tls=asking(authority, visitors)) as server:
        assert get(showing(authority, client), server.origin) == b"good"
    assert [b"BEGIN ENCRYPTED PRIVATE KEY" in content for content in written] == [True]
    assert not any(b"BEGIN PRIVATE KEY" in content for content in written)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (ssl.TLSVersion.TLSv1_3, "it wants a client certificate$"),
        (ssl.TLSVersion.TLSv1_2, "as servers of TLS 1.2 do that want a client certificate$"),
    ],
)
def test_server_that_wants_a_certificate_is_named_with_the_remedy(
    authority: Authority,
    visitors: Issued,
    trusting: TransportSettings,
    version: ssl.TLSVersion,
    said: str,
) -> None:
    with (
        SmallServer(lambda _: GOOD, tls=asking(authority, visitors, version)) as server,
        pytest.raises(UnreachableError, match=f"^trust server https://.*TLS failed: .*{said}") as e,
    ):
        get(trusting, server.origin)
    assert "--sslclientcert" in e.value.hint
    assert server.requests == []


def test_certificate_that_the_server_does_not_accept_is_named(
    tmp_path: Path, authority: Authority, visitors: Issued
) -> None:
    stranger = issue("agent 8", since=BEGIN)
    client = pair(tmp_path, stranger)
    claim = r"TLS failed: it does not accept the client certificate .*client\.pem$"
    with (
        SmallServer(lambda _: GOOD, tls=asking(authority, visitors)) as server,
        pytest.raises(UnreachableError, match=claim),
    ):
        get(showing(authority, client), server.origin)


def test_client_certificate_that_cannot_be_used_is_wrong_input_and_named(
    tmp_path: Path, visitor: Issued
) -> None:
    junk, absent = tmp_path / "junk", tmp_path / "absent"
    junk.write_text("no certificate")
    locked, packed = pair(tmp_path, visitor, PASSWORD), archive(tmp_path, visitor, PASSWORD)
    alone = tmp_path / "alone.pfx"
    alone.write_bytes(
        pkcs12.serialize_key_and_certificates(None, None, visitor.certificate, None, NoEncryption())
    )
    (tmp_path / "other").mkdir()
    other = pair(tmp_path / "other", issue("other", since=BEGIN))
    for client, claim in [
        (ClientCertificate(junk), r"^client certificate .*junk: expected PEM and the password"),
        (ClientCertificate(absent), r"^client certificate .*absent or its key: cannot be read: no"),
        (ClientCertificate(locked.file, locked.key, password="s3cret"), r": expected PEM and the"),
        (ClientCertificate(locked.file, locked.key), r": expected PEM and the password"),
        (ClientCertificate(locked.file, other.key), r": expected the key that belongs to it"),
        (
            ClientCertificate(junk, is_archive=True),
            r"^client certificate archive .*: expected PKCS",
        ),
        (
            ClientCertificate(absent, is_archive=True),
            r"^client certificate archive .*: cannot be r",
        ),
        (
            ClientCertificate(packed.file, is_archive=True, password="s3cret"),
            r": expected PKCS #12 ",
        ),
        (ClientCertificate(alone, is_archive=True), r": expected a certificate with its private"),
    ]:
        with pytest.raises(InputError, match=claim) as caught:
            get(TransportSettings(client_certificate=client), "https://127.0.0.1:1/")
        assert "s3cret" not in f"{caught.value}{caught.value.hint}{client!r}"
