"""Threads for blocking calls: those of the event loop, or a pool of the caller's own."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_pool: ContextVar[ThreadPoolExecutor | None] = ContextVar("pool", default=None)


async def run_in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a blocking call in a thread, with the context of the caller.

    Args:
        function: The function to call.
        *args: Its arguments.
        **kwargs: Its keyword arguments.
    """
    call = partial(copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool.get(), call)


@contextmanager
def own_threads(number: int) -> Iterator[None]:
    """Give the blocking calls of a `with` block threads of their own.

    The event loop has as few as six, which the saving of many videos would keep from everything else.

    Args:
        number: Largest number of threads.
    """
    pool = ThreadPoolExecutor(number, thread_name_prefix="xai-video-batch")
    token = _pool.set(pool)
    try:
        yield
    finally:
        _pool.reset(token)
        # A call that hangs must not keep the event loop.
        pool.shutdown(wait=False)


def use_loop_threads() -> None:
    """Have the blocking calls of this context use the threads of its event loop again."""
    _pool.set(None)
