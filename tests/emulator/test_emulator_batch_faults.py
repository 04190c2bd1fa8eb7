"""The faults of the Batch API: of one request, of calls whose reply is lost, and of listings."""

import httpx
import pytest

from .batch_api import Batch, choose, entries, numbered, url_of
from .emulator_api import KEY


def test_a_fault_of_one_request_shows_in_its_result(running):
    prompts = {
        "[fault:moderated]": "Generated video rejected by content moderation.",
        "[fault:failed-internal-error]": "Internal error.",
        "[fault:expired]": "The video has expired.",
    }
    with running() as api:
        batch = Batch(api)
        batch.add(*entries(*prompts), *entries("[fault:moderated-done]", "[fault:never-done]", "[fault:failed-key]"))
        batch.wait(5)
        results = {result["batch_request_id"]: result for result in batch.page("results")}
        assert {prompt: results[prompt]["batch_result"]["error"] for prompt in prompts} == prompts
        blocked = results["[fault:moderated-done]"]["batch_result"]["response"]["video_generation"]["video"]
        assert (blocked["url"], blocked["respect_moderation"]) == ("", False)
        assert KEY in results["[fault:failed-key]"]["batch_result"]["error"]
        assert batch.states()["[fault:never-done]"] == "pending"


@pytest.mark.parametrize(
    ("fault", "shape"),
    [
        ("result-error-beside", (None, "Internal error.")),
        ("result-error-object", ({"error": {"code": "internal_error", "message": "Internal error."}}, None)),
    ],
)
def test_an_error_has_several_shapes(running, fault, shape):
    with running() as api:
        batch = Batch(api)
        batch.add(*entries(f"[fault:failed-internal-error] [fault:{fault}]"))
        batch.wait(1)
        assert batch.error() == shape


def test_a_request_or_its_result_can_be_late_and_its_url_expired(running):
    with running() as api:
        batch = Batch(api)
        batch.add(*entries("[fault:request-unlisted]", "[fault:result-late]", "[fault:result-url-expired]"))
        batch.wait(3)
        assert [len(batch.page("requests")) for _ in range(2)] == [2, 3]
        pages = [batch.page("results") for _ in range(2)]
        assert [len(page) for page in pages] == [2, 3]
        found = [{result["batch_request_id"]: url_of(result) for result in page} for page in pages]
        urls = [page["[fault:result-url-expired]"] for page in found]
        assert [api.anonymous.get(url).status_code for url in urls] == [403, 200]


@pytest.mark.parametrize(
    ("fault", "created"),
    [("batch-create-cut", 0), ("batch-create-accepted-cut", 1), ("batch-create-accepted-500", 1)],
)
def test_the_reply_to_a_creation_can_be_lost(running, fault, created):
    with running() as api:
        choose(api, fault)
        if fault.endswith("500"):
            assert api.http.post("/batches", json={"name": "cats"}).status_code == 500
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                api.http.post("/batches", json={"name": "cats"})
        assert len(api.http.get("/batches").json()["batches"]) == created
        assert api.emulator.requests()[-2]["faults"] == [fault]


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
def test_the_reply_to_added_requests_can_be_lost(running, fault, listings):
    with running() as api:
        batch = Batch(api)
        api.emulator.choose_fault(fault)
        if fault.endswith("500"):
            assert batch.add(*entries(*numbered(4))).status_code == 500
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                batch.add(*entries(*numbered(4)))
        assert [len(batch.page("requests")) for _ in range(2)] == listings
        assert api.ledger()["submissions"] == listings[1]
        assert batch.add(*entries("more")).status_code == 200


def test_requests_can_be_added_some_seconds_after_the_reply_was_lost(running, monkeypatch):
    monkeypatch.setattr("prefect_xai_video.emulator.batches.calls.SLOW_SECONDS", 0.1)
    with running() as api:
        batch = Batch(api)
        choose(api, "batch-add-late-seconds")
        with pytest.raises(httpx.RemoteProtocolError):
            batch.add(*entries("A cat"))
        assert batch.wait(1)["num_success"] == 1


def test_xai_can_cancel_a_batch(running):
    with running(render_slots=1, render_seconds=0.3) as api:
        batch = Batch(api)
        choose(api, "batch-cancelled-by-xai")
        assert batch.add(*entries("first", "second")).status_code == 200
        assert batch.get()["cancel_by_xai_message"].startswith("The batch was cancelled by xAI")
        assert batch.states()["second"] == "cancelled"


def test_listings_and_counters_can_lag_repeat_and_fail(running):
    with running(light=True, render_seconds=0) as api:
        batch = Batch(api)
        batch.add(*entries(*numbered(4)))
        choose(api, "batch-counters-lag")
        assert set(batch.get()["state"].values()) == {0}
        batch.wait(4)
        choose(api, "batch-requests-lag")
        choose(api, "batch-results-lag")
        assert [len(batch.pages(kind, 2)) for kind in ("requests", "results") for _ in range(2)] == [1, 2, 1, 2]
        first, second = batch.pages("results", 2)
        choose(api, "batch-results-reversed")
        assert batch.pages("results", 2) == [first[::-1], second]
        choose(api, "batch-page-repeated*2", submissions=2)
        assert batch.pages("results", 2) == [first, *([first] * 4), second]
        choose(api, "batch-get-500")
        assert [api.http.get("/batches").status_code for _ in range(2)] == [500, 200]
