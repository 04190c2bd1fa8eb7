"""Inputs as people name them (a local file, an `s3://` URL) turned into URLs that the service can be given."""

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.reading import Readable, TooLarge, read_file
from prefect_xai_video.requests import InputKind, ResolvedInput, VideoRequest, decode_inline, wire_url

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials

MAX_INLINE_BYTES: Mapping[InputKind, int] = {"image": 10 * 2**20, "video": 64 * 2**20}
"""Largest content that is sent inside a request: for images xAI's own older limit, for videos our guard."""

PRESIGNED_SECONDS = 6 * 3600
"""Lifetime of the signed URL of an `s3://` input, in seconds: long enough for a request that waits in xAI's queue."""

SIGNATURE_BYTES = 16
"""The first bytes of an input, which tell what it is."""

_SIGNATURES: tuple[tuple[InputKind, str, Callable[[bytes], bool]], ...] = (
    ("image", "image/png", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n")),
    ("image", "image/jpeg", lambda head: head.startswith(b"\xff\xd8\xff")),
    ("image", "image/webp", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
    ("video", "video/mp4", lambda head: head[4:8] == b"ftyp"),
)
_NAMES = {"image": "a PNG, JPEG or WebP image", "video": "an MP4 video"}

logger = logging.getLogger(__name__)


async def resolve_inputs(
    request: VideoRequest,
    s3_credentials: "AwsCredentials | MinIOCredentials | None" = None,
    readable: Readable | None = None,
) -> VideoRequest:
    """Replace the inputs of a request by URLs for the wire.

    https and `data:` URLs stay as they are (inline data is checked), local files, also by `file://` URI, become
    `data:` URLs, and `s3://` URLs become presigned ones.

    Args:
        request: A request as the user gave it.
        s3_credentials: Credentials for `s3://` inputs; without them, those of the environment.
        readable: The places from which files and objects may be read; None for any. With it, errors don't tell
            whether there is a file, what it holds, or how large it is.

    Raises:
        InvalidRequest: If an input can't be read, or is not of the right kind.
    """
    stopped = Event()
    inputs = {field: _Input(field, kind, getattr(request, field), readable) for field, kind in request.inputs.items()}
    try:
        return request.resolved(
            {
                field: await asyncio.to_thread(_resolve, each, s3_credentials, stopped.is_set)
                for field, each in inputs.items()
            }
        )
    finally:
        stopped.set()


@dataclass(frozen=True, slots=True)
class _Input:
    """An input as the user gave it.

    Attributes:
        field: Its field in the request.
        kind: What it must be.
        value: A path or a URL.
        readable: The places from which it may be read; None for any.
    """

    field: str
    kind: InputKind
    value: str
    readable: Readable | None

    def refused(self, why: object) -> InvalidRequest:
        """The one error for all that can be wrong with a file or an object."""
        # What follows a question mark may be the signature of a mistyped URL.
        shown = repr(self.value.partition("?")[0][:200])
        if self.readable is None:
            reason, places, hint = f" ({why})", "in a local file, or at an https:, data: or s3:// URL", ""
        else:
            reason, places, hint = "", f"in {self.readable}, or at an https: or data: URL", self.readable.hint
            logger.debug("%s: %s can't be used: %s", self.field, shown, why)
        limit = f"a local file may have at most {MAX_INLINE_BYTES[self.kind] // 2**20} MiB"
        text = f"{self.field}: {shown} can't be used{reason}; allowed: {_NAMES[self.kind]} {places}; {limit}. {hint}"
        return InvalidRequest(text.rstrip())

    def content_type(self, head: bytes) -> str:
        """Tell by the first bytes of an input, whatever its name says, what it is.

        Raises:
            InvalidRequest: If it is not what it must be.
        """
        for kind, content_type, matches in _SIGNATURES:
            if kind == self.kind and matches(head[:SIGNATURE_BYTES]):
                return content_type
        raise self.refused("it is something else" if head else "it is empty")


def _resolve(given: _Input, s3_credentials: Any, is_stopped: Callable[[], bool]) -> ResolvedInput:
    value = given.value
    scheme = value.partition(":")[0].lower() if "://" in value or value[:5].lower() == "data:" else ""
    if scheme == "data":
        content = decode_inline(given.field, given.kind, value, MAX_INLINE_BYTES[given.kind])
        if not any(kind == given.kind and matches(content[:SIGNATURE_BYTES]) for kind, _, matches in _SIGNATURES):
            raise InvalidRequest(f"{given.field}: the data: URL is not allowed; allowed: {_NAMES[given.kind]}.")
        return ResolvedInput(value)
    if scheme == "s3":
        return _presign(given, s3_credentials)
    if scheme == "file":
        return _inline(given, url2pathname(urlsplit(value).path), is_stopped)
    if scheme:
        return ResolvedInput(wire_url(value, given.field))
    return _inline(given, value, is_stopped)


def _inline(given: _Input, name: str, is_stopped: Callable[[], bool]) -> ResolvedInput:
    limit = MAX_INLINE_BYTES[given.kind]
    try:
        content = read_file(Path(name).expanduser(), limit, given.readable, is_stopped)
    except TooLarge:
        raise given.refused(f"it has more than {limit} bytes; use an https:// or s3:// URL") from None
    # A user whose home is not known, and a path that can't be one.
    except (OSError, RuntimeError, ValueError) as error:
        raise given.refused(getattr(error, "strerror", None) or error) from None
    return ResolvedInput(f"data:{given.content_type(content)};base64,{base64.b64encode(content).decode()}")


def _presign(given: _Input, s3_credentials: Any) -> ResolvedInput:
    # boto3 is slow to import, and only this needs it.
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from prefect_aws import AwsCredentials  # noqa: PLC0415

    from prefect_xai_video.presigning import presigned_url  # noqa: PLC0415

    bucket, _, key = given.value[len("s3://") :].partition("/")
    # Some clients and servers resolve dots on the way, and would then read another object.
    if not bucket or not key or {".", ".."} & set(key.split("/")):
        raise given.refused("an object is named s3://bucket/key")
    if given.readable is not None and not given.readable.has_object(bucket, key):
        raise given.refused("it is elsewhere")
    place = {"Bucket": bucket, "Key": key}
    try:
        credentials = s3_credentials or AwsCredentials()
        head, etag = _first_bytes(credentials.get_s3_client(), place)
        url = presigned_url(credentials, "get_object", place, PRESIGNED_SECONDS)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise given.refused(error) from None
    given.content_type(head)
    return ResolvedInput(wire_url(url, given.field), f"s3://{bucket}/{key}#etag={etag}")


def _first_bytes(client: Any, place: Mapping[str, str]) -> tuple[bytes, str]:
    """Read the first bytes of an object, and the tag of its content."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        response = client.get_object(**place, Range=f"bytes=0-{SIGNATURE_BYTES - 1}")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b"", ""
        raise
    with closing(response["Body"]) as body:
        return body.read(SIGNATURE_BYTES), response["ETag"].strip('"')
