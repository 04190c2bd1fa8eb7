"""Responses of the API, read within limits of time and size, and kept as far as they arrived."""

import time
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

MAX_REPLY_BYTES = 2**18
"""Largest response that is read, in bytes, unless it is a listing. The largest error seen had 10 kB."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One response of the API.

    Attributes:
        status: HTTP status.
        reason: HTTP reason phrase.
        headers: HTTP headers.
        content: The body, or the part of it that arrived.
        problem: Why the body is incomplete; None if it is complete.
    """

    status: int
    reason: str
    headers: httpx.Headers
    content: bytes
    problem: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The id of the call, for xAI's support."""
        return self.headers.get("x-request-id") or None

    @property
    def at(self) -> datetime | None:
        """When the response was sent, by xAI's clock."""
        try:
            date = parsedate_to_datetime(self.headers.get("Date", ""))
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
        return date if date.tzinfo else date.replace(tzinfo=UTC)


def read_reply(response: httpx.Response, seconds: float) -> Reply:
    """Read a response; if it breaks off, keep the part that arrived.

    Args:
        response: A response whose body has not been read yet.
        seconds: Longest time that the whole body may take.
    """
    body = _Body(seconds, MAX_REPLY_BYTES)
    try:
        body.read(response.iter_raw())
    except httpx.RequestError as error:
        body.problem = f"the response broke off ({type(error).__name__})"
    return body.reply(response)


async def aread_reply(response: httpx.Response, seconds: float, max_bytes: int = MAX_REPLY_BYTES) -> Reply:
    """Read a response as `read_reply` does, in async code, up to a given size."""
    body = _Body(seconds, max_bytes)
    try:
        await body.aread(response.aiter_raw())
    except httpx.RequestError as error:
        body.problem = f"the response broke off ({type(error).__name__})"
    return body.reply(response)


class _Body:
    """The body of a response, as far as it has been read."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self.problem: str | None = None
        self._max_bytes = max_bytes
        self._too_large = f"the response has more than {max_bytes} bytes"
        self._content = bytearray()
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def read(self, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            if not self._add(chunk):
                return

    async def aread(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            if not self._add(chunk):
                return

    def _add(self, chunk: bytes) -> bool:
        """Add a chunk; False once a limit is exceeded."""
        self._content += chunk
        if len(self._content) > self._max_bytes:
            self.problem = self._too_large
        elif time.monotonic() > self._end:
            self.problem = f"the response took more than {self._seconds:g} s"
        return self.problem is None

    def reply(self, response: httpx.Response) -> Reply:
        content = self._decoded(response.headers.get("Content-Encoding", "identity").strip().lower())
        return Reply(
            response.status_code, response.reason_phrase, response.headers, content[: self._max_bytes], self.problem
        )

    def _decoded(self, encoding: str) -> bytes:
        """Decompress a body that came compressed although that was not requested, within the size limit."""
        content = bytes(self._content)
        if encoding in ("", "identity"):
            return content
        decompressor = zlib.decompressobj(wbits=47)
        try:
            decoded = decompressor.decompress(content, self._max_bytes + 1)
        except zlib.error:
            self.problem = self.problem or "the response can't be decoded"
            return content
        if len(decoded) > self._max_bytes:
            self.problem = self._too_large
        elif not decompressor.eof:
            self.problem = self.problem or "the response broke off"
        return decoded
