"""How the engine reads and changes receipts: by compare-and-swap, in the open, and with patience for others."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from prefect_xai_video.errors import StorageError, SubmissionUnknown, XaiVideoError
from prefect_xai_video.receipts import Receipt, check_key
from prefect_xai_video.stores import Held, Overtaken, VideoStore

CLAIM_SECONDS = 120
"""A claim older than this counts as left behind by a crash: a POST is given up before.
Should its reply come all the same, it is noted."""

CLAIM_WAIT_SECONDS = 1.0
"""Between two looks at somebody else's claim."""

OVERTAKEN_WAIT_SECONDS = 0.05
MOST_OVERTAKEN = 100
"""How often others may be faster at writing a receipt; more often than that, there is something else wrong."""

logger = logging.getLogger(__name__)


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Journal:
    """The receipts of a store.

    Attributes:
        store: Where they lie.
        on_change: Called with the receipt after each change of its state. What it raises is logged, no more: who
            looks on must not come between a payment and its receipt.
    """

    store: VideoStore
    on_change: Callable[[Receipt], object] = _ignore

    async def read(self, key: str) -> Held:
        """Read the receipt of a key that has been started.

        Raises:
            StorageError: If there is none.
        """
        held = await self.store.read(check_key(key))
        if held is None:
            raise StorageError(f"There is no receipt {self.store.receipt_uri(key)}: start the video first.")
        return held

    async def read_settled(self, key: str, claim: str | None = None) -> Held | None:
        """Read a receipt; where somebody else's POST is under way, wait for how it ends.

        The claim of one who can't be there any more is given up: its submission is of unknown outcome.

        Args:
            key: The video's name in the store.
            claim: The caller's own claim, which is not waited for.
        """
        seen: dict[str, float] = {}
        while (held := await self.store.read(key)) is not None and held.receipt.state == "sending":
            theirs = held.receipt.attempt.claim
            if theirs == claim:
                return held
            if not seen:
                logger.info("Somebody else is sending the request of key %s: waiting for that", key)
            # Where the clock of the store is of no use, how long it has been looked at is.
            watched = time.monotonic() - seen.setdefault(theirs, time.monotonic())
            if max(held.age, watched) >= CLAIM_SECONDS:
                left = SubmissionUnknown("The submission was under way when its run ended.")
                with suppress(Overtaken):
                    return await self.replace(held, held.receipt.unknown(left))
            await asyncio.sleep(CLAIM_WAIT_SECONDS)
        return held

    async def create(self, receipt: Receipt) -> Held:
        """Write the first receipt of a key, like the store, and tell."""
        held = await self.store.create(receipt)
        self._tell(receipt)
        return held

    async def replace(self, held: Held, receipt: Receipt) -> Held:
        """Write a receipt in the place of the one that was read, like the store, and tell."""
        before = held.receipt.state
        held = await self.store.replace(held, receipt)
        if receipt.state != before:
            self._tell(receipt)
        return held

    async def change(self, held: Held, change: Callable[[Receipt], Receipt]) -> Held:
        """Replace the receipt by a changed one; where somebody was faster, change what they wrote.

        Raises:
            StorageError: If it can't be replaced.
        """
        for _ in range(MOST_OVERTAKEN):
            changed = change(held.receipt)
            if changed is held.receipt:
                return held
            try:
                return await self.replace(held, changed)
            except Overtaken:
                await asyncio.sleep(OVERTAKEN_WAIT_SECONDS)
                held = await self.read(held.receipt.key)
        raise StorageError(f"The receipt {self.store.receipt_uri(held.receipt.key)} can be read, but not replaced.")

    async def find_delivery(self, held: Held) -> Held:
        """Look in the store for the video of a submission of unknown outcome, and adopt it if it is there.

        Raises:
            Overtaken: If somebody else has written another receipt since.
        """
        waiting = held.receipt.undelivered if held.receipt.brought_nothing else ()
        for attempt in waiting:
            if await self.store.is_delivered(held.receipt.key, attempt.claim):
                return await self.replace(held, held.receipt.delivered(attempt.claim))
        return held

    def _tell(self, receipt: Receipt) -> None:
        try:
            self.on_change(receipt)
        except Exception:
            logger.warning("The change to %s could not be told.", receipt.state, exc_info=True)


@contextmanager
def with_key(key: str) -> Iterator[None]:
    """Have every error of a block carry the key."""
    try:
        yield
    except XaiVideoError as error:
        error.key = error.key or key
        raise


@contextmanager
def with_request_id(request_id: str | None, receipt: Receipt | None = None) -> Iterator[None]:
    """Have every error of a block that comes after a submission carry its request id, and its cost if known."""
    try:
        yield
    except XaiVideoError as error:
        error.request_id = error.request_id or request_id
        if receipt is not None and error.cost_usd is None:
            error.cost_usd = receipt.cost_usd
        raise
