"""Looking up requests in xAI's batches, where others read the same batch."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from prefect_xai_video.api import batch_view
from prefect_xai_video.api.batch_responses import BatchRequestState, XaiBatch
from prefect_xai_video.api.batch_view import BatchView
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine import batch_inquiry
from prefect_xai_video.engine.batch_inquiry import BatchInquiry
from prefect_xai_video.engine.inquiry import Inquiry
from prefect_xai_video.engine.journal import Journal
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.engine.waiting import unknown_error
from prefect_xai_video.errors import ServiceUnavailable, SubmissionUnknown


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


class Down:
    """A Batch API that is down, until it is repaired; each call takes a while to find that out."""

    def __init__(self, clock):
        self.clock, self.calls, self.is_down = clock, 0, True

    async def get(self, batch_id):
        self.calls += 1
        self.clock.seconds += 17
        if self.is_down:
            raise ServiceUnavailable("xAI is down.")
        return XaiBatch(batch_id=batch_id)


async def test_all_who_ask_for_a_batch_share_the_error_of_one_call(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(batch_view, "time", clock)
    down = Down(clock)
    view = BatchView(down, "b")
    errors = await asyncio.gather(*(view.facts() for _ in range(100)), return_exceptions=True)
    assert (down.calls, {type(error) for error in errors}) == (1, {ServiceUnavailable})
    errors[0].key = "cats/one"
    assert errors[1].key is None
    with pytest.raises(ServiceUnavailable):
        await view.facts(since=clock.monotonic())
    assert down.calls == 2
    down.is_down = False
    clock.seconds += batch_view.FRESH_SECONDS + 0.1
    assert (await view.facts()).batch_id == "b"


@pytest.mark.parametrize(
    ("before", "after"), [("expired", "refused"), ("submitted", "refused"), ("failed", "failed"), ("done", "done")]
)
async def test_a_request_that_was_cancelled_unrendered_is_refused_also_if_it_counted_as_expired(
    tmp_path, before, after
):
    receipt = Receipt.claim("cats/one", build_request("A cat", duration=1), xai_batch="b")
    claim = receipt.attempt.claim
    receipt = receipt.submitted(claim)
    if before != "submitted":
        receipt = receipt.finished(VideoStatus(request_id=claim, state=before))
    journal = Journal(LocalStore(tmp_path))
    held = await journal.create(receipt)
    cancelled = VideoStatus(request_id=claim, state="cancelled")
    held = await Inquiry(SimpleNamespace(), journal).record(held, cancelled)
    assert (held.receipt.state, (await journal.read("cats/one")).receipt.state) == (after, after)
