"""The plan of a batch: what each row asks for, under which key, and what all of it costs. Nothing is sent here.

A plan is made by reading the whole manifest once. It keeps a digest a row, to find keys that occur twice, and no row;
the rows are read and checked again when they are due.
"""

import hashlib
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from prefect_xai_video.api.options import VideoOptions, build_request
from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.api.validation import Validation, check_limits
from prefect_xai_video.batch.cells import cell_of, typed
from prefect_xai_video.batch.lanes import LaneChoice, check_lane, needs_realtime
from prefect_xai_video.batch.manifest import Manifest, Row
from prefect_xai_video.batch.options import BatchOptions
from prefect_xai_video.batch.own_columns import kept_cells
from prefect_xai_video.engine.handover import check_saving
from prefect_xai_video.engine.inputs import check_inputs, fingerprint_of
from prefect_xai_video.engine.keys import check_key, slug
from prefect_xai_video.engine.options import SavingOptions
from prefect_xai_video.engine.reading import Readable
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import InvalidManifest, InvalidRequest, XaiVideoError, no_such, not_allowed, shown

MAX_FINDINGS = 100
"""Findings that are listed; the others are counted."""

DEFAULT_KEY = "{manifest}/{slug}-{digest}"

DIGEST_LENGTH = 12

COMPUTED = frozenset({"digest", "slug", "manifest"})
"""Fields of a key template that are not columns."""

OF_REQUEST = frozenset({"prompt", *VideoOptions.__annotations__})
"""Columns of which the request is made; the others are how its video comes to the store."""

DEFAULT_SAVING = BatchOptions().for_each


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row whose values are valid.

    Attributes:
        number: Its number in the manifest, from 1.
        place: Where a person finds it in the manifest.
        key: The key of its video.
        request: What it asks for.
        saving: How its video comes to the store: its own cells, and for the others the options of the batch.
        kept: Its cells that are carried through to the report, as text, by column.
    """

    number: int
    place: str
    key: str
    request: VideoRequest
    saving: SavingOptions = field(default_factory=lambda: DEFAULT_SAVING)
    kept: Mapping[str, str] = field(default_factory=dict)

    def is_made(self, receipt: Receipt) -> bool:
        """Whether a receipt has all that the row asks for: its stored video, and stills if they are wanted."""
        is_stored = receipt.state == "stored" and receipt.file is not None
        lacks_stills = self.saving.get("stills", False) and not (receipt.file and receipt.file.last_frame)
        return is_stored and not lacks_stills


class KeyTemplate:
    """A template that makes keys of rows, such as `products/{sku}-{digest}`.

    Args:
        template: Text with the names of columns in braces. `{digest}` stands for the digest of the request, `{slug}`
            for the first words of its prompt, `{manifest}` for the name of the manifest.
        name: Name of the manifest.

    Raises:
        InvalidRequest: If it is not a valid template.
    """

    def __init__(self, template: str, name: str) -> None:
        self._template, self._name = template, slug(name) or "batch"
        try:
            self._parts = list(string.Formatter().parse(template))
        except (ValueError, TypeError):
            raise self._refused() from None
        self.fields = frozenset(field for _, field, _, _ in self._parts if field is not None)
        plain = all(not spec and not conversion for _, field, spec, conversion in self._parts if field is not None)
        if not plain or not all(field.isidentifier() for field in self.fields):
            raise self._refused()

    def _refused(self) -> InvalidRequest:
        return not_allowed(
            "key", shown(self._template), "a template such as products/{sku}-{digest}: names of columns in braces"
        )

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it needs."""
        return self.fields - COMPUTED

    def key(self, values: Mapping[str, Any], request: VideoRequest, readable: Readable | None = None) -> str:
        """Make the key of a row.

        Args:
            values: The cells of the row.
            request: Its request.
            readable: The locations from which local inputs may be read, of whose content the digest is.

        Raises:
            InvalidRequest: If a column is empty, an input can't be read, or the result is not a key.
        """
        computed = {
            "digest": fingerprint_of(request, readable)[:DIGEST_LENGTH] if "digest" in self.fields else "",
            "slug": (slug(request.prompt) or "video") if "slug" in self.fields else "",
            "manifest": self._name,
        }
        for name in sorted(self.columns):
            if values.get(name) is None:
                raise InvalidRequest(f"{name}: the column is empty, and the key {self._template} needs it.")
            if not isinstance(values[name], str | int | Decimal) or isinstance(values[name], bool):
                raise not_allowed(name, shown(values[name]), "a text or a whole number, since the key is made of it")
        known = {name: str(values[name]) for name in self.columns} | computed
        return check_key("".join(text + (known[name] if name else "") for text, name, _, _ in self._parts))


@dataclass(slots=True)
class Findings:
    """What is wrong with a manifest: the first findings and the number of all.

    Attributes:
        listed: The first 100, each with the place of its row.
        count: The number of all.
    """

    listed: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, finding: str) -> None:
        """Add a finding."""
        self.count += 1
        if len(self.listed) < MAX_FINDINGS:
            self.listed.append(finding)

    def error(self, name: str) -> InvalidManifest:
        """Build the error that lists them."""
        more = f"\n… and {self.count - len(self.listed)} more" if self.count > len(self.listed) else ""
        number = "1 problem" if self.count == 1 else f"{self.count} problems"
        lines = "\n".join(self.listed)
        return InvalidManifest(f"The manifest {name} has {number}. Nothing was sent.\n{lines}{more}", self.listed)


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked manifest: every row is valid, and every key is unique.

    Attributes:
        manifest: The manifest.
        template: How keys are made.
        keep: Columns that are carried through to the report.
        saving: How the videos come to the store, unless a row says otherwise.
        readable: The locations from which local inputs may be read; None for any.
        validation: Whether values that the table of models does not list are refused.
        start: Number of rows at the beginning that belong to another shard.
        stop: Number of the last row of this shard; None for the last one of the manifest.
        count: Number of rows.
        estimated_usd: Estimated cost of all rows with a known price, in USD.
        cheapest_usd: Lowest estimated cost of a row, in USD; None if no price is known.
        unpriced: Number of rows without a known price.
        warnings: Warnings about values that are not checked, each once.
        folder: Longest folder that is common to all keys; empty for the root of the store.
        only_realtime: Whether the video of a row comes to the store in a way that only the realtime lane has.
    """

    manifest: Manifest
    template: KeyTemplate
    keep: tuple[str, ...]
    saving: SavingOptions
    readable: Readable | None
    validation: Validation
    start: int
    stop: int | None
    count: int
    estimated_usd: Decimal
    cheapest_usd: Decimal | None
    unpriced: int
    warnings: tuple[str, ...]
    folder: str
    only_realtime: bool = False

    def rows(self) -> Iterator[PlannedRow]:
        """Read and check the rows again, in order."""
        has_header = self.manifest.columns is not None
        for row in self.manifest.rows(self.start, self.stop):
            yield planned(
                row, self.template, self.readable, keep=self.keep, saving=self.saving, has_header=has_header
            )


def make_plan(
    manifest: Manifest,
    key: str | None = None,
    *,
    keep: tuple[str, ...] = (),
    saving: SavingOptions = DEFAULT_SAVING,
    lane: LaneChoice = "realtime",
    validation: Validation = "strict",
    readable: Readable | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Plan:
    """Read a whole manifest and check it.

    Args:
        manifest: The manifest.
        key: Template of the keys. Default: the column `key`, if there is one, else `{manifest}/{slug}-{digest}`.
        keep: Columns that are carried through to the report.
        saving: How the videos come to the store, unless a row says otherwise; a row may say no more than this.
        lane: The lane that every row must be able to take.
        validation: Whether values that the table of models does not list are refused.
        readable: The locations from which local inputs may be read; None for any.
        start: Number of rows to skip.
        stop: Number of the last row.

    Raises:
        InvalidManifest: If anything in it is not valid; it lists all findings with their lines.
        InvalidRequest: If the template is not valid.
    """
    template = KeyTemplate(_template(manifest, key), manifest.name)
    findings, survey = Findings(), _Survey(validation)
    has_header = manifest.columns is not None
    for finding in _check_header(manifest.columns, template, keep, saving) if manifest.columns is not None else ():
        findings.add(f"header: {finding}")
    # The rows of a shard may be just those without a cell in it.
    unseen = dict.fromkeys(keep if manifest.columns is None and stop is None else ())
    for row in manifest.rows(start, stop):
        for name in unseen.keys() & row.values.keys():
            del unseen[name]
        try:
            made = planned(row, template, readable, keep=keep, saving=saving, has_header=has_header)
            check_inputs(made.request, readable)
            check_lane(lane, made.saving)
            survey.add(made)
        except XaiVideoError as error:
            findings.add(f"{row.place}: {error.message}")
    for name in unseen:
        findings.add(f"keep: no row has a column {shown(name)}.")
    if findings.count:
        raise findings.error(manifest.name)
    return Plan(
        manifest,
        template,
        keep,
        saving,
        readable,
        validation,
        start,
        stop,
        survey.count,
        survey.estimated_usd,
        survey.cheapest_usd,
        survey.unpriced,
        tuple(survey.warnings),
        survey.folder or "",
        survey.only_realtime,
    )


def planned(
    row: Row,
    template: KeyTemplate,
    readable: Readable | None,
    *,
    keep: tuple[str, ...],
    saving: SavingOptions,
    has_header: bool,
) -> PlannedRow:
    """Check one row.

    Args:
        row: The row.
        template: Makes its key.
        readable: The locations from which local inputs may be read; None for any.
        keep: Columns that are carried through to the report.
        saving: As for `make_plan`.
        has_header: Whether the names of its columns were checked for all rows at once.

    Raises:
        InvalidRequest: If it is not valid.
    """
    if row.problem is not None:
        raise InvalidRequest(f"{row.problem}.")
    if not has_header and (unknown := _unknown(row.values, template, keep, saving)):
        raise InvalidRequest(_no_such_column(unknown[0], saving))
    values = {name: cell_of(value) for name, value in row.values.items()}
    options = {name: typed(name, value) for name, value in values.items() if name in OF_REQUEST}
    request = build_request(options.pop("prompt", None) or "", **options)
    own = {name: typed(name, values[name]) for name in saving if values.get(name) is not None}
    each = cast("SavingOptions", {**saving, **own})
    check_saving(each)
    key = template.key(values, request, readable)
    return PlannedRow(row.number, row.place, key, request, each, kept_cells(values, keep))


class _Survey:
    """What is learnt of all rows while the plan is made."""

    def __init__(self, validation: Validation) -> None:
        self._validation: Validation = validation
        self._seen: dict[bytes, int] = {}
        self.count = self.unpriced = 0
        self.estimated_usd = Decimal(0)
        self.cheapest_usd: Decimal | None = None
        self.warnings: dict[str, None] = {}
        self.folder: str | None = None
        self.only_realtime = False

    def add(self, row: PlannedRow) -> None:
        """Add a valid row.

        Raises:
            InvalidRequest: If another row has the same key, or the model does not allow the request.
        """
        digest = hashlib.blake2b(row.key.encode(), digest_size=8).digest()
        other = self._seen.setdefault(digest, row.number)
        if other != row.number:
            raise InvalidRequest(f"key: {shown(row.key)} is also the key of row {other}, not counting a header.")
        self.only_realtime |= needs_realtime(row.saving)
        self.warnings.update(dict.fromkeys(check_limits(row.request, self._validation)))
        self.count += 1
        self._price(row.request.estimated_cost_usd)
        self.folder = _common(self.folder, row.key.rpartition("/")[0])

    def _price(self, cost: Decimal | None) -> None:
        if cost is None:
            self.unpriced += 1
            return
        self.estimated_usd += cost
        self.cheapest_usd = cost if self.cheapest_usd is None else min(cost, self.cheapest_usd)


def _template(manifest: Manifest, key: str | None) -> str:
    if key is not None:
        return key
    first = next(manifest.rows(), None)
    columns = manifest.columns if manifest.columns is not None else tuple(first.values if first else ())
    return "{key}" if "key" in columns else DEFAULT_KEY


def _unknown(
    columns: Mapping[str, Any] | tuple[str, ...],
    template: KeyTemplate,
    keep: tuple[str, ...],
    saving: SavingOptions,
) -> list[str]:
    known = OF_REQUEST | saving.keys() | template.columns | {*keep}
    return [str(name) for name in columns if name not in known]


def _check_header(
    columns: tuple[str, ...], template: KeyTemplate, keep: tuple[str, ...], saving: SavingOptions
) -> Iterator[str]:
    for name in _unknown(columns, template, keep, saving):
        yield _no_such_column(name, saving)
    for name in sorted(template.columns.difference(columns)):
        yield f"{name}: the key template names it, but there is no such column."
    for name in keep:
        if name not in columns:
            yield f"{name}: keep names it, but there is no such column."
    for name in sorted({name for name in columns if columns.count(name) > 1}):
        yield f"{name}: the column occurs twice."


def _no_such_column(name: str, saving: SavingOptions) -> str:
    others = "the columns that the key template names, and columns of your own, which keep names"
    return no_such("column", name, [*sorted(OF_REQUEST | saving.keys()), "key", others]).message


def _common(folder: str | None, other: str) -> str:
    if folder is None or folder == other:
        return other
    parts: list[str] = []
    for one, two in zip(folder.split("/"), other.split("/"), strict=False):
        if one != two:
            break
        parts.append(one)
    return "/".join(parts)
