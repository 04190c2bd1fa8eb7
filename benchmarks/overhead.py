"""What `generate_video` adds to the bare client doing start, poll and download: at most 1.0 s.

A Prefect server and an emulator run in processes of their own; both sides poll by the same schedule, in turns, and
the medians are compared. Empty flows are told too: what Prefect itself takes. At the end of a synchronous flow it
waits up to a second for its thread of heartbeats.
"""

import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from servers import emulator, prefect_server
from size import is_small

ROUNDS = 7


def timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    rounds = 1 if is_small(__doc__) else ROUNDS
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(prefect_server(directory))
        measure(stack.enter_context(emulator()), directory, rounds)


def measure(base_url: str, directory: Path, rounds: int) -> None:
    from prefect import flow
    from prefect.filesystems import LocalFileSystem

    from prefect_xai_video import XaiCredentials, XaiVideoSettings, agenerate_video, generate_video
    from prefect_xai_video.api.options import build_request
    from prefect_xai_video.engine.polling import Poll, next_wait

    credentials = XaiCredentials(api_key="any", base_url=base_url)
    storage = LocalFileSystem(basepath=directory / "videos")
    schedule = XaiVideoSettings().schedule

    async def bare() -> None:
        async with credentials.get_client() as client:
            request_id = await client.start(build_request("A cat", duration=1))
            began, polls = time.monotonic(), []
            while True:
                await asyncio.sleep(next_wait(schedule, polls, time.monotonic() - began))
                status = await client.get(request_id)
                if status.state == "done":
                    break
                polls.append(Poll(time.monotonic() - began, status.progress))
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
    for number in range(rounds + 1):
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
