"""The state of one video, from its submission to its URLs."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from prefect_xai_video.emulator.bodies import StorageOptions
from prefect_xai_video.emulator.chosen_faults import ChosenFaults
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.inputs import RenderFailed
from prefect_xai_video.emulator.prepared import Clip
from prefect_xai_video.emulator.validation import AcceptedRequest

TICK_DIGITS = 10
"""The service counts costs in ticks of 1e-10 USD."""

FRESH_SHARE = 0.95
"""Share of its lifetime that an almost new URL has left."""

Outcome = Literal["pending", "done", "failed", "moderated", "expired", "cancelled"]


@dataclass(slots=True, kw_only=True)
class ResultUrl:
    """A temporary URL of a finished video.

    Attributes:
        expires_at: Time at which it expires, on the monotonic clock.
        signature: Signature in its query; empty for a URL without a query.
        gone: Fault because of which it ended early.
    """

    expires_at: float
    signature: str = ""
    gone: Fault | None = None

    @property
    def has_expired(self) -> bool:
        """Whether it has expired."""
        return time.monotonic() >= self.expires_at


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """Where a request of the Batch API belongs.

    Attributes:
        batch_id: Id of its batch.
        batch_request_id: Its own id, which need not be unique in the batch.
        expires_at: When the batch expires; its render does not begin later.
    """

    batch_id: str
    batch_request_id: str
    expires_at: datetime


@dataclass(slots=True, kw_only=True)
class Video:
    """One video.

    Attributes:
        request: The request for it.
        request_id: Its request id.
        cost_usd: Its cost in USD; an estimate until its input clip has been read.
        path: Path of its file, which exists when it is done.
        submitted_at: Time of the submission.
        faults: Its selected faults.
        fault_names: Names of these faults and of the faults of its submission.
        client_request_id: The `x-client-request-id` of its submission.
        place: Its place in a batch; None outside of batches.
        outcome: Its outcome so far.
        finished_at: Time at which its outcome was known.
        seconds: Its duration in seconds, when it is done.
        failure: Reason of its failure.
        pace: Factor by which its render takes longer than usual.
        begun: Time at which its render began, on the monotonic clock; None while it waits for a slot.
        clip: Prepared clip that is served for it in the light mode; None if it has a file of its own.
        urls: URLs that polls or readings of results have returned.
    """

    request: AcceptedRequest
    request_id: str
    cost_usd: Decimal
    path: Path
    submitted_at: datetime
    faults: ChosenFaults = field(default_factory=ChosenFaults)
    fault_names: Sequence[str] = ()
    client_request_id: str | None = None
    place: BatchPlace | None = None
    outcome: Outcome = "pending"
    finished_at: datetime | None = None
    seconds: float = 0
    failure: RenderFailed | None = None
    pace: float = 1
    begun: float | None = None
    clip: Clip | None = None
    urls: list[ResultUrl] = field(default_factory=list)

    @property
    def age(self) -> float:
        """Seconds since the render began; 0 while it waits for a slot."""
        return 0 if self.begun is None else time.monotonic() - self.begun

    @property
    def upload_url(self) -> str | None:
        """URL to which it is uploaded."""
        return None if Fault.UPLOAD_SKIPPED in self.faults else self.request.upload_url

    @property
    def storage(self) -> StorageOptions | None:
        """Its options for the Files API."""
        storage = self.request.storage
        if Fault.PUBLIC_URL_ONLY in self.faults and not (storage and storage.public_url):
            storage = storage or StorageOptions(filename=f"{self.request_id}.mp4")
            return storage.model_copy(update={"public_url": True})
        return storage

    def begin(self) -> None:
        """Note that the render begins now."""
        self.begun = time.monotonic()

    def fail(self, failure: RenderFailed) -> None:
        """Set the outcome to failed, so that nothing is billed."""
        self.failure = failure
        self.cost_usd = Decimal(0)
        self.outcome = "failed"

    def cancel(self) -> None:
        """Set the outcome to cancelled, so that nothing is billed."""
        self.cost_usd = Decimal(0)
        self.outcome = "cancelled"

    def hand_out_url(self, ttl_seconds: float) -> str:
        """Create a new temporary URL of the file, without its host."""
        signature = secrets.token_hex(32) if self.faults.strike(Fault.SIGNED_URL) else ""
        self.urls.append(ResultUrl(expires_at=time.monotonic() + ttl_seconds, signature=signature))
        return self._newest_url()

    def fresh_url(self, ttl_seconds: float) -> str:
        """Return the newest URL if it is almost new, or a new one: results may be read often, and all at once."""
        newest = self.urls[-1] if self.urls else None
        if newest and not newest.gone and newest.expires_at - time.monotonic() > FRESH_SHARE * ttl_seconds:
            return self._newest_url()
        return self.hand_out_url(ttl_seconds)

    def _newest_url(self) -> str:
        number, signature = len(self.urls), self.urls[-1].signature
        folder = "" if number == 1 else f"{number}/"
        query = f"?X-Amz-Expires=3600&X-Amz-Signature={signature}" if signature else ""
        return f"/xai-vidgen-bucket/{folder}xai-video-{self.request_id}.mp4{query}"

    def handed_out_url(self, number: int) -> ResultUrl | None:
        """Return the URL with this number; None if no poll returned it."""
        return self.urls[number - 1] if 1 <= number <= len(self.urls) else None
