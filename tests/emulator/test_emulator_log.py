"""The log of requests."""

import json
import uuid
from datetime import UTC, datetime

import pytest

from .emulator_api import CAT, KEY


def test_each_request_is_one_line_with_what_was_asked_and_answered(running, tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"an": "older line"}\n')
    with running(log=path) as api:
        sent = api.http.post("/videos/generations", json={**CAT, "n": 4}, headers={"x-client-request-id": "mine"})
        request_id = sent.json()["request_id"]
        api.wait(request_id)
        api.post(prompt="")
        api.anonymous.get("/videos/abc?verbose=1")
        older, *lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert older == {"an": "older line"}
        assert lines == api.emulator.requests()
    first, *polls, refused, anonymous = lines
    assert datetime.now(UTC) >= datetime.fromisoformat(first.pop("time"))
    assert first == {
        "method": "POST",
        "path": "/v1/videos/generations",
        "status": 200,
        "body": {**CAT, "n": 4},
        "request_id": request_id,
        "faults": [],
        "authorization": True,
        "client_request_id": "mine",
        "trace_id": sent.headers["x-request-id"],
    }
    assert len({line["trace_id"] for line in lines}) == len(lines)
    assert {poll["request_id"] for poll in polls} == {request_id}
    assert [poll["status"] for poll in polls][-1] == 200
    assert (refused["status"], refused["request_id"]) == (400, None)
    assert (anonymous["path"], anonymous["status"]) == ("/v1/videos/abc?verbose=1", 401)
    assert (anonymous["body"], anonymous["authorization"]) == (None, False)


def test_whoever_has_an_answer_finds_the_request_in_the_log(api, emulator):
    before = len(emulator.requests())
    for number in range(1, 50):
        assert api.http.get("/api-key").status_code == 200
        assert len(emulator.requests()) == before + number


@pytest.mark.parametrize("path", ["/videos/abc", "/videos", "/pictures", "/me", "/../emulator/ledger"])
def test_every_response_has_a_request_id(api, emulator, path):
    response = api.anonymous.get(path, headers={"x-client-request-id": path})
    entry = emulator.requests()[-1]
    assert uuid.UUID(response.headers["x-request-id"])
    assert (entry["trace_id"], entry["client_request_id"]) == (response.headers["x-request-id"], path)


def test_the_key_is_never_logged(running, tmp_path):
    path = tmp_path / "requests.jsonl"
    with running(log=path, api_key="another") as api:
        assert api.post(prompt="A cat").status_code == 401
        assert api.http.get("/api-key").status_code == 401
        assert len(path.read_text().splitlines()) == 2
    assert KEY not in path.read_text()
    assert "another" not in path.read_text()


def test_long_data_urls_are_shortened_wherever_they_are(api, emulator):
    url = "data:image/png;base64," + "A" * 1000
    api.post(**CAT, reference_images=[{"url": url}, {"url": "https://example.com/" + "a" * 1000}])
    images = emulator.requests()[-1]["body"]["reference_images"]
    assert images[0]["url"] == f"{url[:64]}... (1022 characters)"
    assert len(images[1]["url"]) == 1020


def test_a_body_that_is_no_json_is_logged_as_null(running, tmp_path):
    path = tmp_path / "requests.jsonl"
    with running(log=path) as api:
        headers = {"Content-Type": "application/json"}
        api.http.post("/videos/generations", content=b"{no json", headers=headers)
        api.http.post("/videos/generations", content=b"\xff", headers=headers)
        assert [json.loads(line)["body"] for line in path.read_text().splitlines()] == [None, None]
