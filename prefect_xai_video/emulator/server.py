"""Runs the emulator in its own thread."""

import asyncio
import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.app import create_app
from prefect_xai_video.emulator.batches.records import BatchRecords
from prefect_xai_video.emulator.batches.registry import Batches
from prefect_xai_video.emulator.clock import DatedResponses
from prefect_xai_video.emulator.connections import Address, UnreliableConnections
from prefect_xai_video.emulator.faults import Fault
from prefect_xai_video.emulator.file_state import FileState
from prefect_xai_video.emulator.ledger import ledger
from prefect_xai_video.emulator.poll_settings import fitting_polls, poll_settings
from prefect_xai_video.emulator.requestlog import LoggedRequests, RequestLog
from prefect_xai_video.emulator.service import Service, Settings
from prefect_xai_video.emulator.state import State

_HOST = "127.0.0.1"
_PATIENCE_SECONDS = 0.5
"""Seconds that clients have to finish when the emulator stops."""
_LIGHT_ENTRIES = 1000
"""Number of requests in the log that are kept in memory in the light mode."""


class Emulator:
    """A local stand-in for the xAI video API, which runs for the duration of a `with` block.

    Inside the block the environment variables `PREFECT_INTEGRATIONS_XAI_VIDEO_FIRST_POLL_SECONDS`,
    `_POLL_MIN_SECONDS` and `_POLL_MAX_SECONDS` suit its render time, unless one of them is set already. Other
    processes that use the emulator, such as a worker, get them from `environment()`.

    ```python
    with Emulator(render_seconds=0.2) as emulator:
        credentials = XaiCredentials(api_key="any", base_url=emulator.base_url)
    ```

    Attributes:
        base_url: Base URL of the API; set inside the block.

    Args:
        render_seconds: Shortest duration of a render, in seconds; the median if `render_sigma` is given.
        render_sigma: Spread of the renders: each takes `render_seconds * exp(render_sigma * gauss)`, with a normally
            distributed `gauss` from the seeded generator. 0 makes all renders equally long.
        render_slots: Number of videos that render at a time; the others wait in order of submission, and polls report
            progress 0 for them. None for no limit.
        seed: Seed of all random numbers: with the same one, the n-th accepted request renders as long as before, and
            the n-th submission gets the same random fault.
        fault_share: Share of the submissions without a selected fault that get a random one, from 0 to 1. Faults
            that never end or that concern the API key are excluded.
        light: Serve one prepared clip for all requests of the same size and duration, with or without sound, so that
            two cores are enough for thousands of videos. Prompts and input images don't show in these clips,
            `requests()` keeps only the last 1000 requests, and requests can't be kept in a state directory.
        api_key: The only API key that is accepted; None accepts any that is not empty.
        team: Id of the team to which all API keys belong; with a state directory, other teams' requests are unknown.
        url_ttl_seconds: Lifetime of the URL of a finished video, in seconds.
        batch_ttl_seconds: Lifetime of a batch of the Batch API, in seconds.
        credits_usd: Largest total amount billed, in USD; None for no limit.
        requests_per_second: Largest number of submissions and polls together in each second, refused ones included;
            None for no limit. Downloads don't count.
        log: File to which each request is appended as one line of JSON.
        port: Port on 127.0.0.1; 0 selects a free one.
        state: Directory for requests and videos, so that a later emulator can continue with them. Without one, they
            end with the block.
        clock_ahead_seconds: Seconds by which its wall clock runs ahead of this machine's clock. It affects Date and
            Retry-After, the ledger, the log and the expiry of files, but not renders and result URLs.

    Raises:
        ValueError: If a value is not allowed.
    """

    def __init__(
        self,
        *,
        render_seconds: float = 4,
        render_sigma: float = 0,
        render_slots: int | None = None,
        seed: int = 0,
        fault_share: float = 0,
        light: bool = False,
        api_key: str | None = None,
        team: str = "emulator",
        url_ttl_seconds: float = 3600,
        batch_ttl_seconds: float = 86_400,
        credits_usd: Decimal | float | str | None = None,
        requests_per_second: int | None = None,
        log: Path | None = None,
        port: int = 0,
        state: Path | None = None,
        clock_ahead_seconds: float = 0,
    ) -> None:
        if light and state is not None:
            raise ValueError("The light mode keeps requests in memory only: leave out either light or state.")
        self.base_url = ""
        self._service = Service(
            Settings(
                render_seconds=render_seconds,
                render_sigma=render_sigma,
                render_slots=render_slots,
                seed=seed,
                fault_share=fault_share,
                light=light,
                api_key=api_key,
                team=team,
                url_ttl_seconds=url_ttl_seconds,
                batch_ttl_seconds=batch_ttl_seconds,
                credits_usd=None if credits_usd is None else Decimal(str(credits_usd)),
                requests_per_second=requests_per_second,
                clock_ahead_seconds=clock_ahead_seconds,
            )
        )
        self._batches = Batches(self._service)
        self._log = RequestLog(_LIGHT_ENTRIES if light else None)
        self._log_path = log
        self._port = port
        self._state = state
        self._thread: _ServerThread | None = None
        self._block = ExitStack()

    def __enter__(self) -> Self:
        """Start serving.

        Raises:
            ImportError: If PyAV or Pillow is not installed.
            OSError: If the port is in use, or the log or the state can't be written.
        """
        with ExitStack() as block:
            block.enter_context(self.serving())
            block.enter_context(poll_settings(self._service.settings.render_seconds))
            self._block = block.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop serving; unfinished renders are dropped."""
        self._block.close()

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Serve during a block, as `with emulator` does, but leave the environment of this process alone.

        Raises:
            ImportError: If PyAV or Pillow is not installed.
            OSError: If the port is in use, or the log or the state can't be written.
        """
        if importlib.util.find_spec("av") is None or importlib.util.find_spec("PIL") is None:
            raise ImportError("The emulator needs PyAV and Pillow: install prefect-xai-video[emulator].")
        with ExitStack() as block:
            if self._state is None:
                self._service.directory = Path(block.enter_context(TemporaryDirectory(prefix="xai-emulator-")))
            else:
                self._service.directory = self._state.absolute()
                team = self._service.settings.team
                self._service.state = State(self._service.directory, team)
                self._service.files.state = FileState(self._service.directory, team)
                self._batches.records = BatchRecords(self._service.directory, team)
            if self._log_path is not None:
                self._log.open(self._log_path)
            block.callback(self._log.close)
            # asyncio disables Nagle's algorithm, which delays a response by 40 ms, only if the protocol is given.
            listener = block.enter_context(socket.socket(proto=socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_HOST, self._port))
            self._service.root_url = f"http://{_HOST}:{listener.getsockname()[1]}"
            self.base_url = f"{self._service.root_url}/v1"
            clock = self._service.clock
            app = DatedResponses(LoggedRequests(create_app(self._service, self._batches), self._log, clock), clock)
            self._thread = _ServerThread(app, listener)
            block.callback(self._thread.stop)
            self._thread.begin()
            yield self

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a process uses this emulator in place of xAI.

        They are `XAI_API_KEY`, `XAI_BASE_URL` and the poll settings that suit its render time.
        """
        settings = self._service.settings
        key = "no-key-needed" if settings.api_key is None else settings.api_key
        return {"XAI_API_KEY": key, "XAI_BASE_URL": self.base_url, **fitting_polls(settings.render_seconds)}

    def choose_fault(self, fault: str, submissions: int = 1) -> None:
        """Select a fault for the next submissions whose prompt has no marker, or for the next calls of the Batch API.

        POST /emulator/faults does the same.

        Args:
            fault: Its name, or `NAME*N` for the first N times.
            submissions: Number of submissions or calls that get it.

        Raises:
            ValueError: If there is no such fault, or the number is below 1.
        """
        if submissions < 1:
            raise ValueError(f"submissions is {submissions}, but must be at least 1.")
        try:
            self._service.faults.for_next(fault, submissions)
        except refusals.Refused:
            raise ValueError(f"fault is {fault!r}, but must be one of: {', '.join(Fault)}.") from None

    def reset(self) -> None:
        """Forget all requests, videos and selected faults, and start the random numbers again, as a new emulator.

        Unfinished renders are dropped. The file of the log keeps its lines.

        Raises:
            ValueError: If requests are kept in a state directory.
            RuntimeError: If the emulator is not serving.
        """
        if self._state is not None:
            raise ValueError("Requests in a state directory are kept: leave out state, or use another directory.")
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError("The emulator is not serving: call reset() inside its block.")
        self._thread.call(self._forget)

    def _forget(self) -> None:
        self._batches.reset()
        self._service.reset()
        self._log.entries.clear()

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests so far, as in the log."""
        return list(self._log.entries)

    def ledger(self) -> dict[str, Any]:
        """Return the billed amounts, as in the response to GET /emulator/ledger."""
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
        """Start, and return when connections are accepted."""
        self.start()
        while not self._server.started:
            if not self.is_alive():
                raise RuntimeError("The emulator did not start.")
            time.sleep(0.005)

    def run(self) -> None:
        """Serve until stopped."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[self._listener]))

    def call(self, action: Callable[[], None]) -> None:
        """Call a function between two steps of the server, and wait for its end."""

        async def do() -> None:
            action()

        asyncio.run_coroutine_threadsafe(do(), self._loop).result()

    def stop(self) -> None:
        """Stop gracefully; then cut the connections of clients that have not finished."""
        self._server.should_exit = True
        self.join(_PATIENCE_SECONDS)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cut_connections)
        self.join()

    def _close_connection(self, client: Address) -> None:
        """Close the connection of a client after everything sent so far has been delivered."""
        for connection in self._server.server_state.connections:
            if isinstance(connection, H11Protocol) and connection.client == client:
                connection.transport.close()

    def _cut_connections(self) -> None:
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
