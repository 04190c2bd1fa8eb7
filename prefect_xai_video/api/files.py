"""XaiFiles: xAI's Files API. All calls here are free, and may be repeated.

Parsing is as tolerant as that of statuses: only a file's id and name are needed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from prefect_xai_video.api.calls import ApiCalls
from prefect_xai_video.api.download import Download
from prefect_xai_video.api.pace import Pace, Urgency, paced
from prefect_xai_video.api.redaction import Redaction
from prefect_xai_video.api.replies import Reply
from prefect_xai_video.api.responses import as_object, is_request_id, parse_number, parse_time
from prefect_xai_video.api.retries import Retries
from prefect_xai_video.errors import RequestRejected

PAGE = 100
"""Files in a page: xAI's limit."""

MAX_PAGES = 1000
"""Most pages of a listing; with more, xAI's tokens must be going round in circles."""

UPLOAD_SECONDS = 300
"""Time-out of an upload in seconds: 50 MB at 1.5 Mbit/s."""

_MAX_NAME = 1000
_MAX_URL = 16_384


class RemoteFile(BaseModel):
    """A file in xAI's Files API.

    Attributes:
        id: xAI's id of the file.
        name: Its name, which need not be unique.
        size: Size in bytes, if xAI reports it.
        created_at: When it was stored, if xAI reports it.
        expires_at: When xAI deletes it, if it does.
        public_url: URL that needs no API key, if xAI reports one.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    size: int | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    public_url: str | None = None


class XaiFiles:
    """xAI's Files API.

    Args:
        calls: Sends the calls.
        retries: Number of attempts, and the waits between them.
        pace: Hands out the turns of calls; None lets none wait.
        download: Downloads a path of the API to a file, with the API key.
    """

    def __init__(
        self,
        calls: ApiCalls,
        retries: Retries,
        pace: Pace | None,
        download: Callable[[str, Path], Awaitable[Download]],
    ) -> None:
        self._calls = calls
        self._retries = retries
        self._pace = pace
        self._download = download

    async def find(self, name: str, size: int | None = None) -> RemoteFile | None:
        """Find the newest file with exactly this name; None if there is none, which proves nothing about its video.

        Args:
            name: Name of the file, without quotes and backslashes.
            size: Size in bytes that it must have; None for any.

        Raises:
            ApiError: If the files can't be listed.
        """
        # The filter is fuzzy.
        async for file in self.listed(f'name:"{name}"'):
            if file.name == name and size in (None, file.size):
                return file
        return None

    async def listed(self, filter_: str | None = None) -> AsyncIterator[RemoteFile]:
        """List files, the newest ones first.

        Args:
            filter_: xAI's filter, which is fuzzy; None for all files of the team.

        Raises:
            ApiError: If the files can't be listed.
        """
        query: dict[str, str | int] = {"limit": PAGE, "order": "desc", "sort_by": "created_at"}
        if filter_ is not None:
            query["filter"] = filter_
        for _ in range(MAX_PAGES):
            reply = await self._repeated(partial(self._calls.call, "/files", params=query))
            files, count, token = self._page(reply)
            for file in files:
                yield file
            # A token is always there: the end is a page that is not full.
            if count < PAGE or token is None or token == query.get("pagination_token"):
                return
            query["pagination_token"] = token

    def _page(self, reply: Reply) -> tuple[list[RemoteFile], int, str | None]:
        fields = as_object(reply.content)
        data, token = fields.get("data"), fields.get("pagination_token")
        token = token if isinstance(token, str) and token else None
        # An empty list may be left out.
        entries = [] if data is None and token is not None else data
        if reply.status != 200 or not isinstance(entries, list):
            raise self._calls.error(reply)
        files = [file for entry in entries if (file := parse_file(entry, self._calls.redact))]
        return files, len(entries), token

    async def get(self, file_id: str) -> RemoteFile:
        """Read the facts of a file.

        Raises:
            RequestRejected: If it does not exist.
            ApiError: If xAI gave no usable response.
        """
        return self._file(await self._repeated(partial(self._calls.call, _path(file_id))))

    async def delete(self, file_id: str) -> None:
        """Delete a file; one that does not exist counts as deleted.

        Raises:
            ApiError: If it could not be deleted.
        """
        reply = await self._repeated(partial(self._calls.call, _path(file_id), method="DELETE"), gone=True)
        if not 200 <= reply.status < 300 and reply.status != 404:
            raise self._calls.error(reply)

    async def publish(self, file_id: str) -> str | None:
        """Give a file a URL that needs no API key, at most as long as the file lives; None if xAI reports none.

        Raises:
            ApiError: If it could not be created, as beyond xAI's limit of 1000 such URLs a team.
        """
        call = partial(self._calls.call, f"{_path(file_id)}/public-url", method="POST", json={})
        reply = await self._repeated(call)
        return parse_public_url(as_object(reply.content).get("public_url"), self._calls.redact)

    async def upload(self, name: str, content: bytes, content_type: str, expires_after: int) -> RemoteFile:
        """Upload a file; an attempt that seems to have failed may leave another one, which expires as well.

        Args:
            name: Name of the file.
            content: Its content.
            content_type: Content type.
            expires_after: Lifetime in seconds.

        Raises:
            ApiError: If it could not be uploaded.
        """
        # xAI reads the parts in order.
        parts = [("expires_after", (None, str(expires_after))), ("file", (name, content, content_type))]
        upload = partial(self._calls.call, "/files", method="POST", seconds=UPLOAD_SECONDS, files=parts)
        return self._file(await self._repeated(upload))

    async def content(self, file_id: str, target: Path) -> Download:
        """Download a stored video to a file; as `XaiVideoClient.download`, with the API key.

        Raises:
            DownloadError: If it could not be downloaded completely, or is not an MP4 video.
            StorageError: If the file can't be written.
        """
        return await self._download(f"{_path(file_id)}/content", target)

    def _file(self, reply: Reply) -> RemoteFile:
        file = parse_file(as_object(reply.content), self._calls.redact) if reply.status in (200, 201) else None
        if file is None:
            raise self._calls.error(reply)
        return file

    async def _repeated(self, call: Callable[[], Awaitable[Reply]], *, gone: bool = False) -> Reply:
        """Send a call in its turn, and repeat it after transient errors."""

        async def checked() -> Reply:
            reply = await call()
            if reply.status >= 400 and not (gone and reply.status == 404):
                raise self._calls.error(reply)
            return reply

        return await self._retries.call(lambda: paced(self._pace, Urgency.LIKELY_DONE, checked))


def parse_file(entry: object, redact: Redaction) -> RemoteFile | None:
    """Parse one file of a response; None if it has no usable id and name."""
    fields = entry if isinstance(entry, Mapping) else {}
    file_id, name = fields.get("id"), fields.get("filename", fields.get("name"))
    if not is_request_id(file_id) or redact.finds_key(file_id):
        return None
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or redact.finds_key(name):
        return None
    size = parse_number(fields.get("bytes", fields.get("size")))
    return RemoteFile(
        id=file_id,
        name=name,
        size=size if size is not None and size >= 0 else None,
        created_at=parse_time(fields.get("created_at")),
        expires_at=parse_time(fields.get("expires_at")),
        public_url=parse_public_url(fields.get("public_url"), redact),
    )


def parse_public_url(value: object, redact: Redaction) -> str | None:
    """Read a public URL; None if it is not a usable one."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_URL or not (value.isascii() and value.isprintable()):
        return None
    is_web = value.startswith(("https://", "http://"))
    return value if is_web and not redact.finds_key(value) else None


def _path(file_id: str) -> str:
    if not is_request_id(file_id):
        raise RequestRejected("The id of the file is not valid.")
    return f"/files/{quote(file_id, safe='')}"
