"""Collects stills of the stored videos of a batch. Best effort: a video whose still can't be made has none."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.batch.outcomes import RowOutcome
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import StorageError
from prefect_xai_video.ui.previews import stills

MAX_STILLS = 200
"""Videos of a report that get a still: the first ones."""

IN_PROCESS = 16
"""Videos that are decoded by one process, and copied to this machine for it."""

STILL_SECONDS = 40
"""Longest time for the stills of a report, in seconds."""

logger = logging.getLogger(__name__)


async def make_stills(
    rows: Sequence[RowOutcome], store: VideoStore, *, seconds: float = STILL_SECONDS
) -> Mapping[str, bytes]:
    """Make stills of the first stored videos, until the time is up. Never raises.

    Args:
        rows: The outcomes of a batch.
        store: The store of its videos.
        seconds: Longest time, in seconds.

    Returns:
        The stills by key, WebP of at most 5 kB each.
    """
    made: dict[str, bytes] = {}
    deadline = time.monotonic() + seconds
    try:
        async with asyncio.timeout(seconds):
            keys = await run_in_thread(_stored, rows)
            for begin in range(0, len(keys), IN_PROCESS):
                made |= await _stills_of(keys[begin : begin + IN_PROCESS], store, deadline)
    except TimeoutError:
        logger.info("Only %d stills could be made within %d s.", len(made), seconds)
    except Exception:
        logger.debug("Could not make all stills.", exc_info=True)
    return made


def _stored(rows: Sequence[RowOutcome]) -> list[str]:
    return list(itertools.islice((row.key for row in rows if row.state == "stored"), MAX_STILLS))


async def _stills_of(keys: Sequence[str], store: VideoStore, deadline: float) -> dict[str, bytes]:
    async with AsyncExitStack() as copies:
        paths = await asyncio.gather(*(copies.enter_async_context(_copy(store, key)) for key in keys))
        there = {key: path for key, path in zip(keys, paths, strict=True) if path is not None}
        pictures = await run_in_thread(stills, list(there.values()), deadline - time.monotonic())
    return {key: picture for key, picture in zip(there, pictures, strict=True) if picture is not None}


@asynccontextmanager
async def _copy(store: VideoStore, key: str) -> AsyncIterator[Path | None]:
    async with AsyncExitStack() as stack:
        try:
            path: Path | None = await stack.enter_async_context(store.local_copy(key))
        except StorageError:
            logger.debug("Could not read the video of %s.", key, exc_info=True)
            path = None
        yield path
