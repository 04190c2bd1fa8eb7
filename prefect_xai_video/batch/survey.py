"""Costs and times of a batch's rows for charts, collected in one pass over its outcomes."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from prefect_xai_video.batch.outcomes import RowOutcome, RowState
from prefect_xai_video.money import plain

MAX_BARS = 10
"""Bars of a histogram."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a histogram.

    Attributes:
        low: Lowest value.
        high: Highest value; equal to `low` if the bar stands for one value.
        count: Number of rows.
    """

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Survey:
    """Costs and times of rows.

    Attributes:
        costs: Histogram of the billed costs, in USD.
        renders: Histogram of the render times, in seconds.
        paid: What the run paid by model, then by state, in USD.
    """

    costs: Sequence[Bar] = ()
    renders: Sequence[Bar] = ()
    paid: Mapping[str, Mapping[RowState, Decimal]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[RowOutcome]) -> "Survey":
        """Read all outcomes once."""
        costs, renders = array("d"), array("d")
        paid: defaultdict[str, defaultdict[RowState, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for row in rows:
            if row.cost_usd is not None:
                costs.append(float(row.cost_usd))
            if row.render_seconds is not None:
                renders.append(row.render_seconds)
            if row.is_new:
                paid[row.model or "unknown"][row.state] += row.paid_usd
        amounts = {model: {state: plain(usd) for state, usd in of.items()} for model, of in paid.items()}
        return cls(histogram(costs), histogram(renders), amounts)


def histogram(values: Sequence[float]) -> tuple[Bar, ...]:
    """Count values: one bar for each value if there are few different ones, else bars of the same width."""
    if not values:
        return ()
    if len(different := _different(values)) <= MAX_BARS:
        counts = Counter(values)
        return tuple(Bar(value, value, counts[value]) for value in sorted(different))
    low, width = min(values), (max(values) - min(values)) / MAX_BARS
    in_bar = Counter(min(int((value - low) / width), MAX_BARS - 1) for value in values)
    return tuple(Bar(low + width * bar, low + width * (bar + 1), in_bar[bar]) for bar in range(MAX_BARS))


def _different(values: Iterable[float]) -> set[float]:
    """Return the different values, or just more than `MAX_BARS` of them."""
    found: set[float] = set()
    for value in values:
        found.add(value)
        if len(found) > MAX_BARS:
            break
    return found


def evenly(number: int, most: int) -> Iterator[int]:
    """Choose up to `most` of the indices below a number, evenly spread."""
    chosen = min(number, most)
    return (index * number // chosen for index in range(chosen))
