"""Draws the clips with PyAV: real H.264 and AAC, in moving colours derived from the prompt's SHA-256.

Equal requests produce equal bytes. Only this module, `captions` and `frames` need PyAV and Pillow. They are imported
when the first clip is drawn.
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

from prefect_xai_video.api.capabilities import EXTENDED_SECONDS, MAX_EDIT_SECONDS
from prefect_xai_video.emulator.bodies import Source
from prefect_xai_video.emulator.captions import Captions
from prefect_xai_video.emulator.frames import FRAMES_PER_SECOND, TICK, Overlay
from prefect_xai_video.emulator.inputs import UNSEEN_CLIP_SECONDS, UNSEEN_CLIP_SIZE, Contents, RenderFailed
from prefect_xai_video.emulator.sizes import Size, capped, even, nearest_aspect_ratio, size_of
from prefect_xai_video.emulator.validation import EXTENSION_CAP, AcceptedRequest

SAMPLES_PER_SECOND = 48000

_SAMPLES_PER_FRAME = SAMPLES_PER_SECOND // FRAMES_PER_SECOND
_TINT = 0.45
_FADE_PER_SECOND = 0.5
_FADE_END = 0.75


@dataclass(frozen=True, slots=True)
class Rendered:
    """A drawn clip.

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
    """A frame under the colours, and the fraction of it that they hide, from 0 to 1."""

    frame: VideoFrame
    hidden: float


def render(request: AcceptedRequest, contents: Contents, path: Path, stop: threading.Event) -> Rendered:
    """Draw the clip for a request.

    Args:
        request: The request.
        contents: Content of its inputs.
        path: Destination file, an MP4.
        stop: Event that stops the drawing.

    Returns:
        The drawn clip.

    Raises:
        RenderFailed: If an input is not a picture or a clip.
        Stopped: If `stop` was set.
    """
    if request.video is None:
        rendered, backgrounds = _new_clip(request, contents)
    else:
        rendered, backgrounds = _changed_clip(request, contents[request.video])
    kept = round(rendered.input_seconds * FRAMES_PER_SECOND) if request.mode == "extend" else 0
    frames = _captioned(request.prompt, rendered, _colour(request.prompt, rendered.size, backgrounds), kept)
    _encode(path, rendered, frames, request.prompt if request.audio else None, stop)
    return rendered


def measure(request: AcceptedRequest, contents: Contents) -> Rendered:
    """Determine the size and durations of the clip for a request, without drawing it.

    Raises:
        RenderFailed: If an input is not a picture or a clip.
    """
    if request.video is None:
        return _new_clip(request, contents)[0]
    return _changed_clip(request, contents[request.video])[0]


def render_plain(size: Size, count: int, audio: bool, path: Path, stop: threading.Event) -> None:
    """Draw a clip of so many frames that belongs to no request, and so shows no prompt.

    Raises:
        Stopped: If `stop` was set.
    """
    rendered = Rendered(size, count / FRAMES_PER_SECOND)
    frames = _captioned("", rendered, _colour("", size, repeat(None, count)))
    _encode(path, rendered, frames, "" if audio else None, stop)


def _new_clip(request: AcceptedRequest, contents: Contents) -> tuple[Rendered, Iterable[_Background | None]]:
    pictures = {source: _picture(contents[source]) for source in request.images}
    stills = [(seconds, picture) for seconds, source in request.stills if (picture := pictures[source])]
    ratio = _aspect_ratio(request, pictures)
    rendered = Rendered(size_of(request.resolution, ratio), request.duration)
    if not stills:
        return rendered, repeat(None, request.duration * FRAMES_PER_SECOND)
    return rendered, _between(stills, rendered.size, request.duration * FRAMES_PER_SECOND)


def _aspect_ratio(request: AcceptedRequest, pictures: dict[Source, VideoFrame | None]) -> str:
    """Return the aspect ratio of a clip. An image determines it; the requested one is then ignored."""
    if request.mode == "image":
        for picture in pictures.values():
            if picture is not None:
                return nearest_aspect_ratio((picture.width, picture.height))
    return request.aspect_ratio


def _changed_clip(request: AcceptedRequest, content: bytes | None) -> tuple[Rendered, Iterable[_Background | None]]:
    clip = _inspect(content) if content is not None else Rendered(UNSEEN_CLIP_SIZE, UNSEEN_CLIP_SECONDS)
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
    """Yield the unchanged clip, then its last frame, which fades into the colours."""
    for frame in frames:
        yield _Background(frame, 0)
    for number in range(added):
        yield _Background(frame, _faded(number / FRAMES_PER_SECOND))


def _between(pictures: list[tuple[float, VideoFrame]], size: Size, count: int) -> Iterator[_Background]:
    """Yield the nearest still for each frame. The further away in time it is, the more the colours hide it."""
    stills = [(seconds, _fit(picture, size)) for seconds, picture in pictures]
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


def _inspect(content: bytes) -> Rendered:
    """Read the size and duration of a clip."""
    with _decoding("video"), av.open(io.BytesIO(content), "r") as container:
        if "mp4" not in container.format.name:
            raise RenderFailed("The video has an unsupported format.")
        frame = next(container.decode(video=0))
        stream = container.streams.video[0]
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        return Rendered((frame.width, frame.height), seconds)


def _resampled(content: bytes, size: Size, count: int) -> Iterator[VideoFrame]:
    """Convert the frames of a clip to this module's frame rate and to a size."""
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
    """Crop a picture to the shape of the clip and scale it."""
    width, height = size
    graph = Graph()
    source = graph.add(
        "buffer",
        f"video_size={picture.width}x{picture.height}:pix_fmt={picture.format.name}:time_base={TICK}",
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
    overlay = Overlay(size, size)
    for number, background in enumerate(backgrounds):
        if background is None:
            yield colours.frame(number)
        elif not background.hidden:
            yield background.frame
        else:
            yield overlay.blend(background.frame, colours.frame(number, background.hidden), number)


def _captioned(prompt: str, rendered: Rendered, frames: Iterable[VideoFrame], kept: int = 0) -> Iterator[VideoFrame]:
    """Write on each frame, but the prompt only on those that are not kept from an input clip: they have their own."""
    of_input, own = (Captions(text, rendered.size, rendered.seconds) for text in ("", prompt))
    for number, frame in enumerate(frames):
        yield (of_input if number < kept else own).write(frame, number)


class _Colours:
    """Clouds of colour that drift over an endless plane, one for each byte of the prompt's SHA-256."""

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
    """Derive one RGB colour from each byte of a digest, in two hues that are derived from it, too."""
    hues = digest[0] / 256, digest[1] / 256
    colours = (
        colorsys.hsv_to_rgb(hues[byte & 1] + (byte & 15) / 160, 0.5 + (byte & 6) / 14, 0.3 + byte / 380)
        for byte in digest
    )
    return bytes(round(255 * channel) for colour in colours for channel in colour)


def _rows(plane: av.video.plane.VideoPlane, width: int) -> list[bytes]:
    content = bytes(plane)
    return [content[start : start + width] for start in range(0, plane.height * plane.line_size, plane.line_size)]


def _encode(
    path: Path, rendered: Rendered, frames: Iterable[VideoFrame], sound_of: str | None, stop: threading.Event
) -> None:
    """Write the frames, and optionally the sound of a prompt, as an MP4."""
    # One thread, since the encoded bytes depend on the number of threads.
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
            frame.pts, frame.time_base, frame.pict_type = number, TICK, 0
            container.mux(video.encode(frame))
            if sound_of is not None:
                container.mux(audio.encode(_sound_frame(samples, number)))
        container.mux(video.encode())
        if sound_of is not None:
            container.mux(audio.encode())


def _sound_of(prompt: str) -> bytes:
    """Generate the sound of one frame: a soft tone in whole periods, so that it continues across frames."""
    waves = 5 + hashlib.sha256(prompt.encode()).digest()[0] % 16
    step = 2 * math.pi * waves / _SAMPLES_PER_FRAME
    return array.array("h", (round(3000 * math.sin(step * n)) for n in range(_SAMPLES_PER_FRAME))).tobytes()


def _sound_frame(samples: bytes, number: int) -> av.AudioFrame:
    """Wrap the sound of a frame as an audio frame."""
    frame = av.AudioFrame("s16", "mono", _SAMPLES_PER_FRAME)
    plane = frame.planes[0]
    plane.update(samples.ljust(plane.buffer_size, b"\0"))
    frame.sample_rate = SAMPLES_PER_SECOND
    frame.pts, frame.time_base = number * _SAMPLES_PER_FRAME, Fraction(1, SAMPLES_PER_SECOND)
    return frame
