"""Storing of finished videos, and restoring of stored ones that are missing. Nothing here can cost money."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from prefect_xai_video.api.download import Download
from prefect_xai_video.engine.attempts import StoredFile, XaiFile
from prefect_xai_video.engine.inquiry import Inquiry
from prefect_xai_video.engine.journal import Journal
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held, NotOverwritten, VideoStore
from prefect_xai_video.errors import DownloadError, RequestRejected, StorageError, XaiVideoError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saving:
    """Stores videos that are done.

    Attributes:
        inquiry: Polls xAI for a video's URL.
        journal: Reads and updates the receipts.
    """

    inquiry: Inquiry
    journal: Journal

    @property
    def _store(self) -> VideoStore:
        return self.journal.store

    async def save(self, held: Held) -> Held:
        """Store the video of a receipt in state `done`, or restore a missing one of a receipt in state `stored`.

        The video's file in xAI's Files API is deleted then, unless it is to be kept.

        Raises:
            DownloadError: If the video could not be downloaded completely.
            StorageError: If it could not be stored, or is missing from the store and from xAI.
            GenerationError: If xAI no longer has it.
        """
        file = held.receipt.file
        if held.receipt.state == "stored":
            assert file is not None  # noqa: S101 (a stored receipt has a file)
            if not await self._store.holds_video(held.receipt.key, file):
                return await self._restore(held, file)
            is_complete = held.receipt.xai_file is None or held.receipt.xai_file.is_complete
            return held if is_complete else await self._settle_xai_file(held)
        return await self._settle_xai_file(await self._save_first(held))

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
            # Another run may have stored it meanwhile.
            held = await self.journal.read(key)
        if held.receipt.state == "stored":
            return held
        try:
            return await self._fetch_and_store(held)
        except DownloadError as error:
            # Another run may have stored it meanwhile, and deleted its file at xAI.
            held = await self.journal.read(key)
            if held.receipt.state != "stored":
                if error.http_status in (404, 410) and held.receipt.request_id is None:
                    held = await self.inquiry.record_file_gone(held)
                    raise held.receipt.error() from None
                raise
            return held

    async def _settle_xai_file(self, held: Held) -> Held:
        """Delete the file of a stored video at xAI, or record what it has become there. Best effort."""
        file = held.receipt.xai_file
        if file is None:
            return held
        try:
            known = file if file.id else await self._looked_up(file)
            if file.keep:
                return await self._record_kept(held, known)
            if known.id is not None:
                await self.inquiry.client.files.delete(known.id)
        except XaiVideoError as error:
            problem = "completed" if file.keep else "deleted"
            key = held.receipt.key
            logger.warning("The file %s of key %s could not be %s at xAI: %s", file.name, key, problem, error)
        return held

    async def _looked_up(self, file: XaiFile) -> XaiFile:
        found = await self.inquiry.client.files.find(file.name)
        return file.reported(found.id, found.public_url) if found else file

    async def _record_kept(self, held: Held, file: XaiFile) -> Held:
        claim = held.receipt.attempt.claim
        if file.id is None:
            logger.warning("xAI has not kept the video of key %s in its Files API", held.receipt.key)
        elif file.is_public and file.public_url is None:
            file = file.reported(file.id, await self.inquiry.client.files.publish(file.id))
        return await self.journal.change(
            held, lambda receipt: receipt.kept(file) if receipt.attempt.claim == claim else receipt
        )

    async def _fetch_and_store(self, held: Held) -> Held:
        key, claim = held.receipt.key, held.receipt.attempt.claim
        with self._store.workspace(key) as path:
            held, download = await self._download(held, path)
            file = self._store.file(key, download)

            async def put() -> Held:
                # Another run may have stored the video during the download; its file stays untouched.
                current = await self.journal.read(key)
                current = await self.journal.change(current, lambda receipt: _saving(receipt, claim, file))
                if current.receipt.state == "stored":
                    return current
                return await self._note_stored(current, await self._store.put_video(current, path, file))

            return await self.journal.resolve_conflicts(key, put)

    async def _note_stored(self, held: Held, file: StoredFile) -> Held:
        claim = held.receipt.attempt.claim

        def stored(receipt: Receipt) -> Receipt:
            receipt = _saving(receipt, claim, file)
            return receipt if receipt.state == "stored" else receipt.stored(file)

        return await self.journal.change(held, stored)

    async def _download(self, held: Held, path: Path) -> tuple[Held, Download]:
        """Download the video; if its URL no longer works, poll for a new one, once."""
        failed_url = None
        if held.receipt.url is not None:
            try:
                return held, await self.inquiry.client.download(held.receipt.url, path)
            except DownloadError as error:
                if error.transient:
                    raise
                failed_url = SecretStr(held.receipt.url)
        if held.receipt.request_id is None:
            file = held.receipt.xai_file
            if file is not None and file.id is not None:
                return held, await self.inquiry.client.files.content(file.id, path)
            raise DownloadError(
                "The video that xAI delivered is no longer in the store, and without a request id it can't be "
                "downloaded from xAI.",
                transient=False,
            )
        status = await self.inquiry.status(held.receipt, failed_url=failed_url)
        held = await self.inquiry.record(held, status)
        if held.receipt.state in {"failed", "moderated", "expired"}:
            raise held.receipt.error()
        url = status.url.get_secret_value() if status.url else None
        return held, await self._fetch(held.receipt, status.state, url, path)

    async def _fetch(self, receipt: Receipt, state: str, url: str | None, path: Path) -> Download:
        if state == "pending":
            raise StorageError("The video is not done yet: wait for it first.")
        if url is None:
            if (download := await self._from_files(receipt, path)) is not None:
                return download
            raise DownloadError("xAI reports that the video is done, but returned no URL.")
        if any(self._store.is_upload_url(url, receipt.key, claim) for claim in _delivery_claims(receipt)):
            raise DownloadError("xAI reports that it delivered the video, but it is not in the store.")
        return await self.inquiry.client.download(url, path)

    async def _from_files(self, receipt: Receipt, path: Path) -> Download | None:
        """Download the video from xAI's Files API; None if it is not there.

        Raises:
            DownloadError: If the download may succeed later.
        """
        file = receipt.xai_file
        if file is None:
            return None
        found = file if file.id is not None else await self.inquiry.find_file(file)
        if found is None or found.id is None:
            return None
        try:
            return await self.inquiry.client.files.content(found.id, path)
        except DownloadError as error:
            if error.transient:
                raise
            return None

    async def _restore(self, held: Held, lost: StoredFile) -> Held:
        """Download a stored video again because its file is missing or was replaced by another one."""
        key = held.receipt.key
        with self._store.workspace(key) as path:
            download = await self._fetch_again(held.receipt, lost, path)
            file = self._store.file(key, download)

            async def put_back() -> Held:
                # Another run may have restored the video during the download.
                current = await self.journal.read(key)
                if current.receipt.file is not None and await self._store.holds_video(key, current.receipt.file):
                    return current
                return await self._note_restored(current, await self._put_back(current, path, file))

            return await self.journal.resolve_conflicts(key, put_back)

    async def _put_back(self, held: Held, path: Path, file: StoredFile) -> StoredFile:
        try:
            return await self._store.put_video(held, path, file)
        except NotOverwritten:
            moved_to = await self._store.set_aside(held.receipt.key)
            logger.warning("%s was not the video that was stored there; it was moved to %s", file.uri, moved_to)
            return await self._store.put_video(held, path, file)

    async def _note_restored(self, held: Held, file: StoredFile) -> Held:
        logger.warning("%s was downloaded from xAI again, without paying again", file.uri)
        return await self.journal.change(held, lambda receipt: receipt.restored(file))

    async def _fetch_again(self, receipt: Receipt, lost: StoredFile, path: Path) -> Download:
        gone = StorageError(
            f"{lost.uri} is missing or is not the video that was stored there ({lost.size} bytes, SHA-256 "
            f"{lost.sha256}), and xAI no longer has it. Restore it from a copy, or use another key to "
            f"pay for a new video.",
            maybe_paid=True,
        )
        file = receipt.xai_file
        # A file of recovery is there only if its deletion failed.
        if file is not None and (file.keep or receipt.request_id is None):
            download = await self._from_files(receipt, path)
            if download is not None:
                return download
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
    """List the claims whose delivery may be the video of the current request.

    A request id that a person has found may belong to any submission of unknown outcome.
    """
    attempt = receipt.attempt
    own = [attempt.claim] if attempt.direct else []
    others = [other.claim for other in receipt.undelivered if other.direct] if attempt.submitted_at is None else []
    return own + others


def _saving(receipt: Receipt, claim: str, file: StoredFile) -> Receipt:
    """Record the file that is about to be stored, unless another run has stored one already."""
    if receipt.attempt.claim != claim:
        raise StorageError(
            "Another attempt was started for this key meanwhile, so the video was not stored. Run again with this "
            "key."
        )
    if receipt.state == "stored":
        return receipt
    return receipt.saving(file)
