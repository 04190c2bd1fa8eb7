"""Time-outs and retries of xAI's calls."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from prefect_xai_video.errors import (
    XaiVideoError,
)

R = TypeVar("R")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time-outs in seconds.

    The defaults of `start` and `get` are those of xAI's own REST client.

    Attributes:
        connect: To open a connection.
        start: For the response to a POST.
        get: For the response to a poll.
        download: Between two chunks of a video.
        download_total: For a whole download, retries included. The default is well below the hour for which a URL
            is valid, and enough for 512 MiB at 5 Mbit/s.
    """

    connect: float = 10
    start: float = 60
    get: float = 30
    download: float = 60
    download_total: float = 900

    def of(self, seconds: float) -> httpx.Timeout:
        """Build httpx's time-outs for a call that may take so many seconds."""
        return httpx.Timeout(seconds, connect=min(self.connect, seconds))


@dataclass(frozen=True, slots=True)
class Retries:
    """Number of attempts of a call, and the waits between them in seconds.

    Attributes:
        attempts: Most attempts, the first one included.
        first_wait: Wait before the first retry; it doubles with each further one.
        longest_wait: Longest such wait.
        longest_retry_after: Longest Retry-After that is honoured; a longer one ends the call with an error.
    """

    attempts: int = 5
    first_wait: float = 1
    longest_wait: float = 10
    longest_retry_after: float = 120

    def is_too_long(self, retry_after: float | None) -> bool:
        """Whether a Retry-After is longer than the longest that is honoured."""
        return retry_after is not None and retry_after > self.longest_retry_after

    async def call(
        self,
        function: Callable[[], Awaitable[R]],
        is_retryable: Callable[[XaiVideoError], bool] = lambda error: True,
    ) -> R:
        """Call a function, and retry it after transient errors.

        Args:
            function: The function to call.
            is_retryable: Whether a transient error may be retried. Default: always.

        Returns:
            The function's result.
        """

        async def attempt() -> R:
            return await function()

        def may_retry(error: BaseException) -> bool:
            return isinstance(error, XaiVideoError) and error.transient and is_retryable(error)

        backoff = wait_exponential(self.first_wait, self.longest_wait) + wait_random(0, self.first_wait)

        def wait(state: RetryCallState) -> float:
            retry_after = getattr(_error_in(state), "retry_after", None)
            return backoff(state) if retry_after is None else float(retry_after)

        retrying = AsyncRetrying(
            retry=retry_if_exception(may_retry),
            wait=wait,
            stop=stop_after_attempt(self.attempts),
            before_sleep=_log_retry,
            reraise=True,
        )
        return await retrying(attempt)


def _error_in(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _log_retry(state: RetryCallState) -> None:
    error = _error_in(state)
    wait = state.next_action.sleep if state.next_action else 0
    logger.warning("%s Retrying in %.0f s.", getattr(error, "message", error), wait)
