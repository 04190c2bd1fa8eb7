"""Is a body one that the service takes? In its two steps: the JSON's shape (422), then its meaning (400, 404).

Unknown fields are ignored at every level, as the service does.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from prefect_xai_video.capabilities import (
    DEFAULT_MODEL,
    MAX_PROMPT_CHARACTERS,
    SERVER_DEFAULT_DURATION,
    SERVER_DEFAULT_EXTENSION,
    SERVER_DEFAULT_RESOLUTION,
    AspectRatio,
    Mode,
    ModelCapabilities,
    Resolution,
    capabilities_of,
)

MAX_REFERENCES = 14
"""What the live server took; seven are documented."""
MAX_VOICES = 3
MAX_KEYFRAMES = 4
KEYFRAME_GRID = 1 / 3


class Wrong(Exception):
    """An answer that is an error.

    Args:
        http_status: HTTP status.
        code: xAI's code.
        text: xAI's text.
    """

    def __init__(self, http_status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.http_status = http_status
        self.code = code
        self.text = text


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Source(_Body):
    """An input: a URL, or the id of a file."""

    url: StrictStr | None = None
    file_id: StrictStr | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.url is None and self.file_id is None:
            raise ValueError("missing field `url`")
        return self


class Voice(_Body):
    """A reference audio."""

    voice_id: StrictStr


class Keyframe(_Body):
    """An image at a time of the clip, in seconds."""

    image: Source
    timestamp_s: StrictFloat | StrictInt


class Output(_Body):
    """Where the service puts the video."""

    upload_url: StrictStr


class PublicUrl(_Body):
    """How long a public URL lives, in seconds."""

    expires_after: Annotated[StrictInt, Field(ge=3600, le=2592000)] | None = None


class StorageOptions(_Body):
    """Whether the result is kept in the Files API."""

    filename: StrictStr | None = None
    expires_after: Annotated[StrictInt, Field(ge=3600, le=2592000)] | None = None
    public_url: StrictBool | PublicUrl | None = None


class _Common(_Body):
    model: StrictStr = DEFAULT_MODEL
    prompt: StrictStr = ""
    output: Output | None = None
    storage_options: StorageOptions | None = None


class Generation(_Common):
    """Body of `POST /videos/generations`."""

    duration: StrictInt = SERVER_DEFAULT_DURATION
    aspect_ratio: AspectRatio | Literal["21:9", "5:2"] = "16:9"
    resolution: Resolution = SERVER_DEFAULT_RESOLUTION
    image: Source | None = None
    reference_images: list[Source] = []
    reference_audios: list[Voice] = []
    last_frame: Source | None = None
    keyframes: list[Keyframe] = []
    generate_audio: StrictBool = True
    user: StrictStr | None = None

    @property
    def mode(self) -> Mode:
        """Which mode the given inputs make it."""
        if self.reference_images or self.reference_audios:
            return "reference"
        return "image" if self.image or self.last_frame or self.keyframes else "text"

    @property
    def images(self) -> list[Source]:
        """All input images."""
        ends = [frame for frame in (self.image, self.last_frame) if frame]
        return [*ends, *self.reference_images, *(keyframe.image for keyframe in self.keyframes)]


class Edit(_Common):
    """Body of `POST /videos/edits`."""

    video: Source
    user: StrictStr | None = None
    mode: Mode = Field(default="edit", init=False, exclude=True)


class Extension(_Common):
    """Body of `POST /videos/extensions`."""

    video: Source
    duration: StrictInt = SERVER_DEFAULT_EXTENSION
    mode: Mode = Field(default="extend", init=False, exclude=True)


Body = Generation | Edit | Extension
BODIES: dict[str, type[Body]] = {"generations": Generation, "edits": Edit, "extensions": Extension}


def shape_problem(error: ValidationError) -> str:
    """The plain text with which the service refuses a body of a wrong shape."""
    first = error.errors()[0]
    if first["type"] == "missing":
        why = f"missing field `{first['loc'][-1]}`"
    else:
        why = ": ".join([*map(str, first["loc"][:1]), first["msg"].removeprefix("Value error, ")])
    return f"Failed to deserialize the JSON body into the target type: {why}"


def check_meaning(body: Body) -> ModelCapabilities:
    """Refuse what has the right shape but makes no video.

    Returns:
        The model's capabilities.

    Raises:
        Wrong: With the answer.
    """
    entry = capabilities_of(body.model)
    if entry is None:
        raise Wrong(
            404, "not-found", f"The model {body.model} does not exist or your team does not have access to it."
        )
    for problem in _problems(body, entry):
        raise Wrong(400, "invalid-argument", problem)
    return entry


def _problems(body: Body, entry: ModelCapabilities) -> Iterator[str]:
    limits = entry.modes.get(body.mode)
    if limits is None:
        yield f"The model {body.model} does not support {body.mode} requests."
        return
    needs_prompt = body.mode in {"text", "edit"}
    if needs_prompt and not body.prompt.strip():
        yield "Prompt cannot be empty. Please provide a prompt."
    if len(body.prompt) > MAX_PROMPT_CHARACTERS:
        yield f"Prompt is too long: at most {MAX_PROMPT_CHARACTERS} characters."
    if not isinstance(body, Edit) and limits.duration is not None:
        shortest, longest = limits.duration
        if not shortest <= body.duration <= longest:
            yield f"duration must be between {shortest} and {longest} seconds, got {body.duration}."
    if isinstance(body, Generation):
        if body.resolution not in limits.resolutions:
            yield f"resolution {body.resolution} is not supported by {body.model}."
        yield from _input_problems(body, entry)


def _input_problems(body: Generation, entry: ModelCapabilities) -> Iterator[str]:
    if len(body.reference_images) > MAX_REFERENCES:
        yield f"At most {MAX_REFERENCES} reference images are allowed."
    if len(body.reference_audios) > MAX_VOICES:
        yield f"At most {MAX_VOICES} reference audios are allowed."
    if entry.model == DEFAULT_MODEL:
        if body.image and body.reference_images:
            yield "image and reference_images cannot be combined with this model."
        for name in ("last_frame", "keyframes", "reference_audios"):
            if getattr(body, name):
                yield f"{name} is not supported by {body.model}."
    yield from _keyframe_problems(body)


def _keyframe_problems(body: Generation) -> Iterator[str]:
    if len(body.keyframes) > MAX_KEYFRAMES:
        yield f"At most {MAX_KEYFRAMES} keyframes are allowed."
    times = sorted(keyframe.timestamp_s for keyframe in body.keyframes)
    for time in times:
        if not 0 <= time <= body.duration:
            yield f"keyframe at {time} s is outside of the clip."
        if abs(time / KEYFRAME_GRID - round(time / KEYFRAME_GRID)) > 0.01:
            yield f"keyframe at {time} s is not on the grid of 1/3 s."
    if any(later - time < KEYFRAME_GRID - 0.01 for time, later in pairwise(times)):
        yield "keyframes must be at least 1/3 s apart."
