"""Prefect's global limits: submissions a second, videos in flight, cents to spend, shared by all workers.

Each holds where it exists and is active on the server; where there is none, nothing is limited. Looking which there
are costs a request to Prefect, and each of them another. `deployments/set_up.py` creates them. They are asked for
where a submission is due, before its key is claimed, so whoever has to wait, or is turned away, has sent nothing.

What only slows down gives way where Prefect can't be asked; the budget does not.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass

from httpx import HTTPError, HTTPStatusError, codes
from prefect.client.orchestration import PrefectClient
from prefect.client.utilities import get_or_create_client
from prefect.concurrency.asyncio import concurrency

from prefect_xai_video.errors import LimitReached
from prefect_xai_video.requests import VideoRequest

READ_AGAIN_SECONDS = 10.0
"""How long it is taken for known which limits there are."""

LONGEST_PAUSE_SECONDS = 10.0
"""Between two questions for a turn."""

PAGE = 200
"""As many limits as Prefect names at once."""

UNPRICED_CENTS = 100
"""What counts where the price table can't say: more than the dearest edit (8.7 s at $0.08)."""


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

_known: dict[str, float] = {}
"""Until when a limit counts as there, by its name; the empty name stands for having looked."""

logger = logging.getLogger(__name__)


class Permit:
    """Leave to submit one video, asked for before each of its submissions: its cost once, its turn each time."""

    def __init__(self) -> None:
        self._paid = False

    async def __call__(self, request: VideoRequest, *, repeated: bool) -> None:
        """Wait for a place among the videos in flight and for a turn, and take the cost from the budget.

        Args:
            request: What is to be submitted.
            repeated: Whether the same run had leave for it before, and was refused by xAI.

        Raises:
            LimitReached: If the budget has no room for it, or can't be asked. Nothing was sent.
        """
        place = _place.get()
        if place is not None and await _holds(IN_FLIGHT):
            await place.take()
        if not (self._paid or repeated) and await _holds(SPEND):
            await _spend(_cents(request))
        self._paid = True
        if await _holds(REQUESTS):
            await _take_turn()


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
    """One of the places. It is taken in a task run and given back by the flow run, so an asyncio task holds it.

    That has the context of the flow run: Prefect gives back what a task run has taken, when that ends.
    """

    def __init__(self) -> None:
        self._context = copy_context()
        self._taken = asyncio.Event()
        self._left = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None

    async def take(self) -> None:
        """Wait for the place, unless it is taken."""
        if self._holding is None:
            self._holding = asyncio.create_task(self._hold(), context=self._context)
        await self._taken.wait()

    async def leave(self) -> None:
        """Give it back, if it is taken, or stop waiting for it."""
        if self._holding is not None:
            self._left.set()
            if not self._taken.is_set():
                self._holding.cancel()
            await asyncio.wait({self._holding})

    async def _hold(self) -> None:
        try:
            # A lost lease must not end a run that has paid.
            async with concurrency(IN_FLIGHT.name, raise_on_lease_renewal_failure=False):
                self._taken.set()
                await self._left.wait()
        except Exception as error:
            logger.warning("The global limit %s can't be kept: %s", IN_FLIGHT.name, error)
        finally:
            self._taken.set()


_place: ContextVar[_Place | None] = ContextVar("_place", default=None)


async def _spend(cents: int) -> None:
    """Take cents from the budget; one that is used up does not come back soon, so no run waits for it."""
    if await _occupy(SPEND, cents) is not None:
        raise LimitReached(
            f"The global limit {SPEND.name} has no room for this video, about {cents} cents. Nothing was sent."
        )


async def _take_turn() -> None:
    try:
        while (pause := await _occupy(REQUESTS, 1)) is not None:  # noqa: ASYNC110 (the server has no event)
            await asyncio.sleep(min(pause, LONGEST_PAUSE_SECONDS))
    except LimitReached as error:
        if not error.transient:
            raise
        logger.warning("Nobody waits for a turn: %s", error.message)


async def _occupy(limit: Limit, slots: int) -> float | None:
    """Take slots of a limit that come back by themselves.

    Returns:
        None, or the seconds after which Prefect would be asked again, where there are not enough now.

    Raises:
        LimitReached: If there never will be enough (it has fewer slots, or they don't come back), or for now, if
            Prefect can't be asked.
    """
    try:
        async with _client() as client:
            await client.increment_concurrency_slots([limit.name], slots, mode="rate_limit")
    except HTTPStatusError as error:
        match error.response.status_code:
            case codes.LOCKED:
                return float(error.response.headers.get("Retry-After", 1))
            case codes.UNPROCESSABLE_ENTITY:
                raise LimitReached(
                    f"The global limit {limit.name} never has room for {slots} slots at once. Nothing was sent."
                ) from None
            case _:
                raise _unanswered(error) from error
    except HTTPError as error:
        raise _unanswered(error) from error
    return None


def _cents(request: VideoRequest) -> int:
    cost = request.estimated_cost_usd
    return UNPRICED_CENTS if cost is None else max(1, math.ceil(cost * 100))


async def _holds(limit: Limit) -> bool:
    now = time.monotonic()
    if _known.get("", 0) < now:
        there = await _active_limits()
        _known.clear()
        _known.update(dict.fromkeys(there, now + READ_AGAIN_SECONDS))
        _known[""] = now + READ_AGAIN_SECONDS
    return limit.name in _known


async def _active_limits() -> list[str]:
    """The names of all active limits; those of deployments are among them, so there may be many.

    Raises:
        LimitReached: If Prefect can't be asked. Where it is asked and doesn't tell, no limit is kept.
    """
    names: list[str] = []
    try:
        async with _client() as client:
            for page in itertools.count():
                found = await client.read_global_concurrency_limits(limit=PAGE, offset=page * PAGE)
                names += [limit.name for limit in found if limit.active]
                if len(found) < PAGE:
                    break
    except HTTPError as error:
        if _status(error) not in {codes.UNAUTHORIZED, codes.FORBIDDEN, codes.NOT_FOUND}:
            raise _unanswered(error) from error
        logger.warning("Prefect does not tell its global limits (HTTP %s): none is kept.", _status(error))
    return names


def _unanswered(error: HTTPError) -> LimitReached:
    what = _status(error) or type(error).__name__
    return LimitReached(f"Prefect can't be asked for its global limits ({what}). Nothing was sent.", transient=True)


def _status(error: HTTPError) -> int | None:
    return error.response.status_code if isinstance(error, HTTPStatusError) else None


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    """The client of the current run, where there is one: a new one costs a request more."""
    client, shared = get_or_create_client()
    if shared:
        yield client
        return
    async with client:
        yield client
