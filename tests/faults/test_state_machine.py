"""Any callers, any answers, any crashes, in any order: whatever happens, a key is paid for once.

Hypothesis plays the world. It starts callers, says how each of their points ends, kills and cancels them, and lets
time pass; after each step the receipt on disk is compared with what may be there.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, currently_in_test_context, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prefect_xai_video import Retries, Timeouts
from prefect_xai_video.api.client import Accepted
from prefect_xai_video.api.download import Download
from prefect_xai_video.api.files import RemoteFile
from prefect_xai_video.api.options import build_request
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.api.storage_options import StorageOptions
from prefect_xai_video.engine import inquiry, journal, posting
from prefect_xai_video.engine.attempts import ENDED_BADLY, LEGAL, Attempt, IllegalTransition, StoredFile
from prefect_xai_video.engine.generation import Generation
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import LocalStore
from prefect_xai_video.engine.stores.base import delivery_name
from prefect_xai_video.errors import (
    DownloadError,
    KeyConflict,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    StorageError,
    SubmissionUnknown,
    VideoModerated,
    XaiVideoError,
)

from ..support.scripted import mp4
from .stepwise import DEAD, Caller

KEY = "cats/one"
REQUESTS = [build_request("A cat", duration=1), build_request("A dog", duration=1)]
LIVE = {"submitted", "done"}
AT_ONCE = PollSchedule(first=0, shortest=0, longest=0)

WRITE = [
    "written",
    "not written",
    "not written, lasting",
    "reply lost",
    "reply lost, lasting",
    "reply lost, unreadable",
]
KILLED = ["killed before", "killed after"]
SUBMIT = ["accepted", "cut after", "cut before", "429", "400", "503", "500", "unreadable", "stood still", "a defect"]
GET = [
    "done",
    "signed",
    "no url",
    "pending",
    "failed",
    "moderated",
    "expired",
    "missing",
    "not its own",
    "aged",
    "down",
]
ENDINGS = {
    "create": WRITE + KILLED,
    "replace": WRITE + KILLED,
    "put": WRITE + KILLED,
    "submit": SUBMIT + KILLED,
    "get": GET + KILLED[:1],
    "download": ["fetched", "broken", "gone", "killed before"],
    "claim": ["seen", "killed before"],
    "look": ["looked", "too late", "unreadable", "killed before"],
    "list": ["listed", "too late", "down", "killed before"],
}
WELL = {
    "create": "written",
    "replace": "written",
    "put": "written",
    "submit": "accepted",
    "get": "done",
    "download": "fetched",
    "claim": "seen",
    "look": "too late",
    "list": "too late",
}
MEANWHILE = {
    "not its own": mock.patch.multiple(inquiry, FRESH_SECONDS=-1),
    "aged": mock.patch.multiple(inquiry, FRESH_SECONDS=-1, AGED_SECONDS=-1),
    "stood still": mock.patch.multiple(posting, SEND_SECONDS=-1),
    "too late": mock.patch.multiple(inquiry, UPLOAD_SECONDS=-1, FILE_SECONDS=-1),
}
"""What time it is while a point ends."""
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
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are real, but fast."""


@dataclass
class Post:
    """One POST as xAI and its sender know it."""

    caller: Caller
    claim: str
    direct: bool
    request_id: str
    file: str | None = None
    accepted: bool = False
    replied: bool = False
    refused: bool = False


def video_of(request_id: str) -> bytes:
    return mp4(request_id.encode() * 20)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Store(LocalStore):
    """A directory that xAI can reach, and whose writes end as the world says."""

    def __init__(self, world: "World", caller: Caller) -> None:
        super().__init__(world.root)
        self.world, self.caller = world, caller

    def _read(self, key):
        if self.caller.blind:
            self.caller.blind = False
            raise StorageError("The disk can't be read.", transient=True)
        held = super()._read(key)
        if held is not None and held.receipt.state == "sending":
            self.caller.stop("claim")
        return held

    def _create(self, receipt):
        self.caller.claiming = True
        with self._write(self.caller.stop("create")):
            held = super()._create(receipt)
            self.world.written(self.caller, None, receipt)
        self.caller.claiming = False
        return held

    def _replace(self, held, receipt):
        self.caller.claiming = receipt.state == "sending"
        with self._write(self.caller.stop("replace")):
            before = self.world.on_disk()
            held = super()._replace(held, receipt)
            self.world.written(self.caller, before, receipt)
        self.caller.claiming = False
        return held

    @contextmanager
    def _write(self, how: str) -> Iterator[None]:
        if how.startswith("not written"):
            raise StorageError("The disk is gone.", transient="lasting" not in how)
        yield
        if how == "killed after":
            self.caller.stop(DEAD)
        if how.startswith("reply lost"):
            self.caller.blind = "unreadable" in how
            raise StorageError("Nobody knows what the disk did.", transient="lasting" not in how)

    async def put_video(self, held, path, file):
        with self._write(await self.caller.astop("put")):
            return await super().put_video(held, path, file)

    def _place(self, claim: str) -> Path:
        return self.root / delivery_name(KEY, claim)

    async def upload_url(self, key, claim):
        return f"https://store.example/{delivery_name(key, claim)}?Signature=s"

    def is_upload_url(self, url, key, claim):
        return delivery_name(key, claim) in url

    async def is_delivered(self, key, claim):
        if await self.caller.astop("look") == "unreadable":
            raise StorageError("The disk can't be read.", transient=True)
        return self._place(claim).exists()

    async def take_delivery(self, key, claim, request_id):
        if not self._place(claim).exists():
            return None
        content = self._place(claim).read_bytes()
        target = self._path(f"{key}.mp4")
        with self._write(await self.caller.astop("put")):
            if not self._place(claim).exists():
                raise StorageError("What was delivered is gone.")
            shutil.copy(self._place(claim), target.with_name(".taken.part"))
            target.with_name(".taken.part").replace(target)
        return StoredFile(uri=target.as_uri(), size=len(content), sha256=digest(content), content_type="video/mp4")

    async def drop_delivery(self, key, claim):
        self._place(claim).unlink(missing_ok=True)


class Client:
    """Stands in for the client: xAI answers what the world says."""

    retries = Retries(attempts=2, first_wait=0, longest_wait=0)
    timeouts = Timeouts()
    base_url = "https://api.x.ai/v1"
    identity = "one account"
    pace = None

    def __init__(self, world: "World", caller: Caller) -> None:
        self.world, self.caller = world, caller

    async def me(self):
        return {"team_id": "ours"}

    def submit(self, request, upload_url=None, *, storage=None, client_request_id, before_send):
        post = self.world.posted(self.caller, upload_url, storage)
        how = self.caller.stop("submit")
        if how == "stood still":
            post.refused = True
        before_send()
        post.accepted = how in {"accepted", "cut after", "unreadable", "killed after"}
        match how:
            case "accepted":
                post.replied = True
                return Accepted(post.request_id)
            case "429" | "503" | "400":
                post.refused = True
                kind = {"429": RateLimited, "503": ServiceUnavailable, "400": RequestRejected}[how]
                raise kind("No.", http_status=int(how), retry_after=0)
            case "a defect":
                raise KeyError(how)
            case "killed after":
                self.caller.stop(DEAD)
        raise SubmissionUnknown("The submission may have been accepted, and paid for.")

    async def get(self, request_id, **_):
        self.caller.asked = request_id
        how = await self.caller.astop("get")
        if how == "down":
            raise ServiceUnavailable("No answer.", request_id=request_id)
        if how in {"missing", "not its own", "aged"}:
            raise RequestRejected("What is that?", request_id=request_id, http_status=404)
        state = "done" if how in {"done", "signed", "no url"} else how
        url = {"done": f"https://xai/{request_id}", "signed": f"https://xai/{request_id}?Signature=s"}.get(how)
        cost = None if state == "pending" else Decimal("0.05")
        return VideoStatus(request_id=request_id, state=state, url=url, cost_usd=cost)

    async def download(self, url, path):
        return await self._download(url.removeprefix("https://xai/").partition("?")[0], path)

    @property
    def files(self):
        return Files(self)

    async def _download(self, request_id, path):
        content = video_of(request_id)
        match await self.caller.astop("download"):
            case "broken":
                path.write_bytes(content[:50])
                raise DownloadError("The download broke.")
            case "gone":
                raise DownloadError("The video can't be downloaded: HTTP 403.", http_status=403, transient=False)
        path.write_bytes(content)
        return Download(len(content), digest(content), "video/mp4")


class Files:
    """Stands in for the Files API: the id of a file is its name."""

    def __init__(self, client: Client) -> None:
        self.client, self.files = client, client.world.files

    async def find(self, name):
        if await self.client.caller.astop("list") == "down":
            raise ServiceUnavailable("No answer.")
        return RemoteFile(id=name, name=name) if name in self.files else None

    async def content(self, file_id, path):
        if file_id not in self.files:
            raise DownloadError("The video can't be downloaded: HTTP 404.", http_status=404, transient=False)
        return await self.client._download(self.files[file_id], path)

    async def delete(self, file_id):
        self.files.pop(file_id, None)


class LastWords(logging.Handler):
    """Keeps what the engine says where it can write to nothing else any more."""

    def __init__(self) -> None:
        super().__init__(logging.CRITICAL)
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said += record.getMessage()


class World(RuleBasedStateMachine):
    """One key, and everything that can happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="xai-video-", dir=MEMORY))
        self.callers: list[Caller] = []
        self.problems: list[str] = []
        self.has_no_receipt_yet()
        self.log = LastWords()
        posting.logger.addHandler(self.log)
        logging.getLogger("prefect_xai_video").setLevel(logging.CRITICAL)
        self.patches = [
            mock.patch.object(journal, "CLAIM_WAIT_SECONDS", 0),
            mock.patch.object(journal, "CONFLICT_WAIT_SECONDS", 0),
            mock.patch.object(posting, "POST_SECONDS", 600),
            mock.patch.object(posting, "CLEANUP_SECONDS", 600),
            # A process that is killed does not take the disk's cache with it; waiting for the disk takes 4 ms.
            mock.patch.object(os, "fsync", return_value=None),
        ]
        for patch in self.patches:
            patch.start()

    def has_no_receipt_yet(self) -> None:
        """Begin with an empty directory: at first, and where nothing can happen any more to what is stored."""
        self.root = Path(tempfile.mkdtemp(dir=self.home))
        self.path = self.root / f"{KEY}.json"
        self.posts: list[Post] = []
        self.files: dict[str, str] = {}
        self.last: Receipt | None = None

    # What the callers tell.

    def on_disk(self) -> Receipt | None:
        try:
            return Receipt.from_json(self.path.read_bytes())
        except FileNotFoundError:
            return None

    def written(self, caller: Caller, before: Receipt | None, after: Receipt) -> None:
        """Called after each write of a receipt."""
        self.last = after
        if before == after:
            # A claim that its own caller had lost sight of is written again as it is.
            return
        problem = problem_of_change(before, after)
        known = {attempt.claim for attempt in before.attempts} if before else set()
        if after.state == "sending" and after.attempt.claim not in known:
            problem = problem or problem_of_claim(caller, before, after)
            if (self.root / f"{KEY}.mp4").exists():
                problem = problem or "a key is claimed whose video is in the store"
            caller.claims.append(after.attempt.claim)
        if problem is not None:
            self.problems.append(f"{problem}: {told(before)} -> {told(after)}")

    def posted(self, caller: Caller, upload_url: str | None, storage: StorageOptions | None) -> Post:
        """Called for each POST: each needs a claim of its own."""
        if not caller.claims:
            self.problems.append("a POST without a claim")
        claim = caller.claims.pop() if caller.claims else "none"
        # What goes wrong from here on concerns the new attempt.
        caller.asked = None
        post = Post(caller, claim, upload_url is not None, f"id-{len(self.posts) + 1}", storage and storage.filename)
        if (post.direct and claim not in upload_url) or (post.file and claim not in post.file):
            self.problems.append("a POST whose video goes to the place of another claim")
        self.posts.append(post)
        return post

    # What can happen.

    def call(
        self, what, request=0, run=None, regenerate=False, resubmit=False, found_by=None, request_id=""
    ) -> Caller:
        async def calls(caller: Caller):
            engine = Generation(Client(self, caller), Store(self, caller), AT_ONCE)
            if what in {"make", "start"}:
                caller.result = await engine.start(
                    REQUESTS[request],
                    KEY,
                    flow_run_id=run,
                    regenerate=regenerate,
                    on_unknown="resubmit" if resubmit else "raise",
                    delivery="direct" if found_by == "bucket" else "download",
                    recovery="files" if found_by == "files" else "none",
                )
            if what in {"adopt", "collect"}:
                caller.result = await engine.adopt(request_id, KEY, flow_run_id=run)
                caller.asked = None
            if what in {"make", "collect", "wait"}:
                caller.result = await engine.wait(KEY, timeout=600)
                caller.asked = None
            if what in {"make", "collect", "save"}:
                caller.result = await engine.save(KEY)
            return caller.result

        caller = Caller(
            calls,
            what=what,
            run=run,
            regenerate=regenerate,
            resubmit=resubmit,
            claims=[],
            asked=None,
            noted=False,
            claiming=False,
        )
        self.callers.append(caller)
        caller.begin()
        return caller

    @property
    def alive(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.alive]

    def end(self, caller: Caller, how: str) -> None:
        """Let the point where a caller is end in some way."""
        if currently_in_test_context():
            note(f"# {self.callers.index(caller)} {caller.what}, at {caller.at}: {how}")
        with MEANWHILE.get(how, nullcontext()):
            caller.go_on(how)

    @rule(options=OPTIONS, ways=WAYS, late=st.booleans())
    def comes(self, options, ways, late) -> None:
        """Somebody calls, and gets as far as these ways lead, while others are in the middle of their calls."""
        if self.last is not None and self.last.state == "stored" and not self.alive:
            self.has_no_receipt_yet()
        if late and self.last is not None:
            self.time_passes()
        for caller in self.alive[2:]:
            caller.go_on("killed before")
        self.drive(self.call(**options), ways)

    @precondition(lambda self: self.posts)
    @rule(what=st.sampled_from(["adopt", "collect"]), request_id=st.sampled_from(["found", "id-1"]), ways=WAYS)
    def adopts(self, what, request_id, ways) -> None:
        self.comes({"what": what, "request_id": request_id}, ways, False)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 2), ways=WAYS)
    def goes_on(self, which, ways) -> None:
        self.drive(self.alive[which % len(self.alive)], ways)

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 2))
    def goes_well_to_its_end(self, which) -> None:
        self.finish(self.alive[which % len(self.alive)])

    def drive(self, caller: Caller, ways: tuple[dict[str, str], int]) -> None:
        first = dict(ways[0])
        for _ in range(ways[1]):
            if caller.alive:
                self.end(caller, first.pop(caller.at, WELL[caller.at]))

    def finish(self, caller: Caller) -> None:
        for _ in range(40):
            if caller.alive:
                self.end(caller, WELL[caller.at])

    @precondition(lambda self: any(not caller.cancelled for caller in self.alive))
    @rule(which=st.integers(0, 2))
    def is_cancelled(self, which) -> None:
        callers = [caller for caller in self.alive if not caller.cancelled]
        callers[which % len(callers)].cancel()

    @precondition(lambda self: self.last is not None)
    @rule()
    def time_passes(self) -> None:
        long_ago = time.time() - journal.CLAIM_SECONDS - 1
        os.utime(self.path, (long_ago, long_ago))

    @precondition(lambda self: any(post.accepted and post.direct for post in self.posts))
    @rule(which=st.integers(0, 2))
    def is_delivered(self, which) -> None:
        posts = [post for post in self.posts if post.accepted and post.direct]
        post = posts[which % len(posts)]
        (self.root / delivery_name(KEY, post.claim)).write_bytes(video_of(post.request_id))

    @precondition(lambda self: any(post.accepted and post.file for post in self.posts))
    @rule(which=st.integers(0, 2))
    def is_kept_at_xai(self, which) -> None:
        posts = [post for post in self.posts if post.accepted and post.file]
        post = posts[which % len(posts)]
        self.files[post.file] = post.request_id

    # What must hold.

    @invariant()
    def nothing_illegal_was_done(self) -> None:
        assert not self.problems, self.problems

    @invariant()
    def the_receipt_on_disk_is_readable_and_the_last_one_written(self) -> None:
        assert self.on_disk() == self.last

    @invariant()
    def what_is_stored_is_there(self) -> None:
        if self.last is not None and self.last.state == "stored":
            content = (self.root / f"{KEY}.mp4").read_bytes()
            assert (len(content), digest(content)) == (self.last.file.size, self.last.file.sha256)
            assert content in self.videos_of(self.last.attempt)

    def videos_of(self, stored: Attempt) -> set[bytes]:
        """What may be stored for an attempt: an id that a person has named may be that of any lost submission."""
        named = {stored.request_id} - {None}
        if named and stored.submitted_at is not None:
            return {video_of(stored.request_id)}
        claims = {attempt.claim for attempt in self.last.attempts if attempt.fingerprint == stored.fingerprint}
        lost = {post.request_id for post in self.posts if post.claim in claims and (post.direct or post.file)}
        return {video_of(request_id) for request_id in named | lost}

    @invariant()
    def who_has_ended_has_lost_nothing(self) -> None:
        for caller in self.callers:
            if caller.at is None and not caller.dead and not caller.noted:
                caller.noted = True
                self.check_end(caller)

    def check_end(self, caller: Caller) -> None:
        mine = [post for post in self.posts if post.caller is caller]
        error = caller.error
        noted = ids_of(self.last) if self.last else set()
        for post in mine:
            told_to_caller = getattr(error, "request_id", None) == post.request_id
            logged = caller.cancelled and post.request_id in self.log.said
            assert not post.replied or post.request_id in noted or told_to_caller or logged, "a request id is lost"
        if error is None:
            return
        expected = (XaiVideoError, asyncio.CancelledError) if caller.cancelled else XaiVideoError
        assert isinstance(error, expected), f"an error that nobody foresaw: {error!r}"
        assert not isinstance(error, IllegalTransition), error
        if isinstance(error, XaiVideoError):
            assert error.key == KEY
            # One that keeps a new attempt from being claimed concerns no earlier request: the receipt names that, as
            # one that has ended.
            is_of_claim = caller.claiming and not mine and caller.asked in ended_ids(self.last)
            expected = {None, error.request_id} | ({caller.asked} if is_of_claim and not error.request_id else set())
            assert caller.asked in expected, "an error after a submission without its request id"
        if isinstance(error, KeyConflict):
            assert all(post.refused for post in mine), "a conflict that has sent something"

    def teardown(self) -> None:
        try:
            self.ends_with_a_video()
        finally:
            for caller in self.callers:
                caller.release()
            for patch in self.patches:
                patch.stop()
            posting.logger.removeHandler(self.log)
            logging.getLogger("prefect_xai_video").setLevel(logging.NOTSET)
            shutil.rmtree(self.home)

    def ends_with_a_video(self) -> None:
        """Once nothing goes wrong any more, the key ends with a video, if somebody says that it may be paid again."""
        for caller in self.alive:
            caller.dead = True
        if self.problems:
            return
        if self.last is not None:
            self.time_passes()
        request = next(
            (n for n, known in enumerate(REQUESTS) if self.last and self.last.fingerprint == known.fingerprint), 0
        )
        caller = self.call("make", request, "the last run", regenerate=True, resubmit=True)
        self.finish(caller)
        assert caller.error is None, f"the key has no video in the end: {caller.error!r}"
        assert caller.at is None, f"the key has no video in the end: still at {caller.at}"
        self.nothing_illegal_was_done()
        self.what_is_stored_is_there()
        assert self.last.state == "stored"


def told(receipt: Receipt | None) -> str:
    """A receipt in one line."""
    if receipt is None:
        return "nothing"
    attempts = (f"{a.reason} {a.outcome} {a.request_id} by {a.flow_run_id}" for a in receipt.attempts)
    return f"{receipt.state} ({', '.join(attempts)})"


def problem_of_change(before: Receipt | None, after: Receipt) -> str | None:
    """What is wrong with a change of a receipt."""
    if before is None:
        adopted = after.state == "submitted" and after.attempt.reason == "adopted"
        return None if after.state == "sending" or adopted else "a receipt begins in the middle"
    old, new = ({attempt.claim for attempt in receipt.attempts} for receipt in (before, after))
    if not (old <= new and ids_of(before) <= ids_of(after)):
        return "an attempt or a request id was lost"
    if before.state == "stored" and before.file != after.file:
        return "a stored file was lost"
    if after.state in LEGAL[before.state] - {before.state} or before.state == after.state == "done":
        return None
    if is_told_of_a_missing_request(before, after) or is_late_refusal(before, after):
        return None
    ended = next(attempt.outcome for attempt in after.attempts if attempt.claim == before.attempt.claim)
    nothing = {"refused", "unknown", *ENDED_BADLY}
    earlier = after.attempt.claim in old - {before.attempt.claim}
    if earlier and ended in LEGAL[before.state] & nothing and (after.state == "submitted" or ended == "refused"):
        return None
    back = before.state in nothing and after.attempt.claim in old
    replies = [sum(attempt.request_id is not None for attempt in receipt.attempts) for receipt in (before, after)]
    replied = replies[0] < replies[1]
    late_reply = replied and (before.state == after.state or (back and after.state == "submitted"))
    is_found = after.attempt.direct or (after.attempt.xai_file is not None and after.attempt.xai_file.id is not None)
    delivered = back and after.state == "done" and (is_found or after.attempt.file is not None)
    may_be_adopted = "sending" in LEGAL[before.state] and after.attempt.claim not in old
    adopted = may_be_adopted and after.state == "submitted" and after.attempt.reason == "adopted"
    return None if late_reply or delivered or adopted else "an illegal transition"


def is_told_of_a_missing_request(before: Receipt, after: Receipt) -> bool:
    """Whether all that has changed is whether xAI knew the open request in the last poll."""
    if before.state != "submitted" or after.state != "submitted":
        return False
    told = [receipt.model_copy(update={"attempts": _without_failure(receipt)}) for receipt in (before, after)]
    return told[0] == told[1]


def _without_failure(receipt: Receipt) -> tuple[Attempt, ...]:
    return tuple(attempt.model_copy(update={"failure": None}) for attempt in receipt.attempts)


def is_late_refusal(before: Receipt, after: Receipt) -> bool:
    """Whether all that has changed is that an attempt of unknown outcome was surely refused."""
    pairs = list(zip(before.attempts, after.attempts, strict=False))
    changed = [(old.outcome, new.outcome) for old, new in pairs if old != new]
    return len(before.attempts) == len(after.attempts) and changed == [("unknown", "refused")]


def ended_ids(receipt: Receipt | None) -> set[str | None]:
    """The request ids whose attempts have ended without a video."""
    attempts = receipt.attempts if receipt else ()
    return {attempt.request_id for attempt in attempts if attempt.outcome in ENDED_BADLY}


def ids_of(receipt: Receipt) -> set[str]:
    return {attempt.request_id for attempt in receipt.attempts if attempt.request_id}


def problem_of_claim(caller: Caller, before: Receipt | None, after: Receipt) -> str | None:
    """What is wrong with a claim, which is a payment to be: who may send, over what was sent before?"""
    attempts = before.attempts if before else ()
    reason = after.attempt.reason
    if before is None:
        return None
    if before.state == "unknown" and not (caller.resubmit and reason == "resubmit"):
        return "what may have been accepted is sent again, and nobody said so"
    if before.state in ENDED_BADLY and not (caller.regenerate and reason == "regenerate"):
        return "what has ended is paid for again, and nobody said so"
    if before.state == "refused" and reason == "first" and before.maybe_paid:
        return "what may have been accepted is sent again as if it was refused"
    if before.state in {"refused", "unknown"} and any(
        a.outcome in LIVE and a.request_id and a.fingerprint == after.fingerprint for a in attempts
    ):
        return "sent again, though the receipt knows a request that was accepted"
    same = before.fingerprint in {None, after.fingerprint}
    if not same and before.maybe_paid and not (caller.regenerate and before.state in ENDED_BADLY):
        return "another request has taken the key"
    again = [
        a
        for a in attempts
        if a.flow_run_id == caller.run and a.reason == reason != "first" and a.outcome != "refused"
    ]
    if again and caller.run is not None and before.state != "refused":
        return "a flow run pays again twice"
    return None


def profile() -> settings:
    return settings(
        max_examples=int(os.environ.get("STATE_MACHINE_EXAMPLES", "120")),
        stateful_step_count=int(os.environ.get("STATE_MACHINE_STEPS", "25")),
        deadline=None,
        # To explain a failure takes longer than to find it, and its steps say it well enough.
        phases=[phase for phase in Phase if phase is not Phase.explain],
        # The steps are threads and files: how long one takes says nothing about the engine.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


TestWorld = World.TestCase
TestWorld.settings = profile()


# Single histories, each as short as it can be told.


@pytest.fixture
def world():
    world = World()
    yield world
    world.who_has_ended_has_lost_nothing()
    world.nothing_illegal_was_done()
    world.what_is_stored_is_there()
    world.teardown()


def goes(world: World, caller: Caller, *ways: str) -> Caller:
    """Have the points of a caller end, one after the other, in these ways."""
    for how in ways:
        assert caller.alive, caller.error
        world.end(caller, how)
    return caller


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
