"""The global limits of a Prefect server hold back what would be sent, and nothing else."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.concurrency.asyncio import concurrency

from prefect_xai_video import XaiCredentials, agenerate_video, astart_video
from prefect_xai_video.api.options import build_request
from prefect_xai_video.errors import AuthenticationFailed, InvalidRequest, LimitReached, VideoModerated
from prefect_xai_video.orchestration import limits
from prefect_xai_video.orchestration.limits import IN_FLIGHT, REQUESTS, SPEND, Limits

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

    yield create
    async with get_client() as client:
        for name in made:
            await client.delete_global_concurrency_limit_by_name(name)


async def test_a_budget_that_is_used_up_refuses_before_anything_is_sent(limited, directory, xai, submissions):
    await limited(SPEND, 10, 0.0001)
    video = await agenerate_video("A cat", duration=1, key="cheap", storage=directory, credentials=xai)
    with pytest.raises(LimitReached, match=r"xai-video-spend-cents.*about 10 cents.*Nothing was sent") as caught:
        await agenerate_video("A cat", duration=2, key="dear", storage=directory, credentials=xai)
    assert caught.value.key == "dear"
    # What is paid for already costs no budget.
    assert await agenerate_video("A cat", duration=1, key="cheap", storage=directory, credentials=xai) == video
    assert submissions() == 1


async def test_a_video_dearer_than_the_whole_budget_is_refused_at_once(limited, directory, xai, submissions):
    await limited(SPEND, 10, 1)
    with pytest.raises(LimitReached, match="never has room for 75 slots"):
        await agenerate_video("A cat", duration=15, storage=directory, credentials=xai)
    assert submissions() == 0


async def test_an_inactive_budget_holds_nothing_back(limited, directory, xai, submissions):
    await limited(SPEND, 1, 0.0001, active=False)
    await agenerate_video("A cat", duration=1, storage=directory, credentials=xai)
    assert submissions() == 1


async def test_no_more_videos_are_in_flight_than_allowed(limited, directory, xai, submissions, caplog):
    await limited(IN_FLIGHT, 1, 0)
    options = {"duration": 1, "storage": directory, "credentials": xai}
    first = asyncio.create_task(agenerate_video("A cat [fault:never-done]", **options))
    while submissions() < 1:
        await asyncio.sleep(0.1)
    second = asyncio.create_task(agenerate_video("A cat", **options))
    while "Waiting for the global limit xai-video-in-flight" not in caplog.text:
        assert not second.done()
        await asyncio.sleep(0.1)
    assert submissions() == 1
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert submissions() == 2


@pytest.mark.parametrize("limit", [REQUESTS, IN_FLIGHT], ids=lambda limit: limit.name)
async def test_a_limit_of_nothing_lets_nothing_through(limit, limited, directory, xai, submissions):
    await limited(limit, 0, limit.slot_decay_per_second)
    with pytest.raises(LimitReached, match=f"{limit.name} never has room.*Nothing was sent"):
        await agenerate_video("A cat", duration=1, storage=directory, credentials=xai)
    assert submissions() == 0


async def test_a_place_that_can_not_be_given_back_holds_nobody_up(limited, directory, xai, monkeypatch):
    await limited(IN_FLIGHT, 1, 0)

    async def never(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(limits, "RELEASE_SECONDS", 0.1)
    monkeypatch.setattr(PrefectClient, "release_concurrency_slots_with_lease", never)
    async with asyncio.timeout(120):
        await agenerate_video("A cat", duration=1, storage=directory, credentials=xai)


async def test_a_lost_lease_does_not_end_a_run_that_has_paid(limited, directory, xai, monkeypatch, caplog):
    await limited(IN_FLIGHT, 1, 0)

    def gone(*_, **__):
        raise httpx.ConnectError("no way there")

    monkeypatch.setattr(SyncPrefectClient, "renew_concurrency_lease", gone)
    running = asyncio.create_task(
        agenerate_video("A cat [fault:never-done]", duration=1, storage=directory, credentials=xai)
    )
    while "slots are no longer reserved" not in caplog.text:
        await asyncio.sleep(0.1)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_limit_that_is_switched_off_holds_nobody_back_any_more(limited, directory, xai, monkeypatch, caplog):
    monkeypatch.setattr(limits, "ACQUIRE_SECONDS", 1.0)
    monkeypatch.setattr(limits, "LIST_SECONDS", 0)
    await limited(IN_FLIGHT, 1, 0)
    async with concurrency(IN_FLIGHT.name), asyncio.timeout(120):
        waiting = asyncio.create_task(agenerate_video("A cat", duration=1, storage=directory, credentials=xai))
        while "Waiting for the global limit xai-video-in-flight" not in caplog.text:
            await asyncio.sleep(0.05)
        async with get_client() as client:
            await client.update_global_concurrency_limit(IN_FLIGHT.name, GlobalConcurrencyLimitUpdate(active=False))
        await waiting


async def test_a_wrong_request_waits_for_no_place(limited, directory, xai, submissions):
    await limited(IN_FLIGHT, 1, 0)
    async with concurrency(IN_FLIGHT.name), asyncio.timeout(120):
        with pytest.raises(InvalidRequest):
            await agenerate_video("A cat", video_url="https://example.com/clip.mp4", duration=1, credentials=xai)
    assert submissions() == 0


async def test_a_video_that_is_there_waits_for_no_place(limited, directory, xai):
    options = {"duration": 1, "key": "cat", "storage": directory, "credentials": xai}
    video = await agenerate_video("A cat", **options)
    await limited(IN_FLIGHT, 1, 0)
    async with concurrency(IN_FLIGHT.name), asyncio.timeout(120):
        assert await agenerate_video("A cat", **options) == video


async def test_a_place_is_given_back(limited, directory, xai, submissions, caplog):
    await limited(IN_FLIGHT, 1, 0)
    options = {"duration": 1, "storage": directory, "credentials": xai}
    with pytest.raises(VideoModerated):
        await agenerate_video("A place [fault:moderated]", **options)
    async with concurrency(IN_FLIGHT.name, timeout_seconds=60):
        waiting = asyncio.create_task(agenerate_video("A cat", **options))
        while "Waiting for the global limit xai-video-in-flight" not in caplog.text:
            await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert submissions() == 1
    await agenerate_video("A cat", **options)
    assert submissions() == 2


async def spent() -> int:
    """Cents that are taken from the budget."""
    async with get_client() as client:
        return (await client.read_global_concurrency_limit_by_name(SPEND.name)).active_slots


async def test_twelve_runs_of_one_key_take_the_cost_of_one_video(limited, directory, xai, submissions):
    await limited(SPEND, 1000, 0.0001)
    options = {"duration": 1, "key": "cat", "storage": directory, "credentials": xai}
    receipts = await asyncio.gather(*(astart_video("A cat", **options) for _ in range(12)))
    assert len({receipt.request_id for receipt in receipts}) == 1
    assert submissions() == 1
    assert await spent() == 5


async def test_a_submission_that_was_surely_refused_gets_its_cost_back(limited, directory, xai, submissions):
    await limited(SPEND, 1000, 0.0001)
    await Limits().spend(build_request("Another cat", duration=10))
    wrong = XaiCredentials(api_key="xai-wrong-key-0123456789", base_url=xai.base_url)
    with pytest.raises(AuthenticationFailed):
        await astart_video("A cat", duration=1, key="cat", storage=directory, credentials=wrong)
    assert await spent() == 50
    await astart_video("A cat [fault:start-429]", duration=1, key="cat", storage=directory, credentials=xai)
    assert submissions() == 3
    assert await spent() == 55


async def test_nothing_is_given_back_that_was_not_taken(limited):
    await limited(SPEND, 1000, 0.0001)
    request = build_request("A cat", duration=1)
    permit = Limits()
    await Limits().spend(request)
    await permit.refund(request)
    assert await spent() == 5
    await permit.spend(request)
    for _ in range(2):
        await permit.refund(request)
    assert await spent() == 5


async def test_without_a_budget_nothing_is_asked_or_taken(limited, monkeypatch, directory, xai):
    await limited(SPEND, 10, 0.0001)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_BUDGET", "false")
    await astart_video("A cat", duration=15, key="cat", storage=directory, credentials=xai)
    assert await spent() == 0


@pytest.fixture
def prefect_answers():
    """Has Prefect's API answer questions about global limits with an error, or only those for slots of them."""

    def answer(status, only=""):
        send = httpx.AsyncHTTPTransport.handle_async_request

        async def refused(self, request):
            if f"concurrency_limits/{only}" not in request.url.path:
                return await send(self, request)
            if status is None:
                raise httpx.ConnectError("no way there")
            return httpx.Response(status, request=request, json={})

        patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", refused)

    with pytest.MonkeyPatch.context() as patch:
        yield answer


@pytest.mark.parametrize("limit", [REQUESTS, IN_FLIGHT], ids=lambda limit: limit.name)
@pytest.mark.parametrize("status", [403, 500])
async def test_what_slows_down_gives_way_where_prefect_can_not_be_asked(
    limit, status, limited, prefect_answers, directory, xai, caplog
):
    await limited(limit, 10, limit.slot_decay_per_second)
    prefect_answers(status, only="increment")
    await agenerate_video("A cat", duration=1, storage=directory, credentials=xai)
    assert f"Continuing without the global limit {limit.name}" in caplog.text


NO_RESPONSE = [401, 403, 404, 500, None]


@pytest.mark.parametrize("only", ["increment", ""])
@pytest.mark.parametrize("status", NO_RESPONSE)
async def test_the_budget_does_not_give_way(status, only, limited, prefect_answers):
    await limited(SPEND, 1000, 1)
    prefect_answers(status, only)
    with pytest.raises(LimitReached, match=r"can't be read.*Nothing was sent.*XAI_VIDEO_BUDGET") as caught:
        await Limits().spend(build_request("A cat", duration=1))
    assert caught.value.transient == (status in {500, None})


@pytest.mark.parametrize("status", NO_RESPONSE)
async def test_nothing_is_claimed_or_sent_while_prefect_does_not_tell_its_limits(
    status, prefect_answers, directory, xai, submissions
):
    prefect_answers(status)
    with pytest.raises(LimitReached, match="can't be read"):
        await Limits().acquire(build_request("A cat", duration=1))
    if status == 403:
        with pytest.raises(LimitReached):
            await astart_video("A cat", duration=1, key="cat", storage=directory, credentials=xai)
        assert not (Path(directory.basepath) / "cat.json").exists()
        assert submissions() == 0


async def test_a_role_that_may_not_read_limits_needs_no_budget(prefect_answers, directory, xai, monkeypatch, caplog):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_BUDGET", "false")
    prefect_answers(403)
    await astart_video("A cat", duration=1, key="cat", storage=directory, credentials=xai)
    assert "Continuing without the global limit xai-video-requests: HTTP 403" in caplog.text


async def test_a_budget_that_prefect_does_not_tell_in_time_is_an_error(limited, monkeypatch):
    await limited(SPEND, 1000, 1)

    async def never(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(limits, "SPEND_SECONDS", 0.1)
    monkeypatch.setattr(PrefectClient, "increment_concurrency_slots", never)
    with pytest.raises(LimitReached, match="no response within") as caught:
        await Limits().spend(build_request("A cat", duration=1))
    assert caught.value.transient


async def test_each_submission_takes_its_turn(limited):
    await limited(REQUESTS, 1, 1.0)
    request = build_request("A cat", duration=1)
    began = time.monotonic()
    await asyncio.gather(*(Limits().acquire(request) for _ in range(3)))
    assert time.monotonic() - began > 1
