"""First and last frames of stored videos, stored beside them as `<key>.poster.jpg` and `<key>.last.png`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.engine.apart import check_pyav
from prefect_xai_video.engine.attempts import StoredFile
from prefect_xai_video.engine.clips import ends
from prefect_xai_video.engine.journal import Journal
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import not_allowed, shown

POSTER_TYPE, PICTURE_TYPE = "image/jpeg", "image/png"


def check_stills(stills: object) -> bool:
    """Check, before anything is paid for, that stills can be made if they are wanted.

    Raises:
        InvalidRequest: If the value is not a boolean, or PyAV is not installed.
    """
    if not isinstance(stills, bool):
        raise not_allowed("stills", shown(stills), "true or false")
    if stills:
        check_pyav("stills", "True", "False without PyAV")
    return stills


@dataclass(frozen=True, slots=True)
class Stills:
    """Stores the first and the last frame of stored videos.

    Attributes:
        journal: Reads and updates the receipts.
    """

    journal: Journal

    async def store(self, receipt: Receipt) -> Receipt:
        """Store the first and the last frame of a stored video, unless they are there.

        Returns:
            The receipt, with their URIs.

        Raises:
            StorageError: If the video can't be decoded, or the files can't be stored.
        """
        if receipt.file is not None and await has_stills(self.journal.store, receipt.key, receipt.file):
            return receipt
        async with self.journal.store.local_copy(receipt.key) as path:
            pictures = await run_in_thread(ends, path)
        stills = await store_ends(self.journal.store, receipt.key, pictures)
        held = await self.journal.read(receipt.key)
        return (await self.journal.change(held, lambda found: found.with_stills(**stills))).receipt


async def has_stills(store: VideoStore, key: str, file: StoredFile) -> bool:
    """Whether the stills of a video are recorded, and there.

    Args:
        store: The store of the video.
        key: Its name there.
        file: The video as its receipt or record describes it.

    Raises:
        StorageError: If the store can't be read.
    """
    if file.last_frame is None:
        return False
    return await store.has_file(f"{key}.poster.jpg") and await store.has_file(f"{key}.last.png")


async def store_ends(store: VideoStore, key: str, pictures: tuple[bytes, bytes]) -> dict[str, str]:
    """Store the first and the last frame of a video beside it.

    Args:
        store: The store of the video.
        key: Its name there.
        pictures: The frames, as `ends` makes them.

    Returns:
        Their URIs, as a stored file records them.

    Raises:
        StorageError: If they can't be stored.
    """
    first = await store_bytes(store, key, f"{key}.poster.jpg", pictures[0], POSTER_TYPE)
    final = await store_bytes(store, key, f"{key}.last.png", pictures[1], PICTURE_TYPE)
    return {"poster": first.uri, "last_frame": final.uri}


async def store_bytes(store: VideoStore, key: str, name: str, content: bytes, content_type: str) -> StoredFile:
    """Store some bytes as a file that belongs to a video, without overwriting other content.

    Raises:
        StorageError: If they can't be stored, or another file has that name.
    """
    with store.workspace(key) as path:
        await run_in_thread(path.write_bytes, content)
        return await store_made(store, name, path, content_type)


async def store_made(store: VideoStore, name: str, path: Path, content_type: str) -> StoredFile:
    """Store a file that was made in a workspace; as `store_bytes`."""
    size, digest = await run_in_thread(_size_and_digest, path)
    file = StoredFile(uri=store.uri(name), size=size, sha256=digest, content_type=content_type)
    return await store.put_file(name, path, file)


def _size_and_digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
