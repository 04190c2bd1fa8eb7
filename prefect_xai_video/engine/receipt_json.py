"""File format of receipts: JSON with a checksum. Version 2 is written; versions 1 and 2 are read.

For people and scripts that read the file, the top level repeats the facts of the current attempt. This module does
no I/O.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

VERSION = 2
_READABLE = (1, 2)

LOST_REQUEST = "lost"
"""Fingerprint of an attempt whose request was not kept, as version 1 did with earlier ones. It matches no request."""

_REQUEST_FACTS = ("fingerprint", "mode", "model", "request", "estimated_cost_usd")
_RESULT_FACTS = ("duration", "url", "file")
_OPEN = ("submitted", "done", "stored")


def write_receipt(content: Mapping[str, Any]) -> bytes:
    """Serialise the content of a receipt, with version and checksum."""
    content = {"version": VERSION, **content}
    return json.dumps(content | {"checksum": _checksum(content)}, indent=2).encode() + b"\n"


def read_receipt(file: bytes) -> dict[str, Any]:
    """Parse a receipt file, and convert its content to the current version.

    Raises:
        ValueError: If it is not a receipt, has an unsupported version, or was changed after it was written.
    """
    try:
        content = json.loads(file)
    except RecursionError:
        raise ValueError("it is not a receipt") from None
    if not isinstance(content, dict) or type(content.get("version")) is not int:
        raise ValueError("it is not a receipt")
    if content["version"] not in _READABLE:
        raise ValueError(f"its version is {content['version']}; this package reads versions 1 and 2")
    if content.pop("checksum", None) != _checksum(content):
        raise ValueError("it was edited or damaged: its checksum does not match")
    try:
        return _from_version_1(content) if content.pop("version") == 1 else content
    except (LookupError, TypeError, AttributeError):
        raise ValueError("it is not a receipt of version 1") from None


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Give each attempt its own facts: version 1 kept only one set, those of the latest request.

    In version 1 the last attempt in the list is the current one. An attempt before a regeneration may have been for
    another request, whose late video must not be taken for the video of the new request. Its request therefore counts
    as lost.
    """
    attempts: list[dict[str, Any]] = content["attempts"]
    kept_since = max((attempt["number"] for attempt in attempts if attempt["reason"] == "regenerate"), default=0)
    for attempt in attempts:
        ended = attempt is attempts[-1] and attempt["outcome"] not in _OPEN
        if attempt["number"] >= kept_since or ended:
            attempt |= {name: content.get(name) for name in _REQUEST_FACTS}
        else:
            attempt["fingerprint"] = LOST_REQUEST
    if attempts:
        attempts[-1] |= {name: content.get(name) for name in _RESULT_FACTS}
    return {"key": content["key"], "attempts": attempts}


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a receipt's content, independent of its layout: it detects edits, but ignores indentation."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
