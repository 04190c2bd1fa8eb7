"""Prefect hooks of the flows: after a cancellation or a crash, they log the state of the video and how to continue.

The hooks run in another process than the flow, without its context and, after a crash, without its memory. They read
the labels that `start_video` writes to the flow run. Only runs of flows that make one video are labelled: a run has
one set of labels, so in a run that makes several videos the last one would overwrite the others.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger

from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.orchestration.derived_keys import run_tail
from prefect_xai_video.orchestration.prefect_api import current_client

LABEL = "xai-video."
"""Prefix of the labels `key`, `receipt` and `request-id`."""

LABEL_SECONDS = 8
"""Longest delay of the end of an interrupted run by writing its labels, in seconds; Prefect kills it after 10 s."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def labelled_run() -> AsyncIterator[None]:
    """Label the current flow run with the one video that it makes, as soon as `label_run` names it.

    The labels are written while the run goes on: SQLite often has a write conflict here, after which Prefect's client
    waits for seconds. Only an interrupted run waits for them, since only its hooks read them.
    """
    labels = _Labels()
    _labels_of_run.set(labels)
    try:
        yield
    except BaseException:
        await labels.written()
        raise
    finally:
        labels.stop()
        _labels_of_run.set(None)


def label_run(key: str, receipt_uri: str, receipt: Receipt | None) -> None:
    """Label the current run, if it is one of a flow that makes one video. Best effort: a failure is only logged."""
    labels, context = _labels_of_run.get(), FlowRunContext.get()
    if labels is None or context is None or context.flow_run is None:
        return
    values = {"key": key, "receipt": receipt_uri}
    if receipt is not None and receipt.request_id is not None:
        values["request-id"] = receipt.request_id
    labels.write(context.flow_run.id, {LABEL + name: value for name, value in values.items()})


class _Labels:
    """The labels of one run, written in the background."""

    def __init__(self) -> None:
        self._writing: asyncio.Task[None] | None = None

    def write(self, flow_run_id: UUID, labels: dict[str, str]) -> None:
        self._writing = asyncio.get_running_loop().create_task(_write(flow_run_id, labels))

    async def written(self) -> None:
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=LABEL_SECONDS)

    def stop(self) -> None:
        if self._writing is not None:
            self._writing.cancel()


_labels_of_run: ContextVar[_Labels | None] = ContextVar("labels_of_run", default=None)


async def log_how_to_continue(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Log the state of the video of a cancelled or crashed run, and how to continue."""
    async with get_client() as client:
        labels = (await client.read_flow_run(flow_run.id)).labels
    key, request_id = labels.get(f"{LABEL}key"), labels.get(f"{LABEL}request-id")
    if request_id is not None:
        advice = (
            f"xAI accepted request {request_id}, which can't be cancelled: the video will be rendered and billed. "
            f"Retry this run, or run again with the key {key}, to continue without paying again."
        )
    elif key is not None:
        advice = (
            f"The receipt {labels.get(f'{LABEL}receipt')} records whether anything was sent for the key {key}. "
            f"If there is no such receipt, nothing was sent. Retry this run, or run again with the same key: a video "
            f"is never paid for twice."
        )
    else:
        key = flow_run.parameters.get("key")
        receipt = f"receipt {key}.json" if key else f"receipt with {run_tail(flow_run.id)} in its path"
        advice = (
            f"No request id is known. If the storage contains a {receipt}, it records whether anything was sent. "
            f"Retry this run, or run again with that key: a video is never paid for twice."
        )
    flow_run_logger(flow_run, flow).warning("The run %s. %s", _end(state), advice)


def log_how_to_continue_segments(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Log how a cancelled or crashed run of a long video is continued: by its own key, whichever segment it made."""
    key = flow_run.parameters.get("key")
    again = f", or run again with the key {key}," if key else ""
    advice = f"Retry this run{again} to continue: no segment is paid for twice."
    flow_run_logger(flow_run, flow).warning(
        "The run %s. xAI renders and bills what it has accepted. %s", _end(state), advice
    )


def _end(state: State[Any]) -> str:
    return "crashed" if state.is_crashed() else "was cancelled"


async def _write(flow_run_id: UUID, labels: dict[str, str]) -> None:
    try:
        async with current_client() as prefect:
            await prefect.update_flow_run_labels(flow_run_id, dict(labels))
    except Exception:
        logger.debug("Could not write the labels of the flow run.", exc_info=True)
