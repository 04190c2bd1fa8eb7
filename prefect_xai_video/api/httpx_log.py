"""Redaction of httpx's log."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import httpx

from prefect_xai_video.api.redaction import Redaction

_log_redaction: ContextVar[Callable[[object], object] | None] = ContextVar("_log_redaction", default=None)


def _redact_record(record: logging.LogRecord) -> bool:
    """Redact a record of httpx, which logs URLs and reason phrases at INFO: the URL of a video gives access to it."""
    redact = _log_redaction.get()
    if redact is not None and isinstance(record.args, tuple):
        record.args = tuple(redact(arg) for arg in record.args)
    return True


logging.getLogger("httpx").addFilter(_redact_record)


@contextmanager
def redacted_log(redact: Redaction, *, hide_urls: bool = False) -> Iterator[None]:
    """Redact what httpx logs inside a `with` block.

    Args:
        redact: Applied to all texts.
        hide_urls: Whether to log only scheme and host of URLs.
    """

    def redacted(arg: object) -> object:
        if hide_urls and isinstance(arg, httpx.URL):
            return redact(f"{arg.scheme}://{arg.host}/…")
        return redact(arg) if isinstance(arg, str) else arg

    token = _log_redaction.set(redacted)
    try:
        yield
    finally:
        _log_redaction.reset(token)


def unlogged_urls() -> AbstractContextManager[None]:
    """Keep URLs out of httpx's log inside a `with` block; scheme and host are still logged."""
    return redacted_log(Redaction(), hide_urls=True)
