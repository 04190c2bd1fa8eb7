"""Runs of shards: a batch starts them, watches them with few requests, and adds their rows to its own tally.

The runs are sub-runs of the batch: Prefect shows them in its graph, and cancels them when the batch is cancelled. A
batch that is retried finds its runs again by their idempotency keys, and restarts those that have ended without all
videos. A run of a shard is one like any other: it can be retried, cancelled and rescued alone, and pays for nothing
twice, since each of its rows has a receipt.
"""

import asyncio
import json
import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import arun_deployment
from prefect.states import AwaitingRetry

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.batch.earlier import receipts_of
from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.batch.plan import Plan
from prefect_xai_video.batch.report import Tally, report_name
from prefect_xai_video.batch.shards import Funds, Shard, is_of_shard, outcome_of_receipt, read_outcomes, with_prompts
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import StorageError
from prefect_xai_video.orchestration.prefect_api import read_runs

FIRST_WATCH_SECONDS, WATCH_SECONDS = 1.0, 10.0
"""Seconds before the states of the runs are read for the first time, and at most between two times."""

MAX_FAILED_WATCHES = 60
"""Times in a row that the states could not be read before the batch gives up; its runs go on."""

MAX_RESTARTS = 3
"""Times that a batch restarts a run that has crashed: its worker stopped, or its process was killed."""

RESTART_SECONDS = 30
"""Shortest time in seconds between the end of a run and its restart. A worker fetches runs up to 10 s early, and that
of Prefect 3.8 dies of a run whose process has not ended there yet."""

UNSTARTED_SECONDS = 300
"""Seconds after which a warning says that no shard was started."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ShardRun:
    """A run of a shard, as far as it was watched.

    Attributes:
        shard: The shard.
        run_id: Its flow run.
        share: Its share of the videos in flight, until it has ended.
        ended: Name of the state in which it has ended; None as long as it has not.
        restarts: Times that it was restarted after a crash.
    """

    shard: Shard
    run_id: UUID
    share: int | None
    ended: str | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class _Report:
    """The report that a run has left.

    Attributes:
        outcomes: Its rows.
        stopped_by: Why it submitted nothing more; None if it submitted everything.
    """

    outcomes: list[RowOutcome]
    stopped_by: str | None


@dataclass(slots=True, kw_only=True)
class ShardRuns:
    """Makes the videos of a batch in runs of a deployment.

    Attributes:
        prefect: Prefect's API.
        deployment: The deployment, as FLOW/NAME.
        parent_id: The run of the batch.
        parameters: Parameters that all runs have in common.
        plan: The plan of all rows.
        shards: The shards.
        store: The store of the videos.
        shares: Shares of the videos in flight; one for each shard that runs at the same time.
        funds: The budget.
        tally: Counts the rows of shards that have ended.
        on_step: Called when a shard was started or has ended, with the number of videos that may be in flight.
        stopped_by: Why a shard submitted nothing more; None if none said so.
    """

    prefect: PrefectClient
    deployment: str
    parent_id: UUID
    parameters: Mapping[str, Any]
    plan: Plan
    shards: Sequence[Shard]
    store: VideoStore
    shares: list[int]
    funds: Funds
    tally: Tally
    on_step: Callable[[int], object]
    stopped_by: str | None = None
    _runs: dict[UUID, ShardRun] = field(default_factory=dict)

    async def run(self) -> None:
        """Start all shards, and return when all have ended and each row is in the tally."""
        waiting, pause, failures = deque(self.shards), FIRST_WATCH_SECONDS, 0
        warning_at: float | None = time.monotonic() + UNSTARTED_SECONDS
        while waiting or any(run.ended is None for run in self._runs.values()):
            while waiting and self.shares:
                await self._start(waiting.popleft(), self.shares.pop(0))
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, WATCH_SECONDS)
            try:
                is_begun = await self._watch()
                failures = 0
            except httpx.HTTPError as error:
                failures += 1
                if failures >= MAX_FAILED_WATCHES:
                    raise
                logger.warning("The states of the shards could not be read (%s); trying again.", error)
                continue
            if is_begun:
                warning_at = None
            elif warning_at is not None and time.monotonic() > warning_at:
                warning_at = None
                logger.warning(
                    "No shard was started for %d s. Is a worker running for the work pool of %s, and does it have "
                    "room: its own --limit, and runs that wait for shards, count too?",
                    UNSTARTED_SECONDS,
                    self.deployment,
                )
        for run in list(self._runs.values()):
            await self._fill_in(run)

    async def _start(self, shard: Shard, share: int) -> None:
        """Start a shard, or find the run that an earlier try of the batch started."""
        budget = self.funds.offer(shard.number)
        run = await arun_deployment(
            self.deployment,
            client=self.prefect,
            parameters={
                **self.parameters,
                "in_flight": share,
                "budget_usd": None if budget is None else float(budget),
                "shard": shard.model_dump(),
            },
            flow_run_name=f"{shard.name}, shard {shard.number} of {len(self.shards)}",
            timeout=0,
            idempotency_key=f"xai-video-{self.parent_id}-{shard.number}",
        )
        given = run.parameters.get("budget_usd")
        self.funds.give(shard.number, None if given is None else Decimal(str(given)))
        found = self._runs[run.id] = ShardRun(shard, run.id, share)
        if run.state is not None and run.state.is_final() and not await self._is_complete(found, run):
            await self._restart(run.id, run.state)
        self.on_step(self._in_flight)

    async def _restart(self, run_id: UUID, ended: State[Any]) -> None:
        """Let a worker start a run again that has ended."""
        at = max(datetime.now(UTC), ended.timestamp + timedelta(seconds=RESTART_SECONDS))
        await self.prefect.set_flow_run_state(run_id, AwaitingRetry(scheduled_time=at), force=True)

    async def _is_complete(self, found: ShardRun, run: FlowRun) -> bool:
        """Whether a run of an earlier try has made all its videos."""
        report = await self._report_of(found) if run.state and run.state.is_completed() else None
        return report is not None and all(outcome.state == "stored" for outcome in report.outcomes)

    async def _watch(self) -> bool:
        """Read the states of all runs whose rows are not counted yet; whether any of them was begun."""
        ids, begun = list(self._runs), len(self._runs) == 0
        found = {run.id: run for run in await read_runs(self.prefect, ids)}
        for run_id in ids:
            run = found.get(run_id)
            begun |= run is None or run.start_time is not None
            await self._note(self._runs[run_id], run)
        return begun

    async def _note(self, known: ShardRun, run: FlowRun | None) -> None:
        """Note the state of a run; None if it was deleted. What has ended otherwise than completed may be retried."""
        state = run.state if run else None
        if run is not None and (state is None or not state.is_final()):
            known.ended = None
            return
        if run is not None and state is not None and state.is_crashed() and known.restarts < MAX_RESTARTS:
            known.restarts += 1
            logger.warning("Shard %d crashed (%s); it is restarted.", known.shard.number, state.message)
            await self._restart(run.id, state)
            return
        known.ended = (state.name or state.type.value) if state else "deleted"
        if known.share is not None:
            self.shares.append(known.share)
            known.share = None
        if state is not None and state.is_completed() and (report := await self._report_of(known)) is not None:
            self.stopped_by = self.stopped_by or report.stopped_by
            self._count(known, report.outcomes)
        self.on_step(self._in_flight)

    async def _report_of(self, known: ShardRun) -> "_Report | None":
        """Read the report of a run; None if it has left none."""
        shard = known.shard
        rows, facts = (report_name(shard.folder, shard.report_name, suffix) for suffix in (".csv", ".json"))
        with tempfile.TemporaryDirectory(prefix="xai-video-shard-") as directory:
            table, summary = Path(directory, "rows.csv"), Path(directory, "facts.json")
            try:
                if not (await self.store.read_file(facts, summary) and await self.store.read_file(rows, table)):
                    return None
                content = json.loads(await run_in_thread(summary.read_text))
                outcomes = await run_in_thread(lambda: list(read_outcomes(table, self.plan.keep)))
            except (StorageError, ValueError) as error:
                logger.warning("The report of shard %d can't be read (%s).", shard.number, error)
                return None
        if content.get("run_id") != str(known.run_id) or not is_of_shard(outcomes, shard):
            return None
        outcomes = await run_in_thread(with_prompts, outcomes, self.plan.manifest, shard)
        return _Report(outcomes, content.get("stopped_by"))

    def _count(self, known: ShardRun, outcomes: Sequence[RowOutcome]) -> None:
        """Count the rows of a run, which is watched no longer."""
        del self._runs[known.run_id]
        for outcome in outcomes:
            self.tally.add(outcome)
        self.funds.settle(known.shard.number, sum((outcome.paid_usd for outcome in outcomes), Decimal(0)))

    async def _fill_in(self, known: ShardRun) -> None:
        """Count the rows of a run that has left no report, by their receipts."""
        shard = known.shard
        why = f"Shard {shard.number} ended as {known.ended}, without a report: see its run."
        rows = replace(self.plan, start=shard.start, stop=shard.stop)
        outcomes = [
            outcome_of_receipt(row, receipt, run_id=str(known.run_id), why=why)
            async for row, receipt in receipts_of(rows, self.store)
        ]
        self._count(known, outcomes)
        self.on_step(self._in_flight)

    @property
    def _in_flight(self) -> int:
        return sum(run.share or 0 for run in self._runs.values())
