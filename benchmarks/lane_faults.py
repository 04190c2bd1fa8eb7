"""The batch lane under faults and `kill -9`: what is paid for a delivered video, and what is paid again.

Each fault strikes a batch of four rows of its own, which is run twice; the table says how the second run ended, and
what was paid. Then a batch of 500 rows runs in processes of which 20 are killed at random, and a last one that ends.
It fails if anything was paid twice, if a fault that xAI's own end of the video does not explain left a row without
its video, or if any row is left to a person.

Waits that differ from the defaults, so that it ends: claims that were left behind count as old after 4 s, a batch is
listed for good after 0.2 s, and renders take 0.2 s.
"""

import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
from servers import emulator, prefect_server
from size import is_small

CALLS = (
    "batch-create-cut",
    "batch-create-accepted-cut",
    "batch-create-accepted-500",
    "batch-add-cut",
    "batch-add-accepted-cut",
    "batch-add-accepted-500",
    "batch-add-part-cut",
    "batch-add-late-listing",
    "batch-add-late-seconds",
    "batch-cancelled-by-xai",
    "batch-counters-lag",
    "batch-requests-lag",
    "batch-results-lag",
    "batch-results-reversed",
    "batch-page-repeated",
    "batch-get-500",
)
REQUESTS = (
    "request-unlisted",
    "result-late",
    "result-url-expired",
    "result-error-beside",
    "result-error-object",
    "download-cut",
    "download-500",
)
ENDS = {"moderated": "moderated", "failed-internal-error": "failed", "expired": "failed"}
"""Faults of the render itself, and the state in which a row ends."""
SMALL = ("batch-add-part-cut",)

ROWS, KILLS, SMALL_ROWS, SMALL_KILLS, SEED = 500, 20, 12, 1, 13
LATEST_KILL = 0.8
"""Seconds after its first request within which a process is killed."""


def main() -> None:
    small = is_small(__doc__)
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(asyncio.run(run(*sys.argv[2:]))))
        return
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(prefect_server(directory))
        problems = faults(directory, SMALL if small else (*CALLS, *REQUESTS, *ENDS))
        problems += kills(directory, *((SMALL_ROWS, SMALL_KILLS) if small else (ROWS, KILLS)))
    if problems:
        raise SystemExit("\n".join(problems))


def faults(directory: Path, names: tuple[str, ...]) -> list[str]:
    problems = []
    print("| Fault | First run | Second run | Paid a delivered video | Paid again |\n|---|---|---|---|---|")
    for name in names:
        with emulator("--light", "--render-seconds", "0.2") as base_url:
            text = "" if name in CALLS else f"[fault:{name}]"
            if name in CALLS:
                httpx.post(f"{root(base_url)}/faults", json={"fault": name}).raise_for_status()
            first, second = (result_of(process(base_url, directory / name, 4, text)) for _ in range(2))
            payments = Counter(entry["prompt"] for entry in ledger(base_url) if float(entry["cost_usd"]))
            ids = Counter(entry["batch_request_id"] for entry in ledger(base_url))
        again = sum(payments.values()) - len(payments)
        stored = second.get("stored", 0)
        each = f"{sum(payments.values()) / stored:.2f}" if stored and name not in ENDS else "-"
        print(f"| {name} | {said(first)} | {said(second)} | {each} | {again} |", flush=True)
        if again or max(ids.values()) > 1 or second != {ENDS.get(name, "stored"): 4}:
            problems.append(f"{name}: {second}, paid {payments}, ids {ids}")
    return problems


def kills(directory: Path, rows: int, number: int) -> list[str]:
    chance, killed, log = random.Random(SEED), 0, directory / "requests.log"
    with emulator("--light", "--render-seconds", "0.2", "--log", str(log)) as base_url:
        for _ in range(number):
            before = size_of(log)
            running = process(base_url, directory / "killed", rows)
            while size_of(log) == before and running.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, LATEST_KILL))
            running.send_signal(signal.SIGKILL)
            killed += running.wait() == -signal.SIGKILL
        states = result_of(process(base_url, directory / "killed", rows))
        ids = Counter(entry["batch_request_id"] for entry in ledger(base_url))
        payments = Counter(entry["prompt"] for entry in ledger(base_url) if float(entry["cost_usd"]))
    print(
        f"{rows} rows, {killed} processes killed: {said(states)}; {len(ids)} ids, {sum(payments.values())} payments"
    )
    is_right = states == {"stored": rows} and set(payments.values()) == {1} and len(payments) == rows
    return [] if is_right and max(ids.values()) == 1 else [f"killed: {states}, {len(payments)} of {rows} paid"]


def process(base_url: str, place: Path, rows: int, text: str = "") -> "subprocess.Popen[str]":
    """Start a process that runs a batch in the lane."""
    command = [sys.executable, __file__, "run", base_url, str(place), str(rows), text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def result_of(running: "subprocess.Popen[str]") -> dict[str, int]:
    """Wait for the end of a process, and return the number of rows by state."""
    printed, _ = running.communicate(timeout=600)
    return json.loads(printed.splitlines()[-1])


def size_of(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


async def run(base_url: str, place: str, rows: str, text: str) -> dict[str, int]:
    from unittest import mock

    from prefect.filesystems import LocalFileSystem

    from prefect_xai_video import XaiCredentials, agenerate_videos
    from prefect_xai_video.engine import batch_inquiry, journal

    table = [
        {"key": f"videos/{number:04}", "prompt": f"Video {number} {text}", "duration": 1}
        for number in range(int(rows))
    ]
    with mock.patch.object(batch_inquiry, "SETTLE_SECONDS", 0.2), mock.patch.object(journal, "CLAIM_SECONDS", 4):
        report = await agenerate_videos(
            table,
            lane="batch",
            allow_failures=True,
            storage=LocalFileSystem(basepath=place),
            credentials=XaiCredentials(api_key="any", base_url=base_url),
        )
    return dict(report.states)


def said(states: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in states.items())


def root(base_url: str) -> str:
    return f"{base_url.removesuffix('/v1')}/emulator"


def ledger(base_url: str) -> list[dict]:
    return httpx.get(f"{root(base_url)}/ledger", timeout=60).json()["requests"]


if __name__ == "__main__":
    main()
