"""Many videos in one flow run: one task run a row, one engine, one connection pool, one budget."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, ParamSpec, TypeVar, cast

from prefect.runtime import flow_run as runtime

from prefect_xai_video.api.threads import own_threads
from prefect_xai_video.batch.lanes import LANE_SECONDS
from prefect_xai_video.batch.manifest import Source
from prefect_xai_video.batch.options import BatchOptions
from prefect_xai_video.batch.report import BatchReport
from prefect_xai_video.batch.shards import Shard, open_rows, plan_of
from prefect_xai_video.batches.rows import amake_video, make_video
from prefect_xai_video.batches.runs import BatchOfRun, Wait
from prefect_xai_video.errors import BatchFailed
from prefect_xai_video.flows import FLOW_OPTIONS, THREADS, load_blocks
from prefect_xai_video.money import dollars
from prefect_xai_video.orchestration.batch_flow import BatchFlow, GivenRows
from prefect_xai_video.orchestration.deployed import readable_places
from prefect_xai_video.orchestration.final_states import completed_with
from prefect_xai_video.orchestration.rescues import check_rescue
from prefect_xai_video.orchestration.run_names import name_run
from prefect_xai_video.orchestration.shard_ends import cancel_shards, say_how_to_continue
from prefect_xai_video.settings import XaiVideoSettings, check_timeout
from prefect_xai_video.synchronous import synchronous
from prefect_xai_video.tasks import explained
from prefect_xai_video.ui.forms import (
    AllowFailures,
    BudgetUsd,
    CancelAtXai,
    CredentialsBlock,
    DeliveryWay,
    DryRun,
    InFlight,
    KeepAtXai,
    KeptColumns,
    KeyTemplate,
    LaneWay,
    ManifestPath,
    PublicUrl,
    RecoveryWay,
    Regenerate,
    ShardDeployment,
    ShardOfRun,
    ShardRows,
    Stills,
    StorageBlock,
    TimeoutSeconds,
    UnknownOutcome,
)

__all__ = ["agenerate_videos", "amake_video", "asubmit_videos", "generate_videos", "make_video", "submit_videos"]

P = ParamSpec("P")
R = TypeVar("R")

AT_A_TIME = 16
"""Submissions of `submit_videos` at the same time: each is a connection of its own."""


def _run_name() -> str:
    manifest = runtime.parameters.get("manifest")
    return name_run("videos of", "a list" if isinstance(manifest, GivenRows) else str(manifest).rpartition("/")[2])


def _batch_flow(name: str) -> Callable[[Callable[P, R]], BatchFlow[P, R]]:
    options = FLOW_OPTIONS | {"on_cancellation": [cancel_shards], "on_crashed": [say_how_to_continue]}
    return lambda function: BatchFlow(function, name=name, flow_run_name=_run_name, **options)


@_batch_flow("generate-videos")
async def agenerate_videos(
    manifest: ManifestPath,
    key: KeyTemplate = None,
    keep: KeptColumns = None,
    in_flight: InFlight = 10,
    budget_usd: BudgetUsd = None,
    allow_failures: AllowFailures = False,
    dry_run: DryRun = False,
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
    delivery: DeliveryWay = "download",
    recovery: RecoveryWay = "none",
    keep_at_xai: KeepAtXai = False,
    public_url: PublicUrl = False,
    stills: Stills = False,
    timeout_seconds: TimeoutSeconds = None,
    regenerate: Regenerate = False,
    on_unknown: UnknownOutcome = "raise",
    lane: LaneWay = "realtime",
    cancel_at_xai: CancelAtXai = False,
    shard_rows: ShardRows = None,
    shard_deployment: ShardDeployment = None,
    shard: ShardOfRun = None,
) -> BatchReport:
    """Make the videos of a manifest within a budget, and store a report beside them.

    A row whose video is stored costs nothing, so a batch can be run again at any time. A row that fails never stops
    the others.

    Args:
        manifest: CSV, JSONL or Parquet file, local or s3://. Its columns are options of a video (prompt, image_url,
            recovery, ...; lists as JSON), which replace those below, and key.
        key: Template for the keys, such as products/{sku}-{digest}: names of columns, {digest} of the request, {slug}
            of the prompt. Default: the column key, or else {manifest}/{slug}-{digest}.
        keep: Columns of your own, such as sku and title: xAI never gets them, and the rows of the report carry them.
            Any other column that is not an option is refused.
        in_flight: Most videos that are rendered at the same time in the realtime lane, up to 10,000.
        budget_usd: Most that this run may pay, in USD. Default: no limit.
        allow_failures: Whether the run counts as completed if some rows have no video. The report lists them.
        dry_run: Check the manifest and estimate the cost. Nothing is sent.
        storage: Bucket or directory for the videos, their receipts and the report. Default: a directory where the
            flow runs, namely xai-video in Prefect's home unless configured otherwise.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
        delivery: With "download", the flow downloads the videos and stores them. With "direct", xAI uploads them to
            the bucket.
        recovery: With "files", xAI also keeps each video in its Files API until it is stored. A video whose reply was
            lost is found there, without paying again. Not with direct delivery.
        keep_at_xai: Keep each video as a file in xAI's Files API, for ever or for so many seconds. Not with direct
            delivery.
        public_url: Give these files URLs that need no API key: everyone who has one can see the video.
        stills: Store the first and the last frame beside each video, too. Needs PyAV where the flow runs.
        timeout_seconds: Longest time to wait for one video; a later run continues waiting. Default: 1200 unless
            configured otherwise; in the batch lane 90000, for all videos.
        regenerate: Pay for new attempts of rows whose last attempt failed, was moderated or expired.
        on_unknown: Applies to rows of which it is unknown whether xAI accepted an earlier submission. With
            "resubmit", they are submitted again, which may pay twice. With "raise", they fail.
        lane: With "batch", rows go through xAI's Batch API: outside its rate limits, but within 24 hours. With
            "auto", the number of rows decides, and the log says why.
        cancel_at_xai: In the batch lane, a run that is cancelled also cancels at xAI what is not rendered yet.
        shard_rows: Split the manifest into shards of at most this many rows, each a run of its own, on as many
            machines as there are workers. Default: all rows in this run.
        shard_deployment: Deployment of this flow that runs the shards, as FLOW/NAME. Default: the deployment of this
            run.
        shard: Set by a run that has split its manifest; leave it empty.

    Returns:
        The report, which is also stored beside the videos.

    Raises:
        InvalidManifest: If anything in the manifest is not valid. Nothing was sent.
        BatchFailed: If a row has no video and `allow_failures` is False; it carries the report.
        XaiVideoError: See `prefect_xai_video.errors`.
    """
    if ended := await check_rescue():
        return cast("BatchReport", ended)
    chosen = BatchOptions(
        key=key,
        keep=keep,
        in_flight=in_flight,
        budget_usd=budget_usd,
        allow_failures=allow_failures,
        dry_run=dry_run,
        delivery=delivery,
        recovery=recovery,
        keep_at_xai=keep_at_xai,
        public_url=public_url,
        stills=stills,
        regenerate=regenerate,
        on_unknown=on_unknown,
        lane=lane,
        cancel_at_xai=cancel_at_xai,
        shard_rows=shard_rows,
        shard_deployment=shard_deployment,
    )
    of_shard, timeout = Shard.of(shard), check_timeout(timeout_seconds)
    async with _batch(manifest, chosen, credentials, storage, of_shard) as batch:
        if dry_run:
            made = await batch.look()
        elif shard_rows is not None and of_shard is None:
            made = await batch.make_in_shards(credentials, storage, timeout_seconds)
        else:
            made = await batch.make(Wait(timeout, LANE_SECONDS if timeout_seconds is None else timeout))
    if dry_run:
        cost = f"the others would cost about {dollars(made.due_usd)}" if made.not_started else "nothing is left to do"
        return completed_with(f"{made.stored} of {made.count} videos are stored; {cost}. Nothing was sent.", made)
    return _ended(made, made.is_complete or allow_failures)


@_batch_flow("submit-videos")
async def asubmit_videos(
    manifest: ManifestPath,
    key: KeyTemplate = None,
    keep: KeptColumns = None,
    budget_usd: BudgetUsd = None,
    allow_failures: AllowFailures = False,
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
    delivery: DeliveryWay = "download",
    recovery: RecoveryWay = "none",
    keep_at_xai: KeepAtXai = False,
    public_url: PublicUrl = False,
    regenerate: Regenerate = False,
    on_unknown: UnknownOutcome = "raise",
    lane: LaneWay = "realtime",
) -> BatchReport:
    """Submit the rows of a manifest and end, without waiting for the videos. `collect_videos` stores them later.

    Args:
        manifest: CSV, JSONL or Parquet file, local or s3://. Its columns are options of a video (prompt, image_url,
            recovery, ...; lists as JSON), which replace those below, and key.
        key: Template for the keys, such as products/{sku}-{digest}: names of columns, {digest} of the request, {slug}
            of the prompt. Default: the column key, or else {manifest}/{slug}-{digest}.
        keep: Columns of your own, such as sku and title: xAI never gets them, and the rows of the report carry them.
            Any other column that is not an option is refused.
        budget_usd: Most that this run may pay, in USD. Default: no limit.
        allow_failures: Whether the run counts as completed if some rows could not be submitted.
        storage: Bucket or directory for the videos, their receipts and the report. Default: a directory where the
            flow runs, namely xai-video in Prefect's home unless configured otherwise.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
        delivery: With "download", the collector downloads the videos. With "direct", xAI uploads them to the bucket.
        recovery: With "files", xAI also keeps each video in its Files API until it is stored. A video whose reply was
            lost is found there, without paying again. Not with direct delivery.
        keep_at_xai: Keep each video as a file in xAI's Files API, for ever or for so many seconds. Not with direct
            delivery.
        public_url: Give these files URLs that need no API key: everyone who has one can see the video.
        regenerate: Pay for new attempts of rows whose last attempt failed, was moderated or expired.
        on_unknown: Applies to rows of which it is unknown whether xAI accepted an earlier submission. With
            "resubmit", they are submitted again, which may pay twice. With "raise", they fail.
        lane: With "batch", rows go through xAI's Batch API: outside its rate limits, but within 24 hours. With
            "auto", the number of rows decides, and the log says why.

    Returns:
        The report, which is also stored. Rows that were submitted are `open`.

    Raises:
        InvalidManifest: If anything in the manifest is not valid. Nothing was sent.
        BatchFailed: If a row could not be submitted and `allow_failures` is False; it carries the report.
        XaiVideoError: See `prefect_xai_video.errors`.
    """
    if ended := await check_rescue():
        return cast("BatchReport", ended)
    chosen = BatchOptions(
        key=key,
        keep=keep,
        in_flight=AT_A_TIME,
        budget_usd=budget_usd,
        allow_failures=allow_failures,
        delivery=delivery,
        recovery=recovery,
        keep_at_xai=keep_at_xai,
        public_url=public_url,
        stills=None,
        regenerate=regenerate,
        on_unknown=on_unknown,
        lane=lane,
    )
    async with _batch(manifest, chosen, credentials, storage) as batch:
        made = await batch.make(None)
    return _ended(made, made.stored + made.open == made.count or allow_failures)


generate_videos = _batch_flow("generate-videos")(synchronous(agenerate_videos.fn))
submit_videos = _batch_flow("submit-videos")(synchronous(asubmit_videos.fn))


@asynccontextmanager
async def _batch(
    manifest: Any, chosen: BatchOptions, credentials: object, storage: object, shard: Shard | None = None
) -> "AsyncIterator[BatchOfRun]":
    """Load the blocks and plan a batch, whose manifest stays open during the block."""
    loaded, store = await load_blocks(credentials, storage)
    source = manifest.rows if isinstance(manifest, GivenRows) else cast("Source", manifest)
    readable = await readable_places([store.input_root])
    validation = XaiVideoSettings.current().validation
    with own_threads(THREADS), ExitStack() as stack:
        async with explained(store):
            as_file = chosen.shard_rows is not None and shard is None
            opened = stack.enter_context(open_rows(source, store.s3_credentials, readable, as_file=as_file))
            plan = await asyncio.to_thread(
                plan_of,
                opened,
                chosen.key,
                shard,
                keep=chosen.kept_columns,
                saving=chosen.for_each,
                lane=chosen.lane,
                validation=validation,
                readable=readable,
            )
            batch = BatchOfRun(plan, store, loaded, chosen, shard)
        yield batch


def _ended(made: BatchReport, is_success: bool) -> BatchReport:
    if not is_success:
        place = f"is {made.uri}" if made.uri else "could not be stored"
        raise BatchFailed(f"{made}. The report {place}.", made)
    return completed_with(str(made), made)
