"""One pass over the open keys of a store: poll each once, store what is done, and leave the rest for the next pass.

Nothing here can pay: a pass only reads receipts, polls and downloads. Its cost grows with the number of open keys.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.inquiry import may_still_appear
from prefect_xai_video.engine.journal import CLAIM_SECONDS
from prefect_xai_video.engine.open_keys import OpenKeys, is_open
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held
from prefect_xai_video.errors import GenerationError, XaiVideoError

AT_A_TIME = 64
"""Keys that a pass works on at the same time."""

Result = Literal["stored", "ended", "rendering", "held", "unknown", "failed"]
"""What a pass found of an open key. `ended`: there will be no video. `held`: a living run waits for it itself.
`failed`: an error, so that the next pass tries again."""


@dataclass(slots=True)
class Collected:
    """What a pass has done.

    Attributes:
        keys: The keys by result; at most the first thousand of each.
        counts: Number of keys by result.
        errors: The sentences of the first hundred errors, by key.
        indexed: Receipts that were read to index a store of before; 0 for an indexed one.
        ended_runs: Flow runs of which a video has got its end.
        open_runs: Flow runs of which a video is still open.
    """

    keys: dict[Result, list[str]] = field(default_factory=dict)
    counts: dict[Result, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    indexed: int = 0
    ended_runs: set[str] = field(default_factory=set)
    open_runs: set[str] = field(default_factory=set)

    def add(self, receipt: Receipt, result: Result, error: XaiVideoError | None = None) -> None:
        """Note what was found of an open key."""
        if receipt.flow_run_id:
            (self.ended_runs if result in _ENDED else self.open_runs).add(receipt.flow_run_id)
        self._count(receipt.key, result, error)

    def unreadable(self, key: str, error: XaiVideoError) -> None:
        """Note that the receipt of a key can't be read."""
        self._count(key, "failed", error)

    def _count(self, key: str, result: Result, error: XaiVideoError | None) -> None:
        self.counts[result] = self.counts.get(result, 0) + 1
        if len(names := self.keys.setdefault(result, [])) < 1000:
            names.append(key)
        if error is not None and len(self.errors) < 100:
            self.errors[key] = str(error)

    def __str__(self) -> str:
        if not self.counts:
            return "No key is open"
        total = sum(self.counts.values())
        found = ", ".join(f"{number:,} {result}" for result, number in sorted(self.counts.items()))
        return f"{total:,} open {'key' if total == 1 else 'keys'}: {found}"


LivingRuns = Callable[[Iterable[Receipt]], Awaitable[set[str]]]
"""Finds, of given receipts, the keys for which a living run waits itself."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects the videos of open keys.

    Attributes:
        generation: The engine.
        living: Finds the keys that living runs hold.
        wake: Called with the id of each flow run of which a video has ended, and none is open any more.
    """

    generation: Generation
    living: LivingRuns
    wake: Callable[[str], Awaitable[object]]

    async def collect(self, prefix: str = "") -> Collected:
        """Make one pass over the open keys that begin with a prefix.

        Raises:
            StorageError: If the store can't be listed.
        """
        collected = Collected()
        index = OpenKeys(self.generation.store)
        collected.indexed = await index.complete()
        marks = [entry async for entry in index.marks(prefix)]
        entries = iter(marks)
        while chunk := list(islice(entries, AT_A_TIME)):
            await self._chunk(chunk, index, collected)
        for run_id in sorted(collected.ended_runs - collected.open_runs):
            await self.wake(run_id)
        return collected

    async def _chunk(
        self, chunk: list[tuple[str, list[tuple[str, float]]]], index: OpenKeys, collected: Collected
    ) -> None:
        read = await asyncio.gather(*(self._read(key, collected) for key, _ in chunk))
        opened: list[Held] = []
        for (_, marks), held in zip(chunk, read, strict=True):
            if isinstance(held, Held) and _may_arrive(held.receipt):
                opened.append(held)
            elif held != "unreadable":
                await index.tidy(marks)
        living = await self.living([held.receipt for held in opened])
        await asyncio.gather(*(self._key(held, held.receipt.key in living, collected) for held in opened))

    async def _read(self, key: str, collected: Collected) -> Held | Literal["unreadable"] | None:
        try:
            return await self.generation.store.read(key)
        except XaiVideoError as error:
            collected.unreadable(key, error)
            return "unreadable"

    async def _key(self, held: Held, is_held: bool, collected: Collected) -> None:
        receipt = held.receipt
        # A claim that is being sent belongs to its process, living run or not.
        if is_held or (receipt.state == "sending" and held.age < CLAIM_SECONDS):
            collected.add(receipt, "held")
            return
        try:
            receipt = await self.generation.collect(receipt.key)
        except GenerationError:
            collected.add(receipt, "ended")
        except XaiVideoError as error:
            collected.add(receipt, "failed", error)
        else:
            collected.add(receipt, _RESULTS.get(receipt.state, "rendering"))


def _may_arrive(receipt: Receipt) -> bool:
    """Whether a pass can find the video of a key. A key that a person reopens gets a new mark."""
    return is_open(receipt) and (receipt.state != "unknown" or may_still_appear(receipt))


_ENDED = frozenset({"stored", "ended", "unknown"})
_RESULTS: dict[str, Result] = {"stored": "stored", "unknown": "unknown", "refused": "ended"}
