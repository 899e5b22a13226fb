"""Debian's newer dockerd with the image store that Docker had before containerd's.

It is the most common engine there is (Docker 25 to 28, as installed), and writes archives that no
other does. The rules are those of `peers.stack`; the program is the one of `peers.buildkit`.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.processes import PeerError, program_path, start
from peers.servers import engine_answers, judging_docker

_PROGRAMS = Path(__file__).parents[2] / ".cache" / "buildkit"


@contextmanager
def running_newer_docker() -> Iterator[str]:
    """Start the engine, give its DOCKER_HOST, and stop it at the end of the block.

    Raises:
        PeerError: It is missing, or did not become ready.
    """
    program = _PROGRAMS / "dockerd"
    if not program.is_file():
        raise PeerError(f"dockerd: expected it in {_PROGRAMS}. Run packaging/setup.sh")
    # A socket's path holds about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="newer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        host = f"unix://{folder / 'docker.sock'}"
        (folder / "daemon.json").write_text("{}", "utf-8")
        process = start(
            "env",
            [
                "env",
                f"PATH={_PROGRAMS}:{program_path(os.environ)}",
                str(program),
                f"--config-file={folder / 'daemon.json'}",
                f"--host={host}",
                f"--data-root={folder / 'data'}",
                f"--exec-root={folder / 'exec'}",
                f"--pidfile={folder / 'dockerd.pid'}",
                "--storage-driver=vfs",
                # No network is needed, so the machine's own is left alone.
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
            ],
            folder / "dockerd.log",
        )
        try:
            docker_cli = judging_docker()
            process.wait_until(lambda: engine_answers(docker_cli, host), "newer dockerd answers")
            yield host
        finally:
            process.stop()
