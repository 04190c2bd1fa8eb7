"""Facts of a stored video, and its first and last frame beside it, in a directory and in a bucket."""

import sys
from pathlib import Path

import av
import pytest

from prefect_xai_video import Receipt, XaiVideoGenerator, generate_video
from prefect_xai_video.errors import InvalidRequest, StorageError
from prefect_xai_video.orchestration.storage import open_store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def make(storage, xai):
    return lambda prompt="A cat", **options: generate_video(
        prompt, **{"duration": 1, "storage": storage, "credentials": xai} | options
    )


async def copied(store, name, tmp_path):
    assert await store.read_file(name, tmp_path / "file")
    return tmp_path / "file"


async def test_the_last_frame_is_the_first_one_of_the_next_video(make, storage, submissions, tmp_path):
    video = make(stills=True, key="cats/one")
    assert (video.width, video.height, video.frame_rate, video.has_sound) == (848, 480, 24.0, True)
    assert (video.poster, video.last_frame) == (f"{video.uri[:-4]}.poster.jpg", f"{video.uri[:-4]}.last.png")
    assert make(stills=True, key="cats/one") == make(key="cats/one") == video
    assert submissions() == 1
    store = open_store(storage, tmp_path)
    for name, codec in {"cats/one.poster.jpg": "mjpeg", "cats/one.last.png": "png"}.items():
        with av.open(str(await copied(store, name, tmp_path))) as picture:
            stream = picture.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == (codec, 848, 480)
    following = make("It runs away", image_url=video.last_frame, key="cats/two")
    assert (following.width, following.poster, submissions()) == (848, None, 2)
    assert [key async for key in store.keys("")] == ["cats/one", "cats/two"]


def test_stills_may_come_later_and_never_replace_another_file(make, directory, xai):
    plain = generate_video("A cat", duration=1, key="cat", storage=directory, credentials=xai)
    foreign = Path(directory.basepath) / "cat.last.png"
    foreign.write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"cat\.last\.png already exists with other content"):
        generate_video("A cat", duration=1, key="cat", storage=directory, credentials=xai, stills=True)
    assert foreign.read_bytes() == b"mine"
    foreign.unlink()
    later = generate_video("A cat", duration=1, key="cat", storage=directory, credentials=xai, stills=True)
    assert later.model_copy(update={"poster": None, "last_frame": None}) == plain
    foreign.unlink()
    assert generate_video("A cat", duration=1, key="cat", storage=directory, credentials=xai, stills=True) == later
    assert foreign.exists()


def test_a_job_block_stores_stills(directory, xai):
    run = XaiVideoGenerator(duration=1, stills=True, storage=directory, credentials=xai).trigger("A cat", key="cat")
    run.wait_for_completion()
    assert run.fetch_result().last_frame.endswith("/cat.last.png")


def test_without_pyav_nothing_is_sent(directory, xai, submissions, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidRequest, match=r"^stills: True is not allowed.*prefect-xai-video\[preview\]"):
        generate_video("A cat", storage=directory, credentials=xai, stills=True)
    with pytest.raises(InvalidRequest, match="PyAV is not installed"):
        XaiVideoGenerator(stills=True, storage=directory, credentials=xai).trigger("A cat")
    assert submissions() == 0


@pytest.mark.parametrize("end", [".poster.jpg", ".last.png", ".tail", ".long"])
def test_no_key_has_the_name_of_a_file_beside_a_video(directory, xai, submissions, end):
    with pytest.raises(InvalidRequest, match=r"^key: "):
        generate_video("A cat", key=f"cat{end}", storage=directory, credentials=xai)
    assert submissions() == 0


def test_a_receipt_without_the_facts_of_its_video_is_read(directory, xai):
    video = generate_video("A cat", duration=1, key="cat", storage=directory, credentials=xai)
    store = open_store(directory, None)
    receipt = Receipt.from_json(store._path("cat.json").read_bytes())
    bare = receipt.file.model_copy(update=dict.fromkeys(("width", "height", "frame_rate", "has_sound")))
    older = receipt.restored(bare).video("")
    assert (older.width, older.picture, older.sha256) == (None, None, video.sha256)
