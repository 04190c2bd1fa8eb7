"""Inquiry: ask xAI for the status of a receipt's request, and note a final one."""

from dataclasses import dataclass
from datetime import UTC, datetime

from prefect_xai_video.accounts import account_of, check_owner, is_same
from prefect_xai_video.client import XaiVideoClient
from prefect_xai_video.errors import ApiError, RequestRejected
from prefect_xai_video.journal import Journal, with_request_id
from prefect_xai_video.receipts import Receipt
from prefect_xai_video.redaction import Redaction
from prefect_xai_video.responses import VideoStatus
from prefect_xai_video.stores import Held

FRESH_SECONDS = 60
"""A request id that xAI does not know yet is given this long to become known."""

AGED_SECONDS = 24 * 3600
"""A request id that xAI no longer knows after this has expired: the longest published lifetime of a video."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Asks xAI for the request of a receipt. It costs nothing.

    Attributes:
        client: The API.
        journal: The receipts.
    """

    client: XaiVideoClient
    journal: Journal

    async def status(self, receipt: Receipt) -> VideoStatus:
        """Poll the current request of a receipt once.

        Raises:
            RequestRejected: If xAI does not know it; it may be another team's, or xAI may know it later.
            KeyConflict: If it is another team's.
            ApiError: If xAI can't be asked.
        """
        request_id = receipt.request_id or ""
        try:
            return await self.client.get(request_id, client_request_id=receipt.attempt.claim)
        except ApiError as error:
            # Only the receipt knows the prompt, which xAI may quote.
            error.message = Redaction(prompt=receipt.request.get("prompt"))(error.message)
            if not isinstance(error, RequestRejected) or error.http_status != 404:
                raise
            return await self._not_found(receipt, error)

    async def _not_found(self, receipt: Receipt, error: RequestRejected) -> VideoStatus:
        """Decide what a 404 stands for: only long after its lifetime, for its own account, is it the end."""
        request_id = receipt.request_id or ""
        if age_of(receipt) < FRESH_SECONDS:
            return VideoStatus(request_id=request_id, state="pending")
        account = await account_of(self.client, with_team=True)
        check_owner(receipt, account)
        # This machine's clock may be wrong: xAI's own has the last word, where the response tells its time.
        age = min(age_of(receipt), age_of(receipt, error.at or datetime.now(UTC)))
        if age > AGED_SECONDS and is_same(receipt, account):
            return VideoStatus(request_id=request_id, state="expired", code=error.code)
        raise RequestRejected(
            f"xAI does not know this request id ({error.message}). If another team or another base URL sent it, use "
            f"those credentials. If it is really gone, run again with the same key and regenerate=True: it asks once "
            f"more, and pays for a new video only if the request is still unknown.",
            request_id=request_id,
            http_status=404,
            code=error.code,
            trace_id=error.trace_id,
        )

    async def ask(self, held: Held) -> Held:
        """Poll once, and note what became of the request.

        Raises:
            RequestRejected: If xAI does not know it, which is noted, too.
            ApiError: If xAI can't be asked.
        """
        try:
            status = await self.status(held.receipt)
        except RequestRejected as error:
            await self.note_not_found(held, error)
            raise
        return await self.note(held, status)

    async def note(self, held: Held, status: VideoStatus) -> Held:
        """Note a status, unless somebody else has noted a final one for the same request."""
        return await self.journal.change(held, lambda receipt: _noted(receipt, status))

    async def note_not_found(self, held: Held, error: RequestRejected) -> Held:
        """Note that xAI does not know the open request, so that a person may give it up."""
        if error.http_status != 404:
            return held
        request_id = held.receipt.request_id

        def not_found(receipt: Receipt) -> Receipt:
            waits = receipt.state == "submitted" and not receipt.is_not_found and receipt.request_id == request_id
            return receipt.not_found(error) if waits else receipt

        return await self.journal.change(held, not_found)

    async def reconsider(self, held: Held, *, give_up: bool) -> Held:
        """Ask xAI again for a request that seemed to be gone, before anything is paid for or reported as lost.

        Args:
            held: A receipt that has expired, or whose request xAI did not know.
            give_up: Whether a person has said that a request which xAI still does not know counts as expired.

        Raises:
            ApiError: If xAI can't be asked.
        """
        if held.receipt.state != "expired" and not (give_up and held.receipt.is_not_found):
            return held
        with with_request_id(held.receipt.request_id, held.receipt):
            try:
                return await self.ask(held)
            except RequestRejected as error:
                if error.http_status != 404:
                    raise
                return held if held.receipt.state == "expired" else await self._given_up(held.receipt)

    async def _given_up(self, receipt: Receipt) -> Held:
        gone = VideoStatus(
            request_id=receipt.request_id or "",
            state="expired",
            message="it did not know the request id, and the request was given up",
        )
        return await self.note(await self.journal.read(receipt.key), gone)


def age_of(receipt: Receipt, now: datetime | None = None) -> float:
    """Seconds since the current attempt was claimed; 0 where the clock of the claimant is ahead."""
    return max(((now or datetime.now(UTC)) - receipt.attempt.started_at).total_seconds(), 0)


def _noted(receipt: Receipt, status: VideoStatus) -> Receipt:
    if receipt.request_id != status.request_id or receipt.state not in {"submitted", "done", "expired"}:
        return receipt
    match status.state:
        case "pending" if receipt.state == "expired":
            return receipt.submitted(status.request_id)
        case "pending":
            return receipt.found_again() if receipt.is_not_found else receipt
        case "expired" if receipt.state == "expired":
            return receipt
        case _:
            return receipt.answered(status)
