"""The routes of the emulator, and the order in which it checks a request."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from prefect_xai_video.api.capabilities import MODELS, ModelCapabilities, capabilities_of
from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.batches.registry import Batches
from prefect_xai_video.emulator.batches.routes import batch_routes
from prefect_xai_video.emulator.bodies import (
    EditBody,
    ExtensionBody,
    FaultBody,
    GenerationBody,
    Submitted,
    read_body,
)
from prefect_xai_video.emulator.downloads import download_response
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.file_routes import file_routes
from prefect_xai_video.emulator.ledger import ledger
from prefect_xai_video.emulator.polls import poll_response
from prefect_xai_video.emulator.requestlog import note_faults, note_request_id
from prefect_xai_video.emulator.service import Service
from prefect_xai_video.emulator.starts import STARTS, Post, accepted_response, refused_response
from prefect_xai_video.emulator.validation import (
    AcceptedRequest,
    accept_edit,
    accept_extension,
    accept_generation,
)

Endpoint = Callable[[Request], Awaitable[ASGIApp]]

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_app(service: Service, batches: Batches) -> Starlette:
    """Create the web application for a service and its batches."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with service.production.running():
            service.resume()
            batches.resume()
            yield

    app = Starlette(routes=_routes(), exception_handlers=_EXCEPTION_HANDLERS, lifespan=lifespan)
    app.router.redirect_slashes = False
    app.state.service, app.state.batches = service, batches
    return app


def _routes() -> list[Route]:
    submissions = {
        "/v1/videos/generations": _submission(GenerationBody, accept_generation),
        "/v1/videos/edits": _submission(EditBody, accept_edit),
        "/v1/videos/extensions": _submission(ExtensionBody, accept_extension),
    }
    return [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in submissions.items()),
        # Otherwise their names would be taken for request ids.
        *(Route(path, _not_allowed, methods=["GET"]) for path in submissions),
        Route("/v1/videos/{request_id}", _poll),
        Route("/v1/videos", _not_allowed, methods=_METHODS),
        Route("/v1/videos/{rest:path}", _not_allowed, methods=_METHODS),
        Route("/v1/video-generation-models", _models),
        Route("/v1/video-generation-models/{model}", _model),
        Route("/v1/api-key", _api_key),
        Route("/v1/me", _me),
        Route("/xai-vidgen-bucket/xai-video-{request_id}.mp4", _download),
        Route("/xai-vidgen-bucket/{number:int}/xai-video-{request_id}.mp4", _download),
        *file_routes(),
        *batch_routes(),
        Route("/emulator/ledger", _ledger),
        Route("/emulator/faults", _faults),
        Route("/emulator/faults", _choose_fault, methods=["POST"]),
    ]


def _submission(shape: type[Submitted], accept: Callable[[Submitted], AcceptedRequest]) -> Endpoint:
    async def submit(request: Request) -> ASGIApp:
        service = _service(request)
        body = await read_body(request, shape)
        key = service.check_key(request.headers.get("authorization"))
        service.rate.check()
        accepted = accept(body)
        faults = service.faults.of(body)
        note_faults(request, faults.names)
        fault = faults.strike_of(STARTS)
        post = Post(str(request.url), key, service.clock)
        refusal = refused_response(fault, post)
        if refusal is not None:
            return refusal
        video = service.submit(accepted, faults, request.headers.get("x-client-request-id"))
        note_request_id(request, video.request_id)
        return accepted_response(fault, post, video.request_id)

    return submit


async def _poll(request: Request) -> ASGIApp:
    service = _service(request)
    request_id = request.path_params["request_id"]
    note_request_id(request, request_id)
    key = service.check_key(request.headers.get("authorization"))
    service.rate.check()
    video = service.video(request_id)
    response = poll_response(service, video, key)
    service.save(video)
    return response


async def _models(request: Request) -> Response:
    _service(request).check_key(request.headers.get("authorization"))
    return JSONResponse({"models": [_described(entry) for entry in MODELS]})


async def _model(request: Request) -> Response:
    _service(request).check_key(request.headers.get("authorization"))
    model = request.path_params["model"]
    entry = capabilities_of(model)
    if entry is None:
        raise refusals.unknown_model(model)
    return JSONResponse(_described(entry))


def _described(entry: ModelCapabilities) -> dict[str, Any]:
    takes_video = bool({"edit", "extend"} & set(entry.modes))
    return {
        "id": entry.model,
        "object": "model",
        "owned_by": "xai",
        "input_modalities": ["text", "image", *(["video"] if takes_video else [])],
        "output_modalities": ["video"],
        "aliases": list(entry.aliases),
    }


async def _api_key(request: Request) -> Response:
    service = _service(request)
    key = service.check_key(request.headers.get("authorization"))
    return JSONResponse(_described_key(key, service.settings.team))


async def _me(request: Request) -> Response:
    """Describe the owner of the key. The field `emulator`, which xAI lacks, rules out a proxy of xAI."""
    service = _service(request)
    key = service.check_key(request.headers.get("authorization"))
    described = _described_key(key, service.settings.team)
    own = ("user_id", "team_id", "team_blocked")
    return JSONResponse(
        {
            **{name: described[name] for name in own},
            "zdr_status": "no_zdr",
            "api_key": {name: value for name, value in described.items() if name not in own},
            "emulator": True,
        }
    )


def _described_key(key: str, team: str) -> dict[str, Any]:
    return {
        "redacted_api_key": f"xai-...{key[-4:]}" if len(key) >= 16 else "xai-...",
        "user_id": "emulator",
        "team_id": team,
        "name": "emulator",
        "acls": ["api-key:endpoint:*", "api-key:model:*"],
        "team_blocked": False,
        "api_key_blocked": False,
        "api_key_disabled": False,
    }


async def _download(request: Request) -> ASGIApp:
    request_id = request.path_params["request_id"]
    note_request_id(request, request_id)
    return download_response(request, _service(request).videos.get(request_id))


async def _ledger(request: Request) -> Response:
    return JSONResponse(ledger(_service(request).videos.values()))


async def _faults(_: Request) -> Response:
    return JSONResponse({fault.value: fault.sentence for fault in Fault})


async def _choose_fault(request: Request) -> Response:
    body = await read_body(request, FaultBody)
    _service(request).faults.for_next(body.fault, body.submissions)
    return JSONResponse(body.model_dump())


async def _not_allowed(_: Request) -> Response:
    return Response(status_code=405)


async def _refused(_: Request, error: Exception) -> Response:
    return error.response if isinstance(error, refusals.Refused) else Response(status_code=500)


async def _empty(_: Request, error: Exception) -> Response:
    return Response(status_code=getattr(error, "status_code", 400))


async def _unknown_route(request: Request, _: Exception) -> Response:
    return refusals.unknown_route(request.url.path)


_EXCEPTION_HANDLERS: dict[Any, Any] = {
    404: _unknown_route,
    405: _empty,
    refusals.Refused: _refused,
    # No client is left to read the response.
    ClientDisconnect: _empty,
}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
