"""A run of a deployment, in a process of its own as on a worker."""

import os
import subprocess

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL

from prefect_xai_video import agenerate_video


def run_deployed(forking, name, directory, base_url, api_key):
    """Run `generate_video` as the deployment of that name; returns its process, its log and its final state."""
    with get_client(sync_client=True) as prefect:
        deployment = prefect.create_deployment(
            prefect.create_flow(agenerate_video),
            name,
            entrypoint="prefect_xai_video.flows.agenerate_video",
            path=".",
        )
        run = prefect.create_flow_run_from_deployment(deployment, parameters={"prompt": "A cat", "duration": 1})
        env = {
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "XAI_API_KEY": api_key,
            "XAI_BASE_URL": base_url,
            "PREFECT_INTEGRATIONS_XAI_VIDEO_HOME": str(directory.basepath),
        }
        command = [*forking.command("prefect.engine"), str(run.id)]
        process = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
        lines = prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
        state = prefect.read_flow_run(run.id).state
    return process, "\n".join(line.message for line in lines), state
