"""Rescues: runs that an automation sets going again because their worker died, and the end of that.

The automation is `rescue` in `deployments/automations.py`. It acts on silence alone: it can't count, and a run that
was cancelled or suspended may fall silent, too. So a rescued run looks at its own history, and stops with a sentence
where it should not go on.
"""

from typing import Any

from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Cancelled

from prefect_xai_video.errors import RescuesExhausted
from prefect_xai_video.prefect_api import current_client

RESCUED = "Rescued"
"""Name of the state into which the automation puts a run; Prefect starts it again like any scheduled run."""

MAX_RESCUES = 3
"""Rescues of one run; a run that loses its worker a fourth time is stopped."""


async def check_rescue() -> State[Any] | None:
    """Stop the current flow run if it was rescued too often, or without need.

    Returns:
        The state in which the run has to end at once, since it had ended or was being cancelled when it was rescued;
        None if it may go on.

    Raises:
        RescuesExhausted: If it was rescued too often. Nothing was sent by this try.
        Pause: If it was suspended; it is suspended again.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.run_count <= 1:
        return None
    async with current_client() as prefect:
        states = sorted(await prefect.read_flow_run_states(run.id), key=lambda state: state.timestamp)
        before = _before_rescue(states)
        if before is not None and before.is_paused():
            await prefect.set_flow_run_state(run.id, _again(before), force=True)
            raise Pause(state=before)
    if before is not None and before.type == StateType.CANCELLING:
        return Cancelled(message="The run was being cancelled when its worker died.")
    if before is not None and before.is_final():
        return _again(before)
    rescues = sum(state.name == RESCUED for state in states)
    if rescues > MAX_RESCUES:
        raise RescuesExhausted(
            f"The worker of this run died {rescues} times. After {MAX_RESCUES} rescues the run is stopped. What was "
            f"paid for is not lost: once the workers are well, run again with the same key.",
            key=run.parameters.get("key"),
        )
    return None


def _before_rescue(states: list[State[Any]]) -> State[Any] | None:
    """The state in which the run was when it was rescued, if that is how it was started this time."""
    started = max((number for number, state in enumerate(states) if state.is_scheduled()), default=0)
    return states[started - 1] if started and states[started].name == RESCUED else None


def _again(state: State[Any]) -> State[Any]:
    details = state.state_details.model_copy(update={"transition_id": None})
    return State(type=state.type, name=state.name, message=state.message, state_details=details)
