"""The rate limit of the team: fixed windows of one second, in which everything but downloads counts."""

import pytest

from .emulator_api import CAT


def rates(response) -> str:
    """The rate and the limit that a refusal names."""
    assert (response.status_code, response.json()["code"]) == (429, "resource-exhausted")
    return response.json()["error"].partition("(actual/limit): ")[2].partition(".")[0]


def test_a_refused_request_counts_until_the_second_is_over(running, clock):
    with running(requests_per_second=2) as api:
        request_id = api.submit(**CAT)
        api.poll(request_id)
        assert [rates(api.post(**CAT)), rates(api.poll(request_id)), rates(api.post(**CAT))] == ["3/2", "4/2", "5/2"]
        clock.now += 1
        assert api.post(**CAT).status_code == 200
        assert api.poll(request_id).status_code != 429
        assert rates(api.poll(request_id)) == "3/2"
        assert api.ledger()["submissions"] == 2


def test_windows_are_fixed_so_that_twice_the_limit_fits_around_the_turn_of_a_second(running, clock):
    with running(requests_per_second=2) as api:
        clock.now += 0.9
        assert [api.post(**CAT).status_code for _ in range(3)] == [200, 200, 429]
        clock.now += 0.2
        assert [api.post(**CAT).status_code for _ in range(3)] == [200, 200, 429]
        clock.now += 0.8
        assert rates(api.post(**CAT)) == "4/2"


@pytest.mark.parametrize(("body", "status"), [({"prompt": ""}, 400), (CAT | {"model": "none"}, 404)])
def test_a_request_that_is_refused_for_another_reason_counts(running, clock, body, status):
    with running(requests_per_second=2) as api:
        assert [api.post(**body).status_code, api.poll("no id").status_code] == [status, 400]
        assert rates(api.post(**CAT)) == "3/2"


def test_downloads_and_wrong_keys_do_not_count(running, clock):
    with running(requests_per_second=1, api_key="right", render_seconds=0) as api:
        right = {"Authorization": "Bearer right"}
        request_id = api.anonymous.post("/videos/generations", json=CAT, headers=right).json()["request_id"]
        done = {}
        while done.get("status") != "done":
            clock.now += 1
            assert api.post(**CAT).status_code == 401
            done = api.anonymous.get(f"/videos/{request_id}", headers=right).json()
        for _ in range(3):
            assert api.anonymous.get(done["video"]["url"]).status_code == 200
