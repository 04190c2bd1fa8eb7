"""Any callers, any answers, any crashes, in any order: whatever happens, a key is paid for once.

Hypothesis plays the world. It starts callers, says how each of their points ends, kills and cancels them, and lets
time pass; after each step the receipt on disk is compared with what may be there.
"""

from unittest import mock

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from prefect_xai_video.engine import inquiry
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores.base import delivery_name
from prefect_xai_video.errors import KeyConflict, SubmissionUnknown, VideoModerated

from .legal import ids_of
from .worlds import ENDINGS, WELL, World, goes, profile, video_of

OPTIONS = st.fixed_dictionaries(
    {
        "what": st.sampled_from(["make", "make", "start", "wait", "save"]),
        "request": st.sampled_from([0, 0, 0, 1]),
        "run": st.sampled_from(["run-1", "run-2", None]),
        "regenerate": st.booleans(),
        "resubmit": st.booleans(),
        "found_by": st.sampled_from([None, "bucket", "files"]),
    }
)
"""A call of the engine."""
WAYS = st.tuples(
    st.fixed_dictionaries({at: st.just(WELL[at]) | st.sampled_from(endings) for at, endings in ENDINGS.items()}),
    st.integers(0, 10),
)
"""How the next point of each kind ends, well or in any way, and how many points a caller goes on for."""


class OneKey(World):
    """One key, in the realtime lane."""

    keys = ("cats/one",)

    @property
    def last(self) -> Receipt | None:
        return self.receipts.get(self.keys[0])

    @rule(options=OPTIONS, ways=WAYS, late=st.booleans())
    def comes(self, options, ways, late) -> None:
        """Somebody calls, and gets as far as these ways lead, while others are in the middle of their calls."""
        self.comes_alone(late)
        self.drive(self.call(**options), *ways)

    @precondition(lambda self: self.posts)
    @rule(what=st.sampled_from(["adopt", "collect"]), request_id=st.sampled_from(["found", "id-1"]), ways=WAYS)
    def adopts(self, what, request_id, ways) -> None:
        self.comes({"what": what, "request_id": request_id}, ways, False)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 2), ways=WAYS)
    def goes_on(self, which, ways) -> None:
        self.drive(self.alive[which % len(self.alive)], *ways)

    @precondition(lambda self: any(post.accepted and post.direct for post in self.posts))
    @rule(which=st.integers(0, 2))
    def is_delivered(self, which) -> None:
        posts = [post for post in self.posts if post.accepted and post.direct]
        post = posts[which % len(posts)]
        (self.root / delivery_name(post.key, post.claim)).write_bytes(video_of(post.request_id))

    @precondition(lambda self: any(post.accepted and post.file for post in self.posts))
    @rule(which=st.integers(0, 2))
    def is_kept_at_xai(self, which) -> None:
        posts = [post for post in self.posts if post.accepted and post.file]
        post = posts[which % len(posts)]
        self.files[post.file] = post.request_id

    def ends_well(self) -> None:
        """Once nothing goes wrong any more, the key ends with a video, if somebody says that it may be paid again."""
        self.grows_old()
        caller = self.call("make", self.request_of(self.keys[0]), "the last run", regenerate=True, resubmit=True)
        self.finish(caller)
        assert caller.error is None, f"the key has no video in the end: {caller.error!r}"
        assert caller.at is None, f"the key has no video in the end: still at {caller.at}"
        self.nothing_illegal_was_done()
        self.what_is_stored_is_there()
        assert self.last.state == "stored"


TestWorld = OneKey.TestCase
TestWorld.settings = profile(120)


# Single histories, each as short as it can be told.


@pytest.fixture
def world():
    world = OneKey()
    yield world
    world.who_has_ended_has_lost_nothing()
    world.nothing_illegal_was_done()
    world.what_is_stored_is_there()
    world.teardown()


def test_a_simultaneous_claim_sends_no_second_post(world):
    slow, fast = world.call("make"), world.call("make")
    assert (slow.at, fast.at) == ("create", "create")
    for caller in (fast, slow):
        world.finish(caller)
    assert slow.result == fast.result
    assert len(world.posts) == 1


def test_a_reply_is_kept_although_another_request_was_adopted_meanwhile(world):
    slow = goes(world, world.call("start"), "written")
    world.time_passes()
    world.finish(world.call("adopt", request_id="found"))
    goes(world, slow, "accepted")
    world.finish(slow)
    assert ids_of(world.last) == {"found", "id-1"}


@pytest.mark.parametrize("ending", ["429", "cut before"])
def test_a_late_reply_counts_although_a_later_attempt_fails_after_it(world, ending):
    slow = goes(world, world.call("start"), "written")
    world.time_passes()
    again = goes(world, world.call("start", resubmit=True), "seen", "written", "written")
    assert again.at == "submit"
    world.finish(goes(world, slow, "accepted", "written"))
    goes(world, again, ending, "written")
    world.finish(again)
    assert (world.last.state, world.last.request_id) == ("submitted", "id-1")
    assert len(world.posts) == 2


def test_alternating_runs_regenerate_once_each(world):
    moderated = ["written", "accepted", "written", "moderated", "written"]
    goes(world, world.call("make"), *moderated)
    for run in ("run-1", "run-2"):
        # The failed request is polled once more before it is paid for again.
        goes(world, world.call("make", run=run, regenerate=True), "moderated", *moderated)
    retried = world.call("make", run="run-1", regenerate=True)
    assert isinstance(retried.error, VideoModerated), f"it is at {retried.at}, to pay again"


def test_a_stored_video_is_not_overwritten_by_a_slower_run(world):
    slow = goes(world, world.call("make"), "written", "accepted", "written", "done", "written", "fetched", "written")
    assert slow.at == "put"
    goes(world, world.call("save"), "gone", "expired", "written")
    world.finish(world.call("make", regenerate=True))
    assert world.last.state == "stored"
    goes(world, slow, "written")


def test_a_downloaded_video_is_stored_although_its_url_expired_meanwhile(world):
    slow = goes(world, world.call("make"), "written", "accepted", "written", "done", "written")
    assert slow.at == "download"
    goes(world, world.call("save"), "gone", "expired", "written")
    world.finish(slow)
    assert slow.error is None
    assert world.last.state == "stored"


@pytest.mark.parametrize("ending", ["expired", "failed", "moderated"])
def test_a_video_that_was_put_before_it_was_reported_lost_is_not_paid_for_again(world, ending):
    slow = goes(world, world.call("make"), "written", "accepted", "written", "done", "written", "fetched", "written")
    other = goes(world, world.call("save"), "gone")
    goes(world, slow, "killed after")
    goes(world, other, ending, "written")
    assert world.last.state == ending
    again = world.call("make", regenerate=True)
    while again.alive:
        world.end(again, ending if again.at == "get" else WELL[again.at])
    assert again.error is None
    assert len(world.posts) == 1


def test_the_error_of_a_new_attempt_is_not_that_of_an_earlier_one(world):
    goes(world, world.call("make"), "written", "accepted", "written", "failed", "written")
    again = goes(world, world.call("make", regenerate=True), "failed", "written", "cut after", "written")
    assert isinstance(again.error, SubmissionUnknown)
    assert again.error.request_id is None


def test_an_id_is_not_adopted_over_a_video_that_is_in_the_store(world):
    slow = goes(world, world.call("make"), "written", "accepted", "written", "done", "written", "fetched", "written")
    other = goes(world, world.call("save"), "gone")
    goes(world, slow, "killed after")
    goes(world, other, "failed", "written")
    adopting = world.call("collect", request_id="found")
    world.finish(adopting)
    assert isinstance(adopting.error, KeyConflict)
    assert (world.last.state, world.last.request_id) == ("done", "id-1")
    world.finish(world.call("make"))


def test_an_adopted_id_is_not_taken_for_a_reply_of_xai(world):
    goes(world, world.call("start", found_by="files"), "written", "cut after", "written")
    world.is_kept_at_xai(0)
    goes(world, world.call("make"), "listed", "written", "fetched", "written", "written", "written")
    world.finish(world.call("adopt", request_id="id-1"))
    assert (world.last.request_id, world.last.attempt.submitted_at) == ("id-1", None)


def test_a_video_that_was_delivered_between_two_runs_is_found(world):
    goes(world, world.call("start", found_by="bucket"), "written", "cut after", "written")
    world.is_delivered(0)
    with mock.patch.multiple(inquiry, UPLOAD_SECONDS=-1):
        caller = world.call("make", found_by="bucket")
        world.finish(caller)
    assert caller.error is None
    assert len(world.posts) == 1


def test_a_file_that_was_kept_between_two_runs_is_found(world):
    goes(world, world.call("start", found_by="files"), "written", "cut after", "written")
    world.is_kept_at_xai(0)
    caller = goes(world, world.call("make"), "listed", "written", "fetched", "written", "written", "written")
    assert caller.error is None
    assert (len(world.posts), world.files) == (1, {})


def test_a_stored_video_without_a_written_receipt_is_not_lost_with_its_url(world):
    ways = ["written", "accepted", "written", "done", "written", "fetched", "written", "killed after"]
    goes(world, world.call("make"), *ways)
    caller = goes(world, world.call("make"), "written")
    assert caller.error is None
    assert world.last.state == "stored"
