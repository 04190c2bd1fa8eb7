"""Sets up a Prefect server for this package; it can be repeated at any time.

What exists already is left as it is: blocks, limits, the work pool, automations. Of a deployment only what comes from
the code is updated (version, description, form), and a storage is added where it has none; its schedules, parameters,
limit and job variables stay as somebody may have changed them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from prefect_xai_video.errors import (
    XaiVideoError,
)
from prefect_xai_video.orchestration.limits import LIMITS
from prefect_xai_video.setup.automations import follow_up, notify, rescue
from prefect_xai_video.setup.blocks import (
    BUCKET,
    block_id,
    found,
    missing,
    register_blocks,
    save_key,
    save_storage,
    say,
)
from prefect_xai_video.setup.options import Setup

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")
CHECKOUT = Path(__file__).parents[2]
"""Where the example flows are, unless the package was installed without its repository."""


class SetupFailed(XaiVideoError):
    """Prefect did not accept a deployment."""


async def set_up(wanted: Setup) -> None:
    """Create what is missing, and print what was done, line by line.

    Raises:
        InvalidRequest: If a block or deployment that was named does not exist, or a storage is missing.
        MissingCredentials: If there is no API key to save.
    """
    async with get_client() as client:
        await register_blocks()
        await save_key(client, replace=wanted.replace_key)
        storage = await save_storage(client, wanted)
        await create_limits(client)
        await create_work_pool(client, wanted)
        names = await deploy(client, wanted, storage)
        if wanted.notify:
            block = await found(block_id(client, wanted.notify))
            await create_automation(client, notify(block or missing("notify", "block", wanted.notify)))
        if wanted.follow_up:
            await create_automation(client, await follow_up_of(client, wanted.follow_up, names))
        if wanted.rescue:
            await create_automation(client, rescue(wanted.pool, await ids_of(client, names)))
    # Runs start with the first `python` of the PATH, which must have the package.
    path = f'PATH="{Path(sys.executable).parent}:$PATH" ' if wanted.pool == "process" else ""
    say(f"\nStart a worker: {path}prefect worker start --pool {wanted.pool_name}")
    if path:
        say("Without this PATH, runs crash: each starts the first python on the PATH, which must have this package.")


async def create_limits(client: PrefectClient) -> None:
    """Create the global limits that the flows keep."""
    for limit in LIMITS:
        if await found(client.read_global_concurrency_limit_by_name(limit.name)):
            say(f"limit {limit.name}: exists")
            continue
        await client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(
                name=limit.name,
                limit=limit.limit,
                slot_decay_per_second=limit.slot_decay_per_second,
                active=limit.active,
            )
        )
        say(f"limit {limit.name}: created with limit {limit.limit}, {'active' if limit.active else 'inactive'}")


async def create_work_pool(client: PrefectClient, wanted: Setup) -> None:
    """Create the work pool with the job template that its kind of worker brings."""
    name = wanted.pool_name
    if await found(client.read_work_pool(name)):
        say(f"work pool {name}: exists")
        return
    template = await get_default_base_job_template_for_infrastructure_type(wanted.pool)
    pool = WorkPoolCreate(
        name=name, type=wanted.pool, description="Makes videos with xAI.", base_job_template=template or {}
    )
    await client.create_work_pool(pool)
    say(f"work pool {name}: created")


async def deploy(client: PrefectClient, wanted: Setup, storage: str | None) -> list[str]:
    """Create the deployments of a pool, or update what comes from the code.

    Returns:
        Their names, as `FLOW/NAME`.
    """
    names, new = [], {}
    for entry in yaml.safe_load(PREFECT_FILE.read_text())["deployments"]:
        if entry["work_pool"]["name"] != wanted.pool_name or not is_here(entry):
            continue
        flow = flow_of(entry)
        name = f"{flow.name}/{entry['name']}"
        names.append(name)
        takes_storage = storage is not None and "storage" in flow.parameters.properties
        if deployment := await found(client.read_deployment_by_name(name)):
            await name_blocks_by_id(client, name)
            await update(client, name, deployment, flow, entry)
            if takes_storage and (wanted.bucket or wanted.storage_block):
                await add_storage(client, name, storage or BUCKET)
            continue
        if wanted.image and "image" in entry["work_pool"]["job_variables"]:
            entry["work_pool"]["job_variables"]["image"] = wanted.image
        if takes_storage:
            entry["parameters"] = entry["parameters"] | {"storage": {"$ref": {"block_document_slug": storage}}}
        new[name] = entry
    prefect_deploy(list(new.values()))
    for name in new:
        await name_blocks_by_id(client, name)
        say(f"deployment {name}: created")
    return names


def flow_of(entry: dict[str, Any]) -> Flow[..., Any]:
    """Load the flow of a deployment."""
    entrypoint = entry["entrypoint"]
    is_file = entrypoint.partition(":")[0].endswith(".py")
    return load_flow_from_entrypoint(str(CHECKOUT / entrypoint) if is_file else entrypoint)


def is_here(entry: dict[str, Any]) -> bool:
    """Whether the flow of a deployment is in this package, or its file in the checkout."""
    file = entry["entrypoint"].partition(":")[0]
    return not file.endswith(".py") or (CHECKOUT / file).exists()


def prefect_deploy(entries: list[dict[str, Any]]) -> None:
    """Deploy some entries of the Prefect file."""
    if not entries:
        return
    content = yaml.safe_load(PREFECT_FILE.read_text()) | {"deployments": entries}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "prefect.yaml"
        file.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        # Entry points and working directories are those of the checkout, if there is one.
        result = subprocess.run(  # noqa: S603
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=CHECKOUT if (CHECKOUT / "flows").is_dir() else directory,
        )
    if result.returncode:
        raise SetupFailed(f"prefect deploy failed:\n{result.stdout}")


async def update(
    client: PrefectClient, name: str, deployment: DeploymentResponse, flow: Flow[..., Any], entry: dict[str, Any]
) -> None:
    """Update what comes from the code, and nothing that is decided in the UI."""
    new = {
        "version": entry["version"],
        "description": entry["description"],
        "parameter_openapi_schema": parameter_schema(flow).model_dump(),
    }
    old = {field: getattr(deployment, field) for field in new}
    # Prefect leaves out an empty list of required parameters.
    old["parameter_openapi_schema"] = {"required": [], **(old["parameter_openapi_schema"] or {})}
    if old == new:
        say(f"deployment {name}: exists")
        return
    await client.update_deployment(deployment.id, DeploymentUpdate(**new))
    say(f"deployment {name}: updated to version {entry['version']}; settings made in the UI were kept")


async def add_storage(client: PrefectClient, name: str, storage: str) -> None:
    """Store the videos of a deployment in the bucket, if it was created before there was one."""
    deployment = await client.read_deployment_by_name(name)
    if deployment.parameters.get("storage") is not None:
        return
    reference = {"$ref": {"block_document_id": str(await block_id(client, storage))}}
    parameters = deployment.parameters | {"storage": reference}
    await client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
    say(f"deployment {name}: stores its videos with {storage} from now on")


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
    deployment = await found(client.read_deployment_by_name(name)) or missing("follow-up", "deployment", name)
    sources = [(await client.read_deployment_by_name(source)).id for source in names if source != name]
    return follow_up(deployment, sources)


OWN_FLOWS = (
    "generate-video/",
    "generate-long-video/",
    "generate-videos/",
    "submit-videos/",
    "collect-video/",
    "collect-videos/",
)


async def ids_of(client: PrefectClient, names: list[str]) -> list[UUID]:
    """The ids of the deployments of this package's own flows: only their runs stop after three rescues."""
    own = [name for name in names if name.startswith(OWN_FLOWS)]
    return [(await client.read_deployment_by_name(name)).id for name in own]


async def create_automation(client: PrefectClient, automation: AutomationCore) -> None:
    """Create an automation, unless there is one of that name."""
    there = await client.read_automations_by_name(automation.name)
    if not there:
        await client.create_automation(automation)
    say(f"automation {automation.name}: {'exists' if there else 'created'}")
