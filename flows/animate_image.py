"""An image that arrives in S3 becomes a clip in S3 beside it: `python flows/animate_image.py` waits for them.

Something has to tell Prefect of the image, with an event `s3.object-created` (docs/composing.md has it for S3):

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

from prefect_xai_video import Video, agenerate_video
from prefect_xai_video.deployed import readable_places
from prefect_xai_video.errors import InvalidRequest
from prefect_xai_video.forms import MAY_STAY_EMPTY, CredentialsBlock, Prompt, drawn

IMAGES = (".png", ".jpg", ".jpeg", ".webp")

ON_ARRIVAL = DeploymentEventTrigger(
    name="Animate images that arrive in S3",
    expect={"s3.object-created"},
    match={"prefect.resource.id": [f"s3://*{suffix}" for suffix in IMAGES]},
    parameters={"bucket": "{{ event.payload.bucket }}", "object_key": "{{ event.payload.key }}"},
)

Seconds = Annotated[int, Field(ge=1, le=15), drawn("Duration")]
Bucket = Annotated[S3Bucket | None, MAY_STAY_EMPTY, drawn("Bucket block")]


@flow(name="animate-image", flow_run_name="animate {object_key}", persist_result=False)
async def animate_image(
    bucket: Annotated[str, drawn("Bucket")],
    object_key: Annotated[str, drawn("Image in the bucket")],
    prompt: Prompt = "The picture comes to life, with slow and natural movement.",
    duration: Seconds = 6,
    resolution: Annotated[Literal["480p", "720p"], drawn("Resolution")] = "480p",
    bucket_block: Bucket = None,
    credentials: CredentialsBlock = None,
) -> Video | State:
    """Animate an image in S3, and put the clip beside it.

    Args:
        bucket: Bucket of the image. In a deployment, that of the block, or one in the setting INPUT_ROOTS.
        object_key: Name of the image in the bucket.
        prompt: What should happen.
        duration: Seconds, 1-15.
        resolution: Of the clip.
        bucket_block: The bucket as a saved block, with its credentials. Default: those of the environment.
        credentials: The xAI API key. Default: XAI_API_KEY of the environment.
    """
    # The clip and its receipt arrive in the bucket, too. They are no images, so nothing begins again.
    if not object_key.lower().endswith(IMAGES):
        return Completed(name="Skipped", message=f"{object_key} is not an image: {', '.join(IMAGES)}.")
    if bucket_block is None:
        await check_readable(bucket, object_key)
    # A block goes on to a subflow only if it is saved: of any other, Prefect would store the fields in clear.
    storage = bucket_block or S3Bucket(bucket_name=bucket, credentials=AwsCredentials())
    if (storage.bucket_name, storage.bucket_folder) != (bucket, ""):
        raise InvalidRequest(
            f"bucket_block: {storage.bucket_name} is not allowed; allowed: {bucket}, without folder."
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
    """Check that whoever may start a deployment may name this bucket: the worker may be able to read many more."""
    readable = await readable_places()
    if readable is not None and not readable.has_object(bucket, object_key):
        raise InvalidRequest(
            f"bucket: {bucket!r} is not allowed; allowed: that of a bucket_block, or an image in {readable}. "
            f"{readable.hint}"
        )


def key_beside(storage: S3Bucket, object_key: str) -> str:
    """The key of an image's clip: the image's own name, and a digest of that name and the image's ETag.

    An event that comes twice finds the clip of the first one. A changed image has another ETag, and gets a new clip.
    """
    etag = storage.credentials.get_s3_client().head_object(Bucket=storage.bucket_name, Key=object_key)["ETag"]
    digest = hashlib.sha256(f"{object_key} {etag}".encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9_=+@/-]+", "-", str(PurePosixPath(object_key).with_suffix(""))).strip("/")
    return f"{readable}-{digest}"


if __name__ == "__main__":
    animate_image.serve(name="on-arrival", triggers=[ON_ARRIVAL])
