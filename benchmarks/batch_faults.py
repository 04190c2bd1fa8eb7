"""A batch of 1,000 videos with injected faults: 1.00 payments a delivered video, never two for a key, no id lost.

A share of 5 % of the submissions gets one fault each, of any kind that the emulator knows (`--fault-share`). The
batch is run twice: the second run picks up what the first one left open. Printed are states, payments by the
emulator's ledger, and what the report says. It fails if a key was paid twice, if a request id that xAI returned is in
no receipt, or if the report is wrong: it counts lost replies as paid, since nobody can know, and nothing else.
"""

import asyncio
import tempfile
from collections import Counter
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

import httpx
from servers import emulator, prefect_server
from size import is_small

ROWS, IN_FLIGHT, SHARE, SEED = 1000, 100, 0.05, 1
SMALL_ROWS, SMALL_IN_FLIGHT, SMALL_SHARE = 30, 10, 0.1


def main() -> None:
    small = is_small(__doc__)
    share = SMALL_SHARE if small else SHARE
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(prefect_server(directory))
        options = ("--light", "--render-seconds", "1", "--fault-share", str(share), "--seed", str(SEED))
        base_url = stack.enter_context(emulator(*options))
        asyncio.run(measure(base_url, directory, small=small))


async def measure(base_url: str, directory: Path, *, small: bool) -> None:
    from prefect.filesystems import LocalFileSystem

    from prefect_xai_video import XaiCredentials, agenerate_videos
    from prefect_xai_video.engine.stores import LocalStore

    count, in_flight = (SMALL_ROWS, SMALL_IN_FLIGHT) if small else (ROWS, IN_FLIGHT)
    rows = [{"key": f"videos/{number:05}", "prompt": f"Video {number}", "duration": 1} for number in range(count)]
    options = {
        "in_flight": in_flight,
        "allow_failures": True,
        "storage": LocalFileSystem(basepath=str(directory / "videos")),
        "credentials": XaiCredentials(api_key="any", base_url=base_url),
    }
    first = await agenerate_videos(rows, **options)
    second = await agenerate_videos(rows, **options)
    print(f"first run: {first}\nsecond run: {second}")
    billed = ledger(base_url)
    payments = Counter(entry["prompt"] for entry in billed)
    store = LocalStore(directory / "videos")
    receipts = {row["prompt"]: (await store.read(row["key"])).receipt for row in rows}
    states = Counter(receipt.state for receipt in receipts.values())
    recorded = {attempt.request_id for receipt in receipts.values() for attempt in receipt.attempts}
    stored = [prompt for prompt, receipt in receipts.items() if receipt.state == "stored"]
    twice = [prompt for prompt, number in payments.items() if number > 1]
    lost = [
        entry["prompt"]
        for entry in billed
        if entry["request_id"] not in recorded and receipts[entry["prompt"]].state != "unknown"
    ]
    per_video = sum(payments[prompt] for prompt in stored) / len(stored)
    print(f"{len(stored)} of {count} videos stored; states {dict(states)}")
    print(f"{per_video:.2f} payments a delivered video; {len(twice)} keys paid twice; {len(lost)} request ids lost")
    unknown = sum(receipt.state == "unknown" for receipt in receipts.values())
    paid = sum((Decimal(entry["cost_usd"]) for entry in billed), Decimal(0))
    reported = first.cost_usd + second.cost_usd
    print(f"{unknown} replies lost; billed ${paid}, reported ${reported}")
    is_right = second.stored == len(stored) and reported - first.reserved_usd <= paid <= reported
    if twice or lost or per_video != 1 or not is_right:
        raise SystemExit(f"paid twice {twice}, lost {lost}, {per_video} payments a video, right {is_right}")


def ledger(base_url: str) -> list[dict]:
    """The billed requests, by the emulator."""
    return httpx.get(f"{base_url.removesuffix('/v1')}/emulator/ledger").json()["requests"]


if __name__ == "__main__":
    main()
