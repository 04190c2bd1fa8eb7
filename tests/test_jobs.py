"""The block XaiVideoGenerator and its runs, on a real Prefect server, against the emulator."""

import asyncio
import inspect
import os
import pickle
import subprocess
import sys

import pytest
from prefect import flow, task
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL
from prefect.testing.standard_test_suites import BlockStandardTestSuite

import prefect_xai_video
from prefect_xai_video import Receipt, XaiCredentials, XaiVideoGenerator, XaiVideoRun
from prefect_xai_video.engine import waiting as engine_waiting
from prefect_xai_video.errors import (
    InvalidRequest,
    KeyConflict,
    StorageError,
    SubmissionUnknown,
    VideoFailed,
    VideoModerated,
    VideoTimeout,
)

from .support.api_key import API_KEY
from .support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
PROMPT = "A cat that is made by a block"


@pytest.mark.smoke
class TestXaiVideoGeneratorBlock(BlockStandardTestSuite):
    # Its address does not exist yet; tests/test_wheel.py looks at the logo in the wheel.
    test_has_a_valid_image = None

    @pytest.fixture
    def block(self):
        return XaiVideoGenerator


@pytest.fixture
def generator(directory, xai) -> XaiVideoGenerator:
    return XaiVideoGenerator(duration=1, storage=directory, credentials=xai)


def receipt_of(run: XaiVideoRun) -> Receipt:
    return Receipt.from_json(run.generator.storage._resolve_path(f"{run.key}.json").read_bytes())


def test_a_misspelt_option_is_refused_before_anything_is_sent(generator, submissions):
    with pytest.raises(InvalidRequest, match=r"^durration: there is no such option .*duration.*key"):
        generator.trigger(PROMPT, durration=1)
    assert submissions() == 0


def test_a_run_is_not_pickled_since_its_block_holds_the_key(generator):
    run = generator.trigger(PROMPT, key="pickled")
    with pytest.raises(TypeError, match=r"run_of\(key\)"):
        pickle.dumps(run)
    assert API_KEY.encode() not in pickle.dumps((run.key, run.request_id))


def test_sound_is_a_saved_default_that_a_call_may_replace(directory, xai):
    silent = XaiVideoGenerator(duration=1, generate_audio=False, storage=directory, credentials=xai)
    assert receipt_of(silent.trigger(PROMPT, key="silent")).request["generate_audio"] is False
    assert receipt_of(silent.trigger(PROMPT, key="loud", generate_audio=True)).request["generate_audio"] is True


@pytest.mark.smoke
def test_a_script_triggers_waits_and_fetches(storage, xai, submissions):
    run = XaiVideoGenerator(duration=1, storage=storage, credentials=xai).trigger(PROMPT)
    run.wait_for_completion()
    video = run.fetch_result()
    assert (video.key, video.request_id, video.duration) == (run.key, run.request_id, 1)
    assert submissions() == 1


@pytest.mark.smoke
def test_a_saved_block_makes_several_videos_in_a_flow(generator, xai, submissions):
    xai.save("jobs", overwrite=True)
    generator.storage.save("jobs", overwrite=True)
    generator.save("jobs", overwrite=True)

    @task
    def fetch(run: XaiVideoRun) -> str:
        run.wait_for_completion()
        return run.fetch_result().uri

    @flow
    def publish() -> list[str]:
        saved = XaiVideoGenerator.load("jobs")
        return [fetch(run) for run in [saved.trigger(PROMPT), saved.trigger(PROMPT)]]

    assert len(set(publish())) == 2
    assert submissions() == 2


@pytest.mark.smoke
async def test_an_async_flow_triggers_several_at_once(generator, submissions):
    @flow
    async def publish() -> set[str]:
        runs = await asyncio.gather(*(generator.atrigger(PROMPT) for _ in range(3)))
        await asyncio.gather(*(run.await_for_completion() for run in runs))
        return {(await run.afetch_result()).sha256 for run in runs}

    assert await publish()
    assert submissions() == 3


async def test_the_same_key_pays_once_whoever_triggers_it(generator, submissions):
    first = await generator.atrigger(PROMPT, key="cats/one")
    await first.await_for_completion()
    again = await generator.model_copy().atrigger(PROMPT, key="cats/one")
    await again.await_for_completion()
    assert again.request_id == first.request_id
    assert await again.afetch_result() == await first.afetch_result()
    with pytest.raises(KeyConflict):
        await generator.atrigger("Another cat", key="cats/one")
    assert submissions() == 1


async def test_a_run_is_made_again_from_its_key(generator, submissions):
    await generator.atrigger(PROMPT, key="cats/one")
    run = await generator.model_copy().arun_of("cats/one")
    await run.await_for_completion()
    assert (await run.afetch_result()).request_id == run.request_id
    assert submissions() == 1


def test_another_process_fetches_the_video_with_no_more_than_two_names(generator):
    generator.save("elsewhere", overwrite=True)
    run = generator.trigger(PROMPT, key="cats/one")
    run.wait_for_completion()
    code = """if True:
        from prefect.blocks.core import Block
        print(Block.load("xai-video-generator/elsewhere").run_of("cats/one").fetch_result().uri)
    """
    env = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value()}
    assert subprocess.check_output([sys.executable, "-c", code], env=env, text=True).strip() == run.fetch_result().uri


def test_the_package_shows_its_blocks_to_prefect_which_registers_them():
    blocks = inspect.getmembers(prefect_xai_video, Block.is_block_class)
    assert [name for name, _ in blocks] == ["XaiCredentials", "XaiVideoGenerator"]


async def test_a_request_id_from_anywhere_becomes_a_run(generator, xai, submissions):
    first = await generator.atrigger(PROMPT, key="cats/one")
    run = await generator.arun_of("cats/two", request_id=first.request_id)
    named_after_it = await generator.arun_of(request_id=first.request_id)
    for other in (run, named_after_it):
        await other.await_for_completion()
    assert (await run.afetch_result()).key == "cats/two"
    assert (await named_after_it.afetch_result()).key == first.request_id
    assert submissions() == 1


async def test_a_stored_video_is_found_by_its_request_id_though_xai_is_not_there(generator):
    first = await generator.atrigger(PROMPT, key="cats/one")
    await first.await_for_completion()
    nowhere = XaiCredentials(api_key=API_KEY, base_url=f"http://127.0.0.1:{free_port()}/v1")
    run = await generator.model_copy(update={"credentials": nowhere}).arun_of("cats/one", request_id=first.request_id)
    assert await run.afetch_result() == await first.afetch_result()


async def test_a_result_that_is_not_there_yet_says_to_wait(generator):
    run = await generator.atrigger(PROMPT, key="cat")
    with pytest.raises(StorageError, match=r"submitted and not stored yet: wait_for_completion\(\)") as caught:
        await run.afetch_result()
    assert (caught.value.key, caught.value.request_id, caught.value.resend_safe) == ("cat", run.request_id, False)


@pytest.mark.parametrize(
    ("fault", "error"), [("moderated", VideoModerated), ("failed-invalid-argument", VideoFailed)]
)
async def test_a_bad_end_is_the_same_error_from_waiting_fetching_and_triggering(generator, submissions, fault, error):
    prompt = f"A cat [fault:{fault}]"
    run = await generator.atrigger(prompt, key="cat")
    for again in (run.await_for_completion, run.afetch_result, lambda: generator.atrigger(prompt, key="cat")):
        with pytest.raises(error) as caught:
            await again()
        assert (caught.value.key, caught.value.request_id) == ("cat", run.request_id)
    assert submissions() == 1


async def test_an_unknown_outcome_is_not_sent_again_and_can_be_taken_by_its_id(generator, emulator, submissions):
    with pytest.raises(SubmissionUnknown):
        await generator.atrigger("A cat of unknown outcome [fault:start-accepted-cut]", key="cat")
    run = await generator.arun_of("cat")
    with pytest.raises(SubmissionUnknown):
        await run.await_for_completion()
    with pytest.raises(StorageError, match="unknown") as caught:
        await run.afetch_result()
    assert not caught.value.resend_safe
    found = emulator.ledger()["requests"][-1]["request_id"]
    run = await generator.arun_of("cat", request_id=found)
    await run.await_for_completion()
    assert (await run.afetch_result()).request_id == found
    assert submissions() == 1


async def test_a_run_waits_as_long_as_its_block_says(generator):
    run = await generator.model_copy(update={"timeout_seconds": 0.2}).atrigger("[fault:never-done]", key="cat")
    with pytest.raises(VideoTimeout, match=r"within 0\.2 s") as caught:
        await run.await_for_completion()
    assert (caught.value.key, caught.value.request_id) == ("cat", run.request_id)


async def test_cancelling_stops_the_waiting_and_says_how_to_go_on(generator, submissions, monkeypatch, caplog):
    run = await generator.atrigger(PROMPT, key="cat")
    waits = asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(engine_waiting, "next_wait", lambda *_: waits.set() or 3600)
        waiting = asyncio.create_task(run.await_for_completion())
        await waits.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert "key cat to pick it up without paying again" in caplog.text
    await (await generator.arun_of("cat")).await_for_completion()
    assert submissions() == 1


async def test_what_is_asked_for_stands_above_what_was_saved(directory, xai):
    saved = XaiVideoGenerator(
        duration=6, aspect_ratio="9:16", resolution="720p", storage=directory, credentials=xai, delivery="download"
    )
    asked = receipt_of(await saved.atrigger(PROMPT, duration=2, model="grok-imagine-video-1.5"))
    assert asked.request == {
        "model": "grok-imagine-video-1.5",
        "prompt": PROMPT,
        "duration": 2,
        "aspect_ratio": "9:16",
        "resolution": "720p",
    }


async def test_an_edit_takes_no_defaults_of_a_new_clip(generator):
    run = await generator.atrigger("Make it blue", video_url="https://example.com/cat.mp4")
    assert set(receipt_of(run).request) == {"model", "prompt", "video"}


@pytest.mark.parametrize(
    ("defaults", "names"),
    [
        ({"duration": 16}, ["duration", "16", "1-15"]),
        ({"aspect_ratio": "5:3"}, ["aspect_ratio", "5:3", "16:9"]),
        ({"resolution": "1080p"}, ["resolution", "1080p", "480p, 720p"]),
        ({"timeout_seconds": 0}, ["timeout_seconds", "greater than 0"]),
        ({"delivery": "post"}, ["delivery", "'download' or 'direct'"]),
        ({"delivery": "direct", "recovery": "files"}, ["recovery", "direct delivery", "none"]),
        ({"aspectratio": "9:16"}, ["aspectratio", "no such field", "aspect_ratio"]),
    ],
)
def test_a_wrong_default_is_told_when_the_block_is_made(defaults, names):
    data = {"credentials": {"api_key": API_KEY}, **defaults}
    with pytest.raises(ValueError, match="validation error") as caught:
        XaiVideoGenerator.model_validate(data)
    for name in names:
        assert name in str(caught.value)
    assert API_KEY not in str(caught.value)


def test_what_was_left_empty_in_the_classic_ui_is_not_the_directory_of_the_process():
    assert XaiVideoGenerator.model_validate({"storage": {}, "credentials": {}}) == XaiVideoGenerator()


async def test_a_wrong_request_is_told_before_anything_is_sent(generator, submissions):
    wrong = [generator.atrigger(""), generator.atrigger(PROMPT, resolution="1080p"), generator.arun_of()]
    generator = generator.model_copy(update={"timeout_seconds": -1})
    for coroutine in [*wrong, generator.atrigger(PROMPT)]:
        with pytest.raises(InvalidRequest):
            await coroutine
    with pytest.raises(StorageError, match=r"no receipt .*nowhere\.json"):
        await generator.arun_of("nowhere")
    assert submissions() == 0


def test_a_run_shows_its_key_and_no_secret(generator):
    run = XaiVideoRun(generator, "cats/one", "the-id")
    assert repr(run) == "XaiVideoRun(key='cats/one', request_id='the-id')"
