"""What comes back from xAI: one parser for every answer that was seen, and for some that were not.

It is tolerant on purpose. A paid video must not be lost because an answer has no body, no status or a new field.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SecretStr

from prefect_xai_video.capabilities import plain

State = Literal["pending", "done", "failed", "moderated", "expired"]

_TICKS_EXPONENT = -10
"""xAI counts money in ticks of 1e-10 USD."""
_MAX_TEXT = 500
_URL_QUERY = re.compile(r"(https?://[^\s\"'<>?]+)\?[^\s\"'<>]+")
_INLINE_DATA = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
_PLAIN_BEGINNING = re.compile(r'[^"\\\n]{4,12}')
_MODERATION = re.compile(r"moderat", re.IGNORECASE)


class VideoStatus(BaseModel):
    """One answer of `get`.

    Attributes:
        request_id: xAI's id of the request.
        state: What has become of it. A status that nobody knows yet counts as pending.
        progress: How far the render is, 0-100, approximate; None where xAI does not say.
        url: Temporary URL of the finished video. It needs no key, so whoever has it has the video.
        duration: Duration in seconds.
        model: Canonical name of the model that rendered it.
        cost_usd: What xAI billed, in USD.
        code: xAI's error code.
        message: xAI's error text.
    """

    model_config = ConfigDict(frozen=True)

    request_id: str
    state: State
    progress: int | None = None
    url: SecretStr | None = None
    duration: int | None = None
    model: str | None = None
    cost_usd: Decimal | None = None
    code: str | None = None
    message: str | None = None


def parse_request_id(body: bytes) -> str | None:
    """Read the request id from the answer to a POST; None if there is none in it."""
    request_id = as_object(body).get("request_id")
    return request_id if isinstance(request_id, str) and request_id.strip() else None


def parse_status(request_id: str, http_status: int, body: bytes) -> VideoStatus | None:
    """Read one answer of `get`.

    Args:
        request_id: The id that was asked for.
        http_status: HTTP status of the answer.
        body: The answer's body.

    Returns:
        The status, or None where the answer is an error, or no answer that can be understood.
    """
    answer = as_object(body)
    if http_status == 202:
        return VideoStatus(request_id=request_id, state="pending", progress=_progress(answer))
    if http_status == 400 and _is_moderation(body):
        code, message = parse_error(body)
        cost = _cost_usd(answer)
        return VideoStatus(request_id=request_id, state="moderated", cost_usd=cost, code=code, message=message)
    if http_status != 200 or not answer:
        return None
    return _parse_known(request_id, answer)


def _parse_known(request_id: str, answer: Mapping[str, Any]) -> VideoStatus:
    video = _mapping(answer.get("video"))
    url = _text(video.get("url")) or _text(_mapping(video.get("file_output")).get("public_url"))
    code, message = _error_of(answer)
    return VideoStatus(
        request_id=request_id,
        state=_state(answer, video, url),
        progress=_progress(answer),
        url=SecretStr(url) if url else None,
        duration=_whole(video.get("duration")),
        model=_text(answer.get("model")),
        cost_usd=_cost_usd(answer),
        code=code,
        message=message,
    )


def _state(answer: Mapping[str, Any], video: Mapping[str, Any], url: str | None) -> State:
    blocked = video.get("respect_moderation") is False and not url
    match answer.get("status"):
        case "done" | None if blocked:
            return "moderated"
        case "done":
            return "done"
        case "failed":
            return "moderated" if _MODERATION.search(_error_of(answer)[0] or "") else "failed"
        case "expired":
            return "expired"
        case None if url:
            return "done"
        case None if answer.get("error"):
            return "failed"
        case _:
            return "pending"


def parse_error(body: bytes) -> tuple[str | None, str | None]:
    """Read an error answer in any of its shapes: flat, nested, text, empty.

    Returns:
        xAI's code and text, each None where there is none. The text is cut to a readable length and holds no
        query string of a URL and no inline data, since those may carry a signature or a picture.
    """
    answer = as_object(body)
    if answer:
        return _error_of(answer)
    return None, _readable(body.decode(errors="replace")) or None


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how many seconds a server asks to wait; None where it does not say.

    A date is compared with the date of the answer itself, since the server's clock may not agree with ours.
    """
    value = headers.get("Retry-After", "").strip()
    try:
        return max(float(value), 0) if math.isfinite(float(value)) else None
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max((until - now).total_seconds(), 0)
    except (ValueError, TypeError):
        return None


def without_prompt(text: str, prompt: object) -> str:
    """Take the prompt out of a text of the service's, which may quote it, whole, cut or escaped."""
    if not isinstance(prompt, str) or len(prompt) < 4:
        return text
    text = text.replace(prompt, "…")
    plain = _PLAIN_BEGINNING.match(prompt)
    begin = text.find(plain[0]) if plain else -1
    return text if begin < 0 else f"{text[:begin]}…"


def _error_of(answer: Mapping[str, Any]) -> tuple[str | None, str | None]:
    error = answer.get("error")
    if isinstance(error, Mapping):
        code = error.get("code") or error.get("type")
        message = error.get("message")
    else:
        code = answer.get("code")
        message = error or answer.get("message")
    return (
        None if code is None else str(code),
        _readable(message) if isinstance(message, str) else None,
    )


def _is_moderation(body: bytes) -> bool:
    return any(part and _MODERATION.search(part) for part in parse_error(body))


def as_object(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object; an empty one where the body is none."""
    try:
        return _mapping(json.loads(body))
    except (ValueError, RecursionError):
        return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _readable(text: str) -> str:
    text = _INLINE_DATA.sub("data:…", _URL_QUERY.sub(r"\1?…", text.strip()))
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _whole(value: object) -> int | None:
    """A number as an int; None for what is no number. Digits in a string count: proto JSON writes int64 so."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return round(value) if isinstance(value, float) else int(value)
    except (ValueError, OverflowError):
        return None


def _progress(answer: Mapping[str, Any]) -> int | None:
    progress = _whole(answer.get("progress"))
    return None if progress is None else min(max(progress, 0), 100)


def _cost_usd(answer: Mapping[str, Any]) -> Decimal | None:
    ticks = _whole(_mapping(answer.get("usage")).get("cost_in_usd_ticks"))
    if ticks is None or ticks < 0:
        return None
    return plain(Decimal(ticks).scaleb(_TICKS_EXPONENT))
