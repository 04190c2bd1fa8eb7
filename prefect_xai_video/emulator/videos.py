"""The videos that were asked for: what each costs, how far it is, and what has become of it."""

import base64
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from prefect_xai_video.capabilities import ModelCapabilities, estimate_cost
from prefect_xai_video.emulator.validation import Body, Edit, Extension, Generation, Source

TICKS_PER_USD = 10**10
MODERATED = "[moderated]"
"""A prompt with this marker is blocked after its render, and billed."""

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_UNSEEN_SECONDS = 6
_UNSEEN_SIZE = (1280, 720)
_UNSEEN_RESOLUTION = "720p"
"""What an input clip is taken for that can't be looked at: the emulator talks to this machine only."""

Outcome = Literal["pending", "done", "failed", "moderated"]


class BadInput(Exception):
    """An input that the service finds out to be useless only when it renders."""


@dataclass
class Video:
    """One accepted request.

    Attributes:
        request_id: Its id.
        model: Canonical name of the model.
        body: What was asked for.
        accepted_at: When, as UTC.
        cost_usd: What it costs, in USD; known for certain once it is rendered.
        seconds: Duration of the result.
        render: The render, which ends with the MP4 or with why there is none.
        links: Expiry of each URL that was given out, oldest first, on the monotonic clock.
    """

    request_id: str
    model: str
    body: Body
    accepted_at: datetime
    cost_usd: Decimal
    seconds: int
    render: "Future[bytes]"
    began: float = field(default_factory=time.monotonic)
    links: list[float] = field(default_factory=list)

    @property
    def mode(self) -> str:
        """Text, image, reference, edit or extend."""
        return self.body.mode


class Renderer:
    """One thread that renders, since a clip keeps a core busy."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="render")

    def submit(self, work: Callable[[], bytes]) -> "Future[bytes]":
        """Render in the background."""
        return self._pool.submit(work)

    def close(self) -> None:
        """Forget what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Videos:
    """All accepted requests.

    Args:
        renderer: Who renders.
        render_seconds: How long a render takes at least.
        url_ttl_seconds: How long a result URL lives.
    """

    def __init__(self, renderer: Renderer, render_seconds: float, url_ttl_seconds: float) -> None:
        self._renderer = renderer
        self._render_seconds = render_seconds
        self._url_ttl_seconds = url_ttl_seconds
        self._videos: dict[str, Video] = {}
        self._lock = threading.Lock()

    def accept(self, body: Body, entry: ModelCapabilities) -> Video:
        """Take a request, and begin to render it."""
        request_id = str(uuid.uuid4())
        video = Video(
            request_id=request_id,
            model=entry.model,
            body=body,
            accepted_at=datetime.now(UTC),
            cost_usd=cost_of(body),
            seconds=getattr(body, "duration", _UNSEEN_SECONDS),
            render=Future(),
        )
        with self._lock:
            self._videos[request_id] = video
        video.render = self._renderer.submit(lambda: _render(video))
        return video

    def find(self, request_id: str) -> Video | None:
        """The request of an id."""
        return self._videos.get(request_id)

    def progress(self, video: Video) -> int:
        """How far a video is, 0-99; 100 when its time is over and its file is there."""
        elapsed = time.monotonic() - video.began
        if elapsed >= self._render_seconds and video.render.done():
            return 100
        return min(99, int(100 * elapsed / max(self._render_seconds, 0.001)))

    def outcome(self, video: Video) -> Outcome:
        """What has become of a video."""
        if self.progress(video) < 100:
            return "pending"
        if video.render.exception() is not None:
            return "failed"
        return "moderated" if MODERATED in video.body.prompt else "done"

    def link(self, video: Video) -> int:
        """Number of a URL of the video that has not expired."""
        with self._lock:
            if not video.links or video.links[-1] <= time.monotonic():
                video.links.append(time.monotonic() + self._url_ttl_seconds)
            return len(video.links) - 1

    def is_expired(self, video: Video, link: int) -> bool:
        """Whether a URL that was given out no longer works."""
        return video.links[link] <= time.monotonic()

    def billed(self) -> Decimal:
        """What was billed so far, in USD: all that was accepted and did not fail."""
        videos = list(self._videos.values())
        return sum((video.cost_usd for video in videos if self.outcome(video) != "failed"), Decimal(0))

    def ledger(self) -> dict[str, Any]:
        """What was billed, by request."""
        return {
            "billed_usd": f"{self.billed():f}",
            "submissions": len(self._videos),
            "requests": [
                {
                    "request_id": video.request_id,
                    "time": video.accepted_at.isoformat(),
                    "model": video.model,
                    "mode": video.mode,
                    "cost_usd": "0" if self.outcome(video) == "failed" else f"{video.cost_usd:f}",
                    "outcome": self.outcome(video),
                }
                for video in list(self._videos.values())
            ],
        }


def cost_of(body: Body, input_seconds: float = _UNSEEN_SECONDS, resolution: str = _UNSEEN_RESOLUTION) -> Decimal:
    """What a request costs by the price table, in USD.

    Args:
        body: The request.
        input_seconds: Duration of the input clip.
        resolution: Resolution of an edit or extension, which keeps that of its input.
    """
    if isinstance(body, Generation):
        cost = estimate_cost(
            body.model, seconds=body.duration, resolution=body.resolution, input_images=len(body.images)
        )
    else:
        seconds = body.duration if isinstance(body, Extension) else input_seconds
        cost = estimate_cost(body.model, seconds=seconds, resolution=resolution, input_video_seconds=input_seconds)
    return cost or Decimal(0)


def _render(video: Video) -> bytes:
    """Render a video, fetch what it needs, and put it where it is wanted."""
    from prefect_xai_video.emulator import render  # noqa: PLC0415 (PyAV is an extra, and slow to import)

    body = video.body
    if isinstance(body, Generation):
        pictures = [_fetch(source) for source in body.images]
        content = render.generation(body, next((picture for picture in pictures if picture), None))
    else:
        clip = _fetch(body.video)
        seen = render.look_at(clip) if clip else render.Clip((), _UNSEEN_SIZE, _UNSEEN_SECONDS)
        resolution = "480p" if min(seen.size) <= 480 else "720p"
        video.cost_usd = cost_of(body, seen.seconds, resolution)
        video.seconds = round(seen.seconds) + (body.duration if isinstance(body, Extension) else 0)
        content = render.edit(body, seen) if isinstance(body, Edit) else render.extension(body, seen)
    if body.output is not None:
        _deliver(body.output.upload_url, content)
    return content


def _fetch(source: Source) -> bytes | None:
    """The bytes of an input; None for one that lies on another machine, which is taken as good."""
    url = source.url or ""
    if url.startswith("data:"):
        try:
            return base64.b64decode(url.partition(",")[2], validate=True)
        except ValueError as error:
            raise BadInput("The input data could not be decoded.") from error
    if urlsplit(url).hostname not in _LOOPBACK:
        return None
    try:
        return httpx.get(url, timeout=10).raise_for_status().content
    except httpx.HTTPError as error:
        raise BadInput("The input URL could not be fetched.") from error


def _deliver(url: str, content: bytes) -> None:
    if urlsplit(url).hostname not in _LOOPBACK:
        raise BadInput("The upload URL could not be reached.")
    try:
        httpx.put(url, content=content, headers={"Content-Type": "video/mp4"}, timeout=30).raise_for_status()
    except httpx.HTTPError as error:
        raise BadInput("The video could not be uploaded.") from error
