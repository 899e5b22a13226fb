"""The command line as a program: exit codes, streams, questions, and wrong input of every kind."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from signimage import cli, keyfile
from signimage.keys import PrivateKey
from signimage.keystore import REPOSITORY_VARIABLE, KeyStore
from unit.certificates import Authority
from unit.small_server import Reply, Request, SmallServer
from unit.terminal import Terminal

_PYWORKER = Path(cli.__file__).parents[1]
_PROGRAM = (sys.executable, "-m", "signimage.cli")
_OLD, _NEW = "the old passphrase", "the new passphrase"


@dataclass
class Place:
    """Somebody's home, and the program started there."""

    home: Path
    environment: dict[str, str]

    @property
    def store(self) -> KeyStore:
        return KeyStore(self.home / ".docker" / "trust")

    def run(
        self, *words: str | Path, stdout: int | IO[str] = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        """Run a command where nobody can answer."""
        return subprocess.run(
            [*_PROGRAM, *words],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    def refuses(self, *words: str | Path, code: int = 2) -> str:
        """Run a command that fails with *code*; gives the one sentence that it says."""
        done = self.run(*words)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert re.fullmatch(r"signimage: [^\n]+\.\n", done.stderr), done.stderr
        return done.stderr

    def terminal(self, *words: str | Path) -> Terminal:
        """Run a command on a terminal."""
        return Terminal([*_PROGRAM, *words], self.environment, self.home)

    def key(self, role: str = "ci") -> str:
        """Put a key into the store; gives its ID."""
        key = PrivateKey.generate_ecdsa()
        self.store.add(key, role, "", _OLD.encode())
        return key.public_key.canonical_id

    def files(self) -> dict[str, bytes]:
        """Every file here with its content."""
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in self.home.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(_PYWORKER),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
    }
    return Place(home, environment)


# --- Questions -------------------------------------------------------------------------------


def test_a_new_passphrase_is_asked_for_twice_and_never_shown(place: Place) -> None:
    with place.terminal("key", "generate", "ci") as terminal:
        terminal.expect("Passphrase for the new ci key: ")
        terminal.type(_NEW)
        terminal.expect("The same passphrase again: ")
        terminal.type(_NEW)
        assert terminal.end() == 0
        assert _NEW not in terminal.shown
    (entry,) = place.store.entries()
    assert entry.role == "ci"
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o600
    opened = keyfile.KeyFile.parse(entry.path.read_bytes()).decrypt(_NEW.encode())
    assert opened.public_key.canonical_id == entry.key_id


@pytest.mark.parametrize("answered", [0, 1])
def test_ctrl_c_at_the_question_for_a_new_key_leaves_nothing(place: Place, answered: int) -> None:
    with place.terminal("key", "generate", "ci") as terminal:
        for _ in range(answered):
            terminal.expect(": ")
            terminal.type(_NEW)
        terminal.expect(": $")
        terminal.interrupt()
        assert terminal.end() == 1
        assert re.search(r": \n$", terminal.shown), terminal.shown
        assert "Traceback" not in terminal.shown
    assert place.files() == {}


@pytest.mark.parametrize("answers", [[], [_OLD], [_OLD, _NEW]])
def test_ctrl_c_at_any_question_for_another_passphrase_changes_nothing(
    place: Place, answers: list[str]
) -> None:
    key_id = place.key()
    before = place.files()
    with place.terminal("key", "passwd", key_id[:12]) as terminal:
        for answer in answers:
            terminal.expect("(?i)pass.*: $")
            terminal.type(answer)
        terminal.expect(": $")
        terminal.interrupt()
        assert terminal.end() == 1
    assert place.files() == before


def test_another_passphrase_is_asked_for_where_it_is_not_in_the_environment(place: Place) -> None:
    key_id = place.key()
    with place.terminal("key", "passwd", key_id) as terminal:
        terminal.expect(rf"Passphrase for key file {key_id}.key \(ci\): ")
        terminal.type("not this one")
        terminal.expect(rf"Passphrase for key file {key_id}.key \(ci\): ")
        terminal.type(_OLD)
        terminal.expect(r"New passphrase for key [0-9a-f]{12} \(ci\): ")
        terminal.type(_NEW)
        terminal.expect("The same passphrase again: ")
        terminal.type(_NEW)
        assert terminal.end() == 0
    (data,) = place.files().values()
    opened = keyfile.KeyFile.parse(data).decrypt(_NEW.encode())
    assert opened.public_key.canonical_id == key_id


def test_where_nobody_can_answer_the_variables_are_named(place: Place) -> None:
    key_id = place.key()
    before = place.files()
    assert f"Set {REPOSITORY_VARIABLE}" in place.refuses("key", "generate", "ci")
    assert f"Set {REPOSITORY_VARIABLE}" in place.refuses("key", "passwd", key_id)
    place.environment[REPOSITORY_VARIABLE] = _OLD
    assert "Set SIGNIMAGE_NEW_PASSPHRASE" in place.refuses("key", "passwd", key_id)
    assert place.files() == before


def test_scripts_change_a_passphrase_by_the_environment(place: Place) -> None:
    key_id = place.key()
    place.environment |= {REPOSITORY_VARIABLE: _OLD, "SIGNIMAGE_NEW_PASSPHRASE": _NEW}
    done = place.run("key", "passwd", key_id, "--json")
    assert json.loads(done.stdout)["keyId"] == key_id
    place.environment[REPOSITORY_VARIABLE] = _NEW
    assert place.run("key", "export", "--public", key_id).returncode == 0


# --- Wrong input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("key", "generate", "Ci"), "signer name 'Ci': expected lower-case letters"),
        (("key", "generate", "ci", "--type", "dsa"), "argument --type: invalid choice: 'dsa'"),
        (("key", "generate", "ci", "--dir", "nowhere"), "nowhere/ci.pub cannot be written"),
        (("key", "import", "nowhere"), "nowhere cannot be read: No such file or directory"),
        (("key", "import", "."), "expected key files that end in .key, got none"),
        (("key", "import", "x", "--role", "king"), "argument --role: invalid choice: 'king'"),
        (("key", "import", "x", "--gun", "a b"), "a b"),
        (("key", "export", "0" * 64), "is not in"),
        (("key", "export", "ci"), "key ID: expected 64 hexadecimal digits or their first 7"),
        (("key", "passwd", "../../etc"), "key ID: expected 64 hexadecimal digits"),
        (("key", "list", "--json", "--quiet"), "not allowed with argument --json"),
        (("key", "list", "--repositories", "a/b:c:d"), "a/b:c:d"),
        (("key", "import", "/dev/null"), "/dev/null: expected PEM text, got an empty file"),
        (("signer", "add", "--key", "/dev/null", "ci", "a/b"), "/dev/null: expected PEM text"),
        (("inspect", "--root-ca", "/dev/null", "a/b"), "/dev/null: expected PEM text"),
        (("inspect", "--root-key", "1f2e", "a/b"), "--root-key: expected 64 hexadecimal digits"),
        (("verify", "--signer", "", "a/b:1"), "expected the name of a signer, got none"),
        (("completion", "powershell"), "invalid choice: 'powershell'"),
    ],
)
def test_wrong_input_is_one_sentence_and_changes_nothing(
    place: Place,
    words: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place.home)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(place.home))
    monkeypatch.setenv(REPOSITORY_VARIABLE, _NEW)
    try:
        code: object = cli.main(words)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert re.fullmatch(r"signimage: [^\n]+\.\n", said.err), said.err
    assert sentence in said.err
    assert place.files() == {}


def test_every_failed_key_of_a_folder_is_named_and_the_others_are_brought_in(
    place: Place,
) -> None:
    folder = place.home / "old"
    folder.mkdir()
    for name, passphrase in (("a", _OLD), ("b", _NEW), ("c", _OLD)):
        data = keyfile.encrypt(PrivateKey.generate_ecdsa(), passphrase.encode(), role=name)
        (folder / f"{name}.key").write_bytes(data)
    place.environment[REPOSITORY_VARIABLE] = _OLD
    done = place.run("key", "import", "old", "--json")
    assert done.returncode == 1
    assert [each["role"] for each in json.loads(done.stdout)] == ["a", "c"]
    assert done.stderr.startswith("signimage: wrong passphrase for old/b.key. Check")
    again = place.run("key", "import", "old", "--json")
    assert [each["existed"] for each in json.loads(again.stdout)] == [True, True]


def test_ctrl_c_while_a_key_is_brought_in_leaves_nothing(place: Place) -> None:
    """At the question for the passphrase that an unencrypted key gets."""
    key = place.home / "key.pem"
    openssl = ("openssl", "genpkey", "-algorithm", "ED25519", "-out", key)
    subprocess.run(openssl, check=True, capture_output=True)
    with place.terminal("key", "import", "key.pem") as terminal:
        terminal.expect("Passphrase for the new signer key: $")
        terminal.interrupt()
        assert terminal.end() == 1
    assert list(place.files()) == ["key.pem"]


def test_one_name_does_not_fit_several_keys(place: Place) -> None:
    folder = place.home / "old"
    folder.mkdir()
    for name in "ab":
        data = keyfile.encrypt(PrivateKey.generate_ecdsa(), _OLD.encode(), role=name)
        (folder / f"{name}.key").write_bytes(data)
    assert "expected one key for --name" in place.refuses("key", "import", "old", "--name", "x")
    assert place.store.entries() == ()


def test_a_home_that_is_missing_or_no_folder_is_one_sentence(place: Place) -> None:
    place.environment["DOCKER_CONFIG"] = "/dev/null"
    assert "key folder /dev/null/trust/private cannot be read" in place.refuses("key", "list")
    place.environment[REPOSITORY_VARIABLE] = _NEW
    place.environment["DOCKER_CONFIG"] = "/proc/nothing"
    said = place.refuses("key", "generate", "ci")
    assert "key folder /proc/nothing/trust/private cannot be made" in said
    assert place.files() == {}
    place.environment["DOCKER_CONFIG"] = str(place.home / "nothing")
    assert place.run("key", "list").stdout == f"No keys in {place.home}/nothing/trust/private\n"


def test_a_full_disk_is_one_sentence_and_leaves_no_half_a_key(place: Place) -> None:
    """As large a file as a key may not be written."""
    place.environment[REPOSITORY_VARIABLE] = _NEW
    # The interpreter would leave the beginnings of its own files, and read them ever after.
    place.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    limit = ("prlimit", "--fsize=100", "--")
    argv = [*limit, *_PROGRAM, "key", "generate", "ci"]
    done = subprocess.run(
        argv, env=place.environment, cwd=place.home, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"signimage: key [0-9a-f]+ cannot be written: File too large\.\n",
                        done.stderr)  # fmt: skip
    assert place.files() == {}


# --- Streams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("key", "list"), ("--help",), ("completion", "bash")])
def test_a_reader_who_leaves_is_no_error_worth_a_word(place: Place, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = place.run(*words, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("key", "list"), ("--help",), ("--version",)])
def test_an_output_that_is_full_is_one_sentence(
    place: Place, words: tuple[str, ...], unbuffered: str
) -> None:
    place.environment["PYTHONUNBUFFERED"] = unbuffered
    with Path("/dev/full").open("w") as full:
        done = place.run(*words, stdout=full)
    said = "signimage: standard output: No space left on device.\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("image", ["127.0.0.1:1/a", "BAD::x"])
def test_the_verdict_on_a_wrong_question_is_a_document_too(place: Place, image: str) -> None:
    done = place.run("verify", "--json", image)
    verdict = json.loads(done.stdout)
    assert done.returncode == 2
    assert (verdict["image"], verdict["verified"], verdict["code"]) == (image, False, "SI100")


def test_no_is_no_success(place: Place) -> None:
    with place.terminal("revoke", "--all", "127.0.0.1:1/app") as terminal:
        terminal.expect(r"back\? \[y/N\] ")
        terminal.type("n")
        assert terminal.end() == 1
    assert "Nothing was changed" in terminal.shown


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(place: Place, closed: str) -> None:
    place.environment[REPOSITORY_VARIABLE] = _NEW
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *_PROGRAM, "key", "generate", "ci"],
        env=place.environment,
        cwd=place.home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [entry.role for entry in place.store.entries()] == ["ci"]


def _report_of_nothing(place: Place, output: Path) -> subprocess.CompletedProcess[str]:
    """The page of a repository whose servers are away: a page all the same."""
    nowhere = ("--trust-server", "https://127.0.0.1:1", "--output", output)
    return place.run("report", *nowhere, "127.0.0.1:1/app")


def test_a_page_goes_through_links_and_pipes_and_replaces_neither(place: Place) -> None:
    file, link, pipe = (place.home / name for name in ("page.html", "link.html", "pipe"))
    link.symlink_to(file)
    assert _report_of_nothing(place, link).returncode == 3
    assert link.is_symlink()
    assert file.read_text("utf-8").startswith("<!DOCTYPE html>")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert _report_of_nothing(place, pipe).returncode == 3
        assert os.read(reader, 15) == b"<!DOCTYPE html>"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["nowhere/page.html", "."])
def test_a_page_that_cannot_be_written_names_its_own_file(place: Place, name: str) -> None:
    done = _report_of_nothing(place, Path(name))
    assert done.returncode == 2
    assert f"signimage: {name} cannot be written: " in done.stderr


def test_names_that_the_encoding_of_the_output_lacks_are_said_by_number(place: Place) -> None:
    place.environment |= {"PYTHONIOENCODING": "ascii", "DOCKER_CONFIG": str(place.home / "ö")}
    done = place.run("key", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "/\\xf6/trust" in done.stdout


def test_quiet_success_says_nothing(place: Place) -> None:
    place.environment[REPOSITORY_VARIABLE] = _NEW
    done = place.run("key", "generate", "ci", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place.home / "ci.pub").is_file()


@pytest.mark.parametrize("words", [("key", "export"), ("completion", "bash")])
def test_a_file_that_would_be_empty_is_no_quiet_success(
    place: Place, words: tuple[str, ...]
) -> None:
    """Who redirects the output believes that they have a copy of the key."""
    words = (*words, place.key()) if words[0] == "key" else words
    assert "--quiet: expected a result that is not the output itself" in place.refuses(
        *words, "--quiet"
    )
    assert place.run(*words).stdout
    done = place.run("key", "export", place.key(), "--output", "copy.pem", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place.home / "copy.pem").stat().st_size


# --- Servers ---------------------------------------------------------------------------------


@pytest.fixture
def server(place: Place, authority_of_peers: Authority) -> Iterator[SmallServer]:
    """A trust server without trust data, whose authority the options name."""
    with SmallServer(lambda _: Reply(404), tls=authority_of_peers.server_context()) as it:
        place.environment["DOCKER_CONTENT_TRUST_SERVER"] = it.origin
        yield it


@pytest.mark.usefixtures("server")
def test_exit_codes_tell_no_from_do_not_know(place: Place, authority_of_peers: Authority) -> None:
    words = ("key", "list", "--repositories", "registry.example/app")
    ca = ("--ca", authority_of_peers.ca_file)
    assert "certificate cannot be verified" in place.refuses(*words, code=3)
    assert "registry.example/app" in place.refuses(*words, *ca, code=1)
    place.environment["DOCKER_CONTENT_TRUST_SERVER"] = "https://127.0.0.1:1"
    place.refuses(*words, *ca, code=3)
    place.environment["DOCKER_CONTENT_TRUST_SERVER"] = "http://127.0.0.1:1"
    place.refuses(*words, *ca, code=2)


def test_docker_configuration_that_makes_no_sense_is_one_sentence(
    place: Place, server: SmallServer, authority_of_peers: Authority
) -> None:
    """It is read when a server asks who is there."""
    server.answer_with(lambda _: Reply(401, b"", {"WWW-Authenticate": 'Basic realm="trust"'}))
    words = ("key", "list", "--repositories", "registry.example/app")
    ca = ("--ca", authority_of_peers.ca_file)
    (place.home / ".docker").mkdir()
    for content in ("{", "[]", '{"auths": {"registry.example": {"auth": "?"}}}'):
        (place.home / ".docker" / "config.json").write_text(content)
        assert "config.json" in place.refuses(*words, *ca)


def test_verbose_tells_each_request_and_none_of_its_secrets(
    place: Place, server: SmallServer, authority_of_peers: Authority
) -> None:
    """Method, host, path and status: neither headers, nor queries, nor bodies."""

    def bearer(request: Request) -> Reply:
        if "/token" in request.path:
            return Reply(200, b'{"token":"a-short-lived-one"}')
        realm = f'Bearer realm="{server.origin}/token?hidden=in-query",service="trust"'
        return Reply(401, b"", {"WWW-Authenticate": realm})

    server.answer_with(bearer)
    (place.home / ".docker").mkdir()
    login = {"auths": {"registry.example": {"auth": "bWU6c2VjcmV0LXBhc3N3b3Jk"}}}
    (place.home / ".docker" / "config.json").write_text(json.dumps(login))
    words = ("--verbose", "--ca", authority_of_peers.ca_file)
    done = place.run("key", "list", "--repositories", "registry.example/app", *words)
    lines = done.stderr.splitlines()
    told = [line for line in lines if re.fullmatch(r"GET https://\S+ \d{3} \(\d+ ms\)", line)]
    assert len(told) == len(lines) - 1
    assert f"GET {server.origin}/token 200" in done.stderr
    for secret in ("bWU6", "secret-password", "a-short-lived-one", "in-query", "scope"):
        assert secret not in done.stderr
