"""Settings of this package: PREFECT_INTEGRATIONS_XAI_VIDEO_*."""

import json
from pathlib import Path
from typing import Annotated, Self

from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode

from prefect_xai_video.download import MAX_DOWNLOAD_BYTES
from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.polling import PollSchedule
from prefect_xai_video.requests import Validation

PREFIX = "PREFECT_INTEGRATIONS_XAI_VIDEO_"


def _default_home() -> Path:
    return get_current_settings().home / "xai-video"


def _as_list(value: object) -> object:
    """Read a list that is written as one text: separated by commas, or as JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


class XaiVideoSettings(PrefectBaseSettings):
    """What can be set once for all runs of an environment.

    Each is read from `PREFECT_INTEGRATIONS_XAI_VIDEO_<NAME>`, a `.env` file, or the table
    `[integrations.xai_video]` of a `prefect.toml`.
    """

    model_config = build_settings_config(("integrations", "xai_video"))

    home: Path = Field(
        default_factory=_default_home,
        validate_default=True,
        description="Directory for videos and receipts where no storage is given; xai-video in Prefect's home.",
    )
    input_roots: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_list)] = Field(
        default=(),
        description="What runs of deployments may read as inputs, beside the storage's own directory or bucket and "
        "HOME: absolute directories and s3:// prefixes, separated by commas.",
    )
    first_poll_seconds: float = Field(
        default=18, ge=0, description="Seconds between a submission and the first look."
    )
    poll_min_seconds: float = Field(default=1, gt=0, description="Shortest wait between two looks in seconds.")
    poll_max_seconds: float = Field(default=20, gt=0, description="Longest wait between two looks in seconds.")
    timeout_seconds: float = Field(default=1200, gt=0, description="How long a run waits for a video, in seconds.")
    validation: Validation = Field(
        default="strict",
        description="strict refuses what the table of models does not have; warn passes it on with a warning.",
    )

    budget: bool = Field(
        default=True,
        description="Whether the global limit xai-video-spend-cents is respected. With false no budget is asked for, "
        "as needed by roles that may not read Prefect's global limits.",
    )
    link_seconds: int = Field(
        default=604800,
        ge=0,
        le=604800,
        description="How long the link to a video in a bucket is good, in seconds, at most 7 days; 0 for no link.",
    )
    preview: bool = Field(
        default=True,
        description="Whether the artifact of a video has a preview; Prefect then keeps it.",
    )

    max_download_bytes: int = Field(
        default=MAX_DOWNLOAD_BYTES,
        gt=0,
        description="Largest video that is downloaded, in bytes; 512 MiB.",
    )

    @field_validator("input_roots")
    @classmethod
    def _are_places(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            in_bucket, bucket = root.startswith("s3://"), root.removeprefix("s3://").partition("/")[0]
            if not (bucket if in_bucket else Path(root).is_absolute()):
                raise ValueError(f"{root!r} is not allowed; allowed: absolute directories and s3:// prefixes")
        return roots

    @field_validator("home")
    @classmethod
    def _is_absolute(cls, home: Path) -> Path:
        # Where a relative path leads depends on the process: a worker's run has a temporary directory.
        if not home.is_absolute() and not str(home).startswith("~"):
            raise ValueError("it must be an absolute path, for example /data/videos or ~/videos")
        return home

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.poll_min_seconds > self.poll_max_seconds:
            raise ValueError("POLL_MIN_SECONDS must not be above POLL_MAX_SECONDS")
        return self

    @classmethod
    def current(cls) -> Self:
        """The settings of the environment.

        Raises:
            InvalidRequest: If one is not allowed; it names the variable.
        """
        try:
            return cls()
        except ValidationError as error:
            problem = error.errors()[0]
            name = "_".join(map(str, problem["loc"][:1])).upper()
            raise InvalidRequest(f"{PREFIX}{name}: {problem['msg']} (is {problem['input']!r}).") from None

    @property
    def schedule(self) -> PollSchedule:
        """When to look."""
        return PollSchedule(self.first_poll_seconds, self.poll_min_seconds, self.poll_max_seconds)
