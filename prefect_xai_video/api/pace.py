"""Pace: hands out turns to send requests, so that all requests of a process keep xAI's unknown rate limit.

`Pacer` decides when the next turn is due; this module decides who gets it, and waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from prefect_xai_video.api.pacer import Pacer, Turn, parse_rate_limit
from prefect_xai_video.errors import RateLimited, XaiVideoError

R = TypeVar("R")

FAIR_EVERY = 4
"""One turn in this many goes to the request that has waited longest, whatever its kind, so that none waits for ever.

A poll waits for at most this many turns for each request that came before it.
"""


class Urgency(Enum):
    """Kind of a request, the most urgent one first; within one kind, first come is first served.

    A submission that waits has a slot in flight, in which nothing is rendered meanwhile: 200 videos at two requests a
    second took 331 s with polls first, and 289 s so.
    """

    SUBMISSION = "submission"
    """A POST."""
    LIKELY_DONE = "likely-done"
    """A poll of a video that is probably done."""
    EARLY = "early"
    """A poll of a video that is probably not done."""


class Pace:
    """Turns to send requests, for all videos of one account and model in a process, in one event loop.

    It learns the rate limit from 429s, and adds no wait before the first one, except to a sudden burst of requests.
    A turn that is never reported does no harm.

    ```python
    turn = await pace.turn(Urgency.SUBMISSION)
    # Send one request, then report its outcome:
    pace.accepted(turn)
    ```

    Args:
        ceiling: Highest rate in requests per second, at least 1. Default: none.
        clock: Clock in seconds, as fast as that of the event loop. Default: `time.monotonic`.

    Raises:
        InvalidRequest: If the ceiling is below 1.
    """

    def __init__(self, ceiling: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pacer = Pacer(clock(), ceiling)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._queue = _Queue()

    @property
    def rate(self) -> float | None:
        """Learned rate of this process in requests per second; None before the first 429."""
        return self._pacer.rate

    async def turn(self, urgency: Urgency) -> Turn:
        """Wait for the turn to send one request.

        Returns:
            The turn, for the report of its outcome.
        """
        self._use(asyncio.get_running_loop())
        now = self._clock()
        if self._queue.is_empty() and self._pacer.next_turn_at(now) <= now:
            return self._pacer.take(now)
        future: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._queue.push(urgency, future)
        if self._timer is None:
            self._hand_out()
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelled after the turn was handed out, but before it was received.
            if future.done() and not future.cancelled():
                self._pacer.give_back(future.result())
                self._hand_out()
            raise

    def accepted(self, turn: Turn) -> None:
        """Report a response that is not a 429."""
        self._pacer.on_accept(self._clock(), turn)
        self._hand_out()

    def refused(self, turn: Turn, *, retry_after: float | None = None, limit: float | None = None) -> None:
        """Report a 429.

        Args:
            turn: Turn of the request.
            retry_after: Seconds that xAI asked to wait. Default: none.
            limit: Limit that xAI named, in requests per second. Default: unknown.
        """
        self._pacer.on_refuse(self._clock(), turn, retry_after=retry_after, limit=limit)
        self._hand_out()

    def report(self, turn: Turn, error: BaseException | None = None) -> None:
        """Report the outcome of a request by its error; without a response there is nothing to report.

        Args:
            turn: Turn of the request.
            error: Its error. Default: none.
        """
        if isinstance(error, RateLimited):
            self.refused(turn, retry_after=error.retry_after, limit=parse_rate_limit(error.message))
        elif error is None or (isinstance(error, XaiVideoError) and error.http_status is not None):
            self.accepted(turn)

    def _use(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError("A Pace can't be used by two event loops at once.")
        # The tasks of a closed loop no longer wait.
        self._loop, self._timer, self._queue = loop, None, _Queue()

    def _hand_out(self) -> None:
        """Hand out all turns that are due, and set the timer to the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while not self._queue.is_empty() and self._loop is not None:
            now = self._clock()
            at = self._pacer.next_turn_at(now)
            if at > now:
                self._timer = self._loop.call_later(at - now, self._hand_out)
                return
            waiter = self._queue.pop()
            waiter.future.set_result(self._pacer.take(now, more=not self._queue.is_empty()))


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A request that waits for its turn, with its number."""

    number: int
    future: asyncio.Future[Turn]


class _Queue:
    """Waiting requests, by urgency. Cancelled ones are dropped when they come to the front."""

    def __init__(self) -> None:
        self._waiting: dict[Urgency, deque[_Waiter]] = {urgency: deque() for urgency in Urgency}
        self._pushed = self._popped = 0

    def push(self, urgency: Urgency, waiter: asyncio.Future[Turn]) -> None:
        """Add a request."""
        self._pushed += 1
        self._waiting[urgency].append(_Waiter(self._pushed, waiter))

    def is_empty(self) -> bool:
        """Whether no request waits that has not been cancelled."""
        for waiting in self._waiting.values():
            while waiting and waiting[0].future.done():
                waiting.popleft()
        return not any(self._waiting.values())

    def pop(self) -> _Waiter:
        """Remove the next request; the queue must not be empty."""
        self.is_empty()
        self._popped += 1
        queues = [waiting for waiting in self._waiting.values() if waiting]
        is_fair = self._popped % FAIR_EVERY == 0
        return (min(queues, key=lambda waiting: waiting[0].number) if is_fair else queues[0]).popleft()


async def paced(pace: Pace | None, urgency: Urgency, call: Callable[[], Awaitable[R]]) -> R:
    """Send a request in its turn, and report its outcome.

    Args:
        pace: The pace; None sends it at once.
        urgency: Kind of the request.
        call: Sends the request.

    Returns:
        The result of `call`.
    """
    if pace is None:
        return await call()
    turn = await pace.turn(urgency)
    try:
        result = await call()
    except Exception as error:
        pace.report(turn, error)
        raise
    pace.report(turn)
    return result
