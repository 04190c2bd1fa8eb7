"""Writes on a clip that it comes from the emulator, how far it has run, and what its prompt was.

The font is Pillow's own, so nothing of the system is needed. It has ASCII characters only: accents are left out, and
each other character becomes a box.
"""

import textwrap
import unicodedata

from av.video.frame import VideoFrame
from PIL import Image, ImageDraw, ImageFont

from prefect_xai_video.emulator.frames import FRAMES_PER_SECOND, Overlay
from prefect_xai_video.emulator.sizes import Size

MAX_CHARACTERS = 1000
"""Part of a prompt that is measured, in characters; the bar has room for less."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_LINES_ON_A_SIDE = 14
_BACKGROUND, _ACCENT, _TEXT = (16, 16, 20), (255, 190, 60), (255, 255, 255)


class Captions:
    """A bar along the top of a clip.

    Its height does not depend on the length of the prompt. So it hides the bar of an input clip of the same size.

    Args:
        prompt: The prompt; if empty, the bar has no lines for it.
        size: Size of the clip.
        seconds: Duration of the clip.
    """

    def __init__(self, prompt: str, size: Size, seconds: float) -> None:
        width, height = size
        self._line = max(1, min(size) // _LINES_ON_A_SIDE)
        self._margin = self._line // 3
        self._font = ImageFont.load_default(0.8 * self._line)
        rows = 2 if width > height else 3
        self._prompt = _wrapped(prompt, self._font, width - 2 * self._margin, rows)
        height_of_bar = self._margin + self._line
        if self._prompt:
            height_of_bar += rows * self._line + self._margin
        # Even, as H.264 halves the resolution of colours.
        self._size = width, (height_of_bar + 1) & ~1
        self._total = f"{round(seconds, 1):g} s"
        self._overlay = Overlay(size, self._size)
        self._second, self._bar = 0, self._draw(0)

    def write(self, frame: VideoFrame, number: int) -> VideoFrame:
        """Write on a frame of this number. The bar is only drawn again when another second begins."""
        second = number // FRAMES_PER_SECOND
        if second != self._second:
            self._second, self._bar = second, self._draw(second)
        return self._overlay.blend(frame, self._bar, number)

    def _draw(self, second: int) -> VideoFrame:
        picture = Image.new("RGBA", self._size, _BACKGROUND)
        pen = ImageDraw.Draw(picture)
        left, right = self._margin, self._size[0] - self._margin
        pen.text((left, self._margin), "EMULATOR", _ACCENT, self._font)
        pen.text((right, self._margin), f"{second} / {self._total}", _TEXT, self._font, anchor="ra")
        for row, line in enumerate(self._prompt, 1):
            pen.text((left, self._margin + row * self._line), line, _TEXT, self._font)
        return VideoFrame.from_bytes(picture.tobytes(), *self._size, "rgba").reformat(format="yuva420p")


def _wrapped(prompt: str, font: Font, width: int, rows: int) -> list[str]:
    """Break a prompt into lines that fit into a width. What does not fit into the rows is left out."""
    text = _in_ascii(prompt[:MAX_CHARACTERS])
    if not text:
        return []
    # One more than fits on average, and then fewer until the widest line fits.
    columns = 1 + int(width * len(text) / font.getlength(text))
    while True:
        lines = textwrap.wrap(text, columns, max_lines=rows, placeholder="...")
        if columns <= 4 or max(map(font.getlength, lines)) <= width:
            return lines
        columns -= 1


def _in_ascii(prompt: str) -> str:
    """Leave out accents and all that is not printable, as far as that is possible."""
    parts = unicodedata.normalize("NFKD", prompt)
    bare = (part if part.isprintable() else " " for part in parts if not unicodedata.combining(part))
    return " ".join("".join(bare).split())
