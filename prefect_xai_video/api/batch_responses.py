"""Parsing of the Batch API's responses, as tolerant as that of statuses: only ids are needed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from prefect_xai_video.api.redaction import Redaction
from prefect_xai_video.api.responses import VideoStatus, as_object, is_request_id, parse_number, parse_time, status_of

RequestState = Literal["unknown", "pending", "succeeded", "cancelled", "failed"]

_STATES: Mapping[object, RequestState] = {
    "pending": "pending",
    "succeeded": "succeeded",
    "cancelled": "cancelled",
    "failed": "failed",
}
_MAX_NAME = 1000
_MAX_TOKEN = 10_000
_MAX_COUNT = 10**9

Entry = TypeVar("Entry")


class XaiBatch(BaseModel):
    """A batch of xAI's Batch API. Its times may be dates without hours, and its counters may lag.

    Attributes:
        batch_id: xAI's id of the batch.
        name: Its name, which need not be unique.
        created_at: When it was created, if xAI reports it.
        expires_at: When xAI deletes it with its results, if xAI reports it.
        is_cancelled: Whether it is cancelled. What was rendered by then keeps its result.
        cancel_message: Why xAI cancelled it, if xAI did.
        requests: Number of requests, if xAI reports it.
        pending: Number of those that are not finished.
        succeeded: Number of those with a video.
        failed: Number of those that failed.
        cancelled: Number of those that were cancelled.
    """

    model_config = ConfigDict(frozen=True)

    batch_id: str
    name: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    is_cancelled: bool = False
    cancel_message: str | None = None
    requests: int | None = None
    pending: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    cancelled: int | None = None


class BatchRequestState(BaseModel):
    """The state of one request of a batch.

    Attributes:
        batch_request_id: Its id.
        state: Its state; `unknown` also for one that this version does not know.
        created_at: When it was added, if xAI reports it.
        finished_at: When it was finished, if xAI reports it.
    """

    model_config = ConfigDict(frozen=True)

    batch_request_id: str
    state: RequestState
    created_at: datetime | None = None
    finished_at: datetime | None = None


class BatchResult(BaseModel):
    """The result of one request of a batch.

    Attributes:
        batch_request_id: Its id.
        status: Its status, as a poll would have returned it. Its `request_id` is the `batch_request_id`, since xAI
            reports no other id. A result that is not understood is pending.
    """

    model_config = ConfigDict(frozen=True)

    batch_request_id: str
    status: VideoStatus


@dataclass(frozen=True, slots=True)
class ListingPage:
    """One page of a listing.

    Attributes:
        entries: Its entries, as xAI sent them.
        token: Token of the next page; None at the end.
    """

    entries: list[Any]
    token: str | None


def parse_page(body: bytes, field: str) -> ListingPage | None:
    """Parse a page of a listing; None if it is not understood.

    Args:
        body: Body of the response.
        field: Name of the list in it.
    """
    fields = as_object(body)
    entries, token = fields.get(field), fields.get("pagination_token")
    # An empty list may be left out.
    if entries is None and ("pagination_token" in fields or body.strip() == b"{}"):
        entries = []
    if not isinstance(entries, list) or not (token is None or isinstance(token, str)):
        return None
    return None if token and len(token) > _MAX_TOKEN else ListingPage(entries, token or None)


def ids_in(entries: Iterable[object]) -> set[str]:
    """Return the ids of entries of a listing, of batches or of requests; those without one are left out."""
    ids = (_mapping(entry).get("batch_request_id", _mapping(entry).get("batch_id")) for entry in entries)
    return {each for each in ids if isinstance(each, str)}


def parse_batch(entry: object, redact: Redaction) -> XaiBatch | None:
    """Parse a batch; None if it has no usable id."""
    fields = _mapping(entry)
    batch_id, name = fields.get("batch_id"), fields.get("name")
    if not is_request_id(batch_id) or redact.finds_key(batch_id):
        return None
    is_name = isinstance(name, str) and 0 < len(name) <= _MAX_NAME and not redact.finds_key(name)
    message, counters = fields.get("cancel_by_xai_message"), _mapping(fields.get("state"))
    return XaiBatch(
        batch_id=batch_id,
        name=name if is_name else None,
        created_at=parse_time(fields.get("create_time")),
        expires_at=parse_time(fields.get("expire_time")),
        is_cancelled=bool(fields.get("cancel_time") or message),
        cancel_message=(redact(message) or None) if isinstance(message, str) else None,
        requests=_count(counters, "num_requests"),
        pending=_count(counters, "num_pending"),
        succeeded=_count(counters, "num_success"),
        failed=_count(counters, "num_error"),
        cancelled=_count(counters, "num_cancelled"),
    )


def parse_request_state(entry: object, redact: Redaction) -> BatchRequestState | None:
    """Parse the state of a request; None if it has no usable id."""
    fields = _mapping(entry)
    batch_request_id = fields.get("batch_request_id")
    if not is_request_id(batch_request_id) or redact.finds_key(batch_request_id):
        return None
    state = fields.get("state")
    return BatchRequestState(
        batch_request_id=batch_request_id,
        state=_STATES.get(state.lower(), "unknown") if isinstance(state, str) else "unknown",
        created_at=parse_time(fields.get("create_time")),
        finished_at=parse_time(fields.get("finish_time")),
    )


def parse_result(entry: object, redact: Redaction, prompt_of: Callable[[str], str | None]) -> BatchResult | None:
    """Parse a result; None if it has no usable id.

    Args:
        entry: The result, as xAI sent it.
        redact: Applied to all texts.
        prompt_of: Returns the prompt of a request by its id, if it is known, to be removed from an error.
    """
    fields = _mapping(entry)
    batch_request_id, result = fields.get("batch_request_id"), _mapping(fields.get("batch_result"))
    if not is_request_id(batch_request_id) or redact.finds_key(batch_request_id):
        return None
    # The name of its kind, `video_generation`, need not be the same for an extension.
    made = [part for part in _mapping(result.get("response")).values() if _mapping(_mapping(part).get("video"))]
    error = _error_in(fields, result)
    if made:
        status = {"status": "done", **made[0]}
    elif error is not None:
        status = {"status": "failed", "error": error, "usage": result.get("usage")}
        redact = redact.with_prompt(prompt_of(batch_request_id))
    else:
        status = {}
    return BatchResult(batch_request_id=batch_request_id, status=status_of(batch_request_id, status, redact))


def _error_in(fields: Mapping[str, Any], result: Mapping[str, Any]) -> object:
    """Return the error of a result: an object or a text, with a text beside it or only that."""
    error, beside = result.get("error"), fields.get("error_message")
    if isinstance(error, Mapping):
        return {**error, "message": error.get("message") or beside}
    return error or beside


def _count(counters: Mapping[str, Any], name: str) -> int | None:
    count = parse_number(counters.get(name))
    return count if count is not None and 0 <= count <= _MAX_COUNT else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
