"""How the forms of the Prefect UIs draw the parameters of the flows.

Whether a value is allowed is decided in one place, `requests.py`, and which block in `blocks.py`: there the limits
can be turned into warnings, and errors name the field, the value and what is allowed. So what is drawn here is not
validated in a run, nor in one of a flow that borrows it. Prefect's server does hold what comes from a form or its API
against what is drawn, before there is a run.
"""

from typing import TYPE_CHECKING, Annotated, Any

from prefect.filesystems import LocalFileSystem
from pydantic import ConfigDict, Field, GetJsonSchemaHandler, SkipValidation, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import override

from prefect_xai_video.capabilities import ASPECT_RATIOS, MODELS, RESOLUTIONS
from prefect_xai_video.credentials import XaiCredentials
from prefect_xai_video.submission import Delivery, OnUnknown

if TYPE_CHECKING:
    from prefect_aws import S3Bucket
else:
    # A form picks a block by the slug of its type, and a server refuses fields without those that are required. So no
    # more is drawn of the block: it would take 0.7 s to import, in every run.
    _DRAWN = ConfigDict(json_schema_extra={"block_type_slug": "s3-bucket"})
    S3Bucket = create_model("S3Bucket", __config__=_DRAWN, bucket_name=(str, ...))


class _WithoutDefault(dict[str, Any]):
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


def drawn(title: str, **schema: Any) -> Any:
    """Give an input a title that people read, and what else belongs to its schema."""
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

Prompt = Annotated[str, SkipValidation, drawn("Prompt")]
ImageUrl = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, drawn("Image URL")]
VideoUrl = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, drawn("Video URL")]
Duration = Annotated[int | None, SkipValidation, MAY_STAY_EMPTY, drawn("Duration", allOf=_DURATION)]
AspectRatio = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, drawn("Aspect ratio", enum=list(ASPECT_RATIOS))]
Resolution = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, drawn("Resolution", enum=list(RESOLUTIONS))]
Model = Annotated[str, SkipValidation, drawn("Model", anyOf=_MODELS)]
StorageBlock = Annotated[S3Bucket | LocalFileSystem | None, SkipValidation, MAY_STAY_EMPTY, drawn("Storage")]
Key = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, drawn("Key")]
CredentialsBlock = Annotated[XaiCredentials | None, SkipValidation, MAY_STAY_EMPTY, drawn("Credentials")]
DeliveryWay = Annotated[Delivery, SkipValidation, drawn("Delivery")]
TimeoutSeconds = Annotated[float | None, SkipValidation, MAY_STAY_EMPTY, drawn("Timeout in seconds", allOf=_SECONDS)]
Regenerate = Annotated[bool, SkipValidation, drawn("Regenerate")]
UnknownOutcome = Annotated[OnUnknown, SkipValidation, drawn("On unknown outcome")]
User = Annotated[str | None, SkipValidation, MAY_STAY_EMPTY, drawn("User")]

RequestId = Annotated[str, SkipValidation, drawn("Request id")]
GivenKey = Annotated[str, SkipValidation, drawn("Key")]
