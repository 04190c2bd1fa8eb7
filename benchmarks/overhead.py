"""What `generate_video` adds to the bare client doing start, poll and download: at most 1.0 s.

A Prefect server and an emulator run in processes of their own; both sides poll by the same schedule, in turns, and
the medians are compared. Empty flows are told too: what Prefect itself takes. At the end of a synchronous flow it
waits up to a second for its thread of heartbeats.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROUNDS = 7
PORT = 8932
SCHEDULE = {"FIRST_POLL_SECONDS": "0.5", "POLL_MIN_SECONDS": "0.2", "POLL_MAX_SECONDS": "0.5"}


@contextmanager
def server(home: str):
    """A Prefect server, and the environment that leads to it."""
    os.environ |= {
        "PREFECT_HOME": home,
        "PREFECT_API_URL": f"http://127.0.0.1:{PORT}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    } | {f"PREFECT_INTEGRATIONS_XAI_VIDEO_{name}": value for name, value in SCHEDULE.items()}
    command = [Path(sys.executable).with_name("prefect"), "server", "start", "--port", str(PORT)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/health").close()
                break
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def emulator():
    command = [sys.executable, "-m", "prefect_xai_video.emulator", "--render-seconds", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(server(directory))
        base_url = stack.enter_context(emulator())
        measure(base_url, Path(directory))


def measure(base_url: str, directory: Path) -> None:
    from prefect import flow
    from prefect.filesystems import LocalFileSystem

    from prefect_xai_video import XaiCredentials, XaiVideoSettings, agenerate_video, generate_video
    from prefect_xai_video.polling import Look, next_wait
    from prefect_xai_video.requests import build_request

    credentials = XaiCredentials(api_key="any", base_url=base_url)
    storage = LocalFileSystem(basepath=directory / "videos")
    schedule = XaiVideoSettings().schedule

    async def bare() -> None:
        async with credentials.get_client() as client:
            request_id = await client.start(build_request("A cat", duration=1))
            began, looks = time.monotonic(), []
            while True:
                await asyncio.sleep(next_wait(schedule, looks, time.monotonic() - began))
                status = await client.get(request_id)
                if status.state == "done":
                    break
                looks.append(Look(time.monotonic() - began, status.progress))
            await client.download(status.url.get_secret_value(), directory / "bare.mp4")

    @flow
    def empty() -> None: ...

    @flow
    async def aempty() -> None: ...

    options = {"duration": 1, "storage": storage, "credentials": credentials}
    sides = {
        "bare client": lambda: asyncio.run(bare()),
        "agenerate_video": lambda: asyncio.run(agenerate_video("A cat", **options)),
        "generate_video": lambda: generate_video("A cat", **options),
        "an empty async flow": lambda: asyncio.run(aempty()),
        "an empty sync flow": empty,
    }
    times = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, call in sides.items():
            taken = timed(call)
            if number:
                times[name].append(taken)
    base = statistics.median(times["bare client"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:20} {median:.2f} s, {median - base:+.2f} s, {median / base:.2f} times the bare client")


if __name__ == "__main__":
    main()
