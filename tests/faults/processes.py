"""Processes that are forked from one that has Prefect and the package imported; see `forking.py`."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class Forking:
    """Starts many jobs at once.

    Args:
        root: Where it writes its log.
        env: Variables for all jobs.
    """

    def __init__(self, root: Path, **env: str) -> None:
        (root / "tmp").mkdir()
        self.env = os.environ | {
            "PYTHONPATH": str(HERE.parents[1]),
            "TMPDIR": str(root / "tmp"),
            **env,
        }
        self._root = root
        self._processes: list[subprocess.Popen] = []
        self._running: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
            self._address = listening.getsockname()
            self.start("forking", "-m", "tests.faults.forking", stdin=listening)

    def start(self, name: str, *command: str, **options: object) -> subprocess.Popen:
        """Start another process with the same variables."""
        with (self._root / f"{name}.log").open("wb") as log:
            options = {"stdout": log, "stderr": log} | options
            process = subprocess.Popen([sys.executable, *command], env=self.env, start_new_session=True, **options)
        self._processes.append(process)
        return process

    def command(self, module: str) -> str:
        """A command that runs a module, forked as the jobs are, with the environment that it is given."""
        return f"{sys.executable} -S {HERE / 'forked.py'} {self._address[1]} {module}"

    def begin(self, jobs: list[dict]) -> None:
        for job in jobs:
            connection = socket.create_connection(self._address)
            connection.sendall(json.dumps(job).encode() + b"\n")
            self._running.append(connection)

    def end(self) -> list[int]:
        """Wait for the exit codes of the jobs."""
        codes = [int(connection.makefile().read()) for connection in self._running]
        self._running.clear()
        return codes

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
