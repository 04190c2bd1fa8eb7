"""Receipts: the record of one key, from just before money is spent until the video is stored. No I/O.

A receipt is written before the POST, so that no paid request is ever lost or sent twice. It is the journal while the
work is in progress, and the lasting record afterwards. It holds a list of attempts (one for each POST), each with its
own request, request id, cost and file. The *current* attempt is computed from this list
(`receipt_facts.ReceiptFacts.attempt`), and its state is the state of the key:

    (no receipt) ──> sending ──> submitted ──> done ──> stored
                        │            │           │
                        │            ├───────────┴──> failed, moderated, expired
                        │            └──> refused (only in a batch of xAI's that was cancelled)
                        └──> refused, unknown

- `sending`: a run has claimed the right to send the POST, which is about to be sent or in progress.
- `refused`: xAI certainly did not accept the request. It may be sent again (-> `sending`).
- `unknown`: xAI may have accepted the request. It is sent again only if a person decides so (-> `sending`).
- `submitted`: xAI accepted the request and returned a request id.
- `done`: xAI has finished or delivered the video, which is not verified in the store yet.
- `stored`: the video is in the store and verified. This state is final.
- `failed`, `moderated`, `expired`: there is no video. A person may pay for another one (-> `sending`).

These transitions are methods of `Receipt`, and any other raises `IllegalTransition` (`attempts.LEGAL` is the exact
table). Late information is never lost; the following methods record it:

- `late_reply`, `late_refusal`: the response to a POST whose claim has been given up by others.
- `delivered`: a video that is found in the store: xAI delivered it for a submission of unknown outcome, or a run
  stored it and ended before it could say so (-> `done`).
- `found`: a video that is found in xAI's Files API for a submission of unknown outcome (-> `done`).
- `adopted`: a request id that a person has found (-> `submitted`).
- `submitted`, `finished`: a request that counted as failed, moderated or expired, but that xAI reports as pending or
  done after all (-> `submitted`, `done`); or one that counted as expired, but whose batch was cancelled before it was
  rendered (-> `refused`).
- `saving`: a downloaded file of a video that xAI no longer has (-> `done`).
"""

from functools import partial
from typing import Any, Self

from pydantic import (
    SecretStr,
)

from prefect_xai_video.api.redaction import has_secret
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.engine.attempts import (
    ENDED_BADLY,
    LEGAL,
    Attempt,
    Failure,
    IllegalTransition,
    Reason,
    ReceiptState,
    StoredFile,
    XaiFile,
    adopted_attempt,
    facts_of_attempt,
    facts_of_request,
    new_attempt,
    now,
)
from prefect_xai_video.engine.receipt_facts import ReceiptFacts
from prefect_xai_video.engine.receipt_json import read_receipt, write_receipt
from prefect_xai_video.engine.videos import Video
from prefect_xai_video.errors import (
    GenerationError,
    RequestRejected,
    SubmissionUnknown,
    VideoExpired,
    VideoFailed,
    VideoModerated,
    XaiVideoError,
)


class Receipt(ReceiptFacts):
    """The record of one key: its attempts, and what became of them.

    Its facts (`request`, `request_id`, `cost_usd`, `file`, ...) are those of the current attempt. Receipts are
    immutable: the methods below return a changed copy.

    Attributes:
        key: The video's name in its store.
        api: The API that holds its requests: `api.x.ai`, `emulator`, or host and port; None if unknown.
        team: xAI's id of the team that pays; None if unknown.
        attempts: All submissions, in the order in which they were sent.
    """

    @classmethod
    def claim(
        cls,
        key: str,
        request: VideoRequest,
        flow_run_id: str | None = None,
        *,
        claim: str | None = None,
        direct: bool = False,
        xai_file: XaiFile | None = None,
        xai_batch: str | None = None,
        api: str | None = None,
        team: str | None = None,
    ) -> Self:
        """Create a receipt in state `sending`, to be written to the store before the POST.

        Args:
            key: The video's name in the store.
            request: The request to submit.
            flow_run_id: The flow run that submits it.
            claim: Id of the claim. Default: a new id.
            direct: Whether xAI delivers the video to the store.
            xai_file: The file as which xAI is asked to store it.
            xai_batch: Id of xAI's batch to which it is about to be added.
            api: The API to which it is sent.
            team: The team that pays, if known.
        """
        facts, add = facts_of_request(request), partial(new_attempt, direct=direct, xai_file=xai_file)
        attempt = add(1, "first", flow_run_id, claim, facts, xai_batch=xai_batch)
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
        """Create a receipt in state `submitted`, for a request that was sent without this package."""
        return cls(key=key, api=api, team=team, attempts=(adopted_attempt(1, request_id, flow_run_id, {}),))

    def to_json(self) -> bytes:
        """Serialise the receipt for a store."""
        return write_receipt(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Parse a receipt from a store.

        Raises:
            ValueError: If it is not a receipt, has an unsupported version, or was changed after it was written.
        """
        data = read_receipt(content)
        for name in cls.model_computed_fields:
            data.pop(name, None)
        return cls.model_validate(data)

    def sent_again(
        self,
        reason: Reason,
        request: VideoRequest,
        flow_run_id: str | None = None,
        *,
        claim: str | None = None,
        direct: bool = False,
        xai_file: XaiFile | None = None,
        xai_batch: str | None = None,
        api: str | None = None,
        team: str | None = None,
    ) -> Self:
        """Add another attempt: -> `sending`. Arguments as for `claim`."""
        self._check_move("sending")
        facts, add = facts_of_request(request), partial(new_attempt, direct=direct, xai_file=xai_file)
        attempt = add(len(self.attempts) + 1, reason, flow_run_id, claim, facts, xai_batch=xai_batch)
        account = (
            {"api": api or self.api, "team": team or self.team} if self.maybe_paid else {"api": api, "team": team}
        )
        return self.model_copy(update={"attempts": (*self.attempts, attempt), **account})

    def submitted(self, request_id: str, trace_id: str | None = None) -> Self:
        """Record the request id: -> `submitted`."""
        reply: dict[str, Any] = {"request_id": request_id, "failure": None}
        # In any other state the id was found later than xAI sent it, and the time of the response is unknown.
        if self.state == "sending":
            reply |= {"submitted_at": now(), "trace_id": trace_id}
        return self._moved("submitted", **reply)

    def refused(self, error: XaiVideoError) -> Self:
        """Record that the POST was certainly not accepted: -> `refused`, or the state of an earlier attempt."""
        return self._moved("refused", failure=Failure.of(error), trace_id=error.trace_id)

    def unknown(self, error: XaiVideoError) -> Self:
        """Record that it is unknown whether the POST was accepted: -> `unknown`."""
        return self._moved("unknown", failure=Failure.of(error), trace_id=error.trace_id, answer=error.answer)

    def finished(self, status: VideoStatus) -> Self:
        """Record a final status: -> `done`, `failed`, `moderated`, `expired`, or `refused` if it was cancelled."""
        cost = {} if status.cost_usd is None else {"cost_usd": status.cost_usd}
        if status.state == "done":
            return self._moved(
                "done",
                done_at=self.attempt.done_at or now(),
                duration=status.duration or self.attempt.duration,
                model=status.model or self.model,
                url=_unsigned(status.url),
                failure=None,
                xai_file=self.xai_file and self.xai_file.reported(status.file_id, status.public_url),
                **cost,
            )
        if status.state == "pending":
            raise IllegalTransition("A pending request has no final status.", key=self.key)
        if status.state == "cancelled":
            return self._moved("refused", failure=Failure.of(_cancelled_error(status)))
        error = _failure_error(status)
        return self._moved(status.state, failure=Failure.of(error), **cost)

    def not_found(self, error: XaiVideoError) -> Self:
        """Record that xAI did not know the open request at the last poll; the state stays."""
        if self.state != "submitted":
            raise IllegalTransition(f"A receipt in state {self.state} has no open request.", key=self.key)
        return self._with_attempt(self.attempt.claim, failure=Failure.of(error))

    def found_again(self) -> Self:
        """Record that xAI knows the open request after all; the state stays."""
        return self._with_attempt(self.attempt.claim, failure=None)

    def saving(self, file: StoredFile) -> Self:
        """Record the file that is about to be stored, so that it is recognised after a crash.

        A downloaded file needs nothing from xAI any more: it counts whatever xAI has reported meanwhile.
        """
        if self.state in ENDED_BADLY:
            return self._moved("done", failure=None, file=file)
        if self.state != "done":
            raise IllegalTransition(f"A receipt in state {self.state} has no video to save.", key=self.key)
        return self if self.file == file else self._with_attempt(self.attempt.claim, file=file)

    def stored(self, file: StoredFile) -> Self:
        """Record the verified file: -> `stored`."""
        return self._moved("stored", file=file)

    def restored(self, file: StoredFile) -> Self:
        """Record that the stored file was missing and has been restored; the state stays."""
        if self.state != "stored":
            raise IllegalTransition(f"A receipt in state {self.state} has no file to restore.", key=self.key)
        stills = {name: getattr(self.file, name) for name in ("poster", "last_frame")}
        return self._with_attempt(self.attempt.claim, file=file.model_copy(update=stills))

    def with_stills(self, poster: str, last_frame: str) -> Self:
        """Record the URIs of the first and last frame of the stored video; the state stays."""
        if self.state != "stored" or self.file is None:
            raise IllegalTransition(f"A receipt in state {self.state} has no video to show.", key=self.key)
        file = self.file.model_copy(update={"poster": poster, "last_frame": last_frame})
        return self if file == self.file else self._with_attempt(self.attempt.claim, file=file)

    def late_reply(self, claim: str, request_id: str, trace_id: str | None = None) -> Self:
        """Record a request id that arrived after its claim was given up, so that it is never lost.

        If a person has meanwhile adopted another request id for the same attempt, the attempt keeps that id. The late
        id is then recorded as a separate attempt before it, which counts only if the adopted request has no video.
        """
        attempt = self._attempt_of(claim)
        if attempt.request_id == request_id:
            return self
        if attempt.request_id is not None:
            other = adopted_attempt(
                len(self.attempts) + 1, request_id, attempt.flow_run_id, facts_of_attempt(attempt)
            )
            index = self.attempts.index(attempt)
            return self.model_copy(update={"attempts": (*self.attempts[:index], other, *self.attempts[index:])})
        reply: dict[str, Any] = {"request_id": request_id, "trace_id": trace_id, "submitted_at": now()}
        if not attempt.is_open:
            reply |= {"outcome": "submitted", "outcome_at": now(), "failure": None, "answer": None}
        return self._with_attempt(claim, **reply)

    def late_refusal(self, claim: str, error: XaiVideoError) -> Self:
        """Record that a POST was certainly not accepted, after its claim was given up."""
        attempt = self._attempt_of(claim)
        if attempt.outcome not in {"sending", "unknown"}:
            return self
        return self._with_attempt(
            claim, outcome="refused", outcome_at=now(), failure=Failure.of(error), trace_id=error.trace_id
        )

    def delivered(self, claim: str) -> Self:
        """Record that the video of an attempt without one is in the store after all: -> `done`."""
        if not self.has_no_video:
            raise IllegalTransition(f"A receipt in state {self.state} expects no delivery.", key=self.key)
        return self._with_attempt(claim, outcome="done", outcome_at=now(), failure=None)

    def found(self, claim: str, file_id: str, public_url: str | None = None) -> Self:
        """Record that the video of an attempt of unknown outcome is a file in xAI's Files API: -> `done`."""
        if not self.has_no_video:
            raise IllegalTransition(f"A receipt in state {self.state} expects no file.", key=self.key)
        file = self._attempt_of(claim).xai_file
        found = file and file.reported(file_id, public_url)
        return self._with_attempt(claim, outcome="done", outcome_at=now(), failure=None, xai_file=found)

    def kept(self, file: XaiFile) -> Self:
        """Record what has become of the file in xAI's Files API of a stored video; the state stays."""
        if self.state != "stored":
            raise IllegalTransition(f"A receipt in state {self.state} has no kept file.", key=self.key)
        return self if self.xai_file == file else self._with_attempt(self.attempt.claim, xai_file=file)

    def adopted(self, request_id: str, flow_run_id: str | None = None) -> Self:
        """Record a request id that a person has found: -> `submitted`.

        If the outcome of the current attempt is unknown, or its video was found without a request id, the id counts
        as its lost response. Otherwise it is recorded as another attempt at the same request; so it is if the attempt
        was added to a batch, where its claim is its only request id.
        """
        if self.state == "unknown" and self.xai_batch is None:
            return self.submitted(request_id)
        if self.request_id is None and self.state in {"done", "stored"}:
            return self._with_attempt(self.attempt.claim, request_id=request_id)
        if "sending" not in LEGAL[self.state]:
            raise IllegalTransition(f"A receipt in state {self.state} already has its request.", key=self.key)
        # If all attempts were refused, there is no telling which request the id belongs to.
        facts = facts_of_attempt(self.attempt) if self.maybe_paid else {}
        attempt = adopted_attempt(len(self.attempts) + 1, request_id, flow_run_id, facts)
        return self.model_copy(update={"attempts": (*self.attempts, attempt)})

    def error(self) -> XaiVideoError:
        """Create the error of a failed attempt, with key, request id and cost, without a call to xAI."""
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
        """Create the description of the finished video.

        Args:
            receipt_uri: URI of this receipt in its store.

        Raises:
            IllegalTransition: If the video is not stored yet.
        """
        if self.state != "stored" or self.file is None:
            raise IllegalTransition(f"A receipt in state {self.state} has no stored video.", key=self.key)
        kept = self.xai_file if self.xai_file and self.xai_file.keep else None
        return Video(
            key=self.key,
            receipt_uri=receipt_uri,
            request_id=self.request_id,
            model=self.model,
            duration=self.duration,
            cost_usd=self.cost_usd,
            estimated_cost_usd=self.estimated_cost_usd,
            file_id=kept.id if kept else None,
            public_url=kept.public_url if kept else None,
            **self.file.model_dump(exclude={"version", "seconds"}),
        )

    def _check_move(self, state: ReceiptState) -> None:
        if state not in LEGAL[self.state]:
            raise IllegalTransition(f"A receipt can't change from {self.state} to {state}.", key=self.key)

    def _moved(self, state: ReceiptState, **changes: Any) -> Self:
        self._check_move(state)
        return self._with_attempt(self.attempt.claim, outcome=state, outcome_at=now(), **changes)

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


def _failure_error(status: VideoStatus) -> GenerationError:
    text = f": {status.message}" if status.message else "."
    http_status = status.http_status if (status.http_status or 0) >= 400 else None
    match status.state:
        case "moderated":
            return VideoModerated(
                f"Content moderation blocked the video{text}", code=status.code, http_status=http_status
            )
        case "expired":
            return VideoExpired(f"xAI no longer has the video{text}", code=status.code)
        case _:
            return VideoFailed(f"xAI could not render the video{text}", code=status.code)


def _cancelled_error(status: VideoStatus) -> RequestRejected:
    text = f": {status.message}" if status.message else "."
    return RequestRejected(f"xAI's batch was cancelled before the video was rendered, and nothing was paid{text}")


def _unsigned(url: SecretStr | None) -> str | None:
    text = url.get_secret_value() if url else ""
    return None if not text or has_secret(text) else text
