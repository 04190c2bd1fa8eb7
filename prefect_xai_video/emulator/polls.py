"""The answer to a poll: what has become of the video, unless a fault is chosen."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.bodies import PublicUrl, StorageOptions
from prefect_xai_video.emulator.connections import cut, huge, late
from prefect_xai_video.emulator.echoes import key_repeated, with_key
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.inputs import RenderFailed
from prefect_xai_video.emulator.service import Service
from prefect_xai_video.emulator.videos import TICK_DIGITS, Video

STUCK_PROGRESS = 42
ABSURD = 10**39
_MODERATION = "Generated video rejected by content moderation."


def answer_poll(service: Service, video: Video, key: str) -> ASGIApp:
    """Answer GET /videos/{request_id}, which came with an API key."""
    fault = video.faults.strike_of(_POLL_FAULTS)
    if fault is Fault.POLL_SLOW:
        return late(partial(_answer, service, video, key))
    return _INSTEAD[fault](video) if fault else _answer(service, video, key)


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
"""The faults of a whole poll, of which one at a time happens."""


def _answer(service: Service, video: Video, key: str) -> Response:
    if video.failure is not None:
        return _failed(video, video.failure, key)
    match video.outcome:
        case "pending":
            return _pending(video, service.settings.render_seconds)
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
        return JSONResponse(_finished(video, {"url": "", **_content(video), "respect_moderation": False}))
    if Fault.MODERATED_FAILED in video.faults:
        error = {"code": "invalid_argument", "message": _MODERATION}
        return JSONResponse({"status": "failed", "error": error, "usage": _usage(video)})
    old = Fault.MODERATED_OLD_CODE in video.faults
    answer = {
        "code": "Client specified an invalid argument" if old else "imagine:content-moderated",
        "error": _MODERATION,
        "usage": _usage(video),
    }
    return JSONResponse(answer, status_code=400)


def _done(service: Service, video: Video) -> Response:
    content = _content(video)
    storage = video.storage
    if storage is not None:
        content["file_output"] = _file_output(video, storage, service.root_url)
    if not video.faults.strike(Fault.DONE_WITHOUT_URL, Fault.PUBLIC_URL_ONLY):
        content = {"url": _url(service, video), **content}
    if video.faults.strike(Fault.NO_STATUS):
        del content["respect_moderation"]
        return JSONResponse({"video": content, "model": video.request.model})
    return JSONResponse(_finished(video, content))


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


def _url(service: Service, video: Video) -> str:
    return video.upload_url or service.root_url + video.hand_out_url(service.settings.url_ttl_seconds)


def _file_output(video: Video, storage: StorageOptions, root_url: str) -> dict[str, Any]:
    output: dict[str, Any] = {
        "file_id": f"file_{video.request_id}",
        "filename": storage.filename,
    }
    submitted = int(video.submitted_at.timestamp())
    if storage.expires_after is not None:
        output["expires_at"] = submitted + storage.expires_after
    if storage.public_url:
        output["public_url"] = f"{root_url}/xai-files/{video.request_id}.mp4"
        if isinstance(storage.public_url, PublicUrl) and storage.public_url.expires_after is not None:
            output["public_url_expires_at"] = submitted + storage.public_url.expires_after
    return output
