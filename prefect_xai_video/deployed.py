"""The places that a run may read inputs from: in a deployment only those that are meant for it.

Whoever may fill in a form, call Prefect's API or make a schedule chooses the parameters of such a run, and could have
files of the worker sent to xAI. Direct calls and the command line may read what their user may.
"""

import asyncio
import os
from collections.abc import Iterable
from contextvars import Context

from prefect.context import FlowRunContext
from prefect.runtime import deployment

from prefect_xai_video.reading import Readable
from prefect_xai_video.settings import PREFIX, XaiVideoSettings

HINT = f"The setting {PREFIX}INPUT_ROOTS adds places."


async def readable_places(own: Iterable[str] = ()) -> Readable | None:
    """Tell what the current run may read as an input.

    Args:
        own: Places of the run itself: the directory of its storage, or `s3://` with its bucket.

    Returns:
        The places: `own`, the directory of the setting `HOME` and those of `INPUT_ROOTS`. None for any place, if the
        run belongs to no deployment.
    """
    if not await asyncio.to_thread(_is_deployed):
        return None
    settings = XaiVideoSettings.current()
    return Readable.of([*own, str(settings.home.expanduser()), *settings.input_roots], HINT)


def _is_deployed() -> bool:
    """Whether the current run, or one round it, belongs to a deployment. If that can't be told, it counts as one."""
    context = FlowRunContext.get()
    started_by_prefect = "PREFECT__FLOW_RUN_ID" in os.environ
    run = context.flow_run if context else None
    if run is not None and run.parent_task_run_id is None and run.deployment_id is None and not started_by_prefect:
        # The outermost run, started by hand: Prefect would be asked for what is known here.
        return False
    try:
        # In an empty context, Prefect tells it of the run for which this process was started.
        return bool(deployment.id or (started_by_prefect and Context().run(lambda: deployment.id)))
    except Exception:
        return True
