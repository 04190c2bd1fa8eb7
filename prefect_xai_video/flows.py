"""Prefect flows round the tasks."""

from typing import Annotated, Any, cast

from prefect import flow
from prefect.runtime import flow_run as runtime
from prefect.states import Completed
from pydantic import Field, SkipValidation

from prefect_xai_video.capabilities import ASPECT_RATIOS, DEFAULT_MODEL, RESOLUTIONS, dollars
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.hooks import tell_how_to_go_on
from prefect_xai_video.limits import in_flight
from prefect_xai_video.receipts import Video
from prefect_xai_video.stores import Storage
from prefect_xai_video.submission import Delivery, OnUnknown
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.tasks import aadopt_video, asave_video, astart_video, await_for_video, check_timeout

# What a form in the Prefect UI offers. Whether a value is allowed is decided in one place, `requests.py`: there the
# limits can be turned into warnings, and errors name the field, the value and what is allowed.
Text = Annotated[str, SkipValidation]
Way = Annotated[OnUnknown, SkipValidation]
Carriage = Annotated[Delivery, SkipValidation]
Flag = Annotated[bool, SkipValidation]
Seconds = Annotated[float, SkipValidation, Field(json_schema_extra={"exclusiveMinimum": 0})]
Duration = Annotated[int, SkipValidation, Field(json_schema_extra={"minimum": 1, "maximum": 15})]
AspectRatio = Annotated[str, SkipValidation, Field(json_schema_extra={"enum": list(ASPECT_RATIOS)})]
Resolution = Annotated[str, SkipValidation, Field(json_schema_extra={"enum": list(RESOLUTIONS)})]


def _run_name() -> str:
    """Name a run after what it makes; never after a prompt, which would reach the log."""
    parameters = runtime.parameters
    mode = "edit" if parameters.get("video_url") else "image" if parameters.get("image_url") else "text"
    duration = parameters.get("duration")
    parts = (
        mode,
        f"{duration}s" if duration else None,
        parameters.get("aspect_ratio"),
        parameters.get("resolution"),
        parameters.get("key"),
    )
    return " ".join(str(part) for part in parts if part)[:100]


def _collecting_name() -> str:
    return f"collect {runtime.parameters.get('key')}"[:100]


_HOOKS: dict[str, Any] = {"on_cancellation": [tell_how_to_go_on], "on_crashed": [tell_how_to_go_on]}


@flow(name="generate-video", flow_run_name=_run_name, **_HOOKS)
async def agenerate_video(
    prompt: Text,
    image_url: Text | None = None,
    video_url: Text | None = None,
    duration: Duration | None = None,
    aspect_ratio: AspectRatio | None = None,
    resolution: Resolution | None = None,
    model: Text = DEFAULT_MODEL,
    user: Text | None = None,
    key: Text | None = None,
    storage: Storage | None = None,
    credentials: XaiCredentials | None = None,
    timeout_seconds: Seconds | None = None,
    regenerate: Flag = False,
    on_unknown: Way = "raise",
    delivery: Carriage = "download",
) -> Video:
    """Make one video with xAI and store it: one key, one video, one payment.

    Args:
        prompt: What should be seen, at most 4096 characters. May be empty with an image.
        image_url: First frame of a new clip: an https, data: or s3:// URL, or a local file (PNG, JPEG, WebP).
        video_url: Clip to edit, named in the same ways (MP4, at most 8.7 seconds).
        duration: Seconds, 1-15; xAI's default is 8. Not for edits.
        aspect_ratio: Shape of the picture; xAI's default is 16:9. Not for edits.
        resolution: 480p or 720p, and 1080p where the model has it; xAI's default is 480p. Not for edits.
        model: xAI model id.
        user: Tag of the end user on whose behalf the video is made, passed on to xAI.
        key: The video's name in the storage, without extension. With the same key it is never paid for twice, by
            any run on any machine. Without one, each new run makes a new video.
        storage: Where the video and its receipt go. Default: the directory of the setting HOME.
        credentials: The xAI API key. Default: XAI_API_KEY of the environment.
        timeout_seconds: Seconds to wait for the video; the same key goes on waiting later. Default: the setting
            TIMEOUT_SECONDS.
        regenerate: Pay for a new attempt where this key's last one failed, was moderated or expired.
        on_unknown: With "resubmit", send again what may have been accepted, and may be paid for twice.
        delivery: With "direct", xAI puts the video into the bucket by itself, and a submission whose reply was lost
            is recognised by its video.

    Returns:
        The stored video.

    Raises:
        XaiVideoError: See `prefect_xai_video.errors`; every error after a submission names key and request id.
    """
    credentials = credentials or XaiCredentials.from_environment()
    check_timeout(timeout_seconds)
    async with in_flight():
        receipt = await astart_video(
            prompt,
            image_url=image_url,
            video_url=video_url,
            duration=duration,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            model=model,
            user=user,
            key=key,
            storage=storage,
            credentials=credentials,
            regenerate=regenerate,
            on_unknown=on_unknown,
            delivery=delivery,
        )
        receipt = await await_for_video(
            receipt, timeout_seconds=timeout_seconds, storage=storage, credentials=credentials
        )
    return _said(await asave_video(receipt, storage=storage, credentials=credentials))


@flow(name="collect-video", flow_run_name=_collecting_name, **_HOOKS)
async def acollect_video(
    request_id: Text,
    key: Text,
    storage: Storage | None = None,
    credentials: XaiCredentials | None = None,
    timeout_seconds: Seconds | None = None,
) -> Video:
    """Store the video of a request id that comes from anywhere: a log, the xAI console, another tool.

    It costs nothing, and it is safe to repeat.

    Args:
        request_id: xAI's request id.
        key: The name that the video is to have in the storage, or that of a submission of unknown outcome.
        storage: Where the video and its receipt go. Default: the directory of the setting HOME.
        credentials: The xAI API key of the team that sent the request. Default: XAI_API_KEY of the environment.
        timeout_seconds: Seconds to wait for the video. Default: the setting TIMEOUT_SECONDS.

    Returns:
        The stored video.

    Raises:
        XaiVideoError: See `prefect_xai_video.errors`.
    """
    credentials = credentials or XaiCredentials.from_environment()
    check_timeout(timeout_seconds)
    receipt = await aadopt_video(request_id, key, storage=storage, credentials=credentials)
    receipt = await await_for_video(
        receipt, timeout_seconds=timeout_seconds, storage=storage, credentials=credentials
    )
    return _said(await asave_video(receipt, storage=storage, credentials=credentials))


def _said(video: Video) -> Video:
    """The result of a run, with a sentence about it as its final state; callers get the video."""
    facts = [
        f"{video.duration} s" if video.duration else None,
        None if video.cost_usd is None else dollars(video.cost_usd),
    ]
    known = ", ".join(fact for fact in facts if fact)
    return cast("Video", Completed(message=f"Stored {video.uri} {known}".strip(), data=video))


generate_video = flow(name="generate-video", flow_run_name=_run_name, **_HOOKS)(synchronous(agenerate_video.fn))
collect_video = flow(name="collect-video", flow_run_name=_collecting_name, **_HOOKS)(synchronous(acollect_video.fn))
