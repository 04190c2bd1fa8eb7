"""The batch lane on the engine: each fault of the Batch API, and what a run does with the rows of others."""

import asyncio
import gc
import weakref
from collections import Counter
from decimal import Decimal

import pytest

from prefect_xai_video import XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.sources import ResolvedInput
from prefect_xai_video.batch import lane
from prefect_xai_video.batch.lane import MAX_TRIES
from prefect_xai_video.batch.report import Tally
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.engine import inquiry
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import AccessDenied, AuthenticationFailed, LimitReached, RequestRejected

from ..support.api_key import API_KEY
from ..support.lane import QUICK, ids, opened, paid, quick, rows, run_lane

CALLS = [
    "batch-create-cut",
    "batch-create-accepted-cut",
    "batch-create-accepted-500",
    "batch-add-cut",
    "batch-add-accepted-cut",
    "batch-add-accepted-500",
    "batch-add-part-cut",
    "batch-add-late-listing",
    "batch-add-late-seconds",
    "batch-counters-lag",
    "batch-requests-lag",
    "batch-results-lag",
    "batch-results-reversed",
    "batch-page-repeated",
    "batch-get-500",
]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
OF_REQUESTS = ["request-unlisted", "result-late", "result-url-expired", "download-cut", "download-500"]


@pytest.fixture(autouse=True)
def waits():
    with quick():
        yield


@pytest.fixture
def emulator():
    with Emulator(light=True, render_seconds=0.2, api_key=API_KEY) as running:
        yield running


def check_paid_once(emulator, outcomes, count):
    assert Counter(outcome.state for outcome in outcomes.values()) == {"stored": count}
    assert max(ids(emulator).values()) == 1
    assert set(paid(emulator).values()) == {1}
    assert len(paid(emulator)) == count


@pytest.mark.parametrize("fault", CALLS)
async def test_a_fault_of_a_call_is_settled_without_a_person_and_without_a_second_payment(
    emulator, tmp_path, fault, monkeypatch
):
    monkeypatch.setattr("prefect_xai_video.emulator.batches.calls.SLOW_SECONDS", 1)
    emulator.choose_fault(fault)
    async with opened(emulator, tmp_path) as generation:
        outcomes, run = await run_lane(generation, rows(7))
    check_paid_once(emulator, outcomes, 7)
    assert run.stopped_by is None
    async with opened(emulator, tmp_path) as generation:
        sent = len(emulator.requests())
        again, run = await run_lane(generation, rows(7))
    assert Counter(outcome.state for outcome in again.values()) == {"stored": 7}
    assert (len(emulator.requests()), run.begun) == (sent, 0)


@pytest.mark.parametrize("fault", OF_REQUESTS)
async def test_a_fault_of_a_request_delays_only_its_row(emulator, tmp_path, fault):
    async with opened(emulator, tmp_path) as generation:
        outcomes, _ = await run_lane(generation, [*rows(3, f"[fault:{fault}]"), *rows(6)[3:]])
    check_paid_once(emulator, outcomes, 6)


@pytest.mark.parametrize("shape", ["", "[fault:result-error-beside]", "[fault:result-error-object]"])
async def test_rows_end_with_what_happened_to_them(emulator, tmp_path, shape):
    table = rows(4)
    table[1]["prompt"] += f" [fault:moderated] {shape}"
    table[2]["prompt"] += f" [fault:failed-internal-error] {shape}"
    table[3]["prompt"] += f" [fault:expired] {shape}"
    async with opened(emulator, tmp_path) as generation:
        outcomes, _ = await run_lane(generation, table)
        receipt = (await generation.store.read("cats/001")).receipt
    states = [outcome.state for outcome in outcomes.values()]
    assert sorted(states) == ["failed", "failed", "moderated", "stored"]
    assert receipt.request_id == receipt.attempt.claim
    assert receipt.xai_batch.startswith("batch_")


async def test_a_batch_that_xai_cancels_ends_its_rows_and_a_later_run_submits_them(tmp_path):
    with Emulator(light=True, render_seconds=0.5, render_slots=2, api_key=API_KEY) as emulator:
        emulator.choose_fault("batch-cancelled-by-xai")
        async with opened(emulator, tmp_path) as generation:
            outcomes, _ = await run_lane(generation, rows(5))
        states = Counter(outcome.state for outcome in outcomes.values())
        assert states.keys() <= {"stored", "refused"}
        assert (states.total(), states["refused"] > 0) == (5, True)
        ended = next(outcome for outcome in outcomes.values() if outcome.state == "refused")
        assert "cancelled before the video was rendered, and nothing was paid" in ended.error
        assert (ended.error_type, ended.total_usd) == ("RequestRejected", 0)
        async with opened(emulator, tmp_path) as generation:
            outcomes, _ = await run_lane(generation, rows(5), run_id="later")
        check_paid_once(emulator, outcomes, 5)


async def test_a_late_add_is_never_sent_again(emulator, tmp_path, monkeypatch):
    """The requests land while the run already looks for them."""
    monkeypatch.setattr("prefect_xai_video.emulator.batches.calls.SLOW_SECONDS", 2)
    emulator.choose_fault("batch-add-late-seconds")
    async with opened(emulator, tmp_path) as generation:
        outcomes, _ = await run_lane(generation, rows(3))
    check_paid_once(emulator, outcomes, 3)
    assert len({entry["batch_id"] for entry in emulator.ledger()["requests"]}) == 1


async def test_what_is_missing_is_added_to_another_batch_once_nothing_can_land(emulator, tmp_path):
    emulator.choose_fault("batch-add-part-cut")
    async with opened(emulator, tmp_path) as generation:
        outcomes, _ = await run_lane(generation, rows(6))
        check_paid_once(emulator, outcomes, 6)
        entries = emulator.ledger()["requests"]
        first, second = dict.fromkeys(entry["batch_id"] for entry in entries)
        assert (await generation.client.batches.get(first)).is_cancelled
        assert not (await generation.client.batches.get(second)).is_cancelled
        attempts = (await generation.store.read("cats/005")).receipt.attempts
    places = [(attempt.outcome, attempt.xai_batch) for attempt in attempts]
    assert places == [("refused", first), ("stored", second)]


async def test_two_runs_on_one_manifest_add_each_row_once(emulator, tmp_path):
    async with opened(emulator, tmp_path) as one, opened(emulator, tmp_path) as other:
        results = await asyncio.gather(run_lane(one, rows(40)), run_lane(other, rows(40), run_id="other"))
    for outcomes, _ in results:
        check_paid_once(emulator, outcomes, 40)
    assert sum(outcome.is_new for outcomes, _ in results for outcome in outcomes.values()) == 40


async def test_an_invalid_request_has_only_its_own_row_refused(emulator, tmp_path):
    table = rows(9)
    # Not enabled for batches: the call with it is refused as a whole.
    table[4] |= {
        "model": "grok-imagine-video-1.5-lite",
        "image_url": "https://example.com/cat.png",
        "prompt": "A cat",
    }
    async with opened(emulator, tmp_path) as generation:
        outcomes, run = await run_lane(generation, table)
    refused = outcomes["cats/004"]
    assert (refused.state, refused.error_type) == ("refused", "RequestRejected")
    assert "not supported for batch processing" in refused.error
    assert Counter(outcome.state for outcome in outcomes.values()) == {"stored": 8, "refused": 1}
    assert (max(ids(emulator).values()), run.stopped_by) == (1, None)


async def test_exhausted_credits_stop_everything(tmp_path):
    with Emulator(light=True, render_seconds=0, api_key=API_KEY, credits_usd=0.12) as emulator:
        async with opened(emulator, tmp_path) as generation:
            outcomes, run = await run_lane(generation, rows(3))
            assert isinstance(run.stopped_by, AccessDenied)
            assert {outcome.state for outcome in outcomes.values()} == {"refused"}
            outcomes, _ = await run_lane(generation, rows(2))
        check_paid_once(emulator, outcomes, 2)


async def test_a_budget_is_never_exceeded(emulator, tmp_path):
    async with opened(emulator, tmp_path) as generation:
        outcomes, run = await run_lane(generation, rows(6), budget=Decimal("0.17"))
    assert isinstance(run.stopped_by, LimitReached)
    assert Counter(outcome.state for outcome in outcomes.values()) == {"stored": 3, "refused": 1, "not started": 2}
    assert emulator.ledger()["billed_usd"] == "0.15"


async def test_a_failed_video_frees_budget_for_the_next(emulator, tmp_path):
    table = rows(3)
    table[0]["prompt"] += " [fault:failed-internal-error]"
    async with opened(emulator, tmp_path) as generation:
        outcomes, run = await run_lane(generation, table, budget=Decimal("0.10"))
    assert [outcomes[row["key"]].state for row in table] == ["failed", "stored", "stored"]
    assert run.stopped_by is None


async def test_a_run_that_only_submits_leaves_the_videos_to_a_later_one(emulator, tmp_path):
    async with opened(emulator, tmp_path) as generation:
        outcomes, _ = await run_lane(generation, rows(5), timeout=None)
        assert {outcome.state for outcome in outcomes.values()} == {"open"}
        outcomes, _ = await run_lane(generation, rows(5), run_id="later")
    check_paid_once(emulator, outcomes, 5)
    assert not any(outcome.is_new for outcome in outcomes.values())


async def test_a_wait_that_is_too_short_leaves_the_rows_open(tmp_path):
    with Emulator(light=True, render_seconds=600, api_key=API_KEY) as emulator:
        async with opened(emulator, tmp_path) as generation:
            outcomes, _ = await run_lane(generation, rows(2), timeout=0.5)
    outcome = outcomes["cats/000"]
    assert (outcome.state, outcome.error_type) == ("open", "VideoTimeout")
    assert outcome.request_id in ids(emulator)


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_cancelled_run_can_cancel_its_batch(tmp_path, cancels):
    with Emulator(light=True, render_seconds=600, api_key=API_KEY) as emulator:
        async with opened(emulator, tmp_path) as generation:
            run = asyncio.create_task(run_lane(generation, rows(3), cancels=cancels))
            while len(ids(emulator)) < 3:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            (batch_id,) = {entry["batch_id"] for entry in emulator.ledger()["requests"]}
            assert (await generation.client.batches.get(batch_id)).is_cancelled == cancels


async def test_the_run_after_a_batch_was_cancelled_makes_all_of_its_rows(tmp_path):
    with Emulator(light=True, render_seconds=0.5, render_slots=2, api_key=API_KEY) as emulator:
        async with opened(emulator, tmp_path) as generation:
            run = asyncio.create_task(run_lane(generation, rows(9), cancels=True))
            while len(await submitted(generation)) < 9:
                await asyncio.sleep(0.05)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert "cancelled" in [entry["outcome"] for entry in emulator.ledger()["requests"]]
            outcomes, later = await run_lane(generation, rows(9), run_id="later")
            assert later.begun
        assert Counter(outcome.state for outcome in outcomes.values()) == {"stored": 9}
        assert set(paid(emulator).values()) == {1}
        assert max(ids(emulator).values()) == 1


async def submitted(generation):
    receipts = [await generation.store.read(row["key"]) for row in rows(9)]
    return [held for held in receipts if held and held.receipt.state != "sending"]


async def test_rows_that_an_earlier_run_left_open_count_as_begun(emulator, tmp_path):
    async with opened(emulator, tmp_path) as generation:
        await run_lane(generation, rows(2), timeout=None)
        _, run = await run_lane(generation, rows(2), run_id="later")
    assert run.begun == 2


async def test_rows_of_the_other_lane_are_waited_for(emulator, tmp_path):
    async with opened(emulator, tmp_path) as generation:
        table = rows(3)
        await generation.start(build_request(table[0]["prompt"], duration=1), table[0]["key"])
        outcomes, _ = await run_lane(generation, table)
    check_paid_once(emulator, outcomes, 3)


async def test_a_single_run_finds_the_video_of_a_row(emulator, tmp_path):
    async with opened(emulator, tmp_path) as generation:
        emulator.choose_fault("batch-add-accepted-cut")
        await run_lane(generation, rows(2), timeout=None)
        request = build_request("Cat 0", duration=1)
        await generation.start(request, "cats/000")
        await generation.wait("cats/000", timeout=20)
        assert (await generation.save("cats/000")).size > 1000
    assert set(paid(emulator).values()) == {1}


async def test_rows_without_a_batch_are_refused_and_not_left_to_a_person(emulator, tmp_path):
    emulator.choose_fault("batch-create-accepted-500*9")
    async with opened(emulator, tmp_path) as generation:
        outcomes, run = await run_lane(generation, rows(2))
    assert Counter(outcome.state for outcome in outcomes.values()) == {"refused": 2}
    assert "No row was sent. It is unknown whether xAI created the batch" in outcomes["cats/000"].error
    assert (run.stopped_by, sum(outcome.total_usd for outcome in outcomes.values())) == (None, 0)
    assert not emulator.ledger()["requests"]


async def test_rows_that_never_arrive_end_as_refused(emulator, tmp_path):
    emulator.choose_fault("batch-add-cut*99")
    async with opened(emulator, tmp_path) as generation:
        outcomes, _ = await run_lane(generation, rows(2))
        attempts = (await generation.store.read("cats/000")).receipt.attempts
    assert Counter(outcome.state for outcome in outcomes.values()) == {"refused": 2}
    assert "does not contain the request" in outcomes["cats/000"].error
    assert [attempt.outcome for attempt in attempts] == ["refused"] * MAX_TRIES
    assert not emulator.ledger()["requests"]


@pytest.fixture
async def expired(tmp_path, monkeypatch):
    """Two rows that were added to a batch which xAI no longer has."""
    monkeypatch.setattr(inquiry, "FRESH_SECONDS", 0)
    with Emulator(light=True, render_seconds=0.2, batch_ttl_seconds=1, api_key=API_KEY) as emulator:
        async with opened(emulator, tmp_path) as generation:
            await run_lane(generation, rows(2), timeout=None)
            batch_id = (await generation.store.read("cats/000")).receipt.xai_batch
            async with asyncio.timeout(20):
                while await exists(generation, batch_id):
                    await asyncio.sleep(0.05)
            yield emulator, generation


async def exists(generation, batch_id):
    try:
        await generation.client.batches.get(batch_id)
    except RequestRejected:
        return False
    return True


async def test_a_person_gives_up_rows_of_a_batch_that_is_gone_as_the_error_says(expired):
    emulator, generation = expired
    outcomes, _ = await run_lane(generation, rows(2), run_id="next")
    assert Counter(outcome.state for outcome in outcomes.values()) == {"open": 2}
    assert "run again with the same key and regenerate switched on" in outcomes["cats/000"].error
    tally = Tally("cats", "cats", 2, Decimal(0))
    for outcome in outcomes.values():
        tally.add(outcome)
    (kind,) = tally.report().failures
    assert "regenerate switched on: that gives them up and pays for new attempts" in kind.next_step
    assert set(paid(emulator).values()) == {1}
    outcomes, _ = await run_lane(generation, rows(2), run_id="later", options={"regenerate": True})
    assert Counter(outcome.state for outcome in outcomes.values()) == {"stored": 2}
    assert set(paid(emulator).values()) == {2}


async def test_a_batch_that_stays_unreadable_is_reported_once(expired, caplog):
    _, generation = expired
    batches = lane.WatchedBatches(generation.client)
    batches.add("cats/000", (await generation.store.read("cats/000")).receipt)
    assert [await batches.ready() for _ in range(3)] == [["cats/000"]] * 3
    assert caplog.text.count("could not be read") == 1


@pytest.mark.parametrize("options", [{}, {"on_unknown": "resubmit"}])
async def test_a_batch_of_another_team_does_not_count_as_gone(tmp_path, options):
    with (
        Emulator(light=True, team="cats", api_key=API_KEY) as own,
        Emulator(light=True, team="dogs", api_key=API_KEY) as other,
    ):
        own.choose_fault("batch-add-accepted-cut")
        async with opened(own, tmp_path) as generation:
            await run_lane(generation, rows(2), timeout=None)
        async with opened(other, tmp_path) as generation:
            outcomes, _ = await run_lane(generation, rows(2), run_id="next", options=options)
        assert "belongs to a video of team cats" in outcomes["cats/000"].error
        assert not other.ledger()["requests"]
        async with opened(own, tmp_path) as generation:
            outcomes, _ = await run_lane(generation, rows(2), run_id="later")
        check_paid_once(own, outcomes, 2)


async def test_the_content_of_inputs_is_let_go_once_it_was_added(emulator, tmp_path, monkeypatch):
    """Otherwise a thousand rows with an image of some megabytes each need some gigabytes."""
    monkeypatch.setattr(lane, "MAX_CHUNK_BYTES", 1)
    monkeypatch.setattr(lane, "SAVING", 2)
    prepared, held = [], []

    async def resolve(request, *_):
        image = ResolvedInput(f"data:image/png;base64,{PNG}", f"sha256:{len(prepared)}")
        resolved = request.resolved({request.image_url: image})
        prepared.append(weakref.ref(resolved))
        return resolved

    def look(step):
        if step.in_flight:
            gc.collect()
            held.append(sum(each() is not None for each in prepared))

    monkeypatch.setattr("tests.support.lane.resolve_inputs", resolve)
    async with opened(emulator, tmp_path) as generation:
        outcomes, _ = await run_lane(generation, rows(8, image_url="https://cats.example/1.png"), on_step=look)
    check_paid_once(emulator, outcomes, 8)
    assert max(held) <= 2


async def test_a_run_that_is_cancelled_while_it_claims_warns_of_nothing(emulator, tmp_path, recwarn):
    claiming = asyncio.Event()
    async with opened(emulator, tmp_path, on_change=lambda _: claiming.set()) as generation:
        run = asyncio.create_task(run_lane(generation, rows(60)))
        await claiming.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    gc.collect()
    assert [str(each.message) for each in recwarn] == []


@pytest.mark.parametrize("fault", [None, "batch-add-accepted-cut"])
async def test_a_wrong_api_key_ends_the_wait_and_leaves_rows_open(emulator, tmp_path, fault):
    if fault:
        emulator.choose_fault(fault)
    async with opened(emulator, tmp_path) as generation:
        await run_lane(generation, rows(3), timeout=None)
    async with XaiVideoClient("xai-another-key", emulator.base_url, retries=QUICK) as client:
        outcomes, run = await run_lane(Generation(client, LocalStore(tmp_path)), rows(4), run_id="next", timeout=600)
    states = {key: outcome.state for key, outcome in outcomes.items()}
    assert states == dict.fromkeys(("cats/000", "cats/001", "cats/002"), "open") | {"cats/003": "refused"}
    assert "rejected the API key" in outcomes["cats/000"].error
    assert isinstance(run.stopped_by, AuthenticationFailed)
    async with opened(emulator, tmp_path) as generation:
        outcomes, _ = await run_lane(generation, rows(3), run_id="later")
    check_paid_once(emulator, outcomes, 3)
