"""What became of each row of a batch. Outcomes are kept in a file, so that a million of them fit into memory."""

import hashlib
import tempfile
import threading
import weakref
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import override

from prefect_xai_video.batch.plan import PlannedRow
from prefect_xai_video.engine.attempts import ENDED_BADLY, ReceiptState
from prefect_xai_video.engine.options import OnUnknown
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import (
    DownloadError,
    SubmissionUnknown,
    VideoExpired,
    VideoFailed,
    VideoModerated,
    VideoTimeout,
    XaiVideoError,
)

RowState = Literal["stored", "open", "unknown", "failed", "moderated", "expired", "refused", "not started"]
"""What became of a row. `open`: it is paid for and may still become a video. `refused`: nothing was paid for."""

WITHOUT_VIDEO: tuple[RowState, ...] = ("unknown", "failed", "moderated", "expired", "refused")
"""States of rows that get no video by themselves."""

MAX_PROMPT_CHARACTERS = 300
"""Characters of a prompt that an outcome keeps."""

STATE_OF_RECEIPT: Mapping[ReceiptState, RowState] = {
    # A run sends it just now, or has died meanwhile: nobody knows yet whether xAI has accepted it.
    "sending": "unknown",
    "submitted": "open",
    "done": "open",
    "stored": "stored",
    "refused": "refused",
    "unknown": "unknown",
    "failed": "failed",
    "moderated": "moderated",
    "expired": "expired",
}

_STATE_OF: tuple[tuple[type[XaiVideoError], RowState], ...] = (
    (VideoModerated, "moderated"),
    (VideoFailed, "failed"),
    (VideoExpired, "expired"),
    (VideoTimeout, "open"),
    (SubmissionUnknown, "unknown"),
    (DownloadError, "open"),
)


class RowOutcome(BaseModel):
    """What became of one row.

    Attributes:
        number: Number of the row in the manifest, from 1.
        place: Where a person finds it in the manifest: `line 7`, or `row 7`.
        key: The key of its video.
        state: What became of it.
        is_new: Whether this run submitted it, and so paid for it.
        uri: URI of the stored video.
        request_id: xAI's request id.
        model: Model.
        mode: Mode of the request.
        duration: Duration in seconds.
        size: Size of the video in bytes.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        poster: URI of its first frame, if stills were asked for.
        last_frame: URI of its last frame, if stills were asked for.
        estimated_cost_usd: Estimated cost in USD.
        cost_usd: Billed cost in USD, also of a video that was paid for by an earlier run.
        queue_seconds: Seconds from the claim to xAI's reply with the request id.
        render_seconds: Seconds from the reply until the video was seen to be done.
        save_seconds: Seconds from there until it was stored.
        error: The sentence that says why there is no video.
        error_type: Name of the error's class in `prefect_xai_video.errors`.
        prompt: Beginning of the prompt, at most 300 characters; in no report file but the HTML page.
        kept: Cells of the columns that `keep` names, as text of at most 300 characters, by column; empty ones are
            missing.
        others_usd: Cost of other attempts of the same key, in USD; counted only in reports that are built from
            receipts.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    place: str
    key: str
    state: RowState
    is_new: bool = False
    uri: str | None = None
    request_id: str | None = None
    model: str | None = None
    mode: str | None = None
    duration: int | None = None
    size: int | None = None
    width: int | None = None
    height: int | None = None
    poster: str | None = None
    last_frame: str | None = None
    estimated_cost_usd: Decimal | None = None
    cost_usd: Decimal | None = None
    queue_seconds: float | None = None
    render_seconds: float | None = None
    save_seconds: float | None = None
    error: str | None = None
    error_type: str | None = None
    prompt: str | None = None
    kept: Mapping[str, str] = Field(default_factory=dict)
    others_usd: Decimal = Decimal(0)

    @property
    def settled_usd(self) -> Decimal | None:
        """What xAI billed for it, in USD; None if that is not known. xAI does not bill a render that failed."""
        return Decimal(0) if self.state == "failed" and self.cost_usd is None else self.cost_usd

    @property
    def paid_usd(self) -> Decimal:
        """What this run paid for it, in USD: billed costs, or estimates where xAI did not report them."""
        return self._spent_usd if self.is_new else Decimal(0)

    @property
    def total_usd(self) -> Decimal:
        """What it has cost so far, in USD, whichever run paid for it; an estimate where xAI did not report it."""
        is_unsent = self.state in {"refused", "not started"} and self.cost_usd is None
        return self.paid_usd if is_unsent else self._spent_usd

    @property
    def _spent_usd(self) -> Decimal:
        settled = self.settled_usd
        return (self.estimated_cost_usd or Decimal(0) if settled is None else settled) + self.others_usd

    @property
    def is_unpriced(self) -> bool:
        """Whether nobody knows what it costs, although it is paid for, or would be."""
        is_paid = self.is_new or self.state == "not started"
        return is_paid and self.settled_usd is None and self.estimated_cost_usd is None

    @classmethod
    def not_started(cls, row: PlannedRow, why: str) -> "RowOutcome":
        """Describe a row that was not begun."""
        return cls(state="not started", error=why, **_facts_of(row))

    @classmethod
    def of_receipt(cls, row: PlannedRow, receipt: Receipt, *, is_new: bool) -> "RowOutcome":
        """Describe a row by its receipt."""
        facts = _facts_of(row) | facts_of_receipt(receipt)
        facts["duration"] = receipt.duration or row.request.model_dump().get("duration")
        failure = receipt.failure
        if failure is not None:
            facts |= {"error": failure.message, "error_type": failure.type}
        return cls(state=state_of(receipt), is_new=is_new, **facts)

    @classmethod
    def of_error(cls, row: PlannedRow, error: Exception, *, is_new: bool) -> "RowOutcome":
        """Describe a row that ended with an error."""
        facts = _facts_of(row) | {"error_type": type(error).__name__, "error": str(error), "is_new": is_new}
        if not isinstance(error, XaiVideoError):
            return cls(state="open" if is_new else "refused", **facts)
        facts |= {"error": error.message, "request_id": error.request_id, "cost_usd": error.cost_usd}
        state = next((state for kind, state in _STATE_OF if isinstance(error, kind)), None)
        if state is None and not error.is_free:
            state = "open" if error.request_id else None if error.nothing_accepted else "unknown"
        return cls(state=state or "refused", **facts)


def state_of(receipt: Receipt) -> RowState:
    """What became of a row, by its receipt. What xAI's batch may have is found there, so it is open."""
    is_in_batch = receipt.xai_batch is not None and receipt.state in {"sending", "unknown"}
    return "open" if is_in_batch else STATE_OF_RECEIPT[receipt.state]


def estimated(row: PlannedRow, receipt: Receipt | None, *, regenerate: bool, on_unknown: OnUnknown) -> RowOutcome:
    """Describe what a row has before anything is sent: `not started` if the next run would pay for it."""
    is_repeated = receipt is not None and (
        (regenerate and (receipt.state in ENDED_BADLY or receipt.is_not_found))
        or (on_unknown == "resubmit" and receipt.state == "unknown")
    )
    if receipt is None or is_repeated:
        return RowOutcome.not_started(row, "This was a dry run.")
    outcome = RowOutcome.of_receipt(row, receipt, is_new=False)
    # What was refused, or is being sent, counts as due.
    is_due = receipt.state in {"sending", "refused"} and outcome.state != "open"
    return outcome.model_copy(update={"state": "not started"}) if is_due else outcome


def _facts_of(row: PlannedRow) -> dict[str, object]:
    return {
        "number": row.number,
        "place": row.place,
        "key": row.key,
        "model": row.request.model,
        "mode": row.request.mode,
        "estimated_cost_usd": row.request.estimated_cost_usd,
        "prompt": row.request.prompt[:MAX_PROMPT_CHARACTERS],
        "kept": row.kept,
    }


def facts_of_receipt(receipt: Receipt) -> dict[str, Any]:
    """Collect the facts of an outcome that the current attempt of a receipt knows."""
    attempt, is_stored = receipt.attempt, receipt.state == "stored"
    file = receipt.file if is_stored else None
    replied, done = attempt.submitted_at, attempt.done_at
    return {
        "request_id": receipt.request_id,
        "model": receipt.model,
        "cost_usd": receipt.cost_usd,
        "uri": file.uri if file else None,
        "size": file.size if file else None,
        "width": file.width if file else None,
        "height": file.height if file else None,
        "poster": file.poster if file else None,
        "last_frame": file.last_frame if file else None,
        "queue_seconds": (replied - attempt.started_at).total_seconds() if replied else None,
        "render_seconds": (done - replied).total_seconds() if done and replied else None,
        "save_seconds": (attempt.outcome_at - done).total_seconds() if done and is_stored else None,
    }


def report_column(name: str) -> str:
    """Name a kept column in the file of a report: as in the manifest, unless the report has such a column itself."""
    return f"manifest.{name}" if name in RowOutcome.model_fields or name.startswith("manifest.") else name


MAX_PICKLED_BYTES = 16 * 2**20


class Outcomes(Sequence[RowOutcome]):
    """The outcomes of all rows, in the order of the manifest; each is read from a temporary file when it is used."""

    def __init__(self) -> None:
        # Open as long as the report is used; it has no name, so nothing is left behind.
        self._file = tempfile.TemporaryFile(prefix="xai-video-outcomes-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._offsets = array("q")
        self._numbers: array[int] = array("q")
        self._digests: array[int] = array("Q")
        # The rows in the order of the digests of their keys, once a key is looked up.
        self._by_digest: array[int] | None = None
        self._is_sorted = True
        # Pages are made of it in a thread.
        self._reading = threading.Lock()

    def add(self, outcome: RowOutcome) -> None:
        """Add the outcome of a row."""
        self._offsets.append(self._file.seek(0, 2))
        self._numbers.append(outcome.number)
        self._digests.append(_digest(outcome.key))
        self._file.write(outcome.model_dump_json(exclude_none=True).encode() + b"\n")
        self._is_sorted = False

    def of(self, key: str) -> RowOutcome:
        """Return the outcome of the row with a key.

        Raises:
            KeyError: If no row has it.
        """
        digest = _digest(key)
        with self._reading:
            self._sort()
            if self._by_digest is None:
                self._by_digest = array("q", sorted(range(len(self._digests)), key=self._digests.__getitem__))
            begin = bisect_left(self._by_digest, digest, key=self._digests.__getitem__)
            if begin < len(self._by_digest) and self._digests[index := self._by_digest[begin]] == digest:
                outcome = self._read(index)
                if outcome.key == key:
                    return outcome
        raise KeyError(f"No row of this batch has the key {key!r}.")

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the outcomes, as Prefect does with the error of a failed run; above 16 MiB, none of them.

        Prompts are left out: what Prefect persists holds none.
        """
        rows = self if self._file.seek(0, 2) <= MAX_PICKLED_BYTES else ()
        return _restored, ([row.model_copy(update={"prompt": None}) for row in rows],)

    def _sort(self) -> None:
        if not self._is_sorted:
            order = sorted(range(len(self._numbers)), key=self._numbers.__getitem__)
            self._offsets = array("q", (self._offsets[index] for index in order))
            self._numbers = array("q", (self._numbers[index] for index in order))
            self._digests = array("Q", (self._digests[index] for index in order))
            self._by_digest, self._is_sorted = None, True

    @override
    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> RowOutcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RowOutcome]: ...
    @override
    def __getitem__(self, index: int | slice) -> RowOutcome | Sequence[RowOutcome]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        with self._reading:
            self._sort()
            return self._read(index)

    def _read(self, index: int) -> RowOutcome:
        self._file.seek(self._offsets[index])
        return RowOutcome.model_validate_json(self._file.readline())

    @override
    def __iter__(self) -> Iterator[RowOutcome]:
        return (self[index] for index in range(len(self)))


def _digest(key: str) -> int:
    """Shorten a key to what is kept of it in memory; a plan makes sure that no two rows have the same."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def _restored(outcomes: Sequence[RowOutcome]) -> Outcomes:
    restored = Outcomes()
    for outcome in outcomes:
        restored.add(outcome)
    return restored
