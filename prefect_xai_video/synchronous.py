"""Makes the synchronous twin of an async function: `generate_video` of `agenerate_video`."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def synchronous(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Turn `a<name>` into `<name>`, which runs it to its end.

    The twin has the signature of the original, and its own public name: Prefect makes entry points of names.

    Raises:
        RuntimeError: The twin, when it is called where an event loop runs.
    """
    name = function.__name__.removeprefix("a")

    @functools.wraps(function)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        if _in_event_loop():
            raise RuntimeError(f"{name} would block the event loop: in async code use `await a{name}(...)`.")
        return asyncio.run(function(*args, **kwargs))

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
