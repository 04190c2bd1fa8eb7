"""The emulator as a context manager: uvicorn in a thread of its own."""

import importlib.util
import socket
import threading
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from prefect_xai_video.emulator.app import make_app
from prefect_xai_video.emulator.journal import Journal
from prefect_xai_video.emulator.videos import Renderer, Videos


class Emulator:
    """A stand-in for xAI's video API on loopback.

    ```python
    with Emulator(render_seconds=0.2) as emulator:
        credentials = XaiCredentials(api_key="any", base_url=emulator.base_url)
    ```

    Args:
        render_seconds: How long a render takes at least, in seconds.
        api_key: The only key that is accepted; without one, any.
        url_ttl_seconds: How long a result URL lives, in seconds.
        credits_usd: USD after which submissions are denied; without, there is no limit.
        requests_per_second: Rate limit, polls included; without, there is none.
        log: File to which each request is added as a JSON line.
        port: Port; 0 takes a free one.

    Raises:
        ImportError: On entering, if PyAV is missing.
        OSError: On entering, if the port is taken.
    """

    def __init__(
        self,
        *,
        render_seconds: float = 4,
        api_key: str | None = None,
        url_ttl_seconds: float = 3600,
        credits_usd: Decimal | float | None = None,
        requests_per_second: int | None = None,
        log: Path | None = None,
        port: int = 0,
    ) -> None:
        self._journal = Journal(log)
        self._renderer = Renderer()
        self._videos = Videos(self._renderer, render_seconds, url_ttl_seconds)
        self._options: dict[str, Any] = {
            "api_key": api_key,
            "credits_usd": None if credits_usd is None else Decimal(str(credits_usd)),
            "requests_per_second": requests_per_second,
        }
        self._port = port

    @property
    def base_url(self) -> str:
        """The base URL, for `XAI_BASE_URL` and `XaiCredentials`."""
        return f"{self._origin}/v1"

    def requests(self) -> list[dict[str, Any]]:
        """All requests so far, oldest first, as in the log file."""
        return self._journal.entries()

    def ledger(self) -> dict[str, Any]:
        """What xAI would have billed so far: the answer to `GET /emulator/ledger`."""
        return self._videos.ledger()

    def __enter__(self) -> Self:
        if importlib.util.find_spec("av") is None:
            raise ImportError("The emulator renders with PyAV: install prefect-xai-video[emulator].")
        listener = socket.create_server(("127.0.0.1", self._port))
        self._origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = make_app(self._videos, self._journal, self._origin, **self._options)
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(3)
        self._renderer.close()
