"""Inquiry: polls xAI for the status of a receipt's request, and records it."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import SecretStr

from prefect_xai_video.api.client import XaiVideoClient
from prefect_xai_video.api.files import RemoteFile
from prefect_xai_video.api.pace import Urgency
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine.accounts import account_of, check_owner, is_same
from prefect_xai_video.engine.attempts import ENDED_BADLY, Attempt, XaiFile
from prefect_xai_video.engine.batch_inquiry import BatchInquiry
from prefect_xai_video.engine.journal import Journal, with_request_id
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import UPLOAD_SECONDS, Held
from prefect_xai_video.errors import AccessDenied, ApiError, RequestRejected, SubmissionUnknown

logger = logging.getLogger(__name__)

FRESH_SECONDS = 60
"""Age in seconds up to which a request id that xAI does not know counts as pending: it may become known."""

AGED_SECONDS = 24 * 3600
"""Age in seconds above which a request id that xAI does not know counts as expired.

It is the longest published lifetime of a video.
"""


BATCH_SECONDS = 30 * 24 * 3600
"""Age in seconds up to which a request may still be found in its batch: xAI keeps batches for weeks."""

_NEVER_ADDED = RequestRejected("xAI's batch does not contain the request, and nothing can be added to it any more.")

_BATCH_GONE = (
    "xAI no longer has the batch {}, so nobody can tell whether it contained the request. If another team or another "
    "base URL has it, use those credentials. Otherwise look for the video in xAI's console; if it is not there, run "
    "again with the same key and on_unknown set to resubmit."
)

FILE_SECONDS = 24 * 3600
"""Age in seconds up to which a submission of unknown outcome may still become a file in xAI's Files API.

xAI renders within minutes, and everything else within a day, by what is published.
"""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Polls xAI for the request of a receipt, at no cost.

    Attributes:
        client: Client of xAI's API.
        journal: Reads and updates the receipts.
    """

    client: XaiVideoClient
    journal: Journal

    @property
    def _batches(self) -> BatchInquiry:
        return BatchInquiry(self.client)

    async def status(
        self,
        receipt: Receipt,
        urgency: Urgency = Urgency.LIKELY_DONE,
        failed_url: SecretStr | None = None,
    ) -> VideoStatus:
        """Poll the current request of a receipt once.

        A request that xAI no longer has counts as done if its video is a file in xAI's Files API.

        Args:
            receipt: A receipt with a request id.
            urgency: Decides, with a pace, which requests go first. Default: as if the video is likely to be done.
            failed_url: URL of the video that works no longer. Default: none.

        Raises:
            RequestRejected: If xAI does not know the request id; it may be another team's, or become known later.
            KeyConflict: If the request certainly belongs to another team.
            ApiError: If xAI can't be polled.
        """
        try:
            status = await self._polled(receipt, urgency, failed_url)
        except RequestRejected as error:
            if error.http_status != 404:
                raise
            if (kept := await self._kept(receipt)) is not None:
                return kept
            return await self._not_found(receipt, error)
        return (await self._kept(receipt) or status) if status.state == "expired" else status

    async def _polled(self, receipt: Receipt, urgency: Urgency, failed_url: SecretStr | None) -> VideoStatus:
        if receipt.xai_batch is not None:
            return await self._batches.status(receipt.attempt, failed_url)
        # xAI may quote the prompt in an error, which is redacted by the prompt in the receipt.
        prompt = receipt.request.get("prompt")
        return await self.client.get(
            receipt.request_id or "", client_request_id=receipt.attempt.claim, prompt=prompt, urgency=urgency
        )

    async def _kept(self, receipt: Receipt) -> VideoStatus | None:
        """Find the video of a request that xAI no longer has in the Files API; None if it is not there."""
        file = await self.find_file(receipt.xai_file)
        if file is None:
            return None
        return VideoStatus(
            request_id=receipt.request_id or "", state="done", file_id=file.id, public_url=file.public_url
        )

    async def _not_found(self, receipt: Receipt, error: RequestRejected) -> VideoStatus:
        """Interpret a 404: a request has expired only if it is older than its lifetime and the account is its own."""
        request_id = receipt.request_id or ""
        if age_of(receipt) < FRESH_SECONDS:
            return VideoStatus(request_id=request_id, state="pending")
        account = await account_of(self.client, with_team=True)
        check_owner(receipt, account)
        # This machine's clock may be wrong, so the age by xAI's clock counts, too, if the response states the time.
        age = min(age_of(receipt), age_of(receipt, error.at or datetime.now(UTC)))
        if age > AGED_SECONDS and is_same(receipt, account):
            return VideoStatus(request_id=request_id, state="expired", code=error.code)
        raise RequestRejected(
            f"xAI does not know this request id ({error.message}). If it was sent by another team or to another base "
            f"URL, use those credentials. If it is lost, run again with the same key and regenerate switched on: "
            f"that polls once more, and pays for a new video only if xAI still does not know the request id.",
            request_id=request_id,
            http_status=404,
            code=error.code,
            trace_id=error.trace_id,
        )

    async def find_video(self, held: Held) -> Held:
        """Look for a submission of unknown outcome, and record it: in the store, the Files API, and xAI's batch.

        A missing file proves nothing: a moderated or failed render, and one that has not ended, have none. What a
        batch lists was accepted, and what it certainly lacks was not.

        Raises:
            WriteConflict: If the receipt has been replaced since it was read.
            SubmissionUnknown: If xAI no longer has the batch that would tell.
            KeyConflict: If xAI does not have it because the key belongs to another team.
            ApiError: If xAI's files can't be listed at the moment, or the API key is wrong.
        """
        held = await self.journal.find_delivery(held)
        lost = (*held.receipt.undelivered, *held.receipt.gone)
        for attempt in lost if held.receipt.has_no_video else ():
            if attempt.xai_batch is not None:
                changed = await self._found_in_batch(held.receipt, attempt)
                if changed is not None:
                    return await self.journal.replace(held, changed)
            file = await self.find_file(attempt.xai_file)
            if file is not None:
                return await self.journal.replace(held, held.receipt.found(attempt.claim, file.id, file.public_url))
        return held

    async def _found_in_batch(self, receipt: Receipt, attempt: Attempt) -> Receipt | None:
        """Record where a request is whose reply was lost; None if that is not certain."""
        match await self._batches.place(attempt):
            case "listed":
                return receipt.late_reply(attempt.claim, attempt.claim)
            case "absent":
                return receipt.late_refusal(attempt.claim, _NEVER_ADDED)
            case "gone" if receipt.attempt.claim == attempt.claim:
                check_owner(receipt, await account_of(self.client, with_team=True))
                raise SubmissionUnknown(_BATCH_GONE.format(attempt.xai_batch))
            case _:
                return None

    async def find_file(self, file: XaiFile | None) -> RemoteFile | None:
        """Find the file of a video in xAI's Files API; None if it is not there, or the files can't be listed.

        Raises:
            ApiError: If the files can't be listed at the moment, or the API key is wrong.
        """
        if file is None:
            return None
        try:
            return await self.client.files.find(file.name)
        except (AccessDenied, RequestRejected) as error:
            # It will not get better, and a person must still be able to decide.
            logger.warning("The files at xAI can't be listed: %s", error)
            return None

    async def poll(self, held: Held) -> Held:
        """Poll once, and record the status of the request.

        Raises:
            RequestRejected: If xAI does not know the request id, which is recorded, too.
            ApiError: If xAI can't be polled.
        """
        try:
            status = await self.status(held.receipt)
        except RequestRejected as error:
            await self.record_not_found(held, error)
            raise
        return await self.record(held, status)

    async def record(self, held: Held, status: VideoStatus) -> Held:
        """Record a status, unless another run has recorded a final one for the same request."""
        return await self.journal.change(held, lambda receipt: _updated(receipt, status))

    async def record_file_gone(self, held: Held) -> Held:
        """Record that the file of a lost submission no longer exists at xAI, so that a person may pay again."""
        claim = held.receipt.attempt.claim
        gone = VideoStatus(request_id="", state="expired", message="its file is no longer in the Files API")

        def expired(receipt: Receipt) -> Receipt:
            is_same = receipt.state == "done" and receipt.attempt.claim == claim
            return receipt.finished(gone) if is_same else receipt

        return await self.journal.change(held, expired)

    async def record_not_found(self, held: Held, error: RequestRejected) -> Held:
        """Record that xAI does not know the open request, so that a person may give it up."""
        if error.http_status != 404:
            return held
        request_id = held.receipt.request_id

        def not_found(receipt: Receipt) -> Receipt:
            is_new = receipt.state == "submitted" and not receipt.is_not_found and receipt.request_id == request_id
            return receipt.not_found(error) if is_new else receipt

        return await self.journal.change(held, not_found)

    async def reconsider(self, held: Held, *, give_up: bool = False, is_explicit: bool = False) -> Held:
        """Poll again for a request that seems to be lost, before anything is paid for or reported as lost.

        Args:
            held: A receipt whose request has expired or failed, or was not known to xAI; any other is returned as is,
                and so is one without a request id.
            give_up: Whether a person is about to pay again: a failed request is polled, too, and one that xAI still
                does not know counts as expired.
            is_explicit: Whether a person has named this request id: a failed request is polled, too.

        Raises:
            ApiError: If xAI can't be polled.
        """
        state = held.receipt.state
        if held.receipt.request_id is None:
            return held
        is_doubtful = state == "expired" or (give_up and held.receipt.is_not_found)
        if not is_doubtful and not ((give_up or is_explicit) and state in {"failed", "moderated"}):
            return held
        with with_request_id(held.receipt.request_id, held.receipt):
            try:
                return await self.poll(held)
            except RequestRejected as error:
                if error.http_status != 404:
                    raise
                return await self._given_up(held.receipt) if state == "submitted" else held

    async def find_cancelled(self, held: Held) -> Held:
        """Poll for a request whose batch at xAI was cancelled, maybe before the video was rendered.

        Such a request counts as refused: nothing was paid, and it may be sent again. If xAI can't be polled, the
        receipt is returned as is, since whoever waits for the video meets the error again.

        Args:
            held: A receipt; one that is not open in a batch is returned as is.
        """
        if held.receipt.state == "submitted" and held.receipt.xai_batch is not None:
            with suppress(ApiError):
                # One request serves all rows of the batch.
                if (await self.client.batch(held.receipt.xai_batch).facts()).is_cancelled:
                    return await self.poll(held)
        return held

    async def _given_up(self, receipt: Receipt) -> Held:
        gone = VideoStatus(
            request_id=receipt.request_id or "",
            state="expired",
            message="xAI did not know the request id, and the request was given up",
        )
        return await self.record(await self.journal.read(receipt.key), gone)


def may_still_appear(receipt: Receipt) -> bool:
    """Whether a submission of unknown outcome may still be found without a person."""
    age = age_of(receipt)
    return any(age <= _seconds_to_appear(each) for each in receipt.undelivered)


def _seconds_to_appear(attempt: Attempt) -> float:
    if attempt.xai_batch is not None:
        return BATCH_SECONDS
    return UPLOAD_SECONDS if attempt.direct else FILE_SECONDS


def age_of(receipt: Receipt, now: datetime | None = None) -> float:
    """Compute the seconds since the current attempt was claimed; 0 if the claimant's clock is ahead."""
    return max(((now or datetime.now(UTC)) - receipt.attempt.started_at).total_seconds(), 0)


def _updated(receipt: Receipt, status: VideoStatus) -> Receipt:
    if receipt.request_id != status.request_id or receipt.state not in {"submitted", "done", *ENDED_BADLY}:
        return receipt
    match status.state:
        case "pending" if receipt.state in ENDED_BADLY:
            return receipt.submitted(status.request_id)
        case "pending":
            return receipt.found_again() if receipt.is_not_found else receipt
        case "expired" if receipt.state in ENDED_BADLY:
            return receipt
        case "cancelled" if receipt.state not in {"submitted", "expired"}:
            return receipt
        case "failed" | "moderated" if receipt.state in {"failed", "moderated"}:
            return receipt
        case _:
            return receipt.finished(status)
