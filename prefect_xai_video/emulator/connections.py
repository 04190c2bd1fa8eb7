"""Answers that leave a client waiting, or that end with their connection instead of their last byte.

An application of ASGI can't do that by itself. It says so with messages of its own, which `UnreliableConnections`,
next to the server, carries out.
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Address = tuple[str, int]

SLOW_SECONDS = 3.0
"""How long a slow answer takes."""

_CLOSE = "emulator.close"
_SILENCE = "emulator.silence"


async def cut(_: Scope, receive: Receive, send: Send) -> None:
    """Close the connection once all that was sent so far has left; as an answer, no answer."""
    await send({"type": _CLOSE})
    # Who returns before the connection is gone is answered for with a 500 by the server.
    await _client_gone(receive)


async def silence(_: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing until the client goes away."""
    await send({"type": _SILENCE})
    await _client_gone(receive)


def late(answer: Callable[[], ASGIApp]) -> ASGIApp:
    """An answer that is made and sent after a while."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await pause(receive, SLOW_SECONDS)
        await answer()(scope, receive, send)

    return app


async def pause(receive: Receive, seconds: float) -> None:
    """Wait, but no longer than the client does."""
    try:
        await asyncio.wait_for(_client_gone(receive), seconds)
    except TimeoutError:
        return


async def _client_gone(receive: Receive) -> None:
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
