"""The shape of the JSON bodies that can be submitted; `validation` checks their meaning.

Like the service, it ignores unknown fields at every level, so a misspelled one leads to a wrong video that is billed.
If a field is given by its name and by an alias, the name wins.
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
from prefect_xai_video.emulator.sizes import ACCEPTED_ASPECT_RATIOS


def _whole_seconds(value: Any) -> Any:
    return int(value) if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) else value


_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
_Integer = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_Seconds = Annotated[_Integer, BeforeValidator(_whole_seconds)]
"""A duration in seconds, as a number or as a string."""
_DURATION: Any = Field(default=None, validation_alias=AliasChoices("duration", "seconds"))


class Shape(BaseModel):
    """Base class of all bodies."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class Source(Shape):
    """Location of an input image or video: a URL, or the id of a stored file."""

    url: str | None = Field(default=None, validation_alias=AliasChoices("url", "image_url"))
    file_id: str | None = None

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.url is None and self.file_id is None:
            raise PydanticCustomError("missing_source", "missing field `url`")
        return self


class Keyframe(Shape):
    """An image to be shown at a given time of the clip."""

    image: Source
    timestamp_s: float


class Voice(Shape):
    """A voice: a preset one, or the voice of an audio clip."""

    voice_id: str | None = None
    url: str | None = None


class PublicUrl(Shape):
    """Lifetime of a public URL."""

    expires_after: _Integer | None = None


class StorageOptions(Shape):
    """Options for storing the video in the Files API."""

    filename: str
    expires_after: _Integer | None = None
    public_url: bool | PublicUrl | None = None


class Output(Shape):
    """Destination of the video."""

    upload_url: str | None = None


class SubmissionBody(Shape):
    """Fields that all three kinds of submission share."""

    model: str | None = None
    prompt: str | None = None
    output: Output | None = None
    storage_options: StorageOptions | None = None


class GenerationBody(SubmissionBody):
    """Body of POST /videos/generations."""

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
                {"ratios": ", ".join(f"`{ratio}`" for ratio in ACCEPTED_ASPECT_RATIOS)},
            )
        return aspect_ratio


class EditBody(SubmissionBody):
    """Body of POST /videos/edits."""

    prompt: str
    video: Source
    user: str | None = None


class ExtensionBody(SubmissionBody):
    """Body of POST /videos/extensions."""

    prompt: str
    video: Source
    duration: _Seconds | None = _DURATION


class FaultBody(Shape):
    """Body of POST /emulator/faults, which xAI does not have; a misspelled field is refused."""

    model_config = ConfigDict(extra="forbid")

    fault: str
    submissions: Annotated[int, Field(ge=1, le=1000)] = 1


Body = TypeVar("Body", bound=Shape)
Submitted = TypeVar("Submitted", bound=SubmissionBody)


async def read_body(request: Request, shape: type[Body]) -> Body:
    """Read the body of a submission.

    Args:
        request: The HTTP request.
        shape: Model that the body must match.

    Returns:
        The body.

    Raises:
        Refused: 415 if the body is not declared as JSON, 422 if it does not match.
    """
    content = await read_json(request)
    note_body(request, content)
    return parsed(content, shape)


async def read_json(request: Request) -> bytes:
    """Read a body without parsing it.

    Raises:
        Refused: 415 if it is not declared as JSON.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise refusals.unsupported_media_type()
    return await request.body()


def parsed(content: bytes | str, shape: type[Body]) -> Body:
    """Parse JSON.

    Raises:
        Refused: 422 if it does not match the shape.
    """
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        raise refusals.undeserializable(_problem(error.errors(include_url=False)[0])) from None


def _problem(error: ErrorDetails) -> str:
    """Word a validation error like the service's parser."""
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
