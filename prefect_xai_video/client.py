"""XaiVideoClient: xAI's calls over httpx. It knows no Prefect and no store.

A POST is sent again only where the service surely did not accept it; a GET whenever it may help. The API key goes
to the API host and nowhere else: downloads have a connection pool of their own, without it.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from prefect_xai_video.download import Download, PartialDownload, written
from prefect_xai_video.errors import (
    AccessDenied,
    ApiError,
    AuthenticationFailed,
    DownloadError,
    InvalidRequest,
    MissingCredentials,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    SubmissionUnknown,
    XaiVideoError,
)
from prefect_xai_video.requests import VideoRequest, wire_url
from prefect_xai_video.responses import (
    VideoStatus,
    as_object,
    parse_error,
    parse_request_id,
    parse_retry_after,
    parse_status,
    without_prompt,
)

DEFAULT_BASE_URL = "https://api.x.ai/v1"

SHORTEST_KEY = 8
"""A shorter API key is taken for one of an emulator: it is not worth hiding."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a call may take, in seconds.

    The values of `start` and `get` are those of xAI's own REST client.

    Attributes:
        connect: To open a connection.
        start: For the answer to a POST.
        get: For the answer to a poll.
        download: Between two pieces of a video.
    """

    connect: float = 10
    start: float = 60
    get: float = 30
    download: float = 60


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is repeated and how long is waited before it, in seconds.

    Attributes:
        attempts: Calls in all, the first one included.
        first_wait: Before the first repetition; each next one waits twice as long.
        longest_wait: The longest such wait.
        longest_retry_after: A Retry-After up to here is waited for; a longer one ends the call.
    """

    attempts: int = 5
    first_wait: float = 1
    longest_wait: float = 10
    longest_retry_after: float = 120

    def of(self, worth: Callable[[XaiVideoError], bool]) -> AsyncRetrying:
        """Make a retry loop for errors that are transient, and that `worth` approves of."""

        def again(error: BaseException) -> bool:
            return isinstance(error, XaiVideoError) and error.transient and worth(error)

        backoff = wait_exponential(self.first_wait, self.longest_wait) + wait_random(0, self.first_wait)

        def wait(state: RetryCallState) -> float:
            asked = getattr(_error_in(state), "retry_after", None)
            return backoff(state) if asked is None else float(asked)

        return AsyncRetrying(
            retry=retry_if_exception(again),
            wait=wait,
            stop=stop_after_attempt(self.attempts),
            before_sleep=_log_repetition,
            reraise=True,
        )


class XaiVideoClient:
    """xAI's video API.

    Use it as an async context manager:

    ```python
    async with XaiVideoClient(api_key) as client:
        request_id = await client.start(TextRequest(prompt="A cat playing with a ball"))
        status = await client.get(request_id)
    ```

    Args:
        api_key: The key. It is sent to the host of `base_url` only.
        base_url: Where the API is, with its version. https, or a loopback host. Default `https://api.x.ai/v1`.
        timeouts: How long the calls may take.
        retries: How often they are repeated.
        transport: Replaces the network for `get` and `download`, in tests.
    """

    def __init__(
        self,
        api_key: SecretStr | str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        timeouts: Timeouts = Timeouts(),
        retries: Retries = Retries(),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._key = check_api_key(api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key)
        self.base_url = check_base_url(base_url)
        self.timeouts = timeouts
        self.retries = retries
        user_agent = {"User-Agent": f"prefect-xai-video/{version('prefect-xai-video')}"}
        self._headers = user_agent | {"Authorization": f"Bearer {self._key}"}
        self._api = httpx.AsyncClient(headers=self._headers, transport=transport, verify=_tls())
        self._plain = httpx.AsyncClient(headers=user_agent, follow_redirects=True, transport=transport, verify=_tls())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._api.aclose()
        await self._plain.aclose()

    async def start(self, request: VideoRequest) -> str:
        """Start a generation or edit, and pay for it.

        Where the service surely did not accept it, it is sent again.

        Returns:
            The request id.

        Raises:
            ApiError: If it was refused.
            SubmissionUnknown: If it may have been accepted.
        """
        async for attempt in self.retries.of(lambda error: error.resend_safe):
            with attempt:
                return await asyncio.to_thread(self.submit, request)
        raise AssertionError("unreachable")

    def submit(self, request: VideoRequest, upload_url: str | None = None) -> str:
        """Send one POST, once, and block until it is answered.

        It blocks on purpose. Once a POST is on its way it can't be called back, and only its reply holds the request
        id: run it in a thread, which no cancellation of a task or of its event loop can interrupt.

        Args:
            request: What is asked for.
            upload_url: Signed URL to which the service is to put the video.

        Raises:
            ApiError: If it was refused.
            SubmissionUnknown: If it may have been accepted.
        """
        body = request.body(upload_url)
        try:
            # A connection of its own: one that dies while it is idle can't be told from one whose reply was lost.
            with httpx.Client(headers=self._headers, verify=_tls()) as connection:
                answer = connection.post(
                    f"{self.base_url}{request.endpoint}", json=body, timeout=self._timeout(self.timeouts.start)
                )
        except httpx.InvalidURL as error:
            raise RequestRejected(f"The base URL {self.base_url!r} is not valid: {error}.") from None
        except _NOT_SENT as error:
            raise ServiceUnavailable(f"No connection to {self.base_url}: {_reason(error)}.") from error
        except httpx.RequestError as error:
            raise self._unknown(f"no answer could be read ({_reason(error)})") from error
        return self._request_id_of(answer, request.prompt)

    def _request_id_of(self, answer: httpx.Response, prompt: str) -> str:
        if answer.is_success:
            request_id = parse_request_id(answer.content)
            if request_id is None:
                raise self._unknown("the answer has no request id", answer.status_code)
            return request_id
        turned_away = answer.status_code == 503 and parse_retry_after(answer.headers) is not None
        if (answer.status_code >= 500 and not turned_away) or answer.status_code == 408:
            raise self._unknown(f"the service answered HTTP {answer.status_code}", answer.status_code)
        raise self._error(answer, prompt=prompt)

    async def get(self, request_id: str) -> VideoStatus:
        """Ask once what has become of a request. Free; repeated after network errors, 429 and 5xx.

        Raises:
            ApiError: If there is no answer to be had, with the request id.
        """
        async for attempt in self.retries.of(lambda error: True):
            with attempt:
                answer = await self._fetch(f"/videos/{quote(request_id, safe='')}", request_id)
                status = parse_status(request_id, answer.status_code, answer.content)
                if status is not None:
                    return status
                raise self._error(answer, request_id)
        raise AssertionError("unreachable")

    async def check_key(self) -> Mapping[str, Any]:
        """Ask what the API key is and may do, without spending anything.

        Returns:
            xAI's answer; among others `name`, `acls` and why the key is blocked, if it is.

        Raises:
            AuthenticationFailed: If the key is wrong, blocked or disabled.
            ApiError: If there is no answer to be had.
        """
        async for attempt in self.retries.of(lambda error: True):
            with attempt:
                answer = await self._fetch("/api-key")
                if answer.status_code != 200:
                    raise self._error(answer)
                facts = as_object(answer.content)
                if not facts.keys() & {"acls", "name", *_BARRED}:
                    raise ServiceUnavailable(f"{self.base_url} does not answer like xAI; is it the right base URL?")
        barred = [name for name in _BARRED if facts.get(name)]
        if barred:
            raise AuthenticationFailed(f"xAI does not accept this API key: {', '.join(barred)}.")
        return facts

    async def download(self, url: str, target: Path) -> Download:
        """Fetch a finished video into a file, in bounded memory.

        A broken download goes on where it stopped, if the server can; the API key is not sent.

        Args:
            url: Temporary URL of the video.
            target: File to write. What it held is lost.

        Raises:
            DownloadError: If the video could not be fetched whole, or is no MP4 video. Its `http_status` is 403,
                404 or 410 where the URL has expired.
            StorageError: If the file can't be written.
        """
        with written(target) as file, unlogged_urls():
            fetched = PartialDownload(file)
            async for attempt in self.retries.of(lambda error: True):
                with attempt:
                    await self._fetch_rest(url, fetched)
                    return await asyncio.to_thread(fetched.end)
        raise AssertionError("unreachable")

    async def _fetch_rest(self, url: str, fetched: PartialDownload) -> None:
        try:
            async with self._plain.stream(
                "GET", url, headers=fetched.range_headers(), timeout=self._timeout(self.timeouts.download)
            ) as answer:
                fetched.begin(answer)
                async for piece in answer.aiter_raw():
                    await asyncio.to_thread(fetched.write, piece)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise DownloadError(f"The download broke after {fetched.size} bytes: {_reason(error)}.") from None

    async def _fetch(self, path: str, request_id: str | None = None) -> httpx.Response:
        try:
            return await self._api.get(f"{self.base_url}{path}", timeout=self._timeout(self.timeouts.get))
        except httpx.RequestError as error:
            raise ServiceUnavailable(
                f"No answer from {self.base_url}: {_reason(error)}.", request_id=request_id
            ) from error

    def _timeout(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=self.timeouts.connect)

    def _unknown(self, what: str, http_status: int | None = None) -> SubmissionUnknown:
        return SubmissionUnknown(
            f"The submission may have been accepted, and paid for: {what}.", http_status=http_status
        )

    def _error(self, answer: httpx.Response, request_id: str | None = None, prompt: str = "") -> ApiError:
        """The error that an answer stands for. Whatever the server says, it repeats neither key nor prompt."""
        # A key of a few letters is none of xAI's, and would be found within words.
        known = self._key.encode() if len(self._key) >= SHORTEST_KEY else None
        code, text = parse_error(answer.content.replace(known, b"***") if known else answer.content)
        said = without_prompt(text or answer.reason_phrase or "no text", prompt)
        kind = _kind_of(answer.status_code, said)
        retry_after = parse_retry_after(answer.headers)
        too_long = (retry_after or 0) > self.retries.longest_retry_after
        return kind(
            f"{_MEANING[kind]}: {said}",
            request_id=request_id,
            http_status=answer.status_code,
            code=code,
            retry_after=retry_after,
            # Who would be asked again too early is not asked again at all: Prefect does not know how long to wait.
            transient=False if too_long else None,
        )


def check_api_key(api_key: str) -> str:
    """Check that a text can be an API key, and strip it of white space at its ends.

    Raises:
        MissingCredentials: If it can't be one. The error does not repeat it.
    """
    key = api_key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise MissingCredentials("An API key is needed: printable ASCII characters without spaces.")
    return key


def check_base_url(base_url: str) -> str:
    """Check that the API key may be sent to a base URL: https, or a loopback host for an emulator.

    Raises:
        InvalidRequest: If it may not.
    """
    if base_url.lower().startswith("data:"):
        raise InvalidRequest("base_url: a data: URL is not allowed; allowed: an https:// URL.")
    return wire_url(base_url, "base_url").rstrip("/")


_BARRED = ("team_blocked", "api_key_blocked", "api_key_disabled")

_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
"""How a call ends that never left this machine."""

_MEANING: dict[type[ApiError], str] = {
    AuthenticationFailed: "xAI does not accept the API key",
    AccessDenied: "xAI denies access",
    RequestRejected: "xAI rejects the request",
    RateLimited: "xAI's rate limit is reached",
    ServiceUnavailable: "xAI can't answer now",
}


@cache
def _tls() -> ssl.SSLContext:
    """Certificates take 20 ms to load, and every task has a client of its own: load them once."""
    return httpx.create_ssl_context()


def _kind_of(http_status: int, text: str) -> type[ApiError]:
    match http_status:
        case 401:
            return AuthenticationFailed
        case 400 if "api key" in text.lower():
            return AuthenticationFailed
        case 403:
            return AccessDenied
        case 429:
            return RateLimited
        case 408 | 200 | 202:
            return ServiceUnavailable
        case status if status >= 500:
            return ServiceUnavailable
        case _:
            return RequestRejected


_url_is_secret = ContextVar("_url_is_secret", default=False)


def _hide_url(record: logging.LogRecord) -> bool:
    """Httpx logs each URL at INFO, but whoever has that of a video has the video."""
    if _url_is_secret.get() and isinstance(record.args, tuple):
        record.args = tuple(
            f"{arg.scheme}://{arg.host}/…" if isinstance(arg, httpx.URL) else arg for arg in record.args
        )
    return True


logging.getLogger("httpx").addFilter(_hide_url)


@contextmanager
def unlogged_urls() -> Iterator[None]:
    """Keep the URLs of a block out of httpx's log."""
    token = _url_is_secret.set(True)
    try:
        yield
    finally:
        _url_is_secret.reset(token)


def _reason(error: Exception) -> str:
    """Why a call failed, without any URL, which may be signed."""
    return f"{type(error).__name__}" if "://" in str(error) or not str(error) else str(error)


def _error_in(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _log_repetition(state: RetryCallState) -> None:
    error = _error_in(state)
    wait = state.next_action.sleep if state.next_action else 0
    logger.warning("%s Asking again in %.0f s.", getattr(error, "message", error), wait)
