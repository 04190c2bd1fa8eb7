"""How faults are chosen, counted and entered in the books."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from prefect_xai_video.emulator.faults import Fault

from .emulator_api import CAT, faulty


def control(api):
    return api.base_url.removesuffix("/v1") + "/emulator/faults"


def choose(api, **body):
    return api.anonymous.post(control(api), json=body)


def test_all_faults_are_listed_with_a_sentence_each(api):
    listed = api.anonymous.get(control(api)).json()
    assert list(listed) == [fault.value for fault in Fault]
    assert len(listed) == 108
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in listed.values())
    assert len(set(listed.values())) == len(listed)


def requested(api) -> tuple[int, list[str]]:
    """The number of submissions, and the ids of those that were accepted."""
    ledger = api.ledger()
    return ledger["submissions"], [row["request_id"] for row in ledger["requests"]]


@pytest.mark.parametrize(
    "marker",
    [
        "[fault:strat-429]",
        "[fault:START-429]",
        "[Fault:strat]",
        "[fault:]",
        "[ fault : start-429 ]",
        "[fault:start-429*]",
        "[fault:start-429*0]",
        "[fault:start-429*two]",
        "[fault:start-429",
        "[fault:start-429][fault:nothing]",
    ],
)
def test_a_marker_that_is_not_known_is_refused_and_not_billed(api, marker):
    # Not the rows as they are: renders of other tests may still go on.
    before = requested(api)
    response = api.post(prompt=f"A cat {marker}")
    assert (response.status_code, response.json()["code"]) == (400, "invalid-argument")
    assert response.json()["error"].startswith("unknown fault ")
    assert requested(api) == before


def test_the_refusal_names_the_unknown_fault(api):
    assert '"strat-429"' in api.post(prompt="A cat [fault:strat-429]").json()["error"]


@pytest.mark.parametrize("prompt", ["A [fault] line", "fault:start-429", "[faults: none]", "[default:start-429]"])
def test_a_prompt_without_marker_has_no_faults(api, prompt):
    request_id = api.submit(**CAT | {"prompt": prompt})
    assert api.wait(request_id).json()["status"] == "done"
    assert api.row(request_id)["faults"] == []


def test_a_marker_is_a_part_of_the_prompt_like_any_other_words(api):
    marked = CAT | {"prompt": "A cat [fault:progress-stuck]"}
    assert api.clip(**marked) == api.clip(**marked) != api.clip(**CAT) == api.clip(**CAT)


def test_a_submission_repeated_after_its_fault_is_accepted(api):
    body = faulty("start-429")
    statuses = [api.post(**body).status_code for _ in range(3)]
    assert statuses == [429, 200, 200]
    assert api.post(**faulty("start-429")).status_code == 429


def test_a_fault_can_happen_several_times(api):
    body = faulty("start-503*3")
    assert [api.post(**body).status_code for _ in range(5)] == [503, 503, 503, 200, 200]


def test_several_faults_of_a_submission_happen_one_after_the_other(api):
    body = faulty("start-503*2", "start-429", "start-accepted-500")
    assert [api.post(**body).status_code for _ in range(5)] == [503, 503, 429, 500, 200]


def test_the_upload_url_makes_no_other_submission(api):
    body = faulty("start-429")
    urls = [f"http://127.0.0.1:1/cat.mp4?signature={number}" for number in range(2)]
    assert [api.post(**body, output={"upload_url": url}).status_code for url in urls] == [429, 200]


def test_any_other_field_makes_another_submission(api):
    body = faulty("start-429")
    assert [api.post(**body | {"duration": seconds}).status_code for seconds in (1, 2)] == [429, 429]


def test_a_bad_request_is_refused_for_what_it_is_and_its_fault_is_still_to_come(api):
    body = faulty("start-503")
    assert api.post(**body | {"duration": 99}).status_code == 400
    assert [api.post(**body).status_code for _ in range(2)] == [503, 200]


def test_an_outcome_can_be_that_of_the_first_video_only(api):
    body = faulty("failed-internal-error*1")
    assert [api.make(**body).json()["status"] for _ in range(2)] == ["failed", "done"]


def test_each_video_has_the_faults_of_its_polls_anew(api):
    body = faulty("poll-500")
    for request_id in (api.submit(**body), api.submit(**body)):
        assert [api.poll(request_id).status_code for _ in range(2)] in ([500, 202], [500, 200])


def test_the_ledger_names_the_faults_of_each_request(api):
    marked = api.submit(**faulty("download-cut*2", "moderated", "download-no-range"))
    plain = api.submit(**CAT)
    assert api.row(marked)["faults"] == ["download-cut", "moderated", "download-no-range"]
    assert api.row(plain)["faults"] == []


def test_a_fault_can_be_chosen_for_the_next_submissions(running):
    with running() as api:
        response = choose(api, fault="start-429", submissions=2)
        assert (response.status_code, response.json()) == (200, {"fault": "start-429", "submissions": 2})
        assert [api.post(**CAT).status_code for _ in range(3)] == [429, 429, 200]


def test_the_next_submission_is_one_without_marker_that_makes_sense(running):
    with running() as api:
        choose(api, fault="start-accepted-500")
        assert api.post(**CAT | {"duration": 99}).status_code == 400
        assert api.post(**faulty("start-429")).status_code == 429
        assert [api.post(**CAT).status_code for _ in range(2)] == [500, 200]
        assert [row["faults"] for row in api.ledger()["requests"]] == [["start-accepted-500"], []]


def test_a_fault_of_polls_can_be_chosen_for_a_video_without_prompt(running, red_url):
    with running() as api:
        choose(api, fault="poll-503*2", submissions=1)
        image = {"duration": 1, "image": {"url": red_url}}
        chosen, other = api.submit(**image), api.submit(**image)
        assert [api.poll(chosen).status_code for _ in range(3)][:2] == [503, 503]
        assert api.poll(other).status_code != 503


def test_faults_that_are_chosen_one_after_the_other_wait_for_their_turn(running):
    with running() as api:
        choose(api, fault="start-429")
        choose(api, fault="start-503")
        assert [api.post(**CAT).status_code for _ in range(3)] == [429, 503, 200]


def test_an_unknown_fault_can_not_be_chosen(running):
    with running() as api:
        response = choose(api, fault="strat-429")
        assert response.status_code == 400
        assert '"strat-429"' in response.json()["error"]
        assert choose(api, fault="start-429", submission=2).status_code == 422
        assert choose(api, fault="start-429", submissions=0).status_code == 422
        assert choose(api, submissions=1).status_code == 422
        assert api.post(**CAT).status_code == 200


BILLED = "0.05"
NOT_BILLED = {
    "failed-invalid-argument",
    "failed-permission-denied",
    "failed-failed-precondition",
    "failed-service-unavailable",
    "failed-internal-error",
    "failed-string-error",
    "failed-key",
    "failed-signed-url",
    "upload-failed",
}


def test_what_has_a_video_is_billed_whatever_becomes_of_its_answers(running):
    faults = [fault.value for fault in Fault if fault.stage not in ("start", "batch")]
    with running() as api:
        upload = {"output": {"upload_url": "http://127.0.0.1:1/cat.mp4"}}
        ids = {name: api.submit(**faulty(name), **(upload if name.startswith("upload") else {})) for name in faults}
        settle(api, [request_id for name, request_id in ids.items() if name != "never-done"])
        rows = {row["faults"][0]: row for row in api.ledger()["requests"]}
    costs = {name: row["cost_usd"] for name, row in rows.items()}
    assert costs == {name: "0.00" if name in NOT_BILLED else BILLED for name in faults}
    outcomes = {outcome: [name for name in faults if rows[name]["outcome"] == outcome] for outcome in OUTCOMES}
    assert outcomes["failed"] == sorted(NOT_BILLED, key=faults.index)
    assert outcomes["moderated"] == ["moderated", "moderated-old-code", "moderated-done", "moderated-failed"]
    assert (outcomes["expired"], outcomes["pending"]) == (["expired"], ["never-done"])


OUTCOMES = ("done", "failed", "moderated", "expired", "pending")


def settle(api, ids):
    """Wait, without polling, until videos are what they will be."""
    deadline = time.monotonic() + 120
    while any(row["outcome"] == "pending" and row["request_id"] in ids for row in api.ledger()["requests"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_wall_clock_can_run_ahead(running):
    with running(clock_ahead_seconds=3600, log=None) as api:
        hour = datetime.now(UTC) + timedelta(hours=1)
        options = {"filename": "cat.mp4", "public_url": True, "expires_after": 3600}
        request_id = api.submit(**CAT, storage_options=options)
        response = api.wait(request_id)
        times = [
            parsedate_to_datetime(response.headers["Date"]),
            datetime.fromisoformat(api.row(request_id)["time"]),
            datetime.fromisoformat(api.emulator.requests()[0]["time"]),
            datetime.fromtimestamp(response.json()["video"]["file_output"]["expires_at"] - 3600, UTC),
        ]
        assert all(timedelta(seconds=-1) <= time - hour < timedelta(seconds=120) for time in times)
        assert response.headers.get_list("Date") == [response.headers["Date"]]
        for url in (response.json()["video"]["url"], response.json()["video"]["file_output"]["public_url"]):
            assert api.anonymous.get(url).status_code == 200


def test_without_further_ado_the_clock_is_that_of_this_machine(api):
    date = parsedate_to_datetime(api.http.get("/api-key").headers["Date"])
    assert abs(datetime.now(UTC) - date) < timedelta(seconds=60)


def test_a_public_url_lives_by_the_wall_clock(running, monkeypatch):
    with running() as api:
        options = {"filename": "cat.mp4", "public_url": {"expires_after": 3600}}
        file = api.make(**CAT, storage_options=options).json()["video"]["file_output"]
        assert api.anonymous.get(file["public_url"]).status_code == 200
        late = type(api.emulator._service.clock)(ahead_seconds=3601)
        monkeypatch.setattr(api.emulator._service, "clock", late)
        assert api.anonymous.get(file["public_url"]).status_code == 404
