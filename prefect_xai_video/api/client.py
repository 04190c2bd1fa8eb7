"""XaiVideoClient: xAI's video API over httpx, independent of Prefect and of stores.

A POST is retried only if xAI certainly did not accept it, a GET after any transient error. The API key is sent to the
API host only: downloads have a separate connection pool without it. All response text is redacted before it leaves
this module.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from prefect_xai_video.api.batch_pace import BatchPace
from prefect_xai_video.api.batch_view import BatchView
from prefect_xai_video.api.batches import XaiBatches
from prefect_xai_video.api.bodies import written
from prefect_xai_video.api.calls import ApiCalls, new_client_request_id
from prefect_xai_video.api.connections import open_pool
from prefect_xai_video.api.destinations import Destinations
from prefect_xai_video.api.download import MAX_DOWNLOAD_BYTES, Download
from prefect_xai_video.api.downloader import Downloader
from prefect_xai_video.api.endpoint import DEFAULT_BASE_URL, check_api_key, check_base_url
from prefect_xai_video.api.files import XaiFiles
from prefect_xai_video.api.pace import Pace, Urgency, paced
from prefect_xai_video.api.posts import ApiPosts
from prefect_xai_video.api.redaction import Redaction, redacted_facts
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.responses import (
    VideoStatus,
    as_object,
    parse_request_id,
    parse_status,
)
from prefect_xai_video.api.retries import Retries, Timeouts
from prefect_xai_video.api.storage_options import StorageOptions
from prefect_xai_video.errors import (
    AuthenticationFailed,
    ServiceUnavailable,
)

ME_SECONDS = 5
"""Time-out of `me` in seconds; short, because it runs just before a POST, which it must not delay."""

POLLS, DOWNLOADS = 20, 16
"""Polls and downloads of one client that run at the same time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A POST that was accepted.

    Attributes:
        request_id: xAI's request id.
        trace_id: `x-request-id` of the response, for xAI's support.
        at: When the response was sent, by xAI's clock.
    """

    request_id: str
    trace_id: str | None = None
    at: datetime | None = None


class XaiVideoClient:
    """Client of xAI's video API.

    Use it as an async context manager:

    ```python
    async with XaiVideoClient(api_key) as client:
        request_id = await client.start(TextRequest(prompt="A cat playing with a ball"))
        status = await client.get(request_id)
    ```

    Args:
        api_key: API key. It is sent to the host of `base_url` only.
        base_url: Base URL of the API, version included: https, or a loopback host. Default `https://api.x.ai/v1`.
        timeouts: Time-outs of the calls.
        retries: Number of attempts, and the waits between them.
        max_download_bytes: Size of the largest video that is downloaded, in bytes. Default 512 MiB.
        pace: Hands out the turns of POSTs and polls, for all clients of an account. Default: none, so none waits.
        transport: Replaces the network for `get` and `download`, in tests.
    """

    def __init__(
        self,
        api_key: SecretStr | str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        timeouts: Timeouts = Timeouts(),
        retries: Retries = Retries(),
        max_download_bytes: int = MAX_DOWNLOAD_BYTES,
        pace: Pace | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._key = check_api_key(api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key)
        self._redact = Redaction(self._key)
        self.base_url = check_base_url(base_url)
        self.timeouts = timeouts
        self.retries = retries
        self.max_download_bytes = max_download_bytes
        self.pace = pace
        user_agent = {"User-Agent": f"prefect-xai-video/{version('prefect-xai-video')}"}
        # If an uncompressed response breaks off, the part that arrived is still readable.
        self._headers = user_agent | {"Authorization": f"Bearer {self._key}", "Accept-Encoding": "identity"}
        self._calls = ApiCalls(self.base_url, self._headers, self._redact, timeouts, retries, transport)
        self._posts, self._batch_pace = ApiPosts(self._calls, self._headers), BatchPace()
        self._batch_views: dict[str, BatchView] = {}
        # httpx's pool takes time that grows with the square of the requests that queue in it.
        self._polls, self._downloads = asyncio.Semaphore(POLLS), asyncio.Semaphore(DOWNLOADS)
        self._downloader = Downloader(
            open_pool(user_agent, transport),
            Destinations(self.base_url, self._redact),
            timeouts,
            retries,
            max_download_bytes,
            self._redact,
        )

    @property
    def identity(self) -> str:
        """SHA-256 of base URL and API key; equal for clients of the same account."""
        return hashlib.sha256(f"{self.base_url} {self._key}".encode()).hexdigest()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._calls.aclose()
        await self._downloader.aclose()

    async def start(self, request: VideoRequest) -> str:
        """Start a generation or an edit. This costs money.

        The POST is retried only if xAI certainly did not accept it.

        Returns:
            The request id.

        Raises:
            ApiError: If the request was refused.
            SubmissionUnknown: If the request may have been accepted.
        """
        post = partial(asyncio.to_thread, self.submit, request, client_request_id=new_client_request_id())
        in_turn = partial(paced, self.pace, Urgency.SUBMISSION, post)
        accepted = await self.retries.call(in_turn, lambda error: error.resend_safe)
        return accepted.request_id

    def submit(
        self,
        request: VideoRequest,
        upload_url: str | None = None,
        *,
        storage: StorageOptions | None = None,
        client_request_id: str | None = None,
        before_send: Callable[[], None] | None = None,
    ) -> Accepted:
        """Send one POST, exactly once, and block until its response arrives.

        It blocks on purpose. A POST can't be recalled once it is sent, and only its response holds the request id.
        Run it in a thread, which no cancellation of a task or of its event loop can interrupt.

        Args:
            request: The request to submit.
            upload_url: Signed URL to which xAI uploads the video.
            storage: How xAI's Files API stores the video; None if it does not.
            client_request_id: Sent as `x-client-request-id`, for xAI's support. Default: a new id.
            before_send: Called once the connection is open, before any byte of the request is sent. If it raises,
                nothing is sent, and the error is passed on.

        Raises:
            ApiError: If the request was refused.
            SubmissionUnknown: If the request may have been accepted.
        """
        # Written before there is a connection: text that can't be sent must not be an unknown outcome.
        content, redact = written(request.body(upload_url, storage)), self._redact.with_prompt(request.prompt)
        reply = self._posts.send(
            request.endpoint,
            redact,
            client_request_id=client_request_id,
            before_send=before_send,
            content=content,
        )
        request_id = parse_request_id(reply.content, self._redact) if 200 <= reply.status < 300 else None
        if request_id is None:
            raise self._posts.unknown(reply, "the response has no usable request id", redact)
        return Accepted(request_id, self._calls.trace_id(reply), reply.at)

    async def get(
        self,
        request_id: str,
        *,
        client_request_id: str | None = None,
        prompt: object = None,
        urgency: Urgency = Urgency.LIKELY_DONE,
    ) -> VideoStatus:
        """Poll the status of a request once. Polls are free; this one is retried after network errors, 429 and 5xx.

        Args:
            request_id: xAI's request id.
            client_request_id: Sent as `x-client-request-id`, for xAI's support. Default: a new id.
            prompt: The prompt of the request, if known: xAI may quote it in an error, from which it is then redacted.
            urgency: Decides, with a pace, which requests go first. Default: as if the video is likely to be done.

        Raises:
            ApiError: If xAI gave no usable response; the error carries the request id.
        """
        redact = self._redact.with_prompt(prompt)
        poll = partial(self._get, request_id, client_request_id, redact)
        return await self.retries.call(lambda: paced(self.pace, urgency, poll))

    async def _get(self, request_id: str, client_request_id: str | None, redact: Redaction) -> VideoStatus:
        path = f"/videos/{quote(request_id, safe='')}"
        async with self._polls:
            reply = await self._calls.call(
                path, request_id=request_id, client_request_id=client_request_id, redact=redact
            )
        status = parse_status(request_id, reply.status, reply.content, redact)
        if status is None:
            raise self._calls.error(reply, request_id, redact)
        return status

    async def me(self) -> Mapping[str, Any]:
        """Query the owner of the API key: one free call, not retried, at most 5 s.

        Returns:
            xAI's response, with `user_id`, `team_id` and more.

        Raises:
            ApiError: If xAI gave no usable response.
        """
        reply = await self._calls.call("/me", seconds=ME_SECONDS)
        facts = as_object(reply.content)
        if reply.status != 200 or not facts:
            raise self._calls.error(reply)
        # The emulator is recognised by this field. Its API key may be the word "emulator", which redaction hides.
        emulated = {"emulator": True} if facts.get("emulator") is True else {}
        return {**redacted_facts(facts, self._redact), **emulated}

    async def check_key(self) -> Mapping[str, Any]:
        """Check the API key, and query its name and permissions. This costs nothing.

        Returns:
            xAI's response, with `name`, `acls` and more.

        Raises:
            AuthenticationFailed: If the key is wrong, blocked or disabled.
            ApiError: If xAI gave no usable response.
        """
        facts = await self.retries.call(self._key_facts)
        blocked = [name for name in _BLOCKED_FLAGS if facts.get(name)]
        if blocked:
            raise AuthenticationFailed(f"xAI rejected the API key: {', '.join(blocked)}.")
        return facts

    @property
    def files(self) -> XaiFiles:
        """The Files API, with the same API key."""
        return XaiFiles(self._calls, self.retries, self.pace, self._download_with_key)

    @property
    def batches(self) -> XaiBatches:
        """The Batch API, with the same API key."""
        return XaiBatches(self._calls, self._posts, self.retries, self._batch_pace)

    def batch(self, batch_id: str) -> BatchView:
        """Return the view of a batch that all users of this client share."""
        return self._batch_views.setdefault(batch_id, BatchView(self.batches, batch_id))

    async def _download_with_key(self, path: str, target: Path) -> Download:
        authorization = {"Authorization": self._headers["Authorization"]}
        async with self._downloads:
            return await self._downloader.fetch(f"{self.base_url}{path}", target, authorization)

    async def _key_facts(self) -> Mapping[str, Any]:
        reply = await self._calls.call("/api-key")
        if reply.status != 200:
            raise self._calls.error(reply)
        facts = redacted_facts(as_object(reply.content), self._redact)
        if not facts.keys() & {"acls", "name", *_BLOCKED_FLAGS}:
            raise ServiceUnavailable(f"{self.base_url} does not respond like xAI's API; check the base URL.")
        return facts

    async def download(self, url: str, target: Path) -> Download:
        """Download a finished video to a file, in bounded memory.

        A broken download resumes where it stopped, if the server supports that. The API key is not sent. The URL and
        its redirects may lead to public https addresses only, and to this machine only if the API is there, too.

        Args:
            url: Temporary URL of the video.
            target: Destination file; existing content is overwritten.

        Raises:
            DownloadError: If the video could not be downloaded completely, or is not an MP4 video. If the URL has
                expired, `http_status` is 403, 404 or 410.
            StorageError: If the file can't be written.
        """
        async with self._downloads:
            return await self._downloader.fetch(url, target)


_BLOCKED_FLAGS = ("team_blocked", "api_key_blocked", "api_key_disabled")
