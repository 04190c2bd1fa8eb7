"""Connections to xAI and to the hosts of its videos, over httpx."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from prefect_xai_video.errors import InvalidRequest

_LOCAL = tuple(f"all://{host}" for host in ("localhost", "127.0.0.1", "[::1]"))
"""Hosts that are never reached through a proxy: they may be sent plain http, with the API key."""


def open_pool(headers: dict[str, str], transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Open a connection pool for async code.

    Args:
        headers: Headers of every request.
        transport: Replaces the network, in tests.
    """
    with _as_invalid_request():
        return httpx.AsyncClient(
            headers=headers,
            transport=transport,
            verify=_tls(),
            event_hooks={"response": [_akeep_location]},
            mounts=dict.fromkeys(_LOCAL),
        )


def open_connection(headers: dict[str, str]) -> httpx.Client:
    """Open a client for one blocking call."""
    with _as_invalid_request():
        return httpx.Client(
            headers=headers,
            verify=_tls(),
            event_hooks={"response": [_keep_location]},
            mounts=dict.fromkeys(_LOCAL),
        )


@contextmanager
def _as_invalid_request() -> Iterator[None]:
    """Convert httpx's errors about the environment's certificates and proxies into an InvalidRequest."""
    try:
        yield
    except (OSError, ImportError, ValueError, httpx.InvalidURL) as error:
        raise InvalidRequest(
            f"The environment's certificates or proxies can't be used: {type(error).__name__}: {error}. Check "
            f"SSL_CERT_FILE, SSL_CERT_DIR, HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY. Nothing was sent."
        ) from None


@cache
def _tls() -> ssl.SSLContext:
    """Load the certificates once: loading takes 20 ms, and every task has its own client."""
    return httpx.create_ssl_context()


def _keep_location(response: httpx.Response) -> None:
    """Hide redirects from httpx, which parses their URL even if it does not follow them, and fails on a bad one."""
    response.extensions["location"] = response.headers.pop("Location", None)


async def _akeep_location(response: httpx.Response) -> None:
    _keep_location(response)


@dataclass(slots=True)
class SendTrace:
    """Detects, through httpx's `trace` extension, when the first byte of a POST is about to be sent."""

    before_send: Callable[[], None] | None
    has_started: bool = field(default=False, init=False)

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of an event of the connection."""
        # Through a proxy, a CONNECT request comes before the POST.
        if event != "http11.send_request_headers.started" or info["request"].method != b"POST":
            return
        if self.before_send is not None:
            self.before_send()
        self.has_started = True
