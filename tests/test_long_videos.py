"""Long videos on a real Prefect server, against the emulator, in a directory and in a bucket."""

import json
import logging
import shutil
from decimal import Decimal
from pathlib import Path

import av
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_API_URL

from prefect_xai_video import LongVideo, generate_long_video, generate_video, plan_long_video
from prefect_xai_video.engine import long_videos
from prefect_xai_video.engine.clips import join
from prefect_xai_video.engine.stores import objects
from prefect_xai_video.errors import AuthenticationFailed, InvalidRequest, KeyConflict, StorageError, VideoModerated
from prefect_xai_video.orchestration.storage import open_store
from prefect_xai_video.ui.long_pages import long_video_markdown

from .support.api_key import API_KEY
from .support.forked_processes import Forking

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
STORY = ["A ship leaves", "It meets a storm", "It comes home"]


@pytest.fixture
def make(storage, xai):
    return lambda prompts=STORY, duration=6, **options: generate_long_video(
        prompts, duration, **{"key": "ship", "storage": storage, "credentials": xai} | options
    )


@pytest.fixture
def path(directory):
    return lambda name: Path(directory.basepath) / name


@pytest.fixture
def make_here(directory, xai):
    return lambda prompts=STORY[:2], duration=4, **options: generate_long_video(
        prompts, duration, **{"key": "ship", "storage": directory, "credentials": xai} | options
    )


def frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(
    ("model", "duration", "cost", "count"),
    # 2 s each at $0.05, and twice a tail of 2 s at $0.01; 1 s each at $0.08, and two images at $0.01.
    [("grok-imagine-video", 6, "0.34", 144), ("grok-imagine-video-1.5", 3, "0.26", 70)],
)
async def test_segments_that_go_on_from_each_other_are_one_file(
    make, storage, submissions, tmp_path, caplog, model, duration, cost, count
):
    caplog.set_level(logging.INFO)
    video = make(duration=duration, model=model)
    assert (video.cost_usd, video.duration, len(video.segments)) == (Decimal(cost), duration, 3)
    assert f"{duration} s in 3 segments of {model}, about ${cost}" in caplog.text
    assert "pictures copied" in caplog.text
    store = open_store(storage, tmp_path)
    assert await store.read_file("ship.mp4", tmp_path / "joined.mp4")
    # A last frame and the first frame that is made of it are shown once.
    assert frames(tmp_path / "joined.mp4") == count
    assert [key async for key in store.keys("")] == ["ship/01", "ship/02", "ship/03"]
    assert LongVideo.model_validate_json(video.model_dump_json()) == video
    assert make(duration=duration, model=model) == video
    assert submissions() == 3
    requests = [(await store.read(key)).receipt.estimated_cost_usd for key in ("ship/01", "ship/02", "ship/03")]
    assert sum(requests) == Decimal(cost)


async def test_a_dry_run_tells_segments_and_cost_and_sends_nothing(make_here, path, submissions):
    plan = make_here(STORY, 30, dry_run=True)
    assert str(plan) == str(plan_long_video(STORY, 30))
    state = make_here(STORY, 30, dry_run=True, return_state=True)
    assert state.message == "30 s in 3 segments of grok-imagine-video, about $1.58. Nothing was sent."
    async with get_client() as prefect:
        artifacts = await prefect.read_artifacts(artifact_filter=ArtifactFilter(key={"like_": "xai-video-ship-%"}))
    shown = max(artifacts, key=lambda each: each.created)
    assert shown.description == "30 s in 3 segments of grok-imagine-video, about $1.58"
    assert "<code>ship/02</code></td><td>10</td><td>with 4 s of the one before</td><td>about $0.54</td>" in shown.data
    assert submissions() == 0
    assert not [each for each in path("").rglob("*") if each.is_file()]


def test_its_artifact_lists_the_segments(make_here):
    video = make_here(["A ship", "A <b>storm</b>"])
    markdown = long_video_markdown(video, plan_long_video(["A ship", "A <b>storm</b>"], 4))
    assert "<code>ship/02</code></td><td>2</td><td>with 2 s of the one before</td><td>$0.12</td>" in markdown
    assert "&lt;b&gt;storm" in markdown
    assert "848x480, 24 fps, with sound" in markdown


def test_a_file_that_is_gone_or_changed_is_joined_again_without_paying(make_here, path, submissions, caplog):
    caplog.set_level(logging.INFO)
    video = make_here()
    for change in (path("ship.mp4").unlink, lambda: path("ship.mp4").write_bytes(b"other")):
        change()
        assert make_here() == video
        assert "joined again from its segments" in caplog.text
        caplog.clear()
    assert len(list(path("").glob("ship.replaced-*.mp4"))) == 1
    path("ship.long.json").unlink()
    assert make_here() == video
    assert submissions() == 2


def test_a_key_belongs_to_one_video(make_here, directory, xai, path, submissions):
    make_here()
    for other in ({"prompts": ["A ship leaves", "It sinks"]}, {"duration": 5}, {"resolution": "720p"}):
        with pytest.raises(KeyConflict, match="another long video"):
            make_here(**other)
    with pytest.raises(StorageError, match="already exists without a receipt"):
        generate_video("A cat", key="ship", storage=directory, credentials=xai)
    generate_video("A cat", key="cat", duration=1, storage=directory, credentials=xai)
    with pytest.raises(KeyConflict, match="a video of one request"):
        make_here(key="cat")
    path("mine.mp4").write_bytes(b"mine")
    with pytest.raises(StorageError, match="already exists without a receipt"):
        make_here(key="mine")
    path("ship.long.json").write_text(json.dumps({"version": 2}))
    with pytest.raises(StorageError, match=r"The record .*ship\.long\.json can't be read"):
        make_here()
    assert submissions() == 3


@pytest.mark.parametrize(
    ("model", "name"), [("grok-imagine-video", "tail.mp4"), ("grok-imagine-video-1.5", "last.png")]
)
def test_no_segment_is_sent_that_would_go_on_from_something_else(make_here, path, submissions, model, name):
    options = {"prompts": ["A ship leaves", "A storm [fault:start-400-key]"], "model": model}
    with pytest.raises(AuthenticationFailed):
        make_here(**options)
    source, sent = path(f"ship/01.{name}"), submissions()
    for other in (source.read_bytes()[:-100], b""):
        source.write_bytes(other)
        with pytest.raises(StorageError, match=r"was changed.* Move it away and run again") as raised:
            make_here(**options)
        assert (raised.value.key, submissions()) == ("ship/02", sent)
    source.unlink()
    assert make_here(**options).duration == 4
    assert submissions() == sent + 1


def test_a_finished_video_pays_for_no_segment_again(make_here, path, submissions):
    video = make_here()
    # A finished video is joined from its segments, whatever has become of what they went on from.
    path("ship/01.tail.mp4").write_bytes(b"other")
    path("ship.mp4").unlink()
    assert make_here() == video
    shutil.rmtree(path("ship"))
    assert make_here() == video
    path("ship.mp4").unlink()
    with pytest.raises(StorageError, match=r"The receipt .*ship/01\.json is gone.* Nothing was sent"):
        make_here()
    assert submissions() == 2


def test_a_video_that_took_the_key_meanwhile_stays_in_its_place(make_here, path, tmp_path, xai, monkeypatch):
    elsewhere = LocalFileSystem(basepath=str(tmp_path / "elsewhere"))
    generate_video("A cat", key="ship", duration=1, storage=elsewhere, credentials=xai)

    def meanwhile(pieces, target):
        if len(pieces) > 1:
            shutil.copytree(tmp_path / "elsewhere", path(""), dirs_exist_ok=True)
        return join(pieces, target)

    monkeypatch.setattr(long_videos, "join", meanwhile)
    with pytest.raises(KeyConflict, match="a video of one request"):
        make_here()
    assert path("ship.mp4").read_bytes() == (tmp_path / "elsewhere" / "ship.mp4").read_bytes()


def test_a_segment_that_failed_is_paid_for_again_only_if_that_is_wanted(make_here, submissions, caplog):
    moderated = {"prompts": [*STORY[:1], "A storm [fault:moderated]"]}
    with pytest.raises(VideoModerated) as raised:
        make_here(**moderated)
    assert raised.value.key == "ship/02"
    assert "Run again with the key ship: segments that are paid for are not paid for again." in caplog.text
    with pytest.raises(VideoModerated):
        make_here(**moderated)
    assert submissions() == 2
    assert make_here(regenerate=True).duration == 4
    assert submissions() == 3


@pytest.mark.parametrize(
    ("fault", "model"),
    [("start-accepted-cut", "grok-imagine-video"), ("start-accepted-unreadable", "grok-imagine-video-1.5")],
)
def test_a_segment_whose_reply_was_lost_is_found_without_a_person(make_here, submissions, fault, model):
    video = make_here(
        ["A ship leaves", f"A storm [fault:{fault}]", "It comes home"], 6, recovery="files", model=model
    )
    assert [segment.request_id is None for segment in video.segments] == [False, True, False]
    assert (video.cost_usd, video.duration) == (None, 6)
    assert None not in {segment.duration for segment in video.segments}
    assert video.estimated_cost_usd == sum(segment.estimated_cost_usd for segment in video.segments)
    assert submissions() == 3


async def test_stills_are_those_of_the_whole_video(make, storage, submissions, tmp_path):
    store = open_store(storage, tmp_path)

    async def pixels(name):
        assert await store.read_file(name, tmp_path / "file")
        with av.open(str(tmp_path / "file")) as container:
            *_, last = container.decode(video=0)
        plane = last.reformat(format="rgb24").planes[0]
        # Without what fills each line up.
        return [bytes(plane)[begin:][: last.width * 3] for begin in range(0, plane.buffer_size, plane.line_size)]

    plain = make(STORY[:2], 4)
    assert (plain.poster, plain.last_frame) == (None, None)
    video = make(STORY[:2], 4, stills=True)
    assert (video.poster, video.last_frame) == (f"{video.uri[:-4]}.poster.jpg", f"{video.uri[:-4]}.last.png")
    assert make(STORY[:2], 4) == make(STORY[:2], 4, stills=True) == video
    assert [key async for key in store.keys("")] == ["ship/01", "ship/02"]
    assert all(segment.last_frame is None for segment in video.segments)
    assert await pixels("ship.last.png") == await pixels("ship.mp4")
    assert len(await pixels("ship.poster.jpg")) == 480
    assert submissions() == 2


def test_stills_need_no_copy_of_a_large_video(bucket, xai, monkeypatch):
    options = {"storage": bucket, "credentials": xai}
    plain = generate_long_video(STORY, 6, key="plain", **options)
    limit = max(segment.size for segment in plain.segments)
    assert plain.size > limit
    monkeypatch.setattr(objects, "MAX_COPY_BYTES", limit)
    assert generate_long_video(STORY, 6, key="ship", stills=True, **options).last_frame.endswith("/ship.last.png")


def test_a_video_that_is_joined_again_keeps_its_stills(make_here, path):
    video = make_here(stills=True)
    path("ship.mp4").unlink()
    assert make_here() == video
    path("ship.last.png").unlink()
    assert make_here(stills=True) == video
    assert path("ship.last.png").exists()


def test_segments_are_kept_at_xai_and_the_whole_video_is_not(make_here, emulator):
    video = make_here(keep_at_xai=7200, public_url=True)
    assert (video.file_id, video.public_url) == (None, None)
    kept = {segment.file_id: segment.public_url for segment in video.segments}
    assert len(kept) == 2
    assert None not in kept
    assert all(url.startswith("http") for url in kept.values())
    sent = [request["body"].get("storage_options") for request in emulator.requests() if request["method"] == "POST"]
    assert [(options["expires_after"], options["public_url"]) for options in sent[-2:]] == [(7200, True)] * 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"recovery": "files", "delivery": "direct"}, "recovery: 'files' with direct delivery is not allowed"),
        ({"public_url": True}, "public_url: true without keep_at_xai is not allowed"),
        ({"keep_at_xai": 1}, "keep_at_xai: 1 is not allowed"),
        ({"stills": "yes"}, "stills: 'yes' is not allowed"),
    ],
)
def test_a_delivery_that_is_not_allowed_sends_nothing(make_here, path, submissions, options, text):
    with pytest.raises(InvalidRequest, match=text):
        make_here(**options)
    assert submissions() == 0
    assert not path("").exists()


def test_without_a_key_each_run_makes_a_new_video(make_here, submissions):
    one, other = make_here(key=None), make_here(key=None)
    assert one.key != other.key
    assert one.key.startswith("a-ship-leaves")
    assert submissions() == 4


def test_an_impossible_video_sends_nothing(make_here, submissions):
    with pytest.raises(InvalidRequest, match="4-25 s in 2 segments"):
        make_here(duration=26)
    assert submissions() == 0


def test_a_killed_process_never_pays_a_segment_twice(prefect_server, emulator, submissions, tmp_path):
    """Each process is killed one step after the one before: what is written then is the next one's beginning."""
    processes = Forking(
        tmp_path, PREFECT_API_URL=PREFECT_API_URL.value(), XAI_API_KEY=API_KEY, XAI_BASE_URL=emulator.base_url
    )
    parameters = {"prompts": STORY[:2], "duration": 4, "key": "ship", "storage": str(tmp_path / "store")}
    argv = [json.dumps(parameters), str(tmp_path / "steps"), "each"]
    codes = []
    try:
        while not codes or codes[-1] == -9:
            log = str(tmp_path / "log")
            processes.begin([{"module": "tests.faults.killed_long", "argv": argv, "env": {}, "log": log}])
            codes += processes.end()
    finally:
        processes.stop()
    assert codes == [-9] * 9 + [0], (tmp_path / "log").read_text()
    assert (tmp_path / "steps").read_text().split("\n")[:-1] == [
        *("01 submitted", "01 done", "01 stored", "01.tail.mp4"),
        *("02 submitted", "02 done", "02 stored", "ship.mp4", "ship.long.json"),
    ]
    assert submissions() == 2
