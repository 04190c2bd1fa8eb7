"""The index of open keys: keys whose video was, or may have been, paid for and is not stored yet.

A store may hold a million videos of which a hundred are open. So each open key has a mark, a hidden empty file
`.open/<key>.<id>`, and whoever finishes open keys reads the marks instead of all receipts.

A mark is written before the receipt that opens its key, and removed after the receipt that closes it. So a mark may
exist without an open key, but no open key without a mark. Each opening has a mark of its own: a process that removes
the mark of one opening late can't remove that of the next.

Stores of before this index have no marks. The first pass over a store therefore reads all receipts once.
"""

import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import StorageError

COMPLETE = ".complete"
"""Mark of a store whose open keys all have marks; no key begins with a dot."""

STALE_SECONDS = 3600
"""Age in seconds at which the mark of a key that is not open counts as left behind. Claims are sent in a minute."""


def is_open(receipt: Receipt) -> bool:
    """Whether the video of a key may still arrive without a person's decision."""
    return receipt.state in {"sending", "submitted", "done"} or (
        receipt.state == "unknown" and bool(receipt.undelivered)
    )


@dataclass(frozen=True, slots=True)
class OpenKeys:
    """The open keys of a store.

    Attributes:
        store: The store.
    """

    store: VideoStore

    async def before(self, old: Receipt | None, new: Receipt) -> None:
        """Mark a key, if a receipt that is about to be written opens it.

        Args:
            old: The receipt that it replaces; None if it is the first one.
            new: The receipt.

        Raises:
            StorageError: If the mark can't be written. Then the receipt must not be written, either.
        """
        if not is_open(new):
            return
        claim = new.attempt.claim
        is_new_claim = old is None or all(attempt.claim != claim for attempt in old.attempts)
        if is_new_claim:
            await self.store.mark(f"{new.key}.{claim}")
        elif old is None or old.state == "unknown" or not is_open(old):
            await self.store.mark(f"{new.key}.{claim}-{uuid.uuid4().hex[:12]}")

    async def after(self, old: Receipt, new: Receipt) -> None:
        """Remove the mark of a key, if a receipt that was written has closed it. Best effort.

        Args:
            old: The receipt that was replaced.
            new: The receipt.
        """
        if is_open(old) and not is_open(new):
            for attempt in new.attempts:
                await self.store.unmark(f"{new.key}.{attempt.claim}")

    async def marks(self, prefix: str = "") -> AsyncIterator[tuple[str, list[tuple[str, float]]]]:
        """List the marked keys that begin with a prefix, each with its marks: their names, and ages in seconds."""
        found: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
        async for name, age in self.store.marks(prefix):
            if not name.startswith("."):
                found[name.rpartition(".")[0]].append((name, age))
        for key, marks in found.items():
            yield key, marks

    async def tidy(self, marks: list[tuple[str, float]]) -> None:
        """Remove the marks of a key that is not open, unless a submission may just be about to open it."""
        for name, age in marks:
            if age > STALE_SECONDS:
                await self.store.unmark(name)

    async def complete(self) -> int:
        """Mark all open keys of a store of before the index; the receipts are read once in the life of a store.

        Returns:
            The number of receipts that were read.
        """
        async for name, _ in self.store.marks(COMPLETE):
            if name == COMPLETE:
                return 0
        count = 0
        async for key in self.store.keys():
            count += 1
            try:
                held = await self.store.read(key)
            except StorageError:
                # It may be open: each pass tries again, and names it until it can be read.
                await self.store.mark(f"{key}.unreadable")
                continue
            if held is not None and is_open(held.receipt):
                await self.store.mark(f"{key}.{held.receipt.attempt.claim}")
        await self.store.mark(COMPLETE)
        return count
