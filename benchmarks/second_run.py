"""A second run of a finished batch of 1,000, against reading the same receipts in a bare loop.

It sends nothing to xAI, and takes at most twice the time of the loop, in a directory and in a bucket (moto's server).
The time of an empty flow is printed, too, since in a directory it counts. The Prefect server and the emulator (light
mode) run in processes of their own.
"""

import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from servers import bucket, emulator, prefect_server
from size import is_small

ROWS, SMALL_ROWS = 1_000, 40
LARGEST_RATIO = 2.0


def main() -> None:
    small = is_small(__doc__)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(prefect_server(directory))
        log = directory / "emulator.log"
        base_url = stack.enter_context(emulator("--light", "--render-seconds", "0", "--log", str(log)))
        from prefect.filesystems import LocalFileSystem

        stores = {
            "directory": LocalFileSystem(basepath=str(directory / "videos")),
            "bucket": stack.enter_context(bucket()),
        }
        ratios = {
            name: asyncio.run(measure(name, store, base_url, log, SMALL_ROWS if small else ROWS))
            for name, store in stores.items()
        }
    missed = [name for name, ratio in ratios.items() if ratio > LARGEST_RATIO]
    if missed and not small:
        raise SystemExit(f"more than {LARGEST_RATIO} times a bare loop: {missed}")


async def measure(name: str, storage: Any, base_url: str, log: Path, count: int) -> float:
    from prefect import flow

    from prefect_xai_video import XaiCredentials, agenerate_videos
    from prefect_xai_video.orchestration.storage import open_store

    rows = [{"key": f"videos/{number:05}", "prompt": f"Video {number}", "duration": 1} for number in range(count)]
    options = {"storage": storage, "credentials": XaiCredentials(api_key="any", base_url=base_url)}
    first = await agenerate_videos(rows, lane="batch", **options)
    assert first.stored == count, first
    sent = requests(log)

    @flow
    async def empty() -> None: ...

    await empty()
    began = time.perf_counter()
    await empty()
    flow_run = time.perf_counter() - began
    began = time.perf_counter()
    again = await agenerate_videos(rows, **options)
    second = time.perf_counter() - began
    assert (again.stored, again.new, requests(log)) == (count, 0, sent), again
    store = open_store(storage, Path())
    began = time.perf_counter()
    for row in rows:
        await store.read(row["key"])
    bare = time.perf_counter() - began
    print(f"{name}: a second run of {count:,} rows takes {second:.2f} s, {second / bare:.2f} times a bare loop")
    print(f"{name}: the loop takes {bare:.2f} s, and an empty flow {flow_run:.2f} s")
    return second / bare


def requests(log: Path) -> int:
    """The requests that the emulator has got, downloads included."""
    return len([json.loads(line) for line in log.read_text().splitlines()])


if __name__ == "__main__":
    main()
