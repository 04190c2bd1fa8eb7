"""Batches end to end: a Prefect server, the emulator, a directory and a bucket."""

import asyncio
import csv
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentFlowRunId
from prefect.runtime import flow_run

from prefect_xai_video import (
    XaiCredentials,
    agenerate_video,
    agenerate_videos,
    amake_video,
    asubmit_videos,
    generate_videos,
)
from prefect_xai_video.emulator import Emulator
from prefect_xai_video.errors import BatchFailed, InvalidManifest, InvalidRequest
from prefect_xai_video.orchestration.storage import open_store

from .support.api_key import API_KEY

PNG = b"\x89PNG\r\n\x1a\n" + bytes.fromhex(
    "0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def rows(count, **options):
    return [{"key": f"cats/{number}", "prompt": f"Cat {number}", "duration": 1} | options for number in range(count)]


async def test_a_row_of_a_file_whose_reply_was_lost_is_found_if_its_cell_says_so(
    directory, xai, tmp_path, submissions, emulator
):
    table = tmp_path / "cats.csv"
    lost = "[fault:start-accepted-cut]"
    table.write_text(f"key,prompt,duration,recovery\none,One {lost},1,files\ntwo,Two {lost},1,\nthree,Three,1,none\n")
    report = await agenerate_videos(
        str(table), storage=directory, credentials=xai, timeout_seconds=20, allow_failures=True
    )
    assert {row.key: row.state for row in report.rows} == {"one": "stored", "two": "unknown", "three": "stored"}
    assert (report.rows.of("one").request_id, report.rows.of("one").duration) == (None, 1)
    posted = [request["body"] for request in emulator.requests() if request["method"] == "POST"][-3:]
    assert {body["prompt"][:3]: "storage_options" in body for body in posted} == {
        "One": True,
        "Two": False,
        "Thr": False,
    }
    assert submissions() == 3


async def test_stills_of_a_batch_are_those_of_any_video(storage, xai, submissions, tmp_path):
    wanted = {"storage": storage, "credentials": xai}
    plain = await agenerate_videos(rows(2), **wanted)
    assert [row.last_frame for row in plain.rows] == [None, None]
    # Stored videos get theirs without paying; a row may do without.
    mixed = [*rows(2), {"key": "cats/2", "prompt": "Cat 2", "duration": 1, "stills": False}]
    report = await agenerate_videos(mixed, stills=True, **wanted)
    assert (report.stored, report.new, submissions()) == (3, 1, 3)
    assert [row.last_frame for row in report.rows] == [f"{row.uri[:-4]}.last.png" for row in report.rows[:2]] + [None]
    assert report.rows[0].poster == f"{report.rows[0].uri[:-4]}.poster.jpg"
    video = await agenerate_video("Cat 1", duration=1, key="cats/1", **wanted)
    assert (video.poster, video.last_frame) == (report.rows[1].poster, report.rows[1].last_frame)
    store = open_store(storage, tmp_path)
    assert await store.read_file("cats/0.last.png", tmp_path / "last.png")


async def test_a_batch_makes_each_video_once_and_a_second_run_sends_nothing(storage, xai, submissions, emulator):
    report = await agenerate_videos(rows(5), in_flight=3, storage=storage, credentials=xai)
    assert (report.count, report.stored, report.new, report.cost_usd) == (5, 5, 5, Decimal("0.25"))
    assert [row.key for row in report.rows] == [f"cats/{number}" for number in range(5)]
    assert report.rows[3].uri.endswith("cats/3.mp4")
    assert report.rows[-1].cost_usd == Decimal("0.05")
    assert submissions() == 5

    sent = len(emulator.requests())
    again = await agenerate_videos(rows(5), in_flight=3, storage=storage, credentials=xai)
    assert (again.stored, again.new, again.cost_usd) == (5, 0, 0)
    assert [row.uri for row in again.rows] == [row.uri for row in report.rows]
    assert len(emulator.requests()) == sent

    # A video of a batch is one like any other.
    video = await agenerate_video("Cat 3", duration=1, key="cats/3", storage=storage, credentials=xai)
    assert video.uri == report.rows[3].uri
    assert submissions() == 5


async def test_the_report_lies_beside_the_videos_and_is_no_receipt(directory, xai):
    report = await agenerate_videos(rows(2), storage=directory, credentials=xai)
    root = Path(directory.basepath) / "cats"
    assert report.uri == (root / "batch.report.json").as_uri()
    facts = json.loads((root / "batch.report.json").read_text())
    assert (facts["states"], facts["cost_usd"], facts["rows"]) == ({"stored": 2}, "0.1", "batch.report.csv")
    with (root / "batch.report.csv").open(newline="") as file:
        assert [(row["key"], row["state"]) for row in csv.DictReader(file)] == [
            ("cats/0", "stored"),
            ("cats/1", "stored"),
        ]
    store = open_store(directory, Path())
    assert [key async for key in store.keys("cats")] == ["cats/0", "cats/1"]


async def test_the_report_can_be_joined_with_the_table_that_it_was_made_of(directory, xai, emulator):
    table = [{"sku": f"S-{number}", "title": f"My cat {number}", "price": -number} | row
             for number, row in enumerate(rows(2))]  # fmt: skip
    options = {"keep": ["sku", "price", "title"], "storage": directory, "credentials": xai}
    look = await agenerate_videos(table, dry_run=True, **options)
    assert look.rows.of("cats/1").kept == {"sku": "S-1", "price": "-1", "title": "My cat 1"}
    await asubmit_videos(table, **options)
    report = await agenerate_videos(table, **options)
    assert report.rows.of("cats/1").kept["sku"] == "S-1"
    assert report.rows.of("cats/1").uri.endswith("cats/1.mp4")
    with (Path(directory.basepath) / "cats" / "batch.report.csv").open(newline="") as file:
        joined = [(row["sku"], row["price"], row["title"], row["state"]) for row in csv.DictReader(file)]
    assert joined == [("S-0", "0", "My cat 0", "stored"), ("S-1", "-1", "My cat 1", "stored")]
    assert "My cat" not in json.dumps(emulator.requests())
    assert "My cat" not in (Path(directory.basepath) / "cats" / "1.json").read_text()


@pytest.mark.parametrize("lane", ["realtime", "batch"])
async def test_a_receipt_that_can_not_be_read_spoils_no_other_row(storage, xai, tmp_path, lane, submissions):
    options = {"lane": lane, "storage": storage, "credentials": xai, "allow_failures": True}
    await agenerate_videos(rows(2), **options)
    sent = submissions()
    damaged = tmp_path / "damaged"
    damaged.write_text("{")
    await open_store(storage, tmp_path).write_file("cats/2.json", damaged, "application/json")
    report = await agenerate_videos(rows(4), **options)
    assert [row.state for row in report.rows] == ["stored", "stored", "unknown", "stored"]
    assert "2.json can't be read" in report.rows[2].error
    assert (report.new, submissions() > sent) == (1, True)


async def test_a_row_that_fails_stops_no_other_and_fails_the_run_at_its_end(directory, xai, submissions):
    table = rows(4)
    table[1]["prompt"] += " [fault:moderated]"
    table[2]["prompt"] += " [fault:start-accepted-cut]"
    with pytest.raises(BatchFailed, match=r"2 of 4 videos stored \(1 unknown, 1 moderated\)") as caught:
        await agenerate_videos(table, storage=directory, credentials=xai)
    report = caught.value.report
    assert [row.state for row in report.rows] == ["stored", "moderated", "unknown", "stored"]
    assert (report.failed, report.wasted_usd, report.reserved_usd) == (2, Decimal("0.05"), Decimal("0.05"))
    assert {kind.error_type: kind.keys for kind in report.failures} == {
        "VideoModerated": ("cats/1",),
        "SubmissionUnknown": ("cats/2",),
    }
    assert submissions() == 4

    state = await agenerate_videos(table, storage=directory, credentials=xai, allow_failures=True, return_state=True)
    assert (state.name, state.message) == (
        "Completed",
        "2 of 4 videos stored (1 unknown, 1 moderated); nothing paid, $0.20 with earlier runs",
    )
    assert submissions() == 4


async def test_a_budget_is_never_exceeded_and_ends_the_submissions(directory, xai, submissions):
    with pytest.raises(BatchFailed) as caught:
        await agenerate_videos(rows(6), in_flight=6, budget_usd=0.17, storage=directory, credentials=xai)
    report = caught.value.report
    assert (report.stored, report.cost_usd, submissions()) == (3, Decimal("0.15"), 3)
    assert report.states["refused"] + report.states.get("not started", 0) == 3
    assert "The budget of $0.17 has no room" in report.stopped_by
    assert "raise the budget" in next(kind.next_step for kind in report.failures if kind.state == "refused")
    again = await agenerate_videos(rows(6), budget_usd=0.15, storage=directory, credentials=xai)
    assert (again.stored, again.new, submissions()) == (6, 3, 6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget_usd": 0.04}, "budget_usd: 0.04 is not allowed; allowed: at least 0.05 USD"),
        ({"budget_usd": 0}, "budget_usd: 0 is not allowed"),
        ({"budget_usd": "much"}, "budget_usd: 'much' is not allowed"),
        ({"budget_usd": True}, "budget_usd: True is not allowed"),
        ({"in_flight": 0}, "in_flight: 0 is not allowed; allowed: a whole number from 1 to 10,000"),
        ({"in_flight": 10_001}, "in_flight: 10001 is not allowed"),
        ({"keep": "sku"}, "keep: 'sku' is not allowed; allowed: a list of names of columns"),
        ({"keep": ["sku"]}, "keep: no row has a column 'sku'"),
        ({"in_flight": 2.5}, "in_flight: 2.5 is not allowed"),
        ({"timeout_seconds": -1}, "timeout_seconds: -1 is not allowed"),
        ({"key": "{nothing}"}, "there is no such column|nothing: the column is empty"),
        ({"regenerate": "no"}, "regenerate: 'no' is not allowed; allowed: true or false"),
        ({"delivery": "post"}, "delivery: 'post' is not allowed; allowed: download or direct"),
        ({"delivery": "direct", "recovery": "files"}, "recovery: 'files' with direct delivery is not allowed"),
        ({"key": 7}, "key: 7 is not allowed"),
    ],
)
async def test_bad_options_are_told_before_anything_is_sent(options, says, directory, xai, submissions):
    with pytest.raises((InvalidRequest, BatchFailed), match=says):
        await agenerate_videos(rows(2), storage=directory, credentials=xai, **options)
    assert submissions() == 0


async def test_lost_replies_are_recovered_by_files_at_an_estimated_cost(directory, xai, submissions):
    table = [
        {"prompt": f"A cat to be found {number} [fault:start-accepted-cut]", "duration": 1} for number in range(3)
    ]
    options = {"recovery": "files", "storage": directory, "credentials": xai}
    report = await agenerate_videos(table, **options)
    assert (report.stored, report.cost_usd, submissions()) == (3, Decimal("0.15"), 3)
    again = await agenerate_videos(table, **options)
    assert (again.stored, again.new, submissions()) == (3, 0, 3)


async def test_a_wrong_key_ends_the_submissions(directory, emulator, submissions):
    wrong = XaiCredentials(api_key="xai-wrong", base_url=emulator.base_url)
    with pytest.raises(BatchFailed) as caught:
        await agenerate_videos(rows(40), in_flight=2, storage=directory, credentials=wrong)
    assert caught.value.report.not_started >= 30
    assert "API key" in caught.value.report.stopped_by
    assert caught.value.report.cost_usd == 0


async def test_findings_are_told_at_once(directory, xai, submissions):
    table = [*rows(2), {"key": "cats/0", "prompt": "Again"}, {"key": "dog", "prompt": ""}]
    with pytest.raises(InvalidManifest, match=r"2 problems[\s\S]*row 3: key[\s\S]*row 4: prompt"):
        await agenerate_videos(table, storage=directory, credentials=xai)
    assert submissions() == 0


async def test_a_dry_run_estimates_what_is_not_stored(directory, xai, submissions):
    await agenerate_videos(rows(1), storage=directory, credentials=xai)
    state = await agenerate_videos(rows(3), dry_run=True, storage=directory, credentials=xai, return_state=True)
    report = await state.result()
    assert (report.stored, report.not_started, report.estimated_usd) == (1, 2, Decimal("0.15"))
    assert report.due_usd == Decimal("0.1")
    assert submissions() == 1
    assert "about $0.10" in state.message


async def test_rows_that_are_paid_for_are_neither_estimated_nor_left_behind(directory, xai, submissions):
    await asubmit_videos(rows(6)[3:], storage=directory, credentials=xai)
    look = await agenerate_videos(rows(6)[3:], dry_run=True, storage=directory, credentials=xai)
    assert (look.open, look.due_usd) == (3, 0)
    # The budget ends the submissions at the second row; those that are paid for are continued.
    with pytest.raises(BatchFailed) as caught:
        await agenerate_videos(rows(6), in_flight=1, budget_usd=0.05, storage=directory, credentials=xai)
    assert [row.state for row in caught.value.report.rows][3:] == ["stored"] * 3
    assert (caught.value.report.stored, submissions()) == (4, 4)


async def test_two_runs_of_one_batch_at_once_pay_once_and_both_tell_that_all_is_stored(directory, xai, submissions):
    options = {"in_flight": 4, "storage": directory, "credentials": xai}
    reports = await asyncio.gather(agenerate_videos(rows(12), **options), agenerate_videos(rows(12), **options))
    assert [report.stored for report in reports] == [12, 12]
    assert sum(report.new for report in reports) == submissions() == 12


async def test_rows_with_local_images_are_found_again(directory, xai, submissions, tmp_path):
    image = tmp_path / "cat.png"
    image.write_bytes(PNG)
    table = rows(3, image_url=str(image))
    options = {"storage": directory, "credentials": xai}
    reports = await asyncio.gather(*(agenerate_videos(table, **options) for _ in range(2)))
    assert [report.stored for report in reports] == [3, 3]
    (Path(directory.basepath) / "cats" / "1.mp4").unlink()
    again = await agenerate_videos(table, **options)
    assert (again.stored, again.new, submissions()) == (3, 0, 3)


async def test_rows_given_as_a_list_are_not_stored_with_the_run(directory, xai):
    @flow
    async def nightly():
        await agenerate_videos(rows(1, prompt="A secret cat"), storage=directory, credentials=xai)
        return flow_run.id

    outer = await nightly()
    async with get_client() as prefect:
        [parent] = await prefect.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[outer])))
        of_it = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[outer]))
        [batch] = await prefect.read_flow_runs(flow_run_filter=of_it)
    assert parent.state.is_completed()
    assert batch.parameters["manifest"] == "<GivenRows>"
    assert "secret" not in json.dumps(batch.parameters)


async def test_a_cancelled_batch_pays_nothing_twice_when_it_runs_again(directory, xai, submissions):
    batch = asyncio.create_task(agenerate_videos(rows(8), in_flight=2, storage=directory, credentials=xai))
    while submissions() < 4:
        await asyncio.sleep(0.05)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    stopped = submissions()
    assert stopped < 8
    report = await agenerate_videos(rows(8), in_flight=2, storage=directory, credentials=xai)
    assert (report.stored, submissions()) == (8, 8)
    assert report.new == 8 - stopped


def test_the_synchronous_name_does_the_same(directory, xai, submissions):
    assert generate_videos(rows(2), storage=directory, credentials=xai).stored == 2
    assert submissions() == 2


async def test_make_video_is_one_task_run_in_a_flow_of_ones_own(directory, xai, submissions):
    @flow
    async def publish():
        return await amake_video("A cat", duration=1, key="cat", storage=directory, credentials=xai)

    video = await publish()
    assert await publish() == video
    assert submissions() == 1


async def test_no_more_rows_are_in_flight_than_allowed(directory):
    with Emulator(render_seconds=1, api_key=API_KEY) as emulator:
        xai = XaiCredentials(api_key=API_KEY, base_url=emulator.base_url)
        report = await agenerate_videos(rows(9), in_flight=3, storage=directory, credentials=xai)
        posts = [request["time"] for request in emulator.requests() if request["method"] == "POST"]
    spans = [(at, at + 1) for at in (datetime.fromisoformat(time).timestamp() for time in posts)]
    assert report.stored == 9
    assert all(sum(begin <= other < end for other, _ in spans) <= 3 for begin, end in spans)
