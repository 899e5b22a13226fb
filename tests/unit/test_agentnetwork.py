"""Claims about `signimage.agentnetwork`: what agents and environments say, and what is told."""

import json
import re
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.agentnetwork import pattern, transport_settings
from signimage.console import Console
from signimage.desk import Desk
from signimage.errors import CertificateError, InputError
from signimage.oci import Repository
from signimage.proxies import AGENT_SETTING, Proxies, Proxy
from signimage.response import Credentials
from signimage.tls import ClientCertificate
from signimage.transport import TransportSettings
from unit.certificates import Authority
from unit.small_server import Reply, SmallServer

URL = "https://registry.example.com/v2/"


@dataclass
class Agent:
    """An agent's variables and environment, and what it was warned of."""

    variables: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def settings(self) -> TransportSettings:
        """Read them."""
        return transport_settings(
            lambda name: self.variables.get(name, ""), self.environment, warn=self.warnings.append
        )


def bypassing(*entries: object, **environment: str) -> Agent:
    return Agent(
        {AGENT_SETTING: "http://p:3128", "Agent.ProxyBypassList": json.dumps(entries)}, environment
    )


def test_agent_without_any_settings_goes_directly_and_verifies() -> None:
    agent = Agent()
    assert agent.settings() == TransportSettings()
    assert agent.warnings == []


# --- proxies --------------------------------------------------------------------------------


def test_proxy_of_the_agent_goes_before_variables_for_both_schemes() -> None:
    agent = Agent(
        {AGENT_SETTING: " http://p:3128 "},
        {"HTTPS_PROXY": "http://other", "http_proxy": "http://other"},
    )
    proxies = agent.settings().proxies
    assert proxies.http == proxies.https == Proxy("http://p:3128", AGENT_SETTING)


def test_variables_fill_what_the_agent_leaves_open() -> None:
    environment = {"HTTPS_PROXY": "http://p:3128", "no_proxy": "example.org"}
    assert Agent({}, environment).settings().proxies == Proxies.of_environment(environment)


def test_account_of_the_agents_proxy_is_taken_whole_or_not_at_all() -> None:
    whole = {
        AGENT_SETTING: "http://p",
        "Agent.ProxyUsername": "corp\\ci",
        "Agent.ProxyPassword": " s3cret%41 ",
    }
    found = Agent(whole).settings().proxies.https
    assert found is not None
    assert found.credentials == Credentials("corp\\ci", " s3cret%41 ")
    assert "s3cret" not in repr(found)
    half = {name: value for name, value in whole.items() if name != "Agent.ProxyPassword"}
    found = Agent(half).settings().proxies.https
    assert found is not None
    assert found.credentials is None


@pytest.mark.parametrize(
    ("entry", "url", "direct"),
    [
        (r"registry\.example\.com", URL, True),
        (r"REGISTRY\.example", URL, True),
        (r"^https://registry\.example\.com$", URL, True),
        (r"^https://registry\.example\.com/", URL, True),
        (r"^https://.*\.example\.com", URL, True),
        (r"^http://registry", URL, False),
        (r"/v2/", URL, False),
        (r":443", URL, False),
        (r":5000$", "https://registry.example.com:5000/v2/", True),
        (r"registry\.example\.com$", "https://registry.example.com:5000/", False),
        (r"://registry.example.com", URL, True),
        (r"*.example\.com", URL, True),
        (r"*", URL, True),
        (
            r"^https?://10\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(:\d+)?$",
            "http://10.0.0.7:5000/",
            True,
        ),
        (r"^https?://(\d{1,3}\.){3}7$", "http://10.0.0.7/", True),
        (r"(registry|notary)\.example\.(com|org)", URL, True),
        (r"(?<part>e)xampl\k<part>", URL, True),
        (r"(?i)EXAMPLE", URL, True),
        (r"registry(?i)\.EXAMPLE", URL, True),
        (r"(?<=registry)\.example", URL, True),
        (r"(?<!registry)\.example", URL, False),
        (r"example\.com\z", URL, True),
        (r"example\.com\Z", URL, True),
        ("  registry  ", URL, True),
        ("", URL, False),
        (" ", URL, False),
    ],
)
def test_entry_of_the_bypass_list_means_what_it_means_to_the_agent(
    entry: str, url: str, *, direct: bool
) -> None:
    agent = bypassing(entry)
    assert (agent.settings().proxies.for_url(url) is None) == direct
    assert agent.warnings == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("[", "unterminated character set"),
        (r"\p{L}", r"bad escape \\p"),
        ("[[a]", "Possible nested set"),
        ("(a+)+$", "too many ways"),
        ("(a|aa)*b", "too many ways"),
        ("([a-z]+\\.)*x", "too many ways"),
        ("((a{1,9}){1,9}){9}", "too many ways"),
        (".*.*.*.*x", "too many ways"),
        ("a" * 257, "one of 257 characters, more than 256"),
        (7, "something that is no text"),
        (None, "something that is no text"),
    ],
)
def test_entry_that_cannot_be_used_is_told_by_its_number_and_the_others_count(
    entry: object, said: str
) -> None:
    agent = bypassing("elsewhere", entry, r"registry\.example")
    assert agent.settings().proxies.for_url(URL) is None
    (warning,) = agent.warnings
    assert warning.startswith("Agent.ProxyBypassList: entry 2 is left out: expected a regular exp")
    assert re.search(said, warning)


@pytest.mark.parametrize("text", ["{", "{}", '"a"', "null", "[" * 100_000, "example.com"])
def test_bypass_list_that_is_none_is_told(text: str) -> None:
    agent = Agent({AGENT_SETTING: "http://p", "Agent.ProxyBypassList": text})
    assert agent.settings().proxies.bypassed == ()
    assert agent.warnings == [
        "Agent.ProxyBypassList: expected a JSON array of regular expressions, got something else"
    ]


@given(st.one_of(st.text(), st.text(alphabet=r"ab.*+?{}[]()|\^$<>:=!,0129pkdw-")))
def test_any_entry_is_a_pattern_or_refused_in_one_line(text: str) -> None:
    agent = bypassing(text)
    agent.settings().proxies.for_url(f"https://{'a' * 253}:65535/")
    assert [len(warning.splitlines()) for warning in agent.warnings] in ([], [1])


def test_no_proxy_holds_for_the_proxy_of_the_agent_too() -> None:
    assert bypassing(NO_PROXY="example.com").settings().proxies.for_url(URL) is None


def test_bypass_list_holds_for_no_proxy_of_a_variable() -> None:
    agent = Agent({"Agent.ProxyBypassList": '["example"]'}, {"HTTPS_PROXY": "http://p"})
    assert agent.settings().proxies.for_url(URL) is not None


def test_longer_address_than_any_name_makes_is_matched_by_nothing() -> None:
    proxies = bypassing(".*").settings().proxies
    assert proxies.for_url(f"https://{'a' * 100}/") is None
    assert proxies.for_url(f"https://{'a' * 300}/") is not None


# --- certificates ---------------------------------------------------------------------------


def test_authorities_of_the_agent_and_of_other_programs_are_added(tmp_path: Path) -> None:
    bundle = tmp_path / "company.pem"
    bundle.write_text("")
    agent = Agent(
        {"Agent.CAInfo": "/agent/ca.pem"},
        {"NODE_EXTRA_CA_CERTS": str(bundle), "REQUESTS_CA_BUNDLE": str(bundle)},
    )
    assert agent.settings().ca_files == (Path("/agent/ca.pem"), bundle)
    assert agent.warnings == []


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"])
def test_bundle_that_is_gone_is_told(tmp_path: Path, name: str) -> None:
    for path in (tmp_path, tmp_path / "gone.pem"):
        agent = Agent({}, {name: str(path)})
        assert agent.settings().ca_files == ()
        assert agent.warnings == [f"{name}: expected a readable file of certificates, got {path}"]


CLIENT = {
    "Agent.ClientCert": "/a/client.pem",
    "Agent.ClientCertKey": "/a/client.key",
    "Agent.ClientCertArchive": "/a/client.pfx",
    "Agent.ClientCertPassword": "s3cret",
}


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ((), ClientCertificate(Path("/a/client.pem"), Path("/a/client.key"), password="s3cret")),
        (
            ("Agent.ClientCertKey",),
            ClientCertificate(Path("/a/client.pfx"), is_archive=True, password="s3cret"),
        ),
        (
            ("Agent.ClientCertArchive", "Agent.ClientCertPassword"),
            ClientCertificate(Path("/a/client.pem"), Path("/a/client.key")),
        ),
        (tuple(CLIENT), None),
    ],
)
def test_client_certificate_is_the_pair_else_the_archive(
    left_out: tuple[str, ...], expected: ClientCertificate | None
) -> None:
    found = Agent({k: v for k, v in CLIENT.items() if k not in left_out}).settings()
    assert found.client_certificate == expected
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize("name", ["Agent.ClientCert", "Agent.ClientCertKey"])
def test_half_a_client_certificate_is_wrong_input(name: str) -> None:
    claim = r"^Agent\.ClientCert and Agent\.ClientCertKey: expected both or neither, got one$"
    with pytest.raises(InputError, match=claim):
        Agent({name: "/a/client"}).settings()


@pytest.mark.parametrize("value", ["True", "true", " TRUE "])
def test_switching_verification_off_is_followed_and_told_once(value: str) -> None:
    agent = Agent({"Agent.SkipCertValidation": value})
    assert not agent.settings().verified
    (warning,) = agent.warnings
    assert "could read the passwords and tokens" in warning
    assert "Signatures themselves stay verified" in warning


@pytest.mark.parametrize("value", ["", "False", "1", "yes", "truely"])
def test_nothing_but_true_switches_verification_off(value: str) -> None:
    agent = Agent({"Agent.SkipCertValidation": value})
    assert agent.settings().verified
    assert agent.warnings == []


def test_nothing_in_an_environment_switches_verification_off() -> None:
    names = ("AGENT_SKIPCERTVALIDATION", "NODE_TLS_REJECT_UNAUTHORIZED", "PYTHONHTTPSVERIFY",
             "VSTS_ARM_REST_IGNORE_SSL_ERRORS", "GIT_SSL_NO_VERIFY")  # fmt: skip
    for value in ("True", "0", "1"):
        agent = Agent({}, dict.fromkeys(names, value))
        assert agent.settings().verified


def test_workstation_verifies_whatever_its_environment_says(
    tmp_path: Path, authority_of_peers: Authority
) -> None:
    given = dict.fromkeys(["trust_server", "ca", "root_ca"], "")
    arguments = Namespace(**given, root_key=[], no_first_use=False)
    with SmallServer(lambda _: Reply(404), tls=authority_of_peers.server_context()) as server:
        environment = {
            "DOCKER_CONFIG": str(tmp_path),
            "DOCKER_CONTENT_TRUST_SERVER": server.origin,
            "AGENT_SKIPCERTVALIDATION": "True",
        }
        desk = Desk(environment, arguments, Console(sys.stdout, sys.stderr))
        with pytest.raises(CertificateError, match="its certificate cannot be verified"):
            desk.server(Repository.parse("registry.example/app")).refresh()
    assert server.requests == []


@pytest.mark.parametrize("entry", ["(a*)*b(?#(()", "(?x)(a*)*b#(((", "(a|a|a|a){13}x"])
def test_entry_that_hides_its_ways_is_left_out(entry: str) -> None:
    with pytest.raises(ValueError, match="too many ways"):
        pattern(entry)
