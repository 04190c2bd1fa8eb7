"""The command `report`: a report that is built from receipts alone. It asks xAI nothing."""

import asyncio
import json
from dataclasses import replace

from prefect_xai_video.batch.from_receipts import report_of_receipts
from prefect_xai_video.batch.report import BatchReport, store_report
from prefect_xai_video.cli.places import existing_store
from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import not_allowed, shown
from prefect_xai_video.money import dollars
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.ui.batch_site import look_at, store_pages

MANY_FAILURES = 10
"""Kinds of failures that are printed."""

WHOLE_STORE = "."
"""Prefix that stands for all keys; the report of a whole store is named `all.receipts`."""

OF_RECEIPTS = ".receipts"
"""End of the name of such a report, which keeps it from replacing that of a batch: `products.csv` and its videos in
`products/` have the same name."""


def report(prefix: str, place: str, *, as_json: bool) -> None:
    """Build a report of all keys below a prefix; arguments as for the command."""
    folder = "" if prefix == WHOLE_STORE else check_key(prefix.rstrip("/"))
    made = asyncio.run(_store_report(existing_store(place), folder, place))
    print_report(made, as_json=as_json)


async def _store_report(store: VideoStore, folder: str, place: str) -> BatchReport:
    name = (folder.rpartition("/")[2] or "all") + OF_RECEIPTS
    made = await report_of_receipts(store, folder, name)
    if not made.count:
        raise not_allowed("prefix", shown(folder or WHOLE_STORE), f"a folder of keys that have receipts in {place}")
    made = replace(made, uri=await store_report(made, store))
    settings = XaiVideoSettings.current()
    look = await look_at(made, store, stills=settings.preview, prompts=settings.prompt_in_names)
    return replace(made, page=await store_pages(made, store, look))


def print_report(report: BatchReport, *, as_json: bool) -> None:
    """Print the totals of a report, and where it is stored."""
    if as_json:
        print(json.dumps(report.facts() | {"uri": report.uri, "page": report.page}, indent=2))
        return
    print(f"Videos    {report}")
    if report.stopped_by:
        print(f"Stopped   {report.stopped_by}")
    for kind in report.failures[:MANY_FAILURES]:
        keys = ", ".join(kind.keys) + (", …" if kind.count > len(kind.keys) else "")
        print(f"{kind.state.capitalize():<9} {kind.count:,}: {keys}")
        if kind.example:
            print(f"          {kind.example}")
        print(f"          Next step: {kind.next_step}.")
    if report.wasted_usd:
        print(f"Wasted    {dollars(report.wasted_usd)} for rows without a video")
    if report.uri:
        print(f"Report    {report.uri.removeprefix('file://')}")
    if report.page:
        print(f"Page      {report.page.removeprefix('file://')}")
