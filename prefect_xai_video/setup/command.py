"""The command `xai-video setup`."""

import asyncio
from typing import Annotated

import httpx
from cyclopts import Parameter

from prefect_xai_video.orchestration.prefect_api import NoPrefectServer, check_prefect_server
from prefect_xai_video.setup.options import Pool, Setup
from prefect_xai_video.setup.server import set_up

_FLAG = Parameter(negative="")


def setup(
    *,
    pool: Pool = "process",
    bucket: str | None = None,
    storage_block: str | None = None,
    image: str | None = None,
    replace_key: Annotated[bool, _FLAG] = False,
    notify: str | None = None,
    follow_up: str | None = None,
    rescue: Annotated[bool, _FLAG] = False,
) -> None:
    """Set up the Prefect server of PREFECT_API_URL: blocks, limits, a work pool, deployments, automations.

    It can be repeated at any time: what exists is left as it is.

    Args:
        pool: Kind of the work pool in which the flows run.
        bucket: S3 bucket for the videos; required except with --pool process. Without one, videos are stored on the
            worker's disk, and the UI shows neither a link nor a player.
        storage_block: Saved block for the videos, as s3-bucket/NAME, instead of --bucket.
        image: Container image of new deployments, with its registry, for docker, kubernetes and ecs.
        replace_key: Replace the saved API key with the one in XAI_API_KEY.
        notify: Notification block, as slack-webhook/NAME, that reports failures.
        follow_up: Deployment to run for each stored video, as FLOW/NAME.
        rescue: Restart runs whose worker died.
    """
    check_prefect_server(needed=True)
    wanted = Setup(
        pool=pool,
        bucket=bucket,
        storage_block=storage_block,
        image=image,
        replace_key=replace_key,
        notify=notify,
        follow_up=follow_up,
        rescue=rescue,
    )
    try:
        asyncio.run(set_up(wanted))
    except httpx.HTTPError as error:
        raise NoPrefectServer(f"The Prefect server stopped responding: {error}. Run the command again.") from None
