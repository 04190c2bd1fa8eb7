"""What a person sees while a batch runs: a live table on a terminal, now and then a line where it is piped."""

import logging
import time
from pathlib import Path
from typing import Self

import prefect.main  # noqa: F401 - Prefect sets its log up on this import, and would undo what is done to it here
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from prefect_xai_video.batch.progress import Progress
from prefect_xai_video.cli.accepted import AcceptedIds, is_accepted
from prefect_xai_video.cli.interruption import silence_console
from prefect_xai_video.cli.live import StderrConsole, Warnings

LINE_SECONDS = 30
"""Seconds between two lines where the output is piped."""


class BatchTable:
    """A live table of a batch: rows by state, money, rate and time left.

    Args:
        name: Name of the manifest.
        directory: Directory for the request ids that a terminal does not show.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self._name = name
        self._console = StderrConsole()
        self._phase = ""
        self._spinner, self._begun = Spinner("dots"), time.monotonic()
        self._progress: Progress | None = None
        self._said_at = time.monotonic()
        self._warnings = Warnings(self.note)
        self.ids = AcceptedIds(directory, self.note)
        self._live = Live(console=self._console, transient=True, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> Self:
        silence_console()
        logging.getLogger().addHandler(self._warnings)
        if self._console.is_terminal:
            self._warnings.addFilter(lambda record: not is_accepted(record))
            # To the end of the process: ids may still arrive after Ctrl-C, when the table is gone.
            logging.getLogger().addHandler(self.ids)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._warnings)
        self._live.stop()

    def show(self, phase: str) -> None:
        """Say what is going on, as long as there is no progress."""
        self._phase, self._begun = phase, time.monotonic()

    def note(self, sentence: str) -> None:
        """Print a sentence above the table."""
        self._console.print(sentence, markup=False, soft_wrap=True)

    def update(self, progress: Progress) -> None:
        """Show how far the batch is."""
        self._progress = progress
        if not self._console.is_terminal and time.monotonic() - self._said_at >= LINE_SECONDS:
            self._said_at = time.monotonic()
            self.note(str(progress))

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        progress = self._progress
        if progress is None:
            table.add_row(self._spinner, f"{self._phase} {time.monotonic() - self._begun:.0f} s")
            return table
        bar = ProgressBar(total=progress.count, completed=progress.ended, width=40)
        table.add_row(self._name, bar, f"{progress.ended:,} of {progress.count:,}")
        table.add_row("Rows", progress.rows)
        table.add_row("Money", progress.money)
        table.add_row("Time", progress.pace)
        return table
