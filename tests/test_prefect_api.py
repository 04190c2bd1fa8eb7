"""Questions to Prefect that cross a write, and what the others on the same client notice of it: nothing."""

import asyncio

import httpx
import pytest
from prefect.client import base
from prefect.client.orchestration import PrefectClient

from prefect_xai_video.prefect_api import CROSSED_SECONDS, soon_again


@pytest.fixture
def pauses(monkeypatch):
    """How long Prefect's client waits before it repeats a request."""
    waited = []

    class Clock:
        @staticmethod
        async def sleep(seconds):
            waited.append(seconds)

    monkeypatch.setattr(base, "anyio", Clock)
    return waited


@pytest.fixture
async def prefect():
    """A client of a server that refuses each path as often as the path says."""
    asked = {}

    def answer(request):
        path = request.url.path
        asked[path] = asked.get(path, 0) + 1
        refused = asked[path] <= int(path.rpartition("/")[2])
        return httpx.Response(503 if refused else 200, request=request, json={})

    transport = httpx.MockTransport(answer)
    settings = {"transport": transport}
    async with PrefectClient("http://127.0.0.1:9/api", httpx_settings=settings, server_type="cloud") as client:
        client.asked = asked
        yield client


async def ask(prefect, path):
    return (await prefect.request("GET", path)).status_code


@pytest.mark.parametrize("refusals", [0, 1, len(CROSSED_SECONDS)])
async def test_who_crossed_a_write_asks_soon_again(prefect, pauses, refusals):
    assert await soon_again(prefect, lambda client: ask(client, f"/{refusals}")) == 200
    assert pauses == []
    assert prefect.asked == {f"/api/{refusals}": refusals + 1}


async def test_where_writes_go_on_to_cross_prefects_client_is_as_patient_as_ever(prefect, pauses):
    assert await soon_again(prefect, lambda client: ask(client, f"/{len(CROSSED_SECONDS) + 3}")) == 200
    soon, pauses[:] = list(pauses), []
    await ask(prefect, "/3")
    assert len(soon) == len(pauses) == 3
    assert all(1 <= pause <= 12 for pause in soon + pauses)


async def test_callers_of_one_client_do_not_disturb_each_other(prefect, pauses):
    many = [soon_again(prefect, lambda client, n=n: ask(client, f"/{n}/3")) for n in range(4)]
    assert await asyncio.gather(ask(prefect, "/plain/1"), *many, ask(prefect, "/other/1")) == [200] * 6
    assert len(pauses) == 2, "those of who did not ask this way"


async def test_without_its_private_attribute_the_client_is_asked_all_the_same():
    assert await soon_again(object(), lambda _: asyncio.sleep(0, "answered")) == "answered"
