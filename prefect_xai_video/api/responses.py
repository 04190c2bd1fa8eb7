"""Parsing of xAI's responses: all shapes that were observed, and some that were not.

Parsing is tolerant on purpose: no paid video may be lost because a response has no body, no status or a new field.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, SecretStr

from prefect_xai_video.api.redaction import MAX_CODE, MAX_TEXT, Redaction
from prefect_xai_video.money import plain

State = Literal["pending", "done", "failed", "moderated", "expired", "cancelled"]

_TICKS_EXPONENT = -10
"""xAI states costs in ticks of 1e-10 USD."""
_MAX_TICKS = 10**16
"""One million USD. A higher cost can only be xAI's mistake and is ignored."""
_MAX_DURATION = 86_400
_MAX_DIGITS = 25
_MAX_TIME = 10**11
_MAX_URL = 16_384
_MAX_REQUEST_ID = 500
_NUMBER = re.compile(r"-?[0-9]{1,25}")
_MAY_BE_MODERATED = {400, 403, 422, 451}
_MODERATION = re.compile(r"\b(?:moderated|moderation)\b", re.IGNORECASE)
_MODERATED_CODE = re.compile(r"\bcontent[-_]moderated\b", re.IGNORECASE)
_INVALID = re.compile(r"\binvalid[-_ ]argument\b", re.IGNORECASE)


class VideoStatus(BaseModel):
    """Status of a request: one response of `get`.

    Attributes:
        request_id: xAI's request id.
        state: State of the request. A status that this version does not know counts as pending. `cancelled` stands
            for a request whose batch was cancelled before it was rendered, so that nothing was paid.
        progress: Approximate progress of the render, 0-100; None if xAI does not report it.
        url: Temporary URL of the finished video. It is a secret: it gives access to the video without an API key.
        duration: Duration in seconds.
        model: Canonical name of the model that rendered the video.
        cost_usd: Billed cost in USD.
        file_id: Id of the video's file in the Files API, if it was stored there.
        public_url: URL of that file that needs no API key, if one was requested.
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
    file_id: str | None = None
    public_url: str | None = None
    code: str | None = None
    message: str | None = None
    http_status: int | None = None


def parse_request_id(body: bytes, redact: Redaction) -> str | None:
    """Read the request id from the response to a POST; None if it has no usable one.

    Only a text in the top-level field `request_id` counts: a number, an `id` or a nested field may be something else.
    """
    request_id = as_object(body).get("request_id")
    is_usable = is_request_id(request_id) and not redact.finds_key(request_id)
    return request_id if is_usable else None


def is_request_id(value: object) -> TypeGuard[str]:
    """Whether a value from any source can be a request id: printable text, neither blank nor a URL."""
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_REQUEST_ID:
        return False
    # Dots alone would lead to another path of the API.
    return value.isprintable() and "://" not in value and bool(value.strip("."))


def parse_status(request_id: str, http_status: int, body: bytes, redact: Redaction) -> VideoStatus | None:
    """Parse one response of `get`.

    Args:
        request_id: The id that was polled.
        http_status: HTTP status of the response.
        body: Body of the response.
        redact: Applied to all texts in it.

    Returns:
        The status; None if the response is an error or not understood.
    """
    fields = as_object(body)
    if http_status == 202:
        return VideoStatus(request_id=request_id, state="pending", progress=_progress(fields), http_status=202)
    if _is_moderated(http_status, fields):
        code, message = parse_error(body, redact)
        cost = _cost_usd(fields)
        return VideoStatus(
            request_id=request_id,
            state="moderated",
            cost_usd=cost,
            code=code,
            message=message,
            http_status=http_status,
        )
    is_error = fields.get("status") is None and bool(fields.get("error")) and not _mapping(fields.get("video"))
    if http_status != 200 or not fields or (is_error and not _mentions_moderation(fields)):
        # An error without a status may come from a gateway and be temporary.
        return None
    return status_of(request_id, fields, redact)


def status_of(request_id: str, fields: Mapping[str, Any], redact: Redaction) -> VideoStatus:
    """Build a status from the fields of a response that is not an error of the call itself."""
    video = _mapping(fields.get("video"))
    file = _mapping(video.get("file_output"))
    file_id, public_url = file.get("file_id"), _url(file.get("public_url"))
    url = _url(video.get("url")) or public_url
    if url is not None and redact.finds_key(url):
        # Such a URL would take the API key to the host of the video, and into the receipt.
        url = None
    code, message = _error_of(fields)
    return VideoStatus(
        request_id=request_id,
        state=_state(fields, video, url),
        progress=_progress(fields),
        url=SecretStr(url) if url else None,
        duration=_duration(video),
        model=_redacted(fields.get("model"), redact, MAX_CODE),
        cost_usd=_cost_usd(fields),
        public_url=None if public_url is None or redact.finds_key(public_url) else public_url,
        file_id=file_id if is_request_id(file_id) and not redact.finds_key(file_id) else None,
        code=_redacted(code, redact, MAX_CODE),
        message=_redacted(message, redact),
        http_status=200,
    )


def _state(fields: Mapping[str, Any], video: Mapping[str, Any], url: str | None) -> State:
    blocked = video.get("respect_moderation") is False and not url
    failed: State = "moderated" if _mentions_moderation(fields) else "failed"
    match fields.get("status"):
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
        case None if fields.get("error") and failed == "moderated":
            return "moderated"
        case _:
            return "pending"


def _mentions_moderation(fields: Mapping[str, Any]) -> bool:
    code, message = _error_of(fields)
    return bool(_MODERATED_CODE.search(code or "") or _MODERATION.search(message or ""))


def parse_error(body: bytes, redact: Redaction) -> tuple[str | None, str | None]:
    """Parse an error response in any of its shapes: flat, nested, text, empty.

    Returns:
        xAI's code and text, redacted; each None if it is missing.
    """
    fields = as_object(body)
    code, message = _error_of(fields) if fields else (None, body.decode(errors="replace"))
    return _redacted(code, redact, MAX_CODE), _redacted(message, redact)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Parse the seconds to wait from Retry-After; None if it is missing or not valid.

    A date is compared with the date of the response itself, since the server's clock may differ from ours.
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


def parse_number(value: object) -> int | None:
    """Read a whole number, or a text of digits; None if it is neither."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def parse_time(value: object) -> datetime | None:
    """Read a time: seconds since 1970, or ISO 8601."""
    seconds = parse_number(value)
    try:
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < _MAX_TIME else None
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)


def _error_of(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    error = fields.get("error")
    if isinstance(error, Mapping):
        code = error.get("code") or error.get("type")
        message = error.get("message")
    else:
        code = fields.get("code")
        message = error or fields.get("message")
    return (
        str(code) if isinstance(code, str | int) else None,
        message if isinstance(message, str) else None,
    )


def _is_moderated(http_status: int, fields: Mapping[str, Any]) -> bool:
    """Whether an error response ends a request as moderated; a proxy's page or a single word in a text does not."""
    code, message = _error_of(fields)
    if http_status not in _MAY_BE_MODERATED or code is None:
        return False
    by_text = http_status == 400 and bool(_INVALID.search(code)) and bool(_MODERATION.search(message or ""))
    return bool(_MODERATED_CODE.search(code)) or by_text


def as_object(body: bytes) -> Mapping[str, Any]:
    """Parse a JSON object; empty if the body is not one. Numbers that are too long or not finite become None."""
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
    """Return a usable URL unchanged; signed URLs are redacted where they are shown, not here."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_URL:
        return None
    return value if value.isascii() and value.isprintable() else None


def _whole(value: object) -> int | None:
    """Convert to an int; None if it is not a number. A string of digits counts: protobuf's JSON writes int64 so."""
    if isinstance(value, str):
        return int(value) if _NUMBER.fullmatch(value) else None
    return round(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _duration(video: Mapping[str, Any]) -> int | None:
    duration = _whole(video.get("duration"))
    return duration if duration is not None and 0 <= duration <= _MAX_DURATION else None


def _progress(fields: Mapping[str, Any]) -> int | None:
    progress = _whole(fields.get("progress"))
    return None if progress is None else min(max(progress, 0), 100)


def _cost_usd(fields: Mapping[str, Any]) -> Decimal | None:
    ticks = _whole(_mapping(fields.get("usage")).get("cost_in_usd_ticks"))
    if ticks is None or not 0 <= ticks <= _MAX_TICKS:
        return None
    return plain(Decimal(ticks).scaleb(_TICKS_EXPONENT))
