"""What one video asks of a Prefect server: few requests, few log lines."""

import asyncio

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.events.related import RESOURCE_CACHE
from prefect.settings import PREFECT_API_URL

from prefect_xai_video import agenerate_video
from prefect_xai_video.orchestration import limits

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

AS_TIME_PASSES = ("/logs/", "/renew")
"""What is sent every few seconds, and so more often on a slow machine: log lines, and the renewal of a lease."""


@pytest.fixture
def requests(monkeypatch):
    """The requests to Prefect's API that this process makes."""
    seen = []

    send, send_async = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    def count(request, response):
        # SQLite answers 503 to what comes while others write; Prefect's client asks again.
        is_api = str(request.url).startswith(PREFECT_API_URL.value())
        if is_api and response.status_code != 503 and not request.url.path.endswith(AS_TIME_PASSES):
            seen.append(f"{response.status_code} {request.method} {request.url.path}")
        return response

    async def counted(self, request):
        return count(request, await send_async(self, request))

    monkeypatch.setattr(
        httpx.HTTPTransport, "handle_request", lambda self, request: count(request, send(self, request))
    )
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", counted)
    return seen


@pytest.fixture
async def limited():
    """The global limits as they are created."""
    async with get_client() as client:
        for limit in limits.LIMITS:
            # Not created: a repeated request, after SQLite was busy, would be a conflict.
            await client.upsert_global_concurrency_limit_by_name(limit.name, limit.limit, limit.slot_decay_per_second)
            await client.update_global_concurrency_limit(
                limit.name, GlobalConcurrencyLimitUpdate(active=limit.active)
            )
        yield
        for limit in limits.LIMITS:
            await client.delete_global_concurrency_limit_by_name(limit.name)


@flow
async def nothing():
    pass


@pytest.mark.usefixtures("limited")
async def test_one_video_takes_at_most_25_requests_and_20_log_lines(emulator, directory, xai, requests, caplog):
    await nothing()  # What Prefect asks once a process is not the video's.
    RESOURCE_CACHE.clear()
    requests.clear()
    await agenerate_video("A cat", duration=6, storage=directory, credentials=xai)
    await asyncio.sleep(3)  # Events and log lines are sent in the background.
    # With one request for the log lines.
    assert len(requests) + 1 <= 25, "\n".join(requests)
    assert len([record for record in caplog.records if record.name.startswith("prefect.")]) <= 20
