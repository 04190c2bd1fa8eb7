"""The flat options of a video, as every way in takes them, and the request that they make."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from typing_extensions import TypedDict, Unpack

from prefect_xai_video.api.capabilities import ASPECT_RATIOS, RESOLUTIONS, SERVER_DEFAULT_AUDIO, Mode
from prefect_xai_video.api.requests import (
    ClipOptions,
    EditRequest,
    ExtendRequest,
    ImageRequest,
    ReferenceRequest,
    TextRequest,
    VideoRequest,
)
from prefect_xai_video.api.sources import Keyframe, Voice
from prefect_xai_video.errors import InvalidRequest, no_such, not_allowed, shown


class PlainOptions(TypedDict, total=False):
    """The options of a video that are one value each.

    Attributes:
        image_url: First frame of a new clip: an https, `data:` or `s3://` URL, a local file (PNG, JPEG, WebP), or
            `xai-file:` and the id of a file kept at xAI.
        last_frame_url: Last frame of a new clip, given in the same ways.
        video_url: Clip to edit, given in the same ways (MP4, at most 8.7 seconds).
        extend_video_url: Clip to continue, given in the same ways (MP4, 2-15 seconds).
        duration: Duration in seconds, 1-15; with `extend_video_url` the seconds to add, 2-10. xAI's defaults are 8
            and 6. Not with `video_url`.
        aspect_ratio: One of 16:9, 4:3, 1:1, 9:16, 3:4, 3:2, 2:3. xAI's default is 16:9. New clips only.
        resolution: 480p or 720p, or 1080p if the model supports it. xAI's default is 480p. New clips only.
        generate_audio: Whether the clip has sound. xAI's default is True. New clips only.
        model: xAI model id. Default `grok-imagine-video`.
        user: Tag of the end user on whose behalf the video is made. Not with `extend_video_url`.
    """

    image_url: str | None
    last_frame_url: str | None
    video_url: str | None
    extend_video_url: str | None
    duration: int | None
    aspect_ratio: str | None
    resolution: str | None
    generate_audio: bool | None
    model: str
    user: str | None


class VideoOptions(PlainOptions, total=False):
    """All options of a video except its prompt: the single list for tasks, job block and manifests.

    Attributes:
        reference_image_urls: Images that the prompt names as `<IMAGE_0>`, `<IMAGE_1>`, ..., given like `image_url`.
        keyframes: Images at given times: `Keyframe` objects, mappings with `image_url` and `timestamp` (seconds), or
            texts such as `2.5=middle.png`.
        reference_audios: Voices that the prompt may name as `<AUDIO_0>`, ...: `Voice` objects, mappings with
            `voice_id` or `url`, or texts: a voice id, or the URL or path (with a slash) of a clip with the voice.
    """

    reference_image_urls: Sequence[str] | None
    keyframes: Sequence[Keyframe | Mapping[str, Any] | str] | None
    reference_audios: Sequence[Voice | Mapping[str, Any] | str] | None


LISTS = frozenset(VideoOptions.__annotations__) - frozenset(PlainOptions.__annotations__)
"""The options that are lists."""

_OF_CLIP = frozenset(ClipOptions.model_fields)
_OF_FRAMES = frozenset({"image_url", "last_frame_url", "keyframes", "reference_image_urls", "reference_audios"})
_INPUT_CLIPS = {"video_url": "an edit", "extend_video_url": "an extension"}


def build_request(prompt: str | VideoRequest, **options: Unpack[VideoOptions]) -> VideoRequest:
    """Build a request from flat options. They decide on its mode.

    Args:
        prompt: Description of the video; may be empty with given frames. A request is returned unchanged.
        **options: See `VideoOptions`.

    Returns:
        A request for text, image, reference, edit or extend mode.

    Raises:
        InvalidRequest: If an option does not exist, has a value of the wrong type, or can't be combined with the
            others.
    """
    check_options(options, VideoOptions)
    fields = _given(options)
    if isinstance(prompt, VideoRequest):
        if fields:
            raise not_allowed(
                next(iter(fields)), "an option next to a complete request", "options set in the request itself"
            )
        return prompt
    kind = _kind_of(fields)
    try:
        return kind.model_validate(fields | {"prompt": prompt})
    except ValidationError as error:
        raise InvalidRequest(_sentence(error, kind)) from None


def mode_of(options: Mapping[str, object]) -> Mode:
    """Tell the mode of a request from its options, without checking their values.

    Args:
        options: Options by name; others than those of a video don't matter.

    Raises:
        InvalidRequest: If options can't be combined.
    """
    return _kind_of(_given(options)).mode


def _given(options: Mapping[str, object]) -> dict[str, object]:
    """Select the options that have a value which says something."""
    fields = {name: value for name, value in options.items() if value is not None and not _is_empty(name, value)}
    if _INPUT_CLIPS.keys() & fields and fields.get("generate_audio") is SERVER_DEFAULT_AUDIO:
        # The classic UI sends this default with every form. An edit keeps the sound of its input.
        del fields["generate_audio"]
    return fields


def check_options(given: Mapping[str, object], allowed: type) -> None:
    """Check the names of options, which Python does not do for a `TypedDict`: a misspelled one means a wrong video.

    Args:
        given: Options by name.
        allowed: The `TypedDict` that lists all options.

    Raises:
        InvalidRequest: If an option does not exist.
    """
    for name, value in given.items():
        if name not in allowed.__annotations__:
            raise no_such("option", name, allowed.__annotations__, shown(value))


def defaults_that_apply(saved: Mapping[str, Any], given: Mapping[str, object]) -> dict[str, Any]:
    """Select the saved defaults that apply beside given options; those of a new clip don't, beside an input clip."""
    has_clip = any(given.get(name) is not None for name in _INPUT_CLIPS)
    return {name: value for name, value in saved.items() if not (has_clip and name in _OF_CLIP)}


def _is_empty(name: str, value: object) -> bool:
    """Whether a list has no entries; forms send one for what nobody filled in."""
    return name in LISTS and isinstance(value, list | tuple) and not value


def _kind_of(fields: Mapping[str, object]) -> type[VideoRequest]:
    clips = [name for name in _INPUT_CLIPS if name in fields]
    if not clips:
        is_pinned = "image_url" in fields and ("last_frame_url" in fields or "keyframes" in fields)
        if is_pinned or "reference_image_urls" in fields or "reference_audios" in fields:
            return ReferenceRequest
        return ImageRequest if _OF_FRAMES & fields.keys() else TextRequest
    clip = clips[0]
    other = next((name for name in fields if name in _OF_FRAMES | set(clips[1:])), None)
    if other is not None:
        raise InvalidRequest(
            f"{other} and {clip} can't be combined: an image starts a new clip, a video is edited or extended."
        )
    if clip == "extend_video_url" and "user" in fields:
        raise not_allowed("user", shown(fields["user"]), "no end user with extend_video_url")
    of_new_clip = _OF_CLIP - ({"duration"} if clip == "extend_video_url" else set())
    refused = next((name for name in ClipOptions.model_fields if name in fields and name in of_new_clip), None)
    if refused is not None:
        kept = "duration, aspect ratio, resolution and sound" if clip == "video_url" else "aspect ratio and sound"
        raise InvalidRequest(
            f"{refused}: {shown(fields[refused])} is not allowed with {clip}: {_INPUT_CLIPS[clip]} keeps the {kept} "
            f"of its input."
        )
    return EditRequest if clip == "video_url" else ExtendRequest


MAX_PROBLEMS = 5
"""Most problems that an error names; the others are counted."""

_INPUT = "a URL or a path, as text"
_EXPECTED = {
    "duration": "a whole number of seconds, 1-15",
    "aspect_ratio": ", ".join(ASPECT_RATIOS),
    "resolution": ", ".join(RESOLUTIONS),
    "generate_audio": "true or false",
    "prompt": "non-empty text",
    "model": "a model id",
    "image_url": _INPUT,
    "last_frame_url": _INPUT,
    "video_url": _INPUT,
    "extend_video_url": _INPUT,
    "url": _INPUT,
    "reference_image_urls": "a list of images",
    "keyframes": "a list of keyframes, each with image_url and timestamp, or as text SECONDS=IMAGE",
    "timestamp": "a number of seconds",
    "reference_audios": "a list of voices, each with either voice_id or url, or as text one of them",
    "voice_id": "the id of a voice, of letters, digits, dots, hyphens and underscores",
}
_EXPECTED_ENTRY = {
    "reference_image_urls": _INPUT,
    "keyframes": "image_url and timestamp, or as text SECONDS=IMAGE",
    "reference_audios": "either voice_id or url, or as text one of them",
}


def _sentence(error: ValidationError, kind: type[VideoRequest]) -> str:
    """Word the problems that pydantic has found."""
    sentences = []
    problems = error.errors()
    for problem in problems[:MAX_PROBLEMS]:
        location = problem["loc"]
        if not location:
            return f"The options can't be combined to a request in {kind.mode} mode."
        # Behind the name of a plain option pydantic writes the type that it has tried.
        is_nested = location[0] in LISTS
        field, name = (_path(location), str(location[-1])) if is_nested else (str(location[0]),) * 2
        if problem["type"] == "extra_forbidden":
            allowed = Keyframe.model_fields if location[0] == "keyframes" else Voice.model_fields
            sentences.append(no_such("field", field, allowed).message)
        elif problem["type"] == "missing":
            sentences.append(f"{field}: it is required; allowed: {_EXPECTED.get(name, 'a text')}.")
        else:
            is_entry = is_nested and isinstance(location[-1], int)
            expected = _EXPECTED_ENTRY[str(location[0])] if is_entry else _EXPECTED.get(name, "a text")
            sentences.append(not_allowed(field, shown(problem["input"]), expected).message)
    if len(problems) > MAX_PROBLEMS:
        sentences.append(f"… and {len(problems) - MAX_PROBLEMS} more.")
    return " ".join(dict.fromkeys(sentences))


def _path(location: tuple[int | str, ...]) -> str:
    """Write the place of a problem as a user would: `keyframes[0].timestamp`."""
    first, *others = location
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in others)
