"""xAI's video service as xai-sdk sees it: gRPC in front of the emulator of this package, with all its faults.

Each call becomes one REST call to the emulator, so faults, books and clips are the same for whoever is measured, and
what was accepted is read from the emulator's log. xAI does not publish how its gRPC service fails; this is what is
assumed, with the least that makes sense where there is a choice:

| REST                                    | gRPC                                                              |
|-----------------------------------------|-------------------------------------------------------------------|
| 400, 422                                | INVALID_ARGUMENT                                                  |
| 401                                     | UNAUTHENTICATED                                                   |
| 403                                     | PERMISSION_DENIED                                                 |
| 404                                     | NOT_FOUND                                                         |
| 429                                     | RESOURCE_EXHAUSTED                                                |
| 500                                     | INTERNAL                                                          |
| 502, 503, 504                           | UNAVAILABLE, as in gRPC's own table for HTTP statuses             |
| connection cut                          | UNAVAILABLE, as gRPC itself reports it, accepted or not           |
| no answer                               | none; the client's deadline ends the call as DEADLINE_EXCEEDED    |
| 200 that can't be read                  | INTERNAL, as gRPC reports a message that it can't parse           |
| status pending, done, expired, failed   | the DeferredStatus of that name; `error` is passed on             |
| any other status                        | a DeferredStatus that xai-sdk does not know                       |
| 400 of moderation, on a poll            | FAILED with its code and text: there is no status for it          |

Retry-After has no counterpart here, nor have an empty body, a body of early 2026, an error that is just a text, or
the page of a content delivery network.

The emulator counts the faults of polls and downloads anew for each video. A fault that is to happen once would so hit
each video of somebody who starts again, which is a longer outage than the name says: here it hits the first one only.
A fault with a number is an outage that lasts, and hits each.
"""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
import httpx
from xai_sdk.proto import deferred_pb2, image_pb2, usage_pb2, video_pb2, video_pb2_grpc

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}

STATUSES = {
    "pending": deferred_pb2.PENDING,
    "done": deferred_pb2.DONE,
    "expired": deferred_pb2.EXPIRED,
    "failed": deferred_pb2.FAILED,
}
UNKNOWN_STATUS = 99

PASSING_FAULT = re.compile(r"\[fault:(poll|download)-[a-z0-9-]+\]")

CALLS_AT_ONCE = 64


class VideoService(video_pb2_grpc.VideoServicer):
    """The two calls of a deferred video, handed on to an emulator.

    Args:
        base_url: Base URL of the emulator.
    """

    def __init__(self, base_url: str) -> None:
        # No connection is used twice: one that dies while it is idle would be a fault that nobody asked for.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        headers = {"Authorization": "Bearer any"}
        self._emulator = httpx.Client(base_url=base_url, headers=headers, limits=limits, trust_env=False)
        self._started: set[str] = set()
        self._lock = threading.Lock()

    def GenerateVideo(  # noqa: N802 - xAI's name
        self, request: video_pb2.GenerateVideoRequest, context: grpc.ServicerContext
    ) -> deferred_pb2.StartDeferredResponse:
        """Start a video."""
        prompt = self._without_past_faults(request.prompt)
        body = {"model": request.model, "prompt": prompt, "duration": request.duration}
        answer = self._ask(context, "POST", "/videos/generations", body)
        if not answer.is_success:
            _abort(context, answer)
        try:
            return deferred_pb2.StartDeferredResponse(request_id=answer.json()["request_id"])
        except ValueError:
            context.abort(grpc.StatusCode.INTERNAL, "The answer can't be parsed.")

    def GetDeferredVideo(  # noqa: N802 - xAI's name
        self, request: video_pb2.GetDeferredVideoRequest, context: grpc.ServicerContext
    ) -> video_pb2.GetDeferredVideoResponse:
        """Ask for a video."""
        answer = self._ask(context, "GET", f"/videos/{request.request_id}")
        if answer.is_success:
            return _status_of(answer.json())
        if answer.status_code == 400 and "moderation" in answer.text:
            said = answer.json()
            return _status_of({"status": "failed", "error": {"code": said["code"], "message": said["error"]}})
        _abort(context, answer)

    def _without_past_faults(self, prompt: str) -> str:
        with self._lock:
            again = prompt in self._started
            self._started.add(prompt)
        return PASSING_FAULT.sub("", prompt) if again else prompt

    def _ask(
        self, context: grpc.ServicerContext, method: str, path: str, body: dict[str, Any] | None = None
    ) -> httpx.Response:
        try:
            return self._emulator.request(method, path, json=body, timeout=context.time_remaining())
        except httpx.TimeoutException:
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "No answer in time.")
        except httpx.TransportError:
            context.abort(grpc.StatusCode.UNAVAILABLE, "The connection was cut.")


def _abort(context: grpc.ServicerContext, answer: httpx.Response) -> NoReturn:
    context.abort(CODES.get(answer.status_code, grpc.StatusCode.UNKNOWN), answer.text)


def _status_of(answer: dict[str, Any]) -> video_pb2.GetDeferredVideoResponse:
    usage, error = answer.get("usage"), answer.get("error")
    response = video_pb2.VideoResponse(
        model=answer.get("model", ""),
        progress=answer.get("progress", 0),
        video=_video_of(answer["video"]) if "video" in answer else None,
        usage=usage_pb2.SamplingUsage(cost_in_usd_ticks=usage["cost_in_usd_ticks"]) if usage else None,
        error=video_pb2.VideoError(code=error["code"], message=error["message"]) if error else None,
    )
    status = STATUSES.get(answer["status"], UNKNOWN_STATUS)
    return video_pb2.GetDeferredVideoResponse(status=status, response=response)


def _video_of(video: dict[str, Any]) -> video_pb2.GeneratedVideo:
    public_url = video.get("file_output", {}).get("public_url")
    return video_pb2.GeneratedVideo(
        url=video.get("url", ""),
        duration=video.get("duration", 0),
        respect_moderation=video.get("respect_moderation", True),
        file_output=image_pb2.FileOutput(public_url=public_url) if public_url else None,
    )


@contextmanager
def xai_sdk_server(base_url: str) -> Iterator[str]:
    """Serve as long as the block lasts, and give the host for `xai_sdk.Client(api_host=...)`."""
    server = grpc.server(ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="xai-grpc"))
    video_pb2_grpc.add_VideoServicer_to_server(VideoService(base_url), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
