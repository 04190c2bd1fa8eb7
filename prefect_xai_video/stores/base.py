"""What every store can do.

A store gives the two guarantees that everything else leans on: a receipt is *created* by exactly one of those who
try, and it is *replaced* only by who has read what is replaced.
"""

import errno
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_xai_video.download import Download
from prefect_xai_video.errors import InvalidRequest, StorageError
from prefect_xai_video.receipts import Receipt, StoredFile

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials

ROOM_FOR_A_VIDEO = 32 * 2**20
"""Free bytes that must be there before a video is paid for. 15 s have about 10 MB."""

MOST_COPIED = 64 * 2**20
"""Bytes of a video that is still copied to this machine in order to be looked at."""

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
"""Errors of a file server that is away for a while."""

UPLOAD_SECONDS = 6 * 3600
"""How long xAI may put a video into a store: long enough for a request that waits in its queue. A signature that was
made with the credentials of a role ends with them, which may be earlier."""


class Overtaken(Exception):
    """Somebody else wrote the receipt first. Read it again; never seen outside the engine."""


@dataclass(frozen=True, slots=True)
class Held:
    """A receipt as it lay in the store.

    Attributes:
        receipt: The receipt.
        version: What the store calls this state of it; needed to replace it.
        age: Seconds since it was written, by the store's own clock: those of two machines may differ.
    """

    receipt: Receipt
    version: str
    age: float = field(default=0, compare=False)


class Misplaced(StorageError):
    """A good receipt in a place that is not that of its key.

    Attributes:
        receipt: The receipt.
    """

    def __init__(self, message: str, receipt: Receipt) -> None:
        super().__init__(message, maybe_paid=True)
        self.receipt = receipt


class NotOverwritten(StorageError):
    """A video can't be put in its place, because another file is there."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"There is another file {uri} already: it is not overwritten. Move it away and run again with the same "
            f"key: the video is fetched, and nothing is paid again.",
            maybe_paid=True,
        )


class VideoStore(ABC):
    """A place for videos, each `<key>.mp4` with its receipt `<key>.json` beside it.

    With direct delivery, xAI puts the video of each attempt to a hidden place of its own, `.<key>.<claim>.mp4`. What
    appears there was surely accepted, and what comes there late does not touch the video that is stored.
    """

    s3_credentials: "AwsCredentials | MinIOCredentials | None" = None
    """Credentials of the store's bucket, with which `s3://` inputs are read too."""

    @property
    @abstractmethod
    def input_root(self) -> str:
        """Where all that may be an input of its videos lies: the directory, or `s3://` with the whole bucket."""

    @abstractmethod
    async def read(self, key: str) -> Held | None:
        """Read a receipt; None if there is none.

        Raises:
            StorageError: If the store can't be read, or what lies there is no receipt.
        """

    @abstractmethod
    async def create(self, receipt: Receipt) -> Held:
        """Write the first receipt of a key.

        Raises:
            Overtaken: If there is one.
            StorageError: If the store can't be written to, or has no room for a video.
        """

    @abstractmethod
    async def replace(self, held: Held, receipt: Receipt) -> Held:
        """Write a receipt in the place of the one that was read.

        Raises:
            Overtaken: If somebody has written another one since.
            StorageError: If the store can't be written to.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """List the keys that have a receipt, or something in its place, and begin with a prefix.

        Raises:
            StorageError: If the store can't be read.
        """

    @abstractmethod
    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """Give the path of a temporary file for a download, and remove it at the end."""

    @abstractmethod
    async def put_video(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        """Put a downloaded file in its place in one step, unless a file with other content is there.

        Args:
            held: The receipt, which must not have changed since.
            path: The downloaded file.
            file: Size, digest and place of the file.

        Returns:
            The file, with its version. A file with the same content that was there already counts as put.

        Raises:
            Overtaken: If somebody has written another receipt since.
            NotOverwritten: If another file is in its place.
            StorageError: If it can't be written.
        """

    @abstractmethod
    async def holds_video(self, key: str, file: StoredFile) -> bool:
        """Whether the very content of a file is in its place.

        An unchanged version is enough. Otherwise the digests are compared, for which the video may have to be read.

        Raises:
            StorageError: If that can't be found out.
        """

    @abstractmethod
    async def set_aside(self, key: str) -> str | None:
        """Rename the video of a key to `<key>.replaced-<UTC time>.mp4`, whatever it is.

        Returns:
            Its new URI; None if there was no video.

        Raises:
            StorageError: If it can't be renamed.
        """

    @abstractmethod
    def local_copy(self, key: str) -> AbstractAsyncContextManager[Path]:
        """Give the path of a stored video on this machine, to be read and not written; a copy is removed at the end.

        Raises:
            StorageError: If it can't be read, or is too large to be copied here (64 MiB).
        """

    async def link(self, key: str, seconds: int) -> str | None:
        """Make a URL that shows a stored video to whoever has it, for so many seconds at the latest.

        With the credentials of a role it ends when they do, which may be earlier.

        Returns:
            The URL; None where the store has none.

        Raises:
            StorageError: If it can't be signed.
        """
        return None

    @abstractmethod
    def uri(self, name: str) -> str:
        """The URI of a file in this store."""

    def file(self, key: str, download: Download) -> StoredFile:
        """What a downloaded file will be in its place."""
        return StoredFile(
            uri=self.uri(f"{key}.mp4"),
            size=download.size,
            sha256=download.sha256,
            content_type=download.content_type,
        )

    async def upload_url(self, key: str, claim: str) -> str:
        """Make a signed URL to which xAI can put the video of a claim.

        Raises:
            InvalidRequest: If the store has none.
        """
        raise InvalidRequest(
            "delivery: 'direct' is not allowed with a directory, which xAI can't reach; allowed: an S3Bucket as "
            "storage, or delivery='download'."
        )

    def is_upload_url(self, url: str, key: str, claim: str) -> bool:
        """Whether a URL is that of the place to which xAI delivers the video of a claim."""
        return False

    async def is_delivered(self, key: str, claim: str) -> bool:
        """Whether xAI has delivered the whole video of a claim."""
        return False

    async def take_delivery(self, key: str, claim: str, request_id: str | None) -> StoredFile | None:
        """Put the delivered video of a claim in its place, and look whether it is there.

        Returns:
            The stored file, or None if nothing was delivered, or no whole video.

        Raises:
            NotOverwritten: If another file is in its place.
            StorageError: If it can't be moved.
        """
        return None

    async def drop_delivery(self, key: str, claim: str) -> None:
        """Remove what was delivered, once it is stored. It is no harm if that fails."""
        return None

    def receipt_uri(self, key: str) -> str:
        """Where the receipt of a key lies."""
        return self.uri(f"{key}.json")

    def _held(self, key: str, content: bytes, version: str, age: float, uri: str | None = None) -> Held:
        uri = uri or self.receipt_uri(key)
        try:
            receipt = Receipt.from_json(content)
        except ValueError as error:
            raise StorageError(
                f"The receipt {uri} can't be read: {error}. Nothing was sent. It may stand for a paid video: put a "
                f"good copy of it back, or move it away and adopt its request id.",
                key=key,
                maybe_paid=True,
            ) from None
        if receipt.key != key:
            raise Misplaced(f"The receipt {uri} is that of another key, {receipt.key!r}.", receipt)
        return Held(receipt, version, age)


def delivery_name(key: str, claim: str) -> str:
    """The name to which xAI delivers the video of a claim. No key has a part that begins with a dot."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}.{name}.{claim}.mp4"


def foreign(uri: str) -> StorageError:
    """The error of a file in the place of a video that is about to be paid for."""
    return StorageError(
        f"There is a file {uri} already, but no receipt of it: it is not overwritten. Nothing was sent. Use another "
        f"key, or move it away.",
        maybe_paid=True,
    )


def lost(file: StoredFile) -> StorageError:
    """The error of a stored video that is not in its place any more."""
    return StorageError(
        f"{file.uri} should be there with {file.size} bytes and the digest {file.sha256}, but it is missing, or "
        f"another file has its name. Put it back.",
        maybe_paid=True,
    )


def aside_name(key: str) -> str:
    """A new name for a video that makes room for another one."""
    return f"{key}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.mp4"


def check_room(directory: Path) -> None:
    """Check that there is room for a video.

    Raises:
        StorageError: If there is not.
    """
    free = shutil.disk_usage(directory).free
    if free < ROOM_FOR_A_VIDEO:
        raise StorageError(
            f"{directory} has {free / 2**20:.1f} MiB free; at least {ROOM_FOR_A_VIDEO // 2**20} MiB are needed "
            f"before a video is paid for."
        )


@contextmanager
def as_storage_error(path: Path, done: str = "written") -> Iterator[None]:
    """Convert an OSError into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise StorageError(
            f"{name} can't be {done}: {error.strerror or error}.", transient=error.errno in _TRANSIENT
        ) from None
