"""Draws the clips with PyAV: real H.264 and AAC, in moving colours that come from the prompt's SHA-256.

Equal requests give equal bytes. Only this module needs PyAV, so it is imported when the first clip is drawn.
"""

import array
import colorsys
import hashlib
import io
import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, cast

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from prefect_xai_video.emulator.bodies import Source
from prefect_xai_video.emulator.inputs import UNSEEN_CLIP_SECONDS, UNSEEN_CLIP_SIZE, Contents, RenderFailed
from prefect_xai_video.emulator.sizes import Size, capped, even, nearest_aspect_ratio, size_of
from prefect_xai_video.emulator.validation import (
    EXTENDED_SECONDS,
    EXTENSION_CAP,
    MAX_EDIT_SECONDS,
    AcceptedRequest,
)

FRAMES_PER_SECOND = 24
SAMPLES_PER_SECOND = 48000

_TICK = Fraction(1, FRAMES_PER_SECOND)
_SAMPLES_PER_FRAME = SAMPLES_PER_SECOND // FRAMES_PER_SECOND
_TINT = 0.45
_FADE_PER_SECOND = 0.5
_FADE_END = 0.75


@dataclass(frozen=True, slots=True)
class Rendered:
    """What has been drawn.

    Attributes:
        size: Width and height in pixels.
        seconds: Duration of the whole clip.
        input_seconds: Duration of the input clip; 0 without one.
    """

    size: Size
    seconds: float
    input_seconds: float = 0


class Stopped(Exception):
    """The emulator is being closed."""


class _Background(NamedTuple):
    """What lies under the colours, and how much of it they hide: 0 nothing, 1 all."""

    frame: VideoFrame
    hidden: float


def render(request: AcceptedRequest, contents: Contents, path: Path, stop: threading.Event) -> Rendered:
    """Draw the clip that a request asks for.

    Args:
        request: The request.
        contents: What its inputs hold.
        path: Where to write the MP4.
        stop: Set when there is no use in going on.

    Returns:
        What has been drawn.

    Raises:
        RenderFailed: If an input is no picture or no clip.
        Stopped: If `stop` was set meanwhile.
    """
    if request.video is None:
        rendered, backgrounds = _new_clip(request, contents)
    else:
        rendered, backgrounds = _changed_clip(request, contents[request.video])
    frames = _colour(request.prompt, rendered.size, backgrounds)
    _encode(path, rendered, frames, request.prompt if request.audio else None, stop)
    return rendered


def _new_clip(request: AcceptedRequest, contents: Contents) -> tuple[Rendered, Iterable[_Background | None]]:
    pictures = {source: _picture(contents[source]) for source in request.images}
    stills = [(seconds, picture) for seconds, source in request.stills if (picture := pictures[source])]
    ratio = _aspect_ratio(request, pictures)
    rendered = Rendered(size_of(request.resolution, ratio), request.duration)
    if not stills:
        return rendered, repeat(None, request.duration * FRAMES_PER_SECOND)
    fitted = [(seconds, _fit(picture, rendered.size)) for seconds, picture in stills]
    return rendered, _between(fitted, request.duration * FRAMES_PER_SECOND)


def _aspect_ratio(request: AcceptedRequest, pictures: dict[Source, VideoFrame | None]) -> str:
    """An image decides about the shape of its clip, and the aspect ratio that was asked for is ignored."""
    if request.mode == "image":
        for picture in pictures.values():
            if picture is not None:
                return nearest_aspect_ratio((picture.width, picture.height))
    return request.aspect_ratio


def _changed_clip(request: AcceptedRequest, content: bytes | None) -> tuple[Rendered, Iterable[_Background | None]]:
    clip = _look(content) if content is not None else Rendered(UNSEEN_CLIP_SIZE, UNSEEN_CLIP_SECONDS)
    count = round(clip.seconds * FRAMES_PER_SECOND)
    shortest, longest = (0.0, MAX_EDIT_SECONDS) if request.mode == "edit" else EXTENDED_SECONDS
    if not shortest <= round(clip.seconds, 1) <= longest or not count:
        raise RenderFailed(f"The video is {clip.seconds:.1f} seconds long, which is not supported.")
    size = even(clip.size) if request.mode == "edit" else capped(clip.size, EXTENSION_CAP)
    rendered = Rendered(size, clip.seconds + request.duration, clip.seconds)
    added = request.duration * FRAMES_PER_SECOND
    if content is None:
        return rendered, repeat(None, count + added)
    frames = _resampled(content, size, count)
    if request.mode == "edit":
        return rendered, (_Background(frame, _TINT) for frame in frames)
    return rendered, _continued(frames, added)


def _continued(frames: Iterator[VideoFrame], added: int) -> Iterator[_Background]:
    """The clip as it is, then its last frame, which fades into the colours."""
    for frame in frames:
        yield _Background(frame, 0)
    for number in range(added):
        yield _Background(frame, _faded(number / FRAMES_PER_SECOND))


def _between(stills: list[tuple[float, VideoFrame]], count: int) -> Iterator[_Background]:
    """At each time the nearest still, the more hidden by the colours the further away it is."""
    last = (count - 1) / FRAMES_PER_SECOND
    for number in range(count):
        now = number / FRAMES_PER_SECOND
        distance, frame = min(
            ((abs(now - min(seconds, last)), frame) for seconds, frame in stills), key=lambda still: still[0]
        )
        yield _Background(frame, _faded(distance))


def _faded(seconds: float) -> float:
    return min(_FADE_END, seconds * _FADE_PER_SECOND)


def _picture(content: bytes | None) -> VideoFrame | None:
    if content is None:
        return None
    with _decoding("image"), av.open(io.BytesIO(content), "r") as container:
        if container.format.name not in {"png_pipe", "jpeg_pipe", "webp_pipe"}:
            raise RenderFailed("The image has an unsupported format.")
        return next(container.decode(video=0))


def _look(content: bytes) -> Rendered:
    """Find out size and duration of a clip."""
    with _decoding("video"), av.open(io.BytesIO(content), "r") as container:
        if "mp4" not in container.format.name:
            raise RenderFailed("The video has an unsupported format.")
        frame = next(container.decode(video=0))
        stream = container.streams.video[0]
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        return Rendered((frame.width, frame.height), seconds)


def _resampled(content: bytes, size: Size, count: int) -> Iterator[VideoFrame]:
    """The frames of a clip at this frame rate and size."""
    reformatter = VideoReformatter()
    with _decoding("video"), av.open(io.BytesIO(content), "r") as container:
        coming = container.decode(video=0)
        first = next(coming)
        following: VideoFrame | None = first
        for number in range(count):
            now = (first.time or 0.0) + number / FRAMES_PER_SECOND + 1e-3
            while following is not None and (following.time or 0.0) <= now:
                frame = reformatter.reformat(following, *size, "yuv420p")
                following = next(coming, None)
            yield frame


@contextmanager
def _decoding(kind: str) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, IndexError, StopIteration):
        raise RenderFailed(f"The {kind} could not be decoded.") from None


def _fit(picture: VideoFrame, size: Size) -> VideoFrame:
    """Cut a picture to the shape of the clip and scale it."""
    width, height = size
    graph = Graph()
    source = graph.add(
        "buffer",
        f"video_size={picture.width}x{picture.height}:pix_fmt={picture.format.name}:time_base={_TICK}",
    )
    steps = [
        graph.add("format", "gbrp"),
        graph.add("crop", f"max(1\\,min(iw\\,ih*{width}/{height})):max(1\\,min(ih\\,iw*{height}/{width}))"),
        graph.add("scale", f"{width}:{height}"),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(source, *steps).configure()
    source.push(picture)
    source.push(None)
    return cast(VideoFrame, steps[-1].pull())


def _colour(prompt: str, size: Size, backgrounds: Iterable[_Background | None]) -> Iterator[VideoFrame]:
    """Draw the prompt's colours over each background."""
    colours = _Colours(prompt, size)
    overlay = _Overlay(size)
    for number, background in enumerate(backgrounds):
        if background is None:
            yield colours.frame(number)
        elif not background.hidden:
            yield background.frame
        else:
            yield overlay.blend(background.frame, colours.frame(number, background.hidden), number)


class _Colours:
    """Clouds of colour that drift over an endless plane: one cloud for each byte of the prompt's SHA-256."""

    _COLUMNS, _ROWS = 8, 4
    _WIDTH, _HEIGHT = 256, 144

    def __init__(self, prompt: str, size: Size) -> None:
        self._size = size
        self._reformatter = VideoReformatter()
        cells = _cells(hashlib.sha256(prompt.encode()).digest())
        rows = [cells[start : start + 3 * self._COLUMNS] * 2 for start in range(0, len(cells), 3 * self._COLUMNS)]
        coarse = VideoFrame(2 * self._COLUMNS, 2 * self._ROWS, "rgb24")
        plane = coarse.planes[0]
        plane.update(b"".join(row.ljust(plane.line_size, b"\0") for row in rows * 2))
        smooth = self._reformatter.reformat(
            coarse, 2 * self._WIDTH, 2 * self._HEIGHT, "yuv444p", interpolation="BICUBIC"
        )
        self._planes = [_rows(plane, 2 * self._WIDTH) for plane in smooth.planes]

    def frame(self, number: int, opacity: float | None = None) -> VideoFrame:
        """Draw one frame, with an alpha channel if an opacity is given."""
        left = 2 * number % self._WIDTH
        top = round(self._HEIGHT / 2 * (1 + math.sin(number / 40)))
        small = VideoFrame(self._WIDTH, self._HEIGHT, "yuv444p" if opacity is None else "yuva444p")
        for plane, rows in zip(small.planes, self._planes, strict=False):
            window = rows[top : top + self._HEIGHT]
            plane.update(b"".join(row[left : left + self._WIDTH].ljust(plane.line_size, b"\0") for row in window))
        if opacity is not None:
            alpha = small.planes[3]
            alpha.update(bytes([round(255 * opacity)]) * alpha.buffer_size)
        target = "yuv420p" if opacity is None else "yuva420p"
        return self._reformatter.reformat(small, *self._size, target, interpolation="BILINEAR")


def _cells(digest: bytes) -> bytes:
    """One RGB colour for each byte of a digest, of two hues that come from it too."""
    hues = digest[0] / 256, digest[1] / 256
    colours = (
        colorsys.hsv_to_rgb(hues[byte & 1] + (byte & 15) / 160, 0.5 + (byte & 6) / 14, 0.3 + byte / 380)
        for byte in digest
    )
    return bytes(round(255 * channel) for colour in colours for channel in colour)


def _rows(plane: av.video.plane.VideoPlane, width: int) -> list[bytes]:
    content = bytes(plane)
    return [content[start : start + width] for start in range(0, plane.height * plane.line_size, plane.line_size)]


class _Overlay:
    """Lays a frame with an alpha channel over another."""

    def __init__(self, size: Size) -> None:
        source = f"video_size={size[0]}x{size[1]}:time_base={_TICK}:pix_fmt="
        self._graph = Graph()
        self._under = self._graph.add("buffer", f"{source}yuv420p")
        self._over = self._graph.add("buffer", f"{source}yuva420p")
        overlay = self._graph.add("overlay", "format=yuv420")
        self._result = self._graph.add("buffersink")
        self._under.link_to(overlay, 0, 0)
        self._over.link_to(overlay, 0, 1)
        overlay.link_to(self._result)
        self._graph.configure()

    def blend(self, under: VideoFrame, over: VideoFrame, number: int) -> VideoFrame:
        """Lay one frame over the other."""
        for buffer, frame in ((self._under, under), (self._over, over)):
            frame.pts, frame.time_base = number, _TICK
            buffer.push(frame)
        return cast(VideoFrame, self._result.pull())


def _encode(
    path: Path, rendered: Rendered, frames: Iterable[VideoFrame], sound_of: str | None, stop: threading.Event
) -> None:
    """Write the frames, and the sound of a prompt, as an MP4."""
    # One thread, since the bytes would depend on their number.
    options = {"preset": "ultrafast", "crf": "26", "threads": "1", "g": str(2 * FRAMES_PER_SECOND)}
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        video.width, video.height = rendered.size
        video.pix_fmt = "yuv420p"
        if sound_of is not None:
            audio = container.add_stream("aac", rate=SAMPLES_PER_SECOND, layout="mono", options={"aac_coder": "fast"})
            samples = _sound_of(sound_of)
        for number, frame in enumerate(frames):
            if stop.is_set():
                raise Stopped
            frame.pts, frame.time_base, frame.pict_type = number, _TICK, 0
            container.mux(video.encode(frame))
            if sound_of is not None:
                container.mux(audio.encode(_sound_frame(samples, number)))
        container.mux(video.encode())
        if sound_of is not None:
            container.mux(audio.encode())


def _sound_of(prompt: str) -> bytes:
    """The sound of one frame: a soft tone that fits into it a whole number of times, so that it can go on."""
    waves = 5 + hashlib.sha256(prompt.encode()).digest()[0] % 16
    step = 2 * math.pi * waves / _SAMPLES_PER_FRAME
    return array.array("h", (round(3000 * math.sin(step * n)) for n in range(_SAMPLES_PER_FRAME))).tobytes()


def _sound_frame(samples: bytes, number: int) -> av.AudioFrame:
    """The sound that belongs to a frame of the clip."""
    frame = av.AudioFrame("s16", "mono", _SAMPLES_PER_FRAME)
    plane = frame.planes[0]
    plane.update(samples.ljust(plane.buffer_size, b"\0"))
    frame.sample_rate = SAMPLES_PER_SECOND
    frame.pts, frame.time_base = number * _SAMPLES_PER_FRAME, Fraction(1, SAMPLES_PER_SECOND)
    return frame
