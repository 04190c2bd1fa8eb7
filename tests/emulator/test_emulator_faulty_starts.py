"""Submissions whose answer is bad, late or lost."""

import json
import re
import socket
import time
import uuid
from datetime import timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest

from .emulator_api import CAT, KEY, faulty


def outcome_of(api, body, read_seconds=60):
    """Submit on a connection of its own, and tell what was billed for it."""
    before = api.ledger()["submissions"]
    try:
        response = httpx.post(
            f"{api.base_url}/videos/generations",
            json=body,
            headers=api.http.headers,
            verify=False,
            timeout=httpx.Timeout(60, read=read_seconds),
        )
    except httpx.TransportError as error:
        response = error
    return response, api.ledger()["submissions"] - before


@pytest.mark.parametrize(
    ("fault", "retry_after"), [("start-429", None), ("start-429-retry-after", "1"), ("start-429-date", "date")]
)
def test_a_submission_that_is_one_too_many_is_not_accepted(api, fault, retry_after):
    response, billed = outcome_of(api, faulty(fault))
    assert (response.status_code, response.json()["code"], billed) == (429, "resource-exhausted", 0)
    assert "Requests per Second (actual/limit): 2/2." in response.json()["error"]
    if retry_after == "date":
        dates = [parsedate_to_datetime(response.headers[name]) for name in ("Date", "Retry-After")]
        assert dates[1] - dates[0] == timedelta(seconds=1)
    else:
        assert response.headers.get("Retry-After") == retry_after


def test_the_date_to_retry_after_is_one_of_the_emulators_clock(running):
    with running(clock_ahead_seconds=86400) as api:
        response = api.post(**faulty("start-429-date"))
        ahead = parsedate_to_datetime(response.headers["Retry-After"]).timestamp() - time.time()
        assert 86390 < ahead < 86410


@pytest.mark.parametrize(("fault", "retry_after"), [("start-503", None), ("start-503-retry-after", "1")])
def test_a_service_that_is_not_available_does_not_accept(api, fault, retry_after):
    response, billed = outcome_of(api, faulty(fault))
    assert (response.status_code, billed) == (503, 0)
    assert response.json().keys() == {"code", "error"}
    assert response.headers.get("Retry-After") == retry_after


@pytest.mark.parametrize(("fault", "billed"), [("start-cut", 0), ("start-accepted-cut", 1)])
def test_a_connection_that_is_cut_gives_no_answer(api, fault, billed):
    body = faulty(fault)
    error, accepted = outcome_of(api, body)
    assert isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
    assert accepted == billed
    assert outcome_of(api, body)[0].status_code == 200


def test_a_cut_is_in_the_log_without_a_status_before_the_client_knows(api, emulator):
    for fault in ("start-cut", "start-accepted-cut"):
        outcome_of(api, faulty(fault))
        post = [entry for entry in emulator.requests() if entry["method"] == "POST"][-1]
        assert post["status"] is None
        assert (post["request_id"] is not None) == (fault == "start-accepted-cut")


def test_a_cut_leaves_the_other_connections_alone(api):
    address = api.http.base_url.host, api.http.base_url.port
    with socket.create_connection(address) as other:
        other.sendall(b"GET /v1/api-key HTTP/1.1\r\nHost: x\r\n")
        outcome_of(api, faulty("start-cut"))
        other.sendall(b"Authorization: Bearer key\r\n\r\n")
        assert other.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_an_accepted_submission_can_be_answered_with_a_json_error(api):
    response, billed = outcome_of(api, faulty("start-accepted-500"))
    assert (response.status_code, billed) == (500, 1)
    assert response.json().keys() == {"code", "error"}


def test_an_accepted_submission_can_be_answered_with_the_text_of_the_cdn(api):
    response, billed = outcome_of(api, faulty("start-accepted-502"))
    assert (response.status_code, response.text, billed) == (502, "error code: 502", 1)
    assert response.headers["Content-Type"].startswith("text/plain")


def test_an_accepted_submission_can_be_answered_with_half_an_answer(api):
    response, billed = outcome_of(api, faulty("start-accepted-unreadable"))
    assert (response.status_code, billed) == (200, 1)
    assert response.headers["Content-Type"] == "application/json"
    assert response.text.startswith('{"request_id": "')
    with pytest.raises(json.JSONDecodeError):
        response.json()


def test_an_accepted_submission_can_be_met_with_silence(api, emulator):
    body = faulty("start-accepted-silence")
    before = api.ledger()["submissions"]
    error, _ = outcome_of(api, body, read_seconds=0.5)
    assert isinstance(error, httpx.ReadTimeout)
    while not (posts := [post for post in emulator.requests() if post["body"] == body]):
        time.sleep(0.02)
    assert posts[0]["status"] is None
    assert api.ledger()["submissions"] == before + 1
    assert outcome_of(api, body)[0].status_code == 200


def test_an_emulator_that_keeps_silent_can_be_stopped(running):
    with running() as api:
        address = api.http.base_url.host, api.http.base_url.port
        content = json.dumps(faulty("start-accepted-silence")).encode()
        head = f"POST /v1/videos/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        with socket.create_connection(address) as client:
            client.sendall(f"{head}Authorization: Bearer key\r\nContent-Type: application/json\r\n\r\n".encode())
            client.sendall(content)
            while api.ledger()["submissions"] == 0:
                time.sleep(0.01)
            api.emulator.__exit__(None, None, None)


@pytest.mark.parametrize("fault", ["start-accepted-cut", "start-accepted-500", "start-accepted-unreadable"])
def test_the_video_of_a_lost_answer_is_made(api, local_server, fault):
    outcome_of(api, faulty(fault) | {"output": {"upload_url": f"{local_server.url}/{fault}.mp4"}})
    deadline = time.monotonic() + 60
    while not local_server.puts:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert local_server.puts[0][0] == f"/{fault}.mp4"


def test_an_edit_can_have_faults_too(api, clip_url):
    prompt = "Red [fault:start-429]"
    edit = {"prompt": prompt, "video": {"url": clip_url}}
    assert [api.post("edits", **edit).status_code for _ in range(2)] == [429, 200]
    extension = {"prompt": "More [fault:start-accepted-502]", "video": {"url": clip_url}, "duration": 2}
    assert [api.post("extensions", **extension).status_code for _ in range(2)] == [502, 200]


def test_a_request_without_credits_is_refused_before_its_answer_is_lost(running):
    with running(credits_usd="0.01") as api:
        assert api.post(**faulty("start-accepted-502")).status_code == 403
        assert api.post(**CAT).status_code == 403


ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@pytest.mark.parametrize("accepted", [0, 1])
@pytest.mark.parametrize("status", [307, 409, 425, 499])
def test_a_status_can_leave_open_whether_a_submission_was_accepted(api, status, accepted):
    body = faulty(f"start-{'accepted-' if accepted else ''}{status}")
    response, billed = outcome_of(api, body)
    assert (response.status_code, billed) == (status, accepted)
    assert response.headers.get("Location") == (f"{api.base_url}/videos/generations" if status == 307 else None)
    assert not ID.search(response.text)
    assert outcome_of(api, body)[0].status_code == 200


@pytest.mark.parametrize(
    ("fault", "retry_after"), [("start-accepted-503", None), ("start-accepted-503-retry-after", "1")]
)
def test_an_accepted_submission_can_be_answered_with_503(api, fault, retry_after):
    response, billed = outcome_of(api, faulty(fault))
    assert (response.status_code, response.headers.get("Retry-After"), billed) == (503, retry_after, 1)


@pytest.mark.parametrize(
    ("fault", "find"),
    [
        ("start-accepted-id", lambda answer: answer["id"]),
        ("start-accepted-number", lambda answer: str(uuid.UUID(int=answer["request_id"]))),
        ("start-accepted-nested", lambda answer: answer["data"]["request_id"]),
    ],
)
def test_the_id_of_an_accepted_submission_can_be_elsewhere(api, fault, find):
    response, billed = outcome_of(api, faulty(fault))
    assert (response.status_code, len(response.json()), billed) == (200, 1, 1)
    assert api.row(find(response.json()))["faults"] == [fault]


def test_a_response_can_be_cut_after_the_id(api):
    before = api.ledger()["submissions"]
    received = bytearray()
    body = faulty("start-accepted-cut-after-id")
    with (
        pytest.raises(httpx.RemoteProtocolError),
        api.http.stream("POST", "/videos/generations", json=body) as response,
    ):
        for piece in response.iter_raw():
            received.extend(piece)
    assert ID.fullmatch(received.decode().removeprefix('{"request_id": "'))
    assert api.ledger()["submissions"] == before + 1


def test_a_response_can_be_huge_and_whoever_has_enough_may_leave(api):
    with api.http.stream("POST", "/videos/generations", json=faulty("start-accepted-huge")) as response:
        beginning = next(response.iter_raw())
        assert "Content-Length" not in response.headers
    assert beginning.startswith(b'{"request_id": "')
    assert api.row(ID.search(beginning.decode())[0])["faults"] == ["start-accepted-huge"]


@pytest.mark.parametrize("fault", ["start-400-key", "start-400-key-in-code"])
def test_a_refusal_can_repeat_the_key(api, fault):
    response, billed = outcome_of(api, faulty(fault))
    assert (response.status_code, billed) == (400, 0)
    assert KEY not in response.text
    assert KEY.replace("-", r"\u002d") in response.text
    assert KEY in response.json()["error" if fault == "start-400-key" else "code"]
