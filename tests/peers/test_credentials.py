"""`signimage.credentials` and `signimage.authorization` beside the Docker CLI.

Both look at the same configuration and at the same small trust server; what they tell it of the
visitor is compared.
"""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from peers.stack import Stack
from signimage.authorization import TokenAuthorizer
from signimage.credentials import StoredLogin
from signimage.errors import UnauthorizedError
from signimage.notary import TrustServer
from signimage.oci import Repository
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi
from unit.certificates import make_authority
from unit.small_server import Reply, Request, SmallServer

HOST = "registry.example:5000"
HUB_KEY = "https://index.docker.io/v1/"
ME = base64.b64encode("me:päss:word".encode()).decode()
OTHER = base64.b64encode(b"other:x").decode()


@dataclass(frozen=True)
class Place:
    """A Docker folder with a helper on PATH, and a trust server that lets nobody in."""

    folder: Path
    server: SmallServer
    stack: Stack

    def configure(self, settings: dict[str, object]) -> None:
        """Write Docker's configuration."""
        (self.folder / "config.json").write_text(json.dumps(settings), "utf-8")

    def helper(self, name: str, script: str) -> None:
        """Put a credential helper on PATH."""
        file = self.folder / f"docker-credential-{name}"
        file.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n", "utf-8")
        file.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What both programs find everything by."""
        return {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "DOCKER_CONFIG": str(self.folder),
            "DOCKER_CONTENT_TRUST_SERVER": self.server.origin,
        }

    def told_by_docker(self, name: str) -> set[str]:
        """What the Docker CLI tells of the visitor when it looks at a repository."""
        self.server.requests.clear()
        subprocess.run(
            [self.stack.docker_cli, "trust", "inspect", name],
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return self._told()

    def told_by_us(self, name: str) -> set[str]:
        """What we tell of the visitor when we look at it."""
        self.server.requests.clear()
        repository = Repository.parse(name)
        ca = self.folder / "tls" / self.server.host / "ca.crt"
        login = StoredLogin(self.folder, repository.host, self.environment)
        with Transport(TransportSettings(ca_files=(ca,), backoff_s=0.001)) as transport:
            authorizer = TokenAuthorizer(transport, login, f"repository:{repository.gun}:pull")
            api = TrustApi(transport, self.server.origin, repository.gun, authorizer)
            with pytest.raises(UnauthorizedError, match="it answered 401"):
                TrustServer(api).refresh()
        return self._told()

    def _told(self) -> set[str]:
        assert self.server.requests, "nobody came"
        told = {str(request.headers["Authorization"]) for request in self.server.requests}
        forms = (parse_qs(request.body.decode()) for request in self.server.requests)
        told |= {
            f"{name}={form[name]}"
            for form in forms
            for name in ("grant_type", "refresh_token", "service")
            if name in form
        }
        return told - {"None"}


def by_password(_: Request) -> Reply:
    return Reply(401, b"", {"WWW-Authenticate": 'Basic realm="trust"'})


@pytest.fixture
def place(stack: Stack, tmp_path: Path) -> Iterator[Place]:
    authority = make_authority(tmp_path)
    with SmallServer(by_password, tls=authority.server_context()) as server:
        tls = tmp_path / "tls" / server.host
        tls.mkdir(parents=True)
        shutil.copy(authority.ca_file, tls / "ca.crt")
        yield Place(tmp_path, server, stack)


def by_token(place: Place) -> Callable[[Request], Reply]:
    """Challenge for tokens, and give out one that opens nothing."""

    def answer(request: Request) -> Reply:
        if request.path.startswith("/token"):
            return Reply(200, b'{"access_token":"opens-nothing","token":"opens-nothing"}')
        realm = f'Bearer realm="{place.server.origin}/token",service="trust"'
        return Reply(401, b"", {"WWW-Authenticate": realm})

    return answer


def printing(username: str, secret: str) -> str:
    return f"printf '%s' '{json.dumps({'Username': username, 'Secret': secret})}'"


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        (f"{HOST}/app", {}, set()),
        (f"{HOST}/app", {"auths": {HOST: {"auth": ME}}}, {f"Basic {ME}"}),
        (
            f"{HOST}/app",
            {"auths": {f"https://{HOST}/v1/": {"auth": OTHER}, HOST: {"auth": ME}}},
            {f"Basic {ME}"},
        ),
        (f"{HOST}/app", {"auths": {f"https://{HOST}/v1/": {"auth": ME}}}, {f"Basic {ME}"}),
        (f"{HOST}/app", {"auths": {f"http://{HOST}": {"auth": ME}}}, {f"Basic {ME}"}),
        (f"{HOST}/app", {"auths": {"registry.example": {"auth": ME}}}, set()),
        (
            f"{HOST}/app",
            {"auths": {HOST: {"username": "me", "password": "päss:word"}}},
            {f"Basic {ME}"},
        ),
        ("alpine", {"auths": {HUB_KEY: {"auth": ME}}}, {f"Basic {ME}"}),
        ("alpine", {"auths": {HOST: {"auth": ME}}}, set()),
        (f"{HOST}/app", {"credsStore": "me"}, {f"Basic {ME}"}),
        ("alpine", {"credsStore": "me"}, {f"Basic {ME}"}),
        (f"{HOST}/app", {"credHelpers": {HOST: "me"}, "credsStore": "other"}, {f"Basic {ME}"}),
        (
            f"{HOST}/app",
            {"credHelpers": {HOST: ""}, "credsStore": "other", "auths": {HOST: {"auth": ME}}},
            {f"Basic {ME}"},
        ),
        (f"{HOST}/app", {"credsStore": "none", "auths": {HOST: {"auth": ME}}}, set()),
        (f"{HOST}/app", {"credsStore": "empty", "auths": {HOST: {"auth": ME}}}, set()),
    ],
)
def test_a_password_is_found_where_docker_finds_it(
    place: Place, name: str, settings: dict[str, object], told: set[str]
) -> None:
    """Case 51: for every key, helper and absence that Docker knows."""
    place.helper("me", printing("me", "päss:word"))
    place.helper("other", printing("other", "x"))
    place.helper("none", "echo credentials not found in native keychain; exit 1")
    place.helper("empty", printing("", ""))
    place.configure(settings)
    assert place.told_by_us(name) == told
    # Docker says that it has neither name nor password; we say nothing.
    assert place.told_by_docker(name) - {"Basic Og=="} == told


@pytest.mark.parametrize(
    "settings",
    [
        {"auths": {HOST: {"auth": ME, "identitytoken": "long-lived"}}},
        {"auths": {HOST: {"identitytoken": "long-lived"}}},
        {"credsStore": "identity"},
        {"credHelpers": {HOST: "identity"}, "auths": {HOST: {"auth": ME}}},
    ],
)
def test_an_identity_token_is_exchanged_as_docker_exchanges_it(
    place: Place, settings: dict[str, object]
) -> None:
    """Case 51: wherever it is kept, and also where a password is kept beside it."""
    place.helper("identity", printing("<token>", "long-lived"))
    place.server.answer_with(by_token(place))
    place.configure(settings)
    told = place.told_by_us(f"{HOST}/app")
    assert told == place.told_by_docker(f"{HOST}/app")
    assert told == {
        "grant_type=['refresh_token']",
        "refresh_token=['long-lived']",
        "service=['trust']",
        "Bearer opens-nothing",
    }


def test_a_password_gets_the_same_token_as_dockers(place: Place) -> None:
    place.server.answer_with(by_token(place))
    place.configure({"auths": {HOST: {"auth": ME}}})
    told = place.told_by_us(f"{HOST}/app")
    assert told == place.told_by_docker(f"{HOST}/app")
    assert told == {f"Basic {ME}", "Bearer opens-nothing"}
