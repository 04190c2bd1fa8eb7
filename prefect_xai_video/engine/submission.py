"""Submission: claims a key, sends the one POST of the claim, and records its outcome.

Only `Posting` sends a POST, and two rules protect against paying twice: only the writer of a new `sending` sends, and
`sending` never replaces a state that may have been paid for unless a person has asked for it.
"""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from prefect_xai_video.api.client import XaiVideoClient
from prefect_xai_video.api.pace import Urgency
from prefect_xai_video.api.pacer import Turn
from prefect_xai_video.api.records import differences
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.engine.accounts import Account, account_of, check_owner
from prefect_xai_video.engine.attempts import ENDED_BADLY, Reason, new_claim
from prefect_xai_video.engine.handover import Handover
from prefect_xai_video.engine.inquiry import Inquiry, may_still_appear
from prefect_xai_video.engine.journal import Journal
from prefect_xai_video.engine.options import OnUnknown
from prefect_xai_video.engine.posting import (
    Claim,
    OnAccepted,
    Permit,
    Posting,
    clean_up,
    log_accepted,
    record_refusal,
)
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held, WriteConflict
from prefect_xai_video.engine.uploads import with_uploads
from prefect_xai_video.errors import KeyConflict, StorageError, SubmissionUnknown, XaiVideoError, not_allowed, shown

_CANCELLED = StorageError("The run was cancelled before the request was sent.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to be submitted under a key, unless that has been done.

    Attributes:
        client: Client of xAI's API.
        journal: Reads and updates the receipts.
        request: The request, with inputs that xAI can fetch.
        key: The video's name in the store.
        flow_run_id: The flow run that submits it, for the receipt.
        regenerate: Whether to pay for a new attempt if the last one failed, was moderated or expired.
        on_unknown: `resubmit` sends a request again that may have been accepted.
        handover: How the video comes to the store.
        permit: Permission to submit, requested before each claim and each POST.
        on_accepted: Called as soon as xAI has accepted the request, before the receipt is updated.
        xai_batch: Id of xAI's batch to which the request is about to be added; None to submit it by itself.
    """

    client: XaiVideoClient
    journal: Journal
    request: VideoRequest
    key: str
    flow_run_id: str | None
    regenerate: bool
    on_unknown: OnUnknown
    handover: Handover
    permit: Permit
    on_accepted: OnAccepted = log_accepted
    xai_batch: str | None = None
    uploaded: list[VideoRequest] = field(default_factory=list, init=False)
    """The request with its large inputs uploaded, once a POST is due."""
    untraceable: list[str] = field(default_factory=list, init=False)
    """Claims of unknown outcome whose batch xAI no longer has."""

    def __post_init__(self) -> None:
        """Reject flags of the wrong type, so that no truthy string triggers a payment."""
        _check("regenerate", self.regenerate, isinstance(self.regenerate, bool), "true or false")
        _check("on_unknown", self.on_unknown, self.on_unknown in {"raise", "resubmit"}, "raise or resubmit")

    @property
    def sent_request(self) -> VideoRequest:
        """The request as it is sent: with its large inputs uploaded, once that was done."""
        return self.uploaded[0] if self.uploaded else self.request

    async def start(self) -> Receipt:
        """Submit the request, unless the receipt shows that this has been done.

        Returns:
            The receipt, in any state except `sending` and `refused`.

        Raises:
            XaiVideoError: As `Generation.start`.
        """
        # Fail before anything is written if the store has no such URL. Each POST gets its own URL.
        if self.handover.is_direct:
            await self.journal.store.upload_url(self.key, new_claim())
        claim = Claim()

        async def claim_and_send() -> Receipt:
            nonlocal claim
            while True:
                held, sent = await self.claim(claim)
                if held.receipt.state != "sending":
                    return held.receipt
                claim = Claim()
                receipt = await self._send(held, sent)
                if receipt.state not in {"sending", "refused"}:
                    return receipt

        return await self.client.retries.call(claim_and_send, lambda error: error.resend_safe)

    async def claim(self, claim: Claim) -> tuple[Held, Claim]:
        """Read the receipt and, if a POST is due, claim it.

        Args:
            claim: The claim to write. If the receipt has it already, an earlier write of this call succeeded although
                it was reported as failed.

        Returns:
            A receipt in state `sending` whose POST the caller must send, with its claim; or a receipt that needs no
            POST.
        """
        account: Account | None = None
        turn: Turn | None = None

        async def read_and_claim() -> tuple[Held, Claim]:
            nonlocal account, claim, turn
            held = await self._read(claim, poll=account is None)
            if held is not None and not self._is_due(held.receipt):
                return held, claim
            if account is None:
                account = await account_of(self.client, with_team=True)
                if not self.uploaded:
                    self.uploaded.append(await with_uploads(self.request, self.client.files))
                await self.permit.acquire(self.request)
                if self.client.pace is not None and self.xai_batch is None:
                    turn = await self.client.pace.turn(Urgency.SUBMISSION)
                # That may have taken a while, and another run may have claimed the key.
                return await read_and_claim()
            claim = claim.renewed(turn)
            receipt = self._claimed(held.receipt if held else None, claim, account)
            writing = self.journal.create(receipt) if held is None else self.journal.replace(held, receipt)
            return await self._write_claim(writing), claim

        return await self.journal.resolve_conflicts(self.key, read_and_claim)

    async def _read(self, claim: Claim, *, poll: bool) -> Held | None:
        """Read the receipt and bring it up to date; only with `poll`, xAI is polled for a request that seems lost."""
        held = await self.journal.read_settled(self.key, claim.id)
        if held is None or _is_own(held, claim):
            return held
        check_owner(held.receipt, await account_of(self.client, with_team=False))
        if not poll:
            return await self.journal.find_delivery(held)
        inquiry = Inquiry(self.client, self.journal)
        try:
            held = await inquiry.find_video(held)
        except SubmissionUnknown:
            self.untraceable.append(held.receipt.attempt.claim)
        if not self._is_same_request(held.receipt):
            return held
        held = await inquiry.reconsider(held, give_up=self._may_give_up(held.receipt))
        return await inquiry.find_cancelled(held)

    def _is_due(self, receipt: Receipt) -> bool:
        """Whether a POST is due, or has already been claimed by this call."""
        return receipt.state == "sending" or self._reason_to_send(receipt) is not None

    def _claimed(self, receipt: Receipt | None, claim: Claim, account: Account) -> Receipt:
        """Build the receipt to be written before a POST.

        A claim of this call that is in the receipt already is written again: the store may not have checked yet
        whether its server honours conditional writes.
        """
        create = partial(Receipt.claim, self.key)
        if receipt is not None:
            if receipt.state == "sending":
                return receipt
            check_owner(receipt, account)
            create = partial(receipt.sent_again, self._reason_to_send(receipt) or "first")
        return create(
            self.request,
            self.flow_run_id,
            claim=claim.id,
            direct=self.handover.is_direct,
            xai_file=self.handover.file(claim.id),
            xai_batch=self.xai_batch,
            api=account.api,
            team=account.team,
        )

    def _reason_to_send(self, receipt: Receipt) -> Reason | None:
        """Determine why a POST is due; None if it is not.

        Raises:
            KeyConflict: If the key belongs to another request.
        """
        if not self._is_same_request(receipt):
            if not _may_be_replaced(receipt, self.regenerate):
                raise _conflict(receipt, self.request)
            found = receipt.open_attempt(self.request.has_fingerprint)
            if found is not None:
                raise _accepted_late(receipt, found.request_id)
        match receipt.state:
            case "refused":
                return receipt.attempt.reason
            case "unknown" if self._may_resubmit(receipt):
                return "resubmit"
            case "failed" | "moderated" | "expired" if self.regenerate and self._may_still(receipt, "regenerate"):
                return "regenerate"
            case _:
                return None

    def _is_same_request(self, receipt: Receipt) -> bool:
        return receipt.fingerprint is None or self.request.has_fingerprint(receipt.fingerprint)

    def _may_resubmit(self, receipt: Receipt) -> bool:
        """Whether a person wants to pay for a request of unknown outcome, and no batch of xAI's will tell it."""
        attempt = receipt.attempt
        is_traceable = attempt.xai_batch is not None and may_still_appear(receipt)
        is_left_to_a_person = attempt.claim in self.untraceable or not is_traceable
        return self.on_unknown == "resubmit" and is_left_to_a_person and self._may_still(receipt, "resubmit")

    def _may_give_up(self, receipt: Receipt) -> bool:
        return self.regenerate and self._may_still(receipt, "regenerate")

    def _may_still(self, receipt: Receipt, reason: Reason) -> bool:
        """Whether this flow run has not yet paid for a new attempt: its retries must not pay each time."""
        return self.flow_run_id is None or not any(
            attempt.reason == reason and attempt.flow_run_id == self.flow_run_id and attempt.outcome != "refused"
            for attempt in receipt.attempts
        )

    async def _write_claim(self, writing: Awaitable[Held]) -> Held:
        """Write a claim; if the run is cancelled meanwhile, withdraw it, since nothing was sent."""
        written = asyncio.ensure_future(writing)
        try:
            return await asyncio.shield(written)
        except asyncio.CancelledError:
            await clean_up(self._withdraw(written))
            raise

    async def _withdraw(self, written: Awaitable[Held]) -> None:
        with suppress(XaiVideoError, WriteConflict):
            await record_refusal(self.journal, await written, _CANCELLED)

    async def _send(self, held: Held, claim: Claim) -> Receipt:
        """Take the cost from the budget and send the POST; a certain refusal returns the cost."""
        try:
            await self.permit.spend(self.request)
        except BaseException as error:
            reason = error if isinstance(error, XaiVideoError) else _CANCELLED
            await clean_up(record_refusal(self.journal, held, reason))
            raise
        posting = Posting(self.client, self.journal, self.sent_request, held, claim, self.permit, self.on_accepted)
        try:
            receipt = await posting.run()
        except XaiVideoError as error:
            self._report(claim, error)
            raise
        if receipt.state == "submitted":
            self._report(claim)
        return receipt

    def _report(self, claim: Claim, error: XaiVideoError | None = None) -> None:
        if self.client.pace is not None and claim.turn is not None:
            self.client.pace.report(claim.turn, error)


def _is_own(held: Held | None, claim: Claim) -> bool:
    return held is not None and held.receipt.state == "sending" and held.receipt.attempt.claim == claim.id


def _check(name: str, value: object, is_valid: bool, allowed: str) -> None:
    if not is_valid:
        raise not_allowed(name, shown(value), allowed)


def _may_be_replaced(receipt: Receipt, regenerate: bool) -> bool:
    """Whether another request may take the key: nothing was ever accepted under it, or a person has asked for it."""
    return not receipt.maybe_paid or (regenerate and receipt.state in ENDED_BADLY)


def _conflict(receipt: Receipt, request: VideoRequest) -> KeyConflict:
    differing = ["mode"] if receipt.mode != request.mode else []
    # An attempt of an earlier version may have no record.
    differing += differences(receipt.request, request.record()) if receipt.request else []
    differs = f" This one differs in {', '.join(differing)}." if differing else ""
    return KeyConflict(
        f"The key already belongs to another request ({receipt.mode}, {receipt.model}, {receipt.state}, "
        f"{receipt.attempts[0].started_at:%Y-%m-%d %H:%M} UTC).{differs} Nothing was sent. Use another key.",
        key=receipt.key,
    )


def _accepted_late(receipt: Receipt, request_id: str | None) -> KeyConflict:
    return KeyConflict(
        f"xAI accepted an earlier attempt at this request under this key after all, as {request_id}. Nothing was "
        f"sent. Adopt that request id into another key (flow collect-video, or xai-video adopt); that costs nothing.",
        key=receipt.key,
        request_id=request_id,
    )
