"""Artifacts and pages of a batch: its progress while it runs, its report at the end. All of it is best effort."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

from prefect.artifacts import MarkdownArtifact, acreate_progress_artifact, aupdate_progress_artifact

from prefect_xai_video.batch.progress import Progress
from prefect_xai_video.batch.report import BatchReport
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.ui.artifacts import best_effort
from prefect_xai_video.ui.batch_pages import batch_artifact_key, batch_description, batch_markdown
from prefect_xai_video.ui.batch_site import Look, look_at, store_pages

PAGES_SECONDS = 180
"""Longest delay of a batch by its HTML pages, in seconds."""

FIRST_PROGRESS_SECONDS, BATCH_PROGRESS_SECONDS = 5, 30
"""Seconds until the progress of a batch is shown, and between two updates."""

logger = logging.getLogger(__name__)


class BatchArtifact:
    """Artifacts of a batch: its progress while it runs, its report at the end.

    Args:
        name: Name of the manifest.

    Attributes:
        progress: How far the batch is; shown now and then, not at each change.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown: UUID | None = None
        self.progress: Progress | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Show the progress while a block runs, and at its end."""
        showing = asyncio.create_task(self._show())
        try:
            yield
        finally:
            showing.cancel()
        if self._shown is not None:
            async with best_effort("progress"):
                await aupdate_progress_artifact(self._shown, self._percent())

    async def _show(self) -> None:
        async with best_effort("progress", math.inf):
            await asyncio.sleep(FIRST_PROGRESS_SECONDS)
            self._shown = await acreate_progress_artifact(self._percent(), description=f"Batch {self._name}")
            while True:
                await asyncio.sleep(BATCH_PROGRESS_SECONDS)
                await aupdate_progress_artifact(self._shown, self._percent())

    def _percent(self) -> float:
        return self.progress.percent if self.progress else 0.0

    async def publish(self, report: BatchReport, look: Look | None = None) -> None:
        """Publish the report, with its stills and charts."""
        async with best_effort(f"batch {self._name}"):
            await MarkdownArtifact(
                key=batch_artifact_key(report),
                markdown=batch_markdown(report, look),
                description=batch_description(report),
            ).acreate()


async def publish_pages(report: BatchReport, store: VideoStore) -> tuple[BatchReport, Look | None]:
    """Store the HTML pages of a batch beside its videos, as far as that is possible within three minutes.

    Args:
        report: The stored report of the batch.
        store: The store of its videos.

    Returns:
        The report with the URI of its page, and what the artifact of the batch shows besides.
    """
    look = None
    try:
        async with asyncio.timeout(PAGES_SECONDS):
            settings = XaiVideoSettings.current()
            look = await look_at(report, store, stills=settings.preview, prompts=settings.prompt_in_names)
            return replace(report, page=await store_pages(report, store, look)), look
    except Exception as error:
        reason = str(error) or type(error).__name__
        logger.warning("The HTML page of batch %s could not be stored: %s", report.name, reason)
        logger.debug("Reason:", exc_info=True)
    return report, look
