"""What the input images and videos hold, as far as it can be looked at without leaving this machine."""

import base64
import binascii
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import httpx

from prefect_xai_video.client import unlogged_urls
from prefect_xai_video.emulator.bodies import Source
from prefect_xai_video.emulator.validation import AcceptedRequest

Kind = Literal["image", "video"]
ErrorCode = Literal[
    "invalid_argument", "permission_denied", "failed_precondition", "service_unavailable", "internal_error"
]
Contents = Mapping[Source, bytes | None]
"""The content of each input; None for one that is taken as good without looking."""

UNSEEN_CLIP_SECONDS = 6.0
UNSEEN_CLIP_SIZE = (1280, 720)
"""What an input clip is taken for that can't be looked at."""

_INLINE_TYPES: Mapping[Kind, tuple[str, ...]] = {
    "image": ("image/png", "image/jpeg", "image/webp"),
    "video": ("video/mp4",),
}


class RenderFailed(Exception):
    """A render that ends in status failed.

    Attributes:
        code: The error code of the answer.
        message: Its text.
    """

    def __init__(self, message: str, code: ErrorCode = "invalid_argument") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def is_loopback(url: str) -> bool:
    """Whether a URL is plain http to this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}


async def contents_of(request: AcceptedRequest, client: httpx.AsyncClient) -> Contents:
    """Read all inputs of a request.

    Args:
        request: The request.
        client: Fetches what is on this machine.

    Returns:
        What each input holds.

    Raises:
        RenderFailed: If one of them can't be read.
    """
    contents = {image: await _content_of(image, "image", client) for image in request.images}
    if request.video is not None:
        contents[request.video] = await _content_of(request.video, "video", client)
    return contents


async def _content_of(source: Source, kind: Kind, client: httpx.AsyncClient) -> bytes | None:
    if source.url is None:
        return None
    if source.url.startswith("data:"):
        return _inline(source.url, kind)
    if is_loopback(source.url):
        return await _fetched(source.url, kind, client)
    if source.url.startswith("https://"):
        return None
    raise RenderFailed(f"The {kind} URL is not valid.")


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
        raise RenderFailed(f"The {kind} URL answered with HTTP status {response.status_code}.")
    return response.content
