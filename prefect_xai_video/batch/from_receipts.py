"""Builds the report of a batch from its receipts alone, without its manifest and without a run."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from prefect_xai_video.batch.outcomes import MAX_PROMPT_CHARACTERS, STATE_OF_RECEIPT, RowOutcome, facts_of_receipt
from prefect_xai_video.batch.report import TIMES, BatchReport, Tally
from prefect_xai_video.engine.attempts import ENDED_BADLY, Attempt
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.engine.stores.listed import read_listed
from prefect_xai_video.errors import StorageError

READS = 16
"""Receipts that are read at the same time."""


async def report_of_receipts(store: VideoStore, folder: str, name: str) -> BatchReport:
    """Build a report of all keys below a folder; its costs are those of all their attempts.

    A receipt that can't be read becomes a row of state `unknown`.

    Args:
        store: The store.
        folder: The folder; empty for the whole store.
        name: Name of the report.

    Raises:
        StorageError: If the store can't be read.
    """
    tally = Tally(name, folder, 0, Decimal(0))
    begun: datetime | None = None
    ended: datetime | None = None
    async for key, found in _receipts(store, f"{folder}/" if folder else ""):
        tally.count += 1
        if isinstance(found, StorageError):
            tally.add(_unreadable(tally.count, key, found))
            continue
        outcome = outcome_of(tally.count, key, found)
        tally.estimated_usd += outcome.estimated_cost_usd or 0
        tally.add(outcome)
        begun = min(begun or found.attempts[0].started_at, found.attempts[0].started_at)
        ended = max(ended or found.attempt.outcome_at, found.attempt.outcome_at)
    return replace(tally.report(), seconds=(ended - begun).total_seconds() if begun and ended else 0.0)


async def _receipts(store: VideoStore, prefix: str) -> AsyncIterator[tuple[str, Receipt | StorageError]]:
    """Read the receipts of a prefix in the order of their keys, some at a time."""
    chunk: list[str] = []
    async for key in store.keys(prefix):
        chunk.append(key)
        if len(chunk) == READS:
            for pair in await _read(store, chunk):
                yield pair
            chunk = []
    for pair in await _read(store, chunk):
        yield pair


async def _read(store: VideoStore, keys: list[str]) -> list[tuple[str, Receipt | StorageError]]:
    found = await asyncio.gather(*(read_listed(store, key) for key in keys))
    for one in found:
        if isinstance(one, StorageError) and one.transient:
            # The store is down; its receipts are not unreadable.
            raise one
    return [(key, one) for key, one in zip(keys, found, strict=True) if one is not None]


def outcome_of(number: int, key: str, receipt: Receipt) -> RowOutcome:
    """Describe what became of a receipt.

    Args:
        number: Number of the row.
        key: Its key in the store that was read.
        receipt: The receipt.
    """
    current, request = receipt.attempt, receipt.request
    others = sum((_cost(attempt) for attempt in receipt.attempts if attempt is not current), Decimal(0))
    prompt, duration = request.get("prompt"), request.get("duration")
    facts = facts_of_receipt(receipt) | _reason(receipt)
    state = STATE_OF_RECEIPT[receipt.state]
    if state not in {"stored", "open"}:
        # The report of a run has times of videos only, too.
        facts |= dict.fromkeys(f"{name}_seconds" for name in TIMES)
    return RowOutcome(
        number=number,
        place=f"receipt {number}",
        key=key,
        state=state,
        is_new=receipt.maybe_paid,
        mode=receipt.mode,
        duration=receipt.duration or (duration if isinstance(duration, int) else None),
        estimated_cost_usd=receipt.estimated_cost_usd,
        others_usd=others,
        prompt=prompt[:MAX_PROMPT_CHARACTERS] if isinstance(prompt, str) else None,
        **facts,
    )


def _cost(attempt: Attempt) -> Decimal:
    """What an attempt has cost: the billed cost, or the estimate if it may have been billed; a failed one is not."""
    if attempt.outcome in {"refused", "failed"} and attempt.cost_usd is None:
        return Decimal(0)
    return attempt.cost_usd if attempt.cost_usd is not None else attempt.estimated_cost_usd or Decimal(0)


def _reason(receipt: Receipt) -> dict[str, Any]:
    """Say why there is no video, in the words of the error that a run would raise."""
    if receipt.state in ENDED_BADLY or receipt.state == "unknown":
        error = receipt.error()
        return {"error": error.message, "error_type": type(error).__name__}
    if receipt.state == "sending":
        return {"error": "A run is sending the request, or has died while it did.", "error_type": None}
    if receipt.state != "stored" and receipt.failure:
        return {"error": receipt.failure.message, "error_type": receipt.failure.type}
    return {}


def _unreadable(number: int, key: str, error: StorageError) -> RowOutcome:
    return RowOutcome(
        number=number,
        place=f"receipt {number}",
        key=key,
        state="unknown",
        error=error.message,
        error_type=type(error).__name__,
    )
