"""What all tests share: the real peers, started once for a session that needs them.

And one rule: a test that was skipped has not passed, so it fails.
"""

import signal
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from peers.buildkit import BuildKit, running_buildkit
from peers.stack import Stack

# How long an example takes says more of the machine than of us; timings are the benchmark's.
settings.register_profile("signimage", deadline=None)
settings.load_profile("signimage")


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Start dockerd (if no engine answers), two registries and notary; stop them at the end."""
    # Not below pytest's folder: what a killed dockerd leaves mounted cannot be removed, and pytest
    # would report it in every session that follows.
    with tempfile.TemporaryDirectory(prefix="stack-", ignore_cleanup_errors=True) as folder:
        running = Stack.start(Path(folder))
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="session")
def buildkit() -> Iterator[BuildKit]:
    """Start a BuildKit with two builders; stop it at the end."""
    with running_buildkit() as running:
        yield running


@pytest.fixture(autouse=True)
def _signals() -> None:
    """Let each test begin with signals as Python has them.

    What ends a step leaves them ignored, and so does a shell that starts the tests beside others.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture
def repository_name() -> str:
    """Return a repository path that no other test uses; put a registry's host before it."""
    return f"team/{uuid.uuid4().hex[:12]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure that says so."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and that is no pass: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a file that skips itself."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and that is no pass: {report.longrepr}"
    return report
