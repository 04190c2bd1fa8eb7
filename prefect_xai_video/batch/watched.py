"""The batches of xAI's for which a run waits: which of its rows may have news."""

import logging
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from prefect_xai_video.api.batch_responses import XaiBatch
from prefect_xai_video.api.client import XaiVideoClient
from prefect_xai_video.engine.batch_inquiry import is_over
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import XaiVideoError

CHEAP_RESULTS = 1000
"""Number of results that are listed whenever there are new ones: ten requests."""

LATEST_LISTING = 600.0
"""Seconds after which new results are listed, however few they are: their URLs live an hour."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Listing:
    """The last listing of the results of a batch.

    Attributes:
        finished: Number of requests that were finished then.
        at: Its monotonic time.
        claims: Claims of the requests that have a result.
    """

    finished: int = 0
    at: float = 0.0
    claims: Collection[str] = ()


class WatchedBatches:
    """Rows by the batch of xAI's that has them.

    Args:
        client: Client of xAI's API.
    """

    def __init__(self, client: XaiVideoClient) -> None:
        self._client = client
        self._claims: defaultdict[str | None, dict[str, str]] = defaultdict(dict)
        self._batch_of: dict[str, str | None] = {}
        self._listings: defaultdict[str, _Listing] = defaultdict(_Listing)
        self._problems: dict[str, str] = {}

    def add(self, key: str, receipt: Receipt) -> None:
        """Add a row that waits, or note that its receipt has changed."""
        self.remove(key)
        batch_id = None if receipt.state == "stored" else receipt.xai_batch
        self._batch_of[key] = batch_id
        self._claims[batch_id][key] = receipt.attempt.claim

    def remove(self, key: str) -> None:
        """Remove a row."""
        if key in self._batch_of:
            self._claims[self._batch_of.pop(key)].pop(key, None)

    async def ready(self) -> list[str]:
        """Ask for the state of each batch once; return the keys of the rows that may have news.

        Those that wait for no batch always may.
        """
        keys: list[str] = []
        for batch_id, claims in list(self._claims.items()):
            if claims:
                keys += claims if batch_id is None else await self._of_batch(batch_id, claims)
        return keys

    async def _of_batch(self, batch_id: str, claims: dict[str, str]) -> list[str]:
        view, listing = self._client.batch(batch_id), self._listings[batch_id]
        try:
            batch = await view.facts(since=time.monotonic())
            if is_over(batch) or _is_worth_listing(batch, listing):
                found = frozenset(await view.results(since=time.monotonic()))
                listing.finished, listing.at, listing.claims = _finished(batch), time.monotonic(), found
        except XaiVideoError as error:
            # What does not pass, such as a batch that is gone or a wrong API key, each row finds out by itself.
            if self._problems.get(batch_id) != error.message:
                logger.warning("The batch %s could not be read: %s", batch_id, error)
                self._problems[batch_id] = error.message
            return [] if error.transient else list(claims)
        self._problems.pop(batch_id, None)
        ready = [key for key, claim in claims.items() if claim in listing.claims]
        return ready if ready or not is_over(batch) else list(claims)


def _is_worth_listing(batch: XaiBatch, listing: _Listing) -> bool:
    """Whether so many requests have been finished since a listing that another one is worth its requests."""
    finished = _finished(batch)
    new = finished - listing.finished
    is_late = time.monotonic() - listing.at > LATEST_LISTING
    return new > 0 and (finished <= CHEAP_RESULTS or new >= listing.finished or is_late)


def _finished(batch: XaiBatch) -> int:
    return (batch.succeeded or 0) + (batch.failed or 0) + (batch.cancelled or 0)
