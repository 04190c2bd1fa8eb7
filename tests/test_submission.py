"""What happens round the one POST of a claim: cancellations, deadlines, stores that fail, watchers that do."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from api_key import API_KEY
from scripted import SILENCE, ScriptedServer, answer

from prefect_xai_video import Retries, Timeouts, XaiVideoClient, submission
from prefect_xai_video.errors import LimitReached, StorageError, SubmissionUnknown, VideoTimeout
from prefect_xai_video.generation import Generation
from prefect_xai_video.polling import PollSchedule
from prefect_xai_video.requests import build_request
from prefect_xai_video.stores import LocalStore

REQUEST = build_request("A cat", duration=1)
ID = "0b6f0a3c-0f0e-4b3a-9d4e-0a7c1d2e3f40"
ACCEPTED = answer("200 OK", f'{{"request_id":"{ID}"}}'.encode())


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


@pytest.fixture
async def engine_for(store):
    """Makes an engine whose xAI answers exactly a script."""
    clients = []

    def make(server, **options):
        quick = Retries(attempts=3, first_wait=0.01, longest_wait=0.02)
        clients.append(XaiVideoClient(API_KEY, f"{server.url}/v1", retries=quick, timeouts=Timeouts(get=0.3)))
        return Generation(clients[-1], store, **options)

    yield make
    for client in clients:
        await client.aclose()


async def state(store):
    held = await store.read("cat")
    return held.receipt.state if held else None


async def test_a_run_that_is_cancelled_while_it_claims_takes_the_claim_back(store, engine_for):
    reached, go_on = threading.Event(), threading.Event()
    create = store._create

    def slow(receipt):
        held = create(receipt)
        reached.set()
        go_on.wait()
        return held

    store._create = slow
    with ScriptedServer([]) as server:
        starting = asyncio.create_task(engine_for(server).start(REQUEST, "cat"))
        await asyncio.to_thread(reached.wait)
        starting.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert server.requests == []
    assert await state(store) == "refused"


async def test_a_post_has_a_deadline_as_a_whole_and_its_late_reply_is_noted(store, engine_for, monkeypatch):
    monkeypatch.setattr(submission, "POST_SECONDS", 0.2)
    reply = threading.Event()

    def late():
        reply.wait()
        return ACCEPTED

    with ScriptedServer([late]) as server:
        with pytest.raises(SubmissionUnknown, match=r"no response within 0\.2 s") as caught:
            await engine_for(server).start(REQUEST, "cat")
        assert caught.value.key == "cat"
        assert await state(store) == "unknown"
        reply.set()
        while await state(store) != "submitted":
            await asyncio.sleep(0.01)
    assert (await store.read("cat")).receipt.request_id == ID


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_claim_whose_writing_failed_is_known_again_and_sent_once(store, engine_for, when):
    create = store.create
    failures = [StorageError("The reply was lost.", transient=True)]

    async def failing(receipt):
        if when == "after":
            await create(receipt)
            store.create = create
        if failures:
            raise failures.pop()
        return await create(receipt)

    store.create = failing
    begun = time.monotonic()
    with ScriptedServer([ACCEPTED]) as server:
        assert (await engine_for(server).start(REQUEST, "cat")).request_id == ID
    assert time.monotonic() - begun < 60, "it waited for its own claim"
    assert len(server.requests) == 1
    assert len((await store.read("cat")).receipt.attempts) == 1


async def test_who_looks_on_can_not_come_between_a_payment_and_its_receipt(store, engine_for, caplog):
    def broken(receipt):
        raise ZeroDivisionError

    with ScriptedServer([ACCEPTED]) as server:
        receipt = await engine_for(server, on_change=broken).start(REQUEST, "cat")
    assert receipt.request_id == ID
    assert await state(store) == "submitted"
    assert "could not be told" in caplog.text


async def test_waiting_ends_at_its_deadline_though_no_poll_is_answered(store, engine_for):
    with ScriptedServer([ACCEPTED, SILENCE, SILENCE]) as server:
        engine = engine_for(server, schedule=PollSchedule(first=0, shortest=0.01, longest=0.1))
        await engine.start(REQUEST, "cat")
        begun = time.monotonic()
        with pytest.raises(VideoTimeout) as caught:
            await engine.wait("cat", timeout=0.2)
    assert time.monotonic() - begun < 50, "it waited for the client's own time-out"
    assert caught.value.request_id == ID
    assert await state(store) == "submitted"


class Recorder:
    """Permission that records what it is asked for."""

    def __init__(self, refuse=None):
        self.asked = []
        self.refuse = refuse

    async def turn(self, request):
        self.asked.append("turn")

    async def spend(self, request):
        self.asked.append("spend")
        if self.refuse:
            raise self.refuse

    async def refund(self, request):
        self.asked.append("refund")


async def test_a_refused_submission_gets_its_cost_back_and_a_key_that_is_sent_costs_nothing_more(engine_for):
    permit = Recorder()
    with ScriptedServer([answer("429 Too Many Requests", b"{}"), ACCEPTED]) as server:
        engine = engine_for(server, permit=permit)
        for _ in range(2):
            await engine.start(REQUEST, "cat")
    assert permit.asked == ["turn", "spend", "refund", "turn", "spend"]


async def test_a_submission_of_unknown_outcome_gets_nothing_back(engine_for):
    permit = Recorder()
    with ScriptedServer([answer("500 Internal Server Error", b"{}")]) as server, pytest.raises(SubmissionUnknown):
        await engine_for(server, permit=permit).start(REQUEST, "cat")
    assert permit.asked == ["turn", "spend"]


async def test_a_claim_without_room_in_the_budget_is_refused_and_sent_later(store, engine_for):
    with ScriptedServer([ACCEPTED]) as server:
        empty = Recorder(refuse=LimitReached("No room."))
        with pytest.raises(LimitReached):
            await engine_for(server, permit=empty).start(REQUEST, "cat")
        assert await state(store) == "refused"
        assert empty.asked == ["turn", "spend"]
        assert server.requests == []
        await engine_for(server).start(REQUEST, "cat")
    assert await state(store) == "submitted"


async def test_runs_that_race_for_a_key_take_its_cost_once(engine_for):
    permits = [Recorder() for _ in range(12)]
    with ScriptedServer([ACCEPTED]) as server:
        engines = [engine_for(server, permit=permit) for permit in permits]
        await asyncio.gather(*(engine.start(REQUEST, "cat") for engine in engines))
    assert sum(permit.asked.count("spend") for permit in permits) == 1


class Standstill(Recorder):
    """A permit during which the process stands still, as in a paused machine, until its claim is too old."""

    stood_still = 0.0

    async def spend(self, request):
        self.stood_still = 0.0 if self.asked.count("spend") else 1e6
        await super().spend(request)


@pytest.mark.parametrize("clock", ["monotonic", "time"])
async def test_a_claim_that_stood_still_is_not_sent(store, engine_for, monkeypatch, clock):
    permit = Standstill()
    # One clock alone is enough to tell: the other one may have stood still, too.
    clocks = {"monotonic": lambda: 0.0, "time": lambda: 0.0}
    clocks[clock] = lambda: getattr(time, clock)() + permit.stood_still
    monkeypatch.setattr(submission, "time", SimpleNamespace(**clocks))
    with ScriptedServer([ACCEPTED]) as server:
        receipt = await engine_for(server, permit=permit).start(REQUEST, "cat")
    assert [attempt.outcome for attempt in receipt.attempts] == ["refused", "submitted"]
    assert "stood still" in receipt.attempts[0].failure.message
    assert len(server.requests) == 1


@pytest.mark.parametrize("ended", ["hangs", "fails"])
async def test_an_id_that_can_not_be_written_down_is_in_the_error_and_was_logged_before(
    store, engine_for, monkeypatch, caplog, ended
):
    monkeypatch.setattr(submission, "NOTE_SECONDS", 0.2)
    go_on, replace = asyncio.Event(), store.replace

    async def stuck(held, receipt):
        if receipt.request_id is None:
            return await replace(held, receipt)
        assert ID in caplog.text, "the id was not logged before it was written down"
        if ended == "fails":
            raise StorageError("The disk is gone.")
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return await replace(held, receipt)

    store.replace = stuck
    with ScriptedServer([ACCEPTED]) as server:
        with pytest.raises(StorageError, match="adopt its id") as caught:
            await engine_for(server).start(REQUEST, "cat")
        assert (caught.value.key, caught.value.request_id) == ("cat", ID)
        go_on.set()
        store.replace = replace
        if ended == "hangs":
            while await state(store) != "submitted":
                await asyncio.sleep(0.01)
    assert len(server.requests) == 1


async def test_the_claim_is_sent_as_client_request_id_and_the_trace_id_is_kept(store, engine_for):
    accepted = answer("200 OK", ACCEPTED.partition(b"\r\n\r\n")[2], "x-request-id: trace-7")
    with ScriptedServer([accepted]) as server:
        receipt = await engine_for(server).start(REQUEST, "cat")
    assert f"x-client-request-id: {receipt.attempt.claim}" in server.requests[0].lower()
    assert receipt.attempt.trace_id == "trace-7"


async def test_a_reply_of_another_shape_is_kept_where_a_person_finds_it(store, engine_for):
    reply = answer("200 OK", b'{"id":"3f7a6f0e"}', "x-request-id: trace-7")
    with ScriptedServer([reply]) as server, pytest.raises(SubmissionUnknown, match="3f7a6f0e") as caught:
        await engine_for(server).start(REQUEST, "cat")
    assert caught.value.trace_id == "trace-7"
    attempt = (await store.read("cat")).receipt.attempt
    assert (attempt.answer, attempt.trace_id) == ('{"id":"3f7a6f0e"}', "trace-7")
