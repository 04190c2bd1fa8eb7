"""The engine: start, wait, save. Async; it knows no Prefect.

Each step begins by reading the receipt and does only what is still to be done, so any step may be repeated, by
anybody, after any interruption. What sends a POST is in `submission.py`.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from prefect_xai_video.client import XaiVideoClient
from prefect_xai_video.download import Download
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
from prefect_xai_video.journal import (
    MOST_OVERTAKEN,
    OVERTAKEN_WAIT_SECONDS,
    Journal,
    with_key,
    with_request_id,
)
from prefect_xai_video.polling import Look, PollSchedule, next_wait
from prefect_xai_video.receipts import ENDED_BADLY, Receipt, StoredFile, Video, check_key
from prefect_xai_video.requests import VideoRequest
from prefect_xai_video.responses import VideoStatus
from prefect_xai_video.stores import UPLOAD_SECONDS, Held, Overtaken, VideoStore
from prefect_xai_video.submission import Delivery, OnUnknown, Permit, Submission

FRESH_SECONDS = 60
"""A request id that xAI does not know is given this long to become known."""

AGED_SECONDS = 24 * 3600
"""A request id that xAI does not know any more after this has expired: the longest lifetime told of a video. Before,
it may be another team's key or base URL that does not know it."""


def _ignore(_: object) -> None:
    return None


class Unlimited:
    """Permission that is always given, without a budget."""

    async def turn(self, request: VideoRequest) -> None:
        """Go on at once."""

    async def spend(self, request: VideoRequest) -> None:
        """Take nothing."""

    async def refund(self, request: VideoRequest) -> None:
        """Give nothing back."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that one video needs.

    Attributes:
        client: The API.
        store: Where the video and its receipt go.
        schedule: When to look.
        on_change: Called with the receipt after each change of its state.
        on_status: Called with each answer of `get`.
        permit: Permission for each submission; may wait or raise.
    """

    client: XaiVideoClient
    store: VideoStore
    schedule: PollSchedule = field(default_factory=PollSchedule)
    on_change: Callable[[Receipt], object] = _ignore
    on_status: Callable[[VideoStatus], Awaitable[object] | None] = _ignore
    permit: Permit = field(default_factory=Unlimited)

    @property
    def _journal(self) -> Journal:
        return Journal(self.store, self.on_change)

    async def start(
        self,
        request: VideoRequest,
        key: str,
        *,
        flow_run_id: str | None = None,
        regenerate: bool = False,
        on_unknown: OnUnknown = "raise",
        delivery: Delivery = "download",
    ) -> Receipt:
        """Have a request submitted under a key, if it is not yet.

        Args:
            request: What is asked for, with inputs that the service can fetch.
            key: The video's name in the store.
            flow_run_id: Who asks, for the receipt.
            regenerate: Pay for a new attempt where the last one failed, was moderated or expired; once a flow
                run, so that a retried run does not pay each time.
            on_unknown: `resubmit` sends again what may have been accepted, once a flow run.
            delivery: `direct` has xAI put the video into the store, which must be a bucket that it can reach.

        Returns:
            The receipt, in state `submitted`, `done` or `stored`; with direct delivery also `unknown`, while the
            video may still appear.

        Raises:
            KeyConflict: If the key belongs to another request.
            SubmissionUnknown: If a POST may have been accepted, now or earlier.
            GenerationError: If the last attempt brought no video.
            ApiError: If xAI refused.
            InvalidRequest: If the key can't be one, or a flag is not allowed.
            StorageError: If the store can't be used.
        """
        with with_key(check_key(key)):
            submission = Submission(
                self.client, self._journal, request, key, flow_run_id, regenerate, on_unknown, delivery, self.permit
            )
            return _usable(await submission.start())

    async def adopt(self, request_id: str, key: str, *, flow_run_id: str | None = None) -> Receipt:
        """Note a request id under a key, wherever it comes from. It costs nothing.

        Args:
            request_id: xAI's request id.
            key: The name that its video is to have in the store.
            flow_run_id: Who asks, for the receipt.

        Returns:
            The receipt, in state `submitted`, or further if the key has that request already.

        Raises:
            KeyConflict: If the key has another request.
            ApiError: If xAI can't be asked, or does not know the request id.
            InvalidRequest: If the key or the request id can't be one.
            StorageError: If the store can't be used.
        """
        request_id = _check_request_id(request_id)
        with with_key(check_key(key)), with_request_id(request_id):
            held = await self.store.read(key)
            # A key that has the request already is not asked for: xAI may have forgotten it since.
            if held is None or held.receipt.request_id != request_id:
                await self.client.get(request_id)
            for _ in range(MOST_OVERTAKEN):
                try:
                    return (await self._adopt(request_id, key, flow_run_id)).receipt
                except Overtaken:
                    await asyncio.sleep(OVERTAKEN_WAIT_SECONDS)
        raise StorageError(f"The receipt {self.store.receipt_uri(key)} can neither be read nor be created.", key=key)

    async def _adopt(self, request_id: str, key: str, flow_run_id: str | None) -> Held:
        held = await self._journal.read_settled(key)
        if held is None:
            return await self._journal.create(Receipt.adopt(key, request_id, flow_run_id))
        receipt = held.receipt
        if receipt.request_id == request_id:
            return held
        if receipt.request_id is None and receipt.state in {"done", "stored"}:
            return await self._journal.replace(held, receipt.late_reply(receipt.attempt.claim, request_id))
        if receipt.state in {"submitted", "done", "stored"}:
            raise KeyConflict(
                f"The key has another request already: {receipt.request_id} is {receipt.state}. Nothing was changed: "
                f"use another key."
            )
        return await self._journal.replace(held, receipt.adopted(request_id, flow_run_id))

    async def wait(self, key: str, *, timeout: float) -> Receipt:
        """Wait until the video of a submitted key is done.

        Args:
            key: The video's name in the store.
            timeout: Seconds to wait at most, and to answer the last poll. It runs on a monotonic clock.

        Returns:
            The receipt, in state `done` or `stored`.

        Raises:
            VideoTimeout: If it was not done in time.
            SubmissionUnknown: If a submission of unknown outcome has delivered nothing.
            GenerationError: If there will be no video.
            ApiError: If xAI can't be asked.
        """
        with with_key(key):
            held = await self._journal.read_settled(check_key(key)) or await self._journal.read(key)
            deadline = time.monotonic() + timeout
            if held.receipt.state == "unknown" and held.receipt.undelivered:
                held = await self._watch(held, deadline)
            # After a bad end, an earlier request that was accepted after all is the current one again.
            while held.receipt.state == "submitted":
                held = await self._wait_for_answer(held, deadline, timeout)
            return _usable(held.receipt)

    async def _wait_for_answer(self, held: Held, deadline: float, timeout: float) -> Held:
        request_id = held.receipt.request_id or ""
        with with_request_id(request_id):
            try:
                # The deadline holds for polls that are repeated, too; the last one is given its time.
                async with asyncio.timeout(deadline - time.monotonic() + self.client.timeouts.get):
                    status = await self._poll(request_id, _age(held.receipt), deadline)
            except TimeoutError:
                raise VideoTimeout(
                    f"The video was not done within {timeout:g} s. The same key goes on waiting, without paying."
                ) from None
            return await self._journal.change(held, lambda receipt: _answered(receipt, status))

    async def _poll(self, request_id: str, before: float, deadline: float) -> VideoStatus:
        """Ask until there is a final answer.

        Args:
            request_id: What to ask for.
            before: Seconds that have passed since the submission.
            deadline: Monotonic time after which no new poll is begun.

        Raises:
            TimeoutError: If there is none by the deadline.
        """
        begun = time.monotonic()
        looks: list[Look] = []
        while (now := time.monotonic()) < deadline:
            pause = next_wait(self.schedule, looks, before + now - begun)
            await asyncio.sleep(min(pause, deadline - now))
            elapsed = before + time.monotonic() - begun
            status = await self._look(request_id, elapsed)
            reaction = self.on_status(status)
            if reaction is not None:
                await reaction
            if status.state != "pending":
                return status
            looks.append(Look(elapsed, status.progress))
        raise TimeoutError

    async def _watch(self, held: Held, deadline: float) -> Held:
        """Look into the store for the video of a submission of unknown outcome, as long as it may appear."""
        while held.receipt.state == "unknown":
            with suppress(Overtaken):
                held = await self._journal.find_delivery(held)
            age = _age(held.receipt)
            if held.receipt.state != "unknown" or age > UPLOAD_SECONDS or time.monotonic() >= deadline:
                break
            pause = next_wait(self.schedule, [Look(age)], age)
            await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
            held = await self._journal.read(held.receipt.key)
        if held.receipt.state == "unknown":
            raise _unknown(held.receipt)
        return held

    async def _look(self, request_id: str, elapsed: float) -> VideoStatus:
        try:
            return await self.client.get(request_id)
        except RequestRejected as error:
            if error.http_status == 404 and elapsed < FRESH_SECONDS:
                return VideoStatus(request_id=request_id, state="pending")
            if error.http_status == 404 and elapsed > AGED_SECONDS:
                return VideoStatus(request_id=request_id, state="expired", code=error.code)
            raise

    async def save(self, key: str) -> Video:
        """Put the video of a done key in its place.

        Raises:
            DownloadError: If it could not be fetched whole.
            StorageError: If it could not be stored, or is no longer where the receipt says.
            GenerationError: If xAI no longer has it.
        """
        with with_key(key):
            held = await self._journal.read(key)
            receipt = _usable(held.receipt)
            with with_request_id(receipt.request_id, receipt):
                if receipt.state in {"submitted", "unknown"}:
                    raise StorageError("The video is not done yet: wait for it first.")
                if receipt.state == "stored" and receipt.file is not None:
                    await self.store.check_video(key, receipt.file)
                else:
                    held = await self._store(held)
                return held.receipt.video(self.store.receipt_uri(key))

    async def _store(self, held: Held) -> Held:
        key, attempt, file = held.receipt.key, held.receipt.attempt, held.receipt.file
        if file is not None and await self.store.has_video(key, file):
            return await self._note_stored(held, file)
        for claim in _delivery_claims(held.receipt):
            file = await self.store.take_delivery(key, claim, attempt.request_id)
            if file is not None:
                held = await self._note_stored(held, file)
                await self.store.drop_delivery(key, claim)
                return held
        if attempt.direct:
            # Somebody else may have stored it meanwhile.
            held = await self._journal.read(key)
        return held if held.receipt.state == "stored" else await self._fetch_and_store(held)

    async def _fetch_and_store(self, held: Held) -> Held:
        key, claim = held.receipt.key, held.receipt.attempt.claim
        with self.store.workspace(key) as path:
            held, download = await self._download(held, path)
            file = self.store.file(key, download)
            # A download takes its time: what somebody else has stored since is not touched.
            for _ in range(MOST_OVERTAKEN):
                held = await self._journal.change(held, lambda receipt: _saving(receipt, claim, file))
                if held.receipt.state == "stored":
                    return held
                with suppress(Overtaken):
                    await self.store.put_video(held, path, file)
                    return await self._note_stored(held, file)
                held = await self._journal.read(key)
        raise StorageError(f"The receipt {self.store.receipt_uri(key)} changes all the time.")

    async def _note_stored(self, held: Held, file: StoredFile) -> Held:
        claim = held.receipt.attempt.claim

        def stored(receipt: Receipt) -> Receipt:
            receipt = _saving(receipt, claim, file)
            return receipt if receipt.state == "stored" else receipt.stored(file)

        return await self._journal.change(held, stored)

    async def _download(self, held: Held, path: Path) -> tuple[Held, Download]:
        """Fetch the video; a URL that gives none any more is asked for again, once."""
        if held.receipt.url is not None:
            try:
                return held, await self.client.download(held.receipt.url, path)
            except DownloadError as error:
                if error.transient:
                    raise
        if held.receipt.request_id is None:
            raise DownloadError(
                "The video that xAI had delivered is gone, and its request id is not known.", transient=False
            )
        status = await self._look(held.receipt.request_id, _age(held.receipt))
        if status.state != "pending":
            held = await self._journal.change(held, lambda receipt: _answered(receipt, status))
        if _usable(held.receipt).state == "submitted":
            raise StorageError("The video is not done yet: wait for it first.")
        url = status.url.get_secret_value() if status.url else None
        if url is None:
            raise DownloadError("xAI says that the video is done, but gives no URL.")
        if any(self.store.is_upload_url(url, held.receipt.key, claim) for claim in _delivery_claims(held.receipt)):
            raise DownloadError("xAI says that it has delivered the video, but it is not there.")
        return held, await self.client.download(url, path)


def _age(receipt: Receipt) -> float:
    """Seconds since the current attempt was claimed; none where the clock of who claimed it is ahead."""
    return max((datetime.now(UTC) - receipt.attempt.started_at).total_seconds(), 0)


def _usable(receipt: Receipt) -> Receipt:
    """Hand on a receipt that is, or may become, a video.

    Raises:
        XaiVideoError: What its state stands for, if there will be none.
    """
    match receipt.state:
        case "submitted" | "done" | "stored":
            return receipt
        case "unknown" if receipt.undelivered and _age(receipt) <= UPLOAD_SECONDS:
            return receipt
        case "unknown":
            raise _unknown(receipt)
        case "sending":
            raise StorageError("Another run is about to send the request of this key.", maybe_paid=True)
        case "refused":
            raise StorageError("The receipt is refused: start the video first.")
        case _:
            raise receipt.error()


def _check_request_id(request_id: object) -> str:
    text = request_id.strip() if isinstance(request_id, str) else ""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._:-]{0,199}", text):
        shown = repr(request_id)
        raise InvalidRequest(f"request_id: {shown[:60]} is not allowed; allowed: the id that xAI gave.")
    return text


def _delivery_claims(receipt: Receipt) -> list[str]:
    """Where the video of the current request may have been delivered to.

    An id that was adopted may be that of any submission of unknown outcome.
    """
    claims = [attempt.claim for attempt in receipt.undelivered]
    return [receipt.attempt.claim, *claims] if receipt.attempt.direct else claims


def _answered(receipt: Receipt, status: VideoStatus) -> Receipt:
    """Note a final answer, unless somebody else has noted one for the same request."""
    moved_on = receipt.state == "stored" or receipt.state in ENDED_BADLY
    if moved_on or receipt.request_id != status.request_id:
        return receipt
    return receipt.answered(status)


def _saving(receipt: Receipt, claim: str, file: StoredFile) -> Receipt:
    """Note the file that is to be put, unless somebody else has stored one already."""
    if receipt.attempt.claim != claim:
        raise StorageError("Another attempt for this key has begun meanwhile.")
    if receipt.state == "stored":
        return receipt
    if receipt.state not in {"done", "expired"}:
        raise receipt.error()
    return receipt.saving(file)


def _unknown(receipt: Receipt) -> XaiVideoError:
    failure = receipt.attempt.failure
    why = failure.message if failure else "Its reply was lost."
    return SubmissionUnknown(
        f"{why} Submitted at {receipt.attempt.started_at:%Y-%m-%d %H:%M:%S} UTC; it is not sent again by itself. "
        f"Look at the xAI console: if it is there, adopt its request id into this key; if not, run again with the "
        f'same key and on_unknown="resubmit".',
        key=receipt.key,
        http_status=failure.http_status if failure else None,
    )
