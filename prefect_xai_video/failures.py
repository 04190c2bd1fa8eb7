"""Errors of this package in the logs of runs: their sentence, without a traceback.

A wrong key or a moderated prompt is no fault of the code, and a hundred lines of traceback hide the sentence that
says what to do. Prefect logs each exception with its traceback, on the console and to the API; its loggers drop the
traceback here, for `XaiVideoError` alone. The exception itself is raised as ever.
"""

import logging

from prefect_xai_video.errors import XaiVideoError

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
"""Loggers through which Prefect's engines report the exception of a run."""


class _WithoutTraceback(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the traceback of an error of this package; every record passes."""
        if record.exc_info and isinstance(record.exc_info[1], XaiVideoError):
            record.exc_info = record.exc_text = None
        return True


_FILTER = _WithoutTraceback()


def log_without_tracebacks() -> None:
    """Have Prefect log errors of this package without their traceback; it is safe to repeat."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
