"""Rescues: an automation restarts runs whose worker died; a rescued run decides here whether to continue.

The automation is `rescue` in `setup/automations.py`. It reacts only to missing heartbeats: it can't count, and
the heartbeats of a cancelled or suspended run may stop as well. So a rescued run checks its own history, and stops
with an explanation if it should not continue.
"""

from typing import Any

from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Cancelled

from prefect_xai_video.errors import RescuesExhausted
from prefect_xai_video.orchestration.prefect_api import current_client

RESCUED = "Rescued"
"""Name of the state that the automation sets; Prefect then starts the run like any scheduled run."""

MAX_RESCUES = 3
"""Rescues per run; a run that loses its worker a fourth time is stopped."""


async def check_rescue() -> State[Any] | None:
    """Stop the current flow run if it was rescued too often, or without need.

    Returns:
        The state in which the run must end at once, because it had ended or was being cancelled before the rescue;
        None if it may continue.

    Raises:
        RescuesExhausted: If it was rescued too often. This try sent nothing.
        Pause: If it was suspended before the rescue; it is suspended again.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.run_count <= 1:
        return None
    async with current_client() as prefect:
        states = sorted(await prefect.read_flow_run_states(run.id), key=lambda state: state.timestamp)
        before = _before_rescue(states)
        if before is not None and before.is_paused():
            await prefect.set_flow_run_state(run.id, _copy_of(before), force=True)
            raise Pause(state=before)
    if before is not None and before.type == StateType.CANCELLING:
        return Cancelled(message="The run was being cancelled when its worker died.")
    if before is not None and before.is_final():
        return _copy_of(before)
    rescues = sum(state.name == RESCUED for state in states)
    if rescues > MAX_RESCUES:
        raise RescuesExhausted(
            f"The worker of this run died {rescues} times, and a run is stopped after {MAX_RESCUES} rescues. A video "
            f"that was paid for is not lost: once the workers run reliably, run again with the same key.",
            key=run.parameters.get("key"),
        )
    return None


def _before_rescue(states: list[State[Any]]) -> State[Any] | None:
    """Return the state before the rescue; None if the run was not started by a rescue this time."""
    started = max((number for number, state in enumerate(states) if state.is_scheduled()), default=0)
    return states[started - 1] if started and states[started].name == RESCUED else None


def _copy_of(state: State[Any]) -> State[Any]:
    details = state.state_details.model_copy(update={"transition_id": None})
    return State(type=state.type, name=state.name, message=state.message, state_details=details)
