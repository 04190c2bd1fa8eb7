"""Shards: ranges of the rows of a manifest, each made by a run of its own on some machine.

A shard is small whatever its rows are: the digest of the manifest, and which rows of it. The manifest lies beside the
videos, where all shards read it. Nothing here knows how the runs are started.
"""

import csv
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_xai_video.api.validation import Validation
from prefect_xai_video.batch.earlier import paid_by
from prefect_xai_video.batch.lanes import LaneChoice
from prefect_xai_video.batch.manifest import Manifest, Source, open_manifest
from prefect_xai_video.batch.outcomes import MAX_PROMPT_CHARACTERS, RowOutcome, report_column
from prefect_xai_video.batch.plan import DEFAULT_SAVING, Plan, PlannedRow, make_plan
from prefect_xai_video.engine.options import SavingOptions
from prefect_xai_video.engine.reading import Readable
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import VideoStore
from prefect_xai_video.errors import InvalidRequest, not_allowed, shown

MAX_SHARDS = 1000

CENT_OF_CENT = Decimal("0.0001")
"""Smallest budget of a shard in USD: less than any video costs, and a number that JSON keeps exactly."""

CONTENT_TYPES = {".csv": "text/csv", ".jsonl": "application/jsonl", ".parquet": "application/vnd.apache.parquet"}


class Shard(BaseModel):
    """A shard, as it is passed to its run.

    Attributes:
        number: Its number, from 1.
        start: Number of rows before it.
        stop: Number of its last row.
        digest: SHA-256 of the manifest.
        name: Name of the manifest, from which keys may be made.
        folder: Longest folder that is common to the keys of all shards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    start: int = Field(ge=0)
    stop: int = Field(ge=1)
    digest: str
    name: str
    folder: str

    @classmethod
    def of(cls, given: object) -> Self | None:
        """Check the parameter `shard` of a run; None if it is not one of a shard.

        Raises:
            InvalidRequest: If it is not valid.
        """
        if given is None or given == {}:
            return None
        try:
            shard = cls.model_validate(given)
        except ValidationError as error:
            problem = error.errors()[0]
            what = ".".join(map(str, problem["loc"])) or shown(given)
            raise not_allowed("shard", f"{what} ({problem['msg']})", "nothing; runs that shard set it") from None
        if Path(shard.name).name != shard.name or shard.name.startswith("."):
            raise not_allowed("shard", f"the name {shown(shard.name)}", "the name of a manifest")
        return shard

    @property
    def report_name(self) -> str:
        """Name under which it reports."""
        return f"{self.name}.shard-{self.number:04}"

    def check_manifest(self, manifest: Manifest) -> Manifest:
        """Check that a manifest is the one that was split, and give it its name.

        Raises:
            InvalidRequest: If its content is another.
        """
        if manifest.digest != self.digest:
            raise InvalidRequest(
                f"manifest: its content has changed since it was split into shards: its SHA-256 begins with "
                f"{manifest.digest[:12]}, expected {self.digest[:12]}. Run the whole batch again: videos that are "
                f"stored cost nothing. Nothing was sent."
            )
        return replace(manifest, name=self.name)

    def check_plan(self, plan: Plan) -> Plan:
        """Check that a plan has the rows of this shard, and give it the folder of the batch.

        Raises:
            InvalidRequest: If rows are missing, or the folder is not one of the keys.
        """
        if plan.count != self.stop - self.start:
            raise not_allowed("shard", f"rows {self.start + 1}-{self.stop}", "rows of the manifest")
        if not f"{plan.folder}/".startswith(f"{self.folder}/" if self.folder else ""):
            raise not_allowed("shard", f"the folder {shown(self.folder)}", "one that is common to all keys")
        return replace(plan, folder=self.folder)


def row_ranges(count: int, shard_rows: int) -> list[tuple[int, int]]:
    """Split rows into ranges of at most `shard_rows`, whose sizes differ by at most one.

    Raises:
        InvalidRequest: If that makes too many shards.
    """
    number = -(-count // shard_rows)
    if number > MAX_SHARDS:
        allowed = f"at least {-(-count // MAX_SHARDS)}, so that there are at most {MAX_SHARDS:,} shards"
        raise not_allowed("shard_rows", str(shard_rows), allowed)
    ends = [count * each // number for each in range(number + 1)]
    return list(pairwise(ends))


def shares_of(in_flight: int, shards: int, room: int | None = None) -> list[int]:
    """Divide the videos in flight evenly over the shards that run at the same time; largest shares first.

    Args:
        in_flight: Most videos in flight of the whole batch.
        shards: Number of all shards.
        room: Most shards that can run at the same time; None if that is not limited.

    Returns:
        A share of at least 1 for each shard that runs at the same time; their number is that of these shards.
    """
    number = min(shards, in_flight, shards if room is None else max(room, 1))
    share, rest = divmod(in_flight, number)
    return [share + 1] * rest + [share] * (number - rest)


class Funds:
    """The budget of a batch, divided over its shards in proportion to what each of them may still have to pay.

    A shard gets its budget when it is started. What those before it did not use is divided over those that come.

    Args:
        limit_usd: Most that the batch may pay in USD; None for no limit.
        due_usd: Estimated cost of the videos that are not stored, by shard.
    """

    def __init__(self, limit_usd: Decimal | None, due_usd: Mapping[int, Decimal]) -> None:
        self._limit, self._due = limit_usd, dict(due_usd)
        self._given: dict[int, Decimal] = {}

    def offer(self, number: int) -> Decimal | None:
        """What a shard may pay, in USD, if it is started now; None for no limit."""
        if self._limit is None:
            return None
        left = max(self._limit - sum(self._given.values(), Decimal(0)), Decimal(0))
        due = sum(self._due.values(), Decimal(0))
        share = left * self._due[number] / due if due else Decimal(0)
        return max(share.quantize(CENT_OF_CENT, ROUND_DOWN), CENT_OF_CENT)

    def give(self, number: int, budget_usd: Decimal | None) -> None:
        """Record what a shard may pay: what it was offered, or what an earlier try of the batch gave it."""
        self._due.pop(number, None)
        self._given[number] = budget_usd or Decimal(0)

    def settle(self, number: int, paid_usd: Decimal) -> None:
        """Replace what a shard might pay by what it has paid."""
        self._given[number] = paid_usd


@contextmanager
def open_rows(
    source: Source, s3_credentials: Any = None, readable: Readable | None = None, *, as_file: bool
) -> Iterator[Manifest]:
    """Open a manifest; other arguments and errors as for `open_manifest`.

    Args:
        source: The manifest.
        s3_credentials: Credentials for `s3://`.
        readable: The locations from which it may be read.
        as_file: Whether a list is written into a JSONL file first, so that it can be copied.
    """
    if not as_file or isinstance(source, bytes | str | Path) or not isinstance(source, Sequence):
        with open_manifest(source, s3_credentials, readable) as manifest:
            yield manifest
        return
    with tempfile.NamedTemporaryFile("w", prefix="xai-video-list-", suffix=".jsonl", encoding="utf-8") as file:
        for row in source:
            content = dict(row) if isinstance(row, Mapping) else row
            file.write(json.dumps(content, ensure_ascii=False, default=str) + "\n")
        file.flush()
        with open_manifest(file.name) as manifest:
            yield replace(manifest, name="batch")


def plan_of(
    manifest: Manifest,
    key: str | None,
    shard: Shard | None,
    *,
    keep: tuple[str, ...] = (),
    saving: SavingOptions = DEFAULT_SAVING,
    lane: LaneChoice = "realtime",
    validation: Validation,
    readable: Readable | None = None,
) -> Plan:
    """Make the plan of a manifest, or of one shard of it; other arguments and errors as for `make_plan`.

    Args:
        manifest: The manifest.
        key: Template of the keys.
        shard: The shard; None for all rows.
        keep: Columns that are carried through to the report.
        saving: How the videos come to the store, unless a row says otherwise.
        lane: The lane that every row must be able to take.
        validation: Whether values that the table of models does not list are refused.
        readable: The locations from which local inputs may be read; None for any.
    """
    make = partial(make_plan, key=key, keep=keep, saving=saving, lane=lane, validation=validation, readable=readable)
    if shard is None:
        return make(manifest)
    return shard.check_plan(make(shard.check_manifest(manifest), start=shard.start, stop=shard.stop))


async def copy_manifest(plan: Plan, store: VideoStore) -> str:
    """Copy a manifest beside the videos, under a name with its digest that no key can have.

    Returns:
        The path or URL with which shards open it.

    Raises:
        StorageError: If it can't be stored.
    """
    manifest = plan.manifest
    assert manifest.path is not None  # noqa: S101 - lists were written into a file
    suffix = manifest.path.suffix
    name = f"{re.sub('[^A-Za-z0-9._=+@-]', '-', manifest.name)}.manifest-{manifest.digest[:12]}{suffix}"
    name = f"{plan.folder}/{name}" if plan.folder else name
    uri = await store.write_file(name, manifest.path, CONTENT_TYPES[suffix])
    return url2pathname(urlsplit(uri).path) if uri.startswith("file:") else uri


def outcome_of_receipt(row: PlannedRow, receipt: Receipt | None, *, run_id: str, why: str) -> RowOutcome:
    """Describe a row of a shard that left no report.

    Args:
        row: The row.
        receipt: Its receipt, if there is one.
        run_id: Id of the shard's run, as in the receipts.
        why: Why there is no report.
    """
    if receipt is None:
        return RowOutcome.not_started(row, why)
    fingerprint = receipt.fingerprint
    if fingerprint is not None and not row.request.inputs and not row.request.has_fingerprint(fingerprint):
        return RowOutcome.not_started(row, f"{why} The key belongs to another request.")
    outcome = RowOutcome.of_receipt(row, receipt, is_new=paid_by(receipt, run_id) is not None)
    is_explained = outcome.state == "stored" or outcome.error is not None
    return outcome if is_explained else outcome.model_copy(update={"error": why})


def read_outcomes(path: Path, keep: Sequence[str] = ()) -> Iterator[RowOutcome]:
    """Read the rows of a stored report.

    Args:
        path: Its CSV file.
        keep: Columns of the manifest that the rows carry.

    Raises:
        ValueError: If it is not one.
    """
    with path.open(newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            values: dict[str, Any] = {name: cell for name, cell in cells.items() if cell not in ("", None)}
            kept = {name: values[column] for name in keep if (column := report_column(name)) in values}
            yield RowOutcome.model_validate(values | {"kept": kept})


def with_prompts(outcomes: Sequence[RowOutcome], manifest: Manifest, shard: Shard) -> list[RowOutcome]:
    """Add the prompts, which no stored report has, from the manifest."""
    prompts = [str(row.values.get("prompt") or "") for row in manifest.rows(shard.start, shard.stop)]
    return [
        outcome.model_copy(update={"prompt": prompt[:MAX_PROMPT_CHARACTERS]})
        for outcome, prompt in zip(outcomes, prompts, strict=True)
    ]


def is_of_shard(outcomes: Iterable[RowOutcome], shard: Shard) -> bool:
    """Whether outcomes are those of all rows of a shard, in order."""
    return [outcome.number for outcome in outcomes] == list(range(shard.start + 1, shard.stop + 1))
