"""The server's reply to the final state of a run is lost: the repeated request is refused without a result."""

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_xai_video import agenerate_video, agenerate_videos, generate_video, generate_videos
from prefect_xai_video.errors import BatchFailed

from ..support.api_key import API_KEY
from ..support.deployed import run_deployed
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
    with server.failing(lost()):
        process, log, state = run_deployed(forking, "losing", directory, xai.base_url, API_KEY)
    assert state.is_completed()
    assert process.returncode == 0
    assert "Traceback" not in process.stdout + process.stderr + log
