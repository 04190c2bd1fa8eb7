"""A flow process that is killed by SIGKILL at any point, and what each way to go on makes of it.

All runs are started at once, each is killed at its point, and then all go on at once.
"""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL
from prefect.states import AwaitingRetry, Crashed, Pending, Scheduled
from prefect_aws import S3Bucket

from prefect_xai_video import Receipt, agenerate_video
from prefect_xai_video.engine.stores import LocalStore, VideoStore
from prefect_xai_video.engine.stores.bucket import S3Store
from prefect_xai_video.orchestration.derived_keys import run_tail

from ..support.api_key import API_KEY
from ..support.forked_processes import Forking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WAYS = ["retry", "worker", "new run"]
"""A flow retry in an engine process; `prefect flow-run retry` with a worker; a new run with the same key."""

POINTS = {
    "directory": ["unclaimed", "claimed", "posting", "answered", "waiting", "downloading", "saved"],
    "bucket": ["downloading", "uploading", "saved"],
    "direct": ["posting"],
    "files": ["posting"],
}
LEFT_BEHIND = {
    "unclaimed": (None, 0),
    "claimed": ("sending", 0),
    "posting": ("sending", 0),
    "answered": ("sending", 0),
    "waiting": ("submitted", 0),
    "downloading": ("done", 0),
    "uploading": ("done", 0),
    "saved": ("done", 1),
}
"""The state of the receipt, and the number of videos in their place, when the process is dead."""

NOBODY_KNOWS = {"claimed": 0, "posting": 1, "answered": 1}
"""Where a receipt can't tell whether xAI has accepted, and how many submissions it has."""

BLOCK = "crashes"
"""Name of the bucket, its block and the work pool."""

PATIENCE_SECONDS = 200

AT_ONCE = 6
"""How many run at the same time. Python's collector frees the cursors of requests that killed clients have left in
the event loop of Prefect's server: while others wait for a lock on SQLite, that stops the server for a minute."""


def batched(crashes: list["Crash"], size: int) -> list[list["Crash"]]:
    return [crashes[begin : begin + size] for begin in range(0, len(crashes), size)]


@dataclass(frozen=True)
class Crash:
    way: str
    place: str
    point: str

    def __str__(self) -> str:
        return f"{self.way}-{self.place}-{self.point}".replace(" ", "-")

    @property
    def key(self) -> str | None:
        """Runs that are retried find a derived key again."""
        return None if self.place == "directory" and self.way != "new run" else f"{self}/cat"

    @property
    def parameters(self) -> dict:
        options = {"direct": {"delivery": "direct"}, "files": {"recovery": "files"}}.get(self.place, {})
        return {"prompt": f"A cat, {self}", "duration": 1, "key": self.key, **options}

    @property
    def in_directory(self) -> bool:
        return self.place in {"directory", "files"}

    @property
    def by_worker(self) -> bool:
        """Whether a worker starts the first process, too. That takes seconds each: two have to do."""
        return self.way == "worker" and self.point == "downloading"

    @property
    def known(self) -> bool:
        return self.place != "directory" or self.point not in NOBODY_KNOWS


CRASHES = [Crash(way, place, point) for way in WAYS for place, points in POINTS.items() for point in points]


@dataclass
class Ending:
    """What has become of a run that was killed.

    Attributes:
        killed: Whether SIGKILL was what ended its first process.
        left: The state of its receipt and the number of videos then.
        outcome: `stored`, or the error.
        request_ids: What xAI has accepted.
        billed: What it has billed, in USD.
        receipts: All receipts, by key.
        videos: The names of all videos.
    """

    flow_run_id: str | None
    killed: bool
    left: tuple[str | None, int]
    outcome: str
    request_ids: list[str]
    billed: Decimal
    receipts: dict[str, Receipt]
    videos: list[str]

    @property
    def receipt(self) -> Receipt:
        (receipt,) = self.receipts.values()
        return receipt


class Killing:
    """All runs with all that they need, from their start to their ends."""

    def __init__(self, emulator, bucket: S3Bucket, root: Path) -> None:
        self.emulator = emulator
        self.bucket = bucket
        self.root = root
        self.flow_run_ids: dict[Crash, str] = {}
        self.codes: dict[Crash, int] = {}
        self.left: dict[Crash, tuple[str | None, int]] = {}
        self.processes = Forking(
            root,
            PREFECT_API_URL=PREFECT_API_URL.value(),
            PREFECT_LOGGING_TO_API_ENABLED="false",
            PREFECT_HOME=str(root / "prefect"),
            PREFECT_WORKER_QUERY_SECONDS="1",
            PREFECT_CLIENT_MAX_RETRIES="10",
            XAI_API_KEY=API_KEY,
            XAI_BASE_URL=emulator.base_url,
            PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS="0.1",
            PREFECT_INTEGRATIONS_XAI_VIDEO_POLL_MIN_SECONDS="0.1",
            PREFECT_INTEGRATIONS_XAI_VIDEO_POLL_MAX_SECONDS="0.5",
        )

    async def run(self) -> dict[Crash, Ending]:
        block_id = await self.bucket.save(BLOCK, overwrite=True)
        async with get_client() as client:
            await self.create_runs(client, str(block_id))
            first_worker = self.start_worker("first-worker", "--run-once")
            for crashes in batched([crash for crash in CRASHES if not crash.by_worker], AT_ONCE):
                self.processes.begin([self.job(crash) for crash in crashes])
                self.kill(crashes)
                self.codes |= zip(crashes, self.processes.end(), strict=True)
            self.kill([crash for crash in CRASHES if crash.by_worker])
            self.left = {crash: await self.left_behind(crash) for crash in CRASHES}
            # A worker notes a crash twice. The second note must not come when the run has gone on.
            first_worker.wait(PATIENCE_SECONDS)
            self.start_worker("worker", "--limit", str(AT_ONCE))
            await self.schedule_retries(client)
            for crashes in batched(CRASHES, AT_ONCE):
                self.processes.begin([self.retrying(crash) for crash in crashes])
                self.processes.end()
            await self.until_ended(client)
            return {crash: await self.ending(client, crash) for crash in CRASHES}

    async def create_runs(self, client, block_id: str) -> None:
        await client.create_work_pool(WorkPoolCreate(name=BLOCK, type="process"), overwrite=True)
        flow_id = await client.create_flow(agenerate_video)
        entrypoint = "tests.faults.pausing.agenerate_video"
        deployments = {
            "worker": await client.create_deployment(flow_id, "worker", entrypoint=entrypoint, work_pool_name=BLOCK),
            "retry": await client.create_deployment(flow_id, "retry", entrypoint=entrypoint),
        }
        in_bucket = {"storage": {"$ref": {"block_document_id": block_id}}}
        for crash in CRASHES:
            if crash.way == "new run":
                continue
            run = await client.create_flow_run_from_deployment(
                deployments[crash.way],
                parameters=crash.parameters | ({} if crash.in_directory else in_bucket),
                # A worker takes what is scheduled.
                state=Scheduled() if crash.by_worker else Pending(),
                job_variables=self.job_variables(crash) if crash.way == "worker" else None,
            )
            self.flow_run_ids[crash] = str(run.id)

    def start_worker(self, name: str, *options: str) -> subprocess.Popen:
        return self.processes.start(name, "-m", "prefect", "worker", "start", "--pool", BLOCK, *options)

    def job_variables(self, crash: Crash) -> dict:
        return {"env": self.own_env(crash), "command": shlex.join(self.processes.command("prefect.engine"))}

    def own_env(self, crash: Crash) -> dict[str, str]:
        return {
            "FORKED_IMPORTS_FIRST": "tests.faults.pausing",
            "PAUSE_AT": crash.point,
            "PAUSE_MARKER": str(self.root / f"{crash}.pid"),
            "PREFECT_INTEGRATIONS_XAI_VIDEO_HOME": str(self.root / str(crash)),
        }

    def job(self, crash: Crash) -> dict:
        common = {"env": self.own_env(crash), "log": str(self.root / f"{crash}.log")}
        if crash.way == "new run":
            parameters = crash.parameters | {"bucket": None if crash.in_directory else BLOCK}
            outcome = self.root / f"{crash}.outcome"
            return common | {"module": "tests.faults.calling", "argv": [json.dumps(parameters), str(outcome)]}
        return common | {"module": "prefect.engine", "argv": [self.flow_run_ids[crash]]}

    def retrying(self, crash: Crash) -> dict:
        if crash.way != "worker":
            return self.job(crash)
        argv = ["flow-run", "retry", self.flow_run_ids[crash]]
        return self.job(crash) | {"module": "prefect", "argv": argv}

    def kill(self, crashes: list[Crash]) -> None:
        """Kill each run once it is at its point."""
        waiting = set(crashes)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waiting:
            for crash in sorted(waiting, key=str):
                marker = self.root / f"{crash}.pid"
                if marker.exists() and (crash.point != "posting" or self.accepted(crash)):
                    os.kill(int(marker.read_text()), signal.SIGKILL)
                    waiting.remove(crash)
            assert time.monotonic() < deadline, f"never came to their points: {[*map(str, waiting)]}"
            time.sleep(0.02)

    def accepted(self, crash: Crash) -> list[str]:
        prompt = crash.parameters["prompt"]
        return [
            request["request_id"]
            for request in self.emulator.requests()
            if request["method"] == "POST" and request["body"]["prompt"] == prompt and request["status"] == 200
        ]

    async def schedule_retries(self, client) -> None:
        """What a worker sees crash, it notes; for the others it is noted here. Then what the Retry button does."""
        for crash, flow_run_id in self.flow_run_ids.items():
            if crash.by_worker:
                assert (await client.read_flow_run(flow_run_id)).state.is_crashed()
            else:
                await client.set_flow_run_state(flow_run_id, Crashed(message="Killed"))
            if crash.way == "retry":
                retried = await client.set_flow_run_state(flow_run_id, AwaitingRetry(message="Retry from the UI"))
                assert retried.state.name == "AwaitingRetry"

    async def until_ended(self, client) -> None:
        ids = FlowRunFilterId(any_=list(self.flow_run_ids.values()))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=ids))
            left = [run for run in runs if not (run.state.is_completed() or run.state.is_failed())]
            if not left:
                return
            assert time.monotonic() < deadline, [(run.name, run.state) for run in left]
            await asyncio.sleep(1)

    async def ending(self, client, crash: Crash) -> Ending:
        flow_run_id = self.flow_run_ids.get(crash)
        if flow_run_id is None:
            outcome = (self.root / f"{crash}.outcome").read_text()
        else:
            state = (await client.read_flow_run(flow_run_id)).state
            outcome = "stored" if state.is_completed() else state.message
        request_ids = self.accepted(crash)
        rows = self.emulator.ledger()["requests"]
        store = self.store(crash)
        receipts = await self.receipts(crash)
        for key, receipt in receipts.items():
            if receipt.file is not None:
                assert await store.holds_video(key, receipt.file)
        return Ending(
            flow_run_id=flow_run_id,
            killed=self.codes.get(crash, -signal.SIGKILL) == -signal.SIGKILL,
            left=self.left[crash],
            outcome=outcome,
            request_ids=request_ids,
            billed=sum((Decimal(row["cost_usd"]) for row in rows if row["request_id"] in request_ids), Decimal(0)),
            receipts=receipts,
            videos=self.videos(crash),
        )

    def store(self, crash: Crash) -> VideoStore:
        return LocalStore(self.root / str(crash)) if crash.in_directory else S3Store(self.bucket)

    async def receipts(self, crash: Crash) -> dict[str, Receipt]:
        store = self.store(crash)
        prefix = "" if crash.in_directory else f"{crash}/"
        return {key: (await store.read(key)).receipt async for key in store.keys(prefix)}

    async def left_behind(self, crash: Crash) -> tuple[str | None, int]:
        states = [receipt.state for receipt in (await self.receipts(crash)).values()]
        in_place = [name for name in self.videos(crash) if not Path(name).name.startswith(".")]
        return (states[0] if states else None), len(in_place)

    def videos(self, crash: Crash) -> list[str]:
        if crash.in_directory:
            root = self.root / str(crash)
            return [path.relative_to(root).as_posix() for path in root.rglob("*.mp4")]
        answer = self.bucket.credentials.get_s3_client().list_objects_v2(Bucket=BLOCK, Prefix=f"{crash}/")
        return [entry["Key"] for entry in answer.get("Contents", ()) if entry["Key"].endswith(".mp4")]


@pytest.fixture(scope="module")
def emulator(emulator_of_module):
    return emulator_of_module


@pytest.fixture(scope="module")
def endings(prefect_server, emulator, aws, tmp_path_factory):
    """Starts, kills and resumes all runs."""
    aws.get_s3_client().create_bucket(Bucket=BLOCK)
    bucket = S3Bucket(bucket_name=BLOCK, credentials=aws)
    killing = Killing(emulator, bucket, tmp_path_factory.mktemp("crashes"))
    try:
        return asyncio.run(killing.run())
    finally:
        killing.processes.stop()


def crashes(condition):
    chosen = [crash for crash in CRASHES if condition(crash)]
    return pytest.mark.parametrize("crash", chosen, ids=str)


@crashes(lambda crash: True)
def test_a_run_is_killed_at_its_point(crash, endings):
    assert endings[crash].killed
    assert endings[crash].left == LEFT_BEHIND[crash.point]


@crashes(lambda crash: crash.known)
def test_a_resumed_killed_run_has_one_video_and_one_payment(crash, endings):
    ending = endings[crash]
    assert ending.outcome == "stored"
    assert ending.receipt.state == "stored"
    assert len(ending.videos) == 1
    assert len(ending.request_ids) == 1
    assert ending.billed == Decimal("0.05")


@crashes(lambda crash: not crash.known)
def test_a_killed_run_of_unknown_outcome_pays_at_most_once(crash, endings):
    ending = endings[crash]
    assert "SubmissionUnknown" in ending.outcome
    assert ending.receipt.state == "unknown"
    assert ending.videos == []
    assert len(ending.request_ids) == NOBODY_KNOWS[crash.point]
    assert ending.billed == NOBODY_KNOWS[crash.point] * Decimal("0.05")


@crashes(lambda crash: crash.place in {"direct", "files"})
def test_with_direct_delivery_or_recovery_a_killed_post_is_recognised_by_its_video(crash, endings):
    assert [attempt.outcome for attempt in endings[crash].receipt.attempts] == ["stored"]
    assert endings[crash].receipt.request_id is None


@crashes(lambda crash: crash.key is None)
def test_a_retried_run_finds_its_derived_key_again(crash, endings):
    ending = endings[crash]
    assert run_tail(ending.flow_run_id) in ending.receipt.key
    assert ending.receipt.key.endswith("-0")
