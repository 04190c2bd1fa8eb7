"""Objects in a bucket: the synchronous S3 calls behind `S3Store`."""

import base64
import hashlib
import logging
from collections.abc import Mapping
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from prefect_xai_video.api.mp4 import clip_facts, problem_of_mp4
from prefect_xai_video.engine.attempts import StoredFile, facts_of_clip
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores.base import (
    MAX_COPY_BYTES,
    MAX_RECEIPT_BYTES,
    VIDEO_TYPE,
    NotOverwritten,
    WriteConflict,
    delivery_name,
    missing_video_error,
)
from prefect_xai_video.engine.stores.s3_errors import CONDITION_FAILED, code_of
from prefect_xai_video.errors import StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CopySourceTypeDef, GetObjectOutputTypeDef, HeadObjectOutputTypeDef


logger = logging.getLogger(__name__)

_verified: set[tuple[str, str]] = set()
"""Endpoints and buckets of which this process has verified that they honour conditional writes."""


class BucketObjects:
    """The objects of a store in its bucket, accessed by synchronous calls.

    Args:
        client: S3 client of boto3.
        bucket_name: Name of the bucket.
        folder: Folder that precedes every name.
    """

    def __init__(self, client: "S3Client", bucket_name: str, folder: PurePosixPath) -> None:
        self._client = client
        self._bucket_name = bucket_name
        self._folder = folder

    def location(self, name: str) -> dict[str, Any]:
        """Return bucket and key of an object, as arguments for boto3."""
        return {"Bucket": self._bucket_name, "Key": self.object_key(name)}

    def object_key(self, name: str) -> str:
        """Return the key of an object in the bucket."""
        return (self._folder / name).as_posix()

    def uri(self, name: str) -> str:
        """Return the URI of an object."""
        return f"s3://{self._bucket_name}/{self.object_key(name)}"

    def delete(self, name: str) -> None:
        """Remove an object."""
        self._client.delete_object(**self.location(name))

    def put_if(self, receipt: Receipt, condition: dict[str, Any]) -> str:
        """Write a receipt under a condition, and return its ETag.

        Raises:
            WriteConflict: If the condition does not hold.
        """
        name, content = f"{receipt.key}.json", receipt.to_json()
        try:
            return self.put(receipt, condition)
        except (ClientError, BotoCoreError) as error:
            # boto3 retries calls without a response, so a failed condition may be due to our own earlier write.
            with suppress(ClientError, BotoCoreError):
                found, etag, _ = self.get(name)
                if found == content:
                    return etag
            if code_of(error) in CONDITION_FAILED:
                raise WriteConflict from None
            raise

    def put(self, receipt: Receipt, condition: dict[str, Any]) -> str:
        """Write a receipt, and return its ETag."""
        location = self.location(f"{receipt.key}.json")
        response = self._client.put_object(
            **location, Body=receipt.to_json(), ContentType="application/json", **condition
        )
        return response.get("ETag") or self._etag(f"{receipt.key}.json")

    def _etag(self, name: str) -> str:
        """Query the ETag of an object just written, for servers that do not return it with the write."""
        head = self.head(name)
        if head is None:
            raise _vanished(self.uri(name))
        return head["ETag"]

    def ignored_condition(self, receipt: Receipt) -> str | None:
        """Write a receipt under conditions that do not hold; return the header that the server ignores, if any."""
        server = (self._client.meta.endpoint_url, self._bucket_name)
        host = urlsplit(self._client.meta.endpoint_url).hostname or ""
        if server in _verified or host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return None
        for header, condition in _FAILING_CONDITIONS.items():
            try:
                self.put(receipt, condition)
            except ClientError as error:
                if code_of(error) not in CONDITION_FAILED:
                    raise
            else:
                return header
        _verified.add(server)
        return None

    def get(self, name: str) -> tuple[bytes | None, str, float]:
        """Read a receipt.

        Returns:
            Content, ETag and age in seconds; the content is None if there is no receipt.

        Raises:
            StorageError: If the object is too large to be a receipt.
        """
        try:
            response = self._client.get_object(**self.location(name))
        except ClientError as error:
            if code_of(error) == "NoSuchKey":
                return None, "", 0
            raise
        with closing(response["Body"]) as body:
            is_too_large = response.get("ContentLength", 0) > MAX_RECEIPT_BYTES
            content = b"" if is_too_large else body.read(MAX_RECEIPT_BYTES + 1)
        if is_too_large or len(content) > MAX_RECEIPT_BYTES:
            raise StorageError(
                f"The receipt {self.uri(name)} can't be read: it has more than {MAX_RECEIPT_BYTES // 2**20} MiB, but "
                f"a receipt has a few kB. Nothing is sent for its key until it can be read. It may belong to a paid "
                f"video: restore it from a copy, or move it away and adopt its request id (see the log of the run).",
                maybe_paid=True,
            )
        return content, response["ETag"], _age(response)

    def size(self, name: str) -> int | None:
        """Query the size of an object in bytes; None if there is no object."""
        head = self.head(name)
        return None if head is None else head["ContentLength"]

    def head(self, name: str) -> "HeadObjectOutputTypeDef | None":
        """Query the metadata of an object; None if there is no object."""
        try:
            return self._client.head_object(**self.location(name))
        except ClientError as error:
            if code_of(error) in {"404", "NoSuchKey"}:
                return None
            raise

    def copy(self, name: str, path: Path) -> None:
        """Copy a video to a file.

        Raises:
            StorageError: If the video is too large.
        """
        response = self._client.get_object(**self.location(name))
        if response["ContentLength"] > MAX_COPY_BYTES:
            response["Body"].close()
            raise StorageError(
                f"{self.uri(name)} is too large to be copied to this machine: it has {response['ContentLength']} "
                f"bytes; allowed: at most {MAX_COPY_BYTES}."
            )
        with path.open("wb") as file:
            for chunk in response["Body"].iter_chunks(2**20):
                file.write(chunk)

    def source(self, name: str) -> "CopySourceTypeDef":
        """Return an object as the source of a copy, as an argument for boto3."""
        return {"Bucket": self._bucket_name, "Key": self.object_key(name)}

    def names(self, prefix: str) -> list[str]:
        """List the keys in the bucket that begin with a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket_name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def upload(self, name: str, path: Path, file: StoredFile, metadata: Mapping[str, str]) -> str:
        """Upload a file without overwriting another object, and return its ETag.

        The upload is a single request of any size, so that the condition covers the whole file and no parts can be
        left over.

        Raises:
            NotOverwritten: If an object with other content has its name.
        """
        if self.head(name) is None:
            target = self.location(name) | {"ContentType": file.content_type}
            target |= {"Metadata": {"sha256": file.sha256, **metadata}}
            try:
                with path.open("rb") as content:
                    self._client.put_object(**target, Body=content, IfNoneMatch="*")
            except (ClientError, BotoCoreError) as error:
                # boto3 retries calls without a response, so a failed condition may be due to our own earlier upload.
                with suppress(ClientError, BotoCoreError):
                    if (etag := self.etag_of(name, file)) is not None:
                        return etag
                if code_of(error) not in CONDITION_FAILED:
                    raise
        if (etag := self.etag_of(name, file)) is not None:
            return etag
        if self.head(name) is not None:
            raise NotOverwritten(file.uri)
        raise _vanished(file.uri)

    def create_mark(self, name: str) -> None:
        """Create an empty object."""
        self._client.put_object(**self.location(name), Body=b"")

    def marks(self, folder: str, prefix: str) -> list[tuple[str, float]]:
        """List the objects below a folder whose names begin with a prefix, with their ages in seconds."""
        root, found = self.object_key(f"{folder}x")[:-1], []
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket_name, Prefix=root + prefix)
        for page in pages:
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for entry in page.get("Contents", []):
                age = max((now - entry["LastModified"]).total_seconds(), 0)
                found.append((entry["Key"].removeprefix(root), age))
        return found

    def write(self, name: str, path: Path, content_type: str) -> None:
        """Write a file, and replace an earlier one."""
        with path.open("rb") as content:
            self._client.put_object(**self.location(name), Body=content, ContentType=content_type)

    def etag_of(self, name: str, file: StoredFile) -> str | None:
        """Return the ETag of an object if it has the content of a file; None if it is missing or different."""
        head = self.head(name)
        if head is None or head["ContentLength"] != file.size:
            return None
        if is_same_etag(head["ETag"], file.version):
            return head["ETag"]
        digest = head["Metadata"].get("sha256") or self.digest(name)
        return head["ETag"] if digest == file.sha256 else None

    def move(self, source: str, target: str) -> bool:
        """Rename an object; False if there is none. An object that replaces it meanwhile is not removed."""
        head = self.head(source)
        if head is None:
            return False
        try:
            self._client.copy_object(
                **self.location(target), CopySource=self.source(source), CopySourceIfMatch=head["ETag"]
            )
        except self._client.exceptions.NoSuchKey:
            return False
        with suppress(self._client.exceptions.NoSuchKey):
            self._client.delete_object(**self.location(source), IfMatch=head["ETag"])
        return True

    def take_delivery(self, key: str, claim: str, request_id: str | None) -> StoredFile | None:
        """Copy a delivered video to the video's name; None if no complete video was delivered."""
        name, target = delivery_name(key, claim), f"{key}.mp4"
        size = self.delivered_size(name)
        if size is None:
            return None
        try:
            is_free = self.head(target) is None
            digest = self.copy_delivery(name, target, request_id) if is_free else None
            if digest is None:
                digest = self.digest(name)
                if digest != self.digest(target):
                    raise NotOverwritten(self.uri(target))
        except self._client.exceptions.NoSuchKey:
            # Another run has stored the video meanwhile, and removed the delivery.
            return None
        facts = facts_of_clip(clip_facts(ObjectReader(self._client, self.location(target)), size))
        file = StoredFile(uri=self.uri(target), size=size, sha256=digest, content_type=VIDEO_TYPE, **facts)
        head = self.head(target)
        if head is None or head["ContentLength"] != size:
            raise missing_video_error(file)
        return file.model_copy(update={"version": head["ETag"]})

    def copy_delivery(self, name: str, target: str, request_id: str | None) -> str | None:
        """Copy a delivered video and return its digest; None if another object has the name by now."""
        try:
            copy = self._client.copy_object(
                **self.location(target),
                CopySource=self.source(name),
                MetadataDirective="REPLACE",
                ContentType=VIDEO_TYPE,
                Metadata={"request-id": as_metadata(request_id)} if request_id else {},
                ChecksumAlgorithm="SHA256",
                IfNoneMatch="*",
            )
        except ClientError as error:
            if code_of(error) in CONDITION_FAILED:
                return None
            raise
        digest = copy["CopyObjectResult"].get("ChecksumSHA256")
        return base64.b64decode(digest).hex() if digest else self.digest(target)

    def delivered_size(self, name: str) -> int | None:
        """Determine the size of a delivered video; None if no complete video was delivered."""
        size = self.size(name)
        if size is None:
            return None
        try:
            problem = problem_of_mp4(ObjectReader(self._client, self.location(name)), size)
        except self._client.exceptions.NoSuchKey:
            return None
        if problem is not None:
            logger.warning("The delivered object %s is not a complete MP4 video: %s.", self.uri(name), problem)
        return size if problem is None else None

    def digest(self, name: str) -> str:
        """Determine the SHA-256 of an object: from the server if it has it, otherwise by reading the object."""
        head = self._client.head_object(**self.location(name), ChecksumMode="ENABLED")
        checksum = head.get("ChecksumSHA256", "")
        # The checksum of a multipart upload is not the digest of the whole object.
        if checksum and "-" not in checksum and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
            return base64.b64decode(checksum).hex()
        digest = hashlib.sha256()
        for chunk in self._client.get_object(**self.location(name))["Body"].iter_chunks(2**20):
            digest.update(chunk)
        return digest.hexdigest()


class ObjectReader:
    """Reads parts of an object by position, as from a file.

    Args:
        client: S3 client of boto3.
        location: Bucket and key of the object.
    """

    def __init__(self, client: "S3Client", location: Mapping[str, Any]) -> None:
        self._client = client
        self._location = location
        self._position = 0

    def seek(self, position: int, /) -> None:
        """Set the position of the next read."""
        self._position = position

    def read(self, size: int, /) -> bytes:
        """Read at most so many bytes."""
        byte_range = f"bytes={self._position}-{self._position + size - 1}"
        # A server that ignores the range sends the whole object.
        with closing(self._client.get_object(**self._location, Range=byte_range)["Body"]) as body:
            return body.read(size)


_FAILING_CONDITIONS = {"If-None-Match": {"IfNoneMatch": "*"}, "If-Match": {"IfMatch": f'"{"0" * 32}"'}}


def _vanished(uri: str) -> StorageError:
    return StorageError(f"{uri} was written, but the server does not find it.", transient=True, maybe_paid=True)


def _age(response: "GetObjectOutputTypeDef") -> float:
    """Compute the seconds since an object was written, from the server's own times: its clock may be wrong."""
    try:
        now = parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
        return max((now - response["LastModified"]).total_seconds(), 0)
    except (KeyError, ValueError, TypeError):
        # Without the server's times, the age of a claim is the time for which it has been watched.
        return 0


def is_same_etag(etag: str, other: str | None) -> bool:
    """Whether two ETags identify the same content; some responses have them weak or without quotes."""
    return other is not None and _bare(etag) == _bare(other)


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def as_metadata(request_id: str | None) -> str:
    """Encode a request id as object metadata, which must be ASCII."""
    return quote(request_id or "", safe=" !#$&'()*+,-./:;=?@_~")
