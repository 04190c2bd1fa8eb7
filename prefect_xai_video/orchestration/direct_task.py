"""`xai_task` makes the tasks of this package: retried, run where they are called, never stored by Prefect."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, ParamSpec, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run as runtime
from prefect.tasks import Task
from typing_extensions import override

from prefect_xai_video.api.requests import VideoRequest
from prefect_xai_video.engine.receipts import Receipt
from prefect_xai_video.errors import InvalidRequest, XaiVideoError, not_allowed
from prefect_xai_video.orchestration.run_names import prompt_words

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 3
RETRY_DELAY_SECONDS = [10.0, 30.0, 60.0]
"""Retries of a task, on top of the client's own retries, for outages that last minutes."""


def check_unpersisted(name: str, options: Mapping[str, Any]) -> None:
    """Reject options of a flow or task that persist its results, or leave that to the environment.

    Raises:
        InvalidRequest: If `persist_result` is anything but False.
    """
    persist_result = options.get("persist_result", False)
    if persist_result is not False:
        raise not_allowed(
            "persist_result",
            f"{persist_result!r} for {name}",
            "False",
            "Prefect may return a persisted result to another call, and it may contain a signed URL. The same key "
            "finds its video again without it.",
        )


class DirectTask(Task[P, R]):
    """A task whose parameters and results Prefect never stores.

    For a task that is sent to a task worker, Prefect writes the parameters to its task storage, with the secrets of
    blocks in clear text, including those of the enclosing flow. It also persists the result, whatever the task says.
    """

    @override
    def apply_async(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to send the task to a task worker; `delay` and `map(deferred=True)` call this, too.

        Raises:
            InvalidRequest: Always. Nothing was stored.
        """
        raise InvalidRequest(
            f"{self.name}: delay(), apply_async() and map(deferred=True) are not allowed, since Prefect would store "
            f"the API key in clear text; allowed: a call, submit() or map() in a flow, or run_deployment() with a "
            f"deployment of generate_video. Nothing was stored or sent."
        )

    @override
    def with_options(self, *args: Any, **options: Any) -> "DirectTask[P, R]":
        """Create a copy with other options; it is a `DirectTask`, too.

        Raises:
            InvalidRequest: If the copy would persist its results.
        """
        check_unpersisted(self.name, options)
        copy = super().with_options(*args, **options)
        # Prefect creates a plain task.
        copy.__class__ = type(self)
        return copy  # type: ignore[return-value]


def is_transient(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Retry condition for Prefect: retry only errors that may disappear without any change."""
    return isinstance(state.data, XaiVideoError) and state.data.transient


def _run_name() -> str:
    """Name a task run after what it does and the last part of its key; never after the whole prompt."""
    parameters = runtime.parameters
    key = parameters.get("key") or parameters.get("options", {}).get("key")
    subject = parameters.get("receipt") or key or parameters.get("request_id")
    name = subject.key if isinstance(subject, Receipt) else str(subject or "")
    prompt = parameters.get("prompt")
    words = prompt_words(prompt.prompt if isinstance(prompt, VideoRequest) else prompt)
    return f"{runtime.task_name.partition('_')[0]} {name.rpartition('/')[2] or words or 'video'}"[:100]


_OPTIONS: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": RETRY_DELAY_SECONDS,
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
    # `get_video` returns a signed URL, which must not be stored. The others find their results in receipts.
    "persist_result": False,
    "task_run_name": _run_name,
}


def xai_task(name: str) -> Callable[[Callable[P, R]], DirectTask[P, R]]:
    """Decorate a function as a task of this package."""
    return lambda function: DirectTask(function, name=name, **_OPTIONS)
