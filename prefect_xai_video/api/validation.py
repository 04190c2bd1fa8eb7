"""Compares requests with the limits of their models."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from prefect_xai_video.api.capabilities import (
    ASPECT_RATIOS,
    DISPUTED_ASPECT_RATIOS,
    DISPUTED_EXTENSION,
    EXTENDED_SECONDS,
    MAX_EDIT_SECONDS,
    MAX_KEYFRAMES,
    MAX_PROMPT_CHARACTERS,
    MAX_REFERENCE_AUDIOS,
    MIN_KEYFRAME_GAP,
    MODELS,
    SERVER_DEFAULT_DURATION,
    ModelCapabilities,
    capabilities_of,
)
from prefect_xai_video.api.requests import EditRequest, ExtendRequest, ReferenceRequest, VideoRequest
from prefect_xai_video.api.sources import Keyframe
from prefect_xai_video.errors import InvalidRequest, not_allowed, shown

Validation = Literal["strict", "warn"]

_OF_FRAMES = ("last_frame_url", "keyframes", "reference_audios")
_NAMED = re.compile(r"<(IMAGE|AUDIO)_([0-9]{1,9})>")
_CLIP_TOLERANCE = 0.05
"""Seconds by which a clip may miss a limit: its last frame or its sound may end a little earlier or later."""


def check_limits(request: VideoRequest, validation: Validation = "strict") -> list[str]:
    """Check a request against the limits of its model, which are in `capabilities.py`.

    Args:
        request: The request; with resolved inputs, the lengths of clips are checked, too, if they are known.
        validation: `strict` raises an error if a limit is exceeded, `warn` returns warnings instead.

    Returns:
        Warnings for the caller, one sentence each.

    Raises:
        InvalidRequest: If a limit is exceeded and `validation` is `strict`.
    """
    entry = capabilities_of(request.model)
    if entry is None:
        unchecked = (
            f"model: {request.model!r} is not known to this version of prefect-xai-video. Its limits are not "
            f"checked, and its price is unknown."
        )
        return [unchecked, *_general_problems(request), *_doubts(request)]
    problems = [*_general_problems(request), *_model_problems(request, entry)]
    if problems and validation == "strict":
        raise InvalidRequest(" ".join(problems))
    return [*problems, *_doubts(request)]


def _doubts(request: VideoRequest) -> Iterable[str]:
    """Yield a warning for each value on which xAI's own sources disagree."""
    ratio = getattr(request, "aspect_ratio", None)
    if ratio in DISPUTED_ASPECT_RATIOS:
        yield f"aspect_ratio: xAI's newest guide has {ratio}, its OpenAPI file does not; xAI may refuse it."
    if isinstance(request, ExtendRequest) and request.duration == DISPUTED_EXTENSION:
        yield f"duration: xAI's SDK allows an extension of {DISPUTED_EXTENSION} s, its guide does not."
    for kind, number, given in _named(request):
        if number == given > 0:
            yield (
                f"prompt: <{kind}_{number}> is beyond the {given} given, counted from 0 as most of xAI's sources do; "
                f"one of them counts from 1."
            )


def _general_problems(request: VideoRequest) -> Iterable[str]:
    if len(request.prompt) > MAX_PROMPT_CHARACTERS:
        yield f"prompt: {len(request.prompt)} characters are not allowed; allowed: at most {MAX_PROMPT_CHARACTERS}."
    ratio = getattr(request, "aspect_ratio", None)
    if ratio is not None and ratio not in (*ASPECT_RATIOS, *DISPUTED_ASPECT_RATIOS):
        yield not_allowed("aspect_ratio", shown(ratio), ", ".join(ASPECT_RATIOS)).message
    if isinstance(request, ReferenceRequest):
        yield from _reference_problems(request)
    yield from _naming_problems(request)
    yield from _keyframe_problems(getattr(request, "keyframes", ()), getattr(request, "duration", None))
    yield from _clip_problems(request)


def _reference_problems(request: ReferenceRequest) -> Iterable[str]:
    if not request.prompt.strip() and (request.reference_image_urls or request.reference_audios):
        yield not_allowed("prompt", shown(request.prompt), "non-empty text beside references").message
    if len(request.reference_audios) > MAX_REFERENCE_AUDIOS:
        yield _too_many("reference_audios", request.reference_audios, MAX_REFERENCE_AUDIOS)


def _naming_problems(request: VideoRequest) -> Iterable[str]:
    for kind, number, given in _named(request):
        if given == 0:
            yield not_allowed(
                "prompt", f"<{kind}_{number}>", f"names of given references; {_NAMED_FIELDS[kind]} has none"
            ).message
        elif number > given:
            yield f"prompt: <{kind}_{number}> is beyond the {given} given; the first is <{kind}_0>."


_NAMED_FIELDS = {"IMAGE": "reference_image_urls", "AUDIO": "reference_audios"}


def _named(request: VideoRequest) -> Iterable[tuple[str, int, int]]:
    """Yield the last reference of each kind that a prompt names, by its number, and how many of the kind are given.

    Nothing is known about prompts that name images of other kinds, such as the first frame.
    """
    names = _NAMED.findall(request.prompt)
    if not names or request.mode in ("edit", "extend"):
        return
    has_images = any(given.kind == "image" for given in request.inputs)
    for kind, field in _NAMED_FIELDS.items():
        given = len(getattr(request, field, ()))
        numbers = [int(number) for named, number in names if named == kind]
        if numbers and (given or kind == "AUDIO" or not has_images):
            yield kind, max(numbers), given


def _keyframe_problems(keyframes: Sequence[Keyframe], duration: int | None) -> Iterable[str]:
    if len(keyframes) > MAX_KEYFRAMES:
        yield _too_many("keyframes", keyframes, MAX_KEYFRAMES)
        return
    seconds = duration or SERVER_DEFAULT_DURATION
    for number, keyframe in enumerate(keyframes):
        if not 0 < keyframe.timestamp < seconds:
            inside = f"a time inside the clip, above 0 and below {seconds} s"
            yield not_allowed(f"keyframes[{number}].timestamp", str(keyframe.timestamp), inside).message
    times = sorted(keyframe.timestamp for keyframe in keyframes)
    for one, two in pairwise(times):
        if two - one < MIN_KEYFRAME_GAP:
            yield not_allowed(
                "keyframes", f"a gap of {two - one:.2f} s at {one} s", "at least a third of a second"
            ).message


def _clip_problems(request: VideoRequest) -> Iterable[str]:
    """Yield the problems of an input clip whose length is known."""
    for given in request.inputs:
        clip = request.clip_of(given.value)
        if clip is None:
            continue
        if isinstance(request, EditRequest) and clip.seconds > MAX_EDIT_SECONDS + _CLIP_TOLERANCE:
            allowed = f"at most {MAX_EDIT_SECONDS} s"
            yield not_allowed(given.field, f"a clip of {clip.seconds:.1f} s", allowed).message
        if isinstance(request, ExtendRequest):
            shortest, longest = EXTENDED_SECONDS
            if not shortest - _CLIP_TOLERANCE <= clip.seconds <= longest + _CLIP_TOLERANCE:
                allowed = f"{shortest}-{longest} s"
                yield not_allowed(given.field, f"a clip of {clip.seconds:.1f} s", allowed).message


def _model_problems(request: VideoRequest, entry: ModelCapabilities) -> Iterable[str]:
    features = list(_feature_problems(request, entry))
    yield from features
    limits = entry.modes.get(request.mode)
    if limits is None:
        if not features:
            with_mode = _models(request.mode in model.modes for model in MODELS)
            yield (
                f"model: {request.model!r} does not support {request.mode} mode; it supports "
                f"{', '.join(entry.modes)}. This mode needs {with_mode}."
            )
        return
    duration = getattr(request, "duration", None)
    if duration is not None and limits.duration is not None and not _is_disputed(request):
        shortest, longest = limits.duration
        if not shortest <= duration <= longest:
            allowed = f"{shortest}-{longest} seconds for {request.model} in {request.mode} mode"
            yield not_allowed("duration", str(duration), allowed).message
    resolution = getattr(request, "resolution", None)
    if resolution is not None and resolution not in limits.resolutions:
        allowed = f"{', '.join(limits.resolutions)} for {request.model} in {request.mode} mode"
        yield not_allowed("resolution", shown(resolution), allowed).message


def _feature_problems(request: VideoRequest, entry: ModelCapabilities) -> Iterable[str]:
    if not entry.has_frames:
        for field in _OF_FRAMES:
            if getattr(request, field, None):
                with_frames = _models(model.has_frames for model in MODELS)
                yield f"{field}: not supported by {request.model!r}; allowed with {with_frames}."
    if not isinstance(request, ReferenceRequest) or not request.reference_image_urls:
        return
    if not entry.has_frames and request.image_url is not None:
        yield f"image_url and reference_image_urls can't be combined with {request.model!r}."
    if len(request.reference_image_urls) > entry.max_reference_images > 0:
        yield _too_many("reference_image_urls", request.reference_image_urls, entry.max_reference_images)


def _is_disputed(request: VideoRequest) -> bool:
    return isinstance(request, ExtendRequest) and request.duration == DISPUTED_EXTENSION


def _too_many(field: str, given: Sequence[object], limit: int) -> str:
    return not_allowed(field, f"a list of {len(given)}", f"at most {limit}").message


def _models(chosen: Iterable[bool]) -> str:
    """Name the models for which a condition holds."""
    return " or ".join(entry.model for entry, is_chosen in zip(MODELS, chosen, strict=True) if is_chosen)
