"""The batch lane with 10,000 rows: its requests to xAI, its memory, and its time beside that of the bare work.

The bare work downloads the same number of videos of a batch that is done, checks them, and writes the same receipts,
with as many downloads at a time and no lane round it. The emulator (light mode) renders in no time, so that nothing
but work counts. At most 600 requests besides the downloads, 500 MB, and 1.2 times the time.
"""

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from servers import emulator, prefect_server
from size import is_small

ROWS, SMALL_ROWS = 10_000, 40
MOST_REQUESTS, MOST_MB, LARGEST_RATIO = 600, 500, 1.2


def main() -> None:
    small = is_small(__doc__)
    if len(sys.argv) > 1 and sys.argv[1] == "side":
        asyncio.run(side(*sys.argv[2:]))
        return
    rows = SMALL_ROWS if small else ROWS
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(prefect_server(directory))
        sides = {}
        for name in ("bare", "lane"):
            log = directory / f"{name}.log"
            base_url = stack.enter_context(emulator("--light", "--render-seconds", "0", "--log", str(log)))
            command = [sys.executable, __file__, "side", name, base_url, str(directory / name), str(rows)]
            sides[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            sides[name]["requests"] = requests(log)
    bare, lane = sides["bare"], sides["lane"]
    ratio = lane["seconds"] / bare["seconds"]
    print(f"{rows:,} rows: {lane['seconds']:.1f} s, the bare work {bare['seconds']:.1f} s: {ratio:.2f} times")
    print(f"{lane['requests']} requests to xAI besides the downloads; {lane['megabytes']:.0f} MB resident")
    is_within = lane["requests"] <= MOST_REQUESTS and lane["megabytes"] < MOST_MB and ratio <= LARGEST_RATIO
    if not small and not is_within:
        raise SystemExit("a figure was exceeded")


def requests(log: Path) -> int:
    """The requests that the emulator has got, besides downloads."""
    return sum(json.loads(line)["path"].startswith("/v1/") for line in log.read_text().splitlines())


async def side(name: str, base_url: str, place: str, rows: str) -> None:
    """Make the videos of one side in this process, and print what it took."""
    table = [
        {"key": f"videos/{number:05}", "prompt": f"Video {number}", "duration": 1} for number in range(int(rows))
    ]
    seconds = await (bare if name == "bare" else through_the_lane)(base_url, Path(place), table)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes}))


async def through_the_lane(base_url: str, place: Path, table: list[dict]) -> float:
    from prefect.filesystems import LocalFileSystem

    from prefect_xai_video import XaiCredentials, agenerate_videos

    credentials = XaiCredentials(api_key="any", base_url=base_url)
    began = time.monotonic()
    storage = LocalFileSystem(basepath=str(place))
    report = await agenerate_videos(table, lane="batch", storage=storage, credentials=credentials)
    seconds = time.monotonic() - began
    if report.stored != len(table):
        raise SystemExit(f"not all rows are stored: {report}")
    return seconds


async def bare(base_url: str, place: Path, table: list[dict]) -> float:
    from prefect_xai_video import XaiVideoClient
    from prefect_xai_video.api.batch_chunks import BatchItem, chunks
    from prefect_xai_video.api.options import build_request
    from prefect_xai_video.api.threads import own_threads
    from prefect_xai_video.batch.run import SAVING
    from prefect_xai_video.engine.bulk import AT_A_TIME
    from prefect_xai_video.engine.generation import Generation
    from prefect_xai_video.engine.receipts import Receipt
    from prefect_xai_video.engine.stores import LocalStore

    requested = {row["key"]: build_request(row["prompt"], duration=1) for row in table}
    claims = {key: f"claim-{number}" for number, key in enumerate(requested)}
    async with XaiVideoClient("any", base_url) as client:
        batch = await client.batches.create("bare")
        for chunk in chunks([BatchItem(claims[key], request) for key, request in requested.items()]):
            await client.batches.add(batch.batch_id, chunk)
        while (await client.batches.get(batch.batch_id)).pending:
            await asyncio.sleep(0.2)
        began = time.monotonic()
        with own_threads(32):
            generation = Generation(client, LocalStore(place))
            journal, writes, saves = generation.journal, asyncio.Semaphore(AT_A_TIME), asyncio.Semaphore(SAVING)

            async def claim(key: str) -> None:
                async with writes:
                    claim = claims[key]
                    receipt = Receipt.claim(
                        key, requested[key], claim=claim, xai_batch=batch.batch_id, api="emulator"
                    )
                    held = await journal.create(receipt)
                    await journal.change(held, lambda receipt: receipt.late_reply(claim, claim))

            async def save(key: str, status) -> None:
                async with saves:
                    await journal.change(await journal.read(key), lambda receipt: receipt.finished(status))
                    await generation.save(key)

            await asyncio.gather(*map(claim, requested))
            keys = {claim: key for key, claim in claims.items()}
            results = {each.batch_request_id: each async for each in client.batches.results(batch.batch_id)}
            await asyncio.gather(*(save(keys[claim], result.status) for claim, result in results.items()))
        return time.monotonic() - began


if __name__ == "__main__":
    main()
