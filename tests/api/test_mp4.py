"""What the index of an MP4 file tells; of a broken one, nothing, but without an error."""

import io
import random
import threading

import pytest

from prefect_xai_video.api.mp4 import ClipFacts, clip_facts
from prefect_xai_video.emulator.render import render_plain

from ..support.scripted import mp4


@pytest.fixture(scope="module", params=[True, False], ids=["sound", "silent"])
def clip(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    render_plain((64, 48), 36, request.param, path, threading.Event())
    return path.read_bytes(), request.param


def facts_of(content):
    return clip_facts(io.BytesIO(content), len(content))


def test_the_index_tells_length_size_frame_rate_and_sound(clip):
    content, has_sound = clip
    facts = facts_of(content)
    assert facts == ClipFacts(facts.seconds, 64, 48, 24.0, has_sound)
    # A track of sound ends with a whole frame of it.
    assert facts.seconds == pytest.approx(1.5, abs=0.05)


def test_no_index_and_a_broken_one_tell_nothing_and_raise_nothing(clip):
    content, _ = clip
    assert facts_of(b"") is None
    assert facts_of(mp4()) is None
    index = content.index(b"moov")
    chance = random.Random(7)
    for _ in range(300):
        broken = bytearray(content)
        for _ in range(chance.randrange(1, 20)):
            broken[chance.randrange(index - 4, len(broken))] = chance.randrange(256)
        facts_of(bytes(broken))
        facts_of(content[: chance.randrange(len(content))])


def test_a_length_that_the_index_states_as_unknown_is_not_a_long_one(clip):
    content, _ = clip
    length = content.index(b"mvhd") + 20
    assert facts_of(content[:length] + b"\xff" * 4 + content[length + 4 :]) is None
