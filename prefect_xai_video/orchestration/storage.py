"""Opens the store for a storage block."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem

from prefect_xai_video.engine.stores import LocalStore, VideoStore
from prefect_xai_video.errors import StorageError

if TYPE_CHECKING:
    from prefect_aws import S3Bucket

    Storage: TypeAlias = S3Bucket | LocalFileSystem
else:
    # `prefect_aws` is slow to import, and a local store does not need it.
    Storage = Block


def open_store(storage: Storage | VideoStore | None, home: Path) -> VideoStore:
    """Open the store for a storage block.

    Args:
        storage: An S3 bucket, a local file system, or None for `home`. A store is returned unchanged.
        home: Directory of the setting `HOME`.

    Raises:
        StorageError: If it is anything else, or a directory with an empty or relative path.
    """
    if isinstance(storage, VideoStore):
        return storage
    if storage is None:
        return LocalStore(home)
    if isinstance(storage, LocalFileSystem):
        if not storage.basepath:
            raise StorageError(
                "storage: the LocalFileSystem block has no basepath, so it uses the current directory. On a worker "
                "that is a temporary directory, which is deleted together with the video. Enter an absolute path as "
                "its basepath, for example /data/videos. Nothing was sent."
            )
        return LocalStore(Path(storage.basepath))
    from prefect_aws import S3Bucket  # noqa: PLC0415

    from prefect_xai_video.engine.stores.bucket import S3Store  # noqa: PLC0415

    if isinstance(storage, S3Bucket):
        return S3Store(storage)
    raise StorageError(f"storage: {type(storage).__name__} is not allowed; allowed: S3Bucket or LocalFileSystem.")
