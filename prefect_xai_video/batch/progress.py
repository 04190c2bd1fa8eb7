"""How far a batch is, for people who watch it."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from prefect_xai_video.batch.outcomes import RowState
from prefect_xai_video.batch.report import Tally


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
