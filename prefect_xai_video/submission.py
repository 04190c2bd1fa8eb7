"""Submission: claim a key, send the one POST of a claim, and write down what became of it.

There is one place that sends a POST, `_send_and_note`, and one rule: it is entered only by who has just written
`sending` into the receipt, and nobody writes that over a state that may have been paid for unless a person said so.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Literal, Protocol

from prefect_xai_video.client import Accepted, XaiVideoClient
from prefect_xai_video.errors import InvalidRequest, KeyConflict, StorageError, SubmissionUnknown, XaiVideoError
from prefect_xai_video.journal import CLAIM_SECONDS, MOST_OVERTAKEN, OVERTAKEN_WAIT_SECONDS, Journal
from prefect_xai_video.receipts import ENDED_BADLY, Reason, Receipt, new_claim
from prefect_xai_video.requests import VideoRequest
from prefect_xai_video.stores import Held, Overtaken

OnUnknown = Literal["raise", "resubmit"]
Delivery = Literal["download", "direct"]


class Permit(Protocol):
    """Permission to submit requests; may wait or raise."""

    def turn(self, request: VideoRequest) -> Awaitable[object]:
        """Wait for a turn, before the key is claimed. It costs nothing."""

    def spend(self, request: VideoRequest) -> Awaitable[object]:
        """Take the cost from the budget, once the key is claimed and before the POST."""

    def refund(self, request: VideoRequest) -> Awaitable[object]:
        """Give the cost back: the submission was surely refused."""


POST_SECONDS = CLAIM_SECONDS - 20
"""How long a POST may take in all. Then its outcome is noted as unknown, before others give its claim up."""

CLEANUP_SECONDS = 8
"""How long a cancelled run may wait for the reply to a POST; Prefect kills it after 10 s."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that is to be submitted under a key, if it is not yet.

    Attributes:
        client: The API.
        journal: The receipts.
        request: What is asked for, with inputs that the service can fetch.
        key: The video's name in the store.
        flow_run_id: Who asks, for the receipt.
        regenerate: Pay for a new attempt where the last one failed, was moderated or expired.
        on_unknown: `resubmit` sends again what may have been accepted.
        delivery: `direct` has xAI put the video into the store.
        permit: Asked for a turn before each claim, and for the cost before each POST.
    """

    client: XaiVideoClient
    journal: Journal
    request: VideoRequest
    key: str
    flow_run_id: str | None
    regenerate: bool
    on_unknown: OnUnknown
    delivery: Delivery
    permit: Permit

    def __post_init__(self) -> None:
        """Take what costs money at its word only."""
        _check("regenerate", self.regenerate, isinstance(self.regenerate, bool), "True, False")
        _check("on_unknown", self.on_unknown, self.on_unknown in {"raise", "resubmit"}, "'raise', 'resubmit'")
        _check("delivery", self.delivery, self.delivery in {"download", "direct"}, "'download', 'direct'")

    async def start(self) -> Receipt:
        """Submit the request, or find that it has been.

        Returns:
            A receipt that was accepted, or has ended, or is of unknown outcome.

        Raises:
            XaiVideoError: As `Generation.start`.
        """
        # Told before anything is written where the store has no such URL. It is made anew for each POST.
        if self.delivery == "direct":
            await self.journal.store.upload_url(self.key, new_claim())
        claim = new_claim()
        async for attempt in self.client.retries.of(lambda error: error.resend_safe):
            with attempt:
                while True:
                    held = await self._claim(claim)
                    if held.receipt.state != "sending":
                        return held.receipt
                    claim = new_claim()
                    receipt = await self._post(held)
                    if receipt.state not in {"sending", "refused"}:
                        return receipt
        raise AssertionError("unreachable")

    async def _claim(self, claim: str) -> Held:
        """Read the receipt and, where a POST is due, be the one who sends it.

        Args:
            claim: Id for the claim. One that is in the receipt already was written before by this very call, which
                then lost sight of it.

        Returns:
            A receipt in state `sending` that is the caller's to send, or one that needs no POST any more.
        """
        permitted = False
        for _ in range(MOST_OVERTAKEN):
            try:
                held = await self.journal.read_settled(self.key, claim)
                if held is not None:
                    held = await self.journal.find_delivery(held)
                receipt = self._due(held.receipt if held else None, claim)
                if held is not None and receipt is held.receipt and receipt.state != "sending":
                    return held
                if not permitted:
                    await self.permit.turn(self.request)
                    # That may have taken its time: others may have come, and the claim begins now.
                    permitted = True
                    continue
                writing = self.journal.create(receipt) if held is None else self.journal.replace(held, receipt)
                return await self._write_claim(writing)
            except Overtaken:
                await asyncio.sleep(OVERTAKEN_WAIT_SECONDS)
        raise StorageError(
            f"The receipt {self.journal.store.receipt_uri(self.key)} can neither be read nor be created."
        )

    def _due(self, receipt: Receipt | None, claim: str) -> Receipt:
        """The receipt to be written before a POST; the same one where none is due.

        A claim of the caller's own is written again, since the store may not have come to check whether it heeds
        conditions.
        """
        direct = self.delivery == "direct"
        if receipt is None:
            return Receipt.claim(self.key, self.request, self.flow_run_id, claim=claim, direct=direct)
        reason = None if receipt.state == "sending" else self._reason_to_send(receipt)
        if reason is None:
            return receipt
        return receipt.sent_again(self.request, reason, self.flow_run_id, claim=claim, direct=direct)

    def _reason_to_send(self, receipt: Receipt) -> Reason | None:
        """Why a POST is due; None where it is not.

        Raises:
            KeyConflict: If the key belongs to another request.
        """
        same = receipt.fingerprint in {None, self.request.fingerprint}
        if not same and not _may_be_replaced(receipt, self.regenerate):
            raise _conflict(receipt)
        match receipt.state:
            case "refused":
                return receipt.attempt.reason
            case "unknown" if self.on_unknown == "resubmit" and self._may_still(receipt, "resubmit"):
                return "resubmit"
            case "failed" | "moderated" | "expired" if self.regenerate and self._may_still(receipt, "regenerate"):
                return "regenerate"
            case _:
                return None

    def _may_still(self, receipt: Receipt, reason: Reason) -> bool:
        """Whether this flow run has not yet paid for a new attempt: its retries must not pay again and again."""
        return self.flow_run_id is None or not any(
            attempt.reason == reason and attempt.flow_run_id == self.flow_run_id and attempt.outcome != "refused"
            for attempt in receipt.attempts
        )

    async def _write_claim(self, writing: Awaitable[Held]) -> Held:
        """Write a claim. If the run is cancelled meanwhile, take it back: nothing was sent."""
        written = asyncio.ensure_future(writing)
        try:
            return await asyncio.shield(written)
        except asyncio.CancelledError:
            with suppress(XaiVideoError, Overtaken, TimeoutError):
                async with asyncio.timeout(CLEANUP_SECONDS):
                    await self._note(await written, Receipt.refused, StorageError("Cancelled before it was sent."))
            raise

    async def _post(self, held: Held) -> Receipt:
        """Send the one POST of a claim, and write down what became of it, even if this task is cancelled.

        Both happen in a thread of their own, which no cancellation reaches and which waits in no queue.
        """
        context = copy_context()
        thread = ThreadPoolExecutor(1, thread_name_prefix="xai-video-post")
        posting = asyncio.get_running_loop().run_in_executor(
            thread, lambda: context.run(asyncio.run, self._send_and_note(held))
        )
        thread.shutdown(wait=False)
        # Where nobody waits any more, the thread goes on by itself.
        posting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            await asyncio.wait({posting}, timeout=POST_SECONDS)
        except asyncio.CancelledError:
            await asyncio.wait({posting}, timeout=CLEANUP_SECONDS)
            raise
        if posting.done():
            return posting.result()
        late = SubmissionUnknown(
            f"The submission may have been accepted, and paid for: no answer within {POST_SECONDS} s."
        )
        return await self._note(held, Receipt.unknown, late)

    async def _send_and_note(self, held: Held) -> Receipt:
        try:
            await self.permit.spend(self.request)
        except XaiVideoError as error:
            await self._note(held, Receipt.refused, error)
            raise
        try:
            accepted = await self._send(held)
        except SubmissionUnknown as error:
            return await self._note(held, Receipt.unknown, error)
        except XaiVideoError as error:
            await self._note(held, Receipt.refused, error)
            await self.permit.refund(self.request)
            raise
        except Exception as error:
            unforeseen = SubmissionUnknown(
                f"The submission ended in a way that nobody foresaw: {type(error).__name__}."
            )
            return await self._note(held, Receipt.unknown, unforeseen)
        return await self._note_request_id(held, accepted.request_id)

    async def _send(self, held: Held) -> Accepted:
        receipt = held.receipt
        if not receipt.attempt.direct:
            return self.client.submit(self.request)
        return self.client.submit(
            self.request, await self.journal.store.upload_url(receipt.key, receipt.attempt.claim)
        )

    async def _note_request_id(self, held: Held, request_id: str) -> Receipt:
        claim = held.receipt.attempt.claim
        try:
            async for attempt in self.client.retries.of(lambda error: True):
                with attempt:
                    held = await self.journal.change(held, lambda receipt: receipt.late_reply(claim, request_id))
        except Exception as error:
            # Nobody else knows this id: trying again would only find a claim that was left behind.
            logger.critical("xAI accepted request %s, but its receipt could not be written", request_id)
            message = error.message if isinstance(error, XaiVideoError) else f"Its receipt can't be written: {error}."
            raise StorageError(
                f"{message} xAI accepted the request: adopt its id into the key once the store can be written to.",
                request_id=request_id,
                transient=False,
            ) from error
        return held.receipt

    async def _note(
        self, held: Held, change: Callable[[Receipt, XaiVideoError], Receipt], error: XaiVideoError
    ) -> Receipt:
        """Write down how a claim ended, while the receipt is still what it wrote.

        A store that fails now must not hide how the POST ended; the claim then ends as unknown, which is safe.

        Returns:
            The receipt as it is now, or as it would be.
        """
        claim = held.receipt.attempt.claim

        def change_own(receipt: Receipt) -> Receipt:
            own = receipt.state == "sending" and receipt.attempt.claim == claim
            return change(receipt, error) if own else receipt

        try:
            return (await self.journal.change(held, change_own)).receipt
        except StorageError as problem:
            logger.warning("How the submission ended could not be noted in its receipt: %s", problem)
            return change(held.receipt, error)


def _check(name: str, value: object, good: bool, allowed: str) -> None:
    if not good:
        raise InvalidRequest(f"{name}: {value!r} is not allowed; allowed: {allowed}.")


def _may_be_replaced(receipt: Receipt, regenerate: bool) -> bool:
    """Whether another request may have the key: nothing was ever accepted under it, or a person says so."""
    return not receipt.maybe_paid or (regenerate and receipt.state in ENDED_BADLY)


def _conflict(receipt: Receipt) -> KeyConflict:
    return KeyConflict(
        f"The key already belongs to another request ({receipt.mode}, {receipt.model}, {receipt.state}, "
        f"{receipt.attempts[0].started_at:%Y-%m-%d %H:%M} UTC). Nothing was sent: use another key.",
        key=receipt.key,
    )
