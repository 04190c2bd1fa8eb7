"""The response to the download of a finished video: its file, unless a fault is selected.

Faults that change the body filter the messages of the normal response, so they can be combined.
"""

import asyncio
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.connections import SLOW_SECONDS, client_gone, cut, pause
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.videos import ResultUrl, Video

SLOW_CHUNKS = 10
OTHER_HOST = "localhost"
ELSEWHERE_HTTP = "http://192.0.2.1/cat.mp4"
"""An address that is reserved for documentation: no host uses it."""
PRIVATE = "https://10.255.255.1/cat.mp4"
TRAILING_BYTES = 5
_OTHER_BYTES = bytes(byte ^ 0xFF for byte in range(256))

Alteration = Callable[[ASGIApp], ASGIApp]


def download_response(request: Request, video: Video | None) -> ASGIApp:
    """Respond to the download of a video from a URL that a poll returned."""
    url = video.handed_out_url(request.path_params.get("number", 1)) if video else None
    if video is None or url is None:
        return _not_found()
    if request.url.hostname != OTHER_HOST and video.faults.strike(Fault.DOWNLOAD_REDIRECT):
        return RedirectResponse(request.url.replace(hostname=OTHER_HOST), status_code=302)
    if request.query_params.get("X-Amz-Signature", "") != url.signature:
        return PlainTextResponse("The signature does not match", status_code=403)
    if url.has_expired:
        return _expired()
    return _gone(request, video, url) or file_response(request, video)


def _not_found() -> Response:
    return PlainTextResponse("Not found", status_code=404)


def _expired() -> Response:
    return PlainTextResponse("The URL has expired", status_code=403)


_GONE: Mapping[Fault, Callable[[], Response]] = {
    Fault.DOWNLOAD_403: _expired,
    Fault.DOWNLOAD_404: _not_found,
}


def _gone(request: Request, video: Video, url: ResultUrl) -> Response | None:
    if url.gone is None and request.method == "GET":
        url.gone = video.faults.strike_of(_GONE)
    return _GONE[url.gone]() if url.gone else None


def file_response(request: Request, video: Video) -> ASGIApp:
    """Respond with the file or a fault. Only one fault that affects the whole response strikes at a time."""
    file = _whole(request, video)
    if request.method != "GET":
        return file
    if Fault.DOWNLOAD_ETAG in video.faults and "range" in request.headers:
        return _of_another_file(file)
    fault = video.faults.strike_of({*_INSTEAD, *_ALTERED})
    if fault is not None and fault in _INSTEAD:
        return _INSTEAD[fault]()
    if video.faults.strike(Fault.DOWNLOAD_NO_RANGE):
        file = _without_range(file)
    if fault is not None:
        file = _ALTERED[fault](file)
    if video.faults.strike(Fault.DOWNLOAD_TRAILING):
        file = _with_zeros(file)
    return _without_length(file) if video.faults.strike(Fault.DOWNLOAD_CHUNKED) else file


def _whole(request: Request, video: Video) -> ASGIApp:
    """Respond without a fault; from memory where that needs no knowledge of ranges."""
    clip = video.clip
    if clip is not None and request.method == "GET" and "range" not in request.headers:
        return Response(clip.content, headers=clip.headers, media_type="video/mp4")
    return FileResponse(video.path, media_type="video/mp4")


def _without_range(response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        sent = _with_headers(send, lambda headers: _remove(headers, "ETag", "Last-Modified", "Accept-Ranges"))
        await response({**scope, "headers": headers}, receive, sent)

    return app


def _without_length(response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await response(scope, receive, _with_headers(send, lambda headers: _remove(headers, "Content-Length")))

    return app


def _cut_halfway(response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await response(scope, receive, _half(send))
        await cut(scope, receive, send)

    return app


def _ended_halfway(response: ASGIApp) -> ASGIApp:
    """Close the connection halfway; unlike a cut, the response announces that the connection closes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await response(scope, receive, _half(_with_headers(send, lambda headers: headers.update(_LAST_RESPONSE))))
        await cut(scope, receive, send)

    return app


def _truncated(response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await response(scope, receive, _half(_with_headers(send, _halve_length)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def _of_another_file(response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_other(message: Message) -> None:
            body = message.get("body")
            await send({**message, "body": body.translate(_OTHER_BYTES)} if body else message)

        await response(
            scope, receive, _with_headers(send_other, lambda headers: headers.update({"ETag": '"another"'}))
        )

    return app


def _with_zeros(response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body")
            await send({**message, "body": message["body"] + bytes(TRAILING_BYTES)} if last else message)

        await response(scope, receive, _with_headers(send_more, _lengthen))

    return app


def _endless(response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_open(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await response(scope, receive, _with_headers(send_open, lambda headers: _remove(headers, "Content-Length")))
        gone = asyncio.create_task(client_gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
            # Yield to other tasks, even if the client reads as fast as this writes.
            await asyncio.sleep(0)

    return app


def _in_slow_chunks(response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        content = bytearray()

        async def send_headers(message: Message) -> None:
            content.extend(message.get("body", b""))
            if message["type"] == "http.response.start":
                await send(message)

        await response(scope, receive, send_headers)
        size = -(-len(content) // SLOW_CHUNKS)
        for first in range(0, len(content), size):
            await pause(receive, SLOW_SECONDS / SLOW_CHUNKS)
            await send(
                {"type": "http.response.body", "body": bytes(content[first : first + size]), "more_body": True}
            )
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


_INSTEAD: Mapping[Fault, Callable[[], Response]] = {
    Fault.DOWNLOAD_500: lambda: refusals.internal_error().response,
    Fault.DOWNLOAD_RETRY_AFTER: lambda: refusals.service_unavailable(retry_after="86400").response,
    Fault.DOWNLOAD_REDIRECT_HTTP: lambda: RedirectResponse(ELSEWHERE_HTTP, status_code=302),
    Fault.DOWNLOAD_REDIRECT_PRIVATE: lambda: RedirectResponse(PRIVATE, status_code=302),
    Fault.DOWNLOAD_HTML: lambda: HTMLResponse("<!DOCTYPE html><title>Sign in</title><p>Please sign in."),
}
_ALTERED: Mapping[Fault, Alteration] = {
    Fault.DOWNLOAD_CUT: _cut_halfway,
    Fault.DOWNLOAD_SHORT: _ended_halfway,
    Fault.DOWNLOAD_TRUNCATED: _truncated,
    Fault.DOWNLOAD_SLOW: _in_slow_chunks,
    Fault.DOWNLOAD_ETAG: _cut_halfway,
    Fault.DOWNLOAD_ENDLESS: _endless,
}


def _half(send: Send) -> Send:
    """Pass on half of the body that Content-Length announces, and never end it."""
    left = 0

    async def send_half(message: Message) -> None:
        nonlocal left
        if message["type"] == "http.response.start":
            left = _length(Headers(raw=message["headers"])) // 2
            await send(message)
        elif left > 0:
            chunk = message["body"][:left]
            left -= len(chunk)
            await send({**message, "body": chunk, "more_body": True})

    return send_half


def _with_headers(send: Send, change: Callable[[MutableHeaders], None]) -> Send:
    async def send_changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            change(headers)
            message = {**message, "headers": headers.raw}
        await send(message)

    return send_changed


_LAST_RESPONSE = {"Connection": "close"}


def _remove(headers: MutableHeaders, *names: str) -> None:
    for name in names:
        del headers[name]


def _halve_length(headers: MutableHeaders) -> None:
    headers["Content-Length"] = str(_length(headers) // 2)


def _lengthen(headers: MutableHeaders) -> None:
    if "Content-Length" in headers:
        headers["Content-Length"] = str(_length(headers) + TRAILING_BYTES)


def _length(headers: Headers) -> int:
    return int(headers["Content-Length"])
