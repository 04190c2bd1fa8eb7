"""The Files API's files: uploads, and the videos that were requested with `storage_options`."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_xai_video.api.capabilities import MAX_FILE_BYTES
from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.bodies import PublicUrl
from prefect_xai_video.emulator.clock import Clock
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.videos import Video

if TYPE_CHECKING:
    from prefect_xai_video.emulator.file_state import FileState

MAX_MEDIA_BYTES = MAX_FILE_BYTES
MAX_JSONL_BYTES = 200 * 10**6
MAX_PUBLIC_URLS = 1000


@dataclass(slots=True, kw_only=True)
class PublicAccess:
    """A public URL of a file.

    Attributes:
        token: The part of the URL that nobody can guess.
        expires_at: When it expires; None if it lives as long as the file.
    """

    token: str
    expires_at: datetime | None


@dataclass(slots=True, kw_only=True)
class ApiFile:
    """A file of the Files API.

    Attributes:
        id: Its id.
        name: Its name, which need not be unique.
        size: Size in bytes.
        path: Where its content is.
        content_type: Content type.
        created_at: When it was stored.
        expires_at: When it is deleted; None for never.
        request_id: Request id of the video that it is; None for an upload.
        public: Its public URL, if it has one.
    """

    id: str
    name: str
    size: int
    path: Path
    content_type: str
    created_at: datetime
    expires_at: datetime | None = None
    request_id: str | None = None
    public: PublicAccess | None = None

    def has_expired(self, now: datetime) -> bool:
        """Whether it no longer exists."""
        return self.expires_at is not None and now >= self.expires_at

    def is_public(self, now: datetime) -> bool:
        """Whether it has a public URL that works."""
        if self.public is None or self.has_expired(now):
            return False
        return self.public.expires_at is None or now < self.public.expires_at


class Files:
    """All files of the team. Their contents are on the disk, and only facts about them in memory.

    Attributes:
        state: Persistent files; None if they end with the emulator.
    """

    def __init__(self, clock: Callable[[], Clock]) -> None:
        self._clock = clock
        self._files: dict[str, ApiFile] = {}
        self.state: FileState | None = None

    def all(self) -> Iterable[ApiFile]:
        """All files that exist."""
        now = self._clock().now()
        for file in [file for file in self._files.values() if file.has_expired(now)]:
            self._drop(file)
        if self.state is not None:
            # Another emulator with the same state directory may have stored or deleted files meanwhile.
            self._files = self.state.refreshed(self._files)
        return list(self._files.values())

    def find(self, file_id: str) -> ApiFile | None:
        """Find a file by its id."""
        if self.state is not None:
            self._files = self.state.refreshed(self._files)
        file = self._files.get(file_id)
        return None if file is None or file.has_expired(self._clock().now()) else file

    def get(self, file_id: str) -> ApiFile:
        """Find a file by its id.

        Raises:
            Refused: 404 if it does not exist.
        """
        file = self.find(file_id)
        if file is None:
            raise refusals.not_found(f"The file {file_id[:100]} does not exist.")
        return file

    def of_token(self, token: str) -> ApiFile | None:
        """Find a file by its public URL, if that works."""
        now = self._clock().now()
        return next(
            (file for file in self.all() if file.public and file.public.token == token and file.is_public(now)), None
        )

    def add(self, file: ApiFile) -> None:
        """Add a file, or replace it."""
        self._files[file.id] = file
        if self.state is not None:
            self.state.save(file)

    def delete(self, file: ApiFile) -> None:
        """Delete a file. The URL of a poll for the same video still works."""
        self._drop(file)

    def clear(self) -> None:
        """Delete all files."""
        for file in self.all():
            self._drop(file)

    def publish(self, file: ApiFile, seconds: int | None) -> PublicAccess:
        """Give a file a public URL, or its public URL another life.

        Raises:
            Refused: 400 if the URL would outlive the file, 429 if the team has too many.
        """
        now = self._clock().now()
        expires_at = None if seconds is None else now + timedelta(seconds=seconds)
        if expires_at and file.expires_at and expires_at > file.expires_at:
            raise refusals.invalid_argument(
                "public_url: expires_after must not exceed the remaining life of the file."
            )
        if not file.is_public(now):
            self.check_public_urls()
        token = file.public.token if file.public and file.is_public(now) else secrets.token_hex(16)
        file.public = PublicAccess(token=token, expires_at=expires_at or file.expires_at)
        self.add(file)
        return file.public

    def revoke(self, file: ApiFile) -> None:
        """End the public URL of a file."""
        file.public = None
        self.add(file)

    def check_public_urls(self) -> None:
        """Check that the team may have one more public URL.

        Raises:
            Refused: 429 if it has too many.
        """
        now = self._clock().now()
        if sum(file.is_public(now) for file in self.all()) >= MAX_PUBLIC_URLS:
            raise refusals.too_many_public_urls(MAX_PUBLIC_URLS)

    def keep(self, video: Video) -> None:
        """Store a video that is done, if that was requested and works."""
        storage = video.storage
        if storage is None or storage_error(video) is not None:
            return
        now, seconds = self._clock().now(), storage.expires_after
        file = ApiFile(
            id=file_id_of(video),
            name=storage.filename,
            size=video.path.stat().st_size,
            path=video.path,
            content_type="video/mp4",
            created_at=now,
            expires_at=None if seconds is None else now + timedelta(seconds=seconds),
            request_id=video.request_id,
        )
        self.add(file)
        if storage.public_url and Fault.PUBLIC_URL_FAILED not in video.faults:
            public = storage.public_url.expires_after if isinstance(storage.public_url, PublicUrl) else None
            try:
                self.publish(file, public)
            except refusals.Refused:
                # The team has got its last public URL meanwhile: `public_url_error` says so.
                return

    def _drop(self, file: ApiFile) -> None:
        self._files.pop(file.id, None)
        if file.request_id is None:
            file.path.unlink(missing_ok=True)
        if self.state is not None:
            self.state.delete(file.id)


def file_id_of(video: Video) -> str:
    """The id of the file that a video is stored as."""
    return f"file_{video.request_id}"


def storage_error(video: Video) -> str | None:
    """Why a video that is done is not stored; None if it is."""
    if Fault.STORAGE_FAILED in video.faults:
        return "The video could not be stored."
    if video.path.exists() and video.path.stat().st_size > MAX_MEDIA_BYTES:
        return f"The video exceeds the maximum file size of {MAX_MEDIA_BYTES} bytes."
    return None
