"""Artifacts in the Prefect UI: progress, then a video or the reason why there is none, or the report of a batch.

Artifacts, and the HTML pages of a batch, are best effort: failures are logged and never fail the run.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.artifacts import MarkdownArtifact, acreate_progress_artifact, aupdate_progress_artifact

from prefect_xai_video import errors
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.segments import LongPlan
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.engine.videos import LongVideo, Video
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.ui.long_pages import long_plan_markdown, long_video_description, long_video_markdown
from prefect_xai_video.ui.pages import (
    Link,
    artifact_key,
    failure_description,
    failure_markdown,
    video_description,
    video_markdown,
)
from prefect_xai_video.ui.previews import preview

STEP = 50
"""Smallest increase of the progress, in percent, that is worth a request to Prefect."""

STEP_SECONDS = 2
"""Minimum seconds between two progress updates."""

MAX_SECONDS = 45
"""Longest delay of a run by the artifact of a video or a failure, in seconds."""

PROGRESS_SECONDS = 5
"""Longest delay of a run by a progress update, in seconds; after that, progress is no longer shown."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def best_effort(subject: str, seconds: float = MAX_SECONDS) -> AsyncIterator[None]:
    """Log any failure of a block, and end it after some seconds.

    Args:
        subject: What its artifact is of.
        seconds: Longest duration of the block.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except Exception:
        logger.debug("Could not write the artifact of %s.", subject, exc_info=True)


class ProgressArtifact:
    """Progress artifact of the current run, created when xAI first reports progress.

    Args:
        description: Description of the work. Everyone with access to the UI sees it: no prompt, no URL.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._id: UUID | None = None
        self._shown, self._shown_at = 0, 0.0
        self._failed = False

    async def show(self, status: VideoStatus) -> None:
        """Show the progress that xAI reported, if it changed enough."""
        progress = 100 if status.state == "done" else status.progress
        if self._failed or progress is None or (self._id is not None and not self._is_worth_showing(progress)):
            return
        self._failed = True
        async with best_effort("progress", PROGRESS_SECONDS):
            await self._write(progress)
            self._failed = False
        self._shown, self._shown_at = progress, time.monotonic()

    def _is_worth_showing(self, progress: int) -> bool:
        is_due = time.monotonic() >= self._shown_at + STEP_SECONDS
        return (is_due and progress >= self._shown + STEP) or (progress == 100 and self._shown < 100)

    async def _write(self, progress: int) -> None:
        if self._id is None:
            self._id = await acreate_progress_artifact(float(progress), description=self._description)
        else:
            await aupdate_progress_artifact(self._id, float(progress))


async def publish_video(video: Video, receipt: Receipt, store: VideoStore) -> None:
    """Publish a stored video as an artifact of the current run.

    Args:
        video: The video.
        receipt: Its receipt.
        store: The store that holds it.
    """
    async with best_effort(video.key):
        settings = XaiVideoSettings.current()
        seen = await _seen(store, video.key, settings)
        description = video_description(video, settings.words_of(receipt.request.get("prompt")))
        await _publish(video.key, video_markdown(receipt, video, *seen), description)


async def publish_long_video(video: LongVideo, plan: LongPlan, store: VideoStore) -> None:
    """Publish a long video as an artifact of the current run.

    Args:
        video: The video.
        plan: Its plan.
        store: The store that holds it.
    """
    async with best_effort(video.key):
        settings = XaiVideoSettings.current()
        seen = await _seen(store, video.key, settings)
        words = settings.words_of(plan.first.prompt)
        await _publish(video.key, long_video_markdown(video, plan, *seen), long_video_description(video, words))


async def publish_long_plan(plan: LongPlan, key: str) -> None:
    """Publish the plan of a long video as an artifact of the current run.

    Args:
        plan: The plan.
        key: The key of the video.
    """
    async with best_effort(key):
        await _publish(key, long_plan_markdown(plan, key), plan.summary)


async def publish_failure(error: XaiVideoError, store: VideoStore | None) -> None:
    """Publish the reason, the cost and the next step of a failure as an artifact of the current run.

    Args:
        error: The error.
        store: The store that holds the receipt; None if it can't be opened.
    """
    # A conflicting or invalid request is not part of the history of the key's video.
    is_of_the_call = error.is_free or isinstance(error, errors.KeyConflict | errors.InvalidRequest)
    key = None if is_of_the_call else error.key
    async with best_effort(key or "a failure"):
        receipt = await _receipt(key, store) if key and store else None
        words = XaiVideoSettings.current().words_of(receipt.request.get("prompt")) if receipt else ""
        await _publish(key, failure_markdown(error, receipt), failure_description(error, receipt, words))


async def _publish(key: str | None, markdown: str, description: str) -> None:
    await MarkdownArtifact(key=artifact_key(key), markdown=markdown, description=description).acreate()


async def _seen(store: VideoStore, key: str, settings: XaiVideoSettings) -> tuple[bytes | None, Link | None]:
    """The preview of a stored video, and a link to it, as far as the settings want them."""
    picture = await _preview(store, key) if settings.preview else None
    return picture, await _link(store, key, settings.link_seconds)


async def _preview(store: VideoStore, key: str) -> bytes | None:
    async with best_effort(f"{key}, its preview"), store.local_copy(key) as path:
        return await asyncio.to_thread(preview, path)
    return None


async def _link(store: VideoStore, key: str, seconds: int) -> Link | None:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    async with best_effort(f"{key}, its link"):
        url = await store.link(key, seconds) if seconds else None
        return Link(url, until) if url else None
    return None


async def _receipt(key: str, store: VideoStore) -> Receipt | None:
    async with best_effort(f"{key}, its receipt"):
        held = await store.read(key)
        return held.receipt if held else None
    return None
