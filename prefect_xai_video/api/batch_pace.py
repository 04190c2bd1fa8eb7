"""Keeps the calls of a process within the limits of xAI's Batch API."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

ADDS = (900, 30.0)
"""Calls that add requests, in so many seconds. xAI allows 1,000 to a team, for all its processes."""
CREATES = (2, 1.2)
"""Batches created, in so many seconds. xAI allows 2 a second; calls arrive closer together than they are sent."""


class CallWindow:
    """Lets at most so many calls begin in any window of time, first come, first served.

    Args:
        limit: Calls in the window.
        seconds: Length of the window.
        clock: Clock in seconds, as fast as that of the event loop. Default: `time.monotonic`.
    """

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._turns: deque[float] = deque(maxlen=limit)

    async def turn(self) -> None:
        """Wait for the turn to send one call. A wait that is cancelled uses its turn up."""
        now = self._clock()
        is_full = len(self._turns) == self._turns.maxlen
        at = max(now, self._turns[0] + self._seconds) if is_full else now
        self._turns.append(at)
        await asyncio.sleep(at - now)


class BatchPace:
    """Turns to create batches and to add requests, for all batches of an account in a process.

    Attributes:
        creates: Turns of calls that create a batch.
        adds: Turns of calls that add requests to any batch.
    """

    def __init__(self) -> None:
        self.creates = CallWindow(*CREATES)
        self.adds = CallWindow(*ADDS)
