"""Polls whose answer is odd, bad or late, and videos that do not come out well."""

import time

import httpx
import pytest

from prefect_xai_video.emulator import Emulator
from prefect_xai_video.emulator.echoes import SIGNATURE

from .emulator_api import KEY, Api, faulty


@pytest.fixture(scope="module")
def pending_api():
    """An emulator whose renders do not end."""
    with Emulator(render_seconds=1e6) as emulator:
        client = Api(emulator.base_url)
        yield client
        client.close()


def last_answer(api, *faults):
    """The answer that ends a render with these faults."""
    request_id = api.submit(**faulty(*faults))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = api.poll(request_id)
        if answer.content and answer.json().get("status") not in ("pending", "queued"):
            return answer.json()
        time.sleep(0.02)
    raise TimeoutError


PENDING = {
    "empty-202": (202, b""),
    "pending-200": (200, b'{"status":"pending"}'),
    "unknown-status": (200, b'{"status":"queued"}'),
    "progress-absent": (202, b'{"status":"pending"}'),
}


@pytest.mark.parametrize("fault", PENDING)
def test_pending_answers_can_look_otherwise(pending_api, api, fault):
    request_id = pending_api.submit(**faulty(fault))
    for _ in range(3):
        answer = pending_api.poll(request_id)
        assert (answer.status_code, answer.content) == PENDING[fault]
    assert last_answer(api, fault)["status"] == "done"


def test_pending_answers_can_look_otherwise_one_after_the_other(pending_api):
    request_id = pending_api.submit(**faulty(*(f"{fault}*1" for fault in PENDING)))
    answers = [pending_api.poll(request_id) for _ in range(5)]
    assert [(answer.status_code, answer.content) for answer in answers[:4]] == list(PENDING.values())
    assert answers[4].json().keys() == {"status", "progress"}


@pytest.mark.parametrize(
    ("fault", "progress"), [("progress-stuck", [42, 42, 42]), ("progress-backwards", [99, 49, 0])]
)
def test_progress_can_be_stuck_or_fall(pending_api, api, clock, fault, progress):
    request_id, begun = pending_api.submit(**faulty(fault)), clock.now
    seen = []
    for age in (0, 500_000, 990_000):
        clock.now = begun + age
        seen.append(pending_api.poll(request_id).json()["progress"])
    assert seen == progress
    clock.now = begun
    assert last_answer(api, fault)["progress"] == 100


def test_a_video_can_be_pending_for_ever(api, local_server):
    request_id = api.submit(**faulty("never-done"), output={"upload_url": local_server.url})
    for _ in range(10):
        assert api.poll(request_id).json()["status"] == "pending"
        time.sleep(0.05)
    assert local_server.puts == []


def test_a_done_answer_can_be_one_of_early_2026(api):
    answer = api.make(**faulty("no-status")).json()
    assert answer.keys() == {"video", "model"}
    assert answer["video"].keys() == {"url", "duration"}
    assert api.anonymous.get(answer["video"]["url"]).status_code == 200


def test_a_done_answer_can_lack_its_url(api):
    answer = api.make(**faulty("done-without-url")).json()
    assert (answer["status"], answer["video"]) == ("done", {"duration": 1, "respect_moderation": True})


def test_the_url_can_be_in_the_file_output_only(api):
    body = faulty("public-url-only")
    for options in ({}, {"storage_options": {"filename": "cat.mp4"}}):
        video = api.make(**body, **options).json()["video"]
        assert "url" not in video
        content = api.anonymous.get(video["file_output"]["public_url"])
        assert content.headers["Content-Type"] == "video/mp4"
        assert len(content.content) > 10_000
    assert video["file_output"]["filename"] == "cat.mp4"


MODERATION = {
    "moderated": "imagine:content-moderated",
    "moderated-old-code": "Client specified an invalid argument",
}


@pytest.mark.parametrize("fault", MODERATION)
def test_moderation_is_400_with_the_code_of_its_time(api, fault):
    response = api.make(**faulty(fault))
    assert response.status_code == 400
    assert response.json() == {
        "code": MODERATION[fault],
        "error": "Generated video rejected by content moderation.",
        "usage": {"cost_in_usd_ticks": 500_000_000},
    }


def test_moderation_can_be_a_done_answer_without_video(api):
    response = api.make(**faulty("moderated-done"))
    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "done"
    assert answer["video"] == {"url": "", "duration": 1, "respect_moderation": False}
    assert answer["usage"] == {"cost_in_usd_ticks": 500_000_000}


CODES = ["invalid_argument", "permission_denied", "failed_precondition", "service_unavailable", "internal_error"]


@pytest.mark.parametrize("code", CODES)
def test_a_render_can_fail_with_each_code(api, code):
    response = api.make(**faulty(f"failed-{code.replace('_', '-')}"))
    assert response.status_code == 200
    answer = response.json()
    assert answer.keys() == {"status", "error"}
    assert (answer["status"], answer["error"]["code"]) == ("failed", code)
    assert answer["error"]["message"]


def test_a_render_can_fail_with_a_mere_text(api):
    answer = api.make(**faulty("failed-string-error")).json()
    assert answer == {"status": "failed", "error": "Internal error."}


def test_a_video_can_have_expired(api):
    response = api.make(**faulty("expired"))
    assert (response.status_code, response.json()) == (200, {"status": "expired"})


POLLS = {
    "poll-429": (429, None, "resource-exhausted"),
    "poll-429-retry-after": (429, "1", "resource-exhausted"),
    "poll-500": (500, None, "internal-error"),
    "poll-503": (503, None, "service-unavailable"),
    "poll-404": (404, None, "not-found"),
}


@pytest.mark.parametrize("fault", POLLS)
def test_a_poll_can_be_answered_with_an_error(api, fault):
    request_id = api.submit(**faulty(fault))
    first = api.poll(request_id)
    answer = first.status_code, first.headers.get("Retry-After"), first.json()["code"]
    assert answer == POLLS[fault]
    assert api.wait(request_id).json()["status"] == "done"


def test_polls_can_go_wrong_one_after_the_other(api):
    request_id = api.submit(**faulty("poll-500*2", "poll-429", "poll-404"))
    assert [api.poll(request_id).status_code for _ in range(4)] == [500, 500, 429, 404]
    assert api.wait(request_id).status_code == 200


def test_the_connection_of_a_poll_can_be_cut(api, emulator):
    request_id = api.submit(**faulty("poll-cut"))
    with pytest.raises(httpx.RemoteProtocolError):
        api.poll(request_id)
    last = emulator.requests()[-1]
    assert (last["method"], last["request_id"], last["status"]) == ("GET", request_id, None)
    assert api.wait(request_id).json()["status"] == "done"


def test_a_poll_can_be_slow(api):
    request_id = api.submit(**faulty("poll-slow"))
    begun = time.monotonic()
    assert api.poll(request_id).json()["status"] == "done"
    slow = time.monotonic()
    assert api.poll(request_id).status_code == 200
    assert slow - begun >= 3
    assert time.monotonic() - slow < slow - begun


def test_a_video_can_be_kept_from_its_upload_url(api, local_server):
    answer = api.make(**faulty("upload-skipped"), output={"upload_url": local_server.url}).json()
    assert local_server.puts == []
    assert answer["video"]["url"].startswith(api.base_url.removesuffix("/v1"))
    assert api.anonymous.get(answer["video"]["url"]).status_code == 200


def test_an_upload_can_fail(api, local_server):
    request_id = api.submit(**faulty("upload-failed"), output={"upload_url": local_server.url})
    answer = api.wait(request_id).json()
    assert (answer["status"], answer["error"]["code"]) == ("failed", "failed_precondition")
    assert local_server.puts == []
    assert api.row(request_id)["cost_usd"] == "0.00"


def test_moderation_can_be_a_failure(api):
    answer = api.make(**faulty("moderated-failed"))
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "failed",
        "error": {"code": "invalid_argument", "message": "Generated video rejected by content moderation."},
        "usage": {"cost_in_usd_ticks": 500_000_000},
    }


def test_a_failure_can_repeat_the_key(api):
    answer = api.make(**faulty("failed-key"))
    assert KEY not in answer.text
    error = answer.json()["error"]
    assert error["code"] == KEY
    assert KEY in error["message"]
    assert KEY.replace("-", r"\u002d") in error["message"]
    assert "%78%61%69%2D" in error["message"]


def test_a_failure_can_repeat_a_signed_url(api):
    message = api.make(**faulty("failed-signed-url")).json()["error"]["message"]
    assert r"https:\/\/bucket.s3.amazonaws.com\/cat.mp4?" in message
    assert f"X-Amz-Signature%3D{SIGNATURE}" in message
    assert f"X-Amz-Signature%253D{SIGNATURE}" in message


def test_numbers_can_be_absurd(pending_api, api):
    pending = pending_api.poll(pending_api.submit(**faulty("progress-absurd")))
    assert len(str(pending.json()["progress"])) == 40
    last = last_answer(api, "cost-absurd", "duration-absurd")
    assert len(str(last["usage"]["cost_in_usd_ticks"])) == 40
    assert len(str(last["video"]["duration"])) == 40


def test_a_poll_can_be_404_for_good(api):
    request_id = api.submit(**faulty("poll-404-always"))
    assert [api.poll(request_id).status_code for _ in range(3)] == [404] * 3


def test_a_poll_can_be_huge_once(api):
    request_id = api.submit(**faulty("poll-huge"))
    with api.http.stream("GET", f"/videos/{request_id}") as response:
        assert response.status_code == 200
        assert next(response.iter_raw()).startswith(b'{"status": "pending", "padding": "')
    assert api.wait(request_id).json()["status"] == "done"
