"""The batch of one run: what it makes, in which lane, and what people see of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial

from prefect.logging import get_run_logger
from prefect.runtime import flow_run as runtime

from prefect_xai_video.api.pace import Pace
from prefect_xai_video.batch.budget import Budget
from prefect_xai_video.batch.due import with_receipts
from prefect_xai_video.batch.earlier import paid_before
from prefect_xai_video.batch.lane import LaneRun
from prefect_xai_video.batch.lanes import ChosenLane, Lane, choose_lane
from prefect_xai_video.batch.options import BatchOptions
from prefect_xai_video.batch.outcomes import estimated
from prefect_xai_video.batch.plan import Plan
from prefect_xai_video.batch.progress import Progress
from prefect_xai_video.batch.report import BatchReport, Tally, store_report, stored_states
from prefect_xai_video.batch.run import BatchRun, Step
from prefect_xai_video.batch.shards import Shard
from prefect_xai_video.batches.rows import RowMaker, find
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.attempts import ENDED_BADLY
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import RenderTimes
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import StorageError
from prefect_xai_video.orchestration.derived_keys import outermost_run_id
from prefect_xai_video.orchestration.events import emit_change
from prefect_xai_video.orchestration.limits import BulkLimits, Limits, submissions_a_second
from prefect_xai_video.orchestration.sharding import Sharding
from prefect_xai_video.orchestration.watching import report
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.tasks import StartOptions, checked_request, open_generation
from prefect_xai_video.ui.batch_artifacts import BatchArtifact, publish_pages

LOG_SECONDS = 60
"""Shortest time in seconds between two lines of the run's log that say how far a batch is."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Longest waits of a run, in seconds.

    Attributes:
        video_seconds: For one video, in the realtime lane.
        lane_seconds: For all videos, in the batch lane.
    """

    video_seconds: float
    lane_seconds: float


class BatchOfRun:
    """One run of a plan: the engine, the tally, and what people see of it."""

    def __init__(
        self, plan: Plan, store: VideoStore, credentials: XaiCredentials, chosen: BatchOptions, shard: Shard | None
    ) -> None:
        self._plan, self._store, self._credentials, self._chosen = plan, store, credentials, chosen
        self._budget = Budget(chosen.checked_budget)
        if shard is None:
            self._budget.check_covers(plan.cheapest_usd)
        self._tally, self._is_shard = Tally.of(plan), shard is not None
        if shard is not None:
            self._tally.name = shard.report_name
        self._artifact = BatchArtifact(self._tally.name)
        # That of the flow run: rows end within their task runs.
        self._logger, self._logged_at = get_run_logger(), 0.0

    async def look(self) -> BatchReport:
        """Look up which videos are stored, and estimate the others. Nothing is sent, and no report is stored."""
        await self._lane()
        async with open_generation(self._credentials, self._store) as generation:
            look_up, chosen = partial(find, generation, readable=self._plan.readable), self._chosen
            async for row, found in with_receipts(self._plan, look_up):
                if isinstance(found, Exception):
                    raise found
                self._tally.add(estimated(row, found, regenerate=chosen.regenerate, on_unknown=chosen.on_unknown))
        made = self._tally.report()
        await self._artifact.publish(made)
        return made

    async def make(self, wait: Wait | None) -> BatchReport:
        """Make all videos, and store the report.

        Args:
            wait: Longest waits; None to submit the rows only.
        """
        pace = Pace()
        lane = await self._lane()
        async with open_generation(self._credentials, self._store, pace=pace) as opened:
            shared, paid = replace(opened, on_status=lambda status: None), await self._paid_before()
            if lane == "batch":
                run: LaneRun | BatchRun = self._bulk_run(shared, wait.lane_seconds if wait else None, paid)
            else:
                times = RenderTimes(is_scarce=lambda: pace.rate is not None)
                shared = replace(shared, render_times=times)
                run = self._realtime_run(shared, wait.video_seconds if wait else None, paid)
            async with self._artifact.running():
                await run.run()
        return await self._finished(run.stopped_by.message if run.stopped_by else None, is_changed=run.begun > 0)

    def _realtime_run(self, shared: Generation, timeout: float | None, paid: Mapping[str, Decimal]) -> BatchRun:
        return BatchRun(
            self._plan,
            in_flight=self._chosen.in_flight,
            find=partial(find, shared, readable=self._plan.readable),
            make=RowMaker(shared, self._options, timeout).make,
            budget=self._budget,
            limits=Limits(budget=XaiVideoSettings.current().budget),
            on_step=self._step,
            paid_before=paid,
        )

    def _bulk_run(self, opened: Generation, timeout: float | None, paid: Mapping[str, Decimal]) -> LaneRun:
        settings = XaiVideoSettings.current()
        shared = replace(opened, on_change=self._emit_failure)
        return LaneRun(
            self._plan,
            generation=shared,
            find=partial(find, shared, readable=self._plan.readable),
            prepare=lambda request: checked_request(request, self._store, settings.validation),
            options=self._options,
            run_id=outermost_run_id(),
            budget=self._budget,
            limits=BulkLimits(budget=settings.budget),
            on_step=self._step,
            timeout=timeout,
            cancels=self._chosen.cancel_at_xai,
            paid_before=paid,
        )

    def _emit_failure(self, receipt: Receipt) -> None:
        """Emit the event of a row that ends without a video; the report has the others.

        Rows end here by the dozen in a second, and an event of each costs Prefect as much as its download.
        """
        if receipt.state in ENDED_BADLY:
            emit_change(receipt, self._store.receipt_uri(receipt.key))

    async def _lane(self) -> Lane:
        """Choose the lane, and say why."""
        chosen = await chosen_lane(self._plan, self._chosen)
        if chosen.lane == "batch" or self._chosen.lane == "auto":
            self._logger.info("%s", chosen)
        if self._chosen.lane == "auto":
            report(chosen)
        return chosen.lane

    async def make_in_shards(self, credentials: object, storage: object, timeout: float | None) -> BatchReport:
        """Have runs of a deployment make all videos, and store the report.

        Args:
            credentials: The parameter of the run.
            storage: The parameter of the run.
            timeout: The parameter of the run, in seconds.
        """
        lane = {"lane": await self._lane(), "cancel_at_xai": self._chosen.cancel_at_xai}
        parameters = {"timeout_seconds": timeout, **lane, **self._options, **self._chosen.for_each}
        sharding = Sharding(self._chosen, credentials, storage, parameters)
        async with self._artifact.running():
            stopped_by = await sharding.make(self._plan, self._store, self._tally, self._show)
        return await self._finished(stopped_by)

    async def _paid_before(self) -> dict[str, Decimal]:
        """What earlier tries of this run have paid; nothing in a subflow, whose retries are new runs."""
        if runtime.run_count <= 1 or runtime.id != outermost_run_id():
            return {}
        return await paid_before(self._plan, self._store, runtime.id)

    async def _finished(self, stopped_by: str | None, *, is_changed: bool = True) -> BatchReport:
        """Store and publish the report.

        Args:
            stopped_by: Why nothing more was submitted.
            is_changed: Whether any row was begun. If not, the pages of the earlier run stay, unless the collector has
                stored videos since.
        """
        made = replace(self._tally.report(), stopped_by=stopped_by, run_id=runtime.id)
        is_changed = is_changed or await stored_states(made, self._store) != made.states
        try:
            made = replace(made, uri=await store_report(made, self._store))
        except StorageError as error:
            # The videos are paid for and stored, and the caller gets the report all the same.
            get_run_logger().error("The report could not be stored: %s", error)
        look = None
        # A shard has rows of one batch, which shows them all.
        if is_changed and not self._is_shard:
            made, look = await publish_pages(made, self._store)
        await self._artifact.publish(made, look)
        return made

    @property
    def _options(self) -> StartOptions:
        return {"regenerate": self._chosen.regenerate, "on_unknown": self._chosen.on_unknown}

    def _step(self, step: Step) -> None:
        if step.outcome is not None:
            self._tally.add(step.outcome)
        if step.xai_batch is not None:
            self._logger.info("Rows are added to xAI's batch %s", step.xai_batch)
        self._show(step.in_flight)

    def _show(self, in_flight: int) -> None:
        progress = Progress.of(self._tally, in_flight, self._budget.limit_usd)
        self._artifact.progress = progress
        report(progress)
        if progress.seconds - self._logged_at >= LOG_SECONDS:
            self._logged_at = progress.seconds
            self._logger.info("%s", progress)


async def chosen_lane(plan: Plan, options: BatchOptions) -> ChosenLane:
    """Choose the lane of a batch by its number of rows and the rate that Prefect's global limit allows."""
    rate = await submissions_a_second() if options.lane == "auto" else None
    return choose_lane(options.lane, plan.count, options.in_flight, rate, only_realtime=plan.only_realtime)
