"""Bulk submission: claims keys for a batch of xAI's, adds their requests in one call, and records each outcome.

The rules are those of `submission.py`: only the writer of a new `sending` sends, and a claim has its batch in the
receipt before the call. The id of a request in the batch is its claim, so no id is ever sent for a second attempt.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from prefect_xai_video.api.batch_chunks import BatchItem, Chunk, check_size, chunks
from prefect_xai_video.api.client import XaiVideoClient
from prefect_xai_video.engine.journal import Journal
from prefect_xai_video.engine.posting import Claim, clean_up, record_refusal, record_unknown
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held
from prefect_xai_video.engine.submission import Submission
from prefect_xai_video.errors import RequestRejected, StorageError, SubmissionUnknown, XaiVideoError

AT_A_TIME = 16
"""Receipts that are written at the same time."""

_NOT_SENT = StorageError("The run was cancelled before the request was sent.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A key that is claimed for a batch.

    Attributes:
        submission: Its submission.
        held: Its receipt, in state `sending`.
        size: Bytes of its request.
    """

    submission: Submission
    held: Held
    size: int = 0

    @property
    def claim(self) -> str:
        """Id of the claim, and of the request in the batch."""
        return self.held.receipt.attempt.claim

    @property
    def item(self) -> BatchItem:
        """The request as it is added to the batch."""
        file = self.held.receipt.attempt.xai_file
        return BatchItem(self.claim, self.submission.sent_request, storage=file.options if file else None)


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a request that was to be added.

    Attributes:
        receipt: Its receipt, in state `submitted`, `unknown` or `refused`.
        error: Why it was refused.
        is_closed: Whether that is because nothing can be added to the batch any more.
    """

    receipt: Receipt
    error: XaiVideoError | None = None
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class BulkSubmission:
    """Adds requests to a batch.

    Attributes:
        client: Client of xAI's API.
        journal: Reads and updates the receipts.
        batch_id: Id of the batch.
    """

    client: XaiVideoClient
    journal: Journal
    batch_id: str

    async def claim(self, submission: Submission) -> Claimed | Receipt:
        """Claim a key and take its cost from the budget, unless its receipt shows that nothing is to be sent.

        Args:
            submission: The submission, for this batch.

        Returns:
            What is claimed, or a receipt that needs no submission.

        Raises:
            XaiVideoError: As `Generation.start`.
        """
        claim = Claim()
        held, _ = await self.client.retries.call(lambda: submission.claim(claim), lambda error: error.resend_safe)
        if held.receipt.state != "sending":
            return held.receipt
        claimed = Claimed(submission, held)
        try:
            claimed = replace(claimed, size=check_size(claimed.item))
            await submission.permit.spend(submission.request)
        except BaseException as error:
            reason = error if isinstance(error, XaiVideoError) else _NOT_SENT
            await clean_up(record_refusal(self.journal, held, reason))
            raise
        return claimed

    async def add(self, claimed: Sequence[Claimed]) -> list[Added]:
        """Add claimed requests to the batch, and record what became of them. A cancellation waits for the records.

        Args:
            claimed: The requests, few enough for one call.

        Returns:
            What became of each, in order.
        """
        adding = asyncio.ensure_future(self._add(claimed))
        try:
            return await asyncio.shield(adding)
        except asyncio.CancelledError:
            await clean_up(_result_of(adding))
            raise

    async def withdraw(self, claimed: Sequence[Claimed]) -> None:
        """Give up claims whose requests were not sent."""
        await self._record_refusals(claimed, _NOT_SENT)

    async def _add(self, claimed: Sequence[Claimed]) -> list[Added]:
        written = iter(claimed)
        added: list[Added] = []
        for chunk in chunks([each.item for each in claimed], max_requests=len(claimed)):
            part = list(islice(written, len(chunk.batch_request_ids)))
            added += await self._add_chunk(part, chunk)
        return added

    async def _add_chunk(self, claimed: Sequence[Claimed], chunk: Chunk) -> list[Added]:
        try:
            await self.client.batches.add(self.batch_id, chunk)
        except SubmissionUnknown as error:
            lost = error
            receipts = await _written(lambda each: record_unknown(self.journal, each.held, lost), claimed)
            return [Added(receipt) for receipt in receipts]
        except RequestRejected as error:
            # One invalid request has the whole call refused. If it is not that, the batch is closed to all of them.
            is_closed = await self._is_closed()
            if len(claimed) == 1 or is_closed:
                receipts = await self._record_refusals(claimed, error)
                return [Added(receipt, error, is_closed=is_closed) for receipt in receipts]
            half = len(claimed) // 2
            return await self._add(claimed[:half]) + await self._add(claimed[half:])
        except XaiVideoError as error:
            return [Added(receipt, error) for receipt in await self._record_refusals(claimed, error)]
        return [Added(receipt) for receipt in await _written(self._record_added, claimed)]

    async def _is_closed(self) -> bool:
        try:
            return (await self.client.batches.get(self.batch_id)).is_cancelled
        except XaiVideoError:
            return True

    async def _record_added(self, each: Claimed) -> Receipt:
        claim = each.claim

        async def record() -> Receipt:
            held = await self.journal.change(each.held, lambda receipt: receipt.late_reply(claim, claim))
            return held.receipt

        try:
            return await self.client.retries.call(record)
        except StorageError as problem:
            # The claim is in the batch, which is in the receipt: any later run finds it there.
            logger.warning("The receipt of key %s could not be written: %s", each.submission.key, problem)
            return each.held.receipt.late_reply(claim, claim)

    async def _record_refusals(self, claimed: Sequence[Claimed], error: XaiVideoError) -> list[Receipt]:
        async def refuse(each: Claimed) -> Receipt:
            await each.submission.permit.refund(each.submission.request)
            return await record_refusal(self.journal, each.held, error)

        return await _written(refuse, claimed)


async def _written(write: Callable[[Claimed], Awaitable[Receipt]], claimed: Sequence[Claimed]) -> list[Receipt]:
    """Write receipts, some at a time, and return them in order."""
    slots = asyncio.Semaphore(AT_A_TIME)

    async def in_slot(each: Claimed) -> Receipt:
        async with slots:
            return await write(each)

    return await asyncio.gather(*map(in_slot, claimed))


async def _result_of(adding: "asyncio.Future[list[Added]]") -> None:
    await adding
