"""The blocks of a set-up server: the API key, and the bucket for the videos."""

import os
from collections.abc import Awaitable
from typing import Any, TypeVar
from uuid import UUID

import prefect_aws
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prefect_aws import AwsCredentials, S3Bucket

import prefect_xai_video
from prefect_xai_video.credentials import KEY_VARIABLE, XaiCredentials
from prefect_xai_video.errors import (
    ApiError,
    AuthenticationFailed,
    InvalidRequest,
    MissingCredentials,
    not_allowed,
    shown,
)
from prefect_xai_video.setup.options import Setup

KEY = "xai-credentials/xai"
BUCKET = "s3-bucket/xai-videos"

T = TypeVar("T")


async def register_blocks() -> None:
    """Show the blocks of this package and of prefect-aws in the UI."""
    for module in (prefect_xai_video, prefect_aws):
        for name in module.__all__:
            block = getattr(module, name)
            if isinstance(block, type) and issubclass(block, Block):
                await block.register_type_and_schema()
        say(f"blocks of {module.__name__}: registered")


async def save_key(client: PrefectClient, *, replace: bool) -> None:
    """Save the API key of the environment as a block."""
    exists = await found(block_id(client, KEY)) is not None
    if exists and not replace:
        say(f"block {KEY}: exists{await _other_key()}")
        return
    if not os.environ.get(KEY_VARIABLE):
        raise MissingCredentials(
            f"{KEY_VARIABLE} is not set. Set it to the API key to be saved as block {KEY}, and run the command again."
        )
    credentials = XaiCredentials.from_environment()
    unchecked = await _check(credentials)
    await credentials.save(KEY.partition("/")[2], overwrite=True)
    done = "replaced by" if exists else "created from"
    say(f"block {KEY}: {done} {KEY_VARIABLE}, for {credentials.base_url}{unchecked}")


async def _check(credentials: XaiCredentials) -> str:
    """Ask xAI whether it accepts the key, which is free.

    Returns:
        A hint where xAI could not be asked.

    Raises:
        AuthenticationFailed: If xAI rejects the key.
    """
    try:
        await credentials.acheck_key()
    except AuthenticationFailed:
        raise
    except ApiError as error:
        return f"; it was not checked: {error.message}"
    return ""


async def _other_key() -> str:
    """A hint where the environment has another key than the saved block."""
    if not os.environ.get(KEY_VARIABLE):
        return ""
    saved, own = await XaiCredentials.load(KEY.partition("/")[2]), XaiCredentials.from_environment()
    is_same = (saved.api_key, saved.base_url) == (own.api_key, own.base_url)
    return "" if is_same else f", but differs from {KEY_VARIABLE} or XAI_BASE_URL; --replace-key replaces it"


async def save_storage(client: PrefectClient, wanted: Setup) -> str | None:
    """Save the bucket as a block, to be used with the AWS credentials of the worker's environment.

    Returns:
        The block with which videos are stored, as `TYPE/NAME`; None for the worker's own disk.
    """
    if wanted.storage_block:
        if not wanted.storage_block.startswith("s3-bucket/"):
            raise not_allowed("storage_block", shown(wanted.storage_block), "a block as s3-bucket/NAME")
        if not await found(block_id(client, wanted.storage_block)):
            missing("storage_block", "block", wanted.storage_block)
        say(f"block {wanted.storage_block}: used for the videos")
        return wanted.storage_block
    if await found(block_id(client, BUCKET)):
        await _check_bucket(wanted.bucket)
        say(f"block {BUCKET}: exists")
        return BUCKET
    if wanted.bucket:
        await S3Bucket(bucket_name=wanted.bucket, credentials=AwsCredentials()).save(BUCKET.partition("/")[2])
        say(f"block {BUCKET}: created for the bucket {wanted.bucket}")
        return BUCKET
    if wanted.pool != "process":
        raise InvalidRequest(
            f"bucket: required for this pool, since the disk of a container is deleted with the container; name one "
            f"with --bucket. (There is no block {BUCKET} yet.)"
        )
    say("videos: stored on the worker's disk, so the UI shows no link and no player; for S3, use --bucket NAME")
    return None


async def _check_bucket(name: str | None) -> None:
    """Check that the saved block is of the bucket that was named, if one was."""
    bucket = await S3Bucket.load(BUCKET.partition("/")[2])
    if name not in (None, bucket.bucket_name):
        raise InvalidRequest(
            f"bucket: the block {BUCKET} is for the bucket {bucket.bucket_name}; edit it in the UI, or save another "
            f"block and name it with --storage-block."
        )


async def block_id(client: PrefectClient, slug: str) -> UUID:
    """The id of the block `TYPE/NAME`."""
    kind, _, name = slug.partition("/")
    return (await client.read_block_document_by_name(name, kind, include_secrets=False)).id


async def found(reading: Awaitable[T]) -> T | None:
    """What was read, or None if there is no such thing."""
    try:
        return await reading
    except ObjectNotFound:
        return None


def missing(field: str, kind: str, name: str) -> Any:
    """Report a block or deployment that was named and does not exist.

    Raises:
        InvalidRequest: In any case.
    """
    raise InvalidRequest(f"{field}: the {kind} {name!r} does not exist. Create it, or correct the name.")


def say(line: str) -> None:
    """Print at once: the next step may take a while."""
    print(line, flush=True)
