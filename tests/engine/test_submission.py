"""What happens round the one POST of a claim: cancellations, deadlines, stores that fail, watchers that do."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from prefect_xai_video import Retries, Timeouts, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.pace import Pace, Urgency
from prefect_xai_video.engine import posting
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import LimitReached, StorageError, SubmissionUnknown, VideoTimeout

from ..support.api_key import API_KEY
from ..support.scripted import SILENCE, ScriptedServer, answer

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


@pytest.mark.parametrize("times", [1, 3])
async def test_a_run_that_is_cancelled_while_it_claims_withdraws_the_claim(store, engine_for, times):
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
        for _ in range(times):
            starting.cancel()
            # Long enough to reach whatever is awaited next.
            for _ in range(10):
                await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert server.requests == []
    assert await state(store) == "refused"


@pytest.mark.parametrize("budget", ["waits", "refuses"])
async def test_a_claim_is_withdrawn_even_if_its_run_is_cancelled_again(store, engine_for, budget):
    permit = Recorder(refuse=LimitReached("No room.") if budget == "refuses" else None)
    spend, replace = permit.spend, store.replace
    spending, refusing, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow_spend(request):
        spending.set()
        if budget == "waits":
            await asyncio.Event().wait()
        await spend(request)

    async def slow_replace(held, receipt):
        refusing.set()
        await go_on.wait()
        return await replace(held, receipt)

    permit.spend, store.replace = slow_spend, slow_replace
    with ScriptedServer([]) as server:
        starting = asyncio.create_task(engine_for(server, permit=permit).start(REQUEST, "cat"))
        await spending.wait()
        if budget == "waits":
            starting.cancel()
        await refusing.wait()
        starting.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert server.requests == []
    assert await state(store) == "refused"


async def test_a_post_has_a_total_time_out_and_its_late_reply_is_recorded(store, engine_for, monkeypatch):
    monkeypatch.setattr(posting, "POST_SECONDS", 0.2)
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
async def test_a_claim_whose_write_seemed_to_fail_is_recognised_and_sent_once(store, engine_for, when):
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


async def test_a_failing_observer_does_not_affect_the_receipt(store, engine_for, caplog):
    def broken(receipt):
        raise ZeroDivisionError

    with ScriptedServer([ACCEPTED]) as server:
        receipt = await engine_for(server, on_change=broken).start(REQUEST, "cat")
    assert receipt.request_id == ID
    assert await state(store) == "submitted"
    assert "could not be reported" in caplog.text


async def test_waiting_ends_at_its_deadline_although_no_poll_succeeds(store, engine_for):
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

    async def acquire(self, request):
        self.asked.append("acquire")

    async def spend(self, request):
        self.asked.append("spend")
        if self.refuse:
            raise self.refuse

    async def refund(self, request):
        self.asked.append("refund")


async def test_a_refused_submission_is_refunded_and_a_sent_key_costs_nothing_more(engine_for):
    permit = Recorder()
    with ScriptedServer([answer("429 Too Many Requests", b"{}"), ACCEPTED]) as server:
        engine = engine_for(server, permit=permit)
        for _ in range(2):
            await engine.start(REQUEST, "cat")
    assert permit.asked == ["acquire", "spend", "refund", "acquire", "spend"]


async def test_a_submission_of_unknown_outcome_is_not_refunded(engine_for):
    permit = Recorder()
    with ScriptedServer([answer("500 Internal Server Error", b"{}")]) as server, pytest.raises(SubmissionUnknown):
        await engine_for(server, permit=permit).start(REQUEST, "cat")
    assert permit.asked == ["acquire", "spend"]


async def test_a_claim_beyond_the_budget_is_refused_and_sent_later(store, engine_for):
    with ScriptedServer([ACCEPTED]) as server:
        empty = Recorder(refuse=LimitReached("No room."))
        with pytest.raises(LimitReached):
            await engine_for(server, permit=empty).start(REQUEST, "cat")
        assert await state(store) == "refused"
        assert empty.asked == ["acquire", "spend"]
        assert server.requests == []
        await engine_for(server).start(REQUEST, "cat")
    assert await state(store) == "submitted"


async def test_racing_runs_spend_the_cost_of_a_key_once(engine_for):
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
async def test_a_claim_of_a_suspended_process_is_not_sent(store, engine_for, monkeypatch, clock):
    permit = Standstill()
    # One clock alone is enough to tell: the other one may have stood still, too.
    clocks = {"monotonic": lambda: 0.0, "time": lambda: 0.0}
    clocks[clock] = lambda: getattr(time, clock)() + permit.stood_still
    monkeypatch.setattr(posting, "time", SimpleNamespace(**clocks))
    with ScriptedServer([ACCEPTED]) as server:
        receipt = await engine_for(server, permit=permit).start(REQUEST, "cat")
    assert [attempt.outcome for attempt in receipt.attempts] == ["refused", "submitted"]
    assert "was suspended" in receipt.attempts[0].failure.message
    assert len(server.requests) == 1


@pytest.mark.parametrize("ended", ["hangs", "fails"])
async def test_a_request_id_that_can_not_be_recorded_is_in_the_error_and_the_log(
    store, engine_for, monkeypatch, caplog, ended
):
    monkeypatch.setattr(posting, "RECORD_SECONDS", 0.2)
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
        with pytest.raises(StorageError, match="adopt its request id") as caught:
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


async def test_a_request_id_is_recorded_even_if_the_log_ends_the_process(store, engine_for):
    def log(key, request_id, trace_id):
        # As Rich does where the console is a closed pipe.
        raise SystemExit(1)

    with ScriptedServer([ACCEPTED]) as server:
        receipt = await engine_for(server, on_accepted=log).start(REQUEST, "cat")
    assert (await store.read("cat")).receipt.request_id == receipt.request_id is not None


async def test_an_unparsable_reply_is_kept_in_the_receipt(store, engine_for):
    reply = answer("200 OK", b'{"id":"3f7a6f0e"}', "x-request-id: trace-7")
    with ScriptedServer([reply]) as server, pytest.raises(SubmissionUnknown, match="3f7a6f0e") as caught:
        await engine_for(server).start(REQUEST, "cat")
    assert caught.value.trace_id == "trace-7"
    attempt = (await store.read("cat")).receipt.attempt
    assert (attempt.answer, attempt.trace_id) == ('{"id":"3f7a6f0e"}', "trace-7")


async def test_a_submission_takes_its_turn_before_its_claim_and_a_new_one_after_a_429(store, engine_for):
    states = []

    class SeenPace(Pace):
        async def turn(self, urgency):
            states.append((urgency, await state(store)))
            return await super().turn(urgency)

    pace = SeenPace()
    refused = answer(
        "429 Too Many Requests", b'{"error":"Requests per Second (actual/limit): 3/2."}', "Retry-After: 0"
    )
    with ScriptedServer([refused, ACCEPTED]) as server:
        engine = engine_for(server)
        engine.client.pace = pace
        receipt = await engine.start(REQUEST, "cat")
    assert receipt.state == "submitted"
    assert states == [(Urgency.SUBMISSION, None), (Urgency.SUBMISSION, "refused")]
    assert pace.rate is not None
