"""Replaces the receipt of a key in a directory: `replacing.py <JSON>`.

The JSON holds `store`, `key` and `result`, a file for the outcome. With `rounds`, the process replaces the receipt as
often, together with others that pass the `gate`, a directory, at the same moment. With `stop_at`, it replaces it once
and stops itself (SIGSTOP) at that point, for a test to let it go on later; `killed` has it end just after its rename.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from prefect_xai_video.api.options import build_request
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held, LocalStore, WriteConflict
from prefect_xai_video.errors import RateLimited

REQUEST = build_request("A cat", duration=1)


def changed(receipt: Receipt) -> Receipt:
    """Another receipt, any number of times."""
    if receipt.state == "sending":
        return receipt.refused(RateLimited("Too many"))
    return receipt.sent_again("first", REQUEST)


async def create_or_replace(store: LocalStore, key: str) -> tuple[str | None, Held]:
    """Create the receipt, or replace it, and say which version by which."""
    held = await store.read(key)
    if held is None:
        return None, await store.create(Receipt.claim(key, REQUEST))
    return held.version, await store.replace(held, changed(held.receipt))


async def race(job) -> list:
    store, steps = LocalStore(Path(job["store"])), []
    while len(steps) < job["rounds"]:
        try:
            before, held = await create_or_replace(store, job["key"])
        except WriteConflict:
            continue
        steps.append([before, held.version])
    return steps


async def replace_once(job) -> str:
    store = LocalStore(Path(job["store"]))
    held = await store.read(job["key"])
    arm(job)
    try:
        await store.replace(held, changed(held.receipt))
    except WriteConflict:
        return "overtaken"
    return "replaced"


def arm(job) -> None:
    link, rename = os.link, Path.replace

    def stop():
        os.link, Path.replace = link, rename
        Path(job["result"]).with_suffix(".pid").write_text(str(os.getpid()))
        # To this thread, so that it does not run on while another one takes the signal.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def stopping_link(source, target):
        if job["stop_at"] == "before link":
            stop()
        link(source, target)
        if job["stop_at"] == "after link":
            stop()

    def stopping_rename(source, target):
        if job["stop_at"] == "before rename":
            stop()
        moved = rename(source, target)
        if job.get("killed"):
            os._exit(9)
        return moved

    os.link, Path.replace = stopping_link, stopping_rename


def main(job) -> None:
    if "gate" in job:
        (Path(job["gate"]) / str(os.getpid())).touch()
        while len(list(Path(job["gate"]).iterdir())) < job["racers"]:
            time.sleep(0.002)
    came = asyncio.run(race(job) if "rounds" in job else replace_once(job))
    Path(job["result"]).write_text(json.dumps(came))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
