"""Mapping of xAI's HTTP responses to errors: a refusal, an unknown outcome, or another failure."""

from typing import Any

from prefect_xai_video.errors import (
    AccessDenied,
    ApiError,
    AuthenticationFailed,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    SubmissionUnknown,
)

REFUSED = frozenset({400, 401, 403, 404, 405, 413, 415, 422, 429})
"""HTTP statuses of a POST that xAI certainly did not accept. No public source says so of any other status."""


MEANING: dict[type[ApiError], str] = {
    AuthenticationFailed: "xAI rejected the API key",
    AccessDenied: "xAI denied access",
    RequestRejected: "xAI rejected the request",
    RateLimited: "xAI's rate limit was reached",
    ServiceUnavailable: "xAI gave no usable response",
}
"""First words of each error's message."""


def error_for(http_status: int, text: str) -> type[ApiError]:
    """Map an HTTP status to an error class; the text distinguishes a wrong API key from another bad request."""
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


ONE_REQUEST = "accepted the request, which may have been paid for"
"""Describes what xAI may have done if the reply to a submission is lost."""


def unknown_outcome(problem: str, did: str = ONE_REQUEST, **facts: Any) -> SubmissionUnknown:
    """Create the error of a submission that may have been accepted.

    Args:
        problem: What went wrong.
        did: What xAI may have done.
        **facts: Attributes of the error.
    """
    return SubmissionUnknown(f"It is unknown whether xAI {did}: {problem}.", **facts)
