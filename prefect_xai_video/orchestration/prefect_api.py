"""Prefect's API, as runs and commands reach it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.utilities import get_or_create_client
from prefect.settings import get_current_settings

from prefect_xai_video.errors import XaiVideoError

PAGE_SIZE = 200
"""Objects that Prefect lists in one response."""


class NoPrefectServer(XaiVideoError):
    """The Prefect server of `PREFECT_API_URL` can't be reached, or none is named."""


@asynccontextmanager
async def current_client() -> AsyncIterator[PrefectClient]:
    """The client of the current run, where there is one: a new one costs a request more."""
    client, shared = get_or_create_client()
    if shared:
        yield client
        return
    async with client:
        yield client


async def read_runs(prefect: PrefectClient, ids: Sequence[UUID]) -> list[FlowRun]:
    """Read flow runs by their ids, in as few requests as Prefect allows; those that were deleted are left out."""
    found: list[FlowRun] = []
    for first in range(0, len(ids), PAGE_SIZE):
        of_page = FlowRunFilter(id=FlowRunFilterId(any_=list(ids[first : first + PAGE_SIZE])))
        found += await prefect.read_flow_runs(flow_run_filter=of_page, limit=PAGE_SIZE)
    return found


def check_prefect_server(*, needed: bool = False) -> None:
    """Check that the Prefect server of `PREFECT_API_URL` can be reached.

    Args:
        needed: Whether one must be named; otherwise Prefect starts a temporary one.

    Raises:
        NoPrefectServer: If it can't be reached, or none is named.
    """
    settings = get_current_settings()
    if not settings.api.url:
        if needed or not settings.server.ephemeral.enabled:
            raise NoPrefectServer("PREFECT_API_URL is not set; set it, for instance to http://127.0.0.1:4200/api.")
        return
    if problem := asyncio.run(_problem_of_server()):
        reason = str(problem) or type(problem).__name__
        url = settings.api.url
        raise NoPrefectServer(
            f"The Prefect server at {url} (PREFECT_API_URL) can't be reached: {reason}. Start it, or correct "
            f"PREFECT_API_URL. Nothing was sent."
        )


async def _problem_of_server() -> Exception | None:
    async with get_client() as client:
        return await client.api_healthcheck()
