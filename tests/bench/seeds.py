"""Inputs for the fuzzer to begin with: the golden files, and what reached odd places once."""

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from signimage import certificates, der, pem
from signimage.errors import PassphraseError
from signimage.keyfile import KeyFile

_VECTORS = Path(__file__).parent.parent / "vectors"
_KEYS = _VECTORS / "keys"
_PASSPHRASE = b"deleg-pass-1"
_WHAT = "seed"


def files(*patterns: str) -> Callable[[], list[bytes]]:
    """Give a function that reads the golden files of these *patterns*."""
    return lambda: [
        path.read_bytes() for pattern in patterns for path in sorted(_VECTORS.glob(pattern))
    ]


def role_files(*patterns: str) -> Callable[[], list[bytes]]:
    """Give the same files, and some whose signatures are odd."""
    odd = (b"null", b"{}", b"[null]", b'[{"keyid":"a","method":"b","sig":"","signatures":[]}]')

    def read() -> list[bytes]:
        found = files(*patterns)()
        signed = found[0][: found[0].rindex(b',"signatures":')]
        return found + [signed + b',"signatures":' + each + b"}" for each in odd]

    return read


def blocks() -> list[pem.Block]:
    """Read every PEM block of the golden keys and certificates."""
    files = [path.read_bytes() for path in sorted(_KEYS.iterdir())]
    return [block for data in files for block in pem.read(data, what=_WHAT)]


def contents(*labels: str) -> list[bytes]:
    """Give what is inside of the blocks of these *labels*."""
    return [block.content for block in blocks() if block.label in labels]


def certificate_seeds() -> list[bytes]:
    """Give certificates in DER, each behind its length, and bundles of them."""
    roots = [json.loads(path.read_bytes()) for path in sorted(_VECTORS.glob("*/root.json"))]
    texts = [
        base64.b64decode(key["keyval"]["public"])
        for root in roots
        for key in root["signed"]["keys"].values()
        if key["keytype"].endswith("-x509")
    ]
    found = [block.content for text_ in texts for block in pem.read(text_, what=_WHAT)]
    framed = [len(c).to_bytes(2, "big") + c for c in found + contents(certificates.LABEL)]
    return [*framed, b"".join(framed[:2]), b"".join(framed)]


def key_contents() -> list[bytes]:
    """Give private keys in DER, behind the number of their label."""
    found = []
    for path in sorted(_KEYS.glob("*.key")):
        with suppress(PassphraseError):
            secret = KeyFile.parse(path.read_bytes()).decrypt(_PASSPHRASE).to_pkcs8()
            reader = der.Reader(secret, _WHAT).enter()
            reader.integer()
            reader.enter()
            found += [b"\0" + secret, b"\1" + reader.read(der.OCTET_STRING)]
    # A small Ed25519 key in the standard's form and in Notary's.
    ed25519 = der.sequence(
        der.integer(0),
        der.sequence(der.oid("1.3.101.112")),
        der.element(der.OCTET_STRING, der.element(der.OCTET_STRING, bytes(32))),
    )
    numbers = [der.integer(n) for n in (0, 3233, 17, 413, 61, 53, 53, 49, 38)]
    return [*found, b"\0" + ed25519, b"\3" + bytes(96), b"\2" + der.sequence(*numbers)]


def public_key_seeds() -> list[bytes]:
    """Give keys as type, key and signature, separated by `|`."""
    found = [b"ecdsa|" + content + b"|" + bytes(64) for content in contents("PUBLIC KEY")]
    texts = [path.read_bytes() for path in sorted(_KEYS.glob("*.crt"))]
    found += [b"ecdsa-x509|" + text_ + b"|" + bytes(64) for text_ in texts]
    found += [b"rsa-x509|" + text_ + b"|" + bytes(256) for text_ in texts]
    return [*found, b"ed25519|" + bytes(32) + b"|" + bytes(64), b"\xed\xa0\x80|x|"]


def key_json_seeds() -> list[bytes]:
    """Give the keys of the golden roots as JSON."""
    roots = [json.loads(path.read_bytes()) for path in sorted(_VECTORS.glob("*/root.json"))]
    keys = [key for root in roots for key in root["signed"]["keys"].values()]
    return [json.dumps(key).encode() for key in keys]


def said(*documents: str) -> Callable[[], list[bytes]]:
    """Give a function that encodes *documents*."""
    return lambda: [document.encode("utf-8", "surrogatepass") for document in documents]


_DIGEST = "sha256:" + "ab" * 32
_MANIFEST = (
    '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
    f'"config":{{"digest":"{_DIGEST}"}},"layers":[]}}'
)
ANSWERS = (
    f"200\nContent-Type: application/vnd.oci.image.manifest.v1+json\n\n{_MANIFEST}",
    f"200\n\n{_MANIFEST}",
    '400\n\n{"errors":[{"code":"VERSION","message":"no","detail":{}}]}',
    '401\nWWW-Authenticate: Bearer realm="https://auth.example/token",service="r",scope="s"\n\n',
    '200\nWWW-Authenticate: Bearer realm="https://a/t"\n\n{"token":"abc","expires_in":300}',
    '200\nWWW-Authenticate: Bearer realm="https://a:99999/t"\n\n{"access_token":"a"}',
    "202\nLocation: /v2/team/app/blobs/uploads/1?state=x\n\n",
    "202\nLocation: http://[\n\n",
    '401\nWWW-Authenticate: Basic realm="x"\n\n{"error":"unauthorized","error_description":"no"}',
    "404\n\n<html>",
    '429\nRetry-After: 5\n\n{"details":"slow down"}',
    '403\n\n{"message":"TF400813: The user is not authorized"}',
    "200\nContent-Type: application/octet-stream\n\nabc",
    '200\nWWW-Authenticate: Bearer realm="https://a/"\n\n{"token":"a","expires_in":1%s}'
    % ("0" * 400),
    f"200\nDocker-Content-Digest: {_DIGEST}\n\n{_MANIFEST}",
    '500\n\n{"errors":[{"code":"\\ud800","message":"\\u2028##vso["}]}',
)
CHALLENGES = (
    'Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push"',
    'Basic realm="Registry Realm"',
    'Negotiate, Basic realm="a\\"b", Bearer realm = "http://127.0.0.1:5001/t" , error=x',
    'Bearer realm="https://u:p@h/"',
    'Bearer realm="https://[::1/"',
)
NAMES = (
    "alpine",
    "localhost:5000/team/app:1.2",
    f"reg.example.com/a/b@{_DIGEST}",
    f"docker.io/library/x:y@{_DIGEST}",
    "[::1]:5000/a",
    "Reg.example.com:5000/app__x/y--z",
    _DIGEST,
)
ADDRESSES = (
    "https://index.docker.io/v1/",
    "reg.example.com:5000",
    "https://reg.example.com/v2/?x=y",
    "http://[::1]:5000/",
    "https://user:pw@h/",
    "reg/team",
)
TEXTS = (
    "##vso[task.setvariable variable=a]b",
    "x ## [v] ##[error]y\r\n##[group]",
    "#\u200b#v\u00adso[",
    "\uff03\ufe5fVSO\uff3b",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07#\x1b[1m#vso[",
    "##v\u017fo[ \U0001d42f\u2028##\u3164[",
)
AUTHORIZATION = (
    '{"scheme":"UsernamePassword","parameters":{"username":"u","password":"p","registry":"r"}}',
    '["a","b.c"]',
    '{"parameters":{}}',
    '{"scheme":"\\ud800"}',
)
DOCKERFILES = (
    "FROM alpine",
    'ARG V=3.20\nARG B="alpine"\nFROM --platform=linux/amd64 ${B}:$V AS x\nRUN y\n',
    "FROM a AS build\nFROM build\n",
    "# FROM no\r\n  from Alpine as a\r\nRUN x\r\n",
    "FROM scratch",
)
DOCKER_CONFIGS = (
    '{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}},"credsStore":"x","credHelpers":{}}',
    '{"currentContext":"remote","proxies":{"default":{"httpProxy":"http://p"}}}',
    '{"cliPluginsExtraDirs":["/x"],"auths":null}',
    '{"currentContext":"\\ud800"}',
)
FLOORS = ('{"root":1,"snapshot":5,"targets":3,"targets/releases":2,"timestamp":9}', "{}", "[]")
CANONICAL = (
    '{"a":[1,-1,1.0,1e3,true,false,null,"\\u00e9<>&\\"\\\\"],"b":{"c":9007199254740992}}',
    "\ufeff{}",
    '{"a":1,"a":2}',
    "[[[[]]]]",
    '"\\ud83d\\ude00"',
)
