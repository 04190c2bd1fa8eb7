"""The plan of a long video: its segments, how each continues the one before, and what they cost. No I/O.

A model that extends clips is given the last seconds of the segment before, its *tail*, and adds to them: it sees the
motion, not only a picture. The tail is a part of the result, which is cut off again, and xAI bills its seconds as
input: hence a few seconds, not the whole segment. Other models are given the last frame as the first one.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, cast

from typing_extensions import TypedDict

from prefect_xai_video.api.capabilities import (
    EXTENDED_SECONDS,
    MODELS,
    SERVER_DEFAULT_RESOLUTION,
    ModelCapabilities,
    capabilities_of,
    estimate_cost,
)
from prefect_xai_video.api.options import VideoOptions, build_request, check_options
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.validation import Validation, check_limits
from prefect_xai_video.errors import InvalidRequest, not_allowed, shown
from prefect_xai_video.money import dollars, plain

TAIL_SECONDS = 4
"""Seconds of a tail: twice the shortest clip that xAI extends, so that no rounding makes it too short. Encoders often
set a keyframe every one or two seconds, and a cut at one copies the picture as it is."""

MAX_SEGMENTS = 40
"""Segments of the longest video, whose keys end with two digits."""

Continuation = Literal["start", "extend", "last frame"]
_KEPT = ("resolution", "generate_audio", "model", "user")
"""Options of the first clip that also hold for one that begins with a last frame, which decides on its shape."""


class FirstClipOptions(TypedDict, total=False):
    """Options of the first segment of a long video, which the others inherit.

    Attributes:
        image_url: First frame, given as for `generate_video`.
        reference_image_urls: Images that the first prompt names as `<IMAGE_0>`, ...
        aspect_ratio: Aspect ratio. xAI's default is 16:9.
        resolution: Resolution. xAI's default is 480p.
        generate_audio: Whether the video has sound. xAI's default is True.
        model: xAI model id. Default `grok-imagine-video`.
        user: Tag of the end user on whose behalf the video is made. Extensions are sent without it.
    """

    image_url: str | None
    reference_image_urls: Sequence[str] | None
    aspect_ratio: str | None
    resolution: str | None
    generate_audio: bool | None
    model: str
    user: str | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a long video, which is a request, a key and a payment of its own.

    Attributes:
        number: 1 for the first segment.
        prompt: Its prompt.
        seconds: Seconds that it adds to the video.
        continuation: How it begins: as a new clip, as an extension of the segment before, or with its last frame.
        tail: Seconds of the segment before that are its input; 0 without.
        estimated_cost_usd: Estimated cost in USD, with its input; None if the price table has no price for it.
    """

    number: int
    prompt: str
    seconds: int
    continuation: Continuation
    tail: int
    estimated_cost_usd: Decimal | None

    @property
    def name(self) -> str:
        """The last part of its key."""
        return f"{self.number:02}"

    @property
    def cost(self) -> str:
        """Its estimated cost in words."""
        return "unknown cost" if self.estimated_cost_usd is None else f"about {dollars(self.estimated_cost_usd)}"

    def __str__(self) -> str:
        how = f"extends the last {self.tail} s of" if self.tail else f"begins with the {self.continuation} of"
        begin = "new clip" if self.number == 1 else f"{how} {self.number - 1:02}"
        return f"{self.name}: {self.seconds} s, {begin}, {self.cost}"


@dataclass(frozen=True, slots=True)
class LongPlan:
    """What will be sent for a long video. Nothing is sent or read for a plan.

    Attributes:
        first: The request of the first segment.
        segments: All segments, in order.
    """

    first: VideoRequest
    segments: tuple[Segment, ...]

    @property
    def duration(self) -> int:
        """Seconds of the whole video. Where a segment begins with the last frame of another, it is shown once."""
        return sum(segment.seconds for segment in self.segments)

    @property
    def estimated_cost_usd(self) -> Decimal | None:
        """Estimated cost of all segments in USD, with their inputs; None if one of them is unknown."""
        costs = [segment.estimated_cost_usd for segment in self.segments]
        return plain(sum(cast("list[Decimal]", costs), Decimal(0))) if None not in costs else None

    @property
    def continuation(self) -> Continuation:
        """How all segments but the first one begin."""
        return self.segments[-1].continuation

    @property
    def summary(self) -> str:
        """The whole video in one line: its length, its segments, its cost."""
        cost = "unknown cost" if self.estimated_cost_usd is None else f"about {dollars(self.estimated_cost_usd)}"
        return f"{self.duration} s in {len(self.segments)} segments of {self.first.model}, {cost}"

    def __str__(self) -> str:
        return "\n".join([self.summary, *map(str, self.segments)])

    def request(self, segment: Segment, source: str | None) -> VideoRequest:
        """Build the request of a segment.

        Args:
            segment: The segment.
            source: The tail or the last frame of the segment before; None for the first one.
        """
        if source is None:
            return self.first
        given = self.first.model_dump()
        options = {"duration": segment.seconds, "model": self.first.model}
        if segment.continuation == "extend":
            options["extend_video_url"] = source
        else:
            options |= {name: given.get(name) for name in _KEPT} | {"image_url": source}
        return build_request(segment.prompt, **cast("VideoOptions", options))

    def fingerprint(self, first: VideoRequest) -> str:
        """SHA-256 of all that the video is made of.

        Args:
            first: The first request, with its inputs resolved.
        """
        parts = [[each.continuation, each.prompt, each.seconds, each.tail] for each in self.segments]
        return hashlib.sha256(json.dumps([first.fingerprint, parts]).encode()).hexdigest()

    def stand_in(self, first: VideoRequest) -> VideoRequest:
        """Build a request that is never sent: its fingerprint tells this video from all others.

        Args:
            first: The first request, with its inputs resolved.
        """
        text = "\n".join([first.prompt, "long", self.fingerprint(first)])
        return first.model_copy(update={"prompt": text})


def plan_segments(
    prompts: str | Sequence[str],
    duration: int,
    options: FirstClipOptions,
    *,
    validation: Validation = "strict",
) -> LongPlan:
    """Divide a long video into segments.

    Args:
        prompts: One prompt for all segments, or one for each.
        duration: Seconds of the whole video.
        options: Options of the first segment.
        validation: As for `check_limits`.

    Raises:
        InvalidRequest: If the model can't make such a video.
    """
    check_options(options, FirstClipOptions)
    texts = _checked_prompts(prompts)
    if isinstance(duration, bool) or not isinstance(duration, int) or duration < 1:
        raise not_allowed("duration", shown(duration), "a whole number of seconds")
    opening = build_request(texts[0], **cast("VideoOptions", options))
    check_limits(opening, validation)
    entry = capabilities_of(opening.model)
    if entry is None:
        known = ", ".join(model.model for model in MODELS)
        raise not_allowed("model", shown(opening.model), f"for a long video one that is known: {known}")
    bounds = _Bounds.of(entry, opening)
    seconds = bounds.divided(duration, len(texts) if len(texts) > 1 else None)
    first = build_request(texts[0], **cast("VideoOptions", {**options, "duration": seconds[0]}))
    plan = LongPlan(first, tuple(_segments(first, texts, seconds, bounds.continuation)))
    for segment in plan.segments:
        _check(plan, segment, validation)
    return plan


def _check(plan: LongPlan, segment: Segment, validation: Validation) -> None:
    """Check the limits of a segment, whose input is not there yet; an error names its prompt."""
    try:
        check_limits(plan.request(segment, "input" if segment.number > 1 else None), validation)
    except InvalidRequest as error:
        named = error.message.replace("prompt:", f"prompts[{segment.number - 1}]:", 1)
        raise InvalidRequest(named) from None


def _checked_prompts(prompts: object) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(texts, list | tuple) or not texts:
        raise not_allowed("prompts", shown(prompts), "a prompt, or a list of one prompt for each segment")
    if len(texts) > MAX_SEGMENTS:
        raise not_allowed("prompts", f"a list of {len(texts)}", f"at most {MAX_SEGMENTS}")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise not_allowed(f"prompts[{number}]", shown(text), "non-empty text")
    return list(texts)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Shortest and longest seconds of the first segment, and of the others."""

    model: str
    first: tuple[int, int]
    other: tuple[int, int]
    continuation: Continuation

    @classmethod
    def of(cls, entry: ModelCapabilities, opening: VideoRequest) -> "_Bounds":
        mode: Literal["extend", "image"] = "extend" if "extend" in entry.modes else "image"
        first, other = entry.modes[opening.mode].duration, entry.modes[mode].duration
        assert first is not None  # noqa: S101 (only edits have none)
        assert other is not None  # noqa: S101
        return cls(opening.model, first, other, "extend" if mode == "extend" else "last frame")

    def divided(self, duration: int, count: int | None) -> list[int]:
        """Divide seconds as evenly as possible.

        Args:
            duration: Seconds of the whole video.
            count: Number of segments; None for as few as possible.
        """
        fewest = self._fewest(duration)
        if count is None:
            count = fewest
            if count > MAX_SEGMENTS:
                raise self._refused(duration, MAX_SEGMENTS, shortest=self.first[0])
        lowest, highest = self._reach(count)
        if not lowest <= duration <= highest:
            is_too_long = duration > highest and fewest <= MAX_SEGMENTS
            hint = f"Give at least {fewest} prompts, or one for all segments." if is_too_long else ""
            raise self._refused(duration, count, hint=hint)
        seconds = [low for low, _ in self._each(count)]
        limits = [high for _, high in self._each(count)]
        for _ in range(duration - sum(seconds)):
            _, growing = min((each, index) for index, each in enumerate(seconds) if each < limits[index])
            seconds[growing] += 1
        return seconds

    def _fewest(self, duration: int) -> int:
        """Count the segments that so many seconds need at least."""
        return 1 + -(-max(duration - self.first[1], 0) // self.other[1])

    def _each(self, count: int) -> list[tuple[int, int]]:
        low, high = self.first
        if count > 1 and self.continuation == "extend":
            low = max(low, EXTENDED_SECONDS[0])
        return [(low, high), *[self.other] * (count - 1)]

    def _reach(self, count: int) -> tuple[int, int]:
        each = self._each(count)
        return sum(low for low, _ in each), sum(high for _, high in each)

    def _refused(self, duration: int, count: int, shortest: int | None = None, hint: str = "") -> InvalidRequest:
        low, longest = self._reach(count)
        segments = f"{'at most ' if shortest else ''}{count} segment{'' if count == 1 else 's'}"
        first = f"{shortest or self._each(count)[0][0]}-{self.first[1]}"
        return not_allowed(
            "duration",
            f"{duration} s",
            f"{shortest or low}-{longest} s in {segments} of {self.model}: the first of {first} s, each other of "
            f"{self.other[0]}-{self.other[1]} s",
            hint,
        )


def _segments(
    first: VideoRequest, texts: Sequence[str], seconds: Sequence[int], continuation: Continuation
) -> list[Segment]:
    resolution = getattr(first, "resolution", None) or SERVER_DEFAULT_RESOLUTION
    tail = min(TAIL_SECONDS, seconds[0]) if continuation == "extend" else 0
    segments = [Segment(1, texts[0], seconds[0], "start", 0, first.estimated_cost_usd)]
    for number, length in enumerate(seconds[1:], 2):
        cost = estimate_cost(
            first.model,
            seconds=length,
            resolution=resolution,
            input_images=0 if tail else 1,
            input_video_seconds=tail,
        )
        # The result of an extension is never shorter than a tail: it contains one.
        text = texts[number - 1] if len(texts) > 1 else texts[0]
        segments.append(Segment(number, text, length, continuation, tail, cost))
    return segments
