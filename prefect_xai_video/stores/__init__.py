"""Where videos and their receipts lie: a local directory, or an S3 bucket."""

from pathlib import Path

from prefect.filesystems import LocalFileSystem
from prefect_aws import S3Bucket

from prefect_xai_video.errors import StorageError
from prefect_xai_video.stores.base import UPLOAD_SECONDS, Held, Misplaced, Overtaken, VideoStore
from prefect_xai_video.stores.bucket import S3Store
from prefect_xai_video.stores.directory import LocalStore

__all__ = [
    "UPLOAD_SECONDS",
    "Held",
    "LocalStore",
    "Misplaced",
    "Overtaken",
    "S3Store",
    "Storage",
    "VideoStore",
    "open_store",
]

Storage = S3Bucket | LocalFileSystem


def open_store(storage: Storage | None, home: Path) -> VideoStore:
    """Make the store that a storage block stands for.

    Args:
        storage: An S3 bucket, a local file system, or None for `home`.
        home: Directory of this package's settings.
    """
    if isinstance(storage, S3Bucket):
        return S3Store(storage)
    if isinstance(storage, LocalFileSystem):
        return LocalStore(Path(storage.basepath or "."))
    if storage is None:
        return LocalStore(home)
    raise StorageError(f"storage: {type(storage).__name__} is not allowed; allowed: S3Bucket or LocalFileSystem.")
