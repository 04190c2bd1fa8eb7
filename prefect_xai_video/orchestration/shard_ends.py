"""The end of a batch before its time: its shards are cancelled with it, so that nothing more is submitted."""

import asyncio
import logging
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelling

CANCEL_SECONDS = 8
"""Longest delay by cancelling shards, in seconds: a cancelled run is killed soon after."""

_UNENDED = [kind for kind in StateType if kind not in TERMINAL_STATES and kind != StateType.CANCELLING]

_GOES_ON = "xAI renders and bills what it has accepted."

_CANCELLED_THERE = "Its batches at xAI, if any, are cancelled, too: xAI bills only what it has begun to render."

_ADVICE = "Retry this run, or run the batch again, to pick that up and to continue: a video is never paid for twice."

logger = logging.getLogger(__name__)


async def cancel_shards(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the shards of a cancelled batch, and log how to continue. A hook of Prefect."""
    number = await cancel_shards_of(flow_run.id)
    shards = f" with {number} shards" if number else ""
    given = flow_run.parameters
    is_cancelled_there = given.get("cancel_at_xai") and given.get("lane") in {"batch", "auto"}
    rest = _CANCELLED_THERE if is_cancelled_there else _GOES_ON
    flow_run_logger(flow_run, flow).warning("The batch was cancelled%s. %s %s", shards, rest, _ADVICE)


def say_how_to_continue(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Log how a batch that crashed is continued. A hook of Prefect."""
    flow_run_logger(flow_run, flow).warning("The batch crashed. %s %s", _GOES_ON, _ADVICE)


async def cancel_shards_of(parent_id: UUID) -> int:
    """Cancel the runs that a run has started and that have not ended; return their number. Best effort.

    Prefect's server does the same within 20 seconds after the end of a cancelled run, even if this fails.
    """
    number = 0
    try:
        async with asyncio.timeout(CANCEL_SECONDS), get_client() as prefect:
            unended = FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent_id]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNENDED)),
            )
            while runs := await prefect.read_flow_runs(flow_run_filter=unended):
                for run in runs:
                    await prefect.set_flow_run_state(run.id, Cancelling(message="The batch was cancelled."))
                    number += 1
    except Exception:
        logger.debug("Could not cancel all shards.", exc_info=True)
    return number


async def cancel_shards_of_current_run() -> None:
    """Cancel the shards of a run that was interrupted where it was called.

    A run of a deployment is left alone: its process may be moved to another machine, and continues there. If it was
    cancelled, the hook cancels its shards.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is not None:
        return
    cancelling = asyncio.create_task(cancel_shards_of(run.id))
    with suppress(asyncio.CancelledError):
        await asyncio.shield(cancelling)
