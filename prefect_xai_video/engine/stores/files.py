"""Files of a directory store: exclusive links, temporary files, times by the clock of the file system."""

import errno
import filecmp
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefect_xai_video.engine.reading import open_regular, read_to
from prefect_xai_video.engine.stores.base import MAX_RECEIPT_BYTES
from prefect_xai_video.engine.stores.disk import as_storage_error
from prefect_xai_video.errors import StorageError

LEFT_BEHIND_SECONDS = 24 * 3600
"""Age in seconds at which a temporary file counts as left behind by a crash."""


_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}


@dataclass(frozen=True, slots=True)
class ReceiptFile:
    """A receipt file as it was read.

    Attributes:
        path: The file.
        content: Its content.
        digest: SHA-256 of the content, which is the receipt's version.
        written_at: When it was written, by the clock of its file system. Unix time in seconds.
    """

    path: Path
    content: bytes
    digest: str
    written_at: float


def read_receipt_file(path: Path) -> ReceiptFile | None:
    """Read a receipt file; None if there is none."""
    try:
        with open_regular(path) as file:
            content = read_to(file, MAX_RECEIPT_BYTES)
            written_at = os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    return ReceiptFile(path, content, digest_of(content), written_at)


def temporary_path(path: Path) -> Path:
    """Create a hidden temporary path in the same directory, so that its file can be moved atomically."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


def age_of(file: ReceiptFile) -> float:
    """Compute the seconds since a receipt was written, by the clock of its file system, maybe a file server's."""
    return max(_now(file.path) - file.written_at, 0)


def _now(path: Path) -> float:
    """Read the clock of a file's file system, by creating a temporary file in the same directory."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of videos and receipts that killed runs have left behind in a folder."""
    now = _now(folder / "clock")
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            if now - part.stat().st_mtime > LEFT_BEHIND_SECONDS:
                part.unlink()


def link_exclusively(source: Path, target: Path) -> bool:
    """Create a hard link to a file; False if another file already has that name.

    If a file server's response is lost, the call may be repeated and fail although the first one succeeded. An error
    therefore counts as success if the target has the same content.

    Raises:
        StorageError: If the file system does not support hard links.
    """
    try:
        os.link(source, target)
    except OSError as error:
        with suppress(OSError):
            if filecmp.cmp(source, target, shallow=False):
                return True
        if isinstance(error, FileExistsError):
            return False
        if error.errno in _NO_HARD_LINKS:
            raise StorageError(
                f"The file system of {target.parent} does not support hard links ({error.strerror}). Without them, "
                f"two runs could both pay for the same video. Use a directory on another file system, or a bucket."
            ) from None
        raise
    return True


def sync_directory(directory: Path) -> None:
    """Flush a directory, so that new names in it survive a power failure. Best effort."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def digest_of(content: bytes) -> str:
    """Compute the SHA-256 of a receipt's content, which is its version."""
    return hashlib.sha256(content).hexdigest()


def create_mark(path: Path) -> None:
    """Create an empty file, with its directories, that survives a power failure.

    Raises:
        StorageError: If it can't be created.
    """
    with as_storage_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        sync_directory(path.parent)


def list_marks(root: Path, prefix: str) -> Iterator[tuple[str, float]]:
    """List the files below a directory whose relative paths begin with a prefix, with their ages in seconds."""
    if not root.is_dir():
        return
    now = _now(root / "clock")
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if relative.startswith(prefix) and not name.endswith(".part"):
                with suppress(FileNotFoundError):
                    yield relative, max(now - path.stat().st_mtime, 0)
