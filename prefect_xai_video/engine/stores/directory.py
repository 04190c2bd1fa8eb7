"""LocalStore: videos and receipts in a directory, without locks.

The receipts of a key form a chain. `<key>.json` is only the entry to it: a receipt that replaces another one is
written to a hidden file in the same directory, named after the digest of the receipt it replaces. So
`.<name>.<digest>.json` is the successor of the receipt with that digest, and the end of the chain is the current
receipt.

A successor is created by a hard link to a complete file. Of all writers that try to link the same name, exactly one
succeeds: this is the compare-and-swap. It needs no lock, no clock and no process that survives, and also works
on network file systems.

Afterwards `<key>.json` is replaced by a copy of the end of the chain, for people and tools. It does no harm if this
never happens, or if a suspended process does it late with an old receipt: readers follow the chain to its end.

Successors are never removed, because a suspended process may still have read any earlier receipt, and there is no way
to rule that out. The successor prevents such a process from replacing the receipt, and leads readers on that find the
old receipt in `<key>.json`. This costs four or five files of 2 kB per video. If the current receipt is moved away
(`<key>.json`), the key starts over; if a copy of it is restored, even an old one, the chain leads to the last receipt
again.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.engine.attempts import StoredFile
from prefect_xai_video.engine.reading import open_regular
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores.base import (
    MARKS,
    Held,
    NotOverwritten,
    VideoStore,
    WriteConflict,
    aside_name,
    foreign_file_error,
    is_receipt,
    stored_file,
)
from prefect_xai_video.engine.stores.disk import as_storage_error, check_free_space
from prefect_xai_video.engine.stores.files import (
    ReceiptFile,
    age_of,
    create_mark,
    digest_of,
    link_exclusively,
    list_marks,
    read_receipt_file,
    remove_leftovers,
    sync_directory,
    temporary_path,
)
from prefect_xai_video.errors import StorageError


class LocalStore(VideoStore):
    """A directory on this machine or on a network file system.

    Args:
        root: The directory, as an absolute path or a path that begins with `~`. It is created with the first receipt.

    Raises:
        StorageError: If the path is relative: its meaning depends on the process, and a worker's run has a temporary
            working directory.
    """

    def __init__(self, root: Path) -> None:
        try:
            expanded = root.expanduser()
            if not expanded.is_absolute():
                raise StorageError(
                    f"The directory {str(root)!r} is not allowed; allowed: an absolute path, for example "
                    f"/data/videos or ~/videos. A relative path depends on the working directory of the process: on "
                    f"a worker, that is a temporary directory, which is removed with the video. Nothing was sent."
                )
            self.root = expanded.resolve()
            self._tidied: set[Path] = set()
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
        return await run_in_thread(self._read, key)

    @override
    async def find_all(self, keys: Sequence[str]) -> list[Receipt | Exception | None]:
        # In one thread, one after the other: a call of a thread takes as long as reading a receipt.
        return await run_in_thread(lambda: [self._found(key) for key in keys])

    @override
    async def create(self, receipt: Receipt) -> Held:
        return await run_in_thread(self._create, receipt)

    @override
    async def replace(self, held: Held, receipt: Receipt) -> Held:
        return await run_in_thread(self._replace, held, receipt)

    @override
    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        with as_storage_error(self.root, "read"):
            names = await run_in_thread(lambda: sorted(self._names()))
        for name in names:
            if is_receipt(name) and name.startswith(prefix):
                yield name.removesuffix(".json")

    @override
    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        path = self._path(f"{key}.mp4")
        part = temporary_path(path)
        try:
            with as_storage_error(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers(path.parent)
            yield part
        finally:
            # On a disk that has become read-only this fails, too, and must not hide the error that reports it.
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _remove_leftovers(self, folder: Path) -> None:
        """Remove what killed runs have left behind in a folder, once: a folder may hold thousands of files."""
        if folder not in self._tidied:
            self._tidied.add(folder)
            remove_leftovers(folder)

    @override
    async def put_video(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        return await run_in_thread(self._put, held, path, file)

    @override
    async def holds_video(self, key: str, file: StoredFile) -> bool:
        return await run_in_thread(self._holds, self._path(f"{key}.mp4"), file)

    @override
    async def set_aside(self, key: str) -> str | None:
        return await run_in_thread(self._set_aside, key)

    @override
    @asynccontextmanager
    async def local_copy(self, key: str) -> AsyncIterator[Path]:
        yield self._path(f"{key}.mp4")

    @override
    async def mark(self, name: str) -> None:
        await run_in_thread(create_mark, self._path(f"{MARKS}/{name}"))

    @override
    async def unmark(self, name: str) -> None:
        with suppress(OSError):
            await run_in_thread(self._path(f"{MARKS}/{name}").unlink, missing_ok=True)

    @override
    async def marks(self, prefix: str = "") -> AsyncIterator[tuple[str, float]]:
        with as_storage_error(self.root, "read"):
            found = await run_in_thread(list, list_marks(self._path(MARKS), prefix))
        for mark in found:
            yield mark

    @override
    async def write_file(self, name: str, path: Path, content_type: str) -> str:
        return await run_in_thread(self._write_file, self._path(name), path)

    def _write_file(self, target: Path, path: Path) -> str:
        part = temporary_path(target)
        with as_storage_error(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, part)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        return target.as_uri()

    @override
    async def read_file(self, name: str, path: Path) -> bool:
        return await run_in_thread(self._read_file, self._path(name), path)

    def _read_file(self, source: Path, path: Path) -> bool:
        with as_storage_error(source, "read"):
            try:
                shutil.copyfile(source, path)
            except FileNotFoundError:
                return False
        return True

    def _path(self, name: str) -> Path:
        return self.root / name

    def _names(self) -> Iterator[str]:
        """List the paths of everything that is not hidden, relative to the root."""

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
        return replace(held, age=age_of(newest)) if held.receipt.state == "sending" else held

    def _found(self, key: str) -> Receipt | Exception | None:
        try:
            held = self._read(key)
            file = stored_file(held)
            is_in_place = file is None or self._holds(self._path(f"{key}.mp4"), file)
        except Exception as error:
            return error
        return held.receipt if held is not None and is_in_place else None

    def _newest(self, key: str) -> ReceiptFile | None:
        """Read the end of a key's chain, which is its current receipt."""
        newest = read_receipt_file(self._path(f"{key}.json"))
        seen: set[str] = set()
        while newest is not None and (later := read_receipt_file(self._successor(key, newest.digest))) is not None:
            if newest.digest in seen:
                raise StorageError(
                    f"The receipt {self._path(key)}.json can't be read: its hidden successors were changed by hand "
                    f"and form a loop. Nothing is sent for its key until it can be read. Move the receipt and its "
                    f"successors (.{self._path(key).name}.*.json) away, and adopt the request id.",
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
                raise WriteConflict
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_name_free(key)
            content = self._new_content(key, receipt)
            if not self._create_exclusively(key, path, content):
                raise WriteConflict
        return Held(receipt, digest_of(content))

    def _replace(self, held: Held, receipt: Receipt) -> Held:
        key = receipt.key
        with as_storage_error(self._path(f"{key}.json")):
            self._check_unchanged(held)
            if receipt.state == "sending" and held.receipt.state != "sending":
                self._check_name_free(key)
            content = self._new_content(key, receipt, held.version)
            if not self._create_exclusively(key, self._successor(key, held.version), content):
                raise WriteConflict
            self._show(key)
        return Held(receipt, digest_of(content))

    def _check_name_free(self, key: str) -> None:
        """Check that a video can be stored under its name, before it is paid for."""
        path = self._path(f"{key}.mp4")
        check_free_space(path.parent)
        if os.path.lexists(path):
            raise foreign_file_error(path.as_uri())

    def _check_unchanged(self, held: Held) -> None:
        newest = self._newest(held.receipt.key)
        if newest is None or newest.digest != held.version:
            raise WriteConflict

    def _new_content(self, key: str, receipt: Receipt, before: str = "") -> bytes:
        """Serialise a receipt so that its digest is new to the chain: a receipt that recurs gets extra newlines.

        Otherwise the successor of the earlier receipt would also follow this one, and the chain would be a circle.
        """
        content = receipt.to_json()
        while (digest := digest_of(content)) == before or os.path.lexists(self._successor(key, digest)):
            content += b"\n"
        return content

    def _create_exclusively(self, key: str, path: Path, content: bytes) -> bool:
        """Create a file atomically; False if another file has its name."""
        part = temporary_path(self._path(f"{key}.json"))
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            is_ours = link_exclusively(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        sync_directory(path.parent)
        return is_ours

    def _show(self, key: str) -> None:
        """Copy the end of the chain to `<key>.json`. Best effort: nothing depends on it.

        A process that is late with an old receipt then sees that the chain continues, and copies the newer one.
        """
        path = self._path(f"{key}.json")
        with suppress(OSError):
            while (newest := self._newest(key)) is not None and newest.path != path:
                # A copy, not a link: writing to `<key>.json` must not change the chain.
                copy = temporary_path(path)
                try:
                    copy.write_bytes(newest.content)
                    copy.replace(path)
                finally:
                    copy.unlink(missing_ok=True)

    @override
    async def put_file(self, name: str, path: Path, file: StoredFile) -> StoredFile:
        return await run_in_thread(self._link, self._path(name), path, file)

    @override
    async def has_file(self, name: str) -> bool:
        return await run_in_thread(os.path.lexists, self._path(name))

    def _put(self, held: Held, video: Path, file: StoredFile) -> StoredFile:
        target = self._path(f"{held.receipt.key}.mp4")
        with as_storage_error(target):
            self._check_unchanged(held)
        return self._link(target, video, file)

    def _link(self, target: Path, video: Path, file: StoredFile) -> StoredFile:
        with as_storage_error(target):
            found = video.stat()
            if not link_exclusively(video, target):
                raise NotOverwritten(file.uri)
            # While both names refer to the same file, writing to the temporary one would change the video.
            video.unlink(missing_ok=True)
            sync_directory(target.parent)
            with suppress(FileNotFoundError):
                # Another run may have set it aside already.
                found = target.stat()
        if found.st_size != file.size:
            raise StorageError(
                f"{target} was written incompletely: it has {found.st_size} bytes instead of {file.size}. Move it "
                f"away and run again with the same key.",
                maybe_paid=True,
            )
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
                # A rename, not a link and a removal: a late rename moves another video, but never deletes one.
                path.rename(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                return None
            sync_directory(path.parent)
        return self.uri(name)
