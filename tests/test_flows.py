"""The flow and its tasks on a real Prefect server, against the emulator, with a directory and an S3 server."""

import asyncio
import json
import logging
import re
from contextlib import suppress
from decimal import Decimal
from importlib.metadata import entry_points
from pathlib import Path

import av
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.exceptions import Pause
from prefect.filesystems import LocalFileSystem
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Cancelling, Completed, Failed, Running, Scheduled, Suspended

from prefect_xai_video import (
    Receipt,
    Video,
    agenerate_video,
    aget_video,
    astart_video,
    await_for_video,
    generate_video,
    get_video,
    save_video,
    start_video,
    wait_for_video,
)
from prefect_xai_video.engine.stores.bucket import S3Store
from prefect_xai_video.errors import (
    AuthenticationFailed,
    InvalidRequest,
    MissingCredentials,
    StorageError,
    VideoModerated,
)
from prefect_xai_video.orchestration.rescues import RESCUED

from .support.api_key import API_KEY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
PROMPT = "A cat that nobody may see in a log"


def make(**parameters) -> Video:
    return generate_video(parameters.pop("prompt", PROMPT), **{"duration": 1} | parameters)


@pytest.mark.smoke
def test_one_call_makes_one_stored_video(storage, xai, submissions):
    video = make(storage=storage, credentials=xai, aspect_ratio="9:16")
    assert (video.duration, video.cost_usd, video.model) == (1, Decimal("0.05"), "grok-imagine-video")
    assert video.content_type == "video/mp4"
    assert Video.model_validate_json(video.model_dump_json()) == video
    assert submissions() == 1


@pytest.mark.parametrize(("generate_audio", "streams"), [(None, 2), (True, 2), (False, 1)])
def test_a_clip_has_sound_unless_it_is_not_wanted(directory, xai, generate_audio, streams):
    video = make(storage=directory, credentials=xai, generate_audio=generate_audio)
    with av.open(str(Path(directory.basepath) / f"{video.key}.mp4")) as clip:
        assert len(clip.streams) == streams


@pytest.mark.parametrize("spelt", ["durration", "storages"])
def test_a_misspelt_option_of_a_task_is_refused_before_anything_is_sent(directory, xai, submissions, spelt):
    no_such_option = rf"^{spelt}: there is no such option \(value: 1\); allowed: .*duration.*storage"
    with pytest.raises(InvalidRequest, match=no_such_option):
        start_video(PROMPT, **{spelt: 1}, storage=directory, credentials=xai)
    assert submissions() == 0


def test_a_run_opens_its_storage_once(bucket, xai, monkeypatch):
    opened = []
    opening = S3Store.__init__
    monkeypatch.setattr(S3Store, "__init__", lambda self, block: opened.append(block) or opening(self, block))
    make(storage=bucket, credentials=xai)
    assert len(opened) == 1


@pytest.mark.parametrize("basepath", [None, "videos"])
def test_a_storage_that_is_gone_with_its_run_sends_nothing(xai, submissions, basepath):
    with pytest.raises(StorageError, match="absolute path"):
        make(storage=LocalFileSystem(basepath=basepath), credentials=xai)
    assert submissions() == 0


@pytest.mark.smoke
def test_a_sync_flow_calls_it_as_a_subflow(directory, xai, submissions):
    @flow
    def publish(prompt: str) -> str:
        return generate_video(prompt, duration=1, storage=directory, credentials=xai).uri

    assert publish(PROMPT).startswith("file://")
    assert submissions() == 1


@pytest.mark.smoke
async def test_an_async_flow_calls_several_at_once(directory, xai, submissions):
    @flow
    async def publish() -> list[Video]:
        making = (agenerate_video(PROMPT, duration=1, storage=directory, credentials=xai) for _ in range(3))
        return await asyncio.gather(*making)

    videos = await publish()
    assert len({video.key for video in videos}) == 3
    assert submissions() == 3


def test_the_same_key_sends_no_second_post_and_returns_the_same_video(storage, xai, submissions, caplog):
    first = make(key="cats/one", storage=storage, credentials=xai)
    assert "already" not in caplog.text
    assert make(key="cats/one", storage=storage, credentials=xai) == first
    assert "Key cats/one is already stored: nothing is sent" in caplog.text
    assert submissions() == 1


def test_a_new_run_without_a_key_makes_a_new_video(directory, xai, submissions):
    assert make(storage=directory, credentials=xai).key != make(storage=directory, credentials=xai).key
    assert submissions() == 2


def test_the_tasks_compose_otherwise(storage, xai, submissions):
    @flow
    def steps() -> Video:
        started = start_video(PROMPT, duration=1, key="cat", storage=storage, credentials=xai)
        assert isinstance(started, Receipt)
        assert get_video(started.request_id, credentials=xai).state in {"pending", "done"}
        done = wait_for_video(started, storage=storage, credentials=xai)
        return save_video("cat", storage=storage, credentials=xai) if done.state == "done" else None

    assert steps().key == "cat"
    assert submissions() == 1


def test_the_tasks_can_be_submitted(directory, xai):
    @flow
    def steps() -> Video:
        started = start_video.submit(PROMPT, duration=1, storage=directory, credentials=xai)
        done = wait_for_video.submit(started, storage=directory, credentials=xai)
        return save_video.submit(done, storage=directory, credentials=xai).result()

    assert steps().uri.endswith(".mp4")


def test_a_task_works_outside_of_any_flow(directory, xai):
    assert start_video(PROMPT, duration=1, storage=directory, credentials=xai).state == "submitted"


async def test_the_async_tasks_work_in_a_script(directory, xai):
    started = await astart_video(PROMPT, duration=1, storage=directory, credentials=xai)
    done = await await_for_video(started, storage=directory, credentials=xai)
    assert (await aget_video(done.request_id, credentials=xai)).state == "done"


async def test_a_cancelled_run_is_picked_up_by_its_key_without_a_second_post(
    directory, xai, submissions, monkeypatch
):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS", "30")
    running = asyncio.create_task(agenerate_video(PROMPT, duration=1, key="cat", storage=directory, credentials=xai))
    receipt = directory._resolve_path("cat.json")
    while not receipt.exists() or json.loads(receipt.read_text())["state"] != "submitted":
        await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert json.loads(receipt.read_text())["state"] == "submitted"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS", "0.1")
    assert (await agenerate_video(PROMPT, duration=1, key="cat", storage=directory, credentials=xai)).key == "cat"
    assert submissions() == 1


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"prompt": ""}, ["prompt", "''"]),
        ({"duration": 0}, ["duration", "0", "1-15"]),
        ({"duration": 16}, ["duration", "16", "1-15"]),
        ({"duration": "ten"}, ["duration", "'ten'", "whole number"]),
        ({"aspect_ratio": "5:3"}, ["aspect_ratio", "'5:3'", "16:9"]),
        ({"resolution": "1080p"}, ["resolution", "'1080p'", "480p, 720p"]),
        ({"image_url": "a.png", "video_url": "a.mp4"}, ["image_url", "video_url"]),
        ({"video_url": "https://example.com/a.mp4"}, ["duration", "1", "edit"]),
        ({"image_url": "/nowhere/cat.png"}, ["image_url", "/nowhere/cat.png"]),
        ({"duration": True}, ["duration", "True"]),
        ({"timeout_seconds": True}, ["timeout_seconds", "True"]),
        ({"timeout_seconds": 0}, ["timeout_seconds", "0", "above 0"]),
        ({"timeout_seconds": "ten"}, ["timeout_seconds", "'ten'"]),
        ({"timeout_seconds": float("nan")}, ["timeout_seconds", "nan"]),
        ({"regenerate": "false"}, ["regenerate", "'false'"]),
        ({"on_unknown": "Resubmit"}, ["on_unknown", "'Resubmit'"]),
        ({"key": 5}, ["key", "5"]),
        ({"key": "../cat"}, ["key", "'../cat'", "letters"]),
        ({"key": "/cat"}, ["key", "'/cat'"]),
        ({"key": "a cat"}, ["key", "'a cat'"]),
        ({"key": "x" * 2000}, ["key", "xxx", "512"]),
    ],
)
def test_bad_input_is_one_clear_error_before_anything_is_sent(parameters, names, directory, xai, submissions):
    with pytest.raises(InvalidRequest) as caught:
        make(storage=directory, credentials=xai, **parameters)
    for name in names:
        assert name in str(caught.value)
    assert submissions() == 0
    assert not directory._resolve_path(".").exists()


def test_a_missing_key_is_told_before_anything_else():
    with pytest.raises(MissingCredentials, match="XAI_API_KEY"):
        generate_video("", duration=99)


def test_a_wrong_key_is_told_and_nothing_is_lost(directory, xai, emulator):
    wrong = type(xai)(api_key="wrong", base_url=emulator.base_url)
    with pytest.raises(AuthenticationFailed) as caught:
        make(key="cat", storage=directory, credentials=wrong)
    assert caught.value.key == "cat"
    assert make(key="cat", storage=directory, credentials=xai).key == "cat"


def test_a_store_that_can_not_be_written_to_is_told_before_anything_is_sent(tmp_path, aws, xai, submissions, bucket):
    (tmp_path / "file").write_text("no directory")
    unusable = [
        type(bucket)(bucket_name="nowhere", credentials=aws),
        LocalFileSystem(basepath=tmp_path / "file"),
    ]
    for storage in unusable:
        with pytest.raises(StorageError):
            make(storage=storage, credentials=xai)
    assert submissions() == 0


def test_warn_lets_the_service_decide(directory, xai, submissions, monkeypatch, caplog):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_VALIDATION", "warn")
    with pytest.raises(Exception, match=r"(?i)duration") as caught:
        make(duration=16, storage=directory, credentials=xai)
    assert caught.value.http_status == 400
    assert "duration: 16 is not allowed" in caplog.text
    assert submissions() == 1


def test_moderation_carries_what_it_cost(directory, xai):
    with pytest.raises(VideoModerated) as caught:
        make(prompt="[fault:moderated]", key="cat", storage=directory, credentials=xai)
    assert (caught.value.key, caught.value.cost_usd) == ("cat", Decimal("0.05"))
    assert caught.value.request_id


def test_a_run_logs_each_state_once_and_no_secret(directory, xai, caplog):
    with caplog.at_level(logging.INFO):
        make(key="cat", storage=directory, credentials=xai)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("prefect.task_runs")]
    for word in ("Sending", "Submitted", "Key cat was rendered", "Stored"):
        assert sum(line.startswith(word) for line in said) == 1, said
    assert "about $0.05" in caplog.text
    for secret in (API_KEY, PROMPT, "xai-vidgen-bucket"):
        assert secret not in caplog.text


async def test_a_run_keeps_no_secret_and_is_named_after_what_it_does(directory, xai, monkeypatch):
    state = await agenerate_video(
        PROMPT, duration=1, key="cat", storage=directory, credentials=xai, return_state=True
    )
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
        artifacts = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
    assert run.name == "a-cat-that-nobody-may-see-in-a text 1s cat"
    assert API_KEY not in run.model_dump_json()
    assert {artifact.type for artifact in artifacts} <= {"progress", "markdown"}
    assert all(API_KEY not in artifact.model_dump_json() for artifact in artifacts)


@pytest.mark.parametrize("given", ["Birthday, second try", "birthday-clip", None, "alpha4-andromedae-void"])
@pytest.mark.parametrize("made", [agenerate_video, generate_video], ids=["async", "sync"])
async def test_a_name_that_was_given_to_a_run_is_kept(directory, xai, made, given):
    parameters = {"prompt": "A cat", "duration": 1, "key": "cat", "storage": directory, "credentials": xai}
    async with get_client() as prefect:
        run = await prefect.create_flow_run(made, parameters={"prompt": "A cat", "key": "cat"}, name=given)
        state = run_flow(made, flow_run=run, parameters=parameters, return_type="state")
        assert (state if made is generate_video else await state).is_completed()
        shown = (await prefect.read_flow_run(run.id)).name
    kept = given if given in {"Birthday, second try", "birthday-clip"} else "a-cat text 1s cat"
    assert shown == kept


@pytest.mark.smoke
def test_names_begin_with_words_of_the_prompt_unless_a_setting_says_no(directory, xai, monkeypatch):
    key = make(storage=directory, credentials=xai).key
    assert re.fullmatch(r"a-cat-that-nobody-may-see-in-a-[0-9a-f]{12}-[0-9a-f]{16}-0", key)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_PROMPT_IN_NAMES", "false")
    state = generate_video(PROMPT, duration=1, storage=directory, credentials=xai, return_state=True)
    run_id = state.state_details.flow_run_id
    assert re.fullmatch(rf"{run_id}/[0-9a-f]{{16}}-0", state.result().key)
    with get_client(sync_client=True) as prefect:
        assert prefect.read_flow_run(run_id).name == "text 1s"


def test_the_package_is_registered_as_a_collection():
    names = {entry.value for entry in entry_points(group="prefect.collections")}
    assert {"prefect_xai_video.credentials", "prefect_xai_video.jobs"} <= names


@pytest.mark.parametrize("rescues", [3, 4])
async def test_a_run_that_was_rescued_three_times_is_stopped_with_a_sentence(directory, xai, submissions, rescues):
    async with get_client() as prefect:
        parameters = {"prompt": "A cat", "duration": 1, "key": "cat", "storage": directory, "credentials": xai}
        run = await prefect.create_flow_run(agenerate_video, parameters={"prompt": "A cat", "key": "cat"})
        for _ in range(rescues):
            await prefect.set_flow_run_state(run.id, Running(), force=True)
            await prefect.set_flow_run_state(run.id, Scheduled(name=RESCUED), force=True)
        run = await prefect.read_flow_run(run.id)
    state = await run_flow(agenerate_video, flow_run=run, parameters=parameters, return_type="state")
    if rescues == 3:
        assert state.is_completed()
        assert submissions() == 1
    else:
        assert state.is_failed()
        assert "a run is stopped after 3 rescues" in state.message
        assert submissions() == 0


async def rescued(parameters, *before):
    """Execute a run that was in these states before the automation for rescues took it for one whose worker died."""
    async with get_client() as prefect:
        run = await prefect.create_flow_run(agenerate_video, parameters={"prompt": "A cat", "key": "cat"})
        for state in (Scheduled(), Running(), *before, Scheduled(name=RESCUED)):
            await prefect.set_flow_run_state(run.id, state, force=True)
        started = await prefect.read_flow_run(run.id)
        with suppress(Pause):
            await run_flow(agenerate_video, flow_run=started, parameters=parameters, return_type="state")
        return await prefect.read_flow_run(run.id)


@pytest.mark.parametrize(
    "before",
    [[Cancelling()], [Cancelling(), Cancelled()], [Suspended()], [Completed(message="Stored")], [Failed()]],
    ids=lambda states: states[-1].name,
)
async def test_a_run_that_was_rescued_without_need_is_left_as_it_was(directory, xai, submissions, before):
    parameters = {"prompt": "A cat", "duration": 1, "key": "cat", "storage": directory, "credentials": xai}
    run = await rescued(parameters, *before)
    expected = "Cancelled" if before[-1].name == "Cancelling" else before[-1].name
    assert run.state.name == expected
    assert submissions() == 0


async def test_a_run_that_was_resumed_or_retried_after_all_goes_on(directory, xai, submissions):
    parameters = {"prompt": "A cat", "duration": 1, "key": "cat", "storage": directory, "credentials": xai}
    run = await rescued(parameters, Failed(), Scheduled(name=RESCUED), Running(), Failed(), Scheduled(), Running())
    assert run.state.is_completed()
    assert submissions() == 1
