"""The run of a batch: as many rows in flight as allowed, until all have ended or nothing more may be submitted.

A row is in flight from just before its POST until its video was seen to be done; saving comes after that. A row that
fails never stops the others. Only what would fail every further row stops new submissions: an API key that is
rejected, credits that are used up, a budget without room. What is under way then is still waited for.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Protocol, TypeGuard

from prefect_xai_video.batch.budget import Budget, RowPermit
from prefect_xai_video.batch.due import FindReceipts, with_receipts
from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.batch.plan import Plan, PlannedRow
from prefect_xai_video.engine.posting import Permit
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import (
    AccessDenied,
    AuthenticationFailed,
    LimitReached,
    XaiVideoError,
)

SAVING = 32
"""Rows that may be saved while others are in flight; more of them keep new rows waiting."""

logger = logging.getLogger(__name__)


class MakeRow(Protocol):
    """Makes the video of one row."""

    async def __call__(self, row: PlannedRow, permit: Permit, landed: Callable[[], None]) -> Receipt:
        """Make it.

        Args:
            row: The row.
            permit: Permission to submit it.
            landed: To be called when its video was seen to be done.

        Returns:
            Its receipt.
        """
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """News of a run.

    Attributes:
        outcome: The outcome of a row that has ended; None if a row was begun or landed.
        in_flight: Rows that are in flight.
        xai_batch: Id of a batch of xAI's that was created for the rows; None if that is not the news.
    """

    outcome: RowOutcome | None
    in_flight: int
    xai_batch: str | None = None


class BatchRun:
    """Makes the videos of a plan.

    Args:
        plan: The plan.
        in_flight: Largest number of rows in flight.
        find: Finds the receipts of rows.
        make: Makes the video of a row.
        budget: Money that may be spent.
        limits: Limits that are shared with other runs.
        on_step: Called with all news.
        paid_before: What earlier tries of the run have paid, in USD, by key.

    Attributes:
        stopped_by: The error after which nothing more was submitted.
        begun: Number of rows that were begun; the others were stored already, or not started.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        in_flight: int,
        find: FindReceipts,
        make: MakeRow,
        budget: Budget,
        limits: Permit,
        on_step: Callable[[Step], object],
        paid_before: Mapping[str, Decimal] = MappingProxyType({}),
    ) -> None:
        self._plan, self._make, self._find = plan, make, find
        self._budget, self._limits, self._on_step = budget, limits, on_step
        self._paid_before = paid_before
        budget.paid_usd += sum(paid_before.values())
        self._in_flight = 0
        self._slots, self._live = asyncio.Semaphore(in_flight), asyncio.Semaphore(in_flight + SAVING)
        self.stopped_by: XaiVideoError | None = None
        self.begun = 0

    async def run(self) -> None:
        """Make all videos. Errors of rows are outcomes; this raises only if it is cancelled, or for a defect."""
        async with asyncio.TaskGroup() as rows:
            async for row, is_paid in self._due():
                await self._live.acquire()
                await self._slots.acquire()
                if self.stopped_by is not None and not is_paid:
                    self._slots.release()
                    self._live.release()
                    self._skip(row)
                    continue
                rows.create_task(self._row(row))

    async def _due(self) -> AsyncIterator[tuple[PlannedRow, bool]]:
        """Read the rows, and leave out those that are made.

        A row that is paid for is due even if nothing more is submitted. So is one that could not be looked up: it
        meets the error again, and tells it.

        Yields:
            Each row, and whether it is paid for.
        """
        async for row, found in with_receipts(self._plan, self._find):
            receipt = found if isinstance(found, Receipt) else None
            state = receipt.state if receipt else None
            if receipt is not None and row.is_made(receipt):
                self._end(RowOutcome.of_receipt(row, receipt, is_new=row.key in self._paid_before))
            else:
                yield row, state in {"submitted", "done", "stored"}

    async def _row(self, row: PlannedRow) -> None:
        """Make the video of one row, in its slot."""
        permit, slot = RowPermit(self._limits, self._budget, row.key), _Slot(self._slots)
        self._in_flight += 1
        self.begun += 1
        self._on_step(Step(None, self._in_flight))

        def land() -> None:
            if slot.free():
                self._in_flight -= 1
                self._on_step(Step(None, self._in_flight))

        try:
            receipt = await self._make(row, permit, land)
            outcome = RowOutcome.of_receipt(row, receipt, is_new=permit.is_spent or row.key in self._paid_before)
        except Exception as error:
            outcome = self._failure(row, error, is_new=permit.is_spent or row.key in self._paid_before)
        finally:
            land()
            self._live.release()
        await self._budget.settle(row.key, outcome.settled_usd if permit.is_spent else Decimal(0))
        self._end(outcome)

    def _failure(self, row: PlannedRow, error: Exception, *, is_new: bool) -> RowOutcome:
        if stops_all(error):
            self.stopped_by = self.stopped_by or error
        elif not isinstance(error, XaiVideoError):
            logger.exception("The row of key %s met a defect", row.key)
        return RowOutcome.of_error(row, error, is_new=is_new)

    def _skip(self, row: PlannedRow) -> None:
        assert self.stopped_by is not None  # noqa: S101 - only then rows are skipped
        self._end(RowOutcome.not_started(row, f"Nothing more was submitted: {self.stopped_by.message}"))

    def _end(self, outcome: RowOutcome) -> None:
        self._on_step(Step(outcome, self._in_flight))


def stops_all(error: Exception | None) -> TypeGuard[XaiVideoError]:
    """Whether an error would meet every further submission."""
    return isinstance(error, AuthenticationFailed | AccessDenied | LimitReached)


class _Slot:
    """A slot of a row, freed once."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def free(self) -> bool:
        """Free it; whether it was not free before."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()
        return slots is not None
