"""A PostgreSQL server of its own, where it is installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .ports import free_port

PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def is_installed() -> bool:
    """Whether a server can be started here: it refuses to run as root, and needs the user that Debian creates."""
    return PROGRAMS is not None and os.geteuid() == 0 and shutil.which("su") is not None


@contextmanager
def running_postgres() -> Iterator[str]:
    """A server with an empty database; gives the URL with which Prefect uses it."""
    # The user `postgres` can't enter pytest's directories.
    data, port = Path("/tmp") / f"xai-video-postgres-{os.getpid()}-{free_port()}", free_port()
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        _as_postgres(f"{PROGRAMS}/initdb -D {data} -A trust -U postgres")
        _as_postgres(f"{PROGRAMS}/pg_ctl -D {data} -w -l {data}/log -o '{options}' start")
        _as_postgres(f"{PROGRAMS}/createdb -h {data} -p {port} prefect")
        yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/prefect"
    finally:
        _as_postgres(f"{PROGRAMS}/pg_ctl -D {data} -m immediate stop || true")
        shutil.rmtree(data, ignore_errors=True)


def _as_postgres(command: str) -> None:
    ended = subprocess.run(["su", "postgres", "-c", command], check=False, capture_output=True, text=True, cwd="/tmp")
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
