"""Stores of videos and receipts: a local directory or an S3 bucket."""

from prefect_xai_video.engine.stores.base import (
    LOOKUPS,
    UPLOAD_SECONDS,
    Held,
    MisplacedReceipt,
    NotOverwritten,
    VideoStore,
    WriteConflict,
    foreign_file_error,
    missing_video_error,
)
from prefect_xai_video.engine.stores.directory import LocalStore

__all__ = [
    "LOOKUPS",
    "UPLOAD_SECONDS",
    "Held",
    "LocalStore",
    "MisplacedReceipt",
    "NotOverwritten",
    "VideoStore",
    "WriteConflict",
    "foreign_file_error",
    "missing_video_error",
]
