"""Acceptance cases 50 and 51: what the command line shows, and whom it asks with which words."""

import argparse
import base64
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from signimage.administration import inspection
from signimage.console import Console
from signimage.desk import Desk
from signimage.errors import CertificateError, InputError, RemoteError, UnauthorizedError
from signimage.metadata import RELEASES
from signimage.oci import Repository
from unit.certificates import Authority
from unit.repositories import GUN, IMAGE, GoodRepository, believe, content
from unit.small_server import Reply, Request, SmallServer
from unit.vectors import GUNS, MOMENT, VECTORS, role_files

HERE = "registry.example"
SECRET = base64.b64encode(b"me:p\xc3\xa4ss:word").decode()


def test_an_inspection_is_what_docker_printed_of_the_same_repository() -> None:
    """Case 50: member by member, in Docker's order and with its indentation."""
    printed = (VECTORS / "cli-output.txt").read_text("utf-8")
    gun = GUNS["docker-b"]
    text = printed.split(f"$ docker trust inspect {gun}\n", 1)[1].split("\nrc=", 1)[0]
    repository = believe(role_files("docker-b"), now=MOMENT, gun=gun)
    assert json.dumps([inspection(gun, repository)], indent=4) == text


def test_an_inspection_shows_numbers_of_any_length() -> None:
    """Case 50: Python reads no more than 4300 digits, and a signer may sign any name."""
    names = ["2", "10", "9" * 5000]
    good = GoodRepository()
    good.delegated[RELEASES] = content(dict.fromkeys(reversed(names), IMAGE))
    rows = inspection("app", believe(good.files()))["SignedTags"]
    assert [row["SignedTag"] for row in rows] == names


def test_an_inspection_shows_nothing_that_a_role_may_not_release() -> None:
    """Case 50: what no consumer gets is not listed among the signed tags."""
    good = GoodRepository()
    entries = tuple(replace(each, paths=("v",)) for each in good.targets.delegations)
    good.targets = replace(good.targets, delegations=entries)
    good.delegated[RELEASES] = content({"1.0": IMAGE, "v1": IMAGE})
    shown = inspection(GUN, believe(good.files()))["SignedTags"]
    assert [each["SignedTag"] for each in shown] == ["v1"]


# --- Whom to ask, and as whom -----------------------------------------------------------------


@dataclass
class Workplace:
    """A Docker configuration folder, and a trust server that asks who is there."""

    config: Path
    server: SmallServer
    environment: dict[str, str] = field(default_factory=dict)

    def desk(self, **arguments: object) -> Desk:
        """The desk of a command with these *arguments*."""
        given = {"trust_server": "", "ca": "", "root_key": [], "root_ca": "", "no_first_use": False}
        environment = {"DOCKER_CONFIG": str(self.config), **self.environment}
        console = Console(sys.stdout, sys.stderr)
        return Desk(environment, argparse.Namespace(**{**given, **arguments}), console)

    def login(self, configuration: object) -> None:
        """Write *configuration* as Docker's."""
        (self.config / "config.json").write_text(json.dumps(configuration), "utf-8")

    def authorizations(self) -> list[str | None]:
        """What the server was told about the visitor, request by request."""
        return [request.headers["Authorization"] for request in self.server.requests]


def _nobody_enters(_: Request) -> Reply:
    return Reply(401, b"", {"WWW-Authenticate": 'Basic realm="trust"'})


@pytest.fixture
def workplace(tmp_path: Path, authority_of_peers: Authority) -> Iterator[Workplace]:
    """Start a trust server that lets nobody in, whose authority Docker's folder knows."""
    with SmallServer(_nobody_enters, tls=authority_of_peers.server_context()) as server:
        tls = tmp_path / "docker" / "tls" / server.host
        tls.mkdir(parents=True)
        shutil.copy(authority_of_peers.ca_file, tls / "ca.crt")
        it = Workplace(tmp_path / "docker", server)
        it.environment["DOCKER_CONTENT_TRUST_SERVER"] = server.origin
        yield it


@pytest.mark.parametrize(
    ("name", "url", "gun"),
    [
        ("alpine", "https://notary.docker.io", "docker.io/library/alpine"),
        ("team/app", "https://notary.docker.io", "docker.io/team/app"),
        (f"{HERE}/team/app", f"https://{HERE}", f"{HERE}/team/app"),
        ("localhost:5000/x", "https://localhost:5000", "localhost:5000/x"),
    ],
)
def test_the_trust_server_follows_from_the_name_of_the_repository(
    workplace: Workplace, name: str, url: str, gun: str
) -> None:
    """Case 51: and so does the GUN, as Docker derives both."""
    del workplace.environment["DOCKER_CONTENT_TRUST_SERVER"]
    server = workplace.desk().server(Repository.parse(name))
    assert (server.api.url, server.gun) == (url, gun)


def test_the_environment_names_another_server_and_an_option_comes_before_it(
    workplace: Workplace,
) -> None:
    """Case 51: Docker's variable; over https alone, whoever names it."""
    repository = Repository.parse("alpine")
    workplace.environment["DOCKER_CONTENT_TRUST_SERVER"] = "https://one.example/prefix/"
    assert workplace.desk().server(repository).api.url == "https://one.example/prefix"
    desk = workplace.desk(trust_server="https://two.example")
    assert desk.server(repository).api.url == "https://two.example"
    with pytest.raises(
        InputError, match=r"trust server: expected an https:// URL.*, got 'http://x'"
    ):
        workplace.desk(trust_server="http://x").server(repository)


def test_authorities_are_those_of_dockers_folder_for_that_host_and_port(
    workplace: Workplace,
) -> None:
    """Case 51: another port is another server."""
    repository = Repository.parse(f"{HERE}/app")
    with pytest.raises(UnauthorizedError, match="answered 401"):
        workplace.desk().server(repository).refresh()
    folder = workplace.config / "tls" / workplace.server.host
    folder.rename(folder.with_name("127.0.0.1:1"))
    with pytest.raises(CertificateError, match="its certificate cannot be verified"):
        workplace.desk().server(repository).refresh()


def test_credentials_of_the_registry_are_given_to_its_trust_server(workplace: Workplace) -> None:
    """Case 51: those of the registry's own host, and only once they are asked for."""
    workplace.login({"auths": {HERE: {"auth": SECRET}, "other.example": {"auth": "eDp5"}}})
    with pytest.raises(UnauthorizedError, match="answered 401"):
        workplace.desk().server(Repository.parse(f"{HERE}/app")).refresh()
    assert workplace.authorizations() == [None, f"Basic {SECRET}"]


def test_a_visitor_without_credentials_for_the_registry_gives_none(workplace: Workplace) -> None:
    """Case 51: those of other registries stay where they are."""
    workplace.login({"auths": {"other.example": {"auth": SECRET}}})
    with pytest.raises(UnauthorizedError, match="answered 401"):
        workplace.desk().server(Repository.parse(f"{HERE}/app")).refresh()
    assert workplace.authorizations() == [None]


@pytest.mark.parametrize("how", ["credsStore", "credHelpers"])
def test_a_credential_helper_is_asked(workplace: Workplace, tmp_path: Path, how: str) -> None:
    """Case 51: for all registries, or for this one."""
    helper = tmp_path / "docker-credential-vault"
    answer = json.dumps({"Username": "me", "Secret": "päss:word", "ServerURL": HERE})
    helper.write_text(f"#!/bin/sh\ncat > {tmp_path}/asked\nprintf '%s' '{answer}'\n", "utf-8")
    helper.chmod(0o755)
    workplace.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    workplace.login({how: "vault" if how == "credsStore" else {HERE: "vault"}})
    with pytest.raises(UnauthorizedError, match="answered 401"):
        workplace.desk().server(Repository.parse(f"{HERE}/app")).refresh()
    assert (tmp_path / "asked").read_text("utf-8").strip() == HERE
    assert workplace.authorizations() == [None, f"Basic {SECRET}"]


def test_an_identity_token_is_exchanged_and_never_sent_as_a_password(workplace: Workplace) -> None:
    """Case 51: in the form that Docker sends, with the scope in one field."""

    def bearer(request: Request) -> Reply:
        if request.path == "/token":
            return Reply(200, b'{"access_token":"short-lived"}')
        realm = f'Bearer realm="{workplace.server.origin}/token",service="trust"'
        return Reply(401, b"", {"WWW-Authenticate": realm})

    workplace.server.answer_with(bearer)
    auth = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
    workplace.login({"auths": {HERE: {"auth": auth, "identitytoken": "long-lived"}}})
    with pytest.raises(UnauthorizedError, match="does not let the given user read the trust data"):
        workplace.desk().server(Repository.parse(f"{HERE}/app")).refresh()
    asked = workplace.server.requests[1]
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["refresh_token"],
        "service": ["trust"],
        "client_id": ["signimage"],
        "scope": [f"repository:{HERE}/app:pull"],
        "refresh_token": ["long-lived"],
    }
    assert workplace.authorizations() == [None, None, "Bearer short-lived"]


@pytest.mark.parametrize(
    ("name", "command"), [(f"{HERE}/app", f"docker login {HERE}"), ("app", "docker login")]
)
def test_who_has_no_login_is_told_how_to_get_one(
    workplace: Workplace, name: str, command: str
) -> None:
    """Case 51: Docker's own command, which both programs then know the login by."""
    with pytest.raises(UnauthorizedError, match="does not let anonymous users read") as caught:
        workplace.desk().server(Repository.parse(name)).refresh()
    assert caught.value.hint == f"An account is wanted here; log in with: {command}"


def test_who_has_a_login_that_is_refused_is_told_to_log_in_again(workplace: Workplace) -> None:
    """Case 51: who one is is told apart from what one may do."""
    workplace.login({"auths": {HERE: {"auth": SECRET}}})
    with pytest.raises(UnauthorizedError, match="not accept the given user name and") as caught:
        workplace.desk().server(Repository.parse(f"{HERE}/app")).refresh()
    assert caught.value.hint == f"Log in again with: docker login {HERE}"


@pytest.mark.parametrize("actions", ["pull", "pull,push"])
def test_a_token_is_asked_for_with_the_whole_name_and_no_more_rights_than_needed(
    workplace: Workplace, actions: str
) -> None:
    """Case 51: the scope of a trust server's token names the GUN, host included."""

    def bearer(request: Request) -> Reply:
        if request.path.startswith("/token"):
            return Reply(403)
        realm = f'Bearer realm="{workplace.server.origin}/token",service="trust",scope="x"'
        return Reply(401, b"", {"WWW-Authenticate": realm})

    workplace.server.answer_with(bearer)
    workplace.login({"auths": {HERE: {"auth": SECRET}}})
    server = workplace.desk().server(Repository.parse(f"{HERE}/team/app"), actions=actions)
    with pytest.raises(RemoteError, match="token"):
        server.refresh()
    asked = workplace.server.requests[-1]
    scope = f"repository:{HERE}/team/app:{actions}".replace(":", "%3A").replace("/", "%2F")
    assert f"scope={scope.replace(',', '%2C')}" in asked.path
    assert asked.headers["Authorization"] == f"Basic {SECRET}"
