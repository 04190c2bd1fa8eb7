"""Prefect flows round the tasks."""

from typing import Any, cast

from prefect import flow
from prefect.runtime import flow_run as runtime
from prefect.states import Completed

from prefect_xai_video.blocks import load_credentials, load_storage
from prefect_xai_video.capabilities import DEFAULT_MODEL, dollars
from prefect_xai_video.forms import (
    AspectRatio,
    CredentialsBlock,
    DeliveryWay,
    Duration,
    GivenKey,
    ImageUrl,
    Key,
    Model,
    Prompt,
    Regenerate,
    RequestId,
    Resolution,
    StorageBlock,
    TimeoutSeconds,
    UnknownOutcome,
    User,
    VideoUrl,
)
from prefect_xai_video.hooks import tell_how_to_go_on
from prefect_xai_video.limits import in_flight
from prefect_xai_video.receipts import Video
from prefect_xai_video.rescues import check_rescue
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.tasks import aadopt_video, asave_video, astart_video, await_for_video, check_timeout


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


_OPTIONS: dict[str, Any] = {
    "on_cancellation": [tell_how_to_go_on],
    "on_crashed": [tell_how_to_go_on],
    # `requests.py` and `blocks.py` decide what is allowed. Prefect would write what it refuses, signed URLs among it,
    # into the log, and would import every integration for the first block.
    "validate_parameters": False,
    # When the parent is retried, Prefect returns a persisted result to the call of the same number, which may ask for
    # another video. Receipts remember instead. Explicit, so that PREFECT_RESULTS_PERSIST_BY_DEFAULT does not count.
    "persist_result": False,
}


@flow(name="generate-video", flow_run_name=_run_name, **_OPTIONS)
async def agenerate_video(
    prompt: Prompt,
    image_url: ImageUrl = None,
    video_url: VideoUrl = None,
    duration: Duration = None,
    aspect_ratio: AspectRatio = None,
    resolution: Resolution = None,
    model: Model = DEFAULT_MODEL,
    storage: StorageBlock = None,
    key: Key = None,
    credentials: CredentialsBlock = None,
    delivery: DeliveryWay = "download",
    timeout_seconds: TimeoutSeconds = None,
    regenerate: Regenerate = False,
    on_unknown: UnknownOutcome = "raise",
    user: User = None,
) -> Video:
    """Make one video with xAI and store it: one key, one video, one payment.

    Args:
        prompt: What should be seen and what should happen, at most 4096 characters.
        image_url: First frame: an https, s3:// or data: URL, or a file where the flow runs (PNG, JPEG, WebP).
        video_url: Clip to edit, named in the same ways (MP4, at most 8.7 seconds). Not with an image.
        duration: Seconds, 1-15; xAI's default is 8. Not for edits.
        aspect_ratio: Shape of the picture; xAI's default is 16:9. Not for edits.
        resolution: xAI's default is 480p. 1080p needs one of the 1.5 models. Not for edits.
        model: xAI model id. One that is not known here is passed on as it is.
        storage: Where the video and its receipt go. Default: the directory of the setting HOME.
        key: Name of the video in the storage, without extension. It is paid for once, whoever runs it. Without a
            key, each new run makes a new video.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
        delivery: With "direct", xAI puts the video into the bucket by itself.
        timeout_seconds: How long to wait; the same key goes on waiting later. Default: the setting TIMEOUT_SECONDS.
        regenerate: Pay for a new attempt where this key's last one failed, was moderated or expired.
        on_unknown: With "resubmit", send again what may have been accepted, and may be paid for twice.
        user: Tag of your end user, passed on to xAI.

    Returns:
        The stored video.

    Raises:
        XaiVideoError: See `prefect_xai_video.errors`; every error after a submission names key and request id.
    """
    if ended := await check_rescue():
        return cast("Video", ended)
    credentials, storage = await load_credentials(credentials), await load_storage(storage)
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


@flow(name="collect-video", flow_run_name=_collecting_name, **_OPTIONS)
async def acollect_video(
    request_id: RequestId,
    key: GivenKey,
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
    timeout_seconds: TimeoutSeconds = None,
) -> Video:
    """Store the video of a request id that comes from anywhere: a log, the xAI console, another tool.

    It costs nothing, and it is safe to repeat.

    Args:
        request_id: xAI's request id.
        key: Name that the video is to have in the storage, or the key of a submission of unknown outcome.
        storage: Where the video and its receipt go. Default: the directory of the setting HOME.
        credentials: Block with the API key of the team that sent it. Default: XAI_API_KEY where the flow runs.
        timeout_seconds: How long to wait for the video. Default: the setting TIMEOUT_SECONDS.

    Returns:
        The stored video.

    Raises:
        XaiVideoError: See `prefect_xai_video.errors`.
    """
    if ended := await check_rescue():
        return cast("Video", ended)
    credentials, storage = await load_credentials(credentials), await load_storage(storage)
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


generate_video = flow(name="generate-video", flow_run_name=_run_name, **_OPTIONS)(synchronous(agenerate_video.fn))
collect_video = flow(name="collect-video", flow_run_name=_collecting_name, **_OPTIONS)(synchronous(acollect_video.fn))
