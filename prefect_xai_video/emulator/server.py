"""Runs the emulator in a thread of its own."""

import asyncio
import importlib.util
import socket
import threading
import time
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_xai_video.emulator.app import create_app
from prefect_xai_video.emulator.clock import DatedAnswers
from prefect_xai_video.emulator.connections import Address, UnreliableConnections
from prefect_xai_video.emulator.ledger import ledger
from prefect_xai_video.emulator.requestlog import LoggedRequests, RequestLog
from prefect_xai_video.emulator.service import Service, Settings
from prefect_xai_video.emulator.state import State

_HOST = "127.0.0.1"
_PATIENCE_SECONDS = 0.5
"""How long clients that hold a connection may finish when the emulator is closed."""


class Emulator:
    """A local stand-in for the xAI video API, which runs as long as the `with` block.

    ```python
    with Emulator(render_seconds=0.2) as emulator:
        credentials = XaiCredentials(api_key="any", base_url=emulator.base_url)
    ```

    Attributes:
        base_url: What to use as base URL of the API; known inside the block.

    Args:
        render_seconds: How long a render takes at least.
        api_key: The one key that is accepted; None accepts any that is not empty.
        team: Id of the team that all keys belong to; with a state directory, requests of another team are unknown.
        url_ttl_seconds: How long the URL of a finished video lives.
        credits_usd: What may be billed in all; None is no limit.
        requests_per_second: How many submissions and polls a second are answered; None is no limit.
        log: File to which each request is appended as one line of JSON.
        port: Port on 127.0.0.1; 0 takes a free one.
        state: Directory where requests and videos are kept, so that a later emulator knows them and goes on with
            them. Without one they end with the block.
        clock_ahead_seconds: How far its wall clock runs ahead of this machine's: in Date and Retry-After, in the
            ledger and the log, and for when files expire. Renders and URLs of results take the time they take.
    """

    def __init__(
        self,
        *,
        render_seconds: float = 4,
        api_key: str | None = None,
        team: str = "emulator",
        url_ttl_seconds: float = 3600,
        credits_usd: Decimal | float | str | None = None,
        requests_per_second: int | None = None,
        log: Path | None = None,
        port: int = 0,
        state: Path | None = None,
        clock_ahead_seconds: float = 0,
    ) -> None:
        self.base_url = ""
        self._service = Service(
            Settings(
                render_seconds=render_seconds,
                api_key=api_key,
                team=team,
                url_ttl_seconds=url_ttl_seconds,
                credits_usd=None if credits_usd is None else Decimal(str(credits_usd)),
                requests_per_second=requests_per_second,
                clock_ahead_seconds=clock_ahead_seconds,
            )
        )
        self._log = RequestLog()
        self._log_path = log
        self._port = port
        self._state = state
        self._block = ExitStack()

    def __enter__(self) -> Self:
        """Start to serve.

        Raises:
            ImportError: If PyAV is missing.
            OSError: If the port is taken, or the log or the state can't be written.
        """
        if importlib.util.find_spec("av") is None:
            raise ImportError("The emulator renders with PyAV; install prefect-xai-video[emulator].")
        with ExitStack() as block:
            if self._state is None:
                self._service.directory = Path(block.enter_context(TemporaryDirectory(prefix="xai-emulator-")))
            else:
                self._service.directory = self._state.absolute()
                self._service.state = State(self._service.directory, self._service.settings.team)
            if self._log_path is not None:
                self._log.open(self._log_path)
            block.callback(self._log.close)
            # Named, since asyncio turns off Nagle's algorithm, which costs 40 ms an answer, only for TCP by name.
            listener = block.enter_context(socket.socket(proto=socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_HOST, self._port))
            self._service.root_url = f"http://{_HOST}:{listener.getsockname()[1]}"
            self.base_url = f"{self._service.root_url}/v1"
            clock = self._service.clock
            app = DatedAnswers(LoggedRequests(create_app(self._service), self._log, clock), clock)
            thread = _ServerThread(app, listener)
            block.callback(thread.stop)
            thread.begin()
            self._block = block.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop to serve; renders that are under way are dropped."""
        self._block.close()

    def requests(self) -> list[dict[str, Any]]:
        """The requests so far, as in the log."""
        return list(self._log.entries)

    def ledger(self) -> dict[str, Any]:
        """What has been billed, as in the answer to GET /emulator/ledger."""
        return ledger(list(self._service.videos.values()))


class _ServerThread(threading.Thread):
    """Serves an application on a socket."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        super().__init__(name="xai-emulator", daemon=True)
        self._listener = listener
        self._loop = asyncio.new_event_loop()
        self._server = uvicorn.Server(
            uvicorn.Config(
                UnreliableConnections(app, self._close_connection),
                http="h11",
                lifespan="on",
                ws="none",
                log_config=None,
                access_log=False,
                date_header=False,
            )
        )

    def begin(self) -> None:
        """Start, and return once connections are accepted."""
        self.start()
        while not self._server.started:
            if not self.is_alive():
                raise RuntimeError("The emulator did not start.")
            time.sleep(0.005)

    def run(self) -> None:
        """Serve until stopped."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[self._listener]))

    def stop(self) -> None:
        """Stop, first in good order and then, if clients do not let go, by cutting their connections."""
        self._server.should_exit = True
        self.join(_PATIENCE_SECONDS)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cut_connections)
        self.join()

    def _close_connection(self, client: Address) -> None:
        """Close the connection of a client, but not before it has what was sent."""
        for connection in self._server.server_state.connections:
            if isinstance(connection, H11Protocol) and connection.client == client:
                connection.transport.close()

    def _cut_connections(self) -> None:
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
