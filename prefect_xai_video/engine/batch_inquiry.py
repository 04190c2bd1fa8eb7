"""Looks up requests in xAI's batches: the only place where xAI lists what was sent.

A request that is missing from a listing may still land there: the listing may lag, and a call whose reply was lost
may take effect late. So it counts as not accepted only after its batch was cancelled, since nothing can be added
then, and two later listings agree with xAI's counter. A batch is cancelled only once everything in it is finished, so
that cancelling it takes nothing from anybody.
"""

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from prefect_xai_video.api.batch_responses import XaiBatch
from prefect_xai_video.api.batch_view import BatchView
from prefect_xai_video.api.client import XaiVideoClient
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine import journal
from prefect_xai_video.engine.attempts import Attempt, now
from prefect_xai_video.errors import RequestRejected

SETTLE_SECONDS = 10.0
"""Seconds between two listings of a cancelled batch that must agree."""

Place = Literal["listed", "absent", "open", "gone"]
"""Where a request is. `absent`: not in its batch, and it never will be. `open`: not seen, but it may still land.
`gone`: with its batch, so that there is no telling."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchInquiry:
    """Looks up requests in xAI's batches, at no cost.

    Attributes:
        client: Client of xAI's API.
    """

    client: XaiVideoClient

    async def status(self, attempt: Attempt, failed_url: SecretStr | None = None) -> VideoStatus:
        """Return the status of an attempt that was added to a batch.

        Args:
            attempt: The attempt.
            failed_url: URL of its video that works no longer, so that a newer one is asked for.

        Raises:
            RequestRejected: If the batch does not exist, or no longer.
            ApiError: If xAI gave no usable response.
        """
        view = self._view(attempt)
        found = await view.status(attempt.claim, attempt.request.get("prompt"), failed_url)
        if found is not None:
            return found
        batch = await view.facts()
        if not is_over(batch):
            return VideoStatus(request_id=attempt.claim, state="pending")
        entry = (await view.requests()).get(attempt.claim)
        is_cancelled = entry is not None and entry.state == "cancelled"
        if is_cancelled or (entry is None and await self.place(attempt) == "absent"):
            message = batch.cancel_message or (None if is_cancelled else "it does not contain the request")
            return VideoStatus(request_id=attempt.claim, state="cancelled", message=message)
        # Its result may be listed later.
        return VideoStatus(request_id=attempt.claim, state="pending")

    async def place(self, attempt: Attempt) -> Place:
        """Find out where an attempt is whose reply was lost.

        Its batch is cancelled if that is needed for a certain answer, and nothing in it is pending.

        Raises:
            ApiError: If xAI gave no usable response.
        """
        view = self._view(attempt)
        # The call that added it must have ended.
        is_new = (now() - attempt.started_at).total_seconds() < journal.CLAIM_SECONDS
        try:
            if attempt.claim in await view.requests():
                return "listed"
            listed = None if is_new else await self._listed_for_good(view)
        except RequestRejected as error:
            if error.http_status != 404:
                raise
            return "open" if is_new else "gone"
        return "open" if listed is None else "listed" if attempt.claim in listed else "absent"

    async def _listed_for_good(self, view: BatchView) -> Collection[str] | None:
        """Cancel a batch and list it for good, once for all who ask; None if it can't be done yet."""
        async with view.settling:
            if view.settled is None and await self._is_cancelled(view):
                view.settled = await _settled(view)
            return view.settled

    async def _is_cancelled(self, view: BatchView) -> bool:
        """Whether a batch is cancelled; cancels it if nothing in it is pending."""
        batch = await view.facts()
        if batch.is_cancelled:
            return True
        listed = await view.requests(since=time.monotonic())
        if not is_over(batch) or any(each.state in {"pending", "unknown"} for each in listed.values()):
            return False
        logger.warning("Nothing can be added any more to the batch %s, which is cancelled", view.batch_id)
        return (await self.client.batches.cancel(view.batch_id)).is_cancelled

    def _view(self, attempt: Attempt) -> BatchView:
        return self.client.batch(attempt.xai_batch or "")


async def _settled(view: BatchView) -> Collection[str] | None:
    """List a batch that is cancelled, twice; None if the listings or xAI's counter do not agree."""
    began = time.monotonic()
    first = frozenset(await view.requests(since=began))
    await asyncio.sleep(SETTLE_SECONDS)
    # Not by the time at which the first one was wanted: it may have waited for the listings of others.
    later = time.monotonic()
    second = frozenset(await view.requests(since=later))
    counted = (await view.facts(since=later)).requests
    return second if first == second and (counted is None or counted <= len(second)) else None


def is_over(batch: XaiBatch) -> bool:
    """Whether nothing in a batch is pending by its counters, which may lag or be missing."""
    return not batch.pending
