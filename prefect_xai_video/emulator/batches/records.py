"""Batches in the state directory: one record each, `<batch id>.batch`; each of their requests has its own record."""

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from prefect_xai_video.emulator.batches.batch import Batch
from prefect_xai_video.emulator.state import write_durably

logger = logging.getLogger(__name__)


class _Record(BaseModel):
    version: Literal[1] = 1
    team: str
    id: str
    name: str
    created_at: datetime
    expires_at: datetime
    input_file_id: str | None
    cancelled_at: datetime | None
    message: str | None


class BatchRecords:
    """The batches of one team in a directory.

    Args:
        directory: The state directory.
        team: Id of the team; batches of other teams are ignored.
    """

    def __init__(self, directory: Path, team: str) -> None:
        self._directory = directory
        self._team = team

    def load(self) -> Iterator[Batch]:
        """Read all batches, without their requests. An unreadable one is logged and skipped."""
        for path in self._directory.glob("*.batch"):
            try:
                record = _Record.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                logger.warning("%s can't be read: %s", path, error)
                continue
            if record.team == self._team:
                yield Batch(**record.model_dump(exclude={"version", "team"}))

    def save(self, batch: Batch) -> None:
        """Save a batch without its requests.

        Raises:
            OSError: If it can't be written.
        """
        record = _Record(
            team=self._team,
            id=batch.id,
            name=batch.name,
            created_at=batch.created_at,
            expires_at=batch.expires_at,
            input_file_id=batch.input_file_id,
            cancelled_at=batch.cancelled_at,
            message=batch.message,
        )
        write_durably(self._directory / f"{batch.id}.batch", record.model_dump_json().encode())
