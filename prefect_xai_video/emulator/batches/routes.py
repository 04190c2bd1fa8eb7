"""The routes of the Batch API."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.batches.batch import Batch
from prefect_xai_video.emulator.batches.bodies import AddBody, CreateBody
from prefect_xai_video.emulator.batches.calls import ADD_FAULTS, CREATE_FAULTS, add, lost_reply
from prefect_xai_video.emulator.batches.entries import entry_of
from prefect_xai_video.emulator.batches.pages import Page
from prefect_xai_video.emulator.batches.registry import Batches
from prefect_xai_video.emulator.batches.results import metadata_of, result_of
from prefect_xai_video.emulator.bodies import parsed, read_body, read_json
from prefect_xai_video.emulator.echoes import with_key
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.requestlog import note_faults, note_json
from prefect_xai_video.emulator.videos import Video

MAX_ADD_BYTES = 25 * 10**6


def batch_routes() -> list[Route]:
    """All routes of the Batch API."""
    return [
        Route("/v1/batches", _list),
        Route("/v1/batches", _create, methods=["POST"]),
        Route("/v1/batches/{batch_id}:cancel", _cancel, methods=["POST"]),
        Route("/v1/batches/{batch_id}", _get),
        Route("/v1/batches/{batch_id}/requests", _requests),
        Route("/v1/batches/{batch_id}/requests", _add, methods=["POST"]),
        Route("/v1/batches/{batch_id}/results", _results),
    ]


async def _create(request: Request) -> ASGIApp:
    body = await read_body(request, CreateBody)
    batches, _ = _checked(request)
    batches.creates.check()
    fault = _strike(request, batches, *CREATE_FAULTS)
    if fault is Fault.BATCH_CREATE_CUT:
        return lost_reply(fault)
    batch = batches.create(body.name, body.input_file_id)
    return lost_reply(fault) if fault else JSONResponse(_described(batch))


async def _list(request: Request) -> Response:
    batches = _reading(request)
    page, every = Page.of(request.query_params), batches.all()
    shown = [_described(batch) for batch in page.items(every)]
    return JSONResponse({"batches": shown, "pagination_token": page.next_token(len(every))})


async def _get(request: Request) -> Response:
    batches = _reading(request)
    batch = _batch(request, batches)
    counters = batch.counters()
    shown = batch.shown if _strike(request, batches, Fault.BATCH_COUNTERS_LAG) else counters
    batch.shown = counters
    return JSONResponse(_described(batch) | {"state": shown})


async def _cancel(request: Request) -> Response:
    batches, _ = _checked(request)
    batch = _batch(request, batches)
    batches.cancel(batch)
    return JSONResponse(_described(batch))


async def _add(request: Request) -> ASGIApp:
    if int(request.headers.get("content-length", 0)) > MAX_ADD_BYTES:
        raise refusals.too_large(MAX_ADD_BYTES)
    content = await read_json(request)
    if len(content) > MAX_ADD_BYTES:
        raise refusals.too_large(MAX_ADD_BYTES)
    given = parsed(content, AddBody).batch_requests
    # Without the bodies: the log would have as many bytes as the requests.
    note_json(request, {"batch_request_ids": [entry.batch_request_id for entry in given]})
    batches, _ = _checked(request)
    batches.adds.check()
    batch = batches.open(request.path_params["batch_id"])
    if not given:
        raise refusals.invalid_argument("batch_requests cannot be empty.")
    entries = [entry_of(entry) for entry in given]
    return add(batches, batch, entries, _strike(request, batches, *ADD_FAULTS))


async def _requests(request: Request) -> Response:
    batches = _reading(request)
    batch = _batch(request, batches)
    videos, token = _page(request, batches, batch.videos, Fault.BATCH_REQUESTS_LAG, Fault.REQUEST_UNLISTED)
    shown = [metadata_of(video) for video in videos]
    for land in batch.late:
        land()
    batch.late.clear()
    return JSONResponse({"batch_request_metadata": shown, "pagination_token": token})


async def _results(request: Request) -> Response:
    batches, key = _reading(request), _checked(request)[1]
    batch = _batch(request, batches)
    videos, token = _page(request, batches, batch.finished(), Fault.BATCH_RESULTS_LAG, Fault.RESULT_LATE)
    if _strike(request, batches, Fault.BATCH_RESULTS_REVERSED):
        videos.reverse()
    content = {
        "results": [result_of(batches.service, video, key) for video in videos],
        "pagination_token": token,
    }
    for video in videos:
        batches.service.save(video)
    repeats_key = any(Fault.FAILED_KEY in video.faults for video in videos)
    return with_key(content, key, 200) if repeats_key else JSONResponse(content)


def _page(
    request: Request, batches: Batches, videos: Sequence[Video], lag: Fault, missing: Fault
) -> tuple[list[Video], str | None]:
    """Return the requests of a page and the token of the next one, with the faults that affect them."""
    page = Page.of(request.query_params)
    if _strike(request, batches, lag):
        videos = videos[: len(videos) // 2]
    if page.begin and _strike(request, batches, Fault.BATCH_PAGE_REPEATED):
        page = page.before()
    shown = []
    for video in page.items(videos):
        if video.faults.strike(missing):
            batches.service.save(video)
        else:
            shown.append(video)
    return shown, page.next_token(len(videos))


def _described(batch: Batch) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "name": batch.name,
        "create_time": _date(batch.created_at),
        "expire_time": _date(batch.expires_at),
        "create_api_key_id": "emulator",
        "cancel_time": _date(batch.cancelled_at),
        "cancel_by_xai_message": batch.message,
        "input_file_id": batch.input_file_id,
        "state": batch.counters(),
    }


def _date(time: datetime | None) -> str | None:
    """Format a time as xAI's examples do: without hours, so that no client can rely on them."""
    return None if time is None else time.date().isoformat()


def _strike(request: Request, batches: Batches, *faults: Fault) -> Fault | None:
    fault = batches.faults.strike_of(faults)
    if fault is not None:
        note_faults(request, [fault.value])
    return fault


def _reading(request: Request) -> Batches:
    batches, _ = _checked(request)
    if _strike(request, batches, Fault.BATCH_GET_500):
        raise refusals.internal_error()
    return batches


def _checked(request: Request) -> tuple[Batches, str]:
    """Return the batches, and the API key of the request."""
    batches: Batches = request.app.state.batches
    return batches, batches.service.check_key(request.headers.get("authorization"))


def _batch(request: Request, batches: Batches) -> Batch:
    return batches.get(request.path_params["batch_id"])
