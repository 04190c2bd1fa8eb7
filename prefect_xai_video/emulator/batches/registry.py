"""All batches of the team: they are created, filled, cancelled, and expire."""

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.batches.batch import Batch
from prefect_xai_video.emulator.batches.entries import Entry
from prefect_xai_video.emulator.batches.input_file import InvalidFile, entries_in
from prefect_xai_video.emulator.batches.records import BatchRecords
from prefect_xai_video.emulator.chosen_faults import ChosenFaults
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.rate import RollingRate
from prefect_xai_video.emulator.service import Service
from prefect_xai_video.emulator.videos import BatchPlace, Video

CREATES = (2, 1.0)
"""Most batches that may be created, in so many seconds."""
ADDS = (1000, 30.0)
"""Most calls that add requests, to any batch of the team, in so many seconds."""
CANCELLED_BY_XAI = "The batch was cancelled by xAI because of a capacity shortage."

_AT_A_TIME = 100
"""Requests of a file that are taken between two steps of the server."""


class Batches:
    """The Batch API behind its routes.

    Attributes:
        service: The service that renders and bills the videos.
        records: Persistent batches; None if they end with the emulator.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.records: BatchRecords | None = None
        self._clear()

    def _clear(self) -> None:
        self.creates, self.adds = RollingRate(*CREATES), RollingRate(*ADDS)
        self._batches: dict[str, Batch] = {}
        self._readers: set[asyncio.Task[None]] = set()

    @property
    def faults(self) -> ChosenFaults:
        """Faults of the next calls."""
        return self.service.faults.of_batches

    def reset(self) -> None:
        """Forget all batches; their videos are the service's."""
        for reader in self._readers:
            reader.cancel()
        self._clear()

    def resume(self) -> None:
        """Load the batches of the state directory, and continue those that are not finished."""
        for batch in self.records.load() if self.records else ():
            self._batches[batch.id] = batch
        for video in self.service.videos.values():
            if video.place is not None and video.place.batch_id in self._batches:
                self._batches[video.place.batch_id].videos.append(video)
        for batch in self._batches.values():
            if batch.cancelled_at is not None:
                self._cancel_waiting(batch)
            else:
                self._begin_reading(batch)

    def all(self) -> list[Batch]:
        """Return all batches that exist, the newest first."""
        now = self.service.clock.now()
        existing = [batch for batch in self._batches.values() if not batch.has_expired(now)]
        return sorted(existing, key=lambda batch: batch.created_at, reverse=True)

    def get(self, batch_id: str) -> Batch:
        """Find a batch.

        Raises:
            Refused: 404 if it does not exist, or no longer.
        """
        batch = self._batches.get(batch_id)
        if batch is None or batch.has_expired(self.service.clock.now()):
            raise refusals.not_found(f"Batch {batch_id[:100]} not found.")
        return batch

    def open(self, batch_id: str) -> Batch:
        """Find a batch to which requests may be added.

        Raises:
            Refused: 404 if it does not exist, 400 if it is sealed or cancelled.
        """
        batch = self.get(batch_id)
        if batch.input_file_id is not None:
            raise refusals.invalid_argument("The batch was created from a file: no requests can be added to it.")
        if batch.cancelled_at is not None:
            raise refusals.invalid_argument("The batch is cancelled: no requests can be added to it.")
        return batch

    def create(self, name: str, input_file_id: str | None) -> Batch:
        """Create a batch, and begin to read its file if it has one.

        Raises:
            Refused: 404 if the file does not exist.
        """
        if input_file_id is not None:
            self.service.files.get(input_file_id)
        now = self.service.clock.now()
        batch = Batch(
            id=f"batch_{uuid.uuid4()}",
            name=name,
            created_at=now,
            expires_at=now + timedelta(seconds=self.service.settings.batch_ttl_seconds),
            input_file_id=input_file_id,
        )
        self._save(batch)
        self._batches[batch.id] = batch
        self._begin_reading(batch)
        return batch

    def take(self, batch: Batch, entries: Iterable[Entry], faults: Iterable[ChosenFaults]) -> None:
        """Take requests that were checked, and begin their work. One whose id is there already is one more."""
        for entry, chosen in zip(entries, faults, strict=True):
            place = BatchPlace(batch.id, entry.batch_request_id, batch.expires_at)
            batch.videos.append(self.service.take(entry.request, chosen, place=place, failure=entry.failure))

    def take_later(self, batch: Batch, entries: Sequence[Entry], faults: Sequence[ChosenFaults]) -> None:
        """Take requests whose call was lost, unless nothing can be added to the batch any more."""
        exists = self._batches.get(batch.id) is batch and not batch.has_expired(self.service.clock.now())
        if exists and batch.cancelled_at is None:
            self.take(batch, entries, faults)

    def finish_add(self, batch: Batch) -> None:
        """Cancel a batch to which requests were added, if that fault is selected."""
        if self.faults.strike(Fault.BATCH_CANCELLED_BY_XAI):
            self.cancel(batch, CANCELLED_BY_XAI)

    def cancel(self, batch: Batch, message: str | None = None) -> None:
        """Cancel a batch. Its requests that are being rendered are finished and billed.

        Args:
            batch: The batch.
            message: Why xAI cancels it; None if its owner does.
        """
        if batch.cancelled_at is None:
            batch.cancelled_at, batch.message = self.service.clock.now(), message
            self._save(batch)
            self._cancel_waiting(batch)

    def _cancel_waiting(self, batch: Batch) -> None:
        for video in batch.videos:
            if _is_waiting(video):
                self.service.cancel(video)

    def _save(self, batch: Batch) -> None:
        if self.records is not None:
            self.records.save(batch)

    def _begin_reading(self, batch: Batch) -> None:
        if batch.input_file_id is not None:
            task = asyncio.create_task(self._read(batch, batch.input_file_id))
            self._readers.add(task)
            task.add_done_callback(self._readers.discard)

    async def _read(self, batch: Batch, file_id: str) -> None:
        """Take all requests of a file, or cancel the batch if one of them is not valid."""
        try:
            entries = await asyncio.to_thread(entries_in, self.service.files.get(file_id).path)
            faults = [self.service.faults.of(entry.body) for entry in entries]
            self.service.check_credits(entry.request for entry in entries)
        except (InvalidFile, refusals.Refused) as error:
            problem = error.problem if isinstance(error, refusals.Refused) else str(error)
            self.cancel(batch, f"JSONL file validation failed: {problem}")
            return
        # An emulator that was killed may have taken some of them.
        taken = {video.place.batch_request_id for video in batch.videos if video.place}
        new = [pair for pair in zip(entries, faults, strict=True) if pair[0].batch_request_id not in taken]
        for begin in range(0, len(new), _AT_A_TIME):
            if batch.cancelled_at is not None:
                return
            for entry, chosen in new[begin : begin + _AT_A_TIME]:
                self.take(batch, [entry], [chosen])
            await asyncio.sleep(0)
        self.finish_add(batch)


def _is_waiting(video: Video) -> bool:
    return video.outcome == "pending" and video.begun is None
