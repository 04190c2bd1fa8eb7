"""LocalStore: videos and receipts in a directory, without locks.

`<key>.json` is only where reading begins. A receipt that replaces another one is a hidden file beside it, which is
named after the digest of the one it replaces: `.<name>.<digest>.json` is the successor of the receipt with that
digest. So all receipts of a key form a chain, and its end is the current one. A successor is created by a hard link
to a file that is whole, which succeeds for exactly one of those who try: that is the compare-and-swap. It needs no
lock, no clock and no process that goes on afterwards, on a network file system, too.

Then `<key>.json` is replaced by the end of the chain, for people and for tools. It does no harm if that never
happens, or if a process that was suspended does it late with an old receipt: readers follow the successors to the
end.

Successors are never removed. As long as there may be a suspended process that has read a receipt, the successor of
that receipt keeps the process from replacing it, and leads on whoever finds the old receipt in `<key>.json`. Nobody
can know that there is no such process. It comes to four or five files of 2 kB for a video. A receipt that is moved
away is out of its chain, and the key begins anew. A copy of it that is put back, even an old one, leads to the last
receipt again.
"""

import asyncio
import errno
import filecmp
import hashlib
import os
import stat
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import override

from prefect_xai_video.errors import StorageError
from prefect_xai_video.reading import open_regular, read_to
from prefect_xai_video.receipts import Receipt, StoredFile
from prefect_xai_video.stores.base import (
    Held,
    NotOverwritten,
    Overtaken,
    VideoStore,
    as_storage_error,
    aside_name,
    check_room,
    foreign,
)

MAX_RECEIPT_BYTES = 16 * 2**20
"""What is larger is not a receipt: one has a few kB."""

LEFT_BEHIND_SECONDS = 24 * 3600
"""A temporary file older than this was left behind by a crash."""

_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}


@dataclass(frozen=True, slots=True)
class _Written:
    """A receipt as a file.

    Attributes:
        path: The file.
        content: Its content.
        digest: SHA-256 of the content, which is the receipt's version.
        written_at: When it was written, by the clock of its file system.
    """

    path: Path
    content: bytes
    digest: str
    written_at: float


class LocalStore(VideoStore):
    """A directory.

    Args:
        root: The directory, as an absolute path or one that begins with `~`; it is made when the first receipt is
            written.

    Raises:
        StorageError: If the path is relative: where it leads depends on the process, and a worker's run has a
            temporary directory.
    """

    def __init__(self, root: Path) -> None:
        try:
            expanded = root.expanduser()
            if not expanded.is_absolute():
                raise StorageError(
                    f"The directory {str(root)!r} is not allowed; allowed: an absolute path, for example "
                    f"/data/videos or ~/videos. Where a relative path leads depends on the process: on a worker, to "
                    f"a temporary directory, which is removed with the video. Nothing was sent."
                )
            self.root = expanded.resolve()
        except (OSError, RuntimeError) as error:
            raise StorageError(f"The directory {str(root)!r} can't be used: {error}.") from None

    @property
    @override
    def input_root(self) -> str:
        return str(self.root)

    @override
    def uri(self, name: str) -> str:
        return self._path(name).as_uri()

    @override
    async def read(self, key: str) -> Held | None:
        return await asyncio.to_thread(self._read, key)

    @override
    async def create(self, receipt: Receipt) -> Held:
        return await asyncio.to_thread(self._create, receipt)

    @override
    async def replace(self, held: Held, receipt: Receipt) -> Held:
        return await asyncio.to_thread(self._replace, held, receipt)

    @override
    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        with as_storage_error(self.root, "read"):
            names = await asyncio.to_thread(lambda: sorted(self._names()))
        for name in names:
            key = name.removesuffix(".json")
            if key != name and key.startswith(prefix):
                yield key

    @override
    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        path = self._path(f"{key}.mp4")
        part = _beside(path)
        try:
            with as_storage_error(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            _clear_left_behind(path)
            yield part
        finally:
            part.unlink(missing_ok=True)

    @override
    async def put_video(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        return await asyncio.to_thread(self._put, held, path, file)

    @override
    async def holds_video(self, key: str, file: StoredFile) -> bool:
        return await asyncio.to_thread(self._holds, self._path(f"{key}.mp4"), file)

    @override
    async def set_aside(self, key: str) -> str | None:
        return await asyncio.to_thread(self._set_aside, key)

    @override
    @asynccontextmanager
    async def local_copy(self, key: str) -> AsyncIterator[Path]:
        yield self._path(f"{key}.mp4")

    def _path(self, name: str) -> Path:
        return self.root / name

    def _names(self) -> Iterator[str]:
        """The paths from the root to everything that is not hidden."""

        def fail(error: OSError) -> None:
            if error.filename == str(self.root) and not isinstance(error, FileNotFoundError):
                raise error

        for folder, folders, names in os.walk(self.root, onerror=fail):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in [*folders, *names]:
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def _read(self, key: str) -> Held | None:
        with as_storage_error(self._path(f"{key}.json"), "read"):
            newest = self._newest(key)
        if newest is None:
            return None
        held = self._held(key, newest.content, newest.digest, 0, newest.path.as_uri())
        return replace(held, age=_age(newest)) if held.receipt.state == "sending" else held

    def _newest(self, key: str) -> _Written | None:
        """Read the end of a key's chain."""
        newest = _read_written(self._path(f"{key}.json"))
        seen: set[str] = set()
        while newest is not None and (later := _read_written(self._successor(key, newest.digest))) is not None:
            if newest.digest in seen:
                raise StorageError(
                    f"The hidden receipts beside {self._path(key)}.json were changed by hand: they lead in a circle. "
                    f"Nothing was sent. Move them and the receipt away, and adopt the request id.",
                    key=key,
                    maybe_paid=True,
                )
            seen.add(newest.digest)
            newest = later
        return newest

    def _successor(self, key: str, digest: str) -> Path:
        path = self._path(key)
        return path.with_name(f".{path.name}.{digest[:32]}.json")

    def _create(self, receipt: Receipt) -> Held:
        key, path = receipt.key, self._path(f"{receipt.key}.json")
        with as_storage_error(path):
            if os.path.lexists(path):
                raise Overtaken
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_place(key)
            content = self._new_content(key, receipt)
            if not self._create_exclusively(key, path, content):
                raise Overtaken
        return Held(receipt, _digest(content))

    def _replace(self, held: Held, receipt: Receipt) -> Held:
        key = receipt.key
        with as_storage_error(self._path(f"{key}.json")):
            self._check_unchanged(held)
            if receipt.state == "sending" and held.receipt.state != "sending":
                self._check_place(key)
            content = self._new_content(key, receipt, held.version)
            if not self._create_exclusively(key, self._successor(key, held.version), content):
                raise Overtaken
            self._show(key)
        return Held(receipt, _digest(content))

    def _check_place(self, key: str) -> None:
        """Check that a video can be put in its place, before it is paid for."""
        path = self._path(f"{key}.mp4")
        check_room(path.parent)
        if os.path.lexists(path):
            raise foreign(path.as_uri())

    def _check_unchanged(self, held: Held) -> None:
        newest = self._newest(held.receipt.key)
        if newest is None or newest.digest != held.version:
            raise Overtaken

    def _new_content(self, key: str, receipt: Receipt, before: str = "") -> bytes:
        """Write a receipt so that it is none of the chain yet: one that recurs ends with one more empty line.

        Otherwise it would have the successor of the earlier one, and the chain would be a circle.
        """
        content = receipt.to_json()
        while (digest := _digest(content)) == before or os.path.lexists(self._successor(key, digest)):
            content += b"\n"
        return content

    def _create_exclusively(self, key: str, path: Path, content: bytes) -> bool:
        """Write a file of a key that is not there yet, in one step; False if there is another one."""
        part = _beside(self._path(f"{key}.json"))
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            is_ours = _link(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        _sync_directory(path.parent)
        return is_ours

    def _show(self, key: str) -> None:
        """Have `<key>.json` hold the end of its chain. It is best effort: nothing depends on it.

        Whoever comes late with an old receipt finds that the chain goes on, and repeats it with a newer one.
        """
        path = self._path(f"{key}.json")
        with suppress(OSError):
            while (newest := self._newest(key)) is not None and newest.path != path:
                # A copy and not a link: whoever writes into `<key>.json` must not write into the chain.
                shown = _beside(path)
                try:
                    shown.write_bytes(newest.content)
                    shown.replace(path)
                finally:
                    shown.unlink(missing_ok=True)

    def _put(self, held: Held, video: Path, file: StoredFile) -> StoredFile:
        target = self._path(f"{held.receipt.key}.mp4")
        with as_storage_error(target):
            self._check_unchanged(held)
            found = video.stat()
            if not _link(video, target):
                raise NotOverwritten(file.uri)
            # As long as both names are of one file, whoever writes to the temporary one changes the video.
            video.unlink(missing_ok=True)
            _sync_directory(target.parent)
            with suppress(FileNotFoundError):
                # Somebody else may have set it aside already.
                found = target.stat()
        if found.st_size != file.size:
            raise StorageError(f"{target} has {found.st_size} bytes instead of {file.size}.", maybe_paid=True)
        return file.model_copy(update={"version": str(found.st_mtime_ns)})

    def _holds(self, path: Path, file: StoredFile) -> bool:
        with as_storage_error(path, "read"):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
                return False
            if file.version == str(found.st_mtime_ns):
                return True
            with open_regular(path) as content:
                return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256

    def _set_aside(self, key: str) -> str | None:
        path = self._path(f"{key}.mp4")
        with as_storage_error(path, "renamed"):
            name = aside_name(key)
            while os.path.lexists(self._path(name)):
                name = aside_name(key)
            try:
                # A rename and not a link: whoever does it late moves another video, but removes none.
                path.rename(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                return None
            _sync_directory(path.parent)
        return self.uri(name)


def _read_written(path: Path) -> _Written | None:
    try:
        with open_regular(path) as file:
            content = read_to(file, MAX_RECEIPT_BYTES)
            written_at = os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _Written(path, content, _digest(content), written_at)


def _beside(path: Path) -> Path:
    """A hidden temporary name on the same file system, so that it can be moved in one step."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


def _age(written: _Written) -> float:
    """Seconds since a receipt was written, by the clock that wrote its time, which may be a file server's."""
    return max(_now(written.path) - written.written_at, 0)


def _now(path: Path) -> float:
    """The time by the clock of a file's file system, for which a temporary file is written beside it."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _clear_left_behind(path: Path) -> None:
    """Remove what a run that was killed has left beside a video and its receipts."""
    now = _now(path)
    for part in path.parent.glob(f".{path.stem}.*.part"):
        with suppress(OSError):
            if now - part.stat().st_mtime > LEFT_BEHIND_SECONDS:
                part.unlink()


def _link(source: Path, target: Path) -> bool:
    """Give a file another name, which must not be taken; False if another file has it.

    A server whose reply is lost may be asked twice and refuse its own work, so only the content tells.

    Raises:
        StorageError: If the file system has no hard links.
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
                f"The file system of {target.parent} has no hard links ({error.strerror}). Without them, two runs "
                f"could both pay for one video. Use a directory on another file system, or a bucket."
            ) from None
        raise
    return True


def _sync_directory(directory: Path) -> None:
    """Have a new name survive a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
