"""What a run tells Prefect beside its log: events, labels, assets, and the sentence of its final state."""

import asyncio
import base64
from contextlib import suppress

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.states import Cancelled, Crashed

from prefect_xai_video import (
    XaiCredentials,
    agenerate_long_video,
    agenerate_video,
    asave_video,
    astart_video,
    await_for_video,
    generate_video,
)
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.errors import (
    AuthenticationFailed,
    SubmissionUnknown,
    VideoFailed,
    VideoModerated,
    VideoTimeout,
)
from prefect_xai_video.orchestration import labels
from prefect_xai_video.orchestration.derived_keys import run_tail
from prefect_xai_video.orchestration.labels import log_how_to_continue

from ..support.api_key import API_KEY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
PROMPT = "A cat that nobody may see in an event"
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")
"""One grey pixel."""


@pytest.fixture
def emitted():
    """The events of a test, as they would have gone to the server."""
    EventsWorker.set_client_override(AssertingEventsClient)
    AssertingEventsClient.reset()

    def drained(prefix: str) -> list:
        EventsWorker.instance().wait_until_empty()
        seen = [event for client in AssertingEventsClient.all for event in client.events]
        return [event for event in seen if event.event.startswith(prefix)]

    yield drained
    EventsWorker.instance().drain()
    EventsWorker.set_client_override(None)
    AssertingEventsClient.reset()


def test_a_stored_video_is_told_twice_with_all_that_a_follow_up_needs(storage, xai, emitted):
    video = generate_video(PROMPT, duration=2, aspect_ratio="1:1", key="cats/one", storage=storage, credentials=xai)
    submitted, stored = emitted("xai-video.")
    assert (submitted.event, stored.event) == ("xai-video.submitted", "xai-video.stored")
    assert submitted.resource.id == stored.resource.id == f"xai-video.{video.uri.removesuffix('.mp4')}"
    assert stored.resource.name == "cats/one"
    assert stored.payload | {"size": 0, "next_step": ""} == {
        "key": "cats/one",
        "state": "stored",
        "request_id": video.request_id,
        "mode": "text",
        "model": "grok-imagine-video",
        "duration": 2,
        "resolution": None,
        "aspect_ratio": "1:1",
        "cost_usd": "0.1",
        "estimated_cost_usd": "0.1",
        "uri": video.uri,
        "receipt_uri": video.receipt_uri,
        "sha256": video.sha256,
        "size": 0,
        "message": None,
        "next_step": "",
    }
    assert submitted.payload["request_id"] == video.request_id
    assert submitted.payload["uri"] is None
    assert PROMPT not in stored.model_dump_json() + submitted.model_dump_json()
    assert {"flow-run", "task-run", "flow"} <= {related.role for related in stored.related}


@pytest.mark.parametrize(
    ("fault", "error", "event"),
    [
        ("moderated", VideoModerated, "xai-video.moderated"),
        ("failed-invalid-argument", VideoFailed, "xai-video.failed"),
        ("expired", VideoFailed.__base__, "xai-video.failed"),
        ("start-accepted-cut", SubmissionUnknown, "xai-video.unknown"),
    ],
)
def test_a_bad_end_is_told_with_what_can_be_done(fault, error, event, directory, xai, emitted):
    with pytest.raises(error):
        generate_video(f"{PROMPT} [fault:{fault}]", duration=1, key="cat", storage=directory, credentials=xai)
    told = emitted("xai-video.")[-1]
    assert told.event == event
    assert told.payload["message"]
    assert "cat" in told.resource.id
    assert told.payload["next_step"]


def test_a_refused_repetition_tells_nothing_again(directory, xai, emitted):
    options = {"duration": 1, "key": "cat", "storage": directory, "credentials": xai}
    with pytest.raises(VideoModerated):
        generate_video("An event [fault:moderated]", **options)
    told = [event.event for event in emitted("xai-video.")]
    with pytest.raises(AuthenticationFailed):
        refused = XaiCredentials(api_key="wrong", base_url=xai.base_url)
        generate_video("An event", **options | {"credentials": refused, "regenerate": True})
    assert [event.event for event in emitted("xai-video.")] == told


def test_the_same_key_again_tells_nothing_new(directory, xai, emitted):
    for _ in range(2):
        generate_video(PROMPT, duration=1, key="cat", storage=directory, credentials=xai)
    assert [event.event for event in emitted("xai-video.")] == ["xai-video.submitted", "xai-video.stored"]


async def test_a_run_ends_with_a_sentence(directory, xai):
    state = await agenerate_video(
        PROMPT, duration=1, key="cat", storage=directory, credentials=xai, return_state=True
    )
    video = await state.result()
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
    assert run.state.message == f"Stored {video.uri} (1 s, $0.05)"


@pytest.fixture
async def interrupted(directory, xai, monkeypatch):
    """A run that did not wait for its video to the end, and its error."""
    monkeypatch.setattr(labels, "LABEL_SECONDS", 120)
    options = {"duration": 1, "key": "cat", "timeout_seconds": 0.01, "storage": directory, "credentials": xai}
    state = await agenerate_video(f"{PROMPT} [fault:never-done]", **options, return_state=True)
    error = await state.result(raise_on_failure=False)
    assert isinstance(error, VideoTimeout)
    async with get_client() as client:
        return await client.read_flow_run(state.state_details.flow_run_id), error


async def test_an_interrupted_run_carries_key_and_request_id(interrupted, directory):
    run, error = interrupted
    assert run.labels["xai-video.key"] == "cat"
    assert run.labels["xai-video.request-id"] == error.request_id
    assert run.labels["xai-video.receipt"] == f"file://{directory.basepath}/cat.json"


async def test_a_run_is_labelled_while_it_waits(directory):
    with Emulator(render_seconds=600, api_key=API_KEY) as emulator:
        xai = XaiCredentials(api_key=API_KEY, base_url=emulator.base_url)
        waiting = asyncio.create_task(
            agenerate_video(PROMPT, duration=1, key="waiting", storage=directory, credentials=xai)
        )
        named = FlowRunFilter(name=FlowRunFilterName(like_="1s waiting"))
        async with get_client() as client:
            labels_of = {}
            while "xai-video.request-id" not in labels_of:
                assert not waiting.done()
                await asyncio.sleep(0.2)
                runs = await client.read_flow_runs(flow_run_filter=named)
                labels_of = runs[0].labels if runs else {}
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
    assert labels_of["xai-video.key"] == "waiting"
    assert labels_of["xai-video.receipt"] == f"file://{directory.basepath}/waiting.json"
    assert labels_of["xai-video.request-id"] == emulator.ledger()["requests"][0]["request_id"]


async def test_tasks_in_a_flow_of_several_videos_do_not_label_its_run(directory, xai):
    options = {"duration": 1, "storage": directory, "credentials": xai}

    @flow
    async def publish():
        for key in ("cats/one", "cats/two"):
            await astart_video(PROMPT, key=key, **options)
        await agenerate_video(PROMPT, key="cats/three", **options)

    state = await publish(return_state=True)
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
    assert not [name for name in run.labels if name.startswith("xai-video.")]


def test_the_sync_flow_ends_with_the_same_sentence_and_returns_the_video(directory, xai):
    state = generate_video(PROMPT, duration=1, key="cat", storage=directory, credentials=xai, return_state=True)
    assert state.message == f"Stored {state.result().uri} (1 s, $0.05)"


async def test_the_video_is_an_asset_made_of_its_input(bucket, xai, aws, emitted):
    aws.get_s3_client().put_object(Bucket="videos", Key="cat.png", Body=PNG)

    @flow
    async def steps():
        kept = {"keep_at_xai": True, "public_url": True, "storage": bucket, "credentials": xai}
        receipt = await astart_video("", image_url="s3://videos/cat.png", duration=1, **kept)
        receipt = await await_for_video(receipt, storage=bucket, credentials=xai)
        return await asave_video(receipt, storage=bucket, credentials=xai)

    video = await steps()
    (made,) = emitted("prefect.asset.materialization.succeeded")
    assert made.resource.id == video.uri
    assert made.payload["request_id"] == video.request_id
    assert video.public_url
    assert video.public_url not in made.model_dump_json()
    assert "s3://videos/cat.png" in {related.id for related in made.related if related.role == "asset"}
    assert [event.resource.id for event in emitted("prefect.asset.referenced")] == ["s3://videos/cat.png"]


async def test_a_long_video_is_told_and_is_an_asset_made_of_its_segments(bucket, xai, emitted):
    options = {"aspect_ratio": "1:1", "key": "ship", "storage": bucket, "credentials": xai}
    video = await agenerate_long_video([PROMPT, "A storm"], 4, keep_at_xai=True, public_url=True, **options)
    assert await agenerate_long_video([PROMPT, "A storm"], 4, keep_at_xai=True, public_url=True, **options) == video
    *_, last, stored = emitted("xai-video.stored")
    assert (last.payload["key"], last.payload["mode"]) == ("ship/02", "extend")
    assert stored.resource.id == f"xai-video.{video.uri.removesuffix('.mp4')}"
    assert stored.payload.keys() == last.payload.keys()
    told = {name: stored.payload[name] for name in ("key", "mode", "duration", "aspect_ratio", "cost_usd", "uri")}
    assert told == {
        "key": "ship",
        "mode": "long",
        "duration": 4,
        "aspect_ratio": "1:1",
        "cost_usd": "0.22",
        "uri": video.uri,
    }
    assert PROMPT not in stored.model_dump_json()
    *_, made = emitted("prefect.asset.materialization.succeeded")
    assert made.resource.id == video.uri
    segments = {segment.uri for segment in video.segments}
    assert segments <= {related.id for related in made.related if related.role == "asset"}
    assert not any(segment.public_url in made.model_dump_json() for segment in video.segments)
    assert [event.resource.id for event in emitted("xai-video.stored")].count(stored.resource.id) == 1


@pytest.mark.parametrize(("state", "event"), [(Cancelled(), "was cancelled"), (Crashed(), "crashed")])
async def test_an_interrupted_run_of_a_long_video_is_told_its_own_key(directory, xai, caplog, state, event):
    with pytest.raises(VideoTimeout):
        await agenerate_long_video(
            f"{PROMPT} [fault:never-done]", 4, key="ship", timeout_seconds=0.3, storage=directory, credentials=xai
        )
    async with get_client() as client:
        (run,) = await client.read_flow_runs(limit=1, sort="START_TIME_DESC")
    for hook in {*agenerate_long_video.on_cancellation_hooks, *agenerate_long_video.on_crashed_hooks}:
        hook(agenerate_long_video, run, state)
    assert f"The run {event}. xAI renders and bills what it has accepted." in caplog.text
    assert "or run again with the key ship, to continue: no segment is paid for twice" in caplog.text


async def test_a_cancelled_run_is_told_how_to_pick_the_video_up(interrupted, caplog):
    run, error = interrupted
    await log_how_to_continue(agenerate_video, run, Cancelled())
    assert f"The run was cancelled. xAI accepted request {error.request_id}" in caplog.text
    assert "run again with the key cat" in caplog.text


async def test_a_run_that_crashed_before_its_request_id_was_known_names_its_keys(xai, caplog):
    state = await agenerate_video(PROMPT, duration=99, credentials=xai, return_state=True)
    with pytest.raises(ValueError, match="duration"):
        await state.result()
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
    await log_how_to_continue(agenerate_video, run, Cancelled())
    assert f"a receipt with {run_tail(run.id)} in its path" in caplog.text
