"""Responses that leave a client waiting, never end, or break off with their connection.

An ASGI application can't do that by itself. It sends messages of its own kind, which `UnreliableConnections`, next to
the server, carries out.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Address = tuple[str, int]

SLOW_SECONDS = 3.0
"""Duration of a slow response, in seconds."""

HUGE_BYTES = 2**26
_CHUNK_BYTES = 2**16

_CLOSE = "emulator.close"
_SILENCE = "emulator.silence"


async def cut(_: Scope, receive: Receive, send: Send) -> None:
    """Close the connection after everything sent so far has been delivered; used alone, there is no response."""
    await send({"type": _CLOSE})
    # If the application returned before the connection is closed, the server would send a 500.
    await client_gone(receive)


async def silence(_: Scope, receive: Receive, send: Send) -> None:
    """Send nothing until the client disconnects."""
    await send({"type": _SILENCE})
    await client_gone(receive)


def late(respond: Callable[[], ASGIApp]) -> ASGIApp:
    """Delay a response; it is created only after the delay."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await pause(receive, SLOW_SECONDS)
        await respond()(scope, receive, send)

    return app


def huge(content: dict[str, Any]) -> Response:
    """Respond with a JSON object that ends with a member of 64 MiB."""

    async def chunks() -> AsyncIterator[str]:
        yield json.dumps(content).removesuffix("}") + ', "padding": "'
        for _ in range(HUGE_BYTES // _CHUNK_BYTES):
            yield "x" * _CHUNK_BYTES
            # Yield to other tasks, even if the client reads as fast as this writes.
            await asyncio.sleep(0)
        yield '"}'

    return StreamingResponse(chunks(), media_type="application/json")


async def pause(receive: Receive, seconds: float) -> None:
    """Sleep, but not longer than the client is connected."""
    try:
        await asyncio.wait_for(client_gone(receive), seconds)
    except TimeoutError:
        return


async def client_gone(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass


class UnreliableConnections:
    """Carries out what a response requests for its connection.

    Args:
        app: The application.
        close: Closes the connection of a client.
    """

    def __init__(self, app: ASGIApp, close: Callable[[Address], None]) -> None:
        self._app = app
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_or_close(message: Message) -> None:
            if message["type"] == _CLOSE:
                self._close(scope["client"])
            elif message["type"] != _SILENCE:
                await send(message)

        await self._app(scope, receive, send_or_close)
