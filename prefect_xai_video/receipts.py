"""Receipts: what is known of a key, from the moment before it costs money until its video is stored. No I/O.

A receipt is the journal while the work is under way and the manifest once it is done. Its states:

    (none) ──> sending ──> submitted ──> done ──> stored
                │  ▲ ▲         │
                │  │ │         └──> failed, moderated, expired ──(regenerate)──> sending
                │  │ └─ refused         surely not accepted: may be sent again
                │  └─── unknown         may have been accepted: sent again only if a person says so
                └─────> refused, unknown, submitted

All changes are methods of `Receipt`; one that is not drawn above raises `IllegalTransition`. A reply that comes after
its claim was given up is never lost: see `late_reply`.
"""

import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    computed_field,
    model_validator,
)

from prefect_xai_video.capabilities import Mode
from prefect_xai_video.errors import (
    GenerationError,
    InvalidRequest,
    SubmissionUnknown,
    VideoExpired,
    VideoFailed,
    VideoModerated,
    XaiVideoError,
)
from prefect_xai_video.requests import VideoRequest
from prefect_xai_video.responses import VideoStatus, without_prompt

ReceiptState = Literal[
    "sending", "refused", "unknown", "submitted", "done", "stored", "failed", "moderated", "expired"
]
Reason = Literal["first", "regenerate", "resubmit"]
VERSION: Literal[1] = 1

LEGAL: Mapping[ReceiptState, frozenset[ReceiptState]] = {
    "sending": frozenset({"submitted", "refused", "unknown"}),
    "refused": frozenset({"sending"}),
    "unknown": frozenset({"sending", "submitted"}),
    "submitted": frozenset({"done", "failed", "moderated", "expired"}),
    "done": frozenset({"done", "stored", "failed", "moderated", "expired"}),
    "stored": frozenset(),
    "failed": frozenset({"sending"}),
    "moderated": frozenset({"sending"}),
    "expired": frozenset({"sending"}),
}
ENDED_BADLY: Mapping[ReceiptState, type[GenerationError]] = {
    "failed": VideoFailed,
    "moderated": VideoModerated,
    "expired": VideoExpired,
}

MAX_KEY_LENGTH = 512
_SEGMENT = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]{0,199}")


class IllegalTransition(XaiVideoError):
    """A change of state that a receipt does not allow: a defect, never bad input."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Failure(_Frozen):
    """Why an attempt brought no video.

    Attributes:
        type: Name of the error in `errors.py`.
        message: Its sentence.
        http_status: HTTP status of the answer, if there was one.
        code: xAI's own code, if it gave one.
    """

    type: str
    message: str
    http_status: int | None = None
    code: str | None = None

    @classmethod
    def of(cls, error: XaiVideoError) -> Self:
        """Note an error."""
        return cls(type=type(error).__name__, message=error.message, http_status=error.http_status, code=error.code)


class Attempt(_Frozen):
    """One submission: one POST and what became of it.

    Attributes:
        number: 1 for the first.
        reason: Why it was sent: first, because a person let the video be paid for anew after a bad end, or
            because a person let it be sent again after an unknown outcome. What was refused keeps its reason.
        claim: Random id of who sent it, so that a writer knows its own words again.
        flow_run_id: The flow run that sent it.
        started_at: When it was claimed, just before the POST.
        outcome: The state it has led to so far.
        outcome_at: Since when.
        request_id: xAI's request id.
        cost_usd: What xAI billed, in USD.
        failure: Why there is no video, where there is none.
    """

    number: int
    reason: Reason = "first"
    claim: str
    flow_run_id: str | None = None
    started_at: AwareDatetime
    outcome: ReceiptState = "sending"
    outcome_at: AwareDatetime
    request_id: str | None = None
    cost_usd: Decimal | None = None
    failure: Failure | None = None


class StoredFile(_Frozen):
    """The video as it lies in the store.

    Attributes:
        uri: `file://` or `s3://` URI.
        size: Bytes.
        sha256: Hexadecimal digest.
        content_type: For example `video/mp4`.
    """

    uri: str
    size: int
    sha256: str
    content_type: str


class Video(_Frozen):
    """The finished thing. It serialises to JSON and holds no secret.

    Attributes:
        key: Its name in the store, without extension.
        uri: Where it lies: a `file://` or `s3://` URI.
        receipt_uri: Where its receipt lies.
        request_id: xAI's request id.
        model: The model that rendered it.
        duration: Seconds; None if xAI did not say.
        cost_usd: What xAI billed, in USD; None if it did not say.
        size: Bytes.
        sha256: Hexadecimal digest.
        content_type: For example `video/mp4`.
    """

    key: str
    uri: str
    receipt_uri: str
    request_id: str
    model: str
    duration: int | None
    cost_usd: Decimal | None
    size: int
    sha256: str
    content_type: str


class Receipt(_Frozen):
    """What is known of one key.

    Attributes:
        version: Version of this format.
        key: The video's name in its store.
        state: See the top of this module.
        fingerprint: SHA-256 of endpoint and body, inputs by digest.
        mode: Mode of the request.
        model: Model; xAI's canonical name once it has said it.
        request: The body that was sent, inputs by digest or without signatures.
        estimated_cost_usd: What it should cost by the price table, in USD; None where the table can't say.
        attempts: All submissions, oldest first. The last one is the current one.
        duration: Duration of the video in seconds.
        url: Temporary URL of the finished video, unless it is signed.
        file: The stored file.
    """

    version: Literal[1] = VERSION
    key: str
    state: ReceiptState
    fingerprint: str
    mode: Mode
    model: str
    request: dict[str, JsonValue]
    estimated_cost_usd: Decimal | None = None
    attempts: tuple[Attempt, ...] = Field(min_length=1)
    duration: int | None = None
    url: str | None = None
    file: StoredFile | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.state in {"submitted", "done", "stored", *ENDED_BADLY} and not self.request_id:
            raise ValueError(f"it is {self.state} without a request id")
        if (self.state == "stored") != (self.file is not None):
            raise ValueError(f"it is {self.state} {'without' if self.file is None else 'with'} a file")
        return self

    @classmethod
    def claim(cls, key: str, request: VideoRequest, flow_run_id: str | None = None) -> Self:
        """Begin a receipt, in state `sending`: to be created in the store before the POST."""
        return cls(key=key, state="sending", attempts=(_attempt(1, flow_run_id),), **_facts_of(request))

    def to_json(self) -> bytes:
        """Write the receipt as it lies in a store."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read a receipt from a store.

        Raises:
            ValueError: If it is no receipt, is of another version, or contradicts itself.
        """
        data = json.loads(content)
        if not isinstance(data, dict) or not isinstance(data.get("version"), int):
            raise ValueError("it is no receipt")  # noqa: TRY004 (a receipt can't be a wrong type to its caller)
        if data["version"] != VERSION:
            raise ValueError(f"its version is {data['version']}; this package reads version {VERSION}")
        told = {name: data.pop(name, None) for name in cls.model_computed_fields}
        receipt = cls.model_validate(data)
        for name, value in receipt.model_dump(mode="json", include=set(told)).items():
            if told[name] != value:
                raise ValueError(f"its {name} is not that of its last attempt")
        return receipt

    @property
    def attempt(self) -> Attempt:
        """The current attempt."""
        return self.attempts[-1]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def request_id(self) -> str | None:
        """The request id of the current attempt."""
        return self.attempt.request_id

    @computed_field  # type: ignore[prop-decorator]
    @property
    def flow_run_id(self) -> str | None:
        """The flow run that sent the current attempt."""
        return self.attempt.flow_run_id

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cost_usd(self) -> Decimal | None:
        """What xAI billed for the current attempt, in USD."""
        return self.attempt.cost_usd

    @computed_field  # type: ignore[prop-decorator]
    @property
    def failure(self) -> Failure | None:
        """Why the current attempt brought no video, where it did not."""
        return self.attempt.failure

    @property
    def maybe_paid(self) -> bool:
        """Whether any attempt was accepted, or may have been."""
        return any(attempt.outcome != "refused" for attempt in self.attempts)

    def sent_again(self, request: VideoRequest, reason: Reason, flow_run_id: str | None = None) -> Self:
        """Begin another attempt: -> `sending`."""
        attempt = _attempt(self.attempt.number + 1, flow_run_id, reason)
        receipt = self._moved("sending", duration=None, url=None, **_facts_of(request))
        return receipt.model_copy(update={"attempts": (*self.attempts, attempt)})

    def submitted(self, request_id: str) -> Self:
        """Note the request id: -> `submitted`."""
        return self._moved("submitted", {"request_id": request_id, "failure": None})

    def refused(self, error: XaiVideoError) -> Self:
        """Note that the POST was surely not accepted: -> `refused`."""
        return self._moved("refused", {"failure": Failure.of(error)})

    def unknown(self, error: XaiVideoError) -> Self:
        """Note that nobody knows whether the POST was accepted: -> `unknown`."""
        return self._moved("unknown", {"failure": Failure.of(error)})

    def answered(self, status: VideoStatus) -> Self:
        """Note a final answer of `get`: -> `done`, `failed`, `moderated` or `expired`."""
        cost = {} if status.cost_usd is None else {"cost_usd": status.cost_usd}
        if status.state == "done":
            return self._moved(
                "done",
                cost,
                duration=status.duration or self.duration,
                model=status.model or self.model,
                url=_unsigned(status.url),
            )
        if status.state == "pending":
            raise IllegalTransition("A pending request has no final answer.", key=self.key)
        error = _bad_end(status, self.request.get("prompt"))
        return self._moved(status.state, {**cost, "failure": Failure.of(error)})

    def stored(self, file: StoredFile) -> Self:
        """Note the verified file: -> `stored`."""
        return self._moved("stored", file=file)

    def late_reply(self, claim: str, request_id: str) -> Self:
        """Note a request id whose claim was given up meanwhile, so that it is never lost.

        If the claim is still the current attempt, this is its submission. Otherwise it is written beside the old
        attempt, which becomes the current one again where the later ones were refused or are of unknown outcome.
        """
        if self.attempt.claim == claim:
            return self.submitted(request_id) if self.request_id is None else self
        change = {"request_id": request_id, "outcome": "submitted", "outcome_at": _now(), "failure": None}
        attempts = [
            attempt.model_copy(update=change) if attempt.claim == claim else attempt for attempt in self.attempts
        ]
        if self.state not in {"refused", "unknown"}:
            return self.model_copy(update={"attempts": tuple(attempts)})
        # What was sent since brought nothing that is known of: the accepted one is the current one again.
        attempts.sort(key=lambda attempt: attempt.claim == claim)
        return self.model_copy(update={"attempts": tuple(attempts), "state": "submitted"})

    def error(self) -> XaiVideoError:
        """The error that a bad end stands for, with key, request id and cost. Raised without any call to xAI."""
        failure = self.attempt.failure
        message = failure.message if failure else "There is no video."
        kind: type[XaiVideoError] = ENDED_BADLY.get(self.state, SubmissionUnknown)
        return kind(
            message,
            key=self.key,
            request_id=self.request_id,
            http_status=failure.http_status if failure else None,
            code=failure.code if failure else None,
            cost_usd=self.cost_usd,
        )

    def video(self, receipt_uri: str) -> Video:
        """The finished video.

        Raises:
            IllegalTransition: If it is not stored yet.
        """
        if self.file is None or self.request_id is None:
            raise IllegalTransition(f"A receipt that is {self.state} has no stored video.", key=self.key)
        return Video(
            key=self.key,
            receipt_uri=receipt_uri,
            request_id=self.request_id,
            model=self.model,
            duration=self.duration,
            cost_usd=self.cost_usd,
            **self.file.model_dump(),
        )

    def _moved(self, state: ReceiptState, attempt: Mapping[str, Any] | None = None, **changes: Any) -> Self:
        if state not in LEGAL[self.state]:
            raise IllegalTransition(f"A receipt does not go from {self.state} to {state}.", key=self.key)
        current = self.attempt
        if state != "sending":
            current = current.model_copy(update={**(attempt or {}), "outcome": state, "outcome_at": _now()})
        return self.model_copy(
            update={**changes, "state": state, "attempts": (*self.attempts[:-1], current)},
        )


def check_key(key: str) -> str:
    """Check that a key can name a file in every store.

    Raises:
        InvalidRequest: If it can't.
    """
    allowed = (
        f"letters, digits and . _ - = + @ in parts of at most 200 characters divided by single slashes, "
        f"{MAX_KEY_LENGTH} characters in all, no part beginning with a dot, without file extension"
    )
    if not isinstance(key, str):
        raise InvalidRequest(f"key: {key!r} is not allowed; allowed: {allowed}.")
    good = len(key) <= MAX_KEY_LENGTH and all(_SEGMENT.fullmatch(part) for part in key.split("/"))
    if not good or key.lower().endswith((".mp4", ".json")):
        shown = key if len(key) <= 60 else f"{key[:59]}…"
        raise InvalidRequest(f"key: {shown!r} is not allowed; allowed: {allowed}.")
    return key


def _attempt(number: int, flow_run_id: str | None, reason: Reason = "first") -> Attempt:
    now = _now()
    return Attempt(
        number=number,
        reason=reason,
        claim=uuid.uuid4().hex,
        flow_run_id=flow_run_id,
        started_at=now,
        outcome_at=now,
    )


def _facts_of(request: VideoRequest) -> dict[str, Any]:
    return {
        "fingerprint": request.fingerprint,
        "mode": request.mode,
        "model": request.model,
        "request": request.record(),
        "estimated_cost_usd": request.estimated_cost_usd,
    }


def _bad_end(status: VideoStatus, prompt: object) -> GenerationError:
    said = f": {without_prompt(status.message, prompt)}" if status.message else "."
    http_status = 400 if status.state == "moderated" and status.code else None
    match status.state:
        case "moderated":
            return VideoModerated(
                f"Content moderation blocked the video{said}", code=status.code, http_status=http_status
            )
        case "expired":
            return VideoExpired(f"xAI no longer has the video{said}", code=status.code)
        case _:
            return VideoFailed(f"xAI could not render the video{said}", code=status.code)


def _unsigned(url: SecretStr | None) -> str | None:
    text = url.get_secret_value() if url else ""
    return text if text and "?" not in text else None


def _now() -> datetime:
    return datetime.now(UTC)
