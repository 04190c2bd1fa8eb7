"""The batch lane with any callers, any responses and any crashes, in any order: each key is paid for once.

Hypothesis plays xAI's Batch API, too: calls take effect late or in part, listings lag, batches are cancelled or
deleted. Once everything works again, the lane settles each key by itself.
"""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from prefect_xai_video import errors
from prefect_xai_video.api import batch_view
from prefect_xai_video.api.batch_chunks import Chunk
from prefect_xai_video.batch import lane, watched
from prefect_xai_video.engine import attempts, batch_inquiry, bulk, collecting, journal
from prefect_xai_video.engine.attempts import ENDED_BADLY, Attempt
from prefect_xai_video.engine.collecting import Collector
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import DownloadError, SubmissionUnknown, XaiVideoError

from ..support.lane import run_lane
from . import scripted_batches
from .legal import told
from .scripted_batches import Batch, LaneClient, Sent
from .stepwise import Caller
from .worlds import ENDINGS, MEANWHILE, PROMPTS, WELL, World, goes, profile, video_of

# A caller that was killed never awaits the rows that it had yet to do.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")

ALL_ENDINGS = ENDINGS | scripted_batches.ENDINGS
FAULTS = [
    (at, how)
    for at, endings in ALL_ENDINGS.items()
    for how in endings
    if at not in {"look", "list"} and how != (WELL | scripted_batches.WELL)[at]
]
WAYS = st.tuples(st.lists(st.sampled_from(FAULTS), max_size=3).map(dict), st.integers(0, 25), st.booleans())
"""How points of some kinds end, if not well; how many points a caller goes on for; and whether that lasts."""
LAGS = {"requests": "lagging", "results": "lagging", "state": "uncounted"}
RUNS = st.sampled_from(["run-1", "run-2", None])
CALLS = st.fixed_dictionaries(
    {
        "what": st.sampled_from(["make", "start", "wait", "save", "look", "look"]),
        "key": st.sampled_from(["cats/one", "cats/two"]),
        "request": st.sampled_from([0, 0, 0, 1]),
        "run": RUNS,
        "regenerate": st.booleans(),
        "resubmit": st.booleans(),
    }
)
LANE_RUNS = st.fixed_dictionaries(
    {
        "rows": st.sampled_from([(0, 0), (0, 0), (0, 1), (0, None), (None, 0), (1, 0)]),
        "run": RUNS,
        "regenerate": st.booleans(),
        "resubmit": st.booleans(),
        "waits": st.booleans(),
        "cancels": st.booleans(),
    }
)


class Clock:
    """A clock on which each reading takes a second."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds


async def nobody(*_: object) -> set[str]:
    return set()


class Lane(World):
    """Two keys, in both lanes."""

    keys = ("cats/one", "cats/two")
    well = WELL | scripted_batches.WELL
    meanwhile = MEANWHILE | scripted_batches.IN_THE_END
    client = LaneClient

    def __init__(self) -> None:
        self.clock, self.age = Clock(), timedelta()
        super().__init__()

    def patched(self) -> list[Any]:
        one_at_a_time = [
            mock.patch.object(bulk, "AT_A_TIME", 1),
            mock.patch.object(lane, "SAVING", 1),
            mock.patch.object(collecting, "AT_A_TIME", 1),
        ]
        pauses = [mock.patch.object(lane, "FIRST_PAUSE", 0), mock.patch.object(lane, "LONGEST_PAUSE", 0)]
        clocks = [mock.patch.object(module, "time", self.clock) for module in (batch_view, batch_inquiry, watched)]
        dates = [mock.patch.object(module, "now", self.now) for module in (attempts, batch_inquiry)]
        sleep = mock.patch.object(batch_inquiry, "asyncio", SimpleNamespace(sleep=self.settles))
        return [*super().patched(), *one_at_a_time, *pauses, *clocks, *dates, sleep]

    def has_no_receipt_yet(self) -> None:
        super().has_no_receipt_yet()
        self.batches: dict[str, Batch] = {}
        self.key_of: dict[str, str] = {}
        self.ids: set[str] = set()
        self.allowed: defaultdict[str, set[int]] = defaultdict(set)
        self.links = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + self.age

    async def settles(self, seconds: float) -> None:
        """Called where the engine waits until the listings of a cancelled batch agree."""
        caller = next(caller for caller in self.callers if caller.is_running)
        closed = [batch for batch in self.batches.values() if batch.is_cancelled]
        await caller.astop("settle")
        self.clock.seconds += seconds
        for batch in closed:
            batch.is_settled = True

    def grows_old(self) -> None:
        super().grows_old()
        self.age += timedelta(seconds=journal.CLAIM_SECONDS + 1)
        for batch in self.batches.values():
            batch.is_settled = batch.is_cancelled

    # What the callers tell.

    def sends(self, caller: Caller, claim: str) -> str:
        key = super().sends(caller, claim)
        self.key_of[claim] = key
        if claim in self.ids:
            self.problems.append("an id is sent twice")
        self.ids.add(claim)
        if caller.regenerate or caller.resubmit:
            self.allowed[key].add(id(caller))
        return key

    def adds(self, caller: Caller, batch_id: str, chunk: Chunk) -> None:
        """Called for each call that adds requests."""
        for claim in chunk.batch_request_ids:
            key = self.sends(caller, claim)
            attempt = next(each for each in self.receipts[key].attempts if each.claim == claim)
            if attempt.xai_batch != batch_id:
                self.problems.append("a request is added to another batch than that of its receipt")

    def refuses(self, caller: Caller, chunk: Chunk) -> None:
        """Called where xAI certainly refuses a call, whose requests may then be sent again."""
        for claim in chunk.batch_request_ids:
            self.ids.remove(claim)
            caller.claims[claim] = self.key_of[claim]

    def accepts(self, batch: Batch, sent: list[Sent]) -> None:
        for each in sent:
            attempt = next(a for a in self.receipts[self.key_of[each.claim]].attempts if a.claim == each.claim)
            if attempt.request["prompt"] != each.prompt:
                self.problems.append("a request is sent under the id of another one")
        batch.sent += sent

    def sent(self, claim: str) -> list[Sent]:
        """All requests of an id."""
        return [each for batch in self.batches.values() for each in batch.sent if each.claim == claim]

    # What can happen.

    def runs(self, rows=(0, 0), run=None, regenerate=False, resubmit=False, waits=True, cancels=False) -> Caller:
        """Have somebody run the batch lane, with a row for each key that has a request."""
        table = [
            {"key": key, "prompt": PROMPTS[request], "duration": 1}
            for key, request in zip(self.keys, rows, strict=True)
            if request is not None
        ]
        options = {"regenerate": regenerate, "on_unknown": "resubmit" if resubmit else "raise"}

        async def calls(caller: Caller):
            outcomes, _ = await run_lane(
                self.engine(caller),
                table,
                timeout=600 if waits else None,
                run_id=run,
                cancels=cancels,
                options=options,
            )
            return outcomes

        facts = {"run": run, "regenerate": regenerate, "resubmit": resubmit, "table": table}
        return self.begins(calls, "lane", key=None, **facts)

    def passes(self) -> Caller:
        """Have a collector make one pass over all open keys."""

        async def calls(caller: Caller):
            return await Collector(self.engine(caller), nobody, nobody).collect()

        return self.begins(calls, "pass", key=None, run=None, regenerate=False, resubmit=False)

    @rule(options=LANE_RUNS, ways=WAYS, late=st.booleans())
    def lane_is_run(self, options, ways, late) -> None:
        self.comes_alone(late)
        self.drive(self.runs(**options), *ways)

    @rule(options=CALLS, ways=WAYS, late=st.booleans())
    def one_key_is_called_for(self, options, ways, late) -> None:
        self.comes_alone(late)
        self.drive(self.call(**options), *ways)

    @precondition(lambda self: self.receipts)
    @rule(ways=WAYS, late=st.booleans())
    def collector_passes(self, ways, late) -> None:
        self.comes_alone(late)
        self.drive(self.passes(), *ways)

    @precondition(lambda self: self.receipts)
    @rule(
        what=st.sampled_from(["adopt", "collect"]),
        key=st.sampled_from(["cats/one", "cats/two"]),
        is_claim=st.booleans(),
        ways=WAYS,
    )
    def a_person_adopts(self, what, key, is_claim, ways) -> None:
        self.comes_alone(False)
        receipt = self.receipts.get(key)
        request_id = receipt.attempt.claim if receipt and is_claim else "found"
        self.drive(self.call(what, request_id=request_id, key=key), *ways)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 2), ways=WAYS)
    def goes_on(self, which, ways) -> None:
        self.drive(self.alive[which % len(self.alive)], *ways)

    @precondition(lambda self: any(batch.of("landing") for batch in self.batches.values()))
    @rule()
    def calls_take_effect(self) -> None:
        for batch in self.batches.values():
            batch.land()

    # What must hold.

    def accepted(self) -> set[str]:
        added = {
            each.claim
            for batch in self.batches.values()
            for each in batch.sent
            if each.paid or (each.state in {"landing", "pending"} and not batch.is_gone)
        }
        return super().accepted() | added

    @invariant()
    def each_key_is_paid_once_unless_a_person_says_so(self) -> None:
        for key in self.keys:
            posts = sum(post.accepted for post in self.posts if post.key == key)
            added = sum(
                each.paid for batch in self.batches.values() for each in batch.sent if self.key_of[each.claim] == key
            )
            allowed = 1 + len(self.allowed[key])
            assert posts + added <= allowed, f"{key} was paid {posts + added} times: {told(self.receipts.get(key))}"

    def videos_of(self, receipt: Receipt, stored: Attempt) -> set[bytes]:
        if stored.xai_batch is not None:
            assert stored.request_id == stored.claim
            return {video_of(stored.claim)}
        return super().videos_of(receipt, stored)

    def check_end(self, caller: Caller) -> None:
        if caller.key is not None:
            super().check_end(caller)
            return
        expected = (type(None), asyncio.CancelledError) if caller.cancelled else type(None)
        assert isinstance(caller.error, expected), f"an error that nobody foresaw: {caller.error!r}"
        if caller.error is not None or caller.what == "pass":
            return
        for row in caller.table:
            outcome = caller.result[row["key"]]
            kind = getattr(errors, outcome.error_type or "XaiVideoError", Exception)
            assert issubclass(kind, XaiVideoError), outcome
            if kind in {DownloadError, *ENDED_BADLY.values()}:
                assert outcome.request_id, outcome

    def ends_well(self) -> None:
        """Once nothing goes wrong any more, the lane settles its keys, and all of them can end with a video."""
        for pass_number in range(8):
            self.grows_old()
            # At first, nothing that was added is listed yet.
            self.drive(self.passes(), LAGS if pass_number == 0 else {}, 60, is_lasting=True)
            self.hold()
        for receipt in self.receipts.values():
            self.is_settled(receipt)
        rows = tuple(map(self.request_of, self.keys))
        # A run that sees that xAI no longer has a video pays for no other one: the next may.
        for run in ("the last but one", "the last"):
            self.grows_old()
            last = self.runs(rows, run, regenerate=True, resubmit=True)
            with MEANWHILE["aged"]:
                self.finish(last)
            assert last.at is None, f"the last run does not end: it is at {last.at}"
            self.hold()
        states = {key: told(receipt) for key, receipt in self.receipts.items() if receipt.state != "stored"}
        assert not states, f"{states} {last.result}"

    def hold(self) -> None:
        """Check all that must hold at any time."""
        self.nothing_illegal_was_done()
        self.nothing_that_was_accepted_counts_as_refused()
        self.what_is_stored_is_there()
        self.each_key_is_paid_once_unless_a_person_says_so()
        self.who_has_ended_has_lost_nothing()

    def is_settled(self, receipt: Receipt) -> None:
        """Check that a key is left to a person only for a reason that no lane can overcome."""
        is_gone = any(attempt.xai_batch and self.batches[attempt.xai_batch].is_gone for attempt in receipt.attempts)
        lost = [a for a in receipt.attempts if a.outcome == "unknown" and a.xai_batch is None]
        excuse = is_gone or (receipt.state == "unknown" and bool(lost))
        assert excuse or receipt.state in {"stored", "refused", "failed", "moderated", "expired"}, told(receipt)


TestLane = Lane.TestCase
TestLane.settings = profile(70)


# Single histories, each as short as it can be told.


@pytest.fixture
def world():
    world = Lane()
    yield world
    world.hold()
    world.teardown()


ONE_ROW = (0, None)


def reaches(world, caller, at, **ways):
    """Have a caller go on, well apart from some points, until it is at a point."""
    while caller.at != at:
        assert caller.alive, caller.error
        world.end(caller, ways.get(caller.at, world.well[caller.at]))
    return caller


def last(world, number=0):
    """The receipt of a key."""
    return world.receipts[world.keys[number]]


def earlier(world):
    """The attempt before the last one."""
    return last(world).attempts[-2]


def states(run):
    """What became of the rows of a run."""
    return [outcome.state for outcome in run.result.values()]


def lost(world, how):
    """Have a row submitted whose reply is lost, so that a later run finds it unknown."""
    run = goes(world, world.runs(ONE_ROW, waits=False), "opened", "written", how, "written")
    assert (states(run), last(world).state) == (["open"], "unknown")
    world.grows_old()


def test_two_rows_go_in_one_call(world):
    run = goes(world, world.runs(), "opened", "written", "written", "added", "written", "written", "rendered")
    world.finish(run)
    assert states(run) == ["stored", "stored"]
    assert [len(batch.sent) for batch in world.batches.values()] == [2]


def test_a_request_whose_reply_was_lost_is_found_in_its_batch(world):
    lost(world, "cut after")
    again = world.runs(ONE_ROW)
    world.finish(again)
    assert states(again) == ["stored"]
    assert len(world.ids) == 1


def test_a_request_that_is_missing_goes_into_another_batch_once_its_own_is_cancelled(world):
    lost(world, "cut before")
    again = reaches(world, world.runs(ONE_ROW), "cancel")
    assert last(world).state == "unknown"
    goes(world, reaches(world, again, "open"), "killed before")
    assert last(world).state == "refused"
    again = world.runs(ONE_ROW)
    world.finish(again)
    assert states(again) == ["stored"]
    assert [batch.is_cancelled for batch in world.batches.values()] == [True, False]


def test_a_call_that_takes_effect_just_before_its_batch_is_cancelled_is_found(world):
    lost(world, "cut, lands late")
    again = reaches(world, world.runs(ONE_ROW), "cancel")
    world.calls_take_effect()
    world.finish(again)
    # It was not rendered, and nothing was paid: the same run sends it again, under another id.
    assert states(again) == ["stored"]
    assert earlier(world).request_id == earlier(world).claim
    assert len(world.ids) == 2


def test_listings_that_lag_prove_nothing(world):
    lost(world, "cut after")
    again = reaches(world, world.runs(ONE_ROW), "settle", requests="lagging", state="uncounted", results="lagging")
    assert last(world).state == "unknown"
    world.finish(again)
    # The batch seemed to be over, and was cancelled before the row was rendered: it is sent again, under another id.
    assert (states(again), earlier(world).request_id) == (["stored"], earlier(world).claim)


def test_a_run_that_was_suspended_adds_nothing_to_a_batch_that_was_given_up(world):
    slow = goes(world, world.runs(ONE_ROW), "opened", "written")
    assert slow.at == "add"
    world.grows_old()
    other = world.runs(ONE_ROW)
    world.finish(other)
    assert states(other) == ["stored"]
    world.finish(slow)
    assert states(slow) == ["stored"]
    assert len(world.sent(last(world).attempt.claim)) == 1


@pytest.mark.parametrize("at", ["opened", "added"])
def test_a_run_that_is_killed_leaves_its_rows_to_the_collector(world, at):
    goes(world, world.runs(ONE_ROW), *["opened", "written", "killed before" if at == "opened" else "killed after"])
    world.grows_old()
    world.finish(world.passes())
    if at == "added":
        world.finish(world.passes())
    assert last(world).state == {"opened": "refused", "added": "stored"}[at]


def test_what_a_killed_run_was_adding_is_submitted_by_one_that_does_not_wait(world):
    goes(world, world.runs(ONE_ROW, waits=False), "opened", "written", "killed before")
    world.grows_old()
    world.finish(world.runs(ONE_ROW, waits=False))
    assert last(world).state == "submitted"
    assert [attempt.outcome for attempt in last(world).attempts] == ["refused", "submitted"]


def test_a_batch_that_xai_cancels_costs_nothing(world):
    run = goes(world, world.runs(ONE_ROW), "opened", "written", "added", "written", "cancelled by xAI")
    world.finish(run)
    assert states(run) == ["refused"]
    world.finish(world.runs(ONE_ROW))
    assert last(world).state == "stored"


def test_who_waits_for_a_row_whose_batch_xai_cancels_is_told_its_request(world):
    world.finish(world.runs(ONE_ROW, waits=False))
    waiting = goes(world, world.call("wait"), "listed", "cancelled by xAI")
    world.finish(waiting)
    assert waiting.error.request_id == last(world).attempt.claim
    assert "start it again with the same key. xAI's batch was cancelled before" in waiting.error.message


def test_the_realtime_lane_waits_for_what_the_batch_may_have(world):
    lost(world, "cut after")
    world.finish(world.call("make"))
    assert (last(world).state, world.posts) == ("stored", [])


def test_an_id_that_a_person_adopts_is_not_looked_for_in_the_batch(world):
    lost(world, "cut before")
    adopting = world.call("collect", request_id="found")
    world.finish(adopting)
    assert adopting.error is None
    assert [(each.outcome, each.request_id) for each in last(world).attempts] == [
        ("unknown", None),
        ("stored", "found"),
    ]


def test_a_row_whose_batch_is_gone_is_left_to_a_person_at_once(world):
    lost(world, "cut before")
    again = goes(world, world.runs(ONE_ROW), "gone")
    world.finish(again)
    assert states(again) == ["unknown"]
    assert "no longer has the batch batch-1" in again.result["cats/one"].error
    waiting = world.call("wait")
    world.finish(waiting)
    assert isinstance(waiting.error, SubmissionUnknown)
    decided = world.runs(ONE_ROW, resubmit=True)
    world.finish(decided)
    assert states(decided) == ["stored"]


def test_a_resubmitted_row_whose_batch_is_gone_is_not_sent_twice_in_a_run(world):
    lost(world, "cut before")
    decided = reaches(world, goes(world, world.runs(ONE_ROW, "a run", resubmit=True), "gone"), "add")
    goes(world, decided, "cut before", "written", "gone")
    world.grows_old()
    world.finish(decided)
    assert states(decided) == ["unknown"]
    assert len(world.ids) == 2


def test_an_error_of_the_collector_names_the_request_id(world):
    run = goes(world, world.runs(ONE_ROW, waits=False), "opened", "written", "added", "written")
    assert states(run) == ["open"]
    looking = goes(world, world.call("look"), "down")
    assert (looking.error.key, looking.error.request_id) == ("cats/one", last(world).attempt.claim)
