"""Processes that are forked from one that has Prefect and the package imported; see `forking.py`."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from uuid import uuid4

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
        self._running: list[subprocess.Popen] = []
        address = f"prefect-xai-video-{uuid4().hex}"
        self._forked = [sys.executable, "-S", str(HERE / "forked.py"), address]
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("\0" + address)
            listening.listen(100)
            self.start("forking", "-m", "tests.support.forking", stdin=listening)

    def start(self, name: str, *command: str, **options: object) -> subprocess.Popen:
        """Start another process with the same variables."""
        with (self._root / f"{name}.log").open("wb") as log:
            options = {"stdout": log, "stderr": log} | options
            process = subprocess.Popen([sys.executable, *command], env=self.env, start_new_session=True, **options)
        self._processes.append(process)
        return process

    def command(self, module: str) -> list[str]:
        """A command that runs a module, forked as the jobs are, with the environment that it is given."""
        return [*self._forked, module]

    @cached_property
    def commands(self) -> Path:
        """A directory with commands that run in this way; `python` does so for modules only."""
        directory = self._root / "bin"
        directory.mkdir()
        forked = shlex.join(self._forked)
        scripts = {
            "python": f'[ "$1" = -m ] || exec {shlex.quote(sys.executable)} "$@"\nshift\nexec {forked} "$@"',
            "prefect": f'exec {forked} prefect "$@"',
            "xai-video": f'exec {forked} prefect_xai_video "$@"',
        }
        for name, script in scripts.items():
            (directory / name).write_text(f"#!/bin/sh\n{script}\n")
            (directory / name).chmod(0o755)
        return directory

    def begin(self, jobs: list[dict]) -> None:
        """Start a process for each job: `{module, argv, env, log}`."""
        for job in jobs:
            with Path(job["log"]).open("ab") as log:
                options = {"env": self.env | job["env"], "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                self._running.append(subprocess.Popen([*self.command(job["module"]), *job["argv"]], **options))

    def end(self) -> list[int]:
        """Wait for the exit codes of the jobs."""
        codes = [process.wait() for process in self._running]
        self._running.clear()
        return codes

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
