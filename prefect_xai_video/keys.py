"""The key of a video for which the caller gave none: stable when a run is retried, new in a new run.

It is made of the outermost flow run's id, the request's fingerprint, and a count of equal requests in that run.
Equal requests are interchangeable: a retried run finds the receipts of its first try again, in whatever order, and
the same prompt four times in one run is four videos.
"""

from threading import Lock
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext, TaskRunContext

from prefect_xai_video.requests import VideoRequest

_lock = Lock()
_callers: dict[tuple[UUID, int, str], list[UUID]] = {}
"""Who has asked for what: by outermost run, its try and a fingerprint, the runs that asked, in order."""


async def derive_key(request: VideoRequest) -> str:
    """Derive the key of a request in the current run.

    Args:
        request: The request as the user gave it.

    Returns:
        `<id of the outermost flow run>/<fingerprint>-<count>`, fingerprint cut to 16 characters.
    """
    run_id, run_count = await _outermost()
    caller = _caller()
    with _lock:
        callers = _callers.setdefault((run_id, run_count, request.fingerprint), [])
        if caller not in callers:
            callers.append(caller)
        count = callers.index(caller)
    return f"{run_id}/{request.fingerprint[:16]}-{count}"


async def outermost_run_id() -> str:
    """Id of the outermost flow run of this process, or of the task run where there is no flow."""
    run_id, _ = await _outermost()
    return str(run_id)


async def _outermost() -> tuple[UUID, int]:
    """Id and number of tries of the outermost run.

    A retried parent gives its failed subflows new ids, so the parent's own is the stable one. A run of a deployment
    is nobody's part, even where another flow waits for it: it counts its own requests.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return _caller(), 0
    run = FlowRun.model_validate(context.flow_run, from_attributes=True)
    if run.parent_task_run_id is not None and run.deployment_id is None:
        run = await _ancestor(run)
    return run.id, run.run_count


async def _ancestor(run: FlowRun) -> FlowRun:
    async with get_client() as client:
        while run.parent_task_run_id is not None and run.deployment_id is None:
            parent = await client.read_task_run(run.parent_task_run_id)
            if parent.flow_run_id is None:
                break
            run = await client.read_flow_run(parent.flow_run_id)
    return run


def _caller() -> UUID:
    task = TaskRunContext.get()
    if task is not None:
        return task.task_run.id
    flow = FlowRunContext.get()
    if flow is None or flow.flow_run is None:
        raise RuntimeError("Outside of Prefect runs a key must be given.")
    return flow.flow_run.id
