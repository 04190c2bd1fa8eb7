"""Reads the input images and videos, as far as that is possible without leaving this machine."""

import asyncio
import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import httpx

from prefect_xai_video.api.httpx_log import unlogged_urls
from prefect_xai_video.emulator.bodies import Source
from prefect_xai_video.emulator.validation import AcceptedRequest

Kind = Literal["image", "video"]
ErrorCode = Literal[
    "invalid_argument", "permission_denied", "failed_precondition", "service_unavailable", "internal_error"
]
Contents = Mapping[Source, bytes | None]
"""Content of each input; None for an input that is accepted without being read."""

UNSEEN_CLIP_SECONDS = 6.0
UNSEEN_CLIP_SIZE = (1280, 720)
"""Assumed duration and size of an input clip that can't be read."""

_INLINE_TYPES: Mapping[Kind, tuple[str, ...]] = {
    "image": ("image/png", "image/jpeg", "image/webp"),
    "video": ("video/mp4",),
}


class StoredFile(Protocol):
    """A file of the Files API."""

    path: Path


class StoredFiles(Protocol):
    """The Files API, as far as inputs need it."""

    def find(self, file_id: str) -> StoredFile | None:
        """Find a file by its id."""


class RenderFailed(Exception):
    """A render that ends with status `failed`.

    Attributes:
        code: Error code in the response.
        message: Error message in the response.
    """

    def __init__(self, message: str, code: ErrorCode = "invalid_argument") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def is_loopback(url: str) -> bool:
    """Whether a URL is plain HTTP to this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}


async def contents_of(request: AcceptedRequest, client: httpx.AsyncClient, files: StoredFiles) -> Contents:
    """Read all inputs of a request.

    Args:
        request: The request.
        client: HTTP client for inputs on this machine.
        files: Files of the Files API, for inputs that are given by their id.

    Returns:
        The content of each input.

    Raises:
        RenderFailed: If one of them can't be read.
    """
    contents = {image: await _content_of(image, "image", client, files) for image in request.images}
    if request.video is not None:
        contents[request.video] = await _content_of(request.video, "video", client, files)
    return contents


async def _content_of(source: Source, kind: Kind, client: httpx.AsyncClient, files: StoredFiles) -> bytes | None:
    if source.url is None:
        return await _stored(source.file_id or "", kind, files)
    if source.url.startswith("data:"):
        return _inline(source.url, kind)
    if is_loopback(source.url):
        return await _fetched(source.url, kind, client)
    if source.url.startswith("https://"):
        return None
    raise RenderFailed(f"The {kind} URL is not valid.")


async def _stored(file_id: str, kind: Kind, files: StoredFiles) -> bytes:
    # Like a URL that can't be reached, an unknown id is accepted at submit and fails on the poll.
    file = files.find(file_id)
    if file is None:
        raise RenderFailed(f"The {kind} file does not exist.")
    return await asyncio.to_thread(file.path.read_bytes)


def _inline(url: str, kind: Kind) -> bytes:
    header, _, payload = url.partition(",")
    if header not in [f"data:{content_type};base64" for content_type in _INLINE_TYPES[kind]]:
        raise RenderFailed(f"The {kind} has an unsupported type.")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise RenderFailed(f"The {kind} is not valid base64.") from None


async def _fetched(url: str, kind: Kind, client: httpx.AsyncClient) -> bytes:
    try:
        with unlogged_urls():
            response = await client.get(url)
    except (httpx.HTTPError, httpx.InvalidURL):
        raise RenderFailed(f"The {kind} URL could not be reached.") from None
    if response.status_code != 200:
        raise RenderFailed(f"The {kind} URL returned HTTP status {response.status_code}.")
    return response.content
