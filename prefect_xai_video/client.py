"""XaiVideoClient: xAI's calls over httpx. It knows no Prefect and no store.

A POST is sent again only where the service surely did not accept it; a GET whenever it may help. The API key goes
to the API host and nowhere else: downloads have a connection pool of their own, without it. No text of a response
leaves this module without redaction.
"""

import asyncio
import hashlib
import logging
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
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

from prefect_xai_video.destinations import Destinations
from prefect_xai_video.download import MAX_DOWNLOAD_BYTES, Download, PartialDownload, written
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
from prefect_xai_video.redaction import MAX_CODE, Redaction
from prefect_xai_video.replies import Reply, aread_reply, read_reply
from prefect_xai_video.requests import VideoRequest, wire_url
from prefect_xai_video.responses import (
    VideoStatus,
    as_object,
    parse_error,
    parse_request_id,
    parse_retry_after,
    parse_status,
)

DEFAULT_BASE_URL = "https://api.x.ai/v1"

REFUSED = frozenset({400, 401, 403, 404, 405, 413, 415, 422, 429})
"""HTTP statuses of a POST that was surely not accepted. Nothing public says the same of any other."""

ME_SECONDS = 5
"""How long `me` may take: it is asked just before a POST, which must not wait for it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a call may take, in seconds.

    The values of `start` and `get` are those of xAI's own REST client.

    Attributes:
        connect: To open a connection.
        start: For the answer to a POST.
        get: For the answer to a poll.
        download: Between two chunks of a video.
        download_total: For a whole video, with all repetitions. It is well below the hour for which a URL is valid,
            and enough for 512 MiB at 5 Mbit/s.
    """

    connect: float = 10
    start: float = 60
    get: float = 30
    download: float = 60
    download_total: float = 900


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

    def is_too_long(self, retry_after: float | None) -> bool:
        """Whether a server asks for a wait that is not waited for."""
        return retry_after is not None and retry_after > self.longest_retry_after

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


@dataclass(frozen=True, slots=True)
class Accepted:
    """A POST that was accepted.

    Attributes:
        request_id: xAI's request id.
        trace_id: xAI's `x-request-id` of the response; xAI's support asks for it.
        at: When the response was sent, by xAI's clock.
    """

    request_id: str
    trace_id: str | None = None
    at: datetime | None = None


@dataclass(slots=True)
class _Departure:
    """The moment at which the first byte of a POST leaves, seen through httpx's `trace` extension."""

    before_send: Callable[[], None] | None
    begun: bool = field(default=False, init=False)

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        # A proxy is sent a CONNECT of its own first.
        if event != "http11.send_request_headers.started" or info["request"].method != b"POST":
            return
        if self.before_send is not None:
            self.before_send()
        self.begun = True


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
        max_download_bytes: Size above which a video is not downloaded.
        transport: Replaces the network for `get` and `download`, in tests.
    """

    def __init__(
        self,
        api_key: SecretStr | str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        timeouts: Timeouts = Timeouts(),
        retries: Retries = Retries(),
        max_download_bytes: int = MAX_DOWNLOAD_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._key = check_api_key(api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key)
        self._redact = Redaction(self._key)
        self.base_url = check_base_url(base_url)
        self.timeouts = timeouts
        self.retries = retries
        self.max_download_bytes = max_download_bytes
        self._destinations = Destinations(self.base_url)
        user_agent = {"User-Agent": f"prefect-xai-video/{version('prefect-xai-video')}"}
        # A reply that is not compressed can be read as far as it arrived.
        self._headers = user_agent | {"Authorization": f"Bearer {self._key}", "Accept-Encoding": "identity"}
        hooks = {"response": [_akeep_location]}
        self._api = httpx.AsyncClient(headers=self._headers, transport=transport, verify=_tls(), event_hooks=hooks)
        self._plain = httpx.AsyncClient(headers=user_agent, transport=transport, verify=_tls(), event_hooks=hooks)

    @property
    def identity(self) -> str:
        """SHA-256 of base URL and API key: equal for clients of one account."""
        return hashlib.sha256(f"{self.base_url} {self._key}".encode()).hexdigest()

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
        client_request_id = new_client_request_id()
        async for attempt in self.retries.of(lambda error: error.resend_safe):
            with attempt:
                accepted = await asyncio.to_thread(self.submit, request, client_request_id=client_request_id)
                return accepted.request_id
        raise AssertionError("unreachable")

    def submit(
        self,
        request: VideoRequest,
        upload_url: str | None = None,
        *,
        client_request_id: str | None = None,
        before_send: Callable[[], None] | None = None,
    ) -> Accepted:
        """Send one POST, once, and block until its response arrives.

        It blocks on purpose. Once a POST is on its way it can't be called back, and only its reply holds the request
        id: run it in a thread, which no cancellation of a task or of its event loop can interrupt.

        Args:
            request: What is asked for.
            upload_url: Signed URL to which the service is to put the video.
            client_request_id: Sent as `x-client-request-id`; xAI's support asks for it. Default: a new one.
            before_send: Called once the connection is open, before any byte of the request leaves. An error that
                it raises is passed on: nothing was sent.

        Raises:
            ApiError: If it was refused.
            SubmissionUnknown: If it may have been accepted.
        """
        body = request.body(upload_url)
        departure = _Departure(before_send)
        try:
            # A connection of its own: one that dies while it is idle can't be told from one whose reply was lost.
            with (
                httpx.Client(
                    headers=self._headers, verify=_tls(), event_hooks={"response": [_keep_location]}
                ) as connection,
                redacted_log(self._redact),
                connection.stream(
                    "POST",
                    f"{self.base_url}{request.endpoint}",
                    json=body,
                    headers=_client_request_id(client_request_id),
                    timeout=self._timeout(self.timeouts.start),
                    extensions={"trace": departure},
                ) as response,
            ):
                reply = read_reply(response, self.timeouts.start)
        except httpx.RequestError as error:
            if not departure.begun:
                raise ServiceUnavailable(f"No connection to {self.base_url}: {self._reason(error)}.") from None
            # Its cause may quote what arrived, and would be printed with a traceback.
            raise _unknown(f"no response could be read ({self._reason(error)})") from None
        return self._accepted(reply, self._redact.with_prompt(request.prompt))

    def _accepted(self, reply: Reply, redact: Redaction) -> Accepted:
        if reply.status in REFUSED:
            raise self._error(reply, redact=redact)
        trace_id = self._trace_id(reply)
        problem = f"xAI responded with HTTP {reply.status}"
        if 200 <= reply.status < 300:
            request_id = parse_request_id(reply.content, self._redact)
            if request_id is not None:
                return Accepted(request_id, trace_id, reply.at)
            problem = "the response has no usable request id"
        raise _unknown(
            f"{problem}; {reply.problem}" if reply.problem else problem,
            http_status=reply.status,
            trace_id=trace_id,
            answer=redact(reply.content.decode(errors="replace")) or None,
            at=reply.at,
        )

    async def get(self, request_id: str, *, client_request_id: str | None = None) -> VideoStatus:
        """Ask once what has become of a request. Free; repeated after network errors, 429 and 5xx.

        Args:
            request_id: xAI's request id.
            client_request_id: Sent as `x-client-request-id`; xAI's support asks for it. Default: a new one.

        Raises:
            ApiError: If no response could be had, with the request id.
        """
        path = f"/videos/{quote(request_id, safe='')}"
        async for attempt in self.retries.of(lambda error: True):
            with attempt:
                reply = await self._fetch(path, request_id, client_request_id)
                status = parse_status(request_id, reply.status, reply.content, self._redact)
                if status is not None:
                    return status
                raise self._error(reply, request_id)
        raise AssertionError("unreachable")

    async def me(self) -> Mapping[str, Any]:
        """Ask once, without repetition and within 5 s, whose API key this is. It costs nothing.

        Returns:
            xAI's response; among others `user_id` and `team_id`.

        Raises:
            ApiError: If no response could be had.
        """
        reply = await self._fetch("/me", seconds=ME_SECONDS)
        facts = as_object(reply.content)
        if reply.status != 200 or not facts:
            raise self._error(reply)
        # The emulator is recognised by this name, which may be its API key, too.
        emulated = {"emulator": True} if facts.get("emulator") is True else {}
        return {**_redacted_facts(facts, self._redact), **emulated}

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
                reply = await self._fetch("/api-key")
                if reply.status != 200:
                    raise self._error(reply)
                facts = _redacted_facts(as_object(reply.content), self._redact)
                if not facts.keys() & {"acls", "name", *_BARRED}:
                    raise ServiceUnavailable(f"{self.base_url} does not answer like xAI; is it the right base URL?")
        barred = [name for name in _BARRED if facts.get(name)]
        if barred:
            raise AuthenticationFailed(f"xAI rejected this API key: {', '.join(barred)}.")
        return facts

    async def download(self, url: str, target: Path) -> Download:
        """Fetch a finished video into a file, in bounded memory.

        A broken download goes on where it stopped, if the server can; the API key is not sent. The URL and its
        redirects may lead to public https addresses only, and to this machine only if the API is there, too.

        Args:
            url: Temporary URL of the video.
            target: Destination file; existing content is overwritten.

        Raises:
            DownloadError: If the video could not be fetched whole, or is no MP4 video. Its `http_status` is 403,
                404 or 410 where the URL has expired.
            StorageError: If the file can't be written.
        """
        with written(target) as file, unlogged_urls():
            fetched = PartialDownload(file, self.max_download_bytes, self.retries.is_too_long)
            try:
                async with asyncio.timeout(self.timeouts.download_total) as deadline:
                    async for attempt in self.retries.of(lambda error: True):
                        with attempt:
                            await self._fetch_rest(url, fetched)
                            return await asyncio.to_thread(fetched.end)
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise DownloadError(
                    f"The download took more than {self.timeouts.download_total:g} s; {fetched.size} bytes arrived."
                ) from None
        raise AssertionError("unreachable")

    async def _fetch_rest(self, url: str, fetched: PartialDownload) -> None:
        try:
            async with self._open(url, fetched.range_headers()) as response:
                fetched.begin(response)
                async for chunk in response.aiter_raw():
                    await asyncio.to_thread(fetched.write, chunk)
        except httpx.RequestError as error:
            raise DownloadError(f"The download broke after {fetched.size} bytes: {self._reason(error)}.") from None

    @asynccontextmanager
    async def _open(self, url: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """Open the URL of a video, and follow redirects to where they may lead."""
        place = self._destinations.check(url)
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._plain.stream(
                "GET",
                place,
                headers=headers,
                timeout=self._timeout(self.timeouts.download),
                extensions={"trace": self._destinations.watch(place)},
            ) as response:
                location = response.extensions.get("location")
                if location is None or response.status_code not in _REDIRECTS:
                    yield response
                    return
                place = self._destinations.check_redirect(place, location)
        raise DownloadError(f"The download was redirected more than {_MAX_REDIRECTS} times.", transient=False)

    async def _fetch(
        self,
        path: str,
        request_id: str | None = None,
        client_request_id: str | None = None,
        seconds: float | None = None,
    ) -> Reply:
        """Send one GET and read its response, within a bound of time and size."""
        seconds = self.timeouts.get if seconds is None else seconds
        try:
            async with asyncio.timeout(self.timeouts.connect + seconds):
                with redacted_log(self._redact):
                    async with self._api.stream(
                        "GET",
                        f"{self.base_url}{path}",
                        headers=_client_request_id(client_request_id),
                        timeout=self._timeout(seconds),
                    ) as response:
                        reply = await aread_reply(response, seconds)
        except TimeoutError:
            problem = f"it took more than {self.timeouts.connect + seconds:g} s"
        except httpx.RequestError as error:
            problem = self._reason(error)
        else:
            if reply.problem is None or 400 <= reply.status < 500:
                return reply
            problem = reply.problem
        raise ServiceUnavailable(f"No response from {self.base_url}: {problem}.", request_id=request_id)

    def _timeout(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=min(self.timeouts.connect, seconds))

    def _trace_id(self, reply: Reply) -> str | None:
        return reply.trace_id and (self._redact(reply.trace_id, MAX_CODE) or None)

    def _error(self, reply: Reply, request_id: str | None = None, redact: Redaction | None = None) -> ApiError:
        """The error that a response stands for. Whatever it says, the error repeats neither key nor prompt."""
        redact = redact or self._redact
        code, text = parse_error(reply.content, redact)
        said = text or redact(reply.reason) or "no text"
        kind = _kind_of(reply.status, said)
        retry_after = parse_retry_after(reply.headers)
        return kind(
            f"{_MEANING[kind]}: {said}",
            request_id=request_id,
            http_status=reply.status,
            code=code,
            retry_after=retry_after,
            trace_id=self._trace_id(reply),
            at=reply.at,
            # Prefect's retries can't wait for as long as was asked, so that a retry would come too early.
            transient=False if self.retries.is_too_long(retry_after) else None,
        )

    def _reason(self, error: Exception) -> str:
        """Why a call failed. It may quote a line of the response."""
        return self._redact(str(error)) or type(error).__name__


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
    if any(mark in base_url for mark in "@?#"):
        raise InvalidRequest(
            "base_url: a user, a query or a fragment is not allowed; allowed: an https:// URL with host and path."
        )
    try:
        httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"base_url: {error}; allowed: an https:// URL.") from None
    return wire_url(base_url, "base_url").rstrip("/")


_BARRED = ("team_blocked", "api_key_blocked", "api_key_disabled")

_MAX_DEPTH = 5
_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}

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


_log_redaction: ContextVar[Callable[[object], object] | None] = ContextVar("_log_redaction", default=None)


def _redact_record(record: logging.LogRecord) -> bool:
    """Httpx logs each URL and reason phrase at INFO: whoever has the URL of a video has the video."""
    redact = _log_redaction.get()
    if redact is not None and isinstance(record.args, tuple):
        record.args = tuple(redact(arg) for arg in record.args)
    return True


logging.getLogger("httpx").addFilter(_redact_record)


@contextmanager
def redacted_log(redact: Redaction, *, hide_urls: bool = False) -> Iterator[None]:
    """Redact httpx's log in a block.

    Args:
        redact: Applied to all texts.
        hide_urls: Whether only scheme and host of URLs are logged.
    """

    def redacted(arg: object) -> object:
        if hide_urls and isinstance(arg, httpx.URL):
            return f"{arg.scheme}://{arg.host}/…"
        return redact(arg) if isinstance(arg, str) else arg

    token = _log_redaction.set(redacted)
    try:
        yield
    finally:
        _log_redaction.reset(token)


def unlogged_urls() -> AbstractContextManager[None]:
    """Keep the URLs of a block out of httpx's log."""
    return redacted_log(Redaction(), hide_urls=True)


def _keep_location(response: httpx.Response) -> None:
    """Hide redirects from httpx, which prepares them even if it does not follow them, and fails on a bad one."""
    response.extensions["location"] = response.headers.pop("Location", None)


async def _akeep_location(response: httpx.Response) -> None:
    _keep_location(response)


def _unknown(problem: str, **facts: Any) -> SubmissionUnknown:
    return SubmissionUnknown(f"The submission may have been accepted, and paid for: {problem}.", **facts)


def new_client_request_id() -> str:
    """Make an id for `x-client-request-id`."""
    return uuid.uuid4().hex


def _client_request_id(client_request_id: str | None) -> dict[str, str]:
    return {"x-client-request-id": client_request_id or new_client_request_id()}


def _redacted_facts(facts: Mapping[str, Any], redact: Redaction) -> Mapping[str, Any]:
    return {redact(name): _redacted_fact(value, redact) for name, value in facts.items()}


def _redacted_fact(value: object, redact: Redaction, depth: int = 1) -> object:
    """Redact all texts of a part of a response; what is nested absurdly deep is left out."""
    match value:
        case str():
            return redact(value)
        case Mapping() if depth < _MAX_DEPTH:
            return {redact(name): _redacted_fact(part, redact, depth + 1) for name, part in value.items()}
        case list() if depth < _MAX_DEPTH:
            return [_redacted_fact(part, redact, depth + 1) for part in value]
        case int() | float():
            return value
        case _:
            return None


def _error_in(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _log_repetition(state: RetryCallState) -> None:
    error = _error_in(state)
    wait = state.next_action.sleep if state.next_action else 0
    logger.warning("%s Asking again in %.0f s.", getattr(error, "message", error), wait)
