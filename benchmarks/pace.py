"""How well processes that know nothing of each other share a rate limit, and how many 429s that costs.

A discrete-event simulation: each process always has requests to send, and a server counts them in fixed windows of
one second. Latencies are 50 to 300 ms, in both directions together. The first minute, in which the limit is learned,
is not counted; its 429s are shown separately. Times are simulated: the figures do not depend on the machine.
"""

import heapq
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from size import is_small

from prefect_xai_video.api.pacer import Pacer, Turn

SECONDS, SMALL_SECONDS = 600, 120
RUNS, SMALL_RUNS = 5, 1
WARM_UP = 60


class Case(NamedTuple):
    """A team's rate, the number of processes, and the figures to reach: share used at least, 429s at most."""

    rate: int
    processes: int
    used: float
    refused: float


CASES = [
    Case(2, 1, 0.95, 0.02),
    Case(2, 3, 0.85, 0.10),
    Case(10, 1, 0.95, 0.02),
    Case(10, 3, 0.95, 0.04),
    Case(39, 3, 0.95, 0.04),
    Case(158, 3, 0.95, 0.04),
]


class Figures(NamedTuple):
    """Share of the limit that was used, 429s per response, Jain's index of fairness, and 429s of the first minute."""

    used: float
    refused: float
    fairness: float
    early: float


@dataclass
class Team:
    """Processes of one team, the server that limits it, and the virtual clock of both."""

    case: Case
    random: Random
    events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)
    window: tuple[int, int] = (0, 0)
    refused: int = 0
    early: int = 0

    def __post_init__(self) -> None:
        self.numbers = iter(range(sys.maxsize))
        self.offset = self.random.random()
        self.starts = [self.random.random() for _ in range(self.case.processes)]
        self.pacers = [Pacer(start, random=Random(self.random.random())) for start in self.starts]
        self.timers = [0] * self.case.processes
        self.accepted = [0] * self.case.processes

    def run(self, seconds: float) -> Figures:
        """Simulate this many seconds."""
        for number, start in enumerate(self.starts):
            self.wake(start, number)
        now = 0.0
        while now < seconds:
            now, _, call, arguments = heapq.heappop(self.events)
            call(now, *arguments)
        total = sum(self.accepted)
        return Figures(
            total / self.case.rate / (seconds - WARM_UP),
            self.refused / (total + self.refused),
            total**2 / self.case.processes / sum(each**2 for each in self.accepted),
            self.early,
        )

    def at(self, time: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call a function at a time."""
        heapq.heappush(self.events, (time, next(self.numbers), call, arguments))

    def later(self, now: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call a function after one latency."""
        self.at(now + self.random.uniform(0.025, 0.15), call, *arguments)

    def wake(self, now: float, number: int) -> None:
        """Wake a process when its next turn is due, and no longer at the time that was due before."""
        self.timers[number] += 1
        due = self.pacers[number].next_turn_at(now)
        self.at(max(due, now), self.send, number, self.timers[number])

    def send(self, now: float, number: int, timer: int) -> None:
        """Send a request, if a turn is due and the timer is the latest."""
        if timer != self.timers[number]:
            return
        pacer = self.pacers[number]
        if pacer.next_turn_at(now) <= now:
            self.later(now, self.serve, number, pacer.take(now, more=True))
        self.wake(now, number)

    def serve(self, now: float, number: int, turn: Turn) -> None:
        """Count a request in its window, and accept or refuse it."""
        window, served = int(now + self.offset), 0
        if window == self.window[0]:
            served = self.window[1]
        self.window = window, served + 1
        is_accepted = served < self.case.rate
        if now < WARM_UP:
            self.early += not is_accepted
        elif is_accepted:
            self.accepted[number] += 1
        else:
            self.refused += 1
        self.later(now, self.reply, number, turn, is_accepted)

    def reply(self, now: float, number: int, turn: Turn, is_accepted: bool) -> None:
        """Tell a process the outcome."""
        if is_accepted:
            self.pacers[number].on_accept(now, turn)
        else:
            self.pacers[number].on_refuse(now, turn, limit=self.case.rate)
        self.wake(now, number)


def figures(case: Case, runs: int, seconds: float) -> Figures:
    """Means of several runs."""
    results = [Team(case, Random(seed)).run(seconds) for seed in range(runs)]
    return Figures(*(statistics.fmean(values) for values in zip(*results, strict=True)))


def main() -> None:
    small, all_reached = is_small(__doc__), True
    for case in CASES:
        size = (SMALL_RUNS, SMALL_SECONDS) if small else (RUNS, SECONDS)
        used, refused, fairness, early = figures(case, *size)
        print(
            f"{case.rate:3} a second, processes: {case.processes}; used {used:6.1%}, 429s {refused:4.1%}, "
            f"fairness {fairness:.2f}; 429s of the first minute: {early:.0f}"
        )
        all_reached &= used >= case.used and refused <= case.refused
    if not small and not all_reached:
        sys.exit("Less than the figures to reach.")


if __name__ == "__main__":
    main()
