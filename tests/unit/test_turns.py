"""`signimage.turns`: one after another on one machine, and never stopped by anybody."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from signimage.turns import turn

NAME = "https://trust.example reg.example/app"
LONG_S = 60.0  # a test that waits for this has failed
# Takes the turn, says so, and keeps it until it is killed.
HOLDER = """
import sys, time
from signimage.turns import turn
with turn(sys.argv[1]) as is_mine:
    print(is_mine, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this process, and those it starts, a temporary folder that nobody else uses."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def files(folder: Path) -> list[str]:
    """Everything below *folder* but the folder of the turns."""
    return [path.name for path in folder.rglob("*") if not path.name.startswith("signimage.turns")]


@contextmanager
def holder(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run another process that has the turn *name*."""
    argv = [sys.executable, "-c", HOLDER, name]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"True\n"
            yield process
        finally:
            process.kill()


def test_two_never_have_one_turn() -> None:
    """Threads too: a lock that is asked for through another open file is another's."""
    inside: list[int] = []
    seen: SimpleQueue[tuple[bool, int]] = SimpleQueue()

    def take(number: int) -> None:
        for _ in range(20):
            with turn(NAME, patience_s=LONG_S) as is_mine:
                inside.append(number)
                seen.put((is_mine, len(inside)))
                inside.remove(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {seen.get_nowait() for _ in range(160)} == {(True, 1)}


def test_another_process_keeps_us_waiting_and_no_longer_than_we_have_patience() -> None:
    with holder(NAME), turn(NAME, patience_s=0.1) as is_mine:
        assert not is_mine


def test_turns_of_other_names_are_free() -> None:
    with holder(NAME), turn(f"{NAME}2", patience_s=LONG_S) as is_mine:
        assert is_mine


def test_who_is_killed_holds_nobody_up() -> None:
    with holder(NAME) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with turn(NAME, patience_s=LONG_S) as is_mine:
            assert is_mine


def test_an_error_inside_ends_the_turn() -> None:
    with pytest.raises(ValueError, match="inside"), turn(NAME):
        raise ValueError("inside")
    with turn(NAME, patience_s=0.0) as is_mine:
        assert is_mine


def test_a_turn_is_in_a_private_folder_and_leaves_nothing(temp: Path) -> None:
    with turn(NAME):
        (folder,) = temp.iterdir()
        (file,) = folder.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert file.stat().st_mode & 0o777 == 0o600
        assert "trust" not in file.name  # a hash: names of repositories are nobody else's business
        with turn(f"{NAME}2"):
            assert len(list(folder.iterdir())) == 2
        assert list(folder.iterdir()) == [file]
    assert list(temp.iterdir()) == []


@pytest.mark.parametrize("kind", ["open to others", "link", "file"])
def test_a_folder_that_somebody_else_may_have_put_there_is_not_used(temp: Path, kind: str) -> None:
    """It could lead anywhere; without turns everything works as well."""
    folder = temp / f"signimage.turns-{os.getuid()}"
    elsewhere = temp / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if kind == "link":
        folder.symlink_to(elsewhere)
    elif kind == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with turn(NAME, patience_s=LONG_S) as is_mine:
        assert not is_mine
    assert files(temp) == ["elsewhere"]


def test_a_link_in_place_of_the_file_is_not_followed(temp: Path) -> None:
    with turn(NAME):
        (name,) = files(temp)
    target = temp / "target"
    folder = temp / f"signimage.turns-{os.getuid()}"
    folder.mkdir(mode=0o700)
    (folder / name).symlink_to(target)
    with turn(NAME, patience_s=LONG_S) as is_mine:
        assert not is_mine
    assert not target.exists()


def test_without_a_temporary_folder_there_are_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with turn(NAME, patience_s=LONG_S) as is_mine:
        assert not is_mine
