"""xAI video generation in Prefect: one key, one video, one payment."""

from typing import TYPE_CHECKING

from prefect_xai_video.client import Retries, Timeouts, XaiVideoClient
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.receipts import Receipt, Video
from prefect_xai_video.requests import EditRequest, ImageRequest, TextRequest
from prefect_xai_video.responses import VideoStatus
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.tasks import (
    aadopt_video,
    adopt_video,
    aget_video,
    asave_video,
    astart_video,
    await_for_video,
    get_video,
    save_video,
    start_video,
    wait_for_video,
)

if TYPE_CHECKING:
    from prefect_xai_video.flows import acollect_video, agenerate_video, collect_video, generate_video

__all__ = [
    "EditRequest",
    "ImageRequest",
    "Receipt",
    "Retries",
    "TextRequest",
    "Timeouts",
    "Video",
    "VideoStatus",
    "XaiCredentials",
    "XaiVideoClient",
    "XaiVideoSettings",
    "aadopt_video",
    "acollect_video",
    "adopt_video",
    "agenerate_video",
    "aget_video",
    "asave_video",
    "astart_video",
    "await_for_video",
    "collect_video",
    "generate_video",
    "get_video",
    "save_video",
    "start_video",
    "wait_for_video",
]


def __getattr__(name: str) -> object:
    """Load the flows when they are first asked for: Prefect takes 0.3 s to draw up the form of a flow."""
    if name in {"acollect_video", "agenerate_video", "collect_video", "generate_video"}:
        from prefect_xai_video import flows  # noqa: PLC0415

        return getattr(flows, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
