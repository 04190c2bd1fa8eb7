"""What each xAI video model accepts and costs: the only place with such numbers.

As published in November 2026. xAI has moved limits without a version change, so the service has the last
word: a model that is missing here is passed on, and the setting `VALIDATION=warn` passes on everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Mode = Literal["text", "image", "reference", "edit", "extend"]
Resolution = Literal["480p", "720p", "1080p"]
AspectRatio = Literal["16:9", "4:3", "1:1", "9:16", "3:4", "3:2", "2:3"]

DEFAULT_MODEL = "grok-imagine-video"
RESOLUTIONS: tuple[Resolution, ...] = ("480p", "720p", "1080p")
ASPECT_RATIOS: tuple[AspectRatio, ...] = ("16:9", "4:3", "1:1", "9:16", "3:4", "3:2", "2:3")

MAX_PROMPT_CHARACTERS = 4096
"""Whether the service counts characters or bytes is unknown: only what is surely too long is caught here."""

SERVER_DEFAULT_DURATION = 8
SERVER_DEFAULT_EXTENSION = 6
SERVER_DEFAULT_RESOLUTION: Resolution = "480p"
"""What the service takes for a field that is left out (seconds, seconds, resolution)."""


@dataclass(frozen=True, slots=True)
class ModeLimits:
    """What one model accepts in one mode.

    Attributes:
        duration: Shortest and longest duration in seconds, or None where the mode takes no duration.
        resolutions: The resolutions it renders, or an empty tuple where the mode takes none.
    """

    duration: tuple[int, int] | None
    resolutions: tuple[Resolution, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCapabilities:
    """One xAI video model: what it accepts and what it costs.

    Attributes:
        model: The canonical model id.
        aliases: Other ids of the same model.
        modes: What it accepts, by mode; a mode that is missing is refused by the service.
        usd_per_second: Price of one second of output in USD, by resolution.
        usd_per_input_image: Price of one input image in USD.
        usd_per_input_video_second: Price of one second of input video in USD, or None where there is no
            mode that takes a video.
    """

    model: str
    aliases: tuple[str, ...] = ()
    modes: Mapping[Mode, ModeLimits]
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
            "reference": ModeLimits((1, 15), ("480p", "720p")),
        },
        usd_per_second={"480p": Decimal("0.08"), "720p": Decimal("0.14"), "1080p": Decimal("0.25")},
        usd_per_input_image=Decimal("0.01"),
    ),
    ModelCapabilities(
        model="grok-imagine-video-1.5-lite",
        modes={
            "text": ModeLimits((1, 15), ("480p", "720p", "1080p")),
            "image": ModeLimits((1, 15), ("480p", "720p", "1080p")),
        },
        # Prices of this model come from secondary sources.
        usd_per_second={"480p": Decimal("0.02"), "720p": Decimal("0.03"), "1080p": Decimal("0.14")},
        usd_per_input_image=Decimal("0.01"),
    ),
)


def capabilities_of(model: str) -> ModelCapabilities | None:
    """Look up a model by its id or one of its aliases; None if the table does not have it."""
    return next((entry for entry in MODELS if model == entry.model or model in entry.aliases), None)


def estimate_cost(
    model: str,
    *,
    seconds: float,
    resolution: str = SERVER_DEFAULT_RESOLUTION,
    input_images: int = 0,
    input_video_seconds: float = 0,
) -> Decimal | None:
    """Estimate what a video costs by the price table.

    Args:
        model: Model id or alias.
        seconds: Seconds of output that are billed.
        resolution: Resolution of the output.
        input_images: How many input images are sent.
        input_video_seconds: Seconds of input video. How the service bills edits and extensions is not
            documented; this adds the input seconds at their own price.

    Returns:
        The cost in USD, or None where the table has no price for it.
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


def plain(amount: Decimal) -> Decimal:
    """An amount without trailing zeros and without exponent."""
    return Decimal(f"{amount.normalize():f}")


def dollars(amount: Decimal) -> str:
    """Write an amount of USD for people: `$0.40`, and `$0.052` where cents don't say it."""
    return f"${amount:.2f}" if amount == round(amount, 2) else f"${plain(amount):f}"
