"""The engine's three steps (start, wait, save) and adopting a request id. Async, and independent of Prefect.

Each step first reads the receipt and does only the remaining work. Any run may therefore repeat any step after any
interruption. Only `submission.py` leads to a POST.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from typing_extensions import Unpack

from prefect_xai_video.api.client import XaiVideoClient
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.responses import VideoStatus, is_request_id
from prefect_xai_video.engine.accounts import account_of, check_owner
from prefect_xai_video.engine.handover import Handover
from prefect_xai_video.engine.inquiry import Inquiry, may_still_appear
from prefect_xai_video.engine.journal import (
    Journal,
    with_key,
    with_request_id,
)
from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.options import DeliveryOptions, OnUnknown
from prefect_xai_video.engine.polling import PollSchedule, RenderTimes
from prefect_xai_video.engine.posting import OnAccepted, Permit, log_accepted
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.saving import Saving
from prefect_xai_video.engine.stills import Stills
from prefect_xai_video.engine.stores import Held, VideoStore, WriteConflict
from prefect_xai_video.engine.submission import Submission
from prefect_xai_video.engine.videos import Video
from prefect_xai_video.engine.waiting import Waiting, unknown_error
from prefect_xai_video.errors import (
    ApiError,
    KeyConflict,
    StorageError,
    not_allowed,
    shown,
)


def _ignore(_: object) -> None:
    return None


class Unlimited:
    """A permit without limits."""

    async def acquire(self, request: VideoRequest) -> None:
        """Return at once."""

    async def spend(self, request: VideoRequest) -> None:
        """Do nothing, since there is no budget."""

    async def refund(self, request: VideoRequest) -> None:
        """Do nothing, since there is no budget."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Generates videos under keys, step by step.

    Attributes:
        client: Client of xAI's API.
        store: Store of the videos and their receipts.
        schedule: Bounds of the poll schedule.
        on_change: Called with the receipt after each change of its state.
        on_status: Called with each polled status.
        on_accepted: Called with key, request id and trace id as soon as xAI has accepted a request.
        permit: Permission to submit, requested before each claim and each POST; may wait or raise.
        render_times: Learns from all renders when to poll first; None to always use the schedule's first poll.
    """

    client: XaiVideoClient
    store: VideoStore
    schedule: PollSchedule = field(default_factory=PollSchedule)
    on_change: Callable[[Receipt], object] = _ignore
    on_status: Callable[[VideoStatus], Awaitable[object] | None] = _ignore
    on_accepted: OnAccepted = log_accepted
    permit: Permit = field(default_factory=Unlimited)
    render_times: RenderTimes | None = None

    @property
    def journal(self) -> Journal:
        """The receipts of the store."""
        return Journal(self.store, self.on_change)

    @property
    def _inquiry(self) -> Inquiry:
        return Inquiry(self.client, self.journal)

    @property
    def _waiting(self) -> Waiting:
        return Waiting(self._inquiry, self.schedule, self.render_times, self.on_status)

    async def start(
        self,
        request: VideoRequest,
        key: str,
        *,
        flow_run_id: str | None = None,
        regenerate: bool = False,
        on_unknown: OnUnknown = "raise",
        **options: Unpack[DeliveryOptions],
    ) -> Receipt:
        """Submit a request under a key, unless that has been done.

        Args:
            request: The request, with inputs that xAI can fetch.
            key: The video's name in the store.
            flow_run_id: The flow run that submits it, for the receipt.
            regenerate: Whether to pay for a new attempt if the last one failed, was moderated or expired; only once
                per flow run, so that a retried run does not pay each time.
            on_unknown: `resubmit` sends a request again that may have been accepted; only once per flow run.
            **options: How the video comes to the store.

        Returns:
            The receipt, in state `submitted`, `done` or `stored`; with direct delivery or recovery also `unknown`,
            while the video may still appear.

        Raises:
            KeyConflict: If the key belongs to another request.
            SubmissionUnknown: If a POST may have been accepted, now or earlier.
            GenerationError: If the last attempt ended without a video.
            ApiError: If xAI refused the request.
            InvalidRequest: If the key or a flag is not valid.
            StorageError: If the store can't be used.
        """
        with with_key(check_key(key)):
            submission = Submission(
                self.client,
                self.journal,
                request,
                key,
                flow_run_id,
                regenerate,
                on_unknown,
                Handover(**options),
                self.permit,
                self.on_accepted,
            )
            return _usable(await submission.start())

    async def is_of(self, receipt: Receipt, request: VideoRequest) -> bool:
        """Whether a receipt is of a request and of the account of this engine, without any call to xAI.

        Args:
            receipt: The receipt of a key.
            request: The request, with inputs that xAI can fetch.
        """
        if receipt.fingerprint is not None and not request.has_fingerprint(receipt.fingerprint):
            return False
        try:
            check_owner(receipt, await account_of(self.client, with_team=False))
        except KeyConflict:
            return False
        return True

    async def adopt(self, request_id: str, key: str, *, flow_run_id: str | None = None) -> Receipt:
        """Record a request id from any source under a key. This costs nothing.

        Args:
            request_id: xAI's request id.
            key: Name for its video in the store.
            flow_run_id: The flow run that adopts it, for the receipt.

        Returns:
            The receipt, in state `submitted`, or a later state if the key already has that request.

        Raises:
            KeyConflict: If the key has another request.
            ApiError: If xAI can't be polled, or does not know the request id.
            InvalidRequest: If the key or the request id is not valid.
            StorageError: If the store can't be used.
        """
        request_id = _check_request_id(request_id)
        with with_key(check_key(key)), with_request_id(request_id), _without_payment():
            held = await self._read_own(key)
            # If the key has this request already, `reconsider` polls it, and only if it seems to be lost.
            if held is None or held.receipt.request_id != request_id:
                await self.client.get(request_id)
            held = await self.journal.resolve_conflicts(key, lambda: self._adopt(request_id, key, flow_run_id))
            return (await self._inquiry.reconsider(held, is_explicit=True)).receipt

    async def _adopt(self, request_id: str, key: str, flow_run_id: str | None) -> Held:
        held = await self.journal.read_settled(key)
        if held is None:
            account = await account_of(self.client, with_team=False)
            return await self.journal.create(
                Receipt.adopt(key, request_id, flow_run_id, api=account.api, team=account.team)
            )
        held = await self.journal.find_put(held)
        receipt = held.receipt
        if receipt.request_id == request_id:
            return held
        held = await self._inquiry.find_cancelled(held)
        receipt = held.receipt
        if receipt.request_id is not None and receipt.state in {"submitted", "done", "stored"}:
            raise KeyConflict(
                f"The key already has another request: {receipt.request_id} is {receipt.state}. Nothing was changed. "
                f"Use another key."
            )
        return await self.journal.replace(held, receipt.adopted(request_id, flow_run_id))

    async def wait(self, key: str, *, timeout: float) -> Receipt:
        """Wait until the video of a submitted key is done.

        Args:
            key: The video's name in the store.
            timeout: Longest wait in seconds, by a monotonic clock. The last poll may take its own time-out longer.

        Returns:
            The receipt, in state `done` or `stored`.

        Raises:
            VideoTimeout: If the video was not done in time.
            SubmissionUnknown: If no video of a submission of unknown outcome was delivered.
            GenerationError: If the request ended without a video.
            ApiError: If xAI can't be polled.
        """
        with with_key(key):
            held = await self._read_settled(check_key(key))
            deadline = time.monotonic() + timeout
            if held.receipt.state == "unknown" and held.receipt.undelivered:
                held = await self._waiting.for_delivery(held, deadline)
            held = await self._inquiry.reconsider(held)
            # If this attempt ends without a video, an earlier one that was accepted after all can become current.
            while held.receipt.state == "submitted":
                held = await self._waiting.for_status(held, deadline, timeout)
            return _usable(held.receipt)

    async def _read_own(self, key: str) -> Held | None:
        """Read a receipt, if there is one, and check that it belongs to the account of this client."""
        held = await self.store.read(key)
        if held is not None:
            check_owner(held.receipt, await account_of(self.client, with_team=False))
        return held

    async def _read_settled(self, key: str) -> Held:
        held = await self.journal.read_settled(key) or await self.journal.read(key)
        check_owner(held.receipt, await account_of(self.client, with_team=False))
        return held

    async def save(self, key: str) -> Video:
        """Store the video of a done key; as `save_receipt`, for callers that need only the video."""
        return (await self.save_receipt(key)).video(self.store.receipt_uri(key))

    async def save_receipt(self, key: str, *, stills: bool = False) -> Receipt:
        """Store the video of a done key, or restore it if it is missing.

        Args:
            key: The video's name in the store.
            stills: Whether to store its first and last frame, too.

        Returns:
            The receipt, in state `stored`.

        Raises:
            DownloadError: If the video could not be downloaded completely.
            StorageError: If it could not be stored, or is missing from the store and from xAI.
            GenerationError: If xAI no longer has it.
        """
        with with_key(check_key(key)):
            held = await self.journal.read(key)
            with with_request_id(held.receipt.request_id, held.receipt):
                check_owner(held.receipt, await account_of(self.client, with_team=False))
                held = await self._inquiry.reconsider(held)
                if _usable(held.receipt).state in {"submitted", "unknown"}:
                    raise StorageError("The video is not done yet: wait for it first.")
                receipt = (await Saving(self._inquiry, self.journal).save(held)).receipt
                return await Stills(self.journal).store(receipt) if stills else receipt

    async def look(self, key: str) -> Receipt:
        """Find out whether an open key needs another submission, without waiting for its video or storing it.

        A claim of another run is waited for, as by `start`.

        Args:
            key: The video's name in the store.

        Returns:
            The receipt; in state `refused` if xAI's batch does not have the request, or was cancelled before it was
            rendered.

        Raises:
            SubmissionUnknown: If xAI no longer has the batch that would tell.
            KeyConflict: If the key belongs to another account.
            ApiError: If xAI can't be asked.
            StorageError: If the store can't be used.
        """

        async def read_and_look() -> Held:
            held = await self._read_settled(key)
            return await self._inquiry.find_cancelled(await self._inquiry.find_video(held))

        with with_key(key):
            return (await self.journal.resolve_conflicts(key, read_and_look)).receipt

    async def collect(self, key: str, *, stills: bool = False) -> Receipt:
        """Take an open key one step further, without waiting and without paying: poll once, and store what is done.

        Args:
            key: The video's name in the store.
            stills: Whether to store the first and the last frame of the video, too.

        Returns:
            The receipt, in state `stored`, or `submitted` or `unknown` if the video is not there yet, or `refused`
            if xAI's batch does not have the request, or was cancelled before it was rendered.

        Raises:
            GenerationError: If there will be no video.
            ApiError: If xAI can't be polled.
            DownloadError: If the video could not be downloaded completely.
            StorageError: If the store can't be used.
        """
        with with_key(check_key(key)):
            held = await self._read_settled(key)
            with suppress(WriteConflict):
                held = await self._inquiry.find_video(held)
            if held.receipt.state == "unknown":
                return held.receipt
            with with_request_id(held.receipt.request_id, held.receipt):
                held = await self._inquiry.reconsider(held)
                if held.receipt.state == "submitted":
                    held = await self._inquiry.poll(held)
            if held.receipt.state == "refused":
                return held.receipt
            receipt = _usable(held.receipt)
            return receipt if receipt.state == "submitted" else await self.save_receipt(key, stills=stills)


@contextmanager
def _without_payment() -> Iterator[None]:
    """Mark the errors of a `with` block in which nothing can be paid."""
    try:
        yield
    except (ApiError, KeyConflict) as error:
        error.is_free = True
        raise


def _usable(receipt: Receipt) -> Receipt:
    """Return a receipt that has, or may still get, a video.

    Raises:
        XaiVideoError: If it will not get one; the error depends on its state.
    """
    match receipt.state:
        case "submitted" | "done" | "stored":
            return receipt
        case "unknown" if may_still_appear(receipt):
            return receipt
        case "unknown":
            raise unknown_error(receipt)
        case "sending":
            raise StorageError(
                "Another run is submitting the request for this key. Try again in two minutes.", maybe_paid=True
            )
        case "refused":
            reason = f" {receipt.failure.message}" if receipt.failure else ""
            raise StorageError(
                f"The request of this key was refused and has no video: start it again with the same key.{reason}",
                request_id=receipt.request_id,
            )
        case _:
            raise receipt.error()


def _check_request_id(request_id: object) -> str:
    text = request_id.strip() if isinstance(request_id, str) else ""
    if not is_request_id(text):
        raise not_allowed("request_id", shown(request_id), "the request id that xAI returned")
    return text
