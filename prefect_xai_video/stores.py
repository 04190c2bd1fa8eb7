"""Where videos and their receipts lie: a local directory, or an S3 bucket.

A store gives the two guarantees that everything else leans on: a receipt is *created* by exactly one of those who
try, and it is *replaced* only by who has read what is replaced.
"""

import asyncio
import hashlib
import os
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from filelock import FileLock
from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket
from typing_extensions import override

from prefect_xai_video.client import Download
from prefect_xai_video.errors import StorageError
from prefect_xai_video.receipts import Receipt, StoredFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Storage = S3Bucket | LocalFileSystem

ROOM_FOR_A_VIDEO = 32 * 2**20
"""Free bytes that must be there before a video is paid for. 15 s have about 10 MB."""

T = TypeVar("T")


class Overtaken(Exception):
    """Somebody else wrote the receipt first. Read it again; never seen outside the engine."""


@dataclass(frozen=True, slots=True)
class Held:
    """A receipt as it lay in the store.

    Attributes:
        receipt: The receipt.
        version: What the store calls this state of it; needed to replace it.
    """

    receipt: Receipt
    version: str


class VideoStore(ABC):
    """A place for videos, each `<key>.mp4` with its receipt `<key>.json` beside it."""

    s3_credentials: AwsCredentials | MinIOCredentials | None = None
    """Credentials of the store's bucket, with which `s3://` inputs are read too."""

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
    def workspace(self, key: str) -> AbstractContextManager[Path]:
        """Give the path of a temporary file for a download, and removes it at the end."""

    @abstractmethod
    async def put_video(self, key: str, path: Path, download: Download, request_id: str) -> StoredFile:
        """Put a downloaded file in its place in one step, and look whether it is there.

        Raises:
            StorageError: If it can't be written, or is not what was written.
        """

    @abstractmethod
    async def check_video(self, key: str, file: StoredFile) -> None:
        """Look whether a stored video is still there, with the size it had.

        Raises:
            StorageError: If it is not.
        """

    @abstractmethod
    def uri(self, name: str) -> str:
        """The URI of a file in this store."""

    def receipt_uri(self, key: str) -> str:
        """Where the receipt of a key lies."""
        return self.uri(f"{key}.json")

    def _held(self, key: str, content: bytes, version: str) -> Held:
        uri = self.receipt_uri(key)
        try:
            receipt = Receipt.from_json(content)
        except ValueError as error:
            raise StorageError(
                f"The receipt {uri} can't be read: {error}. Nothing was sent. It may stand for a paid video: "
                f"mend or remove it by hand.",
                key=key,
            ) from None
        if receipt.key != key:
            raise StorageError(f"The receipt {uri} is that of another key, {receipt.key!r}.", key=key)
        return Held(receipt, version)

    def _check_size(self, file: StoredFile, size: int | None) -> None:
        if size != file.size:
            found = "is missing" if size is None else f"has {size} bytes"
            raise StorageError(
                f"The receipt says that {file.uri} is stored with {file.size} bytes, but it {found}. Put it back, "
                f"or remove the receipt to pay for a new one."
            )


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
    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        path = self._path(f"{key}.mp4")
        part = _beside(path)
        try:
            with _told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            yield part
        finally:
            part.unlink(missing_ok=True)

    @override
    async def put_video(self, key: str, path: Path, download: Download, request_id: str) -> StoredFile:
        target = self._path(f"{key}.mp4")
        file = StoredFile(
            uri=target.as_uri(),
            size=download.size,
            sha256=download.sha256,
            content_type=download.content_type,
        )
        with _told(target):
            await asyncio.to_thread(_move, path, target)
        await self.check_video(key, file)
        return file

    @override
    async def check_video(self, key: str, file: StoredFile) -> None:
        path = self._path(f"{key}.mp4")
        with _told(path, "read"):
            self._check_size(file, path.stat().st_size if path.is_file() else None)

    def _lock(self) -> FileLock:
        return FileLock(self.root / ".lock", poll_interval=0.01)

    def _path(self, name: str) -> Path:
        return self.root / name

    def _read(self, key: str) -> Held | None:
        path = self._path(f"{key}.json")
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"{path} can't be read: {error.strerror}.", key=key) from None
        return self._held(key, content, _digest(content))

    def _create(self, receipt: Receipt) -> Held:
        path = self._path(f"{receipt.key}.json")
        with _told(path):
            if os.path.lexists(path):
                raise Overtaken
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_room(self.root)
            if self._path(f"{receipt.key}.mp4").exists():
                raise _foreign(self.uri(f"{receipt.key}.mp4"))
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
        path = self._path(f"{receipt.key}.json")
        content = receipt.to_json()
        with _told(path), self._lock():
            if not path.exists() or _digest(path.read_bytes()) != held.version:
                raise Overtaken
            with _written_beside(path, content) as written:
                _move(written, path)
        return Held(receipt, _digest(content))


class S3Store(VideoStore):
    """A bucket on S3, or on a server that speaks its protocol and honours conditional writes.

    Args:
        bucket: The bucket block; its folder comes before every key.
    """

    def __init__(self, bucket: S3Bucket) -> None:
        self.bucket = bucket
        self.s3_credentials = bucket.credentials

    @override
    def uri(self, name: str) -> str:
        return f"s3://{self.bucket.bucket_name}/{self._object_key(name)}"

    @override
    async def read(self, key: str) -> Held | None:
        content, etag = await self._call(lambda client: self._get(client, f"{key}.json"))
        return None if content is None else self._held(key, content, etag)

    @override
    async def create(self, receipt: Receipt) -> Held:
        _check_room(Path(tempfile.gettempdir()))
        if await self._call(lambda client: self._size(client, f"{receipt.key}.mp4")) is not None:
            if await self.read(receipt.key) is not None:
                raise Overtaken
            raise _foreign(self.uri(f"{receipt.key}.mp4"))
        return await self._put_receipt(receipt, IfNoneMatch="*")

    @override
    async def replace(self, held: Held, receipt: Receipt) -> Held:
        return await self._put_receipt(receipt, IfMatch=held.version)

    @override
    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        with _told(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="xai-video-") as directory:
            yield Path(directory) / "video.mp4"

    @override
    async def put_video(self, key: str, path: Path, download: Download, request_id: str) -> StoredFile:
        name = f"{key}.mp4"
        file = StoredFile(
            uri=self.uri(name),
            size=download.size,
            sha256=download.sha256,
            content_type=download.content_type,
        )
        metadata = {"sha256": download.sha256, "request-id": request_id}
        # prefect-aws makes its first client on the event loop, which takes 0.2 s: have it made in a thread.
        await self._call(lambda client: None)
        with self._told():
            await self.bucket.aupload_from_path(
                path,
                name,
                ExtraArgs={"ContentType": download.content_type, "Metadata": metadata},
            )
        await self.check_video(key, file)
        return file

    @override
    async def check_video(self, key: str, file: StoredFile) -> None:
        self._check_size(file, await self._call(lambda client: self._size(client, f"{key}.mp4")))

    def _object_key(self, name: str) -> str:
        return (PurePosixPath(self.bucket.bucket_folder) / name).as_posix()

    async def _put_receipt(self, receipt: Receipt, **condition: str) -> Held:
        name = f"{receipt.key}.json"
        content = receipt.to_json()
        etag = await self._call(lambda client: self._put_if(client, name, content, condition))
        return Held(receipt, etag)

    def _put_if(self, client: "S3Client", name: str, content: bytes, condition: dict[str, Any]) -> str:
        try:
            answer = client.put_object(
                Bucket=self.bucket.bucket_name,
                Key=self._object_key(name),
                Body=content,
                ContentType="application/json",
                **condition,
            )
            return answer["ETag"]
        except (ClientError, BotoCoreError) as error:
            # boto3 sends again what was not answered: the refusal may be of our own write, whose reply was lost.
            with suppress(ClientError, BotoCoreError):
                found, etag = self._get(client, name)
                if found == content:
                    return etag
            if _code(error) in _CONDITION_FAILED:
                raise Overtaken from None
            raise

    def _get(self, client: "S3Client", name: str) -> tuple[bytes | None, str]:
        try:
            answer = client.get_object(Bucket=self.bucket.bucket_name, Key=self._object_key(name))
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                return None, ""
            raise
        return answer["Body"].read(), answer["ETag"]

    def _size(self, client: "S3Client", name: str) -> int | None:
        try:
            head = client.head_object(Bucket=self.bucket.bucket_name, Key=self._object_key(name))
            return head["ContentLength"]
        except ClientError as error:
            if _code(error) in {"404", "NoSuchKey"}:
                return None
            raise

    async def _call(self, call: Callable[["S3Client"], T]) -> T:
        with self._told():
            return await asyncio.to_thread(lambda: call(self._client()))

    def _client(self) -> "S3Client":
        try:
            return self.bucket.credentials.get_s3_client()
        except ValueError as error:
            raise StorageError(f"The bucket {self.bucket.bucket_name!r} can't be used: {error}.") from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            # An upload wraps what went wrong in an error of boto3's own.
            cause = error.__context__ if isinstance(error, Boto3Error) and error.__context__ else error
            raise StorageError(
                f"The bucket {self.bucket.bucket_name!r} can't be used: {cause}.", transient=_is_transient(cause)
            ) from None


_CONDITION_FAILED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


def open_store(storage: Storage | None, home: Path) -> VideoStore:
    """Make the store that a storage block stands for.

    Args:
        storage: An S3 bucket, a local file system, or None for `home`.
        home: Directory of this package's settings.
    """
    if isinstance(storage, S3Bucket):
        return S3Store(storage)
    if isinstance(storage, LocalFileSystem):
        return LocalStore(Path(storage.basepath or "."))
    if storage is None:
        return LocalStore(home)
    raise StorageError(f"storage: {type(storage).__name__} is not allowed; allowed: S3Bucket or LocalFileSystem.")


def _code(error: ClientError | BotoCoreError) -> str:
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def _is_transient(error: BaseException) -> bool:
    """Server errors and broken connections pass; what S3 refuses, it refuses again."""
    if isinstance(error, ClientError):
        return error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
    return isinstance(error, HTTPClientError | BotoConnectionError)


@contextmanager
def _told(path: Path, what: str = "written") -> Iterator[None]:
    """Turn what a file system refuses into one sentence about a file."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise StorageError(f"{name} can't be {what}: {error.strerror or error}.") from None


def _foreign(uri: str) -> StorageError:
    return StorageError(f"There is a file {uri} already, but no receipt: it is not overwritten. Use another key.")


def _check_room(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < ROOM_FOR_A_VIDEO:
        raise StorageError(
            f"{directory} has {free / 2**20:.1f} MiB free; at least {ROOM_FOR_A_VIDEO // 2**20} MiB are needed "
            f"before a video is paid for."
        )


def _beside(path: Path) -> Path:
    """A hidden temporary name on the same file system, so that it can be moved in one step."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


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
