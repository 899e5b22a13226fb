"""Claims about `signimage.enginesdk`: an engine on loopback that can lie.

Builds and pushes with a real engine are in `tests/peers/test_engine.py`.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from signimage.dockerbuild import BuildRequest
from signimage.dockerconfig import DockerConfig
from signimage.engine import Docker
from signimage.enginesdk import engine_options
from signimage.enginestream import Pushed, Versions
from signimage.errors import (
    BuildError,
    EngineError,
    FormatError,
    InputError,
    NotFoundError,
    RemoteError,
    UnauthorizedError,
)
from signimage.oci import Digest
from signimage.transport import Credentials
from unit.small_server import Reply, Request, SmallServer

IMAGE_ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64
LOGIN = Credentials("me", "pass:wörd")
AUX = {"aux": {"Tag": "1.2", "Digest": DIGEST, "Size": 528}}


class SmallEngine:
    """As much of the Engine API as a build and a push use; `lines` is what they report."""

    def __init__(self) -> None:
        self.lines: list[Mapping[str, object]] = []
        self.server = SmallServer(self._answer)

    def _answer(self, request: Request) -> Reply:
        path = urlsplit(request.path).path
        if path.endswith("/version"):
            version = b'{"ApiVersion":"1.45","Version":"28.2.2"}'
            return Reply(200, version, {"Content-Type": "application/json"})
        if path.endswith("/tag"):
            return Reply(201)
        if path.endswith("/images/alpine:3.20/json"):
            return Reply(200, json.dumps({"RepoDigests": [f"alpine@{DIGEST}"]}).encode())
        if path.endswith("/json"):
            return Reply(404, b'{"message":"No such image"}')
        body = b"".join(json.dumps(line).encode() + b"\r\n" for line in self.lines)
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        return Reply(raw=head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


@pytest.fixture
def engine() -> Iterator[SmallEngine]:
    it = SmallEngine()
    with it.server:
        yield it


@pytest.fixture
def config(tmp_path: Path) -> DockerConfig:
    return DockerConfig(tmp_path, {"DOCKER_CONFIG": str(tmp_path)})


@pytest.fixture
def docker(engine: SmallEngine, config: DockerConfig, tmp_path: Path) -> Iterator[Docker]:
    host = engine.server.origin.replace("http", "tcp")
    with Docker({"DOCKER_HOST": host, "HOME": str(tmp_path), "PATH": "/no"}, config) as it:
        yield it


def push(docker: Docker, credentials: Credentials | None = LOGIN) -> Pushed:
    return docker.push("reg.example.com/team/app", "1.2", credentials, lambda _: None)


def test_push_sends_one_tag_with_its_login(docker: Docker, engine: SmallEngine) -> None:
    engine.lines = [{"status": "The push refers to repository"}, AUX]
    assert push(docker) == Pushed(Digest(DIGEST), 528)
    request = engine.server.requests[-1]
    assert request.path == "/v1.45/images/reg.example.com/team/app/push?tag=1.2"
    login = json.loads(base64.urlsafe_b64decode(request.headers["X-Registry-Auth"]))
    assert login == {"username": "me", "password": "pass:wörd"}


def test_push_sends_an_identity_token_as_what_it_is(docker: Docker, engine: SmallEngine) -> None:
    """As a password it would go to whoever asks for Basic."""
    engine.lines = [AUX]
    push(docker, Credentials("<token>", "l0ng-lived", is_identity_token=True))
    login = json.loads(
        base64.urlsafe_b64decode(engine.server.requests[-1].headers["X-Registry-Auth"])
    )
    assert login == {"identitytoken": "l0ng-lived"}


def test_push_without_a_login_sends_an_empty_one(docker: Docker, engine: SmallEngine) -> None:
    engine.lines = [AUX]
    push(docker, None)
    header = engine.server.requests[-1].headers["X-Registry-Auth"]
    assert json.loads(base64.urlsafe_b64decode(header)) == {}


def test_further_objects_of_newer_engines_are_tolerated(
    docker: Docker, engine: SmallEngine
) -> None:
    other = {"aux": {"manifestPushedInsteadOfIndex": True, "originalIndex": {}}}
    engine.lines = [other, AUX, {"aux": None}, {"aux": {"Tag": "1.2"}}, other]
    assert push(docker).digest == Digest(DIGEST)


def test_progress_rises_to_the_end(docker: Docker, engine: SmallEngine) -> None:
    def sent(layer: str, current: int, total: int) -> dict[str, object]:
        detail = {"current": current, "total": total}
        return {"status": "Pushing", "id": layer, "progressDetail": detail}

    done = {"status": "Pushed", "progressDetail": {}}
    engine.lines = [
        {"status": "Preparing", "id": "a", "progressDetail": {}}, sent("a", 10, 100),
        sent("a", 50, 100), sent("b", 0, 100), sent("a", 120, 100), sent("b", 50, 100),
        {**done, "id": "a"}, {**done, "id": "b"}, {**done, "id": "c"}, AUX,
    ]  # fmt: skip
    seen: list[int] = []
    docker.push("h/a", "1", None, seen.append)
    assert seen == [10, 50, 75, 100]


@pytest.mark.parametrize(
    ("said", "kind", "claim"),
    [
        ("denied: requested access to the resource is denied", UnauthorizedError, "does not allow"),
        ("unauthorized: authentication required", UnauthorizedError, "does not allow it: unauth"),
        ("no basic auth credentials", UnauthorizedError, "does not allow it"),
        ("name unknown: repository not known", NotFoundError, "does not know the repository"),
        ('Get "https://h/v2/": dial tcp: refused\r\n##vso[x]', EngineError, "refused ##vso"),
    ],
)  # fmt: skip
def test_error_inside_of_a_push_that_looks_fine_is_one(
    docker: Docker, engine: SmallEngine, said: str, kind: type[RemoteError], claim: str
) -> None:
    engine.lines = [{"status": "x"}, {"errorDetail": {"message": said}, "error": said}, AUX]
    with pytest.raises(kind, match=f"^push of reg.example.com/team/app:1.2.*{claim}"):
        push(docker)


def test_push_without_a_digest_is_none(docker: Docker, engine: SmallEngine) -> None:
    engine.lines = [{"status": "1.2: pushed"}]
    with pytest.raises(EngineError, match="expected a digest from the engine, got none"):
        push(docker)


def test_push_with_a_digest_that_is_none_is_refused(docker: Docker, engine: SmallEngine) -> None:
    engine.lines = [{"aux": {"Digest": "latest"}}]
    with pytest.raises(FormatError, match=r"^digest: expected sha256:"):
        push(docker)


def test_base_image_is_named_by_labels(docker: Docker) -> None:
    assert docker.base_image_labels("alpine:3.20") == {
        "image.base.ref.name": "alpine:3.20", "image.base.digest": DIGEST
    }  # fmt: skip
    assert docker.base_image_labels("debian") == {}


# --- building without a command line --------------------------------------------------------


def request_in(folder: Path) -> BuildRequest:
    (folder / "Dockerfile").write_text("FROM scratch\n")
    names = ("reg.example.com/app:1", "reg.example.com/app:2")
    return BuildRequest(folder / "Dockerfile", folder, names, {"l": "v"}, ("--build-arg", "A=1"))


def test_engine_builds_and_names_where_no_command_line_is(
    docker: Docker, engine: SmallEngine, tmp_path: Path
) -> None:
    engine.lines = [{"stream": "Step 1/1\n"}, {"status": "Pulling"}, {"aux": {"ID": IMAGE_ID}}]
    output: list[bytes] = []
    assert docker.build(request_in(tmp_path), output.append) == IMAGE_ID
    assert output == [b"Step 1/1\n", b"Pulling\n"]
    build, tag = engine.server.requests[-2:]
    query = {name: values[0] for name, values in parse_qs(urlsplit(build.path).query).items()}
    assert query["t"] == "reg.example.com/app:1"
    assert json.loads(query["labels"]) == {"l": "v"}
    assert json.loads(query["buildargs"]) == {"A": "1"}
    assert parse_qs(urlsplit(tag.path).query)["tag"] == ["2"]


def test_error_inside_of_a_build_that_looks_fine_is_one(
    docker: Docker, engine: SmallEngine, tmp_path: Path
) -> None:
    engine.lines = [{"stream": "Step 1/1\n"}, {"errorDetail": {"message": "no such\nfile"}}]
    with pytest.raises(BuildError, match=r"^image was not built: no such file$"):
        docker.build(request_in(tmp_path), lambda _: None)


def test_build_without_an_image_is_none(
    docker: Docker, engine: SmallEngine, tmp_path: Path
) -> None:
    engine.lines = [{"stream": "Step 1/1\n"}]
    with pytest.raises(EngineError, match="expected the ID of the built image, got none"):
        docker.build(request_in(tmp_path), lambda _: None)


# --- no engine ------------------------------------------------------------------------------


def test_absent_engine_is_said_in_one_sentence(config: DockerConfig, tmp_path: Path) -> None:
    claim = (
        rf"^Docker engine cannot be reached at unix://{tmp_path}/no\.sock: no such file or direct"
    )
    with (
        Docker({"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}, config) as docker,
        pytest.raises(EngineError, match=claim),
    ):
        docker.check()


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "ssh://nobody@127.0.0.1", "nonsense"])
def test_engine_that_cannot_be_used_is_named(config: DockerConfig, host: str) -> None:
    with (
        Docker({"DOCKER_HOST": host}, config) as docker,
        pytest.raises(EngineError, match=rf"^Docker engine cannot be reached at {host}: "),
    ):
        docker.check()


def test_engine_that_refuses_is_quoted(engine: SmallEngine, docker: Docker) -> None:
    docker.check()
    engine.server.answer_with(lambda _: Reply(500, b'{"message":"no space left: x"}'))
    with pytest.raises(EngineError, match=r"^Docker engine refused: no space left: x$"):
        docker.find("h/a:1")


@pytest.mark.parametrize("host", ["npipe:////./pipe/docker_engine", "ssh://nobody@127.0.0.1"])
def test_engine_that_takes_the_command_says_so(config: DockerConfig, host: str) -> None:
    with (
        Docker({"DOCKER_HOST": host}, config) as docker,
        pytest.raises(EngineError, match=rf"at {host}: that takes the docker command") as caught,
    ):
        docker.check()
    assert caught.value.hint.startswith("Install the docker command on the agent")


def test_library_and_engine_tell_their_versions(docker: Docker) -> None:
    versions = docker.versions()
    assert versions == Versions(versions.client, "28.2.2")
    assert versions.client.startswith("docker-py ")


def test_engine_without_a_command_line_understands_some_arguments() -> None:
    arguments = ("--build-arg", "A=1=2", "--build-arg=B", "--build-arg=C", "--target=x", "--pull")
    assert engine_options(arguments, {"B": "b"}) == {
        "buildargs": {"A": "1=2", "B": "b"}, "target": "x", "pull": True
    }  # fmt: skip


def test_engine_without_a_command_line_refuses_the_others() -> None:
    with pytest.raises(InputError, match="'--secret' needs the docker command line") as caught:
        engine_options(("--secret=id=s3cret",), {})
    assert "s3cret" not in caught.value.sentence
