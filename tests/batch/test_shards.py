"""Shards: how rows, videos in flight and a budget are divided, and what a shard checks and leaves behind."""

import csv
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_xai_video.batch.earlier import due_usd, paid_before
from prefect_xai_video.batch.manifest import open_manifest
from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.batch.plan import make_plan
from prefect_xai_video.batch.report import Tally, report_name, store_report
from prefect_xai_video.batch.shards import (
    Funds,
    Shard,
    copy_manifest,
    is_of_shard,
    open_rows,
    outcome_of_receipt,
    plan_of,
    read_outcomes,
    row_ranges,
    shares_of,
)
from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.errors import InvalidRequest, RateLimited, VideoModerated

RUN, OTHER_RUN = "f306bb90-a763-4cee-b9a8-96c0d88fd90e", "e975cfc5-c0fc-4fe9-b9a0-aa5e8032a332"


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def plan():
    rows = [{"key": f"cats/{number}", "prompt": f"Cat {number}", "duration": 1} for number in range(5)]
    with open_rows(rows, as_file=True) as manifest:
        yield make_plan(manifest)


def shard_of(plan, **changed) -> Shard:
    facts = {"number": 2, "start": 2, "stop": 5, "digest": plan.manifest.digest, "name": "batch", "folder": "cats"}
    return Shard(**facts | changed)


@pytest.mark.parametrize(
    ("count", "rows", "ranges"),
    [
        (1, 5, [(0, 1)]),
        (10, 5, [(0, 5), (5, 10)]),
        (11, 5, [(0, 3), (3, 7), (7, 11)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_rows_are_split_into_ranges_of_about_the_same_size(count, rows, ranges):
    assert row_ranges(count, rows) == ranges


def test_too_many_shards_are_refused():
    assert len(row_ranges(100_000, 100)) == 1000
    with pytest.raises(InvalidRequest, match="shard_rows: 99 is not allowed; allowed: at least 100, so that"):
        row_ranges(100_000, 99)


@pytest.mark.parametrize(
    ("in_flight", "shards", "room", "shares"),
    [
        (10, 4, None, [3, 3, 2, 2]),
        (10, 4, 2, [5, 5]),
        (3, 50, None, [1, 1, 1]),
        (8, 1, None, [8]),
        (1, 9, 4, [1]),
    ],
)
def test_the_videos_in_flight_are_divided_over_the_shards_that_run_at_the_same_time(in_flight, shards, room, shares):
    assert shares_of(in_flight, shards, room) == shares
    assert sum(shares) == in_flight


def test_a_budget_is_divided_by_what_is_due_and_what_is_left_over_goes_to_those_that_come():
    funds = Funds(Decimal(10), {1: Decimal(2), 2: Decimal(6), 3: Decimal(0), 4: Decimal(12)})
    for number, offered in [(1, "1"), (2, "3"), (3, "0.0001")]:
        assert funds.offer(number) == Decimal(offered)
        funds.give(number, funds.offer(number))
    funds.settle(2, Decimal("1.5"))
    assert funds.offer(4) == Decimal("7.4999")
    # An earlier try of the batch gave it another amount.
    funds.give(4, Decimal(5))
    funds.settle(4, Decimal(5))
    assert Funds(None, {}).offer(1) is None


def test_a_budget_is_never_exceeded_by_rounding():
    funds = Funds(Decimal(1), dict.fromkeys(range(7), Decimal(3)))
    given = []
    for number in range(7):
        given.append(funds.offer(number))
        funds.give(number, given[-1])
    assert sum(given) <= 1
    assert min(given) >= Decimal("0.14")


async def test_the_manifest_is_copied_beside_the_videos_and_read_again_by_each_shard(plan, store):
    path = Path(await copy_manifest(plan, store))
    assert path == store.root / "cats" / f"batch.manifest-{plan.manifest.digest[:12]}.jsonl"
    assert [key async for key in store.keys("")] == []
    with open_manifest(path) as manifest:
        of_shard = plan_of(manifest, None, shard_of(plan), validation="strict")
        assert [row.key for row in of_shard.rows()] == ["cats/2", "cats/3", "cats/4"]
        assert (of_shard.folder, of_shard.manifest.name, of_shard.count) == ("cats", "batch", 3)
        for changed, says in [
            ({"digest": "0" * 64}, "its content has changed"),
            ({"stop": 9}, "shard: rows 3-9 is not allowed"),
            ({"folder": "dogs"}, "shard: the folder 'dogs' is not allowed"),
        ]:
            with pytest.raises(InvalidRequest, match=says):
                plan_of(manifest, None, shard_of(plan, **changed), validation="strict")


def test_the_parameter_of_a_shard_is_checked(plan):
    good = shard_of(plan)
    assert Shard.of(good.model_dump()) == good
    assert Shard.of(None) is Shard.of({}) is None
    for bad in ({"number": 0}, {"name": "../../etc"}, {"name": ".x"}, {"more": 1}, {"start": -1}):
        with pytest.raises(InvalidRequest, match=r"shard: .* is not allowed"):
            Shard.of(good.model_dump() | bad)
    with pytest.raises(InvalidRequest, match=r"shard: .* is not allowed"):
        Shard.of("one")


def test_no_key_has_the_name_of_a_report_of_a_shard(plan):
    with pytest.raises(InvalidRequest):
        check_key(f"cats/{shard_of(plan).report_name}.report")


async def test_a_report_of_a_shard_is_read_as_it_was_written(plan, store, tmp_path):
    outcomes = [
        RowOutcome(
            number=3,
            place="line 3",
            key="cats/2",
            state="stored",
            is_new=True,
            size=7,
            cost_usd=Decimal("0.05"),
            render_seconds=1.5,
        ),
        RowOutcome(
            number=4,
            place="line 4",
            key="cats/3",
            state="moderated",
            error='It said "no",\nand no.',
            kept={"size": '9"', "manifest.size": "-1", "title": " =A,\ncat "},
        ),
        RowOutcome(number=5, place="line 5", key="cats/4", state="not started"),
    ]
    keep = ("size", "manifest.size", "title")
    tally = Tally("batch.shard-0002", "cats", 3, Decimal("0.15"), keep)
    for outcome in outcomes:
        tally.add(outcome)
    assert (await store_report(tally.report(), store)).endswith("cats/batch.shard-0002.report.json")
    assert [key async for key in store.keys("")] == []
    copy = tmp_path / "copy.csv"
    assert await store.read_file("cats/batch.shard-0002.report.csv", copy)
    assert not await store.read_file("cats/batch.shard-0003.report.csv", tmp_path / "none.csv")
    assert list(read_outcomes(copy, keep)) == outcomes
    header = copy.read_text().partition("\n")[0].strip().split(",")
    assert header[-3:] == ["manifest.size", "manifest.manifest.size", "title"]
    assert len({*header}) == len(header)
    assert is_of_shard(outcomes, shard_of(plan))
    assert not is_of_shard(outcomes[:2], shard_of(plan))


def test_what_is_no_report_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["number", "state"], ["one", "gone"]])
    with pytest.raises(ValueError, match="number"):
        list(read_outcomes(path))


async def test_rows_without_a_report_count_by_their_receipts(plan, store):
    row = next(iter(plan.rows()))

    def described(receipt):
        outcome = outcome_of_receipt(row, receipt, run_id=RUN, why="Shard 1 crashed.")
        return outcome.state, outcome.is_new, outcome.error

    claimed = Receipt.claim(row.key, row.request, RUN)
    sent = claimed.submitted("video-1")
    assert described(None) == ("not started", False, "Shard 1 crashed.")
    assert described(claimed) == ("unknown", True, "Shard 1 crashed.")
    assert described(sent) == ("open", True, "Shard 1 crashed.")
    assert described(claimed.refused(RateLimited("Too many."))) == ("refused", False, "Too many.")
    assert described(claimed.unknown(RateLimited("Cut."))) == ("unknown", True, "Cut.")
    assert described(Receipt.claim(row.key, row.request, OTHER_RUN).submitted("video-1"))[:2] == ("open", False)
    other = next(iter(list(plan.rows())[1:]))
    assert described(Receipt.claim(row.key, other.request, RUN).submitted("video-2"))[0] == "not started"


async def test_what_an_earlier_try_has_paid_is_known_and_what_is_stored_is_not_due(plan, store):
    rows = list(plan.rows())
    await store.create(Receipt.claim("cats/1", rows[1].request, RUN).submitted("video-1"))
    await store.create(Receipt.claim("cats/2", rows[2].request, OTHER_RUN).submitted("video-2"))
    await store.create(Receipt.claim("cats/3", rows[3].request, RUN).refused(VideoModerated("No.")))
    assert await paid_before(plan, store, RUN) == {"cats/1": Decimal("0.05")}
    assert await due_usd(plan, store, [2, 5]) == [Decimal("0.10"), Decimal("0.15")]


def test_long_names_that_differ_at_their_ends_stay_different():
    names = {report_name("", "catalogue-" * 20 + end, ".csv") for end in ("a", "b", ".shard-0001", ".shard-0002")}
    assert len(names) == 4
    assert all(len(name) < 120 for name in names)
