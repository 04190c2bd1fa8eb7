"""Keys that nobody gave: every nesting of flows and tasks, each with a retry after something later broke."""

import asyncio
import os
import subprocess

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.states import Scheduled
from prefect.task_runners import ProcessPoolTaskRunner

from prefect_xai_video import agenerate_video, generate_video, start_video
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine.inputs import resolve_inputs
from prefect_xai_video.errors import InvalidRequest

from ..support import persisted_flows
from ..support.api_key import API_KEY
from ..support.persisted_flows import STEPS, publish

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def ask(directory, xai):
    """Ask for a video, and tell its key."""
    return lambda prompt="A cat": start_video(prompt, duration=1, storage=directory, credentials=xai).key


@pytest.fixture
def make(directory, xai):
    """Make a video, and tell its key."""
    return lambda prompt="A cat": generate_video(prompt, duration=1, storage=directory, credentials=xai).key


class Tries:
    """Notes what each try asked for, and fails in the tries that it was told."""

    def __init__(self, *failing):
        self.failing = failing
        self.keys = []

    def note(self, *keys):
        self.keys.append(keys)
        if len(self.keys) in self.failing:
            raise RuntimeError("something later broke")


def test_a_retried_flow(make, submissions):
    tries = Tries(1, 2)

    @flow(retries=2)
    def publish():
        tries.note(make(), make(), make("A dog"))

    publish()
    assert len(tries.keys) == 3
    assert len(set(tries.keys)) == 1
    assert len(set(tries.keys[0])) == 3
    assert submissions() == 3


def test_tasks_of_a_retried_flow(ask, submissions):
    tries = Tries(1)

    @flow(retries=1)
    def publish():
        tries.note(ask(), ask())

    publish()
    assert tries.keys[0] == tries.keys[1]
    assert submissions() == 2


def test_subflows_of_subflows_whoever_is_retried(make, submissions):
    tries = Tries(1, 2)

    @flow(retries=1)
    def inner():
        tries.note(make(), make())

    @flow(retries=1)
    def outer():
        inner()

    outer()
    assert len(tries.keys) == 3
    assert len(set(tries.keys)) == 1
    assert submissions() == 2


def test_a_retried_task_that_starts_videos(ask, submissions):
    tries = Tries(1)

    @task(retries=1)
    def step():
        tries.note(ask(), ask())

    @flow
    def publish():
        step()

    publish()
    assert tries.keys[0] == tries.keys[1]
    assert submissions() == 2


def test_a_retried_task_that_makes_videos_in_a_flow(make, submissions):
    tries = Tries(1)

    @task(retries=1)
    def step():
        tries.note(make(), make())

    @flow
    def publish():
        step()

    publish()
    assert tries.keys[0] == tries.keys[1]
    assert len(set(tries.keys[0])) == 2
    assert submissions() == 2


def test_a_retried_task_without_any_flow(make, ask, submissions):
    tries = Tries(1)

    @task(retries=1)
    def step():
        tries.note(make(), ask("A dog"))

    step()
    assert tries.keys[0] == tries.keys[1]
    assert submissions() == 2


def test_submitted_tasks_of_a_retried_flow(directory, xai, submissions):
    tries = Tries(1)

    @flow(retries=1)
    def publish():
        options = {"duration": 1, "storage": directory, "credentials": xai}
        futures = [start_video.submit("A cat", **options) for _ in range(3)]
        tries.note(*sorted(future.result().key for future in futures))

    publish()
    assert tries.keys[0] == tries.keys[1]
    assert len(set(tries.keys[0])) == 3
    assert submissions() == 3


async def test_gathered_subflows_of_a_retried_async_flow(directory, xai, submissions):
    tries = Tries(1)

    @flow(retries=1)
    async def publish():
        making = (agenerate_video("A cat", duration=1, storage=directory, credentials=xai) for _ in range(3))
        tries.note(*sorted(video.key for video in await asyncio.gather(*making)))

    await publish()
    assert tries.keys[0] == tries.keys[1]
    assert len(set(tries.keys[0])) == 3
    assert submissions() == 3


def test_the_same_picture_in_another_file_is_the_same_request(directory, xai, tmp_path, submissions):
    tries = Tries(1)
    picture = b"\x89PNG\r\n\x1a\n" + bytes(40)

    @flow(retries=1)
    def publish():
        path = tmp_path / f"{len(tries.keys)}.png"
        path.write_bytes(picture)
        tries.note(start_video("A cat", image_url=str(path), storage=directory, credentials=xai).key)

    publish()
    assert tries.keys[0] == tries.keys[1]
    assert submissions() == 1


def test_tasks_in_processes_of_their_own_must_give_a_key(directory, xai, submissions):
    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def publish(key):
        return start_video.submit("A cat", duration=1, key=key, storage=directory, credentials=xai).result()

    with pytest.raises(InvalidRequest, match="key: None in a task that runs in a process of its own"):
        publish(None)
    assert publish("cat").key == "cat"
    assert submissions() == 1


def test_a_run_that_began_with_an_earlier_version_finds_the_key_of_its_s3_input_again(bucket, xai, submissions):
    s3, image = bucket.credentials.get_s3_client(), "s3://videos/inputs/keyed.png"
    s3.put_object(Bucket="videos", Key="inputs/keyed.png", Body=b"\x89PNG\r\n\x1a\n" + bytes(40))
    asked = build_request("A cat", duration=1, image_url=image)
    options = {"duration": 1, "image_url": image, "storage": bucket, "credentials": xai}

    @flow
    def publish():
        earlier = asyncio.run(resolve_inputs(asked, bucket.credentials)).earlier_fingerprint
        first = start_video("A cat", key=f"{flow_run.id}/{earlier[:16]}-0", **options)
        return first.key, start_video("A cat", **options).key

    first, second = publish()
    assert first == second
    assert submissions() == 1


@pytest.mark.parametrize("now", ["true", "false"])
def test_a_run_that_began_with_another_setting_or_version_finds_its_key_again(make, submissions, monkeypatch, now):
    """A version that had no words of the prompt in its keys derived those of the setting false."""
    tries = Tries(1)

    @flow(retries=1)
    def publish():
        then = "false" if now == "true" else "true"
        monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_PROMPT_IN_NAMES", now if tries.keys else then)
        tries.note(make(), make())

    publish()
    assert tries.keys[0] == tries.keys[1]
    assert all(key.startswith("a-cat-") == (now == "false") for key in tries.keys[0])
    assert submissions() == 2


# Where Prefect persists the results of those who ask, it does not call them again on a retry.


@pytest.fixture
def broken(tmp_path, xai, monkeypatch):
    """The file that breaks the second step, and the environment in which the steps find their way."""
    for name, value in {
        "BROKEN": tmp_path / "broken",
        "XAI_API_KEY": API_KEY,
        "XAI_BASE_URL": xai.base_url,
        "PREFECT_INTEGRATIONS_XAI_VIDEO_HOME": tmp_path / "videos",
        "PREFECT_LOCAL_STORAGE_PATH": tmp_path / "results",
    }.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "broken").touch()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path / "broken"


@pytest.mark.parametrize("kind", STEPS)
async def test_a_retry_in_a_new_process_hands_no_video_to_two_calls(kind, broken, submissions, forking):
    state = await publish(kind, return_state=True)
    assert state.is_failed()
    broken.unlink()
    # What `prefect flow-run retry` does, and the worker that takes the run up.
    run = state.state_details.flow_run_id
    async with get_client() as prefect:
        await prefect.set_flow_run_state(run, Scheduled(), force=True)
    env = os.environ | {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT__FLOW_RUN_ID": str(run),
        "PREFECT__FLOW_ENTRYPOINT": f"{persisted_flows.__file__}:publish",
    }
    command = forking.command("prefect.engine")
    result = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    keys = broken.with_name("keys").read_text().split()
    assert len(set(keys)) == 2
    assert submissions() == 2


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_retried_persisted_task_finds_its_own_receipts_again(broken, failing, submissions):
    tries = Tries(failing)

    @task(retries=1, persist_result=True)
    async def step(number):
        tries.note((await agenerate_video("A cat", duration=1)).key)

    @flow
    async def publish():
        await asyncio.gather(step(1), step(2))

    await publish()
    assert len(tries.keys) == 3
    assert len(set(tries.keys)) == 2
    assert submissions() == 2


@pytest.mark.parametrize("kind", STEPS)
async def test_a_retry_in_the_same_process_hands_no_video_to_two_calls(kind, broken, submissions):
    tries = []

    def before(*_):
        tries.append(1)
        if len(tries) == 2:
            broken.unlink()

    retried = publish.with_options(retries=1, on_running=[before])
    assert len(set(await retried(kind))) == 2
    assert submissions() == 2
