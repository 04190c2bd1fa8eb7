"""The plan of a long video: how seconds are divided, what they cost, and what is refused."""

from decimal import Decimal

import pytest

from prefect_xai_video import build_request, plan_long_video
from prefect_xai_video.errors import InvalidRequest

LITTLE, NEW = "grok-imagine-video", "grok-imagine-video-1.5"


def seconds(*arguments, **options):
    return [segment.seconds for segment in plan_long_video(*arguments, **options).segments]


@pytest.mark.parametrize(
    ("prompts", "duration", "model", "divided"),
    [
        ("A ship", 15, LITTLE, [15]),
        ("A ship", 16, LITTLE, [8, 8]),
        ("A ship", 60, LITTLE, [10] * 6),
        ("A ship", 65, LITTLE, [15, 10, 10, 10, 10, 10]),
        (["A", "B", "C"], 30, LITTLE, [10, 10, 10]),
        (["A", "B", "C"], 6, LITTLE, [2, 2, 2]),
        (["A", "B"], 24, LITTLE, [14, 10]),
        ("A ship", 60, NEW, [15] * 4),
        (["A", "B", "C"], 5, NEW, [2, 2, 1]),
    ],
)
def test_seconds_are_divided_evenly_within_the_limits_of_the_model(prompts, duration, model, divided):
    assert seconds(prompts, duration, model=model) == divided


def test_an_extension_is_billed_its_tail_and_a_last_frame_as_an_image():
    plan = plan_long_video(["A", "B"], 20, resolution="720p")
    assert [segment.tail for segment in plan.segments] == [0, 4]
    # 10 s at $0.07 each, and 4 s of input at $0.01.
    assert plan.estimated_cost_usd == Decimal("1.44")
    framed = plan_long_video(["A", "B"], 20, resolution="720p", model=NEW)
    assert (framed.continuation, framed.estimated_cost_usd) == ("last frame", Decimal("2.81"))
    assert "02: 10 s, extends the last 4 s of 01, about $0.44" not in str(plan)
    assert "02: 10 s, extends the last 4 s of 01, about $0.74" in str(plan)


def test_references_make_the_first_segment_shorter():
    options = {"reference_image_urls": ["https://example.com/cat.png"]}
    assert seconds("<IMAGE_0> walks", 30, **options) == [10, 10, 10]
    with pytest.raises(InvalidRequest, match=r"4-20 s in 2 segments.*the first of 2-10 s"):
        plan_long_video(["<IMAGE_0> walks", "It runs"], 25, **options)


def test_each_request_has_its_own_prompt_and_what_it_inherits():
    extended = plan_long_video(["A", "B"], 20, aspect_ratio="9:16", resolution="720p", generate_audio=False)
    assert extended.request(extended.segments[0], None) == build_request(
        "A", duration=10, aspect_ratio="9:16", resolution="720p", generate_audio=False
    )
    assert extended.request(extended.segments[1], "01.tail.mp4") == build_request(
        "B", duration=10, extend_video_url="01.tail.mp4"
    )
    framed = plan_long_video("A", 20, aspect_ratio="9:16", resolution="720p", model=NEW, user="me")
    assert framed.request(framed.segments[1], "01.last.png") == build_request(
        "A", duration=10, image_url="01.last.png", resolution="720p", model=NEW, user="me"
    )


@pytest.mark.parametrize(
    ("prompts", "duration", "options", "error"),
    [
        ("A", 406, {}, r"^duration: 406 s is not allowed; allowed: 1-405 s in at most 40 segments of grok-imagine-"),
        ("A", 601, {"model": NEW}, r"1-600 s in at most 40 segments"),
        (
            ["A", "B"],
            26,
            {},
            r"4-25 s in 2 segments of grok-imagine-video: the first of 2-15 s, each other of 2-10 s\. "
            r"Give at least 3 prompts, or one for all segments\.$",
        ),
        (["A", "B"], 406, {}, r"each other of 2-10 s\.$"),
        (["A", "B", "C"], 5, {}, r"6-35 s in 3 segments .* each other of 2-10 s\.$"),
        ("A", True, {}, r"^duration: True"),
        ("A", 2.5, {}, r"^duration: 2\.5"),
        ([], 30, {}, r"^prompts: \[\]"),
        (["A", " "], 30, {}, r"^prompts\[1\]: ' ' is not allowed; allowed: non-empty text"),
        (["A"] * 41, 60, {}, r"^prompts: a list of 41 .* at most 40"),
        ({"A": 1}, 60, {}, r"^prompts: "),
        ("A", 30, {"model": "grok-9"}, r"^model: 'grok-9' .* one that is known: grok-imagine-video, "),
        ("A", 30, {"resolution": "1080p"}, r"^resolution: "),
        ("A", 30, {"video_url": "cat.mp4"}, r"^video_url: there is no such option"),
        (["A", "B" * 5000], 20, {}, r"^prompts\[1\]: 5000 characters"),
    ],
)
def test_what_no_model_can_make_is_one_sentence(prompts, duration, options, error):
    with pytest.raises(InvalidRequest, match=error):
        plan_long_video(prompts, duration, **options)
