"""What `xai-video setup` is asked for."""

from dataclasses import dataclass
from typing import Literal

Pool = Literal["process", "docker", "kubernetes", "ecs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What to set up.

    Attributes:
        pool: Kind of the work pool in which the flows run.
        bucket: Name of the S3 bucket for the videos; it is saved as a block.
        storage_block: A saved block for the videos instead, as `s3-bucket/NAME`.
        image: Image in which the flows run, unless the pool is of processes. Default: the one of prefect.yaml.
        replace_key: Whether a saved API key is replaced by that of the environment.
        notify: Notification block, as `slack-webhook/NAME`.
        follow_up: Deployment to run when a video was stored, as `FLOW/NAME`.
        rescue: Whether runs are restarted whose worker died.
    """

    pool: Pool
    bucket: str | None = None
    storage_block: str | None = None
    image: str | None = None
    replace_key: bool = False
    notify: str | None = None
    follow_up: str | None = None
    rescue: bool = False

    @property
    def pool_name(self) -> str:
        """Name of the work pool in prefect.yaml."""
        return f"xai-video-{self.pool}"
