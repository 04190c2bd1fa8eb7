"""Prefect hooks of the flows: what a run that was cancelled, or whose process died, leaves behind, and how to go on.

They run in another process than the flow did, without its context and, after a crash, without its memory. What they
know is written on the run itself, as labels, by `start_video`. Only flows with these hooks are labelled: a run that
makes several videos has one set of labels, and the last video would win.
"""

import asyncio
import logging
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger

from prefect_xai_video.prefect_api import current_client, soon_again
from prefect_xai_video.receipts import Receipt

LABEL = "xai-video."
"""Prefix of the labels `key`, `receipt` and `request-id`."""

LABEL_SECONDS = 5
"""How long a run that has just paid may be held up by its labels."""

logger = logging.getLogger(__name__)


async def label_run(key: str, receipt_uri: str, receipt: Receipt | None) -> None:
    """Write on the current run of a one-video flow which video it makes. Best effort: a failure is only logged."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not _makes_one_video(context.flow):
        return
    labels = {"key": key, "receipt": receipt_uri}
    if receipt is not None and receipt.request_id is not None:
        labels["request-id"] = receipt.request_id
    try:
        async with asyncio.timeout(LABEL_SECONDS):
            await _write(context.flow_run.id, {LABEL + name: value for name, value in labels.items()})
    except Exception:
        logger.debug("The labels of the flow run could not be written.", exc_info=True)


async def tell_how_to_go_on(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Log what has become of the video of a run that was cancelled or has crashed."""
    async with get_client() as client:
        labels = (await client.read_flow_run(flow_run.id)).labels
    key, request_id = labels.get(f"{LABEL}key"), labels.get(f"{LABEL}request-id")
    if request_id is not None:
        found = (
            f"xAI has request {request_id}; it has no cancel, so the video is rendered and billed all the same. "
            f"Retry this run, or run again with the key {key}: it goes on without paying again."
        )
    elif key is not None:
        found = (
            f"If there is a receipt {labels.get(f'{LABEL}receipt')}, it says whether anything was sent for the key "
            f"{key}; if there is none in that very place, nothing was."
        )
    else:
        key = flow_run.parameters.get("key") or f"{flow_run.id}/..."
        found = (
            f"No request id is known. If a receipt {key}.json is in the storage, it says whether anything was sent. "
            f"Retry this run, or run again with that key: what was paid for is not paid for again."
        )
    happened = "has crashed" if state.is_crashed() else "was cancelled"
    flow_run_logger(flow_run, flow).warning("The run %s. %s", happened, found)


def _makes_one_video(flow: Flow[Any, Any] | None) -> bool:
    return flow is not None and tell_how_to_go_on in flow.on_cancellation_hooks


async def _write(flow_run_id: UUID, labels: dict[str, str]) -> None:
    async with current_client() as prefect:
        await soon_again(prefect, lambda prefect: prefect.update_flow_run_labels(flow_run_id, dict(labels)))
