"""A batch in shards: everything that is checked before the first of them starts, and then their runs."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.context import FlowRunContext

from prefect_xai_video.batch.earlier import due_usd
from prefect_xai_video.batch.options import BatchOptions
from prefect_xai_video.batch.plan import Plan
from prefect_xai_video.batch.report import Tally
from prefect_xai_video.batch.shards import Funds, Shard, copy_manifest, row_ranges, shares_of
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import not_allowed
from prefect_xai_video.orchestration.blocks import CREDENTIALS, STORAGES, is_chosen, saved_reference
from prefect_xai_video.orchestration.prefect_api import current_client
from prefect_xai_video.orchestration.shard_ends import cancel_shards_of_current_run
from prefect_xai_video.orchestration.shard_places import find_place
from prefect_xai_video.orchestration.shard_runs import ShardRuns


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a batch is made in shards.

    Attributes:
        chosen: The options of the batch.
        credentials: The parameter `credentials` of the batch.
        storage: Its parameter `storage`.
        parameters: Other parameters that all shards have in common.
    """

    chosen: BatchOptions
    credentials: object
    storage: object
    parameters: Mapping[str, Any]

    async def make(self, plan: Plan, store: VideoStore, tally: Tally, on_step: Callable[[int], object]) -> str | None:
        """Make the videos of a plan, and count all rows.

        Args:
            plan: The plan of all rows.
            store: The store of the videos.
            tally: Counts the rows.
            on_step: Called when a shard was started or has ended, with the number of videos that may be in flight.

        Returns:
            Why a shard submitted nothing more; None if all submitted everything.

        Raises:
            InvalidRequest: If the shards can't run. Nothing was sent.
            StorageError: If the manifest can't be stored.
            httpx.HTTPError: If Prefect can't be reached.
        """
        async with current_client() as prefect:
            runs = await self._prepared(prefect, plan, store, tally, on_step)
            try:
                await runs.run()
            except asyncio.CancelledError:
                await cancel_shards_of_current_run()
                raise
        return runs.stopped_by

    async def _prepared(
        self, prefect: PrefectClient, plan: Plan, store: VideoStore, tally: Tally, on_step: Callable[[int], object]
    ) -> ShardRuns:
        blocks = await self._blocks()
        ranges = row_ranges(plan.count, self.chosen.shard_rows or plan.count)
        place = await find_place(prefect, self.chosen.shard_deployment)
        budget = self.chosen.checked_budget
        digest, name = plan.manifest.digest, plan.manifest.name
        shards = [
            Shard(number=number, start=start, stop=stop, digest=digest, name=name, folder=plan.folder)
            for number, (start, stop) in enumerate(ranges, 1)
        ]
        # Without a budget, it does not matter what is due.
        due = await due_usd(plan, store, [stop for _, stop in ranges]) if budget is not None else ()
        manifest = await copy_manifest(plan, store)
        return ShardRuns(
            prefect=prefect,
            deployment=place.deployment,
            parent_id=_current_run_id(),
            # All of them, also those without a value: the deployment may have values of its own.
            parameters={
                **self.parameters,
                **blocks,
                **_OF_EACH_SHARD,
                "manifest": manifest,
                "key": self.chosen.key,
                "keep": list(plan.keep) or None,
            },
            plan=plan,
            shards=shards,
            store=store,
            shares=shares_of(self.chosen.in_flight, len(shards), place.room),
            funds=Funds(budget, dict(enumerate(due, 1))),
            tally=tally,
            on_step=on_step,
        )

    async def _blocks(self) -> dict[str, Any]:
        """References to the blocks; without credentials, those of the deployment or of its environment count."""
        if not is_chosen(self.storage):
            raise not_allowed(
                "storage",
                "nothing, in a batch with shards,",
                "a saved S3Bucket block, or a saved LocalFileSystem block with a directory that all workers share",
                "Nothing was sent.",
            )
        blocks = {"storage": await saved_reference(self.storage, "storage", STORAGES)}
        if is_chosen(self.credentials):
            blocks["credentials"] = await saved_reference(self.credentials, "credentials", CREDENTIALS)
        return blocks


_OF_EACH_SHARD: Mapping[str, Any] = {
    # The batch decides whether failures count; a shard only reports them.
    "allow_failures": True,
    "dry_run": False,
    "shard_rows": None,
    "shard_deployment": None,
}


def _current_run_id() -> UUID:
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None  # noqa: S101, PT018 - only flows come here
    return context.flow_run.id
