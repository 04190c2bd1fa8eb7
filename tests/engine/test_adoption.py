"""Adopting a request id that was found anywhere: in a log, in the xAI console, in another tool."""

import pytest

from prefect_xai_video import Retries, XaiVideoClient, acollect_video, adopt_video, collect_video
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.errors import InvalidRequest, KeyConflict, RequestRejected, SubmissionUnknown
from prefect_xai_video.orchestration.storage import open_store

from ..support.api_key import API_KEY

REQUEST = build_request("A cat", duration=1)
SCHEDULE = PollSchedule(first=0.1, shortest=0.05, longest=0.2)
QUICK = Retries(attempts=2, first_wait=0.01, longest_wait=0.02)


@pytest.fixture
async def engine(emulator, storage, tmp_path):
    async with XaiVideoClient(API_KEY, emulator.base_url, retries=QUICK) as client:
        yield Generation(client, open_store(storage, tmp_path), SCHEDULE)


async def finish(engine, key):
    await engine.wait(key, timeout=20)
    return await engine.save(key)


async def test_a_request_of_another_tool_is_stored_without_paying(engine, submissions):
    request_id = await engine.client.start(REQUEST)
    receipt = await engine.adopt(request_id, "cats/one")
    assert (receipt.state, receipt.attempt.reason) == ("submitted", "adopted")
    video = await finish(engine, "cats/one")
    assert (video.request_id, video.model) == (request_id, "grok-imagine-video")
    assert str(video.cost_usd) == "0.05"
    assert submissions() == 1


async def test_adopting_the_same_request_again_changes_nothing(engine):
    request_id = await engine.client.start(REQUEST)
    first = await engine.adopt(request_id, "cat")
    assert await engine.adopt(f" {request_id}\n", "cat") == first
    video = await finish(engine, "cat")
    assert (await engine.adopt(request_id, "cat")).state == "stored"
    assert await finish(engine, "cat") == video


async def test_a_key_with_a_request_adopts_no_other(engine):
    await engine.start(REQUEST, "cat")
    other = await engine.client.start(REQUEST)
    with pytest.raises(KeyConflict, match="already has another request") as caught:
        await engine.adopt(other, "cat")
    assert (caught.value.key, caught.value.request_id) == ("cat", other)


async def test_the_id_of_a_lost_reply_brings_the_video_of_its_key(engine, emulator, submissions, request):
    lost = build_request(f"{request.node.name} [fault:start-accepted-cut]", duration=1)
    with pytest.raises(SubmissionUnknown):
        await engine.start(lost, "cat")
    found = emulator.ledger()["requests"][-1]["request_id"]
    await engine.adopt(found, "cat")
    assert (await engine.start(lost, "cat")).request_id == found
    assert (await finish(engine, "cat")).request_id == found
    assert submissions() == 1


async def test_an_adopted_video_is_returned_for_its_key(engine, submissions):
    await engine.adopt(await engine.client.start(REQUEST), "cat")
    video = await finish(engine, "cat")
    await engine.start(build_request("Anything", duration=1), "cat")
    assert await engine.save("cat") == video
    assert submissions() == 1


@pytest.mark.parametrize("request_id", ["3f7a6f0e-5a43-4f65-9f8c-2a3b9f3f1f11", "no-id"])
async def test_adopting_an_unknown_request_id_is_an_error_and_writes_nothing(engine, request_id):
    with pytest.raises(RequestRejected) as caught:
        await engine.adopt(request_id, "cat")
    assert (caught.value.key, caught.value.request_id) == ("cat", request_id)
    assert await engine.store.read("cat") is None


@pytest.mark.parametrize("request_id", ["", "  ", None, 5, "..", "https://x.ai/a", "\ud800", "x" * 70_000])
async def test_an_invalid_request_id_is_one_clear_error(engine, request_id):
    with pytest.raises(InvalidRequest, match="request_id: "):
        await engine.adopt(request_id, "cat")


@pytest.mark.slow
def test_the_flow_collects_one_id_into_a_key(prefect_server, xai, storage, submissions):
    started = adopt_video(xai_start(xai), "cats/one", storage=storage, credentials=xai)
    video = collect_video(started.request_id, "cats/one", storage=storage, credentials=xai)
    assert (video.key, video.request_id) == ("cats/one", started.request_id)
    assert submissions() == 1


@pytest.mark.slow
async def test_the_async_flow_collects_too(prefect_server, xai, directory):
    async with xai.get_client() as client:
        request_id = await client.start(REQUEST)
    assert (await acollect_video(request_id, "cat", storage=directory, credentials=xai)).request_id == request_id


def xai_start(xai) -> str:
    return xai.get_client().submit(REQUEST).request_id
