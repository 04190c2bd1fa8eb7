"""Rescues: runs that an automation sets going again because their worker died, and the end of that.

The automation is `rescue` in `deployments/automations.py`. It acts on the server and can't count, so the run itself
looks how often it was rescued, and stops with a sentence.
"""

from prefect.context import FlowRunContext

from prefect_xai_video.errors import RescuesExhausted
from prefect_xai_video.prefect_api import current_client

RESCUED = "Rescued"
"""Name of the state into which the automation puts a run; Prefect starts it again like any scheduled run."""

MAX_RESCUES = 3
"""Rescues of one run; a run that loses its worker a fourth time is stopped."""


async def stop_after_rescues() -> None:
    """Stop the current flow run if it was rescued too often.

    Raises:
        RescuesExhausted: If it was. Nothing was sent by this try.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.run_count <= MAX_RESCUES:
        return
    async with current_client() as prefect:
        states = await prefect.read_flow_run_states(run.id)
    rescues = sum(state.name == RESCUED for state in states)
    if rescues > MAX_RESCUES:
        raise RescuesExhausted(
            f"The worker of this run died {rescues} times. After {MAX_RESCUES} rescues the run is stopped. What was "
            f"paid for is not lost: once the workers are well, run again with the same key.",
            key=run.parameters.get("key"),
        )
