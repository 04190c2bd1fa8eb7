"""The engine: start, wait, save. Async; it knows no Prefect.

Each step begins by reading the receipt and does only what is still to be done, so any step may be repeated, by
anybody, after any interruption. Only `submission.py` sends a POST.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from prefect_xai_video.accounts import account_of, check_owner
from prefect_xai_video.client import XaiVideoClient
from prefect_xai_video.errors import (
    InvalidRequest,
    KeyConflict,
    RequestRejected,
    StorageError,
    SubmissionUnknown,
    VideoTimeout,
    XaiVideoError,
)
from prefect_xai_video.inquiry import Inquiry, age_of
from prefect_xai_video.journal import (
    MOST_OVERTAKEN,
    OVERTAKEN_WAIT_SECONDS,
    Journal,
    with_key,
    with_request_id,
)
from prefect_xai_video.polling import Look, PollSchedule, next_wait
from prefect_xai_video.receipts import Receipt, Video, check_key
from prefect_xai_video.requests import VideoRequest
from prefect_xai_video.responses import VideoStatus
from prefect_xai_video.saving import Saving
from prefect_xai_video.stores import UPLOAD_SECONDS, Held, Overtaken, VideoStore
from prefect_xai_video.submission import (
    Delivery,
    OnAccepted,
    OnUnknown,
    Permit,
    Submission,
    log_accepted,
)

MAX_NOT_FOUND = 3
"""Polls in a row that may find a request id unknown before a run ends with that."""


def _ignore(_: object) -> None:
    return None


class Unlimited:
    """The permit of whoever has no limits."""

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
        schedule: When to poll.
        on_change: Called with the receipt after each change of its state.
        on_status: Called with each status.
        on_accepted: Called with key, request id and trace id the moment xAI has accepted a request.
        permit: Asked before and after each claim; it waits, or raises.
    """

    client: XaiVideoClient
    store: VideoStore
    schedule: PollSchedule = field(default_factory=PollSchedule)
    on_change: Callable[[Receipt], object] = _ignore
    on_status: Callable[[VideoStatus], Awaitable[object] | None] = _ignore
    on_accepted: OnAccepted = log_accepted
    permit: Permit = field(default_factory=Unlimited)

    @property
    def _journal(self) -> Journal:
        return Journal(self.store, self.on_change)

    @property
    def _inquiry(self) -> Inquiry:
        return Inquiry(self.client, self._journal)

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
                self.client,
                self._journal,
                request,
                key,
                flow_run_id,
                regenerate,
                on_unknown,
                delivery,
                self.permit,
                self.on_accepted,
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
            held = await self._read_own(key)
            # A key that has the request already is asked for only if it had expired.
            if held is None or held.receipt.request_id != request_id:
                await self.client.get(request_id)
            for _ in range(MOST_OVERTAKEN):
                try:
                    held = await self._adopt(request_id, key, flow_run_id)
                    return (await self._inquiry.reconsider(held, give_up=False)).receipt
                except Overtaken:
                    await asyncio.sleep(OVERTAKEN_WAIT_SECONDS)
        raise StorageError(f"The receipt {self.store.receipt_uri(key)} can neither be read nor be created.", key=key)

    async def _adopt(self, request_id: str, key: str, flow_run_id: str | None) -> Held:
        held = await self._journal.read_settled(key)
        if held is None:
            account = await account_of(self.client, with_team=False)
            return await self._journal.create(
                Receipt.adopt(key, request_id, flow_run_id, api=account.api, team=account.team)
            )
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
            held = await self._read_settled(check_key(key))
            deadline = time.monotonic() + timeout
            if held.receipt.state == "unknown" and held.receipt.undelivered:
                held = await self._watch(held, deadline)
            held = await self._inquiry.reconsider(held, give_up=False)
            # After a bad end, an earlier request that was accepted after all is the current one again.
            while held.receipt.state == "submitted":
                held = await self._wait_for_status(held, deadline, timeout)
            return _usable(held.receipt)

    async def _read_own(self, key: str) -> Held | None:
        """Read a receipt, if there is one, that belongs to the account of this client."""
        held = await self.store.read(key)
        if held is not None:
            check_owner(held.receipt, await account_of(self.client, with_team=False))
        return held

    async def _read_settled(self, key: str) -> Held:
        held = await self._journal.read_settled(key) or await self._journal.read(key)
        check_owner(held.receipt, await account_of(self.client, with_team=False))
        return held

    async def _wait_for_status(self, held: Held, deadline: float, timeout: float) -> Held:
        with with_request_id(held.receipt.request_id):
            try:
                # The deadline holds for polls that are repeated, too; the last one is given its time.
                async with asyncio.timeout(deadline - time.monotonic() + self.client.timeouts.get):
                    status = await self._poll(held.receipt, deadline)
            except TimeoutError:
                raise VideoTimeout(
                    f"The video was not done within {timeout:g} s. The same key goes on waiting, without paying."
                ) from None
            except RequestRejected as error:
                await self._inquiry.note_not_found(held, error)
                raise
            return await self._inquiry.note(held, status)

    async def _poll(self, receipt: Receipt, deadline: float) -> VideoStatus:
        """Poll until there is a final status.

        Args:
            receipt: A submitted receipt.
            deadline: Monotonic time after which no new poll is begun.

        Raises:
            TimeoutError: If there is none by the deadline.
        """
        begun, before = time.monotonic(), age_of(receipt)
        looks: list[Look] = []
        not_found = 0
        while (now := time.monotonic()) < deadline:
            pause = next_wait(self.schedule, looks, before + now - begun)
            await asyncio.sleep(min(pause, deadline - now))
            elapsed = before + time.monotonic() - begun
            try:
                status = await self._inquiry.status(receipt)
            except RequestRejected as error:
                not_found += 1
                if error.http_status != 404 or not_found >= MAX_NOT_FOUND:
                    raise
                status = VideoStatus(request_id=receipt.request_id or "", state="pending")
            else:
                not_found = 0
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
            age = age_of(held.receipt)
            if held.receipt.state != "unknown" or age > UPLOAD_SECONDS or time.monotonic() >= deadline:
                break
            pause = next_wait(self.schedule, [Look(age)], age)
            await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
            held = await self._journal.read(held.receipt.key)
        if held.receipt.state == "unknown":
            raise _unknown(held.receipt)
        return held

    async def save(self, key: str) -> Video:
        """Put the video of a done key in its place, or back there where it is missing.

        Raises:
            DownloadError: If it could not be fetched whole.
            StorageError: If it could not be stored, or is gone from the store and from xAI.
            GenerationError: If xAI no longer has it.
        """
        with with_key(check_key(key)):
            held = await self._journal.read(key)
            with with_request_id(held.receipt.request_id, held.receipt):
                check_owner(held.receipt, await account_of(self.client, with_team=False))
                held = await self._inquiry.reconsider(held, give_up=False)
                if _usable(held.receipt).state in {"submitted", "unknown"}:
                    raise StorageError("The video is not done yet: wait for it first.")
                held = await Saving(self._inquiry, self._journal).save(held)
                return held.receipt.video(self.store.receipt_uri(key))


def _usable(receipt: Receipt) -> Receipt:
    """Hand on a receipt that is, or may become, a video.

    Raises:
        XaiVideoError: What its state stands for, if there will be none.
    """
    match receipt.state:
        case "submitted" | "done" | "stored":
            return receipt
        case "unknown" if receipt.undelivered and age_of(receipt) <= UPLOAD_SECONDS:
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


def _unknown(receipt: Receipt) -> XaiVideoError:
    failure = receipt.attempt.failure
    why = failure.message if failure else "Its reply was lost."
    return SubmissionUnknown(
        f"{why} Submitted at {receipt.attempt.started_at:%Y-%m-%d %H:%M:%S} UTC; it is not sent again by itself. "
        f"Look at the xAI console: if it is there, adopt its request id into this key; if not, run again with the "
        f'same key and on_unknown="resubmit".',
        key=receipt.key,
        http_status=failure.http_status if failure else None,
        trace_id=receipt.attempt.trace_id,
        answer=receipt.attempt.answer,
    )
