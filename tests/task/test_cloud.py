"""The fakes of the cloud are strict: a good request, and one lie at a time, which they refuse.

They are asked directly; that the product's own requests are good ones is for the other tests.
"""

import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from peers.tokens import Right
from task.cloud.entra import ASSERTION_TYPE, Identity
from task.cloud.oidc import AUDIENCE
from task.cloud.server import Hop, Reply, Request
from task.cloud.subscription import REGISTRY, Cloud
from task.secrecy import leaks

_FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def idle(tmp_path: Path) -> Cloud:
    """A cloud that is not connected to anything."""
    return Cloud(tmp_path)


@pytest.fixture
def identity(idle: Cloud) -> Identity:
    """An application with a federated credential."""
    return idle.application(Right.PULL, "sc://company/project/connection")


def _post(host: str, path: str, form: Mapping[str, str]) -> Request:
    body = urlencode(form).encode()
    headers = {**_FORM, "host": host, "user-agent": "signimage/1", "content-length": str(len(body))}
    return Request("POST", host, path, (), headers, body)


def _exchange(cloud: Cloud, identity: Identity, **changes: str) -> Request:
    token = cloud.entra.issue(identity, "https://management.azure.com/")
    form = {"grant_type": "access_token", "service": REGISTRY, "tenant": cloud.entra.tenant}
    return _post(REGISTRY, "/oauth2/exchange", {**form, "access_token": token, **changes})


def _federated(cloud: Cloud, identity: Identity, **changes: str) -> Request:
    claims = {"iss": identity.issuer, "sub": identity.subject, "aud": AUDIENCE}
    form = {
        "client_id": identity.client_id,
        "client_assertion": cloud.oidc.issue(claims),
        "client_assertion_type": ASSERTION_TYPE,
        "grant_type": "client_credentials",
        "scope": "https://management.azure.com//.default",
    }
    path = f"/{cloud.entra.tenant}/oauth2/v2.0/token"
    return _post("login.microsoftonline.com", path, {**form, **changes})


def _refused(cloud: Cloud, reply: Reply, sentence: str) -> None:
    assert (reply.status, reply.body.decode()) == (400, cloud.ledger.violations[0])
    assert len(cloud.ledger.violations) == 1
    assert sentence in cloud.ledger.violations[0]


def test_good_requests_are_answered_with_tokens(idle: Cloud, identity: Identity) -> None:
    assert b"access_token" in idle.entra.answer(_federated(idle, identity)).body
    assert b"refresh_token" in idle.acr.answer(_exchange(idle, identity)).body
    assert idle.ledger.violations == []
    assert [request.path for request in idle.ledger.ours(Hop.EXCHANGE)] == ["/oauth2/exchange"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grant_type", "password"),
        ("client_assertion_type", "jwt-bearer"),
        ("scope", "https://graph.microsoft.com/.default"),
        ("scope", "https://management.azure.com/"),
        ("client_secret", "more than was asked for"),
    ],
)
def test_entra_refuses_a_field_that_is_not_as_documented(
    idle: Cloud, identity: Identity, field: str, value: str
) -> None:
    reply = idle.entra.answer(_federated(idle, identity, **{field: value}))
    _refused(idle, reply, field)
    assert idle.entra.grants == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("grant_type", "refresh_token"), ("service", "other.azurecr.io"), ("tenant", "x"), ("x", "")],
)
def test_the_exchange_refuses_a_field_that_is_not_as_documented(
    idle: Cloud, identity: Identity, field: str, value: str
) -> None:
    reply = idle.acr.answer(_exchange(idle, identity, **{field: value}))
    _refused(idle, reply, field)
    assert idle.acr.refresh_tokens == {}


def test_a_header_that_nobody_asked_for_is_refused(idle: Cloud, identity: Identity) -> None:
    good = _exchange(idle, identity)
    bad = replace(good, headers={**good.headers, "authorization": "Bearer x"})
    _refused(idle, idle.acr.answer(bad), "headers: expected")


def test_a_parameter_in_the_query_is_refused(idle: Cloud, identity: Identity) -> None:
    bad = replace(_exchange(idle, identity), query=(("api-version", "1"),))
    _refused(idle, idle.acr.answer(bad), "query: expected [], got ['api-version']")


def test_another_method_or_path_is_refused(idle: Cloud, identity: Identity) -> None:
    wrong = replace(_federated(idle, identity), path=f"/{idle.entra.tenant}/oauth2/token")
    _refused(idle, idle.entra.answer(wrong), "expected POST /<tenant>/oauth2/v2.0/token")


def test_the_machine_answers_only_who_says_metadata(idle: Cloud, identity: Identity) -> None:
    idle.imds.identity = identity
    query = (("api-version", "2018-02-01"), ("resource", "https://management.azure.com/"))
    path = "/metadata/identity/oauth2/token"
    good = Request("GET", "127.0.0.1", path, query, {"metadata": "true"}, b"")
    assert b"access_token" in idle.imds.answer(good).body
    _refused(idle, idle.imds.answer(replace(good, headers={})), "headers: expected ['metadata']")


def test_a_login_in_place_of_a_token_is_refused_by_the_registry(idle: Cloud) -> None:
    headers = {"host": REGISTRY, "authorization": "Basic eDp5"}
    request = Request("GET", REGISTRY, "/v2/team/app/manifests/1", (), headers, b"")
    _refused(idle, idle.acr.answer(request), "expected a Bearer token")


def test_a_lie_is_told_as_often_as_was_asked_for(idle: Cloud, identity: Identity) -> None:
    idle.ledger.fail(Hop.EXCHANGE, Reply(503), times=2)
    answers = [idle.acr.answer(_exchange(idle, identity)).status for _ in range(3)]
    assert answers == [503, 503, 200]


def test_the_proxy_leads_nowhere_else(idle: Cloud) -> None:
    with idle.gateway.serve() as gateway:
        assert _asked(gateway.port, "CONNECT elsewhere.example:443") == "403"
        assert _asked(gateway.port, "GET http://elsewhere.example/") == "403"
        gateway.account = "agent:right"
        assert _asked(gateway.port, f"CONNECT {REGISTRY}:443") == "407"
    assert [text.split(":")[0] for text in idle.ledger.violations] == [
        "CONNECT elsewhere.example",
        "GET http",
    ]
    assert gateway.tunnels == []


def _asked(port: int, line: str) -> str:
    """Return the status of the answer to a request with nothing but its first line."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"{line} HTTP/1.1\r\n\r\n".encode())
        return connection.makefile("rb").readline().split()[1].decode()


def test_a_secret_of_the_cloud_would_be_found_anywhere(idle: Cloud, identity: Identity) -> None:
    token = idle.entra.issue(identity, "https://management.azure.com/")
    password = "p%;]\"'\\ ü"
    idle.gateway.account = f"agent:{password}"
    assert leaks(idle.secrets, f"GET /?token={token}".encode()) == {"token"}
    assert leaks(idle.secrets, f"signature {token.split('.')[2]}".encode()) == {"token"}
    assert leaks(idle.secrets, f"key {identity.secret}!".encode()) == {"client secret"}
    proxy = f"http://agent:{quote(password, safe='')}@proxy"
    assert leaks(idle.secrets, proxy.encode()) == {"proxy password"}
    assert leaks(idle.secrets, b"nothing") == set()
