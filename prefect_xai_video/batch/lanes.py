"""The two lanes of a batch, and the choice between them."""

from dataclasses import dataclass
from typing import Literal

from prefect_xai_video.engine.options import SavingOptions
from prefect_xai_video.errors import not_allowed

Lane = Literal["realtime", "batch"]
"""How rows reach xAI: `realtime` submits and polls each of them, `batch` adds many at once by xAI's Batch API."""

LaneChoice = Literal["realtime", "batch", "auto"]
"""A lane, or `auto` for the one that suits the number of rows."""

REQUESTS_A_VIDEO = 3
"""Requests of a video in the realtime lane: the submission, and about two polls."""

LOWEST_RATE = 2.0
"""Requests a second of an account of which nothing is known: the lowest rate that was seen at xAI."""

RENDER_SECONDS = 40
"""Seconds of a usual render."""

WORTH_SECONDS = 3600
"""Seconds in the realtime lane above which the batch lane is worth its latency of up to 24 hours."""

LANE_SECONDS = 25 * 3600
"""Longest wait in the batch lane in seconds, unless another one is given. xAI takes up to 24 hours."""


@dataclass(frozen=True, slots=True)
class ChosenLane:
    """The lane of a batch.

    Attributes:
        lane: The lane.
        why: Why it was chosen.
    """

    lane: Lane
    why: str

    def __str__(self) -> str:
        return f"The lane is {self.lane}: {self.why}"


def check_lane(lane: LaneChoice, saving: SavingOptions) -> None:
    """Check that a lane goes with how the videos come to the store.

    Raises:
        InvalidRequest: If not.
    """
    if lane == "batch" and saving.get("delivery") == "direct":
        raise not_allowed(
            "delivery", "'direct' in the batch lane", "download", "The signed URL would end before the batch does."
        )
    if lane == "batch" and saving.get("recovery") == "files":
        raise not_allowed("recovery", "'files' in the batch lane", "none", "The batch itself lists what was sent.")


def needs_realtime(saving: SavingOptions) -> bool:
    """Whether a video comes to the store in a way that only the realtime lane has."""
    return saving.get("delivery") == "direct" or saving.get("recovery") == "files"


def choose_lane(
    lane: LaneChoice, rows: int, in_flight: int, videos_a_second: float | None, *, only_realtime: bool
) -> ChosenLane:
    """Choose the lane of a batch, and say why.

    Args:
        lane: The lane that is wanted.
        rows: Number of rows.
        in_flight: Largest number of rows in flight.
        videos_a_second: Submissions a second that the account may send; None if nothing is known.
        only_realtime: Whether a row needs the realtime lane.
    """
    if lane != "auto":
        return ChosenLane(lane, "it was asked for")
    if only_realtime:
        return ChosenLane("realtime", "direct delivery and recovery by files are only there")
    rate = videos_a_second or LOWEST_RATE / REQUESTS_A_VIDEO
    seconds = max(rows / rate, rows * RENDER_SECONDS / in_flight)
    source = "" if videos_a_second else ", the lowest rate known,"
    why = (
        f"at {rate:.2g} videos a second{source} and {in_flight:,} in flight, {rows:,} rows would take about "
        f"{_duration(seconds)} in realtime, {'more' if seconds > WORTH_SECONDS else 'not more'} than an hour"
    )
    return ChosenLane("batch" if seconds > WORTH_SECONDS else "realtime", why)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(seconds / 60, 1):.0f} min"
