"""Our requests are those of Microsoft's own tasks, except where `login_differences.py` says why.

The libraries that `Docker@2` and `DownloadSecureFile@1` are made of, and our worker's modules, get
the same environment of a step and meet the same recorder. Compared are every field of every
request, and what came of it. A listed difference that is no longer one fails, too.

The libraries are installed by `npm ci` in `tests/task/oracle`; without them these tests fail.
"""

import base64
import io
import json
import os
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from azure_pipelines_task_lib import Task
from signimage.acr import registry_host
from signimage.dockerconfig import login_key
from signimage.errors import InputError, SignImageError
from signimage.inputs import Inputs, read_inputs
from signimage.response import Credentials
from signimage.securefiles import fetch_secure_file
from signimage.tokenservice import TokenServices
from signimage.transport import Transport, TransportSettings
from task.agent import Agent, SecureFile, Step
from task.cloud.acr import ACR_PUSH
from task.cloud.server import Hop, serve
from task.cloud.subscription import REGISTRY, Cloud
from task.oracle.login_cases import CASES, CLIENT, Case, Wanted, managed_identity
from task.oracle.login_differences import DIFFERENCES, Difference, Seen
from task.oracle.recording import COLLECTION, METADATA, TENANT, TOKENS, Note, Recorder, recorder

ORACLE = Path(__file__).parent / "oracle"
TASK = json.loads((Path(__file__).parents[2] / "task.json").read_text("utf-8"))
FILE = SecureFile("52fca1f5-f651-4861-960a-bd23fb393ad8", "ci.key", "ticket +/=&")
PATIENCE_S = 180  # for all cases; what hangs for longer hangs for ever
METADATA_VARIABLE = "AZURE_POD_IDENTITY_AUTHORITY_HOST"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a case: a login, a token or a file, or why not; and the requests for it."""

    value: Any
    error: str
    notes: Sequence[Note]


# --- The two sides -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Theirs:
    """Microsoft's libraries, in one process for all cases."""

    process: "subprocess.Popen[str]"

    def ask(self, case: Case, environ: Mapping[str, str], running: Recorder) -> Answer:
        """Run *case*, whose requests come to *running*."""
        name, arguments = _their_call(case)
        # They know the metadata service at its real address, to which they are rerouted.
        rerouted = {key: value for key, value in environ.items() if key != METADATA_VARIABLE}
        answer = self.call(name, *arguments, environ=rerouted)
        return Answer(answer.get("value"), answer.get("error", ""), running.taken())

    def call(self, name: str, *arguments: Any, environ: Mapping[str, str]) -> dict[str, Any]:
        """Call a function of `connections.js`."""
        request = {"environ": environ, "call": name, "arguments": arguments}
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{json.dumps(request)}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the libraries have ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


def _their_call(case: Case) -> tuple[str, list[str]]:
    if case.endpoint is None:
        return "download", [FILE.id]
    if case.wanted is Wanted.LOGIN:
        return "login", [case.endpoint.id]
    scope = f"{case.endpoint.url}/.default"
    if case.endpoint.scheme == "ManagedServiceIdentity":
        return "managed", [scope]
    return "federated", [TENANT, CLIENT, case.endpoint.id, TOKENS["job"], scope]


@contextmanager
def microsofts_libraries(routes: Mapping[str, int], authority: Path) -> Iterator[Theirs]:
    """Start the libraries in a place from which *routes* are all that can be reached.

    They lead from `<host>:<port>` to a port on loopback; *authority* vouches for the hosts.
    """
    environ = {
        "PATH": os.environ["PATH"],
        "ORACLE_ROUTES": json.dumps(routes),
        "NODE_EXTRA_CA_CERTS": str(authority),
    }
    with subprocess.Popen(
        ["node", "--require", "./reroute.js", "connections.js"],
        cwd=ORACLE,
        env=environ,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        watchdog = Timer(PATIENCE_S, process.kill)
        watchdog.start()
        yield Theirs(process)
        watchdog.cancel()


def ask_ours(case: Case, environ: Mapping[str, str], running: Recorder) -> Answer:
    """Run *case* with our worker's own modules, behind a proxy that is *running*."""
    settings = TransportSettings(ca_files=(running.authority,))
    settings = settings.with_proxies({"https_proxy": running.proxy})
    value, error = None, ""
    with Transport(settings) as transport:
        try:
            inputs = read_inputs(Task(dict(environ), io.BytesIO()))
            value = _OURS[case.wanted](transport, inputs)
        except SignImageError as refusal:
            error = refusal.sentence
    return Answer(value, error, running.taken())


def _our_login(transport: Transport, inputs: Inputs) -> dict[str, str]:
    assert inputs.login
    credentials = inputs.login.source(transport, lambda _: None).current()
    assert credentials
    return {
        "registry": login_key(inputs.login.host),
        "username": credentials.username,
        "password": credentials.password,
    }


def _our_access_token(transport: Transport, inputs: Inputs) -> str:
    assert inputs.login
    identity = inputs.login.proof
    assert not isinstance(identity, Credentials)
    return identity.access_token(TokenServices(transport, lambda _: None), identity.audience)


def _our_file(transport: Transport, inputs: Inputs) -> str:
    assert inputs.signing_key
    return base64.b64encode(fetch_secure_file(transport, inputs.signing_key)).decode()


_OURS = {
    Wanted.LOGIN: _our_login,
    Wanted.ACCESS_TOKEN: _our_access_token,
    Wanted.FILE: _our_file,
}


def environment(case: Case, folder: Path, metadata_host: str) -> dict[str, str]:
    """Return what an agent gives a step for *case*."""
    agent = Agent(
        folder,
        COLLECTION,
        TOKENS["job"],
        host_type=case.host_type,
        environ={METADATA_VARIABLE: metadata_host},
        variables=dict(case.variables),
        endpoints=[case.endpoint] if case.endpoint else [],
        secure_files=[FILE],
    )
    inputs = {"tags": "1", "signingKey": FILE.id}
    if case.endpoint:
        inputs |= {"containerRegistry": case.endpoint.id, "repository": "team/app"}
    else:
        inputs["repository"] = "registry.example.com/team/app"
    return agent.environment(TASK, Step(inputs), {})


# --- The comparison ------------------------------------------------------------------------------


def compare(case: Case, theirs: Answer, ours: Answer) -> list[Seen]:
    """Return everything in which the two sides differ."""
    pairs: list[tuple[str, _Fields, _Fields]] = [("outcome", _outcome(theirs), _outcome(ours))]
    hops = [list(dict.fromkeys(note.hop for note in side.notes)) for side in (theirs, ours)]
    orders = [
        {"order": " > ".join(hop for hop in one if hop in hops[0] and hop in hops[1])}
        for one in hops
    ]
    pairs.append(("all", orders[0], orders[1]))
    for hop in dict.fromkeys(hops[0] + hops[1]):
        sides = ([note for note in side.notes if note.hop == hop] for side in (theirs, ours))
        pairs += [(hop, *_requests(*pair)) for pair in zip_longest(*sides)]
    return [
        Seen(case.name, hop, name, their_fields.get(name), our_fields.get(name))
        for hop, their_fields, our_fields in pairs
        for name in dict.fromkeys((*their_fields, *our_fields))
        if their_fields.get(name) != our_fields.get(name)
    ]


_Fields = Mapping[str, str]


def _outcome(answer: Answer) -> _Fields:
    if answer.error:
        return {"error": answer.error}
    return answer.value if isinstance(answer.value, dict) else {"value": str(answer.value)}


def _requests(theirs: Note | None, ours: Note | None) -> tuple[_Fields, _Fields]:
    """Return what to compare: all fields, or one line where one side has not asked at all."""
    if theirs and ours:
        return theirs.fields, ours.fields
    return _line(theirs), _line(ours)


def _line(note: Note | None) -> _Fields:
    if note is None:
        return {}
    line = "{method} {host}{path}".format(**note.fields)
    return {"request": f"{line} {note.fields.get('form scope', '')}".strip()}


# --- The tests -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """Everything that a login asks."""
    with recorder(tmp_path_factory.mktemp("authority")) as it:
        yield it


@pytest.fixture(scope="module")
def libraries(running: Recorder) -> Iterator[Theirs]:
    """Microsoft's libraries, which reach that and nothing else."""
    with microsofts_libraries(running.routes, running.authority) as theirs:
        yield theirs


@pytest.fixture(scope="module")
def all_seen(
    libraries: Theirs, running: Recorder, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Seen]]:
    """What differs, by case."""
    folder = tmp_path_factory.mktemp("agent")
    found = {}
    for case in CASES:
        environ = environment(case, folder, running.proxy)
        with running.refusing(case.refused):
            theirs = libraries.ask(case, environ, running)
        with running.refusing(case.refused):
            ours = ask_ours(case, environ, running)
        found[case.name] = compare(case, theirs, ours)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_sides_agree_where_no_difference_is_listed(
    case: Case, all_seen: dict[str, list[Seen]]
) -> None:
    unexplained = [
        seen
        for seen in all_seen[case.name]
        if len([each for each in DIFFERENCES if each.explains(seen)]) != 1
    ]
    assert unexplained == []


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.what)
def test_a_deliberate_difference_is_still_one(
    difference: Difference, all_seen: dict[str, list[Seen]]
) -> None:
    assert any(difference.explains(seen) for found in all_seen.values() for seen in found)


HOSTS = {
    "contoso.azurecr.io": True,
    "Contoso.AzureCR.IO": True,
    "contoso-abc123.azurecr.io": True,
    "contoso.privatelink.azurecr.io": True,
    "contoso.azurecr.us": True,
    "contoso.azurecr.cn": True,
    "contoso.azurecr.de": True,
    "contoso.azurecr.eaglex.ic.gov": True,
    "contoso.azurecr.microsoft.scloud": True,
    "azurecr.io": False,
    ".azurecr.io": False,
    "contosoazurecr.io": False,
    "contoso.azurecr.io.example.com": False,
    "contoso.azurecr.com": False,
    "registry.example.com": False,
    "contoso.azurecr.io:443": False,
    "contoso.azurecr.io:443@example.com": False,
    "me@contoso.azurecr.io": False,
    "example.com/.azurecr.io": False,
    "example.com?.azurecr.io": False,
    "example.com#.azurecr.io": False,
    "example.com\\.azurecr.io": False,
    "example.com .azurecr.io": False,
    "-contoso.azurecr.io": False,
    "contoso-.azurecr.io": False,
    "con_toso.azurecr.io": False,
    "contoso..azurecr.io": False,
    "cöntoso.azurecr.io": False,
    "http://contoso.azurecr.io": False,
    "": False,
}


def test_both_sides_send_tokens_to_the_same_hosts(libraries: Theirs) -> None:
    theirs = libraries.call("allowed", list(HOSTS), environ={})["value"]
    assert dict(zip(HOSTS, theirs, strict=True)) == HOSTS
    assert {host: is_allowed(host) for host in HOSTS} == HOSTS


def is_allowed(host: str) -> bool:
    try:
        return registry_host(host) == host.lower()
    except InputError:
        return False


def test_the_strict_cloud_of_our_other_tests_accepts_a_task_of_microsofts(tmp_path: Path) -> None:
    """Its rules are theirs, where theirs say no more than is documented."""
    cloud = Cloud(tmp_path)
    cloud.imds.identity = cloud.application(ACR_PUSH)
    issued = cloud.authority.issue("registry", REGISTRY)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(issued.certificate, issued.key)
    endpoint = managed_identity(REGISTRY, cloud.entra.tenant)
    environ = environment(Case("strict", endpoint), tmp_path / "agent", "")
    with ExitStack() as servers:
        imds = servers.enter_context(serve(cloud.ledger, cloud.imds.answer))
        acr = servers.enter_context(serve(cloud.ledger, cloud.acr.answer, tls))
        routes = {f"{METADATA}:80": imds, f"{REGISTRY}:443": acr}
        theirs = servers.enter_context(microsofts_libraries(routes, cloud.authority.certificate))
        login = theirs.call("login", endpoint.id, environ=environ)["value"]
    assert cloud.ledger.violations == []
    assert [hop for hop, _ in cloud.ledger.entries] == [Hop.IMDS, Hop.EXCHANGE]
    assert cloud.acr.refresh_tokens.keys() == {login["password"]}
