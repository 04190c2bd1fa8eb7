"""Prefect flows that combine the tasks. Their `Args` texts are the help texts of the forms in the Prefect UI."""

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from prefect.logging import get_run_logger
from prefect.runtime import flow_run as runtime

from prefect_xai_video.api.capabilities import DEFAULT_MODEL
from prefect_xai_video.api.options import build_request, mode_of
from prefect_xai_video.api.pace import Pace
from prefect_xai_video.api.threads import own_threads
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.collecting import Collected, Collector
from prefect_xai_video.engine.stills import check_stills
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.engine.videos import Video
from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.orchestration.blocks import load_credentials, load_storage
from prefect_xai_video.orchestration.direct_flow import DirectFlow
from prefect_xai_video.orchestration.final_states import completed_with
from prefect_xai_video.orchestration.labels import labelled_run, log_how_to_continue
from prefect_xai_video.orchestration.limits import Limits
from prefect_xai_video.orchestration.living_runs import LivingRuns
from prefect_xai_video.orchestration.rescues import check_rescue
from prefect_xai_video.orchestration.run_names import name_run, prompt_words
from prefect_xai_video.orchestration.storage import open_store
from prefect_xai_video.settings import XaiVideoSettings, check_timeout
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.tasks import (
    aadopt_video,
    asave_video,
    astart_video,
    await_for_video,
    explained,
    open_generation,
)
from prefect_xai_video.ui.forms import (
    AspectRatio,
    CredentialsBlock,
    DeliveryWay,
    Duration,
    ExtendVideoUrl,
    GenerateAudio,
    GivenKey,
    ImageUrl,
    KeepAtXai,
    Key,
    Keyframes,
    KeyPrefix,
    LastFrameUrl,
    Model,
    Prompt,
    PublicUrl,
    RecoveryWay,
    ReferenceAudios,
    ReferenceImageUrls,
    Regenerate,
    RequestId,
    Resolution,
    Stills,
    StorageBlock,
    TimeoutSeconds,
    UnknownOutcome,
    User,
    VideoUrl,
)

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 32
"""Threads for the store and the downloads of many videos; the event loop has as few as six."""


def _run_name() -> str:
    """Name a run after what it makes; never after the whole prompt, which would reach the log."""
    parameters = runtime.parameters
    duration = parameters.get("duration")
    return name_run(
        prompt_words(parameters.get("prompt")),
        _mode(parameters),
        f"{duration}s" if duration else None,
        parameters.get("aspect_ratio"),
        parameters.get("resolution"),
        parameters.get("key"),
    )


def _mode(parameters: Mapping[str, Any]) -> str:
    """Name the mode of valid parameters; a name for others does not matter."""
    try:
        return mode_of(parameters)
    except InvalidRequest:
        return "text"


def _collecting_name() -> str:
    parameters = runtime.parameters
    return name_run("collect", parameters.get("key") or parameters.get("prefix") or "videos")


FLOW_OPTIONS: dict[str, Any] = {
    # `requests.py` and `blocks.py` validate the parameters. Prefect would write rejected values, which may be signed
    # URLs, to the log, and would import every integration for the first block.
    "validate_parameters": False,
    # Explicit, so that PREFECT_RESULTS_PERSIST_BY_DEFAULT has no effect.
    "persist_result": False,
}
"""Options of all flows of this package."""

# Runs of flows with these hooks are labelled with their one video.
_HOOKS: dict[str, Any] = {"on_cancellation": [log_how_to_continue], "on_crashed": [log_how_to_continue]}


def _flow(name: str, flow_run_name: Callable[[], str]) -> Callable[[Callable[P, R]], DirectFlow[P, R]]:
    return lambda function: DirectFlow(function, name=name, flow_run_name=flow_run_name, **FLOW_OPTIONS, **_HOOKS)


@_flow(name="generate-video", flow_run_name=_run_name)
async def agenerate_video(
    prompt: Prompt,
    image_url: ImageUrl = None,
    last_frame_url: LastFrameUrl = None,
    keyframes: Keyframes = None,
    reference_image_urls: ReferenceImageUrls = None,
    reference_audios: ReferenceAudios = None,
    video_url: VideoUrl = None,
    extend_video_url: ExtendVideoUrl = None,
    duration: Duration = None,
    aspect_ratio: AspectRatio = None,
    resolution: Resolution = None,
    generate_audio: GenerateAudio = None,
    model: Model = DEFAULT_MODEL,
    storage: StorageBlock = None,
    key: Key = None,
    credentials: CredentialsBlock = None,
    delivery: DeliveryWay = "download",
    recovery: RecoveryWay = "none",
    keep_at_xai: KeepAtXai = False,
    public_url: PublicUrl = False,
    stills: Stills = False,
    timeout_seconds: TimeoutSeconds = None,
    regenerate: Regenerate = False,
    on_unknown: UnknownOutcome = "raise",
    user: User = None,
) -> Video:
    """Generate one video with xAI and store it: one key, one video, one payment.

    Args:
        prompt: Description of what the video shows and what happens in it, at most 4096 characters.
        image_url: First frame: an https, s3:// or data: URL, or a file where the flow runs (PNG, JPEG or WebP).
        last_frame_url: Last frame, given like the first one. Needs the model grok-imagine-video-1.5.
        keyframes: Images at given times of the video, at most 4. Needs the model grok-imagine-video-1.5.
        reference_image_urls: People, things or places that the prompt names as `<IMAGE_0>`, `<IMAGE_1>`, ...
        reference_audios: Voices, at most 3, each with the id of a voice at xAI. Needs grok-imagine-video-1.5.
        video_url: Clip to edit: a URL or a file, as for an image (MP4, at most 8.7 seconds). Can't be combined with
            images.
        extend_video_url: Clip to continue, given like a clip to edit (2-15 seconds). The result contains both.
        duration: Length in seconds, 1-15; xAI's default is 8. For an extension the added seconds, 2-10. Not available
            for edits.
        aspect_ratio: Shape of the picture; xAI's default is 16:9. Only for new videos.
        resolution: xAI's default is 480p. 1080p requires one of the 1.5 models. Only for new videos.
        generate_audio: Whether the video has sound; xAI's default is yes. Only for new videos.
        model: xAI model id. An id that this version does not know is passed on unchanged.
        storage: Bucket or directory for the video and its receipt. Default: the directory xai-video in Prefect's
            home on the machine where the flow runs, unless configured otherwise.
        key: Name of the video in the storage, without extension. With the same key, the video is paid for only once,
            no matter how many runs use it. Without a key, each new run generates a new video.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
        delivery: With "download", the flow downloads the video and stores it. With "direct", xAI uploads it to the
            bucket.
        recovery: With "files", xAI also keeps the video in its Files API until it is stored. If xAI's reply to the
            submission is lost, the video is found there, without paying again. Not with direct delivery.
        keep_at_xai: Keep the video as a file in xAI's Files API, for ever or for so many seconds. Not with direct
            delivery.
        public_url: Give that file a URL that needs no API key: everyone who has it can see the video.
        stills: Store the first and the last frame beside the video, too. The last one can be the first frame of the
            next video. Needs PyAV where the flow runs.
        timeout_seconds: Longest time to wait; a later run with the same key continues waiting. Default: 1200 unless
            configured otherwise.
        regenerate: Pay for a new attempt if the last one with this key failed, was moderated or expired.
        on_unknown: Applies if it is unknown whether xAI accepted an earlier submission of this key. With "resubmit",
            it is submitted again, which may pay twice. With "raise", the run fails and explains what to do.
        user: Identifier of your end user, passed on to xAI.

    Returns:
        The stored video.

    Raises:
        XaiVideoError: See `prefect_xai_video.errors`. Every error after a submission names the key and request id.
    """
    if ended := await check_rescue():
        return cast("Video", ended)
    credentials, store = await load_blocks(credentials, storage)
    async with explained(store):
        check_timeout(timeout_seconds)
        check_stills(stills)
        request = build_request(
            prompt,
            image_url=image_url,
            last_frame_url=last_frame_url,
            keyframes=keyframes,
            reference_image_urls=reference_image_urls,
            reference_audios=reference_audios,
            video_url=video_url,
            extend_video_url=extend_video_url,
            duration=duration,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            generate_audio=generate_audio,
            model=model,
            user=user,
        )
    async with labelled_run():
        async with Limits(budget=XaiVideoSettings.current().budget) as limits:
            receipt = await astart_video(
                request,
                key=key,
                storage=store,
                credentials=credentials,
                regenerate=regenerate,
                on_unknown=on_unknown,
                delivery=delivery,
                recovery=recovery,
                keep_at_xai=keep_at_xai,
                public_url=public_url,
                permit=limits,
            )
            receipt = await await_for_video(
                receipt, timeout_seconds=timeout_seconds, storage=store, credentials=credentials
            )
        return completed(await asave_video(receipt, stills=stills, storage=store, credentials=credentials))


@_flow(name="collect-video", flow_run_name=_collecting_name)
async def acollect_video(
    request_id: RequestId,
    key: GivenKey,
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
    timeout_seconds: TimeoutSeconds = None,
) -> Video:
    """Store the video of a request id from any source: a log, the xAI console, another tool.

    It costs nothing and is safe to repeat.

    Args:
        request_id: xAI's request id.
        key: Name for the video in the storage, without extension, or the key of a submission with an unknown outcome.
        storage: Bucket or directory for the video and its receipt. Default: the directory xai-video in Prefect's
            home on the machine where the flow runs, unless configured otherwise.
        credentials: Block with an API key of the team that sent the request. Default: XAI_API_KEY where the flow
            runs.
        timeout_seconds: Longest time to wait for the video. Default: 1200 unless configured otherwise.

    Returns:
        The stored video.

    Raises:
        XaiVideoError: See `prefect_xai_video.errors`.
    """
    if ended := await check_rescue():
        return cast("Video", ended)
    credentials, store = await load_blocks(credentials, storage)
    check_timeout(timeout_seconds)
    async with labelled_run():
        receipt = await aadopt_video(request_id, key, storage=store, credentials=credentials)
        receipt = await await_for_video(
            receipt, timeout_seconds=timeout_seconds, storage=store, credentials=credentials
        )
        return completed(await asave_video(receipt, storage=store, credentials=credentials))


@_flow(name="collect-videos", flow_run_name=_collecting_name)
async def acollect_videos(
    prefix: KeyPrefix = "",
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
) -> Collected:
    """Store the videos of all open keys that are done: of submitted batches, and of runs that ended too early.

    It polls each open key once and ends; a schedule repeats it. It costs nothing, and leaves keys alone for which a
    living run waits itself. Its time grows with the number of open keys, not with that of stored videos.

    Args:
        prefix: Beginning of the keys. Default: all keys of the storage.
        storage: Bucket or directory of the videos. Default: a directory where the flow runs, namely xai-video in
            Prefect's home unless configured otherwise.
        credentials: Block with an API key of the team that sent the requests. Default: XAI_API_KEY where the flow
            runs.

    Returns:
        What became of the open keys.

    Raises:
        XaiVideoError: See `prefect_xai_video.errors`. Errors of single keys are part of the result.
    """
    if ended := await check_rescue():
        return cast("Collected", ended)
    loaded, store = await load_blocks(credentials, storage)
    runs = LivingRuns(XaiVideoSettings.current().timeout_seconds)
    with own_threads(THREADS):
        async with open_generation(loaded, store, pace=Pace()) as generation:
            collected = await Collector(generation, runs.holding, runs.wake).collect(prefix)
    for key, error in collected.errors.items():
        get_run_logger().warning("Key %s: %s", key, error)
    return completed_with(str(collected), collected)


async def load_blocks(credentials: object, storage: object) -> tuple[XaiCredentials, VideoStore]:
    """Load the blocks of a run and open its store, once for all tasks of the run."""
    loaded, block = await load_credentials(credentials), await load_storage(storage)
    return loaded, open_store(block, XaiVideoSettings.current().home)


def completed(video: Video) -> Video:
    """Make the final state of a run, with its video and a message about it. Prefect returns the video to callers."""
    facts = [
        f"{video.duration} s" if video.duration else None,
        video.price,
    ]
    known = ", ".join(fact for fact in facts if fact)
    message = f"Stored {video.uri} ({known})" if known else f"Stored {video.uri}"
    return completed_with(message, video)


generate_video = _flow(name="generate-video", flow_run_name=_run_name)(synchronous(agenerate_video.fn))
collect_videos = _flow(name="collect-videos", flow_run_name=_collecting_name)(synchronous(acollect_videos.fn))
collect_video = _flow(name="collect-video", flow_run_name=_collecting_name)(synchronous(acollect_video.fn))
