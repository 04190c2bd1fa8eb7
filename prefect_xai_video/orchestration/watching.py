"""Reports the progress of runs to a watcher in the same process, such as the command line."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import XaiVideoError

if TYPE_CHECKING:
    # A run of one video needs nothing of batches.
    from prefect_xai_video.batch.lanes import ChosenLane
    from prefect_xai_video.batch.progress import Progress

News: TypeAlias = "Receipt | VideoStatus | XaiVideoError | Progress | ChosenLane"
"""A changed receipt, the response to a poll, an error after which the task is retried, the progress or the lane of a
batch."""

watcher: ContextVar["Callable[[News], object] | None"] = ContextVar("watcher", default=None)
"""Callback for the news of all runs that are started in this context."""


def report(news: News) -> None:
    """Pass news to the watcher, if there is one."""
    if (watch := watcher.get()) is not None:
        watch(news)
