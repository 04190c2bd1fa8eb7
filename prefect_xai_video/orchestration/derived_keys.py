"""The key of a video for which the caller gave none: stable when a run is retried, new in a new run.

It is made of the first words of the prompt, the end of the outermost run's id, the request's fingerprint, and a count
of equal requests in that run. Equal requests are interchangeable: a retried run finds the receipts of its earlier try
again, in whatever order, and the same prompt four times in one run is four videos.

Retries are why this has to look at all runs round the caller, flows and tasks. A run that is retried keeps its id,
but what it calls gets new ones; so what was counted in an earlier try, of any of them, is counted again.

A task or subflow round the caller whose result is persisted is not called again on a retry, so it would not count
either, and another call would get its video. So each of these counts by itself: it is known by its `scope`, made of
all by which Prefect finds its result again.
"""

import hashlib
from threading import Lock
from typing import TypeVar
from uuid import UUID

from prefect.cache_policies import INPUTS, CachePolicy, CompoundCachePolicy, FlowParameters, RunId
from prefect.context import ContextModel, FlowRunContext, TaskRunContext

from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.engine.keys import slug
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import not_allowed
from prefect_xai_video.orchestration.prefect_api import current_client
from prefect_xai_video.settings import XaiVideoSettings

KEY_DIGITS = 16
"""Digits of a fingerprint in a key."""

Lineage = tuple[tuple[UUID, int], ...]
"""The runs from the outermost one down to the caller: the id of each, and which try of it this is."""

Run = FlowRunContext | TaskRunContext
C = TypeVar("C", bound=ContextModel)

_OF_ALL_CALLS = (RunId, FlowParameters)

_lock = Lock()
_counted: dict[tuple[UUID, str, str], list[Lineage]] = {}
"""By outermost run, scope and fingerprint: who asked, in the order of their counts."""


async def derive_key(request: VideoRequest, store: VideoStore) -> str:
    """Derive the key of a request in the current run.

    Args:
        request: The request, with its inputs resolved.
        store: Where its video goes.

    Returns:
        `<slug of the prompt>-<end of the id of the outermost run>-<fingerprint>-<count>`, fingerprint cut to 16
        characters; in a persisted task or subflow `...-<fingerprint>-<scope>-<count>`. Or the key with a receipt that
        an earlier try of the run derived by another version or setting.

    Raises:
        InvalidRequest: Where requests can't be counted, since each task runs in a process of its own.
        StorageError: If the store can't be read.
        httpx.HTTPError: If Prefect can't be asked how it knows a persisted subflow.
    """
    flow = FlowRunContext.get()
    if flow is not None and flow.detached:
        what = "None in a task that runs in a process of its own (process pool, Dask, Ray)"
        raise not_allowed("key", what, "a name for the video")
    runs = _runs()
    lineage = _lineage(runs)
    scope = await _scope(runs)
    outermost = lineage[0][0]
    with _lock:
        count = _count(_counted.setdefault((outermost, scope, request.fingerprint), []), lineage)
    key, *others = _names(request, lineage, "-".join(filter(None, (scope, str(count)))))
    for other in others:
        if await store.read(other) is not None:
            return other
    return key


def _names(request: VideoRequest, lineage: Lineage, call: str) -> list[str]:
    """The key of a call, and those that an earlier try may have given it by another version or setting."""
    run_id = lineage[0][0]
    fingerprints = filter(None, (request.fingerprint, request.earlier_fingerprint))
    plain = [f"{run_id}/{fingerprint[:KEY_DIGITS]}-{call}" for fingerprint in fingerprints]
    words = slug(request.prompt) or request.mode
    slugged = f"{words}-{run_tail(run_id)}-{request.fingerprint[:KEY_DIGITS]}-{call}"
    if XaiVideoSettings.current().prompt_in_names:
        return [slugged, *plain]
    # The names that are looked for may be in a bucket's access log, too: only where there was an earlier try.
    return [*plain, slugged] if any(number > 1 for _, number in lineage) else plain


def run_tail(run_id: UUID) -> str:
    """The end of a run's id, which is part of the keys that are derived in it."""
    return str(run_id).rpartition("-")[2]


def outermost_run_id() -> str:
    """Id of the outermost flow run of this process, or of the task run where there is no flow."""
    return str(_lineage(_runs())[0][0])


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


async def _scope(runs: list[Run]) -> str:
    """Digest of all by which Prefect finds the innermost persisted run again, or nothing if none is persisted.

    The outermost run is not part of it: nobody calls it, so a retry always executes it.
    """
    called = runs[1:]
    while called and not (called[-1].persist_result and await _mark(called[-1])):
        called.pop()
    marks = [await _mark(run) for run in called]
    return hashlib.sha256("\n".join(filter(None, marks)).encode()).hexdigest()[:12] if marks else ""


async def _mark(run: Run) -> str | None:
    return _cache_key(run) if isinstance(run, TaskRunContext) else await _position(run)


def _cache_key(run: TaskRunContext) -> str | None:
    """What makes Prefect find the persisted result of a task again, or None if nothing does.

    Ids of runs are left out: a flow round the task may get a new one on a retry, and then the task is called again.
    """
    policy = run.task.cache_policy
    if not run.persist_result:
        return None
    if not isinstance(policy, CachePolicy):
        policy = None if run.task.result_storage_key is None else INPUTS
    policies = policy.policies if isinstance(policy, CompoundCachePolicy) else [policy] if policy else []
    try:
        # What all calls in a flow run have in common tells none of them from another.
        keys = [
            "run" if isinstance(each, _OF_ALL_CALLS) else each.compute_key(run, run.parameters, {})
            for each in policies
        ]
    except Exception:
        # Then Prefect persists nothing, either.
        return None
    return " ".join([run.task.task_key, *filter(None, keys)]) if any(keys) else None


async def _position(run: FlowRunContext) -> str | None:
    """The number of a subflow among the calls of its flow, by which Prefect finds its persisted result again.

    None in a task: Prefect gives no numbers there, and calls it again each time.
    """
    if run.flow_run is None or run.flow_run.parent_task_run_id is None:
        return None
    call_id = run.flow_run.parent_task_run_id
    async with current_client() as prefect:
        call = await prefect.read_task_run(call_id)
    return f"{call.task_key} {call.dynamic_key}" if call.dynamic_key.isdigit() else None


def _lineage(runs: list[Run]) -> Lineage:
    each = (run.task_run if isinstance(run, TaskRunContext) else run.flow_run for run in runs)
    return tuple((run.id, run.run_count) for run in each if run)


def _runs() -> list[Run]:
    """The runs round the caller, from the outermost one on."""
    # A run may be entered twice; the inner context has its parameters resolved.
    tasks = {context.task_run.id: context for context in _contexts(TaskRunContext)}.values()
    flows = {context.flow_run.id: context for context in _contexts(FlowRunContext) if context.flow_run}
    runs: list[Run] = [task for task in tasks if task.task_run.flow_run_id is None]
    for flow_run_id, flow in flows.items():
        runs += [flow, *(task for task in tasks if task.task_run.flow_run_id == flow_run_id)]
    return runs


def _contexts(kind: type[C]) -> list[C]:
    """The contexts of a kind that are entered here, outermost first.

    Prefect has no public way from a run to the one round it that also tells its try, short of two requests a level;
    the token of the context variable leads there.
    """
    contexts: list[C] = []
    context = kind.get()
    while isinstance(context, kind):
        contexts.insert(0, context)
        context = context._token.old_value if context._token else None
    return contexts
