"""What is in the MP4s: decoded, they are what was asked for."""

import io

import av
import pytest

from .emulator_api import bar_of, colours_of, distance, frames_of, grey_clip

RED = [0xE0, 0x10, 0x10] * 40
"""The colours of the red picture."""

SIZES = {
    ("480p", "16:9"): (848, 480),
    ("480p", "9:16"): (480, 848),
    ("480p", "21:9"): (1120, 480),
    ("480p", "5:2"): (1200, 480),
    ("480p", "1:1"): (480, 480),
    ("480p", "4:3"): (640, 480),
    ("480p", "3:4"): (480, 640),
    ("480p", "3:2"): (720, 480),
    ("480p", "2:3"): (480, 720),
    ("720p", "16:9"): (1280, 720),
    ("720p", "9:16"): (720, 1280),
    ("720p", "1:1"): (720, 720),
    ("1080p", "16:9"): (1920, 1080),
}


@pytest.fixture(scope="module")
def shapes(api):
    """The request ids of clips in all sizes, which are drawn side by side."""
    body = {"model": "grok-imagine-video-1.5", "prompt": "A cat", "duration": 1, "generate_audio": False}
    return {
        (resolution, ratio): api.submit(**body, resolution=resolution, aspect_ratio=ratio)
        for resolution, ratio in SIZES
    }


@pytest.mark.parametrize("shape", SIZES, ids=" ".join)
def test_the_picture_has_the_size_that_was_asked_for(api, shapes, shape):
    url = api.wait(shapes[shape]).json()["video"]["url"]
    frames = frames_of(api.anonymous.get(url).content)
    assert (frames[0].width, frames[0].height) == SIZES[shape]
    assert len(frames) == 24


def test_a_clip_is_h264_with_aac_at_24_frames_a_second_and_exactly_as_long_as_asked(api):
    clip = api.clip(prompt="A cat", duration=2)
    assert clip[4:8] == b"ftyp"
    with av.open(io.BytesIO(clip)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert video.average_rate == 24
        assert (audio.codec_context.name, audio.rate) == ("aac", 48000)
        assert container.duration == 2_000_000
        assert sum(frame.samples for frame in container.decode(audio=0)) == pytest.approx(2 * 48000, abs=2048)
    assert len(frames_of(clip)) == 2 * 24


def test_without_audio_there_is_none(api):
    with av.open(io.BytesIO(api.clip(prompt="A cat", duration=1, generate_audio=False))) as container:
        assert not container.streams.audio


def test_what_is_left_out_is_8_seconds_of_480p_in_16_9(api):
    frames = frames_of(api.clip(prompt="A cat", generate_audio=False))
    assert (len(frames), frames[0].width, frames[0].height) == (8 * 24, 848, 480)


def test_equal_requests_give_equal_bytes(api):
    assert api.clip(prompt="A cat", duration=1) == api.clip(prompt="A cat", duration=1)


def test_two_prompts_give_different_colours(api):
    prompts = ("A cat", "A dog", "A cat.")
    cat, dog, full_stop = (colours_of(frames_of(api.clip(prompt=prompt, duration=1))[0]) for prompt in prompts)
    assert min(distance(cat, dog), distance(cat, full_stop), distance(dog, full_stop)) > 25


def test_the_picture_moves(api):
    frames = frames_of(api.clip(prompt="A cat", duration=1))
    assert distance(colours_of(frames[0]), colours_of(frames[1])) > 0.2
    assert distance(colours_of(frames[0]), colours_of(frames[-1])) > 15


def test_an_image_is_the_first_frame_and_gives_the_clip_its_shape(api, red_url):
    body = {"prompt": "A cat", "duration": 1, "aspect_ratio": "16:9", "image": {"url": red_url}}
    clip = api.clip(**body)
    frames = frames_of(clip)
    assert (frames[0].width, frames[0].height) == (480, 848)
    assert distance(colours_of(frames[0]), RED) < 12
    assert distance(colours_of(frames[-1]), RED) > 25
    assert clip == api.clip(**body)


def test_a_last_frame_and_keyframes_are_seen_at_their_time(api, red_url):
    red = {"url": red_url}
    body = {"model": "grok-imagine-video-1.5", "prompt": "A cat", "duration": 3, "last_frame": red}
    frames = frames_of(api.clip(**body, keyframes=[{"image": red, "timestamp_s": 1.1}]))
    distances = [distance(colours_of(frame), RED) for frame in frames]
    # The time of the keyframe snaps to a third of a second.
    assert distances[24] == min(distances[:48]) < 12
    assert distances[-1] < 12
    assert min(distances[0], distances[48]) > 25


def test_an_edit_keeps_size_and_duration_of_its_clip_and_is_tinted_by_its_prompt(api, clip, clip_url):
    before = frames_of(clip)
    red, blue = (frames_of(api.clip("edits", prompt=prompt, video={"url": clip_url})) for prompt in ("Red", "Blue"))
    assert [(len(frames), frames[0].width, frames[0].height) for frames in (red, blue)] == [(48, 640, 480)] * 2
    for place in (0, 47):
        old, one, other = (colours_of(frames[place]) for frames in (before, red, blue))
        assert min(distance(old, one), distance(old, other), distance(one, other)) > 8
        # Most of what is seen is the clip: another place of it is further away than its tinted self.
        elsewhere = colours_of(before[47 - place])
        assert distance(old, one) < distance(elsewhere, one)


def test_an_extension_begins_with_its_clip_and_goes_on_from_its_last_frame(api, clip, clip_url):
    before = frames_of(clip)
    response = api.make("extensions", prompt="And then", duration=2, video={"url": clip_url})
    assert response.json()["video"]["duration"] == 4
    frames = frames_of(api.anonymous.get(response.json()["video"]["url"]).content)
    assert (len(frames), frames[0].width, frames[0].height) == (4 * 24, 640, 480)
    for place in (0, 24, 47):
        assert distance(colours_of(frames[place]), colours_of(before[place])) < 4
    assert distance(colours_of(frames[48]), colours_of(before[47])) < 4
    assert distance(colours_of(frames[-1]), colours_of(before[47])) > 20


def test_an_extension_is_capped_at_720p_and_has_24_frames_a_second(api):
    clip = api.clip("extensions", prompt="And then", duration=2, video={"url": grey_clip(2, (1920, 1080))})
    frames = frames_of(clip)
    assert (len(frames), frames[0].width, frames[0].height) == (4 * 24, 1280, 720)


def test_a_clip_that_can_not_be_looked_at_counts_as_6_seconds_of_720p(api):
    frames = frames_of(api.clip("edits", prompt="Red", video={"url": "https://example.invalid/a.mp4"}))
    assert (len(frames), frames[0].width, frames[0].height) == (6 * 24, 1280, 720)


def test_an_image_that_can_not_be_looked_at_leaves_the_shape_to_the_aspect_ratio(api):
    clip = api.clip(prompt="A", duration=1, aspect_ratio="9:16", image={"url": "https://example.invalid/a.png"})
    assert (frames_of(clip)[0].width, frames_of(clip)[0].height) == (480, 848)


def is_text(area):
    """Whether there are dark and bright pixels, and more of the dark ones."""
    return min(area) < 40 and max(area) > 150 and sum(area) / len(area) < 80


@pytest.mark.parametrize(
    ("ratio", "resolution"), [("16:9", "480p"), ("9:16", "480p"), ("1:1", "720p"), ("5:2", "480p")]
)
def test_a_bar_shows_the_word_emulator_the_second_and_the_prompt(api, ratio, resolution):
    body = {"duration": 2, "aspect_ratio": ratio, "resolution": resolution, "generate_audio": False}
    cat, dog = (frames_of(api.clip(prompt=f"A {animal} in a garden", **body)) for animal in ("cat", "dog"))
    start, end, next_second, other = (bar_of(frame) for frame in (cat[0], cat[23], cat[24], dog[0]))
    assert all(map(is_text, start))
    assert distance(start.word, other.word) < 2
    assert distance(start.seconds, other.seconds) < 2
    assert distance(start.prompt, other.prompt) > 3
    assert distance(start.seconds, end.seconds) < 2
    assert distance(start.seconds, next_second.seconds) > 3
    assert distance(start.prompt, next_second.prompt) < 2


def test_an_image_or_a_reference_has_the_bar_of_a_text(api, red_url):
    body = {"prompt": "A cat", "duration": 1, "aspect_ratio": "9:16", "generate_audio": False}
    red = {"url": red_url}
    of_text, *of_images = (
        bar_of(frames_of(api.clip(**body, **more))[0]) for more in ({}, {"image": red}, {"reference_images": [red]})
    )
    assert max(distance(part, same) for bar in of_images for part, same in zip(bar, of_text, strict=True)) < 2


def test_an_edit_hides_the_bar_of_its_clip(api, clip_url):
    edited = bar_of(frames_of(api.clip("edits", prompt="Red", video={"url": clip_url}))[0])
    drawn = bar_of(frames_of(api.clip(prompt="Red", duration=2, aspect_ratio="4:3"))[0])
    assert max(distance(part, same) for part, same in zip(edited, drawn, strict=True)) < 2


def test_an_extension_counts_all_seconds_and_shows_the_prompt_of_each_part(api, clip, clip_url):
    before = bar_of(frames_of(clip)[0])
    extended = frames_of(api.clip("extensions", prompt="And then", duration=2, video={"url": clip_url}))
    drawn = frames_of(api.clip(prompt="And then", duration=4, aspect_ratio="4:3"))
    assert distance(bar_of(extended[0]).prompt, before.prompt) < 4
    assert distance(bar_of(extended[0]).seconds, before.seconds) > 3
    assert distance(bar_of(extended[48]).prompt, bar_of(drawn[48]).prompt) < 4
    for number in (0, 24, 48, 95):
        assert distance(bar_of(extended[number]).seconds, bar_of(drawn[number]).seconds) < 2


@pytest.mark.parametrize(
    "prompt", ["Кошка и 猫 \U0001f408\u200d\u2b1b \u202e\0\n", "é\u0301" * 2048, "W" * 4096, "\u0301"]
)
def test_any_prompt_can_be_drawn(api, prompt):
    frames = frames_of(api.clip(prompt=prompt, duration=1, generate_audio=False))
    assert is_text(bar_of(frames[0]).word)
    assert distance(bar_of(frames[0]).word, bar_of(frames[-1]).word) < 2
