"""Where videos and their receipts lie: a local directory, or an S3 bucket."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem

from prefect_xai_video.errors import StorageError
from prefect_xai_video.stores.base import UPLOAD_SECONDS, Held, Misplaced, NotOverwritten, Overtaken, VideoStore, lost
from prefect_xai_video.stores.directory import LocalStore

if TYPE_CHECKING:
    from prefect_aws import S3Bucket

    Storage: TypeAlias = S3Bucket | LocalFileSystem
else:
    # `prefect_aws` is slow to import: a video that stays on this machine does without it.
    Storage = Block

__all__ = [
    "UPLOAD_SECONDS",
    "Held",
    "LocalStore",
    "Misplaced",
    "NotOverwritten",
    "Overtaken",
    "Storage",
    "VideoStore",
    "lost",
    "open_store",
]


def open_store(storage: Storage | None, home: Path) -> VideoStore:
    """Make the store that a storage block stands for.

    Args:
        storage: An S3 bucket, a local file system, or None for `home`.
        home: Directory of this package's settings.

    Raises:
        StorageError: If it is none of these, or a directory whose path is empty or relative.
    """
    if storage is None:
        return LocalStore(home)
    if isinstance(storage, LocalFileSystem):
        if not storage.basepath:
            raise StorageError(
                "storage: the LocalFileSystem block has no basepath, which stands for the current directory: "
                "on a worker a temporary one, which is removed with the video. Enter an absolute path as its "
                "basepath, for example /data/videos. Nothing was sent."
            )
        return LocalStore(Path(storage.basepath))
    from prefect_aws import S3Bucket  # noqa: PLC0415

    from prefect_xai_video.stores.bucket import S3Store  # noqa: PLC0415

    if isinstance(storage, S3Bucket):
        return S3Store(storage)
    raise StorageError(f"storage: {type(storage).__name__} is not allowed; allowed: S3Bucket or LocalFileSystem.")
