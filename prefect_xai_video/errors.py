"""Every error of this package.

    XaiVideoError
    ├── InvalidRequest          bad input, found before anything was sent (also a ValueError)
    ├── MissingCredentials      no API key
    ├── KeyConflict             the key belongs to another request, API or team
    ├── LimitReached            a global limit of Prefect's has no room for it
    ├── RescuesExhausted        the run lost its worker too often and is not set going again
    ├── StorageError            the store can't be read or written
    ├── ApiError                xAI, or the way to it, said no
    │   ├── AuthenticationFailed    the API key is wrong
    │   ├── AccessDenied            no credits, or no access to the model
    │   ├── RequestRejected         xAI finds the request invalid, or does not know the request id
    │   ├── RateLimited             too many requests
    │   └── ServiceUnavailable      no connection, a 5xx, an unreadable answer
    ├── SubmissionUnknown       the POST may have been accepted: nobody knows
    ├── GenerationError         submitted, but there is no video
    │   ├── VideoModerated          blocked by content moderation (may have been charged)
    │   ├── VideoFailed             the render failed
    │   ├── VideoExpired            xAI no longer has it
    │   └── VideoTimeout            not ready in time; the same key picks it up later
    └── DownloadError           the finished video could not be fetched whole

Two questions matter to a caller, and each error answers them: `resend_safe` (can a new POST not pay twice?) and
`transient` (may the same call succeed later by itself?). Calling again with the same key is always safe.
"""

from datetime import datetime
from decimal import Decimal

from prefect_xai_video.capabilities import dollars


class XaiVideoError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        key: The video's key, where one is known.
        request_id: xAI's request id, where there was a submission.
        http_status: HTTP status of the answer that led here.
        code: xAI's own error code.
        cost_usd: What was paid, in USD, where known.
        retry_after: Seconds that the server asked to wait.
        trace_id: xAI's `x-request-id` of the response; xAI's support asks for it.
        answer: Redacted beginning of a response that could not be understood; it may hold a request id.
        at: When the response was sent, by xAI's clock.
        transient: Whether the same call may succeed later by itself; Prefect's retries go by it.
    """

    nothing_accepted: bool = True
    transient: bool = False

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

    @property
    def resend_safe(self) -> bool:
        """Whether a new POST for the same video surely does not pay a second time."""
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


class InvalidRequest(XaiVideoError, ValueError):
    """Bad input. It names the field, the value and what is allowed; nothing was sent."""


class MissingCredentials(XaiVideoError):
    """There is no API key."""


class KeyConflict(XaiVideoError):
    """The key already belongs to another request, or to that of another API or team. Nothing was sent."""


class LimitReached(XaiVideoError):
    """A global limit of Prefect's, such as the budget, has no room for the video. Nothing was sent."""


class RescuesExhausted(XaiVideoError):
    """The run was set going again three times because its worker had died, and is stopped now."""

    nothing_accepted = False


class StorageError(XaiVideoError):
    """The store can't be read or written, or what it holds is not what the receipt says."""


class ApiError(XaiVideoError):
    """xAI rejected the call or could not be reached. For a submission this guarantees that it was not accepted."""


class AuthenticationFailed(ApiError):
    """The API key is missing on the wire, wrong, blocked or disabled."""


class AccessDenied(ApiError):
    """The team has no credits left, or no access to what was asked for."""


class RequestRejected(ApiError):
    """xAI finds the request invalid, or does not know the request id."""


class RateLimited(ApiError):
    """Too many requests for the team and model. Nothing was created."""

    transient = True


class ServiceUnavailable(ApiError):
    """No connection, a server error, or an answer that can't be read."""

    transient = True


class SubmissionUnknown(XaiVideoError):
    """A POST may have been accepted, but no request id could be read: sending it again may pay twice."""

    nothing_accepted = False


class GenerationError(XaiVideoError):
    """The request was accepted, but there is no video."""

    nothing_accepted = False


class VideoModerated(GenerationError):
    """Content moderation blocked the video; xAI charges for one that was blocked after generation."""


class VideoFailed(GenerationError):
    """xAI could not render the video."""


class VideoExpired(GenerationError):
    """xAI no longer has the video."""


class VideoTimeout(GenerationError):
    """The video was not ready in time. Calling again with the same key goes on waiting, without paying."""


class DownloadError(XaiVideoError):
    """The finished video could not be fetched whole. Calling again with the same key fetches it again."""

    nothing_accepted = False
    transient = True
