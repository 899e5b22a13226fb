"""Claims about `signimage.tokenservice`; the service is a small server that can lie."""

import base64
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import (
    FormatError,
    NotFoundError,
    RemoteError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from signimage.response import Response
from signimage.tokenservice import (
    ANSWER_MAX,
    TRIES,
    Question,
    TokenServices,
    claims,
    lifetime_s,
    refused,
    without_tokens,
)
from signimage.transport import Transport, TransportSettings
from unit.small_cloud import as_json, jwt
from unit.small_server import Reply, SmallServer

GOOD = as_json(200, {"token": "abc"})
CUT = Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")


class Service:
    """A token service that gives its `replies` one after the other."""

    def __init__(self) -> None:
        self.replies = [GOOD]
        self.secrets: list[str] = []
        self.server = SmallServer(lambda _: self.replies.pop(0))

    def ask(self, *replies: Reply) -> Response:
        """Return the answer to one question."""
        self.replies = [*replies]
        question = Question.form("service", f"{self.server.origin}/token", {"a": "b&c=ü"})
        with Transport(TransportSettings(backoff_s=0.001)) as transport:
            return TokenServices(transport, self.secrets.append, pause_s=0.001).ask(question)

    def read(self, reply: Reply) -> str:
        """Return the token in an answer."""
        response = self.ask(reply)
        with Transport() as transport:
            return TokenServices(transport, self.secrets.append).token(response, "token", "token")


@pytest.fixture
def service() -> Iterator[Service]:
    it = Service()
    with it.server:
        yield it


def test_form_is_encoded(service: Service) -> None:
    service.ask(GOOD)
    (request,) = service.server.requests
    assert (request.method, request.path, request.body) == ("POST", "/token", b"a=b%26c%3D%C3%BC")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_service_is_asked_again(service: Service, status: int) -> None:
    assert service.ask(Reply(status), Reply(status), GOOD).status == 200
    assert len(service.server.requests) == 3


def test_service_that_stays_busy_is_given_up(service: Service) -> None:
    assert service.ask(*[Reply(503)] * TRIES).status == 503
    assert service.replies == []


def test_lost_connection_is_tried_once_more(service: Service) -> None:
    assert service.ask(CUT, GOOD).status == 200
    with pytest.raises(UnreachableError, match=r"^service http://127.*cannot be reached"):
        service.ask(CUT, CUT, GOOD)
    assert service.replies == [GOOD]


def test_wait_beyond_the_deadline_is_not_begun(service: Service) -> None:
    assert service.ask(Reply(429, headers={"Retry-After": "3600"})).status == 429


def test_short_wait_is_kept(service: Service) -> None:
    assert service.ask(Reply(429, headers={"Retry-After": "0"}), GOOD).status == 200


@pytest.mark.parametrize("status", [400, 401, 403, 404, 203, 307])
def test_other_answers_are_final(service: Service, status: int) -> None:
    reply = Reply(status, headers={"Location": f"{service.server.origin}/elsewhere"})
    assert service.ask(reply).status == status
    assert len(service.server.requests) == 1


def test_oversized_answer_is_refused(service: Service) -> None:
    with pytest.raises(TooLargeError, match=r"^service http://127.* at most 65536 bytes"):
        service.ask(Reply(200, b"x" * (ANSWER_MAX + 1)))


def test_token_is_reported_as_a_secret(service: Service) -> None:
    assert service.read(GOOD) == "abc"
    assert service.secrets == ["abc"]


@pytest.mark.parametrize(
    ("reply", "claim"),
    [
        (as_json(200, {}), "expected a token as token, got none"),
        (as_json(200, {"token": ""}), "expected a token as token, got none"),
        (as_json(200, {"token": 7}), "expected a token as token, got none"),
        (as_json(200, {"token": "a b"}), "expected a token as token, got none"),
        (as_json(200, {"token": "a\r\nb"}), "expected a token as token, got none"),
        (as_json(200, ["token"]), "expected a token as token, got none"),
        (
            Reply(200, b"<html>", {"Content-Type": "text/html"}),
            "expected JSON, got 6 bytes of text",
        ),
        (Reply(200, b"[" * 60_000), "expected JSON, got 60000 bytes"),
        (Reply(200, b""), "expected JSON, got 0 bytes"),
    ],
)
def test_answer_without_a_token_is_refused(service: Service, reply: Reply, claim: str) -> None:
    with pytest.raises(FormatError, match=rf"^token of http://127.*{claim}"):
        service.read(reply)
    assert service.secrets == []


def answer(status: int, body: bytes = b"", kind: str = "") -> Response:
    return Response(status, {"Content-Type": kind} if kind else {}, body, "https://h.example/p?q=1")


NO = "says no (it answered {}). Do this."
BUSY = "is not available: it answered {}. Run the job again later."
PAGE = "says no: expected 200 with JSON, got {} with no type, probably a sign-in page. Do this."


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (400, UnauthorizedError, NO),
        (401, UnauthorizedError, NO),
        (403, UnauthorizedError, NO),
        (404, NotFoundError, NO),
        (410, NotFoundError, NO),
        (418, RemoteError, NO),
        (429, UnavailableError, BUSY),
        (500, UnavailableError, BUSY),
        (507, UnavailableError, BUSY),
        (203, RemoteError, PAGE),
        (302, RemoteError, PAGE),
    ],
)
def test_refusal_says_who_what_and_what_to_do(
    status: int, kind: type[RemoteError], sentence: str
) -> None:
    error = refused(answer(status), "service", "says no", hint="Do this")
    assert type(error) is kind
    assert error.sentence == f"service https://h.example {sentence.format(status)}"


def test_refusal_quotes_the_server_but_no_token() -> None:
    body = json.dumps({"error": "bad", "error_description": f"token {jwt(a=1)} is old"}).encode()
    error = refused(answer(401, body), "service", "says no", hint="")
    assert str(error).endswith("(it answered 401: bad: token *** is old)")


@pytest.mark.parametrize("text", [jwt(a=1), jwt(a=1).rpartition(".")[0], "eyJhbGciOiJSUzI1NiJ9"])
def test_what_looks_like_a_token_is_not_quoted(text: str) -> None:
    assert without_tokens(f"x {text} y") == "x *** y"


def test_claims_are_read_unverified() -> None:
    assert claims(jwt(sub="me", exp=7)) == {"sub": "me", "exp": 7}


@given(st.text(max_size=80) | st.lists(st.binary(max_size=40), min_size=3, max_size=5))
def test_any_text_has_claims_or_none(parts: str | list[bytes]) -> None:
    if isinstance(parts, str):
        token = parts
    else:
        token = ".".join(base64.urlsafe_b64encode(part).decode() for part in parts)
    assert isinstance(claims(token), dict)
    assert 0 < lifetime_s(token, 60) <= 60


@pytest.mark.parametrize(
    ("token", "life_s"),
    [
        (jwt(iat=1000, exp=1900), 900),
        (jwt(iat=1000.5, exp=1900.5), 900),
        (jwt(nbf=1000, exp=1900), 900),
        (jwt(iat=1000, exp=1000 + 86_400), 3600),
        (jwt(exp=1900), 3600),
        (jwt(iat=1900, exp=1000), 3600),
        (jwt(iat="1000", exp="1900"), 3600),
        (jwt(iat=True, exp=10**400), 3600),
        (jwt(iat=0, exp=10**400), 3600),
        (jwt(iat=0.0, exp=float("inf")), 3600),
        ("opaque", 3600),
    ],
)
def test_lifetime_is_counted_on_the_issuers_clock(token: str, life_s: float) -> None:
    assert lifetime_s(token, 3600) == life_s
