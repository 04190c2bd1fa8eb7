"""From "Submit" in the form to the paid POST at a warm process worker, beside what empty flows need.

A Prefect server is set up by `xai-video setup`, with its blocks and limits; a process worker runs what is
submitted, and the emulator notes when it is called. `generate-video` and empty flows, which only call it, run in
turns, with each kind of storage; the medians are compared. One of the empty flows has a key in a block: for the first
block of a process, Prefect imports all its integrations that are installed. What is wanted is at most 1.5 s more than
an empty flow.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from empty_flows import empty, empty_with_key
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.filesystems import LocalFileSystem
from prefect.flows import EntrypointType
from prefect_aws import S3Bucket
from servers import bucket, prefect_server, running
from size import is_small

from prefect_xai_video.emulator import Emulator

HERE = Path(__file__).parent
ROUNDS = 9
POOL = "xai-video-process"


@contextmanager
def worker():
    """A process worker that looks for work once a second."""
    os.environ |= {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(HERE),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    with running("-m", "prefect", "worker", "start", "--pool", POOL):
        yield


async def deploy(base_url: str) -> None:
    """Set the server up, and deploy the empty flows in the same way."""
    command = [sys.executable, "-m", "prefect_xai_video", "setup", "--pool", "process"]
    environment = os.environ | {"XAI_API_KEY": "any", "XAI_BASE_URL": base_url}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    async with get_client() as client:
        job = (await client.read_deployment_by_name("generate-video/make-a-video")).job_variables
    for its_flow in (empty, empty_with_key):
        deployment = RunnerDeployment.from_flow(
            its_flow, "measured", work_pool_name=POOL, entrypoint_type=EntrypointType.MODULE_PATH, job_variables=job
        )
        await deployment.aapply()


async def taken(emulator: Emulator, deployment: str, parameters: dict) -> float:
    """Seconds from the creation of a run to its first call."""
    before = len(emulator.requests())
    began = datetime.now(UTC)
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
        run = await client.create_flow_run_from_deployment(found.id, parameters=parameters)
        while not (await client.read_flow_run(run.id)).state.is_final():
            await asyncio.sleep(0.5)
    return (datetime.fromisoformat(emulator.requests()[before]["time"]) - began).total_seconds()


async def saved(block: Block) -> dict:
    """A block as a form sends it."""
    return {"$ref": {"block_document_id": str(await block.save("any"))}}


async def measure(emulator: Emulator, home: str, s3: S3Bucket, small: bool) -> None:
    await deploy(emulator.base_url)
    video = {"prompt": "A cat", "duration": 1}
    generate, directory = "generate-video/make-a-video", LocalFileSystem(basepath=f"{home}/videos")
    sides = {
        "empty flow": ("empty/measured", {"url": emulator.base_url}),
        "with a block": (
            "empty-with-key/measured",
            {"url": emulator.base_url, "key": await saved(Secret(value="any"))},
        ),
        "video": (generate, video),
        "video to a directory": (generate, {**video, "storage": await saved(directory)}),
        "video to S3": (generate, {**video, "storage": await saved(s3)}),
    }
    if small:
        sides = {side: sides[side] for side in ("empty flow", "video")}
    times = {side: [] for side in sides}
    for number in range(int(small), 2 if small else ROUNDS + 1):
        for side, (deployment, parameters) in sides.items():
            seconds = await taken(emulator, deployment, parameters)
            if number:
                times[side].append(seconds)
    base = statistics.median(times["empty flow"])
    for side, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{side:20} {median:.2f} s, {median - base:+.2f} s, {median / base:.2f} times an empty flow")


def main() -> None:
    small = is_small(__doc__)
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(prefect_server(Path(home)))
        emulator = stack.enter_context(Emulator(render_seconds=1))
        stack.enter_context(worker())
        asyncio.run(measure(emulator, home, stack.enter_context(bucket()), small))


if __name__ == "__main__":
    main()
