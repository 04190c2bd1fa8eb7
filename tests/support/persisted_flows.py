"""A flow of two steps that make the same video without a key, and are persisted in each way."""

import os
from pathlib import Path

from prefect import flow, task

from prefect_xai_video import agenerate_video


async def make(step: str) -> str:
    """Make a video; the second step breaks afterwards, as long as the file BROKEN is there."""
    key = (await agenerate_video("A cat", duration=1)).key
    if step == "second" and Path(os.environ["BROKEN"]).exists():
        raise RuntimeError("something later broke")
    return key


by_task = task(make, persist_result=True)
by_subflow = flow(make, name="by-subflow", persist_result=True)


@flow
async def within(step: str) -> str:
    """A subflow that is not persisted, and gets a new id in each try, with a persisted task."""
    return await by_task(step)


STEPS = {"task": by_task, "subflow": by_subflow, "task in a subflow": within, "neither": flow(make, name="plain")}


@flow
async def publish(kind: str) -> list[str]:
    """Make the same video twice; gives the keys."""
    keys = [await STEPS[kind](step) for step in ("first", "second")]
    Path(os.environ["BROKEN"]).with_name("keys").write_text("\n".join(keys))
    return keys
