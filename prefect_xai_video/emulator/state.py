"""The state directory: all accepted requests on disk, so that a later emulator can continue with them.

Each request is one file, `<request id>.request`, next to its video. It is replaced by a rename, so a reader never
sees a partial file, however the emulator ends. Several emulators may share a directory.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from tempfile import mkstemp
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_xai_video.emulator.chosen_faults import ChosenFaults, Marker
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.inputs import ErrorCode, RenderFailed
from prefect_xai_video.emulator.validation import AcceptedRequest
from prefect_xai_video.emulator.videos import BatchPlace, Outcome, ResultUrl, Video

logger = logging.getLogger(__name__)

_ABANDONED_SECONDS = 3600


class _Url(BaseModel):
    expires: float
    signature: str = ""
    gone: Fault | None = None


class _Failure(BaseModel):
    code: ErrorCode
    message: str


class _Record(BaseModel):
    """A saved video. Times are seconds since 1970, since a monotonic clock is not valid in another process."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    version: Literal[1] = 1
    team: str
    request_id: str
    request: AcceptedRequest
    cost_usd: Decimal
    submitted_at: datetime
    begun: float | None
    faults: dict[Fault, float]
    fault_names: tuple[str, ...]
    client_request_id: str | None = None
    place: BatchPlace | None = None
    outcome: Outcome
    finished_at: datetime | None = None
    seconds: float
    pace: float = 1
    failure: _Failure | None
    urls: list[_Url]


class State:
    """The requests of one team in a directory.

    Args:
        directory: Directory of the requests; created if it is missing.
        team: Id of the team; requests of other teams are ignored.

    Raises:
        OSError: If the directory can't be created.
    """

    def __init__(self, directory: Path, team: str) -> None:
        self._directory = directory
        self._team = team
        self._saved: dict[str, int] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()

    def load(self) -> Iterator[Video]:
        """Read all requests, oldest first. An unreadable one is logged and skipped."""
        videos = [video for path in self._directory.glob("*.request") if (video := self._read(path))]
        yield from sorted(videos, key=lambda video: video.submitted_at)

    def find(self, request_id: str) -> Video | None:
        """Read a request that another emulator may have accepted meanwhile; None if it does not exist."""
        path = self._path(request_id)
        return self._read(path) if path.exists() else None

    def save(self, video: Video) -> None:
        """Save a request, if it has changed.

        Raises:
            OSError: If it can't be written. The previously saved file remains intact.
        """
        content = _record_of(video, self._team).model_dump_json().encode()
        if self._saved.get(video.request_id) == hash(content):
            return
        write_durably(self._path(video.request_id), content)
        self._saved[video.request_id] = hash(content)

    def _read(self, path: Path) -> Video | None:
        try:
            record = _Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            logger.warning("%s can't be read: %s", path, error)
            return None
        return _video_of(record, self._directory) if record.team == self._team else None

    def _path(self, request_id: str) -> Path:
        return self._directory / f"{request_id}.request"

    def _remove_abandoned(self) -> None:
        """Remove partial files that killed emulators left behind."""
        for part in self._directory.glob("*.part"):
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                part.unlink(missing_ok=True)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Provide a temporary file, which replaces the given file if the block succeeds."""
    handle, name = mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        os.replace(part, path)  # noqa: PTH105 - tests make it fail
    finally:
        part.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file, so that its new content is on the disk.

    Raises:
        OSError: If it can't be written. The old content remains intact.
    """
    with replaced(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _record_of(video: Video, team: str) -> _Record:
    failure = video.failure
    return _Record(
        team=team,
        request_id=video.request_id,
        request=video.request,
        cost_usd=video.cost_usd,
        submitted_at=video.submitted_at,
        begun=None if video.begun is None else _to_wall_clock(video.begun),
        faults=video.faults.left,
        fault_names=tuple(video.fault_names),
        client_request_id=video.client_request_id,
        place=video.place,
        outcome=video.outcome,
        finished_at=video.finished_at,
        seconds=video.seconds,
        pace=video.pace,
        failure=_Failure(code=failure.code, message=failure.message) if failure else None,
        urls=[
            _Url(expires=_to_wall_clock(url.expires_at), signature=url.signature, gone=url.gone) for url in video.urls
        ],
    )


def _video_of(record: _Record, directory: Path) -> Video:
    failure = record.failure
    return Video(
        request_id=record.request_id,
        request=record.request,
        cost_usd=record.cost_usd,
        path=directory / f"{record.request_id}.mp4",
        submitted_at=record.submitted_at,
        begun=None if record.begun is None else min(_from_wall_clock(record.begun), time.monotonic()),
        faults=ChosenFaults(Marker(fault, times) for fault, times in record.faults.items()),
        fault_names=record.fault_names,
        client_request_id=record.client_request_id,
        place=record.place,
        outcome=record.outcome,
        finished_at=record.finished_at,
        seconds=record.seconds,
        pace=record.pace,
        failure=RenderFailed(failure.message, failure.code) if failure else None,
        urls=[
            ResultUrl(expires_at=_from_wall_clock(url.expires), signature=url.signature, gone=url.gone)
            for url in record.urls
        ],
    )


def _to_wall_clock(monotonic: float) -> float:
    # Rounded, since the clocks are read one after the other: an unchanged request is saved with equal bytes.
    return round(time.time() - time.monotonic() + monotonic, 2)


def _from_wall_clock(seconds: float) -> float:
    return seconds - time.time() + time.monotonic()
