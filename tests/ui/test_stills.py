"""Stills: small, several in one process, and none where a video can't be decoded or read."""

import os
import sys
from pathlib import Path

import av
import pytest
from av.video.frame import VideoFrame

from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.ui import previews
from prefect_xai_video.ui.previews import MAX_STILL_BYTES, stills
from prefect_xai_video.ui.stills import IN_PROCESS, make_stills

PATIENCE = 300


def make_clip(path, content=lambda size: bytes([99]) * size, side=320):
    with av.open(str(path), "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=24)
        track.width, track.height, track.pix_fmt = side, side, "yuv420p"
        track.options = {"preset": "ultrafast", "crf": "18", "threads": "1"}
        frame = VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(content(plane.buffer_size))
        container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4")


@pytest.fixture
def processes(monkeypatch):
    """Records the processes that are started."""
    started, output = [], previews.output_of
    monkeypatch.setattr(previews, "output_of", lambda *arguments: started.append(1) or output(*arguments))
    return started


def test_one_process_makes_the_stills_of_all_videos_that_can_be_decoded(clip, tmp_path, processes):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    noise = make_clip(tmp_path / "noise.mp4", os.urandom)
    made = stills([clip, tmp_path / "broken.mp4", tmp_path / "absent.mp4", noise, clip], PATIENCE)
    assert [picture is not None for picture in made] == [True, False, False, True, True]
    assert all(picture[8:12] == b"WEBP" and len(picture) <= MAX_STILL_BYTES for picture in made if picture)
    assert len(processes) == 1


def test_a_process_that_dies_costs_only_the_still_of_its_video(clip, tmp_path, monkeypatch):
    # Stands in for a video that crashes the decoder.
    script = tmp_path / "child.py"
    script.write_text(
        "import os, runpy, sys\n"
        f"own = runpy.run_path({previews.__file__!r})\n"
        "for path in sys.argv[2:]:\n"
        "    os.abort() if path.endswith('crash.mp4') else own['_write_stills']([path])\n"
    )
    monkeypatch.setattr(previews, "__file__", str(script))
    made = stills([clip, tmp_path / "crash.mp4", clip], PATIENCE)
    assert [picture is not None for picture in made] == [True, False, True]


def test_no_time_and_no_pyav_make_no_stills(clip, monkeypatch, processes):
    assert stills([clip], 0) == [None]
    monkeypatch.setitem(sys.modules, "av", None)
    assert stills([clip, clip], PATIENCE) == [None, None]
    assert not processes


def outcomes(*keys, state="stored"):
    return [RowOutcome(number=number, place="row", key=key, state=state) for number, key in enumerate(keys, 1)]


async def test_the_stored_videos_of_a_batch_get_stills_in_few_processes(tmp_path, processes):
    store, keys = LocalStore(tmp_path), [f"cat-{number}" for number in range(IN_PROCESS + 2)]
    for key in keys:
        make_clip(tmp_path / f"{key}.mp4", side=64)
    made = await make_stills([*outcomes(*keys, "absent"), *outcomes("cat-0b", state="open")], store, seconds=PATIENCE)
    assert list(made) == keys
    assert len(processes) == 2


async def test_what_goes_wrong_makes_no_stills_and_raises_nothing(tmp_path, monkeypatch):
    class Broken(LocalStore):
        def local_copy(self, key):
            raise OSError("gone")

    assert await make_stills(outcomes("cat"), Broken(Path(tmp_path)), seconds=PATIENCE) == {}
    assert await make_stills(outcomes("cat"), LocalStore(tmp_path), seconds=0) == {}
