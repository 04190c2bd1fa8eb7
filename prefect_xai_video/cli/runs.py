"""A flow that a command runs: its progress on one line, and an end within seconds after Ctrl-C."""

from collections.abc import Callable, Coroutine
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

import httpx
from prefect.settings import get_current_settings

from prefect_xai_video.api.responses import VideoStatus
from prefect_xai_video.cli import stop_at_once
from prefect_xai_video.cli.interruption import (
    InterruptibleRun,
    catch_interrupts,
    end_at_next_interrupt,
    end_interrupted,
    wait_until,
)
from prefect_xai_video.cli.live import LiveLine
from prefect_xai_video.cli.wording import with_options
from prefect_xai_video.engine.accounts import EMULATOR
from prefect_xai_video.engine.posting import POST_SECONDS, is_posting
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.engine.stores import Held, VideoStore
from prefect_xai_video.errors import XaiVideoError
from prefect_xai_video.orchestration.prefect_api import NoPrefectServer
from prefect_xai_video.orchestration.watching import News, watcher

R = TypeVar("R")

OUTLOOK_SECONDS = 1.0
"""Longest wait for a receipt after Ctrl-C: the command is to end within three seconds."""


class Line(Protocol):
    """What stands on the terminal while a flow runs."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, phase: str) -> None:
        """Say what is going on now."""

    def note(self, sentence: str) -> None:
        """Print a sentence above it."""


class Watched(Protocol):
    """What a command shows of its flow run."""

    @property
    def line(self) -> Line:
        """What is shown meanwhile."""

    @property
    def sending(self) -> str:
        """What is being sent, as the beginning of a sentence."""

    def watch(self, news: News) -> None:
        """Show news of the run."""

    def outlook(self) -> str:
        """Say what has become of it, and how it is continued."""


class WatchedVideo:
    """What is shown of the run of one video.

    Args:
        key: The key of the video.
        store: Where its receipt is.
        again: What to do to pick the video up, as the beginning of a sentence.

    Attributes:
        sent: Whether the run has sent a request, and did not just find one.
    """

    def __init__(self, key: str, store: VideoStore, again: str) -> None:
        self._key, self._store, self._again = key, store, again
        self.line = LiveLine()
        self.sending = f"The request for key {key} is"
        self.sent = False

    def watch(self, news: News) -> None:
        """Show news of the run."""
        match news:
            case VideoStatus(state="pending"):
                self.line.show("Rendering", "" if news.progress is None else f"{news.progress} %")
            case Receipt(state="sending"):
                self.sent = True
                self.line.show("Sending the request")
            case Receipt(state="submitted"):
                self.line.show("Rendering")
            case Receipt(state="done"):
                self.line.show("Saving the video")
            case XaiVideoError():
                self.line.note(f"{news.message} Trying again.")

    def outlook(self) -> str:
        """Say what has become of the key, and how its video is picked up."""
        reading: InterruptibleRun[Held | None] = InterruptibleRun(lambda: self._store.read(self._key))
        again = f"{self._again} to pick the video up: nothing is sent or paid for again."
        if not wait_until(lambda: reading.done, OUTLOOK_SECONDS):
            return again
        try:
            held = reading.result()
        except XaiVideoError as error:
            return str(error)
        return _outlook(held.receipt, again) if held else "Nothing was sent."


class FlowRun(Generic[R]):
    """A flow run of a command.

    Args:
        watched: What is shown of it.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._line = watched.line

    def result(self, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Run it to its end.

        Args:
            work: Makes the coroutine.
        """
        run: InterruptibleRun[R] | None = None
        catch_interrupts()
        try:
            with self._line:
                watcher.set(self._watched.watch)
                temporary = not get_current_settings().api.url
                self._line.show("Starting a temporary Prefect server" if temporary else "Starting the run")
                run = InterruptibleRun(work)
                return run.result()
        except KeyboardInterrupt:
            if run is None:
                stop_at_once()
            self._stop(run)
        except (httpx.HTTPError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and " API " not in str(error):
                raise
            outlook = self._watched.outlook()
            raise NoPrefectServer(f"The Prefect server can't be used: {error}. {outlook}") from error
        finally:
            end_at_next_interrupt()

    def _stop(self, run: InterruptibleRun[R]) -> NoReturn:
        """End after Ctrl-C: with one sentence, and not before a POST's response has been noted."""
        run.cancel()
        if is_posting():
            self._line.note(
                f"\nStopping. {self._watched.sending} being sent: waiting for the response, which has the request "
                "id. Press Ctrl-C again to stop at once; the id of a paid request may then be lost."
            )
            wait_until(lambda: not is_posting(), POST_SECONDS)
        self._line.note(f"\nStopped. {self._watched.outlook()}")
        end_interrupted()


def _outlook(receipt: Receipt, again: str) -> str:
    emulated = receipt.api == EMULATOR
    paid = "" if emulated else " and paid for"
    match receipt.state:
        case "submitted" if not receipt.is_not_found:
            return f"Request {receipt.request_id} can't be cancelled: it will be rendered{paid}. {again}"
        case "done":
            return f"Request {receipt.request_id} is rendered{paid}, but its video is not stored yet. {again}"
        case state:
            return f"Key {receipt.key} is {state}: {with_options(receipt.next_step)}."
