"""Prefect events: what automations can wait for.

`xai-video.submitted`, `.stored`, `.failed` (also where the request has expired), `.moderated` and `.unknown` are
emitted when a receipt comes to that state. The resource is the video: its id is `xai-video.` and the URI at which it
lies, or will lie, without extension, so that an automation can match all videos of a folder by
`xai-video.s3://my-videos/cats/*`.
"""

from collections.abc import Mapping

from prefect.events import emit_event
from pydantic import JsonValue

from prefect_xai_video.receipts import Receipt, ReceiptState

EVENT_OF: Mapping[ReceiptState, str] = {
    "submitted": "xai-video.submitted",
    "stored": "xai-video.stored",
    "failed": "xai-video.failed",
    "expired": "xai-video.failed",
    "moderated": "xai-video.moderated",
    "unknown": "xai-video.unknown",
}
"""The event of each state that has one."""


def emit_change(receipt: Receipt, receipt_uri: str) -> None:
    """Tell Prefect that a receipt has come to a new state, if there is an event for it.

    Args:
        receipt: The receipt.
        receipt_uri: Where it lies.
    """
    event = EVENT_OF.get(receipt.state)
    if event is not None and not _is_put_back(receipt):
        place = receipt_uri.removesuffix(".json")
        resource = {"prefect.resource.id": f"xai-video.{place}", "prefect.resource.name": receipt.key}
        emit_event(event, resource, payload=payload_of(receipt, receipt_uri))


def _is_put_back(receipt: Receipt) -> bool:
    """Whether a refusal has put the receipt back to what had been told before."""
    told = receipt.attempt.outcome_at
    return any(attempt.outcome == "refused" and attempt.outcome_at > told for attempt in receipt.attempts)


def payload_of(receipt: Receipt, receipt_uri: str) -> dict[str, JsonValue]:
    """What an event says of a video. It holds no prompt and no URL of xAI's; what is not known is null."""
    file, failure, asked = receipt.file, receipt.failure, receipt.request
    return {
        "key": receipt.key,
        "state": receipt.state,
        "request_id": receipt.request_id,
        "mode": receipt.mode,
        "model": receipt.model,
        "duration": receipt.duration or asked.get("duration"),
        "resolution": asked.get("resolution"),
        "aspect_ratio": asked.get("aspect_ratio"),
        "cost_usd": None if receipt.cost_usd is None else str(receipt.cost_usd),
        "estimated_cost_usd": None if receipt.estimated_cost_usd is None else str(receipt.estimated_cost_usd),
        "uri": file.uri if file else None,
        "receipt_uri": receipt_uri,
        "sha256": file.sha256 if file else None,
        "size": file.size if file else None,
        "message": failure.message if failure else None,
        "next_step": receipt.next_step,
    }
