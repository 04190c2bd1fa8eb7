"""The log of requests: in memory, and as JSON lines in a file."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_SHOWN = 64


class Journal:
    """Notes each request.

    Args:
        path: File to which each is added as a JSON line; None keeps them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._entries: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def note(self, **entry: Any) -> None:
        """Add a request. Never the key itself; long inline data is cut."""
        line = {"time": datetime.now(UTC).isoformat(), **entry, "body": _shortened(entry.get("body"))}
        with self._lock:
            self._entries.append(line)
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps(line) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All requests so far, oldest first."""
        with self._lock:
            return list(self._entries)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shortened(part) for part in value]
    if isinstance(value, str) and value.startswith("data:") and len(value) > _SHOWN:
        return f"{value[:_SHOWN]}… ({len(value)} characters)"
    return value
