"""Files in the state directory: one record each, `<file id>.file`, next to its content."""

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from prefect_xai_video.emulator.files import ApiFile, PublicAccess
from prefect_xai_video.emulator.state import write_durably

logger = logging.getLogger(__name__)


class _Public(BaseModel):
    token: str
    expires_at: datetime | None


class _Record(BaseModel):
    """A saved file. The content is next to it, under the name `content`."""

    version: Literal[1] = 1
    team: str
    id: str
    name: str
    size: int
    content: str
    content_type: str
    created_at: datetime
    expires_at: datetime | None
    request_id: str | None
    public: _Public | None


class FileState:
    """The files of one team in a directory.

    Args:
        directory: The state directory.
        team: Id of the team; files of other teams are ignored.
    """

    def __init__(self, directory: Path, team: str) -> None:
        self._directory = directory
        self._team = team

    def refreshed(self, known: Mapping[str, ApiFile]) -> dict[str, ApiFile]:
        """Return the known files that still exist, and those that have been added to the directory."""
        files = {}
        for path in sorted(self._directory.glob("*.file")):
            file = known.get(path.stem) or self._read(path)
            if file is not None:
                files[file.id] = file
        return files

    def save(self, file: ApiFile) -> None:
        """Save a file.

        Raises:
            OSError: If it can't be written.
        """
        public = file.public and _Public(token=file.public.token, expires_at=file.public.expires_at)
        record = _Record(
            team=self._team,
            id=file.id,
            name=file.name,
            size=file.size,
            content=file.path.name,
            content_type=file.content_type,
            created_at=file.created_at,
            expires_at=file.expires_at,
            request_id=file.request_id,
            public=public,
        )
        write_durably(self._path(file.id), record.model_dump_json().encode())

    def delete(self, file_id: str) -> None:
        """Delete the record of a file."""
        self._path(file_id).unlink(missing_ok=True)

    def _path(self, file_id: str) -> Path:
        return self._directory / f"{file_id}.file"

    def _read(self, path: Path) -> ApiFile | None:
        try:
            record = _Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            logger.warning("%s can't be read: %s", path, error)
            return None
        if record.team != self._team:
            return None
        public = None
        if record.public is not None:
            public = PublicAccess(token=record.public.token, expires_at=record.public.expires_at)
        return ApiFile(
            id=record.id,
            name=record.name,
            size=record.size,
            path=self._directory / record.content,
            content_type=record.content_type,
            created_at=record.created_at,
            expires_at=record.expires_at,
            request_id=record.request_id,
            public=public,
        )
