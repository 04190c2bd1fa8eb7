"""xAI video generation in Prefect: one key, one video, one payment."""

from importlib import import_module
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
    from prefect_xai_video.jobs import XaiVideoGenerator, XaiVideoRun

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
    "XaiVideoGenerator",
    "XaiVideoRun",
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


_LOADED_WHEN_ASKED_FOR = {
    "XaiVideoGenerator": "jobs",
    "XaiVideoRun": "jobs",
    "acollect_video": "flows",
    "agenerate_video": "flows",
    "collect_video": "flows",
    "generate_video": "flows",
}
"""Prefect takes 0.3 s to draw up the forms of flows, and 0.1 s for that of a block that holds other blocks."""


def __getattr__(name: str) -> object:
    if name in _LOADED_WHEN_ASKED_FOR:
        return getattr(import_module(f"{__name__}.{_LOADED_WHEN_ASKED_FOR[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is loaded later, too: `prefect block register -m` goes by it."""
    return sorted({*globals(), *__all__})
