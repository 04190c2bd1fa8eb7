"""What the Prefect UI shows of a video: its progress while it is rendered, then itself, or why there is none.

It is all decoration: what goes wrong with it is logged, and the run goes on.
"""

import asyncio
import base64
import hashlib
import html
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from prefect.artifacts import MarkdownArtifact, acreate_progress_artifact, aupdate_progress_artifact

from prefect_xai_video import errors
from prefect_xai_video.capabilities import MAX_PROMPT_CHARACTERS, dollars
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.markdown import code, cut, details, escaped, paragraph, table
from prefect_xai_video.previews import preview
from prefect_xai_video.receipts import NEXT_STEP, NOT_FOUND_STEP, Receipt, Video
from prefect_xai_video.responses import VideoStatus
from prefect_xai_video.settings import XaiVideoSettings
from prefect_xai_video.stores import Storage, VideoStore, open_store

STEP = 50
"""Percent by which progress must have grown to be worth a request to Prefect."""

STEP_SECONDS = 2
"""How long what is shown must have stood there: nobody sees more."""

MOST_SECONDS = 45
"""What an artifact of a video or a failure may delay a run, at most."""

PROGRESS_SECONDS = 5
"""What showing the progress may delay a run, at most: then it is not shown any more."""

SHORT_PROMPT = 300
"""Characters of a prompt in a table; a longer one is shown whole on demand."""

MOST_SAID = 2000
"""Characters of an error's sentence that are shown."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def _decoration(what: str, seconds: float = MOST_SECONDS) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except Exception:
        logger.debug("The artifact of %s could not be written.", what, exc_info=True)


class ProgressArtifact:
    """One progress artifact of the current run, made when xAI first reports progress.

    Args:
        description: What is in progress. It is public in the UI: no prompt, no URL.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._id: UUID | None = None
        self._shown, self._shown_at = 0, 0.0
        self._failed = False

    async def show(self, status: VideoStatus) -> None:
        """Show one answer of xAI, if it is news."""
        progress = 100 if status.state == "done" else status.progress
        if self._failed or progress is None or (self._id is not None and not self._is_news(progress)):
            return
        self._failed = True
        async with _decoration("progress", PROGRESS_SECONDS):
            await self._write(progress)
            self._failed = False
        self._shown, self._shown_at = progress, time.monotonic()

    def _is_news(self, progress: int) -> bool:
        stood = time.monotonic() >= self._shown_at + STEP_SECONDS
        return (stood and progress >= self._shown + STEP) or (progress == 100 and self._shown < 100)

    async def _write(self, progress: int) -> None:
        if self._id is None:
            self._id = await acreate_progress_artifact(float(progress), description=self._description)
        else:
            await aupdate_progress_artifact(self._id, float(progress))


class Link(NamedTuple):
    """A URL that shows a video to whoever has it.

    Attributes:
        url: The URL.
        until: When it ends at the latest.
    """

    url: str
    until: datetime


async def publish_video(video: Video, storage: Storage | None = None) -> None:
    """Show a stored video as an artifact of the current run.

    Args:
        video: The video.
        storage: Where it lies. Default: the directory of the setting `HOME`.
    """
    async with _decoration(video.key):
        settings = XaiVideoSettings.current()
        store = open_store(storage, settings.home)
        held = await store.read(video.key)
        if held is not None:
            picture = await _preview(store, video.key) if settings.preview else None
            link = await _link(store, video.key, settings.link_seconds)
            await _publish(video.key, video_markdown(held.receipt, video, picture, link), video_description(video))


async def publish_failure(error: XaiVideoError, storage: Storage | None = None) -> None:
    """Show as an artifact of the current run why there is no video, what that cost, and what to do next.

    Args:
        error: What happened.
        storage: Where the receipt lies, if there is one. Default: the directory of the setting `HOME`.
    """
    # A request that does not fit says nothing about the video of its key.
    about = None if isinstance(error, errors.KeyConflict | errors.InvalidRequest) else error.key
    async with _decoration(about or "a failure"):
        receipt = await _receipt(about, storage) if about else None
        await _publish(about, failure_markdown(error, receipt), failure_description(error, receipt))


async def _publish(key: str | None, markdown: str, description: str) -> None:
    await MarkdownArtifact(key=artifact_key(key), markdown=markdown, description=description).acreate()


async def _preview(store: VideoStore, key: str) -> bytes | None:
    async with _decoration(f"{key}, its preview"), store.local_copy(key) as path:
        return await asyncio.to_thread(preview, path)
    return None


async def _link(store: VideoStore, key: str, seconds: int) -> Link | None:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    async with _decoration(f"{key}, its link"):
        url = await store.link(key, seconds) if seconds else None
        return Link(url, until) if url else None
    return None


async def _receipt(key: str, storage: Storage | None) -> Receipt | None:
    async with _decoration(f"{key}, its receipt"):
        held = await open_store(storage, XaiVideoSettings.current().home).read(key)
        return held.receipt if held else None
    return None


def artifact_key(key: str | None) -> str:
    """The artifact key of a video: the same for the same video key, and for no other.

    All that becomes of a key, failures and the video, is then one history in the UI; so is what belongs to no key.
    """
    if key is None:
        return "xai-video-requests"
    name = re.sub(r"[^a-z0-9]+", "-", key.lower())[-40:].strip("-")
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return "-".join(part for part in ("xai-video", name, digest) if part)


def video_description(video: Video) -> str:
    """One line on a video, in Markdown, for the list of artifacts."""
    facts = (
        f"{video.duration} s" if video.duration else None,
        None if video.cost_usd is None else dollars(video.cost_usd),
    )
    return " · ".join(["Video stored", *(fact for fact in facts if fact), f"key `{video.key}`"])


def video_markdown(receipt: Receipt, video: Video, picture: bytes | None = None, link: Link | None = None) -> str:
    """Write what shows a stored video: picture, link, player, and a table of what is known of it.

    Args:
        receipt: Its receipt.
        video: The video.
        picture: An animated WebP of it.
        link: Where it can be seen.
    """
    rows = [
        ("Prompt", _short_prompt(receipt)),
        *_request_rows(receipt),
        ("Duration", f"{video.duration} s" if video.duration else None),
        ("Cost", None if video.cost_usd is None else dollars(video.cost_usd)),
        ("Key", code(video.key)),
        ("Request id", code(video.request_id) if video.request_id else None),
        ("Video", code(video.uri)),
        ("Size", _size(video.size)),
        ("SHA-256", f"{code(video.sha256[:32])}<br>{code(video.sha256[32:])}"),
        ("Receipt", code(video.receipt_uri)),
        *_time_rows(receipt),
    ]
    parts = [_image(picture), _link_line(link), _player(link), table(rows), _whole_prompt(receipt)]
    return "\n\n".join(part for part in parts if part)


def failure_description(error: XaiVideoError, receipt: Receipt | None = None) -> str:
    """One line on a failure, in Markdown, for the list of artifacts."""
    key = f" · key `{error.key}`" if error.key and "`" not in error.key else ""
    return f"{_telling(error, receipt).title} · cost: {_cost(error, receipt)[0]}{key}"


def failure_markdown(error: XaiVideoError, receipt: Receipt | None = None) -> str:
    """Write why there is no video: what happened, what it cost, what to do next, and what is known.

    Args:
        error: What happened.
        receipt: The receipt of the key, if there is one.
    """
    telling, cost = _telling(error, receipt), _cost(error, receipt)
    rows = [
        ("Key", code(error.key) if error.key else None),
        ("Request id", code(error.request_id) if error.request_id else None),
        ("Error", code(type(error).__name__)),
        ("HTTP status", str(error.http_status) if error.http_status else None),
        ("xAI's code", code(cut(error.code, 100)) if error.code else None),
        ("xAI's trace id", code(cut(error.trace_id, 100)) if error.trace_id else None),
        ("xAI's response", code(cut(error.answer, MOST_SAID)) if error.answer else None),
    ]
    if receipt is not None:
        rows += [("Prompt", _short_prompt(receipt)), *_request_rows(receipt), *_time_rows(receipt)]
    parts = [
        f"## {telling.title}",
        paragraph(cut(error.message, MOST_SAID)),
        f"**What it cost:** {cost[0]}{f' ({cost[1]})' if cost[1] else ''}",
        f"**What to do:** {telling.step}",
        table(rows),
        _whole_prompt(receipt) if receipt else None,
    ]
    return "\n\n".join(part for part in parts if part)


def _image(picture: bytes | None) -> str | None:
    return f"![preview](data:image/webp;base64,{base64.b64encode(picture).decode()})" if picture else None


def _link_line(link: Link | None) -> str | None:
    if link is None:
        return None
    # A link that is signed with a session's token ends with that session.
    early = ", or until the credentials that signed it end" if "X-Amz-Security-Token" in link.url else ""
    return f"[Open the video](<{link.url}>) · good until {_moment(link.until)} at the latest{early}"


def _player(link: Link | None) -> str | None:
    """The classic UI plays it; the new one leaves it out."""
    if link is None:
        return None
    source = html.escape(link.url)
    return f'<video controls preload="metadata" width="360" src="{source}"></video>'


def _short_prompt(receipt: Receipt) -> str | None:
    return escaped(cut(_prompt(receipt), SHORT_PROMPT)) or None


def _whole_prompt(receipt: Receipt) -> str | None:
    prompt = _prompt(receipt)
    if len(prompt) <= SHORT_PROMPT:
        return None
    return details("The whole prompt", cut(prompt, MAX_PROMPT_CHARACTERS))


def _prompt(receipt: Receipt) -> str:
    prompt = receipt.request.get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _request_rows(receipt: Receipt) -> list[tuple[str, str | None]]:
    unasked = (
        None if receipt.mode is None else "as its input" if receipt.mode in {"edit", "extend"} else "xAI's default"
    )
    asked = (receipt.request.get("resolution"), receipt.request.get("aspect_ratio"))
    resolution, aspect_ratio = (escaped(str(value)) if value else unasked for value in asked)
    return [
        ("Mode", receipt.mode),
        ("Model", code(receipt.model) if receipt.model else None),
        ("Resolution", resolution),
        ("Aspect ratio", aspect_ratio),
    ]


def _time_rows(receipt: Receipt) -> list[tuple[str, str | None]]:
    """When it was sent, and how long each step took, as far as somebody looked on."""
    attempt = receipt.attempt
    stored_at = attempt.outcome_at if receipt.state == "stored" else None
    return [
        ("Taken over" if attempt.reason == "adopted" else "Sent", _moment(attempt.started_at)),
        ("Accepted after", _between(attempt.started_at, attempt.submitted_at)),
        ("Queue and render", _between(attempt.submitted_at, attempt.done_at)),
        ("Save", _between(attempt.done_at, stored_at)),
    ]


def _between(begin: datetime | None, end: datetime | None) -> str | None:
    if begin is None or end is None or end < begin:
        return None
    seconds = (end - begin).total_seconds()
    return f"{seconds:.1f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


class _Telling(NamedTuple):
    """How a failure is told: its title, and what to do next, in Markdown."""

    title: str
    step: str


_AGAIN = "run again with this key."
_UNKNOWN_STEPS = (
    "look at the xAI console.\n\n"
    "1. If the request is there, run the flow `collect-video` with its request id and this key. That costs nothing.\n"
    "2. If it is not there, run again with this key and `on_unknown` set to `resubmit`. That pays for a new one.\n"
)
_TELLINGS: dict[type[XaiVideoError], _Telling] = {
    errors.InvalidRequest: _Telling("The request is not allowed", "mend what is named above, and run again."),
    errors.MissingCredentials: _Telling(
        "There is no xAI API key", "choose a credentials block, or set `XAI_API_KEY`, and run again."
    ),
    errors.KeyConflict: _Telling("The key belongs to another request", "use another key."),
    errors.LimitReached: _Telling(
        "A global limit of Prefect's has no room",
        f"wait until the limit has room, or raise it under *Concurrency*, then {_AGAIN}",
    ),
    errors.RescuesExhausted: _Telling(
        "The run lost its worker too often", f"look at why the workers died, then {_AGAIN}"
    ),
    errors.StorageError: _Telling("The storage can't be used", f"mend what is named above, then {_AGAIN}"),
    errors.AuthenticationFailed: _Telling("xAI does not take the API key", f"mend the API key, then {_AGAIN}"),
    errors.AccessDenied: _Telling("xAI gives no access", f"look at credits and access at xAI, then {_AGAIN}"),
    errors.RequestRejected: _Telling("xAI rejects the request", "mend what xAI names above, and run again."),
    errors.RateLimited: _Telling("There were too many requests", f"later, {_AGAIN}"),
    errors.ServiceUnavailable: _Telling("xAI could not be reached", f"later, {_AGAIN}"),
    errors.SubmissionUnknown: _Telling("Nobody knows whether xAI accepted the request", _UNKNOWN_STEPS),
    errors.VideoModerated: _Telling("Content moderation blocked the video", f"{NEXT_STEP['moderated']}."),
    errors.VideoFailed: _Telling("xAI could not render the video", f"{NEXT_STEP['failed']}."),
    errors.VideoExpired: _Telling("xAI no longer has the video", f"{NEXT_STEP['expired']}."),
    errors.VideoTimeout: _Telling("The video was not ready in time", f"{NEXT_STEP['submitted']}."),
    errors.DownloadError: _Telling("The finished video could not be fetched", f"{NEXT_STEP['done']}."),
}
_NOT_FOUND = _Telling("xAI does not know the request", f"{NOT_FOUND_STEP}.")
_SOMETHING = _Telling("There is no video", f"mend what is named above, then {_AGAIN}")


def _telling(error: XaiVideoError, receipt: Receipt | None) -> _Telling:
    if isinstance(error, errors.RequestRejected) and receipt is not None and receipt.is_not_found:
        return _NOT_FOUND
    kinds = (kind for kind in type(error).__mro__ if kind in _TELLINGS)
    return _TELLINGS.get(next(kinds, XaiVideoError), _SOMETHING)


def _cost(error: XaiVideoError, receipt: Receipt | None) -> tuple[str, str]:
    """What a failure cost, in a word, and what else is to be said of it."""
    estimate = receipt.estimated_cost_usd if receipt else None
    about = "something" if estimate is None else f"about {dollars(estimate)}"
    if error.cost_usd is not None:
        return (dollars(error.cost_usd) if error.cost_usd else "nothing"), "as xAI billed it"
    if error.resend_safe:
        return "nothing", "xAI accepted no request"
    if isinstance(error, errors.SubmissionUnknown):
        return f"perhaps {about}", "if xAI accepted the request, it is billed"
    if isinstance(error, errors.VideoTimeout):
        return about, "billed once it is rendered; to go on waiting costs nothing more"
    return f"perhaps {about}", "xAI did not say"
