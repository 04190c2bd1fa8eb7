"""Prefect tasks that wrap the engine: start, get, wait, save, each with built-in retries.

`start_video` and `get_video` are the two calls of xAI's own guide. A task may be repeated at any time by any run,
since it reads the receipt first. So the retries can't pay twice, and Prefect's cache is neither needed nor used.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from typing_extensions import Unpack

from prefect_xai_video.api.options import VideoOptions, build_request, check_options
from prefect_xai_video.api.pace import Pace
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.api.validation import Validation, check_limits
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.handover import delivery_of
from prefect_xai_video.engine.inputs import resolve_inputs
from prefect_xai_video.engine.options import DeliveryOptions, TriggerOptions
from prefect_xai_video.engine.posting import Permit
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stills import check_stills
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.engine.videos import Video
from prefect_xai_video.errors import XaiVideoError, not_allowed
from prefect_xai_video.orchestration import assets
from prefect_xai_video.orchestration.deployed import readable_places
from prefect_xai_video.orchestration.derived_keys import derive_key, outermost_run_id
from prefect_xai_video.orchestration.direct_task import xai_task
from prefect_xai_video.orchestration.events import emit_change
from prefect_xai_video.orchestration.labels import label_run
from prefect_xai_video.orchestration.limits import Limits
from prefect_xai_video.orchestration.run_logs import log_accepted, log_change, log_without_tracebacks
from prefect_xai_video.orchestration.storage import Storage, open_store
from prefect_xai_video.orchestration.watching import report
from prefect_xai_video.settings import XaiVideoSettings, check_timeout
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.ui.artifacts import ProgressArtifact, publish_failure, publish_video

P = ParamSpec("P")
R = TypeVar("R")

# On import, so that it applies in every process that runs a flow or task of this package.
log_without_tracebacks()


def _explained(function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Publish the errors of a task as artifacts."""

    @wraps(function)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        async with explained(cast("Storage | VideoStore | None", kwargs.get("storage"))):
            return await function(*args, **kwargs)

    return wrapped


@asynccontextmanager
async def explained(storage: Storage | VideoStore | None) -> AsyncIterator[None]:
    """Publish an error that ends the block as an artifact, unless the task will be retried.

    Args:
        storage: Storage of the receipt.
    """
    try:
        yield
    except XaiVideoError as error:
        if _is_retried(error):
            report(error)
        else:
            await publish_failure(error, _open_or_none(storage))
        raise


def _open_or_none(storage: Storage | VideoStore | None) -> VideoStore | None:
    try:
        return open_store(storage, XaiVideoSettings.current().home)
    except XaiVideoError:
        return None


def _is_retried(error: XaiVideoError) -> bool:
    context = TaskRunContext.get()
    return error.transient and context is not None and context.task_run.run_count <= context.task.retries


class StartOptions(TriggerOptions, DeliveryOptions, total=False):
    """All options of `start_video`.

    Attributes:
        storage: `S3Bucket` or `LocalFileSystem` block. Default: the directory of the setting `HOME`.
        credentials: `XaiCredentials` block. Default: `XAI_API_KEY` and `XAI_BASE_URL` of the environment.
    """

    storage: Storage | VideoStore | None
    credentials: XaiCredentials | None


@xai_task("start_video")
@_explained
async def astart_video(
    prompt: str | VideoRequest, *, permit: Permit | None = None, **options: Unpack[StartOptions]
) -> Receipt:
    """Start a video and pay for it, unless its key was started before.

    Args:
        prompt: Description of the video, at most 4096 characters; may be empty with given frames. Or a complete
            request.
        permit: Permission to submit, from the calling flow. Default: Prefect's global limits, without the one for
            videos in flight.
        **options: See `VideoOptions`, `TriggerOptions`, `DeliveryOptions` and `StartOptions`.

    Returns:
        The receipt, with the request id. With direct delivery or recovery, its outcome may be unknown and the request
        id missing.

    Raises:
        MissingCredentials: If there is no API key.
        InvalidRequest: If a value is not allowed. The message names the field, the value and what is allowed. Nothing
            was sent.
        KeyConflict: If the key belongs to another request. Nothing was sent.
        SubmissionUnknown: If it is unknown whether xAI accepted the submission.
        GenerationError: If the last attempt of the key produced no video.
        ApiError: If xAI rejected the submission or could not be reached.
        StorageError: If the store can't be read or written.
    """
    check_options(options, StartOptions)
    credentials, storage = checked_credentials(options.pop("credentials", None)), options.pop("storage", None)
    request = request_of(prompt, options)
    async with open_generation(credentials, storage, permit=permit) as generation:
        return await start_under_key(generation, request, options)


def request_of(prompt: str | VideoRequest, options: StartOptions) -> VideoRequest:
    """Build the request from the options of `start_video`."""
    video = {name: value for name, value in options.items() if name in VideoOptions.__annotations__}
    return build_request(prompt, **cast("VideoOptions", video))


async def start_under_key(generation: Generation, request: VideoRequest, options: StartOptions) -> Receipt:
    """Start a video under its key, or a derived one; arguments and errors as for `start_video`."""
    begun = datetime.now(UTC)
    request = await checked_request(request, generation.store, XaiVideoSettings.current().validation)
    key = options.get("key")
    key = await derive_key(request, generation.store) if key is None else key
    receipt = None
    try:
        receipt = await generation.start(
            request,
            key,
            flow_run_id=outermost_run_id(),
            regenerate=options.get("regenerate", False),
            on_unknown=options.get("on_unknown", "raise"),
            **delivery_of(options),
        )
    finally:
        label_run(key, generation.store.receipt_uri(key), receipt)
    if receipt.attempt.started_at < begun:
        get_run_logger().info("Key %s is already %s: nothing is sent", key, receipt.state)
    return receipt


async def checked_request(request: VideoRequest, store: VideoStore, validation: Validation) -> VideoRequest:
    """Check a request and resolve its inputs.

    Args:
        request: The request.
        store: The store of its video, whose directory inputs may come from.
        validation: Whether values that the table of models does not list are refused.

    Raises:
        InvalidRequest: If it exceeds a limit, or an input can't be used.
    """
    warnings = check_limits(request, validation)
    if request.inputs:
        for given in request.inputs:
            assets.uses(given.value)
        request = await resolve_inputs(request, store.s3_credentials, await readable_places([store.input_root]))
        # Now the lengths of local clips are known, too.
        warnings = check_limits(request, validation)
    for warning in warnings:
        get_run_logger().warning(warning)
    return request


@xai_task("get_video")
@_explained
async def aget_video(request_id: str, *, credentials: XaiCredentials | None = None) -> VideoStatus:
    """Get the status of a request once. It costs nothing.

    The URL in the status is signed: everyone who has it can see the video. The result of this task is never
    persisted; do not return it from a flow or task of your own that persists its results.

    Args:
        request_id: xAI's request id.
        credentials: `XaiCredentials` block. Default: `XAI_API_KEY` and `XAI_BASE_URL` of the environment.

    Returns:
        The status, with the temporary URL once the video is done.

    Raises:
        MissingCredentials: If there is no API key.
        ApiError: If xAI rejected the call or could not be reached.
    """
    async with checked_credentials(credentials).get_client() as client:
        return await client.get(request_id)


@xai_task("adopt_video")
@_explained
async def aadopt_video(
    request_id: str,
    key: str,
    *,
    storage: Storage | VideoStore | None = None,
    credentials: XaiCredentials | None = None,
) -> Receipt:
    """Adopt a request id from any source, such as a log, the xAI console or another tool, into a key.

    It costs nothing. `wait_for_video` and `save_video` continue from there.

    Args:
        request_id: xAI's request id.
        key: Name for the video in the store, or the key of a submission with an unknown outcome.
        storage: Storage for the video and its receipt; as for `start_video`.
        credentials: As for `start_video`, but of the team that sent the request.

    Returns:
        The receipt.

    Raises:
        KeyConflict: If the key belongs to another request.
        ApiError: If xAI does not know the request id or could not be reached. Nothing was written.
        StorageError: If the store can't be read or written.
    """
    async with open_generation(credentials, storage) as generation:
        receipt = await generation.adopt(request_id, key, flow_run_id=outermost_run_id())
        label_run(key, generation.store.receipt_uri(key), receipt)
        return receipt


@xai_task("wait_for_video")
@_explained
async def await_for_video(
    receipt: Receipt | str,
    *,
    timeout_seconds: float | None = None,
    storage: Storage | VideoStore | None = None,
    credentials: XaiCredentials | None = None,
) -> Receipt:
    """Wait until a started video is done.

    Cancelling only stops the waiting, since xAI has no cancel. The same key continues waiting later.

    Args:
        receipt: The receipt from `start_video`, or the key.
        timeout_seconds: Longest time to wait, in seconds. Default: the setting `TIMEOUT_SECONDS`.
        storage: Storage of the receipt; as for `start_video`.
        credentials: As for `start_video`.

    Returns:
        The receipt, with the actual cost.

    Raises:
        VideoTimeout: If it was not done in time.
        GenerationError: If there will be no video.
        ApiError: If xAI rejected a poll or could not be reached.
        StorageError: If the receipt can't be read or written.
    """
    key = _key_of(receipt)
    timeout = check_timeout(timeout_seconds)
    try:
        async with open_generation(credentials, storage, ProgressArtifact(f"Rendering {key}")) as generation:
            return await generation.wait(key, timeout=timeout)
    except asyncio.CancelledError:
        get_run_logger().warning(
            "Stopped waiting. A submitted request can't be cancelled: the video will be rendered and billed. Run "
            "again with the key %s to pick it up without paying again.",
            key,
        )
        raise


@xai_task("save_video")
@_explained
async def asave_video(
    receipt: Receipt | str,
    *,
    stills: bool = False,
    storage: Storage | VideoStore | None = None,
    credentials: XaiCredentials | None = None,
) -> Video:
    """Store a finished video and record that in its receipt.

    Args:
        receipt: The receipt from `wait_for_video`, or the key.
        stills: Whether to store its first and last frame beside it, too; needs PyAV.
        storage: Storage for the video; as for `start_video`.
        credentials: As for `start_video`.

    Returns:
        The stored video.

    Raises:
        InvalidRequest: If stills are wanted and PyAV is not installed.
        DownloadError: If it could not be downloaded completely.
        StorageError: If it could not be stored.
        GenerationError: If xAI no longer has it.
    """
    check_stills(stills)
    async with open_generation(credentials, storage) as generation:
        stored = await generation.save_receipt(_key_of(receipt), stills=stills)
    video = stored.video(generation.store.receipt_uri(stored.key))
    assets.makes(video)
    await publish_video(video, stored, generation.store)
    return video


start_video = xai_task("start_video")(synchronous(astart_video.fn))
adopt_video = xai_task("adopt_video")(synchronous(aadopt_video.fn))
get_video = xai_task("get_video")(synchronous(aget_video.fn))
wait_for_video = xai_task("wait_for_video")(synchronous(await_for_video.fn))
save_video = xai_task("save_video")(synchronous(asave_video.fn))


def checked_credentials(credentials: XaiCredentials | None) -> XaiCredentials:
    """Return given credentials, or those of the environment.

    Raises:
        InvalidRequest: If they are anything else.
        MissingCredentials: If there are none.
    """
    if credentials is not None and not isinstance(credentials, XaiCredentials):
        raise not_allowed("credentials", f"a {type(credentials).__name__}", "an XaiCredentials block")
    return credentials or XaiCredentials.from_environment()


@asynccontextmanager
async def open_generation(
    credentials: XaiCredentials | None,
    storage: Storage | VideoStore | None,
    progress: ProgressArtifact | None = None,
    permit: Permit | None = None,
    pace: Pace | None = None,
) -> AsyncIterator[Generation]:
    """Open the engine for a task; it reports through the log, events and artifacts of the run."""
    settings = XaiVideoSettings.current()
    store = open_store(storage, settings.home)

    def publish(receipt: Receipt) -> None:
        emit_change(receipt, store.receipt_uri(receipt.key))
        log_change(receipt)
        report(receipt)

    async def show(status: VideoStatus) -> None:
        report(status)
        if progress is not None:
            await progress.show(status)

    async with checked_credentials(credentials).get_client(pace) as client:
        yield Generation(
            client,
            store,
            settings.schedule,
            on_change=publish,
            on_status=show,
            on_accepted=log_accepted,
            permit=permit or Limits(budget=settings.budget),
        )


def _key_of(receipt: Receipt | str) -> str:
    return receipt.key if isinstance(receipt, Receipt) else receipt
