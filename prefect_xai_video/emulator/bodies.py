"""The JSON bodies that can be submitted: their shape, and nothing about their sense.

Unknown fields are ignored at every level, as the service does, so a misspelled one is a paid wrong video. Where a
field is given by its name and by an alias, the name wins.
"""

import re
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from starlette.requests import Request

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.requestlog import note_body
from prefect_xai_video.emulator.sizes import DRAWN_ASPECT_RATIOS


def _whole_seconds(value: Any) -> Any:
    return int(value) if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) else value


_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
_Integer = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_Seconds = Annotated[_Integer, BeforeValidator(_whole_seconds)]
"""A duration, which may also be written as a string."""
_DURATION: Any = Field(default=None, validation_alias=AliasChoices("duration", "seconds"))


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class Source(_Shape):
    """Where an input image or video is: a URL, or the id of a stored file."""

    url: str | None = Field(default=None, validation_alias=AliasChoices("url", "image_url"))
    file_id: str | None = None

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.url is None and self.file_id is None:
            raise PydanticCustomError("missing_source", "missing field `url`")
        return self


class Keyframe(_Shape):
    """An image that is to be seen at a time of the clip."""

    image: Source
    timestamp_s: float


class Voice(_Shape):
    """A voice to speak with: a preset one, or that of a clip."""

    voice_id: str | None = None
    url: str | None = None


class PublicUrl(_Shape):
    """How long a public URL is to live."""

    expires_after: _Integer | None = None


class StorageOptions(_Shape):
    """How to keep the video in the Files API."""

    filename: str
    expires_after: _Integer | None = None
    public_url: bool | PublicUrl | None = None


class Output(_Shape):
    """Where to deliver the video."""

    upload_url: str | None = None


class SubmissionBody(_Shape):
    """What all three kinds of submission have in common."""

    model: str | None = None
    prompt: str | None = None
    output: Output | None = None
    storage_options: StorageOptions | None = None


class GenerationBody(SubmissionBody):
    """The body of POST /videos/generations."""

    duration: _Seconds | None = _DURATION
    aspect_ratio: str | None = None
    resolution: str | None = None
    image: Source | None = Field(default=None, validation_alias=AliasChoices("image", "input_reference"))
    reference_images: tuple[Source, ...] | None = None
    reference_audios: tuple[Voice, ...] | None = None
    last_frame: Source | None = None
    keyframes: tuple[Keyframe, ...] | None = None
    generate_audio: bool | None = None
    user: str | None = None

    @field_validator("aspect_ratio")
    @classmethod
    def _is_not_auto(cls, aspect_ratio: str | None) -> str | None:
        if aspect_ratio == "auto":
            raise PydanticCustomError(
                "unknown_variant",
                "unknown variant `auto`, expected one of {ratios}",
                {"ratios": ", ".join(f"`{ratio}`" for ratio in DRAWN_ASPECT_RATIOS)},
            )
        return aspect_ratio


class EditBody(SubmissionBody):
    """The body of POST /videos/edits."""

    prompt: str
    video: Source
    user: str | None = None


class ExtensionBody(SubmissionBody):
    """The body of POST /videos/extensions."""

    prompt: str
    video: Source
    duration: _Seconds | None = _DURATION


class FaultBody(_Shape):
    """The body of POST /emulator/faults, which is none of the service's: a misspelled field is told."""

    model_config = ConfigDict(extra="forbid")

    fault: str
    submissions: Annotated[int, Field(ge=1, le=1000)] = 1


Body = TypeVar("Body", bound=_Shape)
Submitted = TypeVar("Submitted", bound=SubmissionBody)


async def read_body(request: Request, shape: type[Body]) -> Body:
    """Read the body of a submission.

    Args:
        request: The HTTP request.
        shape: What its body must look like.

    Returns:
        The body.

    Raises:
        Refused: 415 if it is not declared as JSON, 422 if it has another shape.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise refusals.unsupported_media_type()
    content = await request.body()
    note_body(request, content)
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        raise refusals.undeserializable(_problem(error.errors(include_url=False)[0])) from None


def _problem(error: ErrorDetails) -> str:
    """Say what is wrong in the words of the service's parser."""
    path = [str(part) for part in error["loc"]]
    match error["type"]:
        case "json_invalid":
            return str(error["ctx"]["error"])
        case "missing":
            *path, field = path
            problem = f"missing field `{field}`"
        case "extra_forbidden":
            *path, field = path
            problem = f"unknown field `{field}`"
        case "missing_source" | "unknown_variant":
            problem = error["msg"]
        case _:
            problem = f"invalid type: {_kind(error['input'])}; {error['msg']}"
    return ": ".join([".".join(path), problem] if path else [problem])


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case str():
            return f'string "{value[:64]}"'
        case int() | float():
            return "number"
        case list():
            return "sequence"
        case _:
            return "map"
