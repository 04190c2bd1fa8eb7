"""Local reads that end: regular files only, up to a limit, and only in places that may be read.

A path may come from a form. It must not stop a worker (a FIFO, a device, a file without end), nor show anybody more
of its disk than was meant for them.
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

# Without O_NONBLOCK, opening a FIFO waits for a writer; without O_NOCTTY, a terminal can become that of the process.
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

S3 = "s3://"


@dataclass(frozen=True, slots=True)
class Readable:
    """The places that a run may read.

    Attributes:
        directories: Directories with all that is in them, without symlinks.
        prefixes: `bucket/` or `bucket/folder/`, with all objects below.
        hint: How a place is added, for errors.
    """

    directories: tuple[Path, ...] = ()
    prefixes: tuple[str, ...] = ()
    hint: str = ""

    @classmethod
    def of(cls, places: Iterable[str], hint: str = "") -> Self:
        """Make it of absolute directories and `s3://` prefixes."""
        unique = dict.fromkeys(places)
        directories = (os.path.realpath(place) for place in unique if not place.startswith(S3))
        prefixes = (place.removeprefix(S3).rstrip("/") + "/" for place in unique if place.startswith(S3))
        return cls(tuple(map(Path, dict.fromkeys(directories))), tuple(dict.fromkeys(prefixes)), hint)

    def __str__(self) -> str:
        return ", ".join([*map(str, self.directories), *(f"{S3}{prefix}" for prefix in self.prefixes)])

    def directory_of(self, path: Path) -> Path | None:
        """The directory through which a path may be read, which must be free of symlinks and `..`."""
        return next((directory for directory in self.directories if path.is_relative_to(directory)), None)

    def has_object(self, bucket: str, key: str) -> bool:
        """Whether an object may be read."""
        return f"{bucket}/{key}".startswith(self.prefixes)


class TooLarge(OSError):
    """A file is larger than the limit."""


def open_regular(path: Path, readable: Readable | None = None) -> FileIO:
    """Open a regular file. Symlinks are followed; what counts is the file that they lead to.

    Args:
        path: The file.
        readable: Where it must be, after all symlinks; None for anywhere.

    Raises:
        OSError: If it can't be read, is not a regular file, or is elsewhere.
        ValueError: If the path can't be one.
    """
    descriptor = _open(path) if readable is None else _open_below(path, readable)
    try:
        # Whatever the path led to before, this is the file that is read.
        _check_regular(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_file(
    path: Path, limit: int, readable: Readable | None = None, is_stopped: Callable[[], bool] = lambda: False
) -> bytes:
    """Read a regular file, which may say that it has another size than it turns out to have.

    Args:
        path: The file.
        limit: Most bytes that it may have.
        readable: Where it must be; None for anywhere.
        is_stopped: Whether nobody waits for it any more.

    Raises:
        TooLarge: If it has more bytes than `limit`.
        OSError: As `open_regular`.
        ValueError: As `open_regular`.
    """
    with open_regular(path, readable) as file:
        return read_to(file, limit, is_stopped)


def read_to(file: FileIO, limit: int, is_stopped: Callable[[], bool] = lambda: False) -> bytes:
    """Read an open file to its end; arguments and errors as for `read_file`."""
    if os.fstat(file.fileno()).st_size > limit:
        raise TooLarge(errno.EFBIG, os.strerror(errno.EFBIG))
    content = bytearray()
    while chunk := file.read(min(CHUNK_BYTES, limit + 1 - len(content))):
        content += chunk
        if len(content) > limit:
            raise TooLarge(errno.EFBIG, os.strerror(errno.EFBIG))
        if is_stopped():
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
    return bytes(content)


def _open(path: Path) -> int:
    # To open a device can have effects of its own, and to open a FIFO lets its writer go on.
    _check_regular(path.stat())
    return os.open(path, _FILE)


def _open_below(path: Path, readable: Readable) -> int:
    """Open a file by its real path, with no symlink on the way: none can be put there meanwhile."""
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
