"""xAI video generation in Prefect: one key, one video, one payment.

A name is loaded when it is first used. So the command `xai-video` decides how Prefect is set up and what Ctrl-C does
before the seconds in which Prefect is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from prefect_xai_video import errors as errors

if TYPE_CHECKING:
    from prefect_xai_video.api.capabilities import AspectRatio
    from prefect_xai_video.api.client import XaiVideoClient
    from prefect_xai_video.api.options import VideoOptions, build_request
    from prefect_xai_video.api.requests import (
        EditRequest,
        ExtendRequest,
        ImageRequest,
        ReferenceRequest,
        TextRequest,
        VideoRequest,
    )
    from prefect_xai_video.api.responses import VideoStatus
    from prefect_xai_video.api.retries import Retries, Timeouts
    from prefect_xai_video.api.sources import Keyframe, Voice
    from prefect_xai_video.api.validation import check_limits
    from prefect_xai_video.batch.outcomes import RowOutcome
    from prefect_xai_video.batch.report import BatchReport
    from prefect_xai_video.batches import (
        agenerate_videos,
        amake_video,
        asubmit_videos,
        generate_videos,
        make_video,
        submit_videos,
    )
    from prefect_xai_video.credentials import XaiCredentials
    from prefect_xai_video.engine.collecting import Collected
    from prefect_xai_video.engine.keys import check_key
    from prefect_xai_video.engine.options import TriggerOptions
    from prefect_xai_video.engine.receipts import Receipt
    from prefect_xai_video.engine.segments import FirstClipOptions, LongPlan
    from prefect_xai_video.engine.videos import LongVideo, Video
    from prefect_xai_video.flows import (
        acollect_video,
        acollect_videos,
        agenerate_video,
        collect_video,
        collect_videos,
        generate_video,
    )
    from prefect_xai_video.flows.long import agenerate_long_video, generate_long_video, plan_long_video
    from prefect_xai_video.jobs import XaiVideoGenerator, XaiVideoRun
    from prefect_xai_video.money import dollars
    from prefect_xai_video.orchestration.deployed import readable_places
    from prefect_xai_video.settings import XaiVideoSettings
    from prefect_xai_video.tasks import (
        StartOptions,
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
    from prefect_xai_video.ui.forms import MAY_STAY_EMPTY, CredentialsBlock, Prompt, StorageBlock, form_input

__version__ = "0.1.0"

__all__ = [
    "MAY_STAY_EMPTY",
    "AspectRatio",
    "BatchReport",
    "Collected",
    "CredentialsBlock",
    "EditRequest",
    "ExtendRequest",
    "FirstClipOptions",
    "ImageRequest",
    "Keyframe",
    "LongPlan",
    "LongVideo",
    "Prompt",
    "Receipt",
    "ReferenceRequest",
    "Retries",
    "RowOutcome",
    "StartOptions",
    "StorageBlock",
    "TextRequest",
    "Timeouts",
    "TriggerOptions",
    "Video",
    "VideoOptions",
    "VideoRequest",
    "VideoStatus",
    "Voice",
    "XaiCredentials",
    "XaiVideoClient",
    "XaiVideoGenerator",
    "XaiVideoRun",
    "XaiVideoSettings",
    "aadopt_video",
    "acollect_video",
    "acollect_videos",
    "adopt_video",
    "agenerate_long_video",
    "agenerate_video",
    "agenerate_videos",
    "aget_video",
    "amake_video",
    "asave_video",
    "astart_video",
    "asubmit_videos",
    "await_for_video",
    "build_request",
    "check_key",
    "check_limits",
    "collect_video",
    "collect_videos",
    "dollars",
    "form_input",
    "generate_long_video",
    "generate_video",
    "generate_videos",
    "get_video",
    "make_video",
    "plan_long_video",
    "readable_places",
    "save_video",
    "start_video",
    "submit_videos",
    "wait_for_video",
]


_MODULES = {
    "MAY_STAY_EMPTY": "ui.forms",
    "AspectRatio": "api.capabilities",
    "BatchReport": "batch.report",
    "Collected": "engine.collecting",
    "CredentialsBlock": "ui.forms",
    "EditRequest": "api.requests",
    "ExtendRequest": "api.requests",
    "FirstClipOptions": "engine.segments",
    "ImageRequest": "api.requests",
    "Keyframe": "api.sources",
    "LongPlan": "engine.segments",
    "LongVideo": "engine.videos",
    "Prompt": "ui.forms",
    "Receipt": "engine.receipts",
    "ReferenceRequest": "api.requests",
    "Retries": "api.retries",
    "RowOutcome": "batch.outcomes",
    "StartOptions": "tasks",
    "StorageBlock": "ui.forms",
    "TextRequest": "api.requests",
    "Timeouts": "api.retries",
    "TriggerOptions": "engine.options",
    "Video": "engine.videos",
    "VideoOptions": "api.options",
    "VideoRequest": "api.requests",
    "VideoStatus": "api.responses",
    "Voice": "api.sources",
    "XaiCredentials": "credentials",
    "XaiVideoClient": "api.client",
    "XaiVideoGenerator": "jobs",
    "XaiVideoRun": "jobs",
    "XaiVideoSettings": "settings",
    "aadopt_video": "tasks",
    "acollect_video": "flows",
    "acollect_videos": "flows",
    "adopt_video": "tasks",
    "agenerate_long_video": "flows.long",
    "agenerate_video": "flows",
    "agenerate_videos": "batches",
    "aget_video": "tasks",
    "amake_video": "batches",
    "asave_video": "tasks",
    "astart_video": "tasks",
    "asubmit_videos": "batches",
    "await_for_video": "tasks",
    "build_request": "api.options",
    "check_key": "engine.keys",
    "check_limits": "api.validation",
    "collect_video": "flows",
    "collect_videos": "flows",
    "dollars": "money",
    "form_input": "ui.forms",
    "generate_long_video": "flows.long",
    "generate_video": "flows",
    "generate_videos": "batches",
    "get_video": "tasks",
    "make_video": "batches",
    "plan_long_video": "flows.long",
    "readable_places": "orchestration.deployed",
    "save_video": "tasks",
    "start_video": "tasks",
    "submit_videos": "batches",
    "wait_for_video": "tasks",
}
"""The module of each public name."""


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is loaded later, too: `prefect block register -m` goes by it."""
    return sorted({*globals(), *__all__})
