"""Makes a video in a process that may write no file larger than its quota: `quota.py <url> <root> <quota> <file>`.

The file is for what it says of an error.
"""

import asyncio
import resource
import sys
from pathlib import Path

from prefect_xai_video import Retries, XaiVideoClient
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import XaiVideoError

url, root, quota, said = sys.argv[1:]
before = resource.getrlimit(resource.RLIMIT_FSIZE)


async def make():
    async with XaiVideoClient("xai-key", url, retries=Retries(attempts=1)) as client:
        engine = Generation(client, LocalStore(Path(root)), PollSchedule(first=0, shortest=0, longest=0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(quota), before[1]))
        await engine.start(build_request("A cat", duration=1), "cat")
        await engine.wait("cat", timeout=30)
        await engine.save("cat")


try:
    asyncio.run(make())
    ended = ""
except XaiVideoError as error:
    ended = f"{type(error).__name__}: {error}"
resource.setrlimit(resource.RLIMIT_FSIZE, before)
Path(said).write_text(ended)
