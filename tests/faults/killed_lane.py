"""Runs the batch lane and kills itself: `killed_lane.py BASE_URL DIRECTORY ROWS STEP NUMBER`.

STEP is what has just happened when it dies, for the NUMBER-th time: `created` (a batch), `claimed` (a row), `added`
(a call, before its outcome is recorded), `submitted`, `listed` (results), `done`, `saving` or `stored`; `any` is any
of them; with `none` it runs to the end. Claims that were left behind count as old after some seconds.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from prefect_xai_video.api.batch_view import BatchView
from prefect_xai_video.api.batches import XaiBatches
from prefect_xai_video.engine.journal import Journal

from ..support.lane import opened, quick, rows, run_lane

base_url, directory, count, wanted, number = sys.argv[1:]
seen = Counter()


class Server:
    """The emulator, which runs elsewhere."""

    def __init__(self, url: str) -> None:
        self.base_url = url


def happened(step: str) -> None:
    seen.update([step, "any"])
    if seen[wanted] == int(number):
        os.kill(os.getpid(), signal.SIGKILL)


def after(owner: type, name: str, step: str) -> None:
    original = getattr(owner, name)

    async def observed(self, *arguments, **options):
        result = await original(self, *arguments, **options)
        happened(step)
        return result

    setattr(owner, name, observed)


after(XaiBatches, "create", "created")
after(XaiBatches, "add", "added")
after(BatchView, "results", "listed")
change = Journal.replace


async def replaced(self, held, receipt):
    result = await change(self, held, receipt)
    happened("saving" if receipt.state == "done" and receipt.file else receipt.state)
    return result


Journal.replace = replaced
after(Journal, "create", "claimed")


async def main() -> None:
    with quick():
        async with opened(Server(base_url), Path(directory)) as generation:
            outcomes, _ = await run_lane(generation, rows(int(count)), run_id=str(os.getpid()))
    print(sum(outcome.state == "stored" for outcome in outcomes.values()))


asyncio.run(main())
