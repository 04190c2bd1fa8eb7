"""The HTML pages of a batch, stored beside its videos: they open from a disk or a bucket, without any server.

They hold no URL but relative ones, and load nothing but the videos.
"""

import base64
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.batch.report import BatchReport, page_name, report_name
from prefect_xai_video.batch.survey import Survey
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.money import dollars, plain
from prefect_xai_video.ui.batch_totals import totals
from prefect_xai_video.ui.charts import bars_of_dollars, bars_of_seconds
from prefect_xai_video.ui.markdown import cut, visible
from prefect_xai_video.ui.stills import MAX_STILLS, make_stills

ROWS_ON_PAGE = 500

MAX_PAGES = 100
"""Pages of a report; the CSV file has the other rows."""

MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Look:
    """What is shown of a batch besides its report.

    Attributes:
        survey: Costs and times of its rows.
        stills: Stills by key, as WebP.
        prompts: Whether prompts are shown.
    """

    survey: Survey = field(default_factory=Survey)
    stills: Mapping[str, bytes] = field(default_factory=dict)
    prompts: bool = True


async def look_at(report: BatchReport, store: VideoStore, *, stills: bool, prompts: bool) -> Look:
    """Collect what is shown of a batch.

    Args:
        report: The report of the batch.
        store: The store of its videos.
        stills: Whether stills are made.
        prompts: Whether prompts are shown.
    """
    survey = await run_in_thread(Survey.of, report.rows)
    return Look(survey, await make_stills(report.rows, store) if stills else {}, prompts)


async def store_pages(report: BatchReport, store: VideoStore, look: Look) -> str:
    """Store the HTML pages of a report beside the videos; the first one last, since it leads to the others.

    Returns:
        The URI of the first page.

    Raises:
        StorageError: If they can't be stored.
    """
    uri = ""
    with tempfile.TemporaryDirectory(prefix="xai-video-pages-") as directory:
        page = Path(directory, "page.html")
        for number in range(_pages(report), 0, -1):
            await run_in_thread(_write_page, report, look, number, page)
            name = page_name(report.folder, report.name, number)
            uri = await store.write_file(name, page, "text/html; charset=utf-8")
    return uri


def _pages(report: BatchReport) -> int:
    return min(max(math.ceil(len(report.rows) / ROWS_ON_PAGE), 1), MAX_PAGES)


def _write_page(report: BatchReport, look: Look, number: int, path: Path) -> None:
    path.write_text(page_html(report, look, number), encoding="utf-8")


def page_html(report: BatchReport, look: Look, number: int = 1) -> str:
    """Write a page of a report; the first one has the totals.

    Args:
        report: The report.
        look: What is shown besides.
        number: Number of the page, from 1.
    """
    begin, pages = (number - 1) * ROWS_ON_PAGE, _pages(report)
    rows = report.rows[begin : begin + ROWS_ON_PAGE]
    missing = len(report.rows) - MAX_PAGES * ROWS_ON_PAGE
    return (
        _environment()
        .get_template("batch.html")
        .render(
            report=report,
            totals=totals(report),
            files={suffix: quote(f"../{report_name('', report.name, suffix)}") for suffix in (".csv", ".json")},
            number=number,
            pages=pages,
            page_url=lambda other: page_name("", report.name, other).rpartition("/")[2],
            tiles=[_tile(row, report.folder, look) for row in rows],
            first=begin + 1,
            not_shown=max(missing, 0) if number == pages else 0,
            max_stills=MAX_STILLS if look.stills and report.stored > MAX_STILLS else None,
            paid=look.survey.paid,
            paid_states=[state for state in report.states if any(state in of for of in look.survey.paid.values())],
            charts={
                "Cost of a video": bars_of_dollars(look.survey.costs),
                "Render time": bars_of_seconds(look.survey.renders),
            },
            now=datetime.now(UTC),
        )
    )


def _tile(row: RowOutcome, folder: str, look: Look) -> dict[str, Any]:
    """Collect what is shown of a row."""
    below = row.key[len(folder) + 1 :] if folder else row.key
    facts = (
        f"{row.duration} s" if row.duration else None,
        f"{row.width}x{row.height}" if row.width else None,
        None if row.cost_usd is None else dollars(row.cost_usd),
        None if row.cost_usd is not None or not row.is_new else f"about {dollars(row.paid_usd)}",
        row.model,
    )
    return {
        "key": row.key,
        "state": row.state,
        "place": row.place,
        # A plus would be a space in the URL of an object.
        "url": quote(f"../{below}.mp4") if row.state == "stored" else None,
        "still": look.stills.get(row.key),
        "prompt": row.prompt if look.prompts else None,
        "facts": [fact for fact in facts if fact],
        "error": cut(row.error, MAX_ERROR_CHARACTERS) if row.error else None,
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("prefect_xai_video.ui"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        # Whatever is inserted is text; nothing in it may hide or reverse what follows.
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters["dollars"] = lambda amount: dollars(plain(amount))
    environment.filters["data_url"] = lambda picture: f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
    return environment
