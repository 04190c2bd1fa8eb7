"""The deployments as people get them: set up by the one command, run by a worker, on a real server."""

import hashlib
import json
import os
import re
import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from uuid import UUID, uuid4

import httpx
import jsonschema
import pytest
import yaml
from playwright.async_api import expect
from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.actions import (
    DeploymentScheduleUpdate,
    DeploymentUpdate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import Event
from prefect.flows import EntrypointType
from prefect.server.api import collections
from prefect.settings import Settings
from prefect.states import Cancelled, Cancelling, Completed, Running, Suspended
from prefect.utilities.templating import apply_values

import prefect_xai_video
from prefect_xai_video import agenerate_video
from prefect_xai_video.orchestration.limits import LIMITS
from prefect_xai_video.setup import automations, server

from ..support.api_key import API_KEY
from ..support.processes import family, signal_all
from ..support.server import running_server, running_worker, server_environment, used_by_this_process
from .forms import OLD, V2, fill_in, open_form, submit
from .own_flows import publish

# The first test of a module starts a server, sets it up and starts a worker.
pytestmark = pytest.mark.timeout(600)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
POOL = "xai-video-process"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
GENERATE = "generate-video/make-a-video"
COLLECT = "collect-video/collect-a-video"
PREFECT_FILE = yaml.safe_load(server.PREFECT_FILE.read_text())
DEPLOYMENTS = {
    f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}": entry for entry in PREFECT_FILE["deployments"]
}
IMAGES = {
    "docker": lambda job: job["image"],
    "kubernetes": lambda job: job["job_manifest"]["spec"]["template"]["spec"]["containers"][0]["image"],
    "ecs": lambda job: job["task_definition"]["containerDefinitions"][0]["image"],
}


def worker_template(kind: str) -> dict:
    """The job template that Prefect's own worker of that kind brings, as a server without internet gives it."""
    path = Path(collections.__file__).parent / "collections_data" / "views" / "aggregate-worker-metadata.json"
    workers = [worker for collection in json.loads(path.read_text()).values() for worker in collection.values()]
    return next(worker for worker in workers if worker["type"] == kind)["default_base_job_configuration"]


# Without a server


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_job_variables_fit_the_template_of_the_worker(name):
    entry = DEPLOYMENTS[name]
    kind = entry["work_pool"]["name"].removeprefix("xai-video-")
    template = worker_template(kind)
    variables = entry["work_pool"]["job_variables"]

    assert variables.keys() <= template["variables"]["properties"].keys()
    jsonschema.validate(variables, template["variables"])

    job = apply_values(template["job_configuration"], variables)
    assert job["env"] == variables["env"]
    if kind in IMAGES:
        assert IMAGES[kind](job) == f"prefect-xai-video:{version()}"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_each_deployment_says_what_it_is(name):
    entry = DEPLOYMENTS[name]

    assert entry["version"] == version()
    assert entry["description"]
    assert "xai-video" in entry["tags"]
    assert entry["concurrency_limit"]["collision_strategy"] == "ENQUEUE"
    assert not any(schedule["active"] for schedule in entry.get("schedules", []))


# animate_image stores beside its image.
ON_PROCESSES = [name for name, entry in DEPLOYMENTS.items() if entry["work_pool"]["name"] == POOL]
IN_CONTAINERS = [name for name in DEPLOYMENTS if name not in ON_PROCESSES and "animate_image" not in name]


@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_a_container_stores_videos_in_a_bucket(name):
    assert DEPLOYMENTS[name]["parameters"]["storage"] == {"$ref": {"block_document_slug": "s3-bucket/xai-videos"}}


def test_the_image_copies_what_there_is_and_is_not_run_by_root():
    lines = (ROOT / "deployments" / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]

    assert {"prefect_xai_video", "flows"} <= set(copied)
    assert all((ROOT / source).exists() for source in copied)
    assert int(re.findall(r"^USER (\d+)$", "\n".join(lines), re.MULTILINE)[-1]) > 0


def version() -> str:
    return prefect_xai_video.__version__


# On a server with a worker


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def api(home, database):
    """A fresh server, to which this process speaks too."""
    with running_server(home / "home", database) as url, used_by_this_process(url):
        yield url


@pytest.fixture(scope="module")
def emulator(emulator_of_module):
    return emulator_of_module


@pytest.fixture(scope="module")
def env(home, api, emulator, aws_env, forking):
    """What everybody on this server has in the environment; only the set-up has the API key."""
    env = server_environment(home / "home", api) | aws_env
    env |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "PATH": os.pathsep.join([str(forking.commands), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "XAI_BASE_URL": emulator.base_url,
        "PREFECT_INTEGRATIONS_XAI_VIDEO_PREVIEW": "true",
    }
    for name in ("FIRST_POLL_SECONDS", "POLL_MIN_SECONDS", "POLL_MAX_SECONDS"):
        env[f"PREFECT_INTEGRATIONS_XAI_VIDEO_{name}"] = "0.3"
    return env


@pytest.fixture(scope="module")
def set_up(env, forking):
    """Runs the documented command, and gives what it says."""

    def run(*options: str, **more: str) -> list[str]:
        command = [*forking.command("prefect_xai_video"), "setup", *options]
        result = subprocess.run(command, env=env | more, cwd="/", capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.splitlines()

    return run


@pytest.fixture(scope="module")
def s3(aws):
    """A bucket of its own on the S3 server."""
    client = aws.get_s3_client()
    client.create_bucket(Bucket="deployed")
    return client


@pytest.fixture(scope="module")
def notified(api):
    """A notification block, and what was sent with it."""
    received = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        Thread(target=receiver.serve_forever, daemon=True).start()
        CustomWebhookNotificationBlock(
            name="test",
            url=f"http://127.0.0.1:{receiver.server_port}",
            json_data={"subject": "{{subject}}", "body": "{{body}}"},
        ).save("team")
        yield received
        receiver.shutdown()


@pytest.fixture(scope="module")
def first(set_up, s3, notified):
    """What the command says that sets a fresh server up."""
    return set_up("--pool", "process", "--bucket", "deployed", "--notify", "custom-webhook/team", XAI_API_KEY=API_KEY)


@pytest.fixture(scope="module")
def again(first, set_up):
    """What it says the second time, after people have changed things; with a follow-up for stored videos."""
    with get_client(sync_client=True) as prefect:
        RunnerDeployment.from_flow(
            publish, "test", work_pool_name=POOL, entrypoint_type=EntrypointType.MODULE_PATH
        ).apply()
        deployment = prefect.read_deployment_by_name(COLLECT)
        changed = DeploymentUpdate(
            version="0.0.1", tags=["ours"], concurrency_limit=3, parameters={"key": "cats/one"}
        )
        prefect.update_deployment(deployment.id, changed)
        generate = prefect.read_deployment_by_name(GENERATE)
        prefect.update_deployment_schedule(generate.id, generate.schedules[0].id, active=True)
        # Where the scheduler comes too late for the first run, there is another one.
        soon = IntervalSchedule(interval=timedelta(minutes=2), anchor_date=datetime.now(UTC) + timedelta(seconds=15))
        parameters = {"prompt": "A dog", "duration": 1, "key": "by/schedule"}
        schedules = [DeploymentScheduleUpdate(slug="soon", schedule=soon, active=True, parameters=parameters)]
        prefect.update_deployment(generate.id, DeploymentUpdate(schedules=schedules))
        prefect.update_global_concurrency_limit("xai-video-in-flight", GlobalConcurrencyLimitUpdate(limit=7))
        prefect.update_work_pool(POOL, WorkPoolUpdate(description="Ours."))
    said = set_up("--pool", "process", "--follow-up", "publish/test", "--rescue")
    with get_client(sync_client=True) as prefect:
        [follow_up] = prefect.read_automations_by_name("xai-video: follow-up")
        prefect.pause_automation(follow_up.id)
    return said


@pytest.fixture(scope="module")
def worker(first, api, env, home):
    """A worker for the pool, without the API key."""
    with running_worker(home / "home", api, POOL, **env):
        yield


@pytest.fixture(scope="module")
def own_runs(again, worker, env, home):
    """Runs of somebody's own flows have ended; the automation for stored videos was switched on meanwhile."""
    with get_client(sync_client=True) as prefect:
        [follow_up] = prefect.read_automations_by_name("xai-video: follow-up")
        prefect.resume_automation(follow_up.id)
    command = [sys.executable, HERE / "own_flows.py", home / "videos"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    ended_run("publish/test")
    with get_client(sync_client=True) as prefect:
        prefect.pause_automation(follow_up.id)


def runs_of(name: str) -> list[FlowRun]:
    """The runs of a deployment."""
    with get_client(sync_client=True) as prefect:
        ids = FlowRunFilterDeploymentId(any_=[prefect.read_deployment_by_name(name).id])
        return prefect.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=ids))


def ended_run(name: str, **parameters: str) -> FlowRun:
    """The run of a deployment that has these parameters, once it has ended."""
    for _ in range(1500):
        for run in runs_of(name):
            if parameters.items() <= run.parameters.items() and run.state.is_final():
                assert run.state.is_completed(), run.state
                return run
        time.sleep(0.3)
    raise TimeoutError(f"{name} {parameters}")


def wait_until(there, patience: float = 400) -> None:
    for _ in range(int(patience / 0.3)):
        if there():
            return
        time.sleep(0.3)
    raise TimeoutError


def has_ended(run_id: UUID) -> bool:
    with get_client(sync_client=True) as prefect:
        return prefect.read_flow_run(run_id).state.is_final()


def has_said(run_id: UUID, words: str) -> None:
    """Wait until the log of a run has a line with these words."""
    of_the_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    with get_client(sync_client=True) as prefect:
        wait_until(lambda: any(words in line.message for line in prefect.read_logs(of_the_run)))


def state_of(key: str, s3) -> str:
    return json.loads(s3.get_object(Bucket="deployed", Key=f"{key}.json")["Body"].read())["state"]


def objects(s3) -> set[str]:
    return {item["Key"] for item in s3.list_objects_v2(Bucket="deployed").get("Contents", [])}


def of_deployments(said: list[str]) -> dict[str, str]:
    lines = [line.removeprefix("deployment ") for line in said if line.startswith("deployment ")]
    return dict(line.split(": ", 1) for line in lines)


def test_one_command_sets_up_a_fresh_server(first, env):
    assert [line for line in first if not line.startswith("deployment ")] == [
        "blocks of prefect_xai_video: registered",
        "blocks of prefect_aws: registered",
        f"block xai-credentials/xai: created from XAI_API_KEY, for {env['XAI_BASE_URL']}",
        "block s3-bucket/xai-videos: created for the bucket deployed",
        *(
            f"limit {it.name}: created with limit {it.limit}, {'active' if it.active else 'inactive'}"
            for it in LIMITS
        ),
        f"work pool {POOL}: created",
        "automation xai-video: notify: created",
        "",
        f'Start a worker: PATH="{Path(sys.executable).parent}:$PATH" prefect worker start --pool {POOL}',
        "Without this PATH, runs crash: each starts the first python on the PATH, which must have this package.",
    ]
    created = of_deployments(first)
    assert created.keys() >= {GENERATE, COLLECT}
    assert len(created) == len(ON_PROCESSES)
    assert set(created.values()) == {"created"}


def test_setting_up_again_creates_only_what_is_missing(again):
    assert [line for line in again[2:-3] if not line.startswith("deployment ")] == [
        "block xai-credentials/xai: exists",
        "block s3-bucket/xai-videos: exists",
        *(f"limit {limit.name}: exists" for limit in LIMITS),
        f"work pool {POOL}: exists",
        "automation xai-video: follow-up: created",
        "automation xai-video: rescue process: created",
    ]
    updated = of_deployments(again)
    collected = updated.pop(COLLECT)
    assert collected == f"updated to version {version()}; settings made in the UI were kept"
    assert set(updated.values()) == {"exists"}


def test_setting_up_again_keeps_what_people_changed(again):
    with get_client(sync_client=True) as prefect:
        collect = prefect.read_deployment_by_name(COLLECT)
        generate = prefect.read_deployment_by_name(GENERATE)
        assert prefect.read_global_concurrency_limit_by_name("xai-video-in-flight").limit == 7
        assert prefect.read_work_pool(POOL).description == "Ours."

    assert collect.version == version()
    assert collect.tags == ["ours"]
    assert collect.parameters == {"key": "cats/one"}
    assert collect.global_concurrency_limit.limit == 3
    assert {schedule.slug: schedule.active for schedule in generate.schedules} == {
        "every-morning": True,
        "soon": True,
    }


def test_forms_show_the_blocks(first):
    with get_client(sync_client=True) as prefect:
        parameters = prefect.read_deployment_by_name(GENERATE).parameters

    assert parameters.keys() == {"credentials", "storage"}
    assert all(value["$ref"].keys() == {"block_document_id"} for value in parameters.values())


def test_run_from_the_command_line_stores_a_video_in_the_bucket_and_says_what_it_does(worker, env, s3, forking):
    command = [*forking.command("prefect"), "deployment", "run", GENERATE, "--watch"]
    prompt = "prompt=A cat by command [fault:start-429-retry-after]"
    parameters = ["-p", prompt, "-p", "duration=1", "-p", "key=by/command"]
    result = subprocess.run([*command, *parameters], env=env, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr
    assert {"by/command.mp4", "by/command.json"} <= objects(s3)
    has_said(ended_run(GENERATE, key="by/command").id, "Retrying in 1 s.")


def test_a_long_video_is_estimated_and_made_by_its_deployment(worker, s3):
    name, story = "generate-long-video/make-a-long-video", {"prompts": ["A ship", "A storm"], "duration": 4}
    with get_client(sync_client=True) as prefect:
        deployment = prefect.read_deployment_by_name(name)
        for parameters in ({"key": "by/estimate", "dry_run": True}, {"key": "by/ship"}):
            prefect.create_flow_run_from_deployment(deployment.id, parameters=story | parameters)
    summary = "4 s in 2 segments of grok-imagine-video, about $0.22. Nothing was sent."
    assert ended_run(name, key="by/estimate").state.message == summary
    assert "by/ship.mp4 (4 s, $0.22)" in ended_run(name, key="by/ship").state.message
    assert {"by/ship.mp4", "by/ship.long.json", "by/ship/02.json"} <= objects(s3)
    assert not any(key.startswith("by/estimate") for key in objects(s3))


def test_run_by_a_schedule_stores_a_video_in_the_bucket(again, worker, s3):
    run = ended_run(GENERATE, key="by/schedule")
    with get_client(sync_client=True) as prefect:
        deployment = prefect.read_deployment_by_name(GENERATE)
        [schedule] = [schedule for schedule in deployment.schedules if schedule.slug == "soon"]
        prefect.update_deployment_schedule(deployment.id, schedule.id, active=False)

    assert run.auto_scheduled
    assert "by/schedule.mp4" in objects(s3)


def test_cancelling_stops_the_waiting_and_says_how_the_video_is_picked_up(worker, s3):
    with get_client(sync_client=True) as prefect:
        parameters = {"prompt": "A cat [fault:never-done]", "duration": 1, "key": "by/nobody-waits"}
        deployment = prefect.read_deployment_by_name(GENERATE)
        run = prefect.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        wait_until(lambda: "by/nobody-waits.json" in objects(s3) and state_of("by/nobody-waits", s3) == "submitted")
        wait_until(lambda: "xai-video.request-id" in prefect.read_flow_run(run.id).labels)
        prefect.set_flow_run_state(run.id, Cancelling())
        wait_until(lambda: prefect.read_flow_run(run.id).end_time)
        run = prefect.read_flow_run(run.id)
    has_said(run.id, f"The run was cancelled. xAI accepted request {run.labels['xai-video.request-id']}")
    assert run.state.is_cancelled()
    assert state_of("by/nobody-waits", s3) == "submitted"


def test_the_rescue_waits_for_three_heartbeats_and_is_of_these_deployments_only():
    deployment = uuid4()
    rescue = automations.rescue("test", [deployment])
    assert rescue.trigger.within == timedelta(seconds=540)
    assert rescue.trigger.within >= 3 * timedelta(seconds=Settings().flows.heartbeat_frequency)
    assert rescue.trigger.match_related.root["prefect.resource.id"] == [f"prefect.deployment.{deployment}"]
    [action] = rescue.actions
    assert (action.state, action.name, action.force) == (StateType.SCHEDULED, "Rescued", True)


def heard_of(api: str, run_id: UUID) -> bool:
    """Whether the server has had a heartbeat of a run."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
    return httpx.post(f"{api}/events/filter", json={"filter": wanted}).json()["total"] > 0


def test_a_run_whose_worker_was_killed_is_set_going_again_and_pays_once(first, api, env, home, emulator, s3):
    pool, key = "doomed", "by/rescue"
    with get_client(sync_client=True) as prefect:
        prefect.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        storage = prefect.read_deployment_by_name(GENERATE).parameters
        deployment = RunnerDeployment.from_flow(
            agenerate_video, "doomed", work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH
        ).apply()
        prefect.create_automation(automations.rescue("test", [deployment], timedelta(seconds=15)))
        parameters = storage | {"prompt": "A cat to be rescued", "duration": 1, "key": key}
        run = prefect.create_flow_run_from_deployment(deployment, parameters=parameters)
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--prefetch-seconds", "1"]
        waits_long = {"PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS": "600", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        with (home / "doomed.log").open("wb") as log:
            doomed = subprocess.Popen(command, env=env | waits_long, stdout=log, stderr=log)
        try:
            wait_until(lambda: f"{key}.json" in objects(s3) and state_of(key, s3) == "submitted")
            wait_until(lambda: heard_of(api, run.id))
        finally:
            signal_all(family(doomed.pid), signal.SIGKILL)
            doomed.wait()
        with running_worker(home / "home", api, pool, **env):
            wait_until(lambda: has_ended(run.id))
        states = prefect.read_flow_run_states(run.id)

    assert states[-1].is_completed(), states[-1]
    assert "Rescued" in {state.name for state in states}
    assert f"{key}.mp4" in objects(s3)
    sent = [request for request in emulator.requests() if request["method"] == "POST"]
    assert sum("A cat to be rescued" in json.dumps(request) for request in sent) == 1


def test_only_a_run_of_a_deployment_is_rescued_and_only_if_it_did_not_tell_its_end(first, api, home):
    with get_client(sync_client=True) as prefect:
        prefect.create_work_pool(WorkPoolCreate(name="without-worker", type="process"))
        deployment = RunnerDeployment.from_flow(
            agenerate_video, "silent", work_pool_name="without-worker", entrypoint_type=EntrypointType.MODULE_PATH
        ).apply()
        # On a busy machine a window may end before the server has counted the events in it: try a longer one.
        for seconds in (10, 40, 160):
            automation = prefect.create_automation(
                automations.rescue("silent", [deployment], timedelta(seconds=seconds))
            )
            if runs := told_in_time(api, home, deployment, seconds):
                break
            prefect.delete_automation(automation)
        assert runs, "the server counts events too slowly"
        # The windows of the others end before that of the silent run.
        wait_until(lambda: prefect.read_flow_run(runs["silent"]).state.name == "Rescued")
        names = {name: prefect.read_flow_run(run).state.name for name, run in runs.items()}
    assert names == {
        "subflow": "Running",
        "cancelled": "Cancelled",
        "suspended": "Suspended",
        "completed": "Completed",
        "silent": "Rescued",
    }


def told_in_time(api: str, home: Path, deployment: UUID, window: float) -> dict[str, UUID] | None:
    """Runs that were alive, and then reported an end or nothing; None if the server did not count that in time."""
    parameters, runs = {"prompt": "A cat"}, {}
    with get_client(sync_client=True) as prefect:
        runs["subflow"] = prefect.create_flow_run(agenerate_video, parameters=parameters).id
        prefect.set_flow_run_state(runs["subflow"], Running(), force=True)
        send_heartbeat(api, runs["subflow"], None)
        ends = {"cancelled": Cancelled(), "suspended": Suspended(), "completed": Completed(), "silent": None}
        for name, end in ends.items():
            runs[name] = run = prefect.create_flow_run_from_deployment(deployment, parameters=parameters).id
            prefect.set_flow_run_state(run, Running(), force=True)
            send_heartbeat(api, run, deployment)
            if not is_counted(home, run, 0, window):
                return None
            if end:
                prefect.set_flow_run_state(run, end, force=True)
                if not is_counted(home, run, 1, window):
                    return None
    return runs


def is_counted(home: Path, run_id: UUID, events: int, patience: float) -> bool:
    """Whether the server counts so many events of a run after its heartbeat, while its window lasts.

    It handles two events at a time: an end that is reported before the heartbeat is counted may overtake it, and
    Prefect 3.8 then misses the end.
    """
    query = "SELECT count FROM automation_bucket WHERE json_extract(bucketing_key, '$[0]') = ?"
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(home / "home" / "prefect.db", timeout=60)) as database:
            if database.execute(query, [f"prefect.flow-run.{run_id}"]).fetchall() == [(events,)]:
                return True
        time.sleep(0.1)
    return False


def send_heartbeat(api: str, run_id: UUID, deployment: UUID | None) -> None:
    """Tell the server that a run is alive, as Prefect's engine does."""
    of = {"prefect.resource.id": f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"}
    event = Event(
        event="prefect.flow-run.heartbeat",
        resource={"prefect.resource.id": f"prefect.flow-run.{run_id}"},
        related=[of] if deployment else [],
    )
    httpx.post(f"{api}/events", json=[event.model_dump(mode="json")]).raise_for_status()


def test_a_deployment_reads_images_of_its_own_bucket_and_no_file_of_the_worker(worker, s3):
    s3.create_bucket(Bucket="payroll")
    for bucket in ("deployed", "payroll"):
        s3.put_object(Bucket=bucket, Key="inputs/cat.png", Body=PNG)
    images = {
        "inputs/moving": "s3://deployed/inputs/cat.png",
        "inputs/of-others": "s3://payroll/inputs/cat.png",
        "inputs/of-worker": str(ROOT / "docs" / "images" / "form-v2.png"),
        "inputs/missing": "/missing.png",
    }
    with get_client(sync_client=True) as prefect:
        deployment = prefect.read_deployment_by_name(GENERATE)
        runs = {}
        for key, image in images.items():
            parameters = {"prompt": "A cat", "duration": 1, "key": key, "image_url": image}
            run = prefect.create_flow_run_from_deployment(
                deployment.id, parameters=deployment.parameters | parameters
            )
            runs[key] = run.id
        wait_until(lambda: all(map(has_ended, runs.values())))
        states = {key: prefect.read_flow_run(run).state for key, run in runs.items()}

    assert states.pop("inputs/moving").is_completed()
    assert all(state.is_failed() for state in states.values())
    said = {state.message.replace(images[key], "IMAGE").replace(key, "KEY") for key, state in states.items()}
    assert len(said) == 1, said
    sentence = said.pop()
    assert "image_url: 'IMAGE' can't be used; allowed: a PNG, JPEG or WebP image in" in sentence
    assert "s3://deployed/, or at an https: or data: URL" in sentence
    assert {key for key in objects(s3) if key.startswith("inputs/")} == {
        "inputs/cat.png",
        "inputs/moving.json",
        "inputs/moving.mp4",
    }


def test_deployment_from_python_has_the_blocks_and_a_schedule_that_is_off(first, monkeypatch):
    with get_client(sync_client=True) as prefect:
        template = worker_template("docker")
        prefect.create_work_pool(WorkPoolCreate(name="xai-video-docker", type="docker", base_job_template=template))
        monkeypatch.setattr(sys, "argv", ["deploy.py", "xai-video-docker"])
        runpy.run_path(str(ROOT / "deployments" / "deploy.py"), run_name="__main__")
        made = prefect.read_deployment_by_name("generate-video/from-python")

    assert made.entrypoint == "prefect_xai_video.flows.agenerate_video"
    assert made.job_variables["image"] == f"prefect-xai-video:{version()}"
    assert made.parameters.keys() == {"credentials", "storage"}
    assert all(value["$ref"].keys() == {"block_document_id"} for value in made.parameters.values())
    assert [schedule.active for schedule in made.schedules] == [False]


def test_served_flow_makes_a_video(first, env, home):
    environment = env | {
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_INTEGRATIONS_XAI_VIDEO_HOME": str(home / "served"),
    }
    serving = subprocess.Popen([sys.executable, ROOT / "deployments" / "serve.py"], env=environment)
    try:
        with get_client(sync_client=True) as prefect:
            wait_until(lambda: {"generate-video", "generate-long-video", "collect-video"} == served(prefect))
            deployment = prefect.read_deployment_by_name("generate-video/served")
            parameters = {"prompt": "A cat", "duration": 1, "key": "by/server"}
            prefect.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        ended_run("generate-video/served", key="by/server")
    finally:
        serving.terminate()
        serving.wait()

    assert (home / "served" / "by" / "server.mp4").is_file()


def served(prefect) -> set[str]:
    made = [deployment for deployment in prefect.read_deployments() if deployment.name == "served"]
    return {prefect.read_flow(deployment.flow_id).name for deployment in made}


def test_other_flow_runs_the_deployment(own_runs, s3):
    assert "by/flow.mp4" in objects(s3)


def test_follow_up_runs_for_a_video_of_the_deployment_and_for_no_other(own_runs):
    ended_run("publish/test", key="by/flow", uri="s3://deployed/by/flow.mp4")

    assert [run.parameters["key"] for run in runs_of("publish/test")] == ["by/flow"]


def test_people_are_told_of_a_moderated_video(own_runs, notified):
    wait_until(lambda: notified)

    assert [message["subject"] for message in notified] == ["xai-video.moderated: by/nobody"]
    assert "regenerate" in notified[0]["body"]


def test_the_api_key_is_in_nothing_that_is_stored_or_logged(first, again, own_runs, home):
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {"prefect.db", "server.log", f"worker-{POOL}.log"} <= {path.name for path in files}
    assert any(b"every-morning" in path.read_bytes() for path in files)
    assert [path.name for path in files if API_KEY.encode() in path.read_bytes()] == []
    assert API_KEY not in "\n".join([*first, *again])


# In the browser


@pytest.fixture(scope="module")
def generate(first):
    """The id of the deployment that makes videos."""
    with get_client(sync_client=True) as prefect:
        return prefect.read_deployment_by_name(GENERATE).id


async def ask_for_video(page, ui, server_url, deployment_id, **values) -> UUID:
    """Fill in the form and submit it."""
    await open_form(page, ui, server_url, deployment_id)
    await fill_in(page, ui, {title.capitalize(): value for title, value in values.items()})
    return await submit(page, ui)


async def open_artifact(page, ui, server_url, run: UUID) -> None:
    """Wait for the end of a run, and open its artifact, as a person would."""
    # What a browser draws of a run in progress costs more than the run.
    await page.goto("about:blank")
    wait_until(lambda: has_ended(run))
    await page.goto(f"{server_url}{ui.path}/runs/flow-run/{run}", wait_until="commit")
    await expect(page.get_by_text(re.compile("^(Completed|Failed)$")).first).to_be_visible()
    await page.get_by_text("Artifacts", exact=True).click()
    await page.locator("a[href*='/artifacts/']", has_text="xai-video-").click()
    table = page.locator("table")
    # The new UI of Prefect 3.8 first lists the artifacts of the key, by the beginnings of their ids, newest first.
    listed = page.locator("a[href*='/artifacts/artifact/']", has_text=re.compile(r"^\s*[0-9a-f]{8}\s*$"))
    await expect(table.or_(listed).first).to_be_visible()
    if await listed.count():
        await listed.first.click()
    await expect(table).to_be_visible()


async def rows_of_table(page) -> dict[str, str]:
    # A page may show a table before it shows its rows, and a browser need not put a tab between two cells.
    await expect(page.get_by_role("cell", name="Key", exact=True)).to_be_visible()
    rows = await page.locator("tr:has(td)").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.innerText))")
    return dict([text.replace("\xa0", " ").strip() for text in row] for row in rows)


@pytest.mark.asyncio(loop_scope="session")
async def test_the_artifact_of_a_video_has_its_preview_its_link_and_its_facts(page, ui, api, generate, worker, s3):
    server_url, key = api.removesuffix("/api"), f"by/{ui.name}"
    run = await ask_for_video(page, ui, server_url, generate, prompt="A cat in the sun", duration=2, key=key)
    await open_artifact(page, ui, server_url, run)

    facts = await rows_of_table(page)
    preview = page.locator("img[src^='data:image/webp;base64,']")
    if ui is OLD:
        await expect(preview).to_have_count(0)
    else:
        await expect(preview).to_be_visible()
        assert await preview.evaluate("image => image.naturalWidth") > 0

    link = page.get_by_role("link", name="Open the video")
    video = await page.request.get(await link.get_attribute("href"))
    assert video.ok
    assert video.headers["content-type"] == "video/mp4"
    content = await video.body()

    assert facts["Prompt"] == "A cat in the sun"
    assert facts["Duration"] == "2 s"
    assert facts["Cost"] == "$0.10"
    assert facts["Key"] == key
    assert facts["Video"] == f"s3://deployed/{key}.mp4"
    assert "".join(facts["SHA-256"].split()) == hashlib.sha256(content).hexdigest()
    receipt = json.loads(s3.get_object(Bucket="deployed", Key=f"{key}.json")["Body"].read())
    assert facts["Request id"] == receipt["attempts"][-1]["request_id"]

    player = page.locator("video[src]")
    if ui is V2:
        await expect(player).to_have_count(0)
    else:
        await expect(player).to_have_js_property("readyState", 4)


@pytest.mark.asyncio(loop_scope="session")
async def test_the_artifact_of_a_moderated_video_says_what_happened_what_it_cost_and_what_to_do(page, api, own_runs):
    async with get_client() as prefect:
        [run] = [run for run in await prefect.read_flow_runs() if run.parameters.get("key") == "by/nobody"]
    await open_artifact(page, V2, api.removesuffix("/api"), run.id)

    await expect(page.get_by_role("heading", name="Content moderation blocked the video")).to_be_visible()
    await expect(page.get_by_text("Cost: $0.05 (as billed by xAI)")).to_be_visible()
    await expect(page.get_by_text("Next step: run again with this key, another prompt")).to_be_visible()
    assert (await rows_of_table(page))["Key"] == "by/nobody"
