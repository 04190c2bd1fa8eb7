"""The kind of Prefect task that this package has: it runs where it is called, and nothing of it is stored."""

from typing import Any, NoReturn, ParamSpec, TypeVar

from prefect.tasks import Task
from typing_extensions import override

from prefect_xai_video.errors import InvalidRequest

P = ParamSpec("P")
R = TypeVar("R")


class DirectTask(Task[P, R]):
    """A task whose parameters and results Prefect never stores.

    Prefect writes the parameters of a task that is sent to a task worker into its task storage: the secrets of blocks
    in clear, those of the flow round it included. And it persists the result, whatever the task says.
    """

    @override
    def apply_async(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to send the task to a task worker; `delay` and `map(deferred=True)` end here, too.

        Raises:
            InvalidRequest: Always. Nothing was stored.
        """
        raise InvalidRequest(
            f"{self.name}: delay(), apply_async() and map(deferred=True) are not allowed, since Prefect would store "
            f"the API key in clear; allowed: a call, submit() or map() in a flow, or a run of a deployment of "
            f"generate_video with run_deployment(). Nothing was stored or sent."
        )

    @override
    def with_options(self, *args: Any, **options: Any) -> "DirectTask[P, R]":
        """Create a copy with other options, which is a `DirectTask`, too.

        Raises:
            InvalidRequest: If the copy would persist its results.
        """
        if options.get("persist_result") is True:
            raise InvalidRequest(
                f"persist_result: True is not allowed for {self.name}, since results may hold a signed URL; allowed: "
                "False. The same key finds its video again without it."
            )
        copy = super().with_options(*args, **options)
        # Prefect makes a plain task of the options.
        copy.__class__ = type(self)
        return copy  # type: ignore[return-value]
