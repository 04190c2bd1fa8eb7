"""Log lines of runs: one per state change, and errors of this package once per run and without a traceback.

A wrong key or a moderated prompt is not a bug, and a hundred lines of traceback hide the sentence that says what to
do. Prefect logs each exception with its traceback, to the console and to the API, and once more in the line with the
final state. A filter on its loggers removes the former for every `XaiVideoError`, and for nothing else. The exception
itself is raised unchanged.
"""

import logging
from decimal import Decimal

from prefect.logging import get_run_logger

from prefect_xai_video.engine.posting import ACCEPTED, traced
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.money import dollars

RUNS = ("prefect.flow_runs", "prefect.task_runs")
"""Loggers to which Prefect writes the exception of a run, and its final state after that."""

ENGINE = "prefect.engine"
"""Logger to which Prefect writes that a process ends with an exception."""


class _WithoutTraceback(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the traceback of an error of this package, or the whole record if its sentence comes again."""
        if not record.exc_info or not isinstance(record.exc_info[1], XaiVideoError):
            return True
        record.exc_info = record.exc_text = None
        return record.name not in RUNS or record.levelno < logging.ERROR


_FILTER = _WithoutTraceback()


def log_without_tracebacks() -> None:
    """Make Prefect log errors of this package once and without traceback; calling it again changes nothing."""
    for name in (*RUNS, ENGINE):
        logging.getLogger(name).addFilter(_FILTER)


def log_accepted(key: str, request_id: str, trace_id: str | None) -> None:
    """Log a request id as soon as it arrives, as a warning: it is worth money and not recorded anywhere else yet."""
    get_run_logger().warning(ACCEPTED, request_id, key, traced(trace_id))


def log_change(receipt: Receipt) -> None:
    """Log a state change in one line, without the prompt and without xAI's URLs."""
    logger = get_run_logger()
    match receipt.state:
        case "sending":
            logger.info("Sending %s request to %s for key %s", receipt.mode, receipt.model, receipt.key)
        case "submitted" if receipt.attempt.reason == "adopted":
            logger.info("Adopted request %s for key %s", receipt.request_id, receipt.key)
        case "submitted":
            logger.info(
                "Submitted as request %s%s", receipt.request_id, _priced(receipt.estimated_cost_usd, "about ")
            )
        case "done":
            cost = _priced(receipt.cost_usd)
            logger.info("Key %s was rendered %.0f s after its submission%s", receipt.key, _seconds_of(receipt), cost)
        case "unknown" if receipt.xai_batch is not None:
            logger.warning("No response to the submission of key %s: xAI's batch will tell its outcome", receipt.key)
        case "unknown" if receipt.undelivered:
            logger.warning("No response to the submission of key %s: waiting for its video to arrive", receipt.key)
        case "stored":
            logger.info("Stored %s", receipt.file.uri if receipt.file else receipt.key)
        case _:
            # The reason is that of the error that follows.
            logger.info("The request for key %s is %s", receipt.key, receipt.state)


def _priced(cost: Decimal | None, about: str = "") -> str:
    return "" if cost is None else f", {about}{dollars(cost)}"


def _seconds_of(receipt: Receipt) -> float:
    return (receipt.attempt.outcome_at - receipt.attempt.started_at).total_seconds()
