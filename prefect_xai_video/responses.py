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
from prefect_xai_video.redaction import MAX_CODE, MAX_TEXT, Redaction

State = Literal["pending", "done", "failed", "moderated", "expired"]

_TICKS_EXPONENT = -10
"""xAI counts money in ticks of 1e-10 USD."""
_MAX_TICKS = 10**16
"""One million USD. A larger cost is an error of xAI's, and is ignored."""
_MAX_DURATION = 86_400
_MAX_DIGITS = 25
_MAX_URL = 16_384
_MAX_REQUEST_ID = 500
_NUMBER = re.compile(r"-?[0-9]{1,25}")
_MAY_BE_MODERATED = {400, 403, 422, 451}
_MODERATION = re.compile(r"moderated|moderation", re.IGNORECASE)


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
        http_status: HTTP status of the response.
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
    http_status: int | None = None


def parse_request_id(body: bytes, redact: Redaction) -> str | None:
    """Read the request id from the response to a POST; None if there is none that can be used.

    Only a text in `request_id` counts: a number, an `id` or a nested one may be something else.
    """
    request_id = as_object(body).get("request_id")
    if not isinstance(request_id, str) or not request_id.strip() or not request_id.isprintable():
        return None
    may_hold_a_secret = redact.finds_key(request_id) or "://" in request_id
    return None if len(request_id) > _MAX_REQUEST_ID or may_hold_a_secret else request_id


def parse_status(request_id: str, http_status: int, body: bytes, redact: Redaction) -> VideoStatus | None:
    """Read one response of `get`.

    Args:
        request_id: The id that was asked for.
        http_status: HTTP status of the response.
        body: Its body.
        redact: Applied to all texts in it.

    Returns:
        The status, or None where the response is an error, or can't be understood.
    """
    answer = as_object(body)
    if http_status == 202:
        return VideoStatus(request_id=request_id, state="pending", progress=_progress(answer), http_status=202)
    if http_status in _MAY_BE_MODERATED and _is_moderation(body):
        code, message = parse_error(body, redact)
        cost = _cost_usd(answer)
        return VideoStatus(
            request_id=request_id,
            state="moderated",
            cost_usd=cost,
            code=code,
            message=message,
            http_status=http_status,
        )
    if http_status != 200 or not answer:
        return None
    return _parse_known(request_id, answer, redact)


def _parse_known(request_id: str, answer: Mapping[str, Any], redact: Redaction) -> VideoStatus:
    video = _mapping(answer.get("video"))
    url = _url(video.get("url")) or _url(_mapping(video.get("file_output")).get("public_url"))
    if url is not None and redact.finds_key(url):
        # It would carry the API key to the host of the video, and into the receipt.
        url = None
    code, message = _error_of(answer)
    return VideoStatus(
        request_id=request_id,
        state=_state(answer, video, url),
        progress=_progress(answer),
        url=SecretStr(url) if url else None,
        duration=_duration(video),
        model=_redacted(answer.get("model"), redact, MAX_CODE),
        cost_usd=_cost_usd(answer),
        code=_redacted(code, redact, MAX_CODE),
        message=_redacted(message, redact),
        http_status=200,
    )


def _state(answer: Mapping[str, Any], video: Mapping[str, Any], url: str | None) -> State:
    blocked = video.get("respect_moderation") is False and not url
    failed: State = "moderated" if any(part and _MODERATION.search(part) for part in _error_of(answer)) else "failed"
    match answer.get("status"):
        case "done" | None if blocked:
            return "moderated"
        case "done":
            return "done"
        case "failed":
            return failed
        case "expired":
            return "expired"
        case None if url:
            return "done"
        case None if answer.get("error"):
            return failed
        case _:
            return "pending"


def parse_error(body: bytes, redact: Redaction) -> tuple[str | None, str | None]:
    """Read an error response in any of its shapes: flat, nested, text, empty.

    Returns:
        xAI's code and text, redacted, each None where there is none.
    """
    answer = as_object(body)
    code, message = _error_of(answer) if answer else (None, body.decode(errors="replace"))
    return _redacted(code, redact, MAX_CODE), _redacted(message, redact)


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
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _error_of(answer: Mapping[str, Any]) -> tuple[str | None, str | None]:
    error = answer.get("error")
    if isinstance(error, Mapping):
        code = error.get("code") or error.get("type")
        message = error.get("message")
    else:
        code = answer.get("code")
        message = error or answer.get("message")
    return (
        str(code) if isinstance(code, str | int) else None,
        message if isinstance(message, str) else None,
    )


def _is_moderation(body: bytes) -> bool:
    answer = as_object(body)
    parts = _error_of(answer) if answer else (body.decode(errors="replace"),)
    return any(part and _MODERATION.search(part) for part in parts)


def as_object(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object; an empty one where the body is none. Numbers that are not finite or too long are None."""
    try:
        return _mapping(json.loads(body, parse_int=_int, parse_float=_float, parse_constant=lambda _: None))
    except (ValueError, RecursionError):
        return {}


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _redacted(text: object, redact: Redaction, max_length: int = MAX_TEXT) -> str | None:
    return (redact(text, max_length) or None) if isinstance(text, str) else None


def _url(value: object) -> str | None:
    """A URL as it is: signed ones are redacted where they are shown, not here."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_URL:
        return None
    return value if value.isascii() and value.isprintable() else None


def _whole(value: object) -> int | None:
    """A number as an int; None for what is no number. Digits in a string count: proto JSON writes int64 so."""
    if isinstance(value, str):
        return int(value) if _NUMBER.fullmatch(value) else None
    return round(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _duration(video: Mapping[str, Any]) -> int | None:
    duration = _whole(video.get("duration"))
    return duration if duration is not None and 0 <= duration <= _MAX_DURATION else None


def _progress(answer: Mapping[str, Any]) -> int | None:
    progress = _whole(answer.get("progress"))
    return None if progress is None else min(max(progress, 0), 100)


def _cost_usd(answer: Mapping[str, Any]) -> Decimal | None:
    ticks = _whole(_mapping(answer.get("usage")).get("cost_in_usd_ticks"))
    if ticks is None or not 0 <= ticks <= _MAX_TICKS:
        return None
    return plain(Decimal(ticks).scaleb(_TICKS_EXPONENT))
