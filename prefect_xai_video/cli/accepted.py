"""Request ids of a batch on a terminal: they go to a file, and not to the screen, until their receipts have them."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from typing_extensions import override

from prefect_xai_video.engine.posting import ACCEPTED

REQUESTS = ".requests"
"""Directory of the files; no key begins with a dot."""


class AcceptedIds(logging.Handler):
    """Writes each request id to a file the moment it arrives, and removes the file once all are in their receipts.

    A thousand lines would leave nothing else to see on a terminal. But between xAI's reply and the receipt, a line is
    all that a process leaves that is killed: so it must be somewhere else before anything else is done.

    Args:
        directory: Directory of this machine that is there as long as the storage.
        note: Prints a sentence on the terminal.
    """

    def __init__(self, directory: Path, note: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self.path = directory / REQUESTS / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{os.getpid()}.log"
        self._note = note
        self._file: int | None = None
        self._unrecorded: set[str] = set()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if not is_accepted(record):
            return
        self._unrecorded.add(str(record.args[0]) if isinstance(record.args, tuple) else "")
        line = f"{datetime.now().astimezone().isoformat(timespec='seconds')} {record.getMessage()}"
        try:
            self._write(f"{line}\n".encode())
        except OSError:
            self._note(line)

    def _write(self, line: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._file, line)

    def recorded(self, request_id: str | None) -> None:
        """Note that a receipt has a request id."""
        self._unrecorded.discard(request_id or "")

    def end(self) -> str | None:
        """Remove the file if all ids are in their receipts; else return a sentence that names it."""
        if self._file is None:
            return None
        if self._unrecorded:
            number = len(self._unrecorded)
            ids = "1 request id is" if number == 1 else f"{number:,} request ids are"
            return f"{ids} in no receipt yet: {self.path} has them; xai-video adopt takes them into their keys."
        os.close(self._file)
        self._file = None
        self.path.unlink(missing_ok=True)
        # Another command may be using it.
        with suppress(OSError):
            self.path.parent.rmdir()
        return None


def is_accepted(record: logging.LogRecord) -> bool:
    """Whether a line of the log says that xAI has accepted a request."""
    return record.msg == ACCEPTED
