"""What a download must be to count as a whole video: lengths, ranges, digests, and the boxes of an MP4."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx

from prefect_xai_video.errors import DownloadError, StorageError
from prefect_xai_video.responses import parse_retry_after

_UNTYPED = {"application/octet-stream", "binary/octet-stream"}
_BOX_HEADER = 8
_LONG_BOX_HEADER = 16


@dataclass(frozen=True, slots=True)
class Download:
    """What was fetched.

    Attributes:
        size: Bytes.
        sha256: Hexadecimal digest.
        content_type: Content type as the server gave it, or `video/mp4` where it gave none.
    """

    size: int
    sha256: str
    content_type: str


class PartialDownload:
    """How much of a video is there already, and its digest so far.

    Args:
        file: Where it is written, open for reading and writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self.content_type = "video/mp4"
        self._file = file
        self._digest = hashlib.sha256()
        self._expected: int | None = None
        self._etag: str | None = None

    def _restart(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._file.seek(0)
        self._file.truncate()

    def range_headers(self) -> dict[str, str]:
        """Ask for the rest only, and only of the very same file; never compressed, since lengths are checked."""
        headers = {"Accept-Encoding": "identity"}
        if self.size and self._etag:
            headers |= {"Range": f"bytes={self.size}-", "If-Range": self._etag}
        return headers

    def begin(self, answer: httpx.Response) -> None:
        """Take note of the answer's headers; start again where the server does not send just the rest."""
        if answer.status_code not in (200, 206):
            raise DownloadError(
                f"The video can't be fetched: HTTP {answer.status_code}.",
                http_status=answer.status_code,
                retry_after=parse_retry_after(answer.headers),
                transient=answer.status_code in (408, 429) or answer.status_code >= 500,
            )
        content_type = answer.headers.get("Content-Type", "video/mp4").partition(";")[0].strip().lower()
        if not content_type.startswith("video/") and content_type not in _UNTYPED:
            raise DownloadError(f"What the URL gives is no video but {content_type!r}.", transient=False)
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {self.size}-"
        )
        if self.size and not resumed:
            self._restart()
            if answer.status_code == 206:
                raise DownloadError("The server sent another part of the video than was asked for.")
        length = answer.headers.get("Content-Length", "")
        self._expected = self.size + int(length) if length.isdecimal() else None
        self.content_type = "video/mp4" if content_type in _UNTYPED else content_type
        self._etag = answer.headers.get("ETag")

    def write(self, piece: bytes) -> None:
        """Write a piece, and count it."""
        self._file.write(piece)
        self.size += len(piece)
        self._digest.update(piece)

    def end(self) -> Download:
        """Look whether the whole video has arrived; what is whole but no whole MP4 is begun anew.

        Raises:
            DownloadError: If it has not.
        """
        if self._expected is not None and self.size != self._expected:
            raise DownloadError(f"The download ended after {self.size} of {self._expected} bytes.")
        problem = problem_of_mp4(self._file, self.size)
        if problem is not None:
            size = self.size
            self._restart()
            raise DownloadError(f"The {size} bytes that were fetched are no whole MP4 video: {problem}.")
        return Download(self.size, self._digest.hexdigest(), self.content_type)


class Seekable(Protocol):
    """As much of a file as is needed to look at its parts."""

    def seek(self, place: int, /) -> object:
        """Go to a place."""

    def read(self, size: int, /) -> bytes:
        """Read at most so many bytes from there."""


def problem_of_mp4(file: Seekable, size: int) -> str | None:
    """Say what is missing from an MP4 file; None if it is whole.

    HTTP can't tell where a server itself has half a file only, but its boxes can: each tells its length, and one of
    them is the table of contents.
    """
    names = set()
    place = 0
    while place + _BOX_HEADER <= size:
        file.seek(place)
        header = file.read(_LONG_BOX_HEADER)
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if place == 0 and name != b"ftyp":
            return "it does not begin with a file type box"
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - place
        if length < _BOX_HEADER or place + length > size:
            return f"it ends within the box at byte {place}"
        names.add(name)
        place += length
    if not names:
        return "it is empty"
    if not names & {b"moov", b"moof"}:
        return "it has no table of contents"
    return None if b"mdat" in names else "it has no content"


@contextmanager
def written(target: Path) -> Iterator[BinaryIO]:
    """Open a file so that it is on the disk when the block ends well; say so where the disk does not take it."""
    try:
        with target.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error.strerror or error}.") from error
