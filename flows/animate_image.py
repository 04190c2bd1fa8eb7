"""Each image that arrives in S3 becomes a clip next to it: `python flows/animate_image.py` waits for images.

Prefect must be notified of each image by an event `s3.object-created`; docs/how-to/compose.md shows how S3 emits it:

    emit_event("s3.object-created", {"prefect.resource.id": "s3://BUCKET/KEY"}, {"bucket": "BUCKET", "key": "KEY"})
"""

import asyncio
import hashlib
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.events import DeploymentEventTrigger
from prefect.states import Completed
from prefect_aws import AwsCredentials, S3Bucket
from pydantic import Field

from prefect_xai_video import (
    MAY_STAY_EMPTY,
    CredentialsBlock,
    Prompt,
    Video,
    agenerate_video,
    form_input,
    readable_places,
)
from prefect_xai_video.errors import InvalidRequest

IMAGES = (".png", ".jpg", ".jpeg", ".webp")

ON_ARRIVAL = DeploymentEventTrigger(
    name="Animate images that arrive in S3",
    expect={"s3.object-created"},
    match={"prefect.resource.id": [f"s3://*{suffix}" for suffix in IMAGES]},
    parameters={"bucket": "{{ event.payload.bucket }}", "object_key": "{{ event.payload.key }}"},
)

Seconds = Annotated[int, Field(ge=1, le=15), form_input("Duration")]
Bucket = Annotated[S3Bucket | None, MAY_STAY_EMPTY, form_input("Bucket block")]


@flow(name="animate-image", flow_run_name="animate {object_key}", persist_result=False)
async def animate_image(
    bucket: Annotated[str, form_input("Bucket")],
    object_key: Annotated[str, form_input("Image in the bucket")],
    prompt: Prompt = "The picture comes to life, with slow and natural movement.",
    duration: Seconds = 6,
    resolution: Annotated[Literal["480p", "720p"], form_input("Resolution")] = "480p",
    bucket_block: Bucket = None,
    credentials: CredentialsBlock = None,
) -> Video | State:
    """Animate an image in S3 and store the clip next to it.

    Args:
        bucket: Bucket of the image. A deployment may read the bucket of the block below, and those that the
            worker's settings allow.
        object_key: Name of the image in the bucket.
        prompt: Description of what happens in the clip.
        duration: Length in seconds, 1-15.
        resolution: Resolution of the clip.
        bucket_block: Saved block of the bucket, with its credentials. Default: AWS credentials where the flow runs.
        credentials: Block with the xAI API key. Default: XAI_API_KEY where the flow runs.
    """
    # The clip and its receipt arrive in the bucket, too. They are not images, so they do not start another run.
    if not object_key.lower().endswith(IMAGES):
        return Completed(name="Skipped", message=f"{object_key} is not an image; allowed: {', '.join(IMAGES)}.")
    if bucket_block is None:
        await check_readable(bucket, object_key)
    # Pass only a saved block on to a subflow: Prefect would store the fields of any other in clear text.
    storage = bucket_block or S3Bucket(bucket_name=bucket, credentials=AwsCredentials())
    if (storage.bucket_name, storage.bucket_folder) != (bucket, ""):
        raise InvalidRequest(
            f"bucket_block: {storage.bucket_name} is not allowed; allowed: a block of {bucket} without a folder."
        )
    key = await asyncio.to_thread(key_beside, storage, object_key)
    video = await agenerate_video(
        prompt,
        image_url=f"s3://{bucket}/{object_key}",
        duration=duration,
        resolution=resolution,
        key=key,
        storage=storage,
        credentials=credentials,
    )
    if video.key != key:
        raise RuntimeError(f"Prefect returned the result of another call: the video {video.key}.")
    return video


async def check_readable(bucket: str, object_key: str) -> None:
    """Check that runs of this deployment may read the image; the worker itself may have access to more buckets."""
    readable = await readable_places()
    if readable is not None and not readable.has_object(bucket, object_key):
        raise InvalidRequest(
            f"bucket: {bucket!r} is not allowed; allowed: the bucket of bucket_block, or an image in {readable}. "
            f"{readable.hint}"
        )


def key_beside(storage: S3Bucket, object_key: str) -> str:
    """Derive the key of a clip from the image's name and a digest of that name and the image's ETag.

    So a repeated event finds the clip of the first one, while a changed image has another ETag and gets a new clip.
    """
    etag = storage.credentials.get_s3_client().head_object(Bucket=storage.bucket_name, Key=object_key)["ETag"]
    digest = hashlib.sha256(f"{object_key} {etag}".encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9_=+@/-]+", "-", str(PurePosixPath(object_key).with_suffix(""))).strip("/")
    return f"{readable}-{digest}"


if __name__ == "__main__":
    animate_image.serve(name="on-arrival", triggers=[ON_ARRIVAL])
