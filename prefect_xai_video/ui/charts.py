"""Histograms for people: labels of their bars, and bars that are drawn with text."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from prefect_xai_video.batch.survey import Bar
from prefect_xai_video.money import dollars

TEXT_BAR = 24
"""Length of the longest bar that is drawn with text, in characters."""

EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class ChartBar:
    """A bar of a chart.

    Attributes:
        label: Its value or values.
        count: What it counts.
        share: Its length, compared with the longest one, 0-1.
    """

    label: str
    count: int
    share: float

    @property
    def text(self) -> str:
        """The bar, drawn with text."""
        whole, rest = divmod(round(self.share * TEXT_BAR * 8), 8)
        return "█" * whole + (EIGHTHS[rest] if rest else "" if whole or not self.count else EIGHTHS[1])


def bars_of_dollars(bars: Sequence[Bar]) -> list[ChartBar]:
    """Label the bars of costs in USD."""
    if all(bar.low == bar.high for bar in bars):
        return _labelled(bars, lambda value: dollars(Decimal(str(value))))
    decimals = max(_decimals(bars), 2)
    return _labelled(bars, lambda value: f"${value:.{decimals}f}")


def bars_of_seconds(bars: Sequence[Bar]) -> list[ChartBar]:
    """Label the bars of times in seconds."""
    decimals = min(_decimals(bars), 2)
    return _labelled(bars, lambda value: f"{value:.{decimals}f} s")


def _decimals(bars: Sequence[Bar]) -> int:
    """Return with how many decimals, at most 4, the edges of the bars differ."""
    edges = sorted({edge for bar in bars for edge in (bar.low, bar.high)})
    steps = (high - low for low, high in itertools.pairwise(edges))
    # Edges of neighbours may differ by a rounding error.
    smallest = min((step for step in steps if step > 1e-9), default=1.0)
    return min(max(math.ceil(-math.log10(smallest)), 0), 4)


def _labelled(bars: Sequence[Bar], text: Callable[[float], str]) -> list[ChartBar]:
    longest = max((bar.count for bar in bars), default=0)
    labels = (text(bar.low) if bar.low == bar.high else f"{text(bar.low)} - {text(bar.high)}" for bar in bars)
    return [ChartBar(label, bar.count, bar.count / longest) for label, bar in zip(labels, bars, strict=True)]
