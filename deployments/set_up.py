"""Create on a Prefect server what these deployments need: `python deployments/set_up.py --pool process`.

It can be run again at any time. What is there already is left as it is: blocks, limits, the work pool, automations.
Of a deployment only what comes from the code is brought up to date (version, description, form); its schedules,
parameters, limit and job variables stay as somebody may have changed them.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import prefect_aws
import yaml
from automations import follow_up, notify, rescue
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import get_current_settings
from prefect.utilities.callables import parameter_schema
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type
from prefect_aws import AwsCredentials, S3Bucket

import prefect_xai_video
from prefect_xai_video import XaiCredentials
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.limits import LIMITS

ROOT = Path(__file__).parents[1]
PREFECT_FILE = ROOT / "deployments" / "prefect.yaml"
POOLS = ("process", "docker", "kubernetes", "ecs")
KEY = "xai-credentials/xai"
BUCKET = "s3-bucket/xai-videos"

T = TypeVar("T")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Create what is missing on the Prefect server of PREFECT_API_URL.")
    parser.add_argument("--pool", choices=POOLS, required=True, help="kind of work pool in which the flows run")
    parser.add_argument("--bucket", help="S3 bucket for the videos; needed unless the pool is of processes")
    parser.add_argument("--notify", metavar="TYPE/NAME", help="notification block, such as slack-webhook/team")
    parser.add_argument("--follow-up", metavar="FLOW/NAME", help="deployment to run when a video was stored")
    parser.add_argument("--rescue", action="store_true", help="set runs going again whose worker died")
    return parser.parse_args()


async def set_up(
    pool: str, bucket: str | None, notified: str | None, followed_up: str | None, *, rescued: bool
) -> None:
    """Create what is missing, and say what was done, line by line."""
    async with get_client() as client:
        await register_blocks()
        await save_key(client)
        await save_bucket(client, bucket, needed=pool != "process")
        await create_limits(client)
        await create_work_pool(client, pool)
        names = await deploy(client, pool)
        if notified:
            block = await found(block_id(client, notified)) or sys.exit(f"There is no block {notified}.")
            await create_automation(client, notify(block))
        if followed_up:
            await create_automation(client, await follow_up_of(client, followed_up, names))
        if rescued:
            await create_automation(client, rescue(pool, await ids_of(client, names)))
    # Runs start with the first `python` of the PATH, which must have the package.
    path = f'PATH="{Path(sys.executable).parent}:$PATH" ' if pool == "process" else ""
    say(f"\nStart a worker: {path}prefect worker start --pool {pool_name(pool)}")


async def register_blocks() -> None:
    """Show the blocks of this package and of prefect-aws in the UI."""
    for module in (prefect_xai_video, prefect_aws):
        for name in module.__all__:
            block = getattr(module, name)
            if isinstance(block, type) and issubclass(block, Block):
                await block.register_type_and_schema()
        say(f"blocks of {module.__name__}: registered")


async def save_key(client: PrefectClient) -> None:
    """Save the API key of XAI_API_KEY as a block."""
    if await found(block_id(client, KEY)):
        say(f"block {KEY}: there already")
        return
    await XaiCredentials.from_environment().save(KEY.partition("/")[2])
    say(f"block {KEY}: created from XAI_API_KEY")


async def save_bucket(client: PrefectClient, name: str | None, *, needed: bool) -> None:
    """Save the bucket as a block, to be used with the AWS credentials of the worker's environment."""
    if await found(block_id(client, BUCKET)):
        say(f"block {BUCKET}: there already")
    elif name:
        await S3Bucket(bucket_name=name, credentials=AwsCredentials()).save(BUCKET.partition("/")[2])
        say(f"block {BUCKET}: created for the bucket {name}")
    elif needed:
        sys.exit(f"There is no block {BUCKET}: give a --bucket, since a container's disk goes with the container.")


async def create_limits(client: PrefectClient) -> None:
    """Create the global limits that the flows keep."""
    for limit in LIMITS:
        if await found(client.read_global_concurrency_limit_by_name(limit.name)):
            say(f"limit {limit.name}: there already")
            continue
        await client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(
                name=limit.name,
                limit=limit.limit,
                slot_decay_per_second=limit.slot_decay_per_second,
                active=limit.active,
            )
        )
        say(f"limit {limit.name}: created, {limit.limit} slots, {'on' if limit.active else 'off'}")


async def create_work_pool(client: PrefectClient, pool: str) -> None:
    """Create the work pool with the job template that its kind of worker brings."""
    name = pool_name(pool)
    if await found(client.read_work_pool(name)):
        say(f"work pool {name}: there already")
        return
    template = await get_default_base_job_template_for_infrastructure_type(pool)
    await client.create_work_pool(
        WorkPoolCreate(name=name, type=pool, description="Makes videos with xAI.", base_job_template=template or {})
    )
    say(f"work pool {name}: created")


async def deploy(client: PrefectClient, pool: str) -> list[str]:
    """Create the deployments of a pool, or bring up to date what comes from the code; gives their names."""
    in_bucket = await found(block_id(client, BUCKET)) is not None
    names, new = [], {}
    for entry in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]:
        if entry["work_pool"]["name"] != pool_name(pool):
            continue
        flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
        name = f"{flow.name}/{entry['name']}"
        names.append(name)
        if deployment := await found(client.read_deployment_by_name(name)):
            await name_blocks_by_id(client, name)
            await bring_up_to_date(client, name, deployment, flow, entry)
            continue
        if in_bucket and "storage" in flow.parameters.properties:
            entry["parameters"] = {"storage": {"$ref": {"block_document_slug": BUCKET}}} | entry["parameters"]
        new[name] = entry
    prefect_deploy(list(new.values()))
    for name in new:
        await name_blocks_by_id(client, name)
        say(f"deployment {name}: created")
    return names


def prefect_deploy(entries: list[dict[str, Any]]) -> None:
    """Deploy some entries of the Prefect file."""
    if not entries:
        return
    content = yaml.safe_load(PREFECT_FILE.read_text()) | {"deployments": entries}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "prefect.yaml"
        file.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
    if result.returncode:
        sys.exit(f"prefect deploy failed:\n{result.stdout}")


async def bring_up_to_date(
    client: PrefectClient, name: str, deployment: DeploymentResponse, flow: Flow[..., Any], entry: dict[str, Any]
) -> None:
    """Update of a deployment what comes from the code, and nothing that is decided in the UI."""
    new = {
        "version": entry["version"],
        "description": entry["description"],
        "parameter_openapi_schema": parameter_schema(flow).model_dump(),
    }
    if all(getattr(deployment, field) == value for field, value in new.items()):
        say(f"deployment {name}: there already")
        return
    await client.update_deployment(deployment.id, DeploymentUpdate(**new))
    say(f"deployment {name}: brought up to version {entry['version']}; what is set in the UI stays")


async def name_blocks_by_id(client: PrefectClient, name: str) -> None:
    """Name the blocks of a new deployment as the forms of the UI do: named otherwise, they show none.

    Not in the Prefect file: `prefect deploy` replaces such a reference by what the block holds, secrets and all.
    """
    deployment = await client.read_deployment_by_name(name)
    by_id = {}
    for parameter, value in deployment.parameters.items():
        match value:
            case {"$ref": {"block_document_slug": slug}}:
                by_id[parameter] = {"$ref": {"block_document_id": str(await block_id(client, slug))}}
    if by_id:
        parameters = deployment.parameters | by_id
        await client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))


async def follow_up_of(client: PrefectClient, name: str, names: list[str]) -> AutomationCore:
    """The automation that runs a deployment for each video of some others."""
    deployment = await found(client.read_deployment_by_name(name)) or sys.exit(f"There is no deployment {name}.")
    sources = [(await client.read_deployment_by_name(source)).id for source in names if source != name]
    return follow_up(deployment, sources)


async def ids_of(client: PrefectClient, names: list[str]) -> list[UUID]:
    """The ids of the deployments that make one video: only their runs stop after three rescues."""
    makes_one = [name for name in names if name.startswith(("generate-video/", "collect-video/"))]
    return [(await client.read_deployment_by_name(name)).id for name in makes_one]


async def create_automation(client: PrefectClient, automation: AutomationCore) -> None:
    """Create an automation, unless there is one of that name."""
    there = await client.read_automations_by_name(automation.name)
    if not there:
        await client.create_automation(automation)
    say(f"automation {automation.name}: {'there already' if there else 'created'}")


async def block_id(client: PrefectClient, slug: str) -> UUID:
    """The id of the block `TYPE/NAME`."""
    kind, _, name = slug.partition("/")
    return (await client.read_block_document_by_name(name, kind, include_secrets=False)).id


async def found(reading: Awaitable[T]) -> T | None:
    """What was read, or None if there is no such thing."""
    try:
        return await reading
    except ObjectNotFound:
        return None


def pool_name(pool: str) -> str:
    """The name that prefect.yaml gives to the work pool of a kind."""
    return f"xai-video-{pool}"


def say(line: str) -> None:
    """Print at once: the next step may take a while."""
    print(line, flush=True)


def main() -> None:
    """Set up the server of PREFECT_API_URL."""
    chosen = arguments()
    if not get_current_settings().api.url:
        sys.exit("Which server? Set PREFECT_API_URL, for instance to http://127.0.0.1:4200/api.")
    # Entry points and working directories are those of the checkout.
    os.chdir(ROOT)
    try:
        asyncio.run(set_up(chosen.pool, chosen.bucket, chosen.notify, chosen.follow_up, rescued=chosen.rescue))
    except XaiVideoError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
