"""Prefect events, to which automations can react.

`xai-video.submitted`, `.stored`, `.failed` (also for an expired request), `.moderated` and `.unknown` are emitted
when a receipt enters that state. The resource is the video: its id is `xai-video.` followed by the present or future
URI of the video without extension. So an automation can match all videos of a folder:
`xai-video.s3://my-videos/cats/*`.
"""

from collections.abc import Mapping
from decimal import Decimal

from prefect.events import emit_event
from pydantic import JsonValue

from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.engine.attempts import ReceiptState
from prefect_xai_video.engine.next_steps import NEXT_STEP
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.videos import LongVideo

EVENT_OF: Mapping[ReceiptState, str] = {
    "submitted": "xai-video.submitted",
    "stored": "xai-video.stored",
    "failed": "xai-video.failed",
    "expired": "xai-video.failed",
    "moderated": "xai-video.moderated",
    "unknown": "xai-video.unknown",
}
"""Event name by receipt state; other states have no event."""


def emit_change(receipt: Receipt, receipt_uri: str) -> None:
    """Emit the event for the new state of a receipt, if the state has one.

    Args:
        receipt: The receipt.
        receipt_uri: URI of the receipt.
    """
    event = EVENT_OF.get(receipt.state)
    if event is not None and not _is_restored(receipt):
        _emit(event, receipt_uri.removesuffix(".json"), receipt.key, payload_of(receipt, receipt_uri))


def emit_joined(video: LongVideo, first: VideoRequest) -> None:
    """Emit the event for a long video that was joined and stored; each of its segments has events of its own.

    Args:
        video: The video.
        first: The request of its first segment.
    """
    request = first.record()
    payload: dict[str, JsonValue] = {
        "key": video.key,
        "state": "stored",
        "request_id": None,
        "mode": "long",
        "model": video.model,
        "duration": video.duration,
        "resolution": request.get("resolution"),
        "aspect_ratio": request.get("aspect_ratio"),
        "cost_usd": _text(video.cost_usd),
        "estimated_cost_usd": _text(video.estimated_cost_usd),
        "uri": video.uri,
        "receipt_uri": video.receipt_uri,
        "sha256": video.sha256,
        "size": video.size,
        "message": None,
        "next_step": NEXT_STEP["stored"],
    }
    _emit(EVENT_OF["stored"], video.uri.removesuffix(".mp4"), video.key, payload)


def _emit(event: str, video: str, key: str, payload: dict[str, JsonValue]) -> None:
    emit_event(event, {"prefect.resource.id": f"xai-video.{video}", "prefect.resource.name": key}, payload=payload)


def _text(cost: Decimal | None) -> str | None:
    return None if cost is None else str(cost)


def _is_restored(receipt: Receipt) -> bool:
    """Whether a refused attempt restored an earlier state, whose event was already emitted."""
    emitted_at = receipt.attempt.outcome_at
    return any(attempt.outcome == "refused" and attempt.outcome_at > emitted_at for attempt in receipt.attempts)


def payload_of(receipt: Receipt, receipt_uri: str) -> dict[str, JsonValue]:
    """Build the payload of an event. It contains no prompt and none of xAI's URLs; unknown values are null."""
    file = receipt.file if receipt.state == "stored" else None
    failure, request = receipt.failure, receipt.request
    return {
        "key": receipt.key,
        "state": receipt.state,
        "request_id": receipt.request_id,
        "mode": receipt.mode,
        "model": receipt.model,
        "duration": receipt.duration or request.get("duration"),
        "resolution": request.get("resolution"),
        "aspect_ratio": request.get("aspect_ratio"),
        "cost_usd": _text(receipt.cost_usd),
        "estimated_cost_usd": _text(receipt.estimated_cost_usd),
        "uri": file.uri if file else None,
        "receipt_uri": receipt_uri,
        "sha256": file.sha256 if file else None,
        "size": file.size if file else None,
        "message": failure.message if failure else None,
        "next_step": receipt.next_step,
    }
