"""How the forms of the Prefect UIs draw the parameters of the flows.

Whether a value is allowed is decided in one place, `requests.py`, and which block in `blocks.py`: there the limits
can be turned into warnings, and errors name the field, the value and what is allowed. So what is drawn here is not
validated in a run, nor in one of a flow that borrows it. Prefect's server does hold what comes from a form or its API
against what is drawn, before there is a run.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from prefect.filesystems import LocalFileSystem
from prefect_aws import S3Bucket
from pydantic import Field, GetJsonSchemaHandler, SkipValidation
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import override

from prefect_xai_video.api.capabilities import (
    ASPECT_RATIOS,
    DISPUTED_ASPECT_RATIOS,
    MODELS,
    PUBLIC_URL_SECONDS,
    RESOLUTIONS,
)
from prefect_xai_video.batch.lanes import LaneChoice
from prefect_xai_video.batch.options import MAX_IN_FLIGHT
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.engine.options import Delivery, OnUnknown, Recovery


class _WithoutDefault(dict[str, Any]):
    """A JSON schema into which pydantic can't write the default: it does so after the hook below."""

    @override
    def __setitem__(self, name: str, value: Any) -> None:
        if name != "default":
            super().__setitem__(name, value)


class _MayStayEmpty:
    """Draws one input for `value | None`, instead of a tab for each.

    A form sends the defaults that it knows, and `null` is none of the choices of a drop-down. So the default `None`
    is kept from it: it sends nothing for what nobody filled in.
    """

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        options = [option for option in handler(core)["anyOf"] if option != {"type": "null"}]
        return _WithoutDefault(options[0] if len(options) == 1 else {"anyOf": options})


def form_input(title: str, **schema: Any) -> Any:
    """Describe an input of a form, for `Annotated`: its title, and what else belongs to its JSON schema."""
    return Field(json_schema_extra={"title": title, **schema})


MAY_STAY_EMPTY = _MayStayEmpty()
# The classic UI loses bounds that do not stand in an `allOf`.
_DURATION = [{"minimum": 1, "maximum": 15}]
_SECONDS = [{"exclusiveMinimum": 0}]
# In this order: the classic UI takes every text for the first option. A known model that is chosen there is written
# into the text field.
_MODELS = [
    {"type": "string", "title": "Model id"},
    {"type": "string", "title": "Known models", "enum": [entry.model for entry in MODELS]},
]

_RATIOS = [*ASPECT_RATIOS, *DISPUTED_ASPECT_RATIOS]
_KEYFRAME = {
    "type": "object",
    "title": "Keyframe",
    "properties": {
        "image_url": {"type": "string", "title": "Image URL", "position": 0},
        "timestamp": {"type": "number", "title": "Seconds", "position": 1},
    },
    "required": ["image_url", "timestamp"],
}
_VOICE = {
    "type": "object",
    "title": "Voice",
    "properties": {
        "voice_id": {"type": "string", "title": "Voice id", "position": 0},
        "url": {"type": "string", "title": "Clip URL", "position": 1},
    },
}

_SHORTEST, _LONGEST = PUBLIC_URL_SECONDS
_KEEPING = [
    {"type": "boolean", "title": "Keep"},
    {"type": "integer", "title": "For so many seconds", "allOf": [{"minimum": _SHORTEST, "maximum": _LONGEST}]},
]

Prompt = Annotated[str, SkipValidation, form_input("Prompt")]
ImageUrl = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("Image URL")]
LastFrameUrl = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("Last frame URL")]
Keyframes = Annotated[Sequence[Any] | None, SkipValidation, MAY_STAY_EMPTY, form_input("Keyframes", items=_KEYFRAME)]
ReferenceImageUrls = Annotated[
    Sequence[str] | None, SkipValidation, MAY_STAY_EMPTY, form_input("Reference image URLs")
]
ReferenceAudios = Annotated[
    Sequence[Any] | None, SkipValidation, MAY_STAY_EMPTY, form_input("Reference voices", items=_VOICE)
]
VideoUrl = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("Video URL")]
ExtendVideoUrl = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("Extend video URL")]
Duration = Annotated[int | None, SkipValidation, MAY_STAY_EMPTY, form_input("Duration", allOf=_DURATION)]
AspectRatio = Annotated[
    str | None,
    SkipValidation,
    MAY_STAY_EMPTY,
    form_input("Aspect ratio", enum=_RATIOS),
]
Resolution = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("Resolution", enum=list(RESOLUTIONS))]
# The classic UI draws a switch, and sends what it shows: so it shows xAI's default.
GenerateAudio = Annotated[bool | None, SkipValidation, MAY_STAY_EMPTY, form_input("Generate audio", default=True)]
Model = Annotated[str, SkipValidation, form_input("Model", anyOf=_MODELS)]
StorageBlock = Annotated[S3Bucket | LocalFileSystem | None, SkipValidation, MAY_STAY_EMPTY, form_input("Storage")]
Key = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("Key")]
CredentialsBlock = Annotated[XaiCredentials | None, SkipValidation, MAY_STAY_EMPTY, form_input("Credentials")]
DeliveryWay = Annotated[Delivery, SkipValidation, form_input("Delivery")]
RecoveryWay = Annotated[Recovery, SkipValidation, form_input("Recovery")]
KeepAtXai = Annotated[bool | int, SkipValidation, form_input("Keep at xAI", anyOf=_KEEPING)]
PublicUrl = Annotated[bool, SkipValidation, form_input("Public URL")]
Stills = Annotated[bool, SkipValidation, form_input("Stills")]
TimeoutSeconds = Annotated[
    float | None, SkipValidation, MAY_STAY_EMPTY, form_input("Timeout in seconds", allOf=_SECONDS)
]
Regenerate = Annotated[bool, SkipValidation, form_input("Regenerate")]
UnknownOutcome = Annotated[OnUnknown, SkipValidation, form_input("On unknown outcome")]
User = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("User")]

_PROMPTS = [
    {"type": "array", "title": "A prompt for each segment", "items": {"type": "string"}},
    {"type": "string", "title": "One prompt for all segments"},
]
Prompts = Annotated[str | Sequence[str], SkipValidation, form_input("Prompts", anyOf=_PROMPTS)]
LongDuration = Annotated[int, SkipValidation, form_input("Duration", allOf=[{"minimum": 1}])]

ManifestPath = Annotated[Any, SkipValidation, form_input("Manifest", type="string")]
KeyTemplate = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("Key template")]
KeptColumns = Annotated[Sequence[str] | None, SkipValidation, MAY_STAY_EMPTY, form_input("Keep columns")]
InFlight = Annotated[int, SkipValidation, form_input("In flight", allOf=[{"minimum": 1, "maximum": MAX_IN_FLIGHT}])]
BudgetUsd = Annotated[
    float | None, SkipValidation, MAY_STAY_EMPTY, form_input("Budget in USD", allOf=[{"exclusiveMinimum": 0}])
]
LaneWay = Annotated[LaneChoice, SkipValidation, form_input("Lane")]
CancelAtXai = Annotated[bool, SkipValidation, form_input("Cancel at xAI")]
AllowFailures = Annotated[bool, SkipValidation, form_input("Allow failures")]
ShardRows = Annotated[int | None, SkipValidation, MAY_STAY_EMPTY, form_input("Rows a shard", allOf=[{"minimum": 1}])]
ShardDeployment = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, form_input("Deployment of the shards")]
ShardOfRun = Annotated[dict[str, Any] | None, SkipValidation, MAY_STAY_EMPTY, form_input("Shard")]
DryRun = Annotated[bool, SkipValidation, form_input("Dry run")]

KeyPrefix = Annotated[str, SkipValidation, form_input("Key prefix")]
RequestId = Annotated[str, SkipValidation, form_input("Request id")]
GivenKey = Annotated[str, SkipValidation, form_input("Key")]
