"""The answer to a POST: a request id, unless a fault is chosen."""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.clock import Clock, http_date
from prefect_xai_video.emulator.connections import cut, silence
from prefect_xai_video.emulator.faults import Fault


def turn_away(fault: Fault | None, clock: Clock) -> ASGIApp | None:
    """Answer a POST that is not accepted; None if the fault is none of those that keep it from being accepted."""
    make_answer = _TURNED_AWAY.get(fault) if fault else None
    return make_answer(clock) if make_answer else None


def answer_accepted(fault: Fault | None, request_id: str) -> ASGIApp:
    """Answer a POST that has been accepted, and is billed whatever the client gets to know."""
    make_answer = _ANSWER_LOST.get(fault) if fault else None
    return make_answer(request_id) if make_answer else JSONResponse({"request_id": request_id})


def _too_many_until_a_date(clock: Clock) -> Response:
    # One reading of the clock for both: as dates have no fractions, they might else be two seconds apart.
    now = clock.now()
    retry_after = http_date(now + timedelta(seconds=1))
    response = refusals.too_many_requests(2, 2, retry_after=retry_after).response
    response.headers["Date"] = http_date(now)
    return response


def _cut_in_the_middle(request_id: str) -> Response:
    content = json.dumps({"request_id": request_id})
    return Response(content[: len(content) // 2], media_type="application/json")


_TURNED_AWAY: Mapping[Fault, Callable[[Clock], ASGIApp]] = {
    Fault.START_429: lambda _: refusals.too_many_requests(2, 2).response,
    Fault.START_429_RETRY_AFTER: lambda _: refusals.too_many_requests(2, 2, retry_after="1").response,
    Fault.START_429_DATE: _too_many_until_a_date,
    Fault.START_503: lambda _: refusals.service_unavailable().response,
    Fault.START_503_RETRY_AFTER: lambda _: refusals.service_unavailable(retry_after="1").response,
    Fault.START_CUT: lambda _: cut,
}

_ANSWER_LOST: Mapping[Fault, Callable[[str], ASGIApp]] = {
    Fault.START_ACCEPTED_CUT: lambda _: cut,
    Fault.START_ACCEPTED_500: lambda _: refusals.internal_error().response,
    Fault.START_ACCEPTED_502: lambda _: PlainTextResponse("error code: 502", status_code=502),
    Fault.START_ACCEPTED_SILENCE: lambda _: silence,
    Fault.START_ACCEPTED_UNREADABLE: _cut_in_the_middle,
}

STARTS = {*_TURNED_AWAY, *_ANSWER_LOST}
"""The faults of a POST, of which one at a time happens."""
