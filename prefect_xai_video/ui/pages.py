"""The Markdown of artifacts, as pure functions of data."""

import base64
import hashlib
import html
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from prefect_xai_video import errors
from prefect_xai_video.api.capabilities import MAX_PROMPT_CHARACTERS
from prefect_xai_video.engine.next_steps import NEXT_STEP, NOT_FOUND_STEP
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.video_html import size_in_words
from prefect_xai_video.engine.videos import Video
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.money import dollars
from prefect_xai_video.ui.markdown import code, cut, details, escaped, paragraph, table

SHORT_PROMPT = 300
"""Longest prompt in a table, in characters; the full text of a longer one can be expanded."""

MAX_MESSAGE_CHARACTERS = 2000
"""Longest error message in an artifact, in characters."""


KEY_CHARACTERS = 40
"""Longest part of a video's key in the key of its artifact, in characters."""


class Link(NamedTuple):
    """A URL that opens a video without further credentials.

    Attributes:
        url: The URL.
        until: Time after which it no longer works; it may end earlier.
    """

    url: str
    until: datetime


def artifact_key(key: str | None) -> str:
    """Derive the artifact key of a video; it is unique to the video key.

    So the UI shows all failures of a key and its video as one history. Failures without a key share another one.
    """
    if key is None:
        return "xai-video-refusals"
    readable = key if len(key) <= KEY_CHARACTERS else key.rpartition("/")[2]
    name = re.sub(r"[^a-z0-9]+", "-", readable.lower())[:KEY_CHARACTERS].strip("-")
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return "-".join(part for part in ("xai-video", name, digest) if part)


def video_description(video: Video, words: str = "") -> str:
    """Describe a video in one line of Markdown, for the list of artifacts.

    Args:
        video: The video.
        words: The first words of its prompt, as a slug.
    """
    facts = (
        _title(words),
        "Video stored",
        f"{video.duration} s" if video.duration else None,
        video.price,
        f"key `{video.key}`",
    )
    return " · ".join(fact for fact in facts if fact)


def video_markdown(receipt: Receipt, video: Video, picture: bytes | None = None, link: Link | None = None) -> str:
    """Write the page of a stored video: preview, link, player, and a table of facts.

    Args:
        receipt: The receipt of the video.
        video: The video.
        picture: Its preview, an animated WebP.
        link: Link to the video.
    """
    rows = [
        ("Prompt", _short_prompt(receipt)),
        *_request_rows(receipt),
        ("Picture", video.picture),
        ("Duration", f"{video.duration} s" if video.duration else None),
        ("Cost", video.price),
        ("Key", code(video.key)),
        ("Request id", code(video.request_id) if video.request_id else None),
        ("Video", code(video.uri)),
        ("File at xAI", code(video.file_id) if video.file_id else None),
        ("Public URL", code(video.public_url) if video.public_url else None),
        ("Size", size_in_words(video.size)),
        ("SHA-256", f"{code(video.sha256[:32])}<br>{code(video.sha256[32:])}"),
        ("Receipt", code(video.receipt_uri)),
        ("Poster", code(video.poster) if video.poster else None),
        ("Last frame", code(video.last_frame) if video.last_frame else None),
        *_time_rows(receipt),
    ]
    parts = [shown(picture, link), table(rows), _full_prompt(receipt)]
    return "\n\n".join(part for part in parts if part)


def failure_description(error: XaiVideoError, receipt: Receipt | None = None, words: str = "") -> str:
    """Describe a failure in one line of Markdown, for the list of artifacts.

    Args:
        error: The error.
        receipt: The receipt of the key, if there is one.
        words: The first words of the prompt, as a slug.
    """
    facts = (
        _title(words),
        _explanation(error, receipt).title,
        f"cost: {_cost(error, receipt)[0]}",
        f"key `{error.key}`" if error.key and "`" not in error.key else None,
    )
    return " · ".join(fact for fact in facts if fact)


def _title(words: str) -> str:
    return words.replace("-", " ").capitalize()


def failure_markdown(error: XaiVideoError, receipt: Receipt | None = None) -> str:
    """Write the page of a failure: the reason, the cost, the next step, and a table of facts.

    Args:
        error: The error.
        receipt: The receipt of the key, if there is one.
    """
    explanation, cost = _explanation(error, receipt), _cost(error, receipt)
    rows = [
        ("Key", code(error.key) if error.key else None),
        ("Request id", code(error.request_id) if error.request_id else None),
        ("Error", code(type(error).__name__)),
        ("HTTP status", str(error.http_status) if error.http_status else None),
        ("xAI's code", code(cut(error.code, 100)) if error.code else None),
        ("xAI's trace id", code(cut(error.trace_id, 100)) if error.trace_id else None),
        ("xAI's response", code(cut(error.answer, MAX_MESSAGE_CHARACTERS)) if error.answer else None),
    ]
    if receipt is not None:
        rows += [("Prompt", _short_prompt(receipt)), *_request_rows(receipt), *_time_rows(receipt)]
    parts = [
        f"## {explanation.title}",
        paragraph(cut(error.message, MAX_MESSAGE_CHARACTERS)),
        f"**Cost:** {cost[0]}{f' ({cost[1]})' if cost[1] else ''}",
        f"**Next step:** {explanation.next_step}",
        table(rows),
        _full_prompt(receipt) if receipt else None,
    ]
    return "\n\n".join(part for part in parts if part)


def shown(picture: bytes | None, link: Link | None) -> str:
    """Write what is seen of a video: its preview, a link, and a player.

    Args:
        picture: Its preview, an animated WebP.
        link: Link to the video.
    """
    return "\n\n".join(filter(None, (_image(picture), _link_line(link), _player(link))))


def _image(picture: bytes | None) -> str | None:
    return f"![preview](data:image/webp;base64,{base64.b64encode(picture).decode()})" if picture else None


def _link_line(link: Link | None) -> str | None:
    if link is None:
        return None
    # A link that was signed with a session token ends with that session.
    early = ", or until the credentials that signed it expire" if "X-Amz-Security-Token" in link.url else ""
    return f"[Open the video](<{link.url}>) · valid until {_moment(link.until)} at the latest{early}"


def _player(link: Link | None) -> str | None:
    """Write a player for the video. The classic UI shows it; the new UI removes it."""
    if link is None:
        return None
    source = html.escape(link.url)
    return f'<video controls preload="metadata" width="360" src="{source}"></video>'


def _short_prompt(receipt: Receipt) -> str | None:
    return escaped(cut(_prompt(receipt), SHORT_PROMPT)) or None


def _full_prompt(receipt: Receipt) -> str | None:
    prompt = _prompt(receipt)
    if len(prompt) <= SHORT_PROMPT:
        return None
    return details("Full prompt", cut(prompt, MAX_PROMPT_CHARACTERS))


def _prompt(receipt: Receipt) -> str:
    prompt = receipt.request.get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _request_rows(receipt: Receipt) -> list[tuple[str, str | None]]:
    keeps_input = receipt.mode in {"edit", "extend"}
    # Once the size of the video is known, it says more than what nobody asked for.
    is_known = receipt.mode is None or (receipt.file is not None and receipt.file.width is not None)
    default = None if is_known else "same as the input" if keeps_input else "xAI's default"
    requested = (receipt.request.get("resolution"), receipt.request.get("aspect_ratio"))
    resolution, aspect_ratio = (escaped(str(value)) if value else default for value in requested)
    return [
        ("Mode", receipt.mode),
        ("Model", code(receipt.model) if receipt.model else None),
        ("Resolution", resolution),
        ("Aspect ratio", aspect_ratio),
    ]


def _time_rows(receipt: Receipt) -> list[tuple[str, str | None]]:
    """List when the request was sent and how long each step took, where a run recorded it."""
    attempt = receipt.attempt
    stored_at = attempt.outcome_at if receipt.state == "stored" else None
    return [
        ("Adopted" if attempt.reason == "adopted" else "Sent", _moment(attempt.started_at)),
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


class _Explanation(NamedTuple):
    """Title and next step of a failure, in Markdown."""

    title: str
    next_step: str


_RUN_AGAIN = "run again with this key."

_UNKNOWN_STEPS = (
    "look for the request in the xAI console.\n\n"
    "1. If it is there, run the flow `collect-video` with its request id and this key. That costs nothing.\n"
    "2. If it is not there, run again with this key and *On unknown outcome* (`on_unknown`) set to `resubmit`. That "
    "pays for a new video.\n"
)

_FIND_STEPS = (
    f"run again with this key: that looks for the video, without paying. If it does not appear, {_UNKNOWN_STEPS}"
)

_EXPLANATIONS: dict[type[XaiVideoError], _Explanation] = {
    errors.InvalidRequest: _Explanation("Invalid request", "fix the value named above and run again."),
    errors.InvalidManifest: _Explanation(
        "The manifest is not valid", "correct the rows named above and run again. Nothing was sent."
    ),
    errors.BatchFailed: _Explanation(
        "Some rows of the batch have no video", "do what the report says for each kind, and run the batch again."
    ),
    errors.MissingCredentials: _Explanation(
        "No xAI API key", "choose a credentials block, or set `XAI_API_KEY` where the flow runs, and run again."
    ),
    errors.KeyConflict: _Explanation(
        "The key belongs to another video", "do what the last sentence of the message above says."
    ),
    errors.LimitReached: _Explanation(
        "A global limit in Prefect does not allow this video",
        f"wait until the limit has room, or raise it under *Concurrency*, then {_RUN_AGAIN}",
    ),
    errors.RescuesExhausted: _Explanation(
        "The worker of this run died too often", f"find out why the workers died, then {_RUN_AGAIN}"
    ),
    errors.StorageError: _Explanation("Storage error", f"fix the problem named above, then {_RUN_AGAIN}"),
    errors.AuthenticationFailed: _Explanation("xAI rejected the API key", f"correct the API key, then {_RUN_AGAIN}"),
    errors.AccessDenied: _Explanation(
        "xAI denied access", f"check credits and model access in the xAI console, then {_RUN_AGAIN}"
    ),
    errors.RequestRejected: _Explanation(
        "xAI rejected the request", "fix the problem that xAI names above and run again."
    ),
    errors.RateLimited: _Explanation("Too many requests", f"wait a while, then {_RUN_AGAIN}"),
    errors.ServiceUnavailable: _Explanation("xAI could not be reached", f"wait a while, then {_RUN_AGAIN}"),
    errors.SubmissionUnknown: _Explanation("It is unknown whether xAI accepted the request", _UNKNOWN_STEPS),
    errors.VideoModerated: _Explanation("Content moderation blocked the video", f"{NEXT_STEP['moderated']}."),
    errors.VideoFailed: _Explanation("xAI could not render the video", f"{NEXT_STEP['failed']}."),
    errors.VideoExpired: _Explanation("xAI no longer has the video", f"{NEXT_STEP['expired']}."),
    errors.VideoTimeout: _Explanation("The video was not ready in time", f"{NEXT_STEP['submitted']}."),
    errors.DownloadError: _Explanation("The finished video could not be downloaded", f"{NEXT_STEP['done']}."),
}

_UNDELIVERED = _Explanation("It is unknown whether xAI accepted the request", _FIND_STEPS)

_NOT_FOUND = _Explanation("xAI does not know the request id", f"{NOT_FOUND_STEP}.")

_NOT_ADOPTED = _Explanation(
    "xAI does not know this request id",
    "check the request id, and that the credentials belong to the team that sent it. The key is unchanged.",
)

_DEFAULT = _Explanation("There is no video", f"fix the problem named above, then {_RUN_AGAIN}")


def _explanation(error: XaiVideoError, receipt: Receipt | None) -> _Explanation:
    if isinstance(error, errors.RequestRejected) and error.is_free:
        return _NOT_ADOPTED
    if isinstance(error, errors.RequestRejected) and receipt is not None and receipt.is_not_found:
        return _NOT_FOUND
    if isinstance(error, errors.SubmissionUnknown) and receipt is not None and receipt.undelivered:
        return _UNDELIVERED
    kinds = (kind for kind in type(error).__mro__ if kind in _EXPLANATIONS)
    return _EXPLANATIONS.get(next(kinds, XaiVideoError), _DEFAULT)


def _cost(error: XaiVideoError, receipt: Receipt | None) -> tuple[str, str]:
    """State what a failure cost, and why or with what reservation."""
    estimate = receipt.estimated_cost_usd if receipt else None
    amount = "an unknown amount" if estimate is None else f"about {dollars(estimate)}"
    if error.is_free:
        return "nothing", "adopting a request id costs nothing, and nothing was changed"
    if error.cost_usd is not None:
        return (dollars(error.cost_usd) if error.cost_usd else "nothing"), "as billed by xAI"
    if error.resend_safe:
        return "nothing", "xAI accepted no request"
    if isinstance(error, errors.SubmissionUnknown):
        return f"possibly {amount}", "billed if xAI accepted the request"
    if isinstance(error, errors.VideoTimeout):
        return amount, "billed once the video is rendered; waiting longer costs nothing more"
    return f"possibly {amount}", "xAI did not report a cost"
