"""A real Prefect server and real workers, in processes of their own."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from prefect.context import refresh_global_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from .ports import free_port

# Python's garbage collector, when it finds a cursor of SQLite in the server's event loop, waits there for the thread
# that uses the connection; and if that one waits for a lock, nobody is served until it gives up, after 60 seconds.
WITHOUT_GARBAGE_COLLECTION = "import gc, runpy; gc.disable(); runpy.run_module('prefect', run_name='__main__')"


WITHOUT_EVENTS = {"PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false"}
"""For a server whose old events nobody reads: to keep them is a third of its work."""

WITHOUT_TASK_RUNS = WITHOUT_EVENTS | {"PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false"}
"""For a server whose task runs nobody reads, either: to record them gives SQLite a write conflict in almost every
subflow, after which Prefect's client waits for two seconds."""


READY = {
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
}
"""For a server with a copy of a database that another one has filled: otherwise it takes twice as long to start."""


def migrate(directory: Path) -> Path:
    """The database of a server that has been started once: it takes longer to fill than all the rest of a start.

    It is made once, by the first of the processes that ask for it at the same time.
    """
    home = directory / "migrated"
    with (directory / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            home.mkdir()
            with _running_server(home):
                pass
    return home / "prefect.db"


@contextmanager
def running_server(home: Path, database: Path, **settings: str) -> Iterator[str]:
    """A server with a copy of that database in `home`, unless the settings name one; gives the URL of its API."""
    home.mkdir(parents=True, exist_ok=True)
    if "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in settings:
        for file in database.parent.glob(f"{database.name}*"):
            shutil.copy(file, home)
        settings = READY | settings
    with _running_server(home, **settings) as url:
        yield url


@contextmanager
def _running_server(home: Path, **settings: str) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = server_environment(home, url) | {
        "PREFECT_SERVER_UI_API_URL": url,
        # The scheduler and the automations look often, so that tests need not wait for them.
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_TRIGGERS_PROACTIVE_LOOP_SECONDS": "2",
        **settings,
    }
    command = ["-c", WITHOUT_GARBAGE_COLLECTION, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with _running(command, env, home / "server.log") as process:
        wait_for(f"{url}/health", process)
        yield url


@contextmanager
def running_worker(home: Path, api_url: str, pool: str, **env: str) -> Iterator[Path]:
    """A process worker that takes what comes to `pool` at once; gives the path of its log."""
    env = server_environment(home, api_url) | {"PREFECT_WORKER_QUERY_SECONDS": "1", **env}
    log = home / f"worker-{pool}.log"
    command = ["-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--prefetch-seconds", "1"]
    with _running(command, env, log):
        yield log


@contextmanager
def used_by_this_process(api_url: str) -> Iterator[None]:
    """This process, too, speaks to that server."""
    _send_all()
    before = PREFECT_API_URL.value()
    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_CLIENT_MAX_RETRIES: 10}):
        _use_in_threads(api_url)
        try:
            yield
        finally:
            _send_all()
            _use_in_threads(before)


def _use_in_threads(api_url: str | None) -> None:
    """Make threads without a settings context use that server: they would start one of their own.

    The environment itself stays as it is, for the processes that tests start.
    """
    with pytest.MonkeyPatch.context() as patch:
        if api_url:
            patch.setenv("PREFECT_API_URL", api_url)
            patch.setenv("PREFECT_CLIENT_MAX_RETRIES", "10")
        refresh_global_settings_context()


def _send_all() -> None:
    """End what sends events and logs in the background: it keeps for ever to the server that it began with."""
    EventsWorker.drain_all(timeout=120)
    APILogWorker.drain_all(timeout=120)


def server_environment(home: Path, api_url: str) -> dict[str, str]:
    """The variables with which a process speaks to that server."""
    return os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        # SQLite answers 503 while several runs write at once.
        "PREFECT_CLIENT_MAX_RETRIES": "10",
    }


@contextmanager
def _running(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], env=env, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, process: subprocess.Popen, patience: float = 300) -> None:
    """Wait until a server answers."""
    for _ in range(int(patience / 0.2)):
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.2)
    raise TimeoutError(url)
