"""Pacer: learns when one process may send requests, without asyncio and without a clock of its own.

xAI's rate limit is per team and model, is not known, and is shared by processes that do not communicate. It is
counted in what seem to be fixed windows of one second. So it matters not only how many requests a process sends, but
when.

- Until the first 429 there is only a slow start, as in TCP: in each second `START` requests, or twice as many as xAI
  accepted in the last second if that is more.
- Then the process has slots in a frame of `FRAME_SECONDS`, which repeats. A slot whose request is refused is given
  up; one whose request is accepted is kept. While requests wait, a new slot is tried now and then at a random time.
  So processes settle into the gaps that others leave, and only new slots still cause a 429.

The number of slots follows additive increase and multiplicative decrease, which leads to equal shares: processes gain
slots at similar speeds, and lose them in proportion to those they have.

All constants were chosen by simulation, see `benchmarks/pace.py`.
"""

import math
import re
from collections import Counter, deque
from dataclasses import dataclass
from itertools import takewhile
from random import Random

from prefect_xai_video.api.frames import TICKS, Frame
from prefect_xai_video.errors import not_allowed, shown

FRAME_SECONDS = 3
"""Length of a frame in seconds: whole, as the windows are. The lowest rate is one request per frame.

A longer frame allows more even shares at a low rate, but processes take longer to settle.
"""

START = 4
"""Requests that may be sent in the first second."""

MEMORY_SECONDS = 10
"""Seconds of the slow start in which the most accepted requests count when it ends."""

BURST_SECONDS = 1
"""Duration of a burst in seconds: the 429s that follow its first one count as the same decrease."""

RELEASE_SHARE = 0.02
"""Share of all slots that a burst releases in addition to the refused ones; without it shares become even slowly."""

TRY_RATE = 0.05
"""New slots per second at a rate of one request a second."""

TRY_EXPONENT = 0.75
"""How new slots grow with the rate: below 1, so that a process with few slots gains on one with many."""

MIN_SHARE = 0.25
"""Share of a known limit below which a process tries new slots as if it had this share."""

HOLD_SECONDS = 0.2
"""Seconds for which unused slots remain usable, so that a late timer misses none. The latest slot always does."""

LIMIT_SECONDS = 300
"""Seconds after its last report for which a limit that xAI has named is not exceeded; it may have been raised."""

MAX_RETRY_AFTER = 120
"""Longest Retry-After that is honoured, in seconds."""

MAX_BACKOFF = 16
"""Longest pause after refusals of the only slot, in frames."""

_LIMIT = re.compile(
    r"requests\s+per\s+(second|minute|hour)\W*actual\s*/\s*limit\W*[\d.,]+\s*/\s*(\d+(?:\.\d+)?)", re.IGNORECASE
)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}


def parse_rate_limit(text: str) -> float | None:
    """Read the team's limit from the text of a 429, in requests per second; None if it names none.

    Such a text contains `Requests per Second (actual/limit): 3/2`.
    """
    found = _LIMIT.search(text)
    limit = float(found[2]) / _SECONDS[found[1].lower()] if found else 0
    return limit if limit > 0 else None


@dataclass(frozen=True, slots=True)
class Turn:
    """Permission to send one request.

    Attributes:
        slot: Its slot, in ticks since the start of the frame. Default: None, before the first 429.
    """

    slot: int | None = None


class Pacer:
    """Decides when the next request may be sent. All times are seconds of one monotonic clock.

    Args:
        now: Current time.
        ceiling: Highest rate in requests per second, at least 1. Default: none.
        random: Source of randomness. Default: a new one.

    Raises:
        InvalidRequest: If the ceiling is below 1.
    """

    def __init__(self, now: float, ceiling: float | None = None, random: Random | None = None) -> None:
        if ceiling is not None and not ceiling >= 1:
            raise not_allowed("ceiling", shown(ceiling), "at least 1 request per second")
        self._origin = now
        self._ceiling = ceiling
        # Not for secrets: it only spreads the requests of several processes.
        self._random = random or Random()  # noqa: S311
        self._start: _SlowStart | None = _SlowStart()
        self._frame = Frame(FRAME_SECONDS, self._random)
        self._used = 0
        self._spare: Turn | None = None
        self._blocked_until = now
        self._burst_until = self._limited_at = now
        self._min_slots = 1
        self._failures = 0
        self._limit: float | None = None
        self._limit_until = now
        self._tried: dict[int, float] = {}
        self._gap = 1 / TRY_RATE
        self._next_try = now
        if ceiling is not None:
            self._start = None
            self._frame.spread(int(ceiling * FRAME_SECONDS))

    @property
    def rate(self) -> float | None:
        """Learned rate in requests per second; None before the first 429."""
        return None if self._start else len(self._frame) / FRAME_SECONDS

    def next_turn_at(self, now: float) -> float:
        """Compute when the next request may be sent; a time that has passed means now."""
        if self._spare:
            at = now
        elif self._start:
            at = self._start.next_at(now)
        else:
            at = self._origin + self._next_slot(now) / TICKS
        return max(at, self._blocked_until)

    def take(self, now: float, *, more: bool = False) -> Turn:
        """Take the next turn, which must be due.

        Args:
            now: Current time.
            more: Whether another request is waiting; a higher rate is only tried if so.
        """
        if self._spare:
            turn, self._spare = self._spare, None
            return turn
        if self._start:
            self._start.sent.append(now)
            return Turn()
        self._used = self._next_slot(now)
        if more and now >= self._next_try:
            self._try_another(now)
        return Turn(self._used % self._frame.period)

    def give_back(self, turn: Turn) -> None:
        """Return an unused turn; the next one is then due now."""
        self._spare = turn

    def on_accept(self, now: float, turn: Turn) -> None:
        """Record a response that is not a 429."""
        self._failures = 0
        if self._start:
            self._start.accepted.append(now)
        elif turn.slot is None:
            # It was sent before the first 429 and counts as those that were accepted earlier in that second.
            if now < self._limited_at + 1:
                self._add_each_second(now)
        elif self._tried.pop(turn.slot, -math.inf) > self._burst_until - BURST_SECONDS:
            # Success since the last 429: there may be room for more.
            self._gap = max(self._gap / 2, FRAME_SECONDS / len(self._frame))
            self._next_try = min(self._next_try, now + self._gap)

    def on_refuse(
        self, now: float, turn: Turn, *, retry_after: float | None = None, limit: float | None = None
    ) -> None:
        """Record a 429, which gives up its slot.

        Args:
            now: Current time.
            turn: Turn of the refused request.
            retry_after: Seconds that xAI asked to wait. Default: none.
            limit: Limit that xAI named, in requests per second. Default: unknown.
        """
        if limit is not None and not self._is_disproved(now, limit):
            self._limit, self._limit_until = limit, now + LIMIT_SECONDS
        if retry_after is not None:
            self._block(now + min(retry_after, MAX_RETRY_AFTER))
        if self._start:
            self._leave_start(now, self._start)
        is_new = now >= self._burst_until
        if is_new:
            self._burst_until = now + BURST_SECONDS
            self._min_slots = max(len(self._frame) // 2, 1)
        if turn.slot is not None and turn.slot in self._frame:
            self._give_up(now, turn.slot)
            released = RELEASE_SHARE * len(self._frame) + self._random.random() if is_new else 0
            for _ in range(int(released)):
                self._release(self._frame.any())
        self._slow_down(now)

    def _leave_start(self, now: float, start: "_SlowStart") -> None:
        """Begin with as many slots per second as requests were accepted in the best of the last seconds."""
        self._start, self._spare, self._limited_at = None, None, now
        self._used = max(self._used, self._ticks(now))
        for _ in range(start.max_accepted(now)):
            self._add_each_second(now)

    def _is_disproved(self, now: float, limit: float) -> bool:
        """Whether more requests were accepted in a second than a limit allows: then it is of something else."""
        return self._start is not None and self._start.max_accepted(now) > 2 * limit

    def _add_each_second(self, now: float) -> None:
        first = self._random.randrange(TICKS)
        for second in range(FRAME_SECONDS):
            if len(self._frame) + 1 <= self._max_slots(now):
                self._frame.add(first + second * TICKS)

    def _max_slots(self, now: float) -> float:
        limit = self._limit if self._limit and now < self._limit_until else math.inf
        return max(min(limit, self._ceiling or math.inf) * FRAME_SECONDS, 1)

    def _try_another(self, now: float) -> None:
        self._next_try = now + self._gap * self._random.uniform(0.5, 1.5)
        if len(self._frame) + 1 <= self._max_slots(now):
            self._tried[self._frame.add_somewhere()] = now

    def _slow_down(self, now: float) -> None:
        """Try new slots only at the slowest speed, until one is accepted."""
        share = (self._limit or 0) * MIN_SHARE
        speed = TRY_RATE * max(len(self._frame) / FRAME_SECONDS, share) ** TRY_EXPONENT
        self._gap = 1 / speed
        self._next_try = now + self._gap * self._random.uniform(0.5, 1.5)

    def _give_up(self, now: float, slot: int) -> None:
        if len(self._frame) > 1:
            self._release(slot)
            return
        # More processes than slots: each has to skip frames.
        self._failures += 1
        self._tried.pop(slot, None)
        self._frame.remove(slot)
        frames = min(2**self._failures, MAX_BACKOFF)
        self._block(now + self._random.uniform(0, frames * FRAME_SECONDS))

    def _release(self, slot: int) -> None:
        if len(self._frame) > self._min_slots:
            self._tried.pop(slot, None)
            self._frame.remove(slot)

    def _block(self, until: float) -> None:
        self._blocked_until = max(self._blocked_until, until)
        # No slot of that time remains usable.
        self._used = max(self._used, self._ticks(self._blocked_until))
        self._spare = None

    def _next_slot(self, now: float) -> int:
        """Compute the ticks of the next slot to be used."""
        ticks = self._ticks(now)
        missed = min(ticks - round(HOLD_SECONDS * TICKS), self._frame.latest(ticks) - 1)
        return self._frame.following(max(self._used, missed))

    def _ticks(self, now: float) -> int:
        return round((now - self._origin) * TICKS)


class _SlowStart:
    """Limits requests before the first 429 by those of the last second; they double with each response time.

    Attributes:
        sent: Times of the requests.
        accepted: Times of the responses.
    """

    def __init__(self) -> None:
        self.sent: deque[float] = deque()
        self.accepted: deque[float] = deque()

    def next_at(self, now: float) -> float:
        """Compute when the next request may be sent."""
        _drop_until(self.sent, now - 1)
        allowed = max(START, 2 * self.accepted_lately(now))
        return now if len(self.sent) < allowed else self.sent[-allowed] + 1

    def accepted_lately(self, now: float) -> int:
        """Count the responses of the last second."""
        _drop_until(self.accepted, now - MEMORY_SECONDS)
        return sum(1 for _ in takewhile(lambda time: time > now - 1, reversed(self.accepted)))

    def max_accepted(self, now: float) -> int:
        """Count the responses of the second with most of them; the last one may have been idle."""
        _drop_until(self.accepted, now - MEMORY_SECONDS)
        return max(Counter(math.floor(now - time) for time in self.accepted).values(), default=0)


def _drop_until(times: deque[float], end: float) -> None:
    while times and times[0] <= end:
        times.popleft()
