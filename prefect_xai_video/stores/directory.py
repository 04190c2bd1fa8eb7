"""LocalStore: videos and receipts in a directory.

A receipt is created by a hard link, which is exclusive, and replaced by a rename under a lock. Everybody who shares
the directory must share its locks, too: a network file system without `flock` won't do.
"""

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from typing_extensions import override

from prefect_xai_video.errors import StorageError
from prefect_xai_video.receipts import Receipt, StoredFile
from prefect_xai_video.stores.base import Held, Overtaken, VideoStore, check_room, foreign, told

LEFT_BEHIND_SECONDS = 24 * 3600
"""A temporary file older than this was left behind by a crash."""


class LocalStore(VideoStore):
    """A directory.

    Args:
        root: The directory; it is made when the first receipt is written.
    """

    def __init__(self, root: Path) -> None:
        try:
            self.root = root.expanduser().resolve()
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
        with told(self.root, "read"):
            paths = await asyncio.to_thread(lambda: sorted(self.root.rglob("*.json")))
        for path in paths:
            key = path.relative_to(self.root).as_posix().removesuffix(".json")
            if key.startswith(prefix) and not any(part.startswith(".") for part in key.split("/")):
                yield key

    @override
    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        path = self._path(f"{key}.mp4")
        part = _beside(path)
        try:
            with told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            _clear_left_behind(path)
            yield part
        finally:
            part.unlink(missing_ok=True)

    @override
    async def put_video(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        await asyncio.to_thread(self._put, held, path)
        await self.check_video(held.receipt.key, file)
        return file

    @override
    async def has_video(self, key: str, file: StoredFile) -> bool:
        return await asyncio.to_thread(self._has, self._path(f"{key}.mp4"), file)

    @override
    async def check_video(self, key: str, file: StoredFile) -> None:
        path = self._path(f"{key}.mp4")
        with told(path, "read"):
            self._check_size(file, path.stat().st_size if path.is_file() else None)

    @override
    @asynccontextmanager
    async def local_copy(self, key: str) -> AsyncIterator[Path]:
        yield self._path(f"{key}.mp4")

    def _lock(self) -> FileLock:
        return FileLock(self.root / ".lock", poll_interval=0.01)

    def _path(self, name: str) -> Path:
        return self.root / name

    def _read(self, key: str) -> Held | None:
        path = self._path(f"{key}.json")
        try:
            with path.open("rb") as file:
                content = file.read()
                written_at = os.fstat(file.fileno()).st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"{path} can't be read: {error.strerror}.", key=key) from None
        held = self._held(key, content, _digest(content), 0)
        return replace(held, age=self._age(written_at)) if held.receipt.state == "sending" else held

    def _age(self, written_at: float) -> float:
        """Seconds since a file was written, by the clock that wrote its time, which may be a file server's."""
        clock = self.root / ".lock"
        try:
            clock.touch()
            return max(clock.stat().st_mtime - written_at, 0)
        except OSError:
            return max(time.time() - written_at, 0)

    def _create(self, receipt: Receipt) -> Held:
        path = self._path(f"{receipt.key}.json")
        with told(path):
            if os.path.lexists(path):
                raise Overtaken
            path.parent.mkdir(parents=True, exist_ok=True)
            check_room(self.root)
            if self._path(f"{receipt.key}.mp4").exists():
                raise foreign(self.uri(f"{receipt.key}.mp4"))
            content = receipt.to_json()
            # The lock is not needed to create, but to replace later: better it fails now than after the POST.
            with self._lock(), _written_beside(path, content) as written:
                try:
                    # A link is exclusive, and what it shows is whole.
                    os.link(written, path)
                except FileExistsError:
                    raise Overtaken from None
            _sync_directory(path.parent)
        return Held(receipt, _digest(content))

    def _replace(self, held: Held, receipt: Receipt) -> Held:
        content = receipt.to_json()
        with self._unchanged(held) as path, _written_beside(path, content) as written:
            _move(written, path)
        return Held(receipt, _digest(content))

    def _put(self, held: Held, video: Path) -> None:
        with self._unchanged(held) as receipt:
            _move(video, receipt.with_suffix(".mp4"))

    @contextmanager
    def _unchanged(self, held: Held) -> Iterator[Path]:
        """Keep the receipt that was read from changing during a block, and give its path."""
        path = self._path(f"{held.receipt.key}.json")
        with told(path), self._lock():
            if not path.exists() or _digest(path.read_bytes()) != held.version:
                raise Overtaken
            yield path

    def _has(self, path: Path, file: StoredFile) -> bool:
        with told(path, "read"):
            if not path.is_file() or path.stat().st_size != file.size:
                return False
            with path.open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _beside(path: Path) -> Path:
    """A hidden temporary name on the same file system, so that it can be moved in one step."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


def _clear_left_behind(path: Path) -> None:
    """Remove what a run that was killed has left beside a file."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > LEFT_BEHIND_SECONDS:
                part.unlink()


@contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[Path]:
    part = _beside(path)
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    source.replace(target)
    _sync_directory(target.parent)


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
