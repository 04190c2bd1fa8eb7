"""Makes a small moving picture of a video, for places that show pictures but no videos.

A video is what a server has sent, and it is taken apart by C code. So that happens in a process of its own, which
runs this file: it may take only so much memory and time, and whatever becomes of it, the run that paid for the video
goes on.
"""

import importlib.util
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

MOST_BYTES = 84_000
"""Of a preview. As base64 it has 112 kB, which leaves room for a table within 150 kB."""

PREVIEW_SECONDS = 3
"""How much of a video is shown."""

MOST_FILE_BYTES = 256 * 2**20
MOST_PIXELS = 4096 * 2304
MOST_FRAMES = 60 * PREVIEW_SECONDS
MOST_MEMORY_BYTES = 2**30
MOST_SECONDS = 12
"""What a video may ask of the machine: bytes of the file, pixels of a frame, frames decoded, memory, and time."""

NEEDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""What it is told of the environment: no key is among it."""

logger = logging.getLogger(__name__)


class _Look(NamedTuple):
    """How a preview is drawn: pixels of its longer side, frames a second, quality 0-100."""

    side: int
    rate: int
    quality: int


LOOKS = (
    _Look(320, 8, 70),
    _Look(320, 8, 40),
    _Look(320, 8, 10),
    _Look(240, 8, 10),
    _Look(240, 4, 5),
    _Look(160, 4, 5),
    _Look(96, 2, 0),
)
"""From the best to the smallest: the first one that fits is taken."""


def preview(path: Path) -> bytes | None:
    """Make an animated WebP of the first seconds of a video, which repeats for ever.

    Args:
        path: An MP4.

    Returns:
        The picture, at most `MOST_BYTES` long; None without PyAV (the extra `preview`), or where the video can't be
        decoded within bounds. It raises nothing.
    """
    try:
        if importlib.util.find_spec("av") is None or path.stat().st_size > MOST_FILE_BYTES:
            return None
        # -P: the modules beside this file must not hide others of the same name.
        command = [sys.executable, "-P", __file__, str(path.resolve())]
        env = {name: os.environ[name] for name in NEEDED if name in os.environ}
        done = subprocess.run(command, env=env, capture_output=True, timeout=MOST_SECONDS, check=True)  # noqa: S603
    except (OSError, ValueError, subprocess.SubprocessError):
        logger.debug("There is no preview of %s.", path, exc_info=True)
        return None
    return done.stdout or None


def draw(path: Path) -> bytes:
    """Draw the preview of a video, in this process and without bounds on its memory and time.

    Raises:
        ValueError: If it has no picture, too large ones, or can't be made small enough.
        av.FFmpegError: If it can't be decoded.
    """
    frames = list(_frames(path))
    if not frames:
        raise ValueError("the video has no frames")
    for look in LOOKS:
        picture = _encode(frames, look)
        if len(picture) <= MOST_BYTES:
            return picture
    raise ValueError("the preview can't be made small enough")


def _frames(path: Path) -> Iterator["VideoFrame"]:
    """The frames of the preview, at the highest rate and size of any look."""
    import av  # noqa: PLC0415

    # Naming the format keeps out those that name other files to be read.
    with path.open("rb") as file, av.open(file, "r", format="mp4", options={"max_streams": "8"}) as container:
        due = 0.0
        for count, frame in enumerate(_decoded(container)):
            seconds = frame.time or 0.0
            if count >= MOST_FRAMES or seconds >= PREVIEW_SECONDS:
                return
            if seconds >= due:
                due += 1 / LOOKS[0].rate
                yield _shrunk(frame, LOOKS[0].side)


def _decoded(container: "InputContainer") -> Iterator["VideoFrame"]:
    stream = container.streams.video[0]
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    stream.thread_type = "NONE"
    if stream.width * stream.height > MOST_PIXELS:
        raise ValueError("the pictures of the video are too large")
    return container.decode(stream)


def _shrunk(frame: "VideoFrame", side: int) -> "VideoFrame":
    scale = min(side / max(frame.width, frame.height), 1)
    width, height = (max(round(length * scale / 2) * 2, 2) for length in (frame.width, frame.height))
    return frame.reformat(width=width, height=height, format="yuv420p", interpolation="AREA")


def _encode(frames: list["VideoFrame"], look: _Look) -> bytes:
    import av  # noqa: PLC0415

    chosen = [_shrunk(frame, look.side) for frame in frames[:: LOOKS[0].rate // look.rate]]
    picture = io.BytesIO()
    with av.open(picture, "w", format="webp", options={"loop": "0"}) as container:
        stream = container.add_stream("libwebp_anim", rate=look.rate)
        stream.width, stream.height, stream.pix_fmt = chosen[0].width, chosen[0].height, "yuv420p"
        stream.options = {"quality": str(look.quality), "compression_level": "2"}
        for number, frame in enumerate(chosen):
            frame.pts, frame.time_base = number, Fraction(1, look.rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return picture.getvalue()


def _bound_memory() -> None:
    """Have the system refuse this process more memory than it should need, where it can."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))


if __name__ == "__main__":
    _bound_memory()
    sys.stdout.buffer.write(draw(Path(sys.argv[1])))
