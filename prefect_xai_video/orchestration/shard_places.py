"""Where the shards of a batch run: a deployment that knows shards, and that has room for them.

A run that waits for its shards occupies a slot of each concurrency limit that holds for it. Where it and its likes
occupy all slots that the shards need, nobody would ever start. So such a run checks first, once it occupies its own
slot: it goes on only if at least one slot is left that no waiting run occupies. A run that comes later checks the
same, and gives way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkQueueFilter,
    WorkQueueFilterId,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from prefect_xai_video.errors import InvalidRequest, not_allowed, shown
from prefect_xai_video.orchestration.derived_keys import outermost_run_id
from prefect_xai_video.orchestration.prefect_api import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """Where shards run.

    Attributes:
        deployment: Their deployment, as FLOW/NAME.
        room: Most shards that can run at the same time, as far as Prefect's limits tell; None for no limit.
    """

    deployment: str
    room: int | None


@dataclass(frozen=True, slots=True)
class _Limit:
    """A concurrency limit that holds for the shards.

    Attributes:
        name: What it limits, for errors.
        slots: Its number of slots.
        filters: The runs that may occupy slots, as arguments of `read_flow_runs`.
        holds_for: Whether it holds for a run.
    """

    name: str
    slots: int
    filters: dict[str, Any]
    holds_for: Callable[[FlowRun], bool]


async def find_place(prefect: PrefectClient, given: str | None) -> ShardPlace:
    """Find the deployment of the shards, and check that they can start while the current run waits for them.

    Args:
        prefect: Prefect's API.
        given: The deployment, as FLOW/NAME. Default: that of the current run.

    Raises:
        InvalidRequest: If there is none, it does not know shards, or has no room for them.
        httpx.HTTPError: If Prefect can't be reached.
    """
    deployment, name = await _read(prefect, given)
    if "shard" not in (deployment.parameter_openapi_schema or {}).get("properties", {}):
        raise not_allowed("shard_deployment", shown(name), "a deployment of this version of generate_videos")
    own = await prefect.read_flow_run(UUID(outermost_run_id()))
    rooms = [await _room(prefect, limit, own, name) for limit in await _limits(prefect, deployment)]
    return ShardPlace(name, min(rooms, default=None))


async def _read(prefect: PrefectClient, given: str | None) -> tuple[DeploymentResponse, str]:
    context = FlowRunContext.get()
    own = context.flow_run.deployment_id if context and context.flow_run else None
    if given is None and own is None:
        raise not_allowed(
            "shard_deployment",
            "nothing, in a run without a deployment,",
            "a deployment of generate_videos as FLOW/NAME, such as generate-videos/make-videos",
            "Nothing was sent.",
        )
    try:
        if given is not None:
            return await prefect.read_deployment_by_name(given), given
        deployment = await prefect.read_deployment(own)  # type: ignore[arg-type]
        return deployment, f"{(await prefect.read_flow(deployment.flow_id)).name}/{deployment.name}"
    except ObjectNotFound:
        raise InvalidRequest(
            f"shard_deployment: there is no deployment {given or own}. Create it, for instance with `xai-video "
            f"setup`, or correct the name. Nothing was sent."
        ) from None


async def _limits(prefect: PrefectClient, deployment: DeploymentResponse) -> list[_Limit]:
    """The limits of the deployment, its work pool and its work queue, if there are any."""
    limits = []
    own = deployment.global_concurrency_limit
    if own is not None and own.active:
        only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
        of_deployment = {"deployment_filter": only}
        limits.append(
            _Limit("the deployment", own.limit, of_deployment, lambda run: run.deployment_id == deployment.id)
        )
    pool_name, queue_id = deployment.work_pool_name, deployment.work_queue_id
    if pool_name is None:
        return limits
    pool = await prefect.read_work_pool(pool_name)
    if pool.concurrency_limit is not None:
        in_pool = {"work_pool_filter": WorkPoolFilter(name=WorkPoolFilterName(any_=[pool_name]))}
        limits.append(
            _Limit(
                f"the work pool {pool_name}",
                pool.concurrency_limit,
                in_pool,
                lambda run: run.work_pool_name == pool_name,
            )
        )
    queue = await prefect.read_work_queue(queue_id) if queue_id else None
    if queue is not None and queue.concurrency_limit is not None:
        in_queue = {"work_queue_filter": WorkQueueFilter(id=WorkQueueFilterId(any_=[queue_id]))}
        limits.append(
            _Limit(
                f"the work queue {queue.name}",
                queue.concurrency_limit,
                in_queue,
                lambda run: run.work_queue_id == queue_id,
            )
        )
    return limits


async def _room(prefect: PrefectClient, limit: _Limit, own: FlowRun, deployment: str) -> int:
    """Slots of a limit that no run occupies which waits for shards."""
    waiting = {run.id for run in await _active(prefect, limit) if _waits_for_shards(run)}
    if not limit.holds_for(own):
        return max(limit.slots - len(waiting), 1)
    waiting.add(own.id)
    if limit.slots <= len(waiting):
        runs = (
            "this run, which waits for its shards, occupies"
            if len(waiting) == 1
            else (f"{len(waiting)} runs that wait for their shards, this one included, occupy")
        )
        raise not_allowed(
            "shard_deployment",
            deployment,
            "a deployment with room for a shard",
            f"The concurrency limit of {limit.name} is {limit.slots}, and {runs} all of it. Raise the limit above "
            f"{len(waiting)}, name a deployment in another work pool, or start this run later. Nothing was sent.",
        )
    return limit.slots - len(waiting)


async def _active(prefect: PrefectClient, limit: _Limit) -> list[FlowRun]:
    """The runs that occupy slots of a limit."""
    occupying = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    active: list[FlowRun] = []
    while page := await prefect.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=occupying), limit=PAGE_SIZE, offset=len(active), **limit.filters
    ):
        active += page
        if len(page) < PAGE_SIZE:
            break
    return active


def _waits_for_shards(run: FlowRun) -> bool:
    return bool(run.parameters.get("shard_rows")) and not run.parameters.get("shard")
