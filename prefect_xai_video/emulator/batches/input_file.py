"""Reads the requests of a batch from a JSONL file: all of them, or none."""

import json
from collections.abc import Mapping
from pathlib import Path

from prefect_xai_video.emulator import refusals
from prefect_xai_video.emulator.batches.bodies import LineBody
from prefect_xai_video.emulator.batches.entries import Entry, accepted, check_model
from prefect_xai_video.emulator.bodies import EditBody, ExtensionBody, GenerationBody, SubmissionBody, parsed

MAX_LINES = 50_000

_SHAPES: Mapping[str, type[SubmissionBody]] = {
    "/v1/videos": GenerationBody,
    "/v1/videos/generations": GenerationBody,
    "/v1/videos/edits": EditBody,
    "/v1/videos/extensions": ExtensionBody,
}


class InvalidFile(Exception):
    """A file that is not accepted; its text is the reason."""


def entries_in(path: Path) -> list[Entry]:
    """Read and check a file.

    Raises:
        InvalidFile: If a line is not valid, an id is not unique, or there are too many lines.
    """
    entries: dict[str, Entry] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if len(entries) == MAX_LINES:
                raise InvalidFile(f"more than {MAX_LINES} requests")
            try:
                entry = _entry_of(line)
            except refusals.Refused as refused:
                raise InvalidFile(f"line {number}: {refused.problem}") from None
            if entry.batch_request_id in entries:
                raise InvalidFile(f"line {number}: custom_id {entry.batch_request_id[:100]} is not unique")
            entries[entry.batch_request_id] = entry
    if not entries:
        raise InvalidFile("no requests")
    return list(entries.values())


def _entry_of(content: bytes) -> Entry:
    line = parsed(content, LineBody)
    shape = _SHAPES.get(line.url)
    if shape is None:
        raise refusals.invalid_argument(f"url {line.url[:100]} is not supported.")
    body = parsed(json.dumps(line.body), shape)
    check_model(body)
    return Entry(line.custom_id, body, accepted(body))
