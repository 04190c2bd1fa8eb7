"""Saving: put the video of a request in its place in the store, or back there. Nothing here can pay."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefect_xai_video.download import Download
from prefect_xai_video.errors import DownloadError, RequestRejected, StorageError
from prefect_xai_video.inquiry import Inquiry
from prefect_xai_video.journal import MOST_OVERTAKEN, Journal
from prefect_xai_video.receipts import Receipt, StoredFile
from prefect_xai_video.stores import Held, NotOverwritten, Overtaken, VideoStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saving:
    """Stores videos that are done.

    Attributes:
        inquiry: Asks xAI for a video's URL.
        journal: The receipts.
    """

    inquiry: Inquiry
    journal: Journal

    @property
    def _store(self) -> VideoStore:
        return self.journal.store

    async def save(self, held: Held) -> Held:
        """Have the video of a done or stored receipt in its place.

        Raises:
            DownloadError: If it could not be fetched whole.
            StorageError: If it could not be stored, or is gone from the store and from xAI.
            GenerationError: If xAI no longer has it.
        """
        file = held.receipt.file
        if held.receipt.state == "stored":
            assert file is not None  # noqa: S101 (a stored receipt has a file)
            in_place = await self._store.holds_video(held.receipt.key, file)
            return held if in_place else await self._restore(held, file)
        return await self._save_first(held)

    async def _save_first(self, held: Held) -> Held:
        key, attempt, file = held.receipt.key, held.receipt.attempt, held.receipt.file
        if file is not None and await self._store.holds_video(key, file):
            return await self._note_stored(held, file)
        for claim in _delivery_claims(held.receipt):
            file = await self._store.take_delivery(key, claim, attempt.request_id)
            if file is not None:
                held = await self._note_stored(held, file)
                await self._store.drop_delivery(key, claim)
                return held
        if attempt.direct:
            # Somebody else may have stored it meanwhile.
            held = await self.journal.read(key)
        return held if held.receipt.state == "stored" else await self._fetch_and_store(held)

    async def _fetch_and_store(self, held: Held) -> Held:
        key, claim = held.receipt.key, held.receipt.attempt.claim
        with self._store.workspace(key) as path:
            held, download = await self._download(held, path)
            file = self._store.file(key, download)
            # A download takes its time: what somebody else has stored since is not touched.
            for _ in range(MOST_OVERTAKEN):
                held = await self.journal.change(held, lambda receipt: _saving(receipt, claim, file))
                if held.receipt.state == "stored":
                    return held
                with suppress(Overtaken):
                    return await self._note_stored(held, await self._store.put_video(held, path, file))
                held = await self.journal.read(key)
        raise StorageError(f"The receipt {self._store.receipt_uri(key)} kept changing.")

    async def _note_stored(self, held: Held, file: StoredFile) -> Held:
        claim = held.receipt.attempt.claim

        def stored(receipt: Receipt) -> Receipt:
            receipt = _saving(receipt, claim, file)
            return receipt if receipt.state == "stored" else receipt.stored(file)

        return await self.journal.change(held, stored)

    async def _download(self, held: Held, path: Path) -> tuple[Held, Download]:
        """Fetch the video; a URL that no longer works is requested again, once."""
        if held.receipt.url is not None:
            try:
                return held, await self.inquiry.client.download(held.receipt.url, path)
            except DownloadError as error:
                if error.transient:
                    raise
        if held.receipt.request_id is None:
            raise DownloadError(
                "The video that xAI had delivered is gone, and its request id is not known.", transient=False
            )
        status = await self.inquiry.status(held.receipt)
        held = await self.inquiry.note(held, status)
        if held.receipt.state in {"failed", "moderated", "expired"}:
            raise held.receipt.error()
        url = status.url.get_secret_value() if status.url else None
        return held, await self._fetch(held.receipt, status.state, url, path)

    async def _fetch(self, receipt: Receipt, state: str, url: str | None, path: Path) -> Download:
        if state == "pending":
            raise StorageError("The video is not done yet: wait for it first.")
        if url is None:
            raise DownloadError("xAI says that the video is done, but gives no URL.")
        if any(self._store.is_upload_url(url, receipt.key, claim) for claim in _delivery_claims(receipt)):
            raise DownloadError("xAI says that it has delivered the video, but it is not there.")
        return await self.inquiry.client.download(url, path)

    async def _restore(self, held: Held, lost: StoredFile) -> Held:
        """Fetch a stored video again that is missing in its place, or is not the one that was stored there."""
        key = held.receipt.key
        with self._store.workspace(key) as path:
            download = await self._fetch_again(held.receipt, lost, path)
            file = self._store.file(key, download)
            # A download takes its time: somebody else may have fetched it meanwhile.
            for _ in range(MOST_OVERTAKEN):
                with suppress(Overtaken):
                    return await self._note_restored(held, await self._put_back(held, path, file))
                held = await self.journal.read(key)
                if held.receipt.file is not None and await self._store.holds_video(key, held.receipt.file):
                    return held
        raise StorageError(f"The receipt {self._store.receipt_uri(key)} kept changing.")

    async def _put_back(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        try:
            return await self._store.put_video(held, path, file)
        except NotOverwritten:
            moved_to = await self._store.set_aside(held.receipt.key)
            logger.warning("%s was not the video that was stored there: moved to %s", file.uri, moved_to)
            return await self._store.put_video(held, path, file)

    async def _note_restored(self, held: Held, file: StoredFile) -> Held:
        logger.warning("%s was fetched from xAI again, without paying", file.uri)
        return await self.journal.change(held, lambda receipt: receipt.restored(file))

    async def _fetch_again(self, receipt: Receipt, lost: StoredFile, path: Path) -> Download:
        gone = StorageError(
            f"{lost.uri} is missing or is not the video that was stored there ({lost.size} bytes, SHA-256 "
            f"{lost.sha256}), and xAI no longer has it. Put a copy of it back, or use another key to "
            f"pay for a new one.",
            maybe_paid=True,
        )
        if receipt.request_id is None:
            raise gone
        try:
            status = await self.inquiry.status(receipt)
        except RequestRejected as error:
            if error.http_status != 404:
                raise
            raise gone from error
        if status.state not in {"done", "pending"}:
            raise gone
        url = status.url.get_secret_value() if status.url else None
        return await self._fetch(receipt, status.state, url, path)


def _delivery_claims(receipt: Receipt) -> list[str]:
    """The claims to whose places the video of the current request may have been delivered.

    A request id that a person has found may be that of any submission of unknown outcome.
    """
    attempt = receipt.attempt
    own = [attempt.claim] if attempt.direct else []
    others = [other.claim for other in receipt.undelivered] if attempt.submitted_at is None else []
    return own + others


def _saving(receipt: Receipt, claim: str, file: StoredFile) -> Receipt:
    """Note the file that is about to be put, unless somebody else has stored one already."""
    if receipt.attempt.claim != claim:
        raise StorageError("Another attempt for this key has begun meanwhile.")
    if receipt.state == "stored":
        return receipt
    if receipt.state not in {"done", "expired"}:
        raise receipt.error()
    return receipt.saving(file)
