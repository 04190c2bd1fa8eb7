"""How a JSON body is written for the wire."""

import io
import json
from collections.abc import Mapping
from typing import Any

from prefect_xai_video.errors import InvalidRequest

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def written(body: Mapping[str, Any]) -> io.BytesIO:
    """Write a body as JSON, part by part, since inline files may make it hundreds of MiB large.

    Raises:
        InvalidRequest: If it contains something that JSON can't hold.
    """
    content = io.BytesIO()
    try:
        for part in _ENCODER.iterencode(body):
            content.write(part.encode())
    except ValueError as error:
        reason = getattr(error, "reason", "a number out of range")
        raise InvalidRequest(f"The request can't be written as JSON ({reason}). Nothing was sent.") from None
    content.seek(0)
    return content
