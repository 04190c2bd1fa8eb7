"""Deploy from Python instead of prefect.yaml: `python deployments/deploy.py xai-video-docker`.

The work pool and the blocks must exist; `xai-video setup` creates them. Block placeholders in job variables are safe
here: unlike `prefect deploy`, Python stores them unresolved, and the worker resolves them.
"""

import sys

from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.flows import EntrypointType
from prefect.schedules import Cron
from prefect_aws import S3Bucket

from prefect_xai_video import XaiCredentials, agenerate_video


def main() -> None:
    """Deploy to the work pool named on the command line."""
    agenerate_video.deploy(
        name="from-python",
        work_pool_name=sys.argv[1],
        image="prefect-xai-video:0.1.0",
        build=False,
        push=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
        version="0.1.0",
        tags=["xai-video"],
        description="Generates one video with xAI and stores it in the bucket.",
        # Prefect stores saved blocks as references.
        parameters={"credentials": XaiCredentials.load("xai"), "storage": S3Bucket.load("xai-videos")},
        schedule=Cron(
            "0 7 * * *",
            timezone="Europe/Berlin",
            active=False,
            parameters={"prompt": "A cat playing with a ball", "duration": 6},
            slug="every-morning",
        ),
        concurrency_limit=ConcurrencyLimitConfig(limit=10, collision_strategy="ENQUEUE"),
    )


if __name__ == "__main__":
    main()
