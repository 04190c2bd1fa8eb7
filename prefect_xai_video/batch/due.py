"""The rows of a plan, each with the receipt that it has already."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import islice

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.batch.earlier import LOOKUPS
from prefect_xai_video.batch.plan import Plan, PlannedRow
from prefect_xai_video.engine.receipts import Receipt

AHEAD = 64
"""Rows that are read and looked up at a time."""

FindReceipt = Callable[[PlannedRow], Awaitable[Receipt | None]]
"""Finds the receipt of a row; None if it has none."""


async def with_receipts(plan: Plan, find: FindReceipt) -> AsyncIterator[tuple[PlannedRow, Receipt | None]]:
    """Read the rows of a plan in order, and look up each; of some at a time, the lookups run side by side.

    Args:
        plan: The plan.
        find: Finds the receipt of a row. If it fails, the row has none here: it meets the error again, and tells it.
    """
    slots = asyncio.Semaphore(LOOKUPS)

    async def look_up(row: PlannedRow) -> Receipt | None:
        async with slots:
            try:
                return await find(row)
            except Exception:
                return None

    rows = plan.rows()
    while chunk := await run_in_thread(_take, rows, AHEAD):
        for row, receipt in zip(chunk, await asyncio.gather(*map(look_up, chunk)), strict=True):
            yield row, receipt


def _take(rows: Iterator[PlannedRow], number: int) -> list[PlannedRow]:
    return list(islice(rows, number))
