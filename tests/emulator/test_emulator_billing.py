"""What the emulator bills, and what its ledger says."""

from datetime import datetime

from .emulator_api import CAT

HTTPS = {"url": "https://example.invalid/a"}


NEWER = "grok-imagine-video-1.5"
GENERATIONS = [
    ({"prompt": "A", "duration": 3}, "text", "0.15"),
    ({"prompt": "A"}, "text", "0.40"),
    ({"prompt": "A", "duration": 2, "resolution": "720p"}, "text", "0.14"),
    ({"prompt": "A", "duration": 1, "image": HTTPS}, "image", "0.052"),
    ({"prompt": "A", "duration": 1, "reference_images": [HTTPS, HTTPS]}, "reference", "0.054"),
    ({"model": NEWER, "prompt": "A", "duration": 1, "resolution": "1080p"}, "text", "0.25"),
    ({"model": NEWER, "duration": 1, "image": HTTPS, "last_frame": HTTPS}, "reference", "0.10"),
    ({"model": "grok-imagine-video-1.5-lite", "prompt": "A", "duration": 1}, "text", "0.02"),
]


def test_generations_cost_their_seconds_and_images(running):
    with running(render_seconds=60) as api:
        for body, _, _ in GENERATIONS:
            api.submit(**body)
        rows = api.ledger()["requests"]
    assert [(row["mode"], row["cost_usd"]) for row in rows] == [(mode, cost) for _, mode, cost in GENERATIONS]


def test_an_edit_costs_output_and_input_seconds_at_the_resolution_of_its_clip(api, clip_url):
    request_id = api.submit("edits", prompt="Red", video={"url": clip_url})
    answer = api.wait(request_id).json()
    assert answer["usage"] == {"cost_in_usd_ticks": 1_200_000_000}
    assert answer["video"]["duration"] == 2
    assert api.row(request_id)["cost_usd"] == "0.12"


def test_an_extension_costs_added_and_input_seconds(api, clip_url):
    answer = api.make("extensions", prompt="And then", duration=2, video={"url": clip_url}).json()
    assert answer["usage"] == {"cost_in_usd_ticks": 1_200_000_000}
    assert answer["video"]["duration"] == 4


def test_a_clip_that_can_not_be_looked_at_is_billed_as_6_seconds_of_720p(running):
    with running(render_seconds=60) as api:
        api.submit("edits", prompt="Red", video=HTTPS)
        api.submit("extensions", prompt="And then", video=HTTPS)
        assert [row["cost_usd"] for row in api.ledger()["requests"]] == ["0.48", "0.48"]


def test_the_ledger_has_a_row_for_each_accepted_submission(running):
    with running() as api:
        assert api.ledger() == {"billed_usd": "0.00", "submissions": 0, "requests": []}
        api.post(prompt="")
        api.make(prompt="A cat", duration=2)
        api.make(prompt="[fault:moderated]", duration=1)
        api.make(prompt="A dog", duration=1, image={"url": "data:nothing"})
        pending = api.submit(prompt="A frog", duration=15, resolution="720p", model="grok-imagine-video-1.5-preview")
        ledger = api.ledger()
        assert (ledger["billed_usd"], ledger["submissions"]) == ("2.25", 4)
        outcomes = [(row["outcome"], row["cost_usd"]) for row in ledger["requests"]]
        assert outcomes == [("done", "0.10"), ("moderated", "0.05"), ("failed", "0.00"), ("pending", "2.10")]
        last = ledger["requests"][-1]
        assert (last["request_id"], last["model"], last["mode"]) == (pending, "grok-imagine-video-1.5", "text")
        assert datetime.fromisoformat(last["time"]).utcoffset().total_seconds() == 0
        assert api.emulator.ledger().keys() == ledger.keys()


def test_when_the_credits_are_used_up_the_answer_is_403_and_nothing_is_billed(running):
    with running(credits_usd="0.15", render_seconds=60) as api:
        api.submit(prompt="A cat", duration=2)
        response = api.post(prompt="A cat", duration=2)
        assert response.status_code == 403
        assert response.json()["code"] == "permission-denied"
        assert response.json()["error"].startswith("Your team ")
        assert response.json()["error"].endswith(
            " has either used all available credits or reached its monthly spending limit."
        )
        api.submit(**CAT)
        assert api.ledger()["billed_usd"] == "0.15"
        assert api.post(**CAT).status_code == 403


def test_what_failed_gives_its_credits_back(running):
    with running(credits_usd=0.06) as api:
        api.make(**CAT, image={"url": "data:nothing"})
        assert api.make(**CAT).json()["status"] == "done"
