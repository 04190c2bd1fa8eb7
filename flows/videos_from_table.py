"""Rows of a table to videos: `python flows/videos_from_table.py videos.csv`.

The table is a CSV file (UTF-8, commas) with the columns `name` and `prompt`, and any of `image_url`, `duration`,
`aspect_ratio`, `resolution` and `model`. Beside each row the flow writes `key`, `state`, `cost_usd`, `uri` and
`error`; all other columns stay as they are. Run it again after a failure: it pays only for what is missing.
"""

import asyncio
import csv
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from prefect_xai_video import Video, XaiCredentials, agenerate_video
from prefect_xai_video.capabilities import dollars
from prefect_xai_video.errors import InvalidRequest, XaiVideoError
from prefect_xai_video.forms import CredentialsBlock, StorageBlock, drawn
from prefect_xai_video.receipts import check_key
from prefect_xai_video.requests import VideoRequest, build_request, check_limits

OPTIONS = ("image_url", "duration", "aspect_ratio", "resolution", "model")
RESULTS = ("key", "state", "cost_usd", "uri", "error")

Row = dict[str, str]
Dollars = Annotated[float, Field(gt=0), drawn("Most that all may cost, in USD")]
AtATime = Annotated[int, Field(ge=1, le=20), drawn("Videos at a time")]


@flow(name="videos-from-table", flow_run_name="videos from {table}", persist_result=False)
async def videos_from_table(
    table: Annotated[str, drawn("Table")],
    max_cost_usd: Dollars = 5.0,
    at_a_time: AtATime = 4,
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
) -> State:
    """Make a video of each row of a table, and write key, state, cost and URI beside it.

    Args:
        table: Path of the CSV file, on the machine where the flow runs.
        max_cost_usd: The most that this run may cost, in USD. It is checked before anything is sent.
        at_a_time: How many videos are made at the same time.
        storage: Where the videos go. Default: the directory of the setting HOME.
        credentials: The xAI API key. Default: XAI_API_KEY of the environment.
    """
    path = Path(table)
    credentials = credentials or XaiCredentials.from_environment()
    rows = read(path)
    requests = plan(rows)
    missing = [row for row in rows if row["state"] != "stored"]
    check_cost({row["key"]: requests[row["key"]] for row in missing}, max_cost_usd)
    write(path, rows)  # A table that can't be written to is found out before anything is paid for.

    slots = asyncio.Semaphore(at_a_time)

    async def make(row: Row) -> None:
        async with slots:
            request = requests[row["key"]].model_dump()
            try:
                video = await make_video(row["key"], **request, storage=storage, credentials=credentials)
                row.update(state="stored", cost_usd=str(video.cost_usd or ""), uri=video.uri, error="")
            except Exception as error:  # One row's trouble is not another's.
                cost = getattr(error, "cost_usd", None)
                row.update(state="failed", cost_usd=str(cost or ""), uri="", error=f"{type(error).__name__}: {error}")
        write(path, rows)

    await asyncio.gather(*(make(row) for row in missing))
    await acreate_table_artifact([{name: row[name] for name in ("name", *RESULTS)} for row in rows], key="videos")
    failed = sum(row["state"] == "failed" for row in rows)
    if failed:
        return Failed(message=f"{failed} of {len(rows)} rows have no video: see the column error of {table}.")
    return Completed(message=f"All {len(rows)} rows have their video, {len(missing)} of them made now.")


async def make_video(key: str, **request: Any) -> Video:
    """Make the video of a key, or find it again."""
    video = await agenerate_video(**request, key=key)
    if video.key != key:
        raise RuntimeError(f"Prefect returned the result of another call: the video {video.key}.")
    return video


def read(table: Path) -> list[Row]:
    """Read the rows, each with all the columns that are going to be written."""
    results: Row = dict.fromkeys(RESULTS, "")
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = [row | results | row for row in csv.DictReader(file, restval="", strict=True)]
    if not rows or not {"name", "prompt"} <= rows[0].keys():
        raise InvalidRequest(f"{table} has no rows with the columns name and prompt. Nothing was sent.")
    return rows


def plan(rows: list[Row]) -> Mapping[str, VideoRequest]:
    """Give each row its key, and say what is asked for under each: all bad rows are told at once.

    The key holds a digest of what is asked for. So an unchanged row finds its video again, in any run on any machine,
    and a row that somebody has changed becomes a new video.
    """
    requests, problems = {}, []
    for number, row in enumerate(rows, start=1):
        try:
            if None in row:
                raise InvalidRequest("it has more cells than the table has columns.")
            request = build_request(row["prompt"], **{name: row[name] for name in OPTIONS if row.get(name)})
            check_limits(request)
            key = check_key(f"{row['name']}-{request.fingerprint[:12]}")
        except XaiVideoError as error:
            problems.append(f"Row {number}: {error}")
            continue
        requests[key] = request
        if row["key"] != key:
            row.update(dict.fromkeys(RESULTS, "") | {"key": key})
    if problems:
        raise InvalidRequest(" ".join(["Nothing was sent.", *problems]))
    return requests


def check_cost(requests: Mapping[str, VideoRequest], max_cost_usd: float) -> None:
    """Add up what the videos will cost by the price table, and stop if that is too much, or not known."""
    costs = [request.estimated_cost_usd for request in requests.values()]
    unknown = costs.count(None)
    total = sum(cost for cost in costs if cost is not None)
    if unknown or total > max_cost_usd:
        what = f"the price of {unknown} is not known" if unknown else f"they cost about {dollars(total)}"
        allowed = f"allowed by max_cost_usd: {max_cost_usd:.2f}"
        raise InvalidRequest(f"{len(costs)} videos are missing, and {what}; {allowed}. Nothing was sent.")


def write(table: Path, rows: list[Row]) -> None:
    """Put the table in the place of the old one in one step, so that nobody ever finds half of it."""
    with TemporaryDirectory(dir=table.parent) as directory:
        new = Path(directory) / table.name
        with new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        shutil.copymode(table, new)
        new.replace(table)


if __name__ == "__main__":
    state = asyncio.run(videos_from_table(sys.argv[1], return_state=True))
    sys.exit(None if state.is_completed() else state.message)
