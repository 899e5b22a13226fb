"""Claims about `signimage.engine`: real child programs, and an engine on loopback that can lie.

Builds and pushes with a real engine are in `tests/peers/test_engine.py`.
"""

import base64
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from signimage.dockerbuild import BuildRequest, build_command, loaded
from signimage.dockerconfig import DockerConfig, engine_options, split_arguments
from signimage.engine import Docker, Pushed, has_buildx
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
from signimage.programs import run_program
from signimage.transport import Credentials
from unit.small_server import Reply, Request, SmallServer

IMAGE_ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64
LOGIN = Credentials("me", "pass:wörd")
AUX = {"aux": {"Tag": "1.2", "Digest": DIGEST, "Size": 528}}


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "dropped"),
    [
        ("", (), ()),
        ("--build-arg A=1  --pull\n--no-cache", ("--build-arg", "A=1", "--pull", "--no-cache"), ()),
        ("--label 'A=b c' \"x=$(y) `z`\"", ("--label", "A=b c", "x=$(y) `z`"), ()),
        ("--disable-content-trust=false --pull", ("--pull",), ("--disable-content-trust=false",)),
        ("--disable-content-trust", (), ("--disable-content-trust",)),
        ("--label a=--disable-content-trust", ("--label", "a=--disable-content-trust"), ()),
    ],
)  # fmt: skip
def test_arguments_are_split_and_never_run(
    text: str, words: tuple[str, ...], dropped: tuple[str, ...]
) -> None:
    assert split_arguments(text) == (words, dropped)


def test_open_quotation_is_wrong_input_and_not_shown() -> None:
    with pytest.raises(InputError, match="expected every quotation to be closed") as caught:
        split_arguments("--build-arg 'TOKEN=s3cret")
    assert "s3cret" not in str(caught.value)


def test_command_is_a_list_with_the_users_arguments_before_our_id_file() -> None:
    request = BuildRequest(
        Path("/s/web api/Dockerfile"), Path("/s/web api"), ("h/a:1", "h/a:2"), {"l": "a b;$x"},
        ("--pull", "--iidfile", "/theirs"),
    )  # fmt: skip
    assert build_command("/bin/docker", request, Path("/t/id")) == [
        "/bin/docker", "build", "--file", "/s/web api/Dockerfile", "--tag", "h/a:1", "--tag",
        "h/a:2", "--label", "l=a b;$x", "--pull", "--iidfile", "/theirs", "--iidfile", "/t/id",
        "/s/web api",
    ]  # fmt: skip


def test_engine_without_a_command_line_understands_some_arguments() -> None:
    arguments = ("--build-arg", "A=1=2", "--build-arg=B", "--build-arg=C", "--target=x", "--pull")
    assert engine_options(arguments, {"B": "b"}) == {
        "buildargs": {"A": "1=2", "B": "b"}, "target": "x", "pull": True
    }  # fmt: skip


def test_engine_without_a_command_line_refuses_the_others() -> None:
    with pytest.raises(InputError, match="'--secret' needs the docker command line") as caught:
        engine_options(("--secret=id=s3cret",), {})
    assert "s3cret" not in caught.value.sentence


# --- child programs -------------------------------------------------------------------------


def script(text: str) -> list[str]:
    return [sys.executable, "-I", "-c", text]


def test_both_streams_arrive_line_by_line_as_they_are() -> None:
    lines: list[bytes] = []
    status = run_program(
        script("import os; os.write(1, b'a\\r\\n\\xff\\n'); os.write(2, b'b\\nend')"),
        {},
        lines.append,
    )
    assert (status, lines) == (0, [b"a\r\n", b"\xff\n", b"b\n", b"end"])


def test_endless_line_arrives_in_parts() -> None:
    lines: list[bytes] = []
    run_program(script("print('x' * 200_000)"), {}, lines.append)
    assert max(map(len, lines)) == 64 * 1024
    assert b"".join(lines) == b"x" * 200_000 + b"\n"


def test_program_gets_the_given_environment_and_no_input() -> None:
    lines: list[bytes] = []
    run_program(
        script("import os, sys; print(sys.stdin.read(), sorted(os.environ))"),
        {"ONLY": "this"},
        lines.append,
    )
    assert b"'ONLY'" in lines[0]
    assert b"PATH" not in lines[0]


def test_status_of_a_program_is_returned() -> None:
    assert run_program(script("raise SystemExit(7)"), {}, print) == 7


def test_program_that_cannot_be_started_is_named() -> None:
    with pytest.raises(EngineError, match=r"^/no/docker cannot be started: no such file"):
        run_program(["/no/docker"], {}, print)


class CancelledError(BaseException):
    """What a signal handler may raise."""


@pytest.mark.parametrize("deaf", [False, True])
def test_interruption_ends_the_program_and_all_that_it_started(*, deaf: bool) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if deaf else "pass"
    parent = (
        f"import os, signal, subprocess, sys, time; {ignore}\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), child.pid, flush=True); time.sleep(600)"
    )
    pids: list[int] = []

    def cancel(line: bytes) -> None:
        pids.extend(map(int, line.split()))
        raise CancelledError("by the agent")

    with pytest.raises(CancelledError, match=r"^by the agent$"):
        run_program(script(parent), dict(os.environ), cancel)
    assert len(pids) == 2
    for pid in pids:
        wait_until_gone(pid)


def wait_until_gone(pid: int) -> None:
    """Return once a process does nothing any more; a zombie waits for its new parent only."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still running")


# --- an engine ------------------------------------------------------------------------------


class SmallEngine:
    """As much of the Engine API as a build and a push use; `lines` is what they report."""

    def __init__(self) -> None:
        self.lines: list[Mapping[str, object]] = []
        self.server = SmallServer(self._answer)

    def _answer(self, request: Request) -> Reply:
        path = urlsplit(request.path).path
        if path == "/version":
            return Reply(200, b'{"ApiVersion":"1.45"}', {"Content-Type": "application/json"})
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


def test_image_gets_a_further_name(docker: Docker, engine: SmallEngine) -> None:
    docker.tag(IMAGE_ID, "reg.example.com/team/app", "1.3")
    parts = urlsplit(engine.server.requests[-1].path)
    assert parts.path == f"/v1.45/images/{IMAGE_ID}/tag"
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert query == {"repo": "reg.example.com/team/app", "tag": "1.3", "force": "0"}


def test_base_image_is_named_by_labels(docker: Docker, tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM alpine:3.20\n")
    assert docker.base_image_labels(file) == {
        "image.base.ref.name": "alpine:3.20", "image.base.digest": DIGEST
    }  # fmt: skip
    for absent in ("scratch", "debian"):
        file.write_text(f"FROM {absent}\n")
        assert docker.base_image_labels(file) == {}


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


# --- building with a command line -----------------------------------------------------------


def install(folder: Path, body: str) -> None:
    """Put a program called docker into *folder*; its last arguments are ID file and context."""
    program = folder / "docker"
    program.write_text(f"#!{sys.executable} -I\nimport os, sys\n{body}\n")
    program.chmod(0o755)


def cli(engine: SmallEngine, config: DockerConfig, folder: Path, **more: str) -> Docker:
    host = engine.server.origin.replace("http", "tcp")
    return Docker({"DOCKER_HOST": host, "HOME": str(folder), "PATH": str(folder), **more}, config)


GOOD_BUILD = (
    "if 'version' in sys.argv: sys.exit(BUILDX)\n"
    f"open(sys.argv[-2], 'w').write('{IMAGE_ID}')\n"
    "print(sorted(os.environ.items())); print('to stderr', file=sys.stderr)"
)


@pytest.mark.parametrize(
    ("status", "own", "used"), [(0, None, "1"), (1, None, "0"), (0, "0", "0"), (1, "1", "1")]
)
def test_command_line_builds_with_buildkit_where_it_can(
    engine: SmallEngine,
    config: DockerConfig,
    tmp_path: Path,
    status: int,
    own: str | None,
    used: str,
) -> None:
    install(tmp_path, GOOD_BUILD.replace("BUILDX", str(status)))
    wish = {} if own is None else {"DOCKER_BUILDKIT": own}
    output: list[bytes] = []
    with cli(engine, config, tmp_path, SECRET_TOKEN="x", **wish) as docker:
        assert docker.build(request_in(tmp_path), output.append) == IMAGE_ID
    text = b"".join(output).decode()
    assert f"('DOCKER_BUILDKIT', '{used}')" in text
    assert f"('DOCKER_CONFIG', '{config.folder}')" in text
    assert "to stderr" in text
    assert "SECRET_TOKEN" not in text


@pytest.mark.parametrize(
    ("body", "claim"),
    [
        ("print('ERROR: failed to solve: x\\n\\nView build details: y'); sys.exit(1)",
         "ERROR: failed to solve: x$"),
        ("print('The command \\'/bin/false\\' returned a non-zero code: 1'); sys.exit(1)",
         "The command '/bin/false' returned a non-zero code: 1$"),
        ("print('all is well'); sys.exit(3)", "docker ended with status 3: all is well$"),
        ("sys.exit(3)", "docker ended with status 3$"),
        ("os.kill(os.getpid(), 9)", "signal 9 ended docker$"),
    ],
)  # fmt: skip
def test_failed_build_says_why_in_one_line(
    engine: SmallEngine, config: DockerConfig, tmp_path: Path, body: str, claim: str
) -> None:
    install(tmp_path, body)
    with (
        cli(engine, config, tmp_path) as docker,
        pytest.raises(BuildError, match=f"^image was not built: {claim}"),
    ):
        docker.build(request_in(tmp_path), lambda _: None)


def test_command_line_without_an_image_is_no_build(
    engine: SmallEngine, config: DockerConfig, tmp_path: Path
) -> None:
    install(tmp_path, "")
    with cli(engine, config, tmp_path) as docker, pytest.raises(EngineError, match=r"got none$"):
        docker.build(request_in(tmp_path), lambda _: None)


def test_buildx_that_cannot_be_asked_is_not_there(tmp_path: Path) -> None:
    assert not has_buildx(str(tmp_path / "docker"), {})


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
    engine.server.answer_with(lambda _: Reply(404, b'{"message":"No such image: x"}'))
    with pytest.raises(EngineError, match=r"^Docker engine refused: No such image: x$"):
        docker.tag(IMAGE_ID, "h/a", "1")


def test_buildkit_brings_the_image_into_the_engine_unless_told_otherwise() -> None:
    plain = BuildRequest(Path("Dockerfile"), Path(), ("app:1",), arguments=("--no-cache",))
    assert loaded(plain).arguments == ("--no-cache", "--load")
    for own in ("--load", "--push", "--output=type=local,dest=x", "-o"):
        chosen = replace(plain, arguments=(own,))
        assert loaded(chosen) is chosen
