"""The state of one video, from its submission to its URLs."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from prefect_xai_video.emulator.bodies import PublicUrl, StorageOptions
from prefect_xai_video.emulator.faults import ChosenFaults, Fault
from prefect_xai_video.emulator.inputs import RenderFailed
from prefect_xai_video.emulator.validation import AcceptedRequest

TICK_DIGITS = 10
"""A tick, in which the service counts, is 1e-10 USD."""

Outcome = Literal["pending", "done", "failed", "moderated", "expired"]


@dataclass(slots=True, kw_only=True)
class ResultUrl:
    """A URL under which the file can be fetched for a while.

    Attributes:
        expires_at: Until when, on the monotonic clock.
        signature: What its query holds; empty for a URL without a query.
        gone: The fault for which it is gone before its time.
    """

    expires_at: float
    signature: str = ""
    gone: Fault | None = None

    @property
    def has_expired(self) -> bool:
        """Whether it has had its time."""
        return time.monotonic() >= self.expires_at


@dataclass(slots=True, kw_only=True)
class Video:
    """One video.

    Attributes:
        request: What was asked for.
        request_id: Its id.
        cost_usd: What it costs; a guess until an input clip has been looked at.
        path: Where its file is, once it is done.
        submitted_at: When it was asked for.
        faults: What is to go wrong with it.
        fault_names: The names of these faults and of those of its submission.
        outcome: What has become of it.
        seconds: Its duration, once it is done.
        failure: Why it failed.
        begun: When it was asked for, on the monotonic clock.
        urls: The URLs that were handed out.
    """

    request: AcceptedRequest
    request_id: str
    cost_usd: Decimal
    path: Path
    submitted_at: datetime
    faults: ChosenFaults = field(default_factory=ChosenFaults)
    fault_names: Sequence[str] = ()
    outcome: Outcome = "pending"
    seconds: float = 0
    failure: RenderFailed | None = None
    begun: float = field(default_factory=time.monotonic)
    urls: list[ResultUrl] = field(default_factory=list)

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.begun

    @property
    def upload_url(self) -> str | None:
        """Where it is delivered."""
        return None if Fault.UPLOAD_SKIPPED in self.faults else self.request.upload_url

    @property
    def storage(self) -> StorageOptions | None:
        """How it is kept in the Files API."""
        storage = self.request.storage
        if Fault.PUBLIC_URL_ONLY in self.faults and not (storage and storage.public_url):
            storage = storage or StorageOptions(filename=f"{self.request_id}.mp4")
            return storage.model_copy(update={"public_url": True})
        return storage

    def fail(self, failure: RenderFailed) -> None:
        """End as failed: nothing is billed."""
        self.failure = failure
        self.cost_usd = Decimal(0)
        self.outcome = "failed"

    def hand_out_url(self, ttl_seconds: float) -> str:
        """Make a new URL, without its host, under which the file can be fetched for a while."""
        signature = secrets.token_hex(32) if self.faults.strike(Fault.SIGNED_URL) else ""
        self.urls.append(ResultUrl(expires_at=time.monotonic() + ttl_seconds, signature=signature))
        number = len(self.urls)
        folder = "" if number == 1 else f"{number}/"
        query = f"?X-Amz-Expires=3600&X-Amz-Signature={signature}" if signature else ""
        return f"/xai-vidgen-bucket/{folder}xai-video-{self.request_id}.mp4{query}"

    def handed_out_url(self, number: int) -> ResultUrl | None:
        """The URL with this number, if it was ever handed out."""
        return self.urls[number - 1] if 1 <= number <= len(self.urls) else None

    def has_public_url(self, now: datetime) -> bool:
        """Whether it is kept in the Files API with a public URL that has not expired yet."""
        storage = self.storage
        if self.outcome != "done" or storage is None or not storage.public_url:
            return False
        lifetimes = (
            storage.expires_after,
            storage.public_url.expires_after if isinstance(storage.public_url, PublicUrl) else None,
        )
        age = (now - self.submitted_at).total_seconds()
        return all(lifetime is None or age < lifetime for lifetime in lifetimes)
