"""What is fuzzed: every parser that sees bytes from outside, with the contract it must keep.

The rules of this file:

1. A target takes any bytes. It returns, or it raises one of the errors its parser documents;
   everything else is a finding, and so is a broken law (`Broken`).
2. Laws are asserted only where a parser accepted its input.
3. A finding that was repaired stays among the inputs of `bench.seeds`.
"""

import base64
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from azure_pipelines_task_lib import environment, text
from azure_pipelines_task_lib.errors import ConnectionDataError, EnvironmentFormatError, TaskError
from bench import seeds
from signimage import (
    authorization,
    azure,
    canonical,
    certificates,
    der,
    dockerconfig,
    oci,
    pem,
    registry,
)
from signimage.dockerfile import base_image
from signimage.errors import (
    FormatError,
    InputError,
    PassphraseError,
    RemoteError,
    SignImageError,
    TrustError,
)
from signimage.keyfile import KeyFile
from signimage.keys import METHOD_ECDSA, METHOD_EDDSA, METHOD_RSAPKCS1V15, METHOD_RSAPSS, PublicKey
from signimage.metadata import Body, Root, Signed, Snapshot, Targets, Timestamp, payload, serialise
from signimage.response import Credentials, Response, origin, said_by_server, shown
from signimage.securefiles import SecureFile, fetch_secure_file
from signimage.stages import BuildOptions
from signimage.transport import Transport
from signimage.trustapi import TrustApi
from signimage.trustcache import TrustCache

_METHODS = (METHOD_ECDSA, METHOD_RSAPSS, METHOD_RSAPKCS1V15, METHOD_EDDSA, "gpg")
_PASSPHRASE = b"deleg-pass-1"
_DEAR = 20_000  # iterations; more are as good as these, and cost the fuzzer its speed
_WHAT = "input"
_SECRET = "s3cret-of-the-fuzzer"  # no text may show it
_MESSAGE_MAX = 5000  # characters; 300 of what was typed are repeated, escaped, twice at most
_LABELS = ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ED25519 PRIVATE KEY")


class Broken(Exception):  # noqa: N818 -- a law is broken; no error that anyone handles
    """A parser accepted its input and broke a law all the same."""


@dataclass(frozen=True, slots=True)
class Target:
    """One parser or group of parsers, the errors it may raise, and inputs to begin with."""

    run: Callable[[bytes], None]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], Iterable[bytes]]
    is_json: bool = False

    def check(self, data: bytes) -> None:
        """Give *data* to the parser.

        Raises:
            Exception: The parser broke its contract.
        """
        try:
            self.run(data)
        except self.errors as error:
            _check_message(error)


def _check_message(error: Exception) -> None:
    message = error.sentence if isinstance(error, SignImageError) else str(error)
    try:
        message.encode()
    except UnicodeEncodeError as surrogate:
        raise Broken("a message cannot be written as UTF-8") from surrogate
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", message):
        raise Broken(f"a message holds control characters: {message!r}")
    if len(message) > _MESSAGE_MAX:
        raise Broken(f"a message has {len(message)} characters")
    if _SECRET in message:
        raise Broken("a message holds a secret")


def _law(holds: object, what: str) -> None:
    if not holds:
        raise Broken(what)


def _any_text(data: bytes) -> str:
    """Decode *data*, lone surrogates included: JSON may spell them."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


# --- the trust core --------------------------------------------------------------------------


def _canonical(data: bytes) -> None:
    value = canonical.parse(data, what=_WHAT)
    encoded = canonical.encode(value)
    _law(canonical.parse(encoded, what=_WHAT) == value, "parse(encode(x)) == x")
    _law(canonical.encode(json.loads(encoded)) == encoded, "encoding is a fixed point")


def _role_file(kind: type[Body]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        signed = Signed.parse(data, kind, what=_WHAT)
        value = canonical.parse(data, what=_WHAT)
        _law(signed.payload == canonical.encode(value["signed"]), "what is signed is canonical")
        again = Signed.parse(serialise(signed.body, ()), kind, what=_WHAT)
        _law(payload(again.body) == payload(signed.body), "payload(parse(serialise(x)))")
        for key in _keys_of(signed.body):
            for signature in signed.signatures:
                key.verify(signature.method, signature.sig, signed.payload)
            with suppress(FormatError):
                len(key.canonical_id)

    return run


def _keys_of(body: Body) -> tuple[PublicKey, ...]:
    if isinstance(body, Root):
        return tuple(body.keys.values())
    return tuple(body.delegation_keys.values()) if isinstance(body, Targets) else ()


def _pem(data: bytes) -> None:
    for block in pem.read(data, what=_WHAT):
        headers = {name: value for name, value in block.headers if value.isprintable()}
        (again,) = pem.read(pem.write(block.label, block.content, headers), what=_WHAT)
        _law(again.label == block.label and again.content == block.content, "read(write(x)) == x")
        _law(dict(again.headers) == headers, "headers survive")


def _der(data: bytes) -> None:
    pending = [der.Reader(data, _WHAT)]
    while pending:
        reader = pending.pop()
        while (tag := reader.peek()) is not None:
            if tag == der.INTEGER:
                number = reader.integer()
                written = der.Reader(der.integer(abs(number)), _WHAT).integer()
                _law(written == abs(number), "integers survive")
            elif tag == der.OBJECT_IDENTIFIER:
                dotted = reader.oid()
                _law(der.Reader(der.oid(dotted), _WHAT).oid() == dotted, "OIDs survive")
            elif tag in (der.SEQUENCE, der.SET):
                pending.append(reader.enter(tag))
            else:
                reader.skip()
        reader.end()


def _key_file(data: bytes) -> None:
    file = KeyFile.parse(data, what=_WHAT)
    lock = file._lock  # noqa: SLF001 -- only to leave out what would cost the fuzzer its speed
    if lock is None or lock.iterations <= _DEAR:
        key = file.decrypt(_PASSPHRASE)
        method, signature = key.sign(b"message")
        _law(key.public_key.verify(method, signature, b"message"), "a key verifies what it signs")


def _key_content(data: bytes) -> None:
    label = _LABELS[data[0] % len(_LABELS)] if data else _LABELS[0]
    _key_file(pem.write(label, data[1:]))


def _encrypted_key(data: bytes) -> None:
    _key_file(pem.write("ENCRYPTED PRIVATE KEY", data))


def _certificates(data: bytes) -> None:
    """Read a bundle of certificates in DER, each behind its length in two bytes."""
    found = []
    while data:
        size = int.from_bytes(data[:2], "big")
        found.append(pem.write(certificates.LABEL, data[2 : 2 + size]))
        data = data[2 + size :]
    bundle = certificates.parse_bundle(b"".join(found), what=_WHAT)
    for certificate in bundle:
        certificate.is_issued_by(bundle[0])
        bundle[0].is_issued_by(certificate)
        _law(certificate.not_before.tzinfo and certificate.not_after.tzinfo, "times are aware")
    key = PublicKey.from_pem(b"".join(found), what=_WHAT)
    _law(PublicKey.from_pem(key.to_pem()).key_id == key.key_id, "from_pem(to_pem(x)) == x")
    key.verify(METHOD_ECDSA, bytes(64), b"")


def _public_key(data: bytes) -> None:
    """Read a public key: type, key and signature, separated by `|`; the key in DER."""
    keytype, _, rest = data.partition(b"|")
    public, _, sig = rest.rpartition(b"|")
    value = {
        "keytype": _any_text(keytype),
        "keyval": {"private": None, "public": base64.b64encode(public).decode()},
    }
    key = PublicKey.from_json(value, what=_WHAT)
    _law(PublicKey.from_json(key.to_json()) == key, "from_json(to_json(x)) == x")
    for method in _METHODS:
        key.verify(method, sig, b"message")
    with suppress(FormatError):
        _law(re.fullmatch("[0-9a-f]{64}", key.canonical_id), "an ID is 64 digits")
    plain = PublicKey.from_pem(pem.write("PUBLIC KEY", public), what=_WHAT)
    with suppress(FormatError):  # a curve that Notary does not know
        _law(PublicKey.from_pem(plain.to_pem("ci")) == plain, "from_pem(to_pem(x)) == x")


def _public_key_json(data: bytes) -> None:
    transport = Answers(Response(200, {}, data, "https://reg.example/ci.key"))
    key = TrustApi(cast("Transport", transport), "https://reg.example", "reg/app").key("snapshot")
    _law(PublicKey.from_json(key.to_json()) == key, "from_json(to_json(x)) == x")
    key.verify(METHOD_ECDSA, bytes(64), b"")


def _names(data: bytes) -> None:
    name = data.decode("utf-8", "surrogateescape")
    for parse in (oci.Reference.parse, oci.Repository.parse, _hosted, oci.Digest.parse):
        try:
            value = parse(name)
        except (InputError, FormatError) as error:
            _check_message(error)
        else:
            again = oci.Repository.parse if parse is _hosted else parse
            _law(again(str(value)) == value, "parse(str(x)) == x")
            _law(str(value).isascii() and str(value).isprintable(), "names are plain text")


def _hosted(name: str) -> oci.Repository:
    return oci.Repository.parse(name, host="Reg.example.com:5000")


# --- answers of other machines ---------------------------------------------------------------


class Answers:
    """A transport that has one answer to everything."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def request(self, _method: str, url: str, **_kwargs: object) -> Response:
        """Return the answer; like the real transport, refuse an address that is none."""
        try:
            parts = urlsplit(url)
            usable = parts.hostname and parts.port != 0 and re.fullmatch(r"[\x21-\x7e]+", url)
        except ValueError:
            usable = None
        if not usable or "@" in parts.netloc:
            raise InputError("address: expected http(s)://host[:port]/…")
        return self._response


class _Headers(dict[str, str]):
    """Header names in any letter case, as urllib3 gives them."""

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]  # never None
        return super().get(name.lower(), default)


def _response(data: bytes) -> Response:
    """Read an answer: a status, header lines, an empty line, the body."""
    head, _, body = data.partition(b"\n\n")
    status, *lines = head.decode("latin-1").split("\n")
    headers = _Headers()
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    number = int(status) if re.fullmatch("[1-5][0-9][0-9]", status) else 200
    return Response(number, headers, body, "https://reg.example:5000/v2/app")


def _answer(data: bytes) -> None:
    response = _response(data)
    transport = cast("Transport", Answers(response))
    said_by_server(response).encode()
    login = Credentials("me", _SECRET)
    repository = oci.Repository("reg.example:5000", "team/app")
    images = registry.Registry(transport, repository, login)
    trust = TrustApi(transport, "https://reg.example", "reg/app")
    file_id = "11223344-0000-4000-8000-00000000000a"
    file = SecureFile("https://dev.example/x/", "p", file_id, "a.key", _SECRET, _SECRET)
    authorizer = authorization.TokenAuthorizer(transport, login, "repository:team/app:pull")
    conversations: tuple[Callable[[], object], ...] = (
        lambda: images.resolve("1.0").check_image("sha256:" + "0" * 64),
        lambda: images.resolve(oci.Digest.of(b"")),
        images.check_push,
        lambda: authorizer.answer(response, {}),
        lambda: authorizer.headers("GET", response.url),
        trust.root,
        trust.timestamp,
        lambda: trust.by_hash("targets", bytes(32), 10),
        lambda: trust.post({"targets": b"{}"}),
        lambda: trust.newest_version("targets", 1),
        lambda: fetch_secure_file(transport, file),
    )
    for converse in conversations:
        try:
            converse()
        except (RemoteError, FormatError, TrustError) as error:
            _check_message(error)


def _challenges(data: bytes) -> None:
    header = data.decode("latin-1")
    for challenge in authorization.parse_challenges(header):
        _law(challenge.scheme == challenge.scheme.lower() != "", "schemes are in lower case")
        _law(all(name == name.lower() for name in challenge.parameters), "and so are names")
        authorization.shown_realm(challenge.parameters.get("realm", "")).encode()
    token = b'{"token": "x"}'
    transport = Answers(Response(200, {}, token, "https://auth.example/"))
    login = Credentials("me", _SECRET)
    authorizer = authorization.TokenAuthorizer(cast("Transport", transport), login, "scope")
    asked = Response(401, {"WWW-Authenticate": header}, b"", "https://reg.example/v2/")
    try:
        authorizer.answer(asked, {})
    finally:
        _law(not authorizer.headers("GET", "https://other.example/"), "no login for others")


def _addresses(data: bytes) -> None:
    address = data.decode("utf-8", "surrogateescape")
    host = azure.registry_host(address)
    _law(azure.registry_host(host) == host, "a host is its own host")
    with suppress(ValueError):
        _law("?" not in shown(address), "no query is shown")
        _law("@" not in origin(address), "no user is shown")
    oci.Repository.parse("team/app", host=host)


# --- text and files of the machine -----------------------------------------------------------


def _text(data: bytes) -> None:
    given = _any_text(data)
    shown_text = text.neutralise(given)
    _law(text.neutralise(shown_text) == shown_text, "what came out passes unchanged")
    for line in shown_text.splitlines():
        visible = "".join(c for c in line if unicodedata.category(c)[0] not in "CM")
        for reading in (line, visible):
            for seen in (reading, unicodedata.normalize("NFKC", reading)):
                found = re.search(r"##(vso)?\[", seen.casefold())
                _law(not found, f"a marker is left in {line!r}")


def _environment(data: bytes) -> None:
    value = data.decode("utf-8", "surrogateescape")
    environ = {
        "ENDPOINT_AUTH_x": value,
        "VSTS_SECRET_VARIABLES": value,
        "SECRET_A": _SECRET,
        "INPUT_A": "1",
    }
    try:
        taken = environment.TakenEnvironment(environ)
    except EnvironmentFormatError as error:
        _check_message(error)
    else:
        _law(_SECRET in list(taken.secrets()), "secrets are known")
        _law(len(taken.variables()) > 0, "variables are known")
    _law(not environ, "everything sensitive is taken out")
    try:
        environment.parse_authorization(value)
    except ConnectionDataError as error:
        _law(len(value) < 20 or value not in str(error), "no message holds the text")
        raise


def _file_target(name: str, use: Callable[[Path], None]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            use(Path(folder))

    return run


def _base_image(folder: Path) -> None:
    image = base_image(folder / "Dockerfile", BuildOptions())
    _law(image is None or (image and "$" not in image), "a plain name or none")


def _docker_config(folder: Path) -> None:
    environ = {"DOCKER_CONFIG": str(folder), "PATH": "/bin"}
    address: InputError | None = None
    try:
        dockerconfig.engine_address(environ)
    except InputError as error:
        address = error
    login = {"reg.example": Credentials("me", _SECRET)}
    with dockerconfig.private_config(folder, login, environ) as config:
        written = json.loads((config.folder / "config.json").read_bytes())
        _law(set(written["auths"]) >= {"reg.example"}, "our login is there")
    _law(not config.folder.exists(), "nothing is left")
    if address is not None:
        raise address


def _floors(folder: Path) -> None:
    floors: Mapping[str, object] = TrustCache(folder, "reg/app").floors()
    _law(all(isinstance(value, int) for value in floors.values()), "floors are numbers")


TARGETS: dict[str, Target] = {
    "canonical": Target(_canonical, (FormatError,), seeds.said(*seeds.CANONICAL), is_json=True),
    "root": Target(
        _role_file(Root), (FormatError,), seeds.role_files("*/*root.json"), is_json=True
    ),
    "targets": Target(
        _role_file(Targets),
        (FormatError,),
        seeds.role_files("*/targets.json", "*/targets/*"),
        is_json=True,
    ),
    "snapshot": Target(
        _role_file(Snapshot), (FormatError,), seeds.role_files("*/snapshot.json"), is_json=True
    ),
    "timestamp": Target(
        _role_file(Timestamp), (FormatError,), seeds.role_files("*/timestamp.json"), is_json=True
    ),
    "pem": Target(_pem, (FormatError,), seeds.files("keys/*")),
    "der": Target(
        _der,
        (FormatError,),
        lambda: [
            b.content for b in seeds.blocks() if b.label in ("CERTIFICATE", "ENCRYPTED PRIVATE KEY")
        ],
    ),
    "key-file": Target(_key_file, (FormatError, PassphraseError), seeds.files("keys/*")),
    "key-content": Target(_key_content, (FormatError,), seeds.key_contents),
    "encrypted-key": Target(
        _encrypted_key,
        (FormatError, PassphraseError),
        lambda: seeds.contents("ENCRYPTED PRIVATE KEY"),
    ),
    "certificates": Target(_certificates, (FormatError,), seeds.certificate_seeds),
    "public-key": Target(_public_key, (FormatError,), seeds.public_key_seeds),
    "public-key-json": Target(_public_key_json, (FormatError,), seeds.key_json_seeds, is_json=True),
    "names": Target(_names, (), seeds.said(*seeds.NAMES)),
    "answers": Target(_answer, (), seeds.said(*seeds.ANSWERS)),
    "challenges": Target(_challenges, (RemoteError, FormatError), seeds.said(*seeds.CHALLENGES)),
    "addresses": Target(_addresses, (InputError,), seeds.said(*seeds.ADDRESSES)),
    "text": Target(_text, (), seeds.said(*seeds.TEXTS)),
    "environment": Target(
        _environment, (TaskError,), seeds.said(*seeds.AUTHORIZATION), is_json=True
    ),
    "dockerfile": Target(
        _file_target("Dockerfile", _base_image), (), seeds.said(*seeds.DOCKERFILES)
    ),
    "docker-config": Target(
        _file_target("config.json", _docker_config),
        (InputError,),
        seeds.said(*seeds.DOCKER_CONFIGS),
        is_json=True,
    ),
    "floors": Target(
        _file_target("signimage/reg/app/floors.json", _floors),
        (FormatError,),
        seeds.said(*seeds.FLOORS),
        is_json=True,
    ),
}
