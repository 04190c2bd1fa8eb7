"""The routes of the Files API."""

import asyncio
import re
import shutil
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from prefect_xai_video.api.capabilities import MAX_STORAGE_SECONDS
from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.bodies import PublicUrl, read_body
from prefect_xai_video.emulator.downloads import file_response
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.file_list import FileQuery
from prefect_xai_video.emulator.files import MAX_JSONL_BYTES, MAX_MEDIA_BYTES, ApiFile, PublicAccess
from prefect_xai_video.emulator.multipart import Part, parts_of, receive, temporary_file
from prefect_xai_video.emulator.requestlog import note_request_id
from prefect_xai_video.emulator.service import Service
from prefect_xai_video.emulator.validation import check_public_seconds
from prefect_xai_video.emulator.videos import Video


def file_routes() -> list[Route]:
    """All routes of the Files API, and of public URLs."""
    return [
        Route("/v1/files", _list),
        Route("/v1/files", _upload, methods=["POST"]),
        Route("/v1/files/{file_id}", _get),
        Route("/v1/files/{file_id}", _delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", _content),
        Route("/v1/files/{file_id}/public-url", _publish, methods=["POST"]),
        Route("/v1/files/{file_id}/public-url/revoke", _revoke, methods=["POST"]),
        Route("/xai-files/{token}.mp4", _public),
    ]


async def _list(request: Request) -> Response:
    service = _checked(request)
    query = FileQuery.of(request.query_params)
    shown = []
    for file in query.matching(service.files.all()):
        video = _video_of(service, file)
        if video is not None and video.faults.strike(Fault.FILE_LIST_500):
            service.save(video)
            raise refusals.internal_error()
        if video is not None and video.faults.strike(Fault.FILE_LIST_LAGS):
            service.save(video)
            continue
        shown.append(file)
    page, token = query.page(shown)
    return JSONResponse({"data": [_described(file, service) for file in page], "pagination_token": token})


async def _upload(request: Request) -> Response:
    service = _checked(request)
    with temporary_file(service.directory) as body:
        await receive(request, body, MAX_JSONL_BYTES)
        parts = await asyncio.to_thread(parts_of, request, body)
        position = next((index for index, part in enumerate(parts) if part.name == "file"), None)
        if position is None or not parts[position].filename:
            raise refusals.invalid_argument("The multipart body has no file.")
        part = parts[position]
        name = part.filename or ""
        limit = MAX_JSONL_BYTES if name.endswith(".jsonl") else MAX_MEDIA_BYTES
        if part.end - part.begin > limit:
            raise refusals.too_large(limit)
        seconds = _lifetime(body, parts, position)
        now, file_id = service.clock.now(), f"file_{uuid.uuid4()}"
        path = service.directory / f"{file_id}.content"
        await asyncio.to_thread(_copy, body, part, path)
    file = ApiFile(
        id=file_id,
        name=name,
        size=part.end - part.begin,
        path=path,
        content_type=part.content_type or "application/octet-stream",
        created_at=now,
        expires_at=None if seconds is None else now + timedelta(seconds=seconds),
    )
    service.files.add(file)
    return JSONResponse(_described(file, service))


def _lifetime(body: Path, parts: list[Part], file: int) -> int | None:
    """Read the lifetime of an upload. It must come before the file, since the service reads a body as it arrives."""
    for index, part in enumerate(parts):
        if part.name != "expires_after":
            continue
        with body.open("rb") as content:
            content.seek(part.begin)
            text = content.read(min(part.end - part.begin, 20)).decode(errors="replace")
        if index > file or not re.fullmatch("[0-9]{1,9}", text) or not 0 < int(text) <= MAX_STORAGE_SECONDS:
            raise refusals.invalid_argument(
                f"expires_after must come before file and be at most {MAX_STORAGE_SECONDS} seconds."
            )
        return int(text)
    return None


def _copy(body: Path, part: Part, target: Path) -> None:
    with body.open("r+b") as content, target.open("wb") as file:
        content.truncate(part.end)
        content.seek(part.begin)
        shutil.copyfileobj(content, file)


async def _get(request: Request) -> Response:
    service = _checked(request)
    return JSONResponse(_described(_file(request, service), service))


async def _delete(request: Request) -> Response:
    service = _checked(request)
    file = _file(request, service)
    service.files.delete(file)
    return JSONResponse({"id": file.id, "object": "file", "deleted": True})


async def _content(request: Request) -> ASGIApp:
    service = _checked(request)
    return _sent(request, service, _file(request, service))


async def _public(request: Request) -> ASGIApp:
    service = _service(request)
    file = service.files.of_token(request.path_params["token"])
    if file is None:
        return PlainTextResponse("Not found", status_code=404)
    return _sent(request, service, file)


def _sent(request: Request, service: Service, file: ApiFile) -> ASGIApp:
    video = _video_of(service, file)
    if video is None:
        return FileResponse(file.path, media_type=file.content_type)
    note_request_id(request, video.request_id)
    return file_response(request, video)


async def _publish(request: Request) -> Response:
    service = _checked(request)
    body = await read_body(request, PublicUrl)
    file = _file(request, service)
    if body.expires_after is not None:
        check_public_seconds(body.expires_after)
    return JSONResponse(_public_url(service.files.publish(file, body.expires_after), service, "expires_at"))


async def _revoke(request: Request) -> Response:
    service = _checked(request)
    file = _file(request, service)
    service.files.revoke(file)
    return JSONResponse({"id": file.id, "revoked": True})


def _described(file: ApiFile, service: Service) -> dict[str, Any]:
    facts = {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.name,
        "purpose": "",
    }
    if file.expires_at is not None:
        facts["expires_at"] = int(file.expires_at.timestamp())
    if file.public is not None and file.is_public(service.clock.now()):
        facts |= _public_url(file.public, service, "public_url_expires_at")
    return facts


def _public_url(public: PublicAccess, service: Service, expiry: str) -> dict[str, Any]:
    url = service.public_url(public)
    return {"public_url": url} | ({} if public.expires_at is None else {expiry: _seconds(public.expires_at)})


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _checked(request: Request) -> Service:
    service = _service(request)
    service.check_key(request.headers.get("authorization"))
    return service


def _file(request: Request, service: Service) -> ApiFile:
    return service.files.get(request.path_params["file_id"])


def _video_of(service: Service, file: ApiFile) -> Video | None:
    return None if file.request_id is None else service.videos.get(file.request_id)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
