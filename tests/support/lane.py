"""Runs of the batch lane without a flow: the plan of a list of rows, a directory, and an emulator."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from unittest import mock

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.batch import lane
from prefect_xai_video.batch.budget import Budget
from prefect_xai_video.batch.lane import LaneRun
from prefect_xai_video.batch.manifest import open_manifest
from prefect_xai_video.batch.plan import make_plan
from prefect_xai_video.batches.rows import find
from prefect_xai_video.engine import batch_inquiry, journal
from prefect_xai_video.engine.generation import Generation, Unlimited
from prefect_xai_video.engine.inputs import resolve_inputs
from prefect_xai_video.engine.stores import LocalStore

from .api_key import API_KEY

QUICK = Retries(attempts=4, first_wait=0.01, longest_wait=0.05)


def rows(count, text="", **options):
    return [
        {"key": f"cats/{number:03}", "prompt": f"Cat {number} {text}".strip(), "duration": 1} | options
        for number in range(count)
    ]


@contextmanager
def quick():
    """Waits of the lane that suit the emulator: nothing of xAI's arrives as late here."""
    with (
        mock.patch.object(batch_inquiry, "SETTLE_SECONDS", 0.2),
        mock.patch.object(journal, "CLAIM_SECONDS", 4),
        mock.patch.object(journal, "CLAIM_WAIT_SECONDS", 0.1),
        mock.patch.object(lane, "FIRST_PAUSE", 0.05),
        mock.patch.object(lane, "LONGEST_PAUSE", 0.3),
    ):
        yield


@asynccontextmanager
async def opened(emulator, root, **observers):
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=QUICK) as client:
        yield Generation(client, LocalStore(root), **observers)


async def run_lane(
    generation, table, *, budget=None, timeout=60, run_id="run", cancels=False, options=None, on_step=None
):
    """Run a list of rows; returns their outcomes by key, and the run."""
    outcomes = {}

    def step(news):
        if news.outcome is not None:
            assert news.outcome.key not in outcomes
            outcomes[news.outcome.key] = news.outcome
        if on_step is not None:
            on_step(news)

    async def prepare(request):
        return await resolve_inputs(request, None, None)

    with open_manifest(table) as manifest:
        run = LaneRun(
            make_plan(manifest),
            generation=generation,
            find=partial(find, generation, readable=None),
            prepare=prepare,
            options=options or {},
            run_id=run_id,
            budget=Budget(budget),
            limits=Unlimited(),
            on_step=step,
            timeout=timeout,
            cancels=cancels,
        )
        async with asyncio.timeout(120):
            await run.run()
    return outcomes, run


def ids(emulator):
    """How often the emulator has got each id of a batch's request."""
    return Counter(entry["batch_request_id"] for entry in emulator.ledger()["requests"])


def paid(emulator):
    """What was paid for each prompt: how many requests were billed."""
    return Counter(entry["prompt"] for entry in emulator.ledger()["requests"] if float(entry["cost_usd"]) > 0)
