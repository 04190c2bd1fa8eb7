"""Reads and updates receipts by compare-and-swap, waits for concurrent writers, and reports state changes."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.open_keys import OpenKeys
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held, VideoStore, WriteConflict
from prefect_xai_video.errors import StorageError, SubmissionUnknown, XaiVideoError

CLAIM_SECONDS = 120
"""Age in seconds at which a claim counts as left behind by a crash; every POST times out earlier.

A response that arrives later all the same is still recorded.
"""

CLAIM_WAIT_SECONDS = 1.0
"""Seconds between two reads of another run's claim."""

CONFLICT_WAIT_SECONDS = 0.05
MAX_CONFLICTS = 100
"""Most write conflicts that are retried; with more, something else must be wrong."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Journal:
    """The receipts of a store, read and written consistently.

    Attributes:
        store: The store that holds the receipts.
        on_change: Called with the receipt after each change of its state. Its errors are only logged: an observer
            must not come between a payment and its receipt.
    """

    store: VideoStore
    on_change: Callable[[Receipt], object] = _ignore

    @property
    def _open_keys(self) -> OpenKeys:
        return OpenKeys(self.store)

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
        """Read a receipt; if another run's POST is in progress, wait for its outcome.

        A claim older than `CLAIM_SECONDS` belongs to a run that ended without recording the outcome: the attempt
        becomes `unknown`.

        Args:
            key: The video's name in the store.
            claim: The caller's own claim, for which it does not wait.
        """
        first_seen: dict[str, float] = {}
        while (held := await self.store.read(key)) is not None and held.receipt.state == "sending":
            other = held.receipt.attempt.claim
            if other == claim:
                return held
            if not first_seen:
                logger.info("Another run is submitting the request for key %s; waiting for its outcome", key)
            # The time since this claim was first seen also counts, in case the store's clock is unusable.
            watched = time.monotonic() - first_seen.setdefault(other, time.monotonic())
            if max(held.age, watched) >= CLAIM_SECONDS:
                abandoned = SubmissionUnknown(
                    "The run that submitted the request ended before it recorded a response."
                )
                with suppress(WriteConflict):
                    return await self.replace(held, held.receipt.unknown(abandoned))
            await asyncio.sleep(CLAIM_WAIT_SECONDS)
        return held

    async def create(self, receipt: Receipt) -> Held:
        """Create the first receipt of a key, as `VideoStore.create`, and report its state."""
        await self._open_keys.before(None, receipt)
        held = await self.store.create(receipt)
        self._report(receipt)
        return held

    async def replace(self, held: Held, receipt: Receipt) -> Held:
        """Replace a receipt, as `VideoStore.replace`, and report a change of its state."""
        before = held.receipt
        await self._open_keys.before(before, receipt)
        held = await self.store.replace(held, receipt)
        await self._open_keys.after(before, receipt)
        if receipt.state != before.state:
            self._report(receipt)
        return held

    async def change(self, held: Held, change: Callable[[Receipt], Receipt]) -> Held:
        """Apply a change to a receipt; after a write conflict, read it again and reapply the change.

        Raises:
            StorageError: If the receipt can't be replaced.
        """
        key, known = held.receipt.key, [held]

        async def read_and_replace() -> Held:
            held = known.pop() if known else await self.read(key)
            changed = change(held.receipt)
            return held if changed is held.receipt else await self.replace(held, changed)

        return await self.resolve_conflicts(key, read_and_replace)

    async def resolve_conflicts(self, key: str, write: Callable[[], Awaitable[T]]) -> T:
        """Retry reading and writing a receipt after write conflicts. No other code loops over them.

        Args:
            key: The video's name in the store.
            write: Reads the receipt and writes its successor.

        Raises:
            StorageError: If the receipt kept changing.
        """
        for _ in range(MAX_CONFLICTS):
            try:
                return await write()
            except WriteConflict:
                await asyncio.sleep(CONFLICT_WAIT_SECONDS)
        raise StorageError(
            f"The receipt {self.store.receipt_uri(key)} kept changing, or can't be written; gave up after "
            f"{MAX_CONFLICTS} attempts.",
            key=key,
        )

    async def find_delivery(self, held: Held) -> Held:
        """Look in the store for the video of a key that has none, and record it if it is there.

        A run may have put it there, or xAI may have delivered that of a submission of unknown outcome.

        Raises:
            WriteConflict: If the receipt has been replaced since it was read.
        """
        held = await self.find_put(held)
        undelivered = held.receipt.undelivered if held.receipt.has_no_video else ()
        for attempt in undelivered:
            if attempt.direct and await self.store.is_delivered(held.receipt.key, attempt.claim):
                return await self.replace(held, held.receipt.delivered(attempt.claim))
        return held

    async def find_put(self, held: Held) -> Held:
        """Look for a video that a run put into the store and ended before it could say so, and record it.

        Raises:
            WriteConflict: If the receipt has been replaced since it was read.
        """
        maybe_put = held.receipt.maybe_put if held.receipt.has_no_video else ()
        for attempt in maybe_put:
            if attempt.file is not None and await self.store.holds_video(held.receipt.key, attempt.file):
                return await self.replace(held, held.receipt.delivered(attempt.claim))
        return held

    def _report(self, receipt: Receipt) -> None:
        try:
            self.on_change(receipt)
        except Exception:
            logger.warning("The change of the receipt to %s could not be reported.", receipt.state, exc_info=True)


@contextmanager
def with_key(key: str) -> Iterator[None]:
    """Add the key to every error that is raised inside a `with` block."""
    try:
        yield
    except XaiVideoError as error:
        error.key = error.key or key
        raise


@contextmanager
def with_request_id(request_id: str | None, receipt: Receipt | None = None) -> Iterator[None]:
    """Add the request id, and the cost if known, to every error that is raised inside a `with` block."""
    try:
        yield
    except XaiVideoError as error:
        error.request_id = error.request_id or request_id
        if receipt is not None and error.cost_usd is None:
            error.cost_usd = receipt.cost_usd
        raise
