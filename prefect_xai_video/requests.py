"""What can be asked for: one model a mode, each of which knows its endpoint and its JSON body.

The service ignores fields that it does not know, so a misspelled one is a paid wrong video: a body is written
here, field for field, and nowhere else. What a request accepts in principle is checked by its model; what the
single xAI models accept is in `capabilities.py` and checked by `check_limits`.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from typing_extensions import override

from prefect_xai_video.capabilities import (
    ASPECT_RATIOS,
    DEFAULT_MODEL,
    MAX_PROMPT_CHARACTERS,
    RESOLUTIONS,
    SERVER_DEFAULT_DURATION,
    SERVER_DEFAULT_RESOLUTION,
    Mode,
    ModelCapabilities,
    capabilities_of,
    estimate_cost,
)
from prefect_xai_video.errors import InvalidRequest

Validation = Literal["strict", "warn"]
InputKind = Literal["image", "video"]

INLINE_TYPES: Mapping[InputKind, tuple[str, ...]] = {
    "image": ("image/png", "image/jpeg", "image/webp"),
    "video": ("video/mp4",),
}
_MAX_DATA_HEADER = 100
"""Characters of a `data:` URL before its comma, and more."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SIGNATURES = (
    ("", re.compile(r"^x-(amz|goog|oss|cos)-", re.IGNORECASE)),
    (
        "signature",
        re.compile(r"^(awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id)$", re.IGNORECASE),
    ),
    ("sig", re.compile(r"^(s[vretpi]|sig|spr|skoid|sktid|skt|ske|sks|skv)$", re.IGNORECASE)),
)
"""Parameters of a signed URL that change with each signature; short names count only beside the one named first."""


@dataclass(frozen=True, slots=True)
class ResolvedInput:
    """An input as the service can fetch it.

    Attributes:
        url: URL for the wire.
        identity: What stands for it in receipts and fingerprints; None if its URL tells.
    """

    url: str
    identity: str | None = None


class VideoRequest(BaseModel):
    """What every mode has in common.

    Attributes:
        prompt: What should be seen, at most 4096 characters.
        model: xAI model id. Default `grok-imagine-video`.
        user: Tag of the end user on whose behalf the video is made, passed on to xAI.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: ClassVar[Mode]
    endpoint: ClassVar[str]
    inputs: ClassVar[Mapping[str, InputKind]] = {}
    """The fields that hold an input, and what it must be."""

    prompt: str
    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    user: str | None = None

    _identities: Mapping[str, str] = PrivateAttr(default_factory=dict)
    """By URL for the wire: what identifies an input whose URL does not."""

    @field_validator("prompt", "model", "user", "image_url", "video_url", mode="after", check_fields=False)
    @classmethod
    def _writable(cls, text: str | None) -> str | None:
        """A file name that is no text can hold what JSON can't."""
        (text or "").encode()
        return text

    def body(self, upload_url: str | None = None) -> dict[str, Any]:
        """Write the JSON body exactly as the contract has it; fields that were not asked for are left out.

        Args:
            upload_url: Signed URL to which the service is to put the video. It is no part of what is asked for.
        """
        output = {} if upload_url is None else {"output": {"upload_url": wire_url(upload_url, "upload_url")}}
        return self._body(wire_url) | output

    def resolved(self, inputs: Mapping[str, ResolvedInput]) -> Self:
        """Replace inputs by URLs for the wire, and keep what identifies them.

        Args:
            inputs: The inputs, by field.
        """
        request = self.model_copy(update={field: resolved.url for field, resolved in inputs.items()})
        request._identities = {each.url: each.identity for each in inputs.values() if each.identity is not None}
        return request

    def record(self) -> dict[str, Any]:
        """Write the body for receipts: inline data as its digest, URLs without their signatures."""
        return self._body(lambda url: self._identities.get(url) or identity_of(url))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of endpoint and body, with inputs by what identifies them: equal for equal requests."""
        return self._fingerprint_of(self.record())

    @property
    def earlier_fingerprint(self) -> str | None:
        """The fingerprint that an earlier version computed, by the URLs of signed inputs; None if equal."""
        return self._fingerprint_of(self._body(identity_of)) if self._identities else None

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether a fingerprint is that of this request, as this version or an earlier one computed it."""
        return fingerprint in {self.fingerprint, self.earlier_fingerprint}

    @property
    def estimated_cost_usd(self) -> Decimal | None:
        """What it will cost by the price table in USD; None where the table can't say."""
        return None

    def _fingerprint_of(self, record: Mapping[str, Any]) -> str:
        canonical = json.dumps([self.endpoint, record], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _body(self, url: Callable[[str], str]) -> dict[str, Any]:
        raise NotImplementedError

    def _common(self) -> dict[str, Any]:
        return _present(model=self.model, prompt=self.prompt or None, user=self.user)


class _Generation(VideoRequest):
    """The fields of a new clip: duration in seconds, aspect ratio and resolution."""

    endpoint: ClassVar[str] = "/videos/generations"

    duration: Annotated[int, Field(ge=1)] | None = None
    aspect_ratio: str | None = None
    resolution: str | None = None

    @field_validator("duration", mode="before")
    @classmethod
    def _no_flag(cls, duration: object) -> object:
        if isinstance(duration, bool):
            raise ValueError("a flag is no duration")  # noqa: TRY004 (pydantic wants a ValueError)
        return duration

    @property
    @override
    def estimated_cost_usd(self) -> Decimal | None:
        return estimate_cost(
            self.model,
            seconds=self.duration or SERVER_DEFAULT_DURATION,
            resolution=self.resolution or SERVER_DEFAULT_RESOLUTION,
            input_images=sum(kind == "image" for kind in self.inputs.values()),
        )

    def _body(self, url: Callable[[str], str]) -> dict[str, Any]:
        return self._common() | _present(
            duration=self.duration, aspect_ratio=self.aspect_ratio, resolution=self.resolution
        )


class TextRequest(_Generation):
    """Text to video: a new clip from a prompt."""

    mode: ClassVar[Mode] = "text"

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        return _required(prompt)


class ImageRequest(_Generation):
    """Image to video: a new clip that begins with an image. The prompt may be empty."""

    mode: ClassVar[Mode] = "image"
    inputs: ClassVar[Mapping[str, InputKind]] = {"image_url": "image"}

    image_url: str

    def _body(self, url: Callable[[str], str]) -> dict[str, Any]:
        return super()._body(url) | {"image": {"url": url(self.image_url)}}


class EditRequest(VideoRequest):
    """Edit of a clip. The result keeps the clip's duration, aspect ratio and resolution."""

    mode: ClassVar[Mode] = "edit"
    endpoint: ClassVar[str] = "/videos/edits"
    inputs: ClassVar[Mapping[str, InputKind]] = {"video_url": "video"}

    video_url: str

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        return _required(prompt)

    def _body(self, url: Callable[[str], str]) -> dict[str, Any]:
        return self._common() | {"video": {"url": url(self.video_url)}}


def build_request(
    prompt: str,
    *,
    model: str = DEFAULT_MODEL,
    image_url: str | None = None,
    video_url: str | None = None,
    duration: int | None = None,
    aspect_ratio: str | None = None,
    resolution: str | None = None,
    user: str | None = None,
) -> VideoRequest:
    """Make the request that a set of flat parameters asks for.

    Args:
        prompt: What should be seen. May be empty with `image_url`.
        model: xAI model id.
        image_url: First frame of a new clip.
        video_url: Clip to edit.
        duration: Seconds, for a new clip.
        aspect_ratio: Aspect ratio, for a new clip.
        resolution: Resolution, for a new clip.
        user: End-user tag.

    Returns:
        A text, image or edit request.

    Raises:
        InvalidRequest: If a value is of a wrong type, or the combination makes no request.
    """
    if image_url is not None and video_url is not None:
        raise InvalidRequest(
            "image_url and video_url can't both be given: an image begins a new clip, a video is edited."
        )
    clip = _present(duration=duration, aspect_ratio=aspect_ratio, resolution=resolution)
    if video_url is not None and clip:
        field, value = next(iter(clip.items()))
        raise InvalidRequest(
            f"{field}: {_shown(value)} is not allowed with video_url: an edit keeps the duration, aspect ratio "
            f"and resolution of its input."
        )
    fields = {"prompt": prompt, "model": model, "user": user, **clip}
    try:
        if video_url is not None:
            return EditRequest.model_validate(fields | {"video_url": video_url})
        if image_url is not None:
            return ImageRequest.model_validate(fields | {"image_url": image_url})
        return TextRequest.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error)) from None


def check_limits(request: VideoRequest, validation: Validation = "strict") -> list[str]:
    """Compare a request with what its model accepts by the table in `capabilities.py`.

    Args:
        request: The request.
        validation: `strict` raises what is outside the table, `warn` returns it.

    Returns:
        What the caller should be warned of, one sentence each.

    Raises:
        InvalidRequest: If the request is outside the table and `validation` is `strict`.
    """
    entry = capabilities_of(request.model)
    if entry is None:
        known = f"model: {request.model!r} is not in this version's table; it is passed on as it is."
        return [known, *_general_problems(request)]
    problems = [*_general_problems(request), *_model_problems(request, entry)]
    if problems and validation == "strict":
        raise InvalidRequest(" ".join(problems))
    return problems


def _general_problems(request: VideoRequest) -> Iterable[str]:
    if len(request.prompt) > MAX_PROMPT_CHARACTERS:
        yield f"prompt: {len(request.prompt)} characters are not allowed; allowed: at most {MAX_PROMPT_CHARACTERS}."
    ratio = getattr(request, "aspect_ratio", None)
    if ratio is not None and ratio not in ASPECT_RATIOS:
        yield f"aspect_ratio: {_shown(ratio)} is not allowed; allowed: {', '.join(ASPECT_RATIOS)}."


def _model_problems(request: VideoRequest, entry: ModelCapabilities) -> Iterable[str]:
    limits = entry.modes.get(request.mode)
    if limits is None:
        modes = ", ".join(entry.modes)
        yield f"model: {request.model!r} has no {request.mode} mode; it has {modes}."
        return
    duration = getattr(request, "duration", None)
    if duration is not None and limits.duration is not None:
        shortest, longest = limits.duration
        if not shortest <= duration <= longest:
            yield f"duration: {duration} is not allowed; allowed: {shortest}-{longest} seconds for {request.model}."
    resolution = getattr(request, "resolution", None)
    if resolution is not None and resolution not in limits.resolutions:
        allowed = ", ".join(limits.resolutions)
        yield f"resolution: {_shown(resolution)} is not allowed; allowed: {allowed} for {request.model}."


def wire_url(url: str, field: str = "url") -> str:
    """Check that a URL may be sent to the service, or be its base: https, or inline data.

    Plain http is for an emulator or a store on this machine only.

    Raises:
        InvalidRequest: If it may not.
    """
    parts = _split(url, field)
    local = parts.scheme == "http" and is_loopback(parts.hostname)
    if local or (parts.scheme == "https" and parts.hostname) or parts.scheme == "data":
        return url
    raise InvalidRequest(f"{field}: {identity_of(url)!r} is not allowed; allowed: an https:// URL.")


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine."""
    return host in _LOOPBACK


def _split(url: str, field: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}; allowed: an https:// URL.") from None


def decode_inline(field: str, kind: InputKind, url: str, limit: int) -> bytes:
    """Decode a `data:` URL.

    Args:
        field: Its field in the request.
        kind: What it must hold.
        url: The URL.
        limit: Most bytes that it may hold; a longer one is not decoded.

    Raises:
        InvalidRequest: If its type is not one that the service takes for this kind of input, or if it is
            empty, too long or no base64.
    """
    start = url[: _MAX_DATA_HEADER + 1]
    header, comma, _ = start.partition(",")
    allowed = [f"data:{content_type};base64" for content_type in INLINE_TYPES[kind]]
    if not comma or header not in allowed:
        raise InvalidRequest(f"{field}: {_shown(header)} is not allowed; allowed: {', '.join(allowed)}.")
    if len(url) - len(header) - 1 > 4 * -(-limit // 3):
        raise InvalidRequest(
            f"{field}: the data: URL of {len(url)} characters is not allowed; allowed: at most {limit} bytes of "
            f"content. Use an https:// or s3:// URL."
        )
    try:
        content = base64.b64decode(url[len(header) + 1 :], validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise InvalidRequest(f"{field}: the data: URL holds no base64 content; allowed: {' or '.join(allowed)}.")
    return content


def identity_of(url: str) -> str:
    """What stands for an input in receipts and fingerprints: its digest, or its URL without what is secret.

    Signature parameters are dropped, since they change each time; the rest of a query is kept as a digest, since
    it may hold a token.
    """
    if url.startswith("data:"):
        payload = url.partition(",")[2]
        try:
            content = base64.b64decode(payload)
        except (binascii.Error, ValueError):
            content = payload.encode()
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    parts = _split(url, "url")
    host = parts.netloc.rpartition("@")[2]
    query = parse_qsl(parts.query, True)
    names = {"", *(name.lower() for name, _ in query)}
    for sign, parameter in _SIGNATURES:
        if sign in names:
            query = [pair for pair in query if not parameter.match(pair[0])]
    digest = f"sha256={hashlib.sha256(urlencode(query).encode()).hexdigest()[:16]}" if query else ""
    return urlunsplit((parts.scheme, host, parts.path, digest, ""))


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _required(prompt: str) -> str:
    if not prompt.strip():
        raise ValueError("a prompt is needed")
    return prompt


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


_EXPECTED = {
    "duration": "a whole number of seconds, 1-15",
    "aspect_ratio": ", ".join(ASPECT_RATIOS),
    "resolution": ", ".join(RESOLUTIONS),
    "prompt": "a text that is not empty",
    "model": "the id of a model",
}


def _sentence(error: ValidationError) -> str:
    sentences = []
    for problem in error.errors():
        field = str(problem["loc"][0])
        expected = _EXPECTED.get(field, "a text")
        sentences.append(f"{field}: {_shown(problem['input'])} is not allowed; allowed: {expected}.")
    return " ".join(sentences)
