"""The team's rate limits: requests per second, submissions and polls together; and calls of the Batch API."""

import time
from collections import deque

from prefect_xai_video.emulator import refusals


class RequestRate:
    """Counts requests in fixed windows of one second.

    Refused requests count as well, so a client that keeps repeating them is refused for the rest of the second.

    Args:
        limit: Requests per second; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._window = 0
        self._count = 0

    def check(self) -> None:
        """Count a request.

        Raises:
            Refused: 429 if the second already has as many requests as the limit.
        """
        if self._limit is None:
            return
        window = int(time.monotonic())
        if window != self._window:
            self._window, self._count = window, 0
        self._count += 1
        if self._count > self._limit:
            raise refusals.too_many_requests(self._count, self._limit)


class RollingRate:
    """Counts calls in a rolling window. Refused calls count as well.

    Args:
        limit: Calls in the window.
        seconds: Length of the window.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=limit)

    def check(self) -> None:
        """Count a call.

        Raises:
            Refused: 429 if the window already has as many calls as the limit.
        """
        now = time.monotonic()
        is_full = len(self._times) == self._limit and now - self._times[0] < self._seconds
        self._times.append(now)
        if is_full:
            raise refusals.too_many_calls(self._limit, self._seconds)
