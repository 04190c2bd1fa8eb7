"""A batch of xAI's as all who ask for its requests see it: each listing is read once for all of them."""

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from pydantic import SecretStr

from prefect_xai_video.api.batch_responses import BatchRequestState, BatchResult, XaiBatch
from prefect_xai_video.api.batches import XaiBatches
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.errors import XaiVideoError

FRESH_SECONDS = 2.0
"""Age in seconds up to which what was read is given to others, too; or the error, if it could not be read."""

FRESH_SHARE = 10
"""The same age as a multiple of the time that reading took: a listing of 500 pages is not read every two seconds."""

URL_SECONDS = 3000
"""Age in seconds up to which the URL in a result counts as valid; xAI names an hour."""

T = TypeVar("T")


@dataclass(slots=True)
class _Seen(Generic[T]):
    """What was read, and when.

    Attributes:
        read: Reads it.
        value: What was read last; None before the first time.
        began: Monotonic time at which that reading began.
        error: Why the last try to read failed; None if it did not.
        tried: Monotonic time at which that try began.
        fresh_until: Monotonic time until which its outcome is given to others.
    """

    read: Callable[[], Awaitable[T]]
    value: T | None = None
    began: float = 0.0
    error: XaiVideoError | None = None
    tried: float = 0.0
    fresh_until: float = 0.0

    async def get(self, lock: asyncio.Lock, *, since: float = 0.0) -> T:
        """Return what was read, unless it is too old or was read before a given monotonic time."""
        async with lock:
            if time.monotonic() > self.fresh_until or self.tried < since:
                await self._try()
            if self.error is not None:
                # Each caller adds facts of its own to it.
                raise copy.copy(self.error)
            return cast("T", self.value)

    async def _try(self) -> None:
        tried = time.monotonic()
        try:
            self.value, self.began, self.error, share = await self.read(), tried, None, FRESH_SHARE
        except XaiVideoError as error:
            # Many rows may ask, and it takes many attempts to find out that xAI is down.
            self.error, share = copy.copy(error), 0
        now = time.monotonic()
        self.tried, self.fresh_until = tried, now + max(FRESH_SECONDS, share * (now - tried))


class BatchView:
    """What is known of one batch. Use it in one event loop.

    Args:
        batches: The Batch API.
        batch_id: Id of the batch.

    Attributes:
        batch_id: Id of the batch.
        settled: Ids of all requests that it has or ever will have; None if that is not certain yet.
        settling: To be held while `settled` is found out.
    """

    def __init__(self, batches: XaiBatches, batch_id: str) -> None:
        self._batches, self.batch_id = batches, batch_id
        self.settled: Collection[str] | None = None
        self.settling = asyncio.Lock()
        self._lock = asyncio.Lock()
        self._facts = _Seen(lambda: batches.get(batch_id))
        self._requests = _Seen(self._read_requests)
        self._results = _Seen(self._read_results)
        self._listed: dict[str, BatchRequestState] = {}

    async def facts(self, *, since: float = 0.0) -> XaiBatch:
        """Return the batch itself.

        Args:
            since: Monotonic time after which it must have been read. Default: some seconds ago.

        Raises:
            RequestRejected: If it does not exist, or no longer.
            ApiError: If xAI gave no usable response.
        """
        return await self._facts.get(self._lock, since=since)

    async def requests(self, *, since: float = 0.0) -> Mapping[str, BatchRequestState]:
        """Return all requests that any listing has shown so far, by id; the newest state of each.

        Args:
            since: Monotonic time after which the listing must have begun. Default: some seconds ago.

        Raises:
            ApiError: If they can't be listed.
        """
        return await self._requests.get(self._lock, since=since)

    async def results(self, *, since: float = 0.0) -> Mapping[str, BatchResult]:
        """Return the results of the newest listing, by id of the request; arguments and errors as for `requests`."""
        return await self._results.get(self._lock, since=since)

    async def status(
        self, batch_request_id: str, prompt: object = None, failed_url: SecretStr | None = None
    ) -> VideoStatus | None:
        """Return the status of a request by its result; None if it has none yet.

        Args:
            batch_request_id: Id of the request.
            prompt: Its prompt, to be removed from an error.
            failed_url: URL of its video that works no longer, so that a newer one is asked for.

        Raises:
            ApiError: If the results can't be listed.
        """
        # A result never changes, but its URL is valid for an hour.
        status = self._known(batch_request_id)
        if status is None:
            await self.results()
            status = self._known(batch_request_id)
        elif status.url is not None and status.url == failed_url:
            await self.results(since=time.monotonic())
            status = self._known(batch_request_id)
        return status and self._batches.without_prompt(status, prompt)

    def _known(self, batch_request_id: str) -> VideoStatus | None:
        result = (self._results.value or {}).get(batch_request_id)
        is_usable = result is not None and time.monotonic() - self._results.began < URL_SECONDS
        return result.status if result and is_usable and result.status.state != "pending" else None

    async def _read_requests(self) -> Mapping[str, BatchRequestState]:
        async for state in self._batches.requests(self.batch_id):
            self._listed[state.batch_request_id] = state
        return self._listed

    async def _read_results(self) -> Mapping[str, BatchResult]:
        return {each.batch_request_id: each async for each in self._batches.results(self.batch_id)}
