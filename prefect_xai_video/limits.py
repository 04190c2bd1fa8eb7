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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

from httpx import HTTPError, HTTPStatusError, Response, codes
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.logging.loggers import LoggingAdapter
from prefect.settings import get_current_settings

from prefect_xai_video.errors import LimitReached
from prefect_xai_video.prefect_api import current_client, soon_again
from prefect_xai_video.requests import VideoRequest

READ_AGAIN_SECONDS = 10.0
"""How long it is taken for known which limits there are."""

LONGEST_PAUSE_SECONDS = 10.0
"""Between two questions for a turn."""

LEASE_SECONDS = 300
"""How long a place is held by a process that has died."""

LEAVE_SECONDS = 5
"""How long a run that has paid may be held up when it gives its place back."""

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

Ask = Callable[[PrefectClient], Awaitable[Response]]

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
            LimitReached: If a limit has no room for it, now or ever, or the budget can't be asked. Nothing was sent.
        """
        place = _place.get()
        if place is not None and await _holds(IN_FLIGHT):
            await place.take()
        if not (self._paid or repeated) and await _holds(SPEND):
            await _spend(_cents(request))
        self._paid = True
        if await _holds(REQUESTS):
            await _wait_for(REQUESTS, _slots(REQUESTS, 1))


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
    except LimitReached as error:
        if not error.transient:
            raise
        _log().warning("Going on without the global limit %s: %s", limit.name, error.message)
        return None
    return answer


async def _ask(limit: Limit, ask: Ask, slots: int = 1) -> Response | float:
    """Ask Prefect for slots of a limit.

    Returns:
        Its answer; or the seconds after which it would be asked again, where there are not enough now.

    Raises:
        LimitReached: If there never will be enough: it has fewer slots, or they don't come back. Transient, if
            Prefect can't be asked.
    """
    try:
        async with current_client() as prefect:
            return await soon_again(prefect, ask)
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


def _cents(request: VideoRequest) -> int:
    cost = request.estimated_cost_usd
    return UNPRICED_CENTS if cost is None else max(1, math.ceil(cost * 100))


_known: dict[str | None, tuple[float, frozenset[str]]] = {}
"""The active limits of a server, by its URL, and until when they count as known."""


async def _holds(limit: Limit) -> bool:
    server = get_current_settings().api.url
    until, names = _known.get(server, (0.0, frozenset()))
    if time.monotonic() >= until:
        try:
            names = await _active_limits()
        except LimitReached as error:
            if server not in _known:
                raise
            _log().warning("Taking the global limits for what they were: %s", error.message)
        _known[server] = (time.monotonic() + READ_AGAIN_SECONDS, names)
    return limit.name in names


async def _active_limits() -> frozenset[str]:
    """The names of all active limits; those of deployments are among them, so there may be many.

    Raises:
        LimitReached: If Prefect can't be asked. Where it is asked and doesn't tell, no limit is kept.
    """
    names: set[str] = set()
    try:
        async with current_client() as prefect:
            for page in itertools.count():
                found = await prefect.read_global_concurrency_limits(limit=PAGE, offset=page * PAGE)
                names.update(limit.name for limit in found if limit.active)
                if len(found) < PAGE:
                    break
    except HTTPError as error:
        if _status(error) not in {codes.UNAUTHORIZED, codes.FORBIDDEN, codes.NOT_FOUND}:
            raise _unanswered(error) from error
        _log().warning("Prefect does not tell its global limits (HTTP %s): none is kept", _status(error))
    return frozenset(names)


def _unanswered(error: HTTPError) -> LimitReached:
    what = _status(error) or type(error).__name__
    return LimitReached(f"Prefect can't be asked for its global limits ({what}). Nothing was sent.", transient=True)


def _status(error: HTTPError) -> int | None:
    return error.response.status_code if isinstance(error, HTTPStatusError) else None


def _log() -> logging.Logger | LoggingAdapter:
    """The log of the current run, which people see in the UI."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logger
