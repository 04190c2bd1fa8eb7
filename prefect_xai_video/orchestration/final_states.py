"""Final states of runs, with a message for people, and results that a lost reply does not lose.

A flow that returns a state, as is the way to give it a message, gets its result back from the server's reply. If the
first reply to the final state is lost, Prefect's client repeats the request, and the server answers that the run has
made this transition already, without the result: Prefect raises `MissingResult`, although the video is stored.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from prefect.client.schemas.objects import State
from prefect.exceptions import MissingResult
from prefect.states import Completed

R = TypeVar("R")

_results: ContextVar[list[Any] | None] = ContextVar("results", default=None)


def completed_with(message: str, result: R) -> R:
    """Make the final state of a run. Prefect returns the result to callers.

    Args:
        message: What people read in the UI.
        result: The result.
    """
    results = _results.get()
    if results is not None:
        results.append(result)
    return cast("R", Completed(message=message, data=result))


def with_result(run: Callable[[], R]) -> R:
    """Run a flow, and return its result or state even if the server's reply to its final state is lost."""
    with _kept() as results:
        try:
            return _restored(run(), results)
        except MissingResult:
            if not results:
                raise
            return cast("R", results[-1])


async def awaited_with_result(run: Awaitable[R]) -> R:
    """Await a flow run, as `with_result`."""
    with _kept() as results:
        try:
            return _restored(await run, results)
        except MissingResult:
            if not results:
                raise
            return cast("R", results[-1])


@contextmanager
def _kept() -> Iterator[list[Any]]:
    """Keep the results of the flow that runs in a block; those of subflows have lists of their own."""
    results: list[Any] = []
    token = _results.set(results)
    try:
        yield results
    finally:
        _results.reset(token)


def _restored(made: R, results: list[Any]) -> R:
    if isinstance(made, State) and made.is_completed() and made.data is None and results:
        made.data = results[-1]
    return made
