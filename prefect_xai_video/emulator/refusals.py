"""The error responses of the service, in the shapes that it really uses."""

from starlette.responses import JSONResponse, PlainTextResponse, Response

TEAM = "5f0c4e0e-9d7b-4b58-8f59-3f4f6c1b7a20"


class Refused(Exception):
    """A request that gets an error response.

    Attributes:
        response: The error response.
        problem: Its error text; empty if it has none.
    """

    def __init__(self, response: Response, problem: str = "") -> None:
        super().__init__(response.status_code)
        self.response = response
        self.problem = problem


def unsupported_media_type() -> Refused:
    """415, empty: the body is not declared as JSON."""
    return Refused(Response(status_code=415))


def undeserializable(problem: str) -> Refused:
    """422, plain text: the JSON does not have the shape of a request."""
    text = f"Failed to deserialize the JSON body into the target type: {problem}"
    return Refused(PlainTextResponse(text, status_code=422), text)


def unauthenticated(problem: str) -> Refused:
    """401: no API key, or an unknown one."""
    return _flat(401, "unauthenticated", problem)


def too_many_requests(actual: int, limit: int, retry_after: str | None = None) -> Refused:
    """429: more requests per second than the team's limit."""
    return _flat(
        429,
        "resource-exhausted",
        f"Too many requests for team {TEAM}. Your team's rate limits are: "
        f"Requests per Second (actual/limit): {actual}/{limit}. Please slow down.",
        retry_after,
    )


def invalid_argument(problem: str) -> Refused:
    """400: the request is well-formed, but its values are not valid."""
    return _flat(400, "invalid-argument", problem)


def too_many_public_urls(limit: int) -> Refused:
    """429: the team has reached its limit of active public URLs."""
    return _flat(429, "resource-exhausted", f"Your team has reached its limit of {limit} active public URLs.")


def too_large(limit: int) -> Refused:
    """413: a file is larger than the limit."""
    return _flat(413, "payload-too-large", f"The file exceeds the maximum size of {limit} bytes.")


def too_many_calls(limit: int, seconds: float) -> Refused:
    """429: more calls of the Batch API than the team's limit."""
    return _flat(429, "resource-exhausted", f"Too many requests for team {TEAM}: at most {limit} in {seconds:g} s.")


def unknown_model(model: str) -> Refused:
    """404: the model does not exist."""
    return not_found(f"The model {model} does not exist or your team {TEAM} does not have access to it.")


def not_found(problem: str) -> Refused:
    """404: the resource does not exist."""
    return _flat(404, "not-found", problem)


def unknown_request(request_id: str) -> Refused:
    """404: the video does not exist, or no longer exists."""
    return not_found(f"The request {request_id} does not exist.")


def internal_error() -> Refused:
    """500: an error inside the service."""
    return _flat(500, "internal-error", "Internal error.")


def service_unavailable(retry_after: str | None = None) -> Refused:
    """503: the service has no capacity."""
    return _flat(503, "service-unavailable", "The service is currently unavailable.", retry_after)


def permission_denied(problem: str) -> Refused:
    """403: the team may not do this."""
    return _flat(403, "permission-denied", problem)


def no_credits() -> Refused:
    """403: the team has no credits left."""
    return permission_denied(
        f"Your team {TEAM} has either used all available credits or reached its monthly spending limit.",
    )


def unknown_route(path: str) -> Response:
    """404 for an unknown path, in the other shape of error responses."""
    message = f"The requested path {path} does not exist."
    return JSONResponse({"error": {"code": 404, "message": message}}, status_code=404)


def _flat(status: int, code: str, error: str, retry_after: str | None = None) -> Refused:
    headers = None if retry_after is None else {"Retry-After": retry_after}
    return Refused(JSONResponse({"code": code, "error": error}, status_code=status, headers=headers), error)
