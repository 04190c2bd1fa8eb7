"""Checks the meaning of a submission: the service refuses an invalid one with 400 or 404."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prefect_xai_video.api.capabilities import (
    DEFAULT_MODEL,
    KEYFRAMES_PER_SECOND,
    MAX_KEYFRAMES,
    MAX_PROMPT_CHARACTERS,
    MAX_REFERENCE_AUDIOS,
    MAX_STORAGE_SECONDS,
    MIN_KEYFRAME_GAP,
    PUBLIC_URL_SECONDS,
    RESOLUTIONS,
    SERVER_DEFAULT_DURATION,
    SERVER_DEFAULT_EXTENSION,
    SERVER_DEFAULT_RESOLUTION,
    Mode,
    ModelCapabilities,
    ModeLimits,
    Resolution,
    capabilities_of,
)
from prefect_xai_video.emulator.bodies import (
    EditBody,
    ExtensionBody,
    GenerationBody,
    Keyframe,
    PublicUrl,
    Source,
    StorageOptions,
    SubmissionBody,
    Voice,
)
from prefect_xai_video.emulator.refusals import invalid_argument, permission_denied, unknown_model
from prefect_xai_video.emulator.sizes import ACCEPTED_ASPECT_RATIOS

# Limits that are missing from the table of capabilities, since no client can check them.
SERVER_DEFAULT_ASPECT_RATIO = "16:9"
VOICES = ("ara", "eve", "leo", "rex", "sal")
EXTENSION_CAP: Resolution = "720p"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRequest:
    """A valid request, with the service's defaults filled in.

    Attributes:
        mode: Kind of request.
        model: The canonical model id.
        prompt: Description of the video; may be empty.
        duration: Seconds of a new clip or of an extension; 0 for an edit, which keeps its input's.
        aspect_ratio: Aspect ratio of a new clip.
        resolution: Resolution of a new clip.
        stills: Images to be shown at a given time of the clip, in seconds.
        references: Images that the clip should resemble.
        video: The clip to edit or extend.
        audio: Whether the clip has sound.
        upload_url: URL to which the video is uploaded.
        storage: Options for the Files API.
    """

    mode: Mode
    model: str
    prompt: str
    duration: int = 0
    aspect_ratio: str = SERVER_DEFAULT_ASPECT_RATIO
    resolution: str = SERVER_DEFAULT_RESOLUTION
    stills: tuple[tuple[float, Source], ...] = ()
    references: tuple[Source, ...] = ()
    video: Source | None = None
    audio: bool = True
    upload_url: str | None = None
    storage: StorageOptions | None = None

    @property
    def images(self) -> list[Source]:
        """All input images."""
        return [*(image for _, image in self.stills), *self.references]


def accept_generation(body: GenerationBody) -> AcceptedRequest:
    """Check the body of POST /videos/generations.

    Raises:
        Refused: 400 or 404 if the request is not valid.
    """
    mode = _mode_of(body)
    if not (body.image or body.last_frame or body.keyframes):
        _check_prompt_given(body.prompt)
    _check_common(body)
    if body.aspect_ratio is not None and body.aspect_ratio not in ACCEPTED_ASPECT_RATIOS:
        raise invalid_argument(f"Invalid aspect ratio: {body.aspect_ratio}.")
    if body.resolution is not None and body.resolution not in RESOLUTIONS:
        raise invalid_argument(f"Invalid resolution: {body.resolution}.")
    entry = _entry_of(body)
    _check_inputs(body, entry)
    limits = _limits_of(entry, mode)
    duration = SERVER_DEFAULT_DURATION if body.duration is None else body.duration
    _check_duration(duration, limits)
    resolution = body.resolution or SERVER_DEFAULT_RESOLUTION
    if resolution not in limits.resolutions:
        raise invalid_argument(f"Resolution {resolution} is not supported by {entry.model} for this request.")
    _check_keyframes(body.keyframes or (), duration)
    return AcceptedRequest(
        mode=mode,
        model=entry.model,
        prompt=body.prompt or "",
        duration=duration,
        aspect_ratio=body.aspect_ratio or SERVER_DEFAULT_ASPECT_RATIO,
        resolution=resolution,
        stills=tuple(_stills(body, duration)),
        references=body.reference_images or (),
        audio=body.generate_audio is not False,
        upload_url=_upload_url(body),
        storage=body.storage_options,
    )


def accept_edit(body: EditBody) -> AcceptedRequest:
    """Check the body of POST /videos/edits.

    Raises:
        Refused: 400 or 404 if the request is not valid.
    """
    _check_prompt_given(body.prompt)
    _check_common(body)
    entry = _entry_of(body)
    _limits_of(entry, "edit")
    return AcceptedRequest(
        mode="edit",
        model=entry.model,
        prompt=body.prompt,
        video=body.video,
        upload_url=_upload_url(body),
        storage=body.storage_options,
    )


def accept_extension(body: ExtensionBody) -> AcceptedRequest:
    """Check the body of POST /videos/extensions.

    Raises:
        Refused: 400 or 404 if the request is not valid.
    """
    _check_prompt_given(body.prompt)
    _check_common(body)
    entry = _entry_of(body)
    duration = SERVER_DEFAULT_EXTENSION if body.duration is None else body.duration
    _check_duration(duration, _limits_of(entry, "extend"))
    return AcceptedRequest(
        mode="extend",
        model=entry.model,
        prompt=body.prompt,
        duration=duration,
        video=body.video,
        upload_url=_upload_url(body),
        storage=body.storage_options,
    )


def _mode_of(body: GenerationBody) -> Mode:
    """Determine the mode. References mean reference mode, and so does a first frame combined with other frames."""
    frames = body.last_frame or body.keyframes
    if body.reference_images or body.reference_audios or (body.image and frames):
        return "reference"
    return "image" if body.image or frames else "text"


def _entry_of(body: SubmissionBody) -> ModelCapabilities:
    model = DEFAULT_MODEL if body.model is None else body.model
    entry = capabilities_of(model)
    if entry is None:
        raise unknown_model(model)
    return entry


def _limits_of(entry: ModelCapabilities, mode: Mode) -> ModeLimits:
    limits = entry.modes.get(mode)
    if limits is None:
        raise invalid_argument(f"The model {entry.model} does not support {mode} requests.")
    return limits


def _check_prompt_given(prompt: str | None) -> None:
    if not (prompt or "").strip():
        raise invalid_argument("Prompt cannot be empty. Please provide a prompt.")


def _check_common(body: SubmissionBody) -> None:
    if len(body.prompt or "") > MAX_PROMPT_CHARACTERS:
        raise invalid_argument(f"Prompt length exceeds the maximum of {MAX_PROMPT_CHARACTERS} characters.")
    if body.storage_options is not None:
        _check_storage(body.storage_options)


def _check_storage(options: StorageOptions) -> None:
    if not options.filename.strip():
        raise invalid_argument("storage_options: filename cannot be empty.")
    kept = options.expires_after
    if kept is not None and not 0 < kept <= MAX_STORAGE_SECONDS:
        raise invalid_argument(f"storage_options: expires_after must be at most {MAX_STORAGE_SECONDS} seconds.")
    public = options.public_url.expires_after if isinstance(options.public_url, PublicUrl) else None
    if public is None:
        return
    check_public_seconds(public)
    if kept is not None and public > kept:
        raise invalid_argument("public_url: expires_after must not exceed the remaining life of the file.")


def check_public_seconds(seconds: int) -> None:
    """Check the lifetime of a public URL.

    Raises:
        Refused: 400 if it is too short or too long.
    """
    shortest, longest = PUBLIC_URL_SECONDS
    if not shortest <= seconds <= longest:
        raise invalid_argument(f"public_url: expires_after must be between {shortest} and {longest} seconds.")


def _check_duration(duration: int, limits: ModeLimits) -> None:
    if limits.duration is not None and not limits.duration[0] <= duration <= limits.duration[1]:
        shortest, longest = limits.duration
        raise invalid_argument(f"Duration must be between {shortest} and {longest} seconds, got {duration}.")


def _check_inputs(body: GenerationBody, entry: ModelCapabilities) -> None:
    if not entry.has_frames:
        for field in ("last_frame", "keyframes", "reference_audios"):
            if getattr(body, field):
                raise invalid_argument(f"{field} is not supported by the model {entry.model}.")
        if body.image and body.reference_images:
            raise invalid_argument("image and reference_images cannot be combined.")
    limit = entry.max_reference_images
    if len(body.reference_images or ()) > limit > 0:
        raise invalid_argument(f"At most {limit} reference_images are allowed.")
    _check_voices(body.reference_audios or ())


def _check_voices(voices: Sequence[Voice]) -> None:
    if len(voices) > MAX_REFERENCE_AUDIOS:
        raise invalid_argument(f"At most {MAX_REFERENCE_AUDIOS} reference_audios are allowed.")
    for voice in voices:
        if (voice.voice_id is None) == (voice.url is None):
            raise invalid_argument("reference_audios: exactly one of voice_id and url must be given.")
        if voice.voice_id is None:
            raise permission_denied("reference_audios: url is available to trusted partners only.")
        if voice.voice_id.lower() not in VOICES:
            roster = ", ".join(VOICES)
            raise invalid_argument(f"Unknown voice_id: {voice.voice_id[:64]}. Available voices: {roster}.")


def _check_keyframes(keyframes: Sequence[Keyframe], duration: int) -> None:
    if len(keyframes) > MAX_KEYFRAMES:
        raise invalid_argument(f"At most {MAX_KEYFRAMES} keyframes are allowed.")
    times = sorted(keyframe.timestamp_s for keyframe in keyframes)
    if any(not 0 < time < duration for time in times):
        raise invalid_argument("keyframes: timestamp_s must lie strictly inside the clip.")
    if any(later - time < MIN_KEYFRAME_GAP for time, later in pairwise(times)):
        raise invalid_argument("keyframes must be at least 1/3 second apart.")


def _stills(body: GenerationBody, duration: int) -> Iterable[tuple[float, Source]]:
    if body.image:
        yield 0, body.image
    for keyframe in body.keyframes or ():
        yield _snapped(keyframe.timestamp_s, duration), keyframe.image
    if body.last_frame:
        yield duration, body.last_frame


def _snapped(seconds: float, duration: int) -> float:
    """Snap a time to the nearest position of the grid inside the clip."""
    steps = min(max(round(seconds * KEYFRAMES_PER_SECOND), 1), duration * KEYFRAMES_PER_SECOND - 1)
    return steps / KEYFRAMES_PER_SECOND


def _upload_url(body: SubmissionBody) -> str | None:
    return body.output.upload_url if body.output else None
