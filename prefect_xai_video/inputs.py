"""Inputs as people name them (a local file, an `s3://` URL) turned into URLs that the service can be given."""

import asyncio
import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.requests import InputKind, VideoRequest, decode_inline, wire_url

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials

MAX_INLINE_BYTES: Mapping[InputKind, int] = {"image": 10 * 2**20, "video": 64 * 2**20}
"""Largest local file that is sent inside a request: for images xAI's own older limit, for videos our guard."""

PRESIGNED_SECONDS = 6 * 3600
"""How long an `s3://` input stays readable for xAI: long enough for a request that waits in its queue."""

_SIGNATURES: tuple[tuple[InputKind, str, Callable[[bytes], bool]], ...] = (
    ("image", "image/png", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n")),
    ("image", "image/jpeg", lambda head: head.startswith(b"\xff\xd8\xff")),
    ("image", "image/webp", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
    ("video", "video/mp4", lambda head: head[4:8] == b"ftyp"),
)
_NAMES = {"image": "a PNG, JPEG or WebP image", "video": "an MP4 video"}


async def resolve_inputs(
    request: VideoRequest, s3_credentials: "AwsCredentials | MinIOCredentials | None" = None
) -> VideoRequest:
    """Replace the inputs of a request by URLs for the wire.

    https and `data:` URLs stay as they are (inline data is checked), local files, also by `file://` URI, become
    `data:` URLs, and `s3://` URLs become presigned ones.

    Args:
        request: A request as the user gave it.
        s3_credentials: Credentials for `s3://` inputs; without them, those of the environment.

    Raises:
        InvalidRequest: If an input can't be read, or is not of the right kind.
    """
    urls = {
        field: await asyncio.to_thread(_resolve, field, kind, getattr(request, field), s3_credentials)
        for field, kind in request.inputs.items()
    }
    return request.model_copy(update=urls)


def _resolve(field: str, kind: InputKind, value: str, s3_credentials: Any) -> str:
    scheme = value.partition(":")[0].lower() if "://" in value or value[:5].lower() == "data:" else ""
    if scheme == "data":
        _check_content(field, kind, "the data: URL", decode_inline(field, kind, value))
        return value
    if scheme == "s3":
        return _presign(field, value, s3_credentials)
    if scheme == "file":
        return _inline(field, kind, url2pathname(urlsplit(value).path))
    if scheme:
        return wire_url(value, field)
    return _inline(field, kind, value)


def _inline(field: str, kind: InputKind, value: str) -> str:
    path = Path(value).expanduser()
    try:
        size = path.stat().st_size
        if size > MAX_INLINE_BYTES[kind]:
            raise InvalidRequest(
                f"{field}: {_shown(value)!r} has {size} bytes; at most {MAX_INLINE_BYTES[kind]} can be sent from a "
                f"local file. Use an https:// or s3:// URL."
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        why = getattr(error, "strerror", None) or error
        raise InvalidRequest(
            f"{field}: {_shown(value)!r} can't be read ({why}); allowed: a local file, an https:, data: or s3:// URL."
        ) from None
    content_type = _check_content(field, kind, repr(_shown(value)), content)
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


def _shown(value: str) -> str:
    """A path for an error: what follows a question mark may be the signature of a mistyped URL."""
    return value.partition("?")[0][:200]


def _check_content(field: str, kind: InputKind, name: str, content: bytes) -> str:
    """Look at the first bytes of an input, whatever its name says, and return its content type."""
    if not content:
        raise InvalidRequest(f"{field}: {name} is empty; allowed: {_NAMES[kind]}.")
    for its_kind, content_type, matches in _SIGNATURES:
        if its_kind == kind and matches(content[:16]):
            return content_type
    raise InvalidRequest(f"{field}: {name} is not allowed; allowed: {_NAMES[kind]}.")


def _presign(field: str, value: str, s3_credentials: Any) -> str:
    # boto3 is slow to import, and only this needs it.
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from prefect_aws import AwsCredentials  # noqa: PLC0415

    from prefect_xai_video.presigning import presigned_url  # noqa: PLC0415

    bucket, _, key = value[len("s3://") :].partition("/")
    if not bucket or not key:
        raise InvalidRequest(f"{field}: {_shown(value)!r} is not allowed; allowed: s3://bucket/key.")
    place: dict[str, Any] = {"Bucket": bucket, "Key": key}
    try:
        credentials = s3_credentials or AwsCredentials()
        size = credentials.get_s3_client().head_object(**place)["ContentLength"]
        url = presigned_url(credentials, "get_object", place, PRESIGNED_SECONDS)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise InvalidRequest(
            f"{field}: {_shown(value)!r} can't be read ({error}); "
            f"allowed: an object that the storage's credentials may read."
        ) from None
    if not size:
        raise InvalidRequest(f"{field}: {_shown(value)!r} is empty.")
    return wire_url(url, field)
