"""Checks of URLs that are sent to xAI, and identities of inputs without their secrets."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from prefect_xai_video.errors import InvalidRequest, not_allowed, shown

InputKind = Literal["image", "video", "audio"]


INLINE_TYPES: Mapping[InputKind, tuple[str, ...]] = {
    "image": ("image/png", "image/jpeg", "image/webp"),
    "video": ("video/mp4",),
    "audio": ("audio/mpeg", "audio/wav", "audio/mp4", "audio/ogg", "audio/flac"),
}


_MAX_DATA_HEADER = 100
"""More characters than any allowed `data:` URL has before its comma."""


_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


_SIGNATURES = (
    ("", re.compile(r"^x-(amz|goog|oss|cos)-", re.IGNORECASE)),
    (
        "signature",
        re.compile(r"^(awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id)$", re.IGNORECASE),
    ),
    ("sig", re.compile(r"^(s[vretpi]|sig|spr|skoid|sktid|skt|ske|sks|skv)$", re.IGNORECASE)),
)
"""Query parameters that change with each signature of a URL, as pairs of a marker and a pattern.

Names that match a pattern count as a signature only if the query also has the marker; an empty marker always counts.
"""


def wire_url(url: str, field: str = "url") -> str:
    """Check that a URL may be sent to xAI or be a base URL: https, or inline data.

    Plain http is allowed only for an emulator or a store on this machine.

    Raises:
        InvalidRequest: If the URL is not allowed.
    """
    # Not split: Python keeps what it has split in a cache, and inline data may be large.
    if url[:5].lower() == "data:":
        return url
    parts = _split(url, field)
    # Such characters are dropped by some readers of URLs and sent by others.
    if url != url.strip() or not url.isprintable():
        raise not_allowed(
            field, f"{identity_of(url)!r} with a control character or a space at its end", "an https:// URL"
        )
    local = parts.scheme == "http" and is_loopback(parts.hostname)
    if local or (parts.scheme == "https" and parts.hostname):
        return url
    raise not_allowed(field, repr(identity_of(url)), "an https:// URL")


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine."""
    return host in _LOOPBACK


def _split(url: str, field: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}; allowed: an https:// URL.") from None


def decode_inline(field: str, kind: InputKind, url: str, limit: int) -> bytes:
    """Decode a `data:` URL.

    Args:
        field: Its field in the request.
        kind: Kind of the input.
        url: The URL.
        limit: Largest content in bytes; a longer URL is not decoded.

    Raises:
        InvalidRequest: If xAI does not accept its content type for this kind of input, or if it is empty, too long
            or not base64.
    """
    start = url[: _MAX_DATA_HEADER + 1]
    header, comma, _ = start.partition(",")
    allowed = [f"data:{content_type};base64" for content_type in INLINE_TYPES[kind]]
    if not comma or header not in allowed:
        raise not_allowed(field, shown(header), ", ".join(allowed))
    if len(url) - len(header) - 1 > 4 * -(-limit // 3):
        raise not_allowed(
            field,
            f"the data: URL of {len(url)} characters",
            f"at most {limit} bytes of content",
            "Use an https:// or s3:// URL.",
        )
    try:
        content = base64.b64decode(url[len(header) + 1 :], validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise InvalidRequest(f"{field}: the data: URL has no base64 content; allowed: {' or '.join(allowed)}.")
    return content


def identity_of(url: str) -> str:
    """Identify an input in receipts and fingerprints: by its digest, or by its URL without secrets.

    Signature parameters are dropped, because they change with each signature. The rest of the query is kept as a
    digest, because it may contain a token.
    """
    if url.startswith("data:"):
        payload = url.partition(",")[2]
        try:
            content = base64.b64decode(payload)
        except (binascii.Error, ValueError):
            content = payload.encode()
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    parts = _split(url, "url")
    host = parts.netloc.rpartition("@")[2]
    query = parse_qsl(parts.query, True)
    names = {"", *(name.lower() for name, _ in query)}
    for marker, parameter in _SIGNATURES:
        if marker in names:
            query = [pair for pair in query if not parameter.match(pair[0])]
    digest = f"sha256={hashlib.sha256(urlencode(query).encode()).hexdigest()[:16]}" if query else ""
    return urlunsplit((parts.scheme, host, parts.path, digest, ""))
