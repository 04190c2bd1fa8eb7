"""Places from which a run may read inputs: restricted for runs of deployments.

The parameters of such a run come from anyone who may fill in a form, call Prefect's API or create a schedule. Without
a restriction, they could have the worker's files sent to xAI. Direct calls and the command line may read everything
that their user may read.
"""

import asyncio
import os
from collections.abc import Iterable
from contextvars import Context

from prefect.context import FlowRunContext
from prefect.runtime import deployment

from prefect_xai_video.engine.reading import Readable
from prefect_xai_video.settings import PREFIX, XaiVideoSettings

HINT = f"To allow another location, add it to the setting {PREFIX}INPUT_ROOTS where the flow runs. Nothing was sent."


async def readable_places(own: Iterable[str] = ()) -> Readable | None:
    """Return the places from which the current run may read inputs.

    Args:
        own: Places of the run itself: the directory of its storage, or `s3://` and its bucket.

    Returns:
        `own`, the directory of the setting `HOME`, and the places in `INPUT_ROOTS`. None, which means any place, if
        the run does not belong to a deployment.
    """
    if not await asyncio.to_thread(_is_deployed):
        return None
    settings = XaiVideoSettings.current()
    return Readable.of([*own, str(settings.home.expanduser()), *settings.input_roots], HINT)


def _is_deployed() -> bool:
    """Whether the current run, or one that encloses it, belongs to a deployment. If unknown, it counts as one."""
    context = FlowRunContext.get()
    started_by_prefect = "PREFECT__FLOW_RUN_ID" in os.environ
    run = context.flow_run if context else None
    if run is not None and run.parent_task_run_id is None and run.deployment_id is None and not started_by_prefect:
        # The outermost run, started by hand: the answer is known without a request to Prefect.
        return False
    try:
        # In an empty context, Prefect refers to the run for which this process was started.
        return bool(deployment.id or (started_by_prefect and Context().run(lambda: deployment.id)))
    except Exception:
        return True
