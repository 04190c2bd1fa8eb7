"""Random faults for a share of the submissions, and a ledger by which payments can be counted."""

import json
import socket
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest

from prefect_xai_video.emulator.faults import INJECTED, NOT_INJECTED

from .emulator_api import CAT, KEY, faulty


def submit(api, body=CAT) -> list[str]:
    """Submit a request without waiting for its response, which may never come. Returns its faults."""
    content = json.dumps(body)
    head = (
        f"Host: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    before = len(api.emulator.requests())
    with socket.create_connection(("127.0.0.1", urlsplit(api.base_url).port)) as connection:
        connection.sendall(f"POST /v1/videos/generations HTTP/1.1\r\n{head}\r\n\r\n{content}".encode())
        while len(api.emulator.requests()) == before:
            time.sleep(0.0005)
    return api.emulator.requests()[before]["faults"]


def test_each_submission_gets_one_fault_of_all_that_suit(running):
    with running(fault_share=1, render_seconds=1e6, render_slots=1) as api:
        faults = [submit(api) for _ in range(600)]
        billed = Counter(name for row in api.ledger()["requests"] for name in row["faults"])
    assert {len(names) for names in faults} == {1}
    chosen = Counter(name for [name] in faults)
    assert not chosen.keys() & NOT_INJECTED
    assert len(chosen) > 0.9 * len(INJECTED)
    assert max(chosen.values()) < 5 * 600 / len(INJECTED)
    refused = chosen - billed
    assert billed + refused == chosen
    assert refused
    assert all(name.startswith("start-") and not name.startswith("start-accepted-") for name in refused)


def test_the_share_and_the_seed_decide_on_the_faults(running):
    seen = []
    for seed in (1, 1, 2):
        with running(fault_share=0.2, seed=seed, render_seconds=1e6, render_slots=1) as api:
            seen.append([submit(api) for _ in range(200)])
    first, again, other = seen
    assert first == again
    assert first != other
    assert all(20 < sum(bool(names) for names in faults) < 60 for faults in (first, other))


def test_without_a_share_no_fault_is_injected(running):
    with running(render_seconds=1e6, render_slots=1) as api:
        assert not any(submit(api) for _ in range(100))


def test_a_fault_that_is_selected_takes_the_place_of_a_random_one(running):
    with running(fault_share=1, render_seconds=1e6, render_slots=1) as api:
        assert submit(api, faulty("poll-429", "moderated")) == ["poll-429", "moderated"]
        url = api.base_url.removesuffix("/v1") + "/emulator/faults"
        assert api.anonymous.post(url, json={"fault": "expired"}).status_code == 200
        assert submit(api) == ["expired"]


def test_a_fault_can_be_selected_in_python(running):
    with running(render_seconds=1e6, render_slots=1) as api:
        api.emulator.choose_fault("poll-500*2", submissions=2)
        assert [submit(api) for _ in range(3)] == [["poll-500"], ["poll-500"], []]
        with pytest.raises(ValueError, match=r"fault is 'moderate', but must be one of: .*, moderated, "):
            api.emulator.choose_fault("moderate")
        with pytest.raises(ValueError, match="submissions is 0, but must be at least 1"):
            api.emulator.choose_fault("moderated", submissions=0)


def test_an_injected_fault_strikes(running):
    with running(fault_share=1, render_seconds=1e6, render_slots=1) as api:
        while submit(api) != ["poll-500"]:
            pass
        request_id = api.ledger()["requests"][-1]["request_id"]
        assert [api.poll(request_id).status_code for _ in range(2)] == [500, 202]


def test_the_ledger_tells_which_prompts_and_calls_were_billed(running, tmp_path):
    with running(state=tmp_path) as api:
        for number in range(3):
            headers = {"x-client-request-id": f"claim-{number}"}
            body = CAT | {"prompt": f"Cat {number // 2}"}
            assert api.http.post("/videos/generations", json=body, headers=headers).status_code == 200
        api.post(prompt="")
        api.submit(**CAT)
        rows = api.ledger()["requests"]
    billed = [(row["prompt"], row["client_request_id"], row["cost_usd"]) for row in rows]
    assert billed == [
        ("Cat 0", "claim-0", "0.05"),
        ("Cat 0", "claim-1", "0.05"),
        ("Cat 1", "claim-2", "0.05"),
        ("A cat", None, "0.05"),
    ]
    with running(state=tmp_path) as later:
        names = ("request_id", "prompt", "client_request_id")
        assert [[row[name] for name in names] for row in later.ledger()["requests"]] == [
            [row[name] for name in names] for row in rows
        ]
