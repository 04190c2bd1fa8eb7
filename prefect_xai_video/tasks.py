"""Prefect tasks round the engine: start, get, wait, save, each with built-in retries.

`start_video` and `get_video` are the two calls of xAI's own guide. A task can be repeated at any time by anybody: it
reads the receipt first. So the retries here can't pay twice, and Prefect's cache is not needed, nor used.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.runtime import task_run as runtime
from prefect.tasks import Task

from prefect_xai_video import assets
from prefect_xai_video.artifacts import ProgressArtifact, publish_failure, publish_video
from prefect_xai_video.capabilities import DEFAULT_MODEL, dollars
from prefect_xai_video.client import XaiVideoClient
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.deployed import readable_places
from prefect_xai_video.direct_task import DirectTask
from prefect_xai_video.errors import InvalidRequest, XaiVideoError
from prefect_xai_video.events import emit_change
from prefect_xai_video.failures import log_without_tracebacks
from prefect_xai_video.generation import Generation
from prefect_xai_video.hooks import label_run
from prefect_xai_video.inputs import resolve_inputs
from prefect_xai_video.keys import KEY_DIGITS, derive_key, outermost_run_id
from prefect_xai_video.limits import Permit
from prefect_xai_video.receipts import Receipt, Video
from prefect_xai_video.requests import VideoRequest, build_request, check_limits
from prefect_xai_video.responses import VideoStatus
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.stores import Storage, VideoStore, open_store
from prefect_xai_video.submission import Delivery, OnUnknown
from prefect_xai_video.synchronous import synchronous

P = ParamSpec("P")
R = TypeVar("R")

# On import, and so in every process that runs a flow or a task of this package.
log_without_tracebacks()

RETRIES = 3
RETRY_DELAY_SECONDS = [10.0, 30.0, 60.0]
"""Above the client's own repetitions, for outages that last minutes."""


def is_transient(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Prefect's retry condition: only what may succeed later by itself is tried again."""
    return isinstance(state.data, XaiVideoError) and state.data.transient


def _run_name() -> str:
    """Name a task run after what it does and the last part of its key; never after a prompt."""
    parameters = runtime.parameters
    subject = parameters.get("receipt") or parameters.get("key") or parameters.get("request_id") or "video"
    name = subject.key if isinstance(subject, Receipt) else str(subject)
    return f"{runtime.task_name.partition('_')[0]} {name.rpartition('/')[2]}"[:100]


def _explained(function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Have a task that fails for good say in an artifact why, what that cost, and what to do."""

    @wraps(function)
    async def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except XaiVideoError as error:
            if not _is_tried_again(error):
                await publish_failure(error, cast("Storage | None", kwargs.get("storage")))
            raise

    return explained


def _is_tried_again(error: XaiVideoError) -> bool:
    context = TaskRunContext.get()
    return error.transient and context is not None and context.task_run.run_count <= context.task.retries


_OPTIONS: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": RETRY_DELAY_SECONDS,
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
    # `get_video` returns a signed URL, which must not be stored. For the others, receipts remember.
    "persist_result": False,
    "task_run_name": _run_name,
}


def _task(name: str) -> Callable[[Callable[P, R]], DirectTask[P, R]]:
    return lambda function: DirectTask(function, name=name, **_OPTIONS)


@_task("start_video")
@_explained
async def astart_video(
    prompt: str,
    *,
    image_url: str | None = None,
    video_url: str | None = None,
    duration: int | None = None,
    aspect_ratio: str | None = None,
    resolution: str | None = None,
    model: str = DEFAULT_MODEL,
    user: str | None = None,
    key: str | None = None,
    storage: Storage | None = None,
    credentials: XaiCredentials | None = None,
    regenerate: bool = False,
    on_unknown: OnUnknown = "raise",
    delivery: Delivery = "download",
) -> Receipt:
    """Start a video, and pay for it, unless its key has been started already.

    Args:
        prompt: What should be seen, at most 4096 characters. May be empty with `image_url`.
        image_url: First frame of a new clip: an https, `data:` or `s3://` URL, or a local file (PNG, JPEG, WebP).
        video_url: Clip to edit, named in the same ways (MP4, at most 8.7 seconds).
        duration: Seconds, 1-15. xAI's default is 8. Not with `video_url`.
        aspect_ratio: One of 16:9, 4:3, 1:1, 9:16, 3:4, 3:2, 2:3. xAI's default is 16:9. Not with `video_url`.
        resolution: 480p or 720p, and 1080p where the model has it. xAI's default is 480p. Not with `video_url`.
        model: xAI model id. Default `grok-imagine-video`.
        user: Tag of the end user on whose behalf the video is made.
        key: The video's name in the store, without extension. Without one it is derived from the run.
        storage: `S3Bucket` or `LocalFileSystem` block. Default: the directory of the setting `HOME`.
        credentials: `XaiCredentials` block. Default: `XAI_API_KEY` and `XAI_BASE_URL` of the environment.
        regenerate: Pay for a new attempt where the last one failed, was moderated or expired.
        on_unknown: `resubmit` sends again a submission of which nobody knows whether it was accepted.
        delivery: `direct` has xAI put the video into the bucket by itself; then a submission of unknown outcome is
            recognised by its video.

    Returns:
        The receipt, with the request id. With direct delivery it may be of unknown outcome, and without id.

    Raises:
        MissingCredentials: If there is no API key.
        InvalidRequest: If a value is not allowed; it names the field, the value and what is. Nothing was sent.
        KeyConflict: If the key belongs to another request. Nothing was sent.
        SubmissionUnknown: If the submission may have been accepted.
        GenerationError: If the key's last attempt brought no video.
        ApiError: If xAI refused.
        StorageError: If the store can't be used.
    """
    credentials = credentials or XaiCredentials.from_environment()
    settings = XaiVideoSettings.current()
    request = build_request(
        prompt,
        model=model,
        image_url=image_url,
        video_url=video_url,
        duration=duration,
        aspect_ratio=aspect_ratio,
        resolution=resolution,
        user=user,
    )
    for warning in check_limits(request, settings.validation):
        get_run_logger().warning(warning)
    assets.uses(image_url)
    assets.uses(video_url)
    begun = datetime.now(UTC)
    receipt = None
    async with _generation(credentials, storage) as generation:
        if request.inputs:
            readable = await readable_places([generation.store.input_root])
            request = await resolve_inputs(request, generation.store.s3_credentials, readable)
        key = await _derived_key(request, generation.store) if key is None else key
        try:
            receipt = await generation.start(
                request,
                key,
                flow_run_id=outermost_run_id(),
                regenerate=regenerate,
                on_unknown=on_unknown,
                delivery=delivery,
            )
        finally:
            await label_run(key, generation.store.receipt_uri(key), receipt)
    if receipt.attempt.started_at < begun:
        get_run_logger().info("Key %s is %s already: nothing is sent", key, receipt.state)
    return receipt


@_task("get_video")
@_explained
async def aget_video(request_id: str, *, credentials: XaiCredentials | None = None) -> VideoStatus:
    """Ask once what has become of a request. It costs nothing.

    The URL in the status is signed: whoever has it sees the video. The result of this task is never persisted; don't
    return it from a flow or task of yours that persists its results.

    Args:
        request_id: xAI's request id.
        credentials: `XaiCredentials` block. Default: `XAI_API_KEY` and `XAI_BASE_URL` of the environment.

    Returns:
        The status, with the temporary URL once the video is done.

    Raises:
        MissingCredentials: If there is no API key.
        ApiError: If there is no answer to be had.
    """
    async with _client(credentials) as client:
        return await client.get(request_id)


@_task("adopt_video")
@_explained
async def aadopt_video(
    request_id: str,
    key: str,
    *,
    storage: Storage | None = None,
    credentials: XaiCredentials | None = None,
) -> Receipt:
    """Take a request id, wherever it comes from, as that of a key: of a log, the xAI console, another tool.

    It costs nothing. `wait_for_video` and `save_video` go on from there.

    Args:
        request_id: xAI's request id.
        key: The name that its video is to have in the store, or that of a submission of unknown outcome.
        storage: Where the video and its receipt go; as for `start_video`.
        credentials: As for `start_video`; of the team that sent the request.

    Returns:
        The receipt.

    Raises:
        KeyConflict: If the key has another request.
        ApiError: If xAI can't be asked, or does not know the request id. Nothing was written.
        StorageError: If the store can't be used.
    """
    async with _generation(credentials, storage) as generation:
        receipt = await generation.adopt(request_id, key, flow_run_id=outermost_run_id())
        await label_run(key, generation.store.receipt_uri(key), receipt)
        return receipt


@_task("wait_for_video")
@_explained
async def await_for_video(
    receipt: Receipt | str,
    *,
    timeout_seconds: float | None = None,
    storage: Storage | None = None,
    credentials: XaiCredentials | None = None,
) -> Receipt:
    """Wait until a started video is done.

    Cancelling stops the waiting only: xAI has no cancel. The same key goes on waiting later.

    Args:
        receipt: What `start_video` returned, or just the key.
        timeout_seconds: Seconds to wait at most. Default: the setting `TIMEOUT_SECONDS`.
        storage: Where the receipt is; as for `start_video`.
        credentials: As for `start_video`.

    Returns:
        The receipt, with the actual cost.

    Raises:
        VideoTimeout: If it was not done in time.
        GenerationError: If there will be no video.
        ApiError: If xAI can't be asked.
        StorageError: If the receipt can't be read or written.
    """
    key = _key_of(receipt)
    timeout = check_timeout(timeout_seconds)
    try:
        async with _generation(credentials, storage, ProgressArtifact(f"Rendering {key}")) as generation:
            return await generation.wait(key, timeout=timeout)
    except asyncio.CancelledError:
        get_run_logger().warning(
            "Stopped waiting. xAI has no cancel: the video is rendered and billed all the same. Run again with the "
            "key %s to pick it up without paying again.",
            key,
        )
        raise


@_task("save_video")
@_explained
async def asave_video(
    receipt: Receipt | str,
    *,
    storage: Storage | None = None,
    credentials: XaiCredentials | None = None,
) -> Video:
    """Store a video that is done.

    Args:
        receipt: What `wait_for_video` returned, or just the key.
        storage: Where the video goes; as for `start_video`.
        credentials: As for `start_video`.

    Returns:
        The stored video.

    Raises:
        DownloadError: If it could not be fetched whole.
        StorageError: If it could not be stored.
        GenerationError: If xAI no longer has it.
    """
    async with _generation(credentials, storage) as generation:
        video = await generation.save(_key_of(receipt))
    assets.makes(video)
    await publish_video(video, storage)
    return video


def check_timeout(timeout_seconds: float | None) -> float:
    """Check how long to wait, in seconds; the setting `TIMEOUT_SECONDS` where nothing is given.

    Raises:
        InvalidRequest: If it is no time to wait.
    """
    if timeout_seconds is None:
        return XaiVideoSettings.current().timeout_seconds
    number = isinstance(timeout_seconds, int | float) and not isinstance(timeout_seconds, bool)
    if number and 0 < timeout_seconds < math.inf:
        return timeout_seconds
    raise InvalidRequest(f"timeout_seconds: {timeout_seconds!r} is not allowed; allowed: seconds above 0.")


start_video = _task("start_video")(synchronous(astart_video.fn))
adopt_video = _task("adopt_video")(synchronous(aadopt_video.fn))
get_video = _task("get_video")(synchronous(aget_video.fn))
wait_for_video = _task("wait_for_video")(synchronous(await_for_video.fn))
save_video = _task("save_video")(synchronous(asave_video.fn))


async def _derived_key(request: VideoRequest, store: VideoStore) -> str:
    """The key of a request for which none was given; the one of an earlier version, if a run began with that."""
    key, earlier = await derive_key(request), request.earlier_fingerprint
    if earlier is not None:
        earlier_key = key.replace(request.fingerprint[:KEY_DIGITS], earlier[:KEY_DIGITS])
        if await store.read(earlier_key) is not None:
            return earlier_key
    return key


def _client(credentials: XaiCredentials | None) -> XaiVideoClient:
    if credentials is not None and not isinstance(credentials, XaiCredentials):
        raise InvalidRequest(
            f"credentials: a {type(credentials).__name__} is not allowed; allowed: an XaiCredentials block."
        )
    return (credentials or XaiCredentials.from_environment()).get_client()


@asynccontextmanager
async def _generation(
    credentials: XaiCredentials | None, storage: Storage | None, progress: ProgressArtifact | None = None
) -> AsyncIterator[Generation]:
    """The engine with what a task gives it, speaking through the run's log."""
    settings = XaiVideoSettings.current()
    store = open_store(storage, settings.home)

    def tell(receipt: Receipt) -> None:
        emit_change(receipt, store.receipt_uri(receipt.key))
        _log_change(receipt)

    async with _client(credentials) as client:
        yield Generation(
            client,
            store,
            settings.schedule,
            on_change=tell,
            on_status=progress.show if progress else lambda status: None,
            on_accepted=_log_accepted,
            permit=Permit(budget=settings.budget),
        )


def _log_accepted(key: str, request_id: str, trace_id: str | None) -> None:
    """Log a request id the moment it arrives, as a warning: it is worth money, and may be nowhere else yet."""
    trace = f" (trace id {trace_id})" if trace_id else ""
    get_run_logger().warning("xAI accepted request %s for key %s%s", request_id, key, trace)


def _log_change(receipt: Receipt) -> None:
    """One line a state change, for people: no prompt, no URL of xAI's."""
    logger = get_run_logger()
    match receipt.state:
        case "sending":
            logger.info("Sending %s request to %s for key %s", receipt.mode, receipt.model, receipt.key)
        case "submitted" if receipt.attempt.reason == "adopted":
            logger.info("Adopted request %s for key %s", receipt.request_id, receipt.key)
        case "submitted":
            logger.info(
                "Submitted as request %s%s", receipt.request_id, _priced(receipt.estimated_cost_usd, "about ")
            )
        case "done":
            logger.info("Rendered in %.0f s%s", _seconds_of(receipt), _priced(receipt.cost_usd))
        case "unknown" if receipt.undelivered:
            logger.warning("No answer to the submission of key %s: looking out for its video", receipt.key)
        case "stored":
            logger.info("Stored %s", receipt.file.uri if receipt.file else receipt.key)
        case _:
            reason = f": {receipt.failure.message}" if receipt.failure else ""
            logger.warning("The request of key %s is %s%s", receipt.key, receipt.state, reason)


def _priced(cost: Decimal | None, about: str = "") -> str:
    return "" if cost is None else f", {about}{dollars(cost)}"


def _seconds_of(receipt: Receipt) -> float:
    return (receipt.attempt.outcome_at - receipt.attempt.started_at).total_seconds()


def _key_of(receipt: Receipt | str) -> str:
    return receipt.key if isinstance(receipt, Receipt) else receipt
