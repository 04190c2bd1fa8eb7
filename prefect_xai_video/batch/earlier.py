"""What the receipts of a batch say before it runs: what is due, and what earlier tries of the same run have paid."""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from itertools import islice

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.batch.budget import UNPRICED_USD
from prefect_xai_video.batch.plan import Plan, PlannedRow
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LOOKUPS, VideoStore
from prefect_xai_video.errors import StorageError


async def paid_before(plan: Plan, store: VideoStore, run_id: str) -> dict[str, Decimal]:
    """What earlier tries of a run have paid for the rows of its plan, in USD, by key.

    Args:
        plan: The plan.
        store: The store with the receipts.
        run_id: Id of the flow run, as in the receipts.
    """
    return {
        row.key: paid
        async for row, receipt in receipts_of(plan, store)
        if receipt is not None and (paid := paid_by(receipt, run_id)) is not None
    }


async def due_usd(plan: Plan, store: VideoStore, stops: Sequence[int]) -> list[Decimal]:
    """Estimated cost of the rows of each shard whose videos are not stored, in USD.

    Args:
        plan: The plan of all rows.
        store: The store with the receipts.
        stops: Number of the last row of each shard.
    """
    due = [Decimal(0)] * len(stops)
    async for row, receipt in receipts_of(plan, store):
        if receipt is None or receipt.state != "stored":
            due[bisect_left(stops, row.number)] += row.request.estimated_cost_usd or UNPRICED_USD
    return due


def paid_by(receipt: Receipt, run_id: str) -> Decimal | None:
    """What a run paid for a key, in USD, with estimates where xAI reported no cost; None if it submitted nothing."""
    own = [attempt for attempt in receipt.attempts if attempt.flow_run_id == run_id and attempt.outcome != "refused"]
    costs = (each.estimated_cost_usd if each.cost_usd is None else each.cost_usd for each in own)
    return sum((cost or Decimal(0) for cost in costs), Decimal(0)) if own else None


async def receipts_of(plan: Plan, store: VideoStore) -> AsyncIterator[tuple[PlannedRow, Receipt | None]]:
    """Read the receipts of a plan, some at a time; None where there is none, or it can't be read."""
    rows = plan.rows()
    while chunk := await run_in_thread(lambda: list(islice(rows, LOOKUPS))):
        for row, receipt in zip(chunk, await asyncio.gather(*(_read(store, row.key) for row in chunk)), strict=True):
            yield row, receipt


async def _read(store: VideoStore, key: str) -> Receipt | None:
    try:
        held = await store.read(key)
    except StorageError:
        # The row itself reports it.
        return None
    return held.receipt if held else None
