"""The engine: claim a key, start, wait, save. Async; it knows no Prefect.

Each step begins by reading the receipt and does only what is still to be done, so any step may be repeated, by
anybody, after any interruption. There is one place that sends a POST, `_submit`, and one rule: it is entered only
by who has just written `sending` into the receipt, and nobody writes that over a state that may have been paid for
unless a person said so.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from prefect_xai_video.client import Download, XaiVideoClient
from prefect_xai_video.errors import (
    DownloadError,
    InvalidRequest,
    KeyConflict,
    RequestRejected,
    StorageError,
    SubmissionUnknown,
    VideoTimeout,
    XaiVideoError,
)
from prefect_xai_video.polling import Look, PollSchedule, next_wait
from prefect_xai_video.receipts import ENDED_BADLY, Reason, Receipt, StoredFile, Video, check_key
from prefect_xai_video.requests import VideoRequest
from prefect_xai_video.responses import VideoStatus
from prefect_xai_video.stores import Held, Overtaken, VideoStore

OnUnknown = Literal["raise", "resubmit"]

CLAIM_SECONDS = 120
"""A claim older than this counts as left behind by a crash: a POST is hardly ever under way for half that time.
Should its reply come all the same, it is noted."""

CLAIM_WAIT_SECONDS = 1.0
"""Between two looks at somebody else's claim."""

OVERTAKEN_WAIT_SECONDS = 0.05
MOST_OVERTAKEN = 100
"""How often others may be faster at writing a receipt; more often than that, there is something else wrong."""

CLEANUP_SECONDS = 8
"""How long a cancelled run may wait for the reply to a POST; Prefect kills it after 10 s."""

FRESH_SECONDS = 60
"""A request id that xAI does not know is given this long to become known."""

AGED_SECONDS = 24 * 3600
"""A request id that xAI does not know any more after this has expired: the longest lifetime told of a video. Before,
it may be another team's key or base URL that does not know it."""

EXPIRED_STATUSES = {403, 404, 410}

logger = logging.getLogger(__name__)


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that one video needs.

    Attributes:
        client: The API.
        store: Where the video and its receipt go.
        schedule: When to look.
        on_change: Called with the receipt after each change of its state.
        on_status: Called with each answer of `get`.
    """

    client: XaiVideoClient
    store: VideoStore
    schedule: PollSchedule = field(default_factory=PollSchedule)
    on_change: Callable[[Receipt], object] = _ignore
    on_status: Callable[[VideoStatus], Awaitable[object] | None] = _ignore

    async def start(
        self,
        request: VideoRequest,
        key: str,
        *,
        flow_run_id: str | None = None,
        regenerate: bool = False,
        on_unknown: OnUnknown = "raise",
    ) -> Receipt:
        """Have a request submitted under a key, if it is not yet.

        Args:
            request: What is asked for, with inputs that the service can fetch.
            key: The video's name in the store.
            flow_run_id: Who asks, for the receipt.
            regenerate: Pay for a new attempt where the last one failed, was moderated or expired; once a flow
                run, so that a retried run does not pay each time.
            on_unknown: `resubmit` sends again what may have been accepted, once a flow run.

        Returns:
            The receipt, in state `submitted`, `done` or `stored`.

        Raises:
            KeyConflict: If the key belongs to another request.
            SubmissionUnknown: If a POST may have been accepted, now or earlier.
            GenerationError: If the last attempt brought no video.
            ApiError: If xAI refused.
            InvalidRequest: If the key can't be one, or a flag is of a wrong type.
            StorageError: If the store can't be used.
        """
        _check_flags(regenerate, on_unknown)
        with _with_key(check_key(key)):
            async for attempt in self.client.retries.of(lambda error: error.resend_safe):
                with attempt:
                    while True:
                        held = await self._claim(request, key, flow_run_id, regenerate, on_unknown)
                        if held.receipt.state != "sending":
                            return held.receipt
                        self.on_change(held.receipt)
                        receipt = await self._submit(request, held)
                        if receipt.state not in {"sending", "refused"}:
                            return _usable(receipt)
        raise AssertionError("unreachable")

    async def wait(self, key: str, *, timeout: float) -> Receipt:
        """Wait until the video of a submitted key is done.

        Args:
            key: The video's name in the store.
            timeout: Seconds to wait at most.

        Returns:
            The receipt, in state `done` or `stored`.

        Raises:
            VideoTimeout: If it was not done in time.
            GenerationError: If there will be no video.
            ApiError: If xAI can't be asked.
        """
        with _with_key(key):
            held = await self._read(key)
            if held.receipt.state != "submitted":
                return _usable(held.receipt)
            request_id = held.receipt.request_id or ""
            with _with_request_id(request_id):
                status = await self._poll(request_id, _age(held.receipt), timeout)
                held = await self._change(held, lambda receipt: _answered(receipt, status))
            return _usable(held.receipt)

    async def save(self, key: str) -> Video:
        """Put the video of a done key in its place.

        Raises:
            DownloadError: If it could not be fetched whole.
            StorageError: If it could not be stored, or is no longer where the receipt says.
            GenerationError: If xAI no longer has it.
        """
        with _with_key(key):
            held = await self._read(key)
            receipt = _usable(held.receipt)
            if receipt.state == "submitted":
                raise StorageError("The video is not done yet: wait for it first.", request_id=receipt.request_id)
            if receipt.file is None:
                held = await self._fetch_and_store(held)
            else:
                await self.store.check_video(key, receipt.file)
            return held.receipt.video(self.store.receipt_uri(key))

    async def _claim(
        self, request: VideoRequest, key: str, flow_run_id: str | None, regenerate: bool, on_unknown: OnUnknown
    ) -> Held:
        """Read the receipt and, where a POST is due, be the one who sends it.

        Returns:
            A receipt in state `sending` that is the caller's to send, or one that needs no POST any more.
        """
        for _ in range(MOST_OVERTAKEN):
            try:
                held = await self._read_settled(key)
                if held is None:
                    return await self.store.create(Receipt.claim(key, request, flow_run_id))
                receipt = held.receipt
                reason: Reason
                if receipt.fingerprint != request.fingerprint and not _may_be_replaced(receipt, regenerate):
                    raise _conflict(receipt)
                match receipt.state:
                    case "submitted" | "done" | "stored":
                        return held
                    case "refused":
                        reason = receipt.attempt.reason
                    case "unknown" if on_unknown == "resubmit" and not _had_its_go(receipt, flow_run_id):
                        reason = "resubmit"
                    case "failed" | "moderated" | "expired" if regenerate and not _had_its_go(receipt, flow_run_id):
                        reason = "regenerate"
                    case _:
                        raise _ended(receipt)
                return await self.store.replace(held, receipt.sent_again(request, reason, flow_run_id))
            except Overtaken:
                await asyncio.sleep(OVERTAKEN_WAIT_SECONDS)
        raise StorageError(f"The receipt {self.store.receipt_uri(key)} can neither be read nor be created.")

    async def _read_settled(self, key: str) -> Held | None:
        """Read a receipt; where somebody else's POST is under way, wait for how it ends.

        The claim of one who can't be there any more is given up: its submission is of unknown outcome.
        """
        while (held := await self.store.read(key)) is not None and held.receipt.state == "sending":
            if _age(held.receipt) >= CLAIM_SECONDS:
                left = SubmissionUnknown("The submission was under way when its run ended.")
                held = await self.store.replace(held, held.receipt.unknown(left))
                self.on_change(held.receipt)
                break
            await asyncio.sleep(CLAIM_WAIT_SECONDS)
        return held

    async def _submit(self, request: VideoRequest, held: Held) -> Receipt:
        """Send the one POST of a claim, and write down what became of it, even if this task is cancelled.

        Both happen in a thread of their own, which no cancellation reaches and which waits in no queue.
        """
        context = copy_context()
        thread = ThreadPoolExecutor(1, thread_name_prefix="xai-video-post")
        posting = asyncio.get_running_loop().run_in_executor(
            thread, lambda: context.run(asyncio.run, self._send_and_note(request, held))
        )
        thread.shutdown(wait=False)
        try:
            return await asyncio.shield(posting)
        except asyncio.CancelledError:
            # The thread goes on by itself; this gives it time where the process is about to end.
            posting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            await asyncio.wait({posting}, timeout=CLEANUP_SECONDS)
            raise

    async def _send_and_note(self, request: VideoRequest, held: Held) -> Receipt:
        try:
            request_id = self.client.submit(request)
        except SubmissionUnknown as error:
            unknown = error
        except XaiVideoError as error:
            await self._note_failure(held, Receipt.refused, error)
            raise
        except Exception as error:
            unknown = SubmissionUnknown(f"The submission ended in a way that nobody foresaw: {type(error).__name__}.")
        else:
            return await self._note_request_id(request_id, held)
        await self._note_failure(held, Receipt.unknown, unknown)
        raise _unknown(held.receipt.unknown(unknown)) from unknown

    async def _note_request_id(self, request_id: str, held: Held) -> Receipt:
        claim = held.receipt.attempt.claim
        try:
            async for attempt in self.client.retries.of(lambda error: True):
                with attempt:
                    held = await self._change(held, lambda receipt: receipt.late_reply(claim, request_id))
        except Exception as error:
            # Nobody else knows this id: trying again would only find a claim that was left behind.
            logger.critical("xAI accepted request %s, but its receipt could not be written", request_id)
            message = error.message if isinstance(error, XaiVideoError) else f"Its receipt can't be written: {error}."
            raise StorageError(message, request_id=request_id, transient=False) from error
        return held.receipt

    async def _note_failure(
        self, held: Held, change: Callable[[Receipt, XaiVideoError], Receipt], error: XaiVideoError
    ) -> None:
        """Write down how a POST ended, while the receipt is still what its claim wrote.

        A store that fails now must not hide how the POST ended; the claim then ends as unknown, which is safe.
        """
        claim = held.receipt.attempt.claim

        def change_own(receipt: Receipt) -> Receipt:
            own = receipt.state == "sending" and receipt.attempt.claim == claim
            return change(receipt, error) if own else receipt

        try:
            await self._change(held, change_own)
        except StorageError as problem:
            logger.warning("How the submission ended could not be noted in its receipt: %s", problem)

    async def _poll(self, request_id: str, before: float, timeout: float) -> VideoStatus:
        """Ask until there is a final answer. The deadline runs on a monotonic clock.

        Args:
            request_id: What to ask for.
            before: Seconds that have passed since the submission.
            timeout: Seconds to ask for.
        """
        begun = time.monotonic()
        looks: list[Look] = []
        while True:
            waited = time.monotonic() - begun
            if waited >= timeout:
                raise VideoTimeout(
                    f"The video was not done within {timeout:g} s. The same key goes on waiting, without paying.",
                    request_id=request_id,
                )
            pause = next_wait(self.schedule, looks, before + waited)
            await asyncio.sleep(min(pause, timeout - waited))
            elapsed = before + time.monotonic() - begun
            status = await self._look(request_id, elapsed)
            reaction = self.on_status(status)
            if reaction is not None:
                await reaction
            if status.state != "pending":
                return status
            looks.append(Look(elapsed, status.progress))

    async def _look(self, request_id: str, elapsed: float) -> VideoStatus:
        try:
            return await self.client.get(request_id)
        except RequestRejected as error:
            if error.http_status == 404 and elapsed < FRESH_SECONDS:
                return VideoStatus(request_id=request_id, state="pending")
            if error.http_status == 404 and elapsed > AGED_SECONDS:
                return VideoStatus(request_id=request_id, state="expired", code=error.code)
            raise

    async def _fetch_and_store(self, held: Held) -> Held:
        key = held.receipt.key
        request_id = held.receipt.request_id or ""
        with _with_request_id(request_id, held.receipt), self.store.workspace(key) as path:
            held, download = await self._download(held, path)
            file = await self.store.put_video(key, path, download, request_id)
        return await self._change(held, lambda receipt: _stored(receipt, request_id, file))

    async def _download(self, held: Held, path: Path) -> tuple[Held, Download]:
        """Fetch the video; a URL that has expired is asked for again, once."""
        if held.receipt.url is not None:
            try:
                return held, await self.client.download(held.receipt.url, path)
            except DownloadError as error:
                if error.http_status not in EXPIRED_STATUSES:
                    raise
        status = await self._look(held.receipt.request_id or "", _age(held.receipt))
        if status.state != "pending":
            held = await self._change(held, lambda receipt: _answered(receipt, status))
        _usable(held.receipt)
        if status.url is None:
            raise DownloadError("xAI says that the video is done, but gives no URL.")
        return held, await self.client.download(status.url.get_secret_value(), path)

    async def _read(self, key: str) -> Held:
        held = await self.store.read(check_key(key))
        if held is None:
            raise StorageError(f"There is no receipt {self.store.receipt_uri(key)}: start the video first.")
        return held

    async def _change(self, held: Held, change: Callable[[Receipt], Receipt]) -> Held:
        """Replace the receipt by a changed one; where somebody was faster, change what they wrote."""
        while True:
            changed = change(held.receipt)
            if changed is held.receipt:
                return held
            try:
                held = await self.store.replace(held, changed)
            except Overtaken:
                held = await self._read(held.receipt.key)
            else:
                self.on_change(changed)
                return held


def _age(receipt: Receipt) -> float:
    """Seconds since the current attempt was claimed; none where the clock of who claimed it is ahead."""
    return max((datetime.now(UTC) - receipt.attempt.started_at).total_seconds(), 0)


def _usable(receipt: Receipt) -> Receipt:
    """Hand on a receipt that is, or will be, a video.

    Raises:
        XaiVideoError: What its state stands for, if there will be none.
    """
    match receipt.state:
        case "submitted" | "done" | "stored":
            return receipt
        case "sending" | "refused":
            raise StorageError(f"The receipt is {receipt.state}: start the video first.")
        case _:
            raise _ended(receipt)


def _ended(receipt: Receipt) -> XaiVideoError:
    return _unknown(receipt) if receipt.state == "unknown" else receipt.error()


def _answered(receipt: Receipt, status: VideoStatus) -> Receipt:
    """Note a final answer, unless somebody else has noted one for the same request."""
    moved_on = receipt.state == "stored" or receipt.state in ENDED_BADLY
    if moved_on or receipt.request_id != status.request_id:
        return receipt
    return receipt.answered(status)


def _stored(receipt: Receipt, request_id: str, file: StoredFile) -> Receipt:
    """Note the file of a request, unless somebody else has, or has begun another attempt."""
    if receipt.request_id != request_id:
        raise StorageError("Another attempt for this key has begun meanwhile.")
    return receipt if receipt.state == "stored" else receipt.stored(file)


def _check_flags(regenerate: object, on_unknown: object) -> None:
    """Flags that cost money are taken at their word only."""
    if not isinstance(regenerate, bool):
        raise InvalidRequest(f"regenerate: {regenerate!r} is not allowed; allowed: True, False.")
    if on_unknown not in {"raise", "resubmit"}:
        raise InvalidRequest(f"on_unknown: {on_unknown!r} is not allowed; allowed: 'raise', 'resubmit'.")


def _may_be_replaced(receipt: Receipt, regenerate: bool) -> bool:
    """Whether another request may have the key: nothing was ever accepted under it, or a person says so."""
    return not receipt.maybe_paid or (regenerate and receipt.state in ENDED_BADLY)


def _had_its_go(receipt: Receipt, flow_run_id: str | None) -> bool:
    """Whether this flow run has already paid for a new attempt: its retries must not pay again and again."""
    again = receipt.attempt.reason in {"regenerate", "resubmit"}
    return again and flow_run_id is not None and receipt.flow_run_id == flow_run_id


def _conflict(receipt: Receipt) -> KeyConflict:
    return KeyConflict(
        f"The key already belongs to another request ({receipt.mode}, {receipt.model}, {receipt.state}, "
        f"{receipt.attempts[0].started_at:%Y-%m-%d %H:%M} UTC). Nothing was sent: use another key.",
        key=receipt.key,
    )


def _unknown(receipt: Receipt) -> SubmissionUnknown:
    failure = receipt.attempt.failure
    why = failure.message if failure else "Its reply was lost."
    return SubmissionUnknown(
        f"{why} Submitted at {receipt.attempt.started_at:%Y-%m-%d %H:%M:%S} UTC; it is not sent again by itself. "
        f'Look at the xAI console: if it is not there, run again with the same key and on_unknown="resubmit", '
        f"otherwise give the key up.",
        key=receipt.key,
        http_status=failure.http_status if failure else None,
    )


@contextmanager
def _with_key(key: str) -> Iterator[None]:
    """Have every error of a block carry the key."""
    try:
        yield
    except XaiVideoError as error:
        error.key = error.key or key
        raise


@contextmanager
def _with_request_id(request_id: str, receipt: Receipt | None = None) -> Iterator[None]:
    """Have every error of a block that comes after a submission carry its request id, and its cost if known."""
    try:
        yield
    except XaiVideoError as error:
        error.request_id = error.request_id or request_id
        if receipt is not None and error.cost_usd is None:
            error.cost_usd = receipt.cost_usd
        raise
