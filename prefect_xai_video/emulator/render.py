"""Draws real clips with PyAV: H.264 with sound, in colours that come from the prompt's hash.

A frame is composed small, of rows of bytes, and scaled up by the codec library, which needs no NumPy and is fast.
"""

import array
import colorsys
import hashlib
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from prefect_xai_video.emulator.validation import Edit, Extension, Generation
from prefect_xai_video.emulator.videos import BadInput

FPS = 24
SAMPLE_RATE = 44100
SIZES = {
    ("16:9", "480p"): (848, 480),
    ("9:16", "480p"): (480, 848),
    ("1:1", "480p"): (480, 480),
    ("4:3", "480p"): (640, 480),
    ("3:2", "480p"): (720, 480),
    ("16:9", "720p"): (1280, 720),
    ("9:16", "720p"): (720, 1280),
    ("4:3", "720p"): (960, 720),
    ("1:1", "720p"): (720, 720),
}
"""Sizes that were seen; the others follow from the shorter side."""

_WIDTH = 256
"""Width of the small frame; a multiple of 64, so that rows have no padding."""

Rows = tuple[list[bytes], list[bytes], list[bytes]]
"""The rows of the three planes of a small frame in YUV 4:4:4."""


@dataclass(frozen=True)
class Clip:
    """An input clip.

    Attributes:
        frames: Its frames, or none where it can't be looked at.
        size: Width and height.
        seconds: Its duration.
    """

    frames: tuple[VideoFrame, ...]
    size: tuple[int, int]
    seconds: float


def size_of(aspect_ratio: str, resolution: str) -> tuple[int, int]:
    """Width and height in pixels."""
    if (aspect_ratio, resolution) in SIZES:
        return SIZES[aspect_ratio, resolution]
    width, height = (int(part) for part in aspect_ratio.split(":"))
    short = int(resolution.removesuffix("p"))
    long = round(short * max(width, height) / min(width, height) / 2) * 2
    return (long, short) if width >= height else (short, long)


def generation(body: Generation, picture: bytes | None) -> bytes:
    """Draw a new clip: a moving pattern, or a move across a picture."""
    size = size_of(body.aspect_ratio, body.resolution)
    small = _small(size)
    background = _rows(_still(picture), *_double(small)) if picture else _pattern(body.prompt, small)
    return _encode(_moving(background, small, body.duration * FPS), body.prompt, size, small)


def edit(body: Edit, clip: Clip) -> bytes:
    """Draw an edited clip: the input, with the prompt's colours in it."""
    small = _small(clip.size)
    frames = _replayed(clip, small) if clip.frames else _moving(_pattern("", small), small, _count(clip))
    return _encode(frames, body.prompt, clip.size, small)


def extension(body: Extension, clip: Clip) -> bytes:
    """Draw an extended clip: the input, and then a moving pattern; 720p at most."""
    scale = min(1.0, 720 / min(clip.size))
    width, height = (round(side * scale / 2) * 2 for side in clip.size)
    small = _small((width, height))
    added = _moving(_pattern(body.prompt, small), small, body.duration * FPS)
    first = _replayed(clip, small) if clip.frames else _moving(_pattern("", small), small, _count(clip))
    return _encode(_chained(first, added), body.prompt, (width, height), small)


def look_at(content: bytes) -> Clip:
    """Decode an input clip.

    Raises:
        BadInput: If it is none.
    """
    try:
        with av.open(io.BytesIO(content), "r") as container:
            frames = tuple(container.decode(video=0))
            rate = float(container.streams.video[0].average_rate or FPS)
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise BadInput("The input video could not be decoded.") from error
    if not frames:
        raise BadInput("The input video has no frames.")
    return Clip(frames, (frames[0].width, frames[0].height), len(frames) / rate)


def _still(content: bytes) -> VideoFrame:
    try:
        with av.open(io.BytesIO(content), "r") as container:
            return next(container.decode(video=0))
    except (av.FFmpegError, IndexError, ValueError, StopIteration) as error:
        raise BadInput("The input image could not be decoded.") from error


def _count(clip: Clip) -> int:
    return round(clip.seconds * FPS)


def _small(size: tuple[int, int]) -> tuple[int, int]:
    return _WIDTH, max(round(_WIDTH * size[1] / size[0] / 2) * 2, 48)


def _double(size: tuple[int, int]) -> tuple[int, int]:
    return 2 * size[0], 2 * size[1]


def _colours(prompt: str) -> list[bytes]:
    """32 colours of one family, from the prompt's hash."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return [
        bytes(
            round(255 * part)
            for part in colorsys.hsv_to_rgb(
                (digest[0] + byte % 64 - 32) / 255 % 1, 0.5 + 0.4 * (byte & 1), 0.35 + 0.6 * byte / 255
            )
        )
        for byte in digest
    ]


def _frame(rows: Iterable[list[bytes]], width: int, height: int, pixels: str) -> VideoFrame:
    frame = VideoFrame(width, height, pixels)
    for plane, lines in zip(frame.planes, rows, strict=True):
        plane.update(b"".join(line.ljust(plane.line_size, b"\0") for line in lines))
    return frame


def _rows(frame: VideoFrame, width: int, height: int, interpolation: str = "BICUBIC") -> Rows:
    scaled = VideoReformatter().reformat(frame, width, height, "yuv444p", interpolation=interpolation)
    y, u, v = (
        [bytes(plane)[line * plane.line_size : line * plane.line_size + width] for line in range(height)]
        for plane in scaled.planes
    )
    return y, u, v


def _pattern(prompt: str, small: tuple[int, int]) -> Rows:
    """Twice the small frame in both directions, and equal at its edges, so that a window can move for ever."""
    colours = _colours(prompt)
    lines = [b"".join(colours[line * 8 : line * 8 + 8]) * 2 for line in range(4)] * 2
    return _rows(_frame([lines], 16, 8, "rgb24"), *_double(small))


def _moving(background: Rows, small: tuple[int, int], count: int) -> Iterator[Rows]:
    """A window that moves across a background of twice its size."""
    width, height = small
    for number in range(count):
        x = 2 * number % width
        y = int(height / 2 * (1 + math.sin(number / 40)))
        first, second, third = ([line[x : x + width] for line in plane[y : y + height]] for plane in background)
        yield first, second, third


def _replayed(clip: Clip, small: tuple[int, int]) -> Iterator[Rows]:
    """The frames of a clip at our own rate."""
    count = _count(clip)
    for number in range(count):
        yield _rows(clip.frames[number * len(clip.frames) // count], *small, "BILINEAR")


def _chained(first: Iterable[Rows], second: Iterable[Rows]) -> Iterator[Rows]:
    yield from first
    yield from second


def _encode(frames: Iterable[Rows], prompt: str, size: tuple[int, int], small: tuple[int, int]) -> bytes:
    """Encode frames, with the prompt's colours in a strip at the bottom, and a tone."""
    file = io.BytesIO()
    strip_height = small[1] // 12
    colours = b"".join(_colours(prompt)[:16])
    strip = _rows(_frame([[colours] * 2], 16, 2, "rgb24"), small[0], strip_height, "POINT")
    scaler = VideoReformatter()
    with av.open(file, "w", format="mp4") as container:
        # One thread: equal requests give equal bytes.
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "threads": "1"})
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        count = 0
        for rows in frames:
            drawn = [plane[:-strip_height] + below for plane, below in zip(rows, strip, strict=True)]
            frame = scaler.reformat(_frame(drawn, *small, "yuv444p"), *size, "yuv420p", interpolation="BILINEAR")
            frame.pts, frame.time_base = count, Fraction(1, FPS)
            container.mux(video.encode(frame))
            count += 1
        container.mux(video.encode())
        for sound in _tone(count * SAMPLE_RATE // FPS):
            container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return file.getvalue()


def _tone(samples: int) -> Iterator[av.AudioFrame]:
    second = array.array("h", (int(3000 * math.sin(2 * math.pi * 220 * n / SAMPLE_RATE)) for n in range(SAMPLE_RATE)))
    wave = second.tobytes() * 2
    for begin in range(0, samples, 1024):
        length = min(1024, samples - begin)
        offset = begin % SAMPLE_RATE * 2
        frame = av.AudioFrame("s16", "mono", length)
        frame.planes[0].update(wave[offset : offset + length * 2].ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, begin, Fraction(1, SAMPLE_RATE)
        yield frame
