"""How far a batch is, for people who watch it."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from typing_extensions import override

from prefect_xai_video.batch.outcomes import RowState
from prefect_xai_video.batch.report import Tally
from prefect_xai_video.money import dollars, plain


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is.

    Attributes:
        count: Number of rows.
        states: Number of rows that have ended, by state.
        in_flight: Rows that are in flight.
        cost_usd: What was paid so far, in USD.
        budget_usd: Largest cost of the run in USD; None if there is no budget.
        seconds: Seconds since the beginning.
        new: Rows that this run has submitted and that have ended.
    """

    count: int
    states: Mapping[RowState, int]
    in_flight: int
    cost_usd: Decimal
    budget_usd: Decimal | None
    seconds: float
    new: int

    @classmethod
    def of(cls, tally: Tally, in_flight: int, budget_usd: Decimal | None) -> "Progress":
        """Take a snapshot."""
        return cls(tally.count, dict(tally.states), in_flight, tally.cost_usd, budget_usd, tally.seconds, tally.new)

    @property
    def ended(self) -> int:
        """Number of rows that have ended."""
        return sum(self.states.values())

    @property
    def percent(self) -> float:
        """Share of the rows that have ended, 0-100."""
        return 100 * self.ended / self.count if self.count else 100.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the end, by the rate of the new videos so far; None before the first one."""
        return (self.count - self.ended) * self.seconds / self.new if self.new else None

    @property
    def rows(self) -> str:
        """Rows by state, and those in flight, for people."""
        states = [f"{number:,} {state}" for state, number in self.states.items()]
        return ", ".join([*states, f"{self.in_flight:,} in flight"])

    @property
    def money(self) -> str:
        """What was paid, of which budget, for people."""
        paid = f"{dollars(plain(self.cost_usd))} paid"
        return paid if self.budget_usd is None else f"{paid} of a budget of {dollars(self.budget_usd)}"

    @property
    def pace(self) -> str:
        """New videos a minute, and the time left, for people."""
        rate = f"{60 * self.new / self.seconds:.1f} videos a minute" if self.new else "no video yet"
        left = self.seconds_left
        return rate if left is None else f"{rate}, about {_duration(left)} left"

    @override
    def __str__(self) -> str:
        return f"{self.ended:,} of {self.count:,} rows have ended, {self.rows}, {self.money}, {self.pace}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
