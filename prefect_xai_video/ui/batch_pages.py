"""The Markdown of a batch's artifact, as pure functions of its report."""

import base64
import re
from collections.abc import Mapping, Sequence

from prefect_xai_video.batch.report import BatchReport, FailureKind
from prefect_xai_video.batch.survey import evenly
from prefect_xai_video.money import dollars, plain
from prefect_xai_video.ui.batch_site import Look
from prefect_xai_video.ui.batch_totals import totals
from prefect_xai_video.ui.charts import ChartBar, bars_of_dollars, bars_of_seconds
from prefect_xai_video.ui.markdown import code, cut, escaped, table

MAX_KINDS = 20
"""Kinds of failures that are listed."""

MAX_EXAMPLE_CHARACTERS = 200
MAX_KEY_CHARACTERS = 80
MAX_MODELS = 10

MAX_BYTES = 150_000
"""Size of the largest artifact."""

SHEET_STILLS, SHEET_COLUMNS = 12, 4
"""Stills of the contact sheet: 12 of 5 kB are 80 kB as base64. A larger artifact has fewer rows of them."""

CELL_WIDTH, CELL_HEIGHT = 160, 120
"""Largest size of a still on the contact sheet, in pixels."""


def batch_artifact_key(report: BatchReport) -> str:
    """Derive the artifact key of a batch: the reports of all its runs are one history in the UI."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{report.folder}-{report.name}".lower()).strip("-")[:60]
    return f"xai-video-batch-{name}".rstrip("-")


def batch_description(report: BatchReport) -> str:
    """Describe a report in one line, for the list of artifacts."""
    return f"Batch `{report.name.replace('`', '')}` · {report}"


def batch_markdown(report: BatchReport, look: Look | None = None) -> str:
    """Write the page of a batch: totals, a contact sheet, what failed and what to do about it, costs and times.

    Args:
        report: The report.
        look: Its stills and charts; none before the batch has ended.
    """
    look = look or Look()
    markdowns = (_markdown(report, look, stills) for stills in range(SHEET_STILLS, 0, -SHEET_COLUMNS))
    fitting = (markdown for markdown in markdowns if len(markdown.encode()) <= MAX_BYTES)
    return next(fitting, None) or _markdown(report, look, 0)


def _markdown(report: BatchReport, look: Look, stills: int) -> str:
    parts = [
        f"## {escaped(str(report))}",
        f"Nothing more was submitted: {escaped(cut(report.stopped_by, 1000))}" if report.stopped_by else None,
        table(_totals(report)),
        _sheet(look.stills, stills),
        _failures(report.failures) if report.failures else None,
        _times(report.times) if report.times else None,
        _chart("Cost of a video", bars_of_dollars(look.survey.costs)),
        _chart("Render time", bars_of_seconds(look.survey.renders)),
    ]
    return "\n\n".join(part for part in parts if part)


def _totals(report: BatchReport) -> list[tuple[str, str | None]]:
    costs = list(report.by_model.items())[:MAX_MODELS]
    by_model = ", ".join(f"{escaped(cut(model, 100))} {dollars(plain(cost))}" for model, cost in costs)
    return [
        *totals(report, f" ({by_model})" if len(report.by_model) > 1 else "").items(),
        ("Report", code(report.uri) if report.uri else None),
        ("Page", code(report.page) if report.page else None),
    ]


def _sheet(stills: Mapping[str, bytes], most: int) -> str | None:
    """Write a contact sheet: stills of videos that are evenly spread over the batch, as a table of pictures."""
    pictures = list(stills.items())
    cells = [_cell(*pictures[index]) for index in evenly(len(pictures), most)]
    rows = (cells[begin : begin + SHEET_COLUMNS] for begin in range(0, len(cells), SHEET_COLUMNS))
    lines = [f"<tr>{''.join(row)}</tr>" for row in rows]
    return "\n".join(['<table cellpadding="2">', *lines, "</table>"]) if lines else None


def _cell(key: str, still: bytes) -> str:
    name = escaped(cut(key, MAX_KEY_CHARACTERS))
    source = f"data:image/webp;base64,{base64.b64encode(still).decode()}"
    return f'<td valign="top"><img src="{source}" alt="{name}" title="{name}" width="{_width(still)}"></td>'


def _width(still: bytes) -> int:
    """Return the width with which a WebP fits into a cell; the new UI ignores heights."""
    if still[12:16] != b"VP8 ":
        return CELL_WIDTH
    width, height = (int.from_bytes(still[place : place + 2], "little") for place in (26, 28))
    return max(min(CELL_WIDTH, CELL_HEIGHT * width // max(height, 1)), 1)


def _chart(title: str, bars: Sequence[ChartBar]) -> str | None:
    """Write a histogram as a table whose bars are text: both UIs remove SVG."""
    lines = [f"<tr><td>{bar.label}</td><td>{bar.text}</td><td>{bar.count:,}</td></tr>" for bar in bars]
    head = f"<tr><th>{title}</th><th></th><th>Videos</th></tr>"
    return "\n".join(['<table cellpadding="4">', head, *lines, "</table>"]) if lines else None


def _failures(kinds: tuple[FailureKind, ...]) -> str:
    lines = []
    for kind in kinds[:MAX_KINDS]:
        cells = (
            f"{kind.count:,}",
            escaped(kind.state),
            code(cut(kind.error_type or "", 60)),
            escaped(cut(kind.example or "", MAX_EXAMPLE_CHARACTERS)),
            "<br>".join(code(cut(key, MAX_KEY_CHARACTERS)) for key in kind.keys),
            escaped(kind.next_step),
        )
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "<tr><th>Rows</th><th>State</th><th>Error</th><th>Example</th><th>Keys</th><th>What to do</th></tr>"
    more = f"\n\n… and {len(kinds) - MAX_KINDS} more kinds." if len(kinds) > MAX_KINDS else ""
    return "\n".join(['<table cellpadding="4">', head, *lines, "</table>"]) + more


def _times(times: Mapping[str, Mapping[int, float]]) -> str:
    lines = [
        f"<tr><td>{name}</td>" + "".join(f"<td>{seconds:,.1f} s</td>" for seconds in of.values()) + "</tr>"
        for name, of in times.items()
    ]
    head = "<tr><th>Time</th>" + "".join(f"<th>{share} %</th>" for share in next(iter(times.values()))) + "</tr>"
    return "\n".join(['<table cellpadding="4">', head, *lines, "</table>"])
