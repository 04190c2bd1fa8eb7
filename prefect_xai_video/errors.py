"""Every error of this package.

    XaiVideoError
    ├── InvalidRequest          bad input, found before anything was sent (also a ValueError)
    │   └── InvalidManifest         a manifest with findings
    ├── MissingCredentials      no API key
    ├── KeyConflict             the key belongs to another request, API or team
    ├── LimitReached            a global limit in Prefect has no room for the video
    ├── RescuesExhausted        the run lost its worker too often and is not restarted any more
    ├── StorageError            the store can't be read or written
    ├── ApiError                xAI rejected the call or could not be reached
    │   ├── AuthenticationFailed    the API key is wrong, blocked or disabled
    │   ├── AccessDenied            no credits, or no access to the model
    │   ├── RequestRejected         xAI considers the request invalid, or does not know the request id
    │   ├── RateLimited             too many requests
    │   └── ServiceUnavailable      no connection, a 5xx, an unreadable response
    ├── SubmissionUnknown       it is unknown whether xAI accepted the POST
    ├── GenerationError         submitted, but there is no video
    │   ├── VideoModerated          blocked by content moderation (may have been charged)
    │   ├── VideoFailed             the render failed
    │   ├── VideoExpired            xAI no longer has the video
    │   └── VideoTimeout            not ready in time; the same key picks it up later
    ├── DownloadError           the finished video could not be downloaded completely
    └── BatchFailed             some rows of a batch have no video

Each error answers the two questions that matter to a caller: `resend_safe` (is a new POST certain not to pay twice?)
and `transient` (may the same call succeed later without any change?). Calling again with the same key is always safe.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from prefect_xai_video.money import dollars


class XaiVideoError(Exception):
    """Base class of every error that this package raises deliberately.

    Attributes:
        key: The video's key, if known.
        request_id: xAI's request id, if there was a submission.
        http_status: HTTP status of the response that caused the error.
        code: xAI's own error code.
        cost_usd: Amount paid in USD, if known.
        retry_after: Seconds that the server asked to wait.
        trace_id: xAI's `x-request-id` of the response; xAI's support asks for it.
        answer: Redacted beginning of a response that could not be parsed; it may contain a request id.
        at: Time of the response, by xAI's clock.
        is_free: Whether the failed call can't have cost anything, such as one that adopts a request id.
        transient: Whether the same call may succeed later without any change; Prefect's retries depend on it.
    """

    nothing_accepted: bool = True
    transient: bool = False
    is_free: bool = False

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        request_id: str | None = None,
        http_status: int | None = None,
        code: str | None = None,
        cost_usd: Decimal | None = None,
        retry_after: float | None = None,
        trace_id: str | None = None,
        answer: str | None = None,
        at: datetime | None = None,
        transient: bool | None = None,
        maybe_paid: bool = False,
    ) -> None:
        super().__init__(message)
        if maybe_paid:
            self.nothing_accepted = False
        self.message = message
        self.key = key
        self.request_id = request_id
        self.http_status = http_status
        self.code = code
        self.cost_usd = cost_usd
        self.retry_after = retry_after
        self.trace_id = trace_id
        self.answer = answer
        self.at = at
        if transient is not None:
            self.transient = transient

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle an error with all its attributes, independently of its `__init__`."""
        return _rebuilt, (type(self), self.args, self.__dict__)

    @property
    def resend_safe(self) -> bool:
        """Whether a new POST for the same video is certain not to pay a second time."""
        return self.nothing_accepted and self.request_id is None

    def __str__(self) -> str:
        facts = {
            "key": self.key,
            "request id": self.request_id,
            "HTTP": self.http_status,
            "code": self.code,
            "cost": None if self.cost_usd is None else dollars(self.cost_usd),
            "trace id": self.trace_id,
            "response": None if self.answer is None else repr(self.answer),
        }
        known = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
        return f"{self.message} ({known})" if known else self.message


def _rebuilt(kind: type[XaiVideoError], args: tuple[Any, ...], facts: dict[str, Any]) -> XaiVideoError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class InvalidRequest(XaiVideoError, ValueError):
    """Invalid input. The message names the field, the value and what is allowed. Nothing was sent."""


class InvalidManifest(InvalidRequest):
    """A manifest that is not valid. The message lists what was found, with lines. Nothing was sent.

    Attributes:
        findings: The first 100 findings, each with the place of its row.
    """

    def __init__(self, message: str, findings: Sequence[str] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.findings = tuple(findings)


def not_allowed(field: str, what: str, allowed: str, hint: str = "") -> InvalidRequest:
    """Build the error for invalid input, in the same words everywhere.

    Args:
        field: Name of the field, as the user knows it.
        what: The value as formatted by `shown`, or a short description of it.
        allowed: The allowed values.
        hint: How to fix it, as a sentence.
    """
    return InvalidRequest(f"{field}: {what} is not allowed; allowed: {allowed}. {hint}".rstrip())


def no_such(kind: str, name: str, allowed: Iterable[str], value: str = "") -> InvalidRequest:
    """Build the error for an unknown name, such as that of a misspelt option, in the same words everywhere.

    Args:
        kind: What it would be the name of, such as "option".
        name: The name, with its path, as in `keyframes[0].time`.
        allowed: The names that exist.
        value: Its value as formatted by `shown`, if it may be quoted.
    """
    names = list(allowed)
    given = f" (value: {value})" if value else ""
    nearest = get_close_matches(name.rpartition(".")[2], names, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return InvalidRequest(f"{name}: there is no such {kind}{given}; allowed: {', '.join(names)}.{hint}")


_USER = re.compile(r"(?<=://)[^\s'\"<>/?#]*@")
_QUERY = re.compile(r"(://[^\s'\"<>?#]*)[?#][^\s'\"<>]*")
_INLINE = re.compile(r"(data:[\w.+/;-]{0,100},)[^\s'\"<>]*", re.IGNORECASE)


def shown(value: object) -> str:
    """Format a value for an error message: its `repr`, at most 60 characters, without what a URL may hide.

    User, query and fragment of a URL may be secret, wherever in the value it is; inline data says nothing.
    """
    text = _INLINE.sub(r"\1…", _QUERY.sub(r"\1?…", _USER.sub("…@", repr(value)[:2000])))
    return text if len(text) <= 60 else f"{text[:59]}…"


class MissingCredentials(XaiVideoError):
    """There is no API key."""


class KeyConflict(XaiVideoError):
    """The key already belongs to another request, or to a request of another API or team. Nothing was sent."""


class LimitReached(XaiVideoError):
    """A global limit in Prefect, such as the budget, has no room for the video. Nothing was sent."""


class RescuesExhausted(XaiVideoError):
    """The run was restarted three times because its worker had died, and is not restarted again."""

    nothing_accepted = False


class StorageError(XaiVideoError):
    """The store can't be read or written, or its content does not match the receipt."""


class ApiError(XaiVideoError):
    """xAI rejected the call or could not be reached. For a submission this guarantees that it was not accepted."""


class AuthenticationFailed(ApiError):
    """The API key is missing from the call, wrong, blocked or disabled."""


class AccessDenied(ApiError):
    """The team has no credits left, or no access to the requested model or resource."""


class RequestRejected(ApiError):
    """xAI considers the request invalid, or does not know the request id."""


class RateLimited(ApiError):
    """Too many requests for the team and model. Nothing was created."""

    transient = True


class ServiceUnavailable(ApiError):
    """No connection, a server error, or an unreadable response."""

    transient = True


class SubmissionUnknown(XaiVideoError):
    """It is unknown whether xAI accepted the POST, since no request id was received: resending may pay twice."""

    nothing_accepted = False


class GenerationError(XaiVideoError):
    """The request was accepted, but there is no video."""

    nothing_accepted = False


class VideoModerated(GenerationError):
    """Content moderation blocked the video; xAI charges for a video that is blocked after generation."""


class VideoFailed(GenerationError):
    """xAI could not render the video."""


class VideoExpired(GenerationError):
    """xAI no longer has the video."""


class VideoTimeout(GenerationError):
    """The video was not ready in time. Calling again with the same key continues waiting, without paying again."""


class DownloadError(XaiVideoError):
    """The finished video could not be downloaded completely. Calling again with the same key retries the download."""

    nothing_accepted = False
    transient = True


class BatchFailed(XaiVideoError):
    """Some rows of a batch have no video. The report was stored.

    Attributes:
        report: The report, a `BatchReport`.
    """

    nothing_accepted = False

    def __init__(self, message: str, report: Any = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.report = report
