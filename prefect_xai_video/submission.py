"""Submission: claim a key, send the one POST of a claim, and write down what became of it.

There is one place that sends a POST, `_Posting`, and one rule: only the writer of a fresh `sending` sends, and nobody
writes that over a state that may have been paid for unless a person said so.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from prefect_xai_video.accounts import Account, account_of, check_owner
from prefect_xai_video.client import Accepted, XaiVideoClient
from prefect_xai_video.errors import InvalidRequest, KeyConflict, StorageError, SubmissionUnknown, XaiVideoError
from prefect_xai_video.inquiry import Inquiry
from prefect_xai_video.journal import CLAIM_SECONDS, MOST_OVERTAKEN, OVERTAKEN_WAIT_SECONDS, Journal
from prefect_xai_video.receipts import ENDED_BADLY, Reason, Receipt, new_claim
from prefect_xai_video.requests import VideoRequest
from prefect_xai_video.stores import Held, Overtaken

OnUnknown = Literal["raise", "resubmit"]
Delivery = Literal["download", "direct"]
OnAccepted = Callable[[str, str, str | None], object]
"""Called with key, request id and trace id the moment xAI has accepted a request."""

POST_SECONDS = CLAIM_SECONDS - 20
"""Longest time for a POST in all. Then its outcome is noted as unknown, before others give its claim up."""

SEND_SECONDS = CLAIM_SECONDS / 2
"""A claim older than this is not sent any more: others may take it for left behind before the POST has ended."""

NOTE_SECONDS = 30
"""Longest wait for a request id that has arrived to be written down; then the caller gets it with an error."""

CLEANUP_SECONDS = 8
"""How long a cancelled run may wait for the reply to a POST; Prefect kills it after 10 s."""

POST_THREAD = "xai-video-post"
"""Name of the threads that send a POST and note its outcome."""

logger = logging.getLogger(__name__)


class Permit(Protocol):
    """Permission to submit a request."""

    async def turn(self, request: VideoRequest) -> None:
        """Wait for a slot and a turn, before a claim.

        Raises:
            LimitReached: If there will never be one.
        """

    async def spend(self, request: VideoRequest) -> None:
        """Take the estimated cost from the budget, once the claim is won.

        Raises:
            LimitReached: If there is no room for it, or it can't be asked.
        """

    async def refund(self, request: VideoRequest) -> None:
        """Give the estimated cost back, since the submission was surely refused. It never raises."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send one POST, from the moment before it was written.

    Attributes:
        id: Random id.
        monotonic: When it was made, by a clock that nobody sets.
        wall: When it was made, by a clock that goes on while the machine is suspended. Unix time in seconds.
    """

    id: str = field(default_factory=new_claim)
    monotonic: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)

    def renewed(self) -> "Claim":
        """The same claim, about to be written now."""
        return Claim(self.id)

    def check_age(self) -> None:
        """Check that nobody can have given this claim up.

        Raises:
            StorageError: If it is too old to be sent, or the clock was set meanwhile.
        """
        elapsed = time.monotonic() - self.monotonic
        age = max(elapsed, time.time() - self.wall)
        if age > SEND_SECONDS:
            raise StorageError(
                f"The claim to send the request is {age:.0f} s old: this process stood still, or the store is slow. "
                f"Nothing was sent.",
                transient=True,
            )


def log_accepted(key: str, request_id: str, trace_id: str | None) -> None:
    """Log a request id, as a warning: it is worth money, and may be nowhere else yet."""
    logger.warning("xAI accepted request %s for key %s (trace id %s)", request_id, key, trace_id)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that is to be submitted under a key, if it is not yet.

    Attributes:
        client: The API.
        journal: The receipts.
        request: The request, with inputs that the service can fetch.
        key: The video's name in the store.
        flow_run_id: Who asks, for the receipt.
        regenerate: Pay for a new attempt where the last one failed, was moderated or expired.
        on_unknown: `resubmit` sends again what may have been accepted.
        delivery: `direct` has xAI put the video into the store.
        permit: Asked before and after each claim.
        on_accepted: Called the moment xAI has accepted the request, before the receipt says so.
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
    on_accepted: OnAccepted = log_accepted

    def __post_init__(self) -> None:
        """Reject flags of the wrong type, so that no truthy string triggers a payment."""
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
        claim = Claim()
        async for attempt in self.client.retries.of(lambda error: error.resend_safe):
            with attempt:
                while True:
                    held, sent = await self._claim(claim)
                    if held.receipt.state != "sending":
                        return held.receipt
                    claim = Claim()
                    receipt = await self._send(held, sent)
                    if receipt.state not in {"sending", "refused"}:
                        return receipt
        raise AssertionError("unreachable")

    async def _claim(self, claim: Claim) -> tuple[Held, Claim]:
        """Read the receipt and, where a POST is due, be the one who sends it.

        Args:
            claim: A claim to write. One that is in the receipt already was written before by this very call, which
                then lost sight of it.

        Returns:
            A receipt in state `sending` that is the caller's to send, with its claim, or one that needs no POST.
        """
        account: Account | None = None
        for _ in range(MOST_OVERTAKEN):
            try:
                held = await self._read(claim, ask=account is None)
                if held is not None and not self._is_due(held.receipt):
                    return held, claim
                if account is None:
                    account = await account_of(self.client, with_team=True)
                    await self.permit.turn(self.request)
                    # That may have taken its time: others may have come.
                    continue
                claim = claim.renewed()
                receipt = self._claimed(held.receipt if held else None, claim, account)
                writing = self.journal.create(receipt) if held is None else self.journal.replace(held, receipt)
                return await self._write_claim(writing), claim
            except Overtaken:
                await asyncio.sleep(OVERTAKEN_WAIT_SECONDS)
        raise StorageError(
            f"The receipt {self.journal.store.receipt_uri(self.key)} can neither be read nor be created."
        )

    async def _read(self, claim: Claim, *, ask: bool) -> Held | None:
        """Read the receipt, with what has become of it meanwhile; xAI is asked for a lost request only if `ask`."""
        held = await self.journal.read_settled(self.key, claim.id)
        if held is None or _is_own(held, claim):
            return held
        check_owner(held.receipt, await account_of(self.client, with_team=False))
        held = await self.journal.find_delivery(held)
        if not (ask and self._is_asked_for(held.receipt)):
            return held
        return await Inquiry(self.client, self.journal).reconsider(held, give_up=self._gives_up(held.receipt))

    def _is_due(self, receipt: Receipt) -> bool:
        """Whether a POST is due, or is already claimed by this very call."""
        return receipt.state == "sending" or self._reason_to_send(receipt) is not None

    def _claimed(self, receipt: Receipt | None, claim: Claim, account: Account) -> Receipt:
        """The receipt to be written before a POST.

        A claim of the caller's own is written again, since the store may not have come to check whether it honours
        conditions.
        """
        begin = partial(Receipt.claim, self.key)
        if receipt is not None:
            if receipt.state == "sending":
                return receipt
            check_owner(receipt, account)
            begin = partial(receipt.sent_again, self._reason_to_send(receipt) or "first")
        return begin(
            self.request,
            self.flow_run_id,
            claim=claim.id,
            direct=self.delivery == "direct",
            api=account.api,
            team=account.team,
        )

    def _reason_to_send(self, receipt: Receipt) -> Reason | None:
        """Why a POST is due; None where it is not.

        Raises:
            KeyConflict: If the key belongs to another request.
        """
        if not self._is_asked_for(receipt):
            if not _may_be_replaced(receipt, self.regenerate):
                raise _conflict(receipt)
            found = receipt.open_attempt(self.request.has_fingerprint)
            if found is not None:
                raise _found_late(receipt, found.request_id)
        match receipt.state:
            case "refused":
                return receipt.attempt.reason
            case "unknown" if self.on_unknown == "resubmit" and self._may_still(receipt, "resubmit"):
                return "resubmit"
            case "failed" | "moderated" | "expired" if self.regenerate and self._may_still(receipt, "regenerate"):
                return "regenerate"
            case _:
                return None

    def _is_asked_for(self, receipt: Receipt) -> bool:
        return receipt.fingerprint is None or self.request.has_fingerprint(receipt.fingerprint)

    def _gives_up(self, receipt: Receipt) -> bool:
        return self.regenerate and self._may_still(receipt, "regenerate")

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
                    held = await written
                    await _note_refused(self.journal, held, StorageError("Cancelled before it was sent."))
            raise

    async def _send(self, held: Held, claim: Claim) -> Receipt:
        """Take the cost from the budget, and send; what was surely refused is given back."""
        try:
            await self.permit.spend(self.request)
        except BaseException as error:
            reason = error if isinstance(error, XaiVideoError) else StorageError("Cancelled before it was sent.")
            with suppress(TimeoutError):
                async with asyncio.timeout(CLEANUP_SECONDS):
                    await _note_refused(self.journal, held, reason)
            raise
        posting = _Posting(self.client, self.journal, self.request, held, claim, self.permit, self.on_accepted)
        return await posting.run()


@dataclass(frozen=True, slots=True)
class _Posting:
    """The one POST of a claim, and the writing down of what became of it, even if the caller is cancelled.

    Both happen in a thread of their own, which no cancellation reaches and which waits in no queue.
    """

    client: XaiVideoClient
    journal: Journal
    request: VideoRequest
    held: Held
    claim: Claim
    permit: Permit
    on_accepted: OnAccepted
    accepted: "Future[Accepted]" = field(default_factory=Future)

    async def run(self) -> Receipt:
        """Send, and wait for what became of it.

        Returns:
            The receipt as it is now, or as it would be if the store could be written to.

        Raises:
            ApiError: If it was surely refused.
            StorageError: If it was accepted, and that could not be written down; with the request id.
        """
        posting = self._begin()
        accepted = asyncio.wrap_future(self.accepted)
        try:
            first: set[asyncio.Future[Any]] = {posting, accepted}
            await asyncio.wait(first, timeout=POST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if accepted.done() and not posting.done():
                await asyncio.wait({posting}, timeout=NOTE_SECONDS)
        except asyncio.CancelledError:
            await asyncio.wait({posting}, timeout=CLEANUP_SECONDS)
            raise
        finally:
            has_arrived = accepted.done()
            accepted.cancel()
        if posting.done():
            return posting.result()
        if has_arrived:
            raise _unwritten(accepted.result(), f"The store did not respond within {NOTE_SECONDS} s.")
        late = SubmissionUnknown(
            f"The submission may have been accepted, and paid for: no response within {POST_SECONDS} s."
        )
        return await self._note_unknown(late)

    def _begin(self) -> "asyncio.Future[Receipt]":
        context = copy_context()
        thread = ThreadPoolExecutor(1, thread_name_prefix=POST_THREAD)
        posting = asyncio.get_running_loop().run_in_executor(
            thread, lambda: context.run(asyncio.run, self._send_and_note())
        )
        thread.shutdown(wait=False)
        # Where nobody waits any more, the thread goes on by itself.
        posting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return posting

    async def _send_and_note(self) -> Receipt:
        try:
            accepted = await self._send()
        except SubmissionUnknown as error:
            return await self._note_unknown(error)
        except XaiVideoError as error:
            await _note_refused(self.journal, self.held, error)
            await self.permit.refund(self.request)
            raise
        except Exception as error:
            unforeseen = SubmissionUnknown(f"The submission ended unexpectedly: {type(error).__name__}.")
            return await self._note_unknown(unforeseen)
        self._tell(accepted)
        return await self._note_accepted(accepted)

    async def _send(self) -> Accepted:
        attempt = self.held.receipt.attempt
        upload_url = None
        if attempt.direct:
            upload_url = await self.journal.store.upload_url(self.held.receipt.key, attempt.claim)
        return self.client.submit(
            self.request,
            upload_url=upload_url,
            client_request_id=attempt.claim,
            before_send=self.claim.check_age,
        )

    def _tell(self, accepted: Accepted) -> None:
        """Hand the request id to the caller and to the log, before anything else can fail."""
        try:
            self.on_accepted(self.held.receipt.key, accepted.request_id, accepted.trace_id)
        except Exception:
            log_accepted(self.held.receipt.key, accepted.request_id, accepted.trace_id)
        # Nobody waits for it any more where it was cancelled.
        with suppress(InvalidStateError):
            self.accepted.set_result(accepted)

    async def _note_accepted(self, accepted: Accepted) -> Receipt:
        held, claim = self.held, self.held.receipt.attempt.claim
        request_id, trace_id = accepted.request_id, accepted.trace_id
        try:
            async for attempt in self.client.retries.of(lambda error: True):
                with attempt:
                    held = await self.journal.change(
                        held, lambda receipt: receipt.late_reply(claim, request_id, trace_id)
                    )
        except Exception as error:
            # Nobody else knows this id: trying again would only find a claim that was left behind.
            logger.critical("xAI accepted request %s, but its receipt could not be written", request_id)
            message = error.message if isinstance(error, XaiVideoError) else f"Its receipt can't be written: {error}."
            raise _unwritten(accepted, message) from error
        return held.receipt

    async def _note_unknown(self, error: SubmissionUnknown) -> Receipt:
        """Note that the outcome is unknown, while the receipt still has this claim under way."""
        claim = self.held.receipt.attempt.claim

        def unknown(receipt: Receipt) -> Receipt:
            own = receipt.state == "sending" and receipt.attempt.claim == claim
            return receipt.unknown(error) if own else receipt

        return await _noted(self.journal, self.held, unknown)


async def _note_refused(journal: Journal, held: Held, error: XaiVideoError) -> Receipt:
    claim = held.receipt.attempt.claim
    return await _noted(journal, held, lambda receipt: receipt.late_refusal(claim, error))


async def _noted(journal: Journal, held: Held, change: Callable[[Receipt], Receipt]) -> Receipt:
    """Write down how a claim ended.

    A store that fails now must not hide how the POST ended; the claim then ends as unknown, which is safe.

    Returns:
        The receipt as it is now, or as it would be.
    """
    try:
        return (await journal.change(held, change)).receipt
    except StorageError as problem:
        logger.warning("How the submission ended could not be noted in its receipt: %s", problem)
        return change(held.receipt)


def _unwritten(accepted: Accepted, message: str) -> StorageError:
    return StorageError(
        f"{message} xAI accepted the request: adopt its id into the key once the store can be written to.",
        request_id=accepted.request_id,
        trace_id=accepted.trace_id,
        transient=False,
    )


def _is_own(held: Held | None, claim: Claim) -> bool:
    return held is not None and held.receipt.state == "sending" and held.receipt.attempt.claim == claim.id


def is_posting() -> bool:
    """Whether a POST of this process is on its way, or its outcome is not noted yet."""
    return any(thread.name.startswith(POST_THREAD) for thread in threading.enumerate())


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


def _found_late(receipt: Receipt, request_id: str | None) -> KeyConflict:
    return KeyConflict(
        f"An earlier attempt of this key was for the same request, and xAI accepted it after all as {request_id}. "
        f"Nothing was sent: collect that request id into another key, without paying.",
        key=receipt.key,
        request_id=request_id,
    )
