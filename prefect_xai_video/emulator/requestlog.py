"""The log of requests: one line of JSON each, and never a key."""

import json
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefect_xai_video.emulator.clock import Clock

SHOWN_OF_DATA_URL = 64

Entry = dict[str, Any]


class RequestLog:
    """Keeps the log in memory, and in a file if there is one."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._file: TextIO | None = None

    def open(self, path: Path) -> None:
        """Append to a file from now on."""
        self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, entry: Entry) -> None:
        """Add a request."""
        self.entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()


def note_body(request: Request, body: bytes) -> None:
    """Log the JSON body of a request."""
    try:
        # A lenient parser lets NaN through, which must not end up in the log as it is.
        request.state.entry["body"] = _shortened(json.loads(body, parse_constant=str))
    except (ValueError, RecursionError):
        request.state.entry["body"] = None


def note_request_id(request: Request, request_id: str) -> None:
    """Log the request id that a request is about, or that its answer gives."""
    request.state.entry["request_id"] = request_id


class LoggedRequests:
    """Logs each request just before its response begins, so that whoever has the response finds it in the log.

    The response gets an `x-request-id`, which is the entry's `trace_id`.
    Where there is no answer, the request is logged with status null just before the client has to do without.
    """

    def __init__(self, app: ASGIApp, log: RequestLog, clock: Clock) -> None:
        self._app = app
        self._log = log
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = _entry(scope, self._clock.now())
        scope.setdefault("state", {})["entry"] = entry
        logged = False

        async def send_logged(message: Message) -> None:
            nonlocal logged
            if not logged:
                entry["status"] = message.get("status")
                if message["type"] == "http.response.start":
                    MutableHeaders(raw=message["headers"])["x-request-id"] = entry["trace_id"]
                self._log.add(entry)
                logged = True
            await send(message)

        try:
            await self._app(scope, receive, send_logged)
        finally:
            if not logged:
                self._log.add(entry)


def _entry(scope: Scope, time: datetime) -> Entry:
    query = scope["query_string"].decode("latin-1")
    headers = Headers(scope=scope)
    return {
        "time": time.isoformat(),
        "method": scope["method"],
        "path": scope["path"] + (f"?{query}" if query else ""),
        "status": None,
        "body": None,
        "request_id": None,
        "authorization": "authorization" in headers,
        "client_request_id": headers.get("x-client-request-id"),
        "trace_id": str(uuid.uuid4()),
    }


def _shortened(value: Any) -> Any:
    match value:
        case dict():
            return {name: _shortened(member) for name, member in value.items()}
        case list():
            return [_shortened(member) for member in value]
        case str() if value.startswith("data:") and len(value) > SHOWN_OF_DATA_URL:
            return f"{value[:SHOWN_OF_DATA_URL]}... ({len(value)} characters)"
        case _:
            return value
