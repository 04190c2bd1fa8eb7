"""The disk of this machine, or a file server's: free space, and errors as sentences about files."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect_xai_video.errors import StorageError

MIN_FREE_BYTES = 32 * 2**20
"""Free bytes that are required before a video is paid for. A video of 15 s has about 10 MB."""

_TRANSIENT = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""Errors of a file server that is temporarily unavailable."""


def check_free_space(directory: Path) -> None:
    """Check that a directory has enough free space for a video.

    Raises:
        StorageError: If it has not.
    """
    free = shutil.disk_usage(directory).free
    if free < MIN_FREE_BYTES:
        raise StorageError(
            f"{directory} has {free / 2**20:.1f} MiB free; at least {MIN_FREE_BYTES // 2**20} MiB are required "
            f"before a video is paid for. Nothing was sent."
        )


@contextmanager
def as_storage_error(path: Path, action: str = "written") -> Iterator[None]:
    """Convert an OSError into a StorageError that names the file.

    Args:
        path: The file, unless the OSError itself names one.
        action: The failed action as a participle, for the sentence "... can't be written".
    """
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise StorageError(
            f"{name} can't be {action}: {error.strerror or error}.", transient=error.errno in _TRANSIENT
        ) from None
