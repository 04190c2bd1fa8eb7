"""Prefect's global limits: submissions a second, videos in flight, cents to spend, shared by all workers.

Each is respected where it exists and is active on the server; where there is none, nothing is limited. The list of
active limits costs a request to Prefect, and each of them some more. `xai-video setup` creates them.

Waiting comes before a key is claimed. The budget comes after it, so that only the winner of a claim pays: once per
key and attempt, however many runs ask for the key. A submission that was certainly refused gets its cents back.

Limits that only slow down give way where Prefect can't be asked. The budget never does: without it nothing is sent,
unless a setting says that no budget is wanted.
"""

import asyncio
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from httpx import HTTPStatusError, codes
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import (
    AcquireConcurrencySlotTimeoutError,
    ConcurrencySlotAcquisitionError,
    concurrency,
    rate_limit,
)
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.logging.loggers import LoggingAdapter
from typing_extensions import override

from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.errors import LimitReached
from prefect_xai_video.orchestration.prefect_api import PAGE_SIZE, current_client

LIST_SECONDS = 10.0
"""How long the list of active limits is cached, in seconds."""

ACQUIRE_SECONDS = 60.0
"""Duration of one attempt to acquire a slot, in seconds. A process whose wait was cancelled does not exit before the
attempt has ended, and Prefect logs an error for each attempt that timed out."""

WAITING_SECONDS = 1.0
"""Wait after which the log says for which limit a run waits, in seconds."""

SPEND_SECONDS = 20.0
"""Longest time between a claim and its POST for the budget, in seconds. On a write conflict in SQLite, Prefect's
client retries after 2, 4 and 8 s; after 60 s a claim is too old to be sent."""

RELEASE_SECONDS = 5.0
"""Longest delay of a run by returning slots or cents, in seconds."""

UNPRICED_CENTS = 100
"""Cents of a request that the price table does not know: more than the dearest edit (8.7 s at $0.08)."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A global limit as it is created; people change it in the Prefect UI.

    Attributes:
        name: Its name on the server.
        limit: Slots.
        slot_decay_per_second: Slots that come back each second; 0 for slots that are held and given back.
        active: Whether it holds at once.
    """

    name: str
    limit: int
    slot_decay_per_second: float = 0.0
    active: bool = True


REQUESTS = Limit("xai-video-requests", limit=1, slot_decay_per_second=1.0)
"""Submissions a second. Low tiers of xAI allow two requests a second, and polls may count."""

IN_FLIGHT = Limit("xai-video-in-flight", limit=4)
"""Videos that xAI renders at the same time: a fifth was seen to wait in its queue for two minutes."""

SPEND = Limit("xai-video-spend-cents", limit=2000, slot_decay_per_second=0.0231, active=False)
"""US cents: $20 at once, and $20 a day after that. It is created switched off: nobody else knows the budget."""

LIMITS = (REQUESTS, IN_FLIGHT, SPEND)

logger = logging.getLogger(__name__)


class Limits:
    """The global limits as one run respects them: permission to submit videos.

    As an async context manager it has its submissions wait for one of the places for videos in flight, and holds that
    place to the end of the block. Without, that limit is not respected.

    Args:
        budget: Whether the budget is respected. Without it, Prefect is not asked for it.
    """

    def __init__(self, *, budget: bool = True) -> None:
        self._budget = budget
        self._spent: Counter[VideoRequest] = Counter()
        self._place: _Place | None = None
        self._active: frozenset[str] = frozenset()
        self._listed_until = 0.0

    async def __aenter__(self) -> Self:
        self._place = _Place()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._place is not None:
            await self._place.release()

    async def acquire(self, request: VideoRequest) -> None:
        """Wait for a place among the videos in flight and for a turn. It takes nothing from the budget.

        Args:
            request: The request to be submitted.

        Raises:
            LimitReached: If a limit never has room for it, or it can't be found out whether there is a budget.
        """
        # Before a claim is written.
        if self._budget:
            await self._list()
        if self._place is not None:
            await self._acquire(IN_FLIGHT, self._place.acquire)
        await self._acquire(REQUESTS, _acquire_turn)

    async def spend(self, request: VideoRequest) -> None:
        """Take the estimated cost of a submission from the budget, within seconds.

        Args:
            request: The request to be submitted; its key is claimed.

        Raises:
            LimitReached: If the budget has no room for it, or Prefect can't be asked. Nothing was sent.
        """
        if not self._budget:
            return
        try:
            async with asyncio.timeout(SPEND_SECONDS):
                if SPEND.name in await self._list():
                    await _take(_cents(request))
                    self._spent[request] += 1
        except TimeoutError:
            raise _NotAsked(f"no response within {SPEND_SECONDS:g} s") from None

    async def refund(self, request: VideoRequest) -> None:
        """Return the cost of a submission that was certainly refused. Best effort: it never raises.

        Args:
            request: The request for which `spend` took the cost.
        """
        if not self._spent[request]:
            return
        self._spent[request] -= 1
        try:
            # A client of its own: the one of the run belongs to another event loop.
            async with asyncio.timeout(RELEASE_SECONDS), get_client() as prefect:
                # Prefect wants to know for how long they were taken.
                await prefect.release_concurrency_slots([SPEND.name], _cents(request), occupancy_seconds=1.0)
        except Exception as error:
            _log().warning(
                "About %d cents of a refused submission could not be returned to the global limit %s: %s",
                _cents(request),
                SPEND.name,
                type(error).__name__,
            )

    async def _acquire(self, limit: Limit, attempt: Callable[[], Awaitable[None]]) -> None:
        """Acquire a slot, however long that takes, if the limit is active and Prefect can be asked.

        The list is read before each attempt, so that a limit which somebody switches off holds nobody back.
        """
        waiting = asyncio.get_running_loop().call_later(
            WAITING_SECONDS, lambda: _log().info("Waiting for the global limit %s", limit.name)
        )
        try:
            while limit.name in await self._list():
                with suppress(AcquireConcurrencySlotTimeoutError):
                    await attempt()
                    break
        except ConcurrencySlotAcquisitionError as error:
            problem = _NotAsked.because_of(error.__cause__ or error)
            if problem.http_status == codes.UNPROCESSABLE_ENTITY:
                raise _never(limit, 1) from None
            _log().warning("Continuing without the global limit %s: %s", limit.name, problem.why)
        except _NotAsked as error:
            _log().warning("Continuing without the global limit %s: %s", limit.name, error.why)
        finally:
            waiting.cancel()

    async def _list(self) -> frozenset[str]:
        """The names of all active limits, at most a few seconds old.

        Raises:
            _NotAsked: If Prefect can't be asked.
        """
        if time.monotonic() >= self._listed_until:
            self._active = await _read_active()
            self._listed_until = time.monotonic() + LIST_SECONDS
        return self._active


class BulkLimits(Limits):
    """The global limits as a batch of xAI's respects them: the budget. The others are for single submissions."""

    @override
    async def acquire(self, request: VideoRequest) -> None:
        """Wait for nothing, and take nothing.

        Raises:
            LimitReached: If it can't be found out whether there is a budget.
        """
        if self._budget:
            await self._list()


class _Place:
    """A place among the videos in flight, held by an asyncio task in the context of whoever made this.

    Prefect returns a slot at the end of the run in whose context it was acquired, and the place is needed for longer
    than the task run that starts the video.
    """

    def __init__(self) -> None:
        self._context = copy_context()
        self._over = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None

    async def acquire(self) -> None:
        """Acquire the place, unless it is held."""
        if self._holder is not None:
            return
        held = asyncio.get_running_loop().create_future()
        holder = asyncio.create_task(self._hold(held), context=self._context)
        holder.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            await asyncio.wait({holder, held}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            holder.cancel()
            raise
        if holder.done():
            holder.result()
        self._holder = holder

    async def release(self) -> None:
        """Release the place, if it is held. Best effort: Prefect releases it minutes later if that fails."""
        if self._holder is None:
            return
        self._over.set()
        await asyncio.wait({self._holder}, timeout=RELEASE_SECONDS)
        self._holder.cancel()

    async def _hold(self, held: "asyncio.Future[None]") -> None:
        # A lost lease must not end a run that has paid: then there is one more video in flight.
        slot = concurrency(
            IN_FLIGHT.name,
            strict=True,
            timeout_seconds=ACQUIRE_SECONDS,
            raise_on_lease_renewal_failure=False,
        )
        async with slot:
            held.set_result(None)
            await self._over.wait()


async def submissions_a_second() -> float | None:
    """What the global limit for submissions allows in a second; None if it is not active, or can't be read."""
    try:
        async with current_client() as prefect:
            limit = await prefect.read_global_concurrency_limit_by_name(REQUESTS.name)
    except Exception:
        return None
    return limit.slot_decay_per_second or None if limit.active else None


async def _acquire_turn() -> None:
    await rate_limit(REQUESTS.name, strict=True, timeout_seconds=ACQUIRE_SECONDS)


async def _take(cents: int) -> None:
    """Take cents from the budget. A used up budget does not come back soon, so no run waits for it.

    Not by `rate_limit`, which would wait, and whose time-out does not tell a used up budget from a silent server.
    """
    try:
        async with current_client() as prefect:
            await prefect.increment_concurrency_slots([SPEND.name], cents, "rate_limit")
    except Exception as error:
        problem = _NotAsked.because_of(error)
        match problem.http_status:
            case codes.LOCKED:
                raise LimitReached(
                    f"The budget (global limit {SPEND.name}) has no room for this video, about {cents} cents. "
                    f"Nothing was sent. Run again later with the same key, or raise the limit under Concurrency in "
                    f"the Prefect UI."
                ) from None
            case codes.UNPROCESSABLE_ENTITY:
                raise _never(SPEND, cents) from None
        raise problem from error


async def _read_active() -> frozenset[str]:
    """Read the names of all active limits; those of deployments are among them, so there may be many."""
    names: set[str] = set()
    try:
        async with current_client() as prefect:
            for page in itertools.count():
                found = await prefect.read_global_concurrency_limits(limit=PAGE_SIZE, offset=page * PAGE_SIZE)
                names.update(limit.name for limit in found if limit.active)
                if len(found) < PAGE_SIZE:
                    break
    except Exception as error:
        raise _NotAsked.because_of(error) from error
    return frozenset(names)


def _cents(request: VideoRequest) -> int:
    cost = request.estimated_cost_usd
    return UNPRICED_CENTS if cost is None else max(1, math.ceil(cost * 100))


def _never(limit: Limit, slots: int) -> LimitReached:
    return LimitReached(
        f"The global limit {limit.name} never has room for {slots} slot{'' if slots == 1 else 's'} at once, so "
        f"waiting does not help. Raise it, or switch it off, under Concurrency in the Prefect UI. Nothing was sent."
    )


class _NotAsked(LimitReached):
    """Prefect can't be asked for its global limits. It passes, unless Prefect refuses to tell."""

    def __init__(self, why: str, *, transient: bool = True, http_status: int | None = None) -> None:
        super().__init__(
            f"Prefect's global limits can't be read ({why}), so it is unknown whether the budget has room. "
            f"Nothing was sent. If no budget is wanted, set PREFECT_INTEGRATIONS_XAI_VIDEO_BUDGET to false.",
            transient=transient,
        )
        self.why = why
        self.http_status = http_status

    @classmethod
    def because_of(cls, error: BaseException) -> "_NotAsked":
        if not isinstance(error, HTTPStatusError):
            return cls(type(error).__name__)
        status = error.response.status_code
        refused = status in {codes.UNAUTHORIZED, codes.FORBIDDEN, codes.NOT_FOUND}
        return cls(f"HTTP {status}", transient=not refused, http_status=status)


def _log() -> logging.Logger | LoggingAdapter:
    """The log of the current run, which people see in the UI."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logger
