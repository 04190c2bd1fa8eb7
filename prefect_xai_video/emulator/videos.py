"""The state of one video, from its submission to its URL, and the answers to polls that follow from it."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from starlette.responses import JSONResponse, Response

from prefect_xai_video.emulator.bodies import PublicUrl, StorageOptions
from prefect_xai_video.emulator.inputs import RenderFailed
from prefect_xai_video.emulator.validation import AcceptedRequest

TICK_DIGITS = 10
"""A tick, in which the service counts, is 1e-10 USD."""

MODERATED_WORD = "[moderated]"
"""A prompt with this word gives a video that moderation rejects once it is rendered, and paid for."""

Outcome = Literal["pending", "done", "failed", "moderated"]


@dataclass(slots=True, kw_only=True)
class Video:
    """One video.

    Attributes:
        request: What was asked for.
        request_id: Its id.
        cost_usd: What it costs; a guess until an input clip has been looked at.
        path: Where its file is, once it is done.
        submitted_at: When it was asked for.
        outcome: What has become of it.
        seconds: Its duration, once it is done.
        failure: Why it failed.
    """

    request: AcceptedRequest
    request_id: str
    cost_usd: Decimal
    path: Path
    submitted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    outcome: Outcome = "pending"
    seconds: float = 0
    failure: RenderFailed | None = None
    _begun: float = field(default_factory=time.monotonic)
    _urls_until: list[float] = field(default_factory=list)

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self._begun

    def fail(self, failure: RenderFailed) -> None:
        """End as failed: nothing is billed."""
        self.failure = failure
        self.cost_usd = Decimal(0)
        self.outcome = "failed"

    def hand_out_path(self, ttl_seconds: float) -> str:
        """Make a new path under which the file can be fetched for a while."""
        self._urls_until.append(time.monotonic() + ttl_seconds)
        number = len(self._urls_until)
        folder = "" if number == 1 else f"{number}/"
        return f"/xai-vidgen-bucket/{folder}xai-video-{self.request_id}.mp4"

    def was_handed_out(self, number: int) -> bool:
        """Whether a path of this number was ever handed out."""
        return 1 <= number <= len(self._urls_until)

    def has_expired(self, number: int) -> bool:
        """Whether the path of this number has had its time."""
        return time.monotonic() >= self._urls_until[number - 1]


def answer_poll(video: Video, *, root_url: str, render_seconds: float, url_ttl_seconds: float) -> Response:
    """Answer GET /videos/{request_id}.

    Args:
        video: The video.
        root_url: Where the emulator is.
        render_seconds: How long a render takes.
        url_ttl_seconds: How long the URL in the answer is to live.

    Returns:
        The answer that belongs to the state of the video.
    """
    if video.outcome == "pending":
        progress = min(99, int(100 * video.age / render_seconds)) if render_seconds > 0 else 99
        return JSONResponse({"status": "pending", "progress": progress}, status_code=202)
    if video.failure is not None:
        error = {"code": video.failure.code, "message": video.failure.message}
        return JSONResponse({"status": "failed", "error": error})
    if video.outcome == "moderated":
        rejection = "Generated video rejected by content moderation."
        answer = {"code": "imagine:content-moderated", "error": rejection, "usage": _usage(video)}
        return JSONResponse(answer, status_code=400)
    url = video.request.upload_url or root_url + video.hand_out_path(url_ttl_seconds)
    return _done(video, url, root_url)


def public_url_is_open(video: Video, now: float) -> bool:
    """Whether a video is kept in the Files API with a public URL that has not expired yet."""
    storage = video.request.storage
    if video.outcome != "done" or storage is None or not storage.public_url:
        return False
    submitted = video.submitted_at.timestamp()
    lifetimes = (
        storage.expires_after,
        storage.public_url.expires_after if isinstance(storage.public_url, PublicUrl) else None,
    )
    return all(lifetime is None or now < submitted + lifetime for lifetime in lifetimes)


def _done(video: Video, url: str, root_url: str) -> Response:
    content: dict[str, Any] = {
        "url": url,
        "duration": max(1, round(video.seconds)),
        "respect_moderation": True,
    }
    if video.request.storage is not None:
        content["file_output"] = _file_output(video, video.request.storage, root_url)
    return JSONResponse(
        {
            "status": "done",
            "video": content,
            "model": video.request.model,
            "usage": _usage(video),
            "progress": 100,
        }
    )


def _usage(video: Video) -> dict[str, int]:
    return {"cost_in_usd_ticks": int(video.cost_usd.scaleb(TICK_DIGITS))}


def _file_output(video: Video, storage: StorageOptions, root_url: str) -> dict[str, Any]:
    output: dict[str, Any] = {
        "file_id": f"file_{video.request_id}",
        "filename": storage.filename or f"xai-video-{video.request_id}.mp4",
    }
    submitted = int(video.submitted_at.timestamp())
    if storage.expires_after is not None:
        output["expires_at"] = submitted + storage.expires_after
    if storage.public_url:
        output["public_url"] = f"{root_url}/xai-files/{video.request_id}.mp4"
        if isinstance(storage.public_url, PublicUrl) and storage.public_url.expires_after is not None:
            output["public_url_expires_at"] = submitted + storage.public_url.expires_after
    return output
