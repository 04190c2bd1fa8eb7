"""Keys that nobody gave: every nesting of flows and tasks, each with a retry after something later broke."""

import asyncio

import pytest
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.task_runners import ProcessPoolTaskRunner

from prefect_xai_video import agenerate_video, generate_video, start_video
from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.inputs import resolve_inputs
from prefect_xai_video.requests import build_request

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

    with pytest.raises(InvalidRequest, match="key: None is not allowed"):
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
