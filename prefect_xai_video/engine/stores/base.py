"""Interface of all stores.

A store gives the two guarantees on which everything else relies: of all writers that try to *create* a receipt,
exactly one succeeds; and a receipt can be *replaced* only by a writer that has read the version it replaces.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_xai_video.api.download import Download
from prefect_xai_video.engine.attempts import StoredFile, facts_of_clip
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import StorageError, not_allowed

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials

MARKS = ".open"
"""Folder of the marks of open keys."""

LOOKUPS = 16
"""Receipts that are read from a bucket at the same time."""

VIDEO_TYPE = "video/mp4"
"""Content type of delivered videos and of links; a downloaded video keeps the type that its server sent."""

MAX_RECEIPT_BYTES = 16 * 2**20
"""Largest file in bytes that can be a receipt; one has a few kB."""

MAX_COPY_BYTES = 64 * 2**20
"""Size in bytes of the largest video that is copied to this machine, for example to make its preview."""

UPLOAD_SECONDS = 6 * 3600
"""Lifetime in seconds of the URL to which xAI delivers a video; long enough for a request that waits in xAI's queue.

A URL that was signed with temporary credentials expires with them, which may be earlier.
"""


class WriteConflict(Exception):
    """A write conflict: another writer was first. Read the receipt again. Never raised outside the engine."""


@dataclass(frozen=True, slots=True)
class Held:
    """A receipt as read from the store, with the version that is needed to replace it.

    Attributes:
        receipt: The receipt.
        version: The store's identifier of this version.
        age: Seconds since it was written, by the store's own clock, since those of two machines may differ.
    """

    receipt: Receipt
    version: str
    age: float = field(default=0, compare=False)


class MisplacedReceipt(StorageError):
    """The error of a valid receipt that is stored under another key's name.

    Attributes:
        receipt: The receipt.
    """

    def __init__(self, message: str, receipt: Receipt) -> None:
        super().__init__(message, maybe_paid=True)
        self.receipt = receipt


class NotOverwritten(StorageError):
    """The error of a video that can't be stored because another file has its name."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{uri} already exists with other content and is not overwritten. Move it away and run again with the "
            f"same key: the video is then downloaded without paying again.",
            maybe_paid=True,
        )


class VideoStore(ABC):
    """Storage for videos `<key>.mp4` and their receipts `<key>.json`.

    With direct delivery, xAI uploads the video of each attempt to a separate hidden object, `.<key>.<claim>.mp4`. If
    it appears, xAI certainly accepted that attempt; and a late delivery can't touch the video that is stored.
    """

    s3_credentials: "AwsCredentials | MinIOCredentials | None" = None
    """Credentials of the store's bucket, which are also used for `s3://` inputs; None for a directory."""

    @property
    @abstractmethod
    def input_root(self) -> str:
        """The location whose files may always be inputs: the directory, or `s3://` and the name of the bucket."""

    @abstractmethod
    async def read(self, key: str) -> Held | None:
        """Read a receipt; None if there is none.

        Raises:
            StorageError: If the store can't be read, or the file is not a valid receipt.
        """

    @abstractmethod
    async def find_all(self, keys: Sequence[str]) -> list[Receipt | Exception | None]:
        """Read the receipts of many keys.

        Args:
            keys: The keys.

        Returns:
            For each key its receipt; None if it has none, or its stored video is not in place; the error if one of
            them can't be read, whatever it is: it must not spoil the others.
        """

    @abstractmethod
    async def create(self, receipt: Receipt) -> Held:
        """Create the first receipt of a key.

        Raises:
            WriteConflict: If the key already has a receipt.
            StorageError: If the store can't be written to, has too little space for a video, or has another file in
                its place.
        """

    @abstractmethod
    async def replace(self, held: Held, receipt: Receipt) -> Held:
        """Replace a receipt that was read from the store.

        Raises:
            WriteConflict: If the stored receipt has changed since it was read.
            StorageError: If the store can't be written to.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """List the keys that begin with a prefix and have a receipt, readable or not.

        Raises:
            StorageError: If the store can't be read.
        """

    @abstractmethod
    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """Provide the path of a temporary file for a download, and remove the file at the end."""

    @abstractmethod
    async def put_video(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        """Store a downloaded file atomically, without overwriting a file with other content.

        Args:
            held: The receipt, which must not have changed since it was read.
            path: The downloaded file.
            file: Size, digest and URI that the stored file will have.

        Returns:
            The stored file, with its version. If a file with the same content already exists, that one counts.

        Raises:
            WriteConflict: If the receipt has changed since it was read.
            NotOverwritten: If a file with other content has the video's name.
            StorageError: If the file can't be written.
        """

    @abstractmethod
    async def holds_video(self, key: str, file: StoredFile) -> bool:
        """Whether the store has exactly the recorded content under the video's name.

        An unchanged version is sufficient. Otherwise the digests are compared, which may mean reading the video.

        Raises:
            StorageError: If the file can't be checked.
        """

    @abstractmethod
    async def set_aside(self, key: str) -> str | None:
        """Rename the file that has the name of a key's video to `<key>.replaced-<UTC time>.mp4`, whatever it is.

        Returns:
            Its new URI; None if there was no such file.

        Raises:
            StorageError: If it can't be renamed.
        """

    @abstractmethod
    async def mark(self, name: str) -> None:
        """Create a hidden empty file `.open/<name>`; it survives a power failure.

        Raises:
            StorageError: If it can't be created.
        """

    @abstractmethod
    async def unmark(self, name: str) -> None:
        """Remove a mark. Best effort: a failure is ignored, as if it were not there."""

    @abstractmethod
    def marks(self, prefix: str = "") -> AsyncIterator[tuple[str, float]]:
        """List the marks whose names begin with a prefix, with their ages in seconds by the store's own clock.

        Raises:
            StorageError: If the store can't be read.
        """

    @abstractmethod
    async def put_file(self, name: str, path: Path, file: StoredFile) -> StoredFile:
        """Store a file that belongs to a video atomically, without overwriting a file with other content.

        Args:
            name: Its name in the store; one that no key can have.
            path: The file, in the workspace of a key.
            file: Size, digest and URI that the stored file will have.

        Returns:
            The stored file, with its version. If a file with the same content already exists, that one counts.

        Raises:
            NotOverwritten: If a file with other content has that name.
            StorageError: If the file can't be written.
        """

    @abstractmethod
    async def has_file(self, name: str) -> bool:
        """Whether there is a file of that name, whatever it is.

        Raises:
            StorageError: If the store can't be read.
        """

    @abstractmethod
    async def write_file(self, name: str, path: Path, content_type: str) -> str:
        """Write a file that is neither a video nor a receipt, and replace an earlier one.

        Args:
            name: Its name in the store; one that no key can have.
            path: The file to copy.
            content_type: Its content type.

        Returns:
            Its URI.

        Raises:
            StorageError: If it can't be written.
        """

    @abstractmethod
    async def read_file(self, name: str, path: Path) -> bool:
        """Copy a file of `write_file` to a local path, whose content is overwritten; False if there is none.

        Raises:
            StorageError: If it can't be read, or is too large to be copied to this machine (64 MiB).
        """

    @abstractmethod
    def local_copy(self, key: str) -> AbstractAsyncContextManager[Path]:
        """Provide the path of a stored video on this machine, for reading only; a copy is removed at the end.

        Raises:
            StorageError: If the video can't be read, or is too large to be copied to this machine (64 MiB).
        """

    async def link(self, key: str, seconds: int) -> str | None:
        """Create a URL with which anybody can watch a stored video.

        Args:
            key: The video's name in the store.
            seconds: Lifetime in seconds. With temporary credentials the URL expires with them, which may be earlier.

        Returns:
            The URL; None if the store has no URLs.

        Raises:
            StorageError: If the URL can't be signed.
        """
        return None

    @abstractmethod
    def uri(self, name: str) -> str:
        """Return the URI of a file in this store."""

    def file(self, key: str, download: Download) -> StoredFile:
        """Describe a downloaded file as it will be stored."""
        return StoredFile(
            uri=self.uri(f"{key}.mp4"),
            size=download.size,
            sha256=download.sha256,
            content_type=download.content_type,
            **facts_of_clip(download.clip),
        )

    async def upload_url(self, key: str, claim: str) -> str:
        """Create a signed URL to which xAI can upload the video of a claim.

        Raises:
            InvalidRequest: If the store does not support direct delivery.
        """
        raise not_allowed(
            "delivery", "'direct' with a directory", "'download', or an S3Bucket as storage that xAI can reach"
        )

    def is_upload_url(self, url: str, key: str, claim: str) -> bool:
        """Whether a URL is the one to which xAI delivers the video of a claim."""
        return False

    async def is_delivered(self, key: str, claim: str) -> bool:
        """Whether xAI has delivered the complete video of a claim."""
        return False

    async def take_delivery(self, key: str, claim: str, request_id: str | None) -> StoredFile | None:
        """Store the delivered video of a claim under the video's name, and verify it.

        Returns:
            The stored file; None if no complete video was delivered.

        Raises:
            NotOverwritten: If a file with other content has the video's name.
            StorageError: If the video can't be copied.
        """
        return None

    async def drop_delivery(self, key: str, claim: str) -> None:
        """Remove the delivered object once its video is stored. Best effort: a failure does no harm."""
        return None

    def receipt_uri(self, key: str) -> str:
        """Return the URI of a key's receipt."""
        return self.uri(f"{key}.json")

    def _held(self, key: str, content: bytes, version: str, age: float, uri: str | None = None) -> Held:
        uri = uri or self.receipt_uri(key)
        try:
            receipt = Receipt.from_json(content)
        except ValueError as error:
            raise StorageError(
                f"The receipt {uri} can't be read: {error}. Nothing is sent for its key until it can be read. It may "
                f"belong to a paid video: restore it from a copy, or move it away and adopt its request id (see the "
                f"file itself, or the log of the run).",
                key=key,
                maybe_paid=True,
            ) from None
        if receipt.key != key:
            raise MisplacedReceipt(
                f"The receipt {uri} belongs to another key, {receipt.key!r}. Check the folder of the storage, move "
                f"the receipt back to its own name, or use another key.",
                receipt,
            )
        return Held(receipt, version, age)


def stored_file(held: Held | None) -> StoredFile | None:
    """Return the file that a receipt says to be stored; None if there is none yet."""
    return held.receipt.file if held is not None and held.receipt.state == "stored" else None


def is_receipt(name: str) -> bool:
    """Whether a file name is that of a receipt, readable or not."""
    return name.endswith(".json") and not name.endswith((".report.json", ".long.json"))


def delivery_name(key: str, claim: str) -> str:
    """Return the name under which xAI delivers the video of a claim; no key begins with a dot."""
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}.{name}.{claim}.mp4"


def foreign_file_error(uri: str) -> StorageError:
    """Create the error of a file that already has the name of a video which is about to be paid for."""
    return StorageError(
        f"{uri} already exists without a receipt and is not overwritten. Nothing was sent. Use another key, or move "
        f"the file away.",
        maybe_paid=True,
    )


def missing_video_error(file: StoredFile) -> StorageError:
    """Create the error of a stored video that is missing or was replaced."""
    return StorageError(
        f"{file.uri} ({file.size} bytes, SHA-256 {file.sha256}) is missing or was replaced by another file. Run "
        f"again with the same key to download it again, as long as xAI has it, or restore it from a copy.",
        maybe_paid=True,
    )


def aside_name(key: str) -> str:
    """Create a new name for a file that has to make way for a video."""
    return f"{key}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.mp4"
