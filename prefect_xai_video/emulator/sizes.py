"""How large a picture is, by resolution and aspect ratio."""

from collections.abc import Mapping

from prefect_xai_video.capabilities import ASPECT_RATIOS, RESOLUTIONS, Resolution

Size = tuple[int, int]

DRAWN_ASPECT_RATIOS = tuple(dict.fromkeys((*ASPECT_RATIOS, "21:9", "5:2")))
"""The aspect ratios that are accepted. xAI's newest text names the last two, its OpenAPI file and its SDK do not."""

_LANDSCAPE: Mapping[str, Mapping[str, Size]] = {
    "480p": {
        "5:2": (1200, 480),
        "21:9": (1120, 480),
        "16:9": (848, 480),
        "3:2": (720, 480),
        "4:3": (640, 480),
        "1:1": (480, 480),
    },
    "720p": {
        "5:2": (1800, 720),
        "21:9": (1680, 720),
        "16:9": (1280, 720),
        "3:2": (1080, 720),
        "4:3": (960, 720),
        "1:1": (720, 720),
    },
    "1080p": {
        "5:2": (2700, 1080),
        "21:9": (2520, 1080),
        "16:9": (1920, 1080),
        "3:2": (1620, 1080),
        "4:3": (1440, 1080),
        "1:1": (1080, 1080),
    },
}
_SHORT_SIDES: Mapping[Resolution, int] = {resolution: _LANDSCAPE[resolution]["1:1"][1] for resolution in RESOLUTIONS}


def size_of(resolution: str, aspect_ratio: str) -> Size:
    """The size of a new clip: width and height in pixels."""
    landscape = _LANDSCAPE[resolution]
    if aspect_ratio in landscape:
        return landscape[aspect_ratio]
    height, width = landscape[":".join(reversed(aspect_ratio.split(":")))]
    return width, height


def nearest_aspect_ratio(size: Size) -> str:
    """The aspect ratio that is nearest to that of a picture."""
    return min(ASPECT_RATIOS, key=lambda ratio: _distance(size, size_of("1080p", ratio)))


def resolution_of(size: Size) -> Resolution:
    """The smallest resolution that covers a size; the largest there is if none does."""
    covering = (resolution for resolution, side in _SHORT_SIDES.items() if side >= min(size))
    return next(covering, RESOLUTIONS[-1])


def even(size: Size) -> Size:
    """The size without an odd row or column, which H.264 can't have."""
    return max(2, size[0] & ~1), max(2, size[1] & ~1)


def capped(size: Size, resolution: Resolution) -> Size:
    """The size, or a smaller one of the same shape that the resolution allows."""
    side = _SHORT_SIDES[resolution]
    if min(size) <= side:
        return even(size)
    return even((size[0] * side // min(size), size[1] * side // min(size)))


def _distance(one: Size, other: Size) -> float:
    ratio = (one[0] * other[1]) / (one[1] * other[0])
    return max(ratio, 1 / ratio)
