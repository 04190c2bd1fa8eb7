"""What a download must be to count as a whole video: lengths, ranges, digests, and the boxes of an MP4."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx

from prefect_xai_video.errors import DownloadError, StorageError
from prefect_xai_video.redaction import MAX_CODE, Redaction
from prefect_xai_video.responses import parse_retry_after

_UNTYPED = {"application/octet-stream", "binary/octet-stream"}
_BOX_HEADER = 8
_LONG_BOX_HEADER = 16
_MAX_BOXES = 10_000
_MAX_TRAILING_BYTES = 1024
_LENGTH = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")

MAX_DOWNLOAD_BYTES = 512 * 2**20
"""Largest video that is downloaded, unless said otherwise. xAI's have a few MB."""


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
        max_bytes: Size above which it is refused.
        is_too_long: Whether a Retry-After is longer than is waited for.
    """

    def __init__(
        self,
        file: BinaryIO,
        max_bytes: int = MAX_DOWNLOAD_BYTES,
        is_too_long: Callable[[float | None], bool] = lambda _: False,
    ) -> None:
        self.size = 0
        self.content_type = "video/mp4"
        self._file = file
        self._max_bytes = max_bytes
        self._is_too_long = is_too_long
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
        """Ask for the rest only, and only of the very same file; never compressed, since lengths are checked."""
        headers = {"Accept-Encoding": "identity"}
        # A weak ETag does not promise the same bytes.
        if self.size and self._etag and self._etag.startswith('"'):
            headers |= {"Range": f"bytes={self.size}-", "If-Range": self._etag}
        return headers

    def begin(self, answer: httpx.Response) -> None:
        """Take note of the answer's headers; start again where the server does not send just the rest."""
        if answer.status_code not in (200, 206):
            retry_after = parse_retry_after(answer.headers)
            worth_it = answer.status_code in (408, 429) or answer.status_code >= 500
            raise DownloadError(
                f"The video can't be fetched: HTTP {answer.status_code}.",
                http_status=answer.status_code,
                retry_after=retry_after,
                transient=worth_it and not self._is_too_long(retry_after),
            )
        content_type = answer.headers.get("Content-Type", "video/mp4").partition(";")[0].strip().lower()
        if not content_type.startswith("video/") and content_type not in _UNTYPED:
            shown = Redaction()(content_type, MAX_CODE)
            raise DownloadError(f"The URL does not give a video but {shown!r}.", transient=False)
        if answer.status_code == 206:
            self._begin_part(answer.headers)
        else:
            self._begin_whole(answer.headers)
        if self._expected is not None and self._expected > self._max_bytes:
            raise self._too_large()
        self.content_type = "video/mp4" if content_type in _UNTYPED else content_type

    def _begin_whole(self, headers: httpx.Headers) -> None:
        if self.size:
            self._restart()
        length = headers.get("Content-Length", "")
        self._expected = int(length) if _LENGTH.fullmatch(length) else None
        etag = headers.get("ETag")
        self._etag = etag if etag and etag.isascii() else None

    def _begin_part(self, headers: httpx.Headers) -> None:
        """Check that a part is the rest of the very same file; otherwise discard what is there."""
        part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        total = int(part[2]) if part and part[2] != "*" else None
        if (
            part is None
            or int(part[1]) != self.size
            or headers.get("ETag", self._etag) != self._etag
            or (self._expected is not None and total not in (None, self._expected))
        ):
            self._restart()
            raise DownloadError("The server sent another part of the video, or a part of another one.")
        self._expected = total if self._expected is None else self._expected

    def _too_large(self) -> DownloadError:
        return DownloadError(
            f"The video has more than {self._max_bytes} bytes; raise the setting MAX_DOWNLOAD_BYTES.", transient=False
        )

    def write(self, piece: bytes) -> None:
        """Write a piece, and count it."""
        if self.size + len(piece) > self._max_bytes:
            raise self._too_large()
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
    names: set[bytes] = set()
    place = 0
    for _ in range(_MAX_BOXES):
        if place + _BOX_HEADER > size:
            break
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
            if _is_whole(names) and not _is_name(name) and size - place <= _MAX_TRAILING_BYTES:
                return None
            return f"it ends within the box at byte {place}"
        names.add(name)
        place += length
    else:
        return "it has too many boxes"
    if not names:
        return "it is empty"
    if not names & {b"moov", b"moof"}:
        return "it has no table of contents"
    return None if b"mdat" in names else "it has no content"


def _is_whole(names: set[bytes]) -> bool:
    return bool(names & {b"moov", b"moof"}) and b"mdat" in names


def _is_name(name: bytes) -> bool:
    """Whether it can be the name of a box, which a few trailing bytes can't be."""
    return all(0x20 <= byte < 0x7F for byte in name)


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
