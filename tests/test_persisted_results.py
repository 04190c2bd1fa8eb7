"""Prefect's persisted results, which a retried run gets by the order of its calls."""

import asyncio
import re
from base64 import b64decode
from inspect import signature

import pytest
from prefect import flow, task, unmapped
from prefect.cache_policies import INPUTS
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_TASKS_DEFAULT_PERSIST_RESULT,
    temporary_settings,
)
from prefect.tasks import Task

import prefect_xai_video
from prefect_xai_video import agenerate_video, aget_video, asave_video, astart_video, await_for_video
from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.flows import acollect_video

from .support.api_key import API_KEY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

ROWS = ["cat", "dog", "bird"]


PUBLIC = [getattr(prefect_xai_video, name) for name in prefect_xai_video.__all__]
TASKS = [each for each in PUBLIC if isinstance(each, Task)]


@pytest.fixture
def stored(tmp_path):
    """Gives all that Prefect has stored in files, results decoded."""

    def read() -> bytes:
        files = b"".join(path.read_bytes() for path in tmp_path.glob("results/**/*") if path.is_file())
        results = re.findall(rb'"result":"([^"]*)"', files)
        return files + b"".join(b64decode(result.replace(rb"\n", b"")) for result in results)

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield read


@pytest.fixture(params=["on the parent", "by default"])
def persisting(request, stored):
    """Persists results in each of the ways that Prefect has; gives the options of the parent."""
    by_default = request.param == "by default"
    settings = {
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


async def test_a_signed_url_is_in_no_persisted_result(persisting, where, stored):
    @task(persist_result=True)
    async def inner(request_id):
        return (await aget_video(request_id, credentials=where["credentials"])).state

    @flow(**persisting)
    async def publish():
        video = await agenerate_video("A cat", duration=1, **where)
        credentials = where["credentials"]
        await aget_video(video.request_id, credentials=credentials)
        await aget_video.with_options(cache_policy=INPUTS)(video.request_id, credentials=credentials)
        aget_video.submit(video.request_id, credentials=credentials).result()
        assert await inner(video.request_id) == "done"

    await publish()
    assert b"done" in stored()
    assert b"xai-vidgen-bucket" not in stored()
    assert API_KEY.encode() not in stored()


@pytest.mark.parametrize("direct", TASKS, ids=lambda task: task.fn.__name__)
@pytest.mark.parametrize("copied", [False, True], ids=["as it is", "with options"])
def test_no_task_of_ours_can_be_sent_to_a_task_worker(direct, copied, where, stored):
    direct = direct.with_options(name="copy", tags=["ours"]) if copied else direct
    parameters = signature(direct.fn).parameters.values()
    arguments = ["cat" for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    credentials = where["credentials"]
    calls = [
        lambda: direct.delay(*arguments, credentials=credentials),
        lambda: direct.apply_async(arguments, {"credentials": credentials}),
        lambda: direct.map(*map(list, zip(arguments, strict=True)), credentials=unmapped(credentials), deferred=True),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match=rf"^{direct.name}: delay\(\).* Nothing was stored or sent"):
            call()
    assert stored() == b""


def test_no_copy_of_a_task_of_ours_persists(where):
    for persist_result in (True, None):
        expected = f"persist_result: {persist_result} for get_video is not allowed"
        with pytest.raises(InvalidRequest, match=expected):
            aget_video.with_options(persist_result=persist_result)
        with pytest.raises(
            InvalidRequest, match=f"persist_result: {persist_result} for generate-video is not allowed"
        ):
            agenerate_video.with_options(persist_result=persist_result)
    assert agenerate_video.with_options(retries=1).persist_result is False


async def test_equal_requests_without_a_key_stay_two_videos_when_the_second_times_out(persisting, where, submissions):
    patience = iter([30, 0.01, 30, 30])

    @flow(retries=1, **persisting)
    async def twice():
        return [
            (await agenerate_video("A cat", duration=1, timeout_seconds=next(patience), **where)).key
            for _ in range(2)
        ]

    assert len(set(await twice())) == 2
    assert submissions() == 2
