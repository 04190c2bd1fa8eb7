"""Frame: slots at which requests may be sent, in a period that repeats."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from random import Random

TICKS = 1_000_000
"""Ticks per second. Times are whole numbers, so that a slot is found again exactly."""

_CANDIDATES = 4
"""Random times of which a new slot takes the one that is farthest from all other slots."""


class Frame:
    """Slots in a period that repeats, each for one request per period; always at least one.

    A slot is a number of ticks since the start of the period. Each method takes O(log n) comparisons.

    Args:
        seconds: Length of the period in whole seconds.
        random: Source of randomness for new slots.
    """

    def __init__(self, seconds: int, random: Random) -> None:
        self.seconds = seconds
        self.period = seconds * TICKS
        self._random = random
        self._slots = [random.randrange(self.period)]

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, slot: int) -> bool:
        index = bisect_left(self._slots, slot)
        return index < len(self._slots) and self._slots[index] == slot

    def replace(self, slots: Iterable[int]) -> None:
        """Replace all slots."""
        self._slots = sorted(set(slots)) or self._slots

    def spread(self, number: int) -> None:
        """Replace all slots by this number, evenly spaced from a random time."""
        first = self._random.randrange(self.period)
        self.replace((first + index * self.period // number) % self.period for index in range(number))

    def add(self, slot: int) -> None:
        """Add a slot, unless it is there."""
        if slot not in self:
            insort(self._slots, slot)

    def add_somewhere(self) -> int:
        """Add a slot at a random time that is not close to another slot, and return it."""
        candidates = (self._random.randrange(self.period) for _ in range(_CANDIDATES))
        slot = max(candidates, key=self._distance)
        self.add(slot)
        return slot

    def remove(self, slot: int) -> None:
        """Remove a slot that is there; the last one moves to a random time instead."""
        del self._slots[bisect_left(self._slots, slot)]
        if not self._slots:
            self._slots.append(self._random.randrange(self.period))

    def any(self) -> int:
        """Return a random slot."""
        return self._random.choice(self._slots)

    def latest(self, ticks: int) -> int:
        """Compute the time of the latest slot at or before a time."""
        start, phase = ticks - ticks % self.period, ticks % self.period
        index = bisect_right(self._slots, phase)
        return start + self._slots[index - 1] - (0 if index else self.period)

    def following(self, ticks: int) -> int:
        """Compute the time of the first slot after a time."""
        start, phase = ticks - ticks % self.period, ticks % self.period
        index = bisect_right(self._slots, phase)
        return start + self._slots[index] if index < len(self) else start + self.period + self._slots[0]

    def _distance(self, slot: int) -> int:
        """Ticks between a time and the nearest slot."""
        index = bisect_left(self._slots, slot)
        after, before = self._slots[index % len(self)], self._slots[index - 1]
        return min((after - slot) % self.period, (slot - before) % self.period)
