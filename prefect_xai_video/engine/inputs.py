"""Conversion of inputs as users give them (local files, `s3://` URLs) to URLs that xAI can fetch."""

import base64
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from prefect_xai_video.api.mp4 import ClipFacts, clip_facts
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.sources import FILE_SCHEME, ResolvedInput, is_file_id
from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.api.urls import InputKind, decode_inline, wire_url
from prefect_xai_video.engine.reading import Readable, TooLarge, check_size, open_regular, read_file
from prefect_xai_video.errors import InvalidRequest, not_allowed, shown

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials

MAX_INLINE_BYTES: Mapping[InputKind, int] = {"image": 10 * 2**20, "video": 64 * 2**20, "audio": 10 * 2**20}
"""Largest file that is sent inside a request, in bytes: for images xAI's own earlier limit, for the others ours."""

PRESIGNED_SECONDS = 6 * 3600
"""Lifetime in seconds of the signed URL of an `s3://` input; long enough for a request that waits in xAI's queue."""

SIGNATURE_BYTES = 16
"""Number of bytes at the start of an input that identify its content type."""

_SIGNATURES: tuple[tuple[InputKind, str, Callable[[bytes], bool]], ...] = (
    ("image", "image/png", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n")),
    ("image", "image/jpeg", lambda head: head.startswith(b"\xff\xd8\xff")),
    ("image", "image/webp", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
    ("video", "video/mp4", lambda head: head[4:8] == b"ftyp"),
    ("audio", "audio/mpeg", lambda head: head.startswith((b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"))),
    ("audio", "audio/wav", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WAVE"),
    ("audio", "audio/mp4", lambda head: head[4:8] == b"ftyp"),
    ("audio", "audio/ogg", lambda head: head.startswith(b"OggS")),
    ("audio", "audio/flac", lambda head: head.startswith(b"fLaC")),
)
_NAMES: Mapping[InputKind, str] = {
    "image": "a PNG, JPEG or WebP image",
    "video": "an MP4 video",
    "audio": "an MP3, WAV, M4A, Ogg or FLAC clip",
}

_QUERY = re.compile(r"\?|%(?:25)*3f", re.IGNORECASE)
_FILE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

logger = logging.getLogger(__name__)


async def resolve_inputs(
    request: VideoRequest,
    s3_credentials: "AwsCredentials | MinIOCredentials | None" = None,
    readable: Readable | None = None,
) -> VideoRequest:
    """Replace the inputs of a request by URLs that xAI can fetch.

    https and `data:` URLs and ids of files at xAI stay as they are (inline data is checked). Local files, `file://`
    URIs included, become `data:` URLs. `s3://` URLs become presigned URLs.

    Args:
        request: A request as the user gave it.
        s3_credentials: Credentials for `s3://` inputs. Default: those of the environment.
        readable: The locations from which files and objects may be read; None for any. If set, errors do not reveal
            whether a file exists, what it contains or how large it is.

    Raises:
        InvalidRequest: If an input can't be read or has the wrong content type.
    """
    stopped = Event()
    resolved: dict[str, ResolvedInput] = {}
    seen: set[tuple[InputKind, str]] = set()
    try:
        for given in request.inputs:
            # By kind: an image that is also given as a voice is refused as one.
            if (given.kind, given.value) not in seen:
                seen.add((given.kind, given.value))
                each = _Input(*given, readable)
                resolved[given.value] = await run_in_thread(_resolve, each, s3_credentials, stopped.is_set)
    finally:
        stopped.set()
    return request.resolved(resolved)


def fingerprint_of(request: VideoRequest, readable: Readable | None = None) -> str:
    """Compute the fingerprint that a request will have once its local files are read.

    Args:
        request: A request as the user gave it.
        readable: The locations from which files may be read; None for any.

    Raises:
        InvalidRequest: If a file can't be read or has the wrong content type.
    """
    resolved = {
        given.value: _resolve(_Input(*given, readable), None, lambda: False)
        for given in request.inputs
        if not _is_object(given.value)
    }
    return request.resolved(resolved).fingerprint


def check_inputs(request: VideoRequest, readable: Readable | None = None) -> None:
    """Check the inputs of a request as far as that needs neither the network nor whole files.

    Args:
        request: A request as the user gave it.
        readable: The locations from which files may be read; None for any.

    Raises:
        InvalidRequest: If a file can't be opened, is too large or of the wrong type, or if a URL is not allowed.
    """
    for given in request.inputs:
        each = _Input(*given, readable)
        if is_local(given.value):
            with _refused(each), open_regular(_path_of(each), readable) as file:
                check_size(file, MAX_INLINE_BYTES[each.kind])
                each.content_type(file.read(SIGNATURE_BYTES))
        elif not _is_object(given.value):
            _resolve(each, None, lambda: False)


def is_local(value: str) -> bool:
    """Whether an input is a file of this machine: a path, or a file:// URI."""
    is_elsewhere = "://" in value or value[:5].lower() == "data:" or is_file_id(value)
    return value.lower().startswith("file:") or not is_elsewhere


def _is_object(value: str) -> bool:
    """Whether an input is an object in S3."""
    return value[:5].lower() == "s3://"


@dataclass(frozen=True, slots=True)
class _Input:
    """An input as the user gave it.

    Attributes:
        field: Its field in the request.
        kind: The required kind of input.
        value: A path or a URL.
        readable: The locations from which it may be read; None for any.
    """

    field: str
    kind: InputKind
    value: str
    readable: Readable | None

    def refusal(self, why: object) -> InvalidRequest:
        """Create the error for an unusable file or object; one text for every cause, so that none is revealed."""
        # The part after a question mark, even an escaped one, may be the signature of a mistyped URL.
        named = repr(_QUERY.split(self.value, maxsplit=1)[0][:200])
        if self.readable is None:
            reason, sources, hint = f" ({why})", "in a local file, or at an https:, data: or s3:// URL", ""
        else:
            reason, sources, hint = "", f"in {self.readable}, or at an https: or data: URL", self.readable.hint
            logger.debug("%s: %s can't be used: %s", self.field, named, why)
        limit = f"a local file may have at most {MAX_INLINE_BYTES[self.kind] // 2**20} MiB"
        text = f"{self.field}: {named} can't be used{reason}; allowed: {_NAMES[self.kind]} {sources}; {limit}. {hint}"
        return InvalidRequest(text.rstrip())

    def content_type(self, head: bytes) -> str:
        """Determine the content type from the first bytes of an input, whatever its name.

        Raises:
            InvalidRequest: If the input is not of the required kind.
        """
        for kind, content_type, matches in _SIGNATURES:
            if kind == self.kind and matches(head[:SIGNATURE_BYTES]):
                return content_type
        raise self.refusal("its content is of another type" if head else "it is empty")


def _resolve(given: _Input, s3_credentials: Any, is_stopped: Callable[[], bool]) -> ResolvedInput:
    value = given.value
    if is_file_id(value):
        return ResolvedInput(_checked_file_id(given))
    scheme = value.partition(":")[0].lower() if "://" in value or value[:5].lower() == "data:" else ""
    if scheme == "data":
        content = decode_inline(given.field, given.kind, value, MAX_INLINE_BYTES[given.kind])
        if not any(kind == given.kind and matches(content[:SIGNATURE_BYTES]) for kind, _, matches in _SIGNATURES):
            raise not_allowed(given.field, "the content of the data: URL", _NAMES[given.kind])
        return ResolvedInput(value, clip=_clip(given, content))
    if scheme == "s3":
        return _presign(given, s3_credentials)
    if scheme and scheme != "file":
        return ResolvedInput(wire_url(value, given.field))
    with _refused(given):
        content = read_file(_path_of(given), MAX_INLINE_BYTES[given.kind], given.readable, is_stopped)
    data = f"data:{given.content_type(content)};base64,{base64.b64encode(content).decode()}"
    return ResolvedInput(data, clip=_clip(given, content))


def _path_of(given: _Input) -> Path:
    """Return the path of a local file."""
    is_uri = given.value[:7].lower() == "file://"
    return Path(url2pathname(urlsplit(given.value).path) if is_uri else given.value).expanduser()


@contextmanager
def _refused(given: _Input) -> Iterator[None]:
    """Convert the errors of reading a local file into errors that name its field."""
    try:
        yield
    except InvalidRequest:
        raise
    except TooLarge:
        limit = MAX_INLINE_BYTES[given.kind]
        raise given.refusal(f"it has more than {limit} bytes; use an https:// or s3:// URL") from None
    # RuntimeError: the home directory of a ~user is unknown. ValueError: the text can't be a path.
    except (OSError, RuntimeError, ValueError) as error:
        raise given.refusal(getattr(error, "strerror", None) or error) from None


def _clip(given: _Input, content: bytes) -> ClipFacts | None:
    return clip_facts(BytesIO(content), len(content)) if given.kind == "video" else None


def _checked_file_id(given: _Input) -> str:
    if given.kind == "audio":
        raise not_allowed(given.field, shown(given.value), "an https:// or data: URL, or a local file")
    if not _FILE_ID.fullmatch(given.value.removeprefix(FILE_SCHEME)):
        raise not_allowed(given.field, shown(given.value), f"{FILE_SCHEME} and the id of a file kept at xAI")
    return given.value


def _presign(given: _Input, s3_credentials: Any) -> ResolvedInput:
    # boto3 is slow to import and needed only here.
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    from prefect_xai_video.engine.presigning import presigned_url  # noqa: PLC0415
    from prefect_xai_video.engine.stores.bucket import credentials_of_environment  # noqa: PLC0415
    from prefect_xai_video.engine.stores.objects import ObjectReader  # noqa: PLC0415
    from prefect_xai_video.engine.stores.s3_errors import text_of  # noqa: PLC0415

    bucket, _, key = given.value[len("s3://") :].partition("/")
    # Some clients and servers resolve dot segments and would then read another object.
    if not bucket or not key or {".", ".."} & set(key.split("/")):
        raise given.refusal("it does not have the form s3://bucket/key")
    if given.readable is not None and not given.readable.has_object(bucket, key):
        raise given.refusal("its location may not be read")
    location = {"Bucket": bucket, "Key": key}
    credentials = s3_credentials or credentials_of_environment()
    try:
        client = credentials.get_s3_client()
        head, etag, size = _first_bytes(client, location)
        given.content_type(head)
        clip = clip_facts(ObjectReader(client, location), size) if given.kind == "video" else None
        url = presigned_url(credentials, "get_object", location, PRESIGNED_SECONDS)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise given.refusal(text_of(error, credentials)) from None
    return ResolvedInput(wire_url(url, given.field), f"s3://{bucket}/{key}#etag={etag}", clip)


def _first_bytes(client: Any, location: Mapping[str, str]) -> tuple[bytes, str, int]:
    """Read the first bytes of an object, its ETag, and its size; 0 if the server does not tell."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        response = client.get_object(**location, Range=f"bytes=0-{SIGNATURE_BYTES - 1}")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b"", "", 0
        raise
    with closing(response["Body"]) as body:
        size = response.get("ContentRange", "").rpartition("/")[2]
        return body.read(SIGNATURE_BYTES), response["ETag"].strip('"'), int(size) if size.isdecimal() else 0
