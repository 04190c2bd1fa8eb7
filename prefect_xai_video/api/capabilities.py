"""Limits and prices of xAI's video models, as published in November 2026. No other module holds such numbers.

xAI has changed limits without changing a model's version, so the service has the last word: a request for a model
that is missing here is sent unchecked, and the setting `VALIDATION=warn` sends every request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from prefect_xai_video.money import plain

Mode = Literal["text", "image", "reference", "edit", "extend"]
Resolution = Literal["480p", "720p", "1080p"]
AspectRatio = Literal["16:9", "4:3", "1:1", "9:16", "3:4", "3:2", "2:3", "21:9", "5:2"]

DEFAULT_MODEL = "grok-imagine-video"
RESOLUTIONS: tuple[Resolution, ...] = ("480p", "720p", "1080p")
ASPECT_RATIOS: tuple[AspectRatio, ...] = ("16:9", "4:3", "1:1", "9:16", "3:4", "3:2", "2:3")
DISPUTED_ASPECT_RATIOS: tuple[AspectRatio, ...] = ("21:9", "5:2")
"""Aspect ratios of xAI's newest guide that its OpenAPI file and its SDK do not have; sent with a warning."""

MAX_PROMPT_CHARACTERS = 4096
"""It is unknown whether the service counts characters or bytes; this rejects only what is too long either way."""

MAX_REFERENCE_AUDIOS = 3
MAX_KEYFRAMES = 4
KEYFRAMES_PER_SECOND = 3
"""xAI moves keyframes to the nearest of so many positions in a second."""
MIN_KEYFRAME_GAP = 0.333
"""Smallest distance of two keyframes in seconds: a third, rounded down as people write it."""
MAX_EDIT_SECONDS = 8.7
EXTENDED_SECONDS = (2, 15)
"""Shortest and longest clip that can be extended, in seconds. xAI's SDK names 30 as the longest."""
DISPUTED_EXTENSION = 1
"""Seconds of an extension that xAI's SDK allows and its guide does not; sent with a warning."""

SERVER_DEFAULT_DURATION = 8
SERVER_DEFAULT_EXTENSION = 6
SERVER_DEFAULT_RESOLUTION: Resolution = "480p"
SERVER_DEFAULT_AUDIO = True
"""xAI's defaults for omitted fields: seconds of a new clip, seconds of an extension, resolution, sound."""


@dataclass(frozen=True, slots=True)
class ModeLimits:
    """Limits of one model in one mode.

    Attributes:
        duration: Shortest and longest duration in seconds; None if the mode has no duration parameter.
        resolutions: Resolutions that it renders; empty if the mode has no resolution parameter.
    """

    duration: tuple[int, int] | None
    resolutions: tuple[Resolution, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCapabilities:
    """Limits and prices of one xAI video model.

    Attributes:
        model: The canonical model id.
        aliases: Other ids of the same model.
        modes: Limits by mode; the service rejects a mode that is missing here.
        max_reference_images: Largest number of reference images.
        has_frames: Whether it accepts a last frame, keyframes and voices, and an image together with references.
        usd_per_second: Price of one second of output in USD, by resolution.
        usd_per_input_image: Price of one input image in USD.
        usd_per_input_video_second: Price of one second of input video in USD; None if no mode has a video as
            input.
    """

    model: str
    aliases: tuple[str, ...] = ()
    modes: Mapping[Mode, ModeLimits]
    max_reference_images: int = 0
    has_frames: bool = False
    usd_per_second: Mapping[Resolution, Decimal]
    usd_per_input_image: Decimal
    usd_per_input_video_second: Decimal | None = None


MODELS = (
    ModelCapabilities(
        model="grok-imagine-video",
        modes={
            "text": ModeLimits((1, 15), ("480p", "720p")),
            "image": ModeLimits((1, 15), ("480p", "720p")),
            "reference": ModeLimits((1, 10), ("480p", "720p")),
            "edit": ModeLimits(None, ()),
            "extend": ModeLimits((2, 10), ()),
        },
        max_reference_images=7,
        usd_per_second={"480p": Decimal("0.05"), "720p": Decimal("0.07")},
        usd_per_input_image=Decimal("0.002"),
        usd_per_input_video_second=Decimal("0.01"),
    ),
    ModelCapabilities(
        model="grok-imagine-video-1.5",
        aliases=("grok-imagine-video-1.5-preview", "grok-imagine-video-1.5-2026-05-30"),
        modes={
            "text": ModeLimits((1, 15), ("480p", "720p", "1080p")),
            "image": ModeLimits((1, 15), ("480p", "720p", "1080p")),
            # By inference: 1080p is documented for the other modes only.
            "reference": ModeLimits((1, 15), ("480p", "720p")),
        },
        max_reference_images=14,
        has_frames=True,
        usd_per_second={"480p": Decimal("0.08"), "720p": Decimal("0.14"), "1080p": Decimal("0.25")},
        usd_per_input_image=Decimal("0.01"),
    ),
    ModelCapabilities(
        model="grok-imagine-video-1.5-lite",
        modes={
            "text": ModeLimits((1, 15), ("480p", "720p", "1080p")),
            "image": ModeLimits((1, 15), ("480p", "720p", "1080p")),
        },
        # Only secondary sources publish the prices of this model.
        usd_per_second={"480p": Decimal("0.02"), "720p": Decimal("0.03"), "1080p": Decimal("0.14")},
        usd_per_input_image=Decimal("0.01"),
    ),
)


MAX_STORAGE_SECONDS = 30 * 24 * 3600
"""Longest lifetime of a file in xAI's Files API, in seconds."""

MAX_FILE_BYTES = 50 * 10**6
"""Size of the largest image or video in xAI's Files API, in bytes."""

PUBLIC_URL_SECONDS = (3600, MAX_STORAGE_SECONDS)
"""Shortest and longest lifetime of a public URL of a file, in seconds."""


def capabilities_of(model: str) -> ModelCapabilities | None:
    """Look up a model by its id or an alias; None if the table does not list it."""
    return next((entry for entry in MODELS if model == entry.model or model in entry.aliases), None)


def resolution_of(width: int, height: int) -> Resolution:
    """Tell the resolution of a clip from its size in pixels: the first that is not smaller."""
    lines = min(width, height)
    return next((name for name in RESOLUTIONS if lines <= int(name[:-1])), RESOLUTIONS[-1])


def estimate_cost(
    model: str,
    *,
    seconds: float,
    resolution: str = SERVER_DEFAULT_RESOLUTION,
    input_images: int = 0,
    input_video_seconds: float = 0,
) -> Decimal | None:
    """Estimate the cost of a video from the price table.

    Args:
        model: Model id or alias.
        seconds: Billed seconds of output.
        resolution: Resolution of the output.
        input_images: Number of input images.
        input_video_seconds: Seconds of input video. How xAI bills edits and extensions is not documented; this
            adds the input seconds at their own price.

    Returns:
        The cost in USD; None if the table has no price for it.
    """
    entry = capabilities_of(model)
    if entry is None:
        return None
    per_second = next((usd for name, usd in entry.usd_per_second.items() if name == resolution), None)
    if per_second is None or (input_video_seconds and entry.usd_per_input_video_second is None):
        return None
    return plain(
        per_second * Decimal(str(seconds))
        + entry.usd_per_input_image * input_images
        + (entry.usd_per_input_video_second or Decimal(0)) * Decimal(str(input_video_seconds))
    )
