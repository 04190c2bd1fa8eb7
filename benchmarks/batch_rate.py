"""A batch under a low rate limit: at most rows x 3 / rate / 0.95, and fewer than 2 % of the replies 429.

200 videos at 2 requests a second for POST and GET together, counted in fixed windows of one second; renders of 40 s
with a log-normal spread of 0.5; 200 in flight. Three requests a video are one start and two polls.
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from servers import emulator, prefect_server
from size import is_small

ROWS, RATE, RENDER_SECONDS, SIGMA = 200, 2, 40, 0.5
SMALL_ROWS, SMALL_RATE, SMALL_SECONDS = 20, 4, 2
SHARE_USED, LARGEST_SHARE_REFUSED = 0.95, 0.02


def main() -> None:
    small = is_small(__doc__)
    rate, seconds = (SMALL_RATE, SMALL_SECONDS) if small else (RATE, RENDER_SECONDS)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(prefect_server(directory))
        renders = ("--light", "--render-seconds", str(seconds), "--render-sigma", str(SIGMA))
        log = directory / "requests.jsonl"
        base_url = stack.enter_context(emulator(*renders, "--requests-per-second", str(rate), "--log", str(log)))
        asyncio.run(measure(base_url, directory, log, rate, small=small))


async def measure(base_url: str, directory: Path, log: Path, rate: int, *, small: bool) -> None:
    from prefect.filesystems import LocalFileSystem

    from prefect_xai_video import XaiCredentials, agenerate_videos

    count = SMALL_ROWS if small else ROWS
    rows = [{"key": f"videos/{number:05}", "prompt": f"Video {number}", "duration": 1} for number in range(count)]
    began = time.perf_counter()
    report = await agenerate_videos(
        rows,
        in_flight=count,
        storage=LocalFileSystem(basepath=str(directory / "videos")),
        credentials=XaiCredentials(api_key="any", base_url=base_url),
    )
    taken = time.perf_counter() - began
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    paced = [entry for entry in entries if entry["path"].startswith("/v1/videos")]
    statuses = Counter(entry["status"] for entry in paced)
    refused = statuses[429] / len(paced)
    bound = count * 3 / rate / SHARE_USED
    print(f"{taken:.0f} s, {taken / bound:.2f} of the bound of {bound:.0f} s; {report}")
    print(f"{len(paced) / count:.2f} requests a video, {refused:.1%} of them refused; {dict(statuses)}")
    if not small and (taken > bound or refused > LARGEST_SHARE_REFUSED):
        raise SystemExit("the bound was exceeded, or too many requests were refused")


if __name__ == "__main__":
    main()
