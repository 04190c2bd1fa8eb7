"""Safe local reads: regular files only, up to a size limit, and only in permitted locations.

A path may come from a form. It must neither block a worker (a FIFO, a device, an endless file) nor reveal parts of
the worker's disk that are not meant for the user of the form.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Self

CHUNK_BYTES = 2**20

# Without O_NONBLOCK, opening a FIFO waits for a writer; without O_NOCTTY, a terminal can become the process's own.
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

S3 = "s3://"


@dataclass(frozen=True, slots=True)
class Readable:
    """The locations that a run may read.

    Attributes:
        directories: Real paths of directories; everything below them may be read.
        prefixes: `bucket/` or `bucket/folder/`; all objects below them may be read.
        hint: How to permit another location, for errors.
    """

    directories: tuple[Path, ...] = ()
    prefixes: tuple[str, ...] = ()
    hint: str = ""

    @classmethod
    def of(cls, locations: Iterable[str], hint: str = "") -> Self:
        """Build it from absolute directories and `s3://` prefixes."""
        unique = dict.fromkeys(locations)
        directories = (os.path.realpath(location) for location in unique if not location.startswith(S3))
        prefixes = (location.removeprefix(S3).rstrip("/") + "/" for location in unique if location.startswith(S3))
        return cls(tuple(map(Path, dict.fromkeys(directories))), tuple(dict.fromkeys(prefixes)), hint)

    def __str__(self) -> str:
        return ", ".join([*map(str, self.directories), *(f"{S3}{prefix}" for prefix in self.prefixes)])

    def directory_of(self, path: Path) -> Path | None:
        """Find the directory that permits reading a path; None if none does. The path must be a real path."""
        return next((directory for directory in self.directories if path.is_relative_to(directory)), None)

    def has_object(self, bucket: str, key: str) -> bool:
        """Whether an object may be read."""
        return f"{bucket}/{key}".startswith(self.prefixes)


class TooLarge(OSError):
    """The error of a file that is larger than the limit."""


def open_regular(path: Path, readable: Readable | None = None) -> FileIO:
    """Open a regular file. Symlinks are followed, and all checks apply to their target.

    Args:
        path: The file.
        readable: The locations in which it must be, after resolving symlinks; None for any.

    Raises:
        OSError: If the file can't be read, is not a regular file, or is in another location.
        ValueError: If the path is not valid.
    """
    descriptor = _open(path) if readable is None else _open_below(path, readable)
    try:
        # Check the open file itself: the path may lead elsewhere by now.
        _check_regular(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_file(
    path: Path, limit: int, readable: Readable | None = None, is_stopped: Callable[[], bool] = lambda: False
) -> bytes:
    """Read a regular file, whose reported size need not be true.

    Args:
        path: The file.
        limit: Largest allowed size in bytes.
        readable: The locations in which it must be; None for any.
        is_stopped: Polled while reading; if it returns True, reading ends with an OSError.

    Raises:
        TooLarge: If the file has more bytes than `limit`.
        OSError: As `open_regular`.
        ValueError: As `open_regular`.
    """
    with open_regular(path, readable) as file:
        return read_to(file, limit, is_stopped)


def read_to(file: FileIO, limit: int, is_stopped: Callable[[], bool] = lambda: False) -> bytes:
    """Read an open file to its end; arguments and errors as for `read_file`."""
    check_size(file, limit)
    content = bytearray()
    while chunk := file.read(min(CHUNK_BYTES, limit + 1 - len(content))):
        content += chunk
        if len(content) > limit:
            raise TooLarge(errno.EFBIG, os.strerror(errno.EFBIG))
        if is_stopped():
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
    return bytes(content)


def check_size(file: FileIO, limit: int) -> None:
    """Check the reported size of an open file.

    Raises:
        TooLarge: If it is more than `limit`.
    """
    if os.fstat(file.fileno()).st_size > limit:
        raise TooLarge(errno.EFBIG, os.strerror(errno.EFBIG))


def _open(path: Path) -> int:
    # Check before opening: opening a device can have side effects, and opening a FIFO unblocks its writer.
    _check_regular(path.stat())
    return os.open(path, _FILE)


def _open_below(path: Path, readable: Readable) -> int:
    """Open a file by its real path, folder by folder without symlinks, so that none can be swapped in meanwhile."""
    real = Path(os.path.realpath(path))
    directory = readable.directory_of(real)
    if directory is None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    _check_regular(real.stat())
    *folders, name = real.relative_to(directory).parts
    descriptor = os.open(directory, _FOLDER)
    try:
        for folder in folders:
            outer, descriptor = descriptor, os.open(folder, _FOLDER | _NO_LINK, dir_fd=descriptor)
            os.close(outer)
        return os.open(name, _FILE | _NO_LINK, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
