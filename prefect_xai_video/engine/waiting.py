"""Waiting for the outcome of a submitted request: polls on a schedule, or watches for the delivered video."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass

from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine.attempts import Attempt
from prefect_xai_video.engine.inquiry import Inquiry, age_of, may_still_appear
from prefect_xai_video.engine.journal import with_request_id
from prefect_xai_video.engine.polling import Poll, PollSchedule, RenderTimes, next_wait, urgency_of
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held, WriteConflict
from prefect_xai_video.errors import RequestRejected, SubmissionUnknown, VideoTimeout

MAX_NOT_FOUND = 3
"""Consecutive polls with a 404 after which waiting ends with an error."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waits for requests.

    Attributes:
        inquiry: Polls xAI and records statuses.
        schedule: Bounds of the poll schedule.
        render_times: Learns from all renders when to poll first; None to use the schedule's first poll.
        on_status: Called with each polled status.
    """

    inquiry: Inquiry
    schedule: PollSchedule
    render_times: RenderTimes | None
    on_status: Callable[[VideoStatus], Awaitable[object] | None]

    async def for_status(self, held: Held, deadline: float, timeout: float) -> Held:
        """Poll until a submitted request has a final status, and record it.

        Args:
            held: Its receipt.
            deadline: Monotonic time after which no new poll starts.
            timeout: The whole wait in seconds, for the error.

        Raises:
            VideoTimeout: If it has none by the deadline.
            ApiError: If xAI can't be polled.
        """
        with with_request_id(held.receipt.request_id):
            try:
                # The deadline also ends retried polls; only the last poll may take its own time-out longer.
                async with asyncio.timeout(deadline - time.monotonic() + self.inquiry.client.timeouts.get):
                    status = await self._poll(held.receipt, deadline)
            except TimeoutError:
                raise VideoTimeout(
                    f"The video was not done within {timeout:g} s. Run again with the same key to continue waiting, "
                    f"without paying again."
                ) from None
            except RequestRejected as error:
                await self.inquiry.record_not_found(held, error)
                raise
            return await self.inquiry.record(held, status)

    async def _poll(self, receipt: Receipt, deadline: float) -> VideoStatus:
        """Poll until there is a final status.

        Args:
            receipt: A submitted receipt.
            deadline: Monotonic time after which no new poll starts.

        Raises:
            TimeoutError: If there is no final status by the deadline.
        """
        started_at, before = time.monotonic(), age_of(receipt)
        schedule = (
            self.render_times.schedule(_kind_of(receipt), self.schedule) if self.render_times else self.schedule
        )
        polls: list[Poll] = []
        not_found = 0
        while (now := time.monotonic()) < deadline:
            pause = next_wait(schedule, polls, before + now - started_at)
            await asyncio.sleep(min(pause, deadline - now))
            try:
                urgency = urgency_of(polls, before + time.monotonic() - started_at, schedule.learned)
                status = await self.inquiry.status(receipt, urgency)
            except RequestRejected as error:
                not_found += 1
                if error.http_status != 404 or not_found >= MAX_NOT_FOUND:
                    raise
                status = VideoStatus(request_id=receipt.request_id or "", state="pending")
            else:
                not_found = 0
            # After the poll: it may have waited for its turn.
            elapsed = before + time.monotonic() - started_at
            reaction = self.on_status(status)
            if reaction is not None:
                await reaction
            if status.state != "pending":
                # A render that was left alone, as by a run that was rescued, says nothing about when it was done.
                is_watched = bool(polls) or before < schedule.first
                if self.render_times and status.state == "done" and is_watched:
                    self.render_times.learn(_kind_of(receipt), schedule, polls, elapsed)
                return status
            polls.append(Poll(elapsed, status.progress))
        raise TimeoutError

    async def for_delivery(self, held: Held, deadline: float) -> Held:
        """Look repeatedly for the video of a submission of unknown outcome, while it may still appear.

        Raises:
            SubmissionUnknown: If it did not appear in time.
            ApiError: If xAI's files can't be listed.
        """
        while held.receipt.state == "unknown":
            with suppress(WriteConflict):
                held = await self.inquiry.find_video(held)
            age = age_of(held.receipt)
            is_over = not may_still_appear(held.receipt) or time.monotonic() >= deadline
            if held.receipt.state != "unknown" or is_over:
                break
            pause = next_wait(self.schedule, [Poll(age)], age)
            await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
            held = await self.inquiry.journal.read(held.receipt.key)
        if held.receipt.state == "unknown":
            raise unknown_error(held.receipt)
        return held


def unknown_error(receipt: Receipt) -> SubmissionUnknown:
    """Build the error of a submission with an unknown outcome: what to look for, and how to go on."""
    failure = receipt.attempt.failure
    why = failure.message if failure else "The response to the submission was lost."
    looked = _looked(receipt.undelivered[0]) if receipt.undelivered else ""
    return SubmissionUnknown(
        f"{why} {looked}The attempt started at {receipt.attempt.started_at:%Y-%m-%d %H:%M:%S} UTC and is not "
        f"repeated automatically. Look for it in the xAI console: if it is there, adopt its request id into this key "
        f"(flow collect-video, or xai-video adopt); if not, run again with the same key and On unknown outcome "
        f"(on_unknown) set to resubmit.",
        key=receipt.key,
        http_status=failure.http_status if failure else None,
        trace_id=receipt.attempt.trace_id,
        answer=receipt.attempt.answer,
    )


def _looked(lost: Attempt) -> str:
    """Say where a submission of unknown outcome was looked for."""
    again = "run again with the same key to look once more. "
    if lost.xai_batch is not None:
        return f"Whether xAI's batch {lost.xai_batch} contains it is not certain yet; {again}"
    place = "xAI's Files API" if lost.xai_file else "the store"
    return f"Its video is not in {place}, which proves nothing; {again}"


def _kind_of(receipt: Receipt) -> Hashable:
    """What determines how long a render takes."""
    return (
        receipt.model,
        receipt.mode,
        receipt.duration,
        receipt.request.get("duration"),
        receipt.request.get("resolution"),
    )
