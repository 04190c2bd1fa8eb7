"""XaiBatches: xAI's Batch API, for requests that need not be rendered at once.

Reading is free and retried. A POST that may cost money is retried only if xAI certainly did not accept it. A lost
reply is an error that says so, and a listing then shows what xAI has. A request that is missing from one listing may
still appear in a later one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar
from urllib.parse import quote

from prefect_xai_video.api.batch_chunks import Chunk
from prefect_xai_video.api.batch_pace import BatchPace, CallWindow
from prefect_xai_video.api.batch_responses import (
    BatchRequestState,
    BatchResult,
    ListingPage,
    XaiBatch,
    ids_in,
    parse_batch,
    parse_page,
    parse_request_state,
    parse_result,
)
from prefect_xai_video.api.bodies import written
from prefect_xai_video.api.calls import ApiCalls
from prefect_xai_video.api.posts import ApiPosts
from prefect_xai_video.api.replies import Reply
from prefect_xai_video.api.responses import VideoStatus, as_object, is_request_id
from prefect_xai_video.api.retries import Retries
from prefect_xai_video.errors import RequestRejected, ServiceUnavailable

PAGE = 100
"""Entries in a page: the largest number in xAI's examples."""

MAX_PAGE_BYTES = 2**22
"""Largest page that is read, in bytes: 100 results with a signed URL of 16 kB each have less than half of it."""

MAX_OLD_PAGES = 3
"""Pages in a row without a new entry after which a listing goes on no longer: a page may be repeated or empty."""

_CREATED = "created the batch; an empty batch costs nothing"
_ADDED = "accepted the requests, or some of them, each of which may have been paid for"

Parsed = TypeVar("Parsed")


class XaiBatches:
    """xAI's Batch API.

    Args:
        calls: Sends the calls that read.
        posts: Sends the calls that write.
        retries: Number of attempts, and the waits between them.
        pace: Turns to create batches and to add requests.
    """

    def __init__(self, calls: ApiCalls, posts: ApiPosts, retries: Retries, pace: BatchPace) -> None:
        self._calls = calls
        self._posts = posts
        self._retries = retries
        self._pace = pace

    async def create(self, name: str) -> XaiBatch:
        """Create an empty batch, which costs nothing.

        Args:
            name: Its name. If it is unique, `listed` finds the batch after a lost reply.

        Raises:
            ApiError: If it was refused.
            SubmissionUnknown: If the batch may have been created.
        """
        return await self._once(partial(self._create, name), self._pace.creates)

    def _create(self, name: str) -> XaiBatch:
        redact = self._calls.redact
        reply = self._posts.send("/batches", redact, did=_CREATED, content=written({"name": name}))
        batch = parse_batch(as_object(reply.content), redact) if 200 <= reply.status < 300 else None
        if batch is None:
            raise self._posts.unknown(reply, "the response has no usable batch id", redact, did=_CREATED)
        return batch

    async def add(self, batch_id: str, chunk: Chunk) -> None:
        """Add requests to a batch. This costs money, and their work begins at once.

        A call that is cancelled while it waits for the response is not recalled: its outcome is unknown.

        Args:
            batch_id: Id of the batch.
            chunk: The requests.

        Raises:
            ApiError: If none of them was accepted.
            SubmissionUnknown: If all, some or none of them may have been accepted, or may still be.
        """
        path = f"{_path(batch_id)}/requests"
        await self._once(partial(self._add, path, chunk), self._pace.adds)

    def _add(self, path: str, chunk: Chunk) -> None:
        redact = self._calls.redact.with_prompts(chunk.prompts)
        reply = self._posts.send(path, redact, did=_ADDED, content=chunk.content)
        # What a successful response contains is not documented; a gateway's page is not one.
        is_json = not reply.content.strip() or reply.content.lstrip().startswith(b"{")
        if not 200 <= reply.status < 300 or reply.problem or not is_json:
            raise self._posts.unknown(reply, "the response is not JSON", redact, did=_ADDED)

    async def _once(self, post: Callable[[], Parsed], window: CallWindow) -> Parsed:
        """Send a POST in its turn, and retry it only if xAI certainly did not accept it."""

        async def in_turn() -> Parsed:
            await window.turn()
            return await asyncio.to_thread(post)

        return await self._retries.call(in_turn, lambda error: error.resend_safe)

    async def cancel(self, batch_id: str) -> XaiBatch:
        """Cancel a batch: what is pending is not processed. Cancelling again does no harm.

        Raises:
            ApiError: If it could not be cancelled, or xAI gave no usable response.
        """
        return self._batch(await self._calls.call(f"{_path(batch_id)}:cancel", method="POST"))

    async def get(self, batch_id: str) -> XaiBatch:
        """Read a batch.

        Raises:
            RequestRejected: If it does not exist, or no longer.
            ApiError: If xAI gave no usable response.
        """

        async def call() -> XaiBatch:
            return self._batch(await self._calls.call(_path(batch_id)))

        return await self._retries.call(call)

    async def listed(self) -> AsyncIterator[XaiBatch]:
        """List the batches of the team.

        Raises:
            ApiError: If they can't be listed.
        """
        async for entry in self._entries("/batches", "batches"):
            batch = parse_batch(entry, self._calls.redact)
            if batch is not None:
                yield batch

    async def requests(self, batch_id: str) -> AsyncIterator[BatchRequestState]:
        """List the requests of a batch. One may come more than once, and a new one may still be missing.

        Raises:
            ApiError: If they can't be listed.
        """
        async for entry in self._entries(f"{_path(batch_id)}/requests", "batch_request_metadata"):
            state = parse_request_state(entry, self._calls.redact)
            if state is not None:
                yield state

    def without_prompt(self, status: VideoStatus, prompt: object) -> VideoStatus:
        """Remove a prompt, which xAI may have quoted in an error, from a status of `results`."""
        if status.message is None or prompt is None:
            return status
        return status.model_copy(update={"message": self._calls.redact.with_prompt(prompt)(status.message)})

    async def results(
        self, batch_id: str, prompt_of: Callable[[str], str | None] = lambda batch_request_id: None
    ) -> AsyncIterator[BatchResult]:
        """List the results of a batch, in any order. One may come more than once, and a new one may still be missing.

        URLs in them are valid for an hour. Results are fetched page by page, so download while iterating.

        Args:
            batch_id: Id of the batch.
            prompt_of: Returns the prompt of a request by its id, if it is known: xAI may quote it in an error, from
                which it is then removed.

        Raises:
            ApiError: If they can't be listed.
        """
        async for entry in self._entries(f"{_path(batch_id)}/results", "results"):
            result = parse_result(entry, self._calls.redact, prompt_of)
            if result is not None:
                yield result

    async def _entries(self, path: str, field: str) -> AsyncIterator[object]:
        """List all entries, page by page.

        Pages without a token end it, and so do empty ones with a token, as in xAI's listing of files.
        """
        seen: set[str] = set()
        token: str | None = None
        old = 0
        while True:
            page = await self._retries.call(partial(self._page, path, field, token))
            for entry in page.entries:
                yield entry
            token, ids = page.token, ids_in(page.entries)
            old = 0 if ids - seen else old + 1
            seen |= ids
            if token is None or (old > MAX_OLD_PAGES and not page.entries):
                return
            if old > MAX_OLD_PAGES:
                raise ServiceUnavailable("xAI's listing does not end: it returns the same entries again and again.")

    async def _page(self, path: str, field: str, token: str | None) -> ListingPage:
        query = {"limit": str(PAGE)} | ({} if token is None else {"pagination_token": token})
        reply = await self._calls.call(path, params=query, max_bytes=MAX_PAGE_BYTES)
        page = parse_page(reply.content, field) if reply.status == 200 else None
        if page is None:
            raise self._calls.error(reply)
        return page

    def _batch(self, reply: Reply) -> XaiBatch:
        batch = parse_batch(as_object(reply.content), self._calls.redact) if 200 <= reply.status < 300 else None
        if batch is None:
            raise self._calls.error(reply)
        return batch


def _path(batch_id: str) -> str:
    if not is_request_id(batch_id):
        raise RequestRejected("The id of the batch is not valid.")
    return f"/batches/{quote(batch_id, safe='')}"
