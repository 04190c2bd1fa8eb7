"""How long renders take: slots for which they queue, and durations that spread."""

import math
import statistics
from types import SimpleNamespace

import pytest

from .emulator_api import CAT, faulty

LONG = 1e6


def progress(api, ids) -> list[int]:
    return [api.poll(request_id).json()["progress"] for request_id in ids]


def test_a_video_that_waits_for_a_slot_is_pending_without_progress(running, clock):
    with running(render_seconds=LONG, render_slots=2) as api:
        ids = [api.submit(**CAT) for _ in range(4)]
        assert progress(api, ids) == [0, 0, 0, 0]
        clock.now += LONG / 2
        assert progress(api, ids) == [50, 50, 0, 0]
        assert [api.poll(request_id).status_code for request_id in ids] == [202] * 4


def test_videos_render_in_the_order_of_their_submission(running):
    with running(render_slots=1) as api:
        ids = [api.submit(**CAT) for _ in range(5)]
        done = []
        while not all(done):
            # Polled from the last to the first: a video that is done was preceded by those that are polled after it.
            done = [api.poll(request_id).status_code == 200 for request_id in reversed(ids)]
            assert done == sorted(done)


@pytest.mark.parametrize("fault", ["failed-internal-error", "never-done", "moderated"])
def test_a_video_that_comes_to_nothing_frees_its_slot(running, fault):
    with running(render_slots=1) as api:
        api.submit(**faulty(fault))
        api.submit(**CAT, image={"url": "data:nothing"})
        assert api.make(**CAT).json()["status"] == "done"


def test_without_slots_all_videos_render_at_once(running, clock):
    with running(render_seconds=LONG) as api:
        ids = [api.submit(**CAT) for _ in range(20)]
        clock.now += LONG / 4
        assert progress(api, ids) == [25] * 20


def test_renders_spread_around_their_median_by_the_seed(running, clock):
    shares = []
    for seed in (1, 1, 2):
        with running(render_seconds=LONG, render_sigma=0.5, seed=seed, light=True) as api:
            ids = [api.submit(**CAT) for _ in range(100)]
            clock.now += LONG / 5
            shares.append(progress(api, ids))
    first, again, other = shares
    assert first == again
    assert first != other
    logarithms = [math.log(20 / share) for share in first]
    assert abs(statistics.mean(logarithms)) < 0.15
    assert 0.4 < statistics.stdev(logarithms) < 0.6


def test_a_later_emulator_keeps_the_queue_and_the_pace_of_a_render(running, clock, tmp_path, monkeypatch):
    times = SimpleNamespace(time=clock.monotonic, monotonic=clock.monotonic)
    monkeypatch.setattr("prefect_xai_video.emulator.state.time", times)
    options = {"state": tmp_path, "render_seconds": LONG, "render_slots": 2}
    with running(**options, render_sigma=1, seed=5) as api:
        ids = [api.submit(**CAT) for _ in range(4)]
        assert progress(api, ids) == [0, 0, 0, 0]
        clock.now += LONG / 5
        before = progress(api, ids)
    assert before[0] != before[1]
    assert before[2:] == [0, 0]
    with running(**options) as later:
        assert progress(later, ids) == before


@pytest.mark.parametrize(
    ("option", "value"), [("render_slots", 0), ("render_sigma", -1), ("fault_share", -0.1), ("fault_share", 2)]
)
def test_values_that_make_no_sense_are_refused(running, option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}, "), running(**{option: value}):
        pass
