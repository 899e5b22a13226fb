"""Claims about `signimage.authorization`: challenges, tokens, and what a refusal means."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.authorization import (
    SCOPES_MAX,
    Challenge,
    Login,
    TokenAuthorizer,
    parse_challenges,
)
from signimage.errors import FormatError, RemoteError, UnauthorizedError, UnavailableError
from signimage.parallel import results
from signimage.permissions import Permission, workstation
from signimage.response import Credentials, Fixed, Response
from signimage.transport import Transport, TransportSettings
from unit.small_registry import BAD, CONTENT, GOOD, IDENTITY, SmallRegistry, client, to
from unit.small_server import Reply, Request

SCOPE = "repository:team/app:pull,push"


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(TransportSettings(backoff_s=0.001)) as it:
        yield it


@pytest.fixture
def bearer() -> Iterator[SmallRegistry]:
    registry = SmallRegistry()
    with registry.server:
        yield registry


@pytest.fixture
def basic() -> Iterator[SmallRegistry]:
    registry = SmallRegistry("Basic")
    with registry.server:
        yield registry


def tokens_asked_for(small: SmallRegistry) -> list[Request]:
    return [each for each in small.server.requests if each.path.startswith("/token")]


def challenged(small: SmallRegistry, header: str) -> None:
    """Let *small* challenge with *header* whoever comes without a token."""

    def lie(_: Request, honest: Reply) -> Reply:
        if honest.status != 401 or "WWW-Authenticate" not in honest.headers:
            return honest
        return Reply(401, honest.body, {"WWW-Authenticate": header})

    small.lie = lie


# --- challenges -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="r"', [("basic", {"realm": "r"})]),
        ("Negotiate", [("negotiate", {})]),
        ("Negotiate, Basic realm=r", [("negotiate", {}), ("basic", {"realm": "r"})]),
        (
            'BEARER Realm="https://a/t?x=1,2",service = "s" , scope="a:b:pull,push"',
            [("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "a:b:pull,push"})],
        ),
        (
            'Basic realm="a \\"b\\\\", charset=UTF-8, Bearer realm="c"',
            [("basic", {"realm": 'a "b\\', "charset": "UTF-8"}), ("bearer", {"realm": "c"})],
        ),
        ("", []),
        ('"', []),
        ("=x", []),
    ],
)
def test_challenges_are_read(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert list(parse_challenges(header)) == [Challenge(*parts) for parts in challenges]


@given(st.text(alphabet='ab="\\, \t%', max_size=60))
def test_any_challenge_is_read_without_a_fault(header: str) -> None:
    assert len(parse_challenges(header)) <= len(header)


def test_a_token_is_preferred_where_a_password_would_do_as_well(
    transport: Transport, bearer: SmallRegistry
) -> None:
    challenged(bearer, f'Basic realm="a, Bearer", Negotiate, {bearer.challenge()}')
    client(transport, bearer).check_push()
    assert len(tokens_asked_for(bearer)) == 1


# --- tokens ---------------------------------------------------------------------------------


def test_many_requests_of_a_job_share_one_token(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer)
    registry.check_push()
    for number in range(20):
        registry.put_manifest(f"1.{number}", registry.resolve("1.2"))
    asked = [request.path for request in tokens_asked_for(bearer)]
    assert asked == ["/token?a=b&service=reg&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"]


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_token_of_either_name_is_used(
    transport: Transport, bearer: SmallRegistry, field: str
) -> None:
    body = json.dumps({field: "may-pull,push"}).encode()
    bearer.lie = to("/token", lambda _: Reply(200, body))
    client(transport, bearer).check_push()


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b'{"token": 7}', b'{"token": "a\\r\\nX: y"}', b"<html>"],
)
def test_answer_without_a_token_is_refused(
    transport: Transport, bearer: SmallRegistry, body: bytes
) -> None:
    bearer.lie = to("/token", lambda _: Reply(200, body))
    with pytest.raises(FormatError, match=r"^token of http://.*/token: expected "):
        client(transport, bearer).check_push()


def test_authorizer_tells_its_secret_only_to_the_server_that_asked(
    transport: Transport, bearer: SmallRegistry
) -> None:
    url = f"{bearer.server.origin}/v2/team/app/manifests/1.2"
    authorizer = TokenAuthorizer(transport, GOOD, "repository:team/app:pull")
    assert authorizer.headers("GET", url) == {}
    challenge = transport.request("GET", url, what="registry", max_bytes=999)
    assert authorizer.answer(challenge, {})
    sent = {"Authorization": "Bearer may-pull"}
    assert authorizer.headers("GET", url) == sent
    assert authorizer.headers("GET", "https://elsewhere.example.com/") == {}
    assert not authorizer.answer(challenge, sent), "the same token again is not worth a try"


@pytest.mark.parametrize("lifetime", ["1" + "0" * 400, "Infinity", "1e400", "0.5", "-1", '"5"'])
def test_token_may_claim_any_lifetime(
    transport: Transport, bearer: SmallRegistry, lifetime: str
) -> None:
    body = f'{{"token":"may-pull,push","expires_in":{lifetime}}}'.encode()
    bearer.lie = to("/token", lambda _: Reply(200, body))
    assert client(transport, bearer).resolve("1.2").content == CONTENT


@pytest.mark.parametrize("issued_at", ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z", 7])
def test_the_clock_of_the_tokens_maker_means_nothing(
    transport: Transport, bearer: SmallRegistry, issued_at: object
) -> None:
    """A token that was made long ago, or will be, by another clock, lasts as long as it says."""
    document = {"token": "may-pull,push", "expires_in": 300, "issued_at": issued_at}
    bearer.lie = to("/token", lambda _: Reply(200, json.dumps(document).encode()))
    registry = client(transport, bearer)
    registry.resolve("1.2")
    registry.resolve("1.2")
    assert len(tokens_asked_for(bearer)) == 1


def numbered_tokens(small: SmallRegistry, is_spent: Callable[[str, Request], bool]) -> None:
    """Let *small* give out numbered tokens, and refuse those that are spent for a request."""
    given_ = iter(range(1, 99))

    def lie(request: Request, honest: Reply) -> Reply:
        if request.path.startswith("/token"):
            return Reply(200, json.dumps({"token": f"may-pull,push-{next(given_)}"}).encode())
        number = (request.headers["Authorization"] or "").rpartition("-")[2]
        if is_spent(number, request):
            return Reply(401, headers={"WWW-Authenticate": small.challenge()})
        return honest

    small.lie = lie


def test_a_token_that_is_refused_before_its_time_is_replaced_once(
    transport: Transport, bearer: SmallRegistry
) -> None:
    numbered_tokens(bearer, lambda number, request: number == "1" and request.method == "GET")
    registry = client(transport, bearer)
    registry.check_push()
    assert registry.resolve("1.2").content == CONTENT
    assert registry.resolve("1.2").content == CONTENT
    assert len(tokens_asked_for(bearer)) == 2


def test_a_server_that_refuses_every_token_is_asked_no_more_than_twice(
    transport: Transport, bearer: SmallRegistry
) -> None:
    numbered_tokens(bearer, lambda _, __: True)
    with pytest.raises(UnauthorizedError, match="does not let the given user pull from team/app"):
        client(transport, bearer).resolve("1.2")
    assert len(bearer.server.requests) == 3
    assert len(tokens_asked_for(bearer)) == 1


def test_threads_that_are_refused_together_get_one_token(
    transport: Transport, bearer: SmallRegistry
) -> None:
    """No answer comes before all have asked; each then asks with the one token."""
    together = threading.Barrier(4, timeout=20)

    def lie(_: Request, honest: Reply) -> Reply:
        if honest.status == 401:
            together.wait()
        return honest

    bearer.lie = lie
    registry = client(transport, bearer)
    found = results({n: lambda: registry.resolve("1.2") for n in range(4)}, at_once=4)
    assert {manifest.content for manifest in found.values()} == {CONTENT}
    assert len(tokens_asked_for(bearer)) == 1


def refusal_of(transport: Transport, small: SmallRegistry) -> Response:
    """Return the answer to whoever comes without a token."""
    url = f"{small.server.origin}/v2/team/app/manifests/1.2"
    return transport.request("GET", url, what="registry", max_bytes=999)


def test_thread_that_is_refused_late_uses_what_replaced_its_token(
    transport: Transport, bearer: SmallRegistry
) -> None:
    authorizer = TokenAuthorizer(transport, GOOD, SCOPE)
    refused = refusal_of(transport, bearer)
    assert authorizer.answer(refused, {})
    assert authorizer.answer(refused, {"Authorization": "Bearer an-older-one"})
    assert len(tokens_asked_for(bearer)) == 1


def test_token_that_replaced_another_is_replaced_where_more_is_wanted(
    transport: Transport, bearer: SmallRegistry
) -> None:
    authorizer = TokenAuthorizer(transport, GOOD, SCOPE)
    refused = refusal_of(transport, bearer)
    assert authorizer.answer(refused, {})
    more = {"WWW-Authenticate": challenge_with(bearer, 'scope="repository:team/base:pull"')}
    wanting = replace(refused, headers=more)
    assert authorizer.answer(wanting, {"Authorization": "Bearer an-older-one"})
    assert len(tokens_asked_for(bearer)) == 2


def test_scopes_of_several_repositories_are_asked_for_at_once(
    transport: Transport, bearer: SmallRegistry
) -> None:
    authorizer = TokenAuthorizer(transport, GOOD, SCOPE, "repository:team/base:pull")
    assert authorizer.answer(refusal_of(transport, bearer), {})
    assert scopes_asked_for(bearer) == [SCOPE, "repository:team/base:pull"]


# --- scopes ---------------------------------------------------------------------------------


def scopes_asked_for(small: SmallRegistry) -> list[str]:
    (asked,) = tokens_asked_for(small)
    return parse_qs(urlsplit(asked.path).query)["scope"]


def challenge_with(small: SmallRegistry, *further: str) -> str:
    return ",".join([small.challenge().partition(",scope=")[0], *further])


def test_scopes_that_a_challenge_names_beside_ours_are_asked_for_as_well(
    transport: Transport, bearer: SmallRegistry
) -> None:
    further = ["repository:team/base:pull", "registry:catalog:*"]
    challenged(bearer, challenge_with(bearer, f'scope="{" ".join(further)}"'))
    client(transport, bearer).check_push()
    assert scopes_asked_for(bearer) == [SCOPE, *further]


@pytest.mark.parametrize(
    "scope",
    ["", "repository:team/app:push", "repository:team/app:delete", "repository:team/app:* " * 2],
)
def test_no_more_rights_than_needed_are_asked_for_whatever_a_challenge_names(
    transport: Transport, bearer: SmallRegistry, scope: str
) -> None:
    challenged(bearer, challenge_with(bearer, f'scope="{scope}"'))
    client(transport, bearer).check_push()
    assert scopes_asked_for(bearer) == [SCOPE]


def test_a_server_cannot_make_us_ask_for_scopes_without_end(
    transport: Transport, bearer: SmallRegistry
) -> None:
    many = " ".join(f"repository:team/{number}:pull" for number in range(99))
    challenged(bearer, challenge_with(bearer, f'scope="{many}"'))
    client(transport, bearer).check_push()
    assert len(scopes_asked_for(bearer)) == SCOPES_MAX


def test_a_token_that_does_not_reach_is_said_to_be_one(
    transport: Transport, bearer: SmallRegistry
) -> None:
    bearer.granted = ["pull"]
    challenged(bearer, challenge_with(bearer, 'error="insufficient_scope"'))
    claim = r"let the given user push to team/app \(it answered 401: insufficient_scope: UNAUTHO"
    with pytest.raises(UnauthorizedError, match=claim):
        client(transport, bearer).check_push()
    assert len(tokens_asked_for(bearer)) == 1


def test_a_good_token_that_does_not_reach_is_not_replaced_by_another_like_it(
    transport: Transport, bearer: SmallRegistry
) -> None:
    bearer.granted = ["pull"]
    challenged(bearer, challenge_with(bearer, 'error="insufficient_scope"'))
    registry = client(transport, bearer)
    for _ in range(3):
        assert registry.resolve("1.2").content == CONTENT
        with pytest.raises(UnauthorizedError, match="does not let the given user push to team/app"):
            registry.check_push()
    assert len(tokens_asked_for(bearer)) == 1


# --- where credentials come from, and where they go -----------------------------------------


@dataclass
class Renewed:
    """Credentials that are others each time they are asked for."""

    login: Credentials | None
    asked: int = field(default=0)

    def current(self) -> Credentials | None:
        self.asked += 1
        return self.login


def test_the_source_is_asked_at_every_token_and_not_before(
    transport: Transport, bearer: SmallRegistry
) -> None:
    source = Renewed(BAD)
    registry = client(transport, bearer, source)
    assert source.asked == 0
    with pytest.raises(UnauthorizedError, match="does not accept the given user name"):
        registry.check_push()
    source.login = GOOD
    registry.check_push()
    registry.resolve("1.2")
    assert source.asked == 2


def test_a_renewed_password_is_used_where_no_tokens_are(
    transport: Transport, basic: SmallRegistry
) -> None:
    source = Renewed(BAD)
    registry = client(transport, basic, source)
    with pytest.raises(UnauthorizedError, match="does not accept the given user name"):
        registry.check_push()
    source.login = GOOD
    registry.check_push()


@pytest.mark.parametrize("login", [None, Fixed(None), Renewed(None)])
def test_an_anonymous_visitor_gets_a_token_without_a_login(
    transport: Transport, bearer: SmallRegistry, login: Login
) -> None:
    bearer.lie = lambda request, honest: (
        Reply(200, b'{"token":"may-pull"}') if request.path.startswith("/token") else honest
    )
    assert client(transport, bearer, login).resolve("1.2").content == CONTENT
    assert [each.headers["Authorization"] for each in tokens_asked_for(bearer)] == [None]


def test_an_identity_token_is_exchanged_in_a_form_and_goes_nowhere_else(
    transport: Transport, bearer: SmallRegistry
) -> None:
    registry = client(transport, bearer, IDENTITY)
    registry.check_push()
    assert registry.resolve("1.2").content == CONTENT
    (asked,) = tokens_asked_for(bearer)
    assert (asked.method, asked.path) == ("POST", "/token?a=b")
    assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["refresh_token"],
        "service": ["reg"],
        "client_id": ["signimage"],
        "scope": [SCOPE],
        "refresh_token": [IDENTITY.password],
    }
    assert {each.headers["Authorization"] for each in bearer.server.requests} == {
        None, "Bearer may-pull,push"
    }  # fmt: skip


def test_an_identity_token_is_no_password(transport: Transport, basic: SmallRegistry) -> None:
    with pytest.raises(UnauthorizedError, match="does not accept the given identity token"):
        client(transport, basic, IDENTITY).check_push()
    assert {each.headers["Authorization"] for each in basic.server.requests} == {None}


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example.com/token",
        "ftp://127.0.0.1/",
        "//x",
        "http://u:p@127.0.0.1/",
        "http://[",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1/a b",
        "http://evil.example\\\\.localhost/token",
    ],
)
@pytest.mark.parametrize("login", [GOOD, IDENTITY])
def test_credentials_go_to_no_unprotected_token_service(
    transport: Transport, bearer: SmallRegistry, realm: str, login: Credentials
) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    bearer.lie = lambda _, __: Reply(401, headers=challenge)
    with pytest.raises(RemoteError, match="expected a token service with an https address, got "):
        client(transport, bearer, login).check_push()
    assert all(request.headers["Authorization"] is None for request in bearer.server.requests)


@pytest.mark.parametrize(
    "realm",
    [
        "https://other.azurecr.io/oauth2/token",
        "https://team.azurecr.io:444/oauth2/token",
        "https://team.azurecr.io.example.com/oauth2/token",
        "https://login.example.com/token",
    ],
)
@pytest.mark.parametrize("login", [GOOD, IDENTITY, None])
def test_a_registry_of_azure_is_its_own_token_service(
    transport: Transport, bearer: SmallRegistry, realm: str, login: Login
) -> None:
    """Nobody there is asked anything: the names are real."""
    header = {"WWW-Authenticate": f'Bearer realm="{realm}",service="team.azurecr.io"'}
    asked = Response(401, header, b"", "https://team.azurecr.io/v2/app/blobs/uploads/")
    authorizer = TokenAuthorizer(transport, login, SCOPE)
    with pytest.raises(RemoteError, match=r"^https://team\.azurecr\.io: expected the registry's o"):
        authorizer.answer(asked, {})
    assert bearer.server.requests == []


# --- what a refusal is said to mean ---------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "claim"),
    [
        (BAD, r"does not accept the given user name and password \(it answered 401: incorrect us"),
        (
            Credentials("", "s3cret", is_identity_token=True),
            r"does not accept the given identity token \(it answered 400: invalid_grant: expired",
        ),
        (None, r"does not let anonymous users in \(it answered 401: incorrect user"),
    ],
)
def test_a_login_that_the_token_service_refuses_is_told_by_its_kind(
    transport: Transport, bearer: SmallRegistry, login: Login, claim: str
) -> None:
    where = rf"^login to {bearer.server.host}: token service {bearer.server.origin}/token "
    with pytest.raises(UnauthorizedError, match=where + claim) as caught:
        client(transport, bearer, login).check_push()
    assert "s3cret" not in caught.value.sentence
    assert "service connection" in caught.value.hint


@pytest.mark.parametrize(
    ("login", "hint"),
    [(BAD, "Log in again with: docker login reg"), (None, "log in with: docker login reg")],
)
def test_on_a_workstation_the_advice_is_dockers_login(
    transport: Transport, bearer: SmallRegistry, login: Login, hint: str
) -> None:
    with pytest.raises(UnauthorizedError, match=r"\(it answered 401") as caught:
        client(transport, bearer, login, advice=workstation("reg")).check_push()
    assert hint in caught.value.hint


FIREWALL = (
    b'{"errors":[{"code":"DENIED","message":"client with IP \'192.0.2.7\' is not allowed access. '
    b'Refer https://aka.ms/acr/firewall to grant access."}]}'
)


@pytest.mark.parametrize("path", ["/token", "/uploads/"])
def test_a_firewall_is_told_from_a_missing_permission(
    transport: Transport, bearer: SmallRegistry, path: str
) -> None:
    bearer.lie = to(path, lambda _: Reply(403, FIREWALL))
    claim = r"does not let this machine in \(it answered 403: DENIED: client with IP '192\.0\.2\.7'"
    with pytest.raises(UnauthorizedError, match=claim) as caught:
        client(transport, bearer).check_push()
    assert "allow its address" in caught.value.hint


def test_a_token_that_is_none_for_the_server_is_told_from_a_missing_permission(
    transport: Transport, bearer: SmallRegistry
) -> None:
    """Clocks that differ, another issuer, another key: the account may have every right."""
    bearer.granted = []
    challenged(bearer, challenge_with(bearer, 'error="invalid_token"'))
    claim = r"in with a token of its own token service \(it answered 401: invalid_token: UNAUTH"
    with pytest.raises(UnauthorizedError, match=claim) as caught:
        client(transport, bearer).check_push()
    assert "clocks of server and token service may differ" in caught.value.hint


@pytest.mark.parametrize("error", ["", "s3cret", "invalid_request"])
def test_other_faults_of_a_token_are_not_repeated(
    transport: Transport, bearer: SmallRegistry, error: str
) -> None:
    bearer.granted = []
    challenged(bearer, challenge_with(bearer, f'error="{error}"'))
    claim = r"does not let the given user push to team/app \(it answered 401: UNAUTHORIZED: "
    with pytest.raises(UnauthorizedError, match=claim):
        client(transport, bearer).check_push()


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("login", [GOOD, IDENTITY])
def test_a_token_service_that_cannot_now_is_told_from_one_that_refuses(
    transport: Transport, bearer: SmallRegistry, status: int, login: Credentials
) -> None:
    bearer.lie = to("/token", lambda _: Reply(status))
    with pytest.raises(UnavailableError, match=rf"^token service .*/token answered {status}$"):
        client(transport, bearer, login).check_push()


def refused(url: str, login: Login, permission: Permission) -> UnauthorizedError:
    """A 403 of the server at *url*."""
    body = b'{"errors":[{"code":"DENIED","message":"requested access is denied"}]}'
    authorizer = TokenAuthorizer(Transport(), login, SCOPE)
    return authorizer.denial(Response(403, {}, body, url), "server x", permission, "team/app")


@pytest.mark.parametrize(
    ("permission", "sentence"),
    [
        (Permission.PULL, "pull from team/app (it answered 403: DENIED: requested access"),
        (Permission.PUSH, "push to team/app (it answered 403: DENIED: requested access"),
        (Permission.READ, "read the trust data of team/app (it answered 403: DENIED: requested"),
        (Permission.SIGN, "publish the trust data of team/app (it answered 403: DENIED: request"),
    ],
)
def test_a_refusal_names_what_was_wanted_where_and_the_answer(
    permission: Permission, sentence: str
) -> None:
    error = refused("https://reg.example.com:5000/v2/", GOOD, permission)
    assert str(error).startswith(f"server x does not let the given user {sentence}")


@pytest.mark.parametrize(
    ("permission", "roles"),
    [
        (Permission.PULL, "role AcrPull on"),
        (Permission.PUSH, "role AcrPush on"),
        (Permission.READ, "role AcrPull on"),
        (Permission.SIGN, "roles AcrImageSigner and AcrPush on"),
    ],
)
def test_a_refusal_of_azures_registry_names_the_role(permission: Permission, roles: str) -> None:
    assert roles in refused("https://team.azurecr.io/v2/", GOOD, permission).hint
    assert "Acr" not in refused("https://team.example.com/v2/", GOOD, permission).hint
    assert "Acr" not in refused("https://team.azurecr.io/v2/", None, permission).hint
