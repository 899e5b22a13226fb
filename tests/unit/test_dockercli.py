"""Claims about `signimage.dockercli`: what docker commands of several versions say.

Texts of 20.10.24 and 28.2.2 were recorded from these programs, with an engine 20.10.24; the command
stands beside each. Docker 29 was not at hand: its texts follow its sources, tag v29.7.2.
"""

import base64
import json
import socket
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from signimage.dockerbuild import BuildRequest
from signimage.dockercli import DockerCommand, PushWords, has_buildx
from signimage.dockerconfig import DockerConfig
from signimage.enginestream import Pushed, Versions
from signimage.errors import (
    BuildError,
    EngineError,
    FormatError,
    InputError,
    NotFoundError,
    RemoteError,
    SignImageError,
    UnauthorizedError,
)
from signimage.imagedetails import Layer
from signimage.oci import Digest
from signimage.transport import Credentials
from unit.small_docker import VERSION_20_ALONE, SmallDocker

IMAGE_ID = "sha256:" + "1" * 64
DIGEST = "sha256:db5a2c69edf497ccd2907a62982d4fbdb09265009194c42ccc7abaabef62bccb"
LOGIN = Credentials("me", "pass:wörd")
HOST = "tcp://127.0.0.1:1"
NAME = "localhost:5000/a/b"


@pytest.fixture
def small(tmp_path: Path) -> SmallDocker:
    return SmallDocker(tmp_path / "programs")


@pytest.fixture
def config(tmp_path: Path) -> DockerConfig:
    folder = tmp_path / "config"
    folder.mkdir()
    return DockerConfig(folder, {"DOCKER_CONFIG": str(folder)})


@pytest.fixture
def docker(small: SmallDocker, config: DockerConfig, tmp_path: Path) -> DockerCommand:
    return command(small, config, tmp_path)


def command(small: SmallDocker, config: DockerConfig, home: Path, **environ: str) -> DockerCommand:
    own = {"DOCKER_HOST": HOST, "HOME": str(home), "PATH": str(small.folder)}
    return DockerCommand(str(small.folder / "docker"), {**own, **environ}, config)


# --- which engine ---------------------------------------------------------------------------


def test_both_versions_are_told_and_asked_for_once(
    docker: DockerCommand, small: SmallDocker
) -> None:
    docker.check()
    assert docker.versions() == Versions("docker 28.2.2", "20.10.24+dfsg1")
    (call,) = small.calls("version")
    assert call.arguments == ["version", "--format", "{{json .}}"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_version_that_is_none_is_refused(
    docker: DockerCommand, small: SmallDocker, text: str
) -> None:
    small.tell("version", output=text)
    with pytest.raises(EngineError, match=r"^docker version: expected (a )?JSON"):
        docker.check()


def test_a_command_that_names_no_server_is_good_enough(
    docker: DockerCommand, small: SmallDocker
) -> None:
    """Programs of others that are called docker have none."""
    small.tell("version", output='{"Client": {"Version": "5.2"}, "Server": 7}')
    assert docker.versions() == Versions("docker 5.2", "")


_SSH = (
    'error during connect: Get "http://docker.example.com/v1.50/version": command [ssh -o '
    "ConnectTimeout=30 -T -l nobody -- 127.0.0.1 docker system dial-stdio] has exited with exit "
    "status 255, make sure the URL is valid, and Docker 18.09 or later is installed on the remote "
    "host: stderr=ssh: connect to host 127.0.0.1 port 22: Connection refused\n\n"
)


# Both, with DOCKER_HOST=tcp://127.0.0.1:1
_NOBODY = "Cannot connect to the Docker daemon at tcp://127.0.0.1:1. Is the docker daemon running?"
# 20.10.24, with DOCKER_HOST=nonsense
_NO_HOST = 'Get "http://nonsense:2375/v1.24/version": dial tcp: lookup nonsense: no such host'
# 28.2.2, with DOCKER_CONTEXT=nope
_NO_CONTEXT = 'Failed to initialize: unable to resolve docker endpoint: context "nope": context not'
# 29, by its sources
_NO_PIPE = "failed to connect to the docker API at npipe://x; check if the path is correct and if"
_NO_RIGHT = "permission denied while trying to connect to the docker API at unix:///x"


@pytest.mark.parametrize(
    ("complaint", "why"),
    [
        (_NOBODY, "nobody answers there"),
        (f"error during connect: {_NO_HOST}", _NO_HOST),
        (_SSH, "ssh: connect to host 127.0.0.1 port 22: Connection refused"),
        # 20.10.24, with DOCKER_HOST=npipe:////./pipe/docker_engine, on Linux
        ("protocol not available", "protocol not available"),
        (_NO_CONTEXT, _NO_CONTEXT),
        (_NO_PIPE, _NO_PIPE),
        (_NO_RIGHT, _NO_RIGHT),
    ],
)
def test_an_engine_that_nobody_answers_for_is_named_with_the_reason(
    docker: DockerCommand, small: SmallDocker, complaint: str, why: str
) -> None:
    """On every way: also a push, whose refusals by a registry may sound alike."""
    for words in ("version", "image inspect", "history", "push"):
        small.tell(words, output=VERSION_20_ALONE, complaint=f"{complaint}\n", status=1)
    begin = f"Docker engine cannot be reached at {HOST}: "
    asks = (
        docker.check,
        lambda: docker.inspect("a:1"),
        lambda: docker.history(IMAGE_ID),
        lambda: docker.push("a", "1", None, lambda _: None),
    )
    for ask in asks:
        with pytest.raises(EngineError, match=r"^Docker engine cannot be reached") as caught:
            ask()
        assert str(caught.value).startswith(begin + why)


def test_an_engine_that_lets_us_not_in_is_no_matter_of_another_agent(
    small: SmallDocker, config: DockerConfig, tmp_path: Path
) -> None:
    small.tell("version", complaint=f"{_NO_RIGHT}\n", status=1)
    place, hints = tmp_path / "s", []
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(place))
        there.listen()
        for host in (f"unix://{place}", "ssh://me@far"):  # which says that of a wrong key
            docker = command(small, config, tmp_path, DOCKER_HOST=host)
            with pytest.raises(EngineError, match="permission denied") as caught:
                docker.check()
            hints.append(caught.value.hint)
    assert "group docker" in hints[0]
    assert "agent with Docker" in hints[1]


def test_a_socket_that_is_not_there_is_explained_as_the_system_does(
    small: SmallDocker, config: DockerConfig, tmp_path: Path
) -> None:
    socket = tmp_path / "no.sock"
    complaint = f"Cannot connect to the Docker daemon at unix://{socket}. Is the docker daemon …"
    small.tell("version", complaint=complaint, status=1)
    docker = command(small, config, tmp_path, DOCKER_HOST=f"unix://{socket}")
    with pytest.raises(EngineError, match=r"/no\.sock: no such file or directory$"):
        docker.check()


def test_any_other_failure_is_quoted_in_one_line_without_colours_and_warnings(
    docker: DockerCommand, small: SmallDocker
) -> None:
    complaint = (
        'WARNING: Plugin "/x" is not valid\n\x1b[31mError response from daemon:\x1b[0m No such '
        "image: x\r\n##vso[task.complete]\n" + "y" * 1000
    )
    small.tell("history", complaint=complaint, status=1)
    with pytest.raises(EngineError, match=r"^Docker engine refused: No such image: x ##vso") as e:
        docker.history(IMAGE_ID)
    assert len(str(e.value)) < 400
    # Of an endless one the end is read.
    small.tell("history", complaint="y" * 1_000_000 + "\nNo such image: x\n", status=1)
    with pytest.raises(EngineError, match=r"^Docker engine refused: …$"):
        docker.history(IMAGE_ID)
    small.tell("history", complaint="Error response from daemon: No such image: x\n", status=1)
    with pytest.raises(EngineError, match=r"^Docker engine refused: No such image: x$"):
        docker.history(IMAGE_ID)


def test_a_command_that_fails_in_silence_is_told_by_its_status(
    docker: DockerCommand, small: SmallDocker
) -> None:
    small.tell("history", status=7)
    with pytest.raises(EngineError, match=r"^Docker engine refused: docker ended with status 7$"):
        docker.history(IMAGE_ID)


def test_names_are_never_options(docker: DockerCommand, small: SmallDocker) -> None:
    small.tell("image inspect", output='{"Id": "x"}')
    small.tell("history")
    small.tell("push", complaint="x", status=1)
    docker.inspect("--a")
    docker.history("--a")
    with pytest.raises(EngineError, match="failed: x"):
        docker.push("--a", "b", None, lambda _: None)
    for word in ("image", "history", "push"):
        (call,) = small.calls(word)
        assert call.arguments.index("--") < call.arguments.index(
            "--a:b" if word == "push" else "--a"
        )


def test_a_command_sees_no_more_than_it_needs(
    small: SmallDocker, config: DockerConfig, tmp_path: Path
) -> None:
    """With DOCKER_CONTENT_TRUST the command would sign by itself, and ask for passphrases."""
    others = {"DOCKER_CONTENT_TRUST": "1", "SECRET_TOKEN": "x", "SYSTEM_ACCESSTOKEN": "x"}
    small.tell("push", output=PUSH_20)
    docker = command(small, config, tmp_path, **others)
    docker.push(NAME, "1", LOGIN, lambda _: None)
    (call,) = small.calls("push")
    assert set(call.environment) - {"LC_CTYPE"} == {"DOCKER_HOST", "HOME", "PATH", "DOCKER_CONFIG"}


# --- images ---------------------------------------------------------------------------------

# docker history --no-trunc --human=false --format '{{json .}}' -- localhost:5000/a/b:1; both
HISTORY = (
    '{"Comment":"","CreatedAt":"2026-11-22T08:58:00Z","CreatedBy":"/bin/sh -c #(nop)  CMD '
    '[\\"/bin/busybox\\"]","CreatedSince":"2026-11-22T08:58:00Z","ID":"sha256:ec30","Size":"0"}\n'
    '{"Comment":"","CreatedAt":"2026-11-22T09:58:00+01:00","CreatedBy":"COPY blob /blob # buildkit"'
    ',"CreatedSince":"2026-11-22T08:58:00Z","ID":"<missing>","Size":"3000000"}\n'
)


def test_history_is_read(docker: DockerCommand, small: SmallDocker) -> None:
    small.tell("history", output=HISTORY)
    assert docker.history(IMAGE_ID) == [
        Layer('/bin/sh -c #(nop)  CMD ["/bin/busybox"]', 1795337880, 0),
        Layer("COPY blob /blob # buildkit", 1795337880, 3000000),
    ]


@pytest.mark.parametrize(
    "line",
    ["{}", '{"CreatedAt":"now","CreatedBy":"x","Size":"1"}',
     '{"CreatedAt":"2026-11-22T08:58:00Z","CreatedBy":"x","Size":"3MB"}'],
)  # fmt: skip
def test_history_without_its_figures_is_refused(
    docker: DockerCommand, small: SmallDocker, line: str
) -> None:
    small.tell("history", output=line)
    with pytest.raises(EngineError, match=r"^docker history: expected date and size"):
        docker.history(IMAGE_ID)


@pytest.mark.parametrize(
    "complaint",
    [
        # docker image inspect -- a/b:none; 20.10.24, then 28.2.2
        "\nError: No such image: a/b:none\n",
        "\nError response from daemon: no such image: a/b:none: No such image: a/b:none\n",
    ],
)
def test_an_image_that_is_not_there_is_an_input_error(
    docker: DockerCommand, small: SmallDocker, complaint: str
) -> None:
    small.tell("image inspect", output="\n", complaint=complaint, status=1)
    with pytest.raises(InputError, match=r"^image a/b:none is not in the engine$"):
        docker.inspect("a/b:none")


# --- push -----------------------------------------------------------------------------------

# docker push -- localhost:5000/a/b:1; both
PUSH_20 = f"""The push refers to repository [{NAME}]
660aaeaa8129: Preparing
f7f35866001e: Preparing
660aaeaa8129: Pushed
f7f35866001e: Layer already exists
1: digest: {DIGEST} size: 739
"""
# 29, with images in containerd's store, by its sources
PUSH_29 = f"""The push refers to repository [{NAME}]
c1c2c3c4c5c6: Waiting
d1d2d3d4d5d6: Waiting
c1c2c3c4c5c6: Pushed
d1d2d3d4d5d6: Layer already exists
1: digest: {DIGEST} size: 739

 Info → Not all multiplatform-content is present and only the available single-platform image was \
pushed
         sha256:{"4" * 64} -> {DIGEST}
"""


@pytest.mark.parametrize("text", [PUSH_20, PUSH_29, PUSH_20.replace("\n", "\r\n")])
def test_push_tells_digest_and_progress(
    docker: DockerCommand, small: SmallDocker, text: str
) -> None:
    small.tell("push", output=text)
    seen: list[int] = []
    assert docker.push(NAME, "1", LOGIN, seen.append) == Pushed(Digest(DIGEST), 739)
    assert seen == [50, 99, 100]
    assert small.calls("push")[0].arguments == ["push", "--", f"{NAME}:1"]


def test_login_is_in_the_private_configuration_alone(
    docker: DockerCommand, small: SmallDocker, config: DockerConfig
) -> None:
    """A token that was renewed replaces the old one, and what else is there stays."""
    file = config.folder / "config.json"
    other = {"other.example.com": {"auth": "bzp4"}}
    old = {"auths": {**other, "localhost:5000": {"auth": "b2xk"}}, "proxies": {"default": {}}}
    file.write_text(json.dumps({**old, "credHelpers": {"localhost:5000": "x", "gcr.io": "gcloud"}}))
    small.tell("push", output=PUSH_20)
    docker.push(NAME, "1", LOGIN, lambda _: None)
    (call,) = small.calls("push")
    auth = base64.b64encode("me:pass:wörd".encode()).decode()
    assert call.config == {
        "auths": {**other, "localhost:5000": {"auth": auth}},
        "proxies": {"default": {}},
        "credHelpers": {"gcr.io": "gcloud"},
    }
    assert LOGIN.password not in str((call.arguments, call.environment))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(config.folder.iterdir()) == [file]


def test_an_identity_token_is_stored_as_what_it_is(
    docker: DockerCommand, small: SmallDocker
) -> None:
    """As a password it would go to whoever asks for Basic."""
    small.tell("push", output=PUSH_20)
    token = Credentials("<token>", "l0ng-lived", is_identity_token=True)
    docker.push("docker.io/library/b", "1", token, lambda _: None)
    docker.push("docker.io/library/b", "1", None, lambda _: None)
    first, second = small.calls("push")
    hub = "https://index.docker.io/v1/"
    assert first.config == {"auths": {hub: {"identitytoken": "l0ng-lived"}}, "credHelpers": {}}
    assert second.config == {"auths": {}, "credHelpers": {}}


@pytest.mark.parametrize(
    ("said", "kind", "claim"),
    [
        ("no basic auth credentials", UnauthorizedError, "does not allow it: no basic auth"),
        ("denied: not you\nunauthorized: authentication required", UnauthorizedError,
         "denied: not you unauthorized: authentication required$"),
        ("name unknown: repository not known", NotFoundError, "does not know the repository"),
        ("tag does not exist: localhost:5000/a/b:1", EngineError, "failed: tag does not exist"),
        ('Get "https://h/v2/": dial tcp: refused\r\n##vso[x]', EngineError, "refused ##vso"),
    ],
)  # fmt: skip
def test_push_that_fails_says_who_is_at_fault(
    docker: DockerCommand, small: SmallDocker, said: str, kind: type[RemoteError], claim: str
) -> None:
    """A digest told before is no success."""
    small.tell("push", output=PUSH_20, complaint=f"{said}\n", status=1)
    with pytest.raises(kind, match=f"^push of {NAME}:1.*{claim}"):
        docker.push(NAME, "1", LOGIN, lambda _: None)


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"latest: digest: {DIGEST} size: 739",
        f"1: digest: {DIGEST}",
        f"x 1: digest: {DIGEST} size: 1",
        "x" * 70_000 + f"1: digest: {DIGEST} size: 739",
    ],
)
def test_push_without_its_own_digest_is_none(
    docker: DockerCommand, small: SmallDocker, line: str
) -> None:
    small.tell("push", output=f"{line}\n")
    with pytest.raises(EngineError, match="expected a digest from the engine, got none"):
        docker.push(NAME, "1", LOGIN, lambda _: None)


def test_push_with_a_digest_that_is_none_is_refused() -> None:
    with pytest.raises(FormatError, match=r"^digest: expected sha256:"):
        PushWords("1", lambda _: None).read("1: digest: latest size: 7")


def test_progress_that_a_terminal_would_show_is_understood(
    docker: DockerCommand, small: SmallDocker
) -> None:
    """Programs of others draw bars wherever they write to."""
    bar = "\x1b[2K\r660aaeaa8129: Pushing [=>  ] 1/2\r\x1b[2K660aaeaa8129: Pushed\x1b[0m\n"
    small.tell("push", output=f"{bar}1: digest: {DIGEST} size: 739\n")
    seen: list[int] = []
    docker.push(NAME, "1", None, seen.append)
    assert seen == [99, 100]


# --- build ----------------------------------------------------------------------------------


def request_in(folder: Path, *arguments: str) -> BuildRequest:
    (folder / "Dockerfile").write_text("FROM scratch\n")
    names = ("reg.example.com/app:1", "reg.example.com/app:2")
    return BuildRequest(folder / "Dockerfile", folder, names, {"l": "v"}, arguments)


@pytest.mark.parametrize(
    ("status", "own", "used"), [(0, None, "1"), (1, None, "0"), (0, "0", "0"), (1, "1", "1")]
)
def test_the_command_builds_with_buildkit_where_it_can(
    small: SmallDocker,
    config: DockerConfig,
    tmp_path: Path,
    status: int,
    own: str | None,
    used: str,
) -> None:
    small.tell("buildx version", status=status)
    small.tell("build", output="on\n", complaint="two\n", image_id=IMAGE_ID)
    wish = {} if own is None else {"DOCKER_BUILDKIT": own}
    docker = command(small, config, tmp_path, SECRET_TOKEN="x", GIVEN="g", **wish)
    output: list[bytes] = []
    assert docker.build(request_in(tmp_path, "--build-arg", "GIVEN"), output.append) == IMAGE_ID
    assert b"".join(output) == b"on\ntwo\n"
    (call,) = small.calls("build")
    assert call.environment["DOCKER_BUILDKIT"] == used
    assert call.environment["DOCKER_CONFIG"] == str(config.folder)
    assert call.environment["GIVEN"] == "g"
    assert "SECRET_TOKEN" not in call.environment
    assert ("--load" in call.arguments) == (status == 0 and used == "1")


@pytest.mark.parametrize(
    ("output", "status", "claim"),
    [
        ("ERROR: failed to solve: x\n\nView build details: y\n", 1, "ERROR: failed to solve: x$"),
        ("The command '/bin/false' returned a non-zero code: 1\n", 1,
         "The command '/bin/false' returned a non-zero code: 1$"),
        ("all is well\n", 3, "docker ended with status 3: all is well$"),
        ("", 3, "docker ended with status 3$"),
    ],
)  # fmt: skip
def test_failed_build_says_why_in_one_line(
    docker: DockerCommand, small: SmallDocker, tmp_path: Path, output: str, status: int, claim: str
) -> None:
    small.tell("build", output=output, status=status)
    with pytest.raises(BuildError, match=f"^image was not built: {claim}") as caught:
        docker.build(request_in(tmp_path), lambda _: None)
    assert caught.value.hint == ""


def test_an_argument_too_many_is_told_with_where_to_look(
    docker: DockerCommand, small: SmallDocker, tmp_path: Path
) -> None:
    usage = "docker: 'docker build' requires 1 argument\n\nUsage:  docker build [OPTIONS] PATH\n"
    small.tell("build", output=usage, status=1)
    with pytest.raises(BuildError, match=r"'docker build' requires 1 argument$") as caught:
        docker.build(request_in(tmp_path, "extra"), lambda _: None)
    assert "input arguments" in caught.value.hint


def test_a_build_without_an_image_is_none(
    docker: DockerCommand, small: SmallDocker, tmp_path: Path
) -> None:
    small.tell("build")
    with pytest.raises(EngineError, match=r"got none$"):
        docker.build(request_in(tmp_path), lambda _: None)


def test_buildx_that_cannot_be_asked_is_not_there(tmp_path: Path) -> None:
    assert not has_buildx(str(tmp_path / "docker"), {})


@pytest.mark.parametrize("output", ["", "\x00\ufeff", "null", "{}", "[]", "{" * 5000, "7: 8"])
def test_whatever_ends_well_gives_an_answer_or_an_error_of_ours(
    docker: DockerCommand, small: SmallDocker, output: str
) -> None:
    for words in ("version", "image inspect", "history", "push"):
        small.tell(words, output=output)
    for ask in (
        docker.check,
        lambda: docker.inspect("a"),
        lambda: docker.history("a"),
        lambda: docker.push("a", "1", None, lambda _: None),
    ):
        with suppress(SignImageError):
            ask()
