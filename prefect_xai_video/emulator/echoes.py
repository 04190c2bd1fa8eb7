"""Errors that repeat secrets: the API key and signed URLs, literally and in all common escapings."""

import base64
import json
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

SIGNATURE = "5ec4e7" * 10
"""Signature of the repeated URL."""

_SIGNED_URL = (
    "https://bucket.s3.amazonaws.com/cat.mp4?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAEMULATOR%2F"
    f"us-east-1%2Fs3%2Faws4_request&X-Amz-Expires=900&X-Amz-Signature={SIGNATURE}"
)


def with_key(content: dict[str, Any], key: str, status: int) -> Response:
    """Respond with JSON in which the hyphens of the key are escaped."""
    text = json.dumps(content).replace(key, key.replace("-", r"\u002d"))
    return Response(text, status_code=status, media_type="application/json")


def key_repeated(key: str) -> str:
    """Write a sentence that contains a key: literally, and escaped as in JSON, URLs, HTML and base64."""
    in_json = key.replace("-", r"\u002d")
    in_url = "".join(f"%{byte:02X}" for byte in key.encode())
    in_html = key.replace("-", "&#45;")
    in_base64 = base64.b64encode(f"key:{key}".encode()).decode()
    return f"Incorrect API key provided: {key}, {in_json}, {in_url}, {in_html}, Basic {in_base64}."


def signed_url_repeated() -> str:
    """Write a sentence that contains a signed URL: with escaped slashes, and percent-encoded once and twice."""
    escaped = _SIGNED_URL.replace("/", r"\/").replace("&", r"\u0026")
    encoded = quote(_SIGNED_URL, safe="")
    return (
        f"Could not fetch {escaped}, redirected from https://example.com/?to={encoded} and {quote(encoded, safe='')}."
    )
