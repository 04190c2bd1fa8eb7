"""The key of a video for which the caller gave none: stable when a run is retried, new in a new run.

It is made of the outermost run's id, the request's fingerprint, and a count of equal requests in that run. Equal
requests are interchangeable: a retried run finds the receipts of its earlier try again, in whatever order, and the
same prompt four times in one run is four videos.

Retries are why this has to look at all runs round the caller, flows and tasks. A run that is retried keeps its id,
but what it calls gets new ones; so what was counted in an earlier try, of any of them, is counted again.
"""

from threading import Lock
from typing import TypeVar
from uuid import UUID

from prefect.context import ContextModel, FlowRunContext, TaskRunContext

from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.requests import VideoRequest

KEY_DIGITS = 16
"""Digits of a fingerprint in a key."""

Lineage = tuple[tuple[UUID, int], ...]
"""The runs from the outermost one down to the caller: the id of each, and which try of it this is."""

C = TypeVar("C", bound=ContextModel)

_lock = Lock()
_counted: dict[tuple[UUID, str], list[Lineage]] = {}
"""By outermost run and fingerprint: who asked, in the order of their counts."""


def derive_key(request: VideoRequest) -> str:
    """Derive the key of a request in the current run.

    Args:
        request: The request, with its inputs resolved.

    Returns:
        `<id of the outermost run>/<fingerprint>-<count>`, fingerprint cut to 16 characters.

    Raises:
        InvalidRequest: Where requests can't be counted, since each task runs in a process of its own.
    """
    flow = FlowRunContext.get()
    if flow is not None and flow.detached:
        raise InvalidRequest(
            "key: None is not allowed in a task that runs in a process of its own (process pool, Dask, Ray); "
            "allowed: a name for the video."
        )
    lineage = _lineage()
    outermost = lineage[0][0]
    with _lock:
        count = _count(_counted.setdefault((outermost, request.fingerprint), []), lineage)
    return f"{outermost}/{request.fingerprint[:KEY_DIGITS]}-{count}"


def outermost_run_id() -> str:
    """Id of the outermost flow run of this process, or of the task run where there is no flow."""
    return str(_lineage()[0][0])


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


def _lineage() -> Lineage:
    tasks = [context.task_run for context in _contexts(TaskRunContext)]
    flows = [context.flow_run for context in _contexts(FlowRunContext) if context.flow_run]
    runs: Lineage = tuple((task.id, task.run_count) for task in tasks if task.flow_run_id is None)
    for flow in flows:
        within = ((task.id, task.run_count) for task in tasks if task.flow_run_id == flow.id)
        runs = (*runs, (flow.id, flow.run_count), *within)
    return runs


def _contexts(kind: type[C]) -> list[C]:
    """The contexts of a kind that are entered here, outermost first.

    Prefect has no public way from a run to the one round it that also tells its try; the token of the context
    variable leads there.
    """
    contexts: list[C] = []
    context = kind.get()
    while isinstance(context, kind):
        contexts.insert(0, context)
        context = context._token.old_value if context._token else None
    return contexts
