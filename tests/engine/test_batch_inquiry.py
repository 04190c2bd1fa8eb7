"""Looking up requests in xAI's batches, where others read the same batch."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from prefect_xai_video.api import batch_view
from prefect_xai_video.api.batch_responses import BatchRequestState, XaiBatch
from prefect_xai_video.api.batch_view import BatchView
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine import batch_inquiry
from prefect_xai_video.engine.batch_inquiry import BatchInquiry
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.waiting import unknown_error
from prefect_xai_video.errors import SubmissionUnknown


class Clock:
    """A clock that goes on only where the test says so."""

    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self):
        return self.seconds

    async def sleep(self, seconds):
        self.seconds += seconds


class LargeBatch:
    """A cancelled batch that takes seconds to read, whose only request is listed late. Others read its results."""

    def __init__(self, clock, claim):
        self.clock, self.claim, self.listed_from = clock, claim, clock.seconds + 25
        self.view = BatchView(self, "b")
        self.other = None

    async def get(self, batch_id):
        self.other = self.other or asyncio.create_task(self.view.results())
        await asyncio.sleep(0)
        return XaiBatch(batch_id=batch_id, is_cancelled=True)

    async def results(self, batch_id):
        self.clock.seconds += 15
        for nothing in ():
            yield nothing

    async def requests(self, batch_id):
        is_listed = self.clock.seconds >= self.listed_from
        self.clock.seconds += 3
        if is_listed:
            yield BatchRequestState(batch_request_id=self.claim, state="cancelled")


async def test_two_listings_are_apart_although_the_first_one_waits_for_another_reader(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(batch_view, "time", clock)
    monkeypatch.setattr(batch_inquiry, "time", clock)
    monkeypatch.setattr(batch_inquiry, "asyncio", SimpleNamespace(sleep=clock.sleep))
    attempt = Receipt.claim("cats/one", build_request("A cat", duration=1), xai_batch="b").attempt
    attempt = attempt.model_copy(update={"started_at": datetime.now(UTC) - timedelta(hours=1)})
    batch = LargeBatch(clock, attempt.claim)
    inquiry = BatchInquiry(SimpleNamespace(batch=lambda batch_id: batch.view))
    assert await inquiry.place(attempt) == "open"
    assert await inquiry.place(attempt) == "listed"
    await batch.other


def test_the_error_of_a_row_that_is_not_settled_names_the_batch():
    receipt = Receipt.claim("cats/one", build_request("A cat", duration=1), xai_batch="batch_1")
    error = unknown_error(receipt.unknown(SubmissionUnknown("The reply was lost.")))
    assert "The reply was lost. Whether xAI's batch batch_1 contains it is not certain yet; run again" in str(error)
