"""What the Prefect UI shows of a video: its progress while it is rendered."""

import logging
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

from prefect_xai_video.responses import VideoStatus

STEP = 10
"""Percent by which progress must have grown to be worth a request to Prefect."""

logger = logging.getLogger(__name__)


class ProgressArtifact:
    """One progress artifact of the current run, made when xAI first reports progress.

    It is decoration: what goes wrong with it is logged, and the run goes on.

    Args:
        description: What is in progress. It is public in the UI: no prompt, no URL.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._id: UUID | None = None
        self._shown = 0

    async def show(self, status: VideoStatus) -> None:
        """Show one answer of xAI, if it is news."""
        progress = 100 if status.state == "done" else status.progress
        if progress is None or (self._id is not None and not self._is_news(progress)):
            return
        try:
            await self._write(progress)
        except Exception:
            logger.debug("The progress artifact could not be written.", exc_info=True)
        self._shown = progress

    def _is_news(self, progress: int) -> bool:
        return progress >= self._shown + STEP or (progress == 100 and self._shown < 100)

    async def _write(self, progress: int) -> None:
        if self._id is None:
            self._id = await acreate_progress_artifact(float(progress), description=self._description)
        else:
            await aupdate_progress_artifact(self._id, float(progress))
