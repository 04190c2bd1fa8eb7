"""The request log: one line of JSON per request, without API keys."""

import json
import uuid
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefect_xai_video.emulator.clock import Clock

DATA_URL_CHARACTERS = 64

Entry = dict[str, Any]


class RequestLog:
    """Keeps the request log in memory and, optionally, in a file.

    Args:
        max_entries: Number of entries kept in memory, the newest ones; None for all.
    """

    def __init__(self, max_entries: int | None = None) -> None:
        self.entries: deque[Entry] = deque(maxlen=max_entries)
        self._file: TextIO | None = None

    def open(self, path: Path) -> None:
        """Open a file, to which further requests are appended."""
        self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, entry: Entry) -> None:
        """Append a request."""
        self.entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()


def note_body(request: Request, body: bytes) -> None:
    """Log the JSON body of a request."""
    try:
        # A lenient parser accepts NaN, which would not be valid JSON in the log.
        request.state.entry["body"] = _shortened(json.loads(body, parse_constant=str))
    except (ValueError, RecursionError):
        request.state.entry["body"] = None


def note_json(request: Request, body: Any) -> None:
    """Log a shorter form of the body of a request."""
    request.state.entry["body"] = body


def note_request_id(request: Request, request_id: str) -> None:
    """Log the request id that a request refers to, or that its response returns."""
    request.state.entry["request_id"] = request_id


def note_faults(request: Request, names: list[str]) -> None:
    """Log the names of the faults that are selected for a submission, accepted or not."""
    request.state.entry["faults"] = names


class LoggedRequests:
    """Logs each request just before its response starts, so that a client that has the response finds it in the log.

    The response gets an `x-request-id`, which is the entry's `trace_id`. A request without a response is logged with
    status null, just before its connection ends.
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
        "faults": [],
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
        case str() if value.startswith("data:") and len(value) > DATA_URL_CHARACTERS:
            return f"{value[:DATA_URL_CHARACTERS]}... ({len(value)} characters)"
        case _:
            return value
