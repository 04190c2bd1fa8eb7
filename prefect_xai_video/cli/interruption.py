"""Ctrl-C for a command that runs a flow: it ends within seconds, and no request id is lost.

The terminal sends SIGINT to all processes of the foreground group. A temporary Prefect server would end with it, and
its run would then retry its calls to the server for more than a minute. So the run has a thread in which SIGINT is
blocked, and with it in all processes that are started from there, and the main thread alone decides how to end.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Generic, NoReturn, TypeVar

from prefect.logging.handlers import APILogHandler

from prefect_xai_video.cli import INTERRUPTED

R = TypeVar("R")

CANCEL_SECONDS = 1.5
"""Longest wait for a cancelled run to report its state to Prefect."""

SERVER_SECONDS = 0.5
"""Longest wait for a temporary server to end by itself."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptibleRun(Generic[R]):
    """A coroutine in a thread of its own.

    Args:
        work: Makes the coroutine.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, R]]) -> None:
        self._work = work
        self._outcome: Future[R] = Future()
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        context = copy_context()
        # A daemon, since one that waits for a server that is gone must not keep the process.
        threading.Thread(target=lambda: context.run(self._run), name="interruptible-run", daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether the coroutine has ended."""
        return self._outcome.done()

    def result(self) -> R:
        """Wait for the result.

        Raises:
            KeyboardInterrupt: If the command is interrupted meanwhile; the coroutine goes on.
        """
        # In short waits, since a signal may reach another thread first, and wakes nobody then.
        while not self.done:
            wait({self._outcome}, timeout=0.2)
        return self._outcome.result()

    def cancel(self) -> None:
        """Cancel the coroutine and wait for its end, for a moment."""
        self._begun.wait(CANCEL_SECONDS)
        if self._loop is None or self._task is None:
            return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._task.cancel)
        wait_until(lambda: self.done, CANCEL_SECONDS)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._outcome.set_result(asyncio.run(self._main()))
        except BaseException as error:
            self._outcome.set_exception(error)

    async def _main(self) -> R:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._begun.set()
        try:
            return await self._work()
        except asyncio.CancelledError:
            await APILogHandler.aflush()
            raise


def catch_interrupts() -> None:
    """Have the first Ctrl-C (or SIGTERM) raise KeyboardInterrupt, and the second one end the process at once."""

    def interrupt(*_: object) -> None:
        end_at_next_interrupt()
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)


def end_at_next_interrupt() -> None:
    """Have the next Ctrl-C (or SIGTERM) end the process at once."""

    def kill(*_: object) -> None:
        _stop_temporary_server(0)
        os._exit(INTERRUPTED)

    for number in _SIGNALS:
        signal.signal(number, kill)


def silence_console() -> None:
    """Keep logs off the console from now on; the log of the run still gets them."""
    for name in ("", *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL + 1)


def end_interrupted() -> NoReturn:
    """End the process without waiting for any of its threads."""
    _stop_temporary_server(SERVER_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, for some seconds at most; whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _stop_temporary_server(seconds: float) -> None:
    """End the server that Prefect has started for this process, if it has."""
    module = sys.modules.get("prefect.server.api.server")
    if module is None:
        return
    # Prefect has one for a process; making it again returns it.
    # A module that is being imported by another thread has started none yet.
    server = getattr(module, "SubprocessASGIServer", None)
    process: subprocess.Popen[bytes] | None = server().server_process if server else None
    if process is None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
