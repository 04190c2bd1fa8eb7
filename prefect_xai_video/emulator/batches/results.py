"""One request of a batch as the listings show it: its state, and its result."""

from collections.abc import Mapping
from typing import Any

from prefect_xai_video.api.capabilities import Mode
from prefect_xai_video.emulator.echoes import key_repeated
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.polls import MODERATION, blocked_fields, done_fields
from prefect_xai_video.emulator.service import Service
from prefect_xai_video.emulator.videos import Outcome, Video

_STATES: Mapping[Outcome, str] = {"pending": "pending", "done": "succeeded", "cancelled": "cancelled"}
_ENDPOINTS: Mapping[Mode, str] = {"edit": "/v1/videos/edits", "extend": "/v1/videos/extensions"}


def metadata_of(video: Video) -> dict[str, Any]:
    """Describe the state of a request."""
    return {
        "batch_request_id": _id_of(video),
        "endpoint": _ENDPOINTS.get(video.request.mode, "/v1/videos/generations"),
        "model": video.request.model,
        "state": _STATES.get(video.outcome, "failed"),
        "create_time": video.submitted_at.isoformat(),
        "finish_time": video.finished_at and video.finished_at.isoformat(),
    }


def result_of(service: Service, video: Video, key: str) -> dict[str, Any]:
    """Build the result of a request that is finished. Its URL is valid from now on.

    Args:
        service: The service.
        video: The video of the request.
        key: The API key with which the results are read.
    """
    if video.outcome == "done":
        response = done_fields(service, video, lambda: _path_of(service, video))
    elif video.outcome == "moderated" and Fault.MODERATED_DONE in video.faults:
        response = blocked_fields(video)
    else:
        return {"batch_request_id": _id_of(video), **_error(video, *_problem_of(video, key))}
    generation = {name: response[name] for name in ("video", "model", "usage")}
    return {"batch_request_id": _id_of(video), "batch_result": {"response": {"video_generation": generation}}}


def _path_of(service: Service, video: Video) -> str:
    if video.faults.strike(Fault.RESULT_URL_EXPIRED):
        return video.hand_out_url(0)
    return video.fresh_url(service.settings.url_ttl_seconds)


def _problem_of(video: Video, key: str) -> tuple[str, str]:
    if video.failure is not None and Fault.FAILED_KEY in video.faults:
        return key, key_repeated(key)
    if video.failure is not None:
        return video.failure.code, video.failure.message
    if video.outcome == "moderated":
        return "imagine:content-moderated", MODERATION
    return "not-found", "The video has expired."


def _error(video: Video, code: str, message: str) -> dict[str, Any]:
    if Fault.RESULT_ERROR_BESIDE in video.faults:
        return {"batch_result": None, "error_message": message}
    error = {"code": code, "message": message} if Fault.RESULT_ERROR_OBJECT in video.faults else message
    return {"batch_result": {"error": error}}


def _id_of(video: Video) -> str:
    return video.place.batch_request_id if video.place else ""
