"""Claims about `signimage.proxies`, and about the way through real proxies on loopback."""

from collections.abc import Callable

import pytest

from signimage.errors import CertificateError, InputError, UnreachableError
from signimage.proxies import AGENT_SETTING, Proxies, Proxy
from signimage.transport import Credentials, Transport, TransportSettings
from unit.certificates import Authority, make_authority
from unit.small_proxy import SmallProxy
from unit.small_server import Reply, SmallServer

NAME = "registry.test"
TARGET = f"{NAME}:443"
URL = f"https://{NAME}/v2/"
GOOD = Reply(200, b"good")
ACCOUNT = Credentials("agent", "p@ss:wörd/1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Has a server at the name that only proxies know."""
    return make_authority(tmp_path_factory.mktemp("ca"), NAME)


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Has a server at 127.0.0.1, for proxies that speak TLS."""
    return make_authority(tmp_path_factory.mktemp("near"))


def settings(proxy: Proxy | None, *authorities: Authority) -> TransportSettings:
    return TransportSettings(
        ca_files=tuple(each.ca_file for each in authorities),
        proxies=Proxies(http=proxy, https=proxy),
        backoff_s=0.001,
    )


def get(given: TransportSettings, url: str = URL, method: str = "GET", **more: float) -> bytes:
    """Return what *url* answers."""
    with Transport(given) as transport:
        return transport.request(
            method, url, what="registry", max_bytes=100, deadline_s=more.get("deadline_s", 20.0)
        ).body


# --- whom a proxy leads to ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", "http://example.com/", False),
        ("*", "http://example.com/", True),
        ("example.com", "http://example.com/", True),
        ("example.com", "http://example.com./", True),
        ("example.com", "http://a.example.com/", True),
        (".example.com", "http://a.example.com/", True),
        ("*.example.com", "http://a.example.com/", True),
        ("example.com", "http://notexample.com/", False),
        ("EXAMPLE.com", "http://example.COM/", True),
        ("other, example.com:8080", "http://example.com:8080/", True),
        ("other\texample.com", "http://example.com/", True),
        ("example.com:8080", "http://example.com/", False),
        ("example.com:80", "http://example.com/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.0.0.0/8", "http://10.example.com/", False),
        ("10.1.2.3", "http://10.1.2.3/", True),
        ("10.1.2.3:80", "http://10.1.2.3/", True),
        ("10.1.2.3:81", "http://10.1.2.3/", False),
        ("::/0", "http://[2001:db8::1]/", True),
        ("2001:db8::1", "http://[2001:db8::1]/", True),
        ("[2001:db8::1]:80", "http://[2001:db8::1]/", True),
        ("[2001:db8::1]:81", "http://[2001:db8::1]/", False),
        ("::/0", "http://10.1.2.3/", False),
        ("10.0.0.0/99,:::,[,*.", "http://example.com/", False),
        ("", "http://localhost:5000/", True),
        ("", "http://127.0.0.1/", True),
        ("", "http://[::1]/", True),
        ("", "http://169.254.169.254/metadata/identity/oauth2/token", True),
        ("", "http://[fe80::1]/", True),
        ("", "http://169.254.169.254.example.com/", False),
    ],
)
def test_no_proxy_means_what_it_means_elsewhere(no_proxy: str, url: str, *, direct: bool) -> None:
    proxies = Proxies.of_environment({"http_proxy": "p:3128", "no_proxy": no_proxy})
    found = proxies.for_url(url)
    assert (found.address if found else "") == ("" if direct else "http://p:3128")


def test_each_scheme_has_its_proxy_and_small_letters_come_first() -> None:
    proxies = Proxies.of_environment(
        {"HTTP_PROXY": "http://a", "https_proxy": "http://b", "HTTPS_PROXY": "http://c"}
    )
    assert proxies.http == Proxy("http://a", "HTTP_PROXY")
    assert proxies.https == Proxy("http://b", "HTTPS_PROXY")
    assert Proxies.of_environment({}) == Proxies()


# --- the account ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "credentials"),
    [
        ("p:3128", "http://p:3128", None),
        ("HTTPS://p", "https://p", None),
        ("http://p:3128/", "http://p:3128", None),
        ("http://[::1]:3128", "http://[::1]:3128", None),
        ("http://u:s@p", "http://p", Credentials("u", "s")),
        ("u:s@p:1", "http://p:1", Credentials("u", "s")),
        ("http://u@p", "http://p", Credentials("u", "")),
        ("http://u%40corp:s%3A%2f%C3%B6@p", "http://p", Credentials("u@corp", "s:/ö")),
        ("http://corp\\u:s@/#?:1@p:1", "http://p:1", Credentials("corp\\u", "s@/#?:1")),
    ],
)
def test_address_and_account_of_a_proxy_are_told_apart(
    text: str, address: str, credentials: Credentials | None
) -> None:
    proxy = Proxy(text, "HTTPS_PROXY")
    assert (proxy.address, proxy.credentials) == (address, credentials)
    assert credentials is None or f"{credentials.password}@" not in repr(proxy)


def test_account_that_is_configured_apart_counts() -> None:
    assert Proxy("http://u:s@p", AGENT_SETTING, ACCOUNT).credentials == ACCOUNT
    assert "wörd" not in repr(Proxy("http://p", AGENT_SETTING, ACCOUNT))


@pytest.mark.parametrize(
    "text",
    ["ftp://h", "http://", "http://h:x", "http://h:0", "http://h/path", "http://h h", "http://[::",
     "socks5://h:1", "http://u:s3cret@", "http://hö", "http://h?s=1", "http://u:s3cret%40h:1",
     "u:s3cret", "http://u:s3cret:h:1", "http://h:1/u:s3cret"],
)  # fmt: skip
def test_proxy_address_that_is_none_is_wrong_input(text: str) -> None:
    claim = r"^proxy of HTTPS_PROXY: expected http\(s\)://\[user:password@\]host:port, got some"
    with pytest.raises(InputError, match=claim) as caught:
        get(settings(Proxy(text, "HTTPS_PROXY")))
    assert "s3cret" not in str(caught.value)


def knows(account: Credentials) -> Callable[[str | None], Reply | None]:
    """Lead on whoever comes with *account*."""
    return lambda told: None if told == account.basic() else Reply(407)


def test_tunnel_leads_to_the_server_and_the_account_stays_at_the_proxy(
    authority: Authority,
) -> None:
    with (
        SmallServer(lambda _: GOOD, tls=authority.server_context()) as server,
        SmallProxy({TARGET: server.host}, knows(ACCOUNT)) as proxy,
    ):
        given = settings(Proxy(proxy.origin, AGENT_SETTING, ACCOUNT), authority)
        assert get(given) == b"good"
    assert (proxy.targets, proxy.accounts) == ([TARGET], [ACCOUNT.basic()])
    assert server.requests[0].headers["Proxy-Authorization"] is None


def test_proxy_that_forwards_gets_the_request_and_its_own_account_only() -> None:
    with SmallServer(lambda _: Reply(200, b"from the proxy")) as proxy:
        given = TransportSettings().with_proxies({"HTTP_PROXY": f"http://user:p%40ss@{proxy.host}"})
        assert get(given, f"http://{NAME}/v2/") == b"from the proxy"
    request = proxy.requests[0]
    assert request.path == f"http://{NAME}/v2/"
    assert request.headers["Proxy-Authorization"] == Credentials("user", "p@ss").basic()
    assert "p%40ss" not in repr(given)


def test_proxy_may_speak_tls_itself(authority: Authority, near: Authority) -> None:
    with (
        SmallServer(lambda _: GOOD, tls=authority.server_context()) as server,
        SmallProxy({TARGET: server.host}, tls=near.server_context()) as proxy,
    ):
        given = settings(Proxy(proxy.origin, "HTTPS_PROXY"), authority, near)
        assert get(given) == b"good"
    assert proxy.targets == [TARGET]


def test_loopback_is_reached_without_the_proxy() -> None:
    with SmallServer(lambda _: GOOD) as server, SmallProxy({}) as proxy:
        assert get(settings(Proxy(proxy.origin, AGENT_SETTING)), server.origin) == b"good"
    assert proxy.targets == []


# --- what goes wrong on the way -------------------------------------------------------------


AGENT = (AGENT_SETTING, None)
VARIABLE = ("HTTPS_PROXY", None)


@pytest.mark.parametrize(
    ("setting", "account", "status", "said", "hint"),
    [
        (*AGENT, 407, "wants a user name and a password", "--proxyusername and --proxypassword"),
        (*VARIABLE, 407, "wants a user name and a password", "Write them into HTTPS_PROXY: http"),
        (AGENT_SETTING, ACCOUNT, 407, "does not accept the user name and pass", "scheme Basic"),
        (*AGENT, 403, "refuses the way there", r"in the agent's \.proxybypass or NO_PROXY$"),
        (*VARIABLE, 405, "refuses the way there", "name the server in NO_PROXY$"),
        (*AGENT, 502, "found no way there", "^Check Agent.ProxyUrl; servers that need no proxy"),
        (*VARIABLE, 504, "found no way there", "^Check HTTPS_PROXY; servers that need no proxy"),
        (*VARIABLE, 302, "found no way there", "^Check HTTPS_PROXY"),
    ],
)
def test_refusal_of_a_proxy_names_it_the_status_and_the_remedy(
    setting: str, account: Credentials | None, status: int, said: str, hint: str
) -> None:
    with SmallProxy({}, lambda _: Reply(status)) as proxy:
        claim = rf"^registry https://{NAME} cannot be reached: proxy {proxy.origin} {said}"
        with pytest.raises(UnreachableError, match=claim) as caught:
            get(settings(Proxy(proxy.origin, setting, account)))
    assert str(caught.value).endswith(f" (it answered {status})")
    with pytest.raises(UnreachableError, match=hint):
        raise UnreachableError(caught.value.hint)
    assert "wörd" not in caught.value.sentence


def test_account_that_a_forwarding_proxy_wants_is_said_too() -> None:
    with SmallServer(lambda _: Reply(407, b"<html>")) as proxy:
        claim = rf"proxy {proxy.origin} wants a user name and a password \(it answered 407\)$"
        with pytest.raises(UnreachableError, match=claim):
            get(settings(Proxy(proxy.origin, "HTTP_PROXY")), f"http://{NAME}/")
        assert len(proxy.requests) == 1


def test_servers_own_407_in_a_tunnel_is_an_answer(authority: Authority) -> None:
    with (
        SmallServer(lambda _: Reply(407, b"odd"), tls=authority.server_context()) as server,
        SmallProxy({TARGET: server.host}) as proxy,
    ):
        assert get(settings(Proxy(proxy.origin, "HTTPS_PROXY"), authority)) == b"odd"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("fault", [Reply(503), Reply(raw=b"")])
def test_tunnel_that_fails_is_tried_again_as_the_server_has_seen_nothing(
    authority: Authority, method: str, fault: Reply
) -> None:
    left = [fault, fault]
    with (
        SmallServer(lambda _: GOOD, tls=authority.server_context()) as server,
        SmallProxy({TARGET: server.host}, lambda _: left.pop() if left else None) as proxy,
    ):
        assert get(settings(Proxy(proxy.origin, "HTTPS_PROXY"), authority), method=method) == (
            b"good"
        )
    assert (len(proxy.targets), len(server.requests)) == (3, 1)


def test_server_that_hangs_up_behind_a_tunnel_is_blamed_itself_and_asked_once(
    authority: Authority,
) -> None:
    """It may have done what it was asked for: nothing but a read is sent again."""
    with (
        SmallServer(lambda _: Reply(raw=b""), tls=authority.server_context()) as server,
        SmallProxy({TARGET: server.host}) as proxy,
    ):
        given = settings(Proxy(proxy.origin, "HTTPS_PROXY"), authority)
        with pytest.raises(UnreachableError) as caught:
            get(given, method="POST")
    assert str(caught.value) == (
        f"registry https://{NAME} cannot be reached: the connection was closed without an answer"
    )
    assert len(server.requests) == 1


def test_request_that_a_forwarding_proxy_took_is_not_sent_again() -> None:
    with SmallServer(lambda _: Reply(raw=b"")) as proxy:
        given = settings(Proxy(proxy.origin, "HTTP_PROXY"))
        with pytest.raises(UnreachableError, match="the connection was closed without an answer"):
            get(given, f"http://{NAME}/", method="POST")
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(raw=b""), ": the connection was closed without an answer$"),
        (Reply(raw=b"SSH-2.0-x\r\n"), ": the answer is not valid HTTP$"),
    ],
)
def test_proxy_that_drops_us_is_named_without_its_account(reply: Reply, said: str) -> None:
    with SmallProxy({}, lambda _: reply) as proxy:
        claim = rf"^registry https://{NAME} cannot be reached: proxy {proxy.origin}{said}"
        with pytest.raises(UnreachableError, match=claim) as caught:
            get(settings(Proxy(f"http://user:s3cret@{proxy.host}", "HTTPS_PROXY")))
    assert "s3cret" not in caught.value.sentence


def test_proxy_that_is_down_is_named_without_its_account() -> None:
    with SmallServer(lambda _: GOOD) as gone:
        address = gone.host
    claim = rf"^registry https://{NAME} cannot be reached: proxy http://{address}: connection refu"
    with pytest.raises(UnreachableError, match=claim) as caught:
        get(settings(Proxy(f"http://user:s3cret@{address}", AGENT_SETTING)))
    assert "s3cret" not in caught.value.sentence


def test_proxy_whose_name_is_unknown_is_named() -> None:
    claim = r"proxy http://no-such-host\.invalid:1: its name cannot be resolved$"
    with pytest.raises(UnreachableError, match=claim):
        get(settings(Proxy("no-such-host.invalid:1", AGENT_SETTING)), deadline_s=5.0)


@pytest.mark.parametrize("through_tls", [False, True])
def test_proxy_that_trickles_is_cut_at_the_deadline_and_named(
    near: Authority, *, through_tls: bool
) -> None:
    trickle = Reply(raw=b"HTTP/1.1 200 OK\r\nX: ", trickle_s=0.02)
    tls = near.server_context() if through_tls else None
    with SmallProxy({}, lambda _: trickle, tls=tls) as proxy:
        claim = rf"no complete answer within 0\.5 s by way of proxy {proxy.origin}$"
        with pytest.raises(UnreachableError, match=claim):
            get(settings(Proxy(proxy.origin, "HTTPS_PROXY"), near), deadline_s=0.5)


@pytest.mark.parametrize("through_tls", [False, True])
@pytest.mark.parametrize(
    "raw", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nx"]
)
def test_server_behind_a_proxy_that_trickles_is_cut_at_the_deadline(
    authority: Authority, near: Authority, raw: bytes, *, through_tls: bool
) -> None:
    trickle = Reply(raw=raw, trickle_s=0.02)
    tls = near.server_context() if through_tls else None
    with (
        SmallServer(lambda _: trickle, tls=authority.server_context()) as server,
        SmallProxy({TARGET: server.host}, tls=tls) as proxy,
        pytest.raises(UnreachableError, match=r"no complete answer within 0\.5 s"),
    ):
        get(settings(Proxy(proxy.origin, "HTTPS_PROXY"), authority, near), deadline_s=0.5)


def test_certificate_of_a_proxy_that_is_not_trusted_is_the_proxys(near: Authority) -> None:
    with SmallProxy({}, tls=near.server_context()) as proxy:
        claim = rf"reached: proxy {proxy.origin}: its certificate cannot be verified: unable to get"
        with pytest.raises(CertificateError, match=claim):
            get(settings(Proxy(proxy.origin, "HTTPS_PROXY")))
    assert proxy.targets == []


def test_certificate_that_a_proxy_makes_for_the_server_is_the_servers(
    authority: Authority,
) -> None:
    """As companies' proxies do that look into TLS."""
    with (
        SmallServer(lambda _: GOOD, tls=authority.server_context()) as server,
        SmallProxy({TARGET: server.host}) as proxy,
        pytest.raises(
            CertificateError, match=rf"^registry https://{NAME}: its certificate cannot be verified"
        ),
    ):
        get(settings(Proxy(proxy.origin, "HTTPS_PROXY")))


def test_proxy_that_is_said_to_speak_tls_and_does_not_is_named(near: Authority) -> None:
    with (
        SmallProxy({}) as proxy,
        pytest.raises(UnreachableError, match=rf"proxy https://{proxy.host}: TLS failed: it does"),
    ):
        get(settings(Proxy(f"https://{proxy.host}", "HTTPS_PROXY"), near))
