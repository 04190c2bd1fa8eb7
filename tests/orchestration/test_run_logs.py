"""How a run that fails looks in its log: a sentence for what is expected, a traceback for what is not."""

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.logging.handlers import APILogHandler

from prefect_xai_video import XaiCredentials, agenerate_video
from prefect_xai_video.errors import AuthenticationFailed, ServiceUnavailable, VideoModerated, XaiVideoError
from prefect_xai_video.orchestration.direct_task import is_transient

from ..support.deployed import run_deployed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def logged(caplog):
    """Gives the log of all runs that logged something in this test, as the UI shows it."""

    async def log() -> str:
        await APILogHandler.aflush()
        runs = {record.flow_run_id for record in caplog.records if hasattr(record, "flow_run_id")}
        with get_client(sync_client=True) as prefect:
            lines = prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=list(runs))))
        return "\n".join(line.message for line in lines)

    return log


@pytest.mark.parametrize(
    ("prompt", "api_key", "kind", "sentence"),
    [
        ("A cat", "xai-wrong", AuthenticationFailed, "Incorrect API key provided"),
        ("A cat [fault:moderated]", None, VideoModerated, "moderation"),
    ],
)
async def test_an_expected_failure_is_its_sentence_and_no_traceback(
    prompt, api_key, kind, sentence, xai, directory, logged, caplog
):
    credentials = XaiCredentials(api_key=api_key, base_url=xai.base_url) if api_key else xai
    with pytest.raises(kind):
        await agenerate_video(prompt, duration=1, key="cat", storage=directory, credentials=credentials)
    lines = [line for line in (await logged()).splitlines() if sentence in line]
    assert [line.partition("Failed")[0] for line in lines] == ["Finished in state "] * 2, (
        "one of the task, one of the flow"
    )
    assert "Traceback" not in await logged()
    assert "Traceback" not in caplog.text


async def test_another_error_keeps_its_traceback(logged):
    @flow
    async def broken():
        try:
            raise AuthenticationFailed("xAI rejected the API key.")
        except XaiVideoError as error:
            raise ZeroDivisionError("A fault of the code.") from error

    with pytest.raises(ZeroDivisionError):
        await broken()
    assert "Traceback" in await logged()


async def test_a_retry_is_announced_without_traceback(logged):
    tries = []

    @task(retries=1, retry_condition_fn=is_transient)
    async def flaky():
        tries.append(1)
        if len(tries) == 1:
            raise ServiceUnavailable("No connection to https://api.x.ai/v1.")

    @flow
    async def patient():
        await flaky()

    await patient()
    assert "No connection to https://api.x.ai/v1." in await logged()
    assert "Retry 1/1" in await logged()
    assert "Traceback" not in await logged()


def test_a_deployed_run_that_fails_prints_its_sentence_and_no_traceback(prefect_server, directory, xai, forking):
    process, log, state = run_deployed(forking, "failing", directory, xai.base_url, "xai-wrong")
    said = process.stdout + process.stderr
    assert "Incorrect API key provided" in said
    assert "Traceback" not in said
    assert "Traceback" not in log
    assert state.is_failed()
    assert "AuthenticationFailed: xAI" in state.message
