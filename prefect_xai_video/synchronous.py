"""Makes the synchronous twin of an async function: `generate_video` of `agenerate_video`."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPT_SECONDS = 0.2
"""Longest delay before a blocked caller notices that it was cancelled, in seconds."""


def synchronous(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Turn `a<name>` into `<name>`, which runs it to its end.

    The twin has the signature of the original, and its own public name: Prefect makes entry points of names. It may
    be called where an event loop is running, as in a notebook. It blocks that loop until it returns, so async code
    should await the original.
    """
    name = function.__name__.removeprefix("a")

    @functools.wraps(function)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        coroutine = function(*args, **kwargs)
        return _run_in_thread(coroutine) if _in_event_loop() else asyncio.run(coroutine)

    twin.__name__ = twin.__qualname__ = name
    # Prefect asks whether a function is a coroutine function of what it wraps, too.
    del twin.__wrapped__
    twin.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return twin


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_thread(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine in a new thread with an event loop of its own, and wait for it.

    The thread gets a copy of the context, and so finds the caller's Prefect run. If the wait is interrupted, the
    coroutine is cancelled and then waited for, so that it can record what may have been paid for.
    """
    running: Future[Callable[[], object]] = Future()

    async def main() -> R:
        task = asyncio.create_task(coroutine)
        running.set_result(functools.partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel))
        return await task

    # Before the coroutine begins: an interrupt that comes with its first lines counts, too.
    caller = asyncio.current_task()
    cancellations = caller.cancelling() if caller else 0
    with ThreadPoolExecutor(1, thread_name_prefix="xai-video") as thread:
        try:
            result = thread.submit(copy_context().run, asyncio.run, main())
            _wait_for(result, caller, cancellations)
        except BaseException:
            # At once if it runs, or else as soon as it does: the interrupt may come while the thread starts.
            running.add_done_callback(_cancel)
            raise
    return result.result()


def _cancel(running: Future[Callable[[], object]]) -> None:
    with suppress(RuntimeError):  # Its loop has ended meanwhile.
        running.result()()


def _wait_for(result: Future[Any], caller: asyncio.Task[Any] | None, cancellations: int) -> None:
    """Block the running event loop until there is a result.

    Args:
        result: The result.
        caller: The task that blocks the loop, if any.
        cancellations: How often it had been cancelled before.

    Raises:
        asyncio.CancelledError: If the current task is cancelled, which is what `asyncio.run` makes of Ctrl-C. The
            blocked loop could not deliver it.
    """
    while not wait([result], INTERRUPT_SECONDS).done:
        if caller is not None and caller.cancelling() > cancellations:
            raise asyncio.CancelledError
