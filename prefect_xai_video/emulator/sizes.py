"""Sizes of pictures, by resolution and aspect ratio."""

from collections.abc import Mapping

from prefect_xai_video.api.capabilities import ASPECT_RATIOS, DISPUTED_ASPECT_RATIOS, RESOLUTIONS, Resolution

Size = tuple[int, int]

ACCEPTED_ASPECT_RATIOS = (*ASPECT_RATIOS, *DISPUTED_ASPECT_RATIOS)
"""Accepted aspect ratios, by xAI's newest documentation."""

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
    """Return the size of a new clip: width and height in pixels."""
    landscape = _LANDSCAPE[resolution]
    if aspect_ratio in landscape:
        return landscape[aspect_ratio]
    height, width = landscape[":".join(reversed(aspect_ratio.split(":")))]
    return width, height


def nearest_aspect_ratio(size: Size) -> str:
    """Return the aspect ratio that is closest to that of a picture."""
    return min(ASPECT_RATIOS, key=lambda ratio: _distance(size, size_of("1080p", ratio)))


def resolution_of(size: Size) -> Resolution:
    """Return the smallest resolution that covers a size, or the largest one if none does."""
    covering = (resolution for resolution, side in _SHORT_SIDES.items() if side >= min(size))
    return next(covering, RESOLUTIONS[-1])


def even(size: Size) -> Size:
    """Round a size down to even numbers, as H.264 requires."""
    return max(2, size[0] & ~1), max(2, size[1] & ~1)


def capped(size: Size, resolution: Resolution) -> Size:
    """Limit a size to a resolution, keeping its shape."""
    side = _SHORT_SIDES[resolution]
    if min(size) <= side:
        return even(size)
    return even((size[0] * side // min(size), size[1] * side // min(size)))


def _distance(one: Size, other: Size) -> float:
    ratio = (one[0] * other[1]) / (one[1] * other[0])
    return max(ratio, 1 / ratio)
