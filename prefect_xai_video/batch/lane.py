"""The bulk lane: a batch of rows through xAI's Batch API, and no task that waits for each of them.

Rows are claimed and added to a batch of xAI's in calls of many, and one request for its state serves them all. A row
ends when its video is stored, or when xAI says that there will be none. A row that xAI's batch certainly does not
have goes into another one.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from types import MappingProxyType

from prefect_xai_video.api.batch_chunks import MAX_CHUNK_BYTES, MAX_CHUNK_REQUESTS
from prefect_xai_video.api.batch_responses import XaiBatch
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.batch.budget import Budget, RowPermit
from prefect_xai_video.batch.due import FindReceipts, with_receipts
from prefect_xai_video.batch.lane_rows import LaneRow, is_open
from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.batch.plan import Plan
from prefect_xai_video.batch.run import SAVING, Step, stops_all
from prefect_xai_video.batch.watched import WatchedBatches
from prefect_xai_video.engine.bulk import Added, BulkSubmission, Claimed
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.handover import Handover, delivery_of
from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.options import KeyOptions
from prefect_xai_video.engine.posting import Permit, clean_up
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.submission import Submission
from prefect_xai_video.errors import (
    DownloadError,
    ServiceUnavailable,
    SubmissionUnknown,
    VideoTimeout,
    XaiVideoError,
)

BATCH_ROWS = 50_000
"""Most rows that are in xAI's batches at a time: their results are listed whole, so this bounds the memory."""

MAX_TRIES = 5
"""Times that a row is tried: to be added, or to be stored after errors that may pass."""

FIRST_PAUSE, PAUSE_GROWTH, LONGEST_PAUSE = 0.5, 1.3, 60.0
"""Seconds between two looks at the batches: after one that ended a row, the factor after others, and at most."""

_TOO_LATE = (
    "The video was not done within {:g} s. Run the batch again to continue waiting, without paying again: xAI takes "
    "up to 24 hours."
)

logger = logging.getLogger(__name__)


class LaneRun:
    """Makes the videos of a plan through xAI's Batch API.

    Args:
        plan: The plan.
        generation: The engine.
        find: Finds the receipts of rows.
        prepare: Checks the request of a row, and resolves its inputs.
        options: The options of the batch that hold for each submission.
        run_id: The flow run that submits, for the receipts.
        budget: Money that may be spent.
        limits: Limits that are shared with other runs.
        on_step: Called with all news.
        timeout: Longest wait for the videos in seconds; None to submit the rows only.
        cancels: Whether a run that is cancelled cancels its batches at xAI.
        paid_before: What earlier tries of the run have paid, in USD, by key.

    Attributes:
        stopped_by: The error after which nothing more was submitted.
        begun: Number of rows that were begun, or were open; the others were stored already, or not started.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        generation: Generation,
        find: FindReceipts,
        prepare: Callable[[VideoRequest], Awaitable[VideoRequest]],
        options: KeyOptions,
        run_id: str | None,
        budget: Budget,
        limits: Permit,
        on_step: Callable[[Step], object],
        timeout: float | None,
        cancels: bool = False,
        paid_before: Mapping[str, Decimal] = MappingProxyType({}),
    ) -> None:
        self._plan, self._generation, self._find, self._prepare = plan, generation, find, prepare
        self._options, self._run_id, self._budget, self._limits = options, run_id, budget, limits
        self._on_step, self._timeout, self._cancels, self._paid_before = on_step, timeout, cancels, paid_before
        budget.paid_usd += sum(paid_before.values())
        self._found = with_receipts(plan, find)
        self._again: list[LaneRow] = []
        self._waiting: dict[str, LaneRow] = {}
        self._batches = WatchedBatches(generation.client)
        self._bulk: BulkSubmission | None = None
        self._own_batches: list[str] = []
        self.stopped_by: XaiVideoError | None = None
        self.begun = 0

    async def run(self) -> None:
        """Make all videos. Errors of rows are outcomes; this raises only if it is cancelled, or for a defect."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        is_more = True
        try:
            while is_more or self._again:
                is_more = await self._submit()
                if deadline is None:
                    await self._leave()
                else:
                    await self._collect(deadline)
        except asyncio.CancelledError:
            if self._cancels:
                await clean_up(self._cancel_batches())
            raise

    async def _submit(self) -> bool:
        """Submit rows until none is left, or no more fit; whether any is left."""
        group: list[LaneRow] = []
        while (row := await self._next()) is not None:
            if self.stopped_by is not None:
                await self._end(row, RowOutcome.not_started(row.planned, _nothing_more(self.stopped_by)))
                continue
            if (group or self._waiting) and not self._budget.fits(row.planned.request):
                self._again.append(row)
                break
            try:
                await self._budget.reserve(row.key, row.planned.request)
            except XaiVideoError as error:
                await self._fail(row, error)
                continue
            group.append(row)
            if len(group) == MAX_CHUNK_REQUESTS:
                await self._send(group)
                group = []
                if len(self._waiting) >= BATCH_ROWS:
                    break
        if group:
            await self._send(group)
        return row is not None

    async def _next(self) -> LaneRow | None:
        """Read the next row that is to be submitted. Those that are open already wait, and stored ones end."""
        if self._again:
            return self._again.pop()
        async for planned, found in self._found:
            row = LaneRow(planned, RowPermit(self._limits, self._budget, planned.key))
            row.receipt = found if isinstance(found, Receipt) else None
            receipt = await self._looked_up(row)
            if receipt is not None and planned.is_made(receipt):
                await self._end(row, self._outcome(row, receipt))
            elif receipt is not None and is_open(receipt) and not self._is_given_up(receipt):
                self.begun += 1
                self._wait_for(row, receipt)
            else:
                return row
        return None

    async def _looked_up(self, row: LaneRow) -> Receipt | None:
        """Find out whether an open row is to be submitted again, if this run does not wait until that comes out."""
        if self._timeout is not None or row.receipt is None or not is_open(row.receipt):
            return row.receipt
        try:
            return await self._generation.look(row.key)
        except XaiVideoError as error:
            return None if self._may_resubmit(row, error) else row.receipt

    async def _send(self, rows: list[LaneRow]) -> None:
        """Claim rows, and add them to a batch of xAI's."""
        while rows and self.stopped_by is None:
            try:
                bulk = self._bulk = self._bulk or await self._new_batch()
            except XaiVideoError as error:
                for row in rows:
                    await self._fail(row, error)
                return
            rows = await self._send_first(bulk, rows)
        if self.stopped_by is not None:
            for row in rows:
                await self._end(row, RowOutcome.not_started(row.planned, _nothing_more(self.stopped_by)))

    async def _send_first(self, bulk: BulkSubmission, rows: list[LaneRow]) -> list[LaneRow]:
        """Claim and add the first rows, about as many as one call has room for; return the others.

        So the content of their inputs fits into memory, however many rows there are.
        """
        claimed: dict[str, Claimed] = {}
        left = rows
        try:
            while left and sum(each.size for each in claimed.values()) < MAX_CHUNK_BYTES:
                part, left = left[:SAVING], left[SAVING:]
                await _side_by_side(partial(self._claim, bulk, claimed), part)
        except BaseException:
            await clean_up(bulk.withdraw(list(claimed.values())))
            raise
        won = [row for row in rows if row.key in claimed]
        for row, added in zip(won, await bulk.add([claimed[row.key] for row in won]), strict=True):
            await self._added(row, added)
        return left

    async def _new_batch(self) -> BulkSubmission:
        """Create an empty batch. If the reply is lost, another one is created: they cost nothing.

        Raises:
            ServiceUnavailable: If no reply with the id of a batch arrived. No row was sent.
            ApiError: If it was refused.
        """
        client = self._generation.client

        async def create() -> XaiBatch:
            try:
                return await client.batches.create(f"xai-video {self._plan.manifest.name} {uuid.uuid4().hex[:12]}")
            except SubmissionUnknown as error:
                message = f"No row was sent. {error.message}"
                raise ServiceUnavailable(
                    message, http_status=error.http_status, trace_id=error.trace_id, answer=error.answer
                ) from error

        batch = await client.retries.call(create, lambda error: isinstance(error.__cause__, SubmissionUnknown))
        self._on_step(Step(None, len(self._waiting), batch.batch_id))
        self._own_batches.append(batch.batch_id)
        return BulkSubmission(client, self._generation.journal, batch.batch_id)

    async def _claim(self, bulk: BulkSubmission, claimed: dict[str, Claimed], row: LaneRow) -> None:
        self.begun += row.tries == 0
        row.tries += 1
        try:
            request = await self._prepare(row.planned.request)
            row.request = request.without_content()
            won = await bulk.claim(self._submission(request, row, bulk))
        except Exception as error:
            await self._fail(row, error)
            return
        if isinstance(won, Claimed):
            claimed[row.key] = won
        elif is_open(won):
            self._wait_for(row, won)
        else:
            await self._end(row, self._outcome(row, won))

    def _submission(self, request: VideoRequest, row: LaneRow, bulk: BulkSubmission) -> Submission:
        return Submission(
            bulk.client,
            bulk.journal,
            request,
            check_key(row.key),
            self._run_id,
            self._options.get("regenerate", False),
            self._options.get("on_unknown", "raise"),
            Handover(**delivery_of(row.planned.saving)),
            row.permit,
            xai_batch=bulk.batch_id,
        )

    async def _added(self, row: LaneRow, added: Added) -> None:
        """Note what became of a row that was to be added."""
        row.additions += 1
        if added.error is None:
            self._wait_for(row, added.receipt)
        elif added.is_closed and row.tries < MAX_TRIES:
            self._bulk = None
            await self._retry(row)
        else:
            await self._fail(row, added.error)

    def _wait_for(self, row: LaneRow, receipt: Receipt) -> None:
        row.receipt, row.tries = receipt, 0
        self._waiting[row.key] = row
        self._batches.add(row.key, receipt)
        self._on_step(Step(None, len(self._waiting)))

    async def _collect(self, deadline: float) -> None:
        """Wait until all rows that are open have ended, or can be added again."""
        pause = FIRST_PAUSE
        while self._waiting:
            before = len(self._waiting)
            ready = await self._batches.ready()
            await _side_by_side(self._collect_row, [self._waiting[key] for key in ready])
            if not self._waiting:
                return
            if (left := deadline - time.monotonic()) <= 0:
                await self._time_out()
                return
            pause = FIRST_PAUSE if len(self._waiting) < before else min(pause * PAUSE_GROWTH, LONGEST_PAUSE)
            await asyncio.sleep(min(pause, left))

    async def _collect_row(self, row: LaneRow) -> None:
        """Take a row one step further: store its video if it is done."""
        try:
            receipt = await self._generation.collect(row.key, stills=row.planned.saving.get("stills", False))
        except Exception as error:
            if self._may_resubmit(row, error):
                await self._retry(row)
                return
            row.tries += 1
            may_pass = isinstance(error, XaiVideoError) and (error.transient or isinstance(error, DownloadError))
            if not may_pass or row.tries == MAX_TRIES:
                await self._fail(row, error, stays_open=True)
            return
        if receipt.state == "refused" and row.request is not None:
            await row.permit.refund(row.request)
        # The call that was to add it has had no effect, and never will: its batch is closed. Or an earlier run has
        # sent it, and its batch was cancelled: nothing was paid, and this run is to make the video.
        is_due = receipt.state == "refused" and (receipt.request_id is None or row.request is None)
        if is_due and self.stopped_by is None and row.additions < MAX_TRIES:
            if self._bulk is not None and self._bulk.batch_id == receipt.xai_batch:
                self._bulk = None
            await self._retry(row)
        elif receipt.state == "stored" or not is_open(receipt):
            await self._end(row, self._outcome(row, receipt))
        else:
            row.receipt = receipt
            self._batches.add(row.key, receipt)

    def _is_given_up(self, receipt: Receipt) -> bool:
        """Whether a person pays for a new attempt, as xAI did not know the open request at the last poll."""
        return receipt.is_not_found and self._options.get("regenerate", False)

    def _may_resubmit(self, row: LaneRow, error: Exception) -> bool:
        """Whether a row of an earlier run, of which there is no telling any more, is to be submitted again."""
        is_allowed = self._options.get("on_unknown") == "resubmit" and self.stopped_by is None
        return is_allowed and row.request is None and isinstance(error, SubmissionUnknown)

    async def _retry(self, row: LaneRow) -> None:
        await self._budget.settle(row.key, Decimal(0))
        self._forget(row)
        self._again.append(row)

    async def _leave(self) -> None:
        """End all rows that wait: a later run or the collector stores their videos."""
        for row in list(self._waiting.values()):
            assert row.receipt is not None  # noqa: S101 - rows wait with their receipt
            await self._end(row, self._outcome(row, row.receipt))

    async def _time_out(self) -> None:
        for row in list(self._waiting.values()):
            request_id = row.receipt.request_id if row.receipt else None
            await self._fail(row, VideoTimeout(_TOO_LATE.format(self._timeout), key=row.key, request_id=request_id))

    async def _fail(self, row: LaneRow, error: Exception, *, stays_open: bool = False) -> None:
        if stops_all(error):
            self.stopped_by = self.stopped_by or error
        elif not isinstance(error, XaiVideoError):
            logger.error("The row of key %s met a defect", row.key, exc_info=error)
        outcome = RowOutcome.of_error(row.planned, error, is_new=self._is_new(row))
        # An error without a request id does not show that a row was submitted.
        state = "open" if stays_open and outcome.state == "refused" else outcome.state
        await self._end(row, outcome.model_copy(update={"state": state}))

    async def _end(self, row: LaneRow, outcome: RowOutcome) -> None:
        await self._budget.settle(row.key, outcome.settled_usd if row.permit.is_spent else Decimal(0))
        self._forget(row)
        self._on_step(Step(outcome, len(self._waiting)))

    def _forget(self, row: LaneRow) -> None:
        self._waiting.pop(row.key, None)
        self._batches.remove(row.key)

    def _outcome(self, row: LaneRow, receipt: Receipt) -> RowOutcome:
        return RowOutcome.of_receipt(row.planned, receipt, is_new=self._is_new(row))

    def _is_new(self, row: LaneRow) -> bool:
        return row.permit.is_spent or row.key in self._paid_before

    async def _cancel_batches(self) -> None:
        """Cancel the batches of this run at xAI. What is finished is kept there, for a later run."""
        for batch_id in self._own_batches:
            try:
                await self._generation.client.batches.cancel(batch_id)
            except XaiVideoError as error:
                logger.warning("The batch %s could not be cancelled at xAI: %s", batch_id, error)


def _nothing_more(error: XaiVideoError) -> str:
    return f"Nothing more was submitted: {error.message}"


async def _side_by_side(work: Callable[[LaneRow], Awaitable[None]], rows: Iterable[LaneRow]) -> None:
    slots = asyncio.Semaphore(SAVING)

    async def work_on(row: LaneRow) -> None:
        async with slots:
            await work(row)

    async with asyncio.TaskGroup() as tasks:
        for row in rows:
            tasks.create_task(work_on(row))
