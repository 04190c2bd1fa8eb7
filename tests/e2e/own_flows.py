"""Flows of somebody who uses the deployments; `python own_flows.py DIRECTORY` runs two of them."""

import asyncio
import sys

from prefect import flow
from prefect.deployments import arun_deployment
from prefect.filesystems import LocalFileSystem

from prefect_xai_video import XaiCredentials
from prefect_xai_video.errors import VideoModerated
from prefect_xai_video.flows import agenerate_video


@flow
async def publish(uri: str, key: str) -> None:
    """What an automation runs when a video was stored; it does nothing with it."""


@flow
async def newsroom() -> None:
    """Have a deployment make a video, and wait for it."""
    parameters = {"prompt": "A bird", "duration": 1, "key": "by/flow"}
    run = await arun_deployment("generate-video/make-a-video", parameters=parameters, poll_interval=0.5, timeout=400)
    assert run.state.is_completed(), run.state


@flow
async def without_deployment(directory: str) -> None:
    """Make a video in this process, and one that is moderated."""
    options = {
        "duration": 1,
        "storage": LocalFileSystem(basepath=directory),
        "credentials": await XaiCredentials.aload("xai"),
    }
    await agenerate_video("A fish", key="by/hand", **options)
    try:
        await agenerate_video("A rude fish [fault:moderated]", key="by/nobody", **options)
    except VideoModerated:
        return


if __name__ == "__main__":
    asyncio.run(without_deployment(sys.argv[1]))
    asyncio.run(newsroom())
