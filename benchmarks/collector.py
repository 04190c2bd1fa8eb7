"""A pass of the collector: its time grows with what is open, not with what was ever stored.

A pass with 100 open keys among 100,000 stored ones takes at most 1.5 times the time of one with 100 open among 100.
And a pass over 10,000 open keys in one process takes at most 500 MB, and no more than 1.5 times the time a key of one
over 1,000. The emulator (light mode) renders for an hour, so that keys stay open.
"""

import asyncio
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from servers import emulator, prefect_server
from size import is_small

STORED, OPEN, FEW_OPEN, MANY_OPEN = 100_000, 100, 1_000, 10_000
SMALL_STORED, SMALL_OPEN, SMALL_FEW, SMALL_MANY = 1_000, 20, 20, 100
LARGEST_RATIO, LARGEST_MB = 1.5, 500


def main() -> None:
    small = is_small(__doc__)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(prefect_server(directory))
        base_url = stack.enter_context(emulator("--light", "--render-seconds", "3600"))
        asyncio.run(measure(base_url, directory, small=small))


async def measure(base_url: str, directory: Path, *, small: bool) -> None:
    stored, opened, few, many = (
        (SMALL_STORED, SMALL_OPEN, SMALL_FEW, SMALL_MANY) if small else (STORED, OPEN, FEW_OPEN, MANY_OPEN)
    )
    alone = await passes(base_url, directory / "alone", opened, 0)
    among = await passes(base_url, directory / "among", opened, stored)
    ratio = among / alone
    print(f"{opened} open keys alone {alone:.2f} s, among {stored:,} stored ones {among:.2f} s: {ratio:.2f} times")
    some = await passes(base_url, directory / "few", few, 0)
    all_of_them = await passes(base_url, directory / "many", many, 0)
    growth = (all_of_them / many) / (some / few)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{few:,} open keys {some:.2f} s, {many:,} open keys {all_of_them:.2f} s: {growth:.2f} times a key")
    print(f"at most {memory:.0f} MB resident")
    if not small and (ratio > LARGEST_RATIO or growth > LARGEST_RATIO or memory > LARGEST_MB):
        raise SystemExit("a figure was exceeded")


async def passes(base_url: str, directory: Path, opened: int, stored: int) -> float:
    """Fill a store, and give the time of the second of two passes; the first one may read all receipts."""
    from prefect.filesystems import LocalFileSystem

    from prefect_xai_video import XaiCredentials, acollect_videos, asubmit_videos

    storage = LocalFileSystem(basepath=str(directory))
    credentials = XaiCredentials(api_key="any", base_url=base_url)
    rows = [{"key": f"open/{number:05}", "prompt": f"Video {number}", "duration": 1} for number in range(opened)]
    await asubmit_videos(rows, storage=storage, credentials=credentials)
    await asyncio.to_thread(write_stored, directory, stored)
    taken = 0.0
    for _ in range(2):
        began = time.perf_counter()
        collected = await acollect_videos(storage=storage, credentials=credentials)
        taken = time.perf_counter() - began
        assert collected.counts == {"rendering": opened}, collected
    return taken


def write_stored(directory: Path, count: int) -> None:
    """Write receipts of stored videos; the videos themselves are not needed."""
    from prefect_xai_video.api.options import build_request
    from prefect_xai_video.api.responses import VideoStatus
    from prefect_xai_video.engine.attempts import StoredFile
    from prefect_xai_video.engine.receipts import Receipt

    request = build_request("A stored video", duration=1)
    for number in range(count):
        path = directory / f"stored-{number // 1000:03}" / f"{number:06}.json"
        path.parent.mkdir(exist_ok=True)
        key = path.relative_to(directory).as_posix().removesuffix(".json")
        done = VideoStatus(request_id="id", state="done")
        file = StoredFile(uri=path.as_uri(), size=1, sha256="0" * 64, content_type="video/mp4")
        receipt = Receipt.claim(key, request, api="emulator").submitted("id").finished(done).stored(file)
        path.write_bytes(receipt.to_json())


if __name__ == "__main__":
    main()
