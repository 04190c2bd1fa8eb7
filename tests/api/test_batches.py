"""The client of xAI's Batch API, against the emulator and its faults: nothing is sent twice that may have arrived."""

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from prefect_xai_video import Retries, Timeouts, XaiVideoClient
from prefect_xai_video.api.batch_chunks import BatchItem, chunks
from prefect_xai_video.api.batch_pace import ADDS, CREATES, CallWindow
from prefect_xai_video.api.requests import EditRequest, ExtendRequest, TextRequest
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.errors import (
    AuthenticationFailed,
    InvalidRequest,
    RequestRejected,
    ServiceUnavailable,
    SubmissionUnknown,
)

from ..support.scripted import CUT, ScriptedServer, answer

KEY = "xai-a-key-that-must-never-be-logged"
QUICK = Retries(attempts=3, first_wait=0.01, longest_wait=0.02)
NAME = "cats"
CREATED = answer("200 OK", b'{"batch_id":"batch_1"}')


def items(*prompts):
    """One request for each prompt, with the prompt as its id."""
    return [BatchItem(prompt, TextRequest(prompt=prompt, duration=1)) for prompt in prompts]


def numbered(count):
    return [f"Cat {number}" for number in range(count)]


@asynccontextmanager
async def emulated(**options):
    """An emulator, and the Batch API of a client of it."""
    with Emulator(**{"light": True, "render_seconds": 0} | options) as emulator:
        async with XaiVideoClient(KEY, emulator.base_url, retries=QUICK) as client:
            yield emulator, client.batches


@asynccontextmanager
async def scripted(*script):
    with ScriptedServer(script) as server:
        async with XaiVideoClient(KEY, f"{server.url}/v1", retries=QUICK, timeouts=Timeouts(start=0.5)) as client:
            yield server, client.batches


async def filled(batches, *prompts) -> str:
    """A new batch with requests."""
    batch_id = (await batches.create(NAME)).batch_id
    for chunk in chunks(items(*prompts)):
        await batches.add(batch_id, chunk)
    return batch_id


async def finished(batches, batch_id, count):
    """Wait until so many requests are no longer pending."""
    async with asyncio.timeout(60):
        while (batch := await batches.get(batch_id)).requests - batch.pending < count:
            await asyncio.sleep(0.03)
    return batch


async def all_of(listing):
    return [entry async for entry in listing]


async def ids_of(listing):
    return sorted([entry.batch_request_id async for entry in listing])


def posts(emulator, end):
    return [entry for entry in emulator.requests() if entry["method"] == "POST" and entry["path"].endswith(end)]


async def test_requests_go_through_a_batch(tmp_path):
    async with emulated() as (emulator, batches):
        prompts = numbered(250)
        batch_id = await filled(batches, *prompts)
        batch = await finished(batches, batch_id, 250)
        assert (batch.name, batch.succeeded, batch.failed, batch.is_cancelled) == (NAME, 250, 0, False)
        assert batch.expires_at > batch.created_at
        assert await ids_of(batches.requests(batch_id)) == sorted(prompts)
        results = await all_of(batches.results(batch_id))
        assert sorted(result.batch_request_id for result in results) == sorted(prompts)
        status = results[0].status
        assert (status.state, status.duration, str(status.cost_usd)) == ("done", 1, "0.05")
        async with XaiVideoClient(KEY, emulator.base_url) as client:
            assert (await client.download(status.url.get_secret_value(), tmp_path / "cat.mp4")).size > 0
        assert len(posts(emulator, "/requests")) == 3
        assert emulator.ledger()["submissions"] == 250


async def test_edits_and_extensions_are_sent_as_the_batch_api_wants_them():
    async with emulated() as (emulator, batches):
        clip = "https://example.com/cat.mp4"
        batch_id = (await batches.create(NAME)).batch_id
        mixed = [
            BatchItem("edit", EditRequest(prompt="Red", video_url=clip)),
            BatchItem("extension", ExtendRequest(prompt="More", extend_video_url=clip)),
        ]
        (chunk,) = chunks(mixed)
        await batches.add(batch_id, chunk)
        assert (await finished(batches, batch_id, 2)).succeeded == 2
        assert [row["mode"] for row in emulator.ledger()["requests"]] == ["edit", "extend"]
        assert {result.status.state async for result in batches.results(batch_id)} == {"done"}


@pytest.mark.parametrize("fault", ["batch-create-cut", "batch-create-accepted-cut", "batch-create-accepted-500"])
async def test_a_creation_whose_reply_is_lost_is_not_repeated(fault):
    async with emulated() as (emulator, batches):
        emulator.choose_fault(fault)
        with pytest.raises(SubmissionUnknown, match="unknown whether xAI created the batch") as error:
            await batches.create(NAME)
        assert (error.value.resend_safe, error.value.transient) == (False, False)
        assert len(posts(emulator, "/batches")) == 1
        names = [batch.name async for batch in batches.listed()]
        assert names == ([] if fault == "batch-create-cut" else [NAME])


@pytest.mark.parametrize(
    ("fault", "listings"),
    [
        ("batch-add-cut", [0, 0]),
        ("batch-add-accepted-cut", [4, 4]),
        ("batch-add-accepted-500", [4, 4]),
        ("batch-add-part-cut", [2, 2]),
        ("batch-add-late-listing", [0, 4]),
    ],
)
async def test_an_addition_whose_reply_is_lost_is_not_repeated_and_can_be_listed(fault, listings):
    async with emulated() as (emulator, batches):
        batch_id = (await batches.create(NAME)).batch_id
        emulator.choose_fault(fault)
        (chunk,) = chunks(items(*numbered(4)))
        with pytest.raises(SubmissionUnknown, match="accepted the requests, or some of them") as error:
            await batches.add(batch_id, chunk)
        assert (error.value.resend_safe, error.value.transient) == (False, False)
        assert len(posts(emulator, "/requests")) == 1
        assert [len(await all_of(batches.requests(batch_id))) for _ in range(2)] == listings
        assert emulator.ledger()["submissions"] == listings[1]


async def test_a_post_is_retried_if_it_was_certainly_refused():
    busy = answer("429 Too Many Requests", b'{"code":"resource-exhausted","error":"Too many requests"}')
    async with scripted(busy, CREATED, busy, busy, answer("200 OK", b"{}")) as (server, batches):
        batch_id = (await batches.create(NAME)).batch_id
        (chunk,) = chunks(items("A cat"))
        await batches.add(batch_id, chunk)
        assert len(server.requests) == 5


@pytest.mark.parametrize(
    "reply",
    [
        CUT,
        answer("503 Service Unavailable", b"busy", "Retry-After: 0"),
        answer("200 OK", b"<html>Sign in"),
        answer("200 OK", b"{}", length=10_000),
        answer("409 Conflict"),
    ],
)
async def test_an_addition_of_unknown_outcome_is_sent_once(reply):
    async with scripted(reply, answer("200 OK", b"{}")) as (server, batches):
        (chunk,) = chunks(items("A cat"))
        with pytest.raises(SubmissionUnknown):
            await batches.add("batch_1", chunk)
        assert len(server.requests) == 1


async def test_a_refused_addition_quotes_neither_prompts_nor_the_key():
    prompts = [f"A cat that nobody may see, number {number}" for number in range(20)]
    text = f"Bad key {KEY} in {prompts[3]} and {prompts[17][:30]}"
    refused = answer("400 Bad Request", json.dumps({"code": "invalid-argument", "error": text}).encode())
    async with scripted(refused) as (_, batches):
        rows = [BatchItem(f"row-{number}", TextRequest(prompt=prompt)) for number, prompt in enumerate(prompts)]
        (chunk,) = chunks(rows)
        with pytest.raises(RequestRejected) as error:
            await batches.add("batch_1", chunk)
    assert "nobody" not in str(error.value)
    assert KEY not in str(error.value)
    assert "nobody" not in repr(chunk)


async def test_a_rejected_key_and_an_unknown_batch_are_clear_errors():
    async with emulated(api_key="xai-another-key") as (_, batches):
        with pytest.raises(AuthenticationFailed):
            await batches.create(NAME)
    async with emulated() as (_, batches):
        for batch_id in ("batch_1", "..", "a/b"):
            with pytest.raises(RequestRejected):
                await batches.get(batch_id)


async def test_reading_is_retried_and_survives_lags_and_repeated_pages():
    async with emulated() as (emulator, batches):
        prompts = numbered(120)
        batch_id = await filled(batches, *prompts)
        emulator.choose_fault("batch-counters-lag")
        assert (await batches.get(batch_id)).requests == 0
        await finished(batches, batch_id, 120)
        emulator.choose_fault("batch-get-500*2")
        assert len(await all_of(batches.listed())) == 1
        emulator.choose_fault("batch-requests-lag")
        assert [len(await all_of(batches.requests(batch_id))) for _ in range(2)] == [60, 120]
        emulator.choose_fault("batch-page-repeated")
        emulator.choose_fault("batch-results-reversed")
        found = await ids_of(batches.results(batch_id))
        assert (len(found), set(found)) == (220, set(prompts))


async def test_a_cancelled_batch_says_so_and_why():
    async with emulated(render_slots=1, render_seconds=3600) as (emulator, batches):
        emulator.choose_fault("batch-cancelled-by-xai")
        batch = await batches.get(await filled(batches, "first", "second"))
        assert (batch.is_cancelled, batch.cancelled) == (True, 2)
        assert "cancelled by xAI" in batch.cancel_message
        other = await filled(batches, "third", "fourth")
        assert (await batches.cancel(other)).is_cancelled
        assert (await batches.cancel(other)).cancel_message is None
        states = {each.batch_request_id: each.state async for each in batches.requests(other)}
        assert states["fourth"] == "cancelled"


async def test_a_lost_reply_to_a_cancellation_is_transient():
    async with scripted(CUT) as (_, batches):
        with pytest.raises(ServiceUnavailable) as error:
            await batches.cancel("batch_1")
        assert error.value.transient


async def test_results_have_the_states_of_polls_and_their_errors_no_prompt():
    shapes = ["", " [fault:result-error-beside]", " [fault:result-error-object]"]
    prompts = [f"A secret cat [fault:{fault}]{shape}" for fault in ("moderated", "failed-key") for shape in shapes]
    expected = [state for state in ("moderated", "failed") for _ in shapes] + ["moderated", "failed", "done"]
    more = ["[fault:moderated-done]", "[fault:expired]", "[fault:done-without-url]"]
    async with emulated() as (_, batches):
        batch_id = await filled(batches, *prompts, *more)
        await finished(batches, batch_id, 9)
        results = {result.batch_request_id: result.status async for result in batches.results(batch_id, str)}
        assert [results[prompt].state for prompt in (*prompts, *more)] == expected
        assert results[more[-1]].url is None
        texts = "".join(f"{status.code} {status.message}" for status in results.values())
        assert KEY not in texts


async def test_an_error_that_quotes_the_prompt_does_not_show_it():
    quoting = {"batch_request_id": "row-1", "error_message": "Not allowed: A cat that nobody may see"}
    page = answer("200 OK", json.dumps({"results": [quoting]}).encode())
    async with scripted(page) as (_, batches):
        (result,) = await all_of(batches.results("batch_1", {"row-1": "A cat that nobody may see"}.get))
    assert (result.status.state, result.status.message) == ("failed", "Not allowed: …")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"{}", 0),
        (b'{"pagination_token":""}', 0),
        (b'{"results":[{"batch_request_id":"a"},{"batch_request_id":7},"x",{"batch_request_id":"b/../c"}]}', 2),
    ],
)
async def test_a_page_may_be_empty_or_odd(body, found):
    async with scripted(answer("200 OK", body)) as (_, batches):
        results = await all_of(batches.results("batch_1"))
        assert [result.status.state for result in results] == ["pending"] * found


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"results":{}}', b'{"other":[]}', b"[]", b'{"results":["' + b"x" * 2**22]
)
async def test_a_page_that_is_not_understood_is_an_error_and_not_an_empty_listing(body):
    async with scripted(*[answer("200 OK", body)] * 3) as (server, batches):
        with pytest.raises(ServiceUnavailable):
            await all_of(batches.results("batch_1"))
        assert len(server.requests) == 3


def page_with(token, *names):
    entries = [{"batch_request_id": name} for name in names]
    return answer("200 OK", json.dumps({"results": entries, "pagination_token": token}).encode())


@pytest.mark.parametrize("tokens", [["t"] * 9, ["t", "u", "v"] * 3, numbered(9)], ids=["same", "in turn", "new"])
async def test_a_listing_that_goes_round_in_circles_ends_with_an_error(tokens):
    async with scripted(*[page_with(token, "a", "b") for token in tokens]) as (server, batches):
        with pytest.raises(ServiceUnavailable, match="does not end"):
            await all_of(batches.results("batch_1"))
        assert len(server.requests) == 5


@pytest.mark.parametrize("tokens", [["t"] * 9, numbered(9)], ids=["same", "new"])
async def test_empty_pages_end_a_listing_whose_last_page_has_a_token(tokens):
    script = [page_with("first", "a"), page_with("second", "b"), *[page_with(token) for token in tokens]]
    async with scripted(*script) as (server, batches):
        assert await ids_of(batches.results("batch_1")) == ["a", "b"]
        assert len(server.requests) == 6


def test_chunks_have_a_largest_size_and_number():
    sizes = [len(chunk.batch_request_ids) for chunk in chunks(items(*numbered(250)))]
    assert sizes == [100, 100, 50]
    whole = next(chunks(items("A", "B", "C")))
    for limit, expected in ((len(whole.content), [3]), (len(whole.content) - 1, [2, 1])):
        parts = list(chunks(items("A", "B", "C"), max_bytes=limit))
        assert [len(part.batch_request_ids) for part in parts] == expected
        assert max(len(part.content) for part in parts) <= limit
        entries = [entry for part in parts for entry in json.loads(part.content)["batch_requests"]]
        assert entries == json.loads(whole.content)["batch_requests"]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (items("A", "A"), "'A' twice is not allowed"),
        (items("A") + [BatchItem(" ", TextRequest(prompt="A"))], "batch_request_id: ' ' is not allowed"),
        (items("A", "B" * 300), "bytes; allowed in a batch"),
    ],
)
def test_all_requests_are_checked_before_the_first_chunk(bad, text):
    with pytest.raises(InvalidRequest, match=text):
        chunks(bad, max_bytes=300)


async def test_calls_keep_a_rolling_limit(monkeypatch):
    now, began = 100.0, []

    async def sleep(seconds):
        began.append(now + seconds)

    monkeypatch.setattr("prefect_xai_video.api.batch_pace.asyncio.sleep", sleep)
    window = CallWindow(3, 30, clock=lambda: now)
    for now in (100, 101, 102, 103, 104, 200):  # noqa: B007 (the clock reads it)
        await window.turn()
    assert began == [100, 101, 102, 130, 131, 200]


async def test_each_creation_and_addition_waits_for_its_turn(monkeypatch):
    turns = Counter()

    async def turn(window):
        turns[window._turns.maxlen] += 1

    monkeypatch.setattr(CallWindow, "turn", turn)
    async with emulated() as (_, batches):
        await filled(batches, *numbered(201))
    assert turns == {CREATES[0]: 1, ADDS[0]: 3}
