"""What the boxes of an MP4 file tell: whether it is complete, its length, its size, its frame rate, and its sound."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

_BOX_HEADER = 8


_LONG_BOX_HEADER = 16


_MAX_BOXES = 10_000


_MAX_TRAILING_BYTES = 1024

MAX_INDEX_BYTES = 4 * 2**20
"""Largest index that is read; that of a clip of 15 s has about 10 kB."""


class Seekable(Protocol):
    """A file, or anything else whose parts can be read by position."""

    def seek(self, position: int, /) -> object:
        """Set the position of the next read, in bytes from the start."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes from the current position."""


def problem_of_mp4(file: Seekable, size: int) -> str | None:
    """Describe why an MP4 file is not complete; None if it is.

    HTTP can't detect a file that is incomplete on the server itself, but the file's boxes can: each states its
    length, and one of them is the index.
    """
    names: set[bytes] = set()
    position = 0
    for _ in range(_MAX_BOXES):
        if position + _BOX_HEADER > size:
            break
        file.seek(position)
        header = file.read(_LONG_BOX_HEADER)
        (length, _), name = _extent(header, 0, size - position), header[4:8]
        if position == 0 and name != b"ftyp":
            return "it does not begin with a file type (ftyp) box"
        if length < _BOX_HEADER or position + length > size:
            if _is_complete(names) and not _is_name(name) and size - position <= _MAX_TRAILING_BYTES:
                return None
            return f"it is cut off in the box at byte {position}"
        names.add(name)
        position += length
    else:
        return f"it has more than {_MAX_BOXES} boxes"
    if not names:
        return "it is empty"
    if not names & {b"moov", b"moof"}:
        return "it has no index (moov or moof box)"
    return None if b"mdat" in names else "it has no media data (mdat box)"


def _is_complete(names: set[bytes]) -> bool:
    return bool(names & {b"moov", b"moof"}) and b"mdat" in names


def _is_name(name: bytes) -> bool:
    """Whether four bytes can be the name of a box; stray trailing bytes usually can't."""
    return all(0x20 <= byte < 0x7F for byte in name)


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What the index of a clip tells about it.

    Attributes:
        seconds: Its length in seconds.
        width: Width in pixels.
        height: Height in pixels.
        frame_rate: Frames a second on average; None if the index does not tell.
        has_sound: Whether it has sound.
    """

    seconds: float
    width: int
    height: int
    frame_rate: float | None = None
    has_sound: bool = False


def clip_facts(file: Seekable, size: int) -> ClipFacts | None:
    """Read the facts of a clip from the index of its MP4 file; None if it does not state them.

    Args:
        file: The file; only the headers of its boxes and the index are read.
        size: Its size in bytes.
    """
    movie = _index(file, size)
    header = next(_boxes(movie, b"mvhd"), b"")
    scale, length = _scale_and_length(header)
    tracks = list(_boxes(movie, b"trak"))
    kinds = [_kind(track) for track in tracks]
    width, height = max(map(_size, tracks), default=(0, 0))
    if not (scale and length and width and height):
        return None
    rates = [_frame_rate(track) for track, kind in zip(tracks, kinds, strict=True) if kind == b"vide"]
    return ClipFacts(length / scale, width, height, next(iter(rates), None), b"soun" in kinds)


def _index(file: Seekable, size: int) -> bytes:
    """Read the content of the index (moov box); empty if there is none, or if it is too large to be one."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position + _BOX_HEADER > size:
            break
        file.seek(position)
        header = file.read(_LONG_BOX_HEADER)
        length, start = _extent(header, 0, size - position)
        if len(header) < _BOX_HEADER or length < start or position + length > size:
            break
        if header[4:8] == b"moov":
            file.seek(position + start)
            return file.read(length - start) if length <= MAX_INDEX_BYTES else b""
        position += length
    return b""


def _scale_and_length(header: bytes) -> tuple[int, int]:
    """Read units a second, and the length in them, from the header of a movie or a track's media."""
    # Version 1 has times of 64 bits.
    is_long = header[:1] == b"\x01"
    scale, length = (header[20:24], header[24:32]) if is_long else (header[12:16], header[16:20])
    # All bits are set if the length can't be determined.
    is_unknown = set(length) == {0xFF}
    return int.from_bytes(scale, "big"), 0 if is_unknown else int.from_bytes(length, "big")


def _size(track: bytes) -> tuple[int, int]:
    """Width and height of a track in pixels; its header ends with both, as 16.16 fixed point. Sound has none."""
    header = next(_boxes(track, b"tkhd"), b"")
    return int.from_bytes(header[-8:-6], "big"), int.from_bytes(header[-4:-2], "big")


def _kind(track: bytes) -> bytes:
    """Kind of a track: `vide`, `soun` or another."""
    return _inside(track, b"mdia", b"hdlr")[8:12]


def _frame_rate(track: bytes) -> float | None:
    """Frames a second on average, from the table of how long so many frames each are shown."""
    scale, _ = _scale_and_length(_inside(track, b"mdia", b"mdhd"))
    table = _inside(track, b"mdia", b"minf", b"stbl", b"stts")[8:]
    frames = ticks = 0
    for position in range(0, len(table) - 7, 8):
        count, delta = (int.from_bytes(table[place : place + 4], "big") for place in (position, position + 4))
        frames, ticks = frames + count, ticks + count * delta
    return round(frames * scale / ticks, 3) if frames and ticks and scale else None


def _inside(content: bytes, *path: bytes) -> bytes:
    """The content of the first box at a path of names; empty if there is none."""
    for name in path:
        content = next(_boxes(content, name), b"")
    return content


def _extent(content: bytes, position: int, rest: int) -> tuple[int, int]:
    """Length of a box, and of its header, from its position and the bytes that are left there."""
    length, start = int.from_bytes(content[position : position + 4], "big"), _BOX_HEADER
    if length == 1:
        length, start = int.from_bytes(content[position + 8 : position + 16], "big"), _LONG_BOX_HEADER
    return length or rest, start


def _boxes(content: bytes, wanted: bytes) -> Iterator[bytes]:
    """Yield the content of the boxes of a name, which lie directly in another one."""
    position = 0
    for _ in range(_MAX_BOXES):
        length, start = _extent(content, position, len(content) - position)
        if position + _BOX_HEADER > len(content) or length < start:
            return
        if content[position + 4 : position + 8] == wanted:
            yield content[position + start : position + length]
        position += length
