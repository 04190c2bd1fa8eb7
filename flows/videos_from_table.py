"""Make a video of each row of a table: `python flows/videos_from_table.py videos.csv`.

The table is a CSV file (UTF-8, commas) with the columns `name` and `prompt`, and any of `image_url`, `duration`,
`aspect_ratio`, `resolution` and `model`. The flow adds `key`, `state`, `cost_usd`, `uri` and `error` to each row; all
other columns stay unchanged. Run it again after a failure: it pays only for the missing videos.
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

from prefect_xai_video import (
    CredentialsBlock,
    StorageBlock,
    Video,
    VideoRequest,
    XaiCredentials,
    agenerate_video,
    build_request,
    check_key,
    check_limits,
    dollars,
    form_input,
)
from prefect_xai_video.errors import InvalidRequest, XaiVideoError

OPTIONS = ("image_url", "duration", "aspect_ratio", "resolution", "model")
RESULTS = ("key", "state", "cost_usd", "uri", "error")

Row = dict[str, str]
Dollars = Annotated[float, Field(gt=0), form_input("Maximum total cost in USD")]
AtATime = Annotated[int, Field(ge=1, le=20), form_input("Videos at a time")]


@flow(name="videos-from-table", flow_run_name="videos from {table}", persist_result=False)
async def videos_from_table(
    table: Annotated[str, form_input("Table")],
    max_cost_usd: Dollars = 5.0,
    at_a_time: AtATime = 4,
    storage: StorageBlock = None,
    credentials: CredentialsBlock = None,
) -> State:
    """Make a video of each row of a table, and add key, state, cost and URI to the row.

    Args:
        table: Path of the CSV file on the machine where the flow runs.
        max_cost_usd: Maximum total cost of this run in USD, by estimate. It is checked before anything is sent.
        at_a_time: Number of videos that are made at the same time.
        storage: Bucket or directory for the videos. Default: a directory where the flow runs, namely xai-video in
            Prefect's home unless configured otherwise.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
    """
    path = Path(table)
    credentials = credentials or XaiCredentials.from_environment()
    rows = read(path)
    requests = plan(rows)
    missing = [row for row in rows if row["state"] != "stored"]
    check_cost({row["key"]: requests[row["key"]] for row in missing}, max_cost_usd)
    write(path, rows)  # Detects a read-only table before anything is paid for.

    slots = asyncio.Semaphore(at_a_time)

    async def make(row: Row) -> None:
        async with slots:
            request = requests[row["key"]].model_dump()
            try:
                video = await make_video(row["key"], **request, storage=storage, credentials=credentials)
                row.update(state="stored", cost_usd=str(video.cost_usd or ""), uri=video.uri, error="")
            except Exception as error:  # An error in one row must not stop the others.
                cost = getattr(error, "cost_usd", None)
                row.update(state="failed", cost_usd=str(cost or ""), uri="", error=f"{type(error).__name__}: {error}")
        write(path, rows)

    await asyncio.gather(*(make(row) for row in missing))
    await acreate_table_artifact([{name: row[name] for name in ("name", *RESULTS)} for row in rows], key="videos")
    failed = sum(row["state"] == "failed" for row in rows)
    if failed:
        return Failed(message=f"{failed} of {len(rows)} rows have no video; the column `error` of {table} says why.")
    return Completed(message=f"All {len(rows)} rows have a video; {len(missing)} of them were made now.")


async def make_video(key: str, **request: Any) -> Video:
    """Make the video of a key, or return it if it exists."""
    video = await agenerate_video(**request, key=key)
    if video.key != key:
        raise RuntimeError(f"Prefect returned the result of another call: the video {video.key}.")
    return video


def read(table: Path) -> list[Row]:
    """Read the rows, and add the columns that will be written."""
    results: Row = dict.fromkeys(RESULTS, "")
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = [row | results | row for row in csv.DictReader(file, restval="", strict=True)]
    if not rows or not {"name", "prompt"} <= rows[0].keys():
        raise InvalidRequest(f"{table} has no rows with the columns name and prompt. Nothing was sent.")
    return rows


def plan(rows: list[Row]) -> Mapping[str, VideoRequest]:
    """Assign a key to each row and return the request for each key. One error names all invalid rows.

    The key contains a digest of the request. So an unchanged row finds its video again, in any run on any machine,
    while a changed row becomes a new video.
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
    """Check that the estimated total cost of the videos is known and within the limit."""
    costs = [request.estimated_cost_usd for request in requests.values()]
    unknown = costs.count(None)
    total = sum(cost for cost in costs if cost is not None)
    if unknown or total > max_cost_usd:
        cost = f"the price of {unknown} of them is unknown" if unknown else f"they would cost about {dollars(total)}"
        allowed = f"allowed by max_cost_usd: {max_cost_usd:.2f}"
        raise InvalidRequest(f"{len(costs)} videos are missing, and {cost}; {allowed}. Nothing was sent.")


def write(table: Path, rows: list[Row]) -> None:
    """Replace the table in one step, so that no reader ever finds a partial file."""
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
