"""Answers that leave a client waiting, have no end, or end with their connection instead of their last byte.

An application of ASGI can't do that by itself. It says so with messages of its own, which `UnreliableConnections`,
next to the server, carries out.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Address = tuple[str, int]

SLOW_SECONDS = 3.0
"""How long a slow answer takes."""

HUGE_BYTES = 2**26
_PIECE_BYTES = 2**16

_CLOSE = "emulator.close"
_SILENCE = "emulator.silence"


async def cut(_: Scope, receive: Receive, send: Send) -> None:
    """Close the connection once all that was sent so far has left; as an answer, no answer."""
    await send({"type": _CLOSE})
    # Who returns before the connection is gone is answered for with a 500 by the server.
    await client_gone(receive)


async def silence(_: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing until the client goes away."""
    await send({"type": _SILENCE})
    await client_gone(receive)


def late(answer: Callable[[], ASGIApp]) -> ASGIApp:
    """An answer that is made and sent after a while."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await pause(receive, SLOW_SECONDS)
        await answer()(scope, receive, send)

    return app


def huge(content: dict[str, Any]) -> Response:
    """A JSON object with a member of 64 MiB behind the others."""

    async def pieces() -> AsyncIterator[str]:
        yield json.dumps(content).removesuffix("}") + ', "padding": "'
        for _ in range(HUGE_BYTES // _PIECE_BYTES):
            yield "x" * _PIECE_BYTES
            # Else nothing else would run while the client reads as fast as this is written.
            await asyncio.sleep(0)
        yield '"}'

    return StreamingResponse(pieces(), media_type="application/json")


async def pause(receive: Receive, seconds: float) -> None:
    """Wait, but no longer than the client does."""
    try:
        await asyncio.wait_for(client_gone(receive), seconds)
    except TimeoutError:
        return


async def client_gone(receive: Receive) -> None:
    """Wait until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class UnreliableConnections:
    """Carries out what an answer wants to be done to its connection.

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
