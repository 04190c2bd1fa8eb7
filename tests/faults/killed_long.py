"""Makes a long video and kills itself at a step: `killed_long.py <parameters as JSON> <file of steps> <step>`.

Steps are named after what has just been written: `01 submitted`, `01 done`, `01 stored`, `01.tail.mp4`, `ship.mp4`,
`ship.long.json`. With the step `each` it dies at the first one that is not in the file yet, so that a process after
the other gets one step further; with another one, at that step, once.
"""

import json
import os
import signal
import sys
from pathlib import Path

from prefect.filesystems import LocalFileSystem

from prefect_xai_video import generate_long_video
from prefect_xai_video.engine.journal import Journal
from prefect_xai_video.engine.stores import LocalStore

parameters, steps, wanted = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def written(step: str) -> None:
    known = steps.read_text().splitlines() if steps.exists() else []
    if step in known or wanted not in ("each", step):
        return
    with steps.open("a") as file:
        file.write(f"{step}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def after(name: str) -> None:
    original = getattr(LocalStore, name)

    async def observed(self, file_name, *arguments):
        result = await original(self, file_name, *arguments)
        written(file_name.rpartition("/")[2])
        return result

    setattr(LocalStore, name, observed)


def report(journal: Journal, receipt) -> None:
    if receipt.state in {"submitted", "done", "stored"}:
        written(f"{receipt.key.rpartition('/')[2]} {receipt.state}")


Journal._report = report
after("put_file")
after("write_file")
video = generate_long_video(**parameters | {"storage": LocalFileSystem(basepath=parameters["storage"])})
print(f"{len(video.segments)} segments, {video.duration} s, {video.cost_usd} USD")
