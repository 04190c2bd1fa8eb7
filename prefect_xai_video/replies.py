"""Replies: one response of the API, read up to a bound, with whatever arrived before it broke."""

import time
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

MAX_REPLY_BYTES = 2**18
"""Bytes that are read of a response. xAI's are below 1 kB; the largest errors that were seen have 10 kB."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One response of the API.

    Attributes:
        status: HTTP status.
        reason: HTTP reason phrase.
        headers: HTTP headers.
        content: The body, or as much of it as arrived.
        problem: Why the body is not whole; None if it is.
    """

    status: int
    reason: str
    headers: httpx.Headers
    content: bytes
    problem: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The id under which xAI's support finds the call."""
        return self.headers.get("x-request-id") or None

    @property
    def at(self) -> datetime | None:
        """When it was sent, by xAI's clock."""
        try:
            date = parsedate_to_datetime(self.headers.get("Date", ""))
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
        return date if date.tzinfo else date.replace(tzinfo=UTC)


def read_reply(response: httpx.Response, seconds: float) -> Reply:
    """Read a response, and keep what came before it broke.

    Args:
        response: A response whose body was not read yet.
        seconds: How long the body may take in all.
    """
    body = _Body(seconds)
    try:
        body.take(response.iter_raw())
    except httpx.RequestError as error:
        body.problem = f"it broke off ({type(error).__name__})"
    return body.reply(response)


async def aread_reply(response: httpx.Response, seconds: float) -> Reply:
    """Read a response as `read_reply` does, in async code."""
    body = _Body(seconds)
    try:
        await body.atake(response.aiter_raw())
    except httpx.RequestError as error:
        body.problem = f"it broke off ({type(error).__name__})"
    return body.reply(response)


class _Body:
    """A body as far as it was read."""

    def __init__(self, seconds: float) -> None:
        self.problem: str | None = None
        self._content = bytearray()
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def take(self, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            if not self._wants_more(chunk):
                return

    async def atake(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            if not self._wants_more(chunk):
                return

    def _wants_more(self, chunk: bytes) -> bool:
        self._content += chunk
        if len(self._content) > MAX_REPLY_BYTES:
            self.problem = f"it has more than {MAX_REPLY_BYTES} bytes"
        elif time.monotonic() > self._end:
            self.problem = f"it took more than {self._seconds:g} s"
        return self.problem is None

    def reply(self, response: httpx.Response) -> Reply:
        content = self._decoded(response.headers.get("Content-Encoding", "identity").strip().lower())
        return Reply(
            response.status_code, response.reason_phrase, response.headers, content[:MAX_REPLY_BYTES], self.problem
        )

    def _decoded(self, encoding: str) -> bytes:
        """Undo a compression that was not asked for, within the bound."""
        content = bytes(self._content)
        if encoding in ("", "identity"):
            return content
        unpacking = zlib.decompressobj(wbits=47)
        try:
            unpacked = unpacking.decompress(content, MAX_REPLY_BYTES + 1)
        except zlib.error:
            self.problem = self.problem or "it can't be decoded"
            return content
        if len(unpacked) > MAX_REPLY_BYTES:
            self.problem = f"it has more than {MAX_REPLY_BYTES} bytes"
        elif not unpacking.eof:
            self.problem = self.problem or "it broke off"
        return unpacked
