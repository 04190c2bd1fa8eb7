"""Inputs of requests (images, clips, voices), and how they are named on the wire and in receipts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from prefect_xai_video.api.mp4 import ClipFacts
from prefect_xai_video.api.urls import InputKind, identity_of, wire_url

FILE_SCHEME = "xai-file:"
"""Beginning of an input that is a file kept at xAI, such as `xai-file:file_0a1b`; its id follows."""

_VOICE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def writable(text: str) -> str:
    """Reject text that JSON can't hold, such as a file name with undecodable bytes."""
    text.encode()
    return text


def _in_order(given: object) -> object:
    if not isinstance(given, Sequence):
        raise ValueError("not a list")  # noqa: TRY004 (pydantic expects a ValueError)
    return given


Text = Annotated[str, AfterValidator(writable)]

IN_ORDER = BeforeValidator(_in_order)
"""Rejects a set, which has no order to count by, and an iterator, which is empty when it is read again."""


class Input(NamedTuple):
    """An input of a request, as the user gave it.

    Attributes:
        field: Its field, such as `image_url` or `keyframes[0].image_url`.
        kind: The required kind of input.
        value: A path or a URL.
    """

    field: str
    kind: InputKind
    value: str


@dataclass(frozen=True)
class ResolvedInput:
    """An input in a form that xAI can fetch.

    Attributes:
        url: URL to send to xAI, or `xai-file:` and the id of a file that is kept there.
        identity: Replacement for the URL in receipts and fingerprints; None to derive it from the URL.
        clip: Length and size of a clip; None if they are unknown.
    """

    url: str
    identity: str | None = None
    clip: ClipFacts | None = None

    @property
    def wire(self) -> dict[str, str]:
        """The input as a nested object of a body.

        Raises:
            InvalidRequest: If the URL is not allowed.
        """
        return (
            {"file_id": self.url.removeprefix(FILE_SCHEME)} if is_file_id(self.url) else {"url": wire_url(self.url)}
        )

    @property
    def record(self) -> dict[str, str]:
        """The input as it stands in a receipt: inline data as a digest, URLs without signatures."""
        if self.identity is None and is_file_id(self.url):
            return self.wire
        return {"url": self.identity or self.url_identity}

    @cached_property
    def url_identity(self) -> str:
        """The URL without secrets, or the digest of inline data, which may be large: it is computed once."""
        return identity_of(self.url)


def is_file_id(value: str) -> bool:
    """Whether an input is a file that is kept at xAI."""
    return value.startswith(FILE_SCHEME)


class Keyframe(BaseModel):
    """An image that the clip shows at a given time; as text `SECONDS=IMAGE`.

    Attributes:
        image_url: The image, given like `image_url` of a request.
        timestamp: Its time in seconds, inside the clip. xAI moves it to the nearest third of a second.
    """

    # Inputs may be signed URLs, which errors must not quote.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    image_url: Text = Field(title="Image URL")
    timestamp: float = Field(title="Seconds", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: object) -> object:
        if isinstance(given, str):
            timestamp, equals, image = given.partition("=")
            return {"image_url": image, "timestamp": timestamp} if equals else given
        return given

    @field_validator("timestamp", mode="before")
    @classmethod
    def _not_boolean(cls, timestamp: object) -> object:
        if isinstance(timestamp, bool):
            raise ValueError("a boolean is not a time")  # noqa: TRY004 (pydantic expects a ValueError)
        return timestamp


class Voice(BaseModel):
    """A voice of the clip; as text its id, or the URL or path of a clip with the voice.

    A path has a slash, as in `./eve.mp3`.

    Attributes:
        voice_id: Id of a voice of xAI's; capitals don't matter.
        url: A clip of at most 15 seconds with the voice, as an https or `data:` URL or a local file. xAI allows it
            to trusted partners only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    voice_id: Text | None = Field(default=None, title="Voice id")
    url: Text | None = Field(default=None, title="URL")

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        is_clip = "/" in given or given[:5].lower() == "data:"
        return {"url" if is_clip else "voice_id": given}

    @field_validator("voice_id")
    @classmethod
    def _not_a_url(cls, voice_id: str | None) -> str | None:
        """Reject a URL: as an id it would be stored in the receipt, with its signature."""
        if voice_id and not _VOICE_ID.fullmatch(voice_id):
            raise ValueError("not the id of a voice")
        return voice_id

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (not self.voice_id) == (not self.url):
            raise ValueError("either voice_id or url")
        return self

    def body(self, resolved: Any) -> dict[str, str]:
        """Build the nested object of a body.

        Args:
            resolved: Function from an input to its nested object.
        """
        if self.url:
            return dict(resolved(self.url))
        return {"voice_id": (self.voice_id or "").lower()}
