"""S3Store: videos and receipts in a bucket.

A receipt is created with `If-None-Match: *` and replaced with `If-Match`. A server that ignores these headers is
detected by the first claim in a process, before anything is paid for. A video is put with `If-None-Match: *`, too.

Each call ends after a minute, or three for a whole video, whatever the server does. The log reports slow ones.
"""

import asyncio
import base64
import hashlib
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket
from typing_extensions import override

from prefect_xai_video.download import problem_of_mp4
from prefect_xai_video.errors import StorageError
from prefect_xai_video.presigning import presigned_url
from prefect_xai_video.receipts import Receipt, StoredFile
from prefect_xai_video.requests import wire_url
from prefect_xai_video.stores.base import (
    MOST_COPIED,
    UPLOAD_SECONDS,
    Held,
    NotOverwritten,
    Overtaken,
    VideoStore,
    as_storage_error,
    aside_name,
    check_room,
    delivery_name,
    foreign,
    lost,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CopySourceTypeDef, GetObjectOutputTypeDef, HeadObjectOutputTypeDef

T = TypeVar("T")

Credentials: TypeAlias = AwsCredentials | MinIOCredentials

CONNECT_SECONDS = 5
RECEIPT_SECONDS = 8
RECEIPT_ATTEMPTS = 3
VIDEO_SECONDS = 40
VIDEO_ATTEMPTS = 2
"""How long a connection, and the response to one attempt, may take, and how many attempts there are."""

SLOW_SECONDS = 15
"""A call that takes longer is reported in the log."""

logger = logging.getLogger(__name__)

_heeding: set[tuple[str, str]] = set()
"""Endpoints and buckets that were seen to heed the conditions of a write, in this process."""


class S3Store(VideoStore):
    """A bucket on S3, or on a server that speaks its protocol and heeds conditional writes.

    Args:
        bucket: The bucket block; its folder comes before every key.
    """

    def __init__(self, bucket: S3Bucket) -> None:
        parts = bucket.bucket_folder.split("/")
        if ".." in parts or "." in parts or (bucket.bucket_folder and not parts[0]):
            raise StorageError(
                f"The folder {bucket.bucket_folder!r} of bucket {bucket.bucket_name!r} is not allowed; allowed: "
                f"names divided by slashes, without . or .. and without a slash at the beginning, as in videos/cats."
            )
        self.bucket = bucket
        self.s3_credentials = self._for_receipts = _bounded(bucket.credentials, RECEIPT_SECONDS, RECEIPT_ATTEMPTS)
        self._for_videos = _bounded(bucket.credentials, VIDEO_SECONDS, VIDEO_ATTEMPTS)

    @property
    @override
    def input_root(self) -> str:
        return f"s3://{self.bucket.bucket_name}"

    @override
    def uri(self, name: str) -> str:
        return f"s3://{self.bucket.bucket_name}/{self._object_key(name)}"

    @override
    async def read(self, key: str) -> Held | None:
        content, etag, age = await self._call(lambda client: self._get(client, f"{key}.json"))
        return None if content is None else self._held(key, content, etag, age)

    @override
    async def create(self, receipt: Receipt) -> Held:
        if not await self._has_place(receipt):
            if await self.read(receipt.key) is not None:
                raise Overtaken
            raise foreign(self.uri(f"{receipt.key}.mp4"))
        return await self._put_receipt(receipt, IfNoneMatch="*")

    async def _has_place(self, receipt: Receipt) -> bool:
        """Whether a video can be put in its place, which is asked before it is paid for."""
        if not receipt.attempt.direct:
            check_room(Path(tempfile.gettempdir()))
        return await self._call(lambda client: self._size(client, f"{receipt.key}.mp4")) is None

    @override
    async def replace(self, held: Held, receipt: Receipt) -> Held:
        claims = receipt.state == "sending" and held.receipt.state != "sending"
        if claims and not await self._has_place(receipt):
            raise foreign(self.uri(f"{receipt.key}.mp4"))
        return await self._put_receipt(receipt, IfMatch=held.version)

    @override
    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        root = self._object_key("x")[:-1]
        for name in await self._call(lambda client: self._names(client, root + prefix)):
            key = name.removeprefix(root).removesuffix(".json")
            if name.endswith(".json") and not any(part.startswith(".") for part in key.split("/")):
                yield key

    @override
    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        with (
            as_storage_error(Path(tempfile.gettempdir())),
            tempfile.TemporaryDirectory(prefix="xai-video-") as directory,
        ):
            yield Path(directory) / "video.mp4"

    @override
    async def put_video(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        # S3 can't put a video on the condition that its receipt is unchanged. So the receipt is checked just before.
        head = await self._call(lambda client: self._head(client, f"{held.receipt.key}.json"))
        if head is None or head["ETag"] != held.version:
            raise Overtaken
        with as_storage_error(path, "read"):
            etag = await self._transfer(lambda client: self._upload(client, held.receipt, path, file))
        return file.model_copy(update={"version": etag})

    @override
    async def holds_video(self, key: str, file: StoredFile) -> bool:
        return await self._transfer(lambda client: self._etag_of(client, f"{key}.mp4", file)) is not None

    @override
    async def set_aside(self, key: str) -> str | None:
        name = aside_name(key)
        is_moved = await self._transfer(lambda client: self._move(client, f"{key}.mp4", name))
        return self.uri(name) if is_moved else None

    @override
    @asynccontextmanager
    async def local_copy(self, key: str) -> AsyncIterator[Path]:
        with self.workspace(key) as path:
            await self._transfer(lambda client: self._copy(client, f"{key}.mp4", path))
            yield path

    @override
    async def link(self, key: str, seconds: int) -> str | None:
        shown_as = {
            "ResponseContentType": "video/mp4",
            "ResponseContentDisposition": f'inline; filename="{key.replace("/", "-")}.mp4"',
        }
        video, credentials = self._place(f"{key}.mp4") | shown_as, self._for_receipts
        return await self._call(lambda client: presigned_url(credentials, "get_object", video, seconds))

    @override
    async def upload_url(self, key: str, claim: str) -> str:
        place = self._place(delivery_name(key, claim)) | {"ContentType": "video/mp4"}
        credentials = self._for_receipts
        url = await self._call(lambda client: presigned_url(credentials, "put_object", place, UPLOAD_SECONDS))
        return wire_url(url, "storage")

    @override
    def is_upload_url(self, url: str, key: str, claim: str) -> bool:
        return unquote(urlsplit(url).path).endswith(f"/{self._object_key(delivery_name(key, claim))}")

    @override
    async def is_delivered(self, key: str, claim: str) -> bool:
        return await self._call(lambda client: self._delivered(client, delivery_name(key, claim))) is not None

    @override
    async def take_delivery(self, key: str, claim: str, request_id: str | None) -> StoredFile | None:
        return await self._transfer(lambda client: self._take(client, key, claim, request_id))

    @override
    async def drop_delivery(self, key: str, claim: str) -> None:
        with suppress(StorageError):
            await self._call(lambda client: client.delete_object(**self._place(delivery_name(key, claim))))

    def _object_key(self, name: str) -> str:
        return (PurePosixPath(self.bucket.bucket_folder) / name).as_posix()

    def _place(self, name: str) -> dict[str, Any]:
        return {"Bucket": self.bucket.bucket_name, "Key": self._object_key(name)}

    async def _put_receipt(self, receipt: Receipt, **condition: str) -> Held:
        etag = await self._call(lambda client: self._put_if(client, receipt, condition))
        held = Held(receipt, etag)
        if receipt.state == "sending":
            await self._check_heeded(held)
        return held

    def _put_if(self, client: "S3Client", receipt: Receipt, condition: dict[str, Any]) -> str:
        name, content = f"{receipt.key}.json", receipt.to_json()
        try:
            return self._put(client, receipt, condition)
        except (ClientError, BotoCoreError) as error:
            # boto3 sends again what was not answered: the refusal may be of our own write, whose reply was lost.
            with suppress(ClientError, BotoCoreError):
                found, etag, _ = self._get(client, name)
                if found == content:
                    return etag
            if _code(error) in _CONDITION_FAILED:
                raise Overtaken from None
            raise

    def _put(self, client: "S3Client", receipt: Receipt, condition: dict[str, Any]) -> str:
        place = self._place(f"{receipt.key}.json")
        answer = client.put_object(**place, Body=receipt.to_json(), ContentType="application/json", **condition)
        return answer["ETag"]

    async def _check_heeded(self, held: Held) -> None:
        """Write a claim again under conditions that do not hold, and see whether the server refuses.

        It writes what is there already, so nothing is lost where the server does not refuse.

        Raises:
            StorageError: If it does not. The claim is then noted as refused, since nothing will be sent.
        """
        ignored = await self._call(lambda client: self._ignored_condition(client, held.receipt))
        if ignored is None:
            return
        error = StorageError(
            f"The S3 server of bucket {self.bucket.bucket_name!r} ignores {ignored}: two runs could both pay for one "
            f"video. Nothing was sent. Use a server that heeds conditional writes, or a directory.",
            key=held.receipt.key,
        )
        with suppress(StorageError, Overtaken):
            await self._call(lambda client: self._put(client, held.receipt.refused(error), {}))
        raise error

    def _ignored_condition(self, client: "S3Client", receipt: Receipt) -> str | None:
        place = (client.meta.endpoint_url, self.bucket.bucket_name)
        host = urlsplit(client.meta.endpoint_url).hostname or ""
        if place in _heeding or host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return None
        for header, condition in _CONDITIONS_THAT_FAIL.items():
            try:
                self._put(client, receipt, condition)
            except ClientError as error:
                if _code(error) not in _CONDITION_FAILED:
                    raise
            else:
                return header
        _heeding.add(place)
        return None

    def _get(self, client: "S3Client", name: str) -> tuple[bytes | None, str, float]:
        try:
            answer = client.get_object(**self._place(name))
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                return None, "", 0
            raise
        return answer["Body"].read(), answer["ETag"], _age(answer)

    def _size(self, client: "S3Client", name: str) -> int | None:
        head = self._head(client, name)
        return None if head is None else head["ContentLength"]

    def _head(self, client: "S3Client", name: str) -> "HeadObjectOutputTypeDef | None":
        try:
            return client.head_object(**self._place(name))
        except ClientError as error:
            if _code(error) in {"404", "NoSuchKey"}:
                return None
            raise

    def _copy(self, client: "S3Client", name: str, path: Path) -> None:
        answer = client.get_object(**self._place(name))
        if answer["ContentLength"] > MOST_COPIED:
            answer["Body"].close()
            raise StorageError(f"{self.uri(name)} is too large to be copied here.")
        with path.open("wb") as file:
            for piece in answer["Body"].iter_chunks(2**20):
                file.write(piece)

    def _source(self, name: str) -> "CopySourceTypeDef":
        return {"Bucket": self.bucket.bucket_name, "Key": self._object_key(name)}

    def _names(self, client: "S3Client", prefix: str) -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.bucket_name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def _upload(self, client: "S3Client", receipt: Receipt, path: Path, file: StoredFile) -> str:
        """Put a video in its place, unless another one is there, and give its ETag.

        It is one request, whatever its size: a condition holds for the whole video then, and no parts are left over.
        """
        name = f"{receipt.key}.mp4"
        if self._head(client, name) is None:
            metadata = {"sha256": file.sha256, "request-id": receipt.request_id or ""}
            place = self._place(name) | {"ContentType": file.content_type, "Metadata": metadata}
            try:
                with path.open("rb") as content:
                    client.put_object(**place, Body=content, IfNoneMatch="*")
            except (ClientError, BotoCoreError) as error:
                # boto3 repeats what was not answered: the refusal may be of our own upload, whose reply was lost.
                with suppress(ClientError, BotoCoreError):
                    if (etag := self._etag_of(client, name, file)) is not None:
                        return etag
                if _code(error) not in _CONDITION_FAILED:
                    raise
        if (etag := self._etag_of(client, name, file)) is not None:
            return etag
        if self._head(client, name) is not None:
            raise NotOverwritten(file.uri)
        raise StorageError(f"{file.uri} was put, but is not there.", transient=True, maybe_paid=True)

    def _etag_of(self, client: "S3Client", name: str, file: StoredFile) -> str | None:
        """The ETag of an object that has the content of a file; None if there is none, or another one."""
        head = self._head(client, name)
        if head is None or head["ContentLength"] != file.size:
            return None
        if head["ETag"] == file.version:
            return head["ETag"]
        digest = head["Metadata"].get("sha256") or self._digest(client, name)
        return head["ETag"] if digest == file.sha256 else None

    def _move(self, client: "S3Client", source: str, target: str) -> bool:
        """Rename an object; False if there is none. One that has been put there since is not removed."""
        head = self._head(client, source)
        if head is None:
            return False
        try:
            client.copy_object(**self._place(target), CopySource=self._source(source), CopySourceIfMatch=head["ETag"])
        except client.exceptions.NoSuchKey:
            return False
        with suppress(client.exceptions.NoSuchKey):
            client.delete_object(**self._place(source), IfMatch=head["ETag"])
        return True

    def _take(self, client: "S3Client", key: str, claim: str, request_id: str | None) -> StoredFile | None:
        name, target = delivery_name(key, claim), f"{key}.mp4"
        size = self._delivered(client, name)
        if size is None:
            return None
        try:
            is_free = self._head(client, target) is None
            digest = self._copy_delivery(client, name, target, request_id) if is_free else None
            if digest is None:
                digest = self._digest(client, name)
                if digest != self._digest(client, target):
                    raise NotOverwritten(self.uri(target))
        except client.exceptions.NoSuchKey:
            # Somebody else has stored it meanwhile, and removed what was delivered.
            return None
        file = StoredFile(uri=self.uri(target), size=size, sha256=digest, content_type="video/mp4")
        head = self._head(client, target)
        if head is None or head["ContentLength"] != size:
            raise lost(file)
        return file.model_copy(update={"version": head["ETag"]})

    def _copy_delivery(self, client: "S3Client", name: str, target: str, request_id: str | None) -> str | None:
        """Copy a delivered video and give its digest; None if another object has come first."""
        try:
            copy = client.copy_object(
                **self._place(target),
                CopySource=self._source(name),
                MetadataDirective="REPLACE",
                ContentType="video/mp4",
                Metadata={"request-id": request_id} if request_id else {},
                ChecksumAlgorithm="SHA256",
                IfNoneMatch="*",
            )
        except ClientError as error:
            if _code(error) in _CONDITION_FAILED:
                return None
            raise
        digest = copy["CopyObjectResult"].get("ChecksumSHA256")
        return base64.b64decode(digest).hex() if digest else self._digest(client, target)

    def _delivered(self, client: "S3Client", name: str) -> int | None:
        """The size of what xAI has delivered; None if there is nothing, or what is there is no whole video."""
        size = self._size(client, name)
        if size is None:
            return None
        try:
            problem = problem_of_mp4(_Ranges(client, self._place(name)), size)
        except client.exceptions.NoSuchKey:
            return None
        if problem is not None:
            logger.warning("What was delivered to %s is no whole MP4 video: %s", self.uri(name), problem)
        return size if problem is None else None

    def _digest(self, client: "S3Client", name: str) -> str:
        """The SHA-256 of an object as the server knows it, or else by reading the object."""
        head = client.head_object(**self._place(name), ChecksumMode="ENABLED")
        checksum = head.get("ChecksumSHA256", "")
        # That of several parts is not that of the whole.
        if checksum and "-" not in checksum and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
            return base64.b64decode(checksum).hex()
        digest = hashlib.sha256()
        for chunk in client.get_object(**self._place(name))["Body"].iter_chunks(2**20):
            digest.update(chunk)
        return digest.hexdigest()

    async def _call(self, call: Callable[["S3Client"], T]) -> T:
        return await self._call_with(self._for_receipts, call)

    async def _transfer(self, call: Callable[["S3Client"], T]) -> T:
        """Make calls that may copy or read a whole video."""
        return await self._call_with(self._for_videos, call)

    async def _call_with(self, credentials: Credentials, call: Callable[["S3Client"], T]) -> T:
        slow = asyncio.get_running_loop().call_later(
            SLOW_SECONDS,
            logger.warning,
            "Still waiting for the bucket %r after %d s",
            self.bucket.bucket_name,
            SLOW_SECONDS,
        )
        try:
            with self._as_storage_error():
                return await asyncio.to_thread(lambda: call(self._client(credentials)))
        finally:
            slow.cancel()

    def _client(self, credentials: Credentials) -> "S3Client":
        try:
            return credentials.get_s3_client()
        except ValueError as error:
            raise StorageError(f"The bucket {self.bucket.bucket_name!r} can't be used: {error}.") from None

    @contextmanager
    def _as_storage_error(self) -> Iterator[None]:
        """Convert an error of boto3 into a StorageError that names the bucket."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise StorageError(
                f"The bucket {self.bucket.bucket_name!r} can't be used: {error}.", transient=_is_transient(error)
            ) from None


def _bounded(credentials: Credentials, read_seconds: float, attempts: int) -> Credentials:
    """Bound the time-outs and attempts of credentials' clients, unless their own configuration has less.

    Left to itself, boto3 waits for a minute, five times over.
    """
    parameters = credentials.aws_client_parameters
    config = dict(parameters.config or {})
    retries = dict(config.get("retries") or {})
    theirs = retries.get("total_max_attempts") or 1 + retries.pop("max_attempts", attempts)
    config |= {
        "connect_timeout": min(config.get("connect_timeout") or CONNECT_SECONDS, CONNECT_SECONDS),
        "read_timeout": min(config.get("read_timeout") or read_seconds, read_seconds),
        "retries": retries | {"total_max_attempts": min(theirs, attempts)},
    }
    return credentials.model_copy(update={"aws_client_parameters": parameters.model_copy(update={"config": config})})


class _Ranges:
    """Reads parts of an object, as from a file."""

    def __init__(self, client: "S3Client", place: dict[str, Any]) -> None:
        self._client = client
        self._object = place
        self._place = 0

    def seek(self, place: int, /) -> None:
        self._place = place

    def read(self, size: int, /) -> bytes:
        parts = f"bytes={self._place}-{self._place + size - 1}"
        return self._client.get_object(**self._object, Range=parts)["Body"].read()


_CONDITION_FAILED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_CONDITIONS_THAT_FAIL = {"If-None-Match": {"IfNoneMatch": "*"}, "If-Match": {"IfMatch": f'"{"0" * 32}"'}}


def _age(answer: "GetObjectOutputTypeDef") -> float:
    """Seconds since an object was written. Both times are the server's, so its clock need not be right."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    now = parsedate_to_datetime(date) if date else datetime.now(UTC)
    return max((now - answer["LastModified"]).total_seconds(), 0)


def _code(error: ClientError | BotoCoreError) -> str:
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def _is_transient(error: BaseException) -> bool:
    """Server errors and broken connections pass; what S3 refuses, it refuses again."""
    if isinstance(error, ClientError):
        return error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
    return isinstance(error, HTTPClientError | BotoConnectionError)
