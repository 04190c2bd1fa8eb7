"""Servers that benchmarks measure against, each in a process of its own that ends with its block."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_aws import S3Bucket

START_SECONDS = 120
POSTGRES = Path("/usr/lib/postgresql/15/bin")
SCHEDULE = {"FIRST_POLL_SECONDS": "0.5", "POLL_MIN_SECONDS": "0.2", "POLL_MAX_SECONDS": "0.5"}


@contextmanager
def running(*command: str | Path, output: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A Python process; it is ended with the block."""
    process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def prints_its_url(*command: str | Path) -> Iterator[str]:
    """A server that prints a line once it serves; gives the line."""
    with running(*command, output=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{command[0]} did not start")
        yield line


@contextmanager
def emulator(*options: str) -> Iterator[str]:
    """The emulator, by default with renders of a second; gives its base URL."""
    with prints_its_url("-m", "prefect_xai_video.emulator", *(options or ("--render-seconds", "1"))) as base_url:
        yield base_url


@contextmanager
def bucket() -> "Iterator[S3Bucket]":
    """An empty bucket on moto's server."""
    from prefect_aws import AwsCredentials, S3Bucket
    from prefect_aws.client_parameters import AwsClientParameters

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running("-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)) as process:
        wait_for(f"{url}/moto-api/", process)
        credentials = AwsCredentials(
            aws_access_key_id="access",
            aws_secret_access_key="secret",
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(
                endpoint_url=url, config={"s3": {"addressing_style": "path"}, "signature_version": "s3v4"}
            ),
        )
        credentials.get_s3_client().create_bucket(Bucket="videos")
        yield S3Bucket(bucket_name="videos", credentials=credentials)


def has_postgres() -> bool:
    """Whether this machine can start a PostgreSQL server of its own."""
    return POSTGRES.is_dir() and os.geteuid() == 0


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server with an empty database; gives the URL for Prefect. Needs root, for the user postgres."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        shutil.chown(directory, "postgres")
        data, port = f"{directory}/data", free_port()
        as_postgres("initdb", "-D", data, "-A", "trust", "--no-sync")
        options = f"-p {port} -h 127.0.0.1 -k {directory} -c fsync=off -c max_connections=200"
        as_postgres("pg_ctl", "-D", data, "-w", "-l", f"{directory}/log", "-o", options, "start")
        try:
            yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres"
        finally:
            as_postgres("pg_ctl", "-D", data, "-m", "immediate", "stop")


def as_postgres(program: str, *arguments: str) -> None:
    """Run a program of PostgreSQL as the user postgres."""
    command = ["runuser", "-u", "postgres", "--", str(POSTGRES / program), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


@contextmanager
def prefect_server(home: Path, database_url: str | None = None) -> Iterator[None]:
    """A Prefect server that this process and those that it starts use; on SQLite without a database URL."""
    port = free_port()
    os.environ |= {"PREFECT_API_DATABASE_CONNECTION_URL": database_url} if database_url else {}
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    } | {f"PREFECT_INTEGRATIONS_XAI_VIDEO_{name}": value for name, value in SCHEDULE.items()}
    # Prefect sets its logging up when it is first imported.
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    with running("-m", "prefect", "server", "start", "--port", str(port)) as process:
        wait_for(f"{os.environ['PREFECT_API_URL']}/health", process)
        yield


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until a server replies."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The server at {url} ended with {process.returncode}")
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.1)
    raise TimeoutError(url)
