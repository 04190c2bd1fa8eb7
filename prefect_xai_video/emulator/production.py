"""Makes the videos that were asked for: reads their inputs, has them drawn, delivers them."""

import asyncio
import logging
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from prefect_xai_video.client import unlogged_urls
from prefect_xai_video.emulator.inputs import Contents, RenderFailed, contents_of, is_loopback
from prefect_xai_video.emulator.ledger import cost_of
from prefect_xai_video.emulator.outcomes import check_upload, outcome_of
from prefect_xai_video.emulator.state import replaced
from prefect_xai_video.emulator.videos import Video

logger = logging.getLogger(__name__)


class Production:
    """Makes videos in the background. Drawing happens in threads, so that polls are answered meanwhile.

    Args:
        render_seconds: How long a render takes at least.
        on_made: Called with each video once its outcome is known.
    """

    def __init__(self, render_seconds: float, on_made: Callable[[Video], None]) -> None:
        self._render_seconds = render_seconds
        self._on_made = on_made
        # Without certificates, which take 50 ms to load: it talks to this machine only.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx.AsyncClient(trust_env=False, timeout=10, verify=tls)
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="emulator-render")
        self._stop = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make videos as long as the block lasts; what is not finished then is dropped."""
        async with self._client:
            try:
                yield
            finally:
                for task in self._tasks:
                    task.cancel()
                self._stop.set()
                self._threads.shutdown(cancel_futures=True)

    def begin(self, video: Video) -> None:
        """Begin to make a video."""
        task = asyncio.create_task(self._make(video))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self, video: Video) -> None:
        try:
            await self._draw(video)
            await self._rest(video)
            outcome = outcome_of(video.faults)
            if outcome == "done" and video.upload_url is not None:
                check_upload(video.faults)
                await self._upload(video.upload_url, video.path)
            video.outcome = outcome
        except RenderFailed as failure:
            await self._rest(video)
            video.fail(failure)
        except Exception:
            logger.exception("The emulator could not make video %s", video.request_id)
            video.fail(RenderFailed("Internal error.", "internal_error"))
        self._on_made(video)

    async def _draw(self, video: Video) -> None:
        contents = await contents_of(video.request, self._client)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, _draw, video, contents, self._stop)

    async def _rest(self, video: Video) -> None:
        """Wait until a render would be over."""
        await asyncio.sleep(max(0, self._render_seconds - video.age))

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
            raise RenderFailed(
                f"The upload URL answered with HTTP status {response.status_code}.", "failed_precondition"
            )


def _draw(video: Video, contents: Contents, stop: threading.Event) -> None:
    from prefect_xai_video.emulator.render import render  # noqa: PLC0415 - the only module that needs PyAV

    with replaced(video.path) as part:
        rendered = render(video.request, contents, part, stop)
    video.seconds = rendered.seconds
    video.cost_usd = cost_of(video.request, rendered.input_seconds, rendered.size)
