"""POSTs that may cost money: each is sent exactly once, and a lost reply is an error that says so."""

from collections.abc import Callable
from typing import BinaryIO

import httpx

from prefect_xai_video.api.calls import ApiCalls, client_request_id_header
from prefect_xai_video.api.connections import SendTrace, open_connection
from prefect_xai_video.api.httpx_log import redacted_log
from prefect_xai_video.api.outcomes import ONE_REQUEST, REFUSED, unknown_outcome
from prefect_xai_video.api.redaction import Redaction
from prefect_xai_video.api.replies import Reply, read_reply
from prefect_xai_video.errors import ServiceUnavailable, SubmissionUnknown


class ApiPosts:
    """Sends POSTs to the API host.

    They block on purpose. A POST can't be recalled once it is sent, and only its response tells what it did. Send it
    in a thread, which no cancellation of a task or of its event loop can interrupt.

    Args:
        calls: Converts what goes wrong to errors without secrets.
        headers: Headers of every POST, with the API key.
    """

    def __init__(self, calls: ApiCalls, headers: dict[str, str]) -> None:
        self._calls = calls
        self._headers = headers | {"Content-Type": "application/json"}

    def send(
        self,
        path: str,
        redact: Redaction,
        *,
        did: str = ONE_REQUEST,
        client_request_id: str | None = None,
        before_send: Callable[[], None] | None = None,
        content: bytes | BinaryIO,
    ) -> Reply:
        """Send one POST, exactly once, and block until its response arrives.

        Args:
            path: Path below the base URL.
            redact: Applied to all texts.
            did: What xAI may have done if the reply is lost, for the error.
            client_request_id: Sent as `x-client-request-id`. Default: a new id.
            before_send: Called once the connection is open, before any byte of the request is sent. If it raises,
                nothing is sent, and the error is passed on.
            content: JSON body.

        Returns:
            Any response except a refusal. It may be incomplete or meaningless.

        Raises:
            ApiError: If the POST was refused, or not sent.
            SubmissionUnknown: If there was no response.
        """
        trace, timeouts = SendTrace(before_send), self._calls.timeouts
        try:
            # Never a pooled connection: one that died while idle looks the same as one whose response was lost.
            with (
                open_connection(self._headers) as connection,
                redacted_log(redact),
                connection.stream(
                    "POST",
                    f"{self._calls.base_url}{path}",
                    headers=client_request_id_header(client_request_id),
                    timeout=timeouts.of(timeouts.start),
                    content=content,
                    extensions={"trace": trace},
                ) as response,
            ):
                reply = read_reply(response, timeouts.start)
        except httpx.RequestError as error:
            reason = self._calls.reason(error, redact)
            if not trace.has_started:
                raise ServiceUnavailable(f"No connection to {self._calls.base_url}: {reason}.") from None
            # The cause may quote the response unredacted, and a traceback would print it.
            raise unknown_outcome(f"no response could be read ({reason})", did) from None
        if reply.status in REFUSED:
            raise self._calls.error(reply, redact=redact)
        return reply

    def unknown(self, reply: Reply, missing: str, redact: Redaction, *, did: str = ONE_REQUEST) -> SubmissionUnknown:
        """Create the error of a POST whose response does not tell what it did.

        Args:
            reply: The response.
            missing: What a successful response lacks.
            redact: Applied to all texts.
            did: What xAI may have done.
        """
        problem = missing if 200 <= reply.status < 300 else f"xAI responded with HTTP {reply.status}"
        return unknown_outcome(
            f"{problem}; {reply.problem}" if reply.problem else problem,
            did,
            http_status=reply.status,
            trace_id=self._calls.trace_id(reply),
            answer=redact(reply.content.decode(errors="replace")) or None,
            at=reply.at,
        )
