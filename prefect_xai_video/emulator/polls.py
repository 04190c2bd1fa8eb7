"""The response to a poll: the state of the video, unless a fault is selected."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.bodies import StorageOptions
from prefect_xai_video.emulator.connections import cut, huge, late
from prefect_xai_video.emulator.echoes import key_repeated, with_key
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.files import file_id_of, storage_error
from prefect_xai_video.emulator.inputs import RenderFailed
from prefect_xai_video.emulator.service import Service
from prefect_xai_video.emulator.videos import TICK_DIGITS, Video

STUCK_PROGRESS = 42
ABSURD = 10**39
MODERATION = "Generated video rejected by content moderation."


def poll_response(service: Service, video: Video, key: str) -> ASGIApp:
    """Respond to GET /videos/{request_id}, sent with an API key."""
    fault = video.faults.strike_of(_POLL_FAULTS)
    if fault is Fault.POLL_SLOW:
        return late(partial(_respond, service, video, key))
    return _INSTEAD[fault](video) if fault else _respond(service, video, key)


_INSTEAD: Mapping[Fault, Callable[[Video], ASGIApp]] = {
    Fault.POLL_429: lambda _: refusals.too_many_requests(2, 2).response,
    Fault.POLL_429_RETRY_AFTER: lambda _: refusals.too_many_requests(2, 2, retry_after="1").response,
    Fault.POLL_500: lambda _: refusals.internal_error().response,
    Fault.POLL_503: lambda _: refusals.service_unavailable().response,
    Fault.POLL_404: lambda video: refusals.unknown_request(video.request_id).response,
    Fault.POLL_404_ALWAYS: lambda video: refusals.unknown_request(video.request_id).response,
    Fault.POLL_HUGE: lambda _: huge({"status": "pending"}),
    Fault.POLL_CUT: lambda _: cut,
}
_POLL_FAULTS = {*_INSTEAD, Fault.POLL_SLOW}
"""Faults that affect a whole poll; only one of them strikes at a time."""


def _respond(service: Service, video: Video, key: str) -> Response:
    if video.failure is not None:
        return _failed(video, video.failure, key)
    match video.outcome:
        case "pending":
            return _pending(video, service.settings.render_seconds * video.pace)
        case "moderated":
            return _moderated(video)
        case "expired":
            return JSONResponse({"status": "expired"})
        case _:
            return _done(service, video)


def _pending(video: Video, render_seconds: float) -> Response:
    fault = video.faults.strike_of(_PENDING)
    if fault is not None:
        return _PENDING[fault]()
    return JSONResponse({"status": "pending", "progress": _progress(video, render_seconds)}, status_code=202)


_PENDING: Mapping[Fault, Callable[[], Response]] = {
    Fault.EMPTY_202: lambda: Response(status_code=202),
    Fault.PENDING_200: lambda: JSONResponse({"status": "pending"}),
    Fault.UNKNOWN_STATUS: lambda: JSONResponse({"status": "queued"}),
    Fault.PROGRESS_ABSENT: lambda: JSONResponse({"status": "pending"}, status_code=202),
}


def _progress(video: Video, render_seconds: float) -> int:
    progress = min(99, int(100 * video.age / render_seconds)) if render_seconds > 0 else 99
    if video.faults.strike(Fault.PROGRESS_ABSURD):
        return ABSURD
    if video.faults.strike(Fault.PROGRESS_STUCK):
        return STUCK_PROGRESS
    return 99 - progress if video.faults.strike(Fault.PROGRESS_BACKWARDS) else progress


def _failed(video: Video, failure: RenderFailed, key: str) -> Response:
    if Fault.FAILED_KEY in video.faults:
        return with_key({"status": "failed", "error": {"code": key, "message": key_repeated(key)}}, key, 200)
    as_text = Fault.FAILED_STRING_ERROR in video.faults
    error = failure.message if as_text else {"code": failure.code, "message": failure.message}
    return JSONResponse({"status": "failed", "error": error})


def _moderated(video: Video) -> Response:
    if Fault.MODERATED_DONE in video.faults:
        return JSONResponse(blocked_fields(video))
    if Fault.MODERATED_FAILED in video.faults:
        error = {"code": "invalid_argument", "message": MODERATION}
        return JSONResponse({"status": "failed", "error": error, "usage": _usage(video)})
    old = Fault.MODERATED_OLD_CODE in video.faults
    content = {
        "code": "Client specified an invalid argument" if old else "imagine:content-moderated",
        "error": MODERATION,
        "usage": _usage(video),
    }
    return JSONResponse(content, status_code=400)


def _done(service: Service, video: Video) -> Response:
    fields = done_fields(service, video, lambda: video.hand_out_url(service.settings.url_ttl_seconds))
    if video.faults.strike(Fault.NO_STATUS):
        del fields["video"]["respect_moderation"]
        return JSONResponse({"video": fields["video"], "model": fields["model"]})
    return JSONResponse(fields)


def done_fields(service: Service, video: Video, path: Callable[[], str]) -> dict[str, Any]:
    """Build the response for a video that is done.

    Args:
        service: The service.
        video: The video.
        path: Hands out a URL of it, without its host.
    """
    content = _content(video)
    storage = video.storage
    if storage is not None:
        content |= _stored(video, storage, service)
    if not video.faults.strike(Fault.DONE_WITHOUT_URL, Fault.PUBLIC_URL_ONLY):
        content = {"url": video.upload_url or service.root_url + path(), **content}
    return _finished(video, content)


def blocked_fields(video: Video) -> dict[str, Any]:
    """Build the response for a video that was blocked after it was rendered, as if it were done."""
    return _finished(video, {"url": "", **_content(video), "respect_moderation": False})


def _content(video: Video) -> dict[str, Any]:
    duration = ABSURD if video.faults.strike(Fault.DURATION_ABSURD) else max(1, round(video.seconds))
    return {"duration": duration, "respect_moderation": True}


def _finished(video: Video, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": "done",
        "video": content,
        "model": video.request.model,
        "usage": _usage(video),
        "progress": 100,
    }


def _usage(video: Video) -> dict[str, int]:
    ticks = ABSURD if video.faults.strike(Fault.COST_ABSURD) else int(video.cost_usd.scaleb(TICK_DIGITS))
    return {"cost_in_usd_ticks": ticks}


def _stored(video: Video, storage: StorageOptions, service: Service) -> dict[str, Any]:
    problem = storage_error(video)
    if problem is not None:
        return {"storage_error": problem}
    output: dict[str, Any] = {"file_id": file_id_of(video), "filename": storage.filename}
    file = service.files.find(output["file_id"])
    if file is None:
        # It has expired, or was deleted.
        return {"file_output": output}
    if file.expires_at is not None:
        output["expires_at"] = int(file.expires_at.timestamp())
    if file.public is not None:
        output["public_url"] = service.public_url(file.public)
        if file.public.expires_at is not None:
            output["public_url_expires_at"] = int(file.public.expires_at.timestamp())
    elif storage.public_url:
        output["public_url_error"] = "The public URL could not be created."
    return {"file_output": output}
