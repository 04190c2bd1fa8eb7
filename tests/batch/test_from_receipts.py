"""Reports that are built from receipts alone."""

from decimal import Decimal

import pytest

from prefect_xai_video.api.requests import TextRequest
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.batch.from_receipts import READS, report_of_receipts
from prefect_xai_video.engine.attempts import StoredFile
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import RateLimited, StorageError, SubmissionUnknown

REQUEST = TextRequest(prompt="A cat", duration=1)
FILE = StoredFile(uri="file:///cat.mp4", size=1, sha256="ab" * 32, content_type="video/mp4")


def ended(receipt, state, cost=None):
    return receipt.finished(VideoStatus(request_id="id", state=state, cost_usd=cost and Decimal(cost)))


def submitted(key, number="id"):
    return Receipt.claim(key, REQUEST).submitted(number)


def receipts():
    yield Receipt.claim("cats/sending", REQUEST)
    yield Receipt.claim("cats/refused", REQUEST).refused(RateLimited("too many"))
    yield Receipt.claim("cats/unknown", REQUEST).unknown(SubmissionUnknown("cut"))
    yield submitted("cats/submitted")
    yield ended(submitted("cats/done"), "done", "0.05")
    yield ended(submitted("cats/stored"), "done", "0.06").stored(FILE)
    yield ended(submitted("cats/moderated"), "moderated", "0.07")
    yield ended(submitted("cats/failed"), "failed")
    again = ended(submitted("cats/again", "a"), "failed", "0.03").sent_again("regenerate", REQUEST)
    yield ended(again.submitted("b"), "done", "0.05").stored(FILE)


@pytest.fixture
async def store(tmp_path):
    store = LocalStore(tmp_path)
    for receipt in receipts():
        await store.create(receipt)
    (tmp_path / "cats" / "broken.json").write_text("{}")
    await store.create(Receipt.claim("cats-2/other", REQUEST))
    return store


async def test_each_receipt_below_the_folder_becomes_a_row(store):
    report = await report_of_receipts(store, "cats", "cats")
    assert {row.key: row.state for row in report.rows} == {
        "cats/again": "stored",
        "cats/broken": "unknown",
        "cats/done": "open",
        "cats/failed": "failed",
        "cats/moderated": "moderated",
        "cats/refused": "refused",
        "cats/sending": "unknown",
        "cats/stored": "stored",
        "cats/submitted": "open",
        "cats/unknown": "unknown",
    }
    assert (report.count, report.stored, report.new) == (10, 2, 8)
    assert report.rows[0].prompt == "A cat"
    assert (await report_of_receipts(store, "", "all")).count == 11


async def test_costs_are_those_of_all_attempts(store):
    report = await report_of_receipts(store, "cats", "cats")
    by_key = {row.key.removeprefix("cats/"): row.paid_usd for row in report.rows}
    assert by_key["again"] == Decimal("0.08")
    assert by_key["broken"] == by_key["refused"] == 0
    assert report.cost_usd == sum(by_key.values()) == Decimal("0.41")
    # 0.03 for the first attempt of `again`, 0.07 for the moderated one; xAI does not bill the failed one.
    assert report.wasted_usd == Decimal("0.10")
    assert report.reserved_usd == sum(by_key[key] for key in ("sending", "unknown", "submitted", "done"))


async def test_failures_are_grouped_and_a_receipt_that_cannot_be_read_is_one_of_them(store):
    report = await report_of_receipts(store, "cats", "cats")
    kinds = {(kind.state, kind.error_type): kind for kind in report.failures}
    assert kinds["unknown", "StorageError"].keys == ("cats/broken",)
    assert "broken.json can't be read" in kinds["unknown", "StorageError"].example
    assert kinds["moderated", "VideoModerated"].count == 1
    assert kinds["unknown", "SubmissionUnknown"].keys == ("cats/unknown",)
    assert kinds["refused", "RateLimited"].example == "too many"


async def test_a_store_that_is_down_makes_no_report(store, monkeypatch):
    async def refuse(key):
        raise StorageError("The bucket can't be used.", transient=True)

    monkeypatch.setattr(store, "read", refuse)
    with pytest.raises(StorageError, match="can't be used"):
        await report_of_receipts(store, "cats", "cats")


async def test_a_folder_within_a_store_can_be_read_as_one(store):
    report = await report_of_receipts(LocalStore(store.root / "cats"), "", "all")
    assert report.rows[-1].key == "unknown"
    assert report.stored == 2


async def test_only_some_receipts_are_read_at_a_time_and_all_in_order(tmp_path):
    store, under_way, most = LocalStore(tmp_path), 0, 0
    keys = [f"cat-{number:03}" for number in range(3 * READS + 1)]
    for key in keys:
        await store.create(Receipt.claim(key, REQUEST))
    read = store.read

    async def counted(key):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await read(key)
        finally:
            under_way -= 1

    store.read = counted
    report = await report_of_receipts(store, "", "all")
    assert [row.key for row in report.rows] == keys
    assert most <= READS
