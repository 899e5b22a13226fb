"""`signimage.parallel`: calls side by side, their results in order, and nobody waited for."""

import threading
from collections.abc import Callable
from functools import partial

import pytest

from signimage.parallel import begin, outcomes, results


def fail(text: str) -> int:
    raise ValueError(text)


def test_results_come_in_the_order_of_the_calls() -> None:
    calls: dict[int, Callable[[], int]] = {n: partial(pow, n, 2) for n in range(50)}
    found = results(calls, at_once=7)
    assert list(found.items()) == [(n, n * n) for n in range(50)]


def test_what_a_call_raised_is_its_outcome() -> None:
    calls: dict[str, Callable[[], int]] = {"a": partial(len, "x"), "b": partial(fail, "b")}
    found = outcomes(calls, at_once=2)
    assert [str(each) for each in found.values()] == ["1", "b"]


def test_the_first_error_in_the_order_of_the_calls_is_raised() -> None:
    with pytest.raises(ValueError, match=r"^first$"):
        results({"a": partial(fail, "first"), "b": partial(fail, "second")}, at_once=2)


def test_no_more_are_made_at_once_than_wanted() -> None:
    running, most, guard = 0, 0, threading.Lock()
    gate = threading.Semaphore(0)

    def call() -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
            if running == 3:
                gate.release(100)
        gate.acquire()
        with guard:
            running -= 1

    outcomes(dict.fromkeys(range(9), call), at_once=3)
    assert most == 3


def test_no_call_is_no_work() -> None:
    assert outcomes({}, at_once=3) == {}


def test_a_failure_is_told_although_another_call_goes_on_and_on() -> None:
    going_on = threading.Event()
    calls: dict[str, Callable[[], object]] = {
        "a": going_on.wait,
        "b": partial(fail, "b"),
        "c": partial(fail, "c"),
    }
    try:
        found = begin(calls, at_once=3, grace_s=1.0)()
    finally:
        going_on.set()
    assert {name: str(each) for name, each in found.items()} == {"b": "b", "c": "c"}


def test_no_call_is_left_out_while_none_has_failed() -> None:
    ended = threading.Event()
    calls: dict[str, Callable[[], object]] = {"a": ended.wait, "b": partial(len, "x")}
    wait = begin(calls, at_once=2, grace_s=0.0)
    threading.Timer(0.1, ended.set).start()
    assert wait() == {"a": True, "b": 1}


def test_all_are_waited_for_where_a_failure_may_be_explained_by_another() -> None:
    ended = threading.Event()
    calls: dict[str, Callable[[], object]] = {"a": ended.wait, "b": partial(fail, "b")}
    wait = begin(calls, at_once=2, grace_s=0.0, unless=(ValueError,))
    threading.Timer(0.1, ended.set).start()
    assert {name: str(each) for name, each in wait().items()} == {"a": "True", "b": "b"}
