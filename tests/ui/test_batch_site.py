"""The HTML pages and the artifact of a batch, made of outcomes without a run."""

import os
import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.batch.report import Tally
from prefect_xai_video.batch.survey import Survey
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import LimitReached, StorageError
from prefect_xai_video.ui import batch_artifacts, batch_site
from prefect_xai_video.ui.batch_artifacts import publish_pages
from prefect_xai_video.ui.batch_pages import batch_markdown
from prefect_xai_video.ui.batch_site import ROWS_ON_PAGE, Look, page_html, store_pages
from prefect_xai_video.ui.previews import MAX_STILL_BYTES

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='alert(3)' {{ 7 * 7 }} \u202etxt"


def report_of(*rows, name="batch", folder="cats", **changes):
    tally = Tally(name, folder, len(rows), Decimal(1))
    for row in rows:
        tally.add(row)
    return replace(tally.report(), **changes)


def row(number=1, **facts):
    own = {"number": number, "place": f"row {number}", "key": f"cats/{number}", "state": "stored", "is_new": True}
    return RowOutcome(**own | facts)


class Elements(HTMLParser):
    """The elements of a page, and the URLs that they refer to."""

    def __init__(self, page):
        super().__init__()
        self.names, self.urls, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.urls += [value for name, value in attrs if name in {"src", "href", "poster"}]


def test_a_page_has_the_totals_and_each_video_with_its_link():
    report = report_of(
        row(1, prompt="A cat", duration=6, cost_usd=Decimal("0.30"), render_seconds=4.5, model="grok"),
        row(2, key="cats/deep/a+b=c@d", cost_usd=Decimal("0.05")),
        row(3, state="moderated", error="Blocked.", error_type="VideoModerated", cost_usd=Decimal("0.05")),
    )
    page = page_html(report, Look(Survey.of(report.rows), {"cats/1": b"webp"}))
    urls = Elements(page).urls
    assert {"../1.mp4", "../deep/a%2Bb%3Dc%40d.mp4", "../batch.report.csv", "../batch.report.json"} <= set(urls)
    assert "data:image/webp;base64,d2VicA==" in urls
    assert "../3.mp4" not in urls
    facts = ["A cat", "6 s", "$0.30", "4.5 s", "grok", "Blocked.", "VideoModerated", "change the prompts", "$0.40"]
    for fact in facts:
        assert fact in page


def test_the_totals_of_a_page_are_those_of_the_artifact():
    report = report_of(
        row(1, cost_usd=Decimal("0.30"), is_new=False), row(2, cost_usd=Decimal("0.05")), row(3), run_id="run"
    )
    for shown in (page_html(report, Look()), batch_markdown(report)):
        text = " ".join(re.sub(r"<[^>]*>|&nbsp;", " ", shown).split())
        for fact in ("Paid by this run $0.05", "Paid by all runs $0.35", "Unknown cost 1"):
            assert fact in text


def test_a_page_loads_nothing_from_elsewhere_and_runs_nothing():
    page = page_html(report_of(row(prompt="A cat")), Look())
    elements = Elements(page)
    assert not {"script", "link", "iframe", "object", "img"} & set(elements.names)
    assert not re.search(r"https?:|//", "".join(elements.urls))
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_hostile_text_stays_text_wherever_it_is_shown():
    hostile = {"prompt": HOSTILE, "error": HOSTILE, "error_type": HOSTILE, "model": HOSTILE, "place": HOSTILE}
    report = report_of(
        row(1, key=f"cats/{HOSTILE}", **hostile),
        row(2, key=f"cats/{HOSTILE}2", state="failed", **hostile),
        name=HOSTILE,
        stopped_by=HOSTILE,
    )
    page = page_html(report, Look(Survey.of(report.rows), {f"cats/{HOSTILE}": b"webp"}))
    elements = Elements(page)
    assert not {"script", "img"} & set(elements.names)
    assert not {name for name in elements.attributes if name.startswith("on")}
    assert "{{ 7 * 7 }}" in page
    assert "\u202e" not in page
    markdown = batch_markdown(report, Look(Survey.of(report.rows), {f"cats/{HOSTILE}": b"webp"}))
    assert "script" not in Elements(markdown).names
    assert not {name for name in Elements(markdown).attributes if name.startswith("on")}


def test_prompts_can_be_left_out():
    report = report_of(row(prompt="A secret cat"))
    assert "secret" in page_html(report, Look())
    assert "secret" not in page_html(report, Look(prompts=False))
    assert "secret" not in batch_markdown(report, Look())


async def test_a_page_has_500_rows_and_links_to_the_others(tmp_path):
    report = report_of(*(row(number) for number in range(1, 2 * ROWS_ON_PAGE + 2)))
    uri = await store_pages(report, LocalStore(tmp_path), Look())
    folder = tmp_path / "cats" / "batch.report"
    assert uri == (folder / "index.html").as_uri()
    pages = [(folder / name).read_text() for name in ("index.html", "index-2.html", "index-3.html")]
    assert len(list(folder.iterdir())) == 3
    assert [page.count("<video") for page in pages] == [500, 500, 1]
    assert "../501.mp4" in Elements(pages[1]).urls
    assert ["Totals" in page for page in pages] == [True, False, False]
    for number, page in enumerate(pages):
        others = {"index.html", "index-2.html", "index-3.html"} - {
            ("index.html", "index-2.html", "index-3.html")[number]
        }
        assert others <= set(Elements(page).urls)
        assert "of 3 pages" in page


async def test_rows_beyond_the_last_page_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_site, "MAX_PAGES", 1)
    report = report_of(*(row(number) for number in range(1, ROWS_ON_PAGE + 8)))
    await store_pages(report, LocalStore(tmp_path), Look())
    [page] = (tmp_path / "cats" / "batch.report").iterdir()
    assert "7 more rows are in the" in page.read_text()


async def test_a_batch_of_the_whole_store_has_its_page_at_the_top(tmp_path):
    report = report_of(row(key="a/1"), row(2, key="b"), folder="", name="my rows")
    await store_pages(report, LocalStore(tmp_path), Look())
    page = (tmp_path / "my rows.report" / "index.html").read_text()
    assert {"../a/1.mp4", "../b.mp4", "../my%20rows.report.csv"} <= set(Elements(page).urls)


async def test_a_website_beside_the_videos_keeps_its_index(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "index.html").write_text("mine")
    await store_pages(report_of(row()), LocalStore(tmp_path), Look())
    assert (tmp_path / "cats" / "index.html").read_text() == "mine"


async def test_what_goes_wrong_with_pages_is_logged_and_no_more(tmp_path, monkeypatch, caplog):
    class Full(LocalStore):
        async def write_file(self, name, path, content_type):
            raise StorageError("The disk is full.")

    made, look = await publish_pages(report_of(row(cost_usd=Decimal(1))), Full(tmp_path))
    assert made.page is None
    assert look.survey.costs
    assert "could not be stored: The disk is full." in caplog.text
    monkeypatch.setattr(batch_artifacts, "PAGES_SECONDS", 0)
    assert (await publish_pages(report_of(row()), LocalStore(tmp_path)))[0].page is None
    assert "TimeoutError" in caplog.text


def largest_report(text):
    """A report with as much as possible of everything that its artifact shows."""
    kinds = [
        row(
            number,
            key=f"cats/{number}-{text * 500}",
            state="failed",
            error=text * 4000,
            error_type=f"E{kind}{text * 90}",
        )
        for kind in range(40)
        for number in range(6 * kind, 6 * kind + 6)
    ]
    priced = [
        row(1000 + number, cost_usd=Decimal(number), render_seconds=number * 1.1, model=f"{number}{text * 200}")
        for number in range(100)
    ]
    stopped = LimitReached(text * 5000)
    return report_of(*kinds, *priced, folder="cats", stopped_by=stopped.message, uri="s3://" + text * 500)


@pytest.mark.parametrize("text", ["'", "<", "猫", "👩"])
def test_the_largest_artifact_fits(text):
    report = largest_report(text)
    stills = {f"cats/{number}{text * 500}": os.urandom(MAX_STILL_BYTES) for number in range(200)}
    markdown = batch_markdown(report, Look(Survey.of(report.rows), stills))
    assert markdown.count("data:image/webp") >= 4
    assert len(markdown.encode()) <= 150_000


def test_a_contact_sheet_has_up_to_twelve_stills_of_the_whole_batch():
    stills = {f"cats/{number}": os.urandom(MAX_STILL_BYTES) for number in range(200)}
    markdown = batch_markdown(report_of(row()), Look(stills=stills))
    assert re.findall(r'alt="cats/(\d+)"', markdown) == [str(number * 200 // 12) for number in range(12)]
    assert len(markdown.encode()) <= 150_000


def test_an_artifact_has_bars_of_text():
    report = report_of(*(row(number, cost_usd=Decimal("0.05"), render_seconds=4.0) for number in range(1, 4)))
    markdown = batch_markdown(report, Look(Survey.of(report.rows)))
    assert f"<td>$0.05</td><td>{'█' * 24}</td><td>3</td>" in markdown
    assert "<th>Render time</th>" in markdown
    assert "<svg" not in markdown
