"""Videos that are longer than one request: segments that go on from each other, and one file of them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from prefect.logging import get_run_logger
from prefect.runtime import flow_run as runtime
from typing_extensions import Unpack

from prefect_xai_video.api.capabilities import DEFAULT_MODEL
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.accounts import account_of, check_owner
from prefect_xai_video.engine.apart import check_pyav
from prefect_xai_video.engine.handover import check_saving, delivery_of
from prefect_xai_video.engine.long_videos import Assembly
from prefect_xai_video.engine.options import SavingOptions
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.segments import FirstClipOptions, LongPlan, Segment, plan_segments
from prefect_xai_video.engine.videos import LongVideo, Video
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.flows import FLOW_OPTIONS, completed, load_blocks
from prefect_xai_video.orchestration import assets
from prefect_xai_video.orchestration.derived_keys import derive_key
from prefect_xai_video.orchestration.direct_flow import DirectFlow
from prefect_xai_video.orchestration.direct_task import xai_task
from prefect_xai_video.orchestration.events import emit_joined
from prefect_xai_video.orchestration.final_states import completed_with
from prefect_xai_video.orchestration.labels import log_how_to_continue_segments
from prefect_xai_video.orchestration.limits import Limits
from prefect_xai_video.orchestration.rescues import check_rescue
from prefect_xai_video.orchestration.run_names import name_run, prompt_words
from prefect_xai_video.settings import XaiVideoSettings, check_timeout
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.tasks import (
    StartOptions,
    asave_video,
    astart_video,
    await_for_video,
    checked_request,
    explained,
    open_generation,
)
from prefect_xai_video.ui.artifacts import publish_long_plan, publish_long_video
from prefect_xai_video.ui.forms import (
    AspectRatio,
    CredentialsBlock,
    DeliveryWay,
    DryRun,
    GenerateAudio,
    ImageUrl,
    KeepAtXai,
    Key,
    LongDuration,
    Model,
    Prompts,
    PublicUrl,
    RecoveryWay,
    ReferenceImageUrls,
    Regenerate,
    Resolution,
    Stills,
    StorageBlock,
    TimeoutSeconds,
    UnknownOutcome,
    User,
)

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["agenerate_long_video", "generate_long_video", "plan_long_video"]


def plan_long_video(prompts: str | Sequence[str], duration: int, **options: Unpack[FirstClipOptions]) -> LongPlan:
    """Plan a long video and estimate its cost. Nothing is read or sent.

    Args:
        prompts: One prompt for all segments, or one for each.
        duration: Seconds of the whole video.
        **options: Options of the first segment: `image_url`, `reference_image_urls`, `aspect_ratio`, `resolution`,
            `generate_audio`, `model`, `user`.

    Returns:
        The plan: its `segments` with their durations, and `estimated_cost_usd`. As text it is a line a segment.

    Raises:
        InvalidRequest: If the model can't make such a video. The message says which durations it can.
    """
    return plan_segments(prompts, duration, options, validation=XaiVideoSettings.current().validation)


def _run_name() -> str:
    parameters = runtime.parameters
    prompts, duration = parameters.get("prompts"), parameters.get("duration")
    first = prompts if isinstance(prompts, str) else next(iter(prompts or ()), None)
    return name_run(prompt_words(first), "long", f"{duration}s" if duration else None, parameters.get("key"))


def _long_flow(function: Callable[P, R]) -> DirectFlow[P, R]:
    # Without the hooks of the other flows, which label a run with one key: this one has several.
    hooks: dict[str, Any] = {"on_cancellation": [log_how_to_continue_segments]}
    hooks |= {"on_crashed": [log_how_to_continue_segments]}
    return DirectFlow(function, name="generate-long-video", flow_run_name=_run_name, **FLOW_OPTIONS, **hooks)


@_long_flow
async def agenerate_long_video(
    prompts: Prompts,
    duration: LongDuration,
    image_url: ImageUrl = None,
    reference_image_urls: ReferenceImageUrls = None,
    aspect_ratio: AspectRatio = None,
    resolution: Resolution = None,
    generate_audio: GenerateAudio = None,
    model: Model = DEFAULT_MODEL,
    dry_run: DryRun = False,
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
) -> LongVideo:
    """Generate a video that is longer than one request: one payment a segment, and one file of them all.

    Args:
        prompts: One prompt for all segments, or one for each segment: a storyboard.
        duration: Seconds of the whole video. It is divided evenly between the segments.
        image_url: First frame: an https, s3:// or data: URL, or a file where the flow runs (PNG, JPEG or WebP).
        reference_image_urls: Images of people, things or places that the first prompt names as `<IMAGE_0>`, ...
        aspect_ratio: Shape of the picture; xAI's default is 16:9.
        resolution: xAI's default is 480p. 1080p requires one of the 1.5 models.
        generate_audio: Whether the video has sound; xAI's default is yes.
        model: xAI model id. grok-imagine-video extends each segment; with the others, a segment begins with the last
            frame of the one before.
        dry_run: Show the segments and estimate the cost. Nothing is sent.
        storage: Bucket or directory for the video, its segments and their receipts. Default: the directory xai-video
            in Prefect's home on the machine where the flow runs, unless configured otherwise.
        key: Name of the video in the storage, without extension. With the same key, no segment is paid for twice.
            Without a key, each new run generates a new video.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
        delivery: With "download", the flow downloads each segment and stores it. With "direct", xAI uploads it to the
            bucket.
        recovery: With "files", xAI also keeps each segment in its Files API until it is stored. A segment whose reply
            was lost is found there, without paying again. Not with direct delivery.
        keep_at_xai: Keep each segment as a file in xAI's Files API, for ever or for so many seconds. The whole video
            is joined where the flow runs, and is never at xAI. Not with direct delivery.
        public_url: Give the files of the segments URLs that need no API key: everyone who has one can see it.
        stills: Store the first and the last frame of the whole video beside it, too.
        timeout_seconds: Longest time to wait for one segment; a later run with the same key continues waiting.
            Default: 1200 unless configured otherwise.
        regenerate: Pay for a new attempt at a segment whose last one failed, was moderated or expired.
        on_unknown: Applies if it is unknown whether xAI accepted an earlier submission of a segment. With "resubmit",
            it is submitted again, which may pay twice. With "raise", the run fails and explains what to do.
        user: Identifier of your end user, passed on to xAI.

    Returns:
        The stored video, with its segments; after a dry run, its plan, as `plan_long_video` returns it.

    Raises:
        XaiVideoError: See `prefect_xai_video.errors`. Every error after a submission names the key of the segment and
            its request id.
    """
    if ended := await check_rescue():
        return cast("LongVideo", ended)
    credentials, store = await load_blocks(credentials, storage)
    saving: SavingOptions = {
        "delivery": delivery,
        "recovery": recovery,
        "keep_at_xai": keep_at_xai,
        "public_url": public_url,
        "stills": stills,
    }
    async with explained(store):
        check_timeout(timeout_seconds)
        check_saving(saving)
        plan = plan_long_video(
            prompts,
            duration,
            image_url=image_url,
            reference_image_urls=reference_image_urls,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            generate_audio=generate_audio,
            model=model,
            user=user,
        )
        first = await checked_request(plan.first, store, XaiVideoSettings.current().validation)
        key = await derive_key(plan.stand_in(first), store) if key is None else key
        assembly = Assembly(store, key, plan, plan.fingerprint(first), get_run_logger().info)
        if made := await _found(assembly, credentials):
            get_run_logger().info("Key %s is already stored: nothing is sent", key)
            return cast("LongVideo", completed(await assembly.with_stills(made) if stills else made))
        get_run_logger().info("%s", plan)
        if dry_run:
            await publish_long_plan(plan, key)
            return cast("LongVideo", completed_with(f"{plan.summary}. Nothing was sent.", plan))
        check_pyav("duration", f"{plan.duration} s", "a video of one request without PyAV")
    own: StartOptions = {"storage": store, "credentials": credentials}
    own |= {"regenerate": regenerate, "on_unknown": on_unknown}
    options = cast("StartOptions", own | delivery_of(saving))
    videos = await _Making(assembly, options, timeout_seconds).segments()
    return cast("LongVideo", completed(await _join_segments(assembly, videos, stills=stills)))


generate_long_video = _long_flow(synchronous(agenerate_long_video.fn))


@xai_task("join_segments")
async def _join_segments(assembly: Assembly, videos: Sequence[Video], *, stills: bool) -> LongVideo:
    """Join stored segments into one file, and report it as any stored video: event, asset, artifact."""
    async with explained(assembly.store):
        for video in videos:
            assets.uses(video.uri)
        made = await assembly.join(videos, stills=stills)
    emit_joined(made, assembly.plan.first)
    assets.makes(made)
    await publish_long_video(made, assembly.plan, assembly.store)
    return made


async def _found(assembly: Assembly, credentials: XaiCredentials) -> LongVideo | None:
    async with open_generation(credentials, assembly.store) as generation:
        account = await account_of(generation.client, with_team=False)
    return await assembly.find(lambda receipt: check_owner(receipt, account))


@dataclass(frozen=True, slots=True)
class _Making:
    """The segments of one run, made one after the other.

    Attributes:
        assembly: Their keys and inputs.
        options: Options of each submission.
        timeout: Longest wait for a segment, in seconds.
    """

    assembly: Assembly
    options: StartOptions
    timeout: float | None

    async def segments(self) -> list[Video]:
        """Make all segments; those that are stored already cost nothing."""
        videos: list[Video] = []
        async with explained(self.assembly.store):
            finished = await self.assembly.finished_segments()
        key, planned = self.assembly.key, self.assembly.plan.segments
        async with Limits(budget=XaiVideoSettings.current().budget) as limits:
            for segment in planned:
                try:
                    if finished:
                        videos.append(await self._save(finished[len(videos)], segment))
                    else:
                        videos.append(await self._segment(segment, videos[-1] if videos else None, limits))
                except XaiVideoError:
                    get_run_logger().warning(
                        "Segment %s of %d of the video %s has failed. Run again with the key %s: segments that are "
                        "paid for are not paid for again.",
                        segment.name,
                        len(planned),
                        key,
                        key,
                    )
                    raise
        return videos

    async def _segment(self, segment: Segment, before: Video | None, limits: Limits) -> Video:
        store, credentials = self.assembly.store, self.options["credentials"]
        async with explained(store):
            source = None if before is None else await self.assembly.source_after(before, segment)
        request, key = self.assembly.plan.request(segment, source), self.assembly.segment_key(segment)
        receipt = await astart_video(request, permit=limits, **cast("StartOptions", {**self.options, "key": key}))
        receipt = await await_for_video(receipt, timeout_seconds=self.timeout, storage=store, credentials=credentials)
        return await self._save(receipt, segment)

    async def _save(self, receipt: Receipt, segment: Segment) -> Video:
        store, credentials = self.assembly.store, self.options["credentials"]
        is_last = segment is self.assembly.plan.segments[-1]
        stills = self.assembly.plan.continuation == "last frame" and not is_last
        return await asave_video(receipt, stills=stills, storage=store, credentials=credentials)
