"""Clips that are cut and joined: every frame once, the sound as long as the picture, equal bytes from equal clips."""

import threading
from hashlib import sha256

import av
import pytest

from prefect_xai_video.emulator.render import FRAMES_PER_SECOND, render_plain
from prefect_xai_video.engine import clips
from prefect_xai_video.engine.clips import Piece, ends, join
from prefect_xai_video.errors import StorageError


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Draws a clip of so many seconds."""
    root = tmp_path_factory.mktemp("clips")

    def clip(seconds, size=(64, 48), audio=True):
        path = root / f"{seconds}-{size[0]}-{audio}.mp4"
        if not path.exists():
            render_plain(size, round(seconds * FRAMES_PER_SECOND), audio, path, threading.Event())
        return path

    return clip


def pictures(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [round(frame.time * FRAMES_PER_SECOND) for frame in frames]
    assert times == list(range(len(frames)))
    return [sha256(b"".join(bytes(plane) for plane in frame.planes)).hexdigest() for frame in frames]


def seconds_of_sound(path):
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(audio=0)) / 48000 if container.streams.audio else None


def test_a_cut_at_a_keyframe_copies_the_pictures(clip, tmp_path):
    one, two = clip(3), clip(4)
    assert join([Piece(str(one)), Piece(str(two), 2.0)], tmp_path / "joined.mp4")
    assert pictures(tmp_path / "joined.mp4") == pictures(one) + pictures(two)[48:]
    assert seconds_of_sound(tmp_path / "joined.mp4") == pytest.approx(5, abs=0.03)


def test_a_frame_that_the_next_clip_begins_with_is_left_out(clip, tmp_path):
    assert join([Piece(str(clip(3)), without_last=True), Piece(str(clip(4)))], tmp_path / "joined.mp4")
    assert pictures(tmp_path / "joined.mp4") == pictures(clip(3))[:-1] + pictures(clip(4))


def test_a_tail_is_cut_by_the_frame_and_always_the_same(clip, tmp_path):
    assert join([Piece(str(clip(4)), -2.0)], tmp_path / "tail.mp4")
    assert pictures(tmp_path / "tail.mp4") == pictures(clip(4))[48:]
    contents = set()
    for _ in range(2):
        assert not join([Piece(str(clip(4)), -1.5)], tmp_path / "other.mp4")
        contents.add((tmp_path / "other.mp4").read_bytes())
    assert len(contents) == 1
    assert len(pictures(tmp_path / "other.mp4")) == 36
    assert seconds_of_sound(tmp_path / "other.mp4") == pytest.approx(1.5, abs=0.03)


@pytest.mark.parametrize(
    "others", [{"size": (80, 60)}, {"audio": False}, {"size": (80, 60), "audio": False}], ids=str
)
def test_clips_of_other_formats_are_joined_too(clip, tmp_path, others):
    is_copied = join([Piece(str(clip(1))), Piece(str(clip(1, **others)))], tmp_path / "joined.mp4")
    assert is_copied == ("size" not in others)
    assert len(pictures(tmp_path / "joined.mp4")) == 48
    assert seconds_of_sound(tmp_path / "joined.mp4") == pytest.approx(2, abs=0.03)


def test_clips_without_sound_stay_silent(clip, tmp_path):
    assert join([Piece(str(clip(1, audio=False)))] * 2, tmp_path / "joined.mp4")
    assert seconds_of_sound(tmp_path / "joined.mp4") is None


def test_what_is_no_clip_is_one_sentence(clip, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    with pytest.raises(StorageError, match=r"^2 clips can't be read or written by PyAV: .*Invalid data"):
        join([Piece(str(clip(1))), Piece(str(tmp_path / "bad.mp4"))], tmp_path / "joined.mp4")
    with pytest.raises(StorageError, match=r"^The frames of bad\.mp4 can't be read"):
        ends(tmp_path / "bad.mp4")


def test_huge_pictures_are_not_decoded(clip, monkeypatch):
    monkeypatch.setattr(clips, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match="too large"):
        clips._opened(str(clip(1)))
