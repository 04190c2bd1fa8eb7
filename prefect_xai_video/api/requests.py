"""Requests: one pydantic model for each mode, with its endpoint and its JSON body.

xAI ignores unknown fields, so a misspelled field means paying for the wrong video. Bodies are therefore written here,
field by field, and nowhere else. The pydantic models check types and general bounds; `check_limits` checks the limits
of the individual xAI models, which are in `capabilities.py`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    StrictBool,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import override

from prefect_xai_video.api.capabilities import (
    ASPECT_RATIOS,
    DEFAULT_MODEL,
    DISPUTED_ASPECT_RATIOS,
    RESOLUTIONS,
    SERVER_DEFAULT_DURATION,
    SERVER_DEFAULT_EXTENSION,
    SERVER_DEFAULT_RESOLUTION,
    Mode,
    estimate_cost,
    resolution_of,
)
from prefect_xai_video.api.mp4 import ClipFacts
from prefect_xai_video.api.records import canonical
from prefect_xai_video.api.sources import IN_ORDER, Input, Keyframe, ResolvedInput, Text, Voice, writable
from prefect_xai_video.api.storage_options import StorageOptions
from prefect_xai_video.api.urls import wire_url

# Prefect's forms draw an optional field as a pair of tabs, unless its null is hidden from the schema.
Unset = SkipJsonSchema[None]

Source = Callable[[str], dict[str, str]]
"""Writes an input as a nested object of a body."""


class VideoRequest(BaseModel):
    """Base class of the requests of all modes.

    Attributes:
        prompt: Description of the video, at most 4096 characters.
        model: xAI model id. Default `grok-imagine-video`.
        user: Tag of the end user on whose behalf the video is made, sent to xAI.
    """

    # Inputs may be signed URLs, which errors must not quote.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    mode: ClassVar[Mode]
    endpoint: ClassVar[str]

    prompt: str
    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    user: str | None = None

    _resolved: Mapping[str, ResolvedInput] = PrivateAttr(default_factory=dict)
    """Inputs in a form that xAI can fetch, by the value that the user gave."""

    @field_validator("*", mode="after")
    @classmethod
    def _writable(cls, value: object) -> object:
        return writable(value) if isinstance(value, str) else value

    @property
    def inputs(self) -> tuple[Input, ...]:
        """All inputs, as the user gave them."""
        return ()

    def body(self, upload_url: str | None = None, storage: StorageOptions | None = None) -> dict[str, Any]:
        """Build the JSON body as xAI expects it; unset fields are omitted.

        Args:
            upload_url: Signed URL to which xAI uploads the video.
            storage: How xAI's Files API stores the video. Neither counts for the fingerprint.
        """
        output = {} if upload_url is None else {"output": {"upload_url": wire_url(upload_url, "upload_url")}}
        stored = {} if storage is None else {"storage_options": storage.body()}
        return self._body(lambda value: self.resolved_input(value).wire) | output | stored

    def resolved(self, inputs: Mapping[str, ResolvedInput]) -> Self:
        """Set the forms of inputs that xAI can fetch.

        Args:
            inputs: Resolved inputs, by the value that the user gave.
        """
        request = self.model_copy()
        request._resolved = {**self._resolved, **inputs}
        return request

    def without_content(self) -> Self:
        """Return a copy without the content of its inputs. It costs the same, but can't be sent."""
        return self.resolved({value: replace(each, url="") for value, each in self._resolved.items()})

    def record(self) -> dict[str, Any]:
        """Build the body for receipts: inline data as a digest, URLs without signatures."""
        return self._body(lambda value: self.resolved_input(value).record)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of endpoint and body, with inputs by identity; equal for equal requests."""
        return self._fingerprint_of(self.record())

    @property
    def earlier_fingerprint(self) -> str | None:
        """Fingerprint as earlier versions computed it, from the URLs of signed inputs; None if it is the same."""
        if all(each.identity is None for each in self._resolved.values()):
            return None
        return self._fingerprint_of(self._body(lambda value: {"url": self.resolved_input(value).url_identity}))

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether a fingerprint belongs to this request, as computed by this version or an earlier one."""
        return fingerprint in {self.fingerprint, self.earlier_fingerprint}

    @property
    def estimated_cost_usd(self) -> Decimal | None:
        """Estimated cost in USD from the price table; None if the table has no price for it."""
        return None

    def clip_of(self, value: str) -> ClipFacts | None:
        """Length and size of an input clip; None if they are not known."""
        return self.resolved_input(value).clip

    def resolved_input(self, value: str) -> ResolvedInput:
        """Return an input in a form that xAI can fetch."""
        return self._resolved.get(value) or ResolvedInput(value)

    def _fingerprint_of(self, record: Mapping[str, Any]) -> str:
        text = json.dumps([self.endpoint, canonical(record)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _body(self, source: Source) -> dict[str, Any]:
        return present(model=self.model, prompt=self.prompt or None, user=self.user)


_RATIOS: list[JsonValue] = [*ASPECT_RATIOS, *DISPUTED_ASPECT_RATIOS]


class ClipOptions(BaseModel):
    """Options of a new clip; an edit inherits them from its input.

    Requests validate these fields, and the form of the job block shows them.

    Attributes:
        duration: Duration in seconds, 1-15. xAI's default is 8.
        aspect_ratio: Aspect ratio of the picture. xAI's default is 16:9.
        resolution: Resolution. xAI's default is 480p.
        generate_audio: Whether the clip has sound. xAI's default is True; a clip without sound costs the same.
    """

    duration: Annotated[int, Field(ge=1, json_schema_extra={"maximum": 15})] | Unset = Field(
        default=None,
        title="Duration",
        description="Duration in seconds, 1-15. xAI's default is 8. An edit has the duration of its input.",
    )
    aspect_ratio: Annotated[str, Field(json_schema_extra={"enum": _RATIOS})] | Unset = Field(
        default=None,
        title="Aspect ratio",
        description="Aspect ratio of the picture. xAI's default is 16:9. An edit keeps the ratio of its input.",
    )
    resolution: Annotated[str, Field(json_schema_extra={"enum": list(RESOLUTIONS)})] | Unset = Field(
        default=None,
        title="Resolution",
        description="1080p needs a 1.5 model. xAI's default is 480p. An edit keeps the resolution of its input.",
    )
    generate_audio: StrictBool | Unset = Field(
        default=None,
        title="Generate audio",
        description="Whether the clip has sound. xAI's default is yes. An edit keeps the sound of its input.",
    )

    @field_validator("duration", mode="before")
    @classmethod
    def _not_boolean(cls, duration: object) -> object:
        return _number(duration)


class _Generation(ClipOptions, VideoRequest):
    """Base class of the requests for a new clip."""

    endpoint: ClassVar[str] = "/videos/generations"

    @property
    @override
    def estimated_cost_usd(self) -> Decimal | None:
        return estimate_cost(
            self.model,
            seconds=self.duration or SERVER_DEFAULT_DURATION,
            resolution=self.resolution or SERVER_DEFAULT_RESOLUTION,
            input_images=sum(given.kind == "image" for given in self.inputs),
        )

    @override
    def _body(self, source: Source) -> dict[str, Any]:
        return super()._body(source) | present(**{name: getattr(self, name) for name in ClipOptions.model_fields})


class TextRequest(_Generation):
    """Request for text to video: a new clip from a prompt."""

    mode: ClassVar[Mode] = "text"

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        return _required(prompt)


class _Framed(_Generation):
    """Base class of the requests for a new clip some of whose frames are given."""

    image_url: str | None = None
    last_frame_url: str | None = None
    keyframes: Annotated[tuple[Keyframe, ...], IN_ORDER] = ()

    @property
    @override
    def inputs(self) -> tuple[Input, ...]:
        ends = {"image_url": self.image_url, "last_frame_url": self.last_frame_url}
        between = {f"keyframes[{number}].image_url": one.image_url for number, one in enumerate(self.keyframes)}
        return tuple(Input(field, "image", url) for field, url in (ends | between).items() if url is not None)

    @property
    def has_later_frames(self) -> bool:
        """Whether a frame after the first one is given."""
        return self.last_frame_url is not None or bool(self.keyframes)

    @override
    def _body(self, source: Source) -> dict[str, Any]:
        keyframes = [{"image": source(one.image_url), "timestamp_s": one.timestamp} for one in self.keyframes]
        return super()._body(source) | present(
            image=None if self.image_url is None else source(self.image_url),
            last_frame=None if self.last_frame_url is None else source(self.last_frame_url),
            keyframes=keyframes or None,
        )


class ImageRequest(_Framed):
    """Request for image to video: a new clip from its first frame, or from later ones. The prompt may be empty."""

    mode: ClassVar[Mode] = "image"

    @model_validator(mode="after")
    def _has_first_or_later_frames(self) -> Self:
        if (self.image_url is None) == (not self.has_later_frames):
            raise ValueError("image mode has a first frame or later ones; both together are reference mode")
        return self


class ReferenceRequest(_Framed):
    """Request for a new clip with references: images and voices that the prompt names, or a pinned first frame.

    The prompt names images as `<IMAGE_0>` and voices as `<AUDIO_0>`; without references it may be empty.
    """

    mode: ClassVar[Mode] = "reference"

    reference_image_urls: Annotated[tuple[Text, ...], IN_ORDER] = ()
    reference_audios: Annotated[tuple[Voice, ...], IN_ORDER] = ()

    @property
    @override
    def inputs(self) -> tuple[Input, ...]:
        images = (
            Input(f"reference_image_urls[{number}]", "image", url)
            for number, url in enumerate(self.reference_image_urls)
        )
        voices = (
            Input(f"reference_audios[{number}].url", "audio", voice.url)
            for number, voice in enumerate(self.reference_audios)
            if voice.url
        )
        return (*super().inputs, *images, *voices)

    @model_validator(mode="after")
    def _has_references(self) -> Self:
        is_pinned = self.image_url is not None and self.has_later_frames
        if not (self.reference_image_urls or self.reference_audios or is_pinned):
            raise ValueError("reference mode has reference images, voices, or a first frame with later ones")
        return self

    @override
    def _body(self, source: Source) -> dict[str, Any]:
        return super()._body(source) | present(
            reference_images=[source(url) for url in self.reference_image_urls] or None,
            reference_audios=[voice.body(source) for voice in self.reference_audios] or None,
        )


class EditRequest(VideoRequest):
    """Request for an edit of a clip. The result has the clip's duration, aspect ratio and resolution."""

    mode: ClassVar[Mode] = "edit"
    endpoint: ClassVar[str] = "/videos/edits"

    video_url: str

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        return _required(prompt)

    @property
    @override
    def inputs(self) -> tuple[Input, ...]:
        return (Input("video_url", "video", self.video_url),)

    @property
    @override
    def estimated_cost_usd(self) -> Decimal | None:
        """Estimated cost in USD; None if the length of the clip is not known. xAI does not document it."""
        clip = self.clip_of(self.video_url)
        return None if clip is None else _cost_with_clip(self.model, clip.seconds, clip)

    @override
    def _body(self, source: Source) -> dict[str, Any]:
        return super()._body(source) | {"video": source(self.video_url)}


class ExtendRequest(VideoRequest):
    """Request to continue a clip. The result is the clip and its extension in one file, of 720p at most.

    Attributes:
        extend_video_url: The clip to continue (MP4, 2-15 seconds).
        duration: Seconds to add, 2-10. xAI's default is 6.
    """

    mode: ClassVar[Mode] = "extend"
    endpoint: ClassVar[str] = "/videos/extensions"

    extend_video_url: str
    duration: Annotated[int, Field(ge=1)] | None = None
    user: None = None

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        return _required(prompt)

    @field_validator("duration", mode="before")
    @classmethod
    def _not_boolean(cls, duration: object) -> object:
        return _number(duration)

    @property
    @override
    def inputs(self) -> tuple[Input, ...]:
        return (Input("extend_video_url", "video", self.extend_video_url),)

    @property
    @override
    def estimated_cost_usd(self) -> Decimal | None:
        """Estimated cost in USD; None if the length of the clip is not known. xAI does not document it."""
        clip = self.clip_of(self.extend_video_url)
        added = self.duration or SERVER_DEFAULT_EXTENSION
        return None if clip is None else _cost_with_clip(self.model, added, clip)

    @override
    def _body(self, source: Source) -> dict[str, Any]:
        return super()._body(source) | {"video": source(self.extend_video_url)} | present(duration=self.duration)


def present(**fields: Any) -> dict[str, Any]:
    """Drop the fields that are not set."""
    return {name: value for name, value in fields.items() if value is not None}


def _cost_with_clip(model: str, seconds: float, clip: ClipFacts) -> Decimal | None:
    resolution = resolution_of(clip.width, clip.height)
    return estimate_cost(model, seconds=seconds, resolution=resolution, input_video_seconds=clip.seconds)


def _required(prompt: str) -> str:
    if not prompt.strip():
        raise ValueError("a prompt is required")
    return prompt


def _number(duration: object) -> object:
    if isinstance(duration, bool):
        raise ValueError("a boolean is not a duration")  # noqa: TRY004 (pydantic expects a ValueError)
    return duration
