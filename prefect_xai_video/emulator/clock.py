"""The emulator's own wall clock, which may run ahead of this machine's clock."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Clock:
    """A wall clock.

    Attributes:
        ahead_seconds: Seconds by which it runs ahead of this machine's clock; negative means behind.
    """

    ahead_seconds: float = 0

    def now(self) -> datetime:
        """Current time in UTC."""
        return datetime.now(UTC) + timedelta(seconds=self.ahead_seconds)


def http_date(time: datetime) -> str:
    """Format a time in UTC for an HTTP header, without fractions of a second."""
    return format_datetime(time, usegmt=True)


class DatedResponses:
    """Sets the Date header of each response that has none, by a given clock."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message["headers"]).setdefault("Date", http_date(self._clock.now()))
            await send(message)

        await self._app(scope, receive, send_dated)
