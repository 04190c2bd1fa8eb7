"""Attempts: the submissions of a key, each with its outcome."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    JsonValue,
    model_validator,
)

from prefect_xai_video.api.capabilities import Mode
from prefect_xai_video.api.mp4 import ClipFacts
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.storage_options import StorageOptions
from prefect_xai_video.errors import (
    GenerationError,
    VideoExpired,
    VideoFailed,
    VideoModerated,
    XaiVideoError,
)

ReceiptState = Literal[
    "sending", "refused", "unknown", "submitted", "done", "stored", "failed", "moderated", "expired"
]


Reason = Literal["first", "regenerate", "resubmit", "adopted"]


LEGAL: Mapping[ReceiptState, frozenset[ReceiptState]] = {
    "sending": frozenset({"submitted", "refused", "unknown"}),
    "refused": frozenset({"sending"}),
    "unknown": frozenset({"sending", "submitted"}),
    "submitted": frozenset({"done", "failed", "moderated", "expired", "refused"}),
    "done": frozenset({"done", "stored", "failed", "moderated", "expired"}),
    "stored": frozenset(),
    "failed": frozenset({"sending", "submitted", "done"}),
    "moderated": frozenset({"sending", "submitted", "done"}),
    "expired": frozenset({"sending", "submitted", "done", "failed", "moderated", "refused"}),
}


ENDED_BADLY: Mapping[ReceiptState, type[GenerationError]] = {
    "failed": VideoFailed,
    "moderated": VideoModerated,
    "expired": VideoExpired,
}


class IllegalTransition(XaiVideoError):
    """A state transition that a receipt does not allow. It indicates a defect, never bad input."""


class Frozen(BaseModel):
    """Base class of the parts of a receipt: immutable, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Failure(Frozen):
    """Why an attempt has no video.

    Attributes:
        type: Name of the error class in `errors.py`.
        message: Message of the error.
        http_status: HTTP status of the response, if there was one.
        code: xAI's error code, if it returned one.
    """

    type: str
    message: str
    http_status: int | None = None
    code: str | None = None

    @classmethod
    def of(cls, error: XaiVideoError) -> Self:
        """Create a record of an error."""
        return cls(type=type(error).__name__, message=error.message, http_status=error.http_status, code=error.code)


OF_CLIP = ("seconds", "width", "height", "frame_rate", "has_sound")
"""Facts of a stored file that the index of its video tells."""


class StoredFile(Frozen):
    """A video file in the store.

    Attributes:
        uri: `file://` or `s3://` URI.
        size: Size in bytes.
        sha256: SHA-256 as a hexadecimal string.
        content_type: Content type, for example `video/mp4`.
        seconds: Length in seconds; None if the index of the video could not be read, as for the next four.
        width: Width in pixels.
        height: Height in pixels.
        frame_rate: Frames a second on average.
        has_sound: Whether it has sound.
        poster: URI of its first frame; None if no stills were asked for.
        last_frame: URI of its last frame; None if no stills were asked for.
        version: Modification time in a directory, ETag in a bucket: while it is unchanged, so is the file. None if it
            was not recorded.
    """

    uri: str
    size: int
    sha256: str
    content_type: str
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    has_sound: bool | None = None
    poster: str | None = None
    last_frame: str | None = None
    version: str | None = None


class XaiFile(Frozen):
    """The video as a file in xAI's Files API.

    Attributes:
        name: Its name there, which no other submission has.
        expires_after: Seconds after which xAI deletes it; None for never.
        keep: Whether it is kept when the video is stored.
        is_public: Whether a URL that needs no API key was requested.
        id: xAI's id of the file; None until xAI has reported it.
        public_url: That URL, once xAI has reported it.
    """

    name: str
    expires_after: int | None
    keep: bool = False
    is_public: bool = False
    id: str | None = None
    public_url: str | None = None

    @property
    def options(self) -> StorageOptions:
        """The options of the submission that make xAI store it."""
        return StorageOptions(self.name, self.expires_after, self.is_public)

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked of a kept file is known; of one that is not kept, nothing is."""
        return not self.keep or (self.id is not None and (self.public_url is not None or not self.is_public))

    def reported(self, file_id: str | None, public_url: str | None) -> "XaiFile":
        """Add what xAI has reported of it."""
        url = public_url if self.is_public else None
        return self.model_copy(update={"id": file_id or self.id, "public_url": url or self.public_url})


def facts_of_clip(clip: ClipFacts | None) -> dict[str, Any]:
    """Collect the facts of a clip that a stored file records."""
    return {} if clip is None else {name: getattr(clip, name) for name in OF_CLIP}


class Attempt(Frozen):
    """One submission: one POST and its outcome.

    Attributes:
        number: 1 for the first attempt.
        reason: Why it was sent. `first`: the key had no attempt. `regenerate`: a person agreed to pay again after an
            attempt without a video. `resubmit`: a person had it sent again after an unknown outcome. `adopted`: it
            was sent without this package. An attempt that repeats a refused one keeps its reason.
        claim: Random id of the claim, so that a writer recognises its own write. xAI receives it as
            `x-client-request-id`.
        direct: Whether xAI was given a URL to deliver the video to the store.
        xai_file: The file as which xAI was asked to store the video; None if it was not.
        xai_batch: Id of xAI's batch to which it was added; None if it was submitted by itself. In the batch, its id
            is the claim, which is its request id, too.
        flow_run_id: The flow run that sent it.
        fingerprint: SHA-256 of endpoint and body, inputs by digest; None for an adopted request of unknown content.
        mode: Mode of the request; None if unknown.
        model: Model; xAI's canonical name once xAI has reported it.
        request: The body that was sent, inputs by digest or without signatures; empty if unknown.
        estimated_cost_usd: Estimated cost from the price table, in USD; None if the table has no price.
        started_at: When it was claimed, just before the POST.
        submitted_at: When xAI's response with the request id arrived; None if it never did, also if a person found
            the id later.
        done_at: When the video was first seen to be done.
        outcome: The current state of the attempt.
        outcome_at: When the attempt reached this state.
        request_id: xAI's request id.
        trace_id: `x-request-id` of the response to the POST, for xAI's support.
        answer: Redacted beginning of a response to the POST that could not be parsed.
        cost_usd: Billed cost in USD.
        failure: Why there is no video; of a submitted attempt, that xAI did not know its request id at the last poll.
        duration: Duration of the video in seconds, as xAI reported it.
        url: Temporary URL of the finished video, unless it is signed.
        file: The stored file; before that, the file that was about to be stored, and may be in the store already. It
            is kept when xAI no longer has the video, so that it is recognised there.
    """

    number: int
    reason: Reason = "first"
    claim: str
    direct: bool = False
    xai_file: XaiFile | None = None
    xai_batch: str | None = None
    flow_run_id: str | None = None
    fingerprint: str | None = None
    mode: Mode | None = None
    model: str | None = None
    request: dict[str, JsonValue] = {}
    estimated_cost_usd: Decimal | None = None
    started_at: AwareDatetime
    submitted_at: AwareDatetime | None = None
    done_at: AwareDatetime | None = None
    outcome: ReceiptState = "sending"
    outcome_at: AwareDatetime
    request_id: str | None = None
    trace_id: str | None = None
    answer: str | None = None
    cost_usd: Decimal | None = None
    failure: Failure | None = None
    duration: int | None = None
    url: str | None = None
    file: StoredFile | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        is_found = self.direct or (self.xai_file is not None and self.xai_file.id is not None)
        delivered = is_found and self.outcome in {"done", "stored", "expired"}
        accepted = self.outcome in {"submitted", "done", "stored", *ENDED_BADLY}
        if accepted and not (self.request_id or delivered):
            raise ValueError(f"an attempt is {self.outcome} without a request id")
        if self.outcome == "stored" and self.file is None:
            raise ValueError("an attempt is stored without a file")
        if not accepted and self.file is not None:
            raise ValueError(f"an attempt is {self.outcome} with a file")
        return self

    @property
    def is_open(self) -> bool:
        """Whether it was accepted and has, or may still get, a video."""
        return self.outcome in {"submitted", "done", "stored"}


def new_claim() -> str:
    """Create a random id for a claim."""
    return uuid.uuid4().hex


def new_attempt(
    number: int,
    reason: Reason,
    flow_run_id: str | None,
    claim: str | None,
    facts: Mapping[str, Any],
    *,
    direct: bool = False,
    xai_file: XaiFile | None = None,
    xai_batch: str | None = None,
) -> Attempt:
    """Create an attempt in state `sending`."""
    started_at = now()
    return Attempt(
        number=number,
        reason=reason,
        claim=claim or new_claim(),
        direct=direct,
        xai_file=xai_file,
        xai_batch=xai_batch,
        flow_run_id=flow_run_id,
        started_at=started_at,
        outcome_at=started_at,
        **facts,
    )


def adopted_attempt(number: int, request_id: str, flow_run_id: str | None, facts: Mapping[str, Any]) -> Attempt:
    """Create an attempt in state `submitted`, for a request that was sent without this package."""
    attempt = new_attempt(number, "adopted", flow_run_id, None, facts)
    return attempt.model_copy(update={"request_id": request_id, "outcome": "submitted"})


def facts_of_request(request: VideoRequest) -> dict[str, Any]:
    """Collect the facts of a request that an attempt records."""
    return {
        "fingerprint": request.fingerprint,
        "mode": request.mode,
        "model": request.model,
        "request": request.record(),
        "estimated_cost_usd": request.estimated_cost_usd,
    }


def facts_of_attempt(attempt: Attempt) -> dict[str, Any]:
    """Copy the facts of an attempt's request, for another attempt at the same request."""
    names = ("fingerprint", "mode", "model", "request", "estimated_cost_usd")
    return {name: getattr(attempt, name) for name in names}


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
