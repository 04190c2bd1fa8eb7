"""The global limits of a Prefect server hold back what would be sent, and nothing else."""

import asyncio
import itertools
import time
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from prefect_xai_video import agenerate_video, limits
from prefect_xai_video.errors import LimitReached
from prefect_xai_video.limits import IN_FLIGHT, REQUESTS, SPEND, Permit
from prefect_xai_video.requests import build_request

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
async def limited():
    """Creates a limit on the server, until the test ends."""
    made = []

    async def create(limit, slots, decay, active=True):
        async with get_client() as client:
            await client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=limit.name, limit=slots, slot_decay_per_second=decay, active=active)
            )
        made.append(limit.name)
        limits._known.clear()

    limits._known.clear()
    yield create
    async with get_client() as client:
        for name in made:
            await client.delete_global_concurrency_limit_by_name(name)
    limits._known.clear()


async def test_a_budget_that_is_used_up_refuses_before_anything_is_sent(limited, directory, xai, submissions):
    await limited(SPEND, 10, 0.0001)
    video = await agenerate_video("A cat", duration=1, key="cheap", storage=directory, credentials=xai)
    with pytest.raises(LimitReached, match=r"xai-video-spend-cents.*about 10 cents.*Nothing was sent") as caught:
        await agenerate_video("A cat", duration=2, key="dear", storage=directory, credentials=xai)
    assert caught.value.key == "dear"
    assert not (Path(directory.basepath) / "dear.json").exists()
    # What is paid for already costs no budget.
    assert await agenerate_video("A cat", duration=1, key="cheap", storage=directory, credentials=xai) == video
    assert submissions() == 1


async def test_a_video_dearer_than_the_whole_budget_is_refused_at_once(limited, directory, xai, submissions):
    await limited(SPEND, 10, 1)
    with pytest.raises(LimitReached, match="about 75 cents"):
        await agenerate_video("A cat", duration=15, storage=directory, credentials=xai)
    assert submissions() == 0


async def test_an_inactive_budget_holds_nothing_back(limited, directory, xai, submissions):
    await limited(SPEND, 1, 0.0001, active=False)
    await agenerate_video("A cat", duration=1, storage=directory, credentials=xai)
    assert submissions() == 1


async def test_no_more_videos_are_in_flight_than_allowed(limited, directory, xai, emulator):
    await limited(IN_FLIGHT, 1, 0)
    before = len(emulator.requests())

    @flow
    async def two():
        making = (
            agenerate_video("A cat", duration=1, key=key, storage=directory, credentials=xai) for key in ("a", "b")
        )
        return await asyncio.gather(*making)

    await two()
    calls = [call["method"] for call in emulator.requests()[before:] if "/videos/" in call["path"]]
    runs = [method for method, _ in itertools.groupby(calls)]
    assert runs[:3] == ["POST", "GET", "POST"]


async def test_each_submission_takes_its_turn(limited):
    await limited(REQUESTS, 1, 1.0)
    request = build_request("A cat", duration=1)
    began = time.monotonic()
    await asyncio.gather(*(Permit()(request) for _ in range(3)))
    assert time.monotonic() - began > 1
