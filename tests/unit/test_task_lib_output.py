"""Everything that is printed is whole lines, safe to show, whoever reads them and how."""

import io
import os
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_pipelines_task_lib import LineSink, Task
from azure_pipelines_task_lib.output import LONGEST_LINE, Output
from azure_pipelines_task_lib.text import LINE_BREAK, neutralise
from unit.test_task_lib_model import finds_marker, parse_command

PYWORKER = Path(__file__).parents[2] / "pyworker"
SECRET = "hunter2-hunter2"
HOSTILE_BYTES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"##vso[a.b]", b"#", b"##", b"vso[", b"\r", b"\n", b"\r\n", b"\xe2\x80\xa8", b"\xc2"]
        ),
        st.sampled_from([SECRET.encode(), SECRET.encode()[:7], b"\x1b[0m", b"\xef\xbb\xbf"]),
        st.binary(max_size=6),
        st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace")),
    ),
    max_size=20,
).map(b"".join)


def printed_by(content: bytes, cuts: list[int], *secrets: str) -> str:
    """Return what a sink prints when *content* arrives in chunks that end at *cuts*."""
    stream = io.BytesIO()
    output = Output(stream)
    for secret in secrets:
        output.redactor.add(secret)
    with LineSink(output) as sink:
        places = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
        for start, end in pairwise(places):
            assert sink.write(content[start:end]) == end - start
    return stream.getvalue().decode()


@given(HOSTILE_BYTES, st.lists(st.integers(0, 10_000), max_size=30))
def test_chunks_make_no_difference(content: bytes, cuts: list[int]) -> None:
    assert printed_by(content, cuts, SECRET) == printed_by(content, [], SECRET)


@given(HOSTILE_BYTES, st.lists(st.integers(0, 10_000), max_size=30))
def test_no_printed_line_is_a_command_or_shows_a_secret(content: bytes, cuts: list[int]) -> None:
    shown = printed_by(content, cuts, SECRET)
    assert SECRET not in shown
    for line in shown.splitlines():
        assert parse_command(line) is None
        assert not finds_marker(line, "##vso[")
        assert not finds_marker(line, "##[")


@given(HOSTILE_BYTES)
def test_a_sink_prints_what_neutralise_returns(content: bytes) -> None:
    lines = LINE_BREAK.split(content.decode("utf-8", "replace"))
    if not lines[-1]:
        lines.pop()
    assert printed_by(content, []) == "".join(f"{neutralise(line)}\n" for line in lines)


@pytest.mark.parametrize("cut", [1, 2, 4, 7, 12, 20])
def test_a_marker_in_two_chunks_is_broken(cut: int) -> None:
    assert printed_by(b"x ##vso[task.complete]y\n", [cut]) == "x ##_vso[task.complete]y\n"


def test_an_unfinished_line_is_printed_at_the_end() -> None:
    assert printed_by(b"a\n\nb", []) == "a\n\nb\n"


def test_a_line_is_printed_as_soon_as_it_ends() -> None:
    stream = io.BytesIO()
    sink = LineSink(Output(stream))
    sink.write(b"first\r")
    assert stream.getvalue() == b"first\n"
    sink.write(b"\nsecond\n\r")
    assert stream.getvalue() == b"first\nsecond\n\n"
    sink.close()
    sink.close()
    assert stream.getvalue() == b"first\nsecond\n\n"


@given(st.integers(0, 40), st.lists(st.integers(0, 10_000_000), max_size=5))
def test_a_long_line_goes_on_in_further_lines_without_parting_a_secret(
    shift: int, cuts: list[int]
) -> None:
    # A secret begins at every place around the cut, as *shift* goes on.
    filling = "x" * (LONGEST_LINE - 20 + shift)
    shown = printed_by(f"{filling}{SECRET}##vso[{filling}##vso[".encode() * 2, cuts, SECRET)
    assert shown.replace("\n", "").replace("_", "") == f"{filling}***##vso[{filling}##vso[" * 2
    assert max(map(len, shown.splitlines())) < LONGEST_LINE + 1000
    assert not any(finds_marker(line[-40:], "##vso[") for line in shown.splitlines())


@pytest.mark.parametrize("arrived", range(len(SECRET) + 1))
def test_a_cut_waits_for_the_rest_of_a_secret(arrived: int) -> None:
    content = ("x" * (LONGEST_LINE - 3) + SECRET + "y").encode()
    cut = LONGEST_LINE - 3 + arrived
    assert printed_by(content, [cut], SECRET) == "x" * (LONGEST_LINE - 3) + "***y\n"


def test_a_long_line_is_not_kept_in_memory_until_it_ends() -> None:
    stream = io.BytesIO()
    LineSink(Output(stream)).write(b"x" * (LONGEST_LINE * 3))
    assert len(stream.getvalue()) >= LONGEST_LINE * 2


def test_lines_of_several_threads_never_mix() -> None:
    read_end, write_end = os.pipe()
    shown = bytearray()

    def read() -> None:
        while chunk := os.read(read_end, 65536):
            shown.extend(chunk)

    with os.fdopen(write_end, "wb", buffering=0) as stream:
        task = Task({}, stream)

        def speak(letter: bytes) -> None:
            with task.sink() as sink:
                for _ in range(200):
                    sink.write(letter * 60)
                    sink.write(letter * 40 + b"\n")

        threads = [threading.Thread(target=speak, args=(letter,)) for letter in (b"a", b"b", b"c")]
        reader = threading.Thread(target=read)
        for thread in (reader, *threads):
            thread.start()
        for thread in threads:
            thread.join()
    reader.join()
    os.close(read_end)
    assert sorted(shown.decode().splitlines()) == sorted(["a" * 100, "b" * 100, "c" * 100] * 200)


def run_script(body: str, stdout: int) -> subprocess.Popen[bytes]:
    """Start an isolated interpreter, in a locale without UTF-8, that runs *body* with a task."""
    script = (
        f"import os, sys; sys.path.insert(0, {str(PYWORKER)!r})\n"
        "from azure_pipelines_task_lib import Task, standard_output\n"
        f"task = Task(os.environ, standard_output())\n{body}"
    )
    arguments = [sys.executable, "-I", "-X", "utf8=0", "-c", script]
    environ = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=stdout, env=environ)


def test_output_is_utf8_whatever_the_locale() -> None:
    with run_script(r"task.write('\u00fc\u2713 \udcff')", stdout=subprocess.PIPE) as process:
        shown, complaints = process.communicate()
    assert shown.decode() == "\u00fc\u2713 ?\n"
    assert (process.returncode, complaints) == (0, b"")


def test_a_reader_that_left_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    body = "task.write('x')\ntask.debug('y')\nsys.exit(7)"
    with run_script(body, stdout=write_end) as process:
        os.close(write_end)
        _, complaints = process.communicate()
    assert (process.returncode, complaints) == (7, b"")


def test_a_pipe_that_node_made_non_blocking_loses_nothing() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    filled = os.write(write_end, bytes(10_000_000))  # as much as there is room for
    body = "print('now', file=sys.stderr, flush=True)\ntask.write(('x' * 1000 + '\\n') * 1000)"
    with run_script(body, stdout=write_end) as process:
        os.close(write_end)
        assert process.stderr is not None
        assert process.stderr.readline() == b"now\n"
        shown = bytearray()
        while chunk := os.read(read_end, 65536):
            shown.extend(chunk)
        _, complaints = process.communicate()
    os.close(read_end)
    assert (process.returncode, complaints) == (0, b"")
    assert shown[filled:].decode() == ("x" * 1000 + "\n") * 1000


def test_a_closed_stream_ends_output_and_nothing_else() -> None:
    stream = io.BytesIO()
    task = Task({}, stream)
    task.write("seen")
    assert stream.getvalue() == b"seen\n"
    stream.close()
    task.write("unseen")
