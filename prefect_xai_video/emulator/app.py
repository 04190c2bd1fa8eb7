"""The routes: what the service answers to which request, in the order in which it looks."""

import json
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from prefect_xai_video.capabilities import MODELS, capabilities_of
from prefect_xai_video.emulator.journal import Journal
from prefect_xai_video.emulator.validation import BODIES, Body, Wrong, check_meaning, shape_problem
from prefect_xai_video.emulator.videos import TICKS_PER_USD, Video, Videos, cost_of

FILE_LIFE_SECONDS = 86400


def make_app(
    videos: Videos,
    journal: Journal,
    origin: str,
    *,
    api_key: str | None,
    credits_usd: Decimal | None,
    requests_per_second: int | None,
) -> Starlette:
    """Make the application.

    Args:
        videos: The accepted requests.
        journal: Where each request is noted.
        origin: Scheme, host and port, of which result URLs are made.
        api_key: The only key that is accepted; None accepts any.
        credits_usd: USD after which submissions are denied; None for no limit.
        requests_per_second: Rate limit; None for none.
    """
    api = _Api(videos, origin, api_key, credits_usd, requests_per_second)

    async def note(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        body = await request.body()
        answer = await call_next(request)
        query = f"?{request.url.query}" if request.url.query else ""
        journal.note(
            method=request.method,
            path=request.url.path + query,
            status=answer.status_code,
            body=_json(body),
            request_id=getattr(request.state, "request_id", None),
            authorization="authorization" in request.headers,
        )
        return answer

    return Starlette(
        routes=[
            *(Route(f"/v1/videos/{kind}", api.submission(kind), methods=["POST"]) for kind in BODIES),
            Route("/v1/videos/{request_id}", api.status, methods=["GET"]),
            Route("/v1/video-generation-models", api.models, methods=["GET"]),
            Route("/v1/video-generation-models/{model}", api.model, methods=["GET"]),
            Route("/v1/api-key", api.key, methods=["GET"]),
            Route("/xai-vidgen-bucket/{name}", api.file, methods=["GET", "HEAD"]),
            Route("/xai-vidgen-bucket/{link:int}/{name}", api.file, methods=["GET", "HEAD"]),
            Route("/emulator/ledger", lambda request: JSONResponse(videos.ledger()), methods=["GET"]),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=note)],
        exception_handlers={Wrong: _wrong, 404: _no_route, 405: _no_method},
    )


class _Api:
    def __init__(
        self, videos: Videos, origin: str, api_key: str | None, credits_usd: Decimal | None, per_second: int | None
    ) -> None:
        self._videos = videos
        self._origin = origin
        self._api_key = api_key
        self._credits_usd = credits_usd
        self._per_second = per_second
        self._recent: deque[float] = deque()

    def submission(self, kind: str) -> Callable[[Request], Awaitable[Response]]:
        """The handler of one of the three POSTs."""

        async def submit(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return Response(status_code=415)
            try:
                body = BODIES[kind].model_validate_json(await request.body())
            except ValidationError as error:
                return PlainTextResponse(shape_problem(error), 422)
            self._admit(request)
            entry = check_meaning(body)
            self._check_credits(body)
            video = self._videos.accept(body, entry)
            request.state.request_id = video.request_id
            return JSONResponse({"request_id": video.request_id})

        return submit

    async def status(self, request: Request) -> Response:
        """One poll."""
        request_id = request.state.request_id = request.path_params["request_id"]
        self._admit(request)
        try:
            uuid.UUID(request_id)
        except ValueError:
            raise Wrong(400, "invalid-argument", "Malformed request ID") from None
        video = self._videos.find(request_id)
        if video is None:
            raise Wrong(404, "not-found", f"The request {request_id} does not exist.")
        match self._videos.outcome(video):
            case "pending":
                return JSONResponse({"status": "pending", "progress": self._videos.progress(video)}, 202)
            case "failed":
                error = {"code": "invalid_argument", "message": str(video.render.exception())}
                return JSONResponse({"status": "failed", "error": error})
            case "moderated":
                text = "Generated video rejected by content moderation."
                return JSONResponse({"code": "imagine:content-moderated", "error": text, "usage": _usage(video)}, 400)
            case _:
                return JSONResponse(self._done(video))

    def _done(self, video: Video) -> dict[str, Any]:
        url = video.body.output.upload_url if video.body.output else self._url(video)
        return {
            "status": "done",
            "video": {
                "url": url,
                "duration": video.seconds,
                "respect_moderation": True,
                **self._file_output(video),
            },
            "model": video.model,
            "usage": _usage(video),
            "progress": 100,
        }

    def _file_output(self, video: Video) -> dict[str, Any]:
        options = video.body.storage_options
        if options is None:
            return {}
        output: dict[str, Any] = {
            "file_id": f"file_{video.request_id}",
            "filename": options.filename or f"xai-video-{video.request_id}.mp4",
            "expires_at": int(time.time()) + (options.expires_after or FILE_LIFE_SECONDS),
        }
        if options.public_url:
            output["public_url"] = self._url(video)
        return {"file_output": output}

    def _url(self, video: Video) -> str:
        link = self._videos.link(video)
        place = f"{link}/" if link else ""
        return f"{self._origin}/xai-vidgen-bucket/{place}xai-video-{video.request_id}.mp4"

    async def file(self, request: Request) -> Response:
        """A result: no key needed, until it expires; in parts, if asked so."""
        request_id = request.path_params["name"].removeprefix("xai-video-").removesuffix(".mp4")
        request.state.request_id = request_id
        video, link = self._videos.find(request_id), request.path_params.get("link", 0)
        if video is None or link >= len(video.links):
            return Response(status_code=404)
        if self._videos.is_expired(video, link):
            return Response(status_code=403)
        return _part(video.render.result(), request, f'"{request_id}"')

    async def models(self, request: Request) -> Response:
        """The models."""
        self._admit(request)
        return JSONResponse({"models": [{"id": entry.model, "aliases": list(entry.aliases)} for entry in MODELS]})

    async def model(self, request: Request) -> Response:
        """One model."""
        self._admit(request)
        entry = capabilities_of(request.path_params["model"])
        if entry is None:
            raise Wrong(404, "not-found", f"The model {request.path_params['model']} does not exist.")
        return JSONResponse({"id": entry.model, "aliases": list(entry.aliases)})

    async def key(self, request: Request) -> Response:
        """What the key is; free."""
        self._admit(request)
        barred = dict.fromkeys(("team_blocked", "api_key_blocked", "api_key_disabled"), False)
        return JSONResponse(
            {"redacted_api_key": "xai-...", "name": "emulator", "acls": ["api-key:endpoint:*"], **barred}
        )

    def _admit(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given or self._api_key not in {None, given}:
            raise Wrong(401, "unauthenticated", "Invalid or missing API key.")
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if self._per_second is not None and len(self._recent) >= self._per_second:
            limit = f"{len(self._recent)}/{self._per_second}"
            raise Wrong(
                429,
                "resource-exhausted",
                f"Too many requests for team emulator. Requests per Second (actual/limit): {limit}.",
            )
        self._recent.append(now)

    def _check_credits(self, body: Body) -> None:
        if self._credits_usd is not None and self._videos.billed() + cost_of(body) > self._credits_usd:
            raise Wrong(
                403,
                "permission-denied",
                "Your team emulator has either used all available credits or reached its monthly spending limit.",
            )


def _part(content: bytes, request: Request, etag: str) -> Response:
    """A file, or the part of it that a Range header asks for."""
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    asked = request.headers.get("range", "")
    if not asked.startswith("bytes=") or request.headers.get("if-range", etag) != etag:
        return Response(content, media_type="video/mp4", headers=headers)
    begin_text, _, end_text = asked.removeprefix("bytes=").partition("-")
    begin = int(begin_text) if begin_text.isdecimal() else 0
    end = min(int(end_text) if end_text.isdecimal() else len(content) - 1, len(content) - 1)
    if begin > end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
    return Response(content[begin : end + 1], 206, media_type="video/mp4", headers=headers)


def _usage(video: Video) -> dict[str, int]:
    return {"cost_in_usd_ticks": int(video.cost_usd * TICKS_PER_USD)}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode(errors="replace")


async def _wrong(request: Request, error: Exception) -> Response:
    if not isinstance(error, Wrong):
        raise error
    return JSONResponse({"code": error.code, "error": error.text}, error.http_status)


async def _no_route(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": {"code": 404, "message": "Not Found"}}, 404)


async def _no_method(request: Request, error: Exception) -> Response:
    headers = error.headers if isinstance(error, HTTPException) else None
    return Response(status_code=405, headers=headers)
