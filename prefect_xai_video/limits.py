"""Prefect's global limits: submissions a second, videos in flight, cents to spend, shared by all workers.

Each holds where it exists and is active on the server, and costs a request to Prefect there; where there is none,
nothing is limited. `deployments/set_up.py` creates them. They are asked for before a key is claimed, so whoever has
to wait, or is turned away, has sent nothing.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from httpx import codes
from prefect.client.orchestration import PrefectClient
from prefect.client.utilities import get_or_create_client
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import PrefectHTTPStatusError

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


class Permit:
    """Leave to submit one video, asked for before each of its submissions: its cost once, its turn each time."""

    def __init__(self) -> None:
        self._paid = False

    async def __call__(self, request: VideoRequest) -> None:
        """Wait for a turn, and take what the video will cost from the budget.

        Raises:
            LimitReached: If the budget has no room for it, or a limit can't be kept. Nothing was sent.
        """
        if not self._paid and await _holds(SPEND):
            await _spend(_cents(request))
        self._paid = True
        if await _holds(REQUESTS):
            await _take_turn()


@asynccontextmanager
async def in_flight() -> AsyncIterator[None]:
    """Hold one of the places for videos that are rendered at the same time, after waiting for it."""
    if not await _holds(IN_FLIGHT):
        yield
        return
    # A lost lease must not end a run that has paid.
    async with concurrency(IN_FLIGHT.name, raise_on_lease_renewal_failure=False):
        yield


async def _spend(cents: int) -> None:
    """Take cents from the budget; one that is used up does not come back soon, so no run waits for it."""
    if await _occupy(SPEND, cents) is not None:
        raise LimitReached(
            f"The global limit {SPEND.name} has no room for this video, about {cents} cents. Nothing was sent."
        )


async def _take_turn() -> None:
    while (pause := await _occupy(REQUESTS, 1)) is not None:  # noqa: ASYNC110 (the server has no event to wait for)
        await asyncio.sleep(min(pause, LONGEST_PAUSE_SECONDS))


async def _occupy(limit: Limit, slots: int) -> float | None:
    """Take slots of a limit that come back by themselves.

    Returns:
        None, or the seconds after which Prefect would be asked again, where there are not enough now.

    Raises:
        LimitReached: If there never will be enough: it has fewer slots, or they don't come back.
    """
    try:
        async with _client() as client:
            await client.increment_concurrency_slots([limit.name], slots, mode="rate_limit")
    except PrefectHTTPStatusError as error:
        answer = error.response
        if answer.status_code == codes.LOCKED:
            return float(answer.headers.get("Retry-After", 1))
        if answer.status_code == codes.UNPROCESSABLE_ENTITY:
            raise LimitReached(
                f"The global limit {limit.name} never has room for {slots} slots at once. Nothing was sent."
            ) from None
        raise
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
    """The names of all active limits; those of deployments are among them, so there may be many."""
    names: list[str] = []
    async with _client() as client:
        for page in itertools.count():
            found = await client.read_global_concurrency_limits(limit=PAGE, offset=page * PAGE)
            names += [limit.name for limit in found if limit.active]
            if len(found) < PAGE:
                break
    return names


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    """The client of the current run, where there is one: a new one costs a request more."""
    client, shared = get_or_create_client()
    if shared:
        yield client
        return
    async with client:
        yield client
