"""Makes small pictures of videos, for places that show pictures but no videos: an animated one, or stills.

They are decoded in a separate process, which runs this file, with limits on memory and time: see `engine/apart.py`.
"""

import io
import itertools
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prefect_xai_video.engine.apart import bound_memory, has_pyav, output_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

MAX_BYTES = 84_000
"""Largest preview. As base64 it takes 112 kB, which leaves room for a table within 150 kB."""

PREVIEW_SECONDS = 3
"""Length of a preview, in seconds."""

MAX_STILL_BYTES = 5_000
"""Largest still."""

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 4096 * 2304
MAX_FRAMES = 60 * PREVIEW_SECONDS
MAX_MEMORY_BYTES = 2**30
MAX_SECONDS = 12
"""Limits for decoding: bytes of the file, pixels of a frame, decoded frames, memory, and time."""

STILLS = "--stills"

logger = logging.getLogger(__name__)


class _Quality(NamedTuple):
    """Quality of a preview: pixels of its longer side, frames per second, WebP quality 0-100."""

    side: int
    rate: int
    webp_quality: int


QUALITIES = (
    _Quality(320, 8, 70),
    _Quality(320, 8, 40),
    _Quality(320, 8, 10),
    _Quality(240, 8, 10),
    _Quality(240, 4, 5),
    _Quality(160, 4, 5),
    _Quality(96, 2, 0),
)
"""From best to smallest; the first one that fits into `MAX_BYTES` is used."""

STILL_QUALITIES = (
    _Quality(256, 8, 60),
    _Quality(256, 8, 30),
    _Quality(192, 8, 20),
    _Quality(128, 8, 10),
    _Quality(96, 8, 5),
    _Quality(48, 8, 0),
)
"""The same for stills, which have one frame."""


def preview(path: Path) -> bytes | None:
    """Make an animated WebP of the first seconds of a video, which repeats endlessly. Never raises.

    Args:
        path: An MP4 file.

    Returns:
        The picture, at most `MAX_BYTES` long. None if PyAV (the extra `preview`) is not installed, or if the video
        can't be decoded within the limits.
    """
    try:
        if not has_pyav() or path.stat().st_size > MAX_FILE_BYTES:
            return None
        return output_of(__file__, [str(path.resolve())], MAX_SECONDS) or None
    except (OSError, ValueError, subprocess.SubprocessError):
        logger.debug("Could not make a preview of %s.", path, exc_info=True)
        return None


def stills(paths: Sequence[Path], seconds: float) -> list[bytes | None]:
    """Make a WebP of the first frame of each video, in one process for all of them. Never raises.

    Args:
        paths: MP4 files.
        seconds: Longest time for all of them, in seconds.

    Returns:
        The pictures in the same order, each at most `MAX_STILL_BYTES` long; None for videos that can't be decoded
        within the limits, and for all if PyAV is not installed.
    """
    made: list[bytes | None] = []
    deadline = time.monotonic() + seconds if has_pyav() else 0.0
    while len(made) < len(paths) and (left := deadline - time.monotonic()) > 0:
        made += _parts(_stills_output(paths[len(made) :], min(left, MAX_SECONDS)))
        if len(made) < len(paths):
            # The process ended at this one.
            made.append(None)
    return made + [None] * (len(paths) - len(made))


def _stills_output(paths: Sequence[Path], seconds: float) -> bytes:
    try:
        return output_of(__file__, [STILLS, *(str(path.absolute()) for path in paths)], seconds)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        return error.output or b""
    except (OSError, ValueError):
        logger.debug("Could not make stills.", exc_info=True)
        return b""


def _parts(output: bytes) -> Iterator[bytes | None]:
    """Split what the process has written: the length of each picture in four bytes, and the picture."""
    place = 0
    while place + 4 <= len(output):
        begin, place = place + 4, place + 4 + int.from_bytes(output[place : place + 4])
        if place <= len(output):
            yield output[begin:place] or None


def draw(path: Path) -> bytes:
    """Draw the preview of a video in this process, without limits on memory and time.

    Raises:
        ValueError: If the video has no frames or too large ones, or the preview can't be made small enough.
        av.FFmpegError: If the video can't be decoded.
    """
    return _smallest(list(_frames(path)), QUALITIES, MAX_BYTES)


def draw_still(path: Path) -> bytes:
    """Draw the first frame of a video in this process, without limits on memory and time.

    Raises:
        ValueError, av.FFmpegError: As `draw`.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("the file is too large")
    return _smallest(list(itertools.islice(_frames(path), 1)), STILL_QUALITIES, MAX_STILL_BYTES)


def _smallest(frames: list["VideoFrame"], qualities: Sequence[_Quality], most: int) -> bytes:
    """Encode frames in the first quality that fits into a number of bytes."""
    if not frames:
        raise ValueError("the video has no frames")
    for quality in qualities:
        picture = _encode(frames, quality)
        if len(picture) <= most:
            return picture
    raise ValueError("the preview can't be made small enough")


def _frames(path: Path) -> Iterator["VideoFrame"]:
    """Decode the frames of the preview, at the highest rate and size of all qualities."""
    import av  # noqa: PLC0415

    # A fixed format rules out those that refer to other files.
    with path.open("rb") as file, av.open(file, "r", format="mp4", options={"max_streams": "8"}) as container:
        due = 0.0
        for count, frame in enumerate(_decoded(container)):
            seconds = frame.time or 0.0
            if count >= MAX_FRAMES or seconds >= PREVIEW_SECONDS:
                return
            if seconds >= due:
                due += 1 / QUALITIES[0].rate
                yield _shrunk(frame, QUALITIES[0].side)


def _decoded(container: "InputContainer") -> Iterator["VideoFrame"]:
    stream = container.streams.video[0]
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "NONE"
    if stream.width * stream.height > MAX_PIXELS:
        raise ValueError("the frames of the video are too large")
    return container.decode(stream)


def _shrunk(frame: "VideoFrame", side: int) -> "VideoFrame":
    scale = min(side / max(frame.width, frame.height), 1)
    width, height = (max(round(length * scale / 2) * 2, 2) for length in (frame.width, frame.height))
    return frame.reformat(width=width, height=height, format="yuv420p", interpolation="AREA")


def _encode(frames: list["VideoFrame"], quality: _Quality) -> bytes:
    import av  # noqa: PLC0415

    chosen = [_shrunk(frame, quality.side) for frame in frames[:: QUALITIES[0].rate // quality.rate]]
    picture = io.BytesIO()
    with av.open(picture, "w", format="webp", options={"loop": "0"}) as container:
        stream = container.add_stream("libwebp_anim", rate=quality.rate)
        stream.width, stream.height, stream.pix_fmt = chosen[0].width, chosen[0].height, "yuv420p"
        stream.options = {"quality": str(quality.webp_quality), "compression_level": "2"}
        for number, frame in enumerate(chosen):
            frame.pts, frame.time_base = number, Fraction(1, quality.rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return picture.getvalue()


def _write_stills(paths: Sequence[str]) -> None:
    """Write the still of each video as soon as it is drawn, as `_parts` reads them."""
    for path in paths:
        try:
            picture = draw_still(Path(path))
        except Exception:
            picture = b""
        sys.stdout.buffer.write(len(picture).to_bytes(4) + picture)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    bound_memory(MAX_MEMORY_BYTES)
    if sys.argv[1] == STILLS:
        _write_stills(sys.argv[2:])
    else:
        sys.stdout.buffer.write(draw(Path(sys.argv[1])))
