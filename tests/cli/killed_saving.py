"""Makes a video with recovery by files, and kills itself after it is stored, as its file at xAI is to be deleted.

`killed_saving.py <base URL> <API key> <directory> <key>`
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from prefect_xai_video import XaiVideoClient
from prefect_xai_video.api.files import XaiFiles
from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.stores import LocalStore

base_url, api_key, directory, key = sys.argv[1:]


async def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main() -> None:
    async with XaiVideoClient(api_key, base_url) as client:
        engine = Generation(client, LocalStore(Path(directory)), PollSchedule(first=0.1, shortest=0.1, longest=0.5))
        await engine.start(build_request("A cat left behind", duration=1), key, recovery="files")
        await engine.wait(key, timeout=60)
        await engine.save(key)


XaiFiles.delete = killed
asyncio.run(main())
