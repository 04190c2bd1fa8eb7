"""Frames of a clip: how many there are a second, and how one is laid over another."""

from fractions import Fraction
from typing import cast

from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame

from prefect_xai_video.emulator.sizes import Size

FRAMES_PER_SECOND = 24

TICK = Fraction(1, FRAMES_PER_SECOND)
"""Duration of a frame, in seconds."""


class Overlay:
    """Lays frames with an alpha channel over others, at their top left corner.

    Args:
        size: Size of the frames below.
        over: Size of the frames above.
    """

    def __init__(self, size: Size, over: Size) -> None:
        self._graph = Graph()
        # The emulator draws several clips at a time, so more threads for one would only wait for each other.
        self._graph.threads = 1
        self._under, self._over = self._source(size, "yuv420p"), self._source(over, "yuva420p")
        overlay = self._graph.add("overlay", "format=yuv420")
        self._result = self._graph.add("buffersink")
        self._under.link_to(overlay, 0, 0)
        self._over.link_to(overlay, 0, 1)
        overlay.link_to(self._result)
        self._graph.configure()

    def blend(self, under: VideoFrame, over: VideoFrame, number: int) -> VideoFrame:
        """Lay one frame over the other. The result is a new frame."""
        for buffer, frame in ((self._under, under), (self._over, over)):
            frame.pts, frame.time_base = number, TICK
            buffer.push(frame)
        return cast(VideoFrame, self._result.pull())

    def _source(self, size: Size, pixels: str) -> FilterContext:
        return self._graph.add("buffer", f"video_size={size[0]}x{size[1]}:time_base={TICK}:pix_fmt={pixels}")
