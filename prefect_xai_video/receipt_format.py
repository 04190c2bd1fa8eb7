"""How receipts lie in a store: JSON with a checksum. Version 2 is written; versions 1 and 2 are read.

Beside what a receipt consists of, the JSON repeats the facts of its current attempt at the top, for people and
scripts that read it. No I/O.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

VERSION = 2
_READABLE = (1, 2)

LOST_REQUEST = "lost"
"""Fingerprint of an attempt whose request was not kept, as earlier ones in version 1. It matches no request."""

_REQUEST_FACTS = ("fingerprint", "mode", "model", "request", "estimated_cost_usd")
_RESULT_FACTS = ("duration", "url", "file")
_OPEN = ("submitted", "done", "stored")


def write_receipt(content: Mapping[str, Any]) -> bytes:
    """Write the content of a receipt as it lies in a store."""
    content = {"version": VERSION, **content}
    return json.dumps(content | {"checksum": _checksum(content)}, indent=2).encode() + b"\n"


def read_receipt(file: bytes) -> dict[str, Any]:
    """Read the content of a receipt, in today's form.

    Raises:
        ValueError: If it is not a receipt, has another version, or was changed since it was written.
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
    return _from_version_1(content) if content.pop("version") == 1 else content


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Give each attempt its own facts: version 1 kept those of the request that was sent last, once for all.

    Its current attempt is the last one in the list. One from before a regeneration may have been for another
    request, whose late video must not be taken for that of the new one: so its request counts as lost.
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
    """SHA-256 of a receipt's content, whatever its layout: an edit is noticed, another indentation is not."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
