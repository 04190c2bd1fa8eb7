"""The processes of a worker: itself, and its runs in processes of their own."""

import os
from contextlib import suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and its descendants; those of a worker are in sessions of their own."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        children = " ".join(path.read_text() for path in tasks.glob("*/children")).split()
    except OSError:
        children = []
    return [pid, *(each for child in children for each in family(int(child)))]


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
