"""When to look again: pure functions.

Polls count against a rate limit as low as two requests a second, so each should be worth it. xAI reports progress:
two looks are enough to see how fast a render goes, and the third can come when it ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

REST_SHARE = 0.75
"""How much of the expected rest is waited for: a look that comes too early refines the estimate for one poll."""

GROWTH = 1.12
"""Without progress each look comes this much later than the one before, counted from the submission."""


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """Bounds of the schedule, in seconds.

    Attributes:
        first: Before the first look.
        shortest: Shortest wait between two looks.
        longest: Longest wait between two looks.
    """

    first: float = 18
    shortest: float = 1
    longest: float = 20


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a request that was pending.

    Attributes:
        elapsed: Seconds since the submission.
        progress: What xAI reported, 0-100, or None.
    """

    elapsed: float
    progress: int | None = None


def next_wait(schedule: PollSchedule, looks: Sequence[Look], elapsed: float) -> float:
    """Seconds to wait before looking again.

    Args:
        schedule: Bounds.
        looks: All looks so far, oldest first; none before the first.
        elapsed: Seconds since the submission.
    """
    if not looks:
        return max(schedule.first - elapsed, 0)
    expected = expected_end(looks)
    step = elapsed * (GROWTH - 1) if expected is None else (expected - elapsed) * REST_SHARE
    return min(max(step, schedule.shortest), schedule.longest)


def expected_end(looks: Sequence[Look]) -> float | None:
    """When a render will end, in seconds since its submission; None while no look has told any progress.

    Progress is approximate, and the more so the younger the render: late reports weigh more than early ones.
    """
    told = [(look.elapsed, look.progress) for look in looks if look.progress and look.progress < 100]
    weight = sum(progress**2 for _, progress in told)
    return sum(elapsed * progress * 100 for elapsed, progress in told) / weight if told else None
