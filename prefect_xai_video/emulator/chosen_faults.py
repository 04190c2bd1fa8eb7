"""The faults that were selected for one request, and how often each may still strike."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from prefect_xai_video.emulator.faults import Fault


class Marker(NamedTuple):
    """A selected fault, and how often it strikes."""

    fault: Fault
    times: float


class ChosenFaults:
    """The faults of one request, in the order of selection, with the number of times each may still strike."""

    def __init__(self, markers: Iterable[Marker] = ()) -> None:
        self._left: dict[Fault, float] = {}
        for fault, times in markers:
            self.add(fault, times)

    def __contains__(self, fault: Fault) -> bool:
        return fault in self._left

    def add(self, fault: Fault, times: float) -> None:
        """Let a fault strike so many more times."""
        self._left[fault] = self._left.get(fault, 0) + times

    @property
    def left(self) -> dict[Fault, float]:
        """Number of times each fault may still strike."""
        return dict(self._left)

    @property
    def names(self) -> list[str]:
        """Names of all faults, including those that no longer strike."""
        return [fault.value for fault in self._left]

    def strike(self, *faults: Fault) -> bool:
        """Whether one of the given faults strikes now; it is counted."""
        return self.strike_of(faults) is not None

    def strike_of(self, faults: Collection[Fault]) -> Fault | None:
        """Return the first of the given faults that strikes now; it is counted."""
        for fault, left in self._left.items():
            if left > 0 and fault in faults:
                self._left[fault] -= 1
                return fault
        return None

    def of_new_video(self) -> "ChosenFaults":
        """Return the faults of the resulting video: its outcome is counted now, the others when they strike."""
        markers = [
            Marker(fault, left)
            for fault, left in self._left.items()
            if fault.stage in ("poll", "download", "files", "result")
            or (fault.stage == "outcome" and self.strike(fault))
        ]
        return ChosenFaults(markers)
