"""One batch: its requests, and what becomes of it as a whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prefect_xai_video.emulator.videos import Outcome, Video

_COUNTER: Mapping[Outcome, str] = {
    "pending": "num_pending",
    "done": "num_success",
    "failed": "num_error",
    "moderated": "num_error",
    "expired": "num_error",
    "cancelled": "num_cancelled",
}


@dataclass(slots=True, kw_only=True)
class Batch:
    """One batch.

    Attributes:
        id: Its id.
        name: Its name, which need not be unique.
        created_at: When it was created.
        expires_at: When it expires.
        input_file_id: The file that its requests come from; such a batch is sealed.
        cancelled_at: When it was cancelled.
        message: Why xAI cancelled it.
        videos: Its requests, in the order in which they were added.
        late: Requests that are added only after the next listing.
        shown: Counters that were last reported.
    """

    id: str
    name: str
    created_at: datetime
    expires_at: datetime
    input_file_id: str | None = None
    cancelled_at: datetime | None = None
    message: str | None = None
    videos: list[Video] = field(default_factory=list)
    late: list[Callable[[], None]] = field(default_factory=list)
    shown: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.shown = _counters([])

    def has_expired(self, now: datetime) -> bool:
        """Whether it no longer exists."""
        return now >= self.expires_at

    def counters(self) -> Mapping[str, int]:
        """Count its requests by what became of them."""
        return _counters(self.videos)

    def finished(self) -> list[Video]:
        """Return the requests that have a result, in the order in which they were finished."""
        finished = ((video.finished_at, video) for video in self.videos if video.outcome != "cancelled")
        pairs = [(time, video) for time, video in finished if time is not None and video.outcome != "pending"]
        return [video for _, video in sorted(pairs, key=lambda pair: pair[0])]


def _counters(videos: list[Video]) -> Mapping[str, int]:
    counters = {"num_requests": len(videos)} | dict.fromkeys(_COUNTER.values(), 0)
    for video in videos:
        counters[_COUNTER[video.outcome]] += 1
    return counters
