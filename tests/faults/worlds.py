"""Worlds that Hypothesis plays: a store, xAI, and callers of the engine, of whom every point ends as a test says.

After each step, the receipts on disk are compared with what may be there.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

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
from prefect_xai_video.engine.attempts import Attempt, IllegalTransition, StoredFile
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
    XaiVideoError,
)

from ..support.scripted import mp4
from .legal import ended_ids, ids_of, problem_of_change, problem_of_claim, told
from .stepwise import DEAD, Caller

PROMPTS = ["A cat", "A dog"]
REQUESTS = [build_request(prompt, duration=1) for prompt in PROMPTS]
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
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are real, but fast."""


@dataclass
class Post:
    """One POST as xAI and its sender know it."""

    caller: Caller
    key: str
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
            before = self.world.on_disk(receipt.key)
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

    def _place(self, key: str, claim: str) -> Path:
        return self.root / delivery_name(key, claim)

    async def upload_url(self, key, claim):
        return f"https://store.example/{delivery_name(key, claim)}?Signature=s"

    def is_upload_url(self, url, key, claim):
        return delivery_name(key, claim) in url

    async def is_delivered(self, key, claim):
        if await self.caller.astop("look") == "unreadable":
            raise StorageError("The disk can't be read.", transient=True)
        return self._place(key, claim).exists()

    async def take_delivery(self, key, claim, request_id):
        if not self._place(key, claim).exists():
            return None
        content = self._place(key, claim).read_bytes()
        target = self._path(f"{key}.mp4")
        with self._write(await self.caller.astop("put")):
            if not self._place(key, claim).exists():
                raise StorageError("What was delivered is gone.")
            shutil.copy(self._place(key, claim), target.with_name(".taken.part"))
            target.with_name(".taken.part").replace(target)
        return StoredFile(uri=target.as_uri(), size=len(content), sha256=digest(content), content_type="video/mp4")

    async def drop_delivery(self, key, claim):
        self._place(key, claim).unlink(missing_ok=True)


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
        post = self.world.posted(self.caller, client_request_id, upload_url, storage)
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
    """Some keys, and everything that can happen to them.

    Attributes:
        keys: The keys.
        well: How a point ends if nothing goes wrong.
        meanwhile: What time it is while a point ends.
    """

    keys: tuple[str, ...]
    well: Mapping[str, str] = WELL
    meanwhile: Mapping[str, AbstractContextManager[Any]] = MEANWHILE
    client: type[Client] = Client

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="xai-video-", dir=MEMORY))
        self.callers: list[Caller] = []
        self.problems: list[str] = []
        self.has_no_receipt_yet()
        self.log = LastWords()
        posting.logger.addHandler(self.log)
        logging.getLogger("prefect_xai_video").setLevel(logging.CRITICAL)
        self.patches = self.patched()
        for patch in self.patches:
            patch.start()

    def patched(self) -> list[Any]:
        """Waits that the world ends, not the clock."""
        return [
            mock.patch.object(journal, "CLAIM_WAIT_SECONDS", 0),
            mock.patch.object(journal, "CONFLICT_WAIT_SECONDS", 0),
            mock.patch.object(posting, "POST_SECONDS", 600),
            mock.patch.object(posting, "CLEANUP_SECONDS", 600),
            # A process that is killed does not take the disk's cache with it; waiting for the disk takes 4 ms.
            mock.patch.object(os, "fsync", return_value=None),
        ]

    def has_no_receipt_yet(self) -> None:
        """Begin with an empty directory: at first, and where nothing can happen any more to what is stored."""
        self.root = Path(tempfile.mkdtemp(dir=self.home))
        self.posts: list[Post] = []
        self.files: dict[str, str] = {}
        self.receipts: dict[str, Receipt] = {}

    # What the callers tell.

    def on_disk(self, key: str) -> Receipt | None:
        try:
            return Receipt.from_json((self.root / f"{key}.json").read_bytes())
        except FileNotFoundError:
            return None

    def written(self, caller: Caller, before: Receipt | None, after: Receipt) -> None:
        """Called after each write of a receipt."""
        self.receipts[after.key] = after
        if before == after:
            # A claim that its own caller had lost sight of is written again as it is.
            return
        problem = problem_of_change(before, after)
        known = {attempt.claim for attempt in before.attempts} if before else set()
        if after.state == "sending" and after.attempt.claim not in known:
            problem = problem or problem_of_claim(caller, before, after)
            if (self.root / f"{after.key}.mp4").exists():
                problem = problem or "a key is claimed whose video is in the store"
            caller.claims[after.attempt.claim] = after.key
        if problem is not None:
            self.problems.append(f"{problem}: {told(before)} -> {told(after)}")

    def sends(self, caller: Caller, claim: str) -> str:
        """Called for each request that is sent: each needs a claim of its own. Returns its key."""
        if claim not in caller.claims:
            self.problems.append("a request is sent without a claim")
        return caller.claims.pop(claim, "none")

    def posted(self, caller: Caller, claim: str, upload_url: str | None, storage: StorageOptions | None) -> Post:
        """Called for each POST."""
        key = self.sends(caller, claim)
        # What goes wrong from here on concerns the new attempt.
        caller.asked = None
        name = f"id-{len(self.posts) + 1}"
        post = Post(caller, key, claim, upload_url is not None, name, storage and storage.filename)
        if (post.direct and claim not in upload_url) or (post.file and claim not in post.file):
            self.problems.append("a POST whose video goes to the place of another claim")
        self.posts.append(post)
        return post

    # What can happen.

    def engine(self, caller: Caller) -> Generation:
        return Generation(self.client(self, caller), Store(self, caller), AT_ONCE)

    def begins(self, calls: Callable[[Caller], Coroutine[Any, Any, Any]], what: str, **facts: Any) -> Caller:
        """Have somebody begin a call, up to its first point."""
        receipt = self.receipts.get(facts["key"])
        knew = receipt.request_id if receipt else None
        caller = Caller(calls, what=what, claims={}, asked=None, noted=False, claiming=False, knew=knew, **facts)
        self.callers.append(caller)
        caller.begin()
        return caller

    def call(
        self,
        what,
        request=0,
        run=None,
        regenerate=False,
        resubmit=False,
        found_by=None,
        request_id="",
        key=None,
    ) -> Caller:
        """Have somebody call the engine for one key."""
        key = key or self.keys[0]

        async def calls(caller: Caller):
            engine = self.engine(caller)
            if what in {"make", "start"}:
                caller.result = await engine.start(
                    REQUESTS[request],
                    key,
                    flow_run_id=run,
                    regenerate=regenerate,
                    on_unknown="resubmit" if resubmit else "raise",
                    delivery="direct" if found_by == "bucket" else "download",
                    recovery="files" if found_by == "files" else "none",
                )
            if what in {"adopt", "collect"}:
                caller.result = await engine.adopt(request_id, key, flow_run_id=run)
                caller.asked = None
            if what in {"make", "collect", "wait"}:
                caller.result = await engine.wait(key, timeout=600)
                caller.asked = None
            if what in {"make", "collect", "save"}:
                caller.result = await engine.save(key)
            if what == "look":
                caller.result = await engine.collect(key)
            return caller.result

        return self.begins(calls, what, key=key, run=run, regenerate=regenerate, resubmit=resubmit)

    @property
    def alive(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.alive]

    def end(self, caller: Caller, how: str) -> None:
        """Let the point where a caller is end in some way."""
        if currently_in_test_context():
            note(f"# {self.callers.index(caller)} {caller.what}, at {caller.at}: {how}")
        with self.meanwhile.get(how, nullcontext()):
            caller.go_on(how)

    def comes_alone(self, late: bool) -> None:
        """Make room for another caller, after whom at most three are in the middle of their calls."""
        states = {receipt.state for receipt in self.receipts.values()}
        if states == {"stored"} and not self.alive:
            self.has_no_receipt_yet()
        if late:
            self.grows_old()
        for caller in self.alive[2:]:
            caller.go_on("killed before")

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 2))
    def goes_well_to_its_end(self, which) -> None:
        self.finish(self.alive[which % len(self.alive)])

    def drive(self, caller: Caller, ways: Mapping[str, str], number: int, is_lasting: bool = False) -> None:
        """Have a caller go on for some points, of which the first one or all of a kind end in a given way."""
        first = dict(ways)
        for _ in range(number):
            if caller.alive:
                how = first.get(caller.at) if is_lasting else first.pop(caller.at, None)
                self.end(caller, how or self.well[caller.at])

    def finish(self, caller: Caller) -> None:
        for _ in range(60):
            if caller.alive:
                self.end(caller, self.well[caller.at])

    @precondition(lambda self: any(not caller.cancelled for caller in self.alive))
    @rule(which=st.integers(0, 2))
    def is_cancelled(self, which) -> None:
        callers = [caller for caller in self.alive if not caller.cancelled]
        callers[which % len(callers)].cancel()

    @precondition(lambda self: self.receipts)
    @rule()
    def time_passes(self) -> None:
        self.grows_old()

    def grows_old(self) -> None:
        """Let so much time pass that each claim counts as left behind."""
        long_ago = time.time() - journal.CLAIM_SECONDS - 1
        for key in self.receipts:
            os.utime(self.root / f"{key}.json", (long_ago, long_ago))

    # What must hold.

    @invariant()
    def nothing_illegal_was_done(self) -> None:
        assert not self.problems, self.problems

    @invariant()
    def the_receipts_on_disk_are_readable_and_the_last_ones_written(self) -> None:
        assert {key: held for key in self.keys if (held := self.on_disk(key))} == self.receipts

    @invariant()
    def nothing_that_was_accepted_counts_as_refused(self) -> None:
        accepted = self.accepted()
        for receipt in self.receipts.values():
            refused = {attempt.claim for attempt in receipt.attempts if attempt.outcome == "refused"}
            assert not refused & accepted, f"what was accepted counts as refused: {told(receipt)}"

    def accepted(self) -> set[str]:
        """Claims whose requests have been accepted, or may still be, and cost money."""
        return {post.claim for post in self.posts if post.accepted}

    @invariant()
    def what_is_stored_is_there(self) -> None:
        for key, receipt in self.receipts.items():
            if receipt.state == "stored":
                content = (self.root / f"{key}.mp4").read_bytes()
                assert (len(content), digest(content)) == (receipt.file.size, receipt.file.sha256)
                assert content in self.videos_of(receipt, receipt.attempt)

    def videos_of(self, receipt: Receipt, stored: Attempt) -> set[bytes]:
        """What may be stored for an attempt: an id that a person has named may be that of any lost submission."""
        named = {stored.request_id} - {None}
        if named and stored.submitted_at is not None:
            return {video_of(stored.request_id)}
        claims = {attempt.claim for attempt in receipt.attempts if attempt.fingerprint == stored.fingerprint}
        lost = {post.request_id for post in self.posts if post.claim in claims and (post.direct or post.file)}
        return {video_of(request_id) for request_id in named | lost}

    @invariant()
    def who_has_ended_has_lost_nothing(self) -> None:
        for caller in self.callers:
            if caller.at is None and not caller.dead and not caller.noted:
                caller.noted = True
                self.check_end(caller)

    def check_end(self, caller: Caller) -> None:
        last = self.receipts.get(caller.key)
        mine = [post for post in self.posts if post.caller is caller]
        error = caller.error
        noted = ids_of(last) if last else set()
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
            assert error.key == caller.key
            if caller.what in {"wait", "save", "look"} and caller.knew is not None:
                assert error.request_id is not None, "an error without the request id of the receipt"
            # One that keeps a new attempt from being claimed concerns no earlier request: the receipt names that, as
            # one that has ended.
            is_of_claim = caller.claiming and not mine and caller.asked in ended_ids(last)
            expected = {None, error.request_id} | ({caller.asked} if is_of_claim and not error.request_id else set())
            assert caller.asked in expected, "an error after a submission without its request id"
        if isinstance(error, KeyConflict):
            assert all(post.refused for post in mine), "a conflict that has sent something"

    def teardown(self) -> None:
        try:
            for caller in self.alive:
                caller.dead = True
            if not self.problems:
                self.ends_well()
        finally:
            for caller in self.callers:
                caller.release()
            for patch in self.patches:
                patch.stop()
            posting.logger.removeHandler(self.log)
            logging.getLogger("prefect_xai_video").setLevel(logging.NOTSET)
            shutil.rmtree(self.home)

    def ends_well(self) -> None:
        """Check how the keys end once nothing goes wrong any more."""
        raise NotImplementedError

    def request_of(self, key: str) -> int:
        """Which request a key stands for."""
        receipt = self.receipts.get(key)
        return next(
            (n for n, known in enumerate(REQUESTS) if receipt and receipt.fingerprint == known.fingerprint), 0
        )


def profile(examples: int) -> settings:
    """The settings of a machine.

    Args:
        examples: Number of examples; the environment variable STATE_MACHINE_EXAMPLES multiplies it.
    """
    return settings(
        max_examples=int(examples * float(os.environ.get("STATE_MACHINE_EXAMPLES", "1"))),
        stateful_step_count=int(os.environ.get("STATE_MACHINE_STEPS", "25")),
        deadline=None,
        # To explain a failure takes longer than to find it, and its steps say it well enough.
        phases=[phase for phase in Phase if phase is not Phase.explain],
        # The steps are threads and files: how long one takes says nothing about the engine.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def goes(world: World, caller: Caller, *ways: str) -> Caller:
    """Have the points of a caller end, one after the other, in these ways."""
    for how in ways:
        assert caller.alive, caller.error
        world.end(caller, how)
    return caller
