"""The server's reply to the final state of a run is lost: the repeated request is refused without a result."""

import os
import subprocess

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_xai_video import agenerate_video, agenerate_videos, generate_video, generate_videos
from prefect_xai_video.errors import BatchFailed

from ..support.api_key import API_KEY
from .http_proxy import LOST, Fault, HttpProxy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def server():
    """The Prefect server, behind a proxy."""
    with HttpProxy(PREFECT_API_URL.value()) as proxy, temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}):
        yield proxy


def lost(state="COMPLETED"):
    return Fault(LOST, "POST", "/set_state", says=f'"{state}"'.encode(), times=1)


@pytest.fixture
def options(directory, xai):
    return {"duration": 1, "key": "cat", "storage": directory, "credentials": xai}


def test_a_video_is_returned(server, options, submissions):
    with server.failing(lost()):
        assert generate_video("A cat", **options).key == "cat"
    with server.failing(lost()):
        assert generate_video("A cat", return_state=True, **options).result().key == "cat"
    assert submissions() == 1


async def test_an_async_flow_returns_its_video(server, options, submissions):
    with server.failing(lost()):
        assert (await agenerate_video("A cat", **options)).key == "cat"
    with server.failing(lost()):
        state = await agenerate_video("A cat", return_state=True, **options)
    assert (await state.aresult()).key == "cat"
    assert submissions() == 1


def test_a_subflow_returns_its_video_to_its_parent(server, options, submissions):
    @flow
    def publish() -> list[str]:
        return [generate_video("A cat", **options | {"key": key}).key for key in ("one", "two")]

    with server.failing(lost()):
        assert publish() == ["one", "two"]
    assert submissions() == 2


async def test_a_batch_returns_its_report(server, directory, xai):
    rows = [{"prompt": "A cat", "duration": 1, "key": "cat"}]
    with server.failing(lost()):
        report = await agenerate_videos(rows, storage=directory, credentials=xai)
    assert report.stored == 1


def test_a_batch_that_failed_raises_its_error(server, directory, xai):
    rows = [{"prompt": "A cat [fault:moderated]", "duration": 1, "key": "cat"}]
    with server.failing(lost("FAILED")), pytest.raises(BatchFailed) as caught:
        generate_videos(rows, storage=directory, credentials=xai)
    assert caught.value.report.states == {"moderated": 1}


def test_a_deployed_run_stays_completed(server, directory, xai, forking):
    with get_client(sync_client=True) as prefect:
        deployment = prefect.create_deployment(
            prefect.create_flow(agenerate_video),
            "losing",
            entrypoint="prefect_xai_video.flows.agenerate_video",
            path=".",
        )
        run = prefect.create_flow_run_from_deployment(deployment, parameters={"prompt": "A cat", "duration": 1})
        env = {
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "XAI_API_KEY": API_KEY,
            "XAI_BASE_URL": xai.base_url,
            "PREFECT_INTEGRATIONS_XAI_VIDEO_HOME": str(directory.basepath),
        }
        with server.failing(lost()):
            command = [*forking.command("prefect.engine"), str(run.id)]
            process = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
        lines = prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
        state = prefect.read_flow_run(run.id).state
    assert state.is_completed()
    assert process.returncode == 0
    assert "Traceback" not in process.stdout + process.stderr + "\n".join(line.message for line in lines)
