"""Receipts: what is known of a key, from the moment before it costs money until its video is stored. No I/O.

A receipt is the journal while the work is under way and the manifest once it is done. It is a list of attempts, each
with its own request, request id, cost and file; the *current* one is computed from them, and its state is the state
of the key:

    (none) ──> sending ──> submitted ──> done ──> stored
                │  ▲ ▲         │
                │  │ │         └──> failed, moderated, expired ──(regenerate)──> sending
                │  │ └─ refused         surely not accepted: may be sent again
                │  └─── unknown         may have been accepted: sent again only if a person says so
                └─────> refused, unknown, submitted

All changes are methods of `Receipt`; one that is not drawn above raises `IllegalTransition`. Some things can come
later than they should, and are never lost: a reply or a refusal whose claim was given up (`late_reply`,
`late_refusal`), a video that xAI delivers for a submission of unknown outcome (`delivered`), a request id that a
person has found (`adopted`), and a video that xAI had called expired (`expired` -> `submitted`, `done`).
"""

import re
import uuid
from collections.abc import Callable, Mapping
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
from prefect_xai_video.receipt_format import read_receipt, write_receipt
from prefect_xai_video.redaction import Redaction
from prefect_xai_video.requests import VideoRequest
from prefect_xai_video.responses import VideoStatus

ReceiptState = Literal[
    "sending", "refused", "unknown", "submitted", "done", "stored", "failed", "moderated", "expired"
]
Reason = Literal["first", "regenerate", "resubmit", "adopted"]

LEGAL: Mapping[ReceiptState, frozenset[ReceiptState]] = {
    "sending": frozenset({"submitted", "refused", "unknown"}),
    "refused": frozenset({"sending"}),
    "unknown": frozenset({"sending", "submitted"}),
    "submitted": frozenset({"done", "failed", "moderated", "expired"}),
    "done": frozenset({"done", "stored", "failed", "moderated", "expired"}),
    "stored": frozenset(),
    "failed": frozenset({"sending"}),
    "moderated": frozenset({"sending"}),
    "expired": frozenset({"sending", "submitted", "done", "failed", "moderated"}),
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

NOT_FOUND_STEP = (
    "run again with this key and the credentials that sent it; if xAI still does not know the request then, "
    "regenerate=True gives it up and pays for a new attempt"
)
"""What a person can do about a request id that xAI does not know."""

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
        http_status: HTTP status of the response, if there was one.
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


class StoredFile(_Frozen):
    """The video as it lies in the store.

    Attributes:
        uri: `file://` or `s3://` URI.
        size: Bytes.
        sha256: Hexadecimal digest.
        content_type: For example `video/mp4`.
        version: Its time of change in a directory, its ETag in a bucket: as long as this is the same, so is the file.
            None if it was not noted.
    """

    uri: str
    size: int
    sha256: str
    content_type: str
    version: str | None = None


class Attempt(_Frozen):
    """One submission: one POST and what became of it.

    Attributes:
        number: 1 for the first.
        reason: Why it was sent: first, because a person let the video be paid for again after a bad end, or
            because a person let it be sent again after an unknown outcome. A refused one keeps its reason when it is
            repeated. An adopted one was sent by somebody else.
        claim: Random id of the claim, so that a writer recognises its own write; xAI gets it as
            `x-client-request-id`.
        direct: Whether xAI was given a place in the store to deliver the video to.
        flow_run_id: The flow run that sent it.
        fingerprint: SHA-256 of endpoint and body, inputs by digest; None for an adopted request that nobody knows.
        mode: Mode of the request, if it is known.
        model: Model; xAI's canonical name once it has said it.
        request: The body that was sent, inputs by digest or without signatures; empty if it is not known.
        estimated_cost_usd: Cost by the price table, in USD; None where the table can't say.
        started_at: When it was claimed, just before the POST.
        submitted_at: When xAI's reply with the request id came; None if a person found the id, or nobody has it.
        done_at: When the video was seen to be done.
        outcome: The state it has led to so far.
        outcome_at: Since when.
        request_id: xAI's request id.
        trace_id: `x-request-id` of the response to the POST, for xAI's support.
        answer: Redacted beginning of a response to the POST that could not be understood.
        cost_usd: Billed cost in USD.
        failure: Why there is no video; for a submitted one, that xAI did not know it in the last poll.
        duration: Duration of the video in seconds.
        url: Temporary URL of the finished video, unless it is signed.
        file: The stored file; while the video is done and not stored, the file that is about to be put there.
    """

    number: int
    reason: Reason = "first"
    claim: str
    direct: bool = False
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
    def _is_whole(self) -> Self:
        delivered = self.direct and self.outcome in {"done", "stored"}
        accepted = self.outcome in {"submitted", "done", "stored", *ENDED_BADLY}
        if accepted and not (self.request_id or delivered):
            raise ValueError(f"it is {self.outcome} without a request id")
        if self.outcome == "stored" and self.file is None:
            raise ValueError("it is stored without a file")
        if self.outcome not in {"done", "stored"} and self.file is not None:
            raise ValueError(f"it is {self.outcome} with a file")
        return self

    @property
    def is_open(self) -> bool:
        """Whether it was accepted and has brought no end yet, or a video."""
        return self.outcome in {"submitted", "done", "stored"}


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

    Its facts (`request`, `request_id`, `cost_usd`, `file`, ...) are those of the current attempt.

    Attributes:
        key: The video's name in its store.
        api: The API that has its requests: `api.x.ai`, `emulator`, or host and port; None if it is not known.
        team: xAI's id of the team that pays; None if it is not known.
        attempts: All submissions, in the order in which they were sent.
    """

    key: str
    api: str | None = None
    team: str | None = None
    attempts: tuple[Attempt, ...] = Field(min_length=1)

    @classmethod
    def claim(
        cls,
        key: str,
        request: VideoRequest,
        flow_run_id: str | None = None,
        *,
        claim: str | None = None,
        direct: bool = False,
        api: str | None = None,
        team: str | None = None,
    ) -> Self:
        """Begin a receipt, in state `sending`: to be created in the store before the POST.

        Args:
            key: The video's name in the store.
            request: What is asked for.
            flow_run_id: Who asks.
            claim: Id of the claim. Default: a new one.
            direct: Whether xAI delivers the video to the store.
            api: The API that it is sent to.
            team: The team that pays, if it is known.
        """
        attempt = _attempt(1, "first", flow_run_id, claim, direct, _facts_of(request))
        return cls(key=key, api=api, team=team, attempts=(attempt,))

    @classmethod
    def adopt(
        cls,
        key: str,
        request_id: str,
        flow_run_id: str | None = None,
        *,
        api: str | None = None,
        team: str | None = None,
    ) -> Self:
        """Begin a receipt for a request that somebody else has sent, in state `submitted`."""
        return cls(key=key, api=api, team=team, attempts=(_adopted(1, request_id, flow_run_id, {}),))

    def to_json(self) -> bytes:
        """Write the receipt as it lies in a store."""
        return write_receipt(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read a receipt from a store.

        Raises:
            ValueError: If it is not a receipt, has another version, or was changed since it was written.
        """
        data = read_receipt(content)
        for name in cls.model_computed_fields:
            data.pop(name, None)
        return cls.model_validate(data)

    @property
    def attempt(self) -> Attempt:
        """The current attempt: the one that counts for this key.

        Only attempts for the request that the key stands for can be current: the request of the latest attempt that
        was not refused. Of these a stored video counts most, then a POST under way, then the latest request that
        xAI has accepted and that is still open, then the latest end.
        """
        standing = [attempt for attempt in self.attempts if attempt.outcome != "refused"]
        if not standing:
            return self.attempts[-1]
        asked = standing[-1].fingerprint
        candidates = [attempt for attempt in standing if attempt.fingerprint == asked]
        ranks: tuple[frozenset[ReceiptState], ...] = (_STORED, _SENDING, _ACCEPTED, frozenset(LEGAL))
        return next(attempt for rank in ranks for attempt in reversed(candidates) if attempt.outcome in rank)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def state(self) -> ReceiptState:
        """The state of the key; see the top of this module."""
        return self.attempt.outcome

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the request; None for an adopted request that nobody knows."""
        return self.attempt.fingerprint

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mode(self) -> Mode | None:
        """Mode of the request, if it is known."""
        return self.attempt.mode

    @computed_field  # type: ignore[prop-decorator]
    @property
    def model(self) -> str | None:
        """Model; xAI's canonical name once it has said it."""
        return self.attempt.model

    @computed_field  # type: ignore[prop-decorator]
    @property
    def request(self) -> dict[str, JsonValue]:
        """The body that was sent; empty if it is not known."""
        return self.attempt.request

    @computed_field  # type: ignore[prop-decorator]
    @property
    def request_id(self) -> str | None:
        """Request id that xAI gave."""
        return self.attempt.request_id

    @computed_field  # type: ignore[prop-decorator]
    @property
    def flow_run_id(self) -> str | None:
        """The flow run that sent it."""
        return self.attempt.flow_run_id

    @computed_field  # type: ignore[prop-decorator]
    @property
    def estimated_cost_usd(self) -> Decimal | None:
        """Cost by the price table, in USD."""
        return self.attempt.estimated_cost_usd

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cost_usd(self) -> Decimal | None:
        """Billed cost in USD."""
        return self.attempt.cost_usd

    @computed_field  # type: ignore[prop-decorator]
    @property
    def failure(self) -> Failure | None:
        """Why there is no video, where there is none."""
        return self.attempt.failure

    @computed_field  # type: ignore[prop-decorator]
    @property
    def duration(self) -> int | None:
        """Duration of the video in seconds."""
        return self.attempt.duration

    @computed_field  # type: ignore[prop-decorator]
    @property
    def url(self) -> str | None:
        """Temporary URL of the finished video, unless it is signed."""
        return self.attempt.url

    @computed_field  # type: ignore[prop-decorator]
    @property
    def file(self) -> StoredFile | None:
        """The stored file, or the one that is about to be put there."""
        return self.attempt.file

    @property
    def next_step(self) -> str:
        """What a person can do about it."""
        return NOT_FOUND_STEP if self.is_not_found else NEXT_STEP[self.state]

    @property
    def is_not_found(self) -> bool:
        """Whether xAI did not know the open request in the last poll."""
        return self.state == "submitted" and self.failure is not None

    @property
    def brought_nothing(self) -> bool:
        """Whether the current attempt brought no video, so that the result of an earlier one counts."""
        return self.state in {"refused", "unknown", *ENDED_BADLY}

    @property
    def undelivered(self) -> tuple[Attempt, ...]:
        """The attempts of unknown outcome whose video may still appear in the store, latest first."""
        return tuple(
            attempt
            for attempt in reversed(self.attempts)
            if attempt.direct and attempt.outcome == "unknown" and attempt.fingerprint == self.fingerprint
        )

    @property
    def maybe_paid(self) -> bool:
        """Whether any attempt was accepted, or may have been."""
        return any(attempt.outcome != "refused" for attempt in self.attempts)

    def open_attempt(self, is_asked_for: Callable[[str], bool]) -> Attempt | None:
        """Find an attempt beside the current one that has what is asked for, or may get it.

        Args:
            is_asked_for: Whether a fingerprint is that of the request in question.
        """
        return next(
            (
                attempt
                for attempt in self.attempts
                if attempt.is_open and attempt.fingerprint is not None and is_asked_for(attempt.fingerprint)
            ),
            None,
        )

    def sent_again(
        self,
        reason: Reason,
        request: VideoRequest,
        flow_run_id: str | None = None,
        *,
        claim: str | None = None,
        direct: bool = False,
        api: str | None = None,
        team: str | None = None,
    ) -> Self:
        """Begin another attempt: -> `sending`. Arguments as for `claim`."""
        self._check_move("sending")
        attempt = _attempt(len(self.attempts) + 1, reason, flow_run_id, claim, direct, _facts_of(request))
        account = (
            {"api": api or self.api, "team": team or self.team} if self.maybe_paid else {"api": api, "team": team}
        )
        return self.model_copy(update={"attempts": (*self.attempts, attempt), **account})

    def submitted(self, request_id: str, trace_id: str | None = None) -> Self:
        """Note the request id: -> `submitted`."""
        reply: dict[str, Any] = {"request_id": request_id, "failure": None}
        # Out of any other state it is found later than it came, and nobody knows when that was.
        if self.state == "sending":
            reply |= {"submitted_at": _now(), "trace_id": trace_id}
        return self._moved("submitted", **reply)

    def refused(self, error: XaiVideoError) -> Self:
        """Note that the POST was surely not accepted: -> `refused`, or back to the state before it."""
        return self._moved("refused", failure=Failure.of(error), trace_id=error.trace_id)

    def unknown(self, error: XaiVideoError) -> Self:
        """Note that it is unknown whether the POST was accepted: -> `unknown`."""
        return self._moved("unknown", failure=Failure.of(error), trace_id=error.trace_id, answer=error.answer)

    def answered(self, status: VideoStatus) -> Self:
        """Note a final status: -> `done`, `failed`, `moderated` or `expired`."""
        cost = {} if status.cost_usd is None else {"cost_usd": status.cost_usd}
        if status.state == "done":
            return self._moved(
                "done",
                done_at=self.attempt.done_at or _now(),
                duration=status.duration or self.duration,
                model=status.model or self.model,
                url=_unsigned(status.url),
                failure=None,
                file=None,
                **cost,
            )
        if status.state == "pending":
            raise IllegalTransition("A pending request has no final status.", key=self.key)
        error = _bad_end(status, self.request.get("prompt"))
        return self._moved(status.state, failure=Failure.of(error), file=None, **cost)

    def not_found(self, error: XaiVideoError) -> Self:
        """Note that xAI did not know the open request in the last poll; the state stays."""
        if self.state != "submitted":
            raise IllegalTransition(f"A receipt that is {self.state} waits for no status.", key=self.key)
        return self._with_attempt(self.attempt.claim, failure=Failure.of(error))

    def found_again(self) -> Self:
        """Note that xAI knows the open request after all."""
        return self._with_attempt(self.attempt.claim, failure=None)

    def saving(self, file: StoredFile) -> Self:
        """Note the file that is about to be put in its place, so that it is known there after a crash.

        Whoever has the file needs no URL: it counts though the video has been found expired meanwhile.
        """
        if self.state == "expired":
            return self._moved("done", failure=None, file=file)
        if self.state != "done":
            raise IllegalTransition(f"A receipt that is {self.state} has nothing to save.", key=self.key)
        return self if self.file == file else self._with_attempt(self.attempt.claim, file=file)

    def stored(self, file: StoredFile) -> Self:
        """Note the verified file: -> `stored`."""
        return self._moved("stored", file=file)

    def restored(self, file: StoredFile) -> Self:
        """Note that the stored file was missing and has been put back; the state stays."""
        if self.state != "stored":
            raise IllegalTransition(f"A receipt that is {self.state} has no file to restore.", key=self.key)
        return self._with_attempt(self.attempt.claim, file=file)

    def late_reply(self, claim: str, request_id: str, trace_id: str | None = None) -> Self:
        """Note a request id whose claim was given up meanwhile, so that it is never lost.

        An attempt that already has another request id, one that a person has adopted, keeps it; then the reply is an
        attempt of its own before it, which counts only if that one brings nothing.
        """
        attempt = self._attempt_of(claim)
        if attempt.request_id == request_id:
            return self
        if attempt.request_id is not None:
            other = _adopted(len(self.attempts) + 1, request_id, attempt.flow_run_id, _facts(attempt))
            place = self.attempts.index(attempt)
            return self.model_copy(update={"attempts": (*self.attempts[:place], other, *self.attempts[place:])})
        reply: dict[str, Any] = {"request_id": request_id, "trace_id": trace_id, "submitted_at": _now()}
        if not attempt.is_open:
            reply |= {"outcome": "submitted", "outcome_at": _now(), "failure": None, "answer": None}
        return self._with_attempt(claim, **reply)

    def late_refusal(self, claim: str, error: XaiVideoError) -> Self:
        """Note that a POST was surely not accepted whose claim was given up meanwhile."""
        attempt = self._attempt_of(claim)
        if attempt.outcome not in {"sending", "unknown"}:
            return self
        return self._with_attempt(
            claim, outcome="refused", outcome_at=_now(), failure=Failure.of(error), trace_id=error.trace_id
        )

    def delivered(self, claim: str) -> Self:
        """Note that xAI has delivered the video of an attempt of which nothing else is known: -> `done`."""
        if not self.brought_nothing:
            raise IllegalTransition(f"A receipt that is {self.state} waits for no delivery.", key=self.key)
        return self._with_attempt(claim, outcome="done", outcome_at=_now(), failure=None)

    def adopted(self, request_id: str, flow_run_id: str | None = None) -> Self:
        """Note a request id that a person has found: -> `submitted`.

        It is taken for the lost reply of a submission of unknown outcome; after another end, for one more attempt at
        the same request.
        """
        if self.state == "unknown":
            return self.submitted(request_id)
        if "sending" not in LEGAL[self.state]:
            raise IllegalTransition(f"A receipt that is {self.state} has its request.", key=self.key)
        # Under a key for which all was refused, nothing tells whose request it is.
        facts = _facts(self.attempt) if self.maybe_paid else {}
        attempt = _adopted(len(self.attempts) + 1, request_id, flow_run_id, facts)
        return self.model_copy(update={"attempts": (*self.attempts, attempt)})

    def error(self) -> XaiVideoError:
        """The error that a bad end stands for, with key, request id and cost. Raised without any call to xAI."""
        attempt, failure = self.attempt, self.failure
        message = failure.message if failure else "There is no video."
        kind: type[XaiVideoError] = ENDED_BADLY.get(self.state, SubmissionUnknown)
        return kind(
            message,
            key=self.key,
            request_id=self.request_id,
            http_status=failure.http_status if failure else None,
            code=failure.code if failure else None,
            cost_usd=self.cost_usd,
            trace_id=attempt.trace_id,
            answer=attempt.answer,
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
            **self.file.model_dump(exclude={"version"}),
        )

    def _check_move(self, state: ReceiptState) -> None:
        if state not in LEGAL[self.state]:
            raise IllegalTransition(f"A receipt does not go from {self.state} to {state}.", key=self.key)

    def _moved(self, state: ReceiptState, **changes: Any) -> Self:
        self._check_move(state)
        return self._with_attempt(self.attempt.claim, outcome=state, outcome_at=_now(), **changes)

    def _attempt_of(self, claim: str) -> Attempt:
        for attempt in self.attempts:
            if attempt.claim == claim:
                return attempt
        raise IllegalTransition("The receipt was replaced by one without this submission.", key=self.key)

    def _with_attempt(self, claim: str, **changes: Any) -> Self:
        attempts = (
            attempt.model_copy(update=changes) if attempt.claim == claim else attempt for attempt in self.attempts
        )
        return self.model_copy(update={"attempts": tuple(attempts)})


_STORED: frozenset[ReceiptState] = frozenset({"stored"})
_SENDING: frozenset[ReceiptState] = frozenset({"sending"})
_ACCEPTED: frozenset[ReceiptState] = frozenset({"submitted", "done"})


def check_key(key: str) -> str:
    """Check that a key can name a file in every store.

    Raises:
        InvalidRequest: If it can't.
    """
    allowed = (
        f"letters, digits and . _ - = + @ in parts of at most 200 characters divided by single slashes, "
        f"{MAX_KEY_LENGTH} characters in all, no part beginning with a dot or ending with .mp4 or .json"
    )
    if not isinstance(key, str):
        raise InvalidRequest(f"key: {key!r} is not allowed; allowed: {allowed}.")
    # A folder `cat.mp4` would take the place of the video with the key `cat`.
    good = all(_SEGMENT.fullmatch(part) and not part.lower().endswith((".mp4", ".json")) for part in key.split("/"))
    if not good or len(key) > MAX_KEY_LENGTH:
        shown = key if len(key) <= 60 else f"{key[:59]}…"
        raise InvalidRequest(f"key: {shown!r} is not allowed; allowed: {allowed}.")
    return key


def new_claim() -> str:
    """Make a random id for a claim."""
    return uuid.uuid4().hex


def _attempt(
    number: int, reason: Reason, flow_run_id: str | None, claim: str | None, direct: bool, facts: Mapping[str, Any]
) -> Attempt:
    now = _now()
    return Attempt(
        number=number,
        reason=reason,
        claim=claim or new_claim(),
        direct=direct,
        flow_run_id=flow_run_id,
        started_at=now,
        outcome_at=now,
        **facts,
    )


def _adopted(number: int, request_id: str, flow_run_id: str | None, facts: Mapping[str, Any]) -> Attempt:
    attempt = _attempt(number, "adopted", flow_run_id, None, False, facts)
    return attempt.model_copy(update={"request_id": request_id, "outcome": "submitted"})


def _facts_of(request: VideoRequest) -> dict[str, Any]:
    return {
        "fingerprint": request.fingerprint,
        "mode": request.mode,
        "model": request.model,
        "request": request.record(),
        "estimated_cost_usd": request.estimated_cost_usd,
    }


def _facts(attempt: Attempt) -> dict[str, Any]:
    """The facts of an attempt's request, for another attempt at it."""
    names = ("fingerprint", "mode", "model", "request", "estimated_cost_usd")
    return {name: getattr(attempt, name) for name in names}


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
