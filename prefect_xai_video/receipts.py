"""Receipts: what is known of a key, from the moment before it costs money until its video is stored. No I/O.

A receipt is the journal while the work is under way and the manifest once it is done. Its states:

    (none) ──> sending ──> submitted ──> done ──> stored
                │  ▲ ▲         │
                │  │ │         └──> failed, moderated, expired ──(regenerate)──> sending
                │  │ └─ refused         surely not accepted: may be sent again
                │  └─── unknown         may have been accepted: sent again only if a person says so
                └─────> refused, unknown, submitted

All changes are methods of `Receipt`; one that is not drawn above raises `IllegalTransition`. Three things can come
later than they should, and are never lost: a reply whose claim was given up (`late_reply`), a video that xAI delivers
for a submission of unknown outcome (`delivered`), and a request id that a person has found (`adopted`).
"""

import hashlib
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
from prefect_xai_video.redaction import Redaction
from prefect_xai_video.requests import VideoRequest
from prefect_xai_video.responses import VideoStatus

ReceiptState = Literal[
    "sending", "refused", "unknown", "submitted", "done", "stored", "failed", "moderated", "expired"
]
Reason = Literal["first", "regenerate", "resubmit", "adopted"]
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
    "expired": frozenset({"sending", "done"}),
}
ENDED_BADLY: Mapping[ReceiptState, type[GenerationError]] = {
    "failed": VideoFailed,
    "moderated": VideoModerated,
    "expired": VideoExpired,
}

NEXT_STEP: Mapping[ReceiptState, str] = {
    "sending": "a run is sending it; if that run is gone, the next one with this key finds it unknown",
    "submitted": "run again with this key: it goes on waiting, without paying",
    "done": "run again with this key: it downloads, without paying",
    "stored": "nothing to do",
    "refused": "nothing was paid; run again with this key to send it",
    "unknown": 'look at the xAI console: adopt its request id, or send again with on_unknown="resubmit"',
    "failed": "run again with this key and regenerate=True, to pay for a new attempt",
    "moderated": "run again with this key, another prompt and regenerate=True, to pay for a new attempt",
    "expired": "run again with this key and regenerate=True, to pay for a new attempt",
}
"""What a person can do about a receipt in each state."""

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
            An adopted one was sent by somebody else.
        claim: Random id of who sent it, so that a writer knows its own words again.
        direct: Whether xAI was given a place in the store to deliver the video to.
        flow_run_id: The flow run that sent it.
        started_at: When it was claimed, just before the POST.
        submitted_at: When xAI answered with a request id; None if that was not seen.
        done_at: When the video was seen to be done.
        outcome: The state it has led to so far.
        outcome_at: Since when.
        request_id: xAI's request id.
        cost_usd: What xAI billed, in USD.
        failure: Why there is no video, where there is none.
    """

    number: int
    reason: Reason = "first"
    claim: str
    direct: bool = False
    flow_run_id: str | None = None
    started_at: AwareDatetime
    submitted_at: AwareDatetime | None = None
    done_at: AwareDatetime | None = None
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
        request_id: xAI's request id; None if its reply was lost and the video was delivered all the same.
        model: The model that rendered it; None if nobody said.
        duration: Seconds; None if xAI did not say.
        cost_usd: What xAI billed, in USD; None if it did not say.
        size: Bytes.
        sha256: Hexadecimal digest.
        content_type: For example `video/mp4`.
    """

    key: str
    uri: str
    receipt_uri: str
    request_id: str | None
    model: str | None
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
        fingerprint: SHA-256 of endpoint and body, inputs by digest; None for an adopted request that nobody knows.
        mode: Mode of the request, if it is known.
        model: Model; xAI's canonical name once it has said it.
        request: The body that was sent, inputs by digest or without signatures; empty if it is not known.
        estimated_cost_usd: What it should cost by the price table, in USD; None where the table can't say.
        attempts: All submissions, oldest first. The last one is the current one.
        duration: Duration of the video in seconds.
        url: Temporary URL of the finished video, unless it is signed.
        file: The stored file; while the video is done and not stored, the file that is about to be put there.
    """

    version: Literal[1] = VERSION
    key: str
    state: ReceiptState
    fingerprint: str | None = None
    mode: Mode | None = None
    model: str | None = None
    request: dict[str, JsonValue] = {}
    estimated_cost_usd: Decimal | None = None
    attempts: tuple[Attempt, ...] = Field(min_length=1)
    duration: int | None = None
    url: str | None = None
    file: StoredFile | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.state != self.attempt.outcome:
            raise ValueError(f"it is {self.state}, but its last attempt is {self.attempt.outcome}")
        delivered = self.attempt.direct and self.state in {"done", "stored"}
        if self.state in {"submitted", "done", "stored", *ENDED_BADLY} and not (self.request_id or delivered):
            raise ValueError(f"it is {self.state} without a request id")
        if self.state == "stored" and self.file is None:
            raise ValueError("it is stored without a file")
        if self.state not in {"done", "stored"} and self.file is not None:
            raise ValueError(f"it is {self.state} with a file")
        return self

    @classmethod
    def claim(
        cls,
        key: str,
        request: VideoRequest,
        flow_run_id: str | None = None,
        *,
        claim: str | None = None,
        direct: bool = False,
    ) -> Self:
        """Begin a receipt, in state `sending`: to be created in the store before the POST.

        Args:
            key: The video's name in the store.
            request: What is asked for.
            flow_run_id: Who asks.
            claim: Id of the claim. Default: a new one.
            direct: Whether xAI delivers the video to the store.
        """
        attempt = _attempt(1, "first", flow_run_id, claim, direct)
        return cls(key=key, state="sending", attempts=(attempt,), **_facts_of(request))

    @classmethod
    def adopt(cls, key: str, request_id: str, flow_run_id: str | None = None) -> Self:
        """Begin a receipt for a request that somebody else has sent, in state `submitted`."""
        return cls(key=key, state="submitted", attempts=(_adopted(1, request_id, flow_run_id),))

    def to_json(self) -> bytes:
        """Write the receipt as it lies in a store."""
        told = self.model_dump(mode="json")
        return json.dumps(told | {"checksum": _checksum(told)}, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read a receipt from a store.

        Raises:
            ValueError: If it is no receipt, is of another version, or is not as it was written.
        """
        try:
            data = json.loads(content)
        except RecursionError:
            raise ValueError("it is no receipt") from None
        if not isinstance(data, dict) or not isinstance(data.get("version"), int):
            raise ValueError("it is no receipt")  # noqa: TRY004 (a receipt can't be a wrong type to its caller)
        if data["version"] != VERSION:
            raise ValueError(f"its version is {data['version']}; this package reads version {VERSION}")
        if data.pop("checksum", None) != _checksum(data):
            raise ValueError("it was edited or damaged: its checksum does not match")
        for name in cls.model_computed_fields:
            data.pop(name, None)
        return cls.model_validate(data)

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
    def brought_nothing(self) -> bool:
        """Whether the current attempt brought no video, so that what comes of an earlier one counts."""
        return self.state in {"refused", "unknown", *ENDED_BADLY}

    @property
    def undelivered(self) -> tuple[Attempt, ...]:
        """The attempts of unknown outcome whose video may still appear in the store, latest first."""
        return tuple(
            attempt for attempt in reversed(self.attempts) if attempt.direct and attempt.outcome == "unknown"
        )

    @property
    def maybe_paid(self) -> bool:
        """Whether any attempt was accepted, or may have been."""
        return any(attempt.outcome != "refused" for attempt in self.attempts)

    def sent_again(
        self,
        request: VideoRequest,
        reason: Reason,
        flow_run_id: str | None = None,
        *,
        claim: str | None = None,
        direct: bool = False,
    ) -> Self:
        """Begin another attempt: -> `sending`. Arguments as for `claim`."""
        attempt = _attempt(len(self.attempts) + 1, reason, flow_run_id, claim, direct)
        receipt = self._moved("sending", duration=None, url=None, file=None, **_facts_of(request))
        return receipt.model_copy(update={"attempts": (*self.attempts, attempt)})

    def submitted(self, request_id: str) -> Self:
        """Note the request id: -> `submitted`."""
        reply = {"request_id": request_id, "failure": None}
        # Out of `unknown` it is found later than it came, and nobody knows when that was.
        return self._moved("submitted", reply | ({"submitted_at": _now()} if self.state == "sending" else {}))

    def refused(self, error: XaiVideoError) -> Self:
        """Note that the POST was surely not accepted: -> `refused`.

        Where an earlier attempt was, or may have been, the key is again where that one left it.
        """
        receipt = self._moved("refused", {"failure": Failure.of(error)})
        standing = [attempt for attempt in receipt.attempts if attempt.outcome != "refused"]
        return receipt._back_to(standing[-1].claim)._back_to_accepted() if standing else receipt

    def unknown(self, error: XaiVideoError) -> Self:
        """Note that nobody knows whether the POST was accepted: -> `unknown`."""
        return self._moved("unknown", {"failure": Failure.of(error)})._back_to_accepted()

    def answered(self, status: VideoStatus) -> Self:
        """Note a final answer of `get`: -> `done`, `failed`, `moderated` or `expired`."""
        cost = {} if status.cost_usd is None else {"cost_usd": status.cost_usd}
        if status.state == "done":
            return self._moved(
                "done",
                {**cost, "done_at": self.attempt.done_at or _now()},
                duration=status.duration or self.duration,
                model=status.model or self.model,
                url=_unsigned(status.url),
                file=None,
            )
        if status.state == "pending":
            raise IllegalTransition("A pending request has no final answer.", key=self.key)
        error = _bad_end(status, self.request.get("prompt"))
        return self._moved(status.state, {**cost, "failure": Failure.of(error)}, file=None)._back_to_accepted()

    def saving(self, file: StoredFile) -> Self:
        """Note the file that is about to be put in its place, so that it is known there after a crash.

        Whoever has the file needs no URL: it counts though the video has been found expired meanwhile.
        """
        if self.state == "expired":
            return self._moved("done", {"failure": None}, file=file)
        if self.state != "done":
            raise IllegalTransition(f"A receipt that is {self.state} has nothing to save.", key=self.key)
        return self if self.file == file else self.model_copy(update={"file": file})

    def stored(self, file: StoredFile) -> Self:
        """Note the verified file: -> `stored`."""
        return self._moved("stored", file=file)

    def late_reply(self, claim: str, request_id: str) -> Self:
        """Note a request id whose claim was given up meanwhile, so that it is never lost.

        If the claim is still the current attempt, this is its submission. Otherwise it is written beside the old
        attempt, which becomes the current one again where the later ones brought nothing.
        """
        if claim not in {attempt.claim for attempt in self.attempts}:
            raise IllegalTransition(
                "The receipt has been begun anew, and does not have this submission.", key=self.key
            )
        if self.attempt.claim == claim:
            if self.request_id == request_id:
                return self
            if self.request_id is not None:
                other = _adopted(len(self.attempts) + 1, request_id, self.flow_run_id)
                return self.model_copy(update={"attempts": (*self.attempts[:-1], other, self.attempt)})
            if self.state in {"done", "stored"}:
                return self._with_attempt(claim, request_id=request_id)
            return self.submitted(request_id)
        receipt = self._with_attempt(
            claim, request_id=request_id, outcome="submitted", outcome_at=_now(), failure=None
        )
        return receipt._back_to_accepted() if self.brought_nothing else receipt

    def _back_to_accepted(self) -> Self:
        """Where the current attempt brought nothing, an earlier one that was accepted after all is current again."""
        accepted = [attempt for attempt in self.attempts if attempt.outcome == "submitted"]
        return self._back_to(accepted[-1].claim) if accepted else self

    def _back_to(self, claim: str) -> Self:
        """Make the attempt of a claim the current one, which is the last."""
        attempts = sorted(self.attempts, key=lambda attempt: attempt.claim == claim)
        return self.model_copy(update={"attempts": tuple(attempts), "state": attempts[-1].outcome})

    def _with_attempt(self, claim: str, **changes: Any) -> Self:
        attempts = (
            attempt.model_copy(update=changes) if attempt.claim == claim else attempt for attempt in self.attempts
        )
        return self.model_copy(update={"attempts": tuple(attempts)})

    def delivered(self, claim: str) -> Self:
        """Note that xAI has delivered the video of an attempt of which nothing else is known: -> `done`.

        That attempt becomes the current one again, where later ones brought nothing.
        """
        if not self.brought_nothing:
            raise IllegalTransition(f"A receipt that is {self.state} waits for no delivery.", key=self.key)
        return self._with_attempt(claim, outcome="done", outcome_at=_now(), failure=None)._back_to(claim)

    def adopted(self, request_id: str, flow_run_id: str | None = None) -> Self:
        """Note a request id that a person has found: -> `submitted`.

        It is taken for the lost reply of a submission of unknown outcome; after another end, for one more attempt.
        """
        if self.state == "unknown":
            return self.submitted(request_id)
        if "sending" not in LEGAL[self.state]:
            raise IllegalTransition(f"A receipt that is {self.state} has its request.", key=self.key)
        attempt = _adopted(len(self.attempts) + 1, request_id, flow_run_id)
        return self.model_copy(
            update={"attempts": (*self.attempts, attempt), "state": "submitted", "duration": None, "url": None}
        )

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
        if self.state != "stored" or self.file is None:
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


def new_claim() -> str:
    """Make a random id for a claim."""
    return uuid.uuid4().hex


def _attempt(number: int, reason: Reason, flow_run_id: str | None, claim: str | None, direct: bool) -> Attempt:
    now = _now()
    return Attempt(
        number=number,
        reason=reason,
        claim=claim or new_claim(),
        direct=direct,
        flow_run_id=flow_run_id,
        started_at=now,
        outcome_at=now,
    )


def _adopted(number: int, request_id: str, flow_run_id: str | None) -> Attempt:
    attempt = _attempt(number, "adopted", flow_run_id, None, False)
    return attempt.model_copy(update={"request_id": request_id, "outcome": "submitted"})


def _checksum(told: Mapping[str, Any]) -> str:
    """SHA-256 of what a receipt says, however it is set: an edit is noticed, another indentation is not."""
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _facts_of(request: VideoRequest) -> dict[str, Any]:
    return {
        "fingerprint": request.fingerprint,
        "mode": request.mode,
        "model": request.model,
        "request": request.record(),
        "estimated_cost_usd": request.estimated_cost_usd,
    }


def _bad_end(status: VideoStatus, prompt: object) -> GenerationError:
    said = f": {Redaction(prompt=prompt)(status.message)}" if status.message else "."
    http_status = status.http_status if (status.http_status or 0) >= 400 else None
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
    return text if text and Redaction()(text, len(text)) == text else None


def _now() -> datetime:
    return datetime.now(UTC)
