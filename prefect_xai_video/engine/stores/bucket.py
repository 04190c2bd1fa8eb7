"""S3Store: videos and receipts in a bucket.

A receipt is created with `If-None-Match: *` and replaced with `If-Match`. A server that ignores these headers is
detected on the first claim of a process, before anything is paid for. A video is put with `If-None-Match: *`, too.

Each call ends after at most a minute, or three for a whole video, whatever the server does. Slow calls are logged.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket
from typing_extensions import override

from prefect_xai_video.api.redaction import MAX_CODE
from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.api.urls import wire_url
from prefect_xai_video.engine.attempts import StoredFile
from prefect_xai_video.engine.presigning import presigned_url
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores.base import (
    LOOKUPS,
    MARKS,
    UPLOAD_SECONDS,
    VIDEO_TYPE,
    Held,
    VideoStore,
    WriteConflict,
    aside_name,
    delivery_name,
    foreign_file_error,
    is_receipt,
    stored_file,
)
from prefect_xai_video.engine.stores.disk import as_storage_error, check_free_space
from prefect_xai_video.engine.stores.objects import BucketObjects, as_metadata, is_same_etag
from prefect_xai_video.engine.stores.s3_errors import is_transient, text_of
from prefect_xai_video.errors import StorageError

if TYPE_CHECKING:
    pass

T = TypeVar("T")

Credentials: TypeAlias = AwsCredentials | MinIOCredentials

CONNECT_SECONDS = 5
RECEIPT_SECONDS = 8
RECEIPT_ATTEMPTS = 3
VIDEO_SECONDS = 40
VIDEO_ATTEMPTS = 2
"""Time-outs of a connection and of the response to one attempt in seconds, and most attempts of a call."""

SLOW_SECONDS = 15
"""Seconds after which a slow call is logged."""

logger = logging.getLogger(__name__)


class S3Store(VideoStore):
    """A bucket on S3, or on a compatible server that honours conditional writes.

    Args:
        bucket: The bucket block; its folder precedes every key.

    Raises:
        StorageError: If the block's folder is not allowed.
    """

    def __init__(self, bucket: S3Bucket) -> None:
        parts = bucket.bucket_folder.split("/")
        if ".." in parts or "." in parts or (bucket.bucket_folder and not parts[0]):
            raise StorageError(
                f"The folder {bucket.bucket_folder!r} of bucket {bucket.bucket_name!r} is not allowed; allowed: "
                f"names separated by slashes, without . or .. and without a leading slash, for example videos/cats. "
                f"Nothing was sent."
            )
        self.bucket = bucket
        self._folder = PurePosixPath(bucket.bucket_folder)
        self.s3_credentials = self._for_receipts = _bounded(bucket.credentials, RECEIPT_SECONDS, RECEIPT_ATTEMPTS)
        self._for_videos = _bounded(bucket.credentials, VIDEO_SECONDS, VIDEO_ATTEMPTS)

    @property
    @override
    def input_root(self) -> str:
        return f"s3://{self.bucket.bucket_name}"

    @override
    def uri(self, name: str) -> str:
        return f"s3://{self.bucket.bucket_name}/{(self._folder / name).as_posix()}"

    @override
    async def read(self, key: str) -> Held | None:
        content, etag, age = await self._call(lambda objects: objects.get(f"{key}.json"))
        return None if content is None else self._held(key, content, etag, age)

    @override
    async def find_all(self, keys: Sequence[str]) -> list[Receipt | Exception | None]:
        slots = asyncio.Semaphore(LOOKUPS)

        async def find(key: str) -> Receipt | Exception | None:
            async with slots:
                try:
                    held = await self.read(key)
                    file = stored_file(held)
                    is_in_place = file is None or await self.holds_video(key, file)
                except Exception as error:
                    return error
            return held.receipt if held is not None and is_in_place else None

        return await asyncio.gather(*map(find, keys))

    @override
    async def create(self, receipt: Receipt) -> Held:
        if not await self._is_name_free(receipt):
            if await self.read(receipt.key) is not None:
                raise WriteConflict
            raise foreign_file_error(self.uri(f"{receipt.key}.mp4"))
        return await self._put_receipt(receipt, IfNoneMatch="*")

    async def _is_name_free(self, receipt: Receipt) -> bool:
        """Whether a video can be stored under its name, which is checked before the video is paid for."""
        if not receipt.attempt.direct:
            check_free_space(_temporary_directory())
        return await self._call(lambda objects: objects.size(f"{receipt.key}.mp4")) is None

    @override
    async def replace(self, held: Held, receipt: Receipt) -> Held:
        is_claim = receipt.state == "sending" and held.receipt.state != "sending"
        if is_claim and not await self._is_name_free(receipt):
            raise foreign_file_error(self.uri(f"{receipt.key}.mp4"))
        return await self._put_receipt(receipt, IfMatch=held.version)

    @override
    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        root = (self._folder / "x").as_posix()[:-1]
        for name in await self._call(lambda objects: objects.names(root + prefix)):
            key = name.removeprefix(root).removesuffix(".json")
            if is_receipt(name) and not any(part.startswith(".") for part in key.split("/")):
                yield key

    @override
    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        with (
            as_storage_error(_temporary_directory()),
            tempfile.TemporaryDirectory(prefix="xai-video-") as directory,
        ):
            yield Path(directory) / "video.mp4"

    @override
    async def put_video(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        # S3 can't make writing the video conditional on its receipt, so the receipt is checked just before.
        head = await self._call(lambda objects: objects.head(f"{held.receipt.key}.json"))
        if head is None or not is_same_etag(head["ETag"], held.version):
            raise WriteConflict
        metadata = {"request-id": as_metadata(held.receipt.request_id)}
        return await self.put_file(f"{held.receipt.key}.mp4", path, file, metadata)

    @override
    async def put_file(
        self, name: str, path: Path, file: StoredFile, metadata: Mapping[str, str] | None = None
    ) -> StoredFile:
        with as_storage_error(path, "read"):
            etag = await self._transfer(lambda objects: objects.upload(name, path, file, metadata or {}))
        return file.model_copy(update={"version": etag})

    @override
    async def has_file(self, name: str) -> bool:
        return await self._call(lambda objects: objects.head(name)) is not None

    @override
    async def holds_video(self, key: str, file: StoredFile) -> bool:
        return await self._transfer(lambda objects: objects.etag_of(f"{key}.mp4", file)) is not None

    @override
    async def mark(self, name: str) -> None:
        await self._call(lambda objects: objects.create_mark(f"{MARKS}/{name}"))

    @override
    async def unmark(self, name: str) -> None:
        with suppress(StorageError):
            await self._call(lambda objects: objects.delete(f"{MARKS}/{name}"))

    @override
    async def marks(self, prefix: str = "") -> AsyncIterator[tuple[str, float]]:
        for mark in await self._call(lambda objects: objects.marks(f"{MARKS}/", prefix)):
            yield mark

    @override
    async def write_file(self, name: str, path: Path, content_type: str) -> str:
        with as_storage_error(path, "read"):
            await self._transfer(lambda objects: objects.write(name, path, content_type))
        return self.uri(name)

    @override
    async def read_file(self, name: str, path: Path) -> bool:
        if not await self.has_file(name):
            return False
        await self._transfer(lambda objects: objects.copy(name, path))
        return True

    @override
    async def set_aside(self, key: str) -> str | None:
        name = aside_name(key)
        is_moved = await self._transfer(lambda objects: objects.move(f"{key}.mp4", name))
        return self.uri(name) if is_moved else None

    @override
    @asynccontextmanager
    async def local_copy(self, key: str) -> AsyncIterator[Path]:
        with self.workspace(key) as path:
            await self._transfer(lambda objects: objects.copy(f"{key}.mp4", path))
            yield path

    @override
    async def link(self, key: str, seconds: int) -> str | None:
        response_headers = {
            "ResponseContentType": VIDEO_TYPE,
            "ResponseContentDisposition": f'inline; filename="{key.replace("/", "-")}.mp4"',
        }
        credentials = self._for_receipts
        return await self._call(
            lambda objects: presigned_url(
                credentials, "get_object", objects.location(f"{key}.mp4") | response_headers, seconds
            )
        )

    @override
    async def upload_url(self, key: str, claim: str) -> str:
        credentials, name, content = self._for_receipts, delivery_name(key, claim), {"ContentType": VIDEO_TYPE}
        url = await self._call(
            lambda objects: presigned_url(credentials, "put_object", objects.location(name) | content, UPLOAD_SECONDS)
        )
        return wire_url(url, "storage")

    @override
    def is_upload_url(self, url: str, key: str, claim: str) -> bool:
        return unquote(urlsplit(url).path).endswith(f"/{(self._folder / delivery_name(key, claim)).as_posix()}")

    @override
    async def is_delivered(self, key: str, claim: str) -> bool:
        return await self._call(lambda objects: objects.delivered_size(delivery_name(key, claim))) is not None

    @override
    async def take_delivery(self, key: str, claim: str, request_id: str | None) -> StoredFile | None:
        return await self._transfer(lambda objects: objects.take_delivery(key, claim, request_id))

    @override
    async def drop_delivery(self, key: str, claim: str) -> None:
        with suppress(StorageError):
            await self._call(lambda objects: objects.delete(delivery_name(key, claim)))

    async def _put_receipt(self, receipt: Receipt, **condition: str) -> Held:
        etag = await self._call(lambda objects: objects.put_if(receipt, condition))
        held = Held(receipt, etag)
        if receipt.state == "sending":
            await self._check_conditional_writes(held)
        return held

    async def _check_conditional_writes(self, held: Held) -> None:
        """Check that the server honours conditional writes, by writing a claim again under failing conditions.

        The content is unchanged, so a server that ignores the conditions does no harm.

        Raises:
            StorageError: If it ignores them. The claim is then recorded as refused, since nothing will be sent.
        """
        ignored = await self._call(lambda objects: objects.ignored_condition(held.receipt))
        if ignored is None:
            return
        error = StorageError(
            f"The S3 server of bucket {self.bucket.bucket_name!r} ignores {ignored}: two runs could both pay for the "
            f"same video. Nothing was sent. Use a server that honours conditional writes, or a directory.",
            key=held.receipt.key,
        )
        with suppress(StorageError, WriteConflict):
            await self._call(lambda objects: objects.put(held.receipt.refused(error), {}))
        raise error

    async def _call(self, call: Callable[[BucketObjects], T]) -> T:
        return await self._call_with(self._for_receipts, call)

    async def _transfer(self, call: Callable[[BucketObjects], T]) -> T:
        """Make calls that may copy or read a whole video, with longer time-outs."""
        return await self._call_with(self._for_videos, call)

    async def _call_with(self, credentials: Credentials, call: Callable[[BucketObjects], T]) -> T:
        slow = asyncio.get_running_loop().call_later(
            SLOW_SECONDS,
            logger.warning,
            "Still waiting for the bucket %r after %d s.",
            self.bucket.bucket_name,
            SLOW_SECONDS,
        )
        try:
            with self._as_storage_error():
                return await run_in_thread(lambda: call(self._objects(credentials)))
        finally:
            slow.cancel()

    def _objects(self, credentials: Credentials) -> BucketObjects:
        try:
            return BucketObjects(credentials.get_s3_client(), self.bucket.bucket_name, self._folder)
        except ValueError as error:
            raise self._unusable(error) from None

    @contextmanager
    def _as_storage_error(self) -> Iterator[None]:
        """Convert an error of boto3 into a StorageError that names the bucket."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self._unusable(error) from None
        except (LookupError, TypeError, ValueError) as error:
            raise StorageError(
                f"The server of bucket {self.bucket.bucket_name!r} sent a response that S3 would not send "
                f"({type(error).__name__}: {text_of(error, self.bucket.credentials, MAX_CODE)})."
            ) from None

    def _unusable(self, error: Exception) -> StorageError:
        text = text_of(error, self.bucket.credentials)
        return StorageError(
            f"The bucket {self.bucket.bucket_name!r} can't be used: {text}.", transient=is_transient(error)
        )


def _temporary_directory() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageError(f"There is no directory for temporary files: {error.strerror}. Set TMPDIR.") from None


def credentials_of_environment() -> Credentials:
    """Return the credentials that boto3 finds itself, in environment variables, profiles and roles."""
    return AwsCredentials()


def _bounded(credentials: Credentials, read_seconds: float, attempts: int) -> Credentials:
    """Limit the time-outs and attempts of the credentials' clients; lower values in their configuration are kept.

    By default boto3 waits for a minute, up to five times.
    """
    parameters = credentials.aws_client_parameters
    config = dict(parameters.config or {})
    retries = dict(config.get("retries") or {})
    configured = retries.get("total_max_attempts") or 1 + retries.pop("max_attempts", attempts)
    config |= {
        "connect_timeout": min(config.get("connect_timeout") or CONNECT_SECONDS, CONNECT_SECONDS),
        "read_timeout": min(config.get("read_timeout") or read_seconds, read_seconds),
        "retries": retries | {"total_max_attempts": min(configured, attempts)},
    }
    return credentials.model_copy(update={"aws_client_parameters": parameters.model_copy(update={"config": config})})
