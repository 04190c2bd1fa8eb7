"""Manifests: tables of which each row asks for one video.

A manifest is a list of mappings, or a CSV, JSONL or Parquet file, local or in a bucket. A file is copied first, so
that it can't change between the checks and the payments, and is then read row by row, as often as needed.
"""

import csv
import hashlib
import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from prefect_xai_video.engine.reading import CHUNK_BYTES, S3, Readable, open_regular
from prefect_xai_video.errors import InvalidRequest, not_allowed, shown

Source: TypeAlias = str | Path | Sequence[Mapping[str, Any]]
"""What a user gives as a manifest: a path, an `s3://` URL, or a list of mappings."""

FORMATS = (".csv", ".jsonl", ".parquet")

PARQUET_ROWS = 1000
"""Rows of a Parquet file that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a manifest.

    Attributes:
        number: Its number, from 1.
        line: Its first line in the file; None if the manifest has no lines.
        values: Its cells by column; empty cells are missing.
        problem: Why it can't be read; None if it can.
    """

    number: int
    line: int | None
    values: Mapping[str, Any]
    problem: str | None = None

    @property
    def place(self) -> str:
        """Where a person finds it: `line 7` of a text file, else `row 7`."""
        return f"row {self.number}" if self.line is None else f"line {self.line}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that can be read again and again.

    Attributes:
        name: Its file name without extension, or `batch` for a list.
        digest: SHA-256 of its content.
        columns: Its columns; None if they may differ from row to row.
        path: The copy that is read, which exists as long as the manifest is open; None for a list.
    """

    name: str
    digest: str
    columns: tuple[str, ...] | None
    _read: Callable[[], Iterator[Row]]
    path: Path | None = None

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Read rows in order.

        Args:
            start: Number of rows to skip.
            stop: Number of the last row. Default: the last row of the manifest.
        """
        return itertools.islice(self._read(), start, stop)


@contextmanager
def open_manifest(source: Source, s3_credentials: Any = None, readable: Readable | None = None) -> Iterator[Manifest]:
    """Open a manifest.

    Args:
        source: A path or an `s3://` URL that ends with .csv, .jsonl or .parquet; or a list of mappings.
        s3_credentials: Credentials for `s3://`. Default: those of the environment.
        readable: The locations from which it may be read; None for any.

    Raises:
        InvalidRequest: If it can't be read, is empty, or is of another format.
    """
    if not isinstance(source, str | Path):
        yield _of_list(source)
        return
    name = str(source)
    suffix = Path(name.partition("?")[0]).suffix.lower()
    if suffix not in FORMATS:
        raise not_allowed("manifest", shown(name), f"a file that ends with {', '.join(FORMATS)}, or a list of rows")
    with tempfile.NamedTemporaryFile(prefix="xai-video-manifest-", suffix=suffix) as copy:
        target = cast("BinaryIO", copy)
        try:
            _copy(name, target, s3_credentials, readable)
            target.flush()
            yield _of_file(name, Path(copy.name), suffix)
        except UnicodeDecodeError as error:
            raise _unusable(name, f"it is not UTF-8 text ({error.reason})") from None


def _copy(name: str, target: BinaryIO, s3_credentials: Any, readable: Readable | None) -> None:
    try:
        if name.startswith(S3):
            _download(name, target, s3_credentials, readable)
            return
        with open_regular(Path(name).expanduser(), readable) as file:
            while chunk := file.read(CHUNK_BYTES):
                target.write(chunk)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        # In a deployment, the reason would tell what is on the worker's disk.
        reason = getattr(error, "strerror", None) or str(error)
        raise (_outside(name, readable) if readable else _unusable(name, reason)) from None


def _download(name: str, target: BinaryIO, s3_credentials: Any, readable: Readable | None) -> None:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    from prefect_xai_video.engine.stores.bucket import credentials_of_environment  # noqa: PLC0415
    from prefect_xai_video.engine.stores.s3_errors import text_of  # noqa: PLC0415

    bucket, _, key = name.removeprefix(S3).partition("/")
    if not bucket or not key or {".", ".."} & set(key.split("/")):
        raise _unusable(name, "it does not have the form s3://bucket/key")
    if readable is not None and not readable.has_object(bucket, key):
        raise _outside(name, readable)
    credentials = s3_credentials or credentials_of_environment()
    try:
        credentials.get_s3_client().download_fileobj(bucket, key, target)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise _unusable(name, text_of(error, credentials)) from None


def _unusable(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"manifest: {name[:300]!r} can't be read: {why}. Nothing was sent.")


def _outside(name: str, readable: Readable) -> InvalidRequest:
    hint = readable.hint or "Nothing was sent."
    return InvalidRequest(f"manifest: {name[:300]!r} can't be read; allowed: a file in {readable}. {hint}")


def _of_list(rows: Sequence[Mapping[str, Any]]) -> Manifest:
    if isinstance(rows, bytes | Mapping) or not isinstance(rows, Sequence):
        raise not_allowed("manifest", f"a {type(rows).__name__}", "a path, an s3:// URL or a list of rows")
    if not rows:
        raise InvalidRequest("manifest: the list has no rows. Nothing was sent.")

    # Copied, as files are: the caller may change the list while the batch runs.
    copied = [_copied(row) for row in rows]

    def read() -> Iterator[Row]:
        for number, values in enumerate(copied, 1):
            if isinstance(values, Mapping):
                other = next((name for name in values if not isinstance(name, str)), None)
                problem = None if other is None else f"the column {shown(other)} is not named by a text"
                yield Row(number, None, {} if problem else values, problem)
            else:
                yield Row(number, None, {}, f"a {type(values).__name__} is not a row; allowed: a mapping of columns")

    return Manifest("batch", hashlib.sha256(repr(copied).encode()).hexdigest(), None, read)


def _copied(value: Any) -> Any:
    """Copy a row and the lists in it."""
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list | tuple) else value


def _of_file(name: str, path: Path, suffix: str) -> Manifest:
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    stem = Path(name).stem
    try:
        if suffix == ".parquet":
            manifest = Manifest(stem, digest, *_of_parquet(path), path)
        elif suffix == ".csv":
            manifest = Manifest(stem, digest, _columns_of_csv(path), lambda: _read_csv(path), path)
        else:
            manifest = Manifest(stem, digest, None, lambda: _read_jsonl(path), path)
        if next(manifest.rows(), None) is None:
            raise InvalidRequest(f"manifest: {shown(name)} has no rows. Nothing was sent.")
    except csv.Error as error:
        raise _unusable(name, f"it is not a CSV file ({error})") from None
    return manifest


def _open_text(path: Path) -> io.TextIOWrapper:
    # Excel writes a byte order mark; without newline="" the csv module breaks quoted line ends.
    return path.open(encoding="utf-8-sig", newline="")


def _columns_of_csv(path: Path) -> tuple[str, ...]:
    with _open_text(path) as file:
        columns = tuple(name.strip() for name in next(csv.reader(file, strict=True), ()))
    for other, mark in {"semicolons": ";", "tabs": "\t"}.items():
        if len(columns) == 1 and mark in columns[0]:
            raise csv.Error(f"its columns are separated by {other}, not by commas")
    return columns


def _read_csv(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        cells = csv.reader(file, strict=True)
        columns = [name.strip() for name in next(cells, ())]
        number, line = 0, cells.line_num + 1
        while True:
            try:
                row = next(cells, None)
            except csv.Error as error:
                # Such as a quote that is never closed, which would swallow all further rows.
                yield Row(number + 1, line, {}, f"it is not CSV ({error}); the rows after it were not read")
                return
            if row is None:
                return
            if row:
                number += 1
                values = {name: cell for name, cell in zip(columns, row, strict=False) if cell.strip()}
                extra = len(row) - len(columns)
                problem = f"it has {extra} more cells than the header has columns" if extra > 0 else None
                yield Row(number, line, values, problem)
            line = cells.line_num + 1


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        number = 0
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            number += 1
            try:
                values = read_json(text)
            except ValueError as error:
                yield Row(number, line, {}, f"it is not JSON ({error})")
                continue
            if isinstance(values, dict):
                yield Row(number, line, values)
            else:
                yield Row(number, line, {}, "it is not a JSON object")


def read_json(text: str) -> Any:
    """Read JSON that a person may have written.

    Raises:
        ValueError: If it is not JSON, is nested too deeply, or has a name twice in one object.
    """
    try:
        return json.loads(text, object_pairs_hook=_as_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _of_parquet(path: Path) -> tuple[tuple[str, ...], Callable[[], Iterator[Row]]]:
    try:
        from pyarrow import ArrowException  # noqa: PLC0415
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError:
        raise InvalidRequest(
            "manifest: a Parquet file needs pyarrow: install prefect-xai-video[parquet], or convert it to CSV or "
            "JSONL. Nothing was sent."
        ) from None
    try:
        columns = tuple(ParquetFile(path).schema_arrow.names)
    except (ArrowException, OSError) as error:
        raise InvalidRequest(f"manifest: it is not a Parquet file ({error}). Nothing was sent.") from None

    def read() -> Iterator[Row]:
        batches, number = ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS), 0
        try:
            for batch in batches:
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, None, values)
        except (ArrowException, OSError) as error:
            yield Row(number + 1, None, {}, f"it can't be read ({error}); the rows after it were not read")

    return columns, read
