"""Every fault of the emulator through the real flow: what comes of it, what it costs, and that no secret gets out."""

import asyncio
import logging
import re
import traceback
from dataclasses import dataclass, field

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.filesystems import LocalFileSystem
from prefect_aws import S3Bucket

from prefect_xai_video import Retries, Timeouts, XaiCredentials, XaiVideoClient, agenerate_video, tasks
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.emulator.echoes import SIGNATURE
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.engine import inquiry
from prefect_xai_video.errors import XaiVideoError

from ..support.api_key import API_KEY
from ..support.server import WITHOUT_EVENTS, running_server, used_by_this_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("prefect_server")]

PROMPT = "A cat that nobody may see in a log"
AT_ONCE = 4
"""More flows at once are too much for the database of a temporary Prefect server."""

FINE = ("stored", 1)
UNKNOWN = ("SubmissionUnknown", "SubmissionUnknown", 0)
LOST = ("SubmissionUnknown", "SubmissionUnknown", 1)
REFUSED = ("AuthenticationFailed", "stored", 1)
BLOCKED = ("VideoModerated", "VideoModerated", 1)
FAILED = ("VideoFailed", "VideoFailed", 0)

EXPECTED = {fault: FINE for fault in Fault if fault.stage in {"poll", "download", "files"}} | {
    Fault.START_429: FINE,
    Fault.START_429_RETRY_AFTER: FINE,
    Fault.START_429_DATE: FINE,
    Fault.START_503: UNKNOWN,
    Fault.START_503_RETRY_AFTER: UNKNOWN,
    Fault.START_CUT: UNKNOWN,
    Fault.START_307: UNKNOWN,
    Fault.START_409: UNKNOWN,
    Fault.START_425: UNKNOWN,
    Fault.START_499: UNKNOWN,
    Fault.START_400_KEY: REFUSED,
    Fault.START_400_KEY_IN_CODE: REFUSED,
    **{fault: LOST for fault in Fault if fault.startswith("start-accepted-")},
    Fault.MODERATED: BLOCKED,
    Fault.MODERATED_OLD_CODE: BLOCKED,
    Fault.MODERATED_DONE: BLOCKED,
    Fault.MODERATED_FAILED: BLOCKED,
    Fault.DONE_WITHOUT_URL: ("DownloadError", "DownloadError", 1),
    Fault.FAILED_INVALID_ARGUMENT: FAILED,
    Fault.FAILED_PERMISSION_DENIED: FAILED,
    Fault.FAILED_FAILED_PRECONDITION: FAILED,
    Fault.FAILED_SERVICE_UNAVAILABLE: FAILED,
    Fault.FAILED_INTERNAL_ERROR: FAILED,
    Fault.FAILED_STRING_ERROR: FAILED,
    Fault.FAILED_KEY: FAILED,
    Fault.FAILED_SIGNED_URL: FAILED,
    Fault.EXPIRED: ("VideoExpired", "VideoExpired", 1),
    Fault.NEVER_DONE: ("VideoTimeout", "VideoTimeout", 1),
    # A request id that is new may not be known yet, however often xAI says so.
    Fault.POLL_404_ALWAYS: ("VideoTimeout", "VideoTimeout", 1),
    Fault.UPLOAD_SKIPPED: FINE,
    Fault.UPLOAD_FAILED: FINE,
    Fault.STORAGE_FAILED: FINE,
    Fault.PUBLIC_URL_FAILED: FINE,
}
"""How the first run ends, how a second one with the same key does where the first one brought no video, and how many
submissions are billed in all."""

DIRECT_EXPECTED = {
    Fault.START_ACCEPTED_CUT: FINE,
    Fault.START_ACCEPTED_502: FINE,
    Fault.START_ACCEPTED_SILENCE: FINE,
    Fault.START_ACCEPTED_503: FINE,
    Fault.START_ACCEPTED_NESTED: FINE,
    Fault.START_ACCEPTED_409: FINE,
    Fault.UPLOAD_SKIPPED: FINE,
    Fault.UPLOAD_FAILED: FAILED,
    Fault.SIGNED_URL: FINE,
}
"""The same with direct delivery, where a lost reply is no loss."""

RECOVERED = {fault: FINE for fault in Fault if fault.startswith("start-accepted-")} | {
    Fault.START_503: UNKNOWN,
    Fault.START_CUT: UNKNOWN,
}
"""The same with recovery by files, where a lost reply is no loss either; what never arrived stays unknown."""


@dataclass
class Outcome:
    """What came of a run, and of another one with the same key."""

    ends: list[object] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [type(end).__name__ if isinstance(end, Exception) else "stored" for end in self.ends]


@dataclass
class Trial:
    """All outcomes, and everything that was said meanwhile."""

    outcomes: dict[str, Outcome]
    billed: dict[str, int]
    downloads: list[dict]
    said: dict[str, str]


class Listener(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.name} {record.getMessage()} {record.exc_info}")


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory, database):
    """A server that records task runs, too: they must have no secret."""
    with (
        running_server(tmp_path_factory.mktemp("faults"), database, **WITHOUT_EVENTS) as url,
        used_by_this_process(url),
    ):
        yield


@pytest.fixture(scope="module")
def trial(prefect_server, tmp_path_factory, aws, _bucket_name):
    directory = LocalFileSystem(basepath=tmp_path_factory.mktemp("store"))
    bucket = S3Bucket(bucket_name=_bucket_name, credentials=aws, bucket_folder="every-fault")
    listener = Listener()
    loggers = [logging.getLogger(), logging.getLogger("prefect"), logging.getLogger("httpx")]
    with pytest.MonkeyPatch.context() as patch, Emulator(render_seconds=0.2, api_key=API_KEY) as emulator:
        impatient(patch)
        for logger in loggers:
            logger.addHandler(listener)
        try:
            outcomes, runs = asyncio.run(try_all(emulator, directory, bucket))
        finally:
            for logger in loggers:
                logger.removeHandler(listener)
        said = runs | {"logs": "\n".join(listener.lines), "receipts": texts(directory, bucket)}
        downloads = [entry for entry in emulator.requests() if entry["path"].startswith("/xai-")]
        yield Trial(outcomes, billed(emulator), downloads, said)


def impatient(patch):
    """Let calls be given up and repeated sooner than is good outside of tests."""

    def get_client(self, pace=None):
        quick = Retries(attempts=4, first_wait=0.05, longest_wait=0.2)
        return XaiVideoClient(self.api_key, self.base_url, timeouts=Timeouts(start=2), retries=quick)

    patch.setattr(XaiCredentials, "get_client", get_client)
    # On a slow machine, the second run begins late; its request id is new all the same.
    patch.setattr(inquiry, "FRESH_SECONDS", 3600)
    for task in (tasks.astart_video, tasks.await_for_video, tasks.asave_video):
        patch.setattr(task, "retry_delay_seconds", 0)
    patch.setenv("PREFECT_CLIENT_MAX_RETRIES", "10")
    # The link of an artifact is signed on purpose.
    patch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_LINK_SECONDS", "0")
    patch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_MAX_DOWNLOAD_BYTES", str(2**22))
    for name, value in {"FIRST_POLL_SECONDS": 0.1, "POLL_MIN_SECONDS": 0.1, "POLL_MAX_SECONDS": 0.5}.items():
        patch.setenv(f"PREFECT_INTEGRATIONS_XAI_VIDEO_{name}", str(value))


async def try_all(emulator, directory, bucket):
    turn = asyncio.Semaphore(AT_ONCE)
    credentials = XaiCredentials(api_key=API_KEY, base_url=emulator.base_url)

    async def attempt(fault, key, **options):
        outcome = Outcome()
        while len(outcome.ends) < 2 and "stored" not in outcome.names:
            async with turn:
                outcome.ends.append(await ended(f"{PROMPT} {key} [fault:{fault}]", credentials, key=key, **options))
        return key, outcome

    outcomes = await asyncio.gather(
        *(attempt(fault, fault.value, storage=directory) for fault in EXPECTED),
        *(attempt(fault, f"direct/{fault}", storage=bucket, delivery="direct") for fault in DIRECT_EXPECTED),
        *(attempt(fault, f"files/{fault}", storage=directory, recovery="files") for fault in RECOVERED),
    )
    return dict(outcomes), await what_prefect_keeps()


async def ended(prompt, credentials, key, **options):
    seconds = 1.5 if key in ("never-done", "poll-404-always", "files/start-503", "files/start-cut") else 200
    try:
        return await agenerate_video(
            prompt, duration=1, key=key, credentials=credentials, timeout_seconds=seconds, **options
        )
    except XaiVideoError as error:
        return error


async def what_prefect_keeps() -> dict[str, str]:
    async with get_client() as client:
        runs = await client.read_flow_runs(limit=200)
        ours = [run for run in runs if PROMPT in str(run.parameters)]
        filter_ = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in ours]))
        # The server learns of task runs by events, and takes its time.
        while not (task_runs := await client.read_task_runs(flow_run_filter=filter_, limit=200)):
            await asyncio.sleep(1)
        artifacts = await client.read_artifacts(flow_run_filter=filter_, limit=200)
        logs = await client.read_logs(limit=200)
    assert len(ours) > len(EXPECTED)
    return {
        "flow runs": "\n".join(run.model_dump_json() for run in ours),
        "task runs": "\n".join(run.model_dump_json() for run in task_runs),
        "artifacts": "\n".join(artifact.model_dump_json() for artifact in artifacts),
        "logs on the server": "\n".join(log.message for log in logs),
    }


def texts(directory, bucket) -> str:
    client = bucket.credentials.get_s3_client()
    listed = client.list_objects_v2(Bucket=bucket.bucket_name, Prefix="every-fault/")["Contents"]
    names = [entry["Key"] for entry in listed if entry["Key"].endswith(".json")]
    objects = [client.get_object(Bucket=bucket.bucket_name, Key=name)["Body"].read().decode() for name in names]
    files = [path.read_text() for path in directory._resolve_path(".").rglob("*.json")]
    return "\n".join(objects + files)


def billed(emulator) -> dict[str, int]:
    """How many submissions were billed, by the key that is in their prompt."""
    keys = {
        entry["request_id"]: re.search(r"log (\S+) \[", entry["body"]["prompt"])[1]
        for entry in emulator.requests()
        if entry["method"] == "POST" and entry["request_id"]
    }
    counts = dict.fromkeys(keys.values(), 0)
    for row in emulator.ledger()["requests"]:
        counts[keys[row["request_id"]]] += row["cost_usd"] != "0.00"
    return counts


def test_every_fault_has_an_expectation():
    of_batches = {fault for fault in Fault if fault.stage in ("result", "batch")}
    assert EXPECTED.keys() == set(Fault) - of_batches


@pytest.mark.parametrize(
    ("key", "expected"),
    [(fault.value, ends) for fault, ends in EXPECTED.items()]
    + [(f"direct/{fault}", ends) for fault, ends in DIRECT_EXPECTED.items()]
    + [(f"files/{fault}", ends) for fault, ends in RECOVERED.items()],
)
def test_what_comes_of_a_fault(trial, key, expected):
    *names, payments = expected
    outcome = trial.outcomes[key]
    assert re.fullmatch(" ".join(f"({name})" for name in names), " ".join(outcome.names)), outcome.ends
    assert trial.billed.get(key, 0) == payments


def test_nothing_is_ever_paid_twice(trial):
    assert max(trial.billed.values()) == 1


def test_every_error_after_a_submission_says_what_is_known(trial):
    for key, outcome in trial.outcomes.items():
        for error in (end for end in outcome.ends if isinstance(end, Exception)):
            assert error.key == key
            refused = EXPECTED.get(key) == REFUSED
            assert error.request_id or refused or type(error).__name__ == "SubmissionUnknown", error
            assert error.resend_safe == refused
    for fault in (fault for fault, ends in EXPECTED.items() if ends == BLOCKED):
        assert str(trial.outcomes[fault].ends[0].cost_usd) == "0.05"


def test_no_error_shows_a_secret(trial):
    raised = [end for outcome in trial.outcomes.values() for end in outcome.ends if isinstance(end, Exception)]
    shown = "\n".join(line for error in raised for line in traceback.format_exception(error))
    assert_no_secret(shown)


@pytest.mark.parametrize("place", ["logs", "receipts", "flow runs", "task runs", "artifacts", "logs on the server"])
def test_no_secret_gets_out(trial, place):
    assert trial.said[place]
    assert_no_secret(trial.said[place])
    # The prompt stands in the artifact of its video, too.
    if place not in {"receipts", "flow runs", "artifacts"}:
        assert PROMPT not in trial.said[place]


def assert_no_secret(text):
    for secret in (API_KEY, "X-Amz-Signature", "X-Amz-Credential", SIGNATURE):
        found = text.find(secret)
        assert found < 0, text[max(found - 300, 0) : found + 50]


def test_the_key_is_not_sent_to_where_videos_are_fetched(trial):
    assert len(trial.downloads) > 20
    assert not [entry for entry in trial.downloads if entry["authorization"]]
    assert any("X-Amz-Signature" in entry["path"] for entry in trial.downloads)
