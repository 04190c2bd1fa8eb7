"""Calls of the API with the API key that may be repeated at any time, read within limits of time and size."""

import asyncio
import uuid
from typing import Any

import httpx

from prefect_xai_video.api.connections import open_pool
from prefect_xai_video.api.httpx_log import redacted_log
from prefect_xai_video.api.outcomes import MEANING, error_for
from prefect_xai_video.api.redaction import MAX_CODE, Redaction
from prefect_xai_video.api.replies import MAX_REPLY_BYTES, Reply, aread_reply
from prefect_xai_video.api.responses import parse_error, parse_retry_after
from prefect_xai_video.api.retries import Retries, Timeouts
from prefect_xai_video.errors import ApiError, ServiceUnavailable


class ApiCalls:
    """Sends calls to the API host, and converts what goes wrong to errors without secrets.

    Args:
        base_url: Base URL of the API.
        headers: Headers of every call, with the API key.
        redact: Applied to all text of responses.
        timeouts: Time-outs of the calls.
        retries: Decides which Retry-After is too long. The calls here are not repeated.
        transport: Replaces the network, in tests.
    """

    def __init__(
        self,
        base_url: str,
        headers: dict[str, str],
        redact: Redaction,
        timeouts: Timeouts,
        retries: Retries,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = base_url
        self.redact = redact
        self.timeouts = timeouts
        self._retries = retries
        self._pool = open_pool(headers, transport)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def call(
        self,
        path: str,
        *,
        method: str = "GET",
        request_id: str | None = None,
        client_request_id: str | None = None,
        seconds: float | None = None,
        max_bytes: int = MAX_REPLY_BYTES,
        redact: Redaction | None = None,
        **content: Any,
    ) -> Reply:
        """Send one call and read its response.

        Args:
            path: Path below the base URL.
            method: HTTP method.
            request_id: Request id for errors.
            client_request_id: Sent as `x-client-request-id`. Default: a new id.
            seconds: Time-out after the connection is open. Default: that of a poll.
            max_bytes: Largest response that is read, in bytes.
            redact: Applied to texts. Default: the redaction of the API key.
            **content: Query or body, as httpx takes them.

        Raises:
            ServiceUnavailable: If there was no complete response.
        """
        seconds, redact = self.timeouts.get if seconds is None else seconds, redact or self.redact
        try:
            async with asyncio.timeout(self.timeouts.connect + seconds):
                with redacted_log(redact):
                    async with self._pool.stream(
                        method,
                        f"{self.base_url}{path}",
                        headers=client_request_id_header(client_request_id),
                        timeout=self.timeouts.of(seconds),
                        **content,
                    ) as response:
                        reply = await aread_reply(response, seconds, max_bytes)
        except TimeoutError:
            problem = f"timed out after {self.timeouts.connect + seconds:g} s"
        except httpx.RequestError as error:
            problem = self.reason(error, redact)
        else:
            if reply.problem is None or 400 <= reply.status < 500:
                return reply
            problem = reply.problem
        raise ServiceUnavailable(f"No usable response from {self.base_url}: {problem}.", request_id=request_id)

    def trace_id(self, reply: Reply) -> str | None:
        """Return the id of a call, for xAI's support."""
        return reply.trace_id and (self.redact(reply.trace_id, MAX_CODE) or None)

    def error(self, reply: Reply, request_id: str | None = None, redact: Redaction | None = None) -> ApiError:
        """Convert an error response to an error that contains neither API key nor prompt."""
        redact = redact or self.redact
        code, message = parse_error(reply.content, redact)
        text = message or redact(reply.reason) or "no error text"
        kind = error_for(reply.status, text)
        retry_after = parse_retry_after(reply.headers)
        return kind(
            f"{MEANING[kind]}: {text}",
            request_id=request_id,
            http_status=reply.status,
            code=code,
            retry_after=retry_after,
            trace_id=self.trace_id(reply),
            at=reply.at,
            # Prefect's retries can't wait for a longer Retry-After, so they would come too early.
            transient=False if self._retries.is_too_long(retry_after) else None,
        )

    def reason(self, error: Exception, redact: Redaction) -> str:
        """Describe why a call failed, redacted: httpx's errors may quote a line of the response."""
        return redact(str(error)) or type(error).__name__


def new_client_request_id() -> str:
    """Create an id for `x-client-request-id`."""
    return uuid.uuid4().hex


def client_request_id_header(client_request_id: str | None) -> dict[str, str]:
    """Build the header `x-client-request-id`, with a new id if none is given."""
    return {"x-client-request-id": client_request_id or new_client_request_id()}
