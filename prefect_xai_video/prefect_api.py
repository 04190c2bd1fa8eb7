"""Prefect's API as a run reaches it: with the client that the run has, and soon again where writes crossed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

from httpx import Response, codes
from prefect.client.orchestration import PrefectClient
from prefect.client.utilities import get_or_create_client

R = TypeVar("R")

CROSSED_SECONDS = (0.05, 0.1, 0.2, 0.4)
"""Pauses after an answer that writes crossed. Where Prefect keeps its data in SQLite, the start of the very task that
asks is written at the same moment, so most runs get that answer; Prefect's client would wait 2 s."""


@asynccontextmanager
async def current_client() -> AsyncIterator[PrefectClient]:
    """The client of the current run, where there is one: a new one costs a request more."""
    client, shared = get_or_create_client()
    if shared:
        yield client
        return
    async with client:
        yield client


async def soon_again(prefect: PrefectClient, ask: Callable[[PrefectClient], Awaitable[R]]) -> R:
    """Ask Prefect, and ask soon again where writes crossed; then as patiently as its client always does."""
    for pause in CROSSED_SECONDS:
        try:
            with _refusals_told(prefect):
                return await ask(prefect)
        except _Crossed:
            await asyncio.sleep(pause)
    return await ask(prefect)


class _Crossed(Exception):
    """Prefect answered 503, and did not say when it wants to be asked again."""


_impatient: ContextVar[bool] = ContextVar("_impatient", default=False)
"""Whether who sends a request wants to be told of that answer: others may use the same client meanwhile."""


@contextmanager
def _refusals_told(prefect: PrefectClient) -> Iterator[None]:
    # A client made with this hook would need no private attribute, but two requests more. Without the attribute, the
    # client waits as it always does.
    hooks = getattr(getattr(prefect, "_client", None), "event_hooks", {}).get("response", [])
    if _tell not in hooks:
        hooks.append(_tell)
    token = _impatient.set(True)
    try:
        yield
    finally:
        _impatient.reset(token)


async def _tell(response: Response) -> None:
    if (
        _impatient.get()
        and response.status_code == codes.SERVICE_UNAVAILABLE
        and "Retry-After" not in response.headers
    ):
        raise _Crossed
