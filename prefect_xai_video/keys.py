"""The key of a video for which the caller gave none: stable when a run is retried, new in a new run.

It is made of the outermost flow run's id, the request's fingerprint, and a count of equal requests in that run.
Equal requests are interchangeable: a retried run finds the receipts of its earlier try again, in whatever order, and
the same prompt four times in one run is four videos.

Retries are why this has to look at all runs above the caller. A retried flow keeps its id, but its subflows get new
ones; so what was counted in an earlier try, of any of them, is counted again from its beginning.
"""

from threading import Lock
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext, TaskRunContext

from prefect_xai_video.requests import VideoRequest

Lineage = tuple[tuple[UUID, int], ...]
"""The runs from the outermost one down to the caller: the id of each, and which try of it this is."""

_lock = Lock()
_counted: dict[tuple[UUID, str], list[Lineage]] = {}
"""By outermost run and fingerprint: who asked, in the order of their counts."""


async def derive_key(request: VideoRequest) -> str:
    """Derive the key of a request in the current run.

    Args:
        request: The request as the user gave it.

    Returns:
        `<id of the outermost flow run>/<fingerprint>-<count>`, fingerprint cut to 16 characters.
    """
    lineage = await _lineage()
    outermost = lineage[0][0]
    with _lock:
        count = _count(_counted.setdefault((outermost, request.fingerprint), []), lineage)
    return f"{outermost}/{request.fingerprint[:16]}-{count}"


async def outermost_run_id() -> str:
    """Id of the outermost flow run of this process, or of the task run where there is no flow."""
    return str((await _lineage())[0][0])


def _count(counted: list[Lineage], lineage: Lineage) -> int:
    """The caller's own count from before, or else one of an earlier try, or else a new one."""
    own = (count for count, other in enumerate(counted) if other[-1][0] == lineage[-1][0])
    earlier = (count for count, other in enumerate(counted) if _is_of_earlier_try(other, lineage))
    count = next(own, next(earlier, len(counted)))
    counted[count : count + 1] = [lineage]
    return count


def _is_of_earlier_try(other: Lineage, lineage: Lineage) -> bool:
    for (other_id, other_try), (own_id, own_try) in zip(other, lineage, strict=False):
        if other_id != own_id:
            return False
        if other_try != own_try:
            return True
    return False


async def _lineage() -> Lineage:
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    callers: Lineage = () if task is None else ((task.task_run.id, 0),)
    if flow is None or flow.flow_run is None:
        if task is None:
            raise RuntimeError("Outside of Prefect runs a key must be given.")
        return callers
    run = FlowRun.model_validate(flow.flow_run, from_attributes=True)
    return (*await _ancestors(run), (run.id, run.run_count), *callers)


async def _ancestors(run: FlowRun) -> Lineage:
    """The runs above one, outermost first.

    A run of a deployment has none, even where another flow waits for it: it counts its own requests.
    """
    ancestors: list[tuple[UUID, int]] = []
    if run.parent_task_run_id is None or run.deployment_id is not None:
        return ()
    async with get_client() as client:
        while run.parent_task_run_id is not None and run.deployment_id is None:
            task = await client.read_task_run(run.parent_task_run_id)
            if task.flow_run_id is None:
                break
            run = await client.read_flow_run(task.flow_run_id)
            ancestors.insert(0, (run.id, run.run_count))
    return tuple(ancestors)
