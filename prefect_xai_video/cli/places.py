"""Where videos are kept: what the option `--storage` accepts."""

import asyncio
import os
from pathlib import Path

from prefect.filesystems import LocalFileSystem

from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import StorageError
from prefect_xai_video.orchestration.blocks import STORAGES, load_storage
from prefect_xai_video.orchestration.prefect_api import check_prefect_server
from prefect_xai_video.orchestration.storage import Storage, open_store
from prefect_xai_video.settings import XaiVideoSettings

S3 = "s3://"


def storage_of(place: str) -> Storage:
    """Make the block that a place stands for, or load it.

    Args:
        place: A directory, `s3://bucket/folder` with the credentials of the environment, or a saved block as
            `s3-bucket/NAME` or `local-file-system/NAME`.

    Raises:
        InvalidRequest: If there is no such block.
        NoPrefectServer: If the server that has the blocks can't be reached.
    """
    if place.startswith(tuple(f"{slug}/" for slug in STORAGES)):
        check_prefect_server()
        block = asyncio.run(load_storage({"$ref": {"block_document_slug": place}}))
        assert block is not None  # noqa: S101 - a reference was given
        return block
    if place.startswith(S3):
        from prefect_aws import AwsCredentials, S3Bucket  # noqa: PLC0415

        bucket, _, folder = place.removeprefix(S3).partition("/")
        return S3Bucket(bucket_name=bucket, bucket_folder=folder.strip("/"), credentials=AwsCredentials())
    return LocalFileSystem(basepath=Path(place).expanduser().absolute())


def existing_store(place: str) -> VideoStore:
    """Open a store that must be there already.

    Raises:
        StorageError: If it is a directory that does not exist.
    """
    storage = storage_of(place)
    if isinstance(storage, LocalFileSystem) and storage.basepath and not Path(storage.basepath).is_dir():
        home = XaiVideoSettings.current().home.expanduser()
        hint = f" Flows without a storage block store their videos in {home}." if home.is_dir() else ""
        raise StorageError(f"The directory {storage.basepath} does not exist.{hint}")
    return open_store(storage, Path())


def prepared(place: str) -> tuple[Storage, Path]:
    """Return the storage that a place stands for, and a directory of this machine, as `prepare`."""
    storage = storage_of(place)
    return storage, prepare(storage)


def prepare(storage: Storage) -> Path:
    """Make the directory of a storage, if it is one.

    Returns:
        A directory of this machine that is there as long as the storage: its own, or that of the setting `HOME`.

    Raises:
        StorageError: If it can't be made or written to.
    """
    if not isinstance(storage, LocalFileSystem) or not storage.basepath:
        return XaiVideoSettings.current().home.expanduser()
    directory = Path(storage.basepath)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The directory {directory} can't be made: {error.strerror}.") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StorageError(f"The directory {directory} can't be written to.")
    return directory
