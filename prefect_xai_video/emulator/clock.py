"""The emulator's own wall clock, which may run ahead of this machine's."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Clock:
    """A wall clock.

    Attributes:
        ahead_seconds: How far it runs ahead of this machine's; negative is behind.
    """

    ahead_seconds: float = 0

    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.now(UTC) + timedelta(seconds=self.ahead_seconds)


def http_date(time: datetime) -> str:
    """Write a time in UTC as HTTP headers do, without fractions of a second."""
    return format_datetime(time, usegmt=True)


class DatedAnswers:
    """Writes the time of a clock into the Date header of each answer that has none."""

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
