"""The response to a submission: a request id, unless a fault is selected."""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.clock import Clock, http_date
from prefect_xai_video.emulator.connections import cut, huge, silence
from prefect_xai_video.emulator.echoes import key_repeated, with_key
from prefect_xai_video.emulator.faults import Fault


class Post(NamedTuple):
    """The parts of a POST on which its response may depend.

    Attributes:
        url: Its URL.
        key: The API key that was sent with it.
        clock: The emulator's clock.
    """

    url: str
    key: str
    clock: Clock


def refused_response(fault: Fault | None, post: Post) -> ASGIApp | None:
    """Respond to a POST that is not accepted; None if the fault does not prevent it from being accepted."""
    respond = _NOT_ACCEPTED.get(fault) if fault else None
    return respond(post) if respond else None


def accepted_response(fault: Fault | None, post: Post, request_id: str) -> ASGIApp:
    """Respond to a POST that was accepted, and is billed whether or not the client learns of it."""
    if fault in _OTHER_RESPONSE:
        return _OTHER_RESPONSE[fault](post)
    respond = _OTHER_SHAPE.get(fault) if fault else None
    return respond(request_id) if respond else JSONResponse({"request_id": request_id})


def _too_many_until_a_date(post: Post) -> Response:
    # Read the clock once for both: rounded to seconds, two readings could be two seconds apart.
    now = post.clock.now()
    retry_after = http_date(now + timedelta(seconds=1))
    response = refusals.too_many_requests(2, 2, retry_after=retry_after).response
    response.headers["Date"] = http_date(now)
    return response


def _cut_in_the_middle(request_id: str) -> Response:
    content = json.dumps({"request_id": request_id})
    return Response(content[: len(content) // 2], media_type="application/json")


def _cut_after(request_id: str) -> ASGIApp:
    content = json.dumps({"request_id": request_id})
    head = content[: content.index(request_id) + len(request_id)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": head.encode(), "more_body": True})
        await cut(scope, receive, send)

    return app


def _status(status: int, code: str) -> Callable[[Post], Response]:
    error = f"The request could not be handled ({status})."
    return lambda _: JSONResponse({"code": code, "error": error}, status_code=status)


def _redirect(post: Post) -> Response:
    return RedirectResponse(post.url, status_code=307)


def _key_in_text(post: Post) -> Response:
    return with_key({"code": "invalid-argument", "error": key_repeated(post.key)}, post.key, 400)


def _key_in_code(post: Post) -> Response:
    return with_key({"code": post.key, "error": "Incorrect API key provided."}, post.key, 400)


_NOT_ACCEPTED: Mapping[Fault, Callable[[Post], ASGIApp]] = {
    Fault.START_429: lambda _: refusals.too_many_requests(2, 2).response,
    Fault.START_429_RETRY_AFTER: lambda _: refusals.too_many_requests(2, 2, retry_after="1").response,
    Fault.START_429_DATE: _too_many_until_a_date,
    Fault.START_503: lambda _: refusals.service_unavailable().response,
    Fault.START_503_RETRY_AFTER: lambda _: refusals.service_unavailable(retry_after="1").response,
    Fault.START_CUT: lambda _: cut,
    Fault.START_307: _redirect,
    Fault.START_409: _status(409, "aborted"),
    Fault.START_425: _status(425, "too-early"),
    Fault.START_499: _status(499, "cancelled"),
    Fault.START_400_KEY: _key_in_text,
    Fault.START_400_KEY_IN_CODE: _key_in_code,
}

_OTHER_RESPONSE: Mapping[Fault | None, Callable[[Post], ASGIApp]] = {
    Fault.START_ACCEPTED_CUT: lambda _: cut,
    Fault.START_ACCEPTED_500: lambda _: refusals.internal_error().response,
    Fault.START_ACCEPTED_502: lambda _: PlainTextResponse("error code: 502", status_code=502),
    Fault.START_ACCEPTED_SILENCE: lambda _: silence,
    Fault.START_ACCEPTED_307: _redirect,
    Fault.START_ACCEPTED_409: _status(409, "aborted"),
    Fault.START_ACCEPTED_425: _status(425, "too-early"),
    Fault.START_ACCEPTED_499: _status(499, "cancelled"),
    Fault.START_ACCEPTED_503: lambda _: refusals.service_unavailable().response,
    Fault.START_ACCEPTED_503_RETRY_AFTER: lambda _: refusals.service_unavailable(retry_after="1").response,
}
_OTHER_SHAPE: Mapping[Fault, Callable[[str], ASGIApp]] = {
    Fault.START_ACCEPTED_UNREADABLE: _cut_in_the_middle,
    Fault.START_ACCEPTED_ID: lambda request_id: JSONResponse({"id": request_id}),
    Fault.START_ACCEPTED_NUMBER: lambda request_id: JSONResponse({"request_id": UUID(request_id).int}),
    Fault.START_ACCEPTED_NESTED: lambda request_id: JSONResponse({"data": {"request_id": request_id}}),
    Fault.START_ACCEPTED_CUT_AFTER_ID: _cut_after,
    Fault.START_ACCEPTED_HUGE: lambda request_id: huge({"request_id": request_id}),
}

STARTS = {*_NOT_ACCEPTED, *(fault for fault in _OTHER_RESPONSE if fault), *_OTHER_SHAPE}
"""Faults of a POST; only one of them strikes at a time."""
