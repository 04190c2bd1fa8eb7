"""Prefect's persisted results, which a retried run gets by the order of its calls."""

import asyncio

import pytest
from prefect import flow
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_TASKS_DEFAULT_PERSIST_RESULT,
    temporary_settings,
)

from prefect_xai_video import agenerate_video, asave_video, astart_video, await_for_video
from prefect_xai_video.flows import acollect_video

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

ROWS = ["cat", "dog", "bird"]


@pytest.fixture(params=["on the parent", "by default"])
def persisting(request, tmp_path):
    """Persists results in each of the ways that Prefect has; gives the options of the parent."""
    by_default = request.param == "by default"
    settings = {
        PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results",
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: by_default,
        PREFECT_TASKS_DEFAULT_PERSIST_RESULT: by_default or None,
    }
    with temporary_settings(settings):
        yield {} if by_default else {"persist_result": True}


@pytest.fixture
def where(directory, xai):
    return {"storage": directory, "credentials": xai}


async def generate(row, where):
    return await agenerate_video(f"A {row}", duration=1, key=row, **where)


async def collect(row, where):
    started = await astart_video(f"A {row}", duration=1, key=row, **where)
    return await acollect_video(started.request_id, row, **where)


async def compose(row, where):
    started = await astart_video(f"A {row}", duration=1, key=row, **where)
    return await asave_video(await await_for_video(started, **where), **where)


@pytest.mark.parametrize(
    ("make", "at_once", "later"),
    [
        pytest.param(generate, True, ROWS[::-1], id="gathered in another order"),
        pytest.param(generate, False, ROWS[1:], id="one by one without the first"),
        pytest.param(collect, False, ROWS[::-1], id="collected in another order"),
        pytest.param(compose, True, ROWS[1:], id="by tasks without the first"),
    ],
)
async def test_each_row_of_a_retried_flow_ends_with_its_own_video(
    persisting, make, at_once, later, where, submissions
):
    tries = []

    @flow(retries=1, **persisting)
    async def rows():
        asked = later if tries else ROWS
        if at_once:
            videos = await asyncio.gather(*(make(row, where) for row in asked))
        else:
            videos = [await make(row, where) for row in asked]
        tries.append([video.key for video in videos])
        if len(tries) == 1:
            raise RuntimeError("something later broke")

    await rows()
    assert tries == [ROWS, later]
    assert submissions() == len(ROWS)
