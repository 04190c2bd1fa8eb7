"""Checks that a download is a complete video: lengths, ranges, digests, and the structure of the MP4 file."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from prefect_xai_video.api.mp4 import ClipFacts, clip_facts, problem_of_mp4
from prefect_xai_video.api.redaction import MAX_CODE, Redaction
from prefect_xai_video.api.responses import parse_retry_after
from prefect_xai_video.errors import DownloadError, StorageError

_UNTYPED = {"application/octet-stream", "binary/octet-stream"}
_VIDEO_TYPE = re.compile(r"video/[a-z0-9.+-]{1,60}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")

MAX_DOWNLOAD_BYTES = 512 * 2**20
"""Default size of the largest video that is downloaded, in bytes. xAI's have a few MB."""


@dataclass(frozen=True, slots=True)
class Download:
    """Facts about a completed download.

    Attributes:
        size: Size in bytes.
        sha256: SHA-256 as a hexadecimal string.
        content_type: Content type that the server sent; `video/mp4` if it sent none or a malformed one.
        clip: What the index of the video tells about it; None if the index can't be read.
    """

    size: int
    sha256: str
    content_type: str
    clip: ClipFacts | None = None


class PartialDownload:
    """A download in progress: the bytes so far, and their digest.

    Args:
        file: Destination, open for reading and writing.
        max_bytes: Size of the largest video that is accepted, in bytes.
        is_too_long: Whether a Retry-After is longer than the longest that is honoured.
        redact: Applied to the content type, which is shown or stored.
    """

    def __init__(
        self,
        file: BinaryIO,
        max_bytes: int,
        is_too_long: Callable[[float | None], bool],
        redact: Redaction,
    ) -> None:
        self.size = 0
        self.content_type = "video/mp4"
        self.is_encoded = False
        self._file = file
        self._max_bytes = max_bytes
        self._is_too_long = is_too_long
        self._redact = redact
        self._digest = hashlib.sha256()
        self._expected: int | None = None
        self._etag: str | None = None

    def _restart(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._expected = self._etag = None
        self._file.seek(0)
        self._file.truncate()

    def range_headers(self) -> dict[str, str]:
        """Build headers that request only the missing part of the same file, uncompressed so that lengths agree."""
        headers = {"Accept-Encoding": "identity"}
        # A weak ETag does not guarantee the same bytes.
        if self.size and self._etag and self._etag.startswith('"'):
            headers |= {"Range": f"bytes={self.size}-", "If-Range": self._etag}
        return headers

    def begin(self, response: httpx.Response) -> None:
        """Check the headers of a response; if the server sends the whole video again, start over.

        Raises:
            DownloadError: If the response is not the video or its missing part, or is too large.
        """
        if response.status_code not in (200, 206):
            retry_after = parse_retry_after(response.headers)
            is_temporary = response.status_code in (408, 429) or response.status_code >= 500
            raise DownloadError(
                f"The video can't be downloaded: HTTP {response.status_code}.",
                http_status=response.status_code,
                retry_after=retry_after,
                transient=is_temporary and not self._is_too_long(retry_after),
            )
        sent_type = response.headers.get("Content-Type", "video/mp4").partition(";")[0].strip().lower()
        content_type = self._redact(sent_type, MAX_CODE)
        if not sent_type.startswith("video/") and sent_type not in _UNTYPED:
            raise DownloadError(f"The URL returned {content_type!r} instead of a video.", transient=False)
        self.is_encoded = response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
        if response.status_code == 206:
            self._begin_part(response.headers)
        else:
            self._begin_whole(response.headers)
        if self._expected is not None and self._expected > self._max_bytes:
            raise self._too_large()
        self.content_type = content_type if _VIDEO_TYPE.fullmatch(content_type) else "video/mp4"

    def _begin_whole(self, headers: httpx.Headers) -> None:
        if self.size:
            self._restart()
        length = headers.get("Content-Length", "")
        # Length and ETag of an encoded response describe the encoded bytes, not the video: it can't be resumed.
        self._expected = int(length) if _LENGTH.fullmatch(length) and not self.is_encoded else None
        etag = headers.get("ETag")
        self._etag = etag if etag and etag.isascii() and not self.is_encoded else None

    def _begin_part(self, headers: httpx.Headers) -> None:
        """Check that a part is the missing part of the same file; otherwise discard all bytes so far."""
        part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        total = int(part[2]) if part and part[2] != "*" else None
        if (
            part is None
            or int(part[1]) != self.size
            or headers.get("ETag", self._etag) != self._etag
            or (self._expected is not None and total not in (None, self._expected))
        ):
            self._restart()
            raise DownloadError("The server sent the wrong part of the video, or a part of another file.")
        self._expected = total if self._expected is None else self._expected

    def _too_large(self) -> DownloadError:
        return DownloadError(
            f"The video has more than {self._max_bytes} bytes. To allow it, raise the setting MAX_DOWNLOAD_BYTES.",
            transient=False,
        )

    def write(self, chunk: bytes) -> None:
        """Write a chunk, and add it to size and digest."""
        if self.size + len(chunk) > self._max_bytes:
            raise self._too_large()
        self._file.write(chunk)
        self.size += len(chunk)
        self._digest.update(chunk)

    def end(self) -> Download:
        """Check that the complete video has arrived.

        If all bytes arrived but are not a complete MP4, discard them so that the next attempt starts over.

        Raises:
            DownloadError: If the video is not complete.
        """
        if self._expected is not None and self.size != self._expected:
            raise DownloadError(f"The download ended after {self.size} of {self._expected} bytes.")
        problem = problem_of_mp4(self._file, self.size)
        if problem is not None:
            size = self.size
            self._restart()
            raise DownloadError(f"The downloaded file ({size} bytes) is not a complete MP4 video: {problem}.")
        return Download(self.size, self._digest.hexdigest(), self.content_type, clip_facts(self._file, self.size))


@contextmanager
def open_durably(target: Path) -> Iterator[BinaryIO]:
    """Open a file for reading and writing, and flush it to the disk if the `with` block succeeds.

    Raises:
        StorageError: If the file can't be written.
    """
    try:
        with target.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error.strerror or error}.") from error
