"""Scheduling of polls, as pure functions.

Polls count against a rate limit as low as two requests a second, so there should be few. xAI reports progress: two
polls are enough to estimate the speed of a render, and the third can come when it ends.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from prefect_xai_video.api.pace import Urgency

REST_SHARE = 0.75
"""Share of the expected remaining time to wait: an early poll costs little and refines the estimate."""

REST_SHARE_IF_SCARCE, SCARCE_LONGEST = 1.1, 120
"""The same share where requests are scarce, so that the video is done at the next poll; and the longest wait then, in
seconds."""

GROWTH = 1.12
"""Factor between the times of two polls, counted from the submission, if xAI reports no progress."""

LIKELY_SHARE = 0.9
"""Share of a render's expected time after which it is likely to be done."""

LIKELY_SECONDS = 30
"""Age in seconds from which a video is likely to be done, if xAI reports no progress; most take 15 to 70 s."""


SHORTEST_SHARE, SHORTEST = 0.01, 0.25
"""Shortest wait between two polls of a render whose time is known: as a share of that time, and in seconds."""

LEARNING, LEAST_LEARNING = 0.3, 0.01
"""Size of a step toward the quantile, as a share of the time: of the first render, and of later ones at least."""

DONE, DONE_IF_SCARCE = 0.4, 0.9
"""Share of the renders that are to be done at their first poll: usually, and where requests are scarce."""

FAR_POLLS = 5
"""Polls of one render after which the time of the first one is known to be far off."""


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """Bounds of the schedule, in seconds.

    Attributes:
        first: Wait before the first poll, counted from the submission.
        shortest: Shortest wait between two polls.
        longest: Longest wait between two polls.
        learned: When videos like this one are done, counted from the submission; None if that is not known.
        rest_share: Share of the expected remaining time to wait.
    """

    first: float = 18
    shortest: float = 1
    longest: float = 20
    learned: float | None = None
    rest_share: float = REST_SHARE


@dataclass(frozen=True, slots=True)
class Poll:
    """One poll of a pending request.

    Attributes:
        elapsed: Seconds since the submission.
        progress: Progress that xAI reported, 0-100; None if it reported none.
    """

    elapsed: float
    progress: int | None = None


class RenderTimes:
    """Learns from finished renders when the first poll of the next one is worth it.

    The time of the first poll follows a quantile of the render times: it moves down a little with each render that
    was done at the first poll, and up with each that was not. So renders that all take the same time are polled just
    after it, and few polls are early.

    Args:
        is_scarce: Whether requests are scarce. Then more renders are to be done at their first poll, which saves
            requests; otherwise fewer, which saves time: the end of the others is estimated from their progress.
    """

    def __init__(self, is_scarce: Callable[[], bool] = lambda: False) -> None:
        self._is_scarce = is_scarce
        self._first: dict[Hashable, float] = {}
        self._count: Counter[Hashable] = Counter()

    def expected(self, kind: Hashable) -> float | None:
        """Return when to poll first, in seconds since the submission; None if nothing is known yet."""
        return self._first.get(kind)

    def schedule(self, kind: Hashable, schedule: PollSchedule) -> PollSchedule:
        """Build the schedule of a render.

        Args:
            kind: What determines how long it takes.
            schedule: Bounds of the schedule, which hold until something was learned.
        """
        first = self.expected(kind)
        if self._is_scarce():
            schedule = replace(schedule, rest_share=REST_SHARE_IF_SCARCE, longest=SCARCE_LONGEST)
            return schedule if first is None else replace(schedule, first=first, learned=first)
        if first is None:
            return schedule
        shortest = min(max(first * SHORTEST_SHARE, SHORTEST), schedule.shortest)
        return replace(schedule, first=first, shortest=shortest, learned=first)

    def learn(self, kind: Hashable, schedule: PollSchedule, polls: Sequence[Poll], done_at: float) -> None:
        """Learn from a render that is done.

        Args:
            kind: What determines how long it takes.
            schedule: The schedule by which it was polled.
            polls: Its polls while it was pending.
            done_at: When it was seen to be done, in seconds since its submission.
        """
        self._count[kind] += 1
        first, count = self._first.get(kind), self._count[kind]
        if schedule.learned is None or first is None or len(polls) > FAR_POLLS:
            # The end is known as exactly as the last two polls are apart.
            seen = (polls[-1].elapsed + done_at) / 2 if polls else done_at
            self._first[kind] = seen if first is None else first + (seen - first) / min(count, FAR_POLLS)
            return
        share = DONE_IF_SCARCE if self._is_scarce() else DONE
        step = max(LEARNING / count, LEAST_LEARNING)
        self._first[kind] = first * (1 + step * share if polls else 1 - step * (1 - share))


def next_wait(schedule: PollSchedule, polls: Sequence[Poll], elapsed: float) -> float:
    """Compute the seconds to wait before the next poll.

    Args:
        schedule: Bounds of the schedule.
        polls: All polls so far, oldest first; empty before the first.
        elapsed: Seconds since the submission.
    """
    if not polls:
        return max(schedule.first - elapsed, 0)
    expected = expected_end(polls)
    step = elapsed * (GROWTH - 1) if expected is None else (expected - elapsed) * schedule.rest_share
    return min(max(step, schedule.shortest), schedule.longest)


def urgency_of(polls: Sequence[Poll], elapsed: float, learned: float | None = None) -> Urgency:
    """Estimate whether a video is likely to be done: by its progress, or else by its age.

    Args:
        polls: All polls so far, oldest first.
        elapsed: Seconds since the submission.
        learned: When such videos are done, in seconds since their submission; None if that is not known.
    """
    expected = expected_end(polls)
    likely = (LIKELY_SECONDS if learned is None else learned) if expected is None else expected * LIKELY_SHARE
    return Urgency.LIKELY_DONE if elapsed >= likely else Urgency.EARLY


def expected_end(polls: Sequence[Poll]) -> float | None:
    """Estimate the end of a render, in seconds since its submission; None until progress has been reported.

    Progress is approximate, most of all early in a render, so late reports weigh more than early ones.
    """
    reported = [(poll.elapsed, poll.progress) for poll in polls if poll.progress and poll.progress < 100]
    weight = sum(progress**2 for _, progress in reported)
    return sum(elapsed * progress * 100 for elapsed, progress in reported) / weight if reported else None
