"""The rows of a plan, each with the receipt that it has already."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import islice

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.batch.plan import Plan, PlannedRow
from prefect_xai_video.engine.receipts import Receipt

AHEAD = 64
"""Rows that are read and looked up at a time."""

Found = Receipt | Exception | None
"""What the store has for a row: its receipt, none, or the error of looking it up."""

FindReceipts = Callable[[Sequence[PlannedRow]], Awaitable[Sequence[Found]]]
"""Finds the receipts of some rows."""


async def with_receipts(plan: Plan, find: FindReceipts) -> AsyncIterator[tuple[PlannedRow, Found]]:
    """Read the rows of a plan in order, and look them up, some at a time.

    Args:
        plan: The plan.
        find: Finds the receipts of some rows.
    """
    rows = plan.rows()
    while chunk := await run_in_thread(_take, rows, AHEAD):
        for row, found in zip(chunk, await find(chunk), strict=True):
            yield row, found


def _take(rows: Iterator[PlannedRow], number: int) -> list[PlannedRow]:
    return list(islice(rows, number))
