"""Makes the requested videos: reads their inputs, draws them, delivers them."""

import asyncio
import logging
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import httpx

from prefect_xai_video.api.httpx_log import unlogged_urls
from prefect_xai_video.emulator.files import Files
from prefect_xai_video.emulator.inputs import Contents, RenderFailed, contents_of, is_loopback
from prefect_xai_video.emulator.ledger import cost_of
from prefect_xai_video.emulator.outcomes import check_upload, outcome_of
from prefect_xai_video.emulator.prepared import PreparedClips
from prefect_xai_video.emulator.state import replaced
from prefect_xai_video.emulator.videos import Video

logger = logging.getLogger(__name__)


class Production:
    """Makes videos in the background. It draws in threads, so that polls are served at the same time.

    Args:
        render_seconds: Shortest duration of a render of usual pace, in seconds.
        render_slots: Number of videos that render at a time; None for no limit.
        light: Serve prepared clips instead of drawing each video.
        files: The Files API, for inputs and for videos that are kept in it.
        may_begin: Whether a video whose turn it is may still begin.
        on_change: Callback for each video whose render begins or whose outcome is known.
    """

    def __init__(
        self,
        render_seconds: float,
        render_slots: int | None,
        light: bool,
        files: Files,
        may_begin: Callable[[Video], bool],
        on_change: Callable[[Video], None],
    ) -> None:
        self._render_seconds = render_seconds
        # A semaphore is fair, so the videos render in order of submission.
        self._slots = nullcontext() if render_slots is None else asyncio.Semaphore(render_slots)
        self._files = files
        self._may_begin = may_begin
        self._on_change = on_change
        # No certificates, which take 50 ms to load: this client only connects to this machine.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx.AsyncClient(trust_env=False, timeout=10, verify=tls)
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="emulator-render")
        self._stop = threading.Event()
        self._prepared = PreparedClips(self._threads, self._stop) if light else None
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make videos until the block ends; unfinished ones are dropped then."""
        async with self._client:
            try:
                yield
            finally:
                self.drop()
                self._stop.set()
                self._threads.shutdown(cancel_futures=True)

    def begin(self, video: Video) -> None:
        """Start making a video, or put it at the end of the queue if all slots are taken."""
        task = asyncio.create_task(self._make(video))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def drop(self) -> None:
        """Drop all unfinished videos."""
        for task in self._tasks:
            task.cancel()

    async def _make(self, video: Video) -> None:
        try:
            async with self._slots:
                if not self._may_begin(video):
                    return
                await self._render(video)
            outcome = outcome_of(video.faults)
            if outcome == "done" and video.upload_url is not None:
                check_upload(video.faults)
                await self._upload(video.upload_url, video.path)
            if outcome == "done":
                self._files.keep(video)
            video.outcome = outcome
        except RenderFailed as failure:
            video.fail(failure)
        except Exception:
            logger.exception("The emulator could not make video %s", video.request_id)
            video.fail(RenderFailed("Internal error.", "internal_error"))
        self._on_change(video)

    async def _render(self, video: Video) -> None:
        if video.begun is None:
            video.begin()
            self._on_change(video)
        try:
            await self._draw(video)
        except RenderFailed:
            await self._rest(video)
            raise
        await self._rest(video)

    async def _draw(self, video: Video) -> None:
        contents = await contents_of(video.request, self._client, self._files)
        if self._prepared is not None:
            await self._match(video, contents, self._prepared)
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, _draw, video, contents, self._stop)

    async def _match(self, video: Video, contents: Contents, prepared: PreparedClips) -> None:
        """Use a prepared clip, and forget the inputs, which may be large."""
        match = await prepared.match(video.request, contents, video.path.parent)
        video.clip, video.path, video.seconds = match.clip, match.clip.path, match.seconds
        video.cost_usd = cost_of(video.request, match.input_seconds, match.size)
        video.request = replace(video.request, stills=(), references=(), video=None)

    async def _rest(self, video: Video) -> None:
        """Wait until the shortest duration of the render is over."""
        await asyncio.sleep(max(0, self._render_seconds * video.pace - video.age))

    async def _upload(self, url: str, path: Path) -> None:
        if not is_loopback(url):
            raise RenderFailed("The upload URL could not be reached.", "failed_precondition")
        content = await asyncio.to_thread(path.read_bytes)
        try:
            with unlogged_urls():
                response = await self._client.put(url, content=content, headers={"Content-Type": "video/mp4"})
        except (httpx.HTTPError, httpx.InvalidURL):
            raise RenderFailed("The upload URL could not be reached.", "failed_precondition") from None
        if not response.is_success:
            raise RenderFailed(f"The upload URL returned HTTP status {response.status_code}.", "failed_precondition")


def _draw(video: Video, contents: Contents, stop: threading.Event) -> None:
    from prefect_xai_video.emulator.render import render  # noqa: PLC0415 - it needs PyAV

    with replaced(video.path) as part:
        rendered = render(video.request, contents, part, stop)
    video.seconds = rendered.seconds
    video.cost_usd = cost_of(video.request, rendered.input_seconds, rendered.size)
