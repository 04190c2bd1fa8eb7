"""Outcomes: kept in a file, read in the order of the manifest, and what an error says of a row."""

import csv
import pickle
from decimal import Decimal

import pytest

from prefect_xai_video.api.options import build_request
from prefect_xai_video.batch.outcomes import Outcomes, RowOutcome, estimated
from prefect_xai_video.batch.plan import PlannedRow
from prefect_xai_video.batch.report import Tally, store_report
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import (
    AccessDenied,
    DownloadError,
    KeyConflict,
    RequestRejected,
    ServiceUnavailable,
    StorageError,
    SubmissionUnknown,
    VideoExpired,
    VideoFailed,
    VideoModerated,
    VideoTimeout,
)

ROW = PlannedRow(1, "line 2", "cat", build_request("A cat", duration=1))


@pytest.fixture
def outcomes():
    made = Outcomes()
    for number in (3, 1, 2):
        made.add(RowOutcome(number=number, place=f"row {number}", key=f"cat-{number}", state="stored"))
    return made


def test_they_are_read_in_the_order_of_the_manifest(outcomes):
    assert [row.number for row in outcomes] == [1, 2, 3]
    assert (outcomes[0].number, outcomes[-1].number, len(outcomes)) == (1, 3, 3)
    assert [row.key for row in outcomes[1:]] == ["cat-2", "cat-3"]
    outcomes.add(RowOutcome(number=0, place="row 0", key="dog", state="open"))
    assert outcomes[0].key == "dog"
    with pytest.raises(IndexError):
        outcomes[9]


def test_they_can_be_pickled(outcomes):
    assert list(pickle.loads(pickle.dumps(outcomes))) == list(outcomes)


def test_a_row_is_found_by_its_key(outcomes):
    assert [outcomes.of(f"cat-{number}").number for number in (2, 3, 1)] == [2, 3, 1]
    outcomes.add(RowOutcome(number=0, place="row 0", key="dog", state="open"))
    assert (outcomes.of("dog").state, outcomes.of("cat-3").number) == ("open", 3)
    assert pickle.loads(pickle.dumps(outcomes)).of("cat-1").number == 1
    with pytest.raises(KeyError, match="No row of this batch has the key 'cat-9'"):
        outcomes.of("cat-9")
    with pytest.raises(KeyError):
        Outcomes().of("cat-1")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (VideoModerated("m"), "moderated"),
        (VideoFailed("f"), "failed"),
        (VideoExpired("e"), "expired"),
        (VideoTimeout("t"), "open"),
        (SubmissionUnknown("u"), "unknown"),
        (DownloadError("d"), "open"),
        (StorageError("s", request_id="id"), "open"),
        (ServiceUnavailable("a poll", request_id="id"), "open"),
        (StorageError("s"), "refused"),
        (StorageError("a receipt that can't be read", maybe_paid=True), "unknown"),
        (KeyConflict("k"), "refused"),
        (AccessDenied("no credits"), "refused"),
    ],
)
def test_what_an_error_says_of_its_row(error, state):
    outcome = RowOutcome.of_error(ROW, error, is_new=True)
    assert (outcome.state, outcome.error, outcome.error_type) == (state, error.message, type(error).__name__)


def test_what_was_paid_is_the_billed_cost_or_else_the_estimate():
    def paid(**facts):
        return RowOutcome(number=1, place="row 1", key="cat", state="stored", **facts).paid_usd

    assert paid(is_new=True, cost_usd=Decimal("0.3"), estimated_cost_usd=Decimal("0.2")) == Decimal("0.3")
    assert paid(is_new=True, estimated_cost_usd=Decimal("0.2")) == Decimal("0.2")
    assert paid(is_new=False, cost_usd=Decimal("0.3")) == 0


async def test_texts_of_others_are_no_formulas_in_the_csv_file(tmp_path):
    tally = Tally("cats", "", 1, Decimal(0))
    tally.add(RowOutcome(number=1, place="row 1", key="cat", state="failed", error="=1+1", model="@SUM"))
    await store_report(tally.report(), LocalStore(tmp_path))
    with (tmp_path / "cats.report.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["error"], row["model"]) == ("'=1+1", "'@SUM")


@pytest.mark.parametrize(("regenerate", "state"), [(False, "open"), (True, "not started")])
def test_a_dry_run_counts_what_xai_does_not_know_as_due_if_it_is_given_up(regenerate, state):
    request = build_request("A cat", duration=1)
    row = PlannedRow(1, "row 1", "cat", request)
    receipt = Receipt.claim("cat", request).submitted("id-1").not_found(RequestRejected("xAI does not know it."))
    assert estimated(row, receipt, regenerate=regenerate, on_unknown="raise").state == state
