"""The batch lane end to end: flows, collector, shards of one process, and the command, on a Prefect server."""

import csv
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter

from prefect_xai_video import XaiCredentials, agenerate_video, agenerate_videos, asubmit_videos
from prefect_xai_video.batch.lanes import choose_lane
from prefect_xai_video.batches import runs
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.errors import BatchFailed, InvalidManifest, InvalidRequest
from prefect_xai_video.ui import batch_artifacts

from .support.api_key import API_KEY
from .support.lane import ids, paid, quick
from .test_collecting import collect_until, marks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(autouse=True)
def waits():
    with quick():
        yield


@pytest.fixture
def emulator():
    with Emulator(light=True, render_seconds=0.2, api_key=API_KEY) as running:
        yield running


def rows(count, text=""):
    return [{"key": f"cats/{number}", "prompt": f"Cat {number} {text}", "duration": 1} for number in range(count)]


def posts(emulator):
    return [request["path"] for request in emulator.requests() if request["method"] == "POST"]


async def test_rows_go_through_one_batch_and_a_second_run_sends_nothing(storage, xai, emulator, caplog, monkeypatch):
    monkeypatch.setattr(runs, "LOG_SECONDS", 0)
    options = {"lane": "batch", "storage": storage, "credentials": xai}
    with caplog.at_level("INFO"):
        report = await agenerate_videos(rows(5), budget_usd=1, **options)
    (batch_id,) = {each["batch_id"] for each in emulator.ledger()["requests"]}
    assert f"Rows are added to xAI's batch {batch_id}" in caplog.text
    assert "5 of 5 rows have ended, 5 stored, 0 in flight, $0.25 paid of a budget of $1" in caplog.text
    assert (report.count, report.stored, report.new, str(report.cost_usd)) == (5, 5, 5, "0.25")
    assert report.rows[3].uri.endswith("cats/3.mp4")
    assert [path.rpartition("/")[2] for path in posts(emulator)] == ["batches", "requests"]
    sent = len(emulator.requests())
    again = await agenerate_videos(rows(5), **options)
    assert (again.stored, again.new, len(emulator.requests())) == (5, 0, sent)
    video = await agenerate_video("Cat 3 ", duration=1, key="cats/3", storage=storage, credentials=xai)
    assert video.uri == report.rows[3].uri
    assert set(ids(emulator).values()) == {1}


async def test_submitted_rows_are_collected_by_another_run(storage, xai, emulator):
    emulator.choose_fault("batch-add-accepted-cut")
    report = await asubmit_videos(rows(4), lane="batch", storage=storage, credentials=xai)
    assert (report.open, report.stored) == (4, 0)
    assert len(await marks(storage)) == 4
    await collect_until(storage, xai, "stored", 4)
    again = await agenerate_videos(rows(4), storage=storage, credentials=xai)
    assert (again.stored, again.new) == (4, 0)
    assert set(paid(emulator).values()) == {1}


async def test_the_other_lane_submits_what_was_never_added(storage, xai, emulator):
    emulator.choose_fault("batch-add-cut")
    report = await asubmit_videos(rows(3), lane="batch", storage=storage, credentials=xai)
    assert (report.open, emulator.ledger()["requests"]) == (3, [])
    made = await agenerate_videos(rows(3), storage=storage, credentials=xai)
    assert (made.stored, made.new) == (3, 3)
    assert set(paid(emulator).values()) == {1}
    assert ids(emulator) == {None: 3}


async def _make_one_by_one(table, **options):
    return [await agenerate_video(**row, **options) for row in table]


async def _submit_in_lane(table, **options):
    return await asubmit_videos(table, lane="batch", **options)


@pytest.mark.parametrize("make", [agenerate_videos, asubmit_videos, _submit_in_lane, _make_one_by_one])
async def test_what_was_cancelled_before_it_was_rendered_is_submitted_by_whoever_wants_it(directory, make):
    with Emulator(light=True, render_seconds=0.5, render_slots=1, api_key=API_KEY) as emulator:
        emulator.choose_fault("batch-cancelled-by-xai")
        xai = XaiCredentials(api_key=API_KEY, base_url=emulator.base_url)
        report = await asubmit_videos(rows(3), lane="batch", storage=directory, credentials=xai)
        assert report.open == 3
        sent = len(emulator.ledger()["requests"])
        await make(rows(3), storage=directory, credentials=xai)
        assert len(emulator.ledger()["requests"]) > sent
        report = await agenerate_videos(rows(3), storage=directory, credentials=xai)
        assert (report.stored, report.new) == (3, 0)
        assert (len(paid(emulator)), set(paid(emulator).values())) == (3, {1})


@pytest.mark.parametrize("make", [agenerate_videos, _make_one_by_one])
@pytest.mark.parametrize("faults", [["batch-add-late-seconds"], ["batch-add-accepted-cut", "batch-requests-lag"]])
async def test_what_its_batch_may_still_show_is_not_submitted_again_even_if_a_person_wants_it(
    directory, xai, emulator, faults, make
):
    for fault in faults:
        emulator.choose_fault(fault)
    await asubmit_videos(rows(3), lane="batch", storage=directory, credentials=xai)
    await make(rows(3), on_unknown="resubmit", storage=directory, credentials=xai)
    assert len((await agenerate_videos(rows(3), storage=directory, credentials=xai)).rows) == 3
    assert paid(emulator) == dict.fromkeys(paid(emulator), 1)
    assert set(ids(emulator).values()) == {1}


async def test_the_collector_settles_what_was_never_added(directory, xai, emulator):
    emulator.choose_fault("batch-add-cut")
    report = await asubmit_videos(rows(3), lane="batch", storage=directory, credentials=xai)
    assert report.open == 3
    collected = await collect_until(directory, xai, "ended", 3)
    assert collected.errors == {}
    assert emulator.ledger()["submissions"] == 0
    report = await agenerate_videos(rows(3), lane="batch", storage=directory, credentials=xai)
    assert (report.stored, report.new) == (3, 3)


async def test_the_report_tells_what_happened_to_each_row(directory, xai, emulator):
    table = rows(3)
    table[1]["prompt"] += "[fault:moderated]"
    with pytest.raises(BatchFailed, match=r"2 of 3 videos stored \(1 moderated\)") as caught:
        await agenerate_videos(table, lane="batch", storage=directory, credentials=xai)
    assert [row.state for row in caught.value.report.rows] == ["stored", "moderated", "stored"]
    with (Path(directory.basepath) / "cats" / "batch.report.csv").open(newline="") as file:
        assert {row["request_id"] for row in csv.DictReader(file)} == set(ids(emulator))


async def test_inputs_and_files_kept_at_xai_go_with_the_rows(directory, xai, emulator, tmp_path):
    picture = tmp_path / "cat.png"
    picture.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + bytes.fromhex(
            "0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
            "0000000049454e44ae426082"
        )
    )
    table = [{"key": "cat", "prompt": "It wakes up", "image_url": str(picture), "duration": 1}]
    options = {"lane": "batch", "keep_at_xai": True, "storage": directory, "credentials": xai}
    report = await agenerate_videos(table, **options)
    assert report.stored == 1
    video = await agenerate_video(
        "It wakes up", image_url=str(picture), duration=1, key="cat", storage=directory, credentials=xai
    )
    assert video.file_id is not None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lane": "bulk"}, "lane: 'bulk'"),
        ({"lane": "batch", "delivery": "direct"}, "delivery: 'direct' in the batch lane"),
        ({"lane": "batch", "recovery": "files"}, "recovery: 'files' in the batch lane"),
        ({"cancel_at_xai": "yes"}, "cancel_at_xai: 'yes'"),
    ],
)
async def test_what_does_not_go_together_is_refused_before_anything_is_sent(directory, xai, emulator, options, named):
    with pytest.raises(InvalidRequest) as caught:
        await agenerate_videos(rows(1), storage=directory, credentials=xai, **options)
    assert str(caught.value).startswith(named)
    assert posts(emulator) == []


async def test_a_row_that_does_not_go_with_the_lane_is_named_before_anything_is_sent(directory, xai, emulator):
    table = [*rows(2), {"key": "dog", "prompt": "A dog", "recovery": "files"}]
    with pytest.raises(InvalidManifest, match="row 3: recovery: 'files' in the batch lane"):
        await agenerate_videos(table, lane="batch", storage=directory, credentials=xai)
    assert posts(emulator) == []
    report = await agenerate_videos(table, lane="auto", storage=directory, credentials=xai)
    assert report.stored == 3


@pytest.mark.parametrize("lane", ["realtime", "batch"])
async def test_the_page_follows_what_the_collector_has_stored(directory, xai, emulator, lane):
    options = {"lane": lane, "storage": directory, "credentials": xai}
    await asubmit_videos(rows(3), **options)
    page = Path(directory.basepath) / "cats" / "batch.report" / "index.html"
    assert "0 of 3 videos stored (3 open)" in page.read_text()
    await collect_until(directory, xai, "stored", 3)
    report = await asubmit_videos(rows(3), **options)
    assert (report.stored, report.page) == (3, page.as_uri())
    assert "3 of 3 videos stored" in page.read_text()
    again = await asubmit_videos(rows(3), **options)
    assert (again.stored, again.page) == (3, None)


async def test_a_run_that_only_finishes_open_rows_has_a_page(directory, xai, emulator):
    options = {"storage": directory, "credentials": xai, "lane": "batch"}
    await asubmit_videos(rows(3), **options)
    report = await agenerate_videos(rows(3), **options)
    assert (report.stored, report.new) == (3, 0)
    assert "3 of 3 videos stored" in Path(report.page.removeprefix("file://")).read_text()


async def test_the_progress_of_a_batch_ends_at_all_rows(directory, xai, emulator, monkeypatch):
    monkeypatch.setattr(batch_artifacts, "FIRST_PROGRESS_SECONDS", 0)
    report = await agenerate_videos(rows(3), lane="batch", storage=directory, credentials=xai)
    async with get_client() as prefect:
        of_run = ArtifactFilter(flow_run_id={"any_": [report.run_id]}, type={"any_": ["progress"]})
        (shown,) = await prefect.read_artifacts(artifact_filter=of_run)
    assert shown.data == 100


async def test_stills_are_stored_with_the_rows_also_later(directory, xai, emulator):
    options = {"lane": "batch", "storage": directory, "credentials": xai}
    await agenerate_videos(rows(2), **options)
    report = await agenerate_videos(rows(2), stills=True, **options)
    assert (report.stored, report.new) == (2, 0)
    assert (Path(directory.basepath) / "cats" / "1.last.png").exists()
    assert set(paid(emulator).values()) == {1}


async def test_auto_chooses_by_the_rows_and_says_why(directory, xai, emulator, caplog):
    report = await agenerate_videos(rows(2), lane="auto", storage=directory, credentials=xai)
    assert report.stored == 2
    assert "The lane is realtime: at 0.67 videos a second, the lowest rate known, and 10 in flight" in caplog.text
    assert not any("batches" in path for path in posts(emulator))


@pytest.mark.parametrize(
    ("rows", "in_flight", "rate", "only_realtime", "lane"),
    [
        (1000, 50, None, False, "realtime"),
        (10_000, 50, None, False, "batch"),
        (10_000, 500, 10.0, False, "realtime"),
        (10_000, 50, 10.0, False, "batch"),
        (10_000, 50, None, True, "realtime"),
    ],
)
def test_the_choice_of_a_lane(rows, in_flight, rate, only_realtime, lane):
    chosen = choose_lane("auto", rows, in_flight, rate, only_realtime=only_realtime)
    assert chosen.lane == lane
    assert chosen.why
