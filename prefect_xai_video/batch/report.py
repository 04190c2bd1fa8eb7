"""The report of a batch: totals, failures by kind, costs and times. It is data; pages are made of it elsewhere."""

import csv
import hashlib
import json
import tempfile
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, cast, get_args

from prefect_xai_video.api.threads import run_in_thread
from prefect_xai_video.batch.outcomes import WITHOUT_VIDEO, Outcomes, RowOutcome, RowState, report_column
from prefect_xai_video.batch.plan import Plan
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import LimitReached, RequestRejected, StorageError
from prefect_xai_video.money import dollars, plain

PERCENTILES = (50, 90, 99)

TEXTS_OF_OTHERS = ("error", "model")
"""Cells of the CSV file whose text comes from xAI."""

MAX_NAME = 100
"""Longest part of a manifest's name in the name of its report, in characters; file systems allow 255 bytes in all."""

TIMES = ("queue", "render", "save")

NOT_IN_CSV = {"prompt", "kept"}
"""Fields of an outcome that are not a column of the CSV file; kept columns follow after the others."""

NEXT_STEPS: Mapping[RowState, str] = {
    "open": "paid for and under way: run the batch again, or collect its videos later; nothing is paid again",
    "unknown": "may have been paid for: look for the requests in the xAI console before anything is sent again",
    "failed": "run the batch again with regenerate switched on: that pays for new attempts",
    "moderated": "change the prompts and run the batch again, which pays again; rows whose key stays need regenerate",
    "expired": "run the batch again with regenerate switched on: that pays for new attempts",
    "refused": "nothing was paid: correct what the error names, and run the batch again",
    "not started": "nothing was paid: run the batch again",
}
"""What to do about the rows of each state."""

NOT_FOUND_STEP = (
    "run the batch again with the credentials that sent the requests; if xAI still does not know them, run it with "
    "regenerate switched on: that gives them up and pays for new attempts"
)
"""What to do about open rows whose requests xAI does not know any more."""

LIMIT_STEP = "nothing was paid: raise the budget or limit that the error names, and run the batch again"
"""What to do about rows for which a budget or a limit had no room."""


@dataclass(frozen=True, slots=True)
class FailureKind:
    """Rows that failed in the same way.

    Attributes:
        state: What became of them.
        error_type: Name of the error's class; None if they were not started.
        count: Number of rows.
        keys: The first five keys.
        example: The sentence of the first one.
        next_step: What to do about them.
    """

    state: RowState
    error_type: str | None
    count: int
    keys: tuple[str, ...]
    example: str | None
    next_step: str


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a batch.

    Attributes:
        name: Name of the manifest.
        folder: Longest folder that is common to all keys.
        count: Number of rows.
        states: Number of rows by state.
        new: Rows that this run submitted.
        estimated_usd: Estimated cost of all rows, in USD.
        due_usd: Estimated cost of the rows that were not started, in USD.
        unpriced: Rows whose cost is not known: neither billed yet nor in the price table; they count as 0 here.
        cost_usd: What this run paid, in USD: billed costs, and estimates where xAI reported none.
        total_usd: What the videos of all rows have cost so far, in USD, whichever run paid for them.
        wasted_usd: What of it was paid for rows that have no video, in USD.
        reserved_usd: What rows that are still open may cost, in USD; part of `cost_usd`.
        by_model: What this run paid by model, in USD.
        seconds: Duration of the run.
        times: Percentiles 50, 90 and 99 of `queue`, `render` and `save`, in seconds.
        failures: Rows without a video, by kind, most frequent first.
        stopped_by: Why nothing more was submitted; None if everything was.
        uri: URI of the stored report; None if it was not stored.
        page: URI of its HTML page; None if it was not stored.
        run_id: Id of the flow run that made it.
        keep: Columns of the manifest that the rows carry.
        rows: The outcomes in the order of the manifest, read when they are used; `rows.of(key)` is that of a key.
    """

    name: str
    folder: str
    count: int
    states: Mapping[RowState, int]
    new: int
    estimated_usd: Decimal
    due_usd: Decimal
    unpriced: int
    cost_usd: Decimal
    total_usd: Decimal
    wasted_usd: Decimal
    reserved_usd: Decimal
    by_model: Mapping[str, Decimal]
    seconds: float
    times: Mapping[str, Mapping[int, float]]
    failures: tuple[FailureKind, ...]
    stopped_by: str | None = None
    uri: str | None = None
    page: str | None = None
    run_id: str | None = None
    keep: tuple[str, ...] = ()
    rows: Outcomes = field(default_factory=Outcomes, repr=False)

    @property
    def stored(self) -> int:
        """Rows whose video is stored."""
        return self.states.get("stored", 0)

    @property
    def open(self) -> int:
        """Rows that are paid for and may still become a video."""
        return self.states.get("open", 0)

    @property
    def failed(self) -> int:
        """Rows that get no video by themselves."""
        return sum(self.states.get(state, 0) for state in WITHOUT_VIDEO)

    @property
    def not_started(self) -> int:
        """Rows that were not begun."""
        return self.states.get("not started", 0)

    @property
    def is_complete(self) -> bool:
        """Whether every row has its video."""
        return self.stored == self.count

    def __str__(self) -> str:
        paid = (
            f"{dollars(plain(self.cost_usd))} paid for {_counted(self.new, 'new video')}"
            if self.new
            else "nothing paid"
        )
        others = [f"{number} {state}" for state, number in self.states.items() if state != "stored" and number]
        rest = f" ({', '.join(others)})" if others else ""
        unpriced = f", {self.unpriced:,} of unknown cost" if self.unpriced else ""
        earlier = f", {dollars(self.total_usd)} with earlier runs" if self.total_usd > self.cost_usd else ""
        return f"{self.stored} of {_counted(self.count, 'video')} stored{rest}; {paid}{unpriced}{earlier}"

    def facts(self) -> dict[str, Any]:
        """Return everything but the rows, as JSON can hold it."""
        return {
            "version": 1,
            "name": self.name,
            "folder": self.folder,
            "count": self.count,
            "states": dict(self.states),
            "new": self.new,
            "estimated_usd": str(self.estimated_usd),
            "due_usd": str(self.due_usd),
            "unpriced": self.unpriced,
            "cost_usd": str(self.cost_usd),
            "total_usd": str(self.total_usd),
            "wasted_usd": str(self.wasted_usd),
            "reserved_usd": str(self.reserved_usd),
            "by_model": {model: str(cost) for model, cost in self.by_model.items()},
            "seconds": round(self.seconds, 3),
            "times": {
                name: {str(share): round(value, 3) for share, value in of.items()} for name, of in self.times.items()
            },
            "failures": [
                {
                    "state": kind.state,
                    "error_type": kind.error_type,
                    "count": kind.count,
                    "keys": list(kind.keys),
                    "example": kind.example,
                    "next_step": kind.next_step,
                }
                for kind in self.failures
            ],
            "stopped_by": self.stopped_by,
            "run_id": self.run_id,
            "keep": list(self.keep),
        }


class Tally:
    """Counts outcomes while a batch runs.

    Args:
        name: Name of the manifest.
        folder: Longest folder that is common to all keys.
        count: Number of rows.
        estimated_usd: Estimated cost of all rows, in USD.
        keep: Columns of the manifest that the rows carry.

    Attributes:
        states: Number of rows by state, so far.
        cost_usd: What was paid, so far, in USD.
        new: Rows that were submitted and have ended, so far.
    """

    def __init__(
        self, name: str, folder: str, count: int, estimated_usd: Decimal, keep: tuple[str, ...] = ()
    ) -> None:
        self._keep = keep
        self.name, self.folder, self.count, self.estimated_usd = name, folder, count, estimated_usd
        self.rows = Outcomes()
        self.states: Counter[RowState] = Counter()
        self.cost_usd = self.wasted_usd = self.reserved_usd = self.due_usd = Decimal(0)
        self.new = 0
        self._by_model: defaultdict[str, Decimal] = defaultdict(Decimal)
        self._times: dict[str, array[float]] = {name: array("d") for name in TIMES}
        self._failures: dict[tuple[RowState, str | None], list[RowOutcome]] = {}
        self._failed: Counter[tuple[RowState, str | None]] = Counter()
        self._unpriced = 0
        self._total_usd = Decimal(0)
        self._begun = time.monotonic()

    @classmethod
    def of(cls, plan: Plan) -> "Tally":
        """Begin to count the rows of a plan."""
        return cls(plan.manifest.name, plan.folder, plan.count, plan.estimated_usd, plan.keep)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    def add(self, outcome: RowOutcome) -> None:
        """Count an outcome."""
        self.rows.add(outcome)
        self.states[outcome.state] += 1
        self._count_money(outcome)
        for name, seconds in zip(
            TIMES, (outcome.queue_seconds, outcome.render_seconds, outcome.save_seconds), strict=True
        ):
            if outcome.is_new and seconds is not None:
                self._times[name].append(seconds)
        if outcome.state != "stored":
            kind = outcome.state, outcome.error_type
            self._failed[kind] += 1
            if len(examples := self._failures.setdefault(kind, [])) < 5:
                examples.append(outcome)

    def _count_money(self, outcome: RowOutcome) -> None:
        self._unpriced += outcome.is_unpriced
        self._total_usd += outcome.total_usd
        if outcome.state == "not started":
            self.due_usd += outcome.estimated_cost_usd or 0
        if not outcome.is_new:
            return
        paid = outcome.paid_usd
        self.new += 1
        self.cost_usd += paid
        self._by_model[outcome.model or "unknown"] += paid
        # Other attempts of the key have no video that counts.
        self.wasted_usd += outcome.others_usd
        if outcome.state in {"open", "unknown"}:
            self.reserved_usd += paid - outcome.others_usd
        elif outcome.state != "stored":
            self.wasted_usd += paid - outcome.others_usd

    def report(self) -> BatchReport:
        """Make the report."""
        return BatchReport(
            name=self.name,
            folder=self.folder,
            count=self.count,
            states={state: self.states[state] for state in get_args(RowState) if self.states[state]},
            new=self.new,
            estimated_usd=plain(self.estimated_usd),
            due_usd=plain(self.due_usd),
            unpriced=self._unpriced,
            cost_usd=plain(self.cost_usd),
            total_usd=plain(self._total_usd),
            wasted_usd=plain(self.wasted_usd),
            reserved_usd=plain(self.reserved_usd),
            by_model={model: plain(cost) for model, cost in self._by_model.items()},
            seconds=self.seconds,
            times={name: _percentiles(values) for name, values in self._times.items() if values},
            failures=tuple(self._failure(kind, count) for kind, count in self._failed.most_common()),
            keep=self._keep,
            rows=self.rows,
        )

    def _failure(self, kind: tuple[RowState, str | None], count: int) -> FailureKind:
        examples, (state, error_type) = sorted(self._failures[kind], key=lambda row: row.number), kind
        keys = tuple(example.key for example in examples)
        next_steps: dict[tuple[RowState, str | None], str] = {
            # An open row is rejected by a poll only: xAI does not know its request.
            ("open", RequestRejected.__name__): NOT_FOUND_STEP,
            ("refused", LimitReached.__name__): LIMIT_STEP,
        }
        next_step = next_steps.get((state, error_type), NEXT_STEPS[state])
        return FailureKind(state, error_type, count, keys, examples[0].error, next_step)


def report_name(folder: str, name: str, suffix: str) -> str:
    """Return the name of a file of a report in the store: beside the videos, and one that no key can have."""
    # Names that differ only at their ends, as those of shards do, must not become one.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - len(digest) - 1]}-{digest}"
    return f"{folder}/{short}.report{suffix}" if folder else f"{short}.report{suffix}"


def page_name(folder: str, name: str, number: int = 1) -> str:
    """Return the name of an HTML page of a report in the store.

    The pages have a folder of their own, which no key can have: an `index.html` beside the videos might replace that
    of a website or of another batch.
    """
    return f"{report_name(folder, name, '')}/index{'' if number == 1 else f'-{number}'}.html"


async def store_report(report: BatchReport, store: VideoStore) -> str:
    """Store a report as JSON, and its rows as CSV, beside the videos.

    Returns:
        The URI of the JSON file.

    Raises:
        StorageError: If it can't be stored.
    """
    rows, summary = report_name(report.folder, report.name, ".csv"), report_name(report.folder, report.name, ".json")
    with tempfile.TemporaryDirectory(prefix="xai-video-report-") as directory:
        table, facts = Path(directory, "rows.csv"), Path(directory, "facts.json")
        await run_in_thread(_write_csv, report, table)
        await store.write_file(rows, table, "text/csv")
        content = report.facts() | {"rows": rows.rpartition("/")[2]}
        await run_in_thread(facts.write_text, json.dumps(content, indent=2))
        return await store.write_file(summary, facts, "application/json")


async def stored_states(report: BatchReport, store: VideoStore) -> Mapping[str, int] | None:
    """Read the number of rows by state from the report of an earlier run of the batch; None without one."""
    with tempfile.TemporaryDirectory(prefix="xai-video-report-") as directory:
        facts = Path(directory, "facts.json")
        try:
            if not await store.read_file(report_name(report.folder, report.name, ".json"), facts):
                return None
            return cast("Mapping[str, int]", json.loads(await run_in_thread(facts.read_text))["states"])
        except (StorageError, ValueError, KeyError, TypeError):
            return None


def _write_csv(report: BatchReport, path: Path) -> None:
    own = [name for name in RowOutcome.model_fields if name not in NOT_IN_CSV]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*own, *map(report_column, report.keep)])
        writer.writeheader()
        for row in report.rows:
            cells = row.model_dump(mode="json", exclude=NOT_IN_CSV)
            # The user's own cells stay as they are: they are there to be joined on.
            kept = {report_column(name): cell for name, cell in row.kept.items()}
            writer.writerow(cells | {name: _as_text(cells[name]) for name in TEXTS_OF_OTHERS} | kept)


def _as_text(cell: str | None) -> str | None:
    """Keep a spreadsheet from computing a text that looks like a formula."""
    return f"'{cell}" if cell and cell.startswith(("=", "+", "-", "@")) else cell


def _percentiles(values: "array[float]") -> dict[int, float]:
    ordered = sorted(values)
    return {share: ordered[min(len(ordered) * share // 100, len(ordered) - 1)] for share in PERCENTILES}


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
