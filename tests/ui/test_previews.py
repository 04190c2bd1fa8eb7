"""Previews are made of any file, or not at all; they cost little, and raise nothing."""

import os
import subprocess
import sys

import av
import pytest
from av.video.frame import VideoFrame

from prefect_xai_video.ui import previews
from prefect_xai_video.ui.previews import MAX_BYTES, preview

RATE = 24


@pytest.fixture
def clip(tmp_path):
    """Makes an MP4 of the content that is given for each of its planes."""

    def make(width, height, seconds=1.0, content=lambda number, size: bytes([number * 9 % 256]) * size, streams=1):
        path = tmp_path / "clip.mp4"
        with av.open(str(path), "w", format="mp4") as container:
            tracks = [container.add_stream("libx264", rate=RATE) for _ in range(streams)]
            for track in tracks:
                track.width, track.height, track.pix_fmt = width, height, "yuv420p"
                track.options = {"preset": "ultrafast", "crf": "18", "threads": "1"}
            for track in tracks:
                for number in range(max(round(seconds * RATE), 1)):
                    frame = VideoFrame(width, height, "yuv420p")
                    for plane in frame.planes:
                        plane.update(content(number, plane.buffer_size))
                    frame.pts = number
                    container.mux(track.encode(frame))
                container.mux(track.encode())
        return path

    return make


def chunks(picture):
    """The name and content of each part of a WebP."""
    assert (picture[:4], picture[8:12]) == (b"RIFF", b"WEBP")
    place = 12
    while place < len(picture):
        size = int.from_bytes(picture[place + 4 : place + 8], "little")
        yield picture[place : place + 4], picture[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def milliseconds(picture):
    return [int.from_bytes(content[12:15], "little") for name, content in chunks(picture) if name == b"ANMF"]


def size_of(picture):
    canvas = dict(chunks(picture))[b"VP8X"]
    return tuple(int.from_bytes(canvas[place : place + 3], "little") + 1 for place in (4, 7))


def test_the_first_three_seconds_are_shown_small_and_for_ever(clip):
    picture = preview(clip(640, 360, seconds=4))
    assert size_of(picture) == (320, 180)
    assert sum(milliseconds(picture)) == pytest.approx(3000, abs=130)
    assert dict(chunks(picture))[b"ANIM"][4:] == b"\0\0"


def test_a_tall_video_stays_tall(clip):
    assert size_of(preview(clip(360, 640))) == (180, 320)


def test_a_small_video_is_not_blown_up(clip):
    assert size_of(preview(clip(64, 64))) == (64, 64)


def test_a_single_frame_will_do(clip):
    assert preview(clip(64, 64, seconds=0)).startswith(b"RIFF")


def test_noise_fits_too(clip):
    picture = preview(clip(320, 320, seconds=1.5, content=lambda number, size: os.urandom(size)))
    assert 0 < len(picture) <= MAX_BYTES


@pytest.mark.parametrize("content", [b"", b"no video", bytes(5000), b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"])
def test_what_is_no_video_has_none(tmp_path, content):
    (tmp_path / "clip.mp4").write_bytes(content)
    assert preview(tmp_path / "clip.mp4") is None


def test_no_file_has_none(tmp_path):
    assert preview(tmp_path / "nothing.mp4") is None
    assert preview(tmp_path) is None


def test_huge_pictures_are_not_drawn(clip, monkeypatch):
    monkeypatch.setattr(previews, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(ValueError, match="too large"):
        previews.draw(clip(64, 64, seconds=0))


def test_a_crowd_of_streams_is_not_opened(clip):
    assert preview(clip(16, 16, seconds=0, streams=50)) is None


def test_a_huge_file_is_not_opened(clip, monkeypatch):
    path = clip(64, 64)
    assert preview(path) is not None
    monkeypatch.setattr(previews, "MAX_FILE_BYTES", path.stat().st_size - 1)
    assert preview(path) is None


def test_it_takes_only_so_much_memory():
    greedy = "from prefect_xai_video.ui.previews import *; bound_memory(MAX_MEMORY_BYTES); bytes(2 ** 31)"
    done = subprocess.run([sys.executable, "-c", greedy], check=False, capture_output=True)
    assert b"MemoryError" in done.stderr


def test_it_takes_only_so_much_time(clip, monkeypatch):
    path = clip(64, 64)
    monkeypatch.setattr(previews, "MAX_SECONDS", 0.01)
    assert preview(path) is None


def test_without_pyav_there_is_none(clip, monkeypatch):
    path = clip(64, 64)
    monkeypatch.setitem(sys.modules, "av", None)
    assert preview(path) is None
