"""Prefect's global limits: submissions a second, videos in flight, cents to spend, shared by all workers.

Each is respected where it exists and is active on the server; where there is none, nothing is limited. Reading which
ones exist costs a request to Prefect, and each of them another. `deployments/set_up.py` creates them.

Waiting comes before a key is claimed. The budget comes after it, so that only the winner of a claim pays: once a key
and attempt, however many runs ask for the key. A submission that was surely refused gets its cents back.

What only slows down gives way where Prefect can't be asked. The budget never does: without it nothing is sent, unless
a setting says that no budget is wanted.
"""

import asyncio
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

from httpx import HTTPStatusError, Response, codes
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.logging.loggers import LoggingAdapter
from prefect.settings import get_current_settings

from prefect_xai_video.errors import LimitReached
from prefect_xai_video.prefect_api import current_client, soon_again
from prefect_xai_video.requests import VideoRequest

READ_AGAIN_SECONDS = 10.0
"""How long the list of active limits is cached, in seconds."""

LONGEST_PAUSE_SECONDS = 10.0
"""Longest pause between attempts to acquire a slot, in seconds."""

LEASE_SECONDS = 300
"""How long a slot stays taken after its process has died."""

SPEND_SECONDS = 5
"""Longest time between a claim and its POST for the budget: the claim must not grow old."""

LEAVE_SECONDS = 5
"""How long a run may be held up when it gives slots or cents back."""

PAGE = 200
"""Page size of the list of limits."""

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

Ask = Callable[[PrefectClient], Awaitable[Response]]

logger = logging.getLogger(__name__)


class Permit:
    """Permission to submit videos: a turn before each claim, and the cost of each submission from the budget.

    Args:
        budget: Whether the budget is respected. Without it, nothing is asked or taken for it.
    """

    def __init__(self, *, budget: bool = True) -> None:
        self._budget = budget
        self._spent: Counter[VideoRequest] = Counter()

    async def turn(self, request: VideoRequest) -> None:
        """Wait for a place among the videos in flight and for a turn. It takes nothing from the budget.

        Args:
            request: The request to be submitted.

        Raises:
            LimitReached: If a limit never has room for it, or Prefect does not tell whether there is a budget.
        """
        # Found out before a claim is written.
        if self._budget:
            await _active()
        place = _place.get()
        if place is not None and await _holds(IN_FLIGHT):
            await place.take()
        if await _holds(REQUESTS):
            await _wait_for(REQUESTS, _slots(REQUESTS, 1))

    async def spend(self, request: VideoRequest) -> None:
        """Take the estimated cost of a submission from the budget, within a few seconds.

        Args:
            request: The request to be submitted; its key is claimed.

        Raises:
            LimitReached: If the budget has no room for it, or Prefect can't be asked. Nothing was sent.
        """
        if not self._budget:
            return
        try:
            async with asyncio.timeout(SPEND_SECONDS):
                if SPEND.name in await _active():
                    await _spend(_cents(request))
                    self._spent[request] += 1
        except TimeoutError:
            raise _NotAsked(f"no response within {SPEND_SECONDS} s") from None

    async def refund(self, request: VideoRequest) -> None:
        """Give the cost of a submission back that was surely refused. Best effort: it never raises.

        Args:
            request: The request for which `spend` took the cost.
        """
        if not self._spent[request]:
            return
        self._spent[request] -= 1
        try:
            # A client of its own: the one of the run belongs to another event loop.
            async with asyncio.timeout(LEAVE_SECONDS), get_client() as prefect:
                await soon_again(prefect, _return_slots(SPEND, _cents(request)))
        except Exception as error:
            _log().warning(
                "About %d cents of a refused submission could not be given back to the global limit %s: %s",
                _cents(request),
                SPEND.name,
                type(error).__name__,
            )


@asynccontextmanager
async def in_flight() -> AsyncIterator[None]:
    """Have a submission in this block wait for one of the places for videos in flight, and hold it to the end."""
    place = _Place()
    outer = _place.set(place)
    try:
        yield
    finally:
        _place.reset(outer)
        await place.leave()


class _Place:
    """One of the places. A lease holds it, which ends by itself some time after this process does."""

    def __init__(self) -> None:
        self._held: tuple[UUID, asyncio.Task[None]] | None = None

    async def take(self) -> None:
        """Wait for the place, unless it is taken; where Prefect can't be asked, go on without."""
        if self._held is None:
            answer = await _wait_for(IN_FLIGHT, _lease)
            if answer is not None:
                lease = UUID(answer.json()["lease_id"])
                self._held = lease, asyncio.create_task(_renew(lease))

    async def leave(self) -> None:
        """Give it back, if it is taken."""
        if self._held is None:
            return
        lease, renewing = self._held
        renewing.cancel()
        try:
            async with asyncio.timeout(LEAVE_SECONDS), current_client() as prefect:
                await prefect.release_concurrency_slots_with_lease(lease)
        except Exception:
            logger.debug("A place could not be given back: its lease will end.", exc_info=True)


_place: ContextVar[_Place | None] = ContextVar("_place", default=None)


def _lease(prefect: PrefectClient) -> Awaitable[Response]:
    """Ask for a place that is held and given back."""
    return prefect.increment_concurrency_slots_with_lease([IN_FLIGHT.name], 1, "concurrency", LEASE_SECONDS)


def _slots(limit: Limit, number: int) -> Ask:
    """Ask for slots that come back by themselves."""
    return lambda prefect: prefect.increment_concurrency_slots([limit.name], number, "rate_limit")


def _return_slots(limit: Limit, number: int) -> Ask:
    """Give slots back before they come back by themselves. Prefect wants a time that they were taken for."""
    return lambda prefect: prefect.release_concurrency_slots([limit.name], number, 1.0)


async def _renew(lease: UUID) -> None:
    """Keep a lease. One that is lost must not end a run that has paid: then there is one video more in flight."""
    while True:
        await asyncio.sleep(LEASE_SECONDS / 2)
        try:
            async with get_client() as prefect:
                await prefect.renew_concurrency_lease(lease, LEASE_SECONDS)
        except Exception:
            logger.debug("The lease of a place could not be renewed.", exc_info=True)


async def _spend(cents: int) -> None:
    """Take cents from the budget; one that is used up does not come back soon, so no run waits for it."""
    if isinstance(await _ask(SPEND, _slots(SPEND, cents), cents), float):
        raise LimitReached(
            f"The global limit {SPEND.name} has no room for this video, about {cents} cents. Nothing was sent."
        )


async def _wait_for(limit: Limit, ask: Ask) -> Response | None:
    """Ask for one slot until there is one; where Prefect can't be asked, go on without."""
    told = False
    try:
        while isinstance(answer := await _ask(limit, ask), float):
            if not told:
                _log().info("Waiting for the global limit %s", limit.name)
                told = True
            await asyncio.sleep(min(answer, LONGEST_PAUSE_SECONDS))
    except _NotAsked as error:
        _log().warning("Going on without the global limit %s: %s", limit.name, error.why)
        return None
    return answer


async def _ask(limit: Limit, ask: Ask, slots: int = 1) -> Response | float:
    """Ask Prefect for slots of a limit.

    Returns:
        Its response; or the seconds after which to try again, if there are not enough now.

    Raises:
        LimitReached: If there never will be enough: it has fewer slots, or they don't come back.
        _NotAsked: If Prefect can't be asked.
    """
    try:
        async with current_client() as prefect:
            return await soon_again(prefect, ask)
    except Exception as error:
        response = error.response if isinstance(error, HTTPStatusError) else None
        if response is not None and response.status_code == codes.LOCKED:
            return float(response.headers.get("Retry-After", 1))
        if response is not None and response.status_code == codes.UNPROCESSABLE_ENTITY:
            raise LimitReached(
                f"The global limit {limit.name} never has room for {slots} slots at once. Nothing was sent."
            ) from None
        raise _NotAsked.because_of(error) from error


def _cents(request: VideoRequest) -> int:
    cost = request.estimated_cost_usd
    return UNPRICED_CENTS if cost is None else max(1, math.ceil(cost * 100))


_known: dict[str | None, tuple[float, frozenset[str]]] = {}
"""The active limits of a server, by its URL, and until when the list counts as known."""


async def _holds(limit: Limit) -> bool:
    """Whether a limit that only slows down is active: by the list that was read last, if Prefect can't be asked."""
    try:
        return limit.name in await _active()
    except _NotAsked as error:
        _, names = _known.get(_server(), (0.0, frozenset()))
        _log().warning("Going on with the global limits that were known before: %s", error.why)
        return limit.name in names


async def _active() -> frozenset[str]:
    """The names of all active limits, at most a few seconds old.

    Raises:
        _NotAsked: If Prefect can't be asked.
    """
    until, names = _known.get(_server(), (0.0, frozenset()))
    if time.monotonic() >= until:
        names = await _read_active()
        _known[_server()] = (time.monotonic() + READ_AGAIN_SECONDS, names)
    return names


async def _read_active() -> frozenset[str]:
    """Read the names of all active limits; those of deployments are among them, so there may be many."""
    names: set[str] = set()
    try:
        async with current_client() as prefect:
            for page in itertools.count():
                found = await prefect.read_global_concurrency_limits(limit=PAGE, offset=page * PAGE)
                names.update(limit.name for limit in found if limit.active)
                if len(found) < PAGE:
                    break
    except Exception as error:
        raise _NotAsked.because_of(error) from error
    return frozenset(names)


def _server() -> str | None:
    return get_current_settings().api.url


class _NotAsked(LimitReached):
    """Prefect can't be asked for its global limits. It passes, unless Prefect refuses to tell."""

    def __init__(self, why: str, *, transient: bool = True) -> None:
        super().__init__(
            f"Prefect can't be asked for its global limits ({why}), so it is unknown whether the budget has room. "
            f"Nothing was sent. If no budget is wanted, set PREFECT_INTEGRATIONS_XAI_VIDEO_BUDGET to false.",
            transient=transient,
        )
        self.why = why

    @classmethod
    def because_of(cls, error: Exception) -> "_NotAsked":
        if not isinstance(error, HTTPStatusError):
            return cls(type(error).__name__)
        status = error.response.status_code
        refused = status in {codes.UNAUTHORIZED, codes.FORBIDDEN, codes.NOT_FOUND}
        return cls(f"HTTP {status}", transient=not refused)


def _log() -> logging.Logger | LoggingAdapter:
    """The log of the current run, which people see in the UI."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logger
