"""Batches in shards: a real Prefect server, workers in processes of their own, a bucket, and the emulator."""

import asyncio
import csv
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import ConcurrencyLimitConfig, State, StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.filesystems import LocalFileSystem
from prefect.flows import EntrypointType
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Crashed
from prefect_aws import S3Bucket

from prefect_xai_video import XaiCredentials, agenerate_videos
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.errors import BatchFailed, InvalidRequest
from prefect_xai_video.orchestration.rescues import RESCUED
from prefect_xai_video.orchestration.shard_runs import RESTART_SECONDS

from ..support.api_key import API_KEY
from ..support.postgres import is_installed, running_postgres
from ..support.processes import family, signal_all
from ..support.server import running_server, server_environment, used_by_this_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
ON_SQLITE = pytest.mark.parametrize("server", ["sqlite"], indirect=True)
ON_POSTGRES = pytest.mark.parametrize("server", ["postgresql" if is_installed() else "sqlite"], indirect=True)


@pytest.fixture(scope="module")
def server(request, tmp_path_factory, database):
    """The home and the URL of a fresh server, to which this process speaks too."""
    home, settings = tmp_path_factory.mktemp("shards"), {}
    with running_postgres() if request.param == "postgresql" else nothing() as url:
        if url:
            settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}
        with running_server(home, database, **settings) as api, used_by_this_process(api):
            yield home, api


@contextmanager
def nothing():
    yield None


@pytest.fixture(scope="module")
def xai_emulator():
    with Emulator(render_seconds=1, light=True, api_key=API_KEY) as running:
        yield running


@pytest.fixture(scope="module")
def saved_xai(server, xai_emulator):
    credentials = XaiCredentials(api_key=API_KEY, base_url=xai_emulator.base_url)
    credentials.save("shards", overwrite=True)
    return XaiCredentials.load("shards")


@pytest.fixture
def saved_bucket(server, bucket):
    """An empty folder of the bucket, as a saved block."""
    bucket.bucket_folder += f"-{uuid4().hex[:6]}"
    name = bucket.bucket_folder.lower().replace("_", "-")
    bucket.save(name, overwrite=True)
    return S3Bucket.load(name)


@pytest.fixture(scope="module")
def deploy(server, forking):
    """Deploys the flow to a work pool of its own; gives the name of the deployment, and that of the pool."""

    forked = shlex.join(forking.command("prefect.engine"))

    async def make(
        name: str, pool_limit: int | None = None, limit: int | None = None, command: str = forked, **parameters
    ) -> str:
        async with get_client() as prefect:
            await prefect.create_work_pool(WorkPoolCreate(name=name, type="process", concurrency_limit=pool_limit))
        await RunnerDeployment.from_flow(
            agenerate_videos,
            name,
            work_pool_name=name,
            entrypoint_type=EntrypointType.MODULE_PATH,
            concurrency_limit=ConcurrencyLimitConfig(limit=limit, collision_strategy="ENQUEUE") if limit else None,
            parameters=parameters,
            # As in setup/prefect.yaml: otherwise the worker loads the flow in a process of its own first.
            job_variables={"command": command},
        ).apply()
        return f"generate-videos/{name}"

    return make


@pytest.fixture(scope="module")
def worker(server):
    """Starts a process worker in a process group of its own, which ends with its block."""
    home, api = server
    env = server_environment(home, api) | {
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    for name in ("FIRST_POLL_SECONDS", "POLL_MIN_SECONDS", "POLL_MAX_SECONDS"):
        env[f"PREFECT_INTEGRATIONS_XAI_VIDEO_{name}"] = "0.5"

    @contextmanager
    def start(pool: str, limit: int = 4):
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--limit", str(limit)]
        with (home / f"worker-{pool}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--prefetch-seconds", "1", "--name", f"worker-{uuid4().hex[:6]}"],
                env=env,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()

    return start


def billed(emulator, words: str) -> list[dict]:
    return [row for row in emulator.ledger()["requests"] if words in row["prompt"]]


async def until(there, meanwhile: asyncio.Task | None = None, patience: float = 120):
    """Wait until a condition holds, or a task fails that runs meanwhile."""
    for _ in range(int(patience / 0.2)):
        if meanwhile is not None and meanwhile.done():
            meanwhile.result()
        if found := await there() if asyncio.iscoroutinefunction(there) else there():
            return found
        await asyncio.sleep(0.2)
    raise TimeoutError


def objects(bucket) -> set[str]:
    client, folder = bucket.credentials.get_s3_client(), f"{bucket.bucket_folder}/"
    listed = client.list_objects_v2(Bucket=bucket.bucket_name, Prefix=folder).get("Contents", [])
    return {item["Key"].removeprefix(folder) for item in listed}


def content(bucket, name: str) -> bytes:
    key = f"{bucket.bucket_folder}/{name}"
    return bucket.credentials.get_s3_client().get_object(Bucket=bucket.bucket_name, Key=key)["Body"].read()


def states_of_receipts(bucket) -> list[str]:
    names = [name for name in objects(bucket) if name.endswith(".json") and not name.endswith(".report.json")]
    return [json.loads(content(bucket, name))["state"] for name in names]


async def shards_of(deployment: str):
    """The runs of shards of a deployment, by number."""
    async with get_client() as prefect:
        it = await prefect.read_deployment_by_name(deployment)
        of_it = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[it.id]))
        runs = await prefect.read_flow_runs(flow_run_filter=of_it)
    return sorted(
        (run for run in runs if run.parameters.get("shard")), key=lambda run: run.parameters["shard"]["number"]
    )


def rows(count, words):
    return [{"key": f"cats/{number}", "prompt": f"{words} {number}.", "duration": 1} for number in range(count)]


def upload(lines: list[dict], bucket) -> str:
    """Put a manifest into the bucket; gives its URI."""
    name, body = f"{bucket.bucket_folder}/cats.jsonl", "\n".join(json.dumps(line) for line in lines)
    bucket.credentials.get_s3_client().put_object(Bucket=bucket.bucket_name, Key=name, Body=body)
    return f"s3://{bucket.bucket_name}/{name}"


def reference(block) -> dict:
    """A saved block as a parameter of a deployment."""
    return {"$ref": {"block_document_id": str(block._block_document_id)}}


def table(path: Path, lines: list[dict]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return str(path)


async def kill_between_submissions(process, bucket) -> None:
    """Kill a worker and its runs with kill -9, as if its machine were gone, while none of them is sending.

    A submission that is cut is of unknown outcome, which other tests are about.
    """
    while True:
        machine = family(process.pid)
        signal_all(machine, signal.SIGSTOP)
        if "sending" not in await asyncio.to_thread(states_of_receipts, bucket):
            break
        signal_all(machine, signal.SIGCONT)
        await asyncio.sleep(0.05)
    signal_all(machine, signal.SIGKILL)
    process.wait()


def runs_of(process) -> set[str]:
    """The ids of the flow runs of a worker."""
    found = set()
    for pid in family(process.pid):
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {each.partition(b"=")[2].decode() for each in environment if b"__FLOW_RUN_ID=" in each}
    return found


@ON_POSTGRES
async def test_a_worker_is_killed_and_each_key_is_paid_once(
    deploy, worker, xai_emulator, saved_xai, saved_bucket, tmp_path
):
    # Only processes of its own family are stopped with the worker.
    deployment = await deploy("killed", command=f"{sys.executable} -m prefect.engine")
    words = f"Killed {uuid4().hex}"
    lines = [{"sku": f"S-{number}"} | row for number, row in enumerate(rows(60, words))]
    manifest = table(tmp_path / "cats.csv", lines)
    # The budget is exactly what all of it costs: a shard that is rescued may not begin with a new one.
    batch = asyncio.create_task(
        agenerate_videos(
            manifest,
            keep=["sku"],
            in_flight=15,
            budget_usd=3,
            storage=saved_bucket,
            credentials=saved_xai,
            shard_rows=20,
            shard_deployment=deployment,
        )
    )
    with worker("killed", limit=1) as doomed:
        [killed] = await until(lambda: runs_of(doomed), batch)
        [number] = [run.parameters["shard"]["number"] for run in await shards_of(deployment) if str(run.id) == killed]
        own = {row["prompt"] for row in rows(60, words)[20 * number - 20 : 20 * number]}
        with worker("killed", limit=2), worker("killed", limit=2):
            await until(lambda: sum(row["prompt"] in own for row in billed(xai_emulator, words)) >= 4, batch)
            await kill_between_submissions(doomed, saved_bucket)
            assert sum(row["prompt"] in own for row in billed(xai_emulator, words)) < 20
            # As the automation does once the heartbeats have stopped for long enough.
            async with get_client() as prefect:
                rescued = State(type=StateType.SCHEDULED, name=RESCUED)
                await prefect.set_flow_run_state(UUID(killed), rescued, force=True)
            report = await batch

    paid = billed(xai_emulator, words)
    assert Counter(row["prompt"] for row in paid) == {row["prompt"]: 1 for row in rows(60, words)}
    assert len({row["client_request_id"] for row in paid}) == 60
    assert (report.count, report.states, report.new, report.cost_usd) == (60, {"stored": 60}, 60, Decimal(3))
    assert [row.key for row in report.rows] == [f"cats/{number}" for number in range(60)]
    assert report.rows[41].uri == f"s3://videos/{saved_bucket.bucket_folder}/cats/41.mp4"

    names = objects(saved_bucket)
    assert {f"cats/{number}.mp4" for number in range(60)} <= names
    assert {f"cats/cats.shard-000{number}.report.json" for number in (1, 2, 3)} <= names
    assert [name for name in names if name.endswith(".html")] == ["cats/cats.report/index.html"]
    assert f"{words} 41." in content(saved_bucket, "cats/cats.report/index.html").decode()
    [copy] = [name for name in names if ".manifest-" in name]
    assert content(saved_bucket, copy) == Path(manifest).read_bytes()
    facts = json.loads(content(saved_bucket, "cats/cats.report.json"))
    assert (facts["count"], facts["cost_usd"], facts["states"]) == (60, "3", {"stored": 60})
    lines = list(csv.DictReader(content(saved_bucket, "cats/cats.report.csv").decode().splitlines()))
    assert [line["place"] for line in lines] == [f"line {number}" for number in range(2, 62)]
    assert [line["sku"] for line in lines] == [f"S-{number}" for number in range(60)]
    assert report.rows.of("cats/41").kept == {"sku": "S-41"}

    runs = await shards_of(deployment)
    assert all(run.state.is_completed() for run in runs)
    assert [run.run_count for run in runs if str(run.id) == killed] == [2]
    assert [(run.parameters["in_flight"], run.parameters["budget_usd"]) for run in runs] == [(5, 1.0)] * 3
    assert all(run.parent_task_run_id for run in runs)
    stored = json.dumps([run.parameters for run in runs])
    assert words not in stored
    assert API_KEY not in stored


@ON_SQLITE
async def test_a_deployment_shards_itself_and_a_retry_runs_only_shards_with_missing_videos(
    deploy, worker, xai_emulator, saved_xai, saved_bucket
):
    words = f"Itself {uuid4().hex}"
    lines = rows(6, words)
    lines[4]["prompt"] += " [fault:moderated]"
    deployment = await deploy("itself", limit=3, shard_rows=3, storage=reference(saved_bucket))
    parameters = {"manifest": upload(lines, saved_bucket), "credentials": reference(saved_xai)}
    async with get_client() as prefect:
        it = await prefect.read_deployment_by_name(deployment)

        async def ended():
            found = await prefect.read_flow_run(run.id)
            return found if found.state.is_final() else None

        with worker("itself"):
            run = await prefect.create_flow_run_from_deployment(it.id, parameters=parameters)
            first = await until(ended)
            assert first.state.is_failed()
            assert "5 of 6 videos stored (1 moderated); $0.30 paid" in first.state.message
            assert [each.state.type for each in await shards_of(deployment)] == [StateType.COMPLETED] * 2

        # Another worker: that of Prefect 3.8 dies of a run whose process has not ended there yet.
        with worker("itself"):
            await prefect.set_flow_run_state(run.id, AwaitingRetry(), force=True)
            second = await until(ended)
            assert second.run_count == 2
            assert "5 of 6 videos stored (1 moderated)" in second.state.message
    assert [each.run_count for each in await shards_of(deployment)] == [1, 2]
    assert len(billed(xai_emulator, words)) == 6


@ON_SQLITE
async def test_cancelling_a_batch_cancels_its_shards(deploy, worker, xai_emulator, saved_xai, saved_bucket):
    words = f"Cancelled {uuid4().hex}"
    deployment = await deploy("cancelled")
    parameters = {
        "manifest": upload(rows(8, f"{words} [fault:never-done]"), saved_bucket),
        "credentials": reference(saved_xai),
        "storage": reference(saved_bucket),
        "shard_rows": 4,
        "in_flight": 2,
    }
    with worker("cancelled"):
        async with get_client() as prefect:
            it = await prefect.read_deployment_by_name(deployment)
            run = await prefect.create_flow_run_from_deployment(it.id, parameters=parameters)
            await until(lambda: len(billed(xai_emulator, words)) == 2)
            await prefect.set_flow_run_state(run.id, Cancelling())

        async def cancelled():
            return {each.state.type for each in await shards_of(deployment)} == {StateType.CANCELLED}

        await until(cancelled)
    assert len(billed(xai_emulator, words)) == 2


@ON_SQLITE
async def test_a_crashed_shard_is_restarted_and_one_without_a_report_counts_by_receipts(
    deploy, saved_xai, saved_bucket, xai_emulator
):
    deployment, words = await deploy("nobody"), f"Nobody {uuid4().hex}"
    options = {"storage": saved_bucket, "credentials": saved_xai}
    await agenerate_videos(rows(1, words), **options)
    batch = asyncio.create_task(
        agenerate_videos(rows(4, words), shard_rows=2, shard_deployment=deployment, **options)
    )

    async def both():
        runs = await shards_of(deployment)
        return runs if len(runs) == 2 else None

    async with get_client() as prefect:
        one, two = await until(both, batch)
        await prefect.set_flow_run_state(one.id, Cancelled())
        # A run whose worker has died may still report that itself.
        crashed = (await prefect.set_flow_run_state(two.id, Crashed(), force=True)).state

        async def restarted():
            state = (await prefect.read_flow_run(two.id)).state
            return state if state.name == "AwaitingRetry" else None

        again = await until(restarted, batch)
        # Whatever was left of the run on its worker has ended by then.
        assert again.state_details.scheduled_time >= crashed.timestamp + timedelta(seconds=RESTART_SECONDS)
        await prefect.set_flow_run_state(two.id, Cancelled())
    with pytest.raises(BatchFailed, match=r"1 of 4 videos stored \(3 not started\); nothing paid") as caught:
        await batch
    report = caught.value.report
    assert [row.state for row in report.rows] == ["stored", *["not started"] * 3]
    assert "Shard 2 ended as Cancelled, without a report" in report.rows[3].error
    assert len(billed(xai_emulator, words)) == 1


@ON_SQLITE
async def test_what_can_not_work_is_told_before_anything_is_sent(
    deploy, saved_xai, saved_bucket, bucket, xai_emulator, tmp_path
):
    deployment, words = await deploy("refusals"), f"Refused {uuid4().hex}"
    changed = await S3Bucket.aload(saved_bucket._block_document_name)
    changed.bucket_folder = "elsewhere"
    good = {"storage": saved_bucket, "credentials": saved_xai, "shard_rows": 2, "shard_deployment": deployment}
    shard = {"number": 1, "start": 0, "stop": 2, "digest": "0" * 64, "name": "batch", "folder": "cats"}
    for options, says in [
        ({"storage": None}, "storage: nothing, in a batch with shards, is not allowed; allowed: a saved S3Bucket"),
        ({"storage": LocalFileSystem(basepath=tmp_path)}, "storage: a LocalFileSystem that is not saved"),
        ({"storage": changed}, "storage: a S3Bucket that was changed after it was saved"),
        ({"credentials": XaiCredentials(api_key=API_KEY)}, "credentials: a XaiCredentials that is not saved"),
        ({"shard_deployment": None}, "shard_deployment: nothing, in a run without a deployment"),
        ({"shard_deployment": "generate-videos/nothing"}, "there is no deployment generate-videos/nothing"),
        ({"shard_deployment": "nothing"}, "shard_deployment: 'nothing' is not allowed; allowed: FLOW/NAME"),
        ({"shard_rows": 0}, "shard_rows: 0 is not allowed; allowed: a whole number of at least 1"),
        ({"shard": shard}, "manifest: its content has changed since it was split into shards"),
        ({"shard": {"number": 1}}, "shard: start .* is not allowed"),
        ({"shard": shard | {"name": "../x"}}, "shard: the name '../x' is not allowed"),
    ]:
        with pytest.raises(InvalidRequest, match=says):
            await agenerate_videos(rows(4, words), **good | options)
    assert billed(xai_emulator, words) == []
    assert await shards_of(deployment) == []


@ON_SQLITE
async def test_a_batch_that_leaves_its_shards_no_room_is_refused(
    deploy, worker, saved_xai, saved_bucket, xai_emulator
):
    words = f"Narrow {uuid4().hex}"
    parameters = {
        "manifest": upload(rows(2, words), saved_bucket),
        "credentials": reference(saved_xai),
        "storage": reference(saved_bucket),
        "shard_rows": 1,
    }
    deployment = await deploy("narrow", pool_limit=1)
    with worker("narrow"):
        async with get_client() as prefect:
            it = await prefect.read_deployment_by_name(deployment)
            run = await prefect.create_flow_run_from_deployment(it.id, parameters=parameters)

            async def ended():
                found = await prefect.read_flow_run(run.id)
                return found.state if found.state.is_final() else None

            state = await until(ended)
    assert state.is_failed()
    assert "The concurrency limit of the work pool narrow is 1, and this run" in state.message
    assert billed(xai_emulator, words) == []
