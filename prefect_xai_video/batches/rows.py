"""One row of a batch: its task run, on the engine that all rows share."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import cast

from typing_extensions import Unpack

from prefect_xai_video.api.options import check_options
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.batch.due import Found
from prefect_xai_video.batch.plan import PlannedRow
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.handover import delivery_of
from prefect_xai_video.engine.inputs import resolve_inputs
from prefect_xai_video.engine.posting import Permit
from prefect_xai_video.engine.reading import Readable
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stills import check_stills
from prefect_xai_video.engine.stores import LOOKUPS
from prefect_xai_video.engine.videos import Video
from prefect_xai_video.errors import StorageError
from prefect_xai_video.orchestration import assets
from prefect_xai_video.orchestration.direct_task import xai_task
from prefect_xai_video.orchestration.events import emit_change
from prefect_xai_video.orchestration.watching import report
from prefect_xai_video.settings import check_timeout
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.tasks import StartOptions, explained, open_generation, request_of, start_under_key
from prefect_xai_video.ui.artifacts import publish_video


@dataclass(frozen=True, slots=True)
class _RowEngine:
    """The engine of a batch as the task of one row uses it.

    Attributes:
        generation: The engine, with the permit of the row.
        options: The options of its submission.
        stills: Whether its first and last frame are stored, too.
        timeout: Longest wait for the video, in seconds.
        made: The receipt, once the video is stored.
    """

    generation: Generation
    options: StartOptions
    stills: bool
    timeout: float
    made: list[Receipt] = field(default_factory=list)

    async def make(self, request: VideoRequest, key: str) -> Receipt:
        options: StartOptions = self.options | {"key": key}
        stored = await _make(self.generation, request, options, self.timeout, stills=self.stills)
        self.made.append(stored)
        return stored


async def _make(
    generation: Generation, request: VideoRequest, options: StartOptions, timeout: float, *, stills: bool
) -> Receipt:
    started = await start_under_key(generation, request, options)
    try:
        await generation.wait(started.key, timeout=timeout)
    except StorageError:
        if not await _is_refused_in_batch(generation, started.key):
            raise
        await start_under_key(generation, request, options)
        await generation.wait(started.key, timeout=timeout)
    return await generation.save_receipt(started.key, stills=stills)


async def _is_refused_in_batch(generation: Generation, key: str) -> bool:
    """Whether it came out during the wait that a batch of xAI's never got, or has cancelled, an earlier request."""
    held = await generation.store.read(key)
    return held is not None and held.receipt.xai_batch is not None and held.receipt.state == "refused"


_row_engine: ContextVar[_RowEngine | None] = ContextVar("row_engine", default=None)


@xai_task("make_video")
async def amake_video(
    prompt: str | VideoRequest,
    *,
    stills: bool = False,
    timeout_seconds: float | None = None,
    **options: Unpack[StartOptions],
) -> Video:
    """Make one video and store it, in one task run: start, wait and save.

    `generate_videos` runs it for each row. In a flow of your own it takes the place of `start_video`,
    `wait_for_video` and `save_video`, where three task runs a video are too many.

    Args:
        prompt: Description of the video, or a complete request; as for `start_video`.
        stills: Whether to store its first and last frame beside it, too; needs PyAV.
        timeout_seconds: Longest time to wait, in seconds. Default: the setting `TIMEOUT_SECONDS`.
        **options: As for `start_video`.

    Returns:
        The stored video.

    Raises:
        XaiVideoError: As `start_video`, `wait_for_video` and `save_video`.
    """
    check_options(options, StartOptions)
    request = request_of(prompt, options)
    if (shared := _row_engine.get()) is not None:
        receipt = await shared.make(request, options["key"] or "")
        return receipt.video(shared.generation.store.receipt_uri(receipt.key))
    timeout = check_timeout(timeout_seconds)
    check_stills(stills)
    credentials, storage = options.pop("credentials", None), options.pop("storage", None)
    async with explained(storage), open_generation(credentials, storage) as generation:
        receipt = await _make(generation, request, options, timeout, stills=stills)
        video = receipt.video(generation.store.receipt_uri(receipt.key))
        assets.makes(video)
        await publish_video(video, receipt, generation.store)
    return video


make_video = xai_task("make_video")(synchronous(amake_video.fn))


@dataclass(frozen=True, slots=True)
class RowMaker:
    """Makes the videos of rows, each in a task run of its own.

    Attributes:
        shared: The engine of the batch.
        options: The options of the batch that hold for all submissions.
        timeout: Longest wait for a video, in seconds; None to submit the rows only.
    """

    shared: Generation
    options: StartOptions
    timeout: float | None

    async def make(self, row: PlannedRow, permit: Permit, landed: Callable[[], None]) -> Receipt:
        """Make the video of a row; arguments as for `MakeRow`."""

        def changed(receipt: Receipt) -> None:
            emit_change(receipt, self.shared.store.receipt_uri(receipt.key))
            report(receipt)
            if receipt.state == "done":
                landed()

        generation = replace(self.shared, permit=permit, on_change=changed)
        options = cast("StartOptions", {**self.options, **delivery_of(row.saving)})
        if self.timeout is None:
            return await start_under_key(generation, row.request, options | {"key": row.key})
        engine = _RowEngine(generation, options, row.saving.get("stills", False), self.timeout)
        _row_engine.set(engine)
        await amake_video(row.request, key=row.key)
        return engine.made[-1]


async def find(generation: Generation, rows: Sequence[PlannedRow], readable: Readable | None) -> list[Found]:
    """Find what the store has for rows, without any call to xAI.

    Args:
        generation: The engine of the batch.
        rows: The rows.
        readable: The locations from which their inputs may be read; None for any.

    Returns:
        For each row its receipt; None if it has none of its own request and account; the error if its receipt or
        one of its inputs can't be read.
    """
    slots = asyncio.Semaphore(LOOKUPS)

    async def if_own(row: PlannedRow, found: Found) -> Found:
        request = row.request
        try:
            if request.inputs:
                async with slots:
                    request = await resolve_inputs(request, generation.store.s3_credentials, readable)
            is_foreign = isinstance(found, Receipt) and not await generation.is_of(found, request)
        except Exception as error:
            return error
        return None if is_foreign else found

    return await asyncio.gather(*map(if_own, rows, await generation.store.find_all([row.key for row in rows])))
