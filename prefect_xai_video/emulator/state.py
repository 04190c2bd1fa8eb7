"""The state directory: all that is known of each accepted request, on disk, for a later emulator.

Each request is one file, `<request id>.request`, beside its video. It is replaced by a rename, so a reader never sees
a half-written one, however the emulator ends. Several emulators may share a directory.
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

from prefect_xai_video.emulator.faults import ChosenFaults, Fault, Marker
from prefect_xai_video.emulator.inputs import ErrorCode, RenderFailed
from prefect_xai_video.emulator.validation import AcceptedRequest
from prefect_xai_video.emulator.videos import Outcome, ResultUrl, Video

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
    """A video as it is written; times are seconds since 1970, since no other clock outlives a process."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    version: Literal[1] = 1
    team: str
    request_id: str
    request: AcceptedRequest
    cost_usd: Decimal
    submitted_at: datetime
    begun: float
    faults: dict[Fault, float]
    fault_names: tuple[str, ...]
    outcome: Outcome
    seconds: float
    failure: _Failure | None
    urls: list[_Url]


class State:
    """The requests of one team in a directory.

    Args:
        directory: Where they are; made if it is missing.
        team: Requests of other teams are left alone.

    Raises:
        OSError: If the directory can't be made.
    """

    def __init__(self, directory: Path, team: str) -> None:
        self._directory = directory
        self._team = team
        self._saved: dict[str, int] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()

    def load(self) -> Iterator[Video]:
        """Read all requests, the oldest first. One that can't be read is reported in the log and left out."""
        videos = [video for path in self._directory.glob("*.request") if (video := self._read(path))]
        yield from sorted(videos, key=lambda video: video.submitted_at)

    def find(self, request_id: str) -> Video | None:
        """Read a request that another emulator may have accepted meanwhile; None if there is none."""
        path = self._path(request_id)
        return self._read(path) if path.exists() else None

    def save(self, video: Video) -> None:
        """Write what is known of a request, unless it has not changed.

        Raises:
            OSError: If it can't be written. What was written before is whole.
        """
        content = _record_of(video, self._team).model_dump_json().encode()
        if self._saved.get(video.request_id) == hash(content):
            return
        with replaced(self._path(video.request_id)) as part, part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
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
        """Remove what emulators that were killed have left half-written."""
        for part in self._directory.glob("*.part"):
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                part.unlink(missing_ok=True)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a new file to write, which takes the place of another one if the block ends well."""
    handle, name = mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        os.replace(part, path)  # noqa: PTH105 - in tests it fails
    finally:
        part.unlink(missing_ok=True)


def _record_of(video: Video, team: str) -> _Record:
    failure = video.failure
    return _Record(
        team=team,
        request_id=video.request_id,
        request=video.request,
        cost_usd=video.cost_usd,
        submitted_at=video.submitted_at,
        begun=_to_wall_clock(video.begun),
        faults=video.faults.left,
        fault_names=tuple(video.fault_names),
        outcome=video.outcome,
        seconds=video.seconds,
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
        begun=min(_from_wall_clock(record.begun), time.monotonic()),
        faults=ChosenFaults(Marker(fault, times) for fault, times in record.faults.items()),
        fault_names=record.fault_names,
        outcome=record.outcome,
        seconds=record.seconds,
        failure=RenderFailed(failure.message, failure.code) if failure else None,
        urls=[
            ResultUrl(expires_at=_from_wall_clock(url.expires), signature=url.signature, gone=url.gone)
            for url in record.urls
        ],
    )


def _to_wall_clock(monotonic: float) -> float:
    # Rounded, since the clocks are read one after the other: a request that has not changed is written equally.
    return round(time.time() - time.monotonic() + monotonic, 2)


def _from_wall_clock(seconds: float) -> float:
    return seconds - time.time() + time.monotonic()
