"""Posting: sends the one POST of a claim and records its outcome."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from typing_extensions import override

from prefect_xai_video.api.client import Accepted, XaiVideoClient
from prefect_xai_video.api.outcomes import unknown_outcome
from prefect_xai_video.api.pacer import Turn
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.threads import use_loop_threads
from prefect_xai_video.engine.attempts import new_claim
from prefect_xai_video.engine.journal import CLAIM_SECONDS, Journal
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held
from prefect_xai_video.errors import StorageError, SubmissionUnknown, XaiVideoError

R = TypeVar("R")

logger = logging.getLogger(__name__)

OnAccepted = Callable[[str, str, str | None], object]
"""Called with key, request id and trace id the moment xAI has accepted a request."""


POST_SECONDS = CLAIM_SECONDS - 20
"""Time-out of a whole POST in seconds. Its outcome is then recorded as unknown, before others give up its claim."""


SEND_SECONDS = CLAIM_SECONDS / 2
"""Age in seconds above which a claim is not sent: others might give it up as abandoned before the POST has ended."""


RECORD_SECONDS = 30
"""Longest wait in seconds for a received request id to be recorded; after it, the id is reported in an error."""


CLEANUP_SECONDS = 8
"""Longest clean-up of a cancelled run in seconds, the wait for a POST included; Prefect kills the run after 10 s."""


POST_THREAD = "xai-video-post"
"""Name prefix of the threads that send a POST and record its outcome."""


class Permit(Protocol):
    """Permission to submit a request."""

    async def acquire(self, request: VideoRequest) -> None:
        """Wait for a slot and for the rate limit, before a claim.

        Raises:
            LimitReached: If a limit can never admit the request.
        """

    async def spend(self, request: VideoRequest) -> None:
        """Take the estimated cost from the budget, once the claim has been written.

        Raises:
            LimitReached: If the budget is too small, or can't be queried.
        """

    async def refund(self, request: VideoRequest) -> None:
        """Return the estimated cost to the budget, because the submission was certainly refused. Never raises."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send one POST, timed from just before it is written to the receipt.

    Attributes:
        id: Random id.
        monotonic: Time of creation by the monotonic clock, which can't be set.
        wall: Time of creation by the system clock, which also advances while the machine is suspended. Unix time in
            seconds.
        turn: Turn of its POST; None if the client has no pace.
    """

    id: str = field(default_factory=new_claim)
    monotonic: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)
    turn: Turn | None = None

    def renewed(self, turn: Turn | None) -> "Claim":
        """Return a claim with the same id and the current time."""
        return Claim(self.id, turn=turn)

    def check_age(self) -> None:
        """Check that no other run can have given up this claim.

        Raises:
            StorageError: If it is too old to be sent, or the system clock was set forward meanwhile.
        """
        elapsed = time.monotonic() - self.monotonic
        age = max(elapsed, time.time() - self.wall)
        if age > SEND_SECONDS:
            raise StorageError(
                f"The claim to send the request is {age:.0f} s old, more than the {SEND_SECONDS:.0f} s allowed: this "
                f"process was suspended, or the store is slow. Nothing was sent.",
                transient=True,
            )


ACCEPTED = "xAI accepted request %s for key %s%s"
"""Line of the log with request id, key, and `traced`."""


def traced(trace_id: str | None) -> str:
    """Return the end of a line of the log that has a trace id."""
    return f" (trace id {trace_id})" if trace_id else ""


def log_accepted(key: str, request_id: str, trace_id: str | None) -> None:
    """Log a request id as a warning: it is worth money and may not be recorded anywhere else yet."""
    logger.warning(ACCEPTED, request_id, key, traced(trace_id))


@dataclass(frozen=True, slots=True)
class Posting:
    """Sends the one POST of a claim and records its outcome, even if the caller is cancelled.

    Both happen in a dedicated thread, which no cancellation can interrupt and which never waits in a queue.
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
        """Send the POST, and wait until its outcome is recorded.

        Returns:
            The receipt as it is now, or as it would be if the store could be written to.

        Raises:
            ApiError: If the request was certainly refused.
            StorageError: If it was accepted but that could not be recorded; the error carries the request id.
        """
        posting = self._start()
        accepted = asyncio.wrap_future(self.accepted)
        try:
            first: set[asyncio.Future[Any]] = {posting, accepted}
            await asyncio.wait(first, timeout=POST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if accepted.done() and not posting.done():
                await asyncio.wait({posting}, timeout=RECORD_SECONDS)
        except asyncio.CancelledError:
            await asyncio.wait({posting}, timeout=CLEANUP_SECONDS)
            raise
        finally:
            has_arrived = accepted.done()
            accepted.cancel()
        if posting.done():
            return posting.result()
        if has_arrived:
            raise _unrecorded(accepted.result(), f"The store did not respond within {RECORD_SECONDS} s.")
        return await record_unknown(self.journal, self.held, unknown_outcome(f"no response within {POST_SECONDS} s"))

    def _start(self) -> "asyncio.Future[Receipt]":
        context = copy_context()
        context.run(use_loop_threads)
        thread = ThreadPoolExecutor(1, thread_name_prefix=POST_THREAD)
        posting = asyncio.get_running_loop().run_in_executor(
            thread, lambda: context.run(_run_inline, self._send_and_record())
        )
        thread.shutdown(wait=False)
        # If the caller no longer waits, the thread continues by itself; its error then counts as handled.
        posting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return posting

    async def _send_and_record(self) -> Receipt:
        try:
            accepted = await self._send()
        except SubmissionUnknown as error:
            return await record_unknown(self.journal, self.held, error)
        except XaiVideoError as error:
            await record_refusal(self.journal, self.held, error)
            await self.permit.refund(self.request)
            raise
        except Exception as error:
            return await record_unknown(
                self.journal, self.held, unknown_outcome(f"unexpected {type(error).__name__}")
            )
        self._report(accepted)
        return await self._record_accepted(accepted)

    async def _send(self) -> Accepted:
        attempt = self.held.receipt.attempt
        upload_url = None
        if attempt.direct:
            upload_url = await self.journal.store.upload_url(self.held.receipt.key, attempt.claim)
        return self.client.submit(
            self.request,
            upload_url=upload_url,
            storage=attempt.xai_file.options if attempt.xai_file else None,
            client_request_id=attempt.claim,
            before_send=self.claim.check_age,
        )

    def _report(self, accepted: Accepted) -> None:
        """Report the request id to the caller and the log, before anything else can fail."""
        try:
            self.on_accepted(self.held.receipt.key, accepted.request_id, accepted.trace_id)
        except BaseException:
            # Whatever a handler of logs raises, the id still has to be recorded: Rich raises SystemExit where the
            # console is a pipe that nobody reads any more.
            with suppress(BaseException):
                log_accepted(self.held.receipt.key, accepted.request_id, accepted.trace_id)
        # If the caller was cancelled, the future is cancelled, too.
        with suppress(InvalidStateError):
            self.accepted.set_result(accepted)

    async def _record_accepted(self, accepted: Accepted) -> Receipt:
        claim, request_id, trace_id = self.held.receipt.attempt.claim, accepted.request_id, accepted.trace_id

        async def record() -> Receipt:
            held = await self.journal.change(
                self.held, lambda receipt: receipt.late_reply(claim, request_id, trace_id)
            )
            return held.receipt

        try:
            return await self.client.retries.call(record)
        except Exception as error:
            # The id is recorded nowhere else: another run would only find an abandoned claim.
            logger.critical("xAI accepted request %s, but its receipt could not be written", request_id)
            message = error.message if isinstance(error, XaiVideoError) else f"The receipt can't be written: {error}."
            raise _unrecorded(accepted, message) from error


class _InlineExecutor(ThreadPoolExecutor):
    """Executes each call immediately, in the thread that submits it."""

    @override
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        result: Future[Any] = Future()
        try:
            result.set_result(function(*args, **kwargs))
        except BaseException as error:
            result.set_exception(error)
        return result


def _run_inline(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine without using any other thread.

    The main thread may have ended while the response was awaited. Python then starts no more threads, so
    `asyncio.to_thread` fails, but the request id must still be recorded in the receipt.
    """
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_InlineExecutor(1))
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def record_refusal(journal: Journal, held: Held, error: XaiVideoError) -> Receipt:
    """Record that the POST of a claim was certainly not accepted, or not sent."""
    claim = held.receipt.attempt.claim
    return await _record(journal, held, lambda receipt: receipt.late_refusal(claim, error))


async def record_unknown(journal: Journal, held: Held, error: SubmissionUnknown) -> Receipt:
    """Record that the outcome is unknown, unless the receipt no longer has this claim in state `sending`."""
    claim = held.receipt.attempt.claim

    def unknown(receipt: Receipt) -> Receipt:
        is_own = receipt.state == "sending" and receipt.attempt.claim == claim
        return receipt.unknown(error) if is_own else receipt

    return await _record(journal, held, unknown)


async def clean_up(work: Coroutine[Any, Any, object]) -> None:
    """Finish a clean-up even if its run is cancelled repeatedly, within `CLEANUP_SECONDS`.

    Raises:
        asyncio.CancelledError: If the run was cancelled during the clean-up.
    """
    loop = asyncio.get_running_loop()
    cleaning, end = loop.create_task(work), loop.time() + CLEANUP_SECONDS
    cleaning.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    cancelled: asyncio.CancelledError | None = None
    while not cleaning.done() and loop.time() < end:
        try:
            await asyncio.wait({cleaning}, timeout=end - loop.time())
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _record(journal: Journal, held: Held, change: Callable[[Receipt], Receipt]) -> Receipt:
    """Record the outcome of a claim.

    A failing store must not hide the outcome of the POST. The claim then becomes `unknown` later, which is safe.

    Returns:
        The receipt as it is now, or as it would be if the store could be written to.
    """
    try:
        return (await journal.change(held, change)).receipt
    except StorageError as problem:
        logger.warning("The outcome of the submission could not be recorded in its receipt: %s", problem)
        return change(held.receipt)


def _unrecorded(accepted: Accepted, message: str) -> StorageError:
    return StorageError(
        f"{message} xAI accepted the request. Once the store can be written to, adopt its request id into the key "
        f"(flow collect-video, or xai-video adopt). That costs nothing.",
        request_id=accepted.request_id,
        trace_id=accepted.trace_id,
        transient=False,
    )


def is_posting() -> bool:
    """Whether this process has a POST in progress or an outcome to record."""
    return any(thread.name.startswith(POST_THREAD) for thread in threading.enumerate())
