"""Claims about `signimage.transport`, against real servers on loopback."""

import gc
import gzip
import inspect
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import pytest
import urllib3.exceptions
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import (
    FormatError,
    InputError,
    NotFoundError,
    RemoteError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
)
from signimage.transport import (
    ATTEMPTS,
    Credentials,
    Response,
    Stream,
    Transport,
    TransportSettings,
    is_loopback,
    origin,
    reason,
    refusal,
    said_by_server,
    shown,
)
from unit.certificates import Authority, make_authority
from unit.small_server import Reply, Request, SmallServer

QUICK = TransportSettings(backoff_s=0.001)


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(QUICK) as it:
        yield it


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


def get(transport: Transport, url: str, **more: float) -> Response:
    return transport.request(
        "GET", url, what="trust server", max_bytes=100, deadline_s=more.get("deadline_s", 20.0)
    )


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    """Answer with each reply once, and with the last for ever."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


class Planned:
    """Authorizer with a first and a second header; counts what it was asked."""

    def __init__(self, first: str, second: str) -> None:
        self._now, self._then = first, second
        self.answers: list[int] = []

    def headers(self, method: str, url: str) -> Mapping[str, str]:
        """Return what is planned for now."""
        assert method
        assert url
        return {"Authorization": self._now} if self._now else {}

    def answer(self, response: Response, sent: Mapping[str, str]) -> bool:
        """Go on to the second header."""
        assert sent == self.headers("GET", response.url)
        self.answers.append(response.status)
        self._now = self._then
        return bool(self._then)


# --- one exchange ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 304, 400, 404, 418, 500])
def test_every_status_is_an_answer(transport: Transport, status: int) -> None:
    with SmallServer(lambda _: Reply(status, headers={"X-Some": "v"})) as server:
        response = get(transport, f"{server.origin}/a?b=c")
        assert (response.status, response.headers["x-some"]) == (status, "v")
        assert response.url == f"{server.origin}/a?b=c"


def test_method_headers_and_body_arrive_as_given(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(201, b"made")) as server:
        response = transport.request(
            "PUT",
            f"{server.origin}/x",
            what="registry",
            max_bytes=10,
            headers={"Content-Type": "text/x"},
            body=b"\x00\xff",
        )
    request = server.requests[0]
    assert (response.status, response.body) == (201, b"made")
    assert (request.method, request.path, request.body) == ("PUT", "/x", b"\x00\xff")
    assert request.headers["Content-Type"] == "text/x"
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["User-Agent"].startswith("signimage/")


def test_connections_are_kept(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(200, b"x")) as server:
        for _ in range(5):
            get(transport, server.origin)
        assert (len(server.requests), server.connections) == (5, 1)


def test_header_that_would_smuggle_a_second_one_is_refused_without_its_value(
    transport: Transport,
) -> None:
    with pytest.raises(InputError, match=r"^header Authorization: expected one line") as caught:
        transport.request(
            "GET",
            "http://127.0.0.1:1/",
            what="registry",
            max_bytes=1,
            headers={"Authorization": "s3cret\r\nX: y"},
        )
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["ftp://h/", "h/x", "", "http://", "http://user:s3cret@h/", "http://h:0/", "http://h/ö",
     "http://h/a b", "http://[::1", "http://h:99999/"],
)  # fmt: skip
def test_address_that_is_no_plain_http_address_is_wrong_input(
    transport: Transport, url: str
) -> None:
    with pytest.raises(InputError, match=r"^address of trust server: expected http") as caught:
        get(transport, url)
    assert "s3cret" not in str(caught.value)


# --- limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_body_at_the_maximum_passes_and_one_byte_more_is_refused(
    transport: Transport, *, chunked: bool
) -> None:
    def answer(request: Request) -> Reply:
        body = b"x" * int(request.path[1:])
        if not chunked:
            return Reply(200, body)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return Reply(raw=head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    with SmallServer(answer) as server:
        assert get(transport, f"{server.origin}/100").body == b"x" * 100
        with pytest.raises(TooLargeError, match=r"^trust server http://.*: expected at most 100 "):
            get(transport, f"{server.origin}/101")


def test_compressed_body_is_measured_after_decoding(transport: Transport) -> None:
    bomb = gzip.compress(b"0" * 50_000)
    packed = {"Content-Encoding": "gzip"}
    with SmallServer(lambda _: Reply(200, bomb, packed)) as server:
        assert len(bomb) < 100
        with pytest.raises(TooLargeError, match="expected at most 100 bytes, got more"):
            get(transport, server.origin)


def test_large_error_page_does_not_hide_its_status(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(500, b"x" * 1_000_000)) as server:
        response = get(transport, server.origin)
    assert (response.status, response.body) == (500, b"")


def test_error_document_larger_than_the_expected_answer_is_kept(transport: Transport) -> None:
    document = b'{"errors":[{"code":"DENIED","message":"' + b"m" * 200 + b'"}]}'
    with SmallServer(lambda _: Reply(403, document)) as server:
        assert get(transport, server.origin).body == document


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: ", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nx", id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nx", id="body without a length"),
        pytest.param(b"H", id="status line"),
    ],
)
def test_answer_that_trickles_is_cut_at_the_deadline(transport: Transport, raw: bytes) -> None:
    """Case 28."""
    with (
        SmallServer(lambda _: Reply(raw=raw, trickle_s=0.02)) as server,
        pytest.raises(UnreachableError, match=r"no complete answer within 0.5 s$"),
    ):
        get(transport, server.origin, deadline_s=0.5)


def test_answer_that_trickles_over_tls_is_cut_at_the_deadline(authority: Authority) -> None:
    reply = Reply(raw=b"HTTP/1.1 200 OK\r\nX-Slow: ", trickle_s=0.02)
    settings = TransportSettings(ca_files=(authority.ca_file,))
    with (
        SmallServer(lambda _: reply, tls=authority.server_context()) as server,
        Transport(settings) as transport,
        pytest.raises(UnreachableError, match=r"no complete answer within 0.5 s$"),
    ):
        get(transport, server.origin, deadline_s=0.5)


def test_silence_is_cut_at_the_deadline(transport: Transport) -> None:
    """Case 28."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(UnreachableError, match=r"no complete answer within 0.2 s$"):
            get(transport, url, deadline_s=0.2)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", id="length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort", id="chunk"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n", id="no end"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk size"
        ),
        pytest.param(b"220 mail.example.com ESMTP\r\n", id="not HTTP"),
        pytest.param(b"", id="nothing"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", id="gzip"
        ),
    ],
)
def test_broken_answer_is_never_a_short_one(transport: Transport, raw: bytes) -> None:
    with (
        SmallServer(lambda _: Reply(raw=raw)) as server,
        pytest.raises(UnreachableError, match=r"^trust server http://127\.0\.0\.1:\d+ cannot be "),
    ):
        get(transport, server.origin)


# --- tries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_get_is_repeated_while_the_server_is_busy(transport: Transport, status: int) -> None:
    with SmallServer(in_turn(Reply(status), Reply(status), Reply(200, b"now"))) as server:
        assert get(transport, server.origin).body == b"now"
        assert len(server.requests) == 3


def test_get_gives_up_after_some_tries_with_the_last_answer(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(503)) as server:
        assert get(transport, server.origin).status == 503
        assert len(server.requests) == ATTEMPTS


def test_get_is_repeated_after_a_lost_connection(transport: Transport) -> None:
    with SmallServer(in_turn(Reply(raw=b""), Reply(200, b"now"))) as server:
        assert get(transport, server.origin).body == b"now"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("fault", [Reply(503), Reply(raw=b"")])
def test_what_changes_things_is_sent_once(transport: Transport, method: str, fault: Reply) -> None:
    with SmallServer(lambda _: fault) as server:
        if fault.raw is None:
            assert (
                transport.request(method, server.origin, what="registry", max_bytes=9).status == 503
            )
        else:
            with pytest.raises(UnreachableError, match="closed without an answer"):
                transport.request(method, server.origin, what="registry", max_bytes=9)
        assert len(server.requests) == 1


def test_longer_retry_after_than_the_deadline_ends_the_tries(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(429, headers={"Retry-After": "3600"})) as server:
        assert get(transport, server.origin).status == 429
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "soon",
        "-1",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2029 00:00:00 +99999999999999",
    ],
)
def test_retry_after_in_the_past_or_senseless_does_not_stop_the_tries(
    transport: Transport, value: str
) -> None:
    busy = Reply(503, headers={"Retry-After": value})
    with SmallServer(in_turn(busy, Reply(200, b"now"))) as server:
        assert get(transport, server.origin).body == b"now"


def test_closing_ends_kept_connections_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                assert connection.recv(1) == b"", "the end of the connection"

        thread = threading.Thread(target=answer)
        thread.start()
        transport = Transport(QUICK)
        assert get(transport, f"http://127.0.0.1:{listening.getsockname()[1]}/").status == 204
        gc.disable()
        try:
            transport.close()
            thread.join(10)
        finally:
            gc.enable()
        assert not thread.is_alive()


class Pauses:
    """Notes how long a transport pauses, in milliseconds, and why."""

    def __init__(self) -> None:
        self.ms: list[int] = []
        self.why: set[str] = set()

    def __call__(self, event: str, **values: object) -> None:
        if event == "pause":
            assert isinstance(values["ms"], int)
            self.ms.append(values["ms"])
            self.why.add(str(values["why"]))


def test_a_server_that_nobody_ever_met_is_given_up_within_a_second() -> None:
    """A wrong address is told before anything is built; who restarts is waited for."""
    noted = Pauses()
    with SmallServer(lambda _: Reply(200)) as gone:
        address = gone.origin
    with Transport(TransportSettings(observe=noted)) as transport:
        for _ in range(5):
            with pytest.raises(UnreachableError, match=r"connection refused$"):
                get(transport, address)
    rounds = [noted.ms[start : start + 4] for start in range(0, 20, 4)]
    assert [len(each) for each in rounds] == [4] * 5
    assert all(ms <= 50 * 2**number for each in rounds for number, ms in enumerate(each))
    assert noted.why == {"connection refused"}


def test_pauses_are_told_with_their_reason() -> None:
    noted = Pauses()
    with (
        SmallServer(in_turn(Reply(503), Reply(raw=b""), Reply(200))) as server,
        Transport(TransportSettings(observe=noted, backoff_s=0.001)) as transport,
    ):
        assert get(transport, server.origin).status == 200
    assert noted.why == {"the answer is 503", "the connection was closed without an answer"}


@pytest.mark.parametrize("fault", [Reply(503), Reply(raw=b"")])
def test_what_may_happen_twice_is_repeated_as_the_caller_says(
    transport: Transport, fault: Reply
) -> None:
    with SmallServer(in_turn(fault, fault, Reply(201))) as server:
        response = transport.request(
            "PUT", server.origin, what="registry", max_bytes=9, body=b"x", repeatable=True
        )
        assert (response.status, [each.body for each in server.requests]) == (201, [b"x"] * 3)


# --- bodies that are read while they are sent -----------------------------------------------


class Parts:
    """The parts of a body; counts how often they were read, and what is left open."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts
        self.read = self.open = 0

    def stream(self, stall_s: float = 20.0) -> Stream:
        return Stream(sum(map(len, self._parts)), self._opened, stall_s)

    def _opened(self) -> Iterator[bytes]:
        self.read += 1
        self.open += 1
        try:
            yield from self._parts
        finally:
            self.open -= 1


def put(
    transport: Transport,
    url: str,
    body: Stream,
    *,
    authorizer: Planned | None = None,
    deadline_s: float = 20.0,
    repeatable: bool = False,
) -> Response:
    return transport.request(
        "PUT",
        url,
        what="registry",
        max_bytes=9,
        body=body,
        authorizer=authorizer,
        deadline_s=deadline_s,
        repeatable=repeatable,
    )


@pytest.mark.parametrize("parts", [(b"ab", b"", b"cde"), (b"",), ()])
def test_streamed_body_arrives_with_its_length(transport: Transport, parts: list[bytes]) -> None:
    with SmallServer(lambda _: Reply(201)) as server:
        assert put(transport, server.origin, Parts(*parts).stream()).status == 201
    request = server.requests[0]
    assert request.body == b"".join(parts)
    assert request.headers["Content-Length"] == str(len(request.body))
    assert request.headers["Transfer-Encoding"] is None


def test_streamed_body_is_read_anew_for_each_try(transport: Transport) -> None:
    body = Parts(b"ab", b"cde")
    with SmallServer(in_turn(Reply(401), Reply(503), Reply(raw=b""), Reply(201))) as server:
        response = put(
            transport, server.origin, body.stream(), authorizer=Planned("", "x"), repeatable=True
        )
    assert response.status == 201
    assert [request.body for request in server.requests] == [b"abcde"] * 4
    assert (body.read, body.open) == (4, 0)


def test_streamed_body_is_sent_once_where_it_may_not_happen_twice(transport: Transport) -> None:
    body = Parts(b"ab")
    with (
        SmallServer(lambda _: Reply(raw=b"")) as server,
        pytest.raises(UnreachableError, match="closed without an answer"),
    ):
        put(transport, server.origin, body.stream())
    assert (body.read, body.open) == (1, 0)


def test_fault_of_a_streamed_body_is_not_the_servers(transport: Transport) -> None:
    def broken() -> Iterator[bytes]:
        yield b"ab"
        raise FormatError("layer: expected gzip, got something else")

    with (
        SmallServer(lambda _: Reply(201)) as server,
        pytest.raises(FormatError, match=r"^layer: expected gzip"),
    ):
        put(transport, server.origin, Stream(9, broken))


def test_answer_that_comes_before_the_body_is_taken_is_an_answer(transport: Transport) -> None:
    """Servers refuse what they will not read, and hang up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        body = Parts(*[bytes(100_000)] * 500)
        assert put(transport, url, body.stream()).status == 413
        thread.join()
    assert body.open == 0


def test_body_that_gets_on_may_take_longer_than_the_deadline(transport: Transport) -> None:
    ticks = threading.Event()

    def slow() -> Iterator[bytes]:
        for _ in range(6):
            ticks.wait(0.1)
            yield b"x"

    with SmallServer(lambda _: Reply(201)) as server:
        response = put(transport, server.origin, Stream(6, slow), deadline_s=0.3)
    assert (response.status, server.requests[0].body) == (201, b"xxxxxx")


@pytest.mark.parametrize("is_new", [True, False])
def test_server_that_takes_no_more_of_a_body_is_given_up(
    transport: Transport, *, is_new: bool
) -> None:
    """On a connection that is new, and on one that was kept."""
    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take_nothing() -> None:
            connection, _ = listening.accept()
            with connection:
                if not is_new:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                end.wait()

        thread = threading.Thread(target=take_nothing)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        if not is_new:
            assert get(transport, url).status == 204
        body = Parts(*[bytes(1_000_000)] * 60)
        claim = rf"^registry {url[:-1]} cannot be reached: no further data taken within 0\.2 s$"
        with pytest.raises(UnreachableError, match=claim):
            put(transport, url, body.stream(stall_s=0.2))
        end.set()
        thread.join()
    assert body.open == 0


def test_server_that_takes_no_more_of_a_body_over_tls_is_given_up(authority: Authority) -> None:
    end = threading.Event()

    def take_nothing() -> None:
        connection, _ = listening.accept()
        with authority.server_context().wrap_socket(connection, server_side=True):
            end.wait()

    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        Transport(TransportSettings(ca_files=(authority.ca_file,))) as transport,
    ):
        thread = threading.Thread(target=take_nothing)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
        body = Parts(*[bytes(1_000_000)] * 60)
        with pytest.raises(UnreachableError, match=r"no further data taken within 1 s$"):
            put(transport, url, body.stream(stall_s=1.0))
        end.set()
        thread.join()


def test_answer_to_a_streamed_body_has_the_deadline(transport: Transport) -> None:
    with (
        SmallServer(lambda _: Reply(raw=b"HTTP/1.1 201 ", trickle_s=0.02)) as server,
        pytest.raises(UnreachableError, match=r"no complete answer within 0\.3 s$"),
    ):
        put(transport, server.origin, Parts(b"ab").stream(), deadline_s=0.3)


# --- who asks -------------------------------------------------------------------------------


def test_time_of_the_authorizer_is_not_the_servers(transport: Transport) -> None:
    """Token services have deadlines of their own; the server that asks for a token is not slow."""

    class Slow(Planned):
        def answer(self, response: Response, sent: Mapping[str, str]) -> bool:
            threading.Event().wait(1.2)
            return super().answer(response, sent)

    with SmallServer(lambda r: Reply(200 if r.headers["Authorization"] else 401)) as server:
        response = transport.request(
            "GET",
            server.origin,
            what="registry",
            max_bytes=9,
            authorizer=Slow("", "good"),
            deadline_s=1.0,
        )
        assert (response.status, len(server.requests)) == (200, 2)


def test_address_that_two_parsers_read_as_two_hosts_is_refused(transport: Transport) -> None:
    with pytest.raises(InputError, match=r"^address of trust server: expected http"):
        get(transport, "http://elsewhere.example\\.localhost/")


def test_authorizer_answers_a_challenge_once(transport: Transport) -> None:
    def answer(request: Request) -> Reply:
        return Reply(200 if request.headers["Authorization"] == "good" else 401)

    with SmallServer(answer) as server:
        for first, second, status, tries in [("", "good", 200, 2), ("", "bad", 401, 2),
                                             ("good", "", 200, 1), ("", "", 401, 1)]:  # fmt: skip
            server.requests.clear()
            asked = Planned(first, second)
            response = transport.request(
                "POST", server.origin, what="registry", max_bytes=9, authorizer=asked
            )
            assert (response.status, len(server.requests)) == (status, tries)
            assert asked.answers == ([] if first else [401])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_within_an_origin_keeps_credentials(transport: Transport, status: int) -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/a":
            return Reply(status, headers={"Location": "/b?c"})
        return Reply(200, request.headers["Authorization"].encode())

    with SmallServer(answer) as server:
        response = transport.request(
            "GET", f"{server.origin}/a", what="r", max_bytes=9, authorizer=Planned("mine", "")
        )
        assert (response.body, response.url) == (b"mine", f"{server.origin}/b?c")


def test_redirect_to_another_origin_carries_no_credentials(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(401)) as other:
        moved = Reply(307, headers={"Location": f"{other.origin}/x"})
        with SmallServer(lambda _: moved) as server:
            asked = Planned("mine", "better")
            response = transport.request(
                "GET",
                server.origin,
                what="registry",
                max_bytes=9,
                authorizer=asked,
                headers={"authorization": "mine too", "COOKIE": "c", "X-Kept": "k"},
                leave_origin=True,
            )
    assert (response.status, asked.answers) == (401, [])
    arrived = other.requests[0].headers
    assert (arrived["Authorization"], arrived["Cookie"], arrived["X-Kept"]) == (None, None, "k")


def test_redirect_to_another_origin_is_refused_unless_the_caller_wants_it(
    transport: Transport,
) -> None:
    with SmallServer(lambda _: Reply(200, b"not yours")) as other:
        moved = Reply(307, headers={"Location": f"{other.origin}/x?ticket=s3cret"})
        claim = (
            r"^trust server http://127\.0\.0\.1:\d+: expected no redirect to another server, got"
        )
        with (
            SmallServer(lambda _: moved) as server,
            pytest.raises(RemoteError, match=claim) as caught,
        ):
            get(transport, server.origin)
    assert other.requests == []
    assert str(caught.value).endswith(f" one to {other.origin}")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_redirect_of_a_change_is_an_answer(transport: Transport, method: str) -> None:
    with SmallServer(lambda _: Reply(307, headers={"Location": "/b"})) as server:
        assert transport.request(method, server.origin, what="r", max_bytes=9).status == 307
        assert len(server.requests) == 1


def test_redirect_is_an_answer_where_none_may_be_followed(transport: Transport) -> None:
    with SmallServer(lambda _: Reply(302, headers={"Location": "/b"})) as server:
        response = transport.request("GET", server.origin, what="r", max_bytes=9, redirects=0)
        assert (response.status, len(server.requests)) == (302, 1)


def test_endless_redirects_end(transport: Transport) -> None:
    with (
        SmallServer(lambda _: Reply(302, headers={"Location": "/again"})) as server,
        pytest.raises(RemoteError, match=r"^trust server http://.*: expected at most 5 redirects$"),
    ):
        get(transport, server.origin)


def test_redirect_from_https_to_http_is_refused(authority: Authority) -> None:
    moved = Reply(302, headers={"Location": "http://127.0.0.1:9/x?ticket=s3cret"})
    with (
        SmallServer(lambda _: moved, tls=authority.server_context()) as server,
        Transport(TransportSettings(ca_files=(authority.ca_file,))) as transport,
        pytest.raises(
            RemoteError, match="expected a redirect to https, got one to http://127"
        ) as e,
    ):
        get(transport, server.origin)
    assert "s3cret" not in str(e.value)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://u:p@h/", "http://["])
def test_redirect_to_something_else_is_refused(transport: Transport, location: str) -> None:
    with (
        SmallServer(lambda _: Reply(302, headers={"Location": location})) as server,
        pytest.raises(RemoteError, match=r"expected a redirect to an http\(s\) address"),
    ):
        get(transport, server.origin)


# --- faults and their words -----------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_refused_connection_is_said_in_one_sentence(transport: Transport) -> None:
    port = free_port()
    claim = rf"^trust server http://localhost:{port} cannot be reached: connection refused$"
    with pytest.raises(UnreachableError, match=claim):
        get(transport, f"http://localhost:{port}/v2/?ticket=s3cret")


def test_unknown_name_is_said_in_one_sentence(transport: Transport) -> None:
    claim = r"^trust server http://no-such-host.invalid cannot be reached: its name cannot be reso"
    with pytest.raises(UnreachableError, match=claim):
        get(transport, "http://no-such-host.invalid/", deadline_s=0.3)


def test_resolver_that_never_answers_is_left_behind_at_the_deadline(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = threading.Event()

    def silent(*_: object) -> list[object]:
        end.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    claim = (
        r"^trust server http://registry\.test cannot be reached: its name was not resolved in ti"
    )
    try:
        with pytest.raises(UnreachableError, match=claim):
            get(transport, "http://registry.test/", deadline_s=0.2)
    finally:
        end.set()


def test_every_address_of_a_name_is_tried(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def two(host: str, *more: int) -> list[object]:
        found = ["127.0.0.2", "127.0.0.1"] if host == "registry.test" else [host]
        return [info for each in found for info in real(each, *more)]

    with SmallServer(lambda _: Reply(200, b"x")) as server:
        monkeypatch.setattr(socket, "getaddrinfo", two)
        url = server.origin.replace("127.0.0.1", "registry.test")
        assert get(transport, url).body == b"x"


def test_name_that_can_be_none_is_said_in_one_sentence(transport: Transport) -> None:
    with pytest.raises(UnreachableError, match=r"reached: the address is not usable$"):
        get(transport, f"http://{'x' * 64}.example.com/")


def test_every_exception_of_urllib3_has_words() -> None:
    kinds = [
        kind
        for kind in vars(urllib3.exceptions).values()
        if inspect.isclass(kind)
        and issubclass(kind, Exception)
        and not issubclass(kind, Warning)
        and kind.__module__ == "urllib3.exceptions"
        and kind is not urllib3.exceptions.HTTPError
    ]
    assert len(kinds) > 25
    wordless = [kind.__name__ for kind in kinds if "unexpected" in reason(kind.__new__(kind))]
    assert wordless == []


def test_every_exception_of_urllib3_is_caught() -> None:
    caught = (urllib3.exceptions.HTTPError, OSError, ValueError)
    loose = [
        name
        for name, kind in vars(urllib3.exceptions).items()
        if inspect.isclass(kind)
        and issubclass(kind, Exception)
        and not issubclass(kind, (*caught, Warning))
        and kind.__module__ == "urllib3.exceptions"
    ]
    assert loose == []


# --- texts ----------------------------------------------------------------------------------


def answer_of(status: int, body: bytes) -> Response:
    return Response(status, {}, body, "https://h:443/v2/x?ticket=s3cret")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RemoteError), (401, UnauthorizedError), (403, UnauthorizedError), (404, NotFoundError),
     (500, RemoteError), (302, RemoteError)],
)  # fmt: skip
def test_refusal_is_sorted_by_its_status(status: int, kind: type[RemoteError]) -> None:
    error = refusal(answer_of(status, b""), "registry")
    assert type(error) is kind
    assert str(error) == f"registry https://h/v2/x answered {status}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"errors":[{"code":"DENIED","message":"no access"},{}]}', "DENIED: no access"),
        (b'{"error":"invalid_grant","error_description":"expired"}', "invalid_grant: expired"),
        (b'{"details":"incorrect username or password"}', "incorrect username or password"),
        (b'{"$id":"1","message":"VS800075"}', "VS800075"),
        (b'{"errors":[{"message":"a\\r\\n##vso[x]\\u001b[0m"}]}', "a ##vso[x] [0m"),
        (b'{"message":"a\\ud800b\\u2028c\\u2029d"}', "a b c d"),
        (b'{"errors":[{"message":"' + b"x " * 999 + b'"}]}', "x " * 150 + "…"),
        (b"<html>", ""),
        (b"[]", ""),
        (b'{"errors":{}}', ""),
        (b'{"errors":[7]}', ""),
        (b"[" * 100_000, ""),
        (b"\xff", ""),
        (b"", ""),
    ],
)
def test_words_of_a_server_become_one_short_line(body: bytes, said: str) -> None:
    assert said_by_server(answer_of(400, body)) == said


@given(st.binary(max_size=200))
def test_words_of_a_server_never_fail_and_never_break_a_line(body: bytes) -> None:
    assert len(said_by_server(answer_of(400, body)).splitlines()) <= 1


def test_json_is_parsed_or_refused() -> None:
    assert answer_of(200, b'{"a": 1}').json("token") == {"a": 1}
    with pytest.raises(FormatError, match=r"^token of https://h/v2/x: expected JSON, got 6 bytes"):
        answer_of(200, b"<html>").json("token")


def test_addresses_in_texts_have_no_query_and_no_default_port() -> None:
    assert origin("https://H.example:443/x") == "https://h.example"
    assert origin("http://[::1]:5000") == "http://[::1]:5000"
    assert shown("http://h:80/a/b?ticket=s3cret#f") == "http://h/a/b"


def test_passwords_are_not_shown() -> None:
    assert "s3cret" not in repr(Credentials("me", "s3cret"))
    assert Credentials("me", "ß").basic() == "Basic bWU6w58="


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.9.9.9", "[::1]"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "localhost.example.com", "128.0.0.1", "::2", "127.0.0.1.nip.io"]
)
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)
