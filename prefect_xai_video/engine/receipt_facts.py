"""Facts of a receipt: its current attempt, and everything derived from it."""

from collections.abc import Callable
from decimal import Decimal

from pydantic import (
    Field,
    JsonValue,
    computed_field,
)

from prefect_xai_video.api.capabilities import Mode
from prefect_xai_video.engine.attempts import (
    ENDED_BADLY,
    LEGAL,
    Attempt,
    Failure,
    Frozen,
    ReceiptState,
    StoredFile,
    XaiFile,
)
from prefect_xai_video.engine.next_steps import FIND_STEP, NEXT_STEP, NOT_FOUND_STEP

_STORED: frozenset[ReceiptState] = frozenset({"stored"})
_SENDING: frozenset[ReceiptState] = frozenset({"sending"})
_ACCEPTED: frozenset[ReceiptState] = frozenset({"submitted", "done"})


class ReceiptFacts(Frozen):
    """The read-only part of a receipt.

    Its facts (`request`, `request_id`, `cost_usd`, `file`, ...) are those of the current attempt.

    Attributes:
        key: The video's name in its store.
        api: The API that holds its requests: `api.x.ai`, `emulator`, or host and port; None if unknown.
        team: xAI's id of the team that pays; None if unknown.
        attempts: All submissions, in the order in which they were sent.
    """

    key: str
    api: str | None = None
    team: str | None = None
    attempts: tuple[Attempt, ...] = Field(min_length=1)

    @property
    def attempt(self) -> Attempt:
        """The current attempt: the one that determines the state of the key.

        The key stands for one request: that of the latest attempt that was not refused. Only attempts for this
        request can be current. Among them, in this order of precedence: a stored video, a POST in progress, the
        latest accepted request that is still open, the latest attempt that has ended.
        """
        if len(self.attempts) == 1:
            return self.attempts[0]
        not_refused = [attempt for attempt in self.attempts if attempt.outcome != "refused"]
        if not not_refused:
            return self.attempts[-1]
        fingerprint = not_refused[-1].fingerprint
        candidates = [attempt for attempt in not_refused if attempt.fingerprint == fingerprint]
        ranks: tuple[frozenset[ReceiptState], ...] = (_STORED, _SENDING, _ACCEPTED, frozenset(LEGAL))
        return next(attempt for rank in ranks for attempt in reversed(candidates) if attempt.outcome in rank)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def state(self) -> ReceiptState:
        """The state of the key; see the diagram in `receipts.py`."""
        return self.attempt.outcome

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the request; None for an adopted request whose content is unknown."""
        return self.attempt.fingerprint

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mode(self) -> Mode | None:
        """Mode of the request; None if unknown."""
        return self.attempt.mode

    @computed_field  # type: ignore[prop-decorator]
    @property
    def model(self) -> str | None:
        """Model; xAI's canonical name once xAI has reported it."""
        return self.attempt.model

    @computed_field  # type: ignore[prop-decorator]
    @property
    def request(self) -> dict[str, JsonValue]:
        """The body that was sent; empty if unknown."""
        return self.attempt.request

    @computed_field  # type: ignore[prop-decorator]
    @property
    def request_id(self) -> str | None:
        """The request id that xAI returned."""
        return self.attempt.request_id

    @computed_field  # type: ignore[prop-decorator]
    @property
    def flow_run_id(self) -> str | None:
        """The flow run that sent it."""
        return self.attempt.flow_run_id

    @computed_field  # type: ignore[prop-decorator]
    @property
    def estimated_cost_usd(self) -> Decimal | None:
        """Estimated cost from the price table, in USD."""
        return self.attempt.estimated_cost_usd

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cost_usd(self) -> Decimal | None:
        """Billed cost in USD."""
        return self.attempt.cost_usd

    @computed_field  # type: ignore[prop-decorator]
    @property
    def failure(self) -> Failure | None:
        """Why there is no video; None if there is one or it is still expected."""
        return self.attempt.failure

    @computed_field  # type: ignore[prop-decorator]
    @property
    def duration(self) -> int | None:
        """Duration of the video in seconds: as xAI reported it, or else that of the stored file, rounded."""
        if self.attempt.duration is not None or self.file is None or self.file.seconds is None:
            return self.attempt.duration
        return max(round(self.file.seconds), 1)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def url(self) -> str | None:
        """Temporary URL of the finished video, unless it is signed."""
        return self.attempt.url

    @computed_field  # type: ignore[prop-decorator]
    @property
    def file(self) -> StoredFile | None:
        """The stored file, or the file that is about to be stored."""
        return self.attempt.file

    @property
    def xai_file(self) -> XaiFile | None:
        """The video as a file in xAI's Files API; None if xAI was not asked to store it."""
        return self.attempt.xai_file

    @property
    def xai_batch(self) -> str | None:
        """Id of xAI's batch that has the request; None if it was submitted by itself."""
        return self.attempt.xai_batch

    @property
    def next_step(self) -> str:
        """Next step that a person can take."""
        if self.is_not_found:
            return NOT_FOUND_STEP
        return FIND_STEP if self.state == "unknown" and self.undelivered else NEXT_STEP[self.state]

    @property
    def is_not_found(self) -> bool:
        """Whether xAI did not know the open request at the last poll."""
        return self.state == "submitted" and self.failure is not None

    @property
    def has_no_video(self) -> bool:
        """Whether the current attempt has no video, so that a video of an earlier attempt counts."""
        return self.state in {"refused", "unknown", *ENDED_BADLY}

    @property
    def undelivered(self) -> tuple[Attempt, ...]:
        """Attempts of unknown outcome that may be found without a person, latest first.

        Their video may appear in the store or in xAI's Files API, or xAI's batch lists them.
        """
        return tuple(
            attempt
            for attempt in reversed(self.attempts)
            if (attempt.direct or attempt.xai_file is not None or attempt.xai_batch is not None)
            and attempt.outcome == "unknown"
            and attempt.fingerprint == self.fingerprint
        )

    @property
    def gone(self) -> tuple[Attempt, ...]:
        """Attempts whose only trace was a file at xAI that could not be downloaded any more, latest first.

        What was not there once may be there after all, and is looked for before anything is paid for again.
        """
        return tuple(
            attempt
            for attempt in reversed(self.attempts)
            if attempt.xai_file is not None
            and (attempt.outcome, attempt.request_id) == ("expired", None)
            and attempt.fingerprint == self.fingerprint
        )

    @property
    def maybe_put(self) -> tuple[Attempt, ...]:
        """Attempts that have ended without a video, but whose file may have been put into the store before."""
        return tuple(
            attempt
            for attempt in self.attempts
            if attempt.file is not None and attempt.outcome in ENDED_BADLY and attempt.fingerprint == self.fingerprint
        )

    @property
    def maybe_paid(self) -> bool:
        """Whether any attempt was or may have been accepted, and so may have cost money."""
        return any(attempt.outcome != "refused" for attempt in self.attempts)

    def open_attempt(self, matches: Callable[[str], bool]) -> Attempt | None:
        """Find any attempt, current or not, that has or may still get the video of a given request.

        Args:
            matches: Whether a fingerprint belongs to the given request.
        """
        return next(
            (
                attempt
                for attempt in self.attempts
                if attempt.is_open and attempt.fingerprint is not None and matches(attempt.fingerprint)
            ),
            None,
        )
