"""The Batch API: batches, their requests, listings and results, and batches from files."""

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from prefect_xai_video.emulator.batches import registry

from .batch_api import Batch, entries, from_file, line, numbered, url_of, video
from .emulator_api import CAT, Api
from .test_emulator_state import started


def test_a_batch_is_created_filled_and_read(running, clip_url):
    with running() as api:
        batch = Batch(api)
        assert set(batch.created["state"].values()) == {0}
        edit = {"video_generation": {"prompt": "Red", "video": {"url": clip_url}}}
        extension = {"video_extension": {"prompt": "More", "video": {"url": clip_url}, "duration": 2}}
        added = batch.add(
            *entries("A cat"),
            {"batch_request_id": "edit", "batch_request": edit},
            {"batch_request_id": "extension", "batch_request": extension},
            {"batch_request": video("Without an id")},
        )
        assert added.status_code == 200
        assert batch.wait(4) == {
            "num_requests": 4,
            "num_pending": 0,
            "num_success": 4,
            "num_error": 0,
            "num_cancelled": 0,
        }
        ids = [entry["batch_request_id"] for entry in batch.page("requests")]
        assert ids[:3] == ["A cat", "edit", "extension"]
        results = {result["batch_request_id"]: result for result in batch.page("results")}
        assert results.keys() == set(ids)
        done = results["extension"]["batch_result"]["response"]["video_generation"]
        assert (done["video"]["duration"], done["model"]) == (4, "grok-imagine-video")
        assert api.anonymous.get(url_of(results["A cat"])).content == api.clip(**CAT)
        rows = [row for row in api.ledger()["requests"] if row["batch_id"] == batch.created["batch_id"]]
        assert [(row["batch_request_id"], row["mode"]) for row in rows][:3] == [
            ("A cat", "text"),
            ("edit", "edit"),
            ("extension", "extend"),
        ]
        assert done["usage"]["cost_in_usd_ticks"] == 1_200_000_000 == float(rows[2]["cost_usd"]) * 10**10
        assert api.poll(rows[0]["request_id"]).status_code == 404


def test_listings_have_pages_and_the_last_one_has_no_token(running):
    with running(light=True, render_seconds=0) as api:
        batch, other = Batch(api), Batch(api)
        batch.add(*entries(*numbered(5)))
        batch.wait(5)
        ids = numbered(5)
        assert batch.pages("requests", 2) == [ids[:2], ids[2:4], ids[4:]]
        assert [len(page) for page in batch.pages("results", 5)] == [5]
        assert sorted(batch.ids("results")) == ids
        first = api.http.get("/batches", params={"limit": 1}).json()
        second = api.http.get("/batches", params={"limit": 1, "pagination_token": first["pagination_token"]}).json()
        assert [page["batches"][0]["batch_id"] for page in (first, second)] == [
            other.created["batch_id"],
            batch.created["batch_id"],
        ]
        assert second["pagination_token"] is None
        for query in ({"limit": 0}, {"limit": 101}, {"pagination_token": "x"}):
            assert api.http.get(f"{batch.path}/results", params=query).status_code == 400


def test_a_call_with_a_request_of_the_wrong_shape_or_model_adds_nothing(running, monkeypatch):
    with running() as api:
        batch = Batch(api)
        bad = [
            (422, {"batch_request": {"chat_get_completion": {}}}),
            (422, {"batch_request": video() | {"video_extension": {"prompt": "A", "video": {"url": "https://a.b"}}}}),
            (422, {"batch_request": video(duration="long")}),
            (404, {"batch_request": video(model="none")}),
            (400, {"batch_request": video(model="grok-imagine-video-1.5-lite")}),
            (400, {"batch_request": video("[fault:batch-add-cut]")}),
            (400, {"batch_request": video("[fault:unknown]")}),
        ]
        for status, request in bad:
            assert batch.add(*entries("A cat"), request).status_code == status, request
        assert "not supported for batch processing" in batch.add(bad[4][1]).json()["error"]
        assert batch.add().status_code == 400
        assert batch.page("requests") == []
        monkeypatch.setattr("prefect_xai_video.emulator.batches.routes.MAX_ADD_BYTES", 100)
        assert batch.add(*entries("A cat")).status_code == 413
        assert api.http.get("/batches/batch_1").status_code == 404
        assert api.anonymous.get("/batches").status_code == 401
        assert api.ledger()["submissions"] == 0


def test_a_request_with_a_value_that_is_not_allowed_fails_and_costs_nothing(running):
    with running() as api:
        batch = Batch(api)
        batch.add(*entries("Long", duration=16))
        assert batch.wait(1)["num_error"] == 1
        assert batch.error() == ({"error": "Duration must be between 1 and 15 seconds, got 16."}, None)
        assert api.ledger()["billed_usd"] == "0.00"


def test_a_second_request_of_the_same_id_is_rendered_and_billed(running):
    with running() as api:
        batch = Batch(api)
        for _ in range(2):
            batch.add(*entries("A cat"))
        assert batch.wait(2)["num_success"] == 2
        assert batch.pages("requests", 9) == batch.pages("results", 9) == [["A cat", "A cat"]]
        assert api.ledger()["billed_usd"] == "0.10"


@pytest.fixture
def rendering(local_server, red_png):
    """Adds requests to a batch of an emulator with one slot, the first of which renders until the gate is opened."""

    def begin(batch, *waiting):
        local_server.files["/cat.png"] = red_png
        local_server.gate.clear()
        batch.add(*entries("first", image={"url": f"{local_server.url}/cat.png"}), *entries(*waiting))
        deadline = time.monotonic() + 60
        while not local_server.gets and time.monotonic() < deadline:
            time.sleep(0.01)

    return begin


def test_cancelling_stops_what_waits_and_keeps_what_renders(running, rendering, local_server):
    with running(render_slots=1) as api:
        batch = Batch(api)
        rendering(batch, "second", "third")
        assert batch.cancel()["state"]["num_cancelled"] == 2
        assert batch.add(*entries("more")).status_code == 400
        local_server.gate.set()
        batch.wait(3)
        assert batch.states() == {"first": "succeeded", "second": "cancelled", "third": "cancelled"}
        assert [result["batch_request_id"] for result in batch.page("results")] == ["first"]
        assert batch.cancel()["cancel_time"] is not None
        assert api.ledger()["billed_usd"] == "0.052"


def test_an_expired_batch_is_gone_and_what_waits_is_not_rendered(running, rendering, local_server, monkeypatch):
    with running(render_slots=1, batch_ttl_seconds=3600) as api:
        batch = Batch(api)
        rendering(batch, "second")
        clock = api.emulator._service.clock
        monkeypatch.setattr(api.emulator._service, "clock", type(clock)(ahead_seconds=3601))
        for path in (batch.path, f"{batch.path}/requests", f"{batch.path}/results"):
            assert api.http.get(path).status_code == 404
        assert batch.add(*entries("third")).status_code == 404
        assert api.http.get("/batches").json()["batches"] == []
        local_server.gate.set()
        deadline = time.monotonic() + 60
        while "pending" in (outcomes := [row["outcome"] for row in api.ledger()["requests"]]):
            assert time.monotonic() < deadline
            time.sleep(0.03)
        assert outcomes == ["done", "cancelled"]


def test_creates_and_adds_have_limits_and_no_other_limit_counts(running, clock, monkeypatch):
    monkeypatch.setattr(registry, "ADDS", (3, 30.0))
    with running(requests_per_second=1) as api:
        codes = [api.http.post("/batches", json={"name": "cats"}).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        clock.now += 1
        batches = [Batch(api), Batch(api)]
        assert [batches[number % 2].add(*entries("A cat")).status_code for number in range(4)] == [200] * 3 + [429]
        clock.now += 29
        assert batches[0].add(*entries("A cat")).status_code == 429
        clock.now += 31
        assert batches[0].add(*entries("A cat")).status_code == 200
        assert {api.http.get(batches[0].path).status_code for _ in range(5)} == {200}


def test_a_url_in_a_result_expires_and_the_next_reading_has_another(running, clock):
    with running(url_ttl_seconds=100) as api:
        batch = Batch(api)
        batch.add(*entries("A cat"))
        clock.now += 1
        batch.wait(1)
        first = url_of(*batch.page("results"))
        clock.now += 50
        second = url_of(*batch.page("results"))
        clock.now += 51
        assert [api.anonymous.get(url).status_code for url in (first, second)] == [403, 200]


def test_credits_are_checked_before_anything_is_added(running):
    with running(credits_usd="0.12") as api:
        batch = Batch(api)
        assert batch.add(*entries(*numbered(3))).status_code == 403
        assert batch.add(*entries(*numbered(2))).status_code == 200


def test_a_batch_from_a_file_is_sealed(running, clip_url):
    with running() as api:
        batch = from_file(api, line("A"), line("B", "edits", video={"url": clip_url}), "")
        assert batch.wait(2)["num_success"] == 2
        assert batch.states().keys() == {"A", "B"}
        assert batch.add(*entries("more")).status_code == 400
        assert api.http.post("/batches", json={"name": "cats", "input_file_id": "file_1"}).status_code == 404


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("{", "line 2: "),
        (line("B") | {"method": "GET"}, "line 2: "),
        (line("B", "none"), "url /v1/videos/none is not supported"),
        (line("A"), "custom_id A is not unique"),
        (line("B", duration=16), "Duration must be between"),
        (line("B", model="grok-imagine-video-1.5-lite"), "not supported for batch processing"),
    ],
)
def test_one_bad_line_cancels_the_whole_batch(running, bad, problem):
    with running() as api:
        batch = from_file(api, line("A"), bad)
        deadline = time.monotonic() + 60
        while (found := batch.get())["cancel_time"] is None and time.monotonic() < deadline:
            time.sleep(0.03)
        assert problem in found["cancel_by_xai_message"]
        assert (found["state"]["num_requests"], api.ledger()["submissions"]) == (0, 0)


def test_a_later_emulator_goes_on_with_a_batch(running, tmp_path):
    with running(state=tmp_path, render_slots=1, render_seconds=3600) as api:
        batch, cancelled = Batch(api), Batch(api)
        batch.add(*entries("first", "second"))
        cancelled.add(*entries("never"))
        cancelled.cancel()
        books = api.ledger()
    with running(state=tmp_path, render_slots=1) as later:
        assert later.ledger() == books
        for known in (batch, cancelled):
            known.api = later
        assert batch.wait(2)["num_success"] == 2
        assert [result["batch_request_id"] for result in batch.page("results")] == ["first", "second"]
        assert cancelled.states() == {"never": "cancelled"}
        assert cancelled.add(*entries("more")).status_code == 400
        assert batch.add(*entries("third")).status_code == 200


def test_a_kill_loses_no_request_whose_addition_was_confirmed(running, tmp_path):
    process, base_url = started(tmp_path)
    api = Api(base_url)
    batch = Batch(api)
    confirmed = []

    def add(number):
        try:
            while True:
                prompts = [f"{number} {len(confirmed)} {part}" for part in range(3)]
                if batch.add(*entries(*prompts)).status_code == 200:
                    confirmed.extend(prompts)
        except httpx.TransportError:
            return

    try:
        with ThreadPoolExecutor() as threads:
            adding = [threads.submit(add, number) for number in range(2)]
            deadline = time.monotonic() + 60
            while len(confirmed) < 9 and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            assert [each.result() for each in adding] == [None, None]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        api.close()
    with running(state=tmp_path, render_seconds=3600) as later:
        batch.api = later
        listed = Counter(batch.ids("requests"))
        assert set(confirmed) <= set(listed)
        assert set(listed.values()) == {1}
        assert later.ledger()["submissions"] == len(listed)


def test_a_reset_forgets_batches_and_their_limits(running):
    with running(render_slots=1, render_seconds=3600) as api:
        for _ in range(2):
            Batch(api).add(*entries("first", "second"))
        api.emulator.reset()
        assert api.http.get("/batches").json()["batches"] == []
        assert api.ledger()["submissions"] == 0
        assert Batch(api).add(*entries("first")).status_code == 200


def test_many_requests_fit_into_one_batch_and_pass_through_few_slots(running):
    with running(light=True, render_seconds=0, render_slots=5) as api:
        batch = Batch(api)
        prompts = numbered(1000)
        for begin in range(0, len(prompts), 100):
            assert batch.add(*entries(*prompts[begin : begin + 100])).status_code == 200
        assert batch.wait(len(prompts))["num_success"] == len(prompts)
        assert sorted(batch.ids("results")) == sorted(prompts)
        assert api.ledger()["submissions"] == len(prompts)
