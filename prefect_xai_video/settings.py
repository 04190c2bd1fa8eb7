"""Settings of this package, with the prefix PREFECT_INTEGRATIONS_XAI_VIDEO_."""

import json
import math
from pathlib import Path
from typing import Annotated, Self

from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode

from prefect_xai_video.api.download import MAX_DOWNLOAD_BYTES
from prefect_xai_video.api.validation import Validation
from prefect_xai_video.engine.keys import slug
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.errors import InvalidRequest, not_allowed, shown

PREFIX = "PREFECT_INTEGRATIONS_XAI_VIDEO_"


def _default_home() -> Path:
    return get_current_settings().home / "xai-video"


def _as_list(value: object) -> object:
    """Parse a list that is given as one string: separated by commas, or as JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


class XaiVideoSettings(PrefectBaseSettings):
    """Settings that apply to all runs of an environment.

    Each setting is read from `PREFECT_INTEGRATIONS_XAI_VIDEO_<NAME>`, a `.env` file, or the table
    `[integrations.xai_video]` of a `prefect.toml`.
    """

    model_config = build_settings_config(("integrations", "xai_video"))

    home: Path = Field(
        default_factory=_default_home,
        validate_default=True,
        description="Directory for videos and receipts if no storage is given. Default: xai-video in Prefect's home.",
    )
    input_roots: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_list)] = Field(
        default=(),
        description="Additional locations from which runs of deployments may read inputs, besides their storage and "
        "HOME: absolute directories and s3:// prefixes, separated by commas.",
    )
    first_poll_seconds: float = Field(
        default=18, ge=0, description="Seconds between the submission and the first poll."
    )
    poll_min_seconds: float = Field(default=1, gt=0, description="Shortest interval between two polls, in seconds.")
    poll_max_seconds: float = Field(default=20, gt=0, description="Longest interval between two polls, in seconds.")
    timeout_seconds: float = Field(default=1200, gt=0, description="Longest time to wait for a video, in seconds.")
    validation: Validation = Field(
        default="strict",
        description="strict rejects values that the table of models does not list; warn sends them with a warning.",
    )

    budget: bool = Field(
        default=True,
        description="Whether the global limit xai-video-spend-cents is enforced. Set it to false if no budget is "
        "wanted, or if the role of the runs may not read global limits in Prefect.",
    )
    link_seconds: int = Field(
        default=604800,
        ge=0,
        le=604800,
        description="Lifetime of the link to a video in a bucket, in seconds, at most 7 days; 0 for no link.",
    )
    prompt_in_names: bool = Field(
        default=True,
        description="Whether derived keys, run names and artifact descriptions begin with the first words of the "
        "prompt. Set it to false if prompts are confidential.",
    )
    preview: bool = Field(
        default=True,
        description="Whether the artifact of a video contains a preview picture, which Prefect then stores.",
    )

    max_download_bytes: int = Field(
        default=MAX_DOWNLOAD_BYTES,
        gt=0,
        description="Size of the largest video that is downloaded, in bytes; the default is 512 MiB.",
    )

    @field_validator("input_roots")
    @classmethod
    def _are_valid_places(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            in_bucket, bucket = root.startswith("s3://"), root.removeprefix("s3://").partition("/")[0]
            if not (bucket if in_bucket else Path(root).is_absolute()):
                raise ValueError(f"{root!r} is not allowed; allowed: absolute directories and s3:// prefixes")
        return roots

    @field_validator("home")
    @classmethod
    def _is_absolute(cls, home: Path) -> Path:
        # A relative path depends on the process: on a worker, a run starts in a temporary directory.
        if not home.is_absolute() and not str(home).startswith("~"):
            raise ValueError("it must be an absolute path, for example /data/videos or ~/videos")
        return home

    @model_validator(mode="after")
    def _is_poll_range_valid(self) -> Self:
        if self.poll_min_seconds > self.poll_max_seconds:
            raise ValueError("POLL_MIN_SECONDS must not be above POLL_MAX_SECONDS")
        return self

    @classmethod
    def current(cls) -> Self:
        """Read the settings of the environment.

        Raises:
            InvalidRequest: If a value is not valid; the message names the variable.
        """
        try:
            return cls()
        except ValidationError as error:
            problem = error.errors()[0]
            name = "_".join(map(str, problem["loc"][:1])).upper()
            reason = problem["msg"].removeprefix("Value error, ")
            # An error about two settings has no name, and its reason begins with one of theirs.
            text = f"{name}: {reason} (value: {problem['input']!r})" if name else reason
            raise InvalidRequest(f"{PREFIX}{text}.") from None

    def words_of(self, prompt: object) -> str:
        """Return the first words of a prompt as a slug; empty if names exclude them, or it is not a string."""
        return slug(prompt) if self.prompt_in_names and isinstance(prompt, str) else ""

    @property
    def schedule(self) -> PollSchedule:
        """The poll schedule."""
        return PollSchedule(self.first_poll_seconds, self.poll_min_seconds, self.poll_max_seconds)


def check_timeout(timeout_seconds: float | None) -> float:
    """Validate a timeout in seconds; None means the setting `TIMEOUT_SECONDS`.

    Raises:
        InvalidRequest: If it is not a finite number above 0.
    """
    if timeout_seconds is None:
        return XaiVideoSettings.current().timeout_seconds
    number = isinstance(timeout_seconds, int | float) and not isinstance(timeout_seconds, bool)
    if number and 0 < timeout_seconds < math.inf:
        return timeout_seconds
    raise not_allowed("timeout_seconds", shown(timeout_seconds), "seconds above 0")
