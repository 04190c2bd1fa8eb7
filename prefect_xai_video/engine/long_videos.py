"""Long videos in a store: what a segment goes on from, the joined file, and its record `<key>.long.json`.

Each segment is a video with a key and a receipt of its own, `<key>/01`, `<key>/02`, ...; nothing here is paid for.
The record is written last. As long as it is there, the video is returned without any work; without it, or without the
file, the segments are joined again.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from prefect_xai_video.api.mp4 import ClipFacts, clip_facts
from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.engine.attempts import ENDED_BADLY, Frozen, StoredFile, facts_of_clip
from prefect_xai_video.engine.clips import Piece, ends, join
from prefect_xai_video.engine.journal import with_key
from prefect_xai_video.engine.keys import check_key
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.segments import LongPlan, Segment
from prefect_xai_video.engine.stills import PICTURE_TYPE, has_stills, store_ends, store_made
from prefect_xai_video.engine.stores import NotOverwritten, VideoStore, foreign_file_error
from prefect_xai_video.engine.stores.base import VIDEO_TYPE
from prefect_xai_video.engine.videos import LongVideo, Video
from prefect_xai_video.errors import KeyConflict, StorageError
from prefect_xai_video.money import plain

logger = logging.getLogger(__name__)


class LongRecord(Frozen):
    """The record of a long video.

    Attributes:
        version: Version of this format.
        key: The video's name in the store.
        fingerprint: SHA-256 of all that it is made of: requests, durations, and how segments continue.
        file: The joined file.
        duration: Its length in seconds.
        cost_usd: Billed cost of all segments in USD; None if xAI did not report one of them.
        picture_copied: Whether the pictures of the segments were copied as they are, and not encoded again.
        segments: The videos of the segments.
    """

    version: Literal[1] = 1
    key: str
    fingerprint: str
    file: StoredFile
    duration: int | None
    cost_usd: Decimal | None
    picture_copied: bool
    segments: tuple[Video, ...]

    def video(self, uri: str) -> LongVideo:
        """Describe the video; `uri` is that of this record."""
        return LongVideo(
            key=self.key,
            receipt_uri=uri,
            request_id=None,
            model=self.segments[0].model,
            duration=self.duration,
            cost_usd=self.cost_usd,
            estimated_cost_usd=_total(segment.estimated_cost_usd for segment in self.segments),
            segments=self.segments,
            **self.file.model_dump(exclude={"version", "seconds"}),
        )


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of one long video, and the file that is made of them.

    Attributes:
        store: The store.
        key: The video's name in the store.
        plan: Its segments.
        fingerprint: The plan's fingerprint.
        log: Called with sentences about what is done.
    """

    store: VideoStore
    key: str
    plan: LongPlan
    fingerprint: str
    log: Callable[[str], object]

    @property
    def _record_name(self) -> str:
        return f"{self.key}.long.json"

    def segment_key(self, segment: Segment) -> str:
        """The key of a segment."""
        return check_key(f"{check_key(self.key)}/{segment.name}")

    async def find(self, check: Callable[[Receipt], object]) -> LongVideo | None:
        """Find the video, if it has been made. Checks before anything is paid for that the key is not another's.

        Args:
            check: Raises an error if a receipt belongs to another API or team.

        Raises:
            KeyConflict: If the key belongs to another video.
            StorageError: If the store can't be read, or another file has the video's name.
        """
        begun = await self.store.read(self.segment_key(self.plan.segments[0]))
        if begun is not None:
            check(begun.receipt)
        record = await self._read()
        if record is None:
            await self._check_own()
            # With segments, it may be a joined file whose record was not written any more.
            if begun is None and await self.store.has_file(f"{self.key}.mp4"):
                raise foreign_file_error(self.store.uri(f"{self.key}.mp4"))
            return None
        if record.fingerprint != self.fingerprint:
            raise KeyConflict(
                "The key already belongs to another long video (other prompts, durations or options). Nothing was "
                "sent. Use another key.",
                key=self.key,
            )
        if await self.store.holds_video(self.key, record.file):
            return record.video(self.store.uri(self._record_name))
        moved_to = await self.store.set_aside(self.key)
        aside = f"was not the video that was stored there, and was moved to {moved_to}" if moved_to else "is gone"
        self.log(f"{record.file.uri} {aside}: it is joined again from its segments, without paying")
        return None

    async def _check_own(self) -> None:
        if await self.store.read(self.key) is not None:
            raise KeyConflict(
                "The key already belongs to a video of one request. Use another key, or move that video and its "
                "receipt away: segments that are paid for are not paid for again.",
                key=self.key,
            )

    async def _read(self) -> LongRecord | None:
        with self.store.workspace(self.key) as path:
            if not await self.store.read_file(self._record_name, path):
                return None
            content = await run_in_thread(path.read_bytes)
        try:
            return LongRecord.model_validate_json(content)
        except ValidationError:
            raise StorageError(
                f"The record {self.store.uri(self._record_name)} can't be read: it was edited or damaged, or is of a "
                f"later version. Move it away and run again: the segments are joined again without paying.",
                key=self.key,
            ) from None

    async def finished_segments(self) -> tuple[Receipt, ...]:
        """Read the receipts of all segments if the video has been joined before; otherwise there are none.

        Its segments are paid for, so that nothing may be sent for them again.

        Raises:
            StorageError: If a receipt is gone.
        """
        if await self._read() is None:
            return ()
        return tuple([await self._paid(self.segment_key(segment)) for segment in self.plan.segments])

    async def _paid(self, key: str) -> Receipt:
        held = await self.store.read(key)
        if held is None:
            raise StorageError(
                f"The receipt {self.store.receipt_uri(key)} is gone. The segment was paid for, and the joined video "
                f"is gone, too. Nothing was sent. Restore one of them from a copy, or use another key to pay for a "
                f"new video.",
                key=key,
                maybe_paid=True,
            )
        return held.receipt

    async def source_after(self, video: Video, following: Segment) -> str:
        """Return the URI of what a segment goes on from: the stored tail, or last frame, of the video before.

        It is stored once and then never changes: it is an input, by which the request of the segment is known. As
        long as the segment may be submitted, it is made again and compared.

        Raises:
            StorageError: If it can't be made or stored, or is another one.
        """
        is_tail = following.continuation == "extend"
        name = f"{video.key}.tail.mp4" if is_tail else f"{video.key}.last.png"
        if await self.store.has_file(name) and await self._is_sent(following):
            return self.store.uri(name)
        async with self.store.local_copy(video.key) as path:
            with self.store.workspace(video.key) as made:
                if is_tail:
                    await run_in_thread(join, [Piece(str(path), -following.tail)], made)
                else:
                    await run_in_thread(made.write_bytes, (await run_in_thread(ends, path))[1])
                return await self._store_source(name, made, VIDEO_TYPE if is_tail else PICTURE_TYPE, following)

    async def _store_source(self, name: str, path: Path, content_type: str, following: Segment) -> str:
        try:
            return (await store_made(self.store, name, path, content_type)).uri
        except NotOverwritten:
            raise StorageError(
                f"{self.store.uri(name)} was changed, or made by another version of PyAV. Segment {following.name} "
                f"would go on from it, so nothing was sent. Move it away and run again: it is made again.",
                key=self.segment_key(following),
            ) from None

    async def _is_sent(self, segment: Segment) -> bool:
        """Whether a segment has a submission that is, or may become, a video."""
        with with_key(self.segment_key(segment)):
            held = await self.store.read(self.segment_key(segment))
        return held is not None and held.receipt.state not in {"refused", *ENDED_BADLY}

    async def join(self, videos: Sequence[Video], *, stills: bool = False) -> LongVideo:
        """Join the segments into one file, and write its record.

        Args:
            videos: The videos of the segments.
            stills: Whether to store the first and the last frame of the whole, too.

        Raises:
            StorageError: If they can't be joined or stored.
        """
        with self.store.workspace(self.key) as path:
            async with AsyncExitStack() as copies:
                paths = [await copies.enter_async_context(self.store.local_copy(video.key)) for video in videos]
                pieces = await run_in_thread(self._pieces, paths)
                is_copied = await run_in_thread(join, pieces, path)
            why = "encoded again, since their formats or the places of the cuts did not allow to copy them"
            self.log(f"{len(videos)} segments are joined; pictures {'copied' if is_copied else why}")
            clip = await run_in_thread(_facts, path)
            pictures = await run_in_thread(ends, path) if stills else None
            file = await self._store(path)
        if file is None:
            made = await self._made_by_another()
            return await self.with_stills(made) if stills else made
        facts = facts_of_clip(clip) | await self._stills(pictures)
        record = LongRecord(
            key=self.key,
            fingerprint=self.fingerprint,
            file=file.model_copy(update=facts),
            duration=round(clip.seconds) if clip else None,
            cost_usd=_total(video.cost_usd for video in videos),
            picture_copied=is_copied,
            segments=tuple(videos),
        )
        return record.video(await self._write(record))

    async def _stills(self, pictures: tuple[bytes, bytes] | None) -> dict[str, str | None]:
        """Store the stills of the joined file. A video that is joined again keeps those of the one before."""
        before = await self._read()
        if pictures is None or (before is not None and await has_stills(self.store, self.key, before.file)):
            return {} if before is None else {"poster": before.file.poster, "last_frame": before.file.last_frame}
        return {**await store_ends(self.store, self.key, pictures)}

    async def with_stills(self, video: LongVideo) -> LongVideo:
        """Store the first and the last frame of a joined video, unless they are there.

        Raises:
            StorageError: If they can't be made or stored.
        """
        record = await self._read()
        if record is None or await has_stills(self.store, self.key, record.file):
            return video
        async with self.store.local_copy(self.key) as path:
            pictures = await run_in_thread(ends, path)
        stills = await store_ends(self.store, self.key, pictures)
        record = record.model_copy(update={"file": record.file.model_copy(update=stills)})
        return record.video(await self._write(record))

    def _pieces(self, paths: Sequence[Path]) -> list[Piece]:
        pieces = []
        for segment, path in zip(self.plan.segments, paths, strict=True):
            clip = _facts(path)
            is_shown_twice = self.plan.continuation == "last frame" and segment is not self.plan.segments[-1]
            pieces.append(Piece(str(path), self._head(segment, clip), is_shown_twice))
        return pieces

    def _head(self, segment: Segment, clip: ClipFacts | None) -> float:
        """Seconds to cut off the beginning of a segment: its tail, unless the result does not contain it."""
        if clip is None or not segment.tail:
            return float(segment.tail)
        is_with_tail = abs(clip.seconds - segment.seconds - segment.tail) <= abs(clip.seconds - segment.seconds)
        if not is_with_tail:
            self.log(f"Segment {segment.name} has {clip.seconds:.1f} s: it does not seem to contain its input")
        return float(segment.tail) if is_with_tail else 0.0

    async def _store(self, path: Path) -> StoredFile | None:
        """Store the joined file; None if another run, with another version of PyAV, has just done so."""
        name = f"{self.key}.mp4"
        try:
            return await store_made(self.store, name, path, VIDEO_TYPE)
        except NotOverwritten:
            if await self._read() is not None:
                return None
            await self._check_own()
            moved_to = await self.store.set_aside(self.key)
            self.log(f"{self.store.uri(name)} had no record and was moved to {moved_to}")
            return await store_made(self.store, name, path, VIDEO_TYPE)

    async def _made_by_another(self) -> LongVideo:
        made = await self.find(lambda receipt: None)
        if made is None:
            raise StorageError(
                f"{self.store.uri(self.key)}.mp4 kept changing. Run again with this key.", key=self.key
            )
        return made

    async def _write(self, record: LongRecord) -> str:
        with self.store.workspace(self.key) as path:
            await run_in_thread(path.write_text, record.model_dump_json(indent=2) + "\n")
            return await self.store.write_file(self._record_name, path, "application/json")


def _total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """Add up costs; None if one of them is not known."""
    known = list(costs)
    return None if None in known else plain(sum((cost for cost in known if cost is not None), Decimal(0)))


def _facts(path: Path) -> ClipFacts | None:
    with path.open("rb") as file:
        return clip_facts(file, path.stat().st_size)
