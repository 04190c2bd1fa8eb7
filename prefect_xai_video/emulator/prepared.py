"""Clips for the light mode: one for each shape, drawn once and served for all requests of that shape.

So they show the running seconds, but no prompt.
"""

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from starlette.responses import FileResponse

from prefect_xai_video.emulator.inputs import Contents
from prefect_xai_video.emulator.sizes import Size
from prefect_xai_video.emulator.validation import AcceptedRequest


class Shape(NamedTuple):
    """Everything in which prepared clips differ.

    Attributes:
        size: Width and height in pixels.
        frames: Number of frames.
        audio: Whether it has sound.
    """

    size: Size
    frames: int
    audio: bool


@dataclass(frozen=True, slots=True)
class Clip:
    """A prepared clip.

    Attributes:
        path: Its file.
        content: Content of the file, kept in memory.
        headers: Headers of a download, which are those of the file.
    """

    path: Path
    content: bytes
    headers: Mapping[str, str]


class Match(NamedTuple):
    """The prepared clip for a request, and the durations that the service reports and bills."""

    clip: Clip
    size: Size
    seconds: float
    input_seconds: float


class PreparedClips:
    """Draws each clip when it is first needed.

    Args:
        threads: Threads in which the clips are drawn.
        stop: Event that stops the drawing.
    """

    def __init__(self, threads: Executor, stop: threading.Event) -> None:
        self._threads = threads
        self._stop = stop
        self._clips: dict[Shape, asyncio.Future[Clip]] = {}

    async def match(self, request: AcceptedRequest, contents: Contents, directory: Path) -> Match:
        """Find the clip for a request, or draw it.

        Args:
            request: The request.
            contents: Content of its inputs.
            directory: Directory of the clips.

        Returns:
            The clip, and the durations of the request.

        Raises:
            RenderFailed: If an input is not a picture or a clip.
        """
        # These modules need PyAV, which takes long to import.
        from prefect_xai_video.emulator.frames import FRAMES_PER_SECOND  # noqa: PLC0415
        from prefect_xai_video.emulator.render import measure  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        if contents:
            rendered = await loop.run_in_executor(self._threads, measure, request, contents)
        else:
            rendered = measure(request, contents)
        shape = Shape(rendered.size, round(rendered.seconds * FRAMES_PER_SECOND), request.audio)
        if shape not in self._clips:
            self._clips[shape] = loop.run_in_executor(self._threads, _drawn, shape, directory, self._stop)
        # Other requests wait for the same clip, so a cancelled one must not cancel it.
        clip = await asyncio.shield(self._clips[shape])
        return Match(clip, rendered.size, rendered.seconds, rendered.input_seconds)


def _drawn(shape: Shape, directory: Path, stop: threading.Event) -> Clip:
    from prefect_xai_video.emulator.render import render_plain  # noqa: PLC0415

    (width, height), frames, audio = shape
    path = directory / f"{width}x{height}-{frames}-{'sound' if audio else 'silent'}.mp4"
    render_plain(shape.size, frames, audio, path, stop)
    headers = FileResponse(path, media_type="video/mp4", stat_result=path.stat()).headers
    return Clip(
        path,
        path.read_bytes(),
        {name: headers[name] for name in ("accept-ranges", "etag", "last-modified")},
    )
