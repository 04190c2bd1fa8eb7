"""What becomes of a call that creates a batch or adds requests: it succeeds, or its reply is lost."""

import asyncio
from collections.abc import Sequence
from functools import partial

from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.batches.batch import Batch
from prefect_xai_video.emulator.batches.entries import Entry
from prefect_xai_video.emulator.batches.registry import Batches
from prefect_xai_video.emulator.connections import SLOW_SECONDS, cut
from prefect_xai_video.emulator.faults import Fault

CREATE_FAULTS = frozenset({Fault.BATCH_CREATE_CUT, Fault.BATCH_CREATE_ACCEPTED_CUT, Fault.BATCH_CREATE_ACCEPTED_500})
ADD_FAULTS = frozenset(
    {
        Fault.BATCH_ADD_CUT,
        Fault.BATCH_ADD_ACCEPTED_CUT,
        Fault.BATCH_ADD_ACCEPTED_500,
        Fault.BATCH_ADD_PART_CUT,
        Fault.BATCH_ADD_LATE_LISTING,
        Fault.BATCH_ADD_LATE_SECONDS,
    }
)


def lost_reply(fault: Fault) -> ASGIApp:
    """Respond to a call whose reply is lost."""
    is_error = fault in (Fault.BATCH_CREATE_ACCEPTED_500, Fault.BATCH_ADD_ACCEPTED_500)
    return refusals.internal_error().response if is_error else cut


def add(batches: Batches, batch: Batch, entries: Sequence[Entry], fault: Fault | None) -> ASGIApp:
    """Add requests to a batch: all of them, unless the fault says otherwise.

    Raises:
        Refused: 400 if a marker is not valid, 403 if the credits are not sufficient; nothing is added then.
    """
    faults = [batches.service.faults.of(entry.body) for entry in entries]
    batches.service.check_credits(entry.request for entry in entries if entry.failure is None)
    later = partial(batches.take_later, batch, entries, faults)
    match fault:
        case Fault.BATCH_ADD_CUT:
            return lost_reply(fault)
        case Fault.BATCH_ADD_PART_CUT:
            half = len(entries) // 2
            batches.take(batch, entries[:half], faults[:half])
        case Fault.BATCH_ADD_LATE_LISTING:
            batch.late.append(later)
        case Fault.BATCH_ADD_LATE_SECONDS:
            asyncio.get_running_loop().call_later(SLOW_SECONDS, later)
        case _:
            batches.take(batch, entries, faults)
    batches.finish_add(batch)
    return JSONResponse({}) if fault is None else lost_reply(fault)
