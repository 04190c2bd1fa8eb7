"""What a person sees while a command works: one live line, and sentences above it. All of it goes to stderr."""

import logging
import sys
from collections.abc import Callable
from typing import Self

import prefect.main  # noqa: F401 - Prefect sets its log up on this import, and would undo what is done to it here
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn
from typing_extensions import override

from prefect_xai_video.cli import discard
from prefect_xai_video.cli.interruption import silence_console


class StderrConsole(Console):
    """The console of stderr. If its pipe is closed, the command goes on in silence: what it has sent is paid for."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, soft_wrap=True)

    @override
    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard(sys.stderr)


class LiveLine:
    """A line with what is going on, and for how many seconds. It is shown on a terminal only.

    During the block it takes the place of Prefect's log on the console; warnings stand above it.
    """

    def __init__(self) -> None:
        console = StderrConsole()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.elapsed:.0f} s", style="dim"),
            console=console,
            transient=True,
            refresh_per_second=5,
            disable=not console.is_terminal,
        )
        self._phase = ""
        self._task: TaskID | None = None
        self._warnings = Warnings(self.note)

    def __enter__(self) -> Self:
        silence_console()
        logging.getLogger().addHandler(self._warnings)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the line; nothing more is shown."""
        logging.getLogger().removeHandler(self._warnings)
        self._progress.stop()

    def show(self, phase: str, detail: str = "") -> None:
        """Say what is going on now.

        Args:
            phase: What is done; the seconds start over with another one.
            detail: What else is known.
        """
        description = f"{phase} {detail}".rstrip()
        if self._task is None or phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._phase, self._task = phase, self._progress.add_task(description, total=None)
        else:
            self._progress.update(self._task, description=description)

    def note(self, sentence: str) -> None:
        """Print a sentence above the line."""
        self._progress.console.print(sentence, markup=False, soft_wrap=True)


class Warnings(logging.Handler):
    """Prints warnings above what is shown.

    Prefect logs as an error that a run has failed; the command itself ends with that sentence.

    Args:
        note: Prints a sentence.
    """

    def __init__(self, note: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._note = note

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno != logging.ERROR or not record.name.startswith("prefect."):
            self._note(record.getMessage())
