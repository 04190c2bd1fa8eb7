"""Real processes that want the same key at the same moment."""

import json
from decimal import Decimal

import pytest

from prefect_xai_video.orchestration.storage import open_store

pytestmark = pytest.mark.slow
MARKER = "slow.pid"


@pytest.fixture
def race(forking, storage, emulator, s3_url, tmp_path):
    """Has racers make a video of the same key, each in a process of its own."""
    folder = getattr(storage, "bucket_folder", "")
    root = None if folder else str(storage.basepath)
    store = {"root": root, "s3_url": s3_url, "bucket": "videos", "folder": folder}

    def run(racers):
        jobs = []
        for number, racer in enumerate(racers):
            env = racer.pop("env", {})
            result = str(tmp_path / f"{number}.json")
            facts = {"prompt": "A cat", "key": "cat", "store": store, "base_url": emulator.base_url, "result": result}
            argv = [json.dumps(facts | racer)]
            jobs.append(
                {"module": "tests.faults.racing", "argv": argv, "env": env, "log": str(tmp_path / f"{number}.log")}
            )
        forking.begin(jobs)
        assert forking.end() == [0] * len(jobs), [path.read_text() for path in tmp_path.glob("*.log")]
        return [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(len(jobs))]

    return run


@pytest.fixture
def together(race, tmp_path):
    """Has racers begin at the same moment."""

    def run(racers):
        gate = tmp_path / "gate"
        gate.mkdir()
        return race([racer | {"gate": str(gate), "racers": len(racers)} for racer in racers])

    return run


@pytest.fixture
def taken_over(race, tmp_path):
    """Has a claimant stop at a point, another one come after it, and then the first one go on."""

    def run(point, **other):
        marker = str(tmp_path / MARKER)
        return race([{"env": {"PAUSE_AT": point, "PAUSE_MARKER": marker}}, {"after": marker} | other])

    return run


@pytest.fixture
def accepted(emulator):
    """The request ids that xAI has given since the test began."""
    before = len(emulator.requests())

    def ids() -> list[str]:
        return [request["request_id"] for request in emulator.requests()[before:] if request["method"] == "POST"]

    return ids


@pytest.fixture
async def receipt(storage):
    async def read():
        return (await open_store(storage, None).read("cat")).receipt

    return read


async def test_twenty_processes_with_one_key_send_one_post_and_return_the_same_video(together, accepted, receipt):
    videos = together([{}] * 20)
    assert all(video == videos[0] for video in videos)
    assert [videos[0]["request_id"]] == accepted()
    assert (await receipt()).state == "stored"
    assert Decimal(videos[0]["cost_usd"]) == Decimal("0.05")


async def test_two_requests_for_one_key_are_one_video_and_one_conflict(together, accepted, receipt):
    ends = together([{"prompt": "A cat"}, {"prompt": "A dog"}])
    assert ends.count("KeyConflict") == 1
    (video,) = (end for end in ends if end != "KeyConflict")
    assert [video["request_id"]] == accepted()
    assert (await receipt()).request["prompt"] == ["A cat", "A dog"][ends.index(video)]


@pytest.mark.parametrize("steps", ["start", "all"])
async def test_a_slow_claimant_whose_claim_was_replaced_returns_the_video_of_the_other(
    taken_over, accepted, receipt, steps
):
    video, other = taken_over("answered", on_unknown="resubmit", steps=steps)
    found = await receipt()
    assert found.state == "stored"
    assert [attempt.reason for attempt in found.attempts] == ["first", "resubmit"]
    ids = [attempt.request_id for attempt in found.attempts]
    assert ids == accepted()
    assert video["request_id"] == ids[1]
    assert other in (None, video)


@pytest.mark.parametrize("steps", ["start", "all"])
async def test_a_suspended_claimant_does_not_send_a_request_that_was_resubmitted(
    taken_over, accepted, receipt, steps
):
    video, other = taken_over("claimed", on_unknown="resubmit", steps=steps)
    found = await receipt()
    assert [(attempt.reason, attempt.outcome) for attempt in found.attempts] == [
        ("first", "refused"),
        ("resubmit", "stored"),
    ]
    assert [video["request_id"]] == accepted()
    assert other in (None, video)


@pytest.mark.parametrize("point", ["claimed", "answered"])
async def test_a_slow_claimant_whose_claim_was_given_up_still_makes_the_video(taken_over, accepted, receipt, point):
    video, other = taken_over(point)
    assert other == "SubmissionUnknown"
    assert [video["request_id"]] == accepted()
    assert (await receipt()).state == "stored"
