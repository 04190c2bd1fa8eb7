"""Records of requests, as receipts have them, and in what two of them differ."""

from collections.abc import Mapping
from typing import Any

from prefect_xai_video.api.capabilities import SERVER_DEFAULT_AUDIO

_AUDIO_BY_DEFAULT = ("generate_audio", SERVER_DEFAULT_AUDIO)

_OPTIONS = {
    "image": "image_url",
    "last_frame": "last_frame_url",
    "reference_images": "reference_image_urls",
    "video": "the input clip",
}
"""Names of fields as a user knows them, where they are others than in a body."""


def canonical(record: Mapping[str, Any]) -> dict[str, Any]:
    """Write a record so that it is equal for equal requests."""
    # Forms send this default explicitly; the request is the same with or without it.
    fields = {name: value for name, value in record.items() if (name, value) != _AUDIO_BY_DEFAULT}
    if keyframes := fields.get("keyframes"):
        # Their times say where they are, not their order.
        fields["keyframes"] = sorted(keyframes, key=lambda one: float(one["timestamp_s"]))
    return fields


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name the options in which two records differ, without their values, which may be confidential."""
    first, second = canonical(one), canonical(other)
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return [_OPTIONS.get(name, name) for name in names]
