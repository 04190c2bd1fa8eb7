"""The amounts that xAI would have billed."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from prefect_xai_video.api.capabilities import capabilities_of, estimate_cost
from prefect_xai_video.emulator.sizes import Size, resolution_of
from prefect_xai_video.emulator.validation import AcceptedRequest
from prefect_xai_video.emulator.videos import TICK_DIGITS, Video


def cost_of(request: AcceptedRequest, input_seconds: float, size: Size) -> Decimal:
    """Compute the price of a request in USD.

    Args:
        request: The request.
        input_seconds: Duration of the clip that is edited or extended.
        size: Size of the result, which determines the price of an edit or extension.
    """
    resolution = request.resolution if request.video is None else _billed_resolution(request, size)
    cost = estimate_cost(
        request.model,
        seconds=input_seconds if request.mode == "edit" else request.duration,
        resolution=resolution,
        input_images=len(request.images),
        input_video_seconds=input_seconds,
    )
    if cost is None:
        raise LookupError(f"{request.model} has no price for {resolution}")
    return round(cost, TICK_DIGITS)


def billed_usd(videos: Iterable[Video]) -> Decimal:
    """Sum up the billed amount in USD: all requests that were accepted and did not fail."""
    return sum((video.cost_usd for video in videos), Decimal(0))


def ledger(videos: Iterable[Video]) -> dict[str, Any]:
    """Build the ledger: one row for each accepted submission."""
    rows = list(videos)
    return {
        "billed_usd": _amount(billed_usd(rows)),
        "submissions": len(rows),
        "requests": [_row(video) for video in rows],
    }


def _row(video: Video) -> dict[str, Any]:
    return {
        "request_id": video.request_id,
        "time": video.submitted_at.isoformat(),
        "model": video.request.model,
        "mode": video.request.mode,
        "prompt": video.request.prompt,
        "client_request_id": video.client_request_id,
        "batch_id": video.place and video.place.batch_id,
        "batch_request_id": video.place and video.place.batch_request_id,
        "cost_usd": _amount(video.cost_usd),
        "outcome": video.outcome,
        "faults": list(video.fault_names),
    }


def _billed_resolution(request: AcceptedRequest, size: Size) -> str:
    """Return the resolution of a size, or the highest one for which the model has a price."""
    entry = capabilities_of(request.model)
    resolution = resolution_of(size)
    if entry is None or resolution in entry.usd_per_second:
        return resolution
    return list(entry.usd_per_second)[-1]


def _amount(usd: Decimal) -> str:
    """Format an amount with cents, and with more digits only if needed."""
    cents = usd.quantize(Decimal("0.01"))
    return f"{cents:f}" if cents == usd else f"{usd.normalize():f}"
